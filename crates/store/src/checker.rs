//! The offline check of a pool: reads and verifies everything that counts, and changes nothing.
//!
//! Each shard is recovered in memory as at a start, without the seal; then every leaf of every line is read, and every stored
//! block that the map names. A block that does not check is named by line and address.

use crate::check::block_check;
use crate::format::commit::LogIdentity;
use crate::format::page::{Leaf, Level, PageRef, verify};
use crate::location::BLOCK_GRANULES;
use crate::map::{Entry, LeafRef};
use crate::pool::read_plan;
use crate::shard::{Geometry, Shared, load_shard};
use crate::store::new_shard;
use crate::{Candidate, PoolPlan, ShardTuning, StoreError, UnitId};
use dolmen_io::exec::Handle;
use dolmen_io::{Owner, Tag};
use dolmen_types::limits::BLOCK_BYTES;
use dolmen_types::{ShardId, Uuid};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Problems that are named at most; more are only counted.
const MAX_NAMED: usize = 1000;

/// Blocks that are read in one go.
const RUN_BLOCKS: usize = 32;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// The pool.
    pub pool: Uuid,
    /// Its drives, by path.
    pub drives: Vec<String>,
    /// Shards that were looked at.
    pub shards: u16,
    /// Lines that exist.
    pub lines: u64,
    /// Leaves of their maps that were read.
    pub leaves: u64,
    /// Stored blocks that were read.
    pub blocks: u64,
    /// Units that shards hold.
    pub units_held: u64,
    /// Problems in all.
    pub problems: u64,
    /// The first of them, for people; each names what is damaged.
    pub named: Vec<String>,
}

impl CheckReport {
    fn problem(&mut self, text: String) {
        self.problems += 1;
        if self.named.len() < MAX_NAMED {
            self.named.push(text);
        }
    }
}

/// Checks the pool on these drives, which nobody serves meanwhile. Fails only where there is no pool to check.
pub async fn check_pool(exec: Handle, drives: Vec<Candidate>) -> Result<CheckReport, StoreError> {
    let plan = read_plan(&exec, &drives).await?;
    let files = plan.order.iter().map(|&i| drives[i].info.file).collect();
    let units = plan.drives.iter().map(|d| d.units).collect();
    let geometry = Rc::new(Geometry { files, units, unit_bytes: plan.unit_bytes });
    let mut report = CheckReport {
        pool: plan.pool,
        drives: plan.drives.iter().map(|d| d.path.clone()).collect(),
        shards: plan.shards,
        ..CheckReport::default()
    };
    let mut holders = BTreeMap::new();
    for id in (0..plan.shards).map(ShardId) {
        let shard = offline_shard(&plan, id, &geometry);
        if let Err(error) = load_shard(&shard, &exec).await {
            report.problem(format!("shard {id}: {error}"));
            continue;
        }
        let held: Vec<UnitId> = shard.borrow().segments.iter().map(|(_, s)| s.unit).collect();
        report.units_held += held.len() as u64;
        for unit in held {
            if let Some(other) = holders.insert(unit, id) {
                let (drive, unit) = (unit.drive, unit.unit);
                report.problem(format!("shards {other} and {id} both hold unit {unit} of drive {drive}"));
            }
        }
        check_shard(&shard, &exec, &mut report).await;
    }
    Ok(report)
}

fn offline_shard(plan: &PoolPlan, shard: ShardId, geometry: &Rc<Geometry>) -> Shared {
    let id = LogIdentity { pool: plan.pool, shard, incarnation: plan.incarnation, salt: 0 };
    let tag = Tag { owner: Owner(0), key: 0 };
    Rc::new(RefCell::new(new_shard(id, geometry.clone(), ShardTuning::default(), tag)))
}

