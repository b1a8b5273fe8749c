//! The offline check of a pool: reads and verifies everything that counts, and changes nothing.
//!
//! Each shard is recovered in memory as at a start, without the seal; then every leaf of every line is read, and every stored
//! block that the map names (`blocks.rs`). A block that nothing gives is named by the states of lines that show it; one that other
//! columns still give is told apart, with the drive that is the cause. Then every column of every commit is read
//! (`columns.rs`). Before all that come the labels of the drives: superblocks, the shards' anchors, both copies of the key table.

mod blocks;
mod columns;
mod labels;
mod report;

pub use report::{CheckReport, Damage, DriveDamage};

use crate::format::commit::LogIdentity;
use crate::location::Location;
use crate::pool::read_plan;
use crate::shard::{Drives, Shared, load_shard};
use crate::store::new_shard;
use crate::{Candidate, Finding, Key, Keyring, PlanDrive, PoolPlan, ShardTuning, StoreError, UnitId};
use dolmen_io::exec::Handle;
use dolmen_io::{Owner, Tag};
use dolmen_types::{Lba, LineId, PgId, ShardId, Uuid};
use report::Meter;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// How far a check has come; shared with whoever shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckProgress(pub(in crate::checker) Rc<Cell<u32>>);

impl CheckProgress {
    /// How far, in parts of 1000.
    #[must_use]
    pub fn per_mille(&self) -> u32 {
        self.0.get()
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

/// A place in a segment as an operator finds it, and its drive.
fn place(shard: &Shared, drives: &[String], at: Location) -> (u16, String) {
    let s = shard.borrow();
    let (column, offset) = at.place(s.drives.unit_bytes);
    let unit = s.segments.at(at.slot()).and_then(|segment| segment.columns.unit(column));
    unit.map_or_else(|| (u16::MAX, at.to_string()), |unit| (unit.drive, of_unit(drives, unit, offset)))
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
    check_pool_with(exec, drives, keyring, 0, CheckProgress::default()).await
}

/// The same, where a superblock with the number `at_least` is known to have been in force. `progress` tells meanwhile how far the check
/// has come.
pub async fn check_pool_with(
    exec: Handle,
    drives: Vec<Candidate>,
    keyring: Keyring,
    at_least: u64,
    progress: CheckProgress,
) -> Result<CheckReport, StoreError> {
    let (plan, _) = read_plan(&exec, &drives, at_least).await?;
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
        blocks::check_lines(&shard, &exec, &mut report).await;
        columns::check_columns(&shard, &exec, &mut report).await;
    }
    report.close();
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
    let (plan, counted) = read_plan(&exec, &drives, 0).await?;
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
