//! The floor with what no pair of NVMe/TCP ends can leave out: messages are made anew, and every payload comes from and goes to a buffer
//! of its command's own, by vectors that name it. Nothing is parsed, checked, looked up or counted but bytes.
//!
//! A yardstick, not a bound: what is between ours and this is the protocol, and us; but somebody may fill buffers in a better way.

use super::{
    Course, Rates, Receiver, Sender, Waiting, between, client, moved, received, server::serve, tally::Taken,
};
use crate::workload::{COMMAND_BYTES, DATA_HEADER_BYTES, Workload};
use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    net::TcpStream,
};

/// Runs both ends.
pub(crate) fn run(workload: &Workload, course: &Course) -> io::Result<Rates> {
    let exchanges = workload.exchanges();
    let requests: Vec<_> = exchanges.iter().map(|e| e.request - COMMAND_BYTES).collect();
    let replies: Vec<_> = exchanges.iter().map(|e| e.reply - DATA_HEADER_BYTES).collect();
    let depth = usize::from(workload.depth);
    between(
        course,
        workload.connections,
        |peers, stop| serve(peers, workload, Waiting::Polls, stop, || Making::new(&replies)),
        |streams| {
            let sender = || Naming { messages: Messages::new(COMMAND_BYTES, depth, &requests), owed: 0 };
            let receiver = || Placing(Messages::new(DATA_HEADER_BYTES, depth, &replies));
            client::drive(streams, workload, course, (sender, receiver))
        },
    )
}

/// The server's side: makes each reply anew, header and zeros, as for a volume that holds nothing, in one buffer that one send takes.
struct Making {
    header: [u8; DATA_HEADER_BYTES],
    /// Lengths of payloads, message after message, from the start again at the end.
    payloads: Vec<usize>,
    next: usize,
    staging: Vec<u8>,
    sent: usize,
    /// Messages that are to be made.
    owed: usize,
}

impl Making {
    fn new(payloads: &[usize]) -> Making {
        let (header, payloads) = ([7; DATA_HEADER_BYTES], payloads.to_vec());
        Making { header, payloads, next: 0, staging: Vec::new(), sent: 0, owed: 0 }
    }

    fn make(&mut self) {
        self.header[0] = self.header[0].wrapping_add(1);
        self.staging.extend_from_slice(&self.header);
        self.staging.resize(self.staging.len() + self.payloads[self.next], 0);
        self.next = (self.next + 1) % self.payloads.len();
    }
}

impl Sender for Making {
    fn owe(&mut self, taken: Taken) {
        self.owed += taken.messages;
    }

    fn owes(&self) -> bool {
        self.owed > 0 || self.sent < self.staging.len()
    }

    fn send(&mut self, stream: &mut TcpStream) -> io::Result<bool> {
        if self.sent == self.staging.len() {
            self.staging.clear();
            self.sent = 0;
            (0..std::mem::take(&mut self.owed)).for_each(|_| self.make());
        }
        if self.staging.is_empty() {
            return Ok(false);
        }
        let sent = moved(stream.write(&self.staging[self.sent..]))?;
        self.sent += sent;
        Ok(sent > 0)
    }
}

/// The messages of one direction at the client: where each one's header and payload are, and how far the first one is.
struct Messages {
    header_bytes: usize,
    /// Of the next ones, in order.
    headers: Vec<u8>,
    mark: u8,
    /// Lengths of payloads, message after message, from the start again at the end.
    payloads: Vec<usize>,
    next: usize,
    /// Bytes of the next message that have gone, or come.
    moved: usize,
    /// One for each command that may be under way, used in turn; the next one's is the first.
    buffers: VecDeque<Vec<u8>>,
}

impl Messages {
    fn new(header_bytes: usize, depth: usize, payloads: &[usize]) -> Messages {
        let longest = payloads.iter().max().copied().unwrap_or(0);
        Messages {
            header_bytes,
            headers: vec![0; header_bytes * depth],
            mark: 0,
            payloads: payloads.to_vec(),
            next: 0,
            moved: 0,
            buffers: vec![vec![0x5a; longest]; depth].into(),
        }
    }

    /// Makes the headers of the next `count` anew.
    fn make(&mut self, count: usize) {
        self.mark = self.mark.wrapping_add(1);
        self.headers[..self.header_bytes * count].fill(self.mark);
    }

    /// What is left of the next `count`, in the order of the wire.
    fn parts(&mut self, count: usize) -> impl Iterator<Item = &mut [u8]> {
        let headers = self.headers.chunks_exact_mut(self.header_bytes);
        let payloads = self.payloads.iter().cycle().skip(self.next);
        let messages = headers.zip(&mut self.buffers).zip(payloads).take(count);
        let mut gone = self.moved;
        let parts = messages.flat_map(|((header, buffer), &payload)| [header, &mut buffer[..payload]]);
        parts
            .map(move |part| {
                let skip = gone.min(part.len());
                gone -= skip;
                &mut part[skip..]
            })
            .filter(|part| !part.is_empty())
    }

