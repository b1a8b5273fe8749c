//! The owner of the pool's units: leases them to shards, keeps the reserve, shares out what hosts may fill.
//!
//! Who holds what is never written down here: each shard's checkpoint and log say it, and every shard reports after
//! recovery. Until all have, nothing is leased.
//!
//! ```text
//!   free units    0 .......... M ............. M + C .................. all
//!                 map pages    | + cleaning,   | + host writes
//!                 only         |   control     |
//! ```

use crate::format::segment::Stream;
use crate::{PoolPlan, Purpose, SpaceLevel, StoreError, ToPool, ToShard, UnitId};
use dolmen_types::ShardId;
use std::collections::VecDeque;

/// What the owner knows of a shard.
#[derive(Default)]
struct View {
    recovered: bool,
    live_bytes: u64,
    /// What it waits for, per stream.
    wants: [Option<Purpose>; 3],
    /// Streams that have had their first unit. It comes from what the shard gave up by restarting, so no reserve stands
    /// before it: recovery never waits for space.
    begun: [bool; 3],
    level: SpaceLevel,
}

/// Units that the reserve consists of, and what hosts may fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reserve {
    /// For map pages and checkpoints alone.
    pub(crate) metadata: u32,
    /// For cleaning and control records, on top.
    pub(crate) cleaning: u32,
    /// Shards clean when no more than this is free.
    pub(crate) clean_below: u32,
    /// Live bytes that the pool takes in all.
    pub(crate) capacity_bytes: u64,
}

impl Reserve {
    /// The reserve of a pool of `units` units of `unit_bytes` shared by `shards` shards.
    pub(crate) fn of(units: u32, unit_bytes: u32, shards: u32) -> Reserve {
        let metadata = (2 * shards).max(units / 80);
        let cleaning = (2 * shards).max(units / 100);
        let clean_below = metadata + cleaning + (2 * shards).max(units / 24);
        // What commits' own headers, open segments and leases ahead take comes out of the 7 % too. A pool too small for that
        // gives up what its shards need to go on.
        let by_share = u64::from(units) * 93 / 100;
        let capacity_bytes = if units >= 512 && by_share <= u64::from(units.saturating_sub(11 * shards)) {
            by_share * u64::from(unit_bytes)
        } else {
            by_share.min(u64::from(units.saturating_sub(14 * shards))) * u64::from(unit_bytes - 4096) * 7 / 8
        };
        Reserve { metadata, cleaning, clean_below, capacity_bytes }
    }

    /// Units that must stay free when a unit is leased for `purpose`.
    fn floor(&self, purpose: Purpose) -> u32 {
        match purpose {
            Purpose::Metadata => 0,
            Purpose::Clean => self.metadata / 2,
            Purpose::Control => self.metadata,
            Purpose::Host => self.metadata + self.cleaning,
        }
    }
}

/// Lives on core 0; pure bookkeeping, fed by messages.
pub struct PoolOwner {
    shards: Vec<View>,
    /// Per drive: true for a unit that a shard holds.
    held: Vec<Vec<bool>>,
    /// Per drive: free units; the one that was given back first goes out first.
    free: Vec<VecDeque<u32>>,
    free_units: u32,
    next_drive: usize,
    next_shard: usize,
    reserve: Reserve,
    out: Vec<(ShardId, ToShard)>,
}

impl PoolOwner {
    /// Knows nothing about who holds what until every shard has reported [`ToPool::Recovered`].
    #[must_use]
    pub fn new(plan: &PoolPlan) -> PoolOwner {
        let units: u32 = plan.drives.iter().map(|d| d.units).sum();
        PoolOwner {
            shards: (0..plan.shards).map(|_| View::default()).collect(),
            held: plan.drives.iter().map(|d| vec![false; d.units as usize]).collect(),
            free: plan.drives.iter().map(|_| VecDeque::new()).collect(),
            free_units: 0,
            next_drive: 0,
            next_shard: 0,
            reserve: Reserve::of(units, plan.unit_bytes, u32::from(plan.shards)),
            out: Vec::new(),
        }
    }

