//! A page of a line's map: a leaf of entries, or a node of references to pages (`docs/format/page.md`). 4 KiB each.

use crate::bytes::{Reader, Writer};
use crate::check::{seal, unseal};
use crate::format::{FORMAT_VERSION, PAGE_BYTES};
use crate::location::Location;
use crate::map::{Entry, Version};
use crate::stored::Form;
use dolmen_types::Uuid;

/// Slots of a leaf at most.
pub(crate) const PAGE_SLOTS: usize = 126;
/// References of a node at most.
pub(crate) const NODE_SLOTS: usize = 100;

const MAGIC: &[u8; 8] = b"dolmPAGE";
/// Bytes of a page before its slots.
pub(crate) const HEADER_BYTES: usize = 64;
pub(crate) const SLOT_BYTES: usize = 32;
const REF_BYTES: usize = 40;

const _: () = assert!(HEADER_BYTES + PAGE_SLOTS * SLOT_BYTES == PAGE_BYTES as usize);
const _: () = assert!(HEADER_BYTES + NODE_SLOTS * REF_BYTES <= PAGE_BYTES as usize);

/// Kind of a slot that names a stored block.
const STORED: u8 = 1;
/// Kind of a slot that says that blocks have no contents.
const HOLE: u8 = 4;
/// Kind of a slot that says that what blocks held is lost.
const LOST: u8 = 5;

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

/// A reference to a page: the slots from its first one up to that of the next reference are its part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageRef {
    /// Address of its first slot.
    pub(crate) first: u64,
    /// Sequence number of its first slot.
    pub(crate) seq: u64,
    /// Where it is.
    pub(crate) location: Location,
    /// Its check.
    pub(crate) check: u64,
    /// Slots or references in it.
    pub(crate) count: u16,
    /// What a leaf holds; 0 for a node.
    pub(crate) flags: u16,
}

impl PageRef {
    /// Flag: some block may have several versions there, or holes.
    pub(crate) const HISTORY: u16 = 1;
    /// Flag: there are holes, or blocks that are lost.
    pub(crate) const HOLES: u16 = 2;

    pub(crate) fn put(&self, w: &mut Writer) {
        w.u64(self.first).u64(self.seq).u64(self.location.0).u64(self.check);
        w.u16(self.count).u16(self.flags).u32(0);
    }

    pub(crate) fn take(r: &mut Reader<'_>) -> Option<PageRef> {
        let (first, seq, location, check) = (r.u64()?, r.u64()?, Location(r.u64()?), r.u64()?);
        let (count, flags) = (r.u16()?, r.u16()?);
        r.u32()?;
        Some(PageRef { first, seq, location, check, count, flags })
    }
}

fn header(w: &mut Writer, level: Level, count: usize, name: &PageName, first: u64) {
    let count = u16::try_from(count).expect("at most PAGE_SLOTS");
    w.bytes(MAGIC).u64(0).u16(u16::try_from(FORMAT_VERSION).expect("small")).u8(level as u8).u8(0);
    w.u16(count).u16(0).bytes(&name.pool.0).u64(name.line).u64(first);
    w.u64(name.generation);
    debug_assert_eq!(w.len(), HEADER_BYTES);
}

/// Encodes a leaf. Slots ascend by (address, seq) and begin less than 2^32 blocks above the first. The reference to it
/// lacks its location, which the caller fills in.
pub(crate) fn encode_leaf(
    slots: &[(u64, Version)],
    flags: u16,
    name: &PageName,
    memory: Vec<u8>,
) -> (PageRef, Vec<u8>) {
    let (first, seq) = slots.first().map_or((0, 0), |(lba, v)| (*lba, v.seq()));
    let mut w = Writer::over(memory);
    header(&mut w, Level::Leaf, slots.len(), name, first);
    for (lba, version) in slots {
        let delta = u32::try_from(lba - first).expect("a leaf is split before it spans 2^32 blocks");
        let (kind, form, granules, words) = match version {
            Version::Stored(e) => (STORED, e.form.0, e.granules, [e.location.0, e.seq, e.check]),
            Version::Hole { seq, blocks } => (HOLE, 0, 0, [*blocks, *seq, 0]),
            Version::Lost { until, blocks } => (LOST, 0, 0, [*blocks, 0, *until]),
        };
        let mut slot = [0; SLOT_BYTES];
        slot[..4].copy_from_slice(&delta.to_le_bytes());
        (slot[4], slot[5]) = (kind, form);
        slot[6..8].copy_from_slice(&granules.to_le_bytes());
        for (place, word) in slot[8..].as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *place = word.to_le_bytes();
        }
        w.bytes(&slot);
    }
    w.pad_to(PAGE_BYTES as usize);
    let check = seal(0, w.as_mut());
    let count = u16::try_from(slots.len()).expect("at most PAGE_SLOTS");
    (PageRef { first, seq, location: Location(0), check, count, flags }, w.finish())
}

