//! What one connection is about to send: replies staged one behind the other in a contiguous buffer, with large payloads
//! hung in between as they are. One send takes it all.
//!
//! Where there is data, responses go behind all of their send: a host that reads and writes then finds its data at even distances, where it may
//! have buffers, and not behind a response now and then. Commands end in no order of their own; a command's data still comes before its
//! response.
//!
//! Small payloads are copied into the staging buffer, because many small vectors cost the kernel more than the copy; from
//! [`ATTACH_BYTES`] on a payload goes out from its own buffer, and zeros from one that all share. One that has none, since its volume
//! writes it where it is told to, is written there up to a longer length ([`WRITE_BYTES`]).

use dolmen_io::{Buf, Io, PoolConfig, Reserve, Slice, Slices};
use dolmen_nvme::tcp::MAX_HEADER_BYTES;
use std::ops::Range;

/// Payloads of at least this length are sent from their own buffer. Bytes.
pub(crate) const ATTACH_BYTES: usize = 4 * 1024;

/// Payloads below this length are written straight into the staging buffer, if they are not in another. Bytes.
pub(crate) const WRITE_BYTES: usize = 8 * 1024;

/// Responses that wait for the end of their send, in sum; before more wait these go where they are. Bytes.
const LAST_BYTES: usize = 1024;

#[derive(Debug)]
enum Segment {
    Staged(Range<usize>),
    Attached(Slice),
}

/// Replies on their way to the socket.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    current: Option<Buf>,
    filled: usize,
    /// Responses that go behind all that is staged: the first `waiting` bytes. The current buffer has room for them.
    last: Vec<u8>,
    waiting: usize,
    /// This send has data, or the one before had: responses wait.
    data: bool,
    data_before: bool,
    segments: Vec<Segment>,
    ready: Slices,
    bytes: usize,
    /// What of them takes memory of this connection's.
    held: usize,
    /// Buffers that they are in, and those of the send under way. Bytes.
    memory: usize,
    sending: usize,
    /// Bytes staged since the last send, and before that one: what the next one will probably take.
    staged: usize,
    burst: usize,
    /// The current buffer is one of the core's reserve.
    lent: bool,
    /// Views of buffers of the reserve that were sent, or will be: they go back when they are the last ones.
    borrowed: Vec<Slice>,
}

/// A buffer of at least `need` bytes for a connection that holds so much, and whether it is one of the reserve: those are for who has
/// nothing on its way.
fn stage(io: &Io, reserve: &mut Reserve, (need, hint, holds): (usize, usize, usize)) -> Option<(Buf, bool)> {
    let hint = hint.clamp(need, PoolConfig::LARGE_BYTES.max(need));
    let pool = io.pool();
    let usual = pool.alloc_share(hint, holds).or_else(|| pool.alloc_share(need, holds));
    let (mut buf, lent) = match usual {
        Some(buf) => (buf, false),
        None if holds > 0 => return None,
        None => (reserve.lend(need)?, true),
    };
    buf.set_len(buf.capacity());
    Some((buf, lent))
}

impl Outbox {
    /// Bytes that wait to be sent.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What of them takes memory. Bytes.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Buffers that all replies take until they are sent. Bytes.
    pub(crate) fn memory(&self) -> usize {
        self.memory + self.sending
    }

    /// Makes sure of `need` contiguous bytes of [`Outbox::room`]; a new buffer is about as large as what the last send took.
    /// False when there is no memory now.
    pub(crate) fn reserve(&mut self, io: &Io, reserve: &mut Reserve, need: usize) -> bool {
        let need = need + self.waiting;
        if self.current.as_ref().is_some_and(|buf| buf.len() - self.filled >= need) {
            return true;
        }
        let wanted = (need, self.burst, self.memory());
        let Some((buf, lent)) = stage(io, reserve, wanted) else { return false };
        self.seal();
        self.memory += buf.capacity();
        (self.current, self.lent) = (Some(buf), lent);
        true
    }

