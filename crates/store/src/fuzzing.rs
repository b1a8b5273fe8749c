//! What fuzz targets call: every decoder of bytes that a drive feeds. Bytes get the right magic and check first, so that what
//! lies behind these is reached: a drive may hold anything, and so may a drive that an enemy prepared.
//!
//! Compiled for tests and fuzzing only.

use crate::check::seal;
use crate::format::commit::{self, LogIdentity, LogRecord, MAX_HEADER_BYTES};
use crate::format::keys::KeyPage;
use crate::format::page::{self, Leaf, Level, PageRef};
use crate::format::superblock::{SUPERBLOCK_BYTES, Superblock};
use crate::format::{PAGE_BYTES, anchor::ANCHOR_BYTES, segment::SEGMENT_HEADER_BYTES};
use crate::format::{anchor, anchor::Anchor, body::Body, segment::SegmentHeader, segment::Stream};
use crate::location::Location;
use crate::stored::{BlockVersion, Form, Forms};
use crate::{DataKey, Keyring};
use dolmen_types::limits::BLOCK_BYTES;
use dolmen_types::{LineId, ShardId, Uuid};

const PAGE: usize = PAGE_BYTES as usize;

/// A structure of `len` bytes with this magic, the rest from `data` (from byte 16 on), sealed.
fn sealed(magic: &[u8; 8], data: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    bytes[..8].copy_from_slice(magic);
    let n = data.len().min(len - 16);
    bytes[16..16 + n].copy_from_slice(&data[..n]);
    seal(0, &mut bytes);
    bytes
}

/// Decodes `data` as the structure that its first byte chooses, and uses what comes out as the store does.
///
/// # Panics
/// When a decoder is wrong: what it yields must be encodable, and decode to itself.
pub fn structure(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else { return };
    match choice % 11 {
        0 => superblock(data),
        1 => {
            if let Some(anchor) = Anchor::decode(&sealed(b"dolmANCH", data, ANCHOR_BYTES)) {
                assert_eq!(Anchor::decode(&anchor.encode()), Some(anchor));
            }
        }
        2 => {
            let bytes = sealed(b"dolmSEGM", data, SEGMENT_HEADER_BYTES as usize);
            if let Some(header) = SegmentHeader::decode(&bytes) {
                assert_eq!(SegmentHeader::decode(&header.encode()), Some(header));
            }
        }
        3 => commit(data),
        4 => leaf(data),
        5 => node(data),
        6 => body(data),
        7 => {
            let bytes = sealed(b"dolmKEYS", data, PAGE);
            let pool = Uuid(bytes[24..40].try_into().expect("16 bytes"));
            if let Some(page) = KeyPage::decode(&bytes, pool, 0) {
                assert_eq!(KeyPage::decode(&page.encode(), pool, 0), Some(page));
            }
        }
        8 => stored_form(data),
        9 => {
            if let Some(chunks) = anchor::decode_list(data) {
                assert_eq!(anchor::decode_list(&anchor::encode_list(chunks.iter())), Some(chunks));
            }
        }
        _ => {
            let (first, last) = data.split_at(data.len() / 2);
            assert!(!crate::pool::signature::name(first, last).is_empty());
        }
    }
}

/// Stored bytes of any form, as if they had checked.
fn stored_form(data: &[u8]) {
    let Some((&form, stored)) = data.split_first() else { return };
    let mut keyring = Keyring::default();
    keyring.insert(LineId(1), DataKey::new([7; 32]));
    let version = BlockVersion { line: 1, lba: 2, seq: 3 };
    Forms::new(keyring).undo(Form(form), version, stored, &mut [0; BLOCK_BYTES]);
}

/// Lossy texts and lists in front of their tables included.
fn superblock(data: &[u8]) {
    if let Ok(superblock) = Superblock::decode(&sealed(b"dolmSUPR", data, SUPERBLOCK_BYTES)) {
        let again = Superblock::decode(&superblock.encode()).expect("what decodes can be written again");
        assert_eq!((again.index, again.drives.len()), (superblock.index, superblock.drives.len()));
    }
}