async fn check_shard(shard: &Shared, exec: &Handle, report: &mut CheckReport) {
    let lines: Vec<(u64, Vec<PageRef>)> = {
        let s = shard.borrow();
        let live = s.map.lines.iter().filter(|(_, l)| !l.now.is_doomed());
        live.map(|(&line, tree)| {
            (line, tree.nodes.iter().flat_map(|n| n.leaves.iter().map(LeafRef::page)).collect())
        })
        .collect()
    };
    for (line, leaves) in lines {
        report.lines += 1;
        for page in leaves {
            report.leaves += 1;
            match read_leaf(shard, exec, line, &page).await {
                Ok(mut entries) => {
                    // What the log since the checkpoint has overwritten counts no more.
                    entries.retain(|(lba, entry)| still_named(shard, line, *lba, entry));
                    check_blocks(shard, exec, line, &entries, report).await;
                }
                Err(why) => {
                    report.problem(format!(
                        "line {line}: the leaf from block {} on is lost: {why}",
                        page.first
                    ));
                }
            }
        }
        let recent: Vec<(u64, Entry)> = {
            let s = shard.borrow();
            s.map.live.line(line).into_iter().flat_map(|d| d.entries()).map(|(lba, e)| (lba, *e)).collect()
        };
        check_blocks(shard, exec, line, &recent, report).await;
    }
}

/// True unless the log since the checkpoint says that the version is elsewhere, or that nobody sees it any more.
fn still_named(shard: &Shared, line: u64, lba: u64, entry: &Entry) -> bool {
    let s = shard.borrow();
    let Some(tree) = s.map.lines.get(&line) else { return false };
    let Some(delta) = s.map.live.line(line) else { return true };
    let moved = delta.entry(lba, entry.seq).is_some_and(|e| e != entry);
    let hidden = delta.successor(lba, entry.seq).is_some_and(|next| !tree.now.needs(entry.seq, Some(next)));
    !moved && !hidden
}

async fn read_leaf(
    shard: &Shared,
    exec: &Handle,
    line: u64,
    page: &PageRef,
) -> Result<Vec<(u64, Entry)>, String> {
    let bytes = read_at(shard, exec, page.location, BLOCK_BYTES).await?;
    if !verify(&bytes, Level::Leaf, line, page) {
        return Err(format!("the page at {} does not check", page.location));
    }
    Ok(Leaf::trusted(&bytes).slots().filter_map(|(lba, v)| v.stored().map(|e| (lba, *e))).collect())
}

async fn read_at(
    shard: &Shared,
    exec: &Handle,
    location: crate::location::Location,
    len: usize,
) -> Result<dolmen_io::Buf, String> {
    let place = {
        let s = shard.borrow();
        let inside = location.offset() + len as u64 <= u64::from(s.geometry.unit_bytes);
        let unit = s.segments.at(location.slot()).map(|seg| seg.unit).filter(|_| inside);
        unit.map(|u| s.geometry.place(u, location.offset()))
    };
    let (file, offset) = place.ok_or_else(|| format!("{location} is nowhere"))?;
    let mut buf = exec.alloc(len).await;
    buf.set_len(len);
    exec.read(file, offset, buf).await.map_err(|(e, _)| e.to_string())
}

/// Reads stored blocks, what lies one behind the other in one go, and names each that does not check.
async fn check_blocks(
    shard: &Shared,
    exec: &Handle,
    line: u64,
    entries: &[(u64, Entry)],
    report: &mut CheckReport,
) {
    let mut rest = entries;
    while let Some((_, first)) = rest.first() {
        let follows = |i: usize| {
            let step = u32::try_from(i).expect("runs are short") * BLOCK_GRANULES;
            rest[i].1.location == first.location.plus(step)
        };
        let count = (1..rest.len().min(RUN_BLOCKS)).take_while(|&i| follows(i)).count() + 1;
        let (run, tail) = rest.split_at(count);
        rest = tail;
        report.blocks += count as u64;
        match read_at(shard, exec, first.location, count * BLOCK_BYTES).await {
            Ok(bytes) => {
                for ((lba, entry), block) in run.iter().zip(bytes.chunks_exact(BLOCK_BYTES)) {
                    if block_check(line, *lba, entry.seq, block) != entry.check {
                        report.problem(format!(
                            "line {line}: block {lba} at {} does not check",
                            entry.location
                        ));
                    }
                }
            }
            Err(why) => {
                let (from, to) = (run[0].0, run[count - 1].0);
                report.problem(format!("line {line}: blocks {from} to {to} can't be read: {why}"));
            }
        }
    }
}
