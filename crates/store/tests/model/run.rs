//! One run: a node, what is under way, and what must be there whatever happens.

use crate::common::*;
use crate::state::*;
use dolmen_sim::{Rng, World};
use dolmen_store::*;
use dolmen_types::{LineId, PgId};
use std::collections::BTreeMap;

/// One group: what is known to be durable, and what was sent beyond.
pub(crate) struct Group {
    pub(crate) pg: u32,
    pub(crate) durable: Model,
    /// What it will be when everything under way is done.
    pub(crate) expected: Model,
    pub(crate) acknowledged: u64,
    pub(crate) sent: u64,
    pub(crate) under_way: Vec<(u64, u64, Vec<Change>)>,
    pub(crate) next_line: u64,
}

pub(crate) struct Run {
    pub(crate) world: World,
    pub(crate) setup: Setup,
    pub(crate) node: Node,
    pub(crate) rng: Rng,
    pub(crate) groups: Vec<Group>,
    pub(crate) blocks: u64,
    pub(crate) fresh: u64,
    /// Checkpoints, and bytes moved by cleaning, in all lives of the node.
    pub(crate) totals: (u64, u64),
    /// Of a thousand steps, how many pull the plug or kill.
    pub(crate) crashes: u64,
    /// Mostly writes, so that the pool stays full.
    pub(crate) crowded: bool,
    /// The drive that is lost, and how many were.
    pub(crate) lost: Option<&'static str>,
    pub(crate) losses: u64,
    /// Snapshots, clones and rollbacks are among the operations.
    pub(crate) versions: bool,
    /// Sectors rot now and then, and are scrubbed.
    pub(crate) rots: bool,
    pub(crate) rotten: u64,
    /// Sectors that could not be read.
    pub(crate) spoilt: u64,
    /// Drives are added and removed now and then.
    pub(crate) exchanges: bool,
    /// Drives that were bought; those that have left.
    pub(crate) bought: usize,
    pub(crate) shelf: Vec<(&'static str, u64)>,
    /// How many joined and left.
    pub(crate) exchanged: (u64, u64),
    /// The drive that was given up last, in this life of the node.
    pub(crate) given_up: Option<u16>,
    /// All was protected when a drive began to leave.
    pub(crate) leaves_whole: bool,
    /// The line that a value was written to.
    pub(crate) origins: BTreeMap<u64, u64>,
    /// Batches that found the pool full.
    pub(crate) refused: u64,
    /// The pool is to be full, so that the cleaner never rests.
    pub(crate) full: bool,
}

impl Run {
    pub(crate) fn new(seed: u64, mut setup: Setup, groups: u32, blocks: u64) -> Run {
        setup.keyring = keyring();
        let world = World::new(seed);
        let node = Node::open(&world, &setup).unwrap();
        let group = |pg| Group {
            pg,
            durable: Model::default(),
            expected: Model::default(),
            acknowledged: 0,
            sent: 0,
            under_way: Vec::new(),
            next_line: 1 + u64::from(pg) * 1000,
        };
        let groups = (0..groups).map(group).collect();
        Run {
            world,
            setup,
            node,
            rng: Rng::new(seed ^ 0x55),
            groups,
            blocks,
            fresh: 1,
            totals: (0, 0),
            crashes: 30,
            crowded: false,
            lost: None,
            losses: 0,
            versions: false,
            rots: false,
            rotten: 0,
            spoilt: 0,
            exchanges: false,
            bought: 0,
            shelf: Vec::new(),
            exchanged: (0, 0),
            given_up: None,
            leaves_whole: false,
            origins: BTreeMap::new(),
            refused: 0,
            full: false,
        }
    }

    /// Erases the keys of lines that were told as gone, for good: no recovery may ask for them.
    pub(crate) fn erase_keys(&mut self) {
        // A line may have gone by a batch that is done and was not looked at yet.
        self.collect();
        for line in std::mem::take(&mut self.node.gone) {
            for group in &self.groups {
                let mut states = [&group.durable, &group.expected].into_iter();
                assert!(!states.any(|m| m.knows(line.0)), "{line:?} is there, and its key is to be erased");
            }
            self.setup.keyring.remove(line);
            self.node.stores.iter_mut().for_each(|store| store.forget_key(line));
        }
    }

    /// As the start of a node does it: the keys of lines that are gone, or never came to be, are to be erased.
    pub(crate) fn sweep_keys(&mut self) {
        for group in &self.groups {
            let core = self.node.core_of(PgId(group.pg));
            for line in (1 + u64::from(group.pg) * 1000..group.next_line).map(LineId) {
                if self.setup.keyring.contains(line) {
                    self.node.stores[core].sweep_key(PgId(group.pg), line);
                }
            }
        }
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.rng.next_u64() % n
    }

    pub(crate) fn fresh_line(&mut self, g: usize) -> u64 {
        self.groups[g].next_line += 1;
        self.groups[g].next_line - 1
    }

    /// Forgets what was refused because the pool is full: it never happened.
    pub(crate) fn forget_refused(&mut self) {
        let full = |done: Option<&Done>| done.is_some_and(|d| d.result == Err(StoreError::Full));
        for group in &mut self.groups {
            let before = group.under_way.len();
            group.under_way.retain(|(_, ticket, _)| !full(self.node.done.get(ticket)));
            if group.under_way.len() < before {
                self.refused += (before - group.under_way.len()) as u64;
                group.expected = group.durable.clone();
                group.under_way.iter().for_each(|(seq, _, changes)| group.expected.apply(changes, *seq));
            }
        }
        self.node.done.retain(|_, done| !full(Some(done)));
    }

