//! The R2Ts whose data is still to come, found by transfer tag.

use super::R2tRequest;
use crate::tcp::pdu::{DataHeader, field, flags};
use crate::tcp::violation::{Fes, Violation};

/// One R2T.
#[derive(Clone, Copy, Debug, Default)]
struct Transfer {
    open: bool,
    cid: u16,
    token: u32,
    /// Where the R2T starts, within the command's data.
    start: u32,
    /// Where the next H2CData must start.
    next: u32,
    /// Where the R2T ends.
    end: u32,
    /// No data digest was wrong so far.
    intact: bool,
}

/// The table; a tag is an index into it.
#[derive(Debug)]
pub(super) struct Transfers {
    slots: Vec<Transfer>,
    free: Vec<u16>,
}

impl Transfers {
    /// A table for so many open R2Ts.
    pub(super) fn new(limit: u16) -> Transfers {
        let mut transfers = Transfers { slots: Vec::new(), free: Vec::new() };
        transfers.grow(limit);
        transfers
    }

    /// Makes room for so many open R2Ts, never fewer than before.
    pub(super) fn grow(&mut self, limit: u16) {
        let old = u16::try_from(self.slots.len()).expect("tags are 16 bits, so is the limit");
        if limit > old {
            self.slots.resize(usize::from(limit), Transfer::default());
            self.free.reserve_exact(usize::from(limit) - self.free.len());
            self.free.extend((old..limit).rev());
        }
    }

    /// How many R2Ts can be open.
    pub(super) fn limit(&self) -> u16 {
        u16::try_from(self.slots.len()).expect("tags are 16 bits, so is the limit")
    }

    /// How many R2Ts are open.
    pub(super) fn open(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The tag that [`Transfers::begin`] would use.
    pub(super) fn next_free(&self) -> Option<u16> {
        self.free.last().copied()
    }

    /// Opens an R2T under the tag that `next_free` gave.
    pub(super) fn begin(&mut self, tag: u16, request: &R2tRequest, end: u32) {
        let popped = self.free.pop();
        assert_eq!(popped, Some(tag), "an R2T takes the tag that was offered");
        self.slots[usize::from(tag)] = Transfer {
            open: true,
            cid: request.cid,
            token: request.token,
            start: request.offset,
            next: request.offset,
            end,
            intact: true,
        };
    }

    /// Checks an H2CData header against its R2T, and counts its data as come. DATAL is not 0: the decoder saw to that.
    pub(super) fn accept(&mut self, pdu: &DataHeader) -> Result<(), Violation> {
        let transfer = self.slots.get_mut(usize::from(pdu.tag.get())).filter(|transfer| transfer.open);
        let Some(transfer) = transfer else {
            return Err(Violation::field(field::TAG, "TTAG of no open R2T"));
        };
        if pdu.cid.get() != transfer.cid {
            return Err(Violation::field(field::CID, "CCCID is not the R2T's command"));
        }
        let (offset, length) = (pdu.offset.get(), pdu.length.get());
        let end = match offset.checked_add(length) {
            Some(end) if offset >= transfer.start && end <= transfer.end => end,
            _ => return Err(Violation::of(Fes::DataOutOfRange, "data outside what the R2T asked for")),
        };
        if offset != transfer.next {
            return Err(Violation::of(Fes::PduSequence, "DATAO is not where the last data ended"));
        }
        let last = pdu.common.flags & flags::LAST_PDU != 0;
        if last != (end == transfer.end) {
            return Err(Violation::of(Fes::PduSequence, "LAST_PDU is not on just the last PDU of an R2T"));
        }
        transfer.next = end;
        Ok(())
    }

    /// The caller's token of an open R2T.
    pub(super) fn token(&self, tag: u16) -> u32 {
        self.slots[usize::from(tag)].token
    }

    /// The data of a PDU has come; with the last one the R2T is closed, and the verdict over all its data returned.
    pub(super) fn end(&mut self, tag: u16, intact: bool) -> Option<bool> {
        let transfer = &mut self.slots[usize::from(tag)];
        transfer.intact &= intact;
        if transfer.next < transfer.end {
            return None;
        }
        transfer.open = false;
        self.free.push(tag);
        Some(transfer.intact)
    }
}
