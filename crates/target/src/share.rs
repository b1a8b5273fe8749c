//! Who may hold how much of the core's memory, and who is tried again when.
//!
//! A connection holds the buffers of its commands, whether their data is coming, a volume has them or they are on their way out, and
//! those of all replies until they are sent. It gets another one while that is less than its bound, and less than what is left of
//! that kind ([`dolmen_io::Pool::alloc_share`]). So a host whose volume is slow, or that does not read, or does not send what it was asked for, takes
//! its share and leaves the others theirs.
//!
//! Who waits for others is tried again every turn, one buffer each until there are no more; who was served last is the last one then. Who
//! waits for what he holds himself, or whose send is under way, is tried when some of that has gone. What does not move at all goes
//! with its connection, soon if others wait for memory.

use crate::{connection::Connection, slab::Key, target::Target};
use dolmen_io::Io;
use dolmen_types::{Nanos, limits::BLOCK_BYTES};
use dolmen_volume::Near;

impl Target {
    /// Remembers that a connection has to be tried again.
    pub(crate) fn stall(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.outbox.give_back(&mut self.reserve);
        let wakes_itself = connection.sending.is_some()
            || connection.is_congested(&self.config.bounds)
            || (connection.is_full() && connection.parked.is_empty() && connection.unsolicited.is_empty());
        if wakes_itself {
            connection.sated = true;
        } else {
            self.retry(key);
        }
    }

    /// Tries a connection again in this turn: it holds less than it did, or others may.
    #[cold]
    pub(crate) fn retry(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.sated = false;
        if !connection.stalled {
            connection.stalled = true;
            self.stalled.push_back(key);
        }
    }

    /// Once a turn: tries those again that wait for memory, in turns, one buffer each, until nobody gets any.
    pub(crate) fn retry_stalled(&mut self, io: &mut Io, near: &mut Near<'_>) {
        let mut in_vain = 0;
        while in_vain < self.stalled.len() {
            let Some(key) = self.stalled.pop_front() else { break };
            let Some(connection) = self.connections.get_mut(key) else { continue };
            connection.stalled = false;
            let held = connection.holds();
            self.pump(io, near, key, 1);
            let (holds_more, waits) =
                self.connections.get(key).map_or((false, false), |c| (c.holds() > held, c.stalled));
            // Who waits no longer has left the row.
            in_vain = if holds_more { 0 } else { in_vain + usize::from(waits) };
        }
    }

    /// While memory is short and others wait for it: connections that give nothing back because their hosts neither read nor send.
    /// Those that hold no more than a few responses stay.
    pub(crate) fn hung(&self, io: &Io) -> Vec<Key> {
        let asked_for = self.solicited_bytes.saturating_sub(self.solicited_limit / 2);
        if io.pool().lacking() == 0 && asked_for == 0 {
            return Vec::new();
        }
        let (now, ms) = (io.now(), self.config.timeouts.hung_ms);
        let is_hung = |c: &Connection| now > self.unmoved_since(c, now).plus_ms(ms);
        if !self.connections.iter().any(|(_, c)| (c.stalled || c.sated) && !is_hung(c)) {
            return Vec::new();
        }
        self.connections.keys(|c| is_hung(c) && !c.is_over() && c.holds() > BLOCK_BYTES)
    }

    /// Since when a connection's host has neither read what it is sent, nor gone on with what it was asked for, nor let the second half
    /// of a fused pair follow the first: `now` if it owes nothing.
    fn unmoved_since(&self, connection: &Connection, now: Nanos) -> Nanos {
        let owes = (connection.solicited_bytes > 0).then_some(connection.progress);
        // What we hold up ourselves may be the second half.
        let half = self.waiting_half(connection).filter(|_| !connection.is_held_up());
        let half = half.map(|request| request.since);
        connection.sending.into_iter().chain(owes).chain(half).min().unwrap_or(now)
    }
}
