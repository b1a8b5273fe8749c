//! Cuts a byte stream into PDU headers, data and digests; both sides share it.
//!
//! Owns what is known about the PDU that is under way: its header when that came in pieces, how much padding and data is
//! left, the digest so far. Checks everything that needs no memory of other PDUs: type, flags, HLEN, PDO, PLEN,
//! digests. Never copies data, never holds more than one header, never allocates.

use super::framer::Digests;
use super::negotiate::alignment_bytes;
use super::pdu::{CommonHeader, DIGEST_BYTES, PduKind, field, flags};
use super::violation::{Fes, Violation};
use dolmen_kernels::{Crc32c, crc32c};

/// A header (128 bytes at most) with its digest.
const GATHER_BYTES: usize = 128 + DIGEST_BYTES;
const COMMON_BYTES: usize = size_of::<CommonHeader>();

/// Which side receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Controller,
    Host,
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Header,
    Padding,
    Data,
    Digest,
    End,
    Closed,
}

/// A whole, verified header: where it lies.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Header<'a> {
    /// In the chunk.
    InPlace(&'a [u8]),
    /// In the decoder; ask [`Decoder::gathered`].
    Gathered,
}

/// A piece of a PDU's data.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Body<'a> {
    /// The chunk is used up.
    More,
    /// Data, never empty.
    Bytes(&'a [u8]),
    /// All data came; whether the digest (if any) is right.
    End { intact: bool },
}

/// The layout of the PDU under way, from its common header.
#[derive(Clone, Copy, Debug)]
struct Frame {
    header_len: usize,
    digested: bool,
    padding: usize,
    data_len: u32,
}

impl Frame {
    fn head_bytes(&self) -> usize {
        self.header_len + if self.digested { DIGEST_BYTES } else { 0 }
    }
}

/// The decoder of one direction of one connection.
#[derive(Debug)]
pub(crate) struct Decoder {
    side: Side,
    stage: Stage,
    initialized: bool,
    digests: Digests,
    alignment: usize,
    /// Bytes of an unfinished header in `head`.
    gathered: usize,
    /// Bytes of the last finished or refused header in `head`.
    kept: usize,
    /// Bytes of an unfinished digest in `digest`.
    digest_len: usize,
    padding: usize,
    data_left: u32,
    data_len: u32,
    crc: Crc32c,
    digest: [u8; DIGEST_BYTES],
    head: [u8; GATHER_BYTES],
}

impl Decoder {
    /// A decoder that waits for the initialisation PDU.
    pub(crate) fn new(side: Side) -> Decoder {
        Decoder {
            side,
            stage: Stage::Header,
            initialized: false,
            digests: Digests::NONE,
            alignment: alignment_bytes(0),
            gathered: 0,
            kept: 0,
            digest_len: 0,
            padding: 0,
            data_left: 0,
            data_len: 0,
            crc: Crc32c::new(),
            digest: [0; DIGEST_BYTES],
            head: [0; GATHER_BYTES],
        }
    }

    /// Initialisation is over: from now on PDUs come with these digests, their data aligned by this field's dwords.
    pub(crate) fn start(&mut self, digests: Digests, alignment: u8) {
        self.initialized = true;
        self.digests = digests;
        self.alignment = alignment_bytes(alignment);
    }

    /// True when a header is due next.
    pub(crate) fn wants_header(&self) -> bool {
        self.stage == Stage::Header
    }

    /// True for an initialized connection on which no PDU is under way.
    pub(crate) fn at_rest(&self) -> bool {
        self.initialized && self.stage == Stage::Header && self.gathered == 0
    }

    /// True for an initialized connection that has not failed.
    pub(crate) fn is_running(&self) -> bool {
        self.initialized && self.stage != Stage::Closed
    }

    /// True after [`Decoder::close`].
    pub(crate) fn is_closed(&self) -> bool {
        self.stage == Stage::Closed
    }

    /// Nothing more shall be read.
    pub(crate) fn close(&mut self) {
        self.stage = Stage::Closed;
    }

    /// Data that the PDU under way carries, as its header says. Bytes.
    pub(crate) fn data_len(&self) -> u32 {
        self.data_len
    }

    /// The bytes of the last gathered header, or of the header that broke the rules.
    pub(crate) fn gathered(&self) -> &[u8] {
        &self.head[..self.kept]
    }

