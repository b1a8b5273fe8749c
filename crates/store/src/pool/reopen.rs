//! Opening a pool that is there: matches what was named with the table of its drives, and decides what is lost, what joins and
//! what is refused.
//!
//! ```text
//!   named and there                      one of the pool's drives             in service
//!                                        the same, but older than the others  lost, joins as a new one
//!                                        blank, or was out                    joins as a new one
//!                                        anything else, or unusable: where the pool knew a drive    lost, left untouched
//!                                                                    elsewhere                      refused
//!   was to join, never counted           blank, or was out                    joins as a new one
//!                                        anything else, or can't be used      left alone
//!   named, can't be opened               where the pool knew a drive          lost
//!                                        elsewhere                            told, and no drive's loss
//!   in the table, named by nobody                                             refused, unless degraded starts are allowed
//!   let go, or to be, and there          still one of the pool's drives       in service, or leaving
//!                                        anything else                        left alone, and so is whatever is where it was
//! ```
//! A drive is what its label says, under whatever name: names are for drives that are not there, or tell nothing.
//!
//! Lost drives are put out, if everything can be had without them; otherwise the start is refused and nothing is written. So it is
//! when nobody knows how far the pool had come: a drive that is missing may have gone on without those that are there.

use super::label::{Found, Slot};
use super::view::InForce;
use super::{Candidate, PoolOptions, accept, derive, entry, failed, plan, prepare, write_each};
use crate::format::LABEL_BYTES;
use crate::format::superblock::{DriveEntry, MAX_DRIVES, Superblock};
use crate::{DriveState, Finding, PoolPlan, StoreError};
use dolmen_io::exec::Handle;
use dolmen_types::Uuid;
use std::collections::BTreeMap;

/// What a drive that was named is to the pool.
enum Part {
    /// The drive of this place in the table.
    Member(usize),
    /// The same, but it has missed what the others did since: what it holds counts no more.
    Behind(usize),
    /// It was out, or never quite in: what it holds counts no more. With the units that it had, as far as the table remembers.
    Stale(u32),
    /// Nothing yet.
    New,
}

/// How the drives that were named stand to the pool.
struct Matching<'a> {
    drives: &'a [Candidate],
    found: &'a [Found],
    /// The superblock in force.
    block: &'a Superblock,
    in_force: &'a InForce,
    /// By drive: why it can't be used although the pool knew one there.
    unusable: Vec<Option<String>>,
    /// By drive: it was let go, or is where one was.
    let_go: Vec<bool>,
    /// Where drives are that were to join, maybe in vain.
    added: &'a [String],
}

/// A matching that may be opened.
struct Settled {
    /// The superblock with the missing drives out, paths and serial numbers up to date; nothing has joined yet.
    block: Superblock,
    /// For each drive of the table the index of its candidate.
    order: Vec<Option<usize>>,
    /// Candidates that join, and whether they were drives of the pool before.
    joining: Vec<(usize, bool)>,
    findings: Vec<Finding>,
}

/// An opening that is recorded on the drives.
struct Opened {
    block: Superblock,
    order: Vec<Option<usize>>,
    findings: Vec<Finding>,
}