/// A commit header, made one of the log that it names, and its records.
fn commit(data: &[u8]) {
    let len = (data.len() + 16).next_multiple_of(PAGE).min(MAX_HEADER_BYTES);
    let mut bytes = sealed(b"dolmCOMT", data, len);
    let _ = commit::claimed_len(&bytes);
    bytes[16..20].copy_from_slice(&u32::try_from(len).expect("at most 64 KiB").to_le_bytes());
    seal(0, &mut bytes);
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let half = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
    let id = LogIdentity {
        pool: Uuid(bytes[24..40].try_into().expect("16 bytes")),
        shard: ShardId(u16::from_le_bytes([bytes[40], bytes[41]])),
        incarnation: word(80),
        salt: 0,
    };
    let Some(stream) = Stream::from_number(bytes[42]) else { return };
    let Some(header) = commit::decode(&bytes, &id, (stream, word(96)), half(48), 1 << 26) else { return };
    assert!(header.end() <= 1 << 26);
    for record in commit::records(&bytes, &header).flatten() {
        if let LogRecord::Write { lba, blocks, .. } = record {
            assert!(lba.checked_add(blocks.len() as u64).is_some());
            assert_eq!(blocks.iter().count(), blocks.len());
            let columns = usize::from(header.place.data);
            assert!(blocks.iter().all(|b| header.location(b.at).place(1 << 26).0 < columns));
        }
    }
}

/// A page and the reference that names it.
fn named(data: &[u8], level: Level) -> (Vec<u8>, u64, PageRef) {
    let mut bytes = sealed(b"dolmPAGE", data, PAGE);
    bytes[18] = level as u8;
    let check = seal(0, &mut bytes);
    let line = u64::from_le_bytes(bytes[40..48].try_into().expect("8 bytes"));
    let count = u16::from_le_bytes([bytes[20], bytes[21]]);
    (bytes, line, PageRef { first: 0, seq: 0, location: Location(0), check, count, flags: 0 })
}

fn leaf(data: &[u8]) {
    let (bytes, line, name) = named(data, Level::Leaf);
    if !page::verify(&bytes, Level::Leaf, line, &name) {
        return;
    }
    let leaf = Leaf::trusted(&bytes);
    assert_eq!(leaf.len(), usize::from(name.count));
    for lba in [0, line, u64::MAX] {
        let from = leaf.seek(lba, line);
        assert!(leaf.from(from).count() == leaf.len() - from);
    }
    assert_eq!(leaf.slots().count(), leaf.len());
}

fn node(data: &[u8]) {
    let (bytes, line, name) = named(data, Level::Node);
    if page::verify(&bytes, Level::Node, line, &name) {
        assert_eq!(page::node_refs(&bytes).len(), usize::from(name.count));
    }
}

fn body(data: &[u8]) {
    let bytes = [b"dolmCKPT".as_slice(), data].concat();
    if let Some(body) = Body::decode(&bytes) {
        let rows =
            body.segments.len() + body.lost.len() + body.lines.len() + body.marks.len() + body.objects.len();
        assert!(rows * 16 <= bytes.len(), "more rows than the bytes can hold");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::Writer;
    use crate::format::FORMAT_VERSION;
    use dolmen_sim::Rng;

    /// Noise, after a head that looks right often enough to get beyond the first checks.
    #[test]
    fn no_bytes_of_a_drive_make_a_decoder_panic() {
        let mut rng = Rng::new(7);
        for round in 0..4000u32 {
            let mut data = vec![0; rng.index(9000)];
            rng.fill(&mut data);
            if rng.index(2) == 0 {
                // Small numbers where counts, kinds and tags are.
                data.iter_mut().for_each(|b| *b = if *b < 200 { *b % 4 } else { *b });
            }
            let mut head = Writer::default();
            head.u8(u8::try_from(round % 11).unwrap());
            head.u32(FORMAT_VERSION).bytes(&data);
            structure(&head.finish());
        }
        structure(&[]);
    }
}