    /// Takes a header off the chunk's front; `None` when the rest of it has yet to come (the chunk is then used up).
    #[inline]
    pub(crate) fn header<'a>(&mut self, chunk: &mut &'a [u8]) -> Result<Option<Header<'a>>, Violation> {
        if self.gathered == 0
            && let Some((common, _)) = chunk.split_first_chunk::<COMMON_BYTES>()
        {
            let frame = match self.usual(common).map_or_else(|| self.lay_out(common), Ok) {
                Ok(frame) => frame,
                Err(violation) => {
                    let claimed = usize::from(common[2]).clamp(COMMON_BYTES, GATHER_BYTES - DIGEST_BYTES);
                    self.keep(&chunk[..claimed.min(chunk.len())]);
                    return Err(violation);
                }
            };
            if let Some((head, rest)) = chunk.split_at_checked(frame.head_bytes()) {
                let head = self.verify(head, &frame)?;
                *chunk = rest;
                self.enter(&frame);
                return Ok(Some(Header::InPlace(head)));
            }
        }
        self.gather(chunk)
    }

    /// Keeps the header's bytes for [`Decoder::gathered`], which reports them to the peer.
    pub(crate) fn keep(&mut self, header: &[u8]) {
        let n = header.len().min(GATHER_BYTES);
        self.head[..n].copy_from_slice(&header[..n]);
        self.kept = n;
    }

    /// Takes a piece of data off the chunk's front.
    #[inline]
    pub(crate) fn body<'a>(&mut self, chunk: &mut &'a [u8]) -> Body<'a> {
        loop {
            match self.stage {
                Stage::Padding => {
                    let n = self.padding.min(chunk.len());
                    *chunk = &chunk[n..];
                    self.padding -= n;
                    if self.padding > 0 {
                        return Body::More;
                    }
                    self.stage = Stage::Data;
                }
                Stage::Data => {
                    if chunk.is_empty() {
                        return Body::More;
                    }
                    return Body::Bytes(self.take_data(chunk));
                }
                Stage::Digest => {
                    let have = self.digest_len;
                    let n = (DIGEST_BYTES - have).min(chunk.len());
                    self.digest[have..have + n].copy_from_slice(&chunk[..n]);
                    *chunk = &chunk[n..];
                    self.digest_len += n;
                    if self.digest_len < DIGEST_BYTES {
                        return Body::More;
                    }
                    self.digest_len = 0;
                    self.stage = Stage::Header;
                    return Body::End { intact: u32::from_le_bytes(self.digest) == self.crc.value() };
                }
                Stage::End => {
                    self.stage = Stage::Header;
                    return Body::End { intact: true };
                }
                Stage::Header | Stage::Closed => return Body::More,
            }
        }
    }

    /// Up to all of the data that is left, at least one byte of a chunk that isn't empty.
    fn take_data<'a>(&mut self, chunk: &mut &'a [u8]) -> &'a [u8] {
        let left = usize::try_from(self.data_left).unwrap_or(usize::MAX);
        let (bytes, rest) = chunk.split_at(left.min(chunk.len()));
        *chunk = rest;
        self.data_left -= u32::try_from(bytes.len()).expect("no more than the 32-bit remainder was taken");
        if self.digests.data {
            self.crc.update(bytes);
        }
        if self.data_left == 0 {
            self.stage = if self.digests.data { Stage::Digest } else { Stage::End };
        }
        bytes
    }

    /// Collects a header that came in pieces.
    #[cold]
    fn gather<'a>(&mut self, chunk: &mut &'a [u8]) -> Result<Option<Header<'a>>, Violation> {
        if !self.fill(COMMON_BYTES, chunk) {
            return Ok(None);
        }
        let mut common = [0; COMMON_BYTES];
        common.copy_from_slice(&self.head[..COMMON_BYTES]);
        self.kept = COMMON_BYTES;
        let frame = self.lay_out(&common)?;
        if !self.fill(frame.head_bytes(), chunk) {
            return Ok(None);
        }
        let head = self.head;
        self.verify(&head[..frame.head_bytes()], &frame)?;
        self.kept = frame.header_len;
        self.gathered = 0;
        self.enter(&frame);
        Ok(Some(Header::Gathered))
    }

    /// Collects until `want` bytes are there.
    fn fill(&mut self, want: usize, chunk: &mut &[u8]) -> bool {
        let n = want.saturating_sub(self.gathered).min(chunk.len());
        self.head[self.gathered..self.gathered + n].copy_from_slice(&chunk[..n]);
        *chunk = &chunk[n..];
        self.gathered += n;
        self.gathered >= want
    }

    /// Checks the header digest; the header without it.
    fn verify<'a>(&mut self, head: &'a [u8], frame: &Frame) -> Result<&'a [u8], Violation> {
        let (header, digest) = head.split_at(frame.header_len);
        if let Ok(digest) = <[u8; DIGEST_BYTES]>::try_from(digest) {
            let came = u32::from_le_bytes(digest);
            if came != crc32c(header) {
                self.keep(header);
                return Err(Violation { fes: Fes::HeaderDigest, fei: came, what: "wrong header digest" });
            }
        }
        Ok(header)
    }

    /// The header is done: what follows it.
    #[inline]
    fn enter(&mut self, frame: &Frame) {
        self.data_len = frame.data_len;
        if frame.data_len > 0 {
            self.data_left = frame.data_len;
            self.padding = frame.padding;
            self.stage = if frame.padding > 0 { Stage::Padding } else { Stage::Data };
            if self.digests.data {
                self.crc = Crc32c::new();
            }
        }
    }

    /// The layout of the PDUs that nearly all traffic consists of, where no digests are used: commands, data for the host,
    /// responses. `None` for any other, which [`Decoder::lay_out`] looks at field by field.
    #[inline]
    fn usual(&self, common: &[u8; COMMON_BYTES]) -> Option<Frame> {
        let &[kind, flag_bits, header_len, data_offset, p0, p1, p2, p3] = common;
        let total = u32::from_le_bytes([p0, p1, p2, p3]);
        // No digests, and data right behind headers suits the alignment.
        if !self.initialized || self.digests != Digests::NONE || self.alignment != 4 {
            return None;
        }
        let bare = |header_len: u8| Frame {
            header_len: usize::from(header_len),
            digested: false,
            padding: 0,
            data_len: 0,
        };
        if flag_bits & (flags::HEADER_DIGEST | flags::DATA_DIGEST) != 0 {
            return None;
        }
        let with_data = |header_len: u8| {
            let data_len = total.checked_sub(u32::from(header_len))?;
            (data_len > 0 && data_offset == header_len).then(|| Frame { data_len, ..bare(header_len) })
        };
        match (self.side, PduKind(kind), header_len) {
            (Side::Controller, PduKind::CAPSULE_CMD, 72) if total == 72 => Some(bare(72)),
            (Side::Controller, PduKind::CAPSULE_CMD, 72) => with_data(72),
            (Side::Host, PduKind::CAPSULE_RESP, 24) if total == 24 => Some(bare(24)),
            (Side::Host, PduKind::C2H_DATA, 24) => with_data(24),
            _ => None,
        }
    }

    /// A whole PDU at the front of `chunk`, if it is one of the usual and no other is under way: header, data (if any), what follows.
    /// Nothing is taken.
    #[inline]
    pub(crate) fn whole_pdu<'a>(&self, chunk: &'a [u8]) -> Option<(&'a [u8], &'a [u8], &'a [u8])> {
        if !self.at_rest() {
            return None;
        }
        let (common, _) = chunk.split_first_chunk::<COMMON_BYTES>()?;
        let frame = self.usual(common)?;
        let (head, rest) = chunk.split_at_checked(frame.header_len)?;
        let (data, rest) = rest.split_at_checked(usize::try_from(frame.data_len).ok()?)?;
        Some((head, data, rest))
    }

    /// True when `head` is the header of one of the usual PDUs, whose data of `data_len` bytes follows it, and no other is under
    /// way. Nothing is taken.
    #[inline]
    pub(crate) fn is_whole(&self, head: &[u8], data_len: u32) -> bool {
        let frame = head.first_chunk::<COMMON_BYTES>().filter(|_| self.at_rest());
        let frame = frame.and_then(|common| self.usual(common));
        frame.is_some_and(|frame| frame.header_len == head.len() && frame.data_len == data_len)
    }

    /// Bytes that came of a header that is not whole.
    pub(crate) fn header_bytes(&self) -> usize {
        self.gathered
    }

    /// How much data of the PDU under way has yet to come, when data is what comes next. Bytes.
    pub(crate) fn data_due(&self) -> Option<u32> {
        (self.stage == Stage::Data).then_some(self.data_left)
    }

    /// The whole data of the PDU under way, if it lies at the front of `chunk` and nothing of it has to be verified. Nothing is taken.
    #[inline]
    pub(crate) fn whole_data<'a>(&self, chunk: &'a [u8]) -> Option<&'a [u8]> {
        let starts = matches!(self.stage, Stage::Padding | Stage::Data) && self.data_left == self.data_len;
        if !starts || self.digests.data {
            return None;
        }
        let len = usize::try_from(self.data_len).ok()?;
        chunk.get(self.padding..)?.get(..len)
    }

    /// Takes that data off the chunk's front; the PDU is at its end then.
    #[inline]
    pub(crate) fn pass_data(&mut self, chunk: &mut &[u8]) {
        let Some(len) = self.whole_data(chunk).map(<[u8]>::len) else { return };
        *chunk = &chunk[self.padding + len..];
        (self.padding, self.data_left, self.stage) = (0, 0, Stage::Header);
    }

    /// Checks a common header and lays out its PDU. Fields are checked in the order in which they stand, since the first wrong one is to be reported (TCP 3.5).
    #[inline]
    fn lay_out(&self, common: &[u8; COMMON_BYTES]) -> Result<Frame, Violation> {
        let &[kind, flag_bits, header_len, data_offset, p0, p1, p2, p3] = common;
        let kind = PduKind(kind);
        let total = u32::from_le_bytes([p0, p1, p2, p3]);
        self.check_kind(kind)?;
        if !kind.is_digested() {
            return lay_out_bare(kind, header_len, total);
        }
        if (flag_bits & flags::HEADER_DIGEST != 0) != self.digests.header {
            return Err(Violation::field(field::FLAGS, "HDGSTF is not as negotiated"));
        }
        let expected = kind.header_bytes().unwrap_or(0);
        let head_bytes = u32::from(expected) + if self.digests.header { 4 } else { 0 };
        let has_data = kind.may_carry_data() && total != head_bytes;
        if has_data && (flag_bits & flags::DATA_DIGEST != 0) != self.digests.data {
            return Err(Violation::field(field::FLAGS, "DDGSTF is not as negotiated"));
        }
        if header_len != expected {
            return Err(Violation::field(field::HEADER_LEN, "wrong HLEN"));
        }
        let mut frame = Frame {
            header_len: usize::from(header_len),
            digested: self.digests.header,
            padding: 0,
            data_len: 0,
        };
        if has_data {
            // A capsule's data may only follow its header at once or at PDO; hosts that leave PDO out mean the former.
            let offset = match (kind, data_offset) {
                (PduKind::CAPSULE_CMD, 0) => u8::try_from(frame.head_bytes()).unwrap_or(u8::MAX),
                _ => data_offset,
            };
            self.lay_out_data(&mut frame, offset, total)?;
        } else if total != head_bytes || kind == PduKind::H2C_DATA || kind == PduKind::C2H_DATA {
            return Err(Violation::field(field::LENGTH, "PLEN does not fit the PDU type"));
        }
        Ok(frame)
    }

    /// Places the data of a PDU that has some.
    fn lay_out_data(&self, frame: &mut Frame, data_offset: u8, total: u32) -> Result<(), Violation> {
        let start = usize::from(data_offset);
        let Some(padding) = start.checked_sub(frame.head_bytes()) else {
            return Err(Violation::field(field::DATA_OFFSET, "PDO lies inside the header"));
        };
        if !start.is_multiple_of(self.alignment) {
            return Err(Violation::field(field::DATA_OFFSET, "PDO is not aligned as negotiated"));
        }
        let around = u32::from(data_offset) + if self.digests.data { 4 } else { 0 };
        frame.padding = padding;
        frame.data_len = match total.checked_sub(around) {
            Some(len) if len > 0 => len,
            _ => return Err(Violation::field(field::LENGTH, "PLEN leaves no room for data")),
        };
        Ok(())
    }

    /// Is this type one that may come here and now?
    #[inline]
    fn check_kind(&self, kind: PduKind) -> Result<(), Violation> {
        let (initial, term) = match self.side {
            Side::Controller => (PduKind::IC_REQ, PduKind::H2C_TERM_REQ),
            Side::Host => (PduKind::IC_RESP, PduKind::C2H_TERM_REQ),
        };
        let running = match self.side {
            Side::Controller => kind == PduKind::CAPSULE_CMD || kind == PduKind::H2C_DATA,
            Side::Host => kind == PduKind::C2H_DATA || kind == PduKind::CAPSULE_RESP || kind == PduKind::R2T,
        };
        if self.initialized && running || kind == term || !self.initialized && kind == initial {
            return Ok(());
        }
        if running {
            return Err(Violation::of(Fes::PduSequence, "a PDU before the connection was initialized"));
        }
        if kind == initial {
            return Err(Violation::of(Fes::PduSequence, "the connection is initialized already"));
        }
        Err(Violation::field(field::KIND, "a PDU type that does not belong here"))
    }
}

/// PDUs that never carry digests. A terminate request must never be answered by another, so a malformed one is cut down
/// to its common header and ends the connection all the same (TCP 3.5).
fn lay_out_bare(kind: PduKind, header_len: u8, total: u32) -> Result<Frame, Violation> {
    let mut frame = Frame { header_len: usize::from(header_len), digested: false, padding: 0, data_len: 0 };
    let expected = kind.header_bytes().unwrap_or(0);
    let initial = kind == PduKind::IC_REQ || kind == PduKind::IC_RESP;
    if initial && header_len != expected {
        return Err(Violation::field(field::HEADER_LEN, "wrong HLEN"));
    }
    if initial && total != u32::from(expected) {
        return Err(Violation::field(field::LENGTH, "PLEN does not fit the PDU type"));
    }
    if header_len != expected || total < u32::from(expected) {
        frame.header_len = COMMON_BYTES;
    }
    Ok(frame)
}
