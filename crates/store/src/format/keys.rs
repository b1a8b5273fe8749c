//! A page of the key table: wrapped keys of lines, and by which cluster key they are wrapped (`docs/format/keys.md`).

use crate::bytes::{Reader, Writer};
use crate::check::{seal, unseal};
use crate::format::anchor::ANCHORS_END;
use crate::format::{FORMAT_VERSION, LABEL_BYTES, PAGE_BYTES};
use dolmen_types::limits::MAX_VOLUMES;
use dolmen_types::{PgId, Uuid};

/// Pages of the table, each in as many copies on every drive.
pub(crate) const KEY_PAGES: u16 = 440;
/// Copies of each page on a drive.
pub(crate) const KEY_COPIES: u64 = 2;
/// Keys of a page.
pub(crate) const PAGE_KEYS: usize = 63;
/// Bytes of a wrapped key.
pub(crate) const WRAPPED_KEY_BYTES: usize = 40;

const MAGIC: &[u8; 8] = b"dolmKEYS";
const ENTRIES_AT: usize = 64;
const ENTRY_BYTES: usize = 64;

const _: () = assert!(ENTRIES_AT + PAGE_KEYS * ENTRY_BYTES == PAGE_BYTES as usize);
// Volumes that were rolled back, or deleted while snapshots of them stay, have lines beside the one that counts.
const _: () = assert!(KEY_PAGES as usize * PAGE_KEYS > MAX_VOLUMES as usize * 3 / 2);
const _: () = assert!(ANCHORS_END + KEY_COPIES * KEY_PAGES as u64 * PAGE_BYTES as u64 <= LABEL_BYTES);

/// Where a copy of a page lies on every drive.
pub(crate) fn key_offset(page: u16, copy: u64) -> u64 {
    ANCHORS_END + (copy * u64::from(KEY_PAGES) + u64::from(page)) * u64::from(PAGE_BYTES)
}

/// A key in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeySlot {
    /// The line that it is the key of.
    pub(crate) line: u64,
    /// The protection group that orders the line.
    pub(crate) pg: PgId,
    /// Its wrapped form.
    pub(crate) wrapped: [u8; WRAPPED_KEY_BYTES],
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyPage {
    pub(crate) pool: Uuid,
    /// Its place in the table.
    pub(crate) index: u16,
    /// Grows with every writing.
    pub(crate) sequence: u64,
    /// The cluster key that wraps all keys of the page; zeros while there are none.
    pub(crate) cluster_key: [u8; 16],
    /// `None` for a free place.
    pub(crate) keys: Vec<Option<KeySlot>>,
}

impl KeyPage {
    /// A page without keys that was never written.
    pub(crate) fn empty(pool: Uuid, index: u16) -> KeyPage {
        KeyPage { pool, index, sequence: 0, cluster_key: [0; 16], keys: vec![None; PAGE_KEYS] }
    }

    /// Keys in it.
    pub(crate) fn count(&self) -> usize {
        self.keys.iter().flatten().count()
    }

    /// The page's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.bytes(MAGIC).u64(0).u32(FORMAT_VERSION).u16(self.index).u16(0).bytes(&self.pool.0);
        w.u64(self.sequence).bytes(&self.cluster_key);
        debug_assert_eq!(w.len(), ENTRIES_AT);
        for (key, place) in self.keys.iter().zip(0..) {
            if let Some(key) = key {
                w.u64(key.line).u32(key.pg.0).u32(1).bytes(&key.wrapped);
            }
            w.pad_to(ENTRIES_AT + (place + 1) * ENTRY_BYTES);
        }
        seal(0, w.as_mut());
        w.finish()
    }

    /// What the bytes say, when they are page `index` of this pool's table.
    pub(crate) fn decode(bytes: &[u8], pool: Uuid, index: u16) -> Option<KeyPage> {
        if bytes.len() != PAGE_BYTES as usize {
            return None;
        }
        unseal(0, MAGIC, bytes)?;
        let mut r = Reader::new(&bytes[16..]);
        let (version, own_index) = (r.u32()?, r.u16()?);
        r.u16()?;
        let own_pool = Uuid(r.array()?);
        if (version, own_index, own_pool) != (FORMAT_VERSION, index, pool) {
            return None;
        }
        let mut page = KeyPage { sequence: r.u64()?, cluster_key: r.array()?, ..KeyPage::empty(pool, index) };
        for (key, bytes) in page.keys.iter_mut().zip(bytes[ENTRIES_AT..].chunks_exact(ENTRY_BYTES)) {
            let mut r = Reader::new(bytes);
            let (line, pg, used) = (r.u64()?, PgId(r.u32()?), r.u32()?);
            if used == 1 {
                *key = Some(KeySlot { line, pg, wrapped: r.array()? });
            }
        }
        Some(page)
    }
}
