//! The commands that are outstanding, by identifier.

use super::CommandData;
use crate::tcp::pdu::{DataHeader, field, flags};
use crate::tcp::violation::{Fes, Violation};

/// One command identifier.
#[derive(Clone, Copy, Debug, Default)]
struct Command {
    outstanding: bool,
    /// Data that the controller may send, or ask for. Bytes.
    read_len: u32,
    write_len: u32,
    /// Data that came so far; all of it, once `read_ended`.
    received: u32,
    read_ended: bool,
    intact: bool,
    /// The open R2T: its tag, the next byte to send, its end.
    tag: u16,
    next: u32,
    end: u32,
}

/// What the open R2T of a command still wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) tag: u16,
    pub(super) offset: u32,
    pub(super) left: u32,
}

/// How a command ended, as far as data goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    pub(super) received: u32,
    pub(super) intact: bool,
}

/// The table; an identifier is an index into it.
#[derive(Debug)]
pub(super) struct Commands {
    slots: Vec<Command>,
    outstanding: usize,
}

impl Commands {
    /// A table for the identifiers below `depth`.
    pub(super) fn new(depth: u16) -> Commands {
        Commands { slots: vec![Command::default(); usize::from(depth)], outstanding: 0 }
    }

    /// How many commands are outstanding.
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// True for an identifier in range without an outstanding command.
    #[inline]
    pub(super) fn is_free(&self, cid: u16) -> bool {
        self.slots.get(usize::from(cid)).is_some_and(|command| !command.outstanding)
    }

    /// A command goes out under a free identifier.
    #[inline]
    pub(super) fn begin(&mut self, cid: u16, data: CommandData) {
        let (read_len, write_len) = match data {
            CommandData::Read(length) => (length, 0),
            CommandData::Write(length) => (0, length),
            CommandData::None | CommandData::WriteInCapsule(_) => (0, 0),
        };
        self.slots[usize::from(cid)] =
            Command { outstanding: true, read_len, write_len, intact: true, ..Command::default() };
        self.outstanding += 1;
    }

    /// The command is done; `None` when it wasn't outstanding.
    pub(super) fn complete(&mut self, cid: u16) -> Option<Done> {
        let command = self.find(cid)?;
        let done = Done { received: command.received, intact: command.intact };
        *command = Command::default();
        self.outstanding -= 1;
        Some(done)
    }

    /// A read of which nothing had come is done with all of its `length` bytes; false when it isn't such a one.
    #[inline]
    pub(super) fn complete_read(&mut self, cid: u16, length: u32) -> bool {
        let Some(command) = self.find(cid) else { return false };
        if command.read_len != length || command.received != 0 || command.read_ended || !command.intact {
            return false;
        }
        *command = Command::default();
        self.outstanding -= 1;
        true
    }

    /// Checks a C2HData header against its command.
    pub(super) fn accept(&mut self, pdu: &DataHeader) -> Result<(), Violation> {
        let Some(command) = self.find(pdu.cid.get()) else {
            return Err(Violation::field(field::CID, "data for no outstanding command"));
        };
        let offset = pdu.offset.get();
        let end = match offset.checked_add(pdu.length.get()) {
            Some(end) if end <= command.read_len => end,
            _ => return Err(Violation::of(Fes::DataOutOfRange, "more data than the command asked for")),
        };
        if command.read_ended {
            return Err(Violation::of(Fes::PduSequence, "data behind a PDU with LAST_PDU"));
        }
        if offset != command.received {
            return Err(Violation::of(Fes::PduSequence, "DATAO is not where the last data ended"));
        }
        let last = pdu.common.flags & flags::LAST_PDU != 0;
        if pdu.common.flags & flags::SUCCESS != 0 && !last {
            return Err(Violation::field(field::FLAGS, "SUCCESS without LAST_PDU"));
        }
        command.received = end;
        command.read_ended = last;
        Ok(())
    }

    /// The data of an accepted PDU has all come.
    pub(super) fn received(&mut self, cid: u16, intact: bool) {
        if let Some(command) = self.find(cid) {
            command.intact &= intact;
        }
    }

    /// Checks an R2T and opens it.
    pub(super) fn ask(&mut self, pdu: &DataHeader) -> Result<(), Violation> {
        let Some(command) = self.find(pdu.cid.get()) else {
            return Err(Violation::field(field::CID, "an R2T for no outstanding command"));
        };
        if command.next < command.end {
            return Err(Violation::of(Fes::LimitExceeded, "an R2T while another of the command is open"));
        }
        if pdu.length.get() == 0 {
            return Err(Violation::field(field::DATA_LENGTH, "an R2T for no data"));
        }
        let end = match pdu.offset.get().checked_add(pdu.length.get()) {
            Some(end) if end <= command.write_len => end,
            _ => return Err(Violation::of(Fes::DataOutOfRange, "an R2T beyond the command's data")),
        };
        if pdu.offset.get() != command.end {
            return Err(Violation::of(Fes::PduSequence, "R2TO is not where the last R2T ended"));
        }
        command.end = end;
        command.tag = pdu.tag.get();
        Ok(())
    }

    /// What the command's open R2T still wants; `None` without one.
    pub(super) fn asked(&self, cid: u16) -> Option<Ask> {
        let command = self.slots.get(usize::from(cid)).filter(|command| command.outstanding)?;
        let left = command.end - command.next;
        (left > 0).then_some(Ask { tag: command.tag, offset: command.next, left })
    }

    /// So many bytes of the open R2T were sent.
    pub(super) fn sent(&mut self, cid: u16, length: u32) {
        if let Some(command) = self.find(cid) {
            command.next = command.next.saturating_add(length).min(command.end);
        }
    }

    #[inline]
    fn find(&mut self, cid: u16) -> Option<&mut Command> {
        self.slots.get_mut(usize::from(cid)).filter(|command| command.outstanding)
    }
}
