//! A node with a store and nothing else, over simulated drives: turns the loop, routes messages, waits for completions.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::cast_possible_truncation, clippy::unwrap_used)]

pub mod filled;
pub mod load;

use dolmen_io::exec::Exec;
use dolmen_io::{DriveInfo, Io, OpenDrive, Owner, PoolConfig, Tag, Wait};
use dolmen_sim::{CoreConfig, NodeId, Rng, World};
use dolmen_store::*;
use dolmen_types::{Blocks, Epoch, Lba, LineId, PgId, Seq, ShardId, Uuid};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

pub const NODE: NodeId = NodeId(0);
pub const BLOCK: usize = 4096;

/// What a pool of a test is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    pub drives: Vec<(&'static str, u64)>,
    pub unit_bytes: u32,
    pub shards: u16,
    /// Drives that the pool can lose.
    pub parity: u8,
    /// Drives that nobody names may be lost too.
    pub degraded: bool,
    /// Drives that were removed on purpose, or are to be.
    pub let_go: Vec<Uuid>,
    /// Drives that were to join, maybe in vain.
    pub added: Vec<&'static str>,
    /// The pool that it must be.
    pub expect: Option<Uuid>,
    /// Number of a superblock that was in force before.
    pub at_least: u64,
    pub cores: usize,
    pub tuning: ShardTuning,
    pub keyring: Keyring,
}

impl Setup {
    /// One drive of `units` tiny units, one shard, everything small.
    pub fn tiny(units: u64) -> Setup {
        let unit_bytes = 64 * 1024;
        Setup {
            drives: vec![("d0", (4 << 20) + units * u64::from(unit_bytes))],
            unit_bytes,
            shards: 1,
            parity: 0,
            degraded: false,
            let_go: Vec::new(),
            added: Vec::new(),
            expect: None,
            at_least: 0,
            cores: 1,
            tuning: ShardTuning {
                delta_entries: 64,
                log_bytes: 1 << 20,
                commit_bytes: 60 * 1024,
                commits_in_flight: 4,
                small_commits_in_flight: 4,
                queued_batches: 64,
                cache_bytes: 8 * BLOCK,
                objects_bytes: 8 << 20,
                full_wait_ms: 2_000,
                stuck_write_ms: 2_000,
                slow_read_ms: 50,
            },
            keyring: Keyring::default(),
        }
    }
}

/// Drives of the same size, with units of one MiB less than `mib` in all.
pub fn drives(count: usize, mib: u64) -> Vec<(&'static str, u64)> {
    ["d0", "d1", "d2", "d3", "d4", "d5"][..count].iter().map(|d| (*d, (mib + 3) << 20)).collect()
}

/// A running node.
pub struct Node {
    pub world: World,
    pub io: Io,
    pub exec: Exec,
    pub stores: Vec<Store>,
    pub owner: PoolOwner,
    pub plan: PoolPlan,
    pub done: BTreeMap<u64, Done>,
    pub fault: Option<StoreError>,
    /// Encrypted lines that were told as gone.
    pub gone: Vec<LineId>,
    tickets: u64,
    /// Reads were asked for since the stores were stepped.
    asked: bool,
    /// Handles of the drives, by their place in the pool.
    files: Vec<Option<dolmen_io::FileId>>,
    /// A drive that is being prepared to join.
    preparing: Option<(dolmen_io::FileId, Prepared)>,
    /// What shards want for these purposes does not reach the pool's owner.
    pub no_units: Vec<Purpose>,
    /// What has not reached it.
    withheld: Vec<ToPool>,
    /// Nor does what this shard wants for any.
    pub starved: Option<ShardId>,
}

/// What comes of preparing a drive.
type Prepared = Rc<RefCell<Option<Result<NewDrive, StoreError>>>>;

const EXEC: Owner = Owner(3);

fn pool_config() -> PoolConfig {
    PoolConfig::new(vec![(BLOCK, 256), (32 * 1024, 64), (260 * 1024, 32)])
}