/// Encodes a node. The reference to it lacks its location.
pub(crate) fn encode_node(refs: &[PageRef], name: &PageName, memory: Vec<u8>) -> (PageRef, Vec<u8>) {
    let (first, seq) = refs.first().map_or((0, 0), |r| (r.first, r.seq));
    let mut w = Writer::over(memory);
    header(&mut w, Level::Node, refs.len(), name, first);
    for r in refs {
        r.put(&mut w);
    }
    w.pad_to(PAGE_BYTES as usize);
    let check = seal(0, w.as_mut());
    let count = u16::try_from(refs.len()).expect("at most NODE_SLOTS");
    (PageRef { first, seq, location: Location(0), check, count, flags: 0 }, w.finish())
}

/// A leaf whose check was verified, as the bytes that were read.
#[derive(Clone, Copy)]
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

    fn word(&self, index: usize, at: usize) -> u64 {
        let at = index * SLOT_BYTES + at;
        u64::from_le_bytes(self.slots[at..at + 8].try_into().expect("8 bytes"))
    }

    fn key(&self, index: usize) -> (u64, u64) {
        (self.lba(index), self.word(index, 16))
    }

    /// Slots.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() / SLOT_BYTES
    }

    /// Slot number `index`.
    pub(crate) fn slot(&self, index: usize) -> (u64, Version) {
        let s = &self.slots[index * SLOT_BYTES..(index + 1) * SLOT_BYTES];
        let seq = self.word(index, 16);
        let version = match s[4] {
            HOLE => Version::Hole { seq, blocks: self.word(index, 8) },
            LOST => Version::Lost { until: self.word(index, 24), blocks: self.word(index, 8) },
            _ => {
                let granules = u16::from_le_bytes([s[6], s[7]]);
                let (location, check) = (Location(self.word(index, 8)), self.word(index, 24));
                Version::Stored(Entry { seq, location, check, granules, form: Form(s[5]) })
            }
        };
        (self.lba(index), version)
    }

    /// Index of the first slot that is not below (`lba`, `seq`).
    pub(crate) fn seek(&self, lba: u64, seq: u64) -> usize {
        // Addresses ascend, and mostly one by one: a slot lies at its distance from the first address, or before that when some
        // are missing.
        let (mut low, mut high) = (0, self.len());
        let guess = usize::try_from(lba.saturating_sub(self.first)).unwrap_or(usize::MAX);
        if guess < high && self.lba(guess) == lba && (guess == 0 || self.lba(guess - 1) < lba) {
            (low, high) = (guess, if self.key(guess) < (lba, seq) { high } else { guess });
        }
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.key(middle) < (lba, seq) { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// Slots from number `index` on, in order.
    pub(crate) fn from(&self, index: usize) -> impl Iterator<Item = (u64, Version)> + Clone + use<'a> {
        let leaf = Leaf { first: self.first, slots: self.slots };
        (index..self.len()).map(move |i| leaf.slot(i))
    }

    /// All slots.
    pub(crate) fn slots(&self) -> impl Iterator<Item = (u64, Version)> + Clone + use<'a> {
        self.from(0)
    }

    /// The ranges of which nobody knows what they hold: first block, and how many.
    pub(crate) fn lost(&self) -> Vec<(u64, u64)> {
        let lost = self.slots().filter_map(|(lba, version)| match version {
            Version::Lost { blocks, .. } => Some((lba, blocks)),
            _ => None,
        });
        lost.collect()
    }
}

/// The bytes of a slot and of the one before it.
pub(crate) fn slots_near(page: &[u8], slot: usize) -> &[u8] {
    let slot = slot.min(PAGE_SLOTS - 1);
    let (from, to) = (slot.saturating_sub(1), slot + 1);
    &page[HEADER_BYTES + from * SLOT_BYTES..HEADER_BYTES + to * SLOT_BYTES]
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
        && half(20) == expected.count
        && usize::from(half(20)) <= if level == Level::Leaf { PAGE_SLOTS } else { NODE_SLOTS }
        && word(40) == line;
    let known = |s: &[u8]| matches!(s[4], STORED | HOLE | LOST);
    sound && (level == Level::Node || Leaf::trusted(bytes).slots.chunks_exact(SLOT_BYTES).all(known))
}

/// The references of a node that [`verify`] accepted.
pub(crate) fn node_refs(bytes: &[u8]) -> Vec<PageRef> {
    let count = usize::from(u16::from_le_bytes([bytes[20], bytes[21]]));
    let mut r = Reader::new(&bytes[HEADER_BYTES..]);
    (0..count.min(NODE_SLOTS)).filter_map(|_| PageRef::take(&mut r)).collect()
}
