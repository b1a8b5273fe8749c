//! What goes to a client in one send: small parts copied side by side into one buffer, large ones from where they are.

use dolmen_io::{Buf, Io, PoolConfig, Slice, Slices};
use std::ops::Range;

/// Data up to this size is copied beside its header: many small vectors cost the kernel more than one copy. Bytes.
pub(super) const COPY_BYTES: usize = 16 << 10;
/// A header, with room to spare. Bytes.
const HEADER_BYTES: usize = 64;
/// Large parts of one send at most: a vector for each and for what stands between them.
const MAX_LARGE: usize = 64;

/// A send that is being put together.
pub(super) struct Outbox {
    stage: Buf,
    used: usize,
    parts: Vec<Part>,
    large: usize,
}

enum Part {
    Staged(Range<usize>),
    Large(Slice),
}

impl Outbox {
    /// An empty one; `None` when the pool has no buffer.
    pub(super) fn new(io: &Io) -> Option<Outbox> {
        let stage = io.pool().alloc_plentiful(PoolConfig::CHUNK_BYTES)?;
        Some(Outbox { stage, used: 0, parts: Vec::new(), large: 0 })
    }

    /// True when another header and small data, or a header and large data, fit.
    pub(super) fn has_room(&self) -> bool {
        self.stage.len() - self.used >= HEADER_BYTES + COPY_BYTES && self.large < MAX_LARGE
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

    /// Appends a part of a buffer.
    pub(super) fn put_data(&mut self, buf: Buf, part: Range<usize>) {
        if part.len() <= COPY_BYTES {
            self.put(&buf[part]);
        } else {
            self.parts.push(Part::Large(buf.freeze().slice(part)));
            self.large += 1;
        }
    }

    /// What to send.
    pub(super) fn finish(self, io: &mut Io) -> Slices {
        let stage = self.stage.freeze();
        let mut slices = io.slices();
        slices.extend(self.parts.into_iter().map(|part| match part {
            Part::Staged(range) => stage.slice(range),
            Part::Large(slice) => slice,
        }));
        slices
    }
}

const _: () = assert!(PoolConfig::CHUNK_BYTES >= HEADER_BYTES + COPY_BYTES);
