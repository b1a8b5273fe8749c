//! The owner of the pool's units: leases them to shards, keeps the reserve, shares out what hosts may fill, and lets drives
//! that fail or leave go.
//!
//! Units are leased in sets, one for each column of a segment, on as many drives. Who holds what is never written down here:
//! each shard's checkpoint and log say it, and every shard reports after recovery. Until all have, nothing is leased.
//!
//! ```text
//!   free units    0 .......... M ............. M + C .................. all
//!                 map pages    | + cleaning,   | + host writes
//!                 only         |   control     |
//! ```

mod drives;
mod reserve;

pub use drives::DriveStanding;

use crate::columns::{Columns, MAX_COLUMNS, Shape, drive_bit};
use crate::format::segment::{STREAMS, Stream};
use crate::membership::{Change, Membership};
use crate::message::Members;
use crate::{DriveState, PoolPlan, Purpose, SpaceLevel, StoreError, ToPool, ToShard, UnitId};
use dolmen_io::FileId;
use dolmen_io::exec::Handle;
use dolmen_types::ShardId;
use reserve::{Reserve, in_sets, usable};
use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

/// The most needed first: what for, and whether that is only what a shard needs to go on after a start (two segments of the hot and of the
/// cold stream). Control records come first there, since cleaning may need more than there is.
const ORDER: [(Purpose, bool); 7] = [
    (Purpose::Metadata, false),
    (Purpose::Control, true),
    (Purpose::Clean, true),
    (Purpose::Clean, false),
    (Purpose::Control, false),
    (Purpose::Host, false),
    (Purpose::Bulk, false),
];

/// What the owner knows of a shard.
#[derive(Default)]
struct View {
    recovered: bool,
    footprint_bytes: u64,
    /// What it waits for, per stream.
    wants: [Option<Purpose>; STREAMS],
    /// How often each stream was given units. What the hot and the cold one need to go on comes from what the shard gave up by
    /// restarting, and from what cleaning left for it, so no reserve stands before that: a start never waits for space.
    given: [u32; STREAMS],
    /// Drives without which something could not be had that it has still to move.
    needs: u64,
    level: SpaceLevel,
}

/// Lives on core 0; bookkeeping fed by messages, but for the superblocks that it has written when drives come or go.
pub struct PoolOwner {
    shards: Vec<View>,
    /// Per drive: true for a unit that a shard holds.
    held: Vec<Vec<bool>>,
    /// Per drive: units that shards hold.
    held_units: Vec<u32>,
    /// Per drive: free units; the one that was given back first goes out first.
    free: Vec<VecDeque<u32>>,
    /// Segments and leases that shards hold, with fewer parity columns than the pool was made for. Count.
    short: usize,
    next_drive: usize,
    next_shard: usize,
    unit_bytes: u32,
    members: Members,
    membership: Membership,
    /// What is wrong with drives that serve or are emptied, for people.
    ailments: BTreeMap<u16, String>,
    reserve: Reserve,
    out: Vec<(ShardId, ToShard)>,
}

impl PoolOwner {
    /// Knows nothing about who holds what until every shard has reported [`ToPool::Recovered`]. `files[i]` is core 0's handle of
    /// the plan's drive `i`; superblocks are written by tasks on `exec`, one at a time.
    #[must_use]
    pub fn new(plan: &PoolPlan, files: &[Option<FileId>], exec: &Handle) -> PoolOwner {
        PoolOwner::with(plan, Membership::new(plan, files, Some(exec.clone())))
    }