/// Runs one future to its end on a loop that has nothing else.
pub fn run<T: 'static>(io: &mut Io, exec: &mut Exec, future: impl Future<Output = T> + 'static) -> T {
    let slot = Rc::new(RefCell::new(None));
    let put = slot.clone();
    exec.handle().spawn(async move { *put.borrow_mut() = Some(future.await) }).unwrap();
    let mut events = Vec::new();
    while slot.borrow().is_none() {
        io.poll(if exec.has_ready() { Wait::No } else { Wait::Forever }, &mut events);
        for (tag, event) in events.drain(..) {
            if tag.owner == EXEC {
                exec.deliver(tag.key, event);
            }
        }
        exec.run(io);
        io.submit();
    }
    slot.take().unwrap()
}

/// Opens the drives of a setup; those that can't be opened, and why.
#[allow(clippy::type_complexity)]
fn candidates(io: &mut Io, setup: &Setup) -> Result<(Vec<Candidate>, Vec<(String, String)>), StoreError> {
    let (mut drives, mut absent) = (Vec::new(), Vec::new());
    for &(path, size) in &setup.drives {
        let open = OpenDrive { path: path.into(), create_bytes: Some(size), sparse: true, exclusive: true };
        let opened = io.open_drive(&open).map_err(|e| StoreError::Drive(e.to_string()));
        match opened {
            // The others say whether that will do.
            Err(error) if setup.parity > 0 || setup.added.contains(&path) => {
                absent.push((path.to_string(), error.to_string()))
            }
            opened => {
                let info: DriveInfo = opened?;
                drives.push(Candidate { info, path: path.to_string() });
            }
        }
    }
    Ok((drives, absent))
}

/// A loop without a store, and the drives of a setup opened on it.
pub fn offline(world: &World, setup: &Setup) -> (Io, Exec, Vec<Candidate>) {
    let mut io = Io::new(Box::new(world.driver(CoreConfig { node: NODE, pool: pool_config() })));
    let exec = Exec::new(EXEC, 64, &io);
    let (drives, _) = candidates(&mut io, setup).unwrap();
    (io, exec, drives)
}

impl Node {
    /// Begins to open or make a pool and gives up after some turns of the loop.
    pub fn start_for(world: &World, setup: &Setup, turns: u64) {
        let (mut io, mut exec, drives) = offline(world, setup);
        let options = PoolOptions {
            shards: setup.shards,
            parity: Some(setup.parity),
            unit_bytes: Some(setup.unit_bytes),
            seed: [7; 32],
            expect: None,
            at_least: Ok(0),
            absent: Vec::new(),
            degraded: false,
            let_go: Vec::new(),
            added: Vec::new(),
        };
        let opening = open_pool(exec.handle(), drives, options);
        exec.handle().spawn(async move { drop(opening.await) }).unwrap();
        let mut events = Vec::new();
        for _ in 0..turns {
            io.poll(if exec.has_ready() { Wait::No } else { Wait::Until(io.now().plus_ms(50)) }, &mut events);
            for (tag, event) in events.drain(..) {
                exec.deliver(tag.key, event);
            }
            exec.run(&mut io);
            io.submit();
        }
    }

    /// Opens (or makes) the pool and waits until it serves.
    pub fn open(world: &World, setup: &Setup) -> Result<Node, StoreError> {
        Node::start(world, setup)?.until_ready()
    }

    /// Opens the pool and drops everything after some turns of recovery.
    pub fn open_for(world: &World, setup: &Setup, turns: u64) {
        if let Ok(mut node) = Node::start(world, setup) {
            for _ in 0..turns {
                node.turn();
            }
        }
    }

