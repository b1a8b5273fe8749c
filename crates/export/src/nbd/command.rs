//! One command of a client under way: cut into pieces that the backend takes, put together again for the reply.

use super::{
    request::NbdRequest,
    wire::{Errno, chunk, command, command_flag},
};
use crate::{
    Export,
    backend::{Failure, MAX_MAP_BYTES, MAX_RANGE_BYTES, Reply},
    slab::Key,
};
use dolmen_io::{Buf, Stamps, trace::TraceAt};
use dolmen_nvme::spec::{AdminOpcode, NvmOpcode};
use dolmen_types::Uuid;
use dolmen_volume::Extent;
use std::ops::Range;

/// Pieces of one command that are under way, or wait for their turn in the reply, at once.
pub(super) const WINDOW: usize = 8;

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write {
        durable: bool,
    },
    WriteZeroes {
        deallocate: bool,
    },
    Trim,
    /// What is stored; of the first run alone.
    Map {
        one: bool,
    },
    Flush,
}

impl Kind {
    /// True of what leaves other data behind.
    pub(super) fn changes(self) -> bool {
        match self {
            Kind::Write { .. } | Kind::WriteZeroes { .. } | Kind::Trim => true,
            Kind::Read | Kind::Map { .. } | Kind::Flush => false,
        }
    }

    /// The NVM command that does the same.
    pub(super) fn opcode(self) -> u8 {
        match self {
            Kind::Read => NvmOpcode::READ.0,
            Kind::Write { .. } => NvmOpcode::WRITE.0,
            Kind::WriteZeroes { .. } => NvmOpcode::WRITE_ZEROES.0,
            Kind::Trim => NvmOpcode::DATASET_MANAGEMENT.0,
            // An admin command, which our own target does not have (NVM Command Set 4.2.1).
            Kind::Map { .. } => AdminOpcode::GET_LBA_STATUS.0,
            Kind::Flush => NvmOpcode::FLUSH.0,
        }
    }
}

/// What is to be asked of the backend next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// This range.
    Range(Range<u64>),
    /// To make durable what was done.
    Flush,
    /// Nothing for now, or for good.
    Nothing,
}

/// A command under way.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) connection: Key,
    pub(super) cookie: u64,
    pub(super) kind: Kind,
    /// The export.
    pub(super) export: Uuid,
    /// A read that is answered in chunks.
    pub(super) structured: bool,
    /// What the client asked for, and the whole blocks round it. Bytes.
    asked: Range<u64>,
    blocks: Range<u64>,
    /// Bytes of one piece at most.
    piece_bytes: u64,
    /// Where the next piece begins.
    next: u64,
    /// Pieces that the backend has.
    pub(super) under_way: u32,
    /// Flush when everything else is done: FUA, of what has no such flag of its own.
    flush: bool,
    /// Finished pieces of a read that wait for their turn, by their number modulo the window.
    finished: [Option<Buf>; WINDOW],
    /// Where the next piece of the reply begins.
    replied: u64,
    /// Something of the reply is out.
    pub(super) begun: bool,
    /// The first failure.
    pub(super) error: Option<Errno>,
    /// Buffers of its pieces: being filled, at the backend, and in the window. Bytes.
    pub(super) held: usize,
    /// Its connection is gone: nobody waits for the reply.
    pub(super) orphan: bool,
    /// It waits in its connection's list of those that have something to say.
    pub(super) queued: bool,
    /// It waits in its connection's list of those that found no memory.
    pub(super) hungry: bool,
    /// What is stored, from where the client asked on.
    pub(super) extents: Box<[Extent]>,
    /// When it was received.
    pub(super) stamps: Stamps,
    /// Where its last piece is noted.
    pub(super) traces: [Option<TraceAt>; 2],
}

