//! The offline check of a pool: reads and verifies everything that counts, and changes nothing.
//!
//! Each shard is recovered in memory as at a start, without the seal; then every leaf of every line is read, and every stored
//! block that the map names. A block that does not check is named by line and address.

use crate::format::commit::LogIdentity;
use crate::format::page::{Leaf, Level, PageRef, verify};
use crate::map::{Entry, LeafRef};
use crate::pool::read_plan;
use crate::shard::{Drives, FetchError, Shared, Span, load_shard, stored};
use crate::store::new_shard;
use crate::stored::BlockVersion;
use crate::{Candidate, Keyring, PoolPlan, ShardTuning, StoreError, UnitId};
use dolmen_io::exec::Handle;
use dolmen_io::{Owner, Tag};
use dolmen_types::limits::BLOCK_BYTES;
use dolmen_types::{LineId, ShardId, Uuid};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Problems that are named at most; more are only counted.
const MAX_NAMED: usize = 1000;

/// Bytes that are read in one go.
const RUN_BYTES: usize = 128 * 1024;

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

/// Checks the pool on these drives, which nobody serves meanwhile. Fails only where there is no pool to check. The blocks of an
/// encrypted line are verified with its key; without it the line is named as a problem.
pub async fn check_pool(
    exec: Handle,
    drives: Vec<Candidate>,
    keyring: Keyring,
) -> Result<CheckReport, StoreError> {
    let plan = read_plan(&exec, &drives).await?;
    let files: Vec<_> = plan.order.iter().map(|at| at.map(|i| drives[i].info.file)).collect();
    let pool_drives = Rc::new(Drives::new(&plan, &files, &ShardTuning::default()));
    let mut report = CheckReport {
        pool: plan.pool,
        drives: plan.drives.iter().map(|d| d.path.clone()).collect(),
        shards: plan.shards,
        ..CheckReport::default()
    };
    let mut holders = BTreeMap::new();
    for id in (0..plan.shards).map(ShardId) {
        let shard = offline_shard(&plan, id, &pool_drives, keyring.clone());
        if let Err(error) = load_shard(&shard, &exec).await {
            report.problem(format!("shard {id}: {error}"));
            continue;
        }
        let held: Vec<UnitId> =
            shard.borrow().segments.iter().flat_map(|(_, s)| s.columns.units().to_vec()).collect();
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

fn offline_shard(plan: &PoolPlan, shard: ShardId, pool_drives: &Rc<Drives>, keyring: Keyring) -> Shared {
    let id = LogIdentity { pool: plan.pool, shard, incarnation: plan.incarnation, salt: 0 };
    let tag = Tag { owner: Owner(0), key: 0 };
    Rc::new(RefCell::new(new_shard(id, pool_drives.clone(), ShardTuning::default(), tag, keyring)))
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
        if !shard.borrow().has_keys_of(line) {
            report.problem(StoreError::NoKey(LineId(line)).to_string());
            continue;
        }
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
    let mut buf = exec.alloc(BLOCK_BYTES).await;
    buf.set_len(BLOCK_BYTES);
    let holds = |bytes: &[u8]| verify(bytes, Level::Leaf, line, page);
    match stored(shard, exec, page.location, buf, holds).await {
        Ok(bytes) => {
            Ok(Leaf::trusted(&bytes).slots().filter_map(|(lba, v)| v.stored().map(|e| (lba, *e))).collect())
        }
        Err(error) => Err(format!("the page at {}: {error}", page.location)),
    }
}

/// Reads stored blocks, what lies on touching pages in one go, and names each that does not check.
async fn check_blocks(
    shard: &Shared,
    exec: &Handle,
    line: u64,
    entries: &[(u64, Entry)],
    report: &mut CheckReport,
) {
    let mut rest = entries;
    while let Some((_, first)) = rest.first() {
        let mut span = Span::of(first);
        let count = 1 + rest[1..].iter().take_while(|(_, e)| span.extend(e, RUN_BYTES)).count();
        let (run, tail) = rest.split_at(count);
        rest = tail;
        report.blocks += count as u64;
        if let Err(error) = read_run(shard, exec, line, run).await {
            for (lba, entry) in run {
                let one = [(*lba, *entry)];
                let Err(error) =
                    (if count == 1 { Err(error.clone()) } else { read_run(shard, exec, line, &one).await })
                else {
                    continue;
                };
                report.problem(format!("line {line}: block {lba} at {}: {error}", entry.location));
            }
        }
    }
}

/// Reads blocks whose pages touch.
async fn read_run(shard: &Shared, exec: &Handle, line: u64, run: &[(u64, Entry)]) -> Result<(), FetchError> {
    let Some((_, first)) = run.first() else { return Ok(()) };
    let mut span = Span::of(first);
    run[1..].iter().for_each(|(_, e)| _ = span.extend(e, RUN_BYTES));
    let mut buf = exec.alloc(span.len()).await;
    buf.set_len(span.len());
    let holds = |bytes: &[u8]| {
        let blocks = run.iter().map(|(lba, e)| (BlockVersion { line, lba: *lba, seq: e.seq }, e));
        span.holds(&mut shard.borrow_mut().forms, blocks, bytes)
    };
    stored(shard, exec, span.location(), buf, holds).await.map(drop)
}
