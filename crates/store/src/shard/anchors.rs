//! Which anchor of a shard is the newest, from all copies on all drives.
//!
//! A drive that gives an anchor has been in service since that one was written, since one that joins has none of before. So it has every
//! later one that was ever complete, and speaks for all if every slot of it could be read. Where no drive does, an anchor that can't be read
//! may be newer than all that can: believing an older one would void what was acknowledged, and undo for good what could still be
//! read another time.

use super::fetch::within;
use super::{Drives, Shared};
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
    let (drives, id, bound_ms) = {
        let s = shard.borrow();
        (s.drives.clone(), s.id, s.tuning.stuck_write_ms)
    };
    let (mut found, mut late) = (Vec::new(), Vec::new());
    for drive in drives.in_service() {
        let Some(file) = drives.file(drive) else { continue };
        let mut looking = Box::pin(look(&drives, exec, (drive, file), &id));
        match within(exec, bound_ms, &mut looking).await {
            Some(on_drive) => found.push(on_drive),
            None => late.push((drive, looking)),
        }
    }
    for (drive, looking) in late {
        // Nothing newer can be on it then.
        let known = found.iter().any(OnDrive::speaks);
        found.push(if known { OnDrive::unread(drive, "no answer") } else { looking.await });
    }
    found.retain(|on_drive| drives.counts(on_drive.0));
    weigh(&found, &id)
}

/// Reads the copies on one drive.
async fn look(drives: &Drives, exec: &Handle, (drive, file): (u16, FileId), id: &LogIdentity) -> OnDrive {
    let mut on_drive = OnDrive::unread(drive, "not read");
    for (slot, copies) in (0u64..).zip(&mut on_drive.1) {
        for (copy, found) in (0u64..).zip(copies) {
            let mut buf = exec.alloc(ANCHOR_BYTES).await;
            buf.set_len(ANCHOR_BYTES);
            let place = (drive, file, anchor_offset(id.shard, slot, copy));
            *found = match drives.read_again(exec, place, buf).await {
                Ok(buf) => found_in(&buf, id),
                Err(reason) => Found::Unread(reason),
            };
        }
    }
    on_drive
}

fn found_in(bytes: &[u8], id: &LogIdentity) -> Found {
    if bytes.iter().all(|&b| b == 0) {
        return Found::Zeros;
    }
    let anchor = Anchor::decode(bytes).filter(|a| a.pool == id.pool && a.shard == id.shard);
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
    /// Of a drive of which nothing is known, for this reason.
    fn unread(drive: u16, reason: &str) -> OnDrive {
        OnDrive(drive, std::array::from_fn(|_| std::array::from_fn(|_| Found::Unread(reason.into()))))
    }

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