impl Command {
    /// A command that is checked and has begun; or the error, of one that can't be.
    pub(super) fn new(
        connection: Key,
        request: &NbdRequest,
        export: &Export,
        structured: bool,
    ) -> Result<Command, Errno> {
        let kind = kind_of(request)?;
        if export.read_only && kind.changes() {
            return Err(Errno::Perm);
        }
        if !export.can_zero && matches!(kind, Kind::WriteZeroes { .. } | Kind::Trim) {
            return Err(Errno::Invalid);
        }
        if matches!(kind, Kind::Map { .. }) && request.length == 0 {
            return Err(Errno::Invalid);
        }
        let asked = match kind {
            Kind::Flush => 0..0,
            _ => {
                request.offset..request.offset.checked_add(u64::from(request.length)).ok_or(Errno::Invalid)?
            }
        };
        if asked.end > export.size_bytes {
            let grows = matches!(kind, Kind::Write { .. } | Kind::WriteZeroes { .. });
            return Err(if grows { Errno::NoSpace } else { Errno::Invalid });
        }
        let block = u64::from(export.block_bytes);
        let blocks = match kind {
            Kind::Read if asked.is_empty() => asked.clone(),
            // A read hands out a part of a block, a trim leaves one.
            Kind::Read => asked.start / block * block..asked.end.next_multiple_of(block),
            // A part of the answer is an answer.
            Kind::Map { .. } => {
                let start = asked.start / block * block;
                start..asked.end.next_multiple_of(block).min(start + MAX_MAP_BYTES)
            }
            Kind::Trim => {
                let start = asked.start.next_multiple_of(block);
                start..start.max(asked.end / block * block)
            }
            _ if asked.start.is_multiple_of(block) && asked.end.is_multiple_of(block) => asked.clone(),
            _ => return Err(Errno::Invalid),
        };
        let piece_bytes = match kind {
            Kind::Read | Kind::Write { .. } => u64::from(export.piece_bytes),
            Kind::Map { .. } => MAX_MAP_BYTES,
            _ => MAX_RANGE_BYTES,
        };
        if request.flags & command_flag::DF != 0 && structured {
            if !export.answers_whole() {
                return Err(Errno::Invalid);
            }
            if blocks.end - blocks.start > piece_bytes {
                return Err(Errno::Overflow);
            }
        }
        let fua = request.flags & command_flag::FUA != 0;
        let flush = kind == Kind::Flush || (fua && matches!(kind, Kind::WriteZeroes { .. } | Kind::Trim));
        Ok(Command {
            kind,
            export: export.uuid,
            structured: structured && matches!(kind, Kind::Read | Kind::Map { .. }),
            next: blocks.start,
            replied: blocks.start,
            asked,
            blocks,
            piece_bytes,
            flush,
            ..Command::nothing(connection, request)
        })
    }

    /// A command that can't be: only its error is to be told.
    pub(super) fn refused(connection: Key, request: &NbdRequest, structured: bool, error: Errno) -> Command {
        let read = request.command == command::READ;
        Command {
            kind: if read { Kind::Read } else { Kind::Trim },
            structured: structured && (read || request.command == command::BLOCK_STATUS),
            error: Some(error),
            ..Command::nothing(connection, request)
        }
    }

    /// Advice that we don't follow: everything is read when it is asked for. Only its range is checked.
    pub(super) fn advice(connection: Key, request: &NbdRequest, export: &Export) -> Result<Command, Errno> {
        let end = request.offset.checked_add(u64::from(request.length));
        if end.is_none_or(|end| end > export.size_bytes) {
            return Err(Errno::Invalid);
        }
        Ok(Command::nothing(connection, request))
    }

    /// A command that is over as soon as it has begun.
    fn nothing(connection: Key, request: &NbdRequest) -> Command {
        Command {
            connection,
            cookie: request.cookie,
            kind: Kind::Trim,
            export: Uuid::NIL,
            structured: false,
            asked: 0..0,
            blocks: 0..0,
            piece_bytes: MAX_RANGE_BYTES,
            next: 0,
            under_way: 0,
            flush: false,
            finished: Default::default(),
            replied: 0,
            begun: false,
            error: None,
            held: 0,
            orphan: false,
            queued: false,
            hungry: false,
            extents: Box::default(),
            stamps: Stamps::default(),
            traces: [None, None],
        }
    }