    /// Where the next bytes are to be written, as many as were reserved.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        match &mut self.current {
            Some(buf) => &mut buf[self.filled..],
            None => &mut [],
        }
    }

    /// What comes next is data of a command.
    #[inline]
    pub(crate) fn expect_data(&mut self) {
        self.data = true;
    }

    /// Puts a response behind all that this send will have, if it has data, of which `write` fills in some bytes: it tells how many.
    /// Its header was reserved.
    #[inline]
    pub(crate) fn respond(&mut self, write: impl FnOnce(&mut [u8]) -> Option<usize>) {
        // In their order, since each says how far the host's queue was read (SQHD).
        if self.waiting + MAX_HEADER_BYTES > LAST_BYTES {
            self.end_waiting();
        }
        if !(self.data || self.data_before) {
            if let Some(n) = write(self.room()) {
                self.commit(n);
            }
            return;
        }
        self.last.resize(LAST_BYTES, 0);
        // It is copied when the send is made: to copy what was just put together would wait for the store buffer.
        if let Some(n) = write(&mut self.last[self.waiting..]) {
            self.waiting += n;
            self.bytes += n;
            self.held += n;
        }
    }

    /// Responses that wait go now: what follows ends the stream.
    pub(crate) fn end_waiting(&mut self) {
        let n = std::mem::take(&mut self.waiting);
        if let (1.., Some(buf)) = (n, &mut self.current) {
            buf[self.filled..self.filled + n].copy_from_slice(&self.last[..n]);
            self.bytes -= n;
            self.held -= n;
            self.commit(n);
        }
    }

    /// Takes the first `n` bytes of [`Outbox::room`] into the stream.
    pub(crate) fn commit(&mut self, n: usize) {
        let end = self.filled + n;
        match self.segments.last_mut() {
            Some(Segment::Staged(range)) if range.end == self.filled => range.end = end,
            _ => self.segments.push(Segment::Staged(self.filled..end)),
        }
        self.filled = end;
        self.bytes += n;
        self.held += n;
        self.staged += n;
    }

    /// Hangs a payload behind what is staged.
    pub(crate) fn attach(&mut self, data: Buf) {
        self.bytes += data.len();
        self.held += data.len();
        self.memory += data.capacity();
        self.segments.push(Segment::Attached(data.freeze()));
    }

    /// Hangs `length` bytes of zeros behind what is staged, from as many views of `zeros` as it takes.
    pub(crate) fn attach_zeros(&mut self, zeros: &Slice, length: usize) {
        let mut left = length;
        while left > 0 {
            let piece = zeros.slice(0..left.min(zeros.len()));
            left -= piece.len();
            self.segments.push(Segment::Attached(piece));
            self.held += size_of::<Segment>();
        }
        self.bytes += length;
    }

    /// Ends the current buffer: what is staged becomes slices.
    fn seal(&mut self) {
        let base = self.current.take().map(Buf::freeze);
        if let (true, Some(base)) = (std::mem::take(&mut self.lent), &base) {
            self.borrowed.push(base.clone());
        }
        self.filled = 0;
        for segment in self.segments.drain(..) {
            match (segment, &base) {
                (Segment::Staged(range), Some(base)) => self.ready.push(base.slice(range)),
                (Segment::Staged(_), None) => {}
                (Segment::Attached(slice), _) => self.ready.push(slice),
            }
        }
    }

    /// A send has ended: buffers of the reserve that are no longer in use go back to it.
    pub(crate) fn sent(&mut self, reserve: &mut Reserve) {
        self.sending = 0;
        for slice in std::mem::take(&mut self.borrowed) {
            match slice.try_into_buf() {
                Ok(buf) => reserve.take_back(Some(buf)),
                Err(slice) => self.borrowed.push(slice),
            }
        }
    }

    /// A staging buffer that nothing is in goes back: who waits for memory keeps none that others could answer from.
    #[cold]
    pub(crate) fn give_back(&mut self, reserve: &mut Reserve) {
        if self.filled > 0 || self.waiting > 0 {
            return;
        }
        let Some(buf) = self.current.take() else { return };
        self.memory -= buf.capacity();
        if std::mem::take(&mut self.lent) {
            reserve.take_back(Some(buf));
        }
    }

    /// Nothing of it will be sent any more.
    pub(crate) fn end(&mut self, reserve: &mut Reserve) {
        (0..self.borrowed.len() + usize::from(self.lent)).for_each(|_| reserve.take_back(None));
        *self = Outbox::default();
    }

    /// All that waits, for one send; `spare` is an empty vector to go on with.
    pub(crate) fn take(&mut self, spare: Slices) -> Slices {
        self.end_waiting();
        self.seal();
        (self.bytes, self.held) = (0, 0);
        self.sending = std::mem::take(&mut self.memory);
        self.data_before = std::mem::take(&mut self.data);
        self.burst = std::mem::take(&mut self.staged);
        std::mem::replace(&mut self.ready, spare)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dolmen_sim::{CoreConfig, World};

    fn outbox() -> (Io, Outbox) {
        (Io::new(Box::new(World::new(1).driver(CoreConfig::default()))), Outbox::default())
    }

    fn data(outbox: &mut Outbox, io: &Io, bytes: &[u8]) {
        assert!(outbox.reserve(io, &mut Reserve::default(), bytes.len()));
        outbox.expect_data();
        outbox.room()[..bytes.len()].copy_from_slice(bytes);
        outbox.commit(bytes.len());
    }

    fn response(outbox: &mut Outbox, io: &Io, value: u8) {
        assert!(outbox.reserve(io, &mut Reserve::default(), MAX_HEADER_BYTES));
        outbox.respond(|room| {
            room[..24].fill(value);
            Some(24)
        });
    }

    fn sent(outbox: &mut Outbox) -> Vec<u8> {
        let bytes = outbox.bytes();
        let all = outbox.take(Slices::new()).iter().flat_map(|slice| slice.to_vec()).collect::<Vec<_>>();
        assert_eq!((all.len(), outbox.bytes(), outbox.held()), (bytes, 0, 0));
        all
    }

    #[test]
    fn responses_go_behind_data_whatever_comes_between() {
        let (io, mut outbox) = outbox();
        let (mut expected, mut responses) = (Vec::new(), Vec::new());
        for n in 0..30u8 {
            // In between the staging buffer is full now and then, and data is hung in.
            let bytes = vec![n; 5000];
            data(&mut outbox, &io, &bytes);
            expected.extend_from_slice(&bytes);
            response(&mut outbox, &io, 100 + n);
            responses.extend_from_slice(&[100 + n; 24]);
            if n % 8 == 3 {
                let mut own = io.alloc(4096).unwrap();
                own.fill(n);
                expected.extend_from_slice(&own);
                outbox.attach(own);
            }
        }
        expected.extend(responses);
        assert!(sent(&mut outbox) == expected);
        // After data some is expected again, whatever is first; after none no longer.
        response(&mut outbox, &io, 1);
        data(&mut outbox, &io, &[2; 24]);
        assert_eq!(sent(&mut outbox), [[2; 24], [1; 24]].concat());
        response(&mut outbox, &io, 1);
        assert_eq!(sent(&mut outbox), [1; 24]);
        response(&mut outbox, &io, 1);
        data(&mut outbox, &io, &[2; 24]);
        assert_eq!(sent(&mut outbox), [[1; 24], [2; 24]].concat());
    }

    #[test]
    fn more_responses_than_wait_keep_their_order() {
        let (io, mut outbox) = outbox();
        for n in 0..200 {
            data(&mut outbox, &io, &[255; 24]);
            response(&mut outbox, &io, n);
        }
        let all = sent(&mut outbox);
        let (data, responses): (Vec<_>, Vec<_>) = all.chunks(24).partition(|bytes| bytes[0] == 255);
        assert!(data.len() == 200 && responses.len() == 200);
        assert!(responses.iter().zip(0..).all(|(bytes, n)| *bytes == [n; 24]));
    }

    #[test]
    fn what_ends_the_stream_follows_the_responses() {
        let (io, mut outbox) = outbox();
        data(&mut outbox, &io, b"data");
        response(&mut outbox, &io, b'r');
        outbox.end_waiting();
        data(&mut outbox, &io, b"end");
        assert_eq!(sent(&mut outbox), [&b"data"[..], &[b'r'; 24], b"end"].concat());
    }
}