    /// Takes what was acknowledged.
    pub(crate) fn collect(&mut self) {
        self.forget_refused();
        for group in &mut self.groups {
            while let Some((seq, ticket, _)) = group.under_way.first() {
                let Some(done) = self.node.done.remove(ticket) else { break };
                assert_eq!(done.result, Ok(()), "seq {seq}");
                group.acknowledged = *seq;
                let (seq, _, changes) = group.under_way.remove(0);
                group.durable.apply(&changes, seq);
            }
        }
    }

    pub(crate) fn settle(&mut self) {
        for _ in 0..500_000 {
            self.collect();
            if self.groups.iter().all(|g| g.under_way.is_empty()) {
                return;
            }
            self.node.turn();
        }
        panic!("appends hang: {:?}", self.node.space());
    }

    /// Power cut or kill with whatever is under way, maybe twice in a row; then exactly a prefix must be there.
    pub(crate) fn crash(&mut self) {
        self.erase_keys();
        self.forget_refused();
        for store in &self.node.stores {
            self.totals.0 += store.checkpoints();
            self.totals.1 += store.space().cleaned_bytes;
        }
        let twice = self.below(3) == 0;
        // A drive that is protected against may be gone when the node comes back.
        let spare = self.setup.parity > 0 && self.lost.is_none() && self.can_lose();
        // Or have sectors that can't be read.
        let spoils = spare && self.node.is_protected() && self.below(3) == 0;
        self.given_up = None;
        if self.below(3) == 0 {
            self.world.kill_node(NODE)
        } else {
            self.world.crash()
        }
        if self.fresh.is_multiple_of(4) {
            self.check_offline();
        }
        let mut spoilt = None;
        if spoils {
            spoilt = Some(self.spoil());
        } else if spare && self.below(3) == 0 {
            // Maybe one that never quite joined.
            let pick = self.below(self.setup.drives.len() as u64) as usize;
            let name = self.setup.drives[pick].0;
            self.lost = Some(name);
            self.losses += 1;
            self.leaves_whole = false;
            self.world.remove_drive(NODE, path(name));
        } else {
            self.shuffle();
        }
        if self.below(4) == 0 && self.setup.shards > 1 {
            self.setup.cores = 1 + self.below(u64::from(self.setup.shards)) as usize;
        }
        if twice {
            // The second cut comes while recovery is under way or has just sealed.
            let turns = self.below(120);
            recover_a_little(&self.world, &self.setup, turns);
            self.world.crash();
            self.shuffle();
        }
        self.node = Node::open(&self.world, &self.setup).unwrap_or_else(|e| panic!("recovery refuses: {e}"));
        for group in &mut self.groups {
            let core = self.node.core_of(PgId(group.pg));
            let highest = self.node.stores[core].marks(PgId(group.pg)).highest_seq.0;
            assert!(
                highest >= group.acknowledged,
                "group {}: acknowledged up to {}, found up to {highest}",
                group.pg,
                group.acknowledged
            );
            for (seq, _, changes) in std::mem::take(&mut group.under_way) {
                if seq <= highest {
                    group.durable.apply(&changes, seq);
                } else {
                    // It never happened: lines that it made or dropped are as before.
                }
            }
            // Numbers are not reused, even where a batch was lost.
            group.acknowledged = highest;
            group.expected = group.durable.clone();
        }
        self.sweep_keys();
        self.verify();
        if let Some(name) = spoilt {
            self.world.unspoil(NODE, path(name));
        }
    }

    pub(crate) fn run(&mut self, steps: u64) {
        for _ in 0..steps {
            self.erase_keys();
            if self.below(1000) < self.crashes {
                self.crash();
                continue;
            }
            if self.below(60) == 0 {
                self.lose();
            }
            if self.exchanges {
                self.forget_gone();
                if self.below(50) == 0 {
                    self.exchange();
                }
            }
            if self.rots && self.below(80) == 0 {
                self.decay();
            }
            match self.below(97) {
                0..70 => {
                    let g = self.below(self.groups.len() as u64) as usize;
                    self.send(g);
                }
                70..90 => {
                    for _ in 0..self.below(12) {
                        self.node.turn();
                        self.collect();
                    }
                }
                90..94 => self.settle(),
                94 => self.node.stores[0].checkpoint(),
                95 => {
                    self.settle();
                    self.verify();
                }
                _ => {
                    self.settle();
                    let world = self.world.clone();
                    let fresh = World::new(0);
                    let setup = Setup::tiny(30);
                    let old = std::mem::replace(&mut self.node, Node::open(&fresh, &setup).unwrap());
                    old.shutdown();
                    self.shuffle();
                    self.node = Node::open(&world, &self.setup).unwrap();
                    self.verify();
                }
            }
        }
        self.settle();
        self.verify();
        self.exact();
        if self.versions {
            self.delete_everything();
            self.verify();
        }
        for store in &self.node.stores {
            assert_eq!(store.space().integrity_errors, 0);
        }
    }
}

/// Starts a recovery and pulls the plug after some turns, or after it is through.
pub(crate) fn recover_a_little(world: &World, setup: &Setup, turns: u64) {
    let limit = turns;
    let world = world.clone();
    Node::open_for(&world, setup, limit);
}