    /// What the backend is to be asked next; of a write, what its next data is for.
    pub(super) fn next(&self) -> Next {
        if self.error.is_some() || self.orphan {
            return Next::Nothing;
        }
        if self.next < self.blocks.end {
            let start = if self.kind == Kind::Read { self.replied } else { self.next };
            let window = self.piece_bytes * WINDOW as u64;
            let room = match self.kind {
                Kind::Read => self.next - start < window,
                _ => (self.under_way as usize) < WINDOW,
            };
            let end = self.blocks.end.min(self.next + self.piece_bytes);
            return if room { Next::Range(self.next..end) } else { Next::Nothing };
        }
        if self.flush && self.under_way == 0 { Next::Flush } else { Next::Nothing }
    }

    /// What [`Command::next`] told has been asked.
    pub(super) fn asked(&mut self, next: &Next) {
        match next {
            Next::Range(range) => self.next = range.end,
            Next::Flush => self.flush = false,
            Next::Nothing => return,
        }
        self.under_way += 1;
    }

    /// The rest of it is not going to be asked for: its data does not come, or it has failed.
    pub(super) fn cut_short(&mut self, error: Errno) {
        self.error.get_or_insert(error);
    }

    /// The backend has done a piece, or not; how much memory waits for its turn in the reply now. Bytes.
    pub(super) fn piece_done(&mut self, range: &Range<u64>, reply: Reply) -> usize {
        self.under_way -= 1;
        match (reply.result, reply.buf) {
            (Err(failure), _) => self.cut_short(errno(failure)),
            (Ok(()), Some(buf)) if self.kind == Kind::Read && self.error.is_none() && !self.orphan => {
                let (slot, memory) = (self.slot(range.start), buf.capacity());
                self.finished[slot] = Some(buf);
                return memory;
            }
            (Ok(()), None) if self.kind == Kind::Read => self.cut_short(Errno::Io),
            (Ok(()), _) if matches!(self.kind, Kind::Map { .. }) => self.take_extents(&reply.extents),
            (Ok(()), _) => {}
        }
        0
    }

    /// Cuts what is stored to what was asked for.
    fn take_extents(&mut self, extents: &[Extent]) {
        let (mut at, mut told) = (self.blocks.start, Vec::new());
        for extent in extents {
            let run = at.max(self.asked.start)..at.saturating_add(extent.bytes).min(self.asked.end);
            at = at.saturating_add(extent.bytes);
            if run.start < run.end {
                told.push(Extent { bytes: run.end - run.start, stored: extent.stored });
            }
        }
        if self.kind == (Kind::Map { one: true }) {
            told.truncate(1);
        }
        match told[..] {
            // There has to be one.
            [] => self.cut_short(Errno::Io),
            _ => self.extents = told.into(),
        }
    }

    /// Bytes that a command that is over has read and written.
    pub(super) fn moved(&self) -> (u64, u64) {
        let bytes = if self.error.is_none() { self.asked.end - self.asked.start } else { 0 };
        match self.kind {
            Kind::Read => (bytes, 0),
            Kind::Write { .. } => (0, bytes),
            _ => (0, 0),
        }
    }

    /// Which of the finished pieces begins at `start`.
    fn slot(&self, start: u64) -> usize {
        let number = (start - self.blocks.start) / self.piece_bytes % WINDOW as u64;
        usize::try_from(number).expect("below the window")
    }

    /// The next piece of a read's reply, if it is there: its data, which part of it was asked for, where that begins in the
    /// export, and whether it is the last one.
    pub(super) fn take_data(&mut self) -> Option<(Buf, Range<usize>, u64, bool)> {
        if self.error.is_some() {
            return None;
        }
        let start = self.replied;
        let buf = self.finished[self.slot(start)].take()?;
        let end = start + buf.len() as u64;
        self.replied = end;
        let part = self.asked.start.max(start)..self.asked.end.min(end);
        let at = |offset: u64| usize::try_from(offset - start).expect("within a piece");
        Some((buf, at(part.start)..at(part.end), part.start, end == self.blocks.end))
    }

