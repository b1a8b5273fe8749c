//! The host's side: a number of commands under way, all of one kind.

use super::{data::Fill, machine::Machine};
use crate::Result;
use dolmen_io::Buf;
use dolmen_types::{Nanos, limits::BLOCK_BYTES};
use dolmen_volume::{Command, Done, VolumeRef};
use std::time::Duration;

/// What is done, and how much at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// For people and programs.
    pub(crate) name: &'static str,
    pub(crate) write: bool,
    /// Blocks of one command.
    pub(crate) blocks: u32,
    pub(crate) random: bool,
    /// Commands under way.
    pub(crate) depth: usize,
    /// What is written.
    pub(crate) fill: Fill,
}

impl Shape {
    /// Bytes of one command.
    pub(crate) fn bytes(&self) -> usize {
        self.blocks as usize * BLOCK_BYTES
    }
}

/// A load on one volume. It goes on where it was when it is run again.
pub(crate) struct Load {
    shape: Shape,
    volume: VolumeRef,
    /// Commands that the volume is long.
    slots: u64,
    next: u64,
    random: u64,
    free: Vec<Buf>,
    under_way: usize,
}

/// What a run came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) commands: u64,
    /// Per command.
    pub(crate) ns: f64,
}

impl Load {
    /// Over a volume of `bytes`.
    pub(crate) fn new(machine: &Machine, shape: Shape, volume: VolumeRef, bytes: u64) -> Result<Load> {
        let mut free = Vec::new();
        for number in 0..shape.depth {
            let mut buf = machine.io.alloc(shape.bytes()).ok_or("too few buffers")?;
            shape.fill.fill(&mut buf, number as u64);
            free.push(buf);
        }
        let slots = bytes / shape.bytes() as u64;
        Ok(Load { shape, volume, slots, next: 0, random: 0x1234_5678_9abc_def1, free, under_way: 0 })
    }

    /// Runs until the time is over and everything has been answered.
    pub(crate) fn run(&mut self, machine: &mut Machine, time: Duration) -> Result<Run> {
        let ns = u64::try_from(time.as_nanos())?;
        machine.turn();
        let begin = machine.io.now();
        self.go(machine, |_, now| now.since(begin) < ns, begin)
    }

    /// Runs so many commands.
    pub(crate) fn run_count(&mut self, machine: &mut Machine, count: u64) -> Result<Run> {
        machine.turn();
        let begin = machine.io.now();
        self.go(machine, |started, _| started < count, begin)
    }

    fn go(
        &mut self,
        machine: &mut Machine,
        goes_on: impl Fn(u64, Nanos) -> bool,
        begin: Nanos,
    ) -> Result<Run> {
        let (mut started, mut ended) = (0, 0);
        loop {
            while let Some(buf) = self.free.pop() {
                if !goes_on(started, machine.io.now()) {
                    self.free.push(buf);
                    break;
                }
                self.start(machine, buf, started);
                started += 1;
            }
            if self.under_way == 0 {
                break;
            }
            machine.turn();
            let mut replies = std::mem::take(&mut machine.replies);
            for (_, reply) in replies.drain(..) {
                self.under_way -= 1;
                ended += 1;
                if !matches!(reply.result, Ok(Done::Ok)) {
                    return Err(format!("a command failed: {:?}", reply.result).into());
                }
                let buf = reply.buf.or_else(|| machine.io.alloc(self.shape.bytes()));
                self.free.push(buf.ok_or("too few buffers")?);
            }
            machine.replies = replies;
        }
        let ns = machine.io.now().since(begin) as f64 / ended.max(1) as f64;
        Ok(Run { commands: ended, ns })
    }

    fn start(&mut self, machine: &mut Machine, mut buf: Buf, number: u64) {
        let slot = if self.shape.random {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            self.random % self.slots
        } else {
            self.next = (self.next + 1) % self.slots;
            self.next
        };
        let (lba, blocks) = (slot * u64::from(self.shape.blocks), self.shape.blocks);
        self.under_way += 1;
        let command = if self.shape.write {
            buf[..8].copy_from_slice(&(number | 1 << 63).to_le_bytes());
            Command::Write { lba, blocks, buf }
        } else {
            Command::Read { lba, blocks, buf }
        };
        machine.send(number, self.volume, command);
    }
}
