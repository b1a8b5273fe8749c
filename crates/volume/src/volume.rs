//! One volume as its home core knows it.

use crate::{
    Health, Request, VolumeInfo, VolumeRef, VolumeStats,
    backing::{Backing, MemoryBlocks},
    limits::MAX_VOLUME_RANGES,
    locks::RangeLocks,
    qos::Throttle,
    reservation::Reservations,
};
use dolmen_store::LineUsage;
use dolmen_types::{
    CoreId, Uuid,
    volume::{SectorSize, VolumeDescriptor, VolumeKind, VolumeState},
};
use std::collections::VecDeque;

/// Where a slot stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// No volume.
    Free,
    /// Its first record is not durable yet; nobody knows of it.
    Creating,
    /// In use.
    Serving,
    /// On its way out; no new command gets in.
    Deleting,
    /// Its records were not understood.
    Quarantined,
    /// It is encrypted, and its key is not here: it can be deleted, nothing else.
    Locked,
}

/// A slot and the volume in it.
#[derive(Debug)]
pub(crate) struct Volume {
    pub(crate) at: VolumeRef,
    pub(crate) life: Life,
    /// As it is durable.
    pub(crate) descriptor: VolumeDescriptor,
    /// Log2 of the logical block size.
    pub(crate) sector_shift: u32,
    /// Bytes that commands may address: the descriptor's size, but already smaller while a shrink is under way.
    pub(crate) size: u64,
    pub(crate) backing: Backing,
    pub(crate) locks: RangeLocks,
    /// As sequenced: what later commands are judged by.
    pub(crate) reservations: Reservations,
    pub(crate) stats: VolumeStats,
    /// How its rate is limited, and what waits for that.
    pub(crate) throttle: Throttle,
    /// Commands of hosts that have a slot.
    pub(crate) commands: usize,
    /// Those of them that are reads without a claim.
    pub(crate) straights: usize,
    /// Those that wait for one, in order of arrival.
    pub(crate) backlog: VecDeque<Request>,
    /// A control request is under way; others wait.
    pub(crate) changing: bool,
}

impl Volume {
    /// A volume as its descriptor says, in a slot that was free or is new.
    pub(crate) fn new(at: VolumeRef, life: Life, descriptor: VolumeDescriptor) -> Volume {
        Volume {
            at,
            life,
            sector_shift: if descriptor.sector == SectorSize::B512 { 9 } else { 12 },
            size: descriptor.size_bytes,
            throttle: Throttle::new(descriptor.qos.as_ref(), descriptor.size_bytes),
            backing: match descriptor.kind {
                VolumeKind::Durable => Backing::Durable(descriptor.line),
                VolumeKind::Null => Backing::Null,
                VolumeKind::Memory => Backing::Memory(MemoryBlocks::default()),
            },
            descriptor,
            locks: RangeLocks::new(),
            reservations: Reservations::default(),
            stats: VolumeStats::default(),
            commands: 0,
            straights: 0,
            backlog: VecDeque::new(),
            changing: false,
        }
    }

    /// True when a command that arrives now has to wait for others to end, when `limit` of this volume may be under way.
    pub(crate) fn must_wait(&self, limit: usize) -> bool {
        !self.backlog.is_empty() || self.is_full(limit)
    }

    /// True when as much of this volume is under way as may be.
    pub(crate) fn is_full(&self, limit: usize) -> bool {
        self.commands >= limit || self.locks.claimed() >= MAX_VOLUME_RANGES
    }

    /// What is told about it. `usage` is the log's figure, `stopped` that of its group.
    pub(crate) fn info(&self, usage: LineUsage, stopped: bool) -> VolumeInfo {
        let health = match self.life {
            Life::Quarantined | Life::Locked => Health::Quarantined,
            _ if stopped => Health::Stopped,
            _ => Health::Good,
        };
        VolumeInfo { descriptor: self.descriptor.clone(), at: self.at, health, usage }
    }
}

/// What stands for the descriptor of a volume whose record was not understood.
pub(crate) fn unknown_descriptor(uuid: Uuid, pg: dolmen_types::PgId) -> VolumeDescriptor {
    VolumeDescriptor {
        uuid,
        name: String::new(),
        project: String::new(),
        nsid: dolmen_types::Nsid(0),
        pg,
        line: dolmen_types::LineId(0),
        size_bytes: 0,
        sector: SectorSize::B4096,
        kind: VolumeKind::Durable,
        acl: dolmen_types::volume::HostAccess::None,
        ip_acl: dolmen_types::volume::IpAccess::None,
        labels: Vec::new(),
        compression: false,
        encryption: false,
        qos: None,
        source: None,
        created: dolmen_types::UnixMillis(0),
        revision: 0,
        state: VolumeState::Available,
    }
}

/// A reference to a slot of a core.
pub(crate) fn slot_ref(core: CoreId, slot: usize, generation: u32) -> VolumeRef {
    VolumeRef { core, slot: u32::try_from(slot).expect("volumes are limited"), generation }
}
