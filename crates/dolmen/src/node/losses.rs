//! Names for what the store says is lost: a line and a point of it are a volume or a snapshot to users.

use crate::node::router::Node;
use dolmen_cluster::plane::{LostBlocks, LostObject};
use dolmen_core::report::CoreReport;
use dolmen_store::{LostCause, LostRange};
use dolmen_types::{
    LineId, Seq, Uuid, limits::BLOCK_BYTES, snapshot::SnapshotDescriptor, volume::VolumeDescriptor,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError},
};

/// The volumes and snapshots by line, and point of it.
#[derive(Debug, Default)]
pub(crate) struct Names {
    volumes: BTreeMap<LineId, Named>,
    snapshots: BTreeMap<(LineId, Seq), Named>,
}

#[derive(Clone, Debug)]
struct Named {
    uuid: Uuid,
    volume: String,
    snapshot: String,
    size_bytes: u64,
    sector_bytes: u64,
}

/// What may come back with a drive, in a word.
const UNREADABLE: &str = "Unreadable";

/// Who shows a range: a volume, or snapshots alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    Volume(LineId),
    Snapshots(Vec<(LineId, Seq)>),
}

/// Ranges of one owner in store blocks, and the snapshots that show them as well.
#[derive(Default)]
struct Share {
    ranges: Vec<(u64, u64, LostCause)>,
    also: BTreeSet<(LineId, Seq)>,
}

impl Names {
    /// Of these.
    pub(crate) fn new<'a>(
        volumes: impl IntoIterator<Item = &'a VolumeDescriptor>,
        snapshots: impl IntoIterator<Item = &'a SnapshotDescriptor>,
    ) -> Names {
        let volume = |d: &VolumeDescriptor| Named {
            uuid: d.uuid,
            volume: d.name.clone(),
            snapshot: String::new(),
            size_bytes: d.size_bytes,
            sector_bytes: d.sector.bytes().into(),
        };
        let snapshot = |d: &SnapshotDescriptor| Named {
            uuid: d.uuid,
            volume: d.volume_name.clone(),
            snapshot: d.name.clone(),
            size_bytes: d.size_bytes,
            sector_bytes: d.sector.bytes().into(),
        };
        Names {
            volumes: volumes.into_iter().map(|d| (d.line, volume(d))).collect(),
            snapshots: snapshots.into_iter().map(|d| ((d.line, d.at), snapshot(d))).collect(),
        }
    }

    /// What of each volume is lost, and of snapshots what no volume shows; by name.
    pub(crate) fn of(&self, ranges: &[LostRange]) -> Vec<LostObject> {
        let mut shares: BTreeMap<Owner, Share> = BTreeMap::new();
        for range in ranges {
            let points = || range.views.iter().filter_map(|v| Some((v.line, v.at?)));
            let heads = range.views.iter().filter(|v| v.at.is_none()).map(|v| Owner::Volume(v.line));
            let mut owners: Vec<Owner> = heads.collect();
            if owners.is_empty() && !range.views.is_empty() {
                owners.push(Owner::Snapshots(points().collect()));
            }
            for owner in owners {
                let share = shares.entry(owner).or_default();
                share.ranges.push((range.lba.0, range.blocks.0, range.cause));
                share.also.extend(points());
            }
        }
        let mut all: Vec<LostObject> =
            shares.into_iter().filter_map(|(owner, share)| self.object(&owner, share)).collect();
        all.sort_by_key(|o| (!o.snapshots.is_empty(), o.volume.clone(), o.snapshots.clone()));
        all
    }

    fn object(&self, owner: &Owner, share: Share) -> Option<LostObject> {
        let (of, snapshots) = match owner {
            Owner::Volume(line) => (self.volume(*line), Vec::new()),
            Owner::Snapshots(points) => {
                let all: Vec<Named> = points.iter().map(|point| self.snapshot(point)).collect();
                let largest = all.iter().max_by_key(|named| named.size_bytes)?.clone();
                (largest, all.into_iter().map(|named| named.snapshot).collect())
            }
        };
        let ranges = joined(share.ranges, &of);
        let also = if snapshots.is_empty() {
            share.also.iter().map(|point| self.snapshot(point).snapshot).collect()
        } else {
            Vec::new()
        };
        let Named { uuid, volume, sector_bytes, .. } = of;
        (!ranges.is_empty()).then_some(LostObject { uuid, volume, snapshots, also, sector_bytes, ranges })
    }

    fn volume(&self, line: LineId) -> Named {
        self.volumes.get(&line).cloned().unwrap_or_else(|| unknown(format!("(unknown, line {line})"), ""))
    }

    fn snapshot(&self, (line, at): &(LineId, Seq)) -> Named {
        let named = || unknown(self.volume(*line).volume, &format!("(unknown, point {at})"));
        self.snapshots.get(&(*line, *at)).cloned().unwrap_or_else(named)
    }
}