/// Opens the pool that the superblock in force describes; drives that hold nothing of it join.
pub(super) async fn reopen(
    exec: &Handle,
    drives: &[Candidate],
    found: &[Found],
    in_force: InForce,
    options: &PoolOptions,
) -> Result<PoolPlan, StoreError> {
    let block = &in_force.block;
    if let Some(parity) = options.parity.filter(|&p| p != block.parity) {
        return Err(StoreError::Refused(format!(
            "the pool was made with parity {}, which stays so for its life; parity {parity} was asked for",
            block.parity
        )));
    }
    let mut matching = Matching::new(drives, found, &in_force, (&options.let_go, &options.added))?;
    loop {
        let settled = matching.settle(&options.absent, options.degraded)?;
        if let Err(why) = &options.at_least {
            whole(block, &settled.order, why)?;
        }
        let Opened { mut block, order, findings } = match open(exec, &matching, settled, options).await {
            Ok(opened) => opened,
            // A drive that can't be written is as good as absent. What this try has written has the number of the next, and counts
            // for nothing without that drive.
            Err((i, why)) if matching.may_lose(i) => {
                matching.unusable[i] = Some(why);
                continue;
            }
            Err((i, why)) => return Err(failed(&drives[i], why)),
        };
        if misses(&matching, &order) {
            // This try or an earlier one, which was cut short, may have given a drive that is out now a superblock with the number of this
            // one. Come back alone it must not pass for the pool: so the pool goes by the next one.
            let in_force = block.clone();
            block.sequence += 1;
            let written = write_each(exec, drives, &order, Some(&in_force), &block).await;
            written.map_err(|(i, why)| failed(&drives[i], why))?;
        }
        return Ok(PoolPlan { let_go: matching.left_alone(), ..plan(&block, order, false, findings) });
    }
}

/// True when a drive that the superblock in force counts takes no part in what follows it.
fn misses(matching: &Matching<'_>, order: &[Option<usize>]) -> bool {
    matching.block.drives.iter().zip(order).any(|(d, at)| d.state.counts() && at.is_none())
}

/// The plan of the pool as it stands, with what is missing out; and by drive whether the superblock in force counts it.
pub(super) fn as_it_stands(
    drives: &[Candidate],
    found: &[Found],
    in_force: &InForce,
) -> Result<(PoolPlan, Vec<bool>), StoreError> {
    let counted = in_force.block.drives.iter().map(|d| d.state.counts()).collect();
    let settled = Matching::new(drives, found, in_force, (&[], &[]))?.settle(&[], true)?;
    match settled.joining.iter().find(|(_, was_out)| !was_out) {
        Some(&(i, _)) => Err(StoreError::Refused(format!("{} is not a drive of the pool", drives[i].path))),
        // One that was out, or is behind, holds nothing that counts.
        None => Ok((plan(&settled.block, settled.order, false, settled.findings), counted)),
    }
}

/// Lets drives join and records this opening on every drive; or the drive that could not be written, and why.
async fn open(
    exec: &Handle,
    &Matching { drives, found, block: in_force, .. }: &Matching<'_>,
    settled: Settled,
    options: &PoolOptions,
) -> Result<Opened, (usize, String)> {
    let Settled { mut block, mut order, joining, mut findings } = settled;
    for (i, was_out) in joining {
        let salt = u64::try_from(i).unwrap_or(u64::MAX) + 1000 * (block.sequence + 1);
        let entry = entry(&drives[i], block.unit_bytes, derive(&options.seed, salt));
        let place = place_for(&block, entry.units).map_err(|why| (i, why))?;
        prepare(exec, drives[i].info.file).await.map_err(|why| (i, why))?;
        let path = drives[i].path.clone();
        findings.push(if was_out { Finding::Stale { path } } else { Finding::Joined { path } });
        block.seat(place, entry);
        if place == order.len() {
            order.push(Some(i));
        } else {
            order[place] = Some(i);
        }
    }
    let highest = found.iter().flat_map(Found::superblocks).map(|s| s.incarnation).max().unwrap_or(0);
    // What does not check may have been one higher.
    let unknown = found.iter().filter_map(Found::slots).flatten().any(|slot| matches!(slot, Slot::Damaged));
    block.incarnation = block.incarnation.max(highest) + 1 + u64::from(unknown);
    block.sequence += 1;
    write_each(exec, drives, &order, Some(in_force), &block).await?;
    Ok(Opened { block, order, findings })
}