    /// True when only the last word is left to say: done, or failed with nothing under way.
    pub(super) fn is_over(&self) -> bool {
        let done = match self.kind {
            Kind::Read => self.replied == self.blocks.end,
            _ => self.next == self.blocks.end && !self.flush,
        };
        self.under_way == 0 && (done || self.error.is_some() || self.orphan)
    }

    /// True when something can be said now.
    pub(super) fn has_news(&self) -> bool {
        let data = self.kind == Kind::Read && self.error.is_none() && {
            self.replied < self.blocks.end && self.finished[self.slot(self.replied)].is_some()
        };
        data || self.is_over()
    }
}

/// What a request does, if it is one that we know with flags that it may have.
fn kind_of(request: &NbdRequest) -> Result<Kind, Errno> {
    let durable = request.flags & command_flag::FUA != 0;
    let (kind, more) = match request.command {
        command::READ => (Kind::Read, command_flag::DF),
        command::WRITE => (Kind::Write { durable }, 0),
        command::FLUSH => (Kind::Flush, 0),
        command::TRIM => (Kind::Trim, 0),
        command::BLOCK_STATUS => {
            (Kind::Map { one: request.flags & command_flag::REQ_ONE != 0 }, command_flag::REQ_ONE)
        }
        command::WRITE_ZEROES => {
            let deallocate = request.flags & command_flag::NO_HOLE == 0;
            (Kind::WriteZeroes { deallocate }, command_flag::NO_HOLE | command_flag::FAST_ZERO)
        }
        _ => return Err(Errno::Invalid),
    };
    // FUA may stand anywhere.
    let known = request.flags & !(command_flag::FUA | more) == 0;
    known.then_some(kind).ok_or(Errno::Invalid)
}

/// A failure in the protocol's numbers.
fn errno(failure: Failure) -> Errno {
    match failure {
        Failure::Busy => Errno::NoMemory,
        Failure::NoSpace => Errno::NoSpace,
        Failure::Forbidden => Errno::Perm,
        Failure::Invalid => Errno::Invalid,
        Failure::Unsupported => Errno::NotSupported,
        Failure::Gone => Errno::Shutdown,
        Failure::Failed => Errno::Io,
    }
}

