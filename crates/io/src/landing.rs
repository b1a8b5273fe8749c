//! Where the next bytes of a stream are to be put, so that payload need not be copied out of a received chunk.
//!
//! A receiver that knows how its peer's messages are laid out (a header of a fixed size, then data of a fixed size, again
//! and again) lends buffers for the data; headers go to a place of their own. One that knows where the next bytes belong, since
//! their header has come, lends that place before all others: the *lead*. The driver knows nothing of messages: it puts down
//! bytes in order, and the receiver looks whether they are what was expected.

use crate::Buf;
use std::ops::Range;

/// Parts of one length, each with room for a header before it: header, part, header, part, in the order of the stream.
#[derive(Debug)]
pub struct Landing {
    /// What of which buffer is filled before all else.
    lead: Option<(Buf, Range<usize>)>,
    head_bytes: usize,
    /// For headers of parts that have no room for them: one every `stride` bytes.
    heads: Vec<u8>,
    /// `head_bytes`, but never 0: what is cut into pieces has pieces of some length.
    stride: usize,
    parts: Vec<Buf>,
    part_bytes: usize,
    used: usize,
    skip: usize,
}

impl Landing {
    /// A landing of `parts`, before each of them `head_bytes` bytes (perhaps none).
    ///
    /// # Panics
    /// Without parts, or with parts of different lengths.
    #[must_use]
    pub fn new(head_bytes: usize, parts: Vec<Buf>) -> Landing {
        let part_bytes = parts.first().expect("a landing has parts").len();
        assert!(parts.iter().all(|part| part.len() == part_bytes), "parts are of one length");
        let stride = head_bytes.max(1);
        let heads = vec![0; stride * parts.len()];
        Landing { lead: None, head_bytes, heads, stride, used: parts.len(), parts, part_bytes, skip: 0 }
    }

    /// How many parts there are.
    #[must_use]
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Length of a part. Bytes.
    #[must_use]
    pub fn part_bytes(&self) -> usize {
        self.part_bytes
    }

    /// Length of a header and its part. Bytes.
    #[must_use]
    pub fn frame_bytes(&self) -> usize {
        self.head_bytes + self.part_bytes
    }

    /// Bytes of the first frame that came before.
    #[must_use]
    pub fn skip(&self) -> usize {
        self.skip
    }

    /// Only the first `count` parts are to be filled, at least one.
    pub fn use_parts(&mut self, count: usize) {
        self.used = count.clamp(1, self.parts.len());
    }

    /// From now on the part at `at` is the first, and `skip` bytes of its frame have come.
    ///
    /// # Panics
    /// When the frame is shorter than that.
    pub fn begin(&mut self, at: usize, skip: usize) {
        assert!(skip < self.frame_bytes(), "a frame that is whole is not to be filled");
        self.parts.swap(0, at);
        self.skip = skip;
    }

    /// What comes first goes to the bytes of `range` of `buf`.
    ///
    /// # Panics
    /// When there are no such bytes, or another lead is there.
    pub fn set_lead(&mut self, buf: Buf, range: Range<usize>) {
        assert!(range.start < range.end && range.end <= buf.len(), "{range:?} of {} bytes", buf.len());
        assert!(self.lead.is_none(), "a landing has one lead");
        self.lead = Some((buf, range));
    }

    /// Takes the lead out, filled or not.
    pub fn take_lead(&mut self) -> Option<(Buf, Range<usize>)> {
        self.lead.take()
    }

    /// The parts, for who has another use for them.
    #[must_use]
    pub fn into_parts(self) -> Vec<Buf> {
        self.parts
    }

    /// What came before a part.
    #[inline]
    #[must_use]
    pub fn head(&self, at: usize) -> &[u8] {
        let (part, elsewhere) = (&self.parts[at], at * self.stride);
        match part.head_bytes() >= self.head_bytes {
            true => part.head(self.head_bytes),
            false => &self.heads[elsewhere..elsewhere + self.head_bytes],
        }
    }

