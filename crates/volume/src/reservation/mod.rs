//! Reservations (NVM Express Base Specification 2.0, sections 7.2 to 7.5 and 8.19).

mod command;
pub(crate) mod record;
mod state;

#[cfg(test)]
mod tests;

pub use command::{
    AcquireAction, HostId, PersistChange, RegisterAction, Registrant, ReleaseAction, ReservationCommand,
    ReservationReport, ReservationType,
};
pub use state::Access;
pub(crate) use state::{Outcome, Reservations};
