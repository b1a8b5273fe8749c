//! What a volume is. Every door (NVMe/TCP today, others later) goes through here.
#![forbid(unsafe_code)]

mod control;
mod error;
pub mod limits;
mod notice;
mod request;
mod reservation;

pub use control::{
    Change, ControlCommand, ControlDone, ControlError, ControlReply, ControlRequest, Health, Restart, Shrink,
    VolumeInfo, VolumeUpdate,
};
pub use error::VolumeError;
pub use notice::{Notice, NoticeKind};
pub use request::{Command, Done, LbaRange, Reply, Request, VolumeRef};
pub use reservation::{
    AcquireAction, HostId, PersistChange, RegisterAction, Registrant, ReleaseAction, ReservationCommand,
    ReservationReport, ReservationType,
};
