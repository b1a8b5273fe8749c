//! The bare drive I/O of a recorded run: the same operations in the same groups through the same loop, and nothing else.

use super::{
    load::Run,
    ram::{Drives, Shared, Step},
};
use crate::Result;
use dolmen_io::{Event, FileId, Io, Op, Owner, Pool, Slices, Tag, Wait};
use dolmen_kernels::check64;
use std::hint::black_box;

/// Does what `tape` says; what it comes to for each of the `commands` that caused it. Once only: a log comes back to where it has
/// written when the whole drive was written over, and so must its replay, or it would write to memory that the caches still hold.
pub(crate) fn replay(io: &mut Io, tape: &[Step], commands: u64) -> Result<Run> {
    let mut events = Vec::new();
    io.poll(Wait::No, &mut events);
    let begin = io.now();
    once(io, tape, &mut events)?;
    Ok(Run { commands, ns: io.now().since(begin) as f64 / commands.max(1) as f64 })
}

fn once(io: &mut Io, tape: &[Step], events: &mut Vec<(Tag, Event)>) -> Result<()> {
    for (number, step) in tape.iter().enumerate() {
        let (tag, file) = (Tag { owner: Owner(1), key: number as u64 }, FileId(step.file));
        if step.write {
            let spare = io.slices();
            let slices = payload(io.pool(), spare, step).ok_or("too few buffers")?;
            io.write_durable(tag, file, step.offset, slices);
        } else {
            let buf = io.alloc(step.len as usize).ok_or("too few buffers")?;
            io.read(tag, file, step.offset, buf);
        }
        if tape.get(number + 1).is_none_or(|next| !next.joined) {
            take(io, events)?;
        }
    }
    take(io, events)
}

/// What a write is made of: the header's page, and then the payload, in pieces as the store had it.
fn payload(pool: &Pool, mut slices: Slices, step: &Step) -> Option<Slices> {
    let mut left = step.len as usize;
    let mut part = left.min(4096);
    while left > 0 {
        slices.push(pool.alloc(part)?.freeze());
        left -= part;
        part = left.min(step.piece as usize);
    }
    Some(slices)
}

/// The drive I/O of a recorded run, to be done while commands to a volume that keeps nothing come in: what a loop pays for both
/// together, whose parts by themselves have the caches to themselves. Blocks are checked.
pub(crate) struct Burden {
    drives: Drives,
    tape: Vec<Step>,
    next: usize,
    /// Steps for each byte that hosts send.
    rate: f64,
    due: f64,
}

impl Burden {
    /// What `tape` says for each of the `commands` that caused it, which take `capsule_bytes` each on the wire. Drives of its
    /// own, which lose what is on them.
    pub(crate) fn new(drives: Drives, tape: Vec<Step>, commands: u64, capsule_bytes: usize) -> Burden {
        let rate = tape.len() as f64 / (commands.max(1) as f64 * capsule_bytes as f64);
        Burden { drives, tape, next: 0, rate, due: 0.0 }
    }

    /// Does what so many bytes from hosts cause; `spare` is reused by every write.
    pub(crate) fn bear(&mut self, pool: &Pool, spare: &mut Slices, received: usize) {
        let drives = self.drives.clone();
        let mut drives = drives.lock();
        self.due += received as f64 * self.rate;
        let mut joined = false;
        while self.due >= 1.0 && !self.tape.is_empty() {
            self.due -= 1.0;
            let step = self.tape[self.next];
            self.next = (self.next + 1) % self.tape.len();
            self.step(&mut drives, pool, spare, step, joined);
            joined = true;
        }
    }

    fn step(&self, drives: &mut Shared, pool: &Pool, spare: &mut Slices, step: Step, joined: bool) {
        let (file, offset) = (FileId(step.file), step.offset);
        if !step.write {
            let Some(buf) = pool.alloc(step.len as usize) else { return };
            if let Event::Read(buf) = drives.perform(Op::Read { file, offset, buf }, joined) {
                Self::check(&buf);
            }
            return;
        }
        let Some(data) = payload(pool, std::mem::take(spare), &step) else { return };
        data.iter().skip(1).for_each(|part| Self::check(part));
        if let Event::Written(data) = drives.perform(Op::Write { file, offset, data, durable: true }, joined)
        {
            *spare = data;
        }
    }

    fn check(data: &[u8]) {
        for block in data.chunks_exact(4096) {
            black_box(check64(1, block));
        }
    }
}

fn take(io: &mut Io, events: &mut Vec<(Tag, Event)>) -> Result<()> {
    io.poll(Wait::No, events);
    for (_, event) in events.drain(..) {
        match event {
            Event::Written(slices) => io.recycle(slices),
            Event::Failed { error, .. } => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}
