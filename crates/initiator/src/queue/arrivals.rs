//! Where a read's data arrives: in a buffer that was lent to the socket and then changes places with the command's own.
//!
//! Nobody can know in which order commands will be answered. But nearly always the next bytes are a header and as much data as the
//! reads under way asked for, so spare buffers of that length are lent (a [`Landing`]), and whichever command the data turns
//! out to be for gets the buffer that it lies in; its own becomes a spare one. No command's buffer is ever lent, so one
//! that ends early has it at hand. What is not as expected is copied, like all that comes in chunks.

use super::{Heard, Queue};
use crate::{
    Error, ErrorKind,
    slots::{Payload, Reply, Slots},
};
use dolmen_io::{Buf, Io, Landing, Pool};
use dolmen_nvme::{
    spec::{Cqe, Status},
    tcp::{self, Due},
};
use std::ops::Range;

/// The header of data from the controller, without digests (TCP 3.6.2.11).
const HEAD_BYTES: usize = 24;
/// Data of one read for which lending pays. Bytes.
const LEAST_BYTES: usize = 4096;
/// Spare buffers at most, and their length in sum unless one alone is longer.
const MOST_PARTS: usize = 32;
const MOST_BYTES: usize = 256 << 10;
/// Commands without data for us in a row after which no data is expected.
const MOST_OTHERS: u32 = 16;
/// After mostly other data than expected came: how often to receive into chunks before lending again, at first and, doubled each
/// time that it goes on like that, at last.
const PAUSES: (u32, u32) = (1, 16);

/// Buffers of the length of a read that a queue keeps for what will come, while its pool has more than an eighth of them free. Reads
/// below 4 KiB have none.
#[must_use]
pub fn spare_buffers(read_bytes: usize) -> usize {
    if read_bytes < LEAST_BYTES { 0 } else { (MOST_BYTES / read_bytes).clamp(1, MOST_PARTS) }
}

/// What a queue lends and what it knows of it.
#[derive(Default)]
pub(super) struct Arrivals {
    /// Not lent now.
    landing: Option<Box<Landing>>,
    lent: bool,
    /// The command whose data the landing's first part holds so far, from its start.
    open: Option<u16>,
    /// What the read that was sent last asked for. Bytes.
    expected: usize,
    /// Commands without data for us since then.
    others: u32,
    pause: u32,
    next_pause: u32,
}

impl Arrivals {
    /// A command was sent that reads so many bytes.
    #[inline]
    pub(super) fn expect(&mut self, bytes: u32) {
        match usize::try_from(bytes) {
            Ok(0) | Err(_) => self.others = self.others.saturating_add(1),
            Ok(bytes) => (self.expected, self.others) = (bytes, 0),
        }
    }

    /// Spare buffers of `bytes` each, as far as the pool has plenty of them.
    fn spare(io: &Io, bytes: usize) -> Option<Box<Landing>> {
        let pool = io.pool();
        let spare = |_| pool.is_plentiful(bytes).then(|| pool.alloc_fitting(bytes)).flatten();
        let parts: Vec<Buf> = (0..spare_buffers(bytes)).map_while(spare).collect();
        (!parts.is_empty()).then(|| Box::new(Landing::new(HEAD_BYTES, parts)))
    }
}

impl Queue {
    /// Takes a received chunk; appends what it says to `heard`.
    pub(crate) fn received(
        &mut self,
        io: &mut Io,
        chunk: &[u8],
        slots: &mut Slots,
        heard: &mut Vec<Heard>,
    ) -> Result<(), Error> {
        let arrivals = &mut self.arrivals;
        if std::mem::take(&mut arrivals.lent) {
            arrivals.landing = io.recall(self.sock);
            if arrivals.landing.is_none() {
                // It would hold bytes that come after these, at places for what comes before: better a new connection.
                return Err(Error::new(ErrorKind::Connection, "what was received came out of order"));
            }
        }
        arrivals.pause = arrivals.pause.saturating_sub(1);
        if self.arrivals.open.is_some() {
            self.move_out(slots);
        }
        self.receive(io.pool(), chunk, slots, heard)
    }

    /// Takes what came into a landing.
    pub(crate) fn landed(
        &mut self,
        pool: &Pool,
        (mut landing, bytes): (Box<Landing>, usize),
        slots: &mut Slots,
        heard: &mut Vec<Heard>,
    ) -> Result<(), Error> {
        self.arrivals.lent = false;
        let (mut at, mut from, mut left, mut score) = (0, landing.skip(), bytes, 0);
        let mut result = Ok(());
        while left > 0 && result.is_ok() {
            let frame_bytes = landing.frame_bytes();
            let to = frame_bytes.min(from + left);
            left -= to - from;
            if from == 0 && to == frame_bytes && self.take_whole(&mut landing, at, slots, heard) {
                score += 1;
            } else {
                let frame = (&mut *landing, at, from..to);
                result = self.take_frame(pool, frame, slots, heard).map(|said| score += said);
            }
            if to == frame_bytes {
                (at, from) = (at + 1, 0);
            }
        }
        if self.arrivals.open.is_some() {
            landing.begin(at, 0);
        }
        let arrivals = &mut self.arrivals;
        if score < 0 {
            arrivals.pause = arrivals.next_pause.max(PAUSES.0);
            arrivals.next_pause = (2 * arrivals.pause).min(PAUSES.1);
        } else if score > 0 {
            arrivals.next_pause = PAUSES.0;
        }
        self.arrivals.landing = Some(landing);
        result
    }