/// Where the table takes another drive of so many units: a new place where there is one, so that it remembers who was there. Else that of
/// one that was no larger, since a checkpoint may still name each of its units; or why there is none.
pub(crate) fn place_for(block: &Superblock, units: u32) -> Result<usize, String> {
    if block.drives.len() < MAX_DRIVES {
        return Ok(block.drives.len());
    }
    let free = || block.drives.iter().enumerate().filter(|(_, d)| d.state == DriveState::Gone);
    let place = free().find(|(_, d)| d.units <= units).map(|(place, _)| place);
    place.ok_or_else(|| match free().map(|(_, d)| d.units).min() {
        Some(least) => format!("it has {units} units, and in the places that are free there were drives of {least} units and more"),
        None => format!("the pool has {MAX_DRIVES} drives, which is the most"),
    })
}

/// True when the pool has or had a drive under that path, or with that serial number.
fn knows(block: &Superblock, path: &str, serial: Option<&str>) -> bool {
    block.drives.iter().any(|d| d.is_known_as(path, serial))
}

impl<'a> Matching<'a> {
    /// Refuses what is not ours to touch, unless it stands where the pool has or had a drive.
    fn new(
        drives: &'a [Candidate],
        found: &'a [Found],
        in_force: &'a InForce,
        (let_go, added): (&[Uuid], &'a [String]),
    ) -> Result<Matching<'a>, StoreError> {
        let (unusable, none) = (vec![None; drives.len()], vec![false; drives.len()]);
        let block = &in_force.block;
        let mut matching = Matching { drives, found, block, in_force, unusable, let_go: none, added };
        for (i, drive) in drives.iter().enumerate() {
            matching.let_go[i] = matching.is_let_go(i, let_go);
            if matching.let_go[i] {
                continue;
            }
            let Some(why) = matching.unusable(i)? else { continue };
            if !matching.may_lose(i) {
                accept(drive, &found[i])?;
                let text = if knows(block, &drive.path, None) {
                    format!("pool {} is missing {}, which {why}. Put it back", block.pool, drive.path)
                } else {
                    format!("{} {why}", drive.path)
                };
                return Err(StoreError::Refused(format!("{text}; nothing was written")));
            }
            matching.unusable[i] = Some(why);
        }
        Ok(matching)
    }

    /// True when the drive that the pool knew in this place can be given up, or has been.
    fn may_lose(&self, i: usize) -> bool {
        let (path, serial) = (&self.drives[i].path, self.drives[i].info.serial.as_deref());
        if self.added.contains(path) && !knows(self.block, path, serial) {
            // No superblock that was ever in force counts it: no unit of it was ever given out.
            return true;
        }
        let mut known = self.block.drives.iter().filter(|d| d.is_known_as(path, serial)).peekable();
        known.peek().is_some() && (self.block.parity > 0 || known.all(|d| !d.state.counts()))
    }

    /// The drive's identity, if it is or was one of the pool's.
    fn identity(&self, i: usize) -> Option<Uuid> {
        let own = self.found[i].membership(self.block.pool).filter(|own| own.pool == self.block.pool);
        own.map(|own| own.drives[usize::from(own.index)].uuid)
    }

    /// True for a drive that was let go and counts no more, and for anything else where the last one that the pool knew was.
    fn is_let_go(&self, i: usize, let_go: &[Uuid]) -> bool {
        let (path, identity) = (&self.drives[i].path, self.identity(i));
        let counts = self.block.drives.iter().any(|d| d.state.counts() && Some(d.uuid) == identity);
        if counts && !self.in_force.is_behind(&self.found[i]) {
            return false;
        }
        let mut here = self.block.drives.iter().filter(|d| d.is_known_as(path, None));
        let vacated = !self.added.contains(path)
            && !here.clone().any(|d| d.state.counts())
            && here.next_back().is_some_and(|d| let_go.contains(&d.uuid));
        vacated || identity.is_some_and(|uuid| let_go.contains(&uuid))
    }

    /// What was let go: which candidates, and which drives of the pool they were.
    fn left_alone(&self) -> Vec<(usize, Option<Uuid>)> {
        let all = (0..self.drives.len()).filter(|&i| self.let_go[i]);
        all.map(|i| (i, self.identity(i))).collect()
    }

