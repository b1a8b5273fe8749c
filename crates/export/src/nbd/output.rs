//! Replies as bytes: what commands have to say, put together for one send a connection.

use super::{
    command::{Command, chunk_flags},
    outbox::{COPY_BYTES, Outbox},
    server::Server,
    wire::{CHUNK_MAGIC, ChunkHeader, Errno, SIMPLE_REPLY_MAGIC, SimpleReply, chunk, extent},
};
use crate::slab::Key;
use dolmen_io::{Buf, Io};
use dolmen_volume::{Extent, limits::MAX_EXTENTS};
use std::ops::Range;
use zerocopy::IntoBytes;

/// What came of saying something.
enum Said {
    /// All that could be said.
    All,
    /// There is no room for more.
    Full,
    /// An error after a part of the data: only the end of the connection can tell.
    Broken,
}

impl Server {
    /// Puts together what a connection has to say, and sends it.
    pub(super) fn flush(&mut self, io: &mut Io, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.dirty = false;
        if connection.sending.is_some() || !connection.has_news() {
            return;
        }
        let Some(mut outbox) = Outbox::new(io, &mut self.reserve) else {
            connection.dirty = true;
            self.unsaid.push(key);
            return;
        };
        let taken = outbox.put(&connection.said);
        connection.said.drain(..taken);
        let said_all = connection.said.is_empty();
        while said_all && outbox.has_room() {
            let ready = self.connections.get_mut(key).and_then(|c| c.transmission());
            let Some(command) = ready.and_then(|t| t.ready.pop_front()) else { break };
            match self.say(io, command, &mut outbox) {
                Said::All => {}
                Said::Full => {
                    if let Some(t) = self.connections.get_mut(key).and_then(|c| c.transmission()) {
                        t.ready.push_front(command);
                    }
                    break;
                }
                Said::Broken => {
                    let freed = outbox.discard(&mut self.reserve);
                    self.uncount(key, freed);
                    return self.close(io, key);
                }
            }
        }
        let tag = self.send_tag(key);
        match self.connections.get_mut(key) {
            Some(connection) if !outbox.is_empty() => {
                let (slices, sending) = outbox.finish(io);
                connection.sending = Some(sending);
                io.send(tag, connection.sock, slices);
                connection.unsent.sending();
            }
            _ => {
                outbox.discard(&mut self.reserve);
            }
        }
        // Answered commands make room for others.
        self.pump(io, key);
    }

    /// Says what a command has to say.
    fn say(&mut self, io: &mut Io, key: Key, outbox: &mut Outbox) -> Said {
        loop {
            let Some(command) = self.commands.get_mut(key) else { return Said::All };
            if !outbox.has_room() {
                return Said::Full;
            }
            if let Some((buf, part, at, last)) = command.take_data() {
                let Command { connection, cookie, structured, begun, .. } = *command;
                command.begun = true;
                // It is the send's now, as far as that doesn't copy it.
                command.held -= buf.capacity();
                let freed = if structured {
                    put_chunk(outbox, cookie, buf, part, at, last)
                } else {
                    if !begun {
                        put_simple(outbox, cookie, None);
                    }
                    outbox.put_data(buf, part)
                };
                self.uncount(connection, freed);
                if last {
                    self.finish(key, None);
                    return Said::All;
                }
            } else if command.is_over() {
                let Command { cookie, structured, begun, error, .. } = *command;
                match error {
                    Some(_) if begun && !structured => return Said::Broken,
                    Some(errno) if structured => put_error_chunk(outbox, cookie, errno),
                    None if !command.extents.is_empty() => put_extents(outbox, cookie, &command.extents),
                    None if structured => put_header(outbox, cookie, chunk::NONE, 0, true),
                    _ => put_simple(outbox, cookie, error),
                }
                self.finish(key, error);
                return Said::All;
            } else {
                command.queued = false;
                self.advance(io, key);
                return Said::All;
            }
        }
    }