    /// A message of a shard. Fails when two shards hold one unit: the drives contradict themselves, nothing may be served.
    pub fn on_shard(&mut self, message: ToPool) -> Result<(), StoreError> {
        let shard = message.shard();
        let Some(view) = self.shards.get_mut(usize::from(shard.0)) else { return Ok(()) };
        match message {
            ToPool::Recovered { units, live_bytes, .. } => {
                view.recovered = true;
                view.live_bytes = live_bytes;
                for unit in units {
                    self.hold(unit)?;
                }
                if self.ready() {
                    self.collect_free();
                    self.send_levels(None);
                }
            }
            ToPool::Want { purpose, .. } => view.wants[stream_of(purpose) as usize] = Some(purpose),
            ToPool::Release { units, .. } => {
                for unit in units {
                    self.give_back(unit);
                }
                self.send_levels(None);
            }
            ToPool::Live { live_bytes, .. } => {
                view.live_bytes = live_bytes;
                self.send_levels(Some(shard));
            }
        }
        self.grant();
        Ok(())
    }

    /// Takes what is to be sent to shards.
    pub fn drain(&mut self, out: &mut Vec<(ShardId, ToShard)>) {
        out.append(&mut self.out);
    }

    /// Units that nobody holds.
    #[must_use]
    pub fn free_units(&self) -> u32 {
        self.free_units
    }

    /// The same, by drive in the plan's order.
    #[must_use]
    pub fn free_units_by_drive(&self) -> Vec<u32> {
        self.free.iter().map(|f| u32::try_from(f.len()).expect("units fit 32 bits")).collect()
    }

