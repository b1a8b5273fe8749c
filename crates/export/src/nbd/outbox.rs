//! What goes to a client in one send: small parts copied side by side into one buffer, large ones from where they are.
//!
//! A send gives back what others wait for, so it must find the one buffer that it needs: some are set aside for clients that find none
//! ([`Reserve`]). A client has one send under way, so each has one of them at most.

use dolmen_io::{Buf, Io, PoolConfig, Reserve, Slice, Slices};
use dolmen_types::Nanos;
use std::ops::Range;

/// Data up to this size is copied beside its header: many small vectors cost the kernel more than one copy. Bytes.
pub(super) const COPY_BYTES: usize = 16 << 10;
/// A header, with room to spare. Bytes.
const HEADER_BYTES: usize = 64;
/// Large parts of one send at most: a vector for each and for what stands between them.
const MAX_LARGE: usize = 64;
/// Buffers of large parts, with which a send has enough: it is free when all of it is sent. Bytes.
const ENOUGH_BYTES: usize = 1 << 20;

/// A send that is being put together.
pub(super) struct Outbox {
    stage: Buf,
    /// It is one of the core's reserve.
    lent: bool,
    used: usize,
    parts: Vec<Part>,
    large: usize,
    /// Buffers of large parts. Bytes.
    memory: usize,
}

/// A send that is under way.
#[derive(Debug)]
pub(super) struct Sending {
    /// Since when it has not gone on, as far as that was looked at.
    pub(super) since: Nanos,
    /// Buffers that commands had and it has now. Bytes.
    pub(super) memory: usize,
    /// A view of its staging buffer, if that is one of the reserve.
    lent: Option<Slice>,
}

impl Sending {
    /// It is over; nobody else has what it was sent from.
    pub(super) fn end(self, reserve: &mut Reserve) {
        if let Some(stage) = self.lent {
            reserve.take_back(stage.try_into_buf().ok());
        }
    }
}

enum Part {
    Staged(Range<usize>),
    Large(Slice),
}

impl Outbox {
    /// An empty one; `None` when there is no buffer.
    pub(super) fn new(io: &Io, reserve: &mut Reserve) -> Option<Outbox> {
        let (mut stage, lent) = match io.pool().alloc_plentiful(PoolConfig::CHUNK_BYTES) {
            Some(stage) => (stage, false),
            None => (reserve.lend(PoolConfig::CHUNK_BYTES)?, true),
        };
        stage.set_len(PoolConfig::CHUNK_BYTES);
        Some(Outbox { stage, lent, used: 0, parts: Vec::new(), large: 0, memory: 0 })
    }

    /// Nothing of it will be sent. How much memory of commands is free now. Bytes.
    pub(super) fn discard(self, reserve: &mut Reserve) -> usize {
        if self.lent {
            reserve.take_back(Some(self.stage));
        }
        self.memory
    }

    /// True when another header and small data, or a header and large data, fit.
    pub(super) fn has_room(&self) -> bool {
        let staged = self.stage.len() - self.used >= HEADER_BYTES + COPY_BYTES;
        staged && self.large < MAX_LARGE && self.memory < ENOUGH_BYTES
    }

    /// Nothing was put in.
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Appends a copy of as much as fits; how much that was.
    pub(super) fn put(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.stage.len() - self.used);
        let range = self.used..self.used + taken;
        self.stage[range.clone()].copy_from_slice(&bytes[..taken]);
        self.used = range.end;
        match self.parts.last_mut() {
            Some(Part::Staged(last)) => last.end = range.end,
            _ if taken > 0 => self.parts.push(Part::Staged(range)),
            _ => {}
        }
        taken
    }

    /// Appends a part of a buffer; how much memory is free now. Bytes.
    pub(super) fn put_data(&mut self, buf: Buf, part: Range<usize>) -> usize {
        if part.len() <= COPY_BYTES {
            self.put(&buf[part]);
            return buf.capacity();
        }
        self.memory += buf.capacity();
        self.parts.push(Part::Large(buf.freeze().slice(part)));
        self.large += 1;
        0
    }

    /// What to send, and what is to be known until that is over.
    pub(super) fn finish(self, io: &mut Io) -> (Slices, Sending) {
        let stage = self.stage.freeze();
        let lent = self.lent.then(|| stage.clone());
        let sending = Sending { since: io.now(), memory: self.memory, lent };
        let mut slices = io.slices();
        slices.extend(self.parts.into_iter().map(|part| match part {
            Part::Staged(range) => stage.slice(range),
            Part::Large(slice) => slice,
        }));
        (slices, sending)
    }
}

const _: () = assert!(PoolConfig::CHUNK_BYTES >= HEADER_BYTES + COPY_BYTES);