    fn with(plan: &PoolPlan, membership: Membership) -> PoolOwner {
        let members = membership.members();
        let none = Reserve::default();
        let mut owner = PoolOwner {
            shards: (0..plan.shards).map(|_| View::default()).collect(),
            held: plan.drives.iter().map(|d| vec![false; d.units as usize]).collect(),
            held_units: vec![0; plan.drives.len()],
            free: plan.drives.iter().map(|_| VecDeque::new()).collect(),
            short: 0,
            next_drive: 0,
            next_shard: 0,
            unit_bytes: plan.unit_bytes,
            members,
            membership,
            ailments: BTreeMap::new(),
            reserve: none,
            out: Vec::new(),
        };
        owner.measure();
        // A start may have lost a drive while another one was leaving. What needs units is seen when the shards have told.
        owner.keep_what_is_needed();
        owner
    }

    /// A message of a shard. Fails when two shards hold one unit: the drives contradict themselves, nothing may be served.
    pub fn on_shard(&mut self, message: ToPool) -> Result<(), StoreError> {
        let shard = message.shard();
        let Some(view) = self.shards.get_mut(usize::from(shard.0)) else { return Ok(()) };
        match message {
            ToPool::Recovered { segments, footprint_bytes, .. } => {
                view.recovered = true;
                view.footprint_bytes = footprint_bytes;
                for columns in segments {
                    columns.units().iter().try_for_each(|&unit| self.hold(unit))?;
                    self.short += self.falls_short(&columns);
                }
                if self.ready() {
                    self.collect_free();
                    self.send_levels(None);
                    if self.membership.told().drives.iter().any(|d| d.state == DriveState::Out) {
                        self.keep_what_is_needed();
                    }
                }
            }
            ToPool::Want { purpose, .. } => view.wants[stream_of(purpose) as usize] = Some(purpose),
            ToPool::Release { segments, .. } => {
                segments.iter().for_each(|columns| self.take_back(columns));
                self.send_levels(None);
            }
            ToPool::Live { footprint_bytes, .. } => {
                view.footprint_bytes = footprint_bytes;
                self.send_levels(Some(shard));
            }
            ToPool::Needs { drives, .. } => view.needs = drives,
            ToPool::Failed { drive, reason, .. } => self.membership.fail(drive, reason),
            ToPool::Ailing { drive, reason, .. } => {
                if self.can_spare(drive) {
                    self.membership.give_up(drive, reason);
                }
            }
            ToPool::Silent { drive, reason, .. } => {
                // A start may wait for nothing else: what shards need that have not told is not known, nor could it be read.
                if self.spares(drive) {
                    self.membership.give_up(drive, reason);
                }
            }
            ToPool::ReadsBadly { drive, reason, .. } => self.reads_badly(drive, reason),
        }
        self.settle();
        self.grant();
        Ok(())
    }

    /// Takes what is to be sent to shards. Once per turn: this is also where the outcome of a superblock's writing is seen.
    pub fn drain(&mut self, out: &mut Vec<(ShardId, ToShard)>) {
        self.settle();
        out.append(&mut self.out);
    }

    /// Units that nobody holds and that a segment can be made of.
    #[must_use]
    pub fn free_units(&self) -> u32 {
        let free: Vec<u32> = self.active().map(|i| self.free_on(i)).collect();
        in_sets(&free, self.members.shape.narrow())
    }

    /// Units that nobody holds, by drive in the plan's order.
    #[must_use]
    pub fn free_units_by_drive(&self) -> Vec<u32> {
        (0..self.free.len()).map(|i| self.free_on(i)).collect()
    }