    /// A header and data that answer a read, as expected; false when they don't.
    #[inline]
    fn take_whole(
        &mut self,
        landing: &mut Landing,
        at: usize,
        slots: &mut Slots,
        heard: &mut Vec<Heard>,
    ) -> bool {
        let length = u32::try_from(landing.part_bytes()).expect("a pool buffer is small");
        let Some(cid) = self.host.take_landed(landing.head(at), length) else { return false };
        let id = self.answered(cid);
        let slot = slots.get_mut(id);
        if let Payload::In(own) = &mut slot.payload {
            take_place(own, landing.part(at));
        }
        slot.reply = Reply { cqe: Cqe::new(cid, Status::SUCCESS), received: length, intact: true };
        heard.push(Heard::Completed(id));
        true
    }

    /// Bytes of the stream within a frame, whatever they are. How well that suited: 1 for data that lies where it stays, 0 for
    /// what is too little to say (responses go behind data), -1 for data that had to be copied.
    fn take_frame(
        &mut self,
        pool: &Pool,
        (landing, at, range): (&mut Landing, usize, Range<usize>),
        slots: &mut Slots,
        heard: &mut Vec<Heard>,
    ) -> Result<i32, Error> {
        if range.start < HEAD_BYTES {
            let came = range.start..range.end.min(HEAD_BYTES);
            self.receive(pool, &landing.head(at)[came], slots, heard)?;
        }
        if range.end <= HEAD_BYTES {
            return Ok(0);
        }
        let range = range.start.max(HEAD_BYTES) - HEAD_BYTES..range.end - HEAD_BYTES;
        let part = landing.part(at);
        let whole = range.end == part.len();
        if !self.stays(&range, part.len(), slots) {
            let little = range.len() < part.len() / 2;
            self.receive(pool, &part[range], slots, heard)?;
            return Ok(if little { 0 } else { -1 });
        }
        self.pass(&part[range])?;
        if whole && let Some(cid) = self.arrivals.open.take() {
            if let Payload::In(own) = &mut slots.get_mut(self.under[usize::from(cid)]).payload {
                take_place(own, part);
            }
            self.receive(pool, &[], slots, heard)?;
        }
        Ok(i32::from(whole))
    }

    /// True when the bytes of `range` of a part of `length` bytes are a command's data and lie where all of it will lie in the end.
    fn stays(&mut self, range: &Range<usize>, length: usize, slots: &Slots) -> bool {
        let Due::Data { cid, offset, left } = self.host.due() else { return false };
        let (offset, left) = (super::slot_len(offset), super::slot_len(left));
        if offset != range.start || offset + left != length {
            return false;
        }
        let begins = || match &slots.get(self.under[usize::from(cid)]).payload {
            Payload::In(own) => offset == 0 && own.len() == length,
            _ => false,
        };
        if self.arrivals.open == Some(cid) || begins() {
            self.arrivals.open = Some(cid);
            return true;
        }
        false
    }

    /// Has the codec count data that lies where it stays.
    fn pass(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        let event = self.host.receive(&mut bytes);
        debug_assert!(matches!(event, Ok(Some(tcp::HostEvent::Data { .. }))) && bytes.is_empty());
        event.map(|_| ()).map_err(|violation| {
            Error::new(ErrorKind::Protocol, format!("the controller broke the protocol: {violation}"))
        })
    }

    /// What came so far of the data that is under way goes to its command's own buffer: the rest will come in a chunk.
    fn move_out(&mut self, slots: &mut Slots) {
        let Due::Data { cid, offset, .. } = self.host.due() else { return };
        if self.arrivals.open.take() != Some(cid) {
            return;
        }
        let came = super::slot_len(offset);
        if let Payload::In(own) = &mut slots.get_mut(self.under[usize::from(cid)]).payload
            && let Some(landing) = &mut self.arrivals.landing
        {
            own[..came].copy_from_slice(&landing.part(0)[..came]);
        }
    }

    /// Lends spare buffers, if the socket has a use for them.
    pub(super) fn lend(&mut self, io: &mut Io) {
        let arrivals = &mut self.arrivals;
        if arrivals.lent || arrivals.pause > 0 || self.host.outstanding() == 0 {
            return;
        }
        // What an admin queue reads is little and seldom.
        let suits = self.number > 0
            && arrivals.expected >= LEAST_BYTES
            && arrivals.others < MOST_OTHERS
            && self.host.negotiated().digests == tcp::Digests::NONE;
        if !suits && arrivals.open.is_none() {
            return;
        }
        if !io.lands(self.sock) {
            if arrivals.open.is_none() {
                arrivals.landing = None;
            }
            return;
        }
        let kept = arrivals.landing.take();
        // A pool that runs low gets them back.
        let stays = |bytes| bytes == arrivals.expected && io.pool().is_plentiful(bytes);
        let kept = kept.filter(|l| arrivals.open.is_some() || stays(l.part_bytes()));
        let Some(mut landing) = kept.or_else(|| Arrivals::spare(io, arrivals.expected)) else { return };
        let skip = match self.host.due() {
            Due::Header { came } if came < HEAD_BYTES => Some(came),
            Due::Data { left, .. } => landing.frame_bytes().checked_sub(super::slot_len(left)),
            _ => None,
        };
        let Some(skip) = skip.filter(|&skip| skip < landing.frame_bytes()) else {
            arrivals.landing = Some(landing);
            return;
        };
        landing.begin(0, skip);
        landing.use_parts(self.host.outstanding());
        match io.land(self.sock, landing) {
            Ok(()) => arrivals.lent = true,
            Err(landing) => arrivals.landing = Some(landing),
        }
    }
}

/// A command's data lies in `part`: that becomes its buffer, and its own a spare one.
fn take_place(own: &mut Buf, part: &mut Buf) {
    if own.len() == part.len() && own.capacity() == part.capacity() {
        std::mem::swap(own, part);
    } else {
        own.copy_from_slice(part);
    }
}
