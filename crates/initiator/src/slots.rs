//! The commands of one subsystem that are in our hands: a slab of slots, made once.
//!
//! A slot owns a command from submit (or from the bring-up's need of one) until its completion was handed out. It
//! survives the connection it was sent on: that is what lets a command be sent again after a reconnect.

use crate::command::{Data, Job, Lane, Resend};
use dolmen_io::{Buf, Slice};
use dolmen_nvme::spec::{Cqe, Fuse, LogId, NvmOpcode, ReadWrite, Sqe, Status};
use dolmen_types::Nanos;

/// Index of a slot.
pub(crate) type SlotId = u32;

/// Who wants the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The caller; with its ticket and its choice of queue.
    Caller { ticket: u64, queue: Option<u16> },
    /// The bring-up, on the admin queue.
    Bringup,
    /// Connect on an I/O queue.
    QueueConnect,
    /// Keep Alive.
    KeepAlive,
    /// Asynchronous Event Request.
    AsyncEvent,
    /// The shutdown before a disconnect.
    Shutdown,
    /// The second half of a fused pair, whose first half is a caller's.
    Second { first: SlotId },
    /// Abort, of a command that takes too long: its slot, and when it was sent, which tells it from later ones in that slot.
    Abort { victim: SlotId, sent: Nanos },
    /// The reset of a controller that doesn't answer.
    Reset,
    /// Get Log Page, to follow what an event announced.
    Log(LogId),
    /// Identify, to see whether a namespace is the same on this path as on the others.
    Check { nsid: u32 },
}

/// Which of a controller's identifiers a command has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Under {
    /// The path.
    pub(crate) path: u8,
    /// The queue, 0 for admin.
    pub(crate) queue: u16,
    /// The identifier.
    pub(crate) cid: u16,
}

/// Where the command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In no queue; the slot is free.
    Free,
    /// Waiting for room on a queue, for a connection, or for a path that can be used.
    Waiting,
    /// Waiting until the time at which the controller asked to be asked again.
    Parked { until: Nanos },
    /// Sent, under this identifier of this queue.
    Sent(Under),
    /// Its caller was answered at its deadline, the controller has not answered yet.
    Abandoned(Under),
    /// One half of a fused pair that is answered, while the other is not.
    Half,
    /// Answered, but its payload is still lent to a send.
    Lent,
}

/// The data of a command while it is in a slot.
#[derive(Debug)]
pub(crate) enum Payload {
    None,
    /// To be filled.
    In(Buf),
    /// To be copied into the send buffer.
    Out(Buf),
    /// Sent from where it lies.
    Shared(Slice),
}

impl Payload {
    /// Bytes to be moved.
    pub(crate) fn len(&self) -> usize {
        match self {
            Payload::None => 0,
            Payload::In(buf) | Payload::Out(buf) => buf.len(),
            Payload::Shared(slice) => slice.len(),
        }
    }

    /// Data for the controller; `None` of one that has none.
    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        match self {
            Payload::None | Payload::In(_) => None,
            Payload::Out(buf) => Some(buf),
            Payload::Shared(slice) => Some(slice),
        }
    }
}

/// What the controller said to a command, as its queue heard it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reply {
    pub(crate) cqe: Cqe,
    /// Data that came for it. Bytes.
    pub(crate) received: u32,
    /// False when a data digest was wrong.
    pub(crate) intact: bool,
}

impl Reply {
    /// How it ended. A wrong data digest voids the data, not the command.
    pub(crate) fn status(&self) -> Status {
        if self.intact { self.cqe.status() } else { Status::TRANSIENT_TRANSPORT_ERROR }
    }
}

/// One command in our hands.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) origin: Origin,
    pub(crate) place: Place,
    pub(crate) lane: Lane,
    pub(crate) resend: Resend,
    pub(crate) sqe: Sqe,
    pub(crate) payload: Payload,
    /// Of the last time it was sent; means something between the queue that hears it and the subsystem that judges it.
    pub(crate) reply: Reply,
    pub(crate) tries: u32,
    pub(crate) deadline: Nanos,
    pub(crate) submitted: Nanos,
    pub(crate) sent: Nanos,
}

/// The slots of one subsystem.
pub(crate) struct Slots {
    slots: Box<[Slot]>,
    free: Vec<SlotId>,
}

impl Slots {
    /// `count` free slots.
    pub(crate) fn new(count: usize) -> Slots {
        let free: Vec<SlotId> =
            (0..count).rev().map(|i| SlotId::try_from(i).expect("slots are few")).collect();
        Slots { slots: (0..count).map(|_| Slot::empty()).collect(), free }
    }

    /// Adds free slots, for another path.
    pub(crate) fn grow(&mut self, count: usize) {
        let old = self.slots.len();
        let mut slots = std::mem::take(&mut self.slots).into_vec();
        slots.extend((0..count).map(|_| Slot::empty()));
        self.slots = slots.into();
        self.free.extend((old..old + count).rev().map(|i| SlotId::try_from(i).expect("slots are few")));
    }

