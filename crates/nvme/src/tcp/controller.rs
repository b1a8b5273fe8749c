//! The controller's end of a connection: what a target speaks.
//!
//! Owns the terms of the connection and the table of open R2Ts. Promises that every `Data` it surfaces lies inside what
//! was asked for, in order, without gap; that what it writes is well-formed. Knows nothing of queues, namespaces or
//! buffers: those are the caller's, found again through the `token` given with each R2T.
//!
//! ```text
//!   Controller::new ─ICReq→ Initialized ─(write_ic_resp)→ Command … Command
//!                                                           │ write_r2t ↔ Data, Data, DataEnd
//!                                                           └ write_c2h_data / write_response
//!   any violation → Err → write_term_req → close
//! ```

use super::decoder::{Body, Decoder, Header, Side};
use super::framer::{Digests, Framer, read, term_req};
use super::negotiate::Negotiated;
use super::pdu::{CapsuleCmd, CapsuleResp, CommonHeader, DataHeader, IcReq, IcResp, PduKind, field, flags};
use super::violation::{Fes, TermReason, Violation};
use crate::spec::{Cqe, Sqe};
use std::fmt;
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32},
};

mod state;
mod transfers;

pub use state::{ControllerState, ImportError};
use transfers::Transfers;

/// What a target offers when a host connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControllerOptions {
    /// Digests that may be used; on when the host wants them too.
    pub digests: Digests,
    /// CPDA: alignment demanded of data from the host, in dwords, counted from 0; at most 31.
    pub alignment: u8,
    /// MAXH2CDATA: data of one H2CData PDU at most; raised to 4096, rounded down to a multiple of 4. Bytes.
    pub max_h2c_data: u32,
}

/// What becomes known with Connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSettings {
    /// In-capsule data that the queue takes at most: 8192 for an admin queue, (IOCCSZ - 4) * 16 for an I/O queue. Bytes.
    pub in_capsule_bytes: u32,
    /// R2Ts open at most: the depth of the queue.
    pub max_transfers: u16,
}

/// Where data belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataSource {
    /// To the command that was surfaced last: in-capsule data.
    Capsule,
    /// To the R2T written with this token.
    Transfer(u32),
}

/// What the host said.
#[derive(Clone, Copy, Debug)]
pub enum ControllerEvent<'a> {
    /// An acceptable ICReq came: answer with [`Controller::write_ic_resp`].
    Initialized(Negotiated),
    /// A command. With `capsule_data` above 0 so many bytes follow as `Data` of [`DataSource::Capsule`], then `DataEnd`,
    /// before any other event.
    Command {
        /// The command.
        sqe: Sqe,
        /// Length of its in-capsule data. Bytes.
        capsule_data: u32,
    },
    /// A piece of data, in order and without gap, never empty.
    Data {
        /// Whose data.
        source: DataSource,
        /// Where it belongs: within the command's data for an R2T (counting from R2TO's zero), else within the capsule's.
        offset: u32,
        /// The bytes, in the caller's chunk.
        bytes: &'a [u8],
    },
    /// All data of the capsule or of the R2T has come; the token is free again.
    DataEnd {
        /// Whose data.
        source: DataSource,
        /// False when a data digest was wrong: fail the command with Transient Transport Error.
        intact: bool,
    },
    /// H2CTermReq: the host ends the connection. Close; nothing more will be surfaced.
    Terminated(TermReason),
}

/// An R2T to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct R2tRequest {
    /// The command. One R2T of a command is open at a time, so that any MAXR2T is kept.
    pub cid: u16,
    /// Comes back with the data; typically the caller's request slot.
    pub token: u32,
    /// R2TO: first byte wanted, within the command's data.
    pub offset: u32,
    /// R2TL: how much, not 0. Bytes.
    pub length: u32,
}

/// Data that an R2T asked for and that comes next, since its header has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataDue {
    /// The R2T's token.
    pub token: u32,
    /// Where it belongs, within the command's data. Bytes.
    pub offset: u32,
    /// How much of it this PDU brings yet, not 0. Bytes.
    pub left: u32,
}

