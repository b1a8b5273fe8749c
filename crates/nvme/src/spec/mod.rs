//! The vocabulary of NVM Express: fixed layouts and named numbers, no behaviour beyond reading and naming them.
//!
//! Clauses cited as "Base" are of the NVM Express Base Specification 2.0, "NVM" of the NVM Command Set
//! Specification 1.0, "Fabrics" of Base 2.0 section 6 (formerly NVMe over Fabrics 1.1).

mod abort;
mod aen;
mod ana;
mod copy;
mod cqe;
mod dataset;
mod describe;
mod discovery;
mod fabrics;
mod feature;
mod identify;
mod identify_nvm;
mod log;
mod opcode;
mod property;
mod reservation;
mod sgl;
mod sqe;
mod status;
mod text;

pub use abort::AbortCommand;
pub use aen::{AsyncEvent, notice};
pub use ana::{AnaGroupDescriptor, AnaLogHeader, AnaState};
pub use copy::{CopyCommand, CopyDescriptor};
pub use cqe::Cqe;
pub use dataset::{DatasetCommand, DsmRange};
pub use describe::Description;
pub use discovery::{
    AddressFamily, DiscoveryEntry, DiscoveryHeader, SubsystemType, TransportRequirement, TransportType,
};
pub use fabrics::{
    AuthCommand, ConnectCommand, ConnectData, ConnectError, FabricsType, PropertyGet, PropertySet,
    connect_attributes, connect_response,
};
pub use feature::{FeatureId, FeatureSelect, async_event_config, feature_select, number_of_queues};
pub use identify::{
    Cns, IdentifyCommand, IdentifyController, NamespaceIdDescriptor, PowerState, controller_attributes,
    identify_list,
};
pub use identify_nvm::{
    IdentifyIndependent, IdentifyNamespace, IdentifyNvmController, IdentifyNvmNamespace, LbaFormat,
};
pub use log::{
    CommandEffects, EffectsLog, ErrorLogEntry, FirmwareLog, GetLogCommand, LogId, SmartLog,
    changed_namespaces, effects,
};
pub use opcode::{AdminOpcode, NvmOpcode, Opcode, QueueKind};
pub use property::{
    Capabilities, ControllerConfig, ControllerStatus, Property, SPEC_VERSION_1_4, ShutdownRequest,
};
pub use reservation::{
    AcquireAction, AcquireData, RegisterAction, RegisterData, RegisteredController,
    RegisteredControllerExtended, ReleaseAction, ReleaseData, ReportCommand, ReportHeader,
    ReportHeaderExtended, ReservationCommand, ReservationNotification, ReservationType,
};
pub use sgl::{DataPlan, SglDescriptor};
pub use sqe::{Fuse, ReadWrite, Sqe};
pub use status::Status;
pub use text::{padded_ascii, set_padded_ascii};