impl Node {
    /// What is lost, as of the last look.
    pub(super) fn losses(&self) -> Arc<[LostObject]> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Finds names for what the cores say is lost.
    pub(super) async fn name_losses(&self, reports: &[CoreReport]) -> Arc<[LostObject]> {
        let ranges: Vec<LostRange> = reports.iter().flat_map(|r| &r.lost).cloned().collect();
        let mut lost: Arc<[LostObject]> = Arc::default();
        if !ranges.is_empty() {
            let snapshots = self.snapshots().await.unwrap_or_default();
            let volumes = reports.iter().flat_map(|r| &r.volumes).map(|v| &v.descriptor);
            // What is being deleted has no name any more, and soon nothing shows it.
            let named = Names::new(volumes, snapshots.iter().map(|s| &s.descriptor)).of(&ranges);
            lost = named.into_iter().filter(|o| o.uuid != Uuid::default()).collect();
        }
        *self.lost.lock().unwrap_or_else(PoisonError::into_inner) = lost.clone();
        lost
    }
}

/// What stands for a record that is not there or not understood.
fn unknown(volume: String, snapshot: &str) -> Named {
    let sector_bytes = BLOCK_BYTES as u64;
    Named { uuid: Uuid::default(), volume, snapshot: snapshot.into(), size_bytes: u64::MAX, sector_bytes }
}

/// Ranges of store blocks as logical blocks of an object, up to its end; those side by side as one.
fn joined(mut ranges: Vec<(u64, u64, LostCause)>, of: &Named) -> Vec<LostBlocks> {
    ranges.sort_unstable();
    let mut all: Vec<LostBlocks> = Vec::new();
    let (block, end) = (BLOCK_BYTES as u64, of.size_bytes.div_ceil(BLOCK_BYTES as u64));
    let sectors = block / of.sector_bytes;
    for (lba, blocks, cause) in ranges {
        let blocks = lba.saturating_add(blocks).min(end).saturating_sub(lba);
        if blocks == 0 {
            continue;
        }
        let (lba, blocks, cause) = (lba.saturating_mul(sectors), blocks.saturating_mul(sectors), word(cause));
        match all.last_mut() {
            Some(last) if last.lba.saturating_add(last.blocks) >= lba => {
                // Some hope for a part is hope.
                if cause == UNREADABLE {
                    last.cause = cause;
                }
                last.blocks = last.blocks.max(lba.saturating_add(blocks) - last.lba);
            }
            _ => all.push(LostBlocks { lba, blocks, cause }),
        }
    }
    all
}

fn word(cause: LostCause) -> &'static str {
    match cause {
        LostCause::Damaged => "Damaged",
        LostCause::Unreadable => UNREADABLE,
        LostCause::Map => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dolmen_store::View;
    use dolmen_types::{Blocks, Lba};

    fn named(volume: &str, snapshot: &str, sector_bytes: u64) -> Named {
        let size_bytes = 100 * 4096;
        let (volume, snapshot) = (volume.into(), snapshot.into());
        Named { uuid: Uuid::default(), volume, snapshot, size_bytes, sector_bytes }
    }

    fn names() -> Names {
        Names {
            volumes: [(LineId(1), named("db", "", 512)), (LineId(2), named("copy", "", 4096))].into(),
            snapshots: [((LineId(1), Seq(7)), named("db", "then", 512))].into(),
        }
    }

    fn range(views: &[(u64, Option<u64>)], lba: u64, blocks: u64, cause: LostCause) -> LostRange {
        let view = |(line, at): &(u64, Option<u64>)| View { line: LineId(*line), at: at.map(Seq) };
        let (lba, blocks) = (Lba(lba), Blocks(blocks));
        LostRange { line: LineId(1), views: views.iter().map(view).collect(), lba, blocks, cause }
    }

    #[test]
    fn ranges_are_told_of_whoever_shows_them() {
        let ranges = [
            range(&[(1, None)], 0, 2, LostCause::Damaged),
            range(&[(1, None), (1, Some(7)), (2, None)], 2, 1, LostCause::Damaged),
            range(&[(1, Some(7))], 9, 1, LostCause::Damaged),
            range(&[(1, Some(7))], 10, 1, LostCause::Unreadable),
            range(&[], 11, 1, LostCause::Damaged),
            range(&[(2, None)], 98, u64::MAX - 98, LostCause::Map),
            range(&[(2, None)], 200, 5, LostCause::Damaged),
        ];
        let told: Vec<String> = names().of(&ranges).iter().map(LostObject::sentence).collect();
        let want = [
            "volume copy: LBA 2, 98-99 (blocks of 4096 bytes)",
            "volume db: LBA 0-23 (blocks of 512 bytes)",
            "snapshot then of volume db: LBA 72-87 (blocks of 512 bytes)",
        ];
        assert_eq!(told, want);
        assert_eq!(names().of(&ranges)[1].also, ["then"]);
        assert_eq!(names().of(&ranges)[2].ranges[0].cause, "Unreadable");
        assert_eq!(names().of(&ranges)[1].lost_bytes(), 3 * 4096);
    }

    #[test]
    fn what_has_no_name_is_told_all_the_same() {
        let ranges = [range(&[(5, None)], 0, 1, LostCause::Damaged)];
        let told = names().of(&ranges);
        assert_eq!(told[0].sentence(), "volume (unknown, line 5): LBA 0 (blocks of 4096 bytes)");
    }
}