/// Why an R2T could not be written; nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum R2tError {
    /// The buffer is too short.
    NoRoom,
    /// `max_transfers` R2Ts are open. A host that keeps to its queue depth never gets us here.
    TooMany,
    /// A length of 0, or an end beyond 32 bits.
    Range,
}

impl fmt::Display for R2tError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            R2tError::NoRoom => "the send buffer has no room for an R2T",
            R2tError::TooMany => "more data transfers are open than the queue is deep",
            R2tError::Range => "an R2T for no data, or beyond 32 bits",
        })
    }
}

impl std::error::Error for R2tError {}

/// A piece of a command's data for the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct C2hData {
    /// The command.
    pub cid: u16,
    /// DATAO: where the piece belongs within the command's data; pieces go in order.
    pub offset: u32,
    /// DATAL: its length, not 0. Bytes.
    pub length: u32,
    /// What it ends.
    pub end: DataEnd,
}

/// What a C2HData PDU says about the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataEnd {
    /// More data follows.
    More,
    /// The last data; a response follows.
    Last,
    /// The last data, and the command succeeded: no response follows. Only when SQ flow control is disabled on the queue,
    /// dwords 0 and 1 of the completion are 0, and never on a discovery controller.
    LastAndSuccess,
}

/// In-capsule data that Fabrics and admin commands may always have (TCP 3.3.1). Bytes.
pub const ADMIN_IN_CAPSULE_BYTES: u32 = 8192;

/// The controller's end of one connection (one queue).
#[derive(Debug)]
pub struct Controller {
    decoder: Decoder,
    framer: Framer,
    options: ControllerOptions,
    terms: Negotiated,
    in_capsule_bytes: u32,
    transfers: Transfers,
    /// The transfer whose H2CData is under way; `None` for a capsule's data.
    receiving: Option<u16>,
    /// Where the next byte of data belongs.
    data_at: u32,
}

impl Controller {
    /// A connection just accepted; an ICReq is due first.
    #[must_use]
    pub fn new(options: ControllerOptions) -> Controller {
        let options = ControllerOptions {
            alignment: options.alignment.min(Negotiated::MAX_ALIGNMENT),
            max_h2c_data: options.max_h2c_data.max(Negotiated::MIN_H2C_DATA) & !3,
            ..options
        };
        Controller {
            decoder: Decoder::new(Side::Controller),
            framer: Framer::new(Digests::NONE, 0),
            options,
            terms: Negotiated::NONE,
            in_capsule_bytes: ADMIN_IN_CAPSULE_BYTES,
            transfers: Transfers::new(0),
            receiving: None,
            data_at: 0,
        }
    }

    /// The terms of the connection; before `Initialized` nothing is agreed.
    #[must_use]
    pub fn negotiated(&self) -> Negotiated {
        self.terms
    }

    /// Sets what Connect told; allocates the table of R2Ts, the only allocation in a connection's life. Before this call
    /// no R2T can be written. Open R2Ts stay.
    pub fn set_queue(&mut self, settings: QueueSettings) {
        self.in_capsule_bytes = settings.in_capsule_bytes;
        self.transfers.grow(settings.max_transfers);
    }

    /// Number of R2Ts whose data has not all come.
    #[must_use]
    pub fn open_transfers(&self) -> usize {
        self.transfers.open()
    }

    /// What comes next, if it is data of an R2T. A caller may have it put where it belongs, and then pass those very bytes to
    /// [`Controller::receive`], which surfaces them as any others.
    #[inline]
    #[must_use]
    pub fn data_due(&self) -> Option<DataDue> {
        let (left, tag) = (self.decoder.data_due()?, self.receiving?);
        Some(DataDue { token: self.transfers.token(tag), offset: self.data_at, left })
    }

