//! Fused pairs: a Compare and a Write that the controller carries out as one (Base 3.4.2).
//!
//! They are two commands on the wire, one right behind the other on the same queue, and one command to the caller. The
//! first half's slot is the caller's; each half remembers its reply until both are there.

use super::{Out, Subsystem};
use crate::{
    Failure,
    slots::{Origin, Payload, Place, Reply, SlotId},
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
    pub(super) fn half_answered(&mut self, id: SlotId, now: Nanos, out: &mut Out) {
        self.shared.slots.get_mut(id).place = Place::Half;
        let Some(other) = self.partner(id) else { return };
        if self.shared.slots.get(other).place != Place::Half {
            return;
        }
        let second_is_ours = matches!(self.shared.slots.get(id).origin, Origin::Second { .. });
        let (first, second) = if second_is_ours { (other, id) } else { (id, other) };
        let failed = |id: SlotId| {
            let Reply { cqe, intact, .. } = self.shared.slots.get(id).reply;
            let status = if intact { cqe.status() } else { Status::TRANSIENT_TRANSPORT_ERROR };
            (!status.is_success()).then_some(Failure::Status(status))
        };
        let result = match failed(first).or_else(|| failed(second)) {
            Some(failure) => Err(failure),
            None => Ok(self.shared.slots.get(second).reply.cqe.result()),
        };
        self.finish(first, result, now, out);
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
