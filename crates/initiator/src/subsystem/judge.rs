//! What a controller's answer means for its command: that it is over, or is sent again, here or elsewhere, now or later.

use super::{Out, Subsystem, choice::Standing};
use crate::{
    Failure,
    command::{Lane, Resend},
    slots::{Payload, Place, Reply, SlotId},
};
use dolmen_nvme::spec::{AnaState, Status};
use dolmen_types::Nanos;

/// Pause before a command is sent again whose status says "not now" without saying when. Milliseconds.
const RETRY_MS: u64 = 100;
/// Unit of CRDT. Milliseconds.
const RETRY_UNIT_MS: u64 = 100;

impl Subsystem {
    /// Decides what a reply means for its command.
    pub(super) fn judge(&mut self, at: usize, id: SlotId, now: Nanos, out: &mut Out) {
        let slot = self.shared.slots.get(id);
        let Reply { cqe, received, .. } = slot.reply;
        let status = slot.reply.status();
        self.routes[at].note_answer(&self.shared.slots, id, now, status.is_success());
        if status.is_success() {
            let whole = match &slot.payload {
                Payload::In(buf) => usize::try_from(received) == Ok(buf.len()),
                _ => true,
            };
            // Without this check a controller that sends too little would have us hand out stale memory.
            let result =
                if whole { Ok(cqe.result()) } else { Err(Failure::Status(Status::DATA_TRANSFER_ERROR)) };
            if whole && self.goes_on(id) {
                return;
            }
            return self.finish(id, result, now, out);
        }
        if let Some(state) = self.refused(at, id, status) {
            if self.goes_elsewhere(at, id, state, now) {
                return;
            }
        } else if self.may_try(id) && slot.resend == Resend::Allowed && means_later(status) {
            let until = now.plus_ms(self.retry_ms(at, status));
            self.routes[at].statistics.retried += 1;
            let slot = self.shared.slots.get_mut(id);
            (slot.place, slot.tries) = (Place::Parked { until }, slot.tries + 1);
            self.wake_at = self.wake_at.min(until);
            return;
        }
        self.finish(id, Err(Failure::Status(status)), now, out);
    }

    /// The ANA state of an I/O command's namespace for which its path refuses it, as its status tells.
    pub(super) fn refused(&self, at: usize, id: SlotId, status: Status) -> Option<AnaState> {
        let lane = self.shared.slots.get(id).lane;
        ana_told(status).filter(|_| lane == Lane::Io && self.routes[at].has_ana())
    }

    /// A command that is refused for its path was not carried out: any may be sent again, elsewhere or later. False: this one may
    /// not any more, or there is nothing to hope for.
    pub(super) fn goes_elsewhere(&mut self, at: usize, id: SlotId, state: AnaState, now: Nanos) -> bool {
        let nsid = self.shared.slots.get(id).sqe.nsid.get();
        self.note_ana(at, nsid, state, now);
        let hopeless = state == AnaState::PersistentLoss && self.is_hopeless(nsid);
        if hopeless || !self.may_try(id) {
            return false;
        }
        self.routes[at].statistics.retried += 1;
        self.shared.slots.get_mut(id).tries += 1;
        self.enqueue(id);
        true
    }

    fn may_try(&self, id: SlotId) -> bool {
        let slot = self.shared.slots.get(id);
        slot.tries < self.shared.options.retries && slot.is_callers()
    }

    /// True when no path leads to a namespace, and none ever will.
    fn is_hopeless(&mut self, nsid: u32) -> bool {
        self.standings(nsid).iter().all(|(standing, _)| *standing >= Standing::Hopeless)
    }

    fn retry_ms(&self, at: usize, status: Status) -> u64 {
        let delays = self.routes[at].path.identity().map_or([0; 3], |i| i.retry_delays);
        let told = usize::from(status.crd()).checked_sub(1).and_then(|i| delays.get(i).copied());
        told.map_or(RETRY_MS, |units| u64::from(units) * RETRY_UNIT_MS).max(1)
    }
}

/// The ANA state that a status tells of (Base 8.1.4).
pub(super) fn ana_told(status: Status) -> Option<AnaState> {
    let states = [
        (Status::ANA_PERSISTENT_LOSS, AnaState::PersistentLoss),
        (Status::ANA_INACCESSIBLE, AnaState::Inaccessible),
        (Status::ANA_TRANSITION, AnaState::Change),
    ];
    states.iter().find(|(s, _)| s.same_code(status)).map(|&(_, state)| state)
}

/// True for statuses after which the same command may well succeed (Base 3.3.3.2.1, path related and the like).
fn means_later(status: Status) -> bool {
    let transient = [
        Status::NAMESPACE_NOT_READY,
        Status::COMMAND_INTERRUPTED,
        Status::TRANSIENT_TRANSPORT_ERROR,
        // Ours: a command that took too long.
        Status::ABORT_REQUESTED,
    ];
    !status.dnr() && (status.sct() == 3 || transient.iter().any(|t| t.same_code(status)))
}
