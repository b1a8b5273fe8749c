//! Commands that are longer than a path takes.
//!
//! Controllers of one subsystem may differ in the data that one command may move (MDTS), and a path with a smaller limit may join
//! when a caller has long made up its mind. What counts is the least of the live paths: that is told to callers, and a command
//! that is longer goes in pieces, one after the other, each in a buffer of its own. It is copied once more; it costs no failed
//! request. As with any command that is longer than the controller's atomic write unit, a reader may see a part of it.

use super::{MEMORY_RETRY_MS, Subsystem};
use crate::{
    Identity,
    command::Lane,
    slots::{Payload, Place, SlotId},
};
use dolmen_io::Io;
use dolmen_nvme::spec::{NvmOpcode, ReadWrite, Sqe};
use dolmen_types::Nanos;
use std::collections::BTreeMap;

/// A command that goes in pieces; the slot holds the piece that is on its way.
struct Whole {
    /// All of its data.
    payload: Payload,
    /// Where it begins, and how long it is.
    rw: ReadWrite,
    /// Bytes that are done.
    done: usize,
}

/// What is known about lengths, and the commands that go in pieces.
pub(super) struct Pieces {
    wholes: BTreeMap<SlotId, Whole>,
    /// The limit of the live paths, or of those that were live last. Bytes.
    least: usize,
    /// The highest limit that callers were ever told: what they keep to. Bytes.
    told: usize,
    /// Of the first live path, with the least limit of all.
    identity: Option<Identity>,
}

impl Default for Pieces {
    fn default() -> Pieces {
        Pieces { wholes: BTreeMap::new(), least: usize::MAX, told: usize::MAX, identity: None }
    }
}

impl Pieces {
    /// True when no command goes in pieces.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.wholes.is_empty()
    }

    /// What the subsystem says of itself.
    pub(super) fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// True for data that no caller should think of sending in one command.
    pub(super) fn is_too_large(&self, bytes: usize) -> bool {
        bytes > self.told
    }

    /// True when a live path may not take that much at once.
    #[inline]
    pub(super) fn is_long(&self, bytes: usize) -> bool {
        bytes > self.least
    }

    /// All of a command's data, when it went in pieces; it is a whole one again.
    pub(super) fn end(&mut self, id: SlotId) -> Option<Payload> {
        // Nearly always there is none.
        if self.wholes.is_empty() { None } else { self.wholes.remove(&id).map(|whole| whole.payload) }
    }
}

/// The length of a block as the caller counts them; at least 1. Bytes.
fn block_bytes(length: usize, rw: &ReadWrite) -> usize {
    (length / usize::try_from(rw.blocks).unwrap_or(1).max(1)).max(1)
}

impl Subsystem {
    /// Looks at the limits of the paths that are live: one came, or is gone.
    pub(super) fn measure(&mut self) {
        let live = self.routes.iter().filter(|r| r.path.is_live()).filter_map(|r| r.path.identity());
        let Some(least) = live.clone().map(|id| id.max_transfer_bytes).min() else { return };
        let first = live.clone().next().expect("one has the least limit");
        let pieces = &mut self.pieces;
        pieces.identity = Some(Identity { max_transfer_bytes: least, ..first.clone() });
        let least = usize::try_from(least).unwrap_or(usize::MAX);
        pieces.told = if pieces.told == usize::MAX { least } else { pieces.told.max(least) };
        pieces.least = least;
        self.take_out_long();
    }

    /// What waits somewhere and has become too long is looked at again.
    fn take_out_long(&mut self) {
        let pieces = &self.pieces;
        let slots = self.shared.slots.iter();
        let long = slots.filter(|(_, s)| s.place == Place::Waiting && pieces.is_long(s.payload.len()));
        let long: Vec<SlotId> = long.map(|(id, _)| id).filter(|&id| self.can_be_cut(id)).collect();
        for id in long {
            self.routes.iter_mut().for_each(|route| route.forget(id));
            self.shelter.retain(|&other| other != id);
            self.park_for_cutting(id);
        }
    }