    /// A command that is answered.
    fn finish(&mut self, key: Key, error: Option<Errno>) {
        let Some(command) = self.forget(key) else { return };
        self.stats.commands += 1;
        self.stats.errors += u64::from(error.is_some());
        let Some(connection) = self.connections.get_mut(command.connection) else { return };
        connection.unsent.add(command.traces);
        let (read, written) = command.moved();
        let traffic = &mut connection.traffic;
        traffic.commands += 1;
        traffic.read_bytes += read;
        traffic.written_bytes += written;
        if let Some(t) = connection.transmission() {
            t.commands -= 1;
            if t.write.as_ref().is_some_and(|write| write.command == key) {
                t.write = None;
            }
        }
    }

    /// Everything of one send is in the kernel.
    pub(super) fn sent(&mut self, io: &mut Io, key: Key) {
        self.end_send(key);
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.unsent.sent(&mut self.traces, io.now());
        if connection.has_news() {
            self.mark(key);
        }
        self.pump(io, key);
    }

    /// A send is over, well or not: what it was sent from is free.
    pub(super) fn end_send(&mut self, key: Key) {
        let Some(sending) = self.connections.get_mut(key).and_then(|c| c.sending.take()) else { return };
        self.uncount(key, sending.memory);
        sending.end(&mut self.reserve);
    }
}

fn put_simple(outbox: &mut Outbox, cookie: u64, error: Option<Errno>) {
    let error = error.map_or(0, |errno| errno as u32);
    let reply = SimpleReply { magic: SIMPLE_REPLY_MAGIC.into(), error: error.into(), cookie: cookie.into() };
    outbox.put(reply.as_bytes());
}

fn put_header(outbox: &mut Outbox, cookie: u64, kind: u16, length: usize, last: bool) {
    let header = ChunkHeader {
        magic: CHUNK_MAGIC.into(),
        flags: chunk_flags(last).into(),
        kind: kind.into(),
        cookie: cookie.into(),
        length: u32::try_from(length).expect("a piece is far below 4 GiB").into(),
    };
    outbox.put(header.as_bytes());
}

/// Data of a structured reply; of nothing but zeroes only their number is told. How much memory is free now. Bytes.
fn put_chunk(outbox: &mut Outbox, cookie: u64, buf: Buf, part: Range<usize>, at: u64, last: bool) -> usize {
    let data = &buf[part.clone()];
    if is_zero(data) {
        let length = u32::try_from(data.len()).expect("a piece is far below 4 GiB");
        put_header(outbox, cookie, chunk::OFFSET_HOLE, size_of::<u64>() + size_of::<u32>(), last);
        outbox.put(&at.to_be_bytes());
        outbox.put(&length.to_be_bytes());
        return buf.capacity();
    }
    put_header(outbox, cookie, chunk::OFFSET_DATA, size_of::<u64>() + data.len(), last);
    outbox.put(&at.to_be_bytes());
    outbox.put_data(buf, part)
}

/// What is stored, run by run.
fn put_extents(outbox: &mut Outbox, cookie: u64, extents: &[Extent]) {
    let length = size_of::<u32>() * (1 + 2 * extents.len());
    put_header(outbox, cookie, chunk::BLOCK_STATUS, length, true);
    outbox.put(&extent::ALLOCATION_ID.to_be_bytes());
    for run in extents {
        let bytes = u32::try_from(run.bytes).expect("no longer than what a request asks for");
        let flags = if run.stored { 0 } else { extent::HOLE | extent::ZERO };
        outbox.put(&bytes.to_be_bytes());
        outbox.put(&flags.to_be_bytes());
    }
}

// The longest list fits where a header and small data fit.
const _: () = assert!(size_of::<u32>() * (1 + 2 * MAX_EXTENTS) <= COPY_BYTES);

fn put_error_chunk(outbox: &mut Outbox, cookie: u64, errno: Errno) {
    put_header(outbox, cookie, chunk::ERROR, size_of::<u32>() + size_of::<u16>(), true);
    outbox.put(&(errno as u32).to_be_bytes());
    outbox.put(&0u16.to_be_bytes());
}

/// True of zeroes alone; data that is none is seen by its first bytes.
fn is_zero(data: &[u8]) -> bool {
    let (words, rest) = data.as_chunks::<8>();
    words.iter().all(|word| *word == [0; 8]) && rest.iter().all(|byte| *byte == 0)
}
