//! Which anchor of a shard is the newest, from all copies on all drives.
//!
//! A drive that gives an anchor has been in service since that one was written, since one that joins has none of before. So it has every
//! later one that was ever complete, and speaks for all if every slot of it could be read. Where no drive does, an anchor that can't be read
//! may be newer than all that can: believing an older one would void what was acknowledged, and undo for good what could still be
//! read another time.

use super::Shared;
use super::fetch::read_again;
use crate::StoreError;
use crate::format::anchor::{ANCHOR_BYTES, ANCHOR_COPIES, ANCHOR_SLOTS, Anchor, anchor_offset};
use crate::format::commit::LogIdentity;
use dolmen_io::FileId;
use dolmen_io::exec::Handle;

/// One copy, as it was found.
#[derive(Clone, Debug)]
enum Found {
    /// Nothing was ever written there.
    Zeros,
    Holds(Box<Anchor>),
    /// Torn, rotten, or something else.
    Wrong,
    /// What the drive said.
    Unread(String),
}

const _: () = assert!(ANCHOR_SLOTS == 2 && ANCHOR_COPIES == 2);

/// The copies of one slot.
type Copies = [Found; 2];

/// The copies on one drive, slot by slot.
struct OnDrive(u16, [Copies; 2]);

/// The newest anchor.
pub(super) struct Newest {
    pub(super) anchor: Anchor,
    /// Drives in service, and copies of it that they lack: none, if it was complete and nothing happened since.
    pub(super) lacking: Vec<(u16, u64)>,
}

/// The newest anchor of this shard on any drive. `None` for a shard that never served.
pub(super) async fn newest(shard: &Shared, exec: &Handle) -> Result<Option<Newest>, StoreError> {
    let (drives, id) = {
        let s = shard.borrow();
        (s.drives.clone(), s.id)
    };
    let mut found = Vec::new();
    for drive in drives.in_service() {
        let Some(file) = drives.file(drive) else { continue };
        let mut on_drive = OnDrive(drive, std::array::from_fn(|_| [Found::Wrong, Found::Wrong]));
        for (slot, copies) in (0u64..).zip(&mut on_drive.1) {
            for (copy, found) in (0u64..).zip(copies) {
                *found = look(exec, file, &id, anchor_offset(id.shard, slot, copy)).await;
            }
        }
        found.push(on_drive);
    }
    weigh(&found, &id)
}

/// Reads one copy.
async fn look(exec: &Handle, file: FileId, id: &LogIdentity, offset: u64) -> Found {
    let mut buf = exec.alloc(ANCHOR_BYTES).await;
    buf.set_len(ANCHOR_BYTES);
    let buf = match read_again(exec, file, offset, buf).await {
        Ok(buf) => buf,
        Err(reason) => return Found::Unread(reason),
    };
    if buf.iter().all(|&b| b == 0) {
        return Found::Zeros;
    }
    let anchor = Anchor::decode(&buf).filter(|a| a.pool == id.pool && a.shard == id.shard);
    anchor.map_or(Found::Wrong, |anchor| Found::Holds(Box::new(anchor)))
}

/// Which one counts.
fn weigh(found: &[OnDrive], id: &LogIdentity) -> Result<Option<Newest>, StoreError> {
    let newest = found.iter().flat_map(OnDrive::anchors).max_by_key(|a| a.generation);
    if let Some(reason) = found.iter().find_map(OnDrive::hides)
        && !found.iter().any(OnDrive::speaks)
    {
        return Err(StoreError::Medium { reason: format!("an anchor of shard {}: {reason}", id.shard) });
    }
    let Some(newest) = newest else {
        let untouched = found.iter().all(OnDrive::is_untouched);
        let why = format!(
            "no anchor of shard {} checks, on any drive: its checkpoint cannot be found; nothing was changed",
            id.shard
        );
        return if untouched { Ok(None) } else { Err(StoreError::Corrupt(why)) };
    };
    let lacking = found.iter().flat_map(|drive| drive.lacks(newest.generation)).collect();
    Ok(Some(Newest { anchor: newest.clone(), lacking }))
}

impl OnDrive {
    fn anchors(&self) -> impl Iterator<Item = &Anchor> {
        self.1.iter().flatten().filter_map(|found| match found {
            Found::Holds(anchor) => Some(&**anchor),
            _ => None,
        })
    }

    /// The slots of which nobody knows what they hold. One copy is enough to know: they are written one after the other.
    fn silent(&self) -> impl Iterator<Item = &Copies> {
        let tells = |found: &Found| matches!(found, Found::Zeros | Found::Holds(_));
        self.1.iter().filter(move |slot| !slot.iter().any(tells))
    }

    /// True when the drive has every anchor that was ever complete.
    fn speaks(&self) -> bool {
        self.silent().next().is_none() && self.anchors().next().is_some()
    }

    /// What it said of a slot that could hold another one.
    fn hides(&self) -> Option<&str> {
        self.silent().flatten().find_map(|found| match found {
            Found::Unread(reason) => Some(reason.as_str()),
            _ => None,
        })
    }

    /// True when no writing of an anchor ever ended here. The very first one (generation 1, slot 1) may have been torn in its first copy,
    /// nothing else.
    fn is_untouched(&self) -> bool {
        let [slot_0, [first, second]] = &self.1;
        let rest = slot_0.iter().chain([second]).all(|found| !matches!(found, Found::Wrong));
        rest && !matches!(first, Found::Holds(_))
    }

    /// The copies of that anchor which the drive does not have.
    fn lacks(&self, generation: u64) -> impl Iterator<Item = (u16, u64)> {
        let OnDrive(drive, slots) = self;
        let is = move |found: &Found| matches!(found, Found::Holds(a) if a.generation == generation);
        let slot = &slots[usize::from(generation % ANCHOR_SLOTS == 1)];
        (0u64..).zip(slot).filter(move |(_, found)| !is(found)).map(|(copy, _)| (*drive, copy))
    }
}