/// The flags of a chunk.
pub(super) fn chunk_flags(last: bool) -> u16 {
    if last { chunk::DONE } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exports::tests::export;
    use dolmen_io::{Pool, PoolConfig};

    const CONNECTION: Key = Key { index: 0, generation: 0 };

    fn request(command: u16, flags: u16, offset: u64, length: u32) -> NbdRequest {
        NbdRequest { command, flags, cookie: 7, offset, length }
    }

    fn done(result: Result<(), Failure>, buf: Option<Buf>) -> Reply {
        Reply { token: 0, result, buf, extents: Box::default(), stamps: Stamps::default() }
    }

    fn make(command: u16, flags: u16, offset: u64, length: u32) -> Result<Command, Errno> {
        let export = Export { piece_bytes: 8192, ..export("a", 1) };
        Command::new(CONNECTION, &request(command, flags, offset, length), &export, false)
    }

    #[test]
    fn a_read_comes_in_pieces_and_goes_out_in_order() {
        let pool = Pool::new(&PoolConfig::new(vec![(8192, 16)]));
        let mut read = make(command::READ, 0, 4196, 20_000).unwrap();
        let mut ranges = Vec::new();
        while let Next::Range(range) = read.next() {
            read.asked(&Next::Range(range.clone()));
            ranges.push(range);
        }
        assert_eq!(ranges, [4096..12_288, 12_288..20_480, 20_480..24_576]);
        for range in ranges.iter().rev() {
            assert!(!read.has_news());
            let buf = pool.alloc(usize::try_from(range.end - range.start).unwrap());
            read.piece_done(range, done(Ok(()), buf));
        }
        let mut told = Vec::new();
        while let Some((_, part, at, last)) = read.take_data() {
            told.push((part, at, last));
        }
        assert_eq!(told, [(100..8192, 4196, false), (0..8192, 12_288, false), (0..3716, 20_480, true)]);
        assert!(read.is_over());
    }

    #[test]
    fn no_more_than_a_window_is_under_way() {
        let mut read = make(command::READ, 0, 0, 1 << 20).unwrap();
        let mut count = 0;
        while let next @ Next::Range(_) = read.next() {
            read.asked(&next);
            count += 1;
        }
        assert_eq!(count, WINDOW);
        read.piece_done(&(0..8192), done(Err(Failure::Failed), None));
        assert_eq!((read.next(), read.error, read.is_over()), (Next::Nothing, Some(Errno::Io), false));
    }

    #[test]
    fn what_has_no_fua_of_its_own_is_flushed_at_the_end() {
        let mut trim = make(command::TRIM, command_flag::FUA, 100, 20_000).unwrap();
        let next = trim.next();
        assert_eq!(next, Next::Range(4096..20_096 / 4096 * 4096));
        trim.asked(&next);
        assert_eq!(trim.next(), Next::Nothing);
        trim.piece_done(&(0..0), done(Ok(()), None));
        assert_eq!((trim.next(), trim.is_over()), (Next::Flush, false));
        trim.asked(&Next::Flush);
        trim.piece_done(&(0..0), done(Ok(()), None));
        assert!(trim.is_over());
        assert!(make(command::TRIM, 0, 100, 200).unwrap().is_over(), "less than a block: nothing to do");
    }

    #[test]
    fn what_is_stored_is_told_of_what_was_asked_for() {
        let told = |flags, offset, length, extents: &[(u64, bool)]| {
            let mut map = make(command::BLOCK_STATUS, flags, offset, length).unwrap();
            map.asked(&map.next());
            let extents = extents.iter().map(|&(bytes, stored)| Extent { bytes, stored }).collect();
            map.piece_done(&(0..0), Reply { extents, ..done(Ok(()), None) });
            assert!(map.is_over());
            map.error.map_or(Ok(map.extents.iter().map(|e| (e.bytes, e.stored)).collect::<Vec<_>>()), Err)
        };
        let disk = [(8192, true), (4096, false), (12_288, true)];
        assert_eq!(told(0, 0, 24_576, &disk), Ok(disk.to_vec()));
        // The answer begins with a block.
        assert_eq!(told(0, 4196, 12_000, &disk), Ok(vec![(8092, true), (3908, false)]));
        assert_eq!(told(command_flag::REQ_ONE, 0, 24_576, &disk), Ok(vec![(8192, true)]));
        assert_eq!(told(0, 0, 24_576, &[]), Err(Errno::Io));
        assert_eq!(make(command::BLOCK_STATUS, 0, 0, 0).map(drop).unwrap_err(), Errno::Invalid);
    }

    #[test]
    fn a_read_of_nothing_asks_nothing_and_is_over_at_once() {
        for offset in [0, 100, 4096, 5000] {
            let read = make(command::READ, 0, offset, 0).unwrap();
            assert_eq!((read.next(), read.is_over(), read.moved()), (Next::Nothing, true, (0, 0)));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let why =
            |command, flags, offset, length| make(command, flags, offset, length).map(drop).unwrap_err();
        assert_eq!(why(command::WRITE, 0, 100, 4096), Errno::Invalid);
        assert_eq!(why(command::WRITE, 0, 1 << 20, 4096), Errno::NoSpace);
        assert_eq!(why(command::READ, 0, u64::MAX, 2), Errno::Invalid);
        assert_eq!(why(command::READ, 1 << 3, 0, 2), Errno::Invalid);
        assert_eq!(why(command::WRITE, command_flag::DF, 0, 4096), Errno::Invalid);
        assert_eq!(why(99, 0, 0, 0), Errno::Invalid);
        let read_only = Export { read_only: true, ..export("a", 1) };
        let write = Command::new(CONNECTION, &request(command::WRITE, 0, 0, 4096), &read_only, false);
        assert_eq!(write.map(drop), Err(Errno::Perm));
    }
}