    /// Live data that the pool takes in all: raw space less the reserve and what parity takes.
    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        self.members.shape.usable(self.reserve.capacity_bytes)
    }

    /// Of the drives in service, what is not for hosts' data, its parity and their map: for cleaning, checkpoints and control
    /// records, open segments, commits' headers. And what those drives have in all. Bytes.
    #[must_use]
    pub fn reserve_bytes(&self) -> (u64, u64) {
        let units: u64 = self.active().map(|i| self.held[i].len() as u64).sum();
        let raw = units * u64::from(self.unit_bytes);
        (raw.saturating_sub(self.reserve.capacity_bytes), raw)
    }

    /// Of the drives that the pool was made to lose, how many it can't lose now, since losses before are not made good: drives are out, or
    /// too few were there for its parity, and re-protection is not through.
    #[must_use]
    pub fn deficit(&self) -> u8 {
        self.membership.told().deficit
    }

    fn free_on(&self, drive: usize) -> u32 {
        u32::try_from(self.free[drive].len()).expect("units fit 32 bits")
    }

    /// Drives that new segments are begun on.
    fn active(&self) -> impl Iterator<Item = usize> + '_ {
        let set = self.members.out | self.members.leaving;
        (0..self.free.len()).filter(move |&i| u16::try_from(i).is_ok_and(|d| set & drive_bit(d) == 0))
    }

    /// What the drives in service come to.
    fn measure(&mut self) {
        let shards = u32::try_from(self.shards.len()).expect("at most MAX_SHARDS");
        let units: Vec<u32> =
            self.active().map(|i| u32::try_from(self.held[i].len()).expect("units fit 32 bits")).collect();
        let shape = self.members.shape;
        self.reserve = Reserve::of(usable(&units, shape), self.unit_bytes, shards, shape);
    }

    /// Goes on with changes of the membership, and tells the shards what has come of them.
    fn settle(&mut self) {
        if self.ready() {
            let holds = |drive: u16| self.held_units[usize::from(drive)] > 0;
            let places = || (0u16..).take(self.held_units.len());
            let waiting = self.members.out | self.members.leaving;
            for drive in places().filter(|&d| waiting & drive_bit(d) != 0 && !holds(d)) {
                self.membership.emptied(drive);
            }
            if self.short == 0 {
                let out = places().filter(|&d| self.members.out & drive_bit(d) != 0 && holds(d));
                self.membership.made_good(out.count());
            }
        }
        while let Some(change) = self.membership.poll() {
            let message = match change {
                Change::Stop(reason) => ToShard::Stop { reason },
                Change::Members(members, joined) => {
                    if let Some(joined) = joined {
                        self.take_in(joined);
                    }
                    let serves = |m: &Members| !(m.out | m.leaving);
                    let fewer = serves(&self.members) & !serves(&members) != 0;
                    self.members = members;
                    self.measure();
                    if fewer {
                        self.keep_what_is_needed();
                    }
                    ToShard::Members(members)
                }
            };
            for shard in (0u16..).take(self.shards.len()).map(ShardId) {
                self.out.push((shard, message.clone()));
            }
            self.send_levels(None);
            self.grant();
        }
    }

    /// True when the pool can do without a drive that does what it is told.
    fn can_spare(&self, drive: u16) -> bool {
        self.ready() && self.spares(drive)
    }

    /// True when that is so as far as shards have told.
    fn spares(&self, drive: u16) -> bool {
        let needs = self.shards.iter().fold(0, |set, shard| set | shard.needs);
        self.membership.can_spare() && needs & drive_bit(drive) == 0
    }

    fn ready(&self) -> bool {
        self.shards.iter().all(|s| s.recovered)
    }

    /// 1 for a segment with fewer parity columns than the pool was made for.
    fn falls_short(&self, columns: &Columns) -> usize {
        usize::from(columns.parity() < usize::from(self.membership.told().parity))
    }

    fn hold(&mut self, unit: UnitId) -> Result<(), StoreError> {
        let held = self.held.get_mut(usize::from(unit.drive)).and_then(|d| d.get_mut(unit.unit as usize));
        match held {
            Some(held) if !*held => {
                *held = true;
                self.held_units[usize::from(unit.drive)] += 1;
                Ok(())
            }
            _ => Err(StoreError::Corrupt(format!(
                "unit {} of drive {} is held twice or does not exist; run `dolmen pool check`",
                unit.unit, unit.drive
            ))),
        }
    }

    fn collect_free(&mut self) {
        for (drive, held) in self.held.iter().enumerate() {
            self.free[drive] = (0u32..).zip(held).filter(|(_, held)| !**held).map(|(unit, _)| unit).collect();
        }
    }

    /// A shard holds the units of a segment no more.
    fn take_back(&mut self, columns: &Columns) {
        let is_held = |u: &UnitId| self.held.get(usize::from(u.drive)).and_then(|d| d.get(u.unit as usize));
        if columns.units().iter().all(|u| is_held(u) == Some(&true)) {
            self.short -= self.falls_short(columns);
        }
        columns.units().iter().for_each(|&unit| self.give_back(unit));
    }

    fn give_back(&mut self, unit: UnitId) {
        let held = self.held.get_mut(usize::from(unit.drive)).and_then(|d| d.get_mut(unit.unit as usize));
        if let Some(held) = held
            && std::mem::take(held)
        {
            self.free[usize::from(unit.drive)].push_back(unit.unit);
            self.held_units[usize::from(unit.drive)] -= 1;
        }
    }

    /// Leases what the reserve allows, the most needed first, shards in turn.
    fn grant(&mut self) {
        if !self.ready() {
            return;
        }
        let mut granted = false;
        for (purpose, begins) in ORDER {
            let (shards, first) = (self.shards.len(), self.next_shard);
            let narrow = self.members.shape.narrow();
            // What a start needs takes no more than that from the others, who need it too.
            let (floor, most) =
                if begins { (0, narrow) } else { (self.reserve.floor(purpose), self.width(purpose)) };
            for index in (0..shards).map(|i| (first + i) % shards) {
                let (view, stream) = (&self.shards[index], stream_of(purpose) as usize);
                if view.wants[stream] != Some(purpose) || (begins && view.given[stream] >= 2) {
                    continue;
                }
                let fits = |width: &u32| self.would_leave(*width).is_some_and(|left| left >= floor);
                let Some(width) = (narrow..=most).rev().find(fits) else { continue };
                let Some(columns) = self.take(width) else { continue };
                granted = true;
                let view = &mut self.shards[index];
                view.wants[stream] = None;
                view.given[stream] = view.given[stream].saturating_add(1);
                let shard = ShardId(u16::try_from(index).expect("at most MAX_SHARDS"));
                self.out.push((shard, ToShard::Lease { columns, purpose }));
                self.next_shard = (index + 1) % shards;
            }
        }
        if granted {
            self.send_levels(None);
        }
    }

    /// What [`PoolOwner::free_units`] comes to once so many units are taken; `None` when no segment can be made.
    fn would_leave(&self, width: u32) -> Option<u32> {
        let narrow = self.members.shape.narrow();
        let mut free: Vec<u32> = self.active().map(|i| self.free_on(i)).collect();
        if in_sets(&free, narrow) < narrow {
            return None;
        }
        free.sort_unstable_by_key(|&units| Reverse(units));
        free.iter_mut().take(width as usize).for_each(|units| *units = units.saturating_sub(1));
        Some(in_sets(&free, narrow))
    }

    /// Units that a segment for this purpose is made of, at most.
    fn width(&self, purpose: Purpose) -> u32 {
        match purpose {
            Purpose::Host | Purpose::Control | Purpose::Metadata => self.members.shape.narrow(),
            Purpose::Clean | Purpose::Bulk => self.members.shape.wide(),
        }
    }

    /// Free units on different drives, of those that have most; fewer data columns when too few drives have any.
    fn take(&mut self, width: u32) -> Option<Columns> {
        let (drives, first) = (self.free.len(), self.next_drive);
        let mut order: Vec<usize> = self.active().filter(|&i| !self.free[i].is_empty()).collect();
        order.sort_by_key(|&i| (Reverse(self.free[i].len()), (i + drives - first) % drives));
        order.truncate((width as usize).min(MAX_COLUMNS));
        if order.len() < self.members.shape.narrow() as usize {
            return None;
        }
        let mut units = Vec::new();
        for &drive in &order {
            let unit = self.free[drive].pop_front()?;
            self.held[drive][unit as usize] = true;
            self.held_units[drive] += 1;
            units.push(UnitId { drive: u16::try_from(drive).expect("at most MAX_DRIVES"), unit });
        }
        self.next_drive = (order[0] + 1) % drives;
        let columns = Columns::new(&units, usize::from(self.members.shape.parity))?;
        self.short += self.falls_short(&columns);
        Some(columns)
    }

    /// What wide segments can be made of with what is free, the drives that have so little that units of others wait for theirs, and of how
    /// many of those such a segment has a unit.
    fn straits(&self) -> (Shape, u64, u32) {
        let free: Vec<u32> = self.active().map(|i| self.free_on(i)).collect();
        let parity = self.members.shape.parity;
        let shapes = (1..=self.members.shape.data).rev().map(|data| Shape { data, parity });
        let shape = shapes.into_iter().find(|s| in_sets(&free, s.wide()) >= 2 * s.wide());
        let all = free.iter().sum::<u32>();
        let has_little = |&i: &usize| self.free_on(i) as usize * free.len() * 2 < all as usize;
        let scarce =
            self.active().filter(has_little).map(|i| drive_bit(u16::try_from(i).unwrap_or(u16::MAX)));
        let scarce = scarce.fold(0, |set, bit| set | bit);
        let shape = shape.unwrap_or(Shape { data: 1, parity });
        let others = u32::try_from(free.len()).unwrap_or(u32::MAX) - scarce.count_ones();
        (shape, scarce, shape.wide().saturating_sub(others))
    }

    /// Tells shards where the pool stands: `asked` in any case, the others when it matters to them.
    fn send_levels(&mut self, asked: Option<ShardId>) {
        if !self.ready() {
            return;
        }
        let live: u64 = self.shards.iter().map(|s| s.footprint_bytes).sum();
        let rest = |bytes: u64| bytes.saturating_sub(live) / self.shards.len() as u64;
        let share = rest(self.reserve.capacity_bytes);
        let share_of_holes = rest(self.reserve.capacity_bytes + self.reserve.holes_bytes);
        let map_bytes = self.reserve.map_bytes(self.unit_bytes) / self.shards.len() as u64;
        let free_units = self.free_units();
        let clean = free_units <= self.reserve.clean_below;
        let pressure = self.reserve.pressure(free_units);
        let (shape, scarce, takes_scarce) =
            if pressure < 1000 { (self.members.shape, 0, 0) } else { self.straits() };
        for (index, view) in (0u16..).zip(&mut self.shards) {
            let allowance_bytes = view.footprint_bytes + share;
            let holes_bytes = view.footprint_bytes + share_of_holes;
            let level = SpaceLevel {
                allowance_bytes,
                holes_bytes,
                map_bytes,
                free_units,
                clean,
                pressure,
                shape,
                scarce,
                takes_scarce,
            };
            let moved = view.level.allowance_bytes.abs_diff(level.allowance_bytes) > share / 8;
            if moved
                || view.level.pressure != pressure
                || view.level.clean != clean
                || view.level.map_bytes != map_bytes
                || view.level.holes_bytes.abs_diff(holes_bytes) > share_of_holes / 8
                || (view.level.shape, view.level.scarce) != (shape, scarce)
                || asked == Some(ShardId(index))
            {
                view.level = level;
                self.out.push((ShardId(index), ToShard::Space(level)));
            }
        }
    }
}

