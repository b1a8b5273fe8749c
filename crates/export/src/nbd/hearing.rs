//! Whom the door hears.
//!
//! What a client sends while its commands have no room lies in chunks: those that every socket of the core is received into. So a client
//! that is held up is not heard until all of that is looked at. But it may have sent much at once, and many clients are held up
//! together; then nobody's data would find a chunk any more, not even what others' buffers wait for. So while a quarter of the chunks lie
//! about here, only those are heard for whose data there is a buffer already. The others are hushed, and heard again one a turn:
//! there is a lot in their sockets, perhaps. That goes on up to half of the chunks, since those that are held up may be so for long.

use super::{
    connection::{Connection, Phase, Receiving},
    server::Server,
};
use crate::slab::Key;
use dolmen_io::{Io, Pool, PoolConfig};
use std::collections::VecDeque;

/// Chunks of a client that may lie about before receiving is stopped.
const MAX_INPUT: usize = 2;

/// What lies about, and who is not heard for it.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    /// Chunks of all clients that are not looked at to their end.
    unread: usize,
    /// As many as there may be before clients are hushed.
    limit: usize,
    /// Clients that wait to be heard, in their order.
    waiting: VecDeque<Key>,
}

impl Hearing {
    pub(super) fn new(pool: &Pool) -> Hearing {
        let chunks = pool.fitting(PoolConfig::CHUNK_BYTES.min(pool.largest()));
        Hearing { limit: (chunks / 4).max(1), ..Hearing::default() }
    }

    fn is_full(&self) -> bool {
        self.unread >= self.limit
    }

    /// True when somebody waits to be heard, and may be.
    pub(super) fn has_room(&self) -> bool {
        !self.waiting.is_empty() && self.unread < 2 * self.limit
    }
}

impl Server {
    /// Some of a client's input came, or was looked at. True: with it there is too much.
    fn count_unread(&mut self, key: Key) -> bool {
        let Some(connection) = self.connections.get_mut(key) else { return false };
        let before = self.hearing.is_full();
        self.hearing.unread += connection.input.len();
        self.hearing.unread -= std::mem::replace(&mut connection.unread, connection.input.len());
        self.hearing.is_full() && !before
    }

    /// A client is not heard any more, and its input is thrown away.
    pub(super) fn unhear(&mut self, key: Key) {
        self.count_unread(key);
        if self.connections.get_mut(key).is_some_and(|c| std::mem::take(&mut c.hushed)) {
            self.hearing.waiting.retain(|waits| *waits != key);
        }
    }

    /// Stops or starts receiving.
    pub(super) fn regulate(&mut self, io: &mut Io, key: Key) {
        if self.count_unread(key) {
            self.hush(io);
        }
        let (tag, full) = (self.receive_tag(key), self.hearing.is_full());
        let Some(connection) = self.connections.get_mut(key) else { return };
        let lies_about = connection.input.len();
        match connection.receiving {
            Receiving::On if lies_about > if full { 0 } else { MAX_INPUT } => {
                connection.receiving = Receiving::Stopping;
                io.stop_receive(tag, connection.sock);
            }
            Receiving::Off if lies_about == 0 && !connection.leaving => {
                let open = matches!(connection.phase, Phase::Open(_));
                if open && !connection.fills() && (full || connection.hushed) {
                    if !std::mem::replace(&mut connection.hushed, true) {
                        self.hearing.waiting.push_back(key);
                    }
                    return;
                }
                connection.receiving = Receiving::On;
                io.receive(tag, connection.sock);
            }
            _ => {}
        }
    }

    /// Hears no more of clients that no buffer waits for.
    fn hush(&mut self, io: &mut Io) {
        let heard = |c: &Connection| {
            let open = matches!(c.phase, Phase::Open(_)) && !c.leaving;
            open && c.receiving == Receiving::On && c.input.is_empty() && !c.fills()
        };
        for key in self.connections.keys(|c| heard(c)) {
            let tag = self.receive_tag(key);
            let Some(connection) = self.connections.get_mut(key) else { continue };
            connection.receiving = Receiving::Stopping;
            io.stop_receive(tag, connection.sock);
            if !std::mem::replace(&mut connection.hushed, true) {
                self.hearing.waiting.push_back(key);
            }
        }
    }

    /// Once a turn: hears the next one of those that were hushed.
    pub(super) fn hear_next(&mut self, io: &mut Io) {
        while self.hearing.has_room() {
            let Some(key) = self.hearing.waiting.pop_front() else { return };
            let Some(connection) = self.connections.get_mut(key) else { continue };
            connection.hushed = false;
            if connection.receiving == Receiving::Off && connection.input.is_empty() && !connection.leaving {
                connection.receiving = Receiving::On;
                let sock = connection.sock;
                return io.receive(self.receive_tag(key), sock);
            }
        }
    }
}