    /// Why a drive can be no drive of the pool, if it can't.
    fn unusable(&self, i: usize) -> Result<Option<String>, StoreError> {
        let (drive, unit_bytes) = (&self.drives[i], self.block.unit_bytes);
        let needed = match (&self.found[i], self.part(i)?) {
            (Found::Damaged, _) => return Ok(Some("has lost both its superblocks".into())),
            (Found::Foreign(what), _) => return Ok(Some(format!("holds {what}"))),
            (Found::Unreadable(why), _) => return Ok(Some(format!("can't be read: {why}"))),
            (Found::Other(_), _) => return accept(drive, &self.found[i]).map(|()| None),
            (_, Part::Member(place) | Part::Behind(place)) => self.block.drives[place].units,
            // A file that is gone is made anew by the start that names it with a size; it must not take the place of one whose
            // file system is not mounted, nor bring one back that was taken out of service.
            (_, Part::New) if drive.info.created && knows(self.block, &drive.path, None) => {
                return Ok(Some("is gone".into()));
            }
            // One that was cut short is to be looked at by somebody, not made use of.
            (_, Part::Stale(units)) => units,
            (_, Part::New) => 1,
        };
        let small = drive.info.size_bytes < LABEL_BYTES + u64::from(needed) * u64::from(unit_bytes);
        Ok(small.then(|| {
            let (bytes, units) = (drive.info.size_bytes, if needed == 1 { "unit" } else { "units" });
            format!("has {bytes} bytes, too few for 4 MiB and {needed} {units} of {unit_bytes} bytes")
        }))
    }

    /// What a drive is to the pool.
    fn part(&self, i: usize) -> Result<Part, StoreError> {
        let Some(own) = self.found[i].membership(self.block.pool) else { return Ok(Part::New) };
        if own.pool != self.block.pool {
            return Err(self.several_pools());
        }
        let uuid = own.drives[usize::from(own.index)].uuid;
        let place = self.block.drives.iter().position(|d| d.uuid == uuid);
        Ok(match place.map(|place| (place, &self.block.drives[place])) {
            Some((place, _)) if self.in_force.is_behind(&self.found[i]) => Part::Behind(place),
            Some((place, drive)) if drive.state.counts() => Part::Member(place),
            Some((_, drive)) => Part::Stale(drive.units),
            None => Part::Stale(1),
        })
    }

    /// The drives are of several pools: which is of which.
    fn several_pools(&self) -> StoreError {
        let mut pools: BTreeMap<Uuid, Vec<&str>> = BTreeMap::new();
        for (found, drive) in self.found.iter().zip(self.drives) {
            if let Some(own) = found.membership(self.block.pool) {
                pools.entry(own.pool).or_default().push(&drive.path);
            }
        }
        let told: Vec<String> =
            pools.iter().map(|(pool, paths)| format!("{} of {pool}", paths.join(", "))).collect();
        let told = told.join("; ");
        StoreError::Refused(format!(
            "the drives are of different pools: {told}. Nothing was written; give those of one"
        ))
    }

    /// Puts the drives that are missing out, brings paths and serial numbers up to date, and says who joins. Refuses a pool that has
    /// lost too many.
    fn settle(&self, absent: &[(String, String)], degraded: bool) -> Result<Settled, StoreError> {
        let mut block = self.block.clone();
        let (mut order, mut joining) = (vec![None; block.drives.len()], Vec::new());
        let mut there = order.clone();
        let usable = |i: usize| self.unusable[i].is_none() && !self.let_go[i];
        for (i, drive) in self.drives.iter().enumerate().filter(|(i, _)| usable(*i)) {
            let (place, serves) = match self.part(i)? {
                Part::Member(place) => (place, true),
                Part::Behind(place) => (place, false),
                Part::Stale(_) => {
                    joining.push((i, true));
                    continue;
                }
                Part::New => {
                    joining.push((i, false));
                    continue;
                }
            };
            if let Some(other) = there[place].replace(i) {
                let other: &Candidate = &self.drives[other];
                return Err(StoreError::Refused(format!(
                    "{} and {} are the same drive of the pool, or a copy of one",
                    other.path, drive.path
                )));
            }
            if !serves {
                joining.push((i, true));
                continue;
            }
            order[place] = Some(i);
            block.drives[place].path.clone_from(&drive.path);
            block.drives[place].serial = drive.info.serial.clone().unwrap_or_default();
        }
        let reasons = self.reasons(absent, &order, &joining);
        if !degraded {
            self.forgotten(absent, &order, &reasons)?;
        }
        let behind = |uuid| (0..self.drives.len()).any(|i| self.is_older(i, uuid));
        missing(&mut block, &order, behind)?;
        let mut findings = self.lost(&order, &reasons);
        findings.extend(self.untouched());
        findings.extend(self.in_vain(absent));
        Ok(Settled { block, order, joining, findings })
    }