/// The stream that a unit leased for `purpose` goes to.
pub(crate) fn stream_of(purpose: Purpose) -> Stream {
    match purpose {
        Purpose::Host | Purpose::Control => Stream::Hot,
        Purpose::Clean => Stream::Cold,
        Purpose::Metadata => Stream::Meta,
        Purpose::Bulk => Stream::Bulk,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PlanDrive;
    use dolmen_types::Uuid;

    fn plan(drives: &[u32], shards: u16) -> PoolPlan {
        let drive = |&units: &u32| PlanDrive {
            uuid: Uuid::NIL,
            path: String::new(),
            serial: String::new(),
            units,
            state: DriveState::In,
            fresh: false,
        };
        PoolPlan {
            pool: Uuid::NIL,
            incarnation: 1,
            unit_bytes: 1 << 20,
            shards,
            parity: 0,
            deficit: 0,
            sequence: 1,
            drives: drives.iter().map(drive).collect(),
            order: (0..drives.len()).map(Some).collect(),
            created: true,
            findings: Vec::new(),
            let_go: Vec::new(),
        }
    }

    /// A pool whose drives have so many units free, and nothing is leased.
    fn with_free(free: &[u32], shards: u16, parity: u8) -> PoolOwner {
        const UNITS: u32 = 100;
        let mut owner = owner(&PoolPlan { parity, ..plan(&vec![UNITS; free.len()], shards) });
        let held = (0u16..)
            .zip(free)
            .flat_map(|(drive, &free)| (free..UNITS).map(move |unit| UnitId { drive, unit }));
        let mut segments: Vec<Columns> = held.map(|unit| Columns::new(&[unit], 0).unwrap()).collect();
        for shard in (0..shards).map(ShardId) {
            let segments = std::mem::take(&mut segments);
            owner.on_shard(ToPool::Recovered { shard, segments, footprint_bytes: 0 }).unwrap();
        }
        owner
    }

    /// A wide lease takes no more than what is free beyond the floor, however the free units lie.
    #[test]
    fn no_lease_goes_below_the_floor() {
        for free in
            [vec![1; 12], vec![2; 12], vec![30, 4, 3, 3, 2, 1, 1, 1, 1, 1, 1, 1], vec![9, 8, 7, 2, 2, 2]]
        {
            for purpose in [Purpose::Bulk, Purpose::Host, Purpose::Clean] {
                let mut owner = with_free(&free, 1, 2);
                let floor = owner.reserve.floor(purpose);
                let mut given = 0;
                for _ in 0..100 {
                    let before = owner.free_units();
                    owner.on_shard(ToPool::Want { shard: ShardId(0), purpose }).unwrap();
                    let got = leases(&mut owner);
                    given += got.len();
                    // What a start needs comes from below.
                    let begins = purpose == Purpose::Clean && given <= 2;
                    assert!(got.is_empty() || begins || owner.free_units() >= floor, "{free:?} {purpose:?}");
                    assert!(!got.is_empty() || before < floor + 3, "{before} free of {free:?}, {purpose:?}");
                    assert!(got.iter().all(|columns| !begins || columns.len() == 3));
                }
            }
        }
    }

    /// What shards hold ahead goes back when they restart: with that and what cleaning leaves alone each of them can begin two segments of
    /// both streams.
    #[test]
    fn after_a_start_each_shard_gets_two_of_both() {
        let mut owner = with_free(&[2; 12], 2, 2);
        assert_eq!(owner.free_units(), 2 * owner.reserve.restart);
        let mut given = [[0; 2]; 2];
        for _ in 0..4 {
            for shard in [0, 1] {
                for purpose in [Purpose::Clean, Purpose::Control] {
                    owner.on_shard(ToPool::Want { shard: ShardId(shard), purpose }).unwrap();
                }
            }
            let mut out = Vec::new();
            owner.drain(&mut out);
            for (shard, message) in out {
                if let ToShard::Lease { purpose, .. } = message {
                    given[usize::from(shard.0)][usize::from(purpose == Purpose::Control)] += 1;
                }
            }
        }
        assert_eq!(given, [[2; 2]; 2]);
    }

    fn owner(plan: &PoolPlan) -> PoolOwner {
        PoolOwner::with(plan, Membership::new(plan, &[], None))
    }

    fn leases(owner: &mut PoolOwner) -> Vec<Columns> {
        let mut out = Vec::new();
        owner.drain(&mut out);
        out.into_iter()
            .filter_map(|(_, m)| if let ToShard::Lease { columns, .. } = m { Some(columns) } else { None })
            .collect()
    }

    #[test]
    fn leases_rotate_over_drives_and_stop_at_the_floor() {
        let mut owner = owner(&plan(&[5, 5], 1));
        let shard = ShardId(0);
        owner.on_shard(ToPool::Want { shard, purpose: Purpose::Host }).unwrap();
        assert!(leases(&mut owner).is_empty());
        owner
            .on_shard(ToPool::Recovered {
                shard,
                segments: vec![Columns::new(&[UnitId { drive: 0, unit: 0 }], 0).unwrap()],
                footprint_bytes: 0,
            })
            .unwrap();
        let mut got = leases(&mut owner);
        for _ in 0..10 {
            owner.on_shard(ToPool::Want { shard, purpose: Purpose::Host }).unwrap();
            got.extend(leases(&mut owner));
        }
        assert_eq!(got.len(), 9 - 4);
        assert!(got.windows(2).all(|w| w[0].units()[0].drive != w[1].units()[0].drive));
        owner.on_shard(ToPool::Want { shard, purpose: Purpose::Clean }).unwrap();
        owner.on_shard(ToPool::Want { shard, purpose: Purpose::Metadata }).unwrap();
        let more = leases(&mut owner);
        assert_eq!(more.iter().map(Columns::len).collect::<Vec<_>>(), [1, 1]);
        let segments = got.iter().chain(&more).copied().collect();
        owner.on_shard(ToPool::Release { shard, segments }).unwrap();
        assert_eq!(leases(&mut owner).len(), 1);
    }

    #[test]
    fn a_unit_held_twice_is_corruption() {
        let mut owner = owner(&plan(&[5], 2));
        let segments = vec![Columns::new(&[UnitId { drive: 0, unit: 3 }], 0).unwrap()];
        owner
            .on_shard(ToPool::Recovered { shard: ShardId(0), segments: segments.clone(), footprint_bytes: 0 })
            .unwrap();
        let twice = ToPool::Recovered { shard: ShardId(1), segments, footprint_bytes: 0 };
        assert!(owner.on_shard(twice).is_err());
    }

    #[test]
    fn the_reserve_is_at_most_seven_per_cent_of_a_real_pool() {
        for (units, shards) in [(512, 1), (640, 2), (3072, 16), (100_000, 16)] {
            let reserve = Reserve::of(units, 1 << 24, shards, Shape { data: 1, parity: 0 });
            assert!(
                reserve.capacity_bytes * 100 >= u64::from(units) * (1 << 24) * 92,
                "{units} units, {shards} shards"
            );
            assert!(reserve.metadata + reserve.cleaning < units * 7 / 100);
        }
    }

    #[test]
    fn allowances_never_exceed_the_capacity() {
        let mut owner = owner(&plan(&[600], 2));
        for s in 0..2 {
            owner
                .on_shard(ToPool::Recovered { shard: ShardId(s), segments: vec![], footprint_bytes: 1 << 20 })
                .unwrap();
        }
        owner.on_shard(ToPool::Live { shard: ShardId(0), footprint_bytes: 200 << 20 }).unwrap();
        let mut out = Vec::new();
        owner.drain(&mut out);
        let mut allowance = [0; 2];
        for (shard, message) in out {
            if let ToShard::Space(level) = message {
                allowance[usize::from(shard.0)] = level.allowance_bytes;
            }
        }
        assert!(allowance[0] > 200 << 20 && allowance[1] > 1 << 20);
        assert!(allowance.iter().sum::<u64>() <= owner.capacity_bytes());
    }
}