    /// Opens the pool; recovery is under way afterwards.
    pub fn start(world: &World, setup: &Setup) -> Result<Node, StoreError> {
        let mut io = Io::new(Box::new(world.driver(CoreConfig { node: NODE, pool: pool_config() })));
        let mut exec = Exec::new(EXEC, 64, &io);
        let (drives, absent) = candidates(&mut io, setup)?;
        let mut seed = [0; 32];
        io.random(&mut seed);
        let files: Vec<_> = drives.iter().map(|d| d.info.file).collect();
        let options = PoolOptions {
            shards: setup.shards,
            parity: Some(setup.parity),
            unit_bytes: Some(setup.unit_bytes),
            seed,
            expect: setup.expect,
            at_least: Ok(setup.at_least),
            absent,
            degraded: setup.degraded,
            let_go: setup.let_go.clone(),
            added: setup.added.iter().map(ToString::to_string).collect(),
        };
        let opening = open_pool(exec.handle(), drives, options);
        let plan = run(&mut io, &mut exec, opening)?;
        let files: Vec<_> = plan.order.iter().map(|at| at.map(|i| files[i])).collect();
        let handle = exec.handle();
        let salt = u64::from_le_bytes(seed[..8].try_into().unwrap());
        let stores = (0..setup.cores)
            .map(|core| {
                let shards = plan.shards_of(core, setup.cores);
                Store::open(
                    &plan,
                    &shards,
                    &files,
                    setup.tuning.clone(),
                    Owner(16 + core as u8),
                    salt,
                    &setup.keyring,
                    &handle,
                )
            })
            .collect();
        let owner = PoolOwner::new(&plan, &files, &handle);
        Ok(Node {
            world: world.clone(),
            io,
            exec,
            stores,
            owner,
            plan,
            done: BTreeMap::new(),
            fault: None,
            gone: Vec::new(),
            tickets: 0,
            asked: false,
            files,
            preparing: None,
            no_units: Vec::new(),
            withheld: Vec::new(),
            starved: None,
        })
    }

    /// Opens the pool while its owner has no unit to give for these purposes.
    pub fn open_without_units(
        world: &World,
        setup: &Setup,
        purposes: &[Purpose],
    ) -> Result<Node, StoreError> {
        let mut node = Node::start(world, setup)?;
        node.no_units = purposes.to_vec();
        node.until_ready()
    }

    /// What was wanted in vain reaches the pool's owner.
    pub fn give_units(&mut self) {
        self.no_units.clear();
        for message in std::mem::take(&mut self.withheld) {
            self.owner.on_shard(message).unwrap();
        }
    }

    /// Turns until it serves.
    pub fn until_ready(mut self) -> Result<Node, StoreError> {
        let node = &mut self;
        for _ in 0..200_000 {
            if let Some(fault) = node.fault.take() {
                return Err(fault);
            }
            let states: Vec<_> = node.stores.iter().map(Store::ready).collect();
            if let Some(Err(error)) = states.iter().flatten().find(|r| r.is_err()) {
                return Err(error.clone());
            }
            if states.iter().all(|s| matches!(s, Some(Ok(())))) {
                return Ok(self);
            }
            node.turn();
        }
        panic!("recovery hangs");
    }

    /// Turns of the loop for so long.
    pub fn turns_for(&mut self, ms: u64) {
        let until = self.io.now().plus_ms(ms);
        while self.io.now() < until {
            self.turn();
        }
    }

    /// One turn of the loop.
    pub fn turn(&mut self) {
        if std::mem::take(&mut self.asked) {
            // On a core what asks comes before the store in every turn.
            for store in &mut self.stores {
                store.step(&mut self.io);
            }
        }
        let mut events = Vec::new();
        let busy = self.exec.has_ready();
        self.io.poll(if busy { Wait::No } else { Wait::Until(self.io.now().plus_ms(50)) }, &mut events);
        for (Tag { owner, key }, event) in events {
            if owner == EXEC {
                self.exec.deliver(key, event);
            } else {
                let core = usize::from(owner.0 - 16);
                self.stores[core].on_event(&mut self.io, key, event);
            }
        }
        self.exec.run(&mut self.io);
        for store in &mut self.stores {
            store.step(&mut self.io);
        }
        self.route();
        for store in &mut self.stores {
            store.drain_gone(&mut self.gone);
            let mut done = Vec::new();
            store.drain(&mut done);
            for d in done {
                assert!(self.done.insert(d.ticket.0, d).is_none(), "a ticket ends once");
            }
        }
        self.io.submit();
    }

