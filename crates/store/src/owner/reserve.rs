//! How much of a pool is kept back, and what of its drives data fits on: pure arithmetic.

use crate::Purpose;
use crate::columns::Shape;

/// Units that the reserve consists of, and what hosts may fill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reserve {
    /// For map pages and checkpoints alone.
    pub(crate) metadata: u32,
    /// For cleaning and control records, on top.
    pub(crate) cleaning: u32,
    /// What cleaning leaves alone, so that the shards can go on after a restart: with what they hold ahead in the hot and the cold
    /// stream it makes two segments of each, since one is begun with the name of the next.
    pub(crate) restart: u32,
    /// Shards clean when no more than this is free.
    pub(crate) clean_below: u32,
    /// Bytes on drives that live data may take in all.
    pub(crate) capacity_bytes: u64,
    /// What the map may take beyond that for what hosts unmap: they do it to make room, too.
    pub(crate) holes_bytes: u64,
}

impl Reserve {
    /// The reserve of a pool of `units` usable units of `unit_bytes` shared by `shards` shards.
    pub(crate) fn of(units: u32, unit_bytes: u32, shards: u32, shape: Shape) -> Reserve {
        let (narrow, wide) = (shape.narrow(), shape.wide());
        let restart = 2 * shards * narrow;
        let metadata = restart.max(units / 80);
        let cleaning = (2 * shards * wide).max(units / 128);
        let clean_below = metadata + cleaning + (2 * shards * narrow).max(units / 96);
        // What commits' own headers, open segments and leases ahead take comes out of the 7 % too. A pool too small for that
        // gives up what its shards need to go on.
        let bulk = if shape.data > 1 { 3 * wide } else { 0 };
        let (some, more) = (shards * (6 * narrow + 5 * wide + bulk), shards * (7 * narrow + 7 * wide + bulk));
        let by_share = u64::from(units) * u64::from(unit_bytes) / 100 * 93;
        let most = |kept: u32| u64::from(units.saturating_sub(kept)) * u64::from(unit_bytes);
        let capacity_bytes = if units >= 512 && by_share <= most(some) {
            by_share
        } else {
            by_share.min(most(more)) / u64::from(unit_bytes) * u64::from(unit_bytes - 4096) * 7 / 8
        };
        let holes_bytes = u64::from((units / 256).max(shards * narrow)) * u64::from(unit_bytes);
        Reserve { metadata, cleaning, restart, clean_below, capacity_bytes, holes_bytes }
    }

    /// What of the reserve a map may take beside its live pages: until a checkpoint has ended all that it replaces, and what is dead
    /// among what lives.
    pub(super) fn map_bytes(&self, unit_bytes: u32) -> u64 {
        u64::from(self.metadata + self.cleaning) * u64::from(unit_bytes)
    }

    /// How urgent cleaning is with so many units free, in thousandths.
    pub(super) fn pressure(&self, free_units: u32) -> u32 {
        let floor = self.floor(Purpose::Host);
        let missing = self.clean_below.saturating_sub(free_units.max(floor));
        (missing * 1000).checked_div(self.clean_below.saturating_sub(floor)).unwrap_or(1000)
    }

    /// Units that must stay free when units are leased for `purpose`.
    pub(super) fn floor(&self, purpose: Purpose) -> u32 {
        match purpose {
            Purpose::Metadata => 0,
            Purpose::Clean => self.restart.max(self.metadata / 2),
            Purpose::Control => self.metadata,
            Purpose::Host | Purpose::Bulk => self.metadata + self.cleaning,
        }
    }
}

/// Units that sets of `width`, each on as many drives, can be made of.
pub(super) fn in_sets(units: &[u32], width: u32) -> u32 {
    let sum = |most: u32| units.iter().map(|&u| u64::from(u.min(most))).sum::<u64>();
    let mut sets = u32::try_from(sum(u32::MAX) / u64::from(width)).unwrap_or(u32::MAX);
    loop {
        let fewer = u32::try_from(sum(sets) / u64::from(width)).unwrap_or(u32::MAX);
        if fewer >= sets {
            return sets * width;
        }
        sets = fewer;
    }
}

/// Units of these drives as far as data fits them: what the largest drives have beyond the others carries narrower segments, or
/// nothing at all.
pub(super) fn usable(units: &[u32], shape: Shape) -> u32 {
    let mut sizes = units.to_vec();
    sizes.sort_unstable();
    let (mut below, mut data) = (0, 0);
    for (i, &size) in sizes.iter().enumerate() {
        let drives = u64::try_from(sizes.len() - i).expect("drives are few");
        let parity = u64::from(shape.parity);
        if drives <= parity {
            break;
        }
        let columns = (drives - parity).min(u64::from(shape.data));
        data += u64::from(size - below) * drives * columns / (columns + parity);
        below = size;
    }
    let all = units.iter().map(|&u| u64::from(u)).sum::<u64>();
    u32::try_from(shape.raw(data).min(all)).unwrap_or(u32::MAX)
}
