//! Fused pairs: a Compare and a Write that the controller carries out as one (Base 3.4.2).
//!
//! They are two commands on the wire, one right behind the other on the same queue, and one command to the caller. The
//! first half's slot is the caller's; each half remembers its reply until both are there.

use super::{Out, Subsystem, judge::ana_told};
use crate::{
    Failure,
    slots::{Origin, Payload, Place, SlotId},
};
use dolmen_nvme::spec::Status;
use dolmen_types::Nanos;

impl Subsystem {
    /// The other half of a pair.
    pub(super) fn partner(&self, id: SlotId) -> Option<SlotId> {
        if let Origin::Second { first } = self.shared.slots.get(id).origin {
            return Some(first);
        }
        let mut all = self.shared.slots.iter();
        all.find(|(_, s)| s.origin == Origin::Second { first: id }).map(|(id, _)| id)
    }

    /// One half was answered.
    pub(super) fn half_answered(&mut self, at: usize, id: SlotId, now: Nanos, out: &mut Out) {
        let status = self.shared.slots.get(id).reply.status();
        self.routes[at].note_answer(&self.shared.slots, id, now, status.is_success());
        self.shared.slots.get_mut(id).place = Place::Half;
        let Some(other) = self.partner(id) else { return };
        if self.shared.slots.get(other).place != Place::Half {
            return;
        }
        let second_is_ours = matches!(self.shared.slots.get(id).origin, Origin::Second { .. });
        let (first, second) = if second_is_ours { (other, id) } else { (id, other) };
        let reply = |id: SlotId| self.shared.slots.get(id).reply;
        let Some(status) = verdict(reply(first).status(), reply(second).status()) else {
            return self.finish(first, Ok(reply(second).cqe.result()), now, out);
        };
        // A pair is never sent again unless its write was refused as well.
        let undone = is_consequence(reply(second).status()) || ana_told(reply(second).status()).is_some();
        if undone && let Some(state) = self.refused(at, first, status) {
            self.shared.slots.get_mut(second).place = Place::Waiting;
            if self.goes_elsewhere(at, first, state, now) {
                return;
            }
        }
        self.finish(first, Err(Failure::Status(status)), now, out);
    }

    /// Takes the second half of a pair that is over out of the world; the buffer that was to be written becomes the first
    /// half's, which hands it out.
    pub(super) fn join(&mut self, first: SlotId) {
        let Some(second) = self.partner(first) else { return };
        for route in &mut self.routes {
            route.forget(second);
        }
        self.shelter.retain(|&id| id != second);
        self.fences.disown(second);
        let slot = self.shared.slots.get_mut(second);
        let write = std::mem::replace(&mut slot.payload, Payload::None);
        self.shared.slots.remove(second);
        self.callers -= 1;
        self.shared.slots.get_mut(first).payload = write;
    }
}

/// Why a pair failed, if it did. That a half was aborted since the other one failed says nothing of the reason.
fn verdict(first: Status, second: Status) -> Option<Status> {
    let failed = [first, second].into_iter().filter(|status| !status.is_success());
    failed.clone().find(|&status| !is_consequence(status)).or_else(|| failed.clone().next())
}

fn is_consequence(status: Status) -> bool {
    status.same_code(Status::ABORTED_FAILED_FUSED)
}
