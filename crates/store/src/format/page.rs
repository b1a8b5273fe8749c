//! A page of a line's map: a leaf of entries, or a node of references to pages (`docs/format/page.md`). 4 KiB each.

use crate::bytes::{Reader, Writer};
use crate::check::{seal, unseal};
use crate::format::{FORMAT_VERSION, PAGE_BYTES};
use crate::location::Location;
use crate::map::Entry;
use crate::stored::Form;
use dolmen_types::Uuid;

/// Entries of a leaf, and references of a node, at most.
pub(crate) const PAGE_SLOTS: usize = 126;

const MAGIC: &[u8; 8] = b"dolmPAGE";
const HEADER_BYTES: usize = 64;
const SLOT_BYTES: usize = 32;

const _: () = assert!(HEADER_BYTES + PAGE_SLOTS * SLOT_BYTES == PAGE_BYTES as usize);

/// What a page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Entries of blocks.
    Leaf = 0,
    /// References to leaves.
    Node = 1,
}

/// What identifies a page besides its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageName {
    /// The pool.
    pub(crate) pool: Uuid,
    /// The line whose map it is part of.
    pub(crate) line: u64,
    /// The generation of the checkpoint that wrote it.
    pub(crate) generation: u64,
}

/// A reference to a page: the addresses from `first` up to the next reference's are its part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageRef {
    /// First address that belongs to it.
    pub(crate) first: u64,
    /// Where it is.
    pub(crate) location: Location,
    /// Its check.
    pub(crate) check: u64,
    /// Entries or references in it.
    pub(crate) count: u32,
}

impl PageRef {
    pub(crate) fn put(&self, w: &mut Writer) {
        w.u64(self.first).u64(self.location.0).u64(self.check).u32(self.count).u32(0);
    }

    pub(crate) fn take(r: &mut Reader<'_>) -> Option<PageRef> {
        let (first, location, check, count) = (r.u64()?, Location(r.u64()?), r.u64()?, r.u32()?);
        r.u32()?;
        Some(PageRef { first, location, check, count })
    }
}

fn header(w: &mut Writer, level: Level, count: usize, name: &PageName, first: u64) {
    let count = u16::try_from(count).expect("at most PAGE_SLOTS");
    w.bytes(MAGIC).u64(0).u16(u16::try_from(FORMAT_VERSION).expect("small")).u8(level as u8).u8(0);
    w.u16(count).u16(0).bytes(&name.pool.0).u64(name.line).u64(first);
    w.u64(name.generation);
    debug_assert_eq!(w.len(), HEADER_BYTES);
}

/// Encodes a leaf. Entries ascend by (address, seq) and lie less than 2^32 blocks above the first. The reference to it
/// lacks its location, which the caller fills in.
pub(crate) fn encode_leaf(entries: &[(u64, Entry)], name: &PageName, memory: Vec<u8>) -> (PageRef, Vec<u8>) {
    let first = entries.first().map_or(0, |e| e.0);
    let mut w = Writer::over(memory);
    header(&mut w, Level::Leaf, entries.len(), name, first);
    for (lba, e) in entries {
        let delta = u32::try_from(lba - first).expect("a leaf is split before it spans 2^32 blocks");
        w.u32(delta).u8(1).u8(e.form.0).u16(e.granules).u64(e.location.0).u64(e.seq).u64(e.check);
    }
    w.pad_to(PAGE_BYTES as usize);
    let check = seal(0, w.as_mut());
    let count = u32::try_from(entries.len()).expect("at most PAGE_SLOTS");
    (PageRef { first, location: Location(0), check, count }, w.finish())
}

/// Encodes a node. The reference to it lacks its location.
pub(crate) fn encode_node(refs: &[PageRef], name: &PageName, memory: Vec<u8>) -> (PageRef, Vec<u8>) {
    let first = refs.first().map_or(0, |e| e.first);
    let mut w = Writer::over(memory);
    header(&mut w, Level::Node, refs.len(), name, first);
    for r in refs {
        r.put(&mut w);
    }
    w.pad_to(PAGE_BYTES as usize);
    let check = seal(0, w.as_mut());
    let count = u32::try_from(refs.len()).expect("at most PAGE_SLOTS");
    (PageRef { first, location: Location(0), check, count }, w.finish())
}

/// A leaf whose check was verified, as the bytes that were read.
pub(crate) struct Leaf<'a> {
    first: u64,
    slots: &'a [u8],
}

impl<'a> Leaf<'a> {
    /// Wraps the bytes of a leaf that [`verify`] accepted.
    pub(crate) fn trusted(bytes: &'a [u8]) -> Leaf<'a> {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let count = usize::from(u16::from_le_bytes([bytes[20], bytes[21]])).min(PAGE_SLOTS);
        Leaf { first: word(48), slots: &bytes[HEADER_BYTES..HEADER_BYTES + count * SLOT_BYTES] }
    }

    fn lba(&self, index: usize) -> u64 {
        let at = index * SLOT_BYTES;
        let delta = u32::from_le_bytes(self.slots[at..at + 4].try_into().expect("4 bytes"));
        self.first.saturating_add(u64::from(delta))
    }

    /// Entries.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() / SLOT_BYTES
    }

    /// Entry number `index`.
    pub(crate) fn entry(&self, index: usize) -> (u64, Entry) {
        let s = &self.slots[index * SLOT_BYTES..(index + 1) * SLOT_BYTES];
        let word = |at: usize| u64::from_le_bytes(s[at..at + 8].try_into().expect("8 bytes"));
        let granules = u16::from_le_bytes([s[6], s[7]]);
        let (location, form) = (Location(word(8)), Form(s[5]));
        (self.lba(index), Entry { seq: word(16), location, check: word(24), granules, form })
    }

    /// Index of the first entry at or above `lba`.
    pub(crate) fn seek(&self, lba: u64) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.lba(middle) < lba { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// Entries from the first at or above `lba` on, in order.
    pub(crate) fn from(&'a self, lba: u64) -> impl Iterator<Item = (u64, Entry)> + 'a {
        (self.seek(lba)..self.len()).map(|i| self.entry(i))
    }
}

/// True when `bytes` are the page that `expected` names: right check, level, line and count, known version, sound slots.
pub(crate) fn verify(bytes: &[u8], level: Level, line: u64, expected: &PageRef) -> bool {
    if bytes.len() != PAGE_BYTES as usize || unseal(0, MAGIC, bytes) != Some(expected.check) {
        return false;
    }
    let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let sound = u32::from(half(16)) == FORMAT_VERSION
        && bytes[18] == level as u8
        && u32::from(half(20)) == expected.count
        && usize::from(half(20)) <= PAGE_SLOTS
        && word(40) == line;
    sound && (level == Level::Node || Leaf::trusted(bytes).slots.chunks_exact(SLOT_BYTES).all(|s| s[4] == 1))
}

/// The references of a node that [`verify`] accepted.
pub(crate) fn node_refs(bytes: &[u8]) -> Vec<PageRef> {
    let count = usize::from(u16::from_le_bytes([bytes[20], bytes[21]])).min(PAGE_SLOTS);
    let mut r = Reader::new(&bytes[HEADER_BYTES..]);
    (0..count).filter_map(|_| PageRef::take(&mut r)).collect()
}
