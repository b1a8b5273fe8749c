//! The host's end of a connection: what an initiator speaks.
//!
//! Owns the terms of the connection and one slot per command identifier (0 up to the queue's depth). Promises that data
//! surfaced for a command lies inside what the command asked for, in order, without gap; that every event names a command
//! that is outstanding. The caller chooses identifiers (its own request slots) and keeps the payload.
//!
//! ```text
//!   Host::new ─(write_ic_req)→ ICResp → Initialized
//!   write_command → Data … Completion                          (reads)
//!   write_command → SendData → write_h2c_data … → Completion   (writes by R2T)
//!   write_command + payload + finish_data → Completion         (writes in the capsule)
//! ```

use super::decoder::{Body, Decoder, Header, Side};
use super::framer::{Digests, Framer, read, term_req};
use super::negotiate::Negotiated;
use super::pdu::{CapsuleCmd, CapsuleResp, CommonHeader, DataHeader, IcReq, IcResp, PduKind, field, flags};
use super::violation::{TermReason, Violation};
use crate::spec::{Cqe, SglDescriptor, Sqe, Status};
use std::fmt;

mod commands;

use commands::Commands;

/// What an initiator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostOptions {
    /// Digests wanted; on when the controller agrees.
    pub digests: Digests,
    /// HPDA: alignment demanded of data from the controller, in dwords, counted from 0; at most 31.
    pub alignment: u8,
    /// Command identifiers in use: 0 up to this, not included.
    pub depth: u16,
}

/// How a command's data moves; sets its SGL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandData {
    /// No data.
    None,
    /// So many bytes at most from the controller.
    Read(u32),
    /// So many bytes in the capsule, put by the caller right behind the header, then sealed by [`Host::finish_data`].
    WriteInCapsule(u32),
    /// So many bytes, when the controller asks for them by R2T.
    Write(u32),
}

/// Why a command could not be written; nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// The buffer is too short.
    NoRoom,
    /// The identifier is in use, or not below the depth.
    BadIdentifier,
    /// The connection is not initialized, or has failed.
    NotReady,
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CommandError::NoRoom => "the send buffer has no room for a command",
            CommandError::BadIdentifier => "the command identifier is in use or beyond the queue's depth",
            CommandError::NotReady => "the connection is not initialized, or has failed",
        })
    }
}

impl std::error::Error for CommandError {}

/// What the controller said.
#[derive(Clone, Copy, Debug)]
pub enum HostEvent<'a> {
    /// An acceptable ICResp came: commands may be written.
    Initialized(Negotiated),
    /// A piece of a read's data, in order and without gap, never empty.
    Data {
        /// The command.
        cid: u16,
        /// Where it belongs within the command's data. Bytes.
        offset: u32,
        /// The bytes, in the caller's chunk.
        bytes: &'a [u8],
    },
    /// The controller wants data of a write: call [`Host::write_h2c_data`] until it has all.
    SendData {
        /// The command.
        cid: u16,
    },
    /// The command is done, its identifier free.
    Completion {
        /// What the controller said; for the SUCCESS flag a completion of zeroes.
        cqe: Cqe,
        /// How much data came for the command. Bytes.
        received: u32,
        /// False when a data digest was wrong: the data is not to be used, the command to be sent again.
        intact: bool,
    },
    /// C2HTermReq: the controller ends the connection. Close; nothing more will be surfaced.
    Terminated(TermReason),
}

/// An answer that is told at once, with its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostAnswer<'a> {
    /// What the controller said; for the SUCCESS flag a completion of zeroes.
    pub cqe: Cqe,
    /// How much data came for the command, here and before. Bytes.
    pub received: u32,
    /// False when a data digest was wrong: the data is not to be used, the command to be sent again.
    pub intact: bool,
    /// All of its data, or none of it.
    pub data: &'a [u8],
}

/// What comes next in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// A header, of which `came` bytes are there.
    Header {
        /// Bytes.
        came: usize,
    },
    /// Data of a read.
    Data {
        /// The command.
        cid: u16,
        /// Where it belongs within the command's data. Bytes.
        offset: u32,
        /// How much of it there is in this PDU. Bytes.
        left: u32,
    },
    /// Something else, or nothing.
    Other,
}