    fn route(&mut self) {
        let (mut up, mut down) = (Vec::new(), Vec::new());
        for store in &mut self.stores {
            store.drain_pool(&mut up);
        }
        let is_lost = |m: &ToPool| match m {
            ToPool::Want { shard, purpose } => {
                self.starved == Some(*shard) || self.no_units.contains(purpose)
            }
            _ => false,
        };
        self.withheld.extend(up.extract_if(.., |m| is_lost(m)));
        for message in up {
            if let Err(error) = self.owner.on_shard(message) {
                self.fault = Some(error);
            }
        }
        self.owner.drain(&mut down);
        for (shard, message) in down {
            let core = usize::from(shard.0) % self.stores.len();
            self.stores[core].on_pool(shard, message);
        }
    }

    pub fn core_of(&self, pg: PgId) -> usize {
        (pg.0 % u32::from(self.plan.shards)) as usize % self.stores.len()
    }

    /// Queues a batch; its ticket.
    pub fn append(&mut self, pg: u32, seq: u64, records: Vec<Record>) -> Result<u64, AppendError> {
        self.tickets += 1;
        let batch = Batch { pg: PgId(pg), epoch: Epoch(1), seq: Seq(seq), records: records.into() };
        let core = self.core_of(PgId(pg));
        self.stores[core].append(batch, Ticket(self.tickets)).map(|()| self.tickets).map_err(|(_, e)| e)
    }

    pub fn wait(&mut self, ticket: u64) -> Done {
        for _ in 0..100_000 {
            if let Some(done) = self.done.remove(&ticket) {
                return done;
            }
            self.turn();
        }
        panic!("ticket {ticket} hangs at {:?}: {:?}", self.io.now(), self.space());
    }

    /// True when no drive is out and nothing lacks a column: one more drive may be lost.
    pub fn is_protected(&self) -> bool {
        let states: Vec<DriveState> = self.owner.drives().iter().map(|d| d.state).collect();
        self.owner.deficit() == 0
            && states.iter().all(|s| matches!(s, DriveState::In | DriveState::Gone))
            && self.stores.iter().all(|s| s.space().at_risk_segments == 0)
    }

    /// Turns until everything is protected again.
    pub fn until_protected(&mut self) {
        for _ in 0..20_000 {
            if self.is_protected() {
                return;
            }
            self.turn();
        }
        panic!("re-protection does not end: {:?} {:?}", self.owner.drives(), self.space());
    }

    /// Appends and waits for the end.
    pub fn commit(&mut self, pg: u32, seq: u64, records: Vec<Record>) -> Result<(), StoreError> {
        match self.append(pg, seq, records) {
            Ok(ticket) => self.wait(ticket).result,
            Err(AppendError::Full) => Err(StoreError::Full),
            Err(AppendError::Stopped { reason }) => Err(StoreError::Stopped { reason }),
            Err(other) => panic!("{other:?}"),
        }
    }

    /// A write record whose block `i` is filled by `fill(i)`.
    pub fn write(&self, line: u64, lba: u64, blocks: &[u64]) -> Record {
        let mut buf = self.io.alloc(blocks.len() * BLOCK).expect("the test's pool is large enough");
        for (block, &value) in buf.chunks_exact_mut(BLOCK).zip(blocks) {
            fill(block, value);
        }
        Record::Write { line: LineId(line), lba: Lba(lba), data: buf.freeze() }
    }

    pub fn start_read(&mut self, pg: u32, line: u64, lba: u64, blocks: usize) -> u64 {
        self.start_read_at(pg, line, None, lba, blocks)
    }

    pub fn start_read_at(&mut self, pg: u32, line: u64, at: Option<u64>, lba: u64, blocks: usize) -> u64 {
        self.tickets += 1;
        // Mending may hold all that there is for a while; who reads for a host waits then, too.
        let mut turns = 0;
        while self.io.pool().available(blocks * BLOCK) == 0 && turns < 10_000 {
            self.turn();
            turns += 1;
        }
        let mut buf = self.io.alloc(blocks * BLOCK).expect("the test's pool is large enough");
        buf.set_len(blocks * BLOCK);
        buf.fill(0xee);
        let core = self.core_of(PgId(pg));
        let ticket = Ticket(self.tickets);
        self.stores[core].read(PgId(pg), LineId(line), at.map(Seq), Lba(lba), buf, ticket);
        self.asked = true;
        self.tickets
    }

