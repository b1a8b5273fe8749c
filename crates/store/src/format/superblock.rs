//! The superblock: what a drive is, of which pool, and who its sisters are (`docs/format/superblock.md`).

use crate::bytes::{Reader, Writer};
use crate::check::{seal, unseal};
use crate::columns::MAX_PARITY;
use dolmen_types::Uuid;

/// Version of a pool as a whole: what its superblocks say. 1 was never released: labels of 1 MiB, later of 4 MiB, and several forms of
/// what lies behind them.
pub(crate) const POOL_VERSION: u32 = 2;
/// Bytes of one superblock slot; the two slots lie one behind the other at the start of the drive.
pub(crate) const SUPERBLOCK_BYTES: usize = 16 * 1024;
/// Slots that are written alternately.
pub(crate) const SUPERBLOCK_SLOTS: u64 = 2;
/// Drives of a pool at most.
pub(crate) const MAX_DRIVES: usize = 64;
/// Shards of a pool at most.
pub(crate) const MAX_SHARDS: u16 = 16;

/// First bytes of a superblock.
pub(crate) const MAGIC: &[u8; 8] = b"dolmSUPR";
/// No version will ever be as high: this one is damage.
const MAX_VERSION: u32 = 1000;
const TABLE_AT: usize = 256;
const ENTRY_BYTES: usize = 192;
const SERIAL_BYTES: usize = 40;
const PATH_BYTES: usize = 128;
/// Bit of a drive's flags: it joined since there is a deficit.
const FRESH: u8 = 1;

const _: () = assert!(TABLE_AT + MAX_DRIVES * ENTRY_BYTES <= SUPERBLOCK_BYTES);

/// Where a drive of the pool stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriveState {
    /// In service: every commit has its column there.
    #[default]
    In = 0,
    /// Failed or absent: nothing on it counts, and it is neither read nor written.
    Out = 1,
    /// In service, and being emptied so that it can be taken away.
    Leaving = 2,
    /// Nobody any more: the place in the table is free.
    Gone = 3,
}

impl DriveState {
    fn from_number(n: u8) -> Option<DriveState> {
        [DriveState::In, DriveState::Out, DriveState::Leaving, DriveState::Gone]
            .into_iter()
            .find(|&s| s as u8 == n)
    }

    /// Commits have their columns there.
    pub(crate) fn counts(self) -> bool {
        matches!(self, DriveState::In | DriveState::Leaving)
    }
}

/// A drive of the pool, as every superblock of the pool knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DriveEntry {
    /// Identity.
    pub(crate) uuid: Uuid,
    /// Units on it.
    pub(crate) units: u32,
    /// Where it stands.
    pub(crate) state: DriveState,
    /// It joined since there is a deficit: whatever has a column there has all its parity.
    pub(crate) fresh: bool,
    /// Serial number, cut to 40 bytes; empty when unknown.
    pub(crate) serial: String,
    /// Path at the last opening, cut to its last 128 bytes.
    pub(crate) path: String,
}

impl DriveEntry {
    /// True when the operator knew this drive under that path, or it tells that serial number.
    pub(crate) fn is_known_as(&self, path: &str, serial: Option<&str>) -> bool {
        self.path.as_bytes() == tail(path, PATH_BYTES)
            || serial.is_some_and(|s| !s.is_empty() && self.serial.as_bytes() == head(s, SERIAL_BYTES))
    }
}

/// What a superblock says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    /// Grows with every writing; the higher one of a drive's two slots counts.
    pub(crate) sequence: u64,
    /// The pool.
    pub(crate) pool: Uuid,
    /// This drive's place in `drives`.
    pub(crate) index: u16,
    /// Generation of the pool's opening.
    pub(crate) incarnation: u64,
    /// Shards of the pool.
    pub(crate) shards: u16,
    /// Parity columns of a segment, and so drives that may be lost at a time: 0 to 2, for the pool's life.
    pub(crate) parity: u8,
    /// Of these, how many can't be lost now, since losses before are not made good: 0 to `parity` (`redundancy.rs`).
    pub(crate) deficit: u8,
    /// Bytes of a unit.
    pub(crate) unit_bytes: u32,
    /// All drives of the pool.
    pub(crate) drives: Vec<DriveEntry>,
}

/// Why bytes are not a superblock that we can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotOurs {
    /// No magic of ours.
    Unknown,
    /// Our magic, but the check or a bound does not hold.
    Damaged,
    /// Of a version that this program does not know, or does not any more, under a check that holds.
    Version(u32),
    /// It says that it is of such a version, and its check does not hold, or is made in another way there.
    Unsure(u32),
}

