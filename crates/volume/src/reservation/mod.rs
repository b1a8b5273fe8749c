//! Reservations (NVM Express Base Specification 2.0, sections 7.2 to 7.5 and 8.19).

mod command;

pub use command::{
    AcquireAction, HostId, PersistChange, RegisterAction, Registrant, ReleaseAction, ReservationCommand,
    ReservationReport, ReservationType,
};
