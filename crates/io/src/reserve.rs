//! Buffers to send from, set aside for those who find none: what is sent gives back what others wait for.

use crate::{Buf, Io, PoolConfig};

/// Buffers of a reserve.
const RESERVED: usize = 8;

/// Staging buffers that one owner on a core has set aside, so that replies always find room and give their own buffers back.
#[derive(Debug, Default)]
pub struct Reserve {
    free: Vec<Buf>,
    /// Those that are in use.
    lent: usize,
}

impl Reserve {
    /// Fills up from the pool, as far as that goes.
    pub fn top_up(&mut self, io: &Io) {
        while self.free.len() + self.lent < RESERVED {
            match io.alloc(PoolConfig::CHUNK_BYTES) {
                Some(buf) => self.free.push(buf),
                None => return,
            }
        }
    }

    /// A buffer of at least `need` bytes; [`Reserve::take_back`] is to be told when it is free.
    pub fn lend(&mut self, need: usize) -> Option<Buf> {
        let buf = self.free.pop_if(|buf| buf.capacity() >= need)?;
        self.lent += 1;
        Some(buf)
    }

    /// One that was lent is free; `None` when it went back to the pool, or will.
    pub fn take_back(&mut self, buf: Option<Buf>) {
        self.lent -= 1;
        self.free.extend(buf);
    }
}