    /// True for commands that may go in pieces: the data of consecutive blocks, of no fused pair. Not if a block alone, as the caller
    /// counts them, is too long, nor if the blocks end beyond the last address: what is wrong with that the controller says.
    pub(super) fn can_be_cut(&self, id: SlotId) -> bool {
        let slot = self.shared.slots.get(id);
        let opcode = NvmOpcode(slot.sqe.opcode);
        let moves = [NvmOpcode::READ, NvmOpcode::WRITE, NvmOpcode::COMPARE].contains(&opcode);
        let rw = slot.sqe.read_write();
        let ends = rw.start.checked_add(rw.blocks.into()).is_some();
        slot.lane == Lane::Io
            && slot.is_callers()
            && moves
            && !slot.is_fused()
            && ends
            && block_bytes(slot.payload.len(), &rw) <= self.pieces.least
    }

    /// The next [`Subsystem::tick`] cuts a piece off.
    pub(super) fn park_for_cutting(&mut self, id: SlotId) {
        self.shared.slots.get_mut(id).place = Place::Parked { until: Nanos(0) };
        self.wake_at = Nanos(0);
    }

    /// Makes the next piece of a command that is too long, or goes in pieces already. False: there is no memory for it now, it
    /// stays parked.
    pub(super) fn cut(&mut self, io: &Io, id: SlotId) -> bool {
        let slot = self.shared.slots.get(id);
        let is_whole = !self.pieces.wholes.contains_key(&id);
        let between = matches!(slot.payload, Payload::None);
        let long = self.pieces.is_long(slot.payload.len()) && self.can_be_cut(id);
        if !long && (is_whole || !between) {
            return true;
        }
        let (length, done, rw) = match self.pieces.wholes.get(&id) {
            Some(whole) => (whole.payload.len(), whole.done, whole.rw),
            None => (slot.payload.len(), 0, slot.sqe.read_write()),
        };
        let block = block_bytes(length, &rw);
        let most = (self.pieces.least / block).max(1) * block;
        let bytes = most.min(length - done);
        let Some(mut buf) = io.alloc(bytes) else {
            let until = io.now().plus_ms(MEMORY_RETRY_MS);
            self.shared.slots.get_mut(id).place = Place::Parked { until };
            self.wake_at = self.wake_at.min(until);
            return false;
        };
        let slot = self.shared.slots.get_mut(id);
        let piece = std::mem::replace(&mut slot.payload, Payload::None);
        let whole = self.pieces.wholes.entry(id).or_insert(Whole { payload: piece, rw, done });
        slot.payload = match whole.payload.bytes() {
            Some(data) => {
                buf.copy_from_slice(&data[done..done + bytes]);
                Payload::Out(buf)
            }
            None => Payload::In(buf),
        };
        let blocks = u32::try_from(bytes / block).expect("a piece has fewer blocks than the whole");
        let rw = ReadWrite { start: rw.start + (done / block) as u64, blocks, ..rw };
        slot.sqe = Sqe::with_read_write(NvmOpcode(slot.sqe.opcode), 0, slot.sqe.nsid.get(), rw);
        true
    }

    /// A command was carried out; true when it was a piece and there are more.
    pub(super) fn goes_on(&mut self, id: SlotId) -> bool {
        if self.pieces.wholes.is_empty() {
            return false;
        }
        let Some(whole) = self.pieces.wholes.get_mut(&id) else { return false };
        let slot = self.shared.slots.get_mut(id);
        let piece = std::mem::replace(&mut slot.payload, Payload::None);
        if let (Payload::In(all), Payload::In(part)) = (&mut whole.payload, &piece) {
            all[whole.done..whole.done + part.len()].copy_from_slice(part);
        }
        whole.done += piece.len();
        if whole.done >= whole.payload.len() {
            return false;
        }
        slot.tries = 0;
        self.park_for_cutting(id);
        true
    }

    /// Cuts what is too long among the parked commands that are due, and puts all on their way.
    pub(super) fn put_due(&mut self, io: &Io, due: Vec<SlotId>) {
        for id in due {
            if self.cut(io, id) {
                self.enqueue(id);
            }
        }
    }

    /// A command that went in pieces has all its data again, for its caller.
    pub(super) fn make_whole(&mut self, id: SlotId) {
        if let Some(payload) = self.pieces.end(id) {
            self.shared.slots.get_mut(id).payload = payload;
        }
    }
}