    /// Reads blocks back as the values that [`fill`] made them from.
    pub fn read(&mut self, pg: u32, line: u64, lba: u64, blocks: usize) -> Result<Vec<u64>, StoreError> {
        self.read_at(pg, line, None, lba, blocks)
    }

    /// The same of a snapshot.
    pub fn read_at(
        &mut self,
        pg: u32,
        line: u64,
        at: Option<u64>,
        lba: u64,
        blocks: usize,
    ) -> Result<Vec<u64>, StoreError> {
        let ticket = self.start_read_at(pg, line, at, lba, blocks);
        let done = self.wait(ticket);
        done.result?;
        Ok(values(&done.buf.expect("a read gives its buffer back")))
    }

    /// Lists what changed and waits for the list.
    pub fn diff(&mut self, pg: u32, request: DiffRequest) -> Result<DiffPage, StoreError> {
        self.tickets += 1;
        let core = self.core_of(PgId(pg));
        self.stores[core].diff(PgId(pg), request, Ticket(self.tickets));
        let mut ended = Vec::new();
        for _ in 0..100_000 {
            self.stores[core].drain_diffs(&mut ended);
            if let Some(done) = ended.pop() {
                assert_eq!(done.ticket, Ticket(self.tickets));
                return done.result;
            }
            self.turn();
        }
        panic!("a listing hangs");
    }

    /// Waits until a checkpoint that starts now has ended.
    pub fn checkpoint(&mut self) {
        for core in 0..self.stores.len() {
            let before = self.stores[core].checkpoints();
            self.stores[core].checkpoint();
            for _ in 0..200_000 {
                if self.stores[core].checkpoints() > before {
                    break;
                }
                self.turn();
            }
            assert!(self.stores[core].checkpoints() > before, "the checkpoint hangs");
        }
    }

    pub fn shutdown(mut self) {
        self.stores.iter_mut().for_each(Store::shutdown);
        for _ in 0..200_000 {
            if self.stores.iter().all(Store::is_down) {
                return;
            }
            self.turn();
        }
        panic!("shutdown hangs");
    }

    /// Opens a drive and takes it into the running pool.
    pub fn add_drive(&mut self, path: &str) -> Result<(), String> {
        self.close_gone(path);
        let open = OpenDrive { path: path.into(), create_bytes: None, sparse: true, exclusive: true };
        let info = self.io.open_drive(&open).map_err(|e| e.to_string())?;
        let file = info.file;
        let joined = self.join(Candidate { info, path: path.to_string() });
        if joined.is_err() {
            self.io.close_drive(file);
        }
        joined
    }

    /// Begins to take a drive into the running pool, and gives up after some turns.
    pub fn add_drive_for(&mut self, path: &str, turns: u64) {
        self.close_gone(path);
        let open = OpenDrive { path: path.into(), create_bytes: None, sparse: true, exclusive: true };
        // Something may be under way on it from before it left.
        let Ok(info) = self.io.open_drive(&open) else { return };
        self.begin_join(Candidate { info, path: path.to_string() });
        for _ in 0..turns {
            self.turn();
            self.go_on_joining().unwrap();
        }
    }

    /// Gives up what was open under a path and is out.
    fn close_gone(&mut self, path: &str) {
        for (i, drive) in (0u16..).zip(self.owner.drives()) {
            let here = drive.path == path && matches!(drive.state, DriveState::Out | DriveState::Gone);
            let Some(file) = self.files.get_mut(usize::from(i)).filter(|_| here).and_then(Option::take)
            else {
                continue;
            };
            self.owner.detach_drive(i);
            self.stores.iter_mut().for_each(|s| s.detach_drive(i));
            self.io.close_drive(file);
        }
    }

    fn join(&mut self, candidate: Candidate) -> Result<(), String> {
        let file = candidate.info.file;
        self.begin_join(candidate);
        for _ in 0..20_000 {
            self.go_on_joining()?;
            if let Some(joined) = self.owner.take_joined() {
                self.files.push(joined.is_ok().then_some(file));
                return joined.map(|_| ());
            }
            self.turn();
        }
        panic!("a drive joins for ever");
    }

