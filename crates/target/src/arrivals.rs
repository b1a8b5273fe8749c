//! Where the data of writes arrives: in the request's own buffer, as soon as it is known whose data comes.
//!
//! Hosts answer R2Ts in an order of their own, with commands in between. But when the header of an H2CData is here, the next
//! bytes are the rest of its data and belong into one request's buffer. So that is lent to the socket (a [`Landing`]), and behind
//! it a small room for what follows: most likely the next header, with the first bytes of its data, which are copied. While it
//! is not known what comes, the room is lent alone, lest a whole chunk be filled with what has a better place.
//!
//! A buffer is its request's or lent, never both: it is moved. A request that waits for data of an R2T ends by that data's end, and
//! nothing is lent then, or with its connection: a buffer that is still lent then belongs to the landing alone, and goes back to
//! the pool when the driver lets go of that. So bytes never land where somebody else looks.

use crate::{
    connection::{Connection, Receiving, Stage},
    slab::Key,
    target::Target,
};
use dolmen_io::{Buf, Io, Landing, Pool, PoolConfig};
use dolmen_nvme::tcp::{ControllerEvent, DataSource};
use dolmen_volume::Near;
use std::ops::Range;

/// Data that is due for which lending pays. Bytes.
const LEAST_BYTES: u32 = 16 * 1024;
/// While it is not known whose data comes: buffers that R2Ts wait for, on average, for which it does. Bytes.
const LEAST_AWAITED_BYTES: usize = PoolConfig::CHUNK_BYTES + 1;
/// Room for what follows data whose place is known. Bytes.
const ROOM_BYTES: usize = 4096;
/// Landings that are kept for reuse at most.
const MOST_SPARE: usize = 16;

/// Where a connection's landing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lending {
    /// There is none.
    No,
    /// One is to be lent at the end of the turn.
    Wanted,
    /// The driver has it, and with it this request's buffer.
    Lent(Option<Key>),
}

/// Landings of all connections.
#[derive(Debug, Default)]
pub(crate) struct Landings {
    wanted: Vec<Key>,
    #[expect(clippy::vec_box, reason = "boxed is how drivers take them")]
    spare: Vec<Box<Landing>>,
}

impl Landings {
    /// A connection waits for data of R2Ts.
    pub(crate) fn want(&mut self, key: Key, connection: &mut Connection) {
        if connection.lending == Lending::No {
            connection.lending = Lending::Wanted;
            self.wanted.push(key);
        }
    }

    /// A landing with nothing but its room.
    fn take(&mut self, pool: &Pool) -> Option<Box<Landing>> {
        let make = || Some(Box::new(Landing::new(0, vec![pool.alloc_fitting(ROOM_BYTES)?])));
        self.spare.pop().or_else(make)
    }

    /// Gives memory back that is kept for reuse.
    pub(crate) fn shed(&mut self) {
        self.spare.clear();
    }

    fn give_back(&mut self, landing: Box<Landing>) {
        if self.spare.len() < MOST_SPARE {
            self.spare.push(landing);
        }
    }
}

impl Target {
    /// Once a turn: lends landings to the connections that want one, if their sockets have a use for it.
    pub(crate) fn lend(&mut self, io: &mut Io) {
        while let Some(key) = self.landings.wanted.pop() {
            self.lend_to(io, key);
        }
    }

    fn lend_to(&mut self, io: &mut Io, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.lending = Lending::No;
        let parsed = !connection.is_held_up();
        let listens = connection.receiving == Receiving::On && !connection.is_over();
        let due = connection.protocol.data_due();
        let open = connection.protocol.open_transfers();
        let awaited = open > 0 && connection.solicited_bytes >= open * LEAST_AWAITED_BYTES;
        let pays = awaited || due.is_some_and(|due| due.left >= LEAST_BYTES);
        if !parsed || !listens || !pays || !io.lands(connection.sock) {
            return;
        }
        let Some(mut landing) = self.landings.take(io.pool()) else { return };
        let mut whose = None;
        if let Some(due) = due
            && let Some(request) = self.requests.key_at(due.token)
            && let Some(slot) = self.requests.get_mut(request).filter(|r| r.connection == key)
            && let Some(buf) = slot.buf.take()
        {
            let start = due.offset as usize;
            landing.set_lead(buf, start..start + due.left as usize);
            whose = Some(request);
        }
        match io.land(connection.sock, landing) {
            Ok(()) => connection.lending = Lending::Lent(whose),
            Err(landing) => self.take_back(whose, landing),
        }
    }

    /// Takes back what a connection has lent, since bytes have come another way.
    #[cold]
    pub(crate) fn recall(&mut self, io: &mut Io, key: Key) {
        let Some(connection) = self.connections.get_mut(key).filter(|c| !c.is_over()) else { return };
        let Lending::Lent(whose) = std::mem::replace(&mut connection.lending, Lending::No) else { return };
        match io.recall(connection.sock) {
            Some(landing) => self.take_back(whose, landing),
            // It would hold bytes that come after these, at places for what comes before: better a new connection.
            None => self.give_up(io, key, Target::close),
        }
    }

    /// A landing that nothing came to.
    fn take_back(&mut self, whose: Option<Key>, mut landing: Box<Landing>) {
        if let Some((buf, _)) = landing.take_lead() {
            self.own_again(whose, buf);
        }
        self.landings.give_back(landing);
    }

    /// Bytes came into what was lent.
    pub(crate) fn landed(
        &mut self,
        io: &mut Io,
        near: &mut Near<'_>,
        key: Key,
        mut landing: Box<Landing>,
        bytes: usize,
    ) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.is_over() {
            return;
        }
        let Lending::Lent(whose) = std::mem::replace(&mut connection.lending, Lending::No) else {
            unreachable!("a landing comes back that was not lent")
        };
        let mut data = 0;
        if let Some((buf, range)) = landing.take_lead() {
            data = bytes.min(range.len());
            pass(connection, whose, &buf, range.start..range.start + data);
            self.own_again(whose, buf);
        }
        let rest = bytes - data;
        let left = self.parse(io, near, key, &landing.part(0)[..rest]);
        if left > 0 {
            self.keep_room(key, *landing, rest - left..rest);
        } else {
            self.landings.give_back(landing);
        }
        self.pump(io, near, key, usize::MAX);
    }

    /// The request has its buffer again.
    fn own_again(&mut self, whose: Option<Key>, buf: Buf) {
        let slot = whose.and_then(|request| self.requests.get_mut(request));
        let slot = slot.expect("who waits for data lives as long as its connection");
        assert!(slot.buf.is_none() && slot.stage == Stage::Solicited, "what was lent is not in use");
        slot.buf = Some(buf);
    }

    /// What a landing's room holds has to wait, as in a chunk.
    fn keep_room(&mut self, key: Key, landing: Landing, unparsed: Range<usize>) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Some(mut room) = landing.into_parts().pop() else { return };
        room.set_len(unparsed.end);
        connection.parsed = unparsed.start;
        connection.backlog.push_front(room);
    }
}

/// Has the codec count, and digest, data that lies where it stays.
fn pass(connection: &mut Connection, whose: Option<Key>, buf: &Buf, came: Range<usize>) {
    let mut bytes = &buf[came.clone()];
    let place = match connection.protocol.receive(&mut bytes) {
        Ok(Some(ControllerEvent::Data { source: DataSource::Transfer(token), offset, .. })) => {
            Some((token, offset as usize))
        }
        _ => None,
    };
    let expected = whose.map(|request| (request.index, came.start));
    assert!(place == expected && bytes.is_empty(), "{place:?} landed instead of {expected:?}");
}