    /// So many bytes more have moved; how many messages that completes.
    fn pass(&mut self, bytes: usize) -> usize {
        self.moved += bytes;
        let mut completed = 0;
        while self.moved >= self.header_bytes + self.payloads[self.next] {
            self.moved -= self.header_bytes + self.payloads[self.next];
            self.next = (self.next + 1) % self.payloads.len();
            self.buffers.rotate_left(1);
            completed += 1;
        }
        completed
    }
}

/// Sends commands, payloads from where they are.
struct Naming {
    messages: Messages,
    owed: usize,
}

impl Sender for Naming {
    fn owe(&mut self, taken: Taken) {
        self.owed += taken.messages;
    }

    fn owes(&self) -> bool {
        self.owed > 0
    }

    fn send(&mut self, stream: &mut TcpStream) -> io::Result<bool> {
        if self.owed == 0 {
            return Ok(false);
        }
        self.messages.make(self.owed);
        let vectors: Vec<_> = self.messages.parts(self.owed).map(|part| IoSlice::new(part)).collect();
        let sent = moved(stream.write_vectored(&vectors))?;
        self.owed -= self.messages.pass(sent);
        Ok(sent > 0)
    }
}

/// Receives answers, each payload where it stays.
struct Placing(Messages);

impl Receiver for Placing {
    fn receive(&mut self, stream: &mut TcpStream, _warm: &mut [u8]) -> io::Result<Option<usize>> {
        let all = self.0.buffers.len();
        let mut vectors: Vec<_> = self.0.parts(all).map(IoSliceMut::new).collect();
        let came = received(stream.read_vectored(&mut vectors))?;
        self.0.pass(came.unwrap_or(0));
        Ok(came)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (one, listener.accept().unwrap().0)
    }

    #[test]
    fn payloads_come_to_their_buffers_however_they_are_cut() {
        for cut in [1, 5, 24, 25, 29, 100] {
            let payloads = [8, 0, 6];
            let mut wire = Vec::new();
            for (payload, value) in payloads.iter().cycle().take(4).zip(1..) {
                wire.extend_from_slice(&[0xff; DATA_HEADER_BYTES]);
                wire.extend(vec![value; *payload]);
            }
            let (mut peer, mut stream) = pair();
            let mut placing = Placing(Messages::new(DATA_HEADER_BYTES, 4, &payloads));
            for bytes in wire.chunks(cut) {
                peer.write_all(bytes).unwrap();
                let mut left = bytes.len();
                while left > 0 {
                    left -= placing.receive(&mut stream, &mut []).unwrap().unwrap();
                }
            }
            let all = &placing.0.buffers;
            assert_eq!(all[0], [1; 8], "cut into {cut}");
            assert_eq!(all[1], [0x5a; 8]);
            assert_eq!((&all[2][..6], &all[2][6..]), (&[3; 6][..], &[0x5a; 2][..]));
            assert_eq!(all[3], [4; 8]);
        }
    }

    #[test]
    fn messages_are_made_as_they_are_owed() {
        let (mut stream, mut peer) = pair();
        let mut making = Making::new(&[3, 0]);
        assert!(!making.send(&mut stream).unwrap());
        making.owe(Taken { messages: 3, answer_bytes: 0 });
        assert!(making.owes() && making.send(&mut stream).unwrap() && !making.owes());
        let mut came = [0xee; 3 * DATA_HEADER_BYTES + 6];
        peer.read_exact(&mut came).unwrap();
        assert_eq!((came[0], &came[1..24], &came[24..27]), (8, &[7; 23][..], &[0; 3][..]));
        assert_eq!((came[27], came[51], &came[75..]), (9, 10, &[0; 3][..]));
    }

    #[test]
    fn commands_are_sent_from_where_they_are() {
        let (mut stream, mut peer) = pair();
        let mut naming = Naming { messages: Messages::new(2, 2, &[3, 0]), owed: 0 };
        assert!(!naming.send(&mut stream).unwrap());
        for mark in 1..4 {
            naming.owe(Taken { messages: 2, answer_bytes: 0 });
            assert!(naming.owes() && naming.send(&mut stream).unwrap() && !naming.owes());
            let mut came = [0xee; 7];
            peer.read_exact(&mut came).unwrap();
            assert_eq!(came, [mark, mark, 0x5a, 0x5a, 0x5a, mark, mark]);
        }
    }
}
