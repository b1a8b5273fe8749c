//! The offline check of a pool: reads and verifies everything that counts, and changes nothing.
//!
//! Each shard is recovered in memory as at a start, without the seal; then every leaf of every line is read, and every stored
//! block that the map names. A block that does not check is named by line and address; one that other columns still give is told
//! apart. Then every column of every commit is read, and the parity compared. Before all that come the labels of the drives:
//! superblocks, the shards' anchors, both copies of the key table.

mod labels;

use crate::columns::Columns;
use crate::format::commit::LogIdentity;
use crate::format::page::{Leaf, Level, PageRef, verify};
use crate::format::segment::{SEGMENT_HEADER_BYTES, Stream};
use crate::location::{Location, Slot};
use crate::map::{Entry, Version, is_nowhere};
use crate::parity;
use crate::pool::read_plan;
use crate::segments::Segment;
use crate::shard::{
    Drives, FetchError, MoveItem, SegmentScan, Shared, Span, Way, load_shard, still_held, stored_how,
};
use crate::store::new_shard;
use crate::stored::BlockVersion;
use crate::{Candidate, Finding, Key, Keyring, PlanDrive, PoolPlan, ShardTuning, StoreError, UnitId};
use dolmen_io::exec::Handle;
use dolmen_io::{Owner, Tag};
use dolmen_types::limits::BLOCK_BYTES;
use dolmen_types::{Lba, LineId, PgId, ShardId, Uuid};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Problems that are named at most; more are only counted. Half of them are kept for what is lost.
const MAX_NAMED: usize = 1000;

/// Bytes that are read in one go.
const RUN_BYTES: usize = 128 * 1024;

/// Something that a check found wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// The line that it belongs to, where that is known.
    pub line: Option<LineId>,
    /// The block of the line, where it is one.
    pub lba: Option<Lba>,
    /// Drive, unit and offset, where that is known; empty otherwise.
    pub place: String,
    /// False when other columns still give what is wrong here.
    pub lost: bool,
    /// What is wrong.
    pub what: String,
}

/// How far a check has come; shared with whoever shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckProgress(Rc<Cell<u32>>);

impl CheckProgress {
    /// How far, in parts of 1000.
    #[must_use]
    pub fn per_mille(&self) -> u32 {
        self.0.get()
    }
}

/// Counts what of a shard has been read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Meter {
    progress: CheckProgress,
    /// Shards that are through, and all.
    shards: (u16, u16),
    /// Bytes of the current one.
    done: u64,
    total: u64,
}

impl Meter {
    fn begin(&mut self, shard: ShardId, total: u64) {
        (self.shards.0, self.done, self.total) = (shard.0, 0, total);
        self.add(0);
    }

    fn add(&mut self, bytes: u64) {
        self.done = self.total.min(self.done + bytes);
        let part = (self.done * 1000).checked_div(self.total).unwrap_or(0);
        let all = (u64::from(self.shards.0) * 1000 + part) / u64::from(self.shards.1.max(1));
        self.progress.0.set(u32::try_from(all).unwrap_or(1000));
    }
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// The pool.
    pub pool: Uuid,
    /// Its drives, by path, but for those that have left.
    pub drives: Vec<String>,
    /// All places of its table of drives, by path: how places on drives are told.
    table: Vec<String>,
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
    /// Commits whose columns were compared with each other.
    pub commits: u64,
    /// Places that hold something wrong, which other columns still give right: the pool mends them when it meets them.
    pub mendable: u64,
    /// Problems in all: what is lost.
    pub problems: u64,
    /// The first of both sorts; each names what is damaged.
    pub named: Vec<Damage>,
    /// What the opening of the pool would come upon.
    pub findings: Vec<Finding>,
    /// All keyed objects, by which lines are told by their names.
    pub objects: Vec<(PgId, Key, Box<[u8]>)>,
    meter: Meter,
}

impl CheckReport {
    fn mended(&mut self, damage: Damage) {
        self.mendable += 1;
        if self.named.len() < MAX_NAMED / 2 {
            self.named.push(damage);
        }
    }

    fn problem(&mut self, damage: Damage) {
        self.problems += 1;
        if self.named.len() < MAX_NAMED {
            self.named.push(Damage { lost: true, ..damage });
        }
    }
}

/// Damage of no line.
fn damage(what: impl Into<String>) -> Damage {
    Damage { what: what.into(), ..Damage::default() }
}

/// Damage of a line's block.
fn of_block(line: u64, lba: u64, place: String, what: impl Into<String>) -> Damage {
    Damage { line: Some(LineId(line)), lba: Some(Lba(lba)), place, lost: false, what: what.into() }
}