    /// True for this drive, in a state of before.
    fn is_older(&self, i: usize, drive: Uuid) -> bool {
        self.identity(i) == Some(drive) && self.in_force.is_behind(&self.found[i])
    }

    /// For each drive of the table that is missing: what is wrong in its place. `None` where nobody has looked there.
    fn reasons(
        &self,
        absent: &[(String, String)],
        order: &[Option<usize>],
        joining: &[(usize, bool)],
    ) -> Vec<Option<String>> {
        let reason = |(known, at): (&DriveEntry, &Option<usize>)| {
            let here = |i: &usize| {
                let drive = &self.drives[*i];
                known.is_known_as(&drive.path, drive.info.serial.as_deref())
            };
            if at.is_some() {
                return None;
            }
            let unusable = (0..self.drives.len()).filter(|&i| self.unusable[i].is_some()).find(here);
            let let_go = (0..self.drives.len()).filter(|&i| self.let_go[i]);
            let replaced = joining.iter().map(|&(i, _)| i).chain(let_go).find(here);
            let gone = absent.iter().find(|(path, _)| known.is_known_as(path, None));
            let behind = (0..self.drives.len()).find(|&i| self.is_older(i, known.uuid));
            behind
                .map(|i| {
                    format!(
                        "{} has missed what the pool did since: it is older than the others",
                        self.drives[i].path
                    )
                })
                .or_else(|| {
                    unusable
                        .and_then(|i| self.unusable[i].as_ref().map(|why| format!("what is there now {why}")))
                })
                .or_else(|| replaced.map(|_| "another drive is in its place".into()))
                .or_else(|| gone.map(|(_, why)| why.clone()))
        };
        self.block.drives.iter().zip(order).map(reason).collect()
    }

    /// Refuses to take a drive for lost that may only have been forgotten: one that nobody names, under any name that the pool had
    /// for another one of its drives.
    fn forgotten(
        &self,
        absent: &[(String, String)],
        order: &[Option<usize>],
        reasons: &[Option<String>],
    ) -> Result<(), StoreError> {
        let counted = || self.block.drives.iter().filter(|d| d.state.counts());
        let missing = self.block.drives.iter().zip(order).zip(reasons);
        let unnamed: Vec<String> = missing
            .filter(|((d, at), reason)| d.state.counts() && at.is_none() && reason.is_none())
            .map(|((d, _), _)| named(d))
            .collect();
        // Devices change their names when one of them is gone: a drive that is there under the name of a lost one leaves another
        // name without a drive.
        let renamed = absent.iter().filter(|(path, _)| {
            let known =
                self.block.drives.iter().zip(order).find(|(d, _)| d.state.counts() && d.path == *path);
            known.is_some_and(|(_, at)| at.is_some())
        });
        if unnamed.len() <= renamed.count() {
            return Ok(());
        }
        let strange = absent.iter().filter(|(path, _)| !knows(self.block, path, None));
        let strange: String = strange.map(|(_, why)| format!(" ({why})")).collect();
        let way_out = if self.block.parity > 0 {
            "Name them all: one that is named and can't be opened is taken for lost. Or start without them: --degraded"
        } else {
            "Name them all"
        };
        Err(StoreError::Refused(format!(
            "pool {} has {} drives, and these are missing: {}{strange}; nothing was written. {way_out}",
            self.block.pool,
            counted().count(),
            unnamed.join(", ")
        )))
    }