    /// Takes a slot for `job`; hands the job back when none is free.
    pub(crate) fn insert(
        &mut self,
        job: Job,
        origin: Origin,
        deadline: Nanos,
        now: Nanos,
    ) -> Result<SlotId, Job> {
        let Some(id) = self.free.pop() else { return Err(job) };
        let slot = self.get_mut(id);
        slot.begin(origin, deadline, now);
        (slot.lane, slot.resend, slot.sqe) = (job.lane, job.resend, job.sqe);
        slot.payload = match job.data {
            Data::None => Payload::None,
            Data::ToHost(buf) => Payload::In(buf),
            Data::ToController(buf) => Payload::Out(buf),
        };
        Ok(id)
    }

    /// The same for a command that moves the data of blocks, which nearly all are: it is made where it stays. `None` when no slot is
    /// free.
    ///
    /// Inlined, so that its parts stay in registers until they are where they belong.
    #[inline(always)]
    pub(crate) fn insert_block(
        &mut self,
        (opcode, nsid, rw): (NvmOpcode, u32, ReadWrite),
        payload: Payload,
        origin: Origin,
        (deadline, now): (Nanos, Nanos),
    ) -> Option<SlotId> {
        let id = self.free.pop()?;
        let slot = self.get_mut(id);
        slot.begin(origin, deadline, now);
        (slot.lane, slot.resend) = (Lane::Io, Resend::Allowed);
        slot.sqe = Sqe::with_read_write(opcode, 0, nsid, rw);
        slot.payload = payload;
        Some(id)
    }

    #[inline]
    pub(crate) fn get(&self, id: SlotId) -> &Slot {
        &self.slots[index(id)]
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: SlotId) -> &mut Slot {
        &mut self.slots[index(id)]
    }

    /// Gives a slot back; its buffer, if it still had one, goes to the pool.
    #[inline]
    pub(crate) fn remove(&mut self, id: SlotId) {
        let slot = self.get_mut(id);
        debug_assert!(slot.place != Place::Free, "a slot is freed once");
        slot.place = Place::Free;
        slot.payload = Payload::None;
        self.free.push(id);
    }

    /// True while what was sent then from a slot is unanswered.
    pub(crate) fn is_under_way(&self, id: SlotId, sent: Nanos) -> bool {
        let slot = self.get(id);
        slot.under().is_some() && slot.sent == sent
    }

    /// Slots in use, with their ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SlotId, &Slot)> {
        (0..).zip(self.slots.iter()).filter(|(_, s)| s.place != Place::Free)
    }
}

impl Slot {
    fn empty() -> Slot {
        Slot {
            origin: Origin::Bringup,
            place: Place::Free,
            lane: Lane::Admin,
            resend: Resend::Never,
            sqe: Sqe::default(),
            payload: Payload::None,
            reply: Reply { cqe: Cqe::new(0, Status::SUCCESS), received: 0, intact: true },
            tries: 0,
            deadline: Nanos(0),
            submitted: Nanos(0),
            sent: Nanos(0),
        }
    }

    /// A command of `origin` moves in.
    #[inline]
    fn begin(&mut self, origin: Origin, deadline: Nanos, now: Nanos) {
        (self.origin, self.place, self.tries) = (origin, Place::Waiting, 0);
        (self.deadline, self.submitted, self.sent) = (deadline, now, now);
    }

    /// The ticket, when the caller still waits for this command.
    pub(crate) fn is_callers(&self) -> bool {
        matches!(self.origin, Origin::Caller { .. })
    }

    /// Where it was sent and not answered.
    pub(crate) fn under(&self) -> Option<Under> {
        match self.place {
            Place::Sent(under) | Place::Abandoned(under) => Some(under),
            _ => None,
        }
    }

    /// True for either half of a fused pair.
    pub(crate) fn is_fused(&self) -> bool {
        self.sqe.fuse() != Fuse::Normal
    }

    /// True when carrying the command out late, after its caller was told that it failed, could do harm.
    pub(crate) fn changes_data(&self) -> bool {
        // Only what brings data to us is known to leave the medium alone.
        !matches!(self.payload, Payload::In(_))
    }
}

fn index(id: SlotId) -> usize {
    usize::try_from(id).expect("a slot's index fits the address space")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        Job { lane: Lane::Io, sqe: Sqe::default(), data: Data::None, resend: Resend::Allowed }
    }

    #[test]
    fn bounded_and_reused() {
        let mut slots = Slots::new(2);
        let origin = Origin::Caller { ticket: 1, queue: None };
        let a = slots.insert(job(), origin, Nanos(1), Nanos(0)).unwrap();
        let b = slots.insert(job(), origin, Nanos(1), Nanos(0)).unwrap();
        assert!(slots.insert(job(), origin, Nanos(1), Nanos(0)).is_err());
        assert_eq!(slots.iter().count(), 2);
        slots.remove(a);
        assert_eq!(slots.iter().count(), 1);
        assert_eq!(slots.insert(job(), origin, Nanos(1), Nanos(0)).unwrap(), a);
        assert_ne!(a, b);
        slots.grow(1);
        let c = slots.insert(job(), origin, Nanos(1), Nanos(0)).unwrap();
        assert!(c != a && c != b && slots.insert(job(), origin, Nanos(1), Nanos(0)).is_err());
    }
}