/// A place in a segment as an operator finds it.
fn place(shard: &Shared, drives: &[String], at: Location) -> String {
    let s = shard.borrow();
    let (column, offset) = at.place(s.drives.unit_bytes);
    let unit = s.segments.at(at.slot()).and_then(|segment| segment.columns.unit(column));
    unit.map_or_else(|| at.to_string(), |unit| of_unit(drives, unit, offset))
}

fn of_unit(drives: &[String], unit: UnitId, offset: u32) -> String {
    let path = drives.get(usize::from(unit.drive)).map_or("?", String::as_str);
    format!("{path} unit {} offset {offset}", unit.unit)
}

/// Checks the pool on these drives, which nobody serves meanwhile. Fails only where there is no pool to check. The blocks of an
/// encrypted line are verified with its key; without it the line is named as a problem.
pub async fn check_pool(
    exec: Handle,
    drives: Vec<Candidate>,
    keyring: Keyring,
) -> Result<CheckReport, StoreError> {
    check_pool_with(exec, drives, keyring, CheckProgress::default()).await
}

/// The same; `progress` tells meanwhile how far it has come.
pub async fn check_pool_with(
    exec: Handle,
    drives: Vec<Candidate>,
    keyring: Keyring,
    progress: CheckProgress,
) -> Result<CheckReport, StoreError> {
    let (plan, _) = read_plan(&exec, &drives).await?;
    let files: Vec<_> = plan.order.iter().map(|at| at.map(|i| drives[i].info.file)).collect();
    let pool_drives = Rc::new(Drives::new(&plan, &files, &ShardTuning::default()));
    let mut report = CheckReport {
        pool: plan.pool,
        drives: plan.drives_of_it().map(|d| d.path.clone()).collect(),
        table: plan.drives.iter().map(|d| d.path.clone()).collect(),
        shards: plan.shards,
        findings: plan.findings.clone(),
        meter: Meter { progress, shards: (0, plan.shards), ..Meter::default() },
        ..CheckReport::default()
    };
    labels::check_pool_labels(&exec, &plan, &files, &mut report).await;
    let mut holders = BTreeMap::new();
    for id in (0..plan.shards).map(ShardId) {
        let shard = offline_shard(&plan, id, &pool_drives, keyring.clone());
        if let Err(error) = load_shard(&shard, &exec).await {
            report.problem(damage(format!("shard {id}: {error}")));
            continue;
        }
        report.meter.begin(id, work(&shard));
        labels::check_anchors(&shard, &exec, &mut report).await;
        report.objects.extend(objects(&shard));
        let held: Vec<UnitId> =
            shard.borrow().segments.iter().flat_map(|(_, s)| s.columns.units().to_vec()).collect();
        report.units_held += held.len() as u64;
        for unit in held {
            if let Some(other) = holders.insert(unit, id) {
                let what = damage(format!("shards {other} and {id} both hold this unit"));
                report.problem(Damage { place: of_unit(&report.table, unit, 0), ..what });
            }
        }
        check_shard(&shard, &exec, &mut report).await;
        check_columns(&shard, &exec, &mut report).await;
    }
    Ok(report)
}

/// The contents of a pool as its log tells them, without its data.
#[derive(Clone, Debug)]
pub struct PoolContents {
    /// The pool.
    pub pool: Uuid,
    /// Number of the superblock in force.
    pub sequence: u64,
    /// The drives that count: where they are, or were last if they are missing.
    pub drives: Vec<PlanDrive>,
    /// What the opening of the pool would come upon.
    pub findings: Vec<Finding>,
    /// All keyed objects.
    pub objects: Vec<(PgId, Key, Box<[u8]>)>,
}

/// Reads the log of the pool on these drives, which nobody serves meanwhile, and changes nothing. Fails where a part of it can't be
/// read: what it would have told is not known then.
pub async fn read_contents(
    exec: Handle,
    drives: Vec<Candidate>,
    keyring: Keyring,
) -> Result<PoolContents, StoreError> {
    let (plan, counted) = read_plan(&exec, &drives).await?;
    let files: Vec<_> = plan.order.iter().map(|at| at.map(|i| drives[i].info.file)).collect();
    let pool_drives = Rc::new(Drives::new(&plan, &files, &ShardTuning::default()));
    let mut all = Vec::new();
    for id in (0..plan.shards).map(ShardId) {
        let shard = offline_shard(&plan, id, &pool_drives, keyring.clone());
        load_shard(&shard, &exec).await?;
        all.extend(objects(&shard));
    }
    let PoolPlan { pool, sequence, findings, drives, .. } = plan;
    let drives =
        drives.into_iter().zip(counted).filter_map(|(drive, counts)| counts.then_some(drive)).collect();
    Ok(PoolContents { pool, sequence, drives, findings, objects: all })
}