    /// The drives that are out from now on.
    fn lost(&self, order: &[Option<usize>], reasons: &[Option<String>]) -> Vec<Finding> {
        let missing = (0u16..).zip(self.block.drives.iter().zip(order).zip(reasons));
        missing
            .filter(|(_, ((d, at), _))| d.state != DriveState::Gone && at.is_none())
            .map(|(drive, ((known, _), reason))| Finding::Lost {
                path: known.path.clone(),
                drive,
                reason: reason.clone().unwrap_or_else(|| "it was not named".into()),
            })
            .collect()
    }

    /// What is not there, and where the pool had no drive: what was to join and never did, or a name that was left over when devices were
    /// numbered anew.
    fn in_vain<'b>(&'b self, absent: &'b [(String, String)]) -> impl Iterator<Item = Finding> + 'b {
        let strange = absent.iter().filter(|(path, _)| !knows(self.block, path, None));
        strange.map(|(path, why)| Finding::Untouched {
            path: path.clone(),
            reason: format!("is not there: {why}"),
        })
    }

    /// What was named and is left alone.
    fn untouched(&self) -> impl Iterator<Item = Finding> {
        self.drives.iter().zip(&self.unusable).filter_map(|(drive, why)| {
            Some(Finding::Untouched { path: drive.path.clone(), reason: why.clone()? })
        })
    }
}

/// A drive as the operator knew it.
fn named(drive: &DriveEntry) -> String {
    let serial = if drive.serial.is_empty() { String::new() } else { format!(", serial {}", drive.serial) };
    let was_out = if drive.state == DriveState::Out { ", out before" } else { "" };
    format!("{} (drive {}{serial}{was_out})", drive.path, drive.uuid)
}

/// Refuses a pool that is not whole: why nobody knows how far it had come.
fn whole(block: &Superblock, order: &[Option<usize>], why: &str) -> Result<(), StoreError> {
    let missing = block.drives.iter().zip(order).filter(|(d, at)| d.state.counts() && at.is_none());
    let missing: Vec<String> = missing.map(|(drive, _)| named(drive)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(StoreError::Refused(format!(
        "these drives of pool {} are missing: {}; nothing was written. They may have gone on without the ones that are there, and what          would tell is lost: name all that served last. {why}",
        block.pool,
        missing.join(", ")
    )))
}

/// Puts the drives that are missing out. Refuses a pool that has lost too many, by the names under which the operator knew them.
fn missing(
    block: &mut Superblock,
    order: &[Option<usize>],
    is_behind: impl Fn(Uuid) -> bool,
) -> Result<(), StoreError> {
    let spare = block.spare();
    let not_here = |counts: fn(DriveState) -> bool| {
        let places = block.drives.iter().zip(order).enumerate();
        places.filter(move |(_, (d, at))| at.is_none() && counts(d.state)).map(|(place, _)| place)
    };
    let name = |drive: &DriveEntry| {
        let why = if is_behind(drive.uuid) { ", which is older than what the pool has come to" } else { "" };
        format!("{}{why}", named(drive))
    };
    let absent: Vec<String> =
        not_here(|state| state != DriveState::Gone).map(|place| name(&block.drives[place])).collect();
    let lost: Vec<usize> = not_here(DriveState::counts).collect();
    if block.lose(lost) {
        return Ok(());
    }
    let drives = block.drives.iter().filter(|d| d.state != DriveState::Gone).count();
    let before = if block.parity > spare { " until what was lost before is made good" } else { "" };
    Err(StoreError::Refused(format!(
        "pool {} has {drives} drives and can do without {spare}{before}; these are missing: {}; nothing was written",
        block.pool,
        absent.join(", ")
    )))
}
