//! Laying a commit over the columns of its segment: cutting the run of header and payload, and making the parity.

use super::MoveItem;
use crate::columns::{MAX_DATA_COLUMNS, MAX_PARITY};
use crate::format::commit::depth_of;
use crate::parity;
use dolmen_io::{Buf, Io, Slice, Slices};
use smallvec::SmallVec;

/// Buffers of a commit in most cases at most.
pub(super) const USUAL_BUFFERS: usize = 2;

/// Memory for a part of a commit.
pub(super) type Bufs = SmallVec<[Buf; USUAL_BUFFERS]>;

/// Buffers for `len` bytes in all, each as large as the pool has them; `None` when it has too few now.
pub(super) fn buffers(io: &Io, len: usize) -> Option<Bufs> {
    let largest = io.pool().largest() / 4096 * 4096;
    let (mut bufs, mut left) = (Bufs::new(), len);
    while left > 0 {
        let part = left.min(largest);
        bufs.push(io.alloc(part)?);
        left -= part;
    }
    Some(bufs)
}

/// Where the stored blocks of a commit lie.
pub(super) struct Layout {
    /// Bytes that the commit takes in each column.
    pub(super) depth: usize,
    /// Each block's distance from the payload's start. Bytes.
    pub(super) places: Vec<usize>,
    /// Bytes of the payload, whole pages.
    pub(super) payload_len: usize,
}

/// Lays blocks of the given lengths behind a header over `data` columns, so that none lies across the end of one.
pub(super) fn spread(header: usize, lengths: impl Iterator<Item = usize> + Clone, data: usize) -> Layout {
    let mut depth = depth_of(header, lengths.clone().sum(), data);
    loop {
        let (mut at, mut places) = (header, Vec::new());
        for len in lengths.clone() {
            if at / depth != (at + len - 1) / depth {
                at = at.next_multiple_of(depth);
            }
            places.push(at - header);
            at += len;
        }
        if at <= data * depth {
            // Long enough that this very depth follows from it.
            let least = (data * (depth - 4096) + 4096).max(header) - header;
            let payload_len =
                (at - header).next_multiple_of(4096).max(if depth > header { least } else { 0 });
            return Layout { depth, places, payload_len };
        }
        depth += 4096;
    }
}

/// The payload of packed blocks, each at its place and zeros between. `None` when the pool has too few buffers now.
pub(super) fn place(
    io: &Io,
    items: &[MoveItem],
    packed: &[u8],
    places: &[usize],
    payload_len: usize,
) -> Option<Slices> {
    let mut bufs = buffers(io, payload_len)?;
    bufs.iter_mut().for_each(|b| b.fill(0));
    let mut from = 0;
    for (item, &at) in items.iter().zip(places) {
        let len = item.entry.bytes() as usize;
        put(&mut bufs, at, &packed[from..from + len]);
        from += len;
    }
    Some(bufs.into_iter().map(Buf::freeze).collect())
}

/// Copies bytes to a distance from the start of the first buffer.
fn put(bufs: &mut [Buf], mut at: usize, mut bytes: &[u8]) {
    for buf in bufs {
        if at >= buf.len() {
            at -= buf.len();
            continue;
        }
        let part = bytes.len().min(buf.len() - at);
        buf[at..at + part].copy_from_slice(&bytes[..part]);
        (at, bytes) = (0, &bytes[part..]);
        if bytes.is_empty() {
            return;
        }
    }
}

/// Cuts a run into `data` columns of `depth` bytes; what the run does not fill is filled with the page of zeros.
pub(super) fn cut(run: &[Slice], depth: usize, data: usize, zeros: Option<&Slice>) -> Vec<Slices> {
    let mut columns: Vec<Slices> = vec![Slices::new()];
    let mut room = depth;
    for slice in run {
        let mut from = 0;
        while from < slice.len() {
            if room == 0 {
                columns.push(Slices::new());
                room = depth;
            }
            let part = (slice.len() - from).min(room);
            let whole = from == 0 && part == slice.len();
            let piece = if whole { slice.clone() } else { slice.slice(from..from + part) };
            columns.last_mut().expect("there is one").push(piece);
            (from, room) = (from + part, room - part);
        }
    }
    if let Some(zeros) = zeros {
        while columns.len() < data || room > 0 {
            if room == 0 {
                columns.push(Slices::new());
                room = depth;
            }
            let part = room.min(zeros.len());
            columns.last_mut().expect("there is one").push(zeros.slice(0..part));
            room -= part;
        }
    }
    columns
}

/// Fills the parity columns of `columns`, which have `depth` bytes each, into `bufs`; as slices.
pub(super) fn fill_parity(columns: &[Slices], depth: usize, bufs: Vec<Bufs>) -> Vec<Slices> {
    let mut walks: Vec<Walk<'_>> = columns.iter().map(|c| Walk { slices: c, index: 0, from: 0 }).collect();
    let mut out: Vec<Slices> = Vec::new();
    let mut targets: Vec<(Bufs, usize, usize)> = bufs.into_iter().map(|b| (b, 0, 0)).collect();
    let mut at = 0;
    while at < depth {
        let room = |(bufs, index, from): &(Bufs, usize, usize)| bufs[*index].len() - from;
        let part = walks.iter().map(Walk::left).chain(targets.iter().map(room)).min().unwrap_or(0);
        let part = part.min(depth - at);
        debug_assert!(part > 0, "every column has its depth");
        let data: SmallVec<[&[u8]; MAX_DATA_COLUMNS]> = walks.iter().map(|w| w.part(part)).collect();
        let mut sums: SmallVec<[&mut [u8]; MAX_PARITY]> =
            targets.iter_mut().map(|(bufs, index, from)| &mut bufs[*index][*from..*from + part]).collect();
        parity::encode(&data, &mut sums);
        drop(sums);
        walks.iter_mut().for_each(|w| w.advance(part));
        for (bufs, index, from) in &mut targets {
            *from += part;
            if *from == bufs[*index].len() {
                (*index, *from) = (*index + 1, 0);
            }
        }
        at += part;
    }
    for (mut bufs, index, from) in targets {
        bufs.truncate(index + usize::from(from > 0));
        if let Some(last) = bufs.last_mut().filter(|_| from > 0) {
            last.set_len(from);
        }
        out.push(bufs.into_iter().map(Buf::freeze).collect());
    }
    out
}

/// A place in a column.
struct Walk<'a> {
    slices: &'a [Slice],
    index: usize,
    from: usize,
}

impl<'a> Walk<'a> {
    fn left(&self) -> usize {
        self.slices.get(self.index).map_or(0, |s| s.len() - self.from)
    }

    fn part(&self, len: usize) -> &'a [u8] {
        &self.slices[self.index][self.from..self.from + len]
    }

    fn advance(&mut self, len: usize) {
        self.from += len;
        if self.from == self.slices[self.index].len() {
            (self.index, self.from) = (self.index + 1, 0);
        }
    }
}