    fn begin_join(&mut self, candidate: Candidate) {
        let mut seed = [0; 32];
        self.io.random(&mut seed);
        let (slot, file) = (Rc::new(RefCell::new(None)), candidate.info.file);
        let (put, preparing) =
            (slot.clone(), prepare_drive(self.exec.handle(), candidate, self.owner.join_to(seed)));
        self.exec.handle().spawn(async move { *put.borrow_mut() = Some(preparing.await) }).unwrap();
        self.preparing = Some((file, slot));
    }

    /// Lets a drive that is prepared count.
    fn go_on_joining(&mut self) -> Result<(), String> {
        let Some((file, slot)) = &self.preparing else { return Ok(()) };
        let (file, Some(ended)) = (*file, slot.borrow_mut().take()) else { return Ok(()) };
        self.preparing = None;
        let drive = ended.map_err(|e| e.to_string())?;
        self.stores.iter_mut().for_each(|s| s.attach_drive(drive.uuid(), file));
        self.owner.add_drive(drive)
    }

    pub fn space(&self) -> SpaceReport {
        self.stores[0].space()
    }
}

pub fn unmap(line: u64, lba: u64, blocks: u64) -> Record {
    Record::Unmap { line: LineId(line), lba: Lba(lba), blocks: Blocks(blocks) }
}

pub fn create(line: u64) -> Record {
    Record::CreateLine { line: LineId(line), attributes: LineAttributes::default() }
}

/// A new line of the kind that its number stands for; the setup needs [`keyring`].
pub fn create_some_kind(line: u64) -> Record {
    Record::CreateLine { line: LineId(line), attributes: attributes(line) }
}

/// All four kinds of lines, in turn.
pub fn attributes(line: u64) -> LineAttributes {
    LineAttributes { compress: line & 1 != 0, encrypt: line & 2 != 0 }
}

/// Keys of all lines that tests make; a clone is encrypted as its parent, whatever its number.
pub fn keyring() -> Keyring {
    let mut keyring = Keyring::default();
    for line in 0..8000u64 {
        let mut key = [0x5a; 32];
        key[..8].copy_from_slice(&line.to_le_bytes());
        keyring.insert(LineId(line), DataKey::new(key));
    }
    keyring
}

pub fn drop_line(line: u64) -> Record {
    Record::DropLine { line: LineId(line) }
}

pub fn snapshot(line: u64) -> Record {
    Record::Snapshot { line: LineId(line) }
}

pub fn drop_snapshot(line: u64, at: u64) -> Record {
    Record::DropSnapshot { line: LineId(line), at: Seq(at) }
}

pub fn clone_line(line: u64, parent: u64, at: u64) -> Record {
    Record::CloneLine { line: LineId(line), parent: LineId(parent), at: Seq(at) }
}

pub fn key(id: u128) -> Key {
    Key { kind: 1, id }
}

/// Fills a block so that it can be told from every other; 0 is a block of zeros, every third one is noise, the others compress.
pub fn fill(block: &mut [u8], value: u64) {
    let mut noise = value;
    for (i, word) in block.chunks_exact_mut(8).enumerate() {
        noise = (noise ^ noise >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9).wrapping_add(i as u64);
        let v = match value {
            0 => 0,
            v if v.is_multiple_of(3) => noise ^ noise >> 32,
            v => v.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(i as u64),
        };
        word.copy_from_slice(&v.to_le_bytes());
    }
    if value != 0 {
        block[..8].copy_from_slice(&value.to_le_bytes());
    }
}

/// The values of whole blocks; a block that is not what `fill` made is a failure.
pub fn values(bytes: &[u8]) -> Vec<u64> {
    let mut scratch = vec![0; BLOCK];
    bytes
        .chunks_exact(BLOCK)
        .map(|block| {
            let value = u64::from_le_bytes(block[..8].try_into().unwrap());
            fill(&mut scratch, value);
            assert!(scratch == block, "a block is a mixture");
            value
        })
        .collect()
}

pub fn path(name: &str) -> &Path {
    Path::new(name)
}
