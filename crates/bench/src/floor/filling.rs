//! The floor with what no pair of NVMe/TCP ends can leave out: messages are made anew, and every payload comes from and goes to a buffer
//! of its command's own. Nothing is parsed, checked, looked up or counted but bytes.
//!
//! What is between this and the floor nobody can save on these sockets; what is between ours and this is the protocol, and us.

use super::{Course, Rates, Receiver, Sender, Waiting, between, client, moved, server::serve, tally::Taken};
use crate::workload::{COMMAND_BYTES, DATA_HEADER_BYTES, Workload};
use std::{
    io::{self, Write},
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
        |peers, stop| {
            let sender = || Making::new(DATA_HEADER_BYTES, &replies, Source::Zeros);
            serve(peers, workload, Waiting::Polls, stop, sender)
        },
        |streams| {
            let sender = || {
                let buffers = Buffers::new(depth, &requests);
                Making::new(COMMAND_BYTES, &requests, Source::Buffers(buffers))
            };
            let receiver = || Placing::new(depth, &replies);
            client::drive(streams, workload, course, (sender, receiver))
        },
    )
}

/// One buffer for each command that may be under way, used in turn.
struct Buffers {
    all: Vec<Vec<u8>>,
    next: usize,
}

impl Buffers {
    fn new(depth: usize, payloads: &[usize]) -> Buffers {
        let bytes = payloads.iter().max().copied().unwrap_or(0);
        Buffers { all: vec![vec![0x5a; bytes]; depth], next: 0 }
    }

    fn current(&mut self) -> &mut [u8] {
        &mut self.all[self.next]
    }

    fn advance(&mut self) {
        self.next = (self.next + 1) % self.all.len();
    }
}

/// Where the payload of a message is from.
enum Source {
    /// It is made, as by a volume that holds nothing.
    Zeros,
    /// The command's buffer.
    Buffers(Buffers),
}

/// Makes each message anew, header and payload, in one buffer that one send takes.
struct Making {
    header: Vec<u8>,
    /// Lengths of payloads, message after message, from the start again at the end.
    payloads: Vec<usize>,
    next: usize,
    source: Source,
    staging: Vec<u8>,
    sent: usize,
    /// Messages that are to be made.
    owed: usize,
}

impl Making {
    fn new(header_bytes: usize, payloads: &[usize], source: Source) -> Making {
        let (header, payloads) = (vec![7; header_bytes], payloads.to_vec());
        Making { header, payloads, next: 0, source, staging: Vec::new(), sent: 0, owed: 0 }
    }

    fn make(&mut self) {
        self.header[0] = self.header[0].wrapping_add(1);
        self.staging.extend_from_slice(&self.header);
        let payload = self.payloads[self.next];
        match &mut self.source {
            Source::Zeros => self.staging.resize(self.staging.len() + payload, 0),
            Source::Buffers(buffers) => {
                self.staging.extend_from_slice(&buffers.current()[..payload]);
                buffers.advance();
            }
        }
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

/// Puts each payload into its command's buffer. (To receive it there, by vectors that name these buffers, takes as long.)
struct Placing {
    payloads: Vec<usize>,
    next: usize,
    /// Bytes of the message under way that have come.
    came: usize,
    buffers: Buffers,
}

impl Placing {
    fn new(depth: usize, payloads: &[usize]) -> Placing {
        let buffers = Buffers::new(depth, payloads);
        Placing { payloads: payloads.to_vec(), next: 0, came: 0, buffers }
    }
}

impl Receiver for Placing {
    fn take(&mut self, bytes: &[u8]) {
        let Placing { payloads, next, came, buffers } = self;
        let mut rest = bytes;
        while !rest.is_empty() {
            let payload = payloads[*next];
            let (bytes, more) = rest.split_at(rest.len().min(DATA_HEADER_BYTES + payload - *came));
            // What of these is payload, and where it belongs.
            let data = &bytes[DATA_HEADER_BYTES.saturating_sub(*came).min(bytes.len())..];
            let at = came.saturating_sub(DATA_HEADER_BYTES);
            buffers.current()[at..at + data.len()].copy_from_slice(data);
            (rest, *came) = (more, *came + bytes.len());
            if *came == DATA_HEADER_BYTES + payload {
                (*came, *next) = (0, (*next + 1) % payloads.len());
                buffers.advance();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Read, net::TcpListener};

    #[test]
    fn payloads_come_to_their_buffers_however_they_are_cut() {
        for cut in [1, 5, 24, 25, 29, 100] {
            let payloads = [8, 0, 6];
            let mut wire = Vec::new();
            for (payload, value) in payloads.iter().cycle().take(4).zip(1..) {
                wire.extend_from_slice(&[0xff; DATA_HEADER_BYTES]);
                wire.extend(vec![value; *payload]);
            }
            let mut placing = Placing::new(4, &payloads);
            wire.chunks(cut).for_each(|bytes| placing.take(bytes));
            let all = &placing.buffers.all;
            assert_eq!(all[0], [1; 8], "cut into {cut}");
            assert_eq!(all[1], [0x5a; 8]);
            assert_eq!((&all[2][..6], &all[2][6..]), (&[3; 6][..], &[0x5a; 2][..]));
            assert_eq!(all[3], [4; 8]);
        }
    }

    #[test]
    fn messages_are_made_as_they_are_owed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut peer = listener.accept().unwrap().0;
        let mut making = Making::new(2, &[3, 0], Source::Zeros);
        assert!(!making.send(&mut stream).unwrap());
        making.owe(Taken { messages: 3, answer_bytes: 0 });
        assert!(making.owes() && making.send(&mut stream).unwrap() && !making.owes());
        let mut came = [0xee; 12];
        peer.read_exact(&mut came).unwrap();
        assert_eq!(came, [8, 7, 0, 0, 0, 9, 7, 10, 7, 0, 0, 0]);
    }
}
