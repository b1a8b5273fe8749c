//! The labels of the drives: every copy of what tells of the pool before anything else does.
//!
//! What is wrong with one copy costs nothing while others are right, and the pool mends it: with the next superblock, the next anchor,
//! the next look at the key table. So all of this is mendable, but for a page of keys that no copy gives.

use super::report::Sort;
use super::{CheckReport, Damage, damage};
use crate::format::anchor::{ANCHOR_BYTES, ANCHOR_COPIES, ANCHOR_SLOTS, Anchor, anchor_offset};
use crate::format::superblock::SUPERBLOCK_SLOTS;
use crate::key_table::{Sources, check_keys};
use crate::pool::{damaged_slots, holds_superblock};
use crate::shard::Shared;
use crate::{PoolPlan, StoreError};
use dolmen_io::FileId;
use dolmen_io::exec::Handle;

/// The superblocks and the key table.
pub(super) async fn check_pool_labels(
    exec: &Handle,
    plan: &PoolPlan,
    files: &[Option<FileId>],
    report: &mut CheckReport,
) {
    let block = plan.superblock();
    let there: Vec<(u16, FileId)> =
        (0u16..).zip(files).filter_map(|(drive, file)| Some((drive, (*file)?))).collect();
    for &(drive, file) in &there {
        if !holds_superblock(exec, file, &block, drive).await {
            let what = "the superblock in force is not on this drive as it was written";
            let place = path(report, drive);
            report.mended(drive, Sort::Label, Damage { place, ..damage(what) });
        }
        // The other one is what is left when that one rots; and where it is damaged everywhere, it may have been the newer one.
        let other = usize::try_from((block.sequence + 1) % SUPERBLOCK_SLOTS).expect("few slots");
        if damaged_slots(exec, file).await.contains(&other) {
            let what = format!("superblock slot {other} does not check");
            let place = path(report, drive);
            report.mended(drive, Sort::Label, Damage { place, ..damage(what) });
        }
    }
    match check_keys(exec, plan.pool, &Sources::of(plan, files)).await {
        Err(StoreError::Drive(why)) => report.problem(damage(why)),
        Err(why) => report.problem(damage(why.to_string())),
        Ok(copies) => {
            for copy in copies.wrong {
                let drive = there.iter().find(|(_, file)| *file == copy.file).map_or(0, |(drive, _)| *drive);
                let what = format!("copy {} of page {} of the key table", copy.copy, copy.page);
                let place = path(report, drive);
                report.mended(drive, Sort::Label, Damage { place, ..damage(what) });
            }
            for page in copies.lost {
                report.problem(damage(format!("page {page} of the key table: no copy checks on any drive")));
            }
        }
    }
}

/// The copies of the anchor that a shard was found by.
pub(super) async fn check_anchors(shard: &Shared, exec: &Handle, report: &mut CheckReport) {
    let (id, generation, drives) = {
        let s = shard.borrow();
        (s.id, s.checkpoint.generation, s.drives.clone())
    };
    for drive in drives.in_service() {
        for copy in 0..ANCHOR_COPIES {
            let Some(file) = drives.file(drive) else { continue };
            let mut buf = exec.alloc(ANCHOR_BYTES).await;
            buf.set_len(ANCHOR_BYTES);
            let offset = anchor_offset(id.shard, generation % ANCHOR_SLOTS, copy);
            let reading = drives.read_again(exec, (drive, file, offset), buf);
            let wrong = match drives.soon(exec, drive, reading).await {
                Ok(Ok(buf)) if Anchor::is_or_never_was(&buf, id.pool, id.shard, generation) => None,
                Ok(_) => Some(String::new()),
                Err(why) => Some(format!(": {why}")),
            };
            if let Some(why) = wrong {
                let what = format!("copy {copy} of the anchor of shard {}{why}", id.shard);
                let place = path(report, drive);
                report.mended(drive, Sort::Label, Damage { place, ..damage(what) });
            }
        }
    }
}

/// Where a drive is.
fn path(report: &CheckReport, drive: u16) -> String {
    report.table.get(usize::from(drive)).cloned().unwrap_or_default()
}