fn objects(shard: &Shared) -> Vec<(PgId, Key, Box<[u8]>)> {
    let s = shard.borrow();
    s.objects.iter().map(|((pg, key), value)| (*pg, *key, value.to_vec().into())).collect()
}

/// What the check of a shard has to read: what lives in it, then every column of its segments. Bytes.
fn work(shard: &Shared) -> u64 {
    let s = shard.borrow();
    let columns: usize = s.segments.iter().map(|(_, segment)| segment.columns.len()).sum();
    s.segments.live_bytes() + columns as u64 * u64::from(s.drives.unit_bytes)
}

fn offline_shard(plan: &PoolPlan, shard: ShardId, pool_drives: &Rc<Drives>, keyring: Keyring) -> Shared {
    let id = LogIdentity { pool: plan.pool, shard, incarnation: plan.incarnation, salt: 0 };
    let tag = Tag { owner: Owner(0), key: 0 };
    Rc::new(RefCell::new(new_shard(id, pool_drives.clone(), ShardTuning::default(), tag, keyring)))
}

async fn check_shard(shard: &Shared, exec: &Handle, report: &mut CheckReport) {
    let lines: Vec<(u64, Vec<(PageRef, PageRef)>)> = {
        let s = shard.borrow();
        let live = s.map.lines.iter().filter(|(_, l)| !l.now.is_doomed());
        live.map(|(&line, tree)| {
            (line, tree.nodes.iter().flat_map(|n| n.leaves.iter().map(|l| (n.page, l.page()))).collect())
        })
        .collect()
    };
    for (line, leaves) in lines {
        report.lines += 1;
        if !shard.borrow().has_keys_of(line) {
            let what = damage(StoreError::NoKey(LineId(line)).to_string());
            report.problem(Damage { line: Some(LineId(line)), ..what });
            continue;
        }
        for (node, page) in leaves {
            if is_nowhere(page.location) {
                let at = place(shard, &report.table, node.location);
                let what =
                    "all from here on, up to the next node of the map, can't be found: the node is damaged";
                report.problem(of_block(line, page.first, at, what));
                continue;
            }
            report.leaves += 1;
            report.meter.add(BLOCK_BYTES as u64);
            match read_leaf(shard, exec, line, &page, report).await {
                Ok(entries) => {
                    let needed = still_needed(shard, exec, line, entries).await;
                    check_blocks(shard, exec, line, &needed, report).await;
                }
                Err(why) => {
                    let at = place(shard, &report.table, page.location);
                    let what =
                        format!("all from here on, up to the next leaf of the map, can't be found: {why}");
                    report.problem(of_block(line, page.first, at, what));
                }
            }
        }
        let recent: Vec<(u64, Entry)> = {
            let s = shard.borrow();
            s.map.live.line(line).into_iter().flat_map(|d| d.entries()).map(|(lba, e)| (lba, *e)).collect()
        };
        let needed = still_needed(shard, exec, line, recent).await;
        check_blocks(shard, exec, line, &needed, report).await;
    }
}

/// Without what the log since the checkpoint has moved or overwritten, and what nobody sees since: cleaning may have given its place
/// to others.
async fn still_needed(
    shard: &Shared,
    exec: &Handle,
    line: u64,
    entries: Vec<(u64, Entry)>,
) -> Vec<(u64, Entry)> {
    let (mut needed, mut lost) = (Vec::new(), Vec::new());
    for (lba, entry) in entries {
        // Of what nobody can say it is told.
        if !matches!(still_held(shard, exec, &MoveItem { line, lba, entry }, &mut lost).await, Ok(false)) {
            needed.push((lba, entry));
        }
    }
    needed
}

async fn read_leaf(
    shard: &Shared,
    exec: &Handle,
    line: u64,
    page: &PageRef,
    report: &mut CheckReport,
) -> Result<Vec<(u64, Entry)>, String> {
    let mut buf = exec.alloc(BLOCK_BYTES).await;
    buf.set_len(BLOCK_BYTES);
    let holds = |bytes: &[u8]| verify(bytes, Level::Leaf, line, page);
    match stored_how(shard, exec, page.location, buf, holds).await {
        Ok((bytes, way)) => {
            if way == Way::Mended {
                let at = place(shard, &report.table, page.location);
                report.mended(of_block(line, page.first, at, "the leaf of the map from here on"));
            }
            let leaf = Leaf::trusted(&bytes);
            for (lba, version) in leaf.slots() {
                if let Version::Lost { blocks, .. } = version {
                    let what = format!(
                        "what {blocks} blocks from here on held was lost with a leaf of the map, but for what was written since"
                    );
                    report.problem(of_block(line, lba, String::new(), what));
                }
            }
            let stored = leaf.slots().filter_map(|(lba, v)| v.stored().map(|e| (lba, *e))).collect();
            shard.borrow_mut().map.leaf_read(LineId(line), page, &bytes);
            Ok(stored)
        }
        Err(error) => Err(error.to_string()),
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
        report.meter.add(run.iter().map(|(_, e)| u64::from(e.bytes())).sum());
        if read_run(shard, exec, line, run).await == Ok(Way::Direct) {
            continue;
        }
        for (lba, entry) in run {
            match read_run(shard, exec, line, &[(*lba, *entry)]).await {
                Ok(Way::Direct | Way::Around) => {}
                Ok(Way::Mended) => {
                    let at = place(shard, &report.table, entry.location);
                    report.mended(of_block(line, *lba, at, "not what was written"));
                }
                Err(error) => {
                    let at = place(shard, &report.table, entry.location);
                    report.problem(of_block(line, *lba, at, error.to_string()));
                }
            }
        }
    }
}