    /// Takes the next event off the chunk's front; `None` when the chunk is used up (it is then empty).
    ///
    /// # Errors
    /// The host broke the protocol: send [`Controller::write_term_req`] and close.
    #[inline]
    pub fn receive<'a>(&mut self, chunk: &mut &'a [u8]) -> Result<Option<ControllerEvent<'a>>, Violation> {
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
                Body::Bytes(bytes) => return Ok(Some(self.take_bytes(bytes))),
                Body::End { intact } => {
                    if let Some(event) = self.take_end(intact) {
                        return Ok(Some(event));
                    }
                }
            }
        }
    }

    /// The data of the command that was surfaced last, if all of it lies at the front of the rest of the chunk and no digest
    /// has to be checked before it may be used. Unless it is passed over ([`Controller::pass_data`]) it will be surfaced all the same.
    #[inline]
    #[must_use]
    pub fn whole_data<'a>(&self, chunk: &'a [u8]) -> Option<&'a [u8]> {
        self.decoder.whole_data(chunk).filter(|_| self.receiving.is_none())
    }

    /// Passes over the data that [`Controller::whole_data`] tells of, if it tells of any: no event will.
    #[inline]
    pub fn pass_data(&mut self, chunk: &mut &[u8]) {
        if self.receiving.is_none() {
            self.decoder.pass_data(chunk);
        }
    }

    /// Writes the ICResp that answers `Initialized`.
    pub fn write_ic_resp(&self, out: &mut [u8]) -> Option<usize> {
        let terms = &self.terms;
        let pdu = IcResp::new(terms.controller_alignment, terms.digests.bits(), terms.max_h2c_data);
        Framer::new(Digests::NONE, 0).header(out, &pdu, 0)
    }

    /// Writes a response.
    #[inline]
    pub fn write_response(&self, out: &mut [u8], cqe: &Cqe) -> Option<usize> {
        let pdu = CapsuleResp { common: CommonHeader::new(PduKind::CAPSULE_RESP), cqe: *cqe };
        self.framer.header(out, &pdu, 0)
    }

    /// Writes an R2T and expects its data from now on.
    ///
    /// # Errors
    /// See [`R2tError`].
    pub fn write_r2t(&mut self, out: &mut [u8], request: R2tRequest) -> Result<usize, R2tError> {
        let end = request.offset.checked_add(request.length).filter(|&end| end > request.offset);
        let end = end.ok_or(R2tError::Range)?;
        let tag = self.transfers.next_free().ok_or(R2tError::TooMany)?;
        let pdu = DataHeader::new(PduKind::R2T, request.cid, tag, request.offset, request.length);
        let written = self.framer.header(out, &pdu, 0).ok_or(R2tError::NoRoom)?;
        self.transfers.begin(tag, &request, end);
        Ok(written)
    }

    /// Writes the header of a C2HData PDU; the caller puts `data.length` bytes right behind it, then calls
    /// [`Controller::finish_data`].
    #[inline]
    pub fn write_c2h_data(&self, out: &mut [u8], data: &C2hData) -> Option<usize> {
        let mut pdu = DataHeader::new(PduKind::C2H_DATA, data.cid, 0, data.offset, data.length);
        pdu.common.flags = match data.end {
            DataEnd::More => 0,
            DataEnd::Last => flags::LAST_PDU,
            DataEnd::LastAndSuccess => flags::LAST_PDU | flags::SUCCESS,
        };
        self.framer.header(out, &pdu, data.length)
    }

    /// Writes the data digest, if there is one, behind `data_len` bytes of data that lie at the start of `data`; how many
    /// bytes it took (0 or [`super::DIGEST_BYTES`]).
    pub fn finish_data(&self, data: &mut [u8], data_len: usize) -> Option<usize> {
        self.framer.finish(data, data_len)
    }

    /// Writes the C2HTermReq for the violation that `receive` returned. The last PDU on this connection.
    pub fn write_term_req(&self, out: &mut [u8], violation: &Violation) -> Option<usize> {
        term_req(PduKind::C2H_TERM_REQ, out, violation, self.decoder.gathered())
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
    ) -> Result<Option<ControllerEvent<'a>>, Violation> {
        let head = match header {
            Header::InPlace(head) => head,
            Header::Gathered => self.decoder.gathered(),
        };
        let result = match PduKind(head[0]) {
            PduKind::CAPSULE_CMD => {
                let sqe = read::<CapsuleCmd>(head).sqe;
                self.take_command(sqe).map(Some)
            }
            PduKind::H2C_DATA => {
                let pdu = read::<DataHeader>(head);
                self.take_h2c_data(&pdu).map(|()| None)
            }
            PduKind::IC_REQ => {
                let pdu = read::<IcReq>(head);
                self.take_ic_req(&pdu).map(Some)
            }
            _ => {
                let reason = TermReason::of(head);
                self.decoder.close();
                *chunk = &[];
                Ok(Some(ControllerEvent::Terminated(reason)))
            }
        };
        result.map_err(|violation| {
            if let Header::InPlace(head) = header {
                self.decoder.keep(head);
            }
            self.fail(violation)
        })
    }

    #[inline]
    fn take_command<'a>(&mut self, sqe: Sqe) -> Result<ControllerEvent<'a>, Violation> {
        let capsule_data = self.decoder.data_len();
        if capsule_data > 0 {
            let fabrics = if sqe.is_fabrics() { ADMIN_IN_CAPSULE_BYTES } else { 0 };
            if capsule_data > self.in_capsule_bytes.max(fabrics) {
                return Err(Violation::of(Fes::LimitExceeded, "more in-capsule data than the queue takes"));
            }
            self.receiving = None;
            self.data_at = 0;
        }
        Ok(ControllerEvent::Command { sqe, capsule_data })
    }

    fn take_h2c_data(&mut self, pdu: &DataHeader) -> Result<(), Violation> {
        let length = pdu.length.get();
        if self.decoder.data_len() != length {
            return Err(Violation::field(field::DATA_LENGTH, "DATAL is not what PLEN leaves"));
        }
        if length > self.terms.max_h2c_data {
            return Err(Violation::of(Fes::LimitExceeded, "an H2CData PDU longer than MAXH2CDATA"));
        }
        self.transfers.accept(pdu)?;
        self.receiving = Some(pdu.tag.get());
        self.data_at = pdu.offset.get();
        Ok(())
    }

    fn take_ic_req<'a>(&mut self, pdu: &IcReq) -> Result<ControllerEvent<'a>, Violation> {
        if pdu.format.get() != Negotiated::FORMAT {
            return Err(Violation::unsupported(field::FORMAT, "a PDU format version other than 0"));
        }
        if pdu.alignment > Negotiated::MAX_ALIGNMENT {
            return Err(Violation::field(field::ALIGNMENT, "HPDA above 31"));
        }
        self.terms = Negotiated {
            digests: Digests::from_bits(pdu.digests).and(self.options.digests),
            host_alignment: pdu.alignment,
            controller_alignment: self.options.alignment,
            max_r2t: pdu.max_r2t.get(),
            max_h2c_data: self.options.max_h2c_data,
        };
        self.start();
        Ok(ControllerEvent::Initialized(self.terms))
    }

    fn start(&mut self) {
        self.decoder.start(self.terms.digests, self.terms.controller_alignment);
        self.framer = Framer::new(self.terms.digests, self.terms.host_alignment);
    }

    fn source(&self) -> DataSource {
        match self.receiving {
            None => DataSource::Capsule,
            Some(tag) => DataSource::Transfer(self.transfers.token(tag)),
        }
    }

    #[inline]
    fn take_bytes<'a>(&mut self, bytes: &'a [u8]) -> ControllerEvent<'a> {
        let offset = self.data_at;
        self.data_at = offset.wrapping_add(u32::try_from(bytes.len()).expect("a piece of 32-bit data"));
        ControllerEvent::Data { source: self.source(), offset, bytes }
    }

    fn take_end(&mut self, intact: bool) -> Option<ControllerEvent<'static>> {
        let source = self.source();
        match self.receiving.take() {
            None => Some(ControllerEvent::DataEnd { source, intact }),
            Some(tag) => {
                self.transfers.end(tag, intact).map(|intact| ControllerEvent::DataEnd { source, intact })
            }
        }
    }
}