/// A piece of a write's data to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct H2cPiece {
    /// Bytes written to `out`; the payload goes right behind them, then [`Host::finish_data`].
    pub header_bytes: usize,
    /// Which of the command's data: its offset. Bytes.
    pub offset: u32,
    /// Its length. Bytes.
    pub length: u32,
    /// True when the R2T is answered with this piece.
    pub last: bool,
}

/// The host's end of one connection (one queue).
#[derive(Debug)]
pub struct Host {
    decoder: Decoder,
    framer: Framer,
    options: HostOptions,
    terms: Negotiated,
    commands: Commands,
    /// The C2HData under way.
    receiving: DataHeader,
    /// Where the next byte of data belongs.
    data_at: u32,
}

impl Host {
    /// R2Ts that a controller may have open for one command, counted from 0 (what we tell it in ICReq): one.
    pub const MAX_R2T: u32 = 0;

    /// A connection just made; write the ICReq first. Allocates the command slots, the only allocation in its life.
    #[must_use]
    pub fn new(options: HostOptions) -> Host {
        let options = HostOptions { alignment: options.alignment.min(Negotiated::MAX_ALIGNMENT), ..options };
        Host {
            decoder: Decoder::new(Side::Host),
            framer: Framer::new(Digests::NONE, 0),
            options,
            terms: Negotiated::NONE,
            commands: Commands::new(options.depth),
            receiving: DataHeader::new(PduKind::C2H_DATA, 0, 0, 0, 0),
            data_at: 0,
        }
    }

    /// The terms of the connection; before `Initialized` nothing is agreed.
    #[must_use]
    pub fn negotiated(&self) -> Negotiated {
        self.terms
    }