impl Superblock {
    /// The slot's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let me = &self.drives[usize::from(self.index)];
        let mut w = Writer::default();
        w.bytes(MAGIC).u64(0).u32(POOL_VERSION).u32(0).u64(self.sequence);
        w.bytes(&self.pool.0).bytes(&me.uuid.0).u64(self.incarnation);
        w.u16(self.index).u16(u16::try_from(self.drives.len()).expect("at most MAX_DRIVES"));
        w.u16(self.shards).u8(self.parity).u8(self.deficit).u32(self.unit_bytes);
        w.pad_to(TABLE_AT);
        for (i, drive) in self.drives.iter().enumerate() {
            w.bytes(&drive.uuid.0).u32(drive.units).u8(drive.state as u8);
            w.u8(if drive.fresh { FRESH } else { 0 }).u16(0);
            w.bytes(head(&drive.serial, SERIAL_BYTES)).pad_to(TABLE_AT + i * ENTRY_BYTES + 24 + SERIAL_BYTES);
            w.bytes(tail(&drive.path, PATH_BYTES)).pad_to(TABLE_AT + (i + 1) * ENTRY_BYTES);
        }
        w.pad_to(SUPERBLOCK_BYTES);
        seal(0, w.as_mut());
        w.finish()
    }

    /// What the slot's bytes say.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Superblock, NotOurs> {
        if bytes.len() != SUPERBLOCK_BYTES || !bytes.starts_with(MAGIC) {
            return Err(NotOurs::Unknown);
        }
        let mut r = Reader::new(&bytes[16..]);
        let (version, holds) = (r.u32().unwrap_or(0), unseal(0, MAGIC, bytes).is_some());
        match (version, holds) {
            (POOL_VERSION, true) => {}
            (POOL_VERSION, false) | (0 | MAX_VERSION.., _) => return Err(NotOurs::Damaged),
            (version, true) => return Err(NotOurs::Version(version)),
            (version, false) => return Err(NotOurs::Unsure(version)),
        }
        decode_fields(&mut r, bytes).filter(Superblock::is_sound).ok_or(NotOurs::Damaged)
    }

    fn is_sound(&self) -> bool {
        usize::from(self.index) < self.drives.len()
            && (1..=MAX_SHARDS).contains(&self.shards)
            && self.unit_bytes.is_power_of_two()
            && self.unit_bytes >= super::MIN_UNIT_BYTES
            && self.unit_bytes <= super::MAX_UNIT_BYTES
            && usize::from(self.parity) <= MAX_PARITY
            && self.deficit <= self.parity
    }
}

fn decode_fields(r: &mut Reader<'_>, bytes: &[u8]) -> Option<Superblock> {
    r.u32()?;
    let sequence = r.u64()?;
    let pool = Uuid(r.array()?);
    let uuid = Uuid(r.array()?);
    let incarnation = r.u64()?;
    let (index, count, shards) = (r.u16()?, usize::from(r.u16()?), r.u16()?);
    let (parity, deficit) = (r.u8()?, r.u8()?);
    let unit_bytes = r.u32()?;
    if count == 0 || count > MAX_DRIVES {
        return None;
    }
    let mut drives = Vec::with_capacity(count);
    for entry in bytes[TABLE_AT..].chunks_exact(ENTRY_BYTES).take(count) {
        let mut r = Reader::new(entry);
        let (uuid, units, state) = (Uuid(r.array()?), r.u32()?, DriveState::from_number(r.u8()?)?);
        let fresh = r.u8()? & FRESH != 0;
        r.take(2)?;
        drives.push(DriveEntry {
            uuid,
            units,
            state,
            fresh,
            serial: text(r.take(SERIAL_BYTES)?),
            path: text(r.take(PATH_BYTES)?),
        });
    }
    let sound = drives.get(usize::from(index)).is_some_and(|d| d.uuid == uuid);
    let block =
        Superblock { sequence, pool, index, incarnation, shards, parity, deficit, unit_bytes, drives };
    sound.then_some(block)
}

fn head(text: &str, max: usize) -> &[u8] {
    &text.as_bytes()[..text.floor_char_boundary(max)]
}

fn tail(text: &str, max: usize) -> &[u8] {
    let from = text.len().saturating_sub(max);
    &text.as_bytes()[text.ceil_char_boundary(from)..]
}

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}
