//! The store alone: appends of one block, and reads of one block whose map leaf is in memory, 32 at a time.

use crate::{Result, counted, next_random, world::World};
use dolmen_io::{Event, Io, OpenDrive, Owner, Tag, Wait, exec::Exec};
use dolmen_store::{
    Batch, Candidate, Done, Keyring, LineAttributes, PoolOptions, PoolOwner, Record, ShardTuning, Store,
    Ticket, ToPool, ToShard, open_pool,
};
use dolmen_types::{Epoch, Lba, LineId, PgId, Seq, ShardId, limits::BLOCK_BYTES};
use std::{cell::RefCell, rc::Rc};

const STORE: Owner = Owner(2);
const EXEC: Owner = Owner(3);
const LINE: LineId = LineId(1);
const PG: PgId = PgId(0);

const DRIVE_BYTES: usize = 384 << 20;
/// Blocks that are written.
const BLOCKS: u64 = 1024;
/// Operations under way.
const DEPTH: u64 = 32;
/// Operations that are counted.
const COUNT: u64 = 3200;
/// Turns after which something that does not come is given up.
const PATIENCE: usize = 1_000_000;

/// A store on one drive, and what a core does for it.
struct Bench {
    io: Io,
    exec: Exec,
    store: Store,
    owner: PoolOwner,
    seq: u64,
    done: Vec<Done>,
    events: Vec<(Tag, Event)>,
    to_pool: Vec<ToPool>,
    to_shards: Vec<(ShardId, ToShard)>,
}

/// Appends.
pub(crate) fn append() -> Result<u64> {
    let mut bench = Bench::start()?;
    let mut random = 1;
    bench.appends(320, || next_random(&mut random) % BLOCKS)?;
    counted(&mut || bench.appends(COUNT, || next_random(&mut random) % BLOCKS))
}

/// Reads.
pub(crate) fn lookup() -> Result<u64> {
    let mut bench = Bench::start()?;
    bench.reads(320)?;
    counted(&mut || bench.reads(COUNT))
}

impl Bench {
    /// With a line whose blocks are all written.
    fn start() -> Result<Bench> {
        let world = World::new(1, DRIVE_BYTES);
        let mut io = Io::new(world.driver(0));
        let mut exec = Exec::new(EXEC, 64, &io);
        let open = OpenDrive { path: "0".into(), create_bytes: None, sparse: false, exclusive: true };
        let drive = Candidate { info: io.open_drive(&open)?, path: "0".into() };
        let files = [Some(drive.info.file)];
        let options = PoolOptions {
            shards: 1,
            parity: Some(0),
            unit_bytes: None,
            seed: [7; 32],
            expect: None,
            at_least: Ok(0),
            absent: Vec::new(),
            degraded: false,
            let_go: Vec::new(),
            added: Vec::new(),
        };
        let plan = Rc::new(RefCell::new(None));
        let (slot, opening) = (plan.clone(), open_pool(exec.handle(), vec![drive], options));
        let task = async move { *slot.borrow_mut() = Some(opening.await) };
        exec.handle().spawn(task).map_err(|_| "the executor is full")?;
        let mut events = Vec::new();
        while plan.borrow().is_none() {
            exec.run(&mut io);
            io.poll(Wait::No, &mut events);
            events.drain(..).for_each(|(tag, event)| exec.deliver(tag.key, event));
        }
        let plan = plan.take().ok_or("the loop ended")??;
        let (shards, tuning) = (plan.shards_of(0, 1), ShardTuning::for_pool(&plan));
        let store =
            Store::open(&plan, &shards, &files, tuning, STORE, 1, &Keyring::default(), &exec.handle());
        let owner = PoolOwner::new(&plan, &files, &exec.handle());
        let (done, to_pool, to_shards) = (Vec::new(), Vec::new(), Vec::new());
        let mut bench = Bench { io, exec, store, owner, seq: 0, done, events, to_pool, to_shards };
        bench.until(|b| b.store.ready().is_some())?;
        bench.store.ready().ok_or("asked for just now")??;
        bench.batch(Record::CreateLine { line: LINE, attributes: LineAttributes::default() }, 0)?;
        bench.until(|b| b.done.pop().is_some())?;
        let mut next = 0..BLOCKS;
        bench.appends(BLOCKS, || next.next().unwrap_or(0))?;
        Ok(bench)
    }

    fn until(&mut self, mut holds: impl FnMut(&mut Bench) -> bool) -> Result<()> {
        for _ in 0..PATIENCE {
            if holds(self) {
                return Ok(());
            }
            self.turn();
        }
        Err("the store did not get there".into())
    }

    fn turn(&mut self) {
        self.io.poll(Wait::No, &mut self.events);
        for (tag, event) in self.events.drain(..) {
            match tag.owner {
                STORE => self.store.on_event(&mut self.io, tag.key, event),
                _ => self.exec.deliver(tag.key, event),
            }
        }
        self.exec.run(&mut self.io);
        self.store.step(&mut self.io);
        self.store.drain(&mut self.done);
        self.store.drain_pool(&mut self.to_pool);
        for message in self.to_pool.drain(..) {
            self.owner.on_shard(message).expect("one store claims nothing twice");
        }
        self.owner.drain(&mut self.to_shards);
        for (shard, message) in self.to_shards.drain(..) {
            self.store.on_pool(shard, message);
        }
    }

    fn batch(&mut self, record: Record, ticket: u64) -> Result<()> {
        self.seq += 1;
        let mut records = dolmen_store::Records::new();
        records.push(record);
        let batch = Batch { pg: PG, epoch: Epoch(1), seq: Seq(self.seq), records };
        Ok(self.store.append(batch, Ticket(ticket)).map_err(|(_, e)| format!("an append: {e:?}"))?)
    }

    fn appends(&mut self, count: u64, mut lba: impl FnMut() -> u64) -> Result<u64> {
        let mut ended = 0;
        while ended < count {
            for ticket in 0..DEPTH {
                let buf = self.io.alloc(BLOCK_BYTES).ok_or("too few buffers")?;
                let record = Record::Write { line: LINE, lba: Lba(lba()), data: buf.freeze() };
                self.batch(record, ticket)?;
            }
            ended += self.answers()?;
        }
        Ok(ended)
    }

    fn reads(&mut self, count: u64) -> Result<u64> {
        let (mut ended, mut random) = (0, 1);
        while ended < count {
            for ticket in 0..DEPTH {
                let buf = self.io.alloc(BLOCK_BYTES).ok_or("too few buffers")?;
                let lba = Lba(next_random(&mut random) % BLOCKS);
                self.store.read(PG, LINE, None, lba, buf, Ticket(ticket));
            }
            ended += self.answers()?;
        }
        Ok(ended)
    }

    /// Waits until everything under way has ended well.
    fn answers(&mut self) -> Result<u64> {
        self.until(|b| b.done.len() as u64 == DEPTH)?;
        for done in self.done.drain(..) {
            done.result?;
        }
        Ok(DEPTH)
    }
}