/// Reads blocks whose pages touch.
async fn read_run(shard: &Shared, exec: &Handle, line: u64, run: &[(u64, Entry)]) -> Result<Way, FetchError> {
    let Some((_, first)) = run.first() else { return Ok(Way::Direct) };
    let mut span = Span::of(first);
    run[1..].iter().for_each(|(_, e)| _ = span.extend(e, RUN_BYTES));
    let mut buf = exec.alloc(span.len()).await;
    buf.set_len(span.len());
    let holds = |bytes: &[u8]| {
        let blocks = run.iter().map(|(lba, e)| (BlockVersion { line, lba: *lba, seq: e.seq }, e));
        span.holds(&mut shard.borrow_mut().forms, blocks, bytes)
    };
    stored_how(shard, exec, span.location(), buf, holds).await.map(|(_, way)| way)
}

/// Reads every column of every commit that counts, and compares the parity with what the data columns say it is. A segment with a
/// column on a drive that is out has nothing to compare.
async fn check_columns(shard: &Shared, exec: &Handle, report: &mut CheckReport) {
    let segments: Vec<(Slot, Segment)> = {
        let s = shard.borrow();
        let out = s.drives.members().out;
        let whole =
            s.segments.iter().filter(|(_, seg)| seg.columns.parity() > 0 && !seg.columns.touches(out));
        whole.filter(|(_, seg)| seg.stream != Stream::Meta).map(|(slot, seg)| (slot, *seg)).collect()
    };
    for (slot, segment) in segments {
        let (drives, id) = {
            let s = shard.borrow();
            (s.drives.clone(), s.id)
        };
        let mut scan = SegmentScan::new(exec.clone(), drives, segment.columns);
        let first = of_unit(&report.table, segment.columns.units()[0], 0);
        report.meter.add(segment.columns.len() as u64 * u64::from(shard.borrow().drives.unit_bytes));
        let Ok(Some(header)) = scan.header(|h| h.slot == slot && h.shard == id.shard).await else {
            report.problem(Damage { place: first, ..damage("a segment has lost its header") });
            continue;
        };
        let id = LogIdentity { incarnation: header.incarnation, salt: header.salt, ..id };
        let (mut offset, mut seen) = (SEGMENT_HEADER_BYTES, 0);
        let of = (segment.stream, segment.stream_seq);
        while seen < segment.last_commit {
            let Ok(Some((commit, _))) = scan.commit(&id, of, offset).await else { break };
            (seen, offset) = (commit.place.number, u32::try_from(commit.end()).unwrap_or(u32::MAX));
            report.commits += 1;
            let at = of_unit(&report.table, segment.columns.units()[0], commit.place.offset);
            let what = match columns_agree(
                &scan,
                &segment.columns,
                commit.place.offset,
                commit.depth as usize,
            )
            .await
            {
                Ok(true) => continue,
                Ok(false) => damage("the parity of a commit is not that of its data"),
                Err(why) => damage(format!("a column of a commit can't be read: {why}")),
            };
            report.mended(Damage { place: at, ..what });
        }
    }
}

/// True when the parity columns are what the data columns make them.
async fn columns_agree(
    scan: &SegmentScan,
    columns: &Columns,
    offset: u32,
    depth: usize,
) -> Result<bool, String> {
    let mut all = Vec::new();
    for column in 0..columns.len() {
        all.push(scan.column(column, &[column], offset, depth).await?);
    }
    let (data, parity) = all.split_at(columns.data());
    let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let mut made = vec![vec![0; depth]; columns.parity()];
    let mut sums: Vec<&mut [u8]> = made.iter_mut().map(Vec::as_mut_slice).collect();
    parity::encode(&data, &mut sums);
    Ok(made == parity)
}
