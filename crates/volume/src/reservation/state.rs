//! The state of one volume's reservations and what each command makes of it (Base Specification 2.0, section 8.19).
//!
//! Pure: [`Reservations::apply`] gives the next state and whom to tell; the engine makes the next state durable before
//! anybody hears of it.

use super::{
    AcquireAction, HostId, PersistChange, RegisterAction, Registrant, ReleaseAction, ReservationCommand,
    ReservationReport, ReservationType,
};
use crate::{NoticeKind, VolumeError, limits::MAX_REGISTRANTS};

/// What a command does to the medium, as far as reservations care (Base Specification 2.0, figure "Command Behavior
/// in the Presence of a Reservation").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read, Compare, Verify.
    Read,
    /// Write, Write Zeroes, Dataset Management, Copy, Flush, fused Compare and Write.
    Write,
}

/// All that is known about one volume's reservations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reservations {
    pub(super) generation: u32,
    pub(super) persists: bool,
    /// The reservation held, with its holder. Of the all-registrants types every registrant is the holder, and the
    /// field is `None`.
    pub(super) held: Option<(ReservationType, Option<HostId>)>,
    /// Ordered by host, each host once.
    pub(super) registrants: Vec<(HostId, u64)>,
}

/// What an accepted command brings about.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The state after it.
    pub(crate) next: Reservations,
    /// Whom to tell what, once the state is durable.
    pub(crate) notices: Vec<(HostId, NoticeKind)>,
    /// Hosts whose waiting commands are to be called off.
    pub(crate) abort: Vec<HostId>,
}

impl Reservations {
    /// True when `host` may do that now.
    pub(crate) fn permits(&self, host: &HostId, access: Access) -> bool {
        let Some((kind, holder)) = self.held else { return true };
        if access == Access::Read && !kind.excludes_reads() {
            return true;
        }
        if kind.is_holder_only() { holder == Some(*host) } else { self.key_of(host).is_some() }
    }

    /// What Reservation Report tells.
    pub(crate) fn report(&self) -> ReservationReport {
        let registrant =
            |&(host, key): &(HostId, u64)| Registrant { host, key, holder: self.is_holder(&host) };
        ReservationReport {
            generation: self.generation,
            kind: self.held.map(|h| h.0),
            persists: self.persists,
            registrants: self.registrants.iter().map(registrant).collect(),
        }
    }

    /// True when they outlast a power loss.
    pub(crate) fn persists(&self) -> bool {
        self.persists
    }

    /// Decides a command of `host`. [`ReservationCommand::Report`] changes nothing.
    pub(crate) fn apply(&self, host: HostId, command: &ReservationCommand) -> Result<Outcome, VolumeError> {
        if host == [0; 16] && *command != ReservationCommand::Report {
            return Err(VolumeError::Invalid);
        }
        let mut out = Outcome { next: self.clone(), ..Outcome::default() };
        match *command {
            ReservationCommand::Report => {}
            ReservationCommand::SetPersistence { persists } => out.next.persists = persists,
            ReservationCommand::Register { action, ignore_existing_key, persist, current_key, new_key } => {
                let current_key = (!ignore_existing_key).then_some(current_key);
                out.register(host, action, current_key, new_key)?;
                match persist {
                    PersistChange::Keep => {}
                    PersistChange::Clear => out.next.persists = false,
                    PersistChange::Set => out.next.persists = true,
                }
            }
            ReservationCommand::Acquire { action, ignore_existing_key, kind, current_key, preempt_key } => {
                let kind = kind.filter(|_| !ignore_existing_key).ok_or(VolumeError::Invalid)?;
                self.check_key(&host, current_key)?;
                match action {
                    AcquireAction::Acquire => out.acquire(host, kind)?,
                    AcquireAction::Preempt => out.preempt(host, kind, preempt_key)?,
                    AcquireAction::PreemptAndAbort => {
                        out.preempt(host, kind, preempt_key)?;
                        let preempted = |n: &&(HostId, NoticeKind)| n.1 == NoticeKind::RegistrationPreempted;
                        out.abort = out.notices.iter().filter(preempted).map(|n| n.0).collect();
                    }
                }
            }
            ReservationCommand::Release { action, ignore_existing_key, kind, current_key } => {
                if ignore_existing_key {
                    return Err(VolumeError::Invalid);
                }
                self.check_key(&host, current_key)?;
                match action {
                    ReleaseAction::Release => out.release(host, kind)?,
                    ReleaseAction::Clear => out.clear(host),
                }
            }
        }
        Ok(out)
    }

    fn key_of(&self, host: &HostId) -> Option<u64> {
        let at = self.registrants.binary_search_by(|r| r.0.cmp(host)).ok()?;
        Some(self.registrants[at].1)
    }

    fn check_key(&self, host: &HostId, key: u64) -> Result<(), VolumeError> {
        if self.key_of(host) == Some(key) { Ok(()) } else { Err(VolumeError::ReservationConflict) }
    }

    fn is_holder(&self, host: &HostId) -> bool {
        match self.held {
            None => false,
            Some((_, Some(holder))) => holder == *host,
            Some((_, None)) => self.key_of(host).is_some(),
        }
    }

    fn hold(&mut self, host: HostId, kind: ReservationType) {
        self.held = Some((kind, (!kind.is_all_registrants()).then_some(host)));
    }
}

impl Outcome {
    fn notify_others(&mut self, but: &HostId, kind: NoticeKind) {
        let others = self.next.registrants.iter().filter(|r| r.0 != *but).map(|r| (r.0, kind));
        self.notices.extend(others);
    }