    /// Live bytes that the pool takes in all: raw space less the reserve.
    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        self.reserve.capacity_bytes
    }

    fn ready(&self) -> bool {
        self.shards.iter().all(|s| s.recovered)
    }

    fn hold(&mut self, unit: UnitId) -> Result<(), StoreError> {
        let held = self.held.get_mut(usize::from(unit.drive)).and_then(|d| d.get_mut(unit.unit as usize));
        match held {
            Some(held) if !*held => {
                *held = true;
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
        self.free_units = self.free.iter().map(|f| u32::try_from(f.len()).expect("units fit 32 bits")).sum();
    }

    fn give_back(&mut self, unit: UnitId) {
        let held = self.held.get_mut(usize::from(unit.drive)).and_then(|d| d.get_mut(unit.unit as usize));
        if let Some(held) = held
            && std::mem::take(held)
        {
            self.free[usize::from(unit.drive)].push_back(unit.unit);
            self.free_units += 1;
        }
    }

    /// Leases what the reserve allows, the most needed first, shards in turn.
    fn grant(&mut self) {
        if !self.ready() {
            return;
        }
        let before = self.free_units;
        for purpose in [Purpose::Metadata, Purpose::Clean, Purpose::Control, Purpose::Host] {
            let (shards, first) = (self.shards.len(), self.next_shard);
            for index in (0..shards).map(|i| (first + i) % shards) {
                let (view, stream) = (&self.shards[index], stream_of(purpose) as usize);
                let floor = if view.begun[stream] { self.reserve.floor(purpose) } else { 0 };
                if view.wants[stream] != Some(purpose) || self.free_units <= floor {
                    continue;
                }
                let Some(unit) = self.take() else { return };
                let view = &mut self.shards[index];
                view.wants[stream_of(purpose) as usize] = None;
                view.begun[stream_of(purpose) as usize] = true;
                let shard = ShardId(u16::try_from(index).expect("at most MAX_SHARDS"));
                self.out.push((shard, ToShard::Lease { unit, purpose }));
                self.next_shard = (index + 1) % shards;
            }
        }
        if before != self.free_units {
            self.send_levels(None);
        }
    }

    /// A free unit, of the drives in turn.
    fn take(&mut self) -> Option<UnitId> {
        let (drives, first) = (self.free.len(), self.next_drive);
        for index in (0..drives).map(|i| (first + i) % drives) {
            if let Some(unit) = self.free[index].pop_front() {
                self.held[index][unit as usize] = true;
                self.free_units -= 1;
                self.next_drive = (index + 1) % drives;
                return Some(UnitId { drive: u16::try_from(index).expect("at most MAX_DRIVES"), unit });
            }
        }
        None
    }

    /// Tells shards where the pool stands: `asked` in any case, the others when it matters to them.
    fn send_levels(&mut self, asked: Option<ShardId>) {
        if !self.ready() {
            return;
        }
        let live: u64 = self.shards.iter().map(|s| s.live_bytes).sum();
        let share = self.reserve.capacity_bytes.saturating_sub(live) / self.shards.len() as u64;
        let clean = self.free_units <= self.reserve.clean_below;
        for (index, view) in (0u16..).zip(&mut self.shards) {
            let level =
                SpaceLevel { allowance_bytes: view.live_bytes + share, free_units: self.free_units, clean };
            let moved = view.level.allowance_bytes.abs_diff(level.allowance_bytes) > share / 8;
            if moved || view.level.clean != clean || asked == Some(ShardId(index)) {
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PlanDrive;
    use dolmen_types::Uuid;

    fn plan(drives: &[u32], shards: u16) -> PoolPlan {
        let drive =
            |&units: &u32| PlanDrive { uuid: Uuid::NIL, path: String::new(), serial: String::new(), units };
        PoolPlan {
            pool: Uuid::NIL,
            incarnation: 1,
            unit_bytes: 1 << 20,
            shards,
            drives: drives.iter().map(drive).collect(),
            order: (0..drives.len()).collect(),
            created: true,
        }
    }

    fn leases(owner: &mut PoolOwner) -> Vec<UnitId> {
        let mut out = Vec::new();
        owner.drain(&mut out);
        out.into_iter()
            .filter_map(|(_, m)| if let ToShard::Lease { unit, .. } = m { Some(unit) } else { None })
            .collect()
    }

    #[test]
    fn leases_rotate_over_drives_and_stop_at_the_floor() {
        let mut owner = PoolOwner::new(&plan(&[5, 5], 1));
        let shard = ShardId(0);
        owner.on_shard(ToPool::Want { shard, purpose: Purpose::Host }).unwrap();
        assert!(leases(&mut owner).is_empty());
        owner
            .on_shard(ToPool::Recovered { shard, units: vec![UnitId { drive: 0, unit: 0 }], live_bytes: 0 })
            .unwrap();
        let mut got = leases(&mut owner);
        for _ in 0..10 {
            owner.on_shard(ToPool::Want { shard, purpose: Purpose::Host }).unwrap();
            got.extend(leases(&mut owner));
        }
        assert_eq!(got.len(), 9 - 4);
        assert!(got.windows(2).all(|w| w[0].drive != w[1].drive));
        owner.on_shard(ToPool::Want { shard, purpose: Purpose::Clean }).unwrap();
        owner.on_shard(ToPool::Want { shard, purpose: Purpose::Metadata }).unwrap();
        assert_eq!(leases(&mut owner).len(), 2);
        owner.on_shard(ToPool::Release { shard, units: got.clone() }).unwrap();
        assert_eq!(leases(&mut owner).len(), 1);
    }

    #[test]
    fn a_unit_held_twice_is_corruption() {
        let mut owner = PoolOwner::new(&plan(&[5], 2));
        let units = vec![UnitId { drive: 0, unit: 3 }];
        owner.on_shard(ToPool::Recovered { shard: ShardId(0), units: units.clone(), live_bytes: 0 }).unwrap();
        assert!(owner.on_shard(ToPool::Recovered { shard: ShardId(1), units, live_bytes: 0 }).is_err());
    }

    #[test]
    fn the_reserve_is_at_most_seven_per_cent_of_a_real_pool() {
        for (units, shards) in [(512, 1), (640, 2), (3072, 16), (100_000, 16)] {
            let reserve = Reserve::of(units, 1 << 24, shards);
            assert!(
                reserve.capacity_bytes * 100 >= u64::from(units) * (1 << 24) * 92,
                "{units} units, {shards} shards"
            );
            assert!(reserve.metadata + reserve.cleaning < units * 7 / 100);
        }
    }

    #[test]
    fn allowances_never_exceed_the_capacity() {
        let mut owner = PoolOwner::new(&plan(&[600], 2));
        for s in 0..2 {
            owner
                .on_shard(ToPool::Recovered { shard: ShardId(s), units: vec![], live_bytes: 1 << 20 })
                .unwrap();
        }
        owner.on_shard(ToPool::Live { shard: ShardId(0), live_bytes: 200 << 20 }).unwrap();
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