    /// A part, to be filled or to be changed for another of its length. Its header is to be looked at before.
    #[inline]
    #[must_use]
    pub fn part(&mut self, at: usize) -> &mut Buf {
        &mut self.parts[at]
    }

    /// For drivers: what is to be filled, in order. Never empty.
    #[inline]
    pub fn rooms(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let (head_bytes, mut skip) = (self.head_bytes, self.skip);
        let lead = self.lead.as_mut().map(|(buf, range)| &mut buf[range.clone()]);
        let heads = self.heads.chunks_exact_mut(self.stride).map(move |head| &mut head[..head_bytes]);
        let frames = heads.zip(&mut self.parts).take(self.used);
        let rooms = frames.flat_map(move |(head, part)| match part.head_bytes() >= head_bytes {
            true => [&mut [], part.with_head(head_bytes)],
            false => [head, &mut part[..]],
        });
        let rooms = rooms.map(move |room| {
            let gone = skip.min(room.len());
            skip -= gone;
            &mut room[gone..]
        });
        lead.into_iter().chain(rooms).filter(|room| !room.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Pool, PoolConfig};

    fn lengths(landing: &mut Landing) -> Vec<usize> {
        landing.rooms().map(|room| room.len()).collect()
    }

    #[test]
    fn rooms_follow_what_came_before() {
        let pool = Pool::new(&PoolConfig::new(vec![(4096, 4)]));
        let parts = (0..3).map(|_| pool.alloc(10).unwrap()).collect();
        let mut landing = Landing::new(4, parts);
        assert_eq!(lengths(&mut landing), [4, 10, 4, 10, 4, 10]);
        landing.use_parts(2);
        landing.begin(1, 3);
        assert_eq!(lengths(&mut landing), [1, 10, 4, 10]);
        landing.begin(0, 4);
        assert_eq!(lengths(&mut landing), [10, 4, 10]);
        landing.begin(0, 13);
        assert_eq!(lengths(&mut landing), [1, 4, 10]);
        landing.rooms().zip(1u8..).for_each(|(room, n)| room.fill(n));
        assert_eq!(landing.head(1), [2; 4]);
        assert_eq!(landing.part(1)[..], [3; 10]);
        assert_eq!(landing.part(0)[9], 1);
    }

    #[test]
    fn a_header_goes_before_its_part_where_there_is_room() {
        let heads = Pool::new(&PoolConfig::new(vec![(4096, 4)]).with_heads());
        let plain = Pool::new(&PoolConfig::new(vec![(4096, 4)]));
        let parts = [&heads, &plain, &heads].map(|pool| pool.alloc(10).unwrap());
        let mut landing = Landing::new(4, parts.into());
        assert_eq!(lengths(&mut landing), [14, 4, 10, 14]);
        landing.begin(0, 5);
        assert_eq!(lengths(&mut landing), [9, 4, 10, 14]);
        landing.begin(0, 0);
        for (n, room) in (1u8..).zip(landing.rooms()) {
            room.fill(n);
        }
        let found = [0, 1, 2].map(|at| (landing.head(at).to_vec(), landing.part(at).to_vec()));
        assert_eq!(found, [(1, 1), (2, 3), (4, 4)].map(|(head, part)| (vec![head; 4], vec![part; 10])));
    }

    #[test]
    fn the_lead_is_filled_first() {
        let pool = Pool::new(&PoolConfig::new(vec![(4096, 4)]));
        let mut landing = Landing::new(0, vec![pool.alloc(6).unwrap()]);
        landing.set_lead(pool.alloc(10).unwrap(), 3..8);
        landing.rooms().zip(1u8..).for_each(|(room, n)| room.fill(n));
        let (lead, range) = landing.take_lead().unwrap();
        assert_eq!((&lead[range.clone()], range), (&[1u8; 5][..], 3..8));
        assert_eq!(landing.rooms().map(|room| room.len()).collect::<Vec<_>>(), [6]);
        assert_eq!(landing.into_parts()[0][..], [2u8; 6]);
    }
}