    /// Number of commands without a completion.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.commands.outstanding()
    }

    /// Writes the ICReq.
    pub fn write_ic_req(&self, out: &mut [u8]) -> Option<usize> {
        let pdu = IcReq::new(self.options.alignment, self.options.digests.bits(), Self::MAX_R2T);
        Framer::new(Digests::NONE, 0).header(out, &pdu, 0)
    }

    /// Writes a command; its identifier is `sqe.cid`, its SGL is set from `data`. How many bytes the header took; with
    /// in-capsule data the payload follows.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub fn write_command(
        &mut self,
        out: &mut [u8],
        sqe: &Sqe,
        data: CommandData,
    ) -> Result<usize, CommandError> {
        self.write_command_as(out, sqe.cid.get(), sqe, data)
    }

    /// The same under another identifier than the command's own.
    ///
    /// # Errors
    /// See [`CommandError`].
    #[inline]
    pub fn write_command_as(
        &mut self,
        out: &mut [u8],
        cid: u16,
        sqe: &Sqe,
        data: CommandData,
    ) -> Result<usize, CommandError> {
        if !self.decoder.is_running() {
            return Err(CommandError::NotReady);
        }
        if !self.commands.is_free(cid) {
            return Err(CommandError::BadIdentifier);
        }
        let (sgl, capsule_data) = match data {
            CommandData::None => (SglDescriptor::transport(0), 0),
            CommandData::Read(length) | CommandData::Write(length) => (SglDescriptor::transport(length), 0),
            CommandData::WriteInCapsule(length) => (SglDescriptor::in_capsule(length), length),
        };
        let fill = |pdu: &mut CapsuleCmd| {
            pdu.common = CommonHeader::new(PduKind::CAPSULE_CMD);
            pdu.sqe = *sqe;
            pdu.sqe.cid = cid.into();
            pdu.sqe.data_pointer = sgl;
        };
        let written = self.framer.header_with(out, capsule_data, fill).ok_or(CommandError::NoRoom)?;
        self.commands.begin(cid, data);
        Ok(written)
    }

    /// Length of the header of a command whose data travels in its capsule. Bytes.
    #[must_use]
    pub fn capsule_header_bytes(&self) -> usize {
        self.framer.header_bytes::<CapsuleCmd>()
    }

    /// Writes the header of the next H2CData PDU of a command whose data was asked for, with at most `max_payload` bytes of
    /// payload; `None` when nothing is asked for, `out` is too short for the header, or `max_payload` is 0.
    pub fn write_h2c_data(&mut self, out: &mut [u8], cid: u16, max_payload: u32) -> Option<H2cPiece> {
        let ask = self.commands.asked(cid)?;
        let length = ask.left.min(self.terms.max_h2c_data).min(max_payload);
        if length == 0 {
            return None;
        }
        let last = length == ask.left;
        let mut pdu = DataHeader::new(PduKind::H2C_DATA, cid, ask.tag, ask.offset, length);
        pdu.common.flags = if last { flags::LAST_PDU } else { 0 };
        let header_bytes = self.framer.header(out, &pdu, length)?;
        self.commands.sent(cid, length);
        Some(H2cPiece { header_bytes, offset: ask.offset, length, last })
    }

    /// Writes the data digest, if there is one, behind `data_len` bytes of data that lie at the start of `data`; how many
    /// bytes it took (0 or [`super::DIGEST_BYTES`]).
    pub fn finish_data(&self, data: &mut [u8], data_len: usize) -> Option<usize> {
        self.framer.finish(data, data_len)
    }

    /// Writes the H2CTermReq for the violation that `receive` returned. The last PDU on this connection.
    pub fn write_term_req(&self, out: &mut [u8], violation: &Violation) -> Option<usize> {
        term_req(PduKind::H2C_TERM_REQ, out, violation, self.decoder.gathered())
    }

    /// Takes the next event off the chunk's front; `None` when the chunk is used up (it is then empty).
    ///
    /// # Errors
    /// The controller broke the protocol: send [`Host::write_term_req`] and close.
    #[inline]
    pub fn receive<'a>(&mut self, chunk: &mut &'a [u8]) -> Result<Option<HostEvent<'a>>, Violation> {
        loop {
            if self.decoder.wants_header() {
                match self.decoder.header(chunk) {
                    Ok(None) => return Ok(None),
                    Ok(Some(header)) => {
                        if let Some(event) = self.take_header(header, chunk)? {
                            return Ok(Some(event));
                        }
                    }
                    Err(violation) => return Err(self.fail(violation)),
                }
            } else if self.decoder.is_closed() {
                *chunk = &[];
                return Ok(None);
            }
            match self.decoder.body(chunk) {
                Body::More if self.decoder.wants_header() => {}
                Body::More => return Ok(None),
                Body::Bytes(bytes) => {
                    let offset = self.data_at;
                    let length = u32::try_from(bytes.len()).expect("a piece of 32-bit data");
                    self.data_at = offset.wrapping_add(length);
                    return Ok(Some(HostEvent::Data { cid: self.receiving.cid.get(), offset, bytes }));
                }
                Body::End { intact } => {
                    if let Some(event) = self.take_end(intact) {
                        return Ok(Some(event));
                    }
                }
            }
        }
    }

    /// The answer that a command usually gets, if all of it lies at the front of the chunk, without digests: a response, or all of a
    /// read's data in one PDU that ends it well. The command's identifier is free then. `None`: nothing is taken, [`Host::receive`]
    /// tells what comes.
    #[inline]
    pub fn take_answer<'a>(&mut self, chunk: &mut &'a [u8]) -> Option<HostAnswer<'a>> {
        let (head, data, rest) = self.decoder.whole_pdu(chunk)?;
        let answer = if data.is_empty() {
            // Of what a controller sends only this PDU is one of the usual and has none.
            let cqe = read::<CapsuleResp>(head).cqe;
            let done = self.commands.complete(cqe.cid.get())?;
            HostAnswer { cqe, received: done.received, intact: done.intact, data }
        } else {
            let received = u32::try_from(data.len()).ok()?;
            let cqe = Cqe::new(self.ends_read(head, received)?, Status::SUCCESS);
            HostAnswer { cqe, received, intact: true, data }
        };
        *chunk = rest;
        Some(answer)
    }

    /// The same for a header and data that lie apart: `head` is all of the one, and `length` bytes are all of the other. The command
    /// that they answer; `None`: nothing is taken.
    #[inline]
    pub fn take_landed(&mut self, head: &[u8], length: u32) -> Option<u16> {
        if !self.decoder.is_whole(head, length) {
            return None;
        }
        self.ends_read(head, length)
    }

    /// The command that a PDU ends well, with all the data that it asked for.
    #[inline]
    fn ends_read(&mut self, head: &[u8], length: u32) -> Option<u16> {
        // Of what a controller sends only this PDU has data.
        let pdu = read::<DataHeader>(head);
        let bits = pdu.common.flags;
        let ends_well = bits & flags::LAST_PDU != 0 && bits & flags::SUCCESS != 0;
        if !ends_well || pdu.offset.get() != 0 || pdu.length.get() != length {
            return None;
        }
        let cid = pdu.cid.get();
        self.commands.complete_read(cid, length).then_some(cid)
    }

    /// What the next bytes of the stream are.
    #[must_use]
    pub fn due(&self) -> Due {
        if let Some(left) = self.decoder.data_due() {
            return Due::Data { cid: self.receiving.cid.get(), offset: self.data_at, left };
        }
        if self.decoder.is_running() && self.decoder.wants_header() {
            return Due::Header { came: self.decoder.header_bytes() };
        }
        Due::Other
    }

    fn fail(&mut self, violation: Violation) -> Violation {
        self.decoder.close();
        violation
    }

    #[inline]
    fn take_header<'a>(
        &mut self,
        header: Header<'a>,
        chunk: &mut &'a [u8],
    ) -> Result<Option<HostEvent<'a>>, Violation> {
        let head = match header {
            Header::InPlace(head) => head,
            Header::Gathered => self.decoder.gathered(),
        };
        let result = match PduKind(head[0]) {
            PduKind::C2H_DATA => {
                let pdu = read::<DataHeader>(head);
                self.take_c2h_data(pdu).map(|()| None)
            }
            PduKind::CAPSULE_RESP => {
                let cqe = read::<CapsuleResp>(head).cqe;
                self.take_response(cqe).map(Some)
            }
            PduKind::R2T => {
                let pdu = read::<DataHeader>(head);
                self.commands.ask(&pdu).map(|()| Some(HostEvent::SendData { cid: pdu.cid.get() }))
            }
            PduKind::IC_RESP => {
                let pdu = read::<IcResp>(head);
                self.take_ic_resp(&pdu).map(Some)
            }
            _ => {
                let reason = TermReason::of(head);
                self.decoder.close();
                *chunk = &[];
                Ok(Some(HostEvent::Terminated(reason)))
            }
        };
        result.map_err(|violation| {
            if let Header::InPlace(head) = header {
                self.decoder.keep(head);
            }
            self.fail(violation)
        })
    }

    fn take_response<'a>(&mut self, cqe: Cqe) -> Result<HostEvent<'a>, Violation> {
        let Some(done) = self.commands.complete(cqe.cid.get()) else {
            return Err(Violation::field(field::RESPONSE_CID, "a response to no outstanding command"));
        };
        Ok(HostEvent::Completion { cqe, received: done.received, intact: done.intact })
    }

    fn take_c2h_data(&mut self, pdu: DataHeader) -> Result<(), Violation> {
        if self.decoder.data_len() != pdu.length.get() {
            return Err(Violation::field(field::DATA_LENGTH, "DATAL is not what PLEN leaves"));
        }
        self.commands.accept(&pdu)?;
        self.receiving = pdu;
        self.data_at = pdu.offset.get();
        Ok(())
    }

    fn take_end(&mut self, intact: bool) -> Option<HostEvent<'static>> {
        let cid = self.receiving.cid.get();
        self.commands.received(cid, intact);
        if self.receiving.common.flags & flags::SUCCESS == 0 {
            return None;
        }
        let done = self.commands.complete(cid)?;
        let cqe = Cqe::new(cid, Status::SUCCESS);
        Some(HostEvent::Completion { cqe, received: done.received, intact: done.intact })
    }

    fn take_ic_resp<'a>(&mut self, pdu: &IcResp) -> Result<HostEvent<'a>, Violation> {
        if pdu.format.get() != Negotiated::FORMAT {
            return Err(Violation::unsupported(field::FORMAT, "a PDU format version other than 0"));
        }
        if pdu.alignment > Negotiated::MAX_ALIGNMENT {
            return Err(Violation::field(field::ALIGNMENT, "CPDA above 31"));
        }
        let digests = Digests::from_bits(pdu.digests);
        if digests != digests.and(self.options.digests) {
            return Err(Violation::field(field::DIGESTS, "a digest that was not asked for"));
        }
        let max_h2c_data = pdu.max_h2c_data.get();
        if max_h2c_data < Negotiated::MIN_H2C_DATA {
            return Err(Violation::field(field::MAX_H2C_DATA, "MAXH2CDATA below 4096"));
        }
        self.terms = Negotiated {
            digests,
            host_alignment: self.options.alignment,
            controller_alignment: pdu.alignment,
            max_r2t: Self::MAX_R2T,
            max_h2c_data: max_h2c_data & !3,
        };
        self.decoder.start(digests, self.terms.host_alignment);
        self.framer = Framer::new(digests, pdu.alignment);
        Ok(HostEvent::Initialized(self.terms))
    }
}