    /// `current_key` is `None` when it is not to be checked.
    fn register(
        &mut self,
        host: HostId,
        action: RegisterAction,
        current_key: Option<u64>,
        new_key: u64,
    ) -> Result<(), VolumeError> {
        if action != RegisterAction::Unregister && new_key == 0 {
            return Err(VolumeError::Invalid);
        }
        let place = self.next.registrants.binary_search_by(|r| r.0.cmp(&host));
        let key = place.ok().map(|at| self.next.registrants[at].1);
        match (action, place) {
            (RegisterAction::Register, Ok(_)) if key == Some(new_key) => {}
            (RegisterAction::Register, Err(at)) => self.enrol(at, host, new_key)?,
            // A host that sets IEKEY replaces its key without regard to its registration status (8.19, "Registering"): it need not know
            // whether somebody has preempted it. SPDK registers it likewise; Linux's target answers Conflict.
            (RegisterAction::Replace, Err(at)) if current_key.is_none() => self.enrol(at, host, new_key)?,
            (RegisterAction::Register, Ok(_)) | (_, Err(_)) => return Err(VolumeError::ReservationConflict),
            _ if current_key.is_some_and(|current| key != Some(current)) => {
                return Err(VolumeError::ReservationConflict);
            }
            (RegisterAction::Unregister, Ok(_)) => self.unregister(host),
            (RegisterAction::Replace, Ok(at)) => self.next.registrants[at].1 = new_key,
        }
        self.next.generation = self.next.generation.wrapping_add(1);
        Ok(())
    }

    /// Adds a registrant at its place.
    fn enrol(&mut self, at: usize, host: HostId, key: u64) -> Result<(), VolumeError> {
        if self.next.registrants.len() == MAX_REGISTRANTS {
            return Err(VolumeError::TooManyRegistrants);
        }
        self.next.registrants.insert(at, (host, key));
        Ok(())
    }

    /// Takes a registration away, and the reservation when it ends with it. Tells the rest when a shared reservation
    /// ended (8.19, "Unregistering").
    fn unregister(&mut self, host: HostId) {
        self.next.registrants.retain(|r| r.0 != host);
        match self.next.held {
            Some((kind, Some(holder))) if holder == host => {
                self.next.held = None;
                if !kind.is_holder_only() {
                    self.notify_others(&host, NoticeKind::ReservationReleased);
                }
            }
            Some((_, None)) if self.next.registrants.is_empty() => self.next.held = None,
            _ => {}
        }
    }

    fn acquire(&mut self, host: HostId, kind: ReservationType) -> Result<(), VolumeError> {
        match self.next.held {
            None => self.next.hold(host, kind),
            Some((held, _)) if held == kind && self.next.is_holder(&host) => {}
            Some(_) => return Err(VolumeError::ReservationConflict),
        }
        Ok(())
    }

    /// 8.19, "Preempting a Reservation or Registration".
    fn preempt(&mut self, host: HostId, kind: ReservationType, key: u64) -> Result<(), VolumeError> {
        match self.next.held {
            Some((held, None)) if key == 0 => {
                self.preempt_registrations(host, |r| r.0 != host);
                self.take_over(host, held, kind);
            }
            Some((held, Some(holder))) if key != 0 && self.next.key_of(&holder) == Some(key) => {
                self.preempt_registrations(host, |r| r.0 != host && r.1 == key);
                self.take_over(host, held, kind);
            }
            Some((_, Some(_))) if key == 0 => return Err(VolumeError::Invalid),
            _ => {
                // Only registrations, the preempting host's own too if it has that key.
                if !self.next.registrants.iter().any(|r| r.1 == key) {
                    return Err(VolumeError::ReservationConflict);
                }
                self.preempt_registrations(host, |r| r.1 == key);
            }
        }
        self.next.generation = self.next.generation.wrapping_add(1);
        Ok(())
    }

    /// Replaces the reservation; remaining registrants hear of it when its type changes.
    fn take_over(&mut self, host: HostId, old: ReservationType, kind: ReservationType) {
        self.next.hold(host, kind);
        if old != kind {
            self.notify_others(&host, NoticeKind::ReservationReleased);
        }
    }

    /// Takes registrations away. The holder's is among them only when the caller replaces the reservation next.
    fn preempt_registrations(&mut self, by: HostId, gone: impl Fn(&(HostId, u64)) -> bool) {
        let others = self.next.registrants.iter().filter(|r| gone(r) && r.0 != by);
        self.notices.extend(others.map(|r| (r.0, NoticeKind::RegistrationPreempted)));
        self.next.registrants.retain(|r| !gone(r));
        if self.next.registrants.is_empty() {
            self.next.held = None;
        }
    }

    fn release(&mut self, host: HostId, kind: Option<ReservationType>) -> Result<(), VolumeError> {
        let Some((held, _)) = self.next.held.filter(|_| self.next.is_holder(&host)) else { return Ok(()) };
        if kind != Some(held) {
            return Err(VolumeError::Invalid);
        }
        self.next.held = None;
        if !held.is_holder_only() {
            self.notify_others(&host, NoticeKind::ReservationReleased);
        }
        Ok(())
    }

    fn clear(&mut self, host: HostId) {
        self.notify_others(&host, NoticeKind::ReservationPreempted);
        self.next.registrants.clear();
        self.next.held = None;
        self.next.generation = self.next.generation.wrapping_add(1);
    }
}
