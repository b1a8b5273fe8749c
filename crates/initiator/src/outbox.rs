//! What one queue sends next, staged in order.
//!
//! Headers and small payloads are copied one behind the other into a pool buffer; large payloads are named where they
//! lie, with their headers if these were written before them. [`Outbox::take`] turns that into the views of one send: a single one, when nothing was named.

use dolmen_io::{Buf, Pool, PoolConfig, Slice, Slices};
use std::ops::Range;

/// Bytes of a send buffer when little is to be staged.
const SMALL_BYTES: usize = 4096;

enum Part {
    Staged(Range<usize>),
    Named(Slice),
}

/// Bytes staged for one send.
#[derive(Default)]
pub(crate) struct Outbox {
    /// Views that are complete.
    ready: Slices,
    current: Option<Buf>,
    used: usize,
    /// Start of what was staged in `current` since the last named payload.
    mark: usize,
    /// What was staged and named since `current` is there.
    parts: Vec<Part>,
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.parts.is_empty() && self.used == 0
    }

    /// Room for `bytes` bytes in one piece, at most a chunk of the pool; `None` when the pool is empty.
    pub(crate) fn room(&mut self, pool: &Pool, bytes: usize) -> Option<&mut [u8]> {
        let fits = self.current.as_ref().is_some_and(|b| b.len() - self.used >= bytes);
        if !fits {
            let first = self.is_empty() && bytes <= SMALL_BYTES;
            let want = if first { SMALL_BYTES } else { PoolConfig::CHUNK_BYTES };
            let next = pool.alloc(want.max(bytes))?;
            self.seal();
            self.current = Some(next);
        }
        let used = self.used;
        self.current.as_mut().map(|b| &mut b[used..])
    }

    /// Keeps the first `bytes` bytes of the room.
    pub(crate) fn advance(&mut self, bytes: usize) {
        self.used += bytes;
    }

    /// Puts a payload behind what is staged, without copying it.
    pub(crate) fn name(&mut self, payload: Slice) {
        self.mark_staged();
        self.parts.push(Part::Named(payload));
    }

    /// What was staged since the last mark becomes a part.
    fn mark_staged(&mut self) {
        if self.mark < self.used {
            self.parts.push(Part::Staged(self.mark..self.used));
            self.mark = self.used;
        }
    }

    /// Everything staged, as the views of one send; `spare` is an empty vector for the next.
    pub(crate) fn take(&mut self, spare: Slices) -> Slices {
        self.seal();
        std::mem::replace(&mut self.ready, spare)
    }

    fn seal(&mut self) {
        self.mark_staged();
        let staged = self.current.take().map(|mut buf| {
            buf.set_len(self.used);
            buf.freeze()
        });
        for part in self.parts.drain(..) {
            match (part, &staged) {
                (Part::Staged(range), Some(staged)) => self.ready.push(staged.slice(range)),
                (Part::Staged(_), None) => unreachable!("what was staged lies somewhere"),
                (Part::Named(payload), _) => self.ready.push(payload),
            }
        }
        (self.used, self.mark) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(outbox: &mut Outbox, pool: &Pool, bytes: &[u8]) {
        outbox.room(pool, bytes.len()).unwrap()[..bytes.len()].copy_from_slice(bytes);
        outbox.advance(bytes.len());
    }

    #[test]
    fn keeps_the_order_of_staged_and_named_bytes() {
        let pool = Pool::new(&PoolConfig::new(vec![(4096, 4), (PoolConfig::CHUNK_BYTES, 2)]));
        let mut outbox = Outbox::default();
        assert!(outbox.is_empty() && outbox.take(Vec::new()).is_empty());
        let mut wanted = Vec::new();
        for round in 0..9u8 {
            let small = vec![round; 700];
            stage(&mut outbox, &pool, &small);
            wanted.extend_from_slice(&small);
            if round % 4 == 1 {
                let mut large = pool.alloc(4096).unwrap();
                large.fill(0xf0 + round);
                wanted.extend_from_slice(&large);
                outbox.name(large.freeze());
            }
        }
        let sent: Vec<u8> = outbox.take(Vec::new()).iter().flat_map(|s| s.to_vec()).collect();
        assert_eq!(sent, wanted);
        assert!(outbox.is_empty());
        assert_eq!(pool.available(1), 6);
    }

    #[test]
    fn nothing_is_staged_for_what_has_its_header_before_it() {
        let heads = Pool::new(&PoolConfig::new(vec![(4096, 2)]).with_heads());
        let empty = Pool::new(&PoolConfig::new(vec![(4096, 1)]));
        let _all = empty.alloc(4096).unwrap();
        let mut outbox = Outbox::default();
        for n in 0..2 {
            let mut payload = heads.alloc(4000).unwrap();
            payload.with_head(72)[..72].fill(10 + n);
            payload.fill(n);
            outbox.name(payload.freeze_with_head(72));
            assert!(!outbox.is_empty());
        }
        assert!(outbox.room(&empty, 1).is_none());
        let views = outbox.take(Vec::new());
        assert!(outbox.is_empty() && views.len() == 2);
        for (n, view) in (0u8..).zip(views) {
            assert_eq!((&view[..72], &view[72..]), (&[10 + n; 72][..], &[n; 4000][..]));
        }
    }

    #[test]
    fn one_view_when_nothing_is_named_and_none_when_the_pool_is_empty() {
        let pool = Pool::new(&PoolConfig::new(vec![(4096, 1)]));
        let mut outbox = Outbox::default();
        stage(&mut outbox, &pool, b"abc");
        stage(&mut outbox, &pool, b"def");
        assert!(outbox.room(&pool, 4096).is_none());
        let views = outbox.take(Vec::new());
        assert_eq!((views.len(), &*views[0]), (1, &b"abcdef"[..]));
    }
}
