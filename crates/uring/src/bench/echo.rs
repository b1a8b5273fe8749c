//! The floor's exchange over the core's loop on both ends: [`Io`], [`Uring`], pool buffers, one send per turn.

use super::{Meter, REPLY_BYTES, REQUEST_BYTES, Rate, Run, pin};
use crate::{Uring, UringConfig};
use dolmen_io::{Error, Event, Io, Owner, PoolConfig, Slice, SocketId, Tag, Wait};
use std::{net::SocketAddr, sync::mpsc};

const RECEIVE: Tag = Tag { owner: Owner(1), key: 1 };
const SEND: Tag = Tag { owner: Owner(1), key: 2 };
const OPEN: Tag = Tag { owner: Owner(1), key: 3 };

/// Measures the loop. Congestion control is the system's.
///
/// # Errors
/// When a ring or loopback sockets can't be had.
pub fn measure(run: &Run, config: &UringConfig) -> Result<Rate, Error> {
    let largest = (REPLY_BYTES * run.depth).next_multiple_of(4096).max(PoolConfig::LARGE_BYTES);
    let pool = PoolConfig::new(vec![(4096, 256), (PoolConfig::CHUNK_BYTES, 256), (largest, 8)]);
    let config = UringConfig { pool, ..config.clone() };
    let (address, server_at) = mpsc::channel();
    let (server_config, server_run) = (config.clone(), run.clone());
    let server = std::thread::spawn(move || serve(&server_run, &server_config, &address));
    pin(run.cpus.map(|c| c.1));
    let lost =
        |_| Error { kind: dolmen_io::ErrorKind::Gone, context: "the server ended".into(), errno: None };
    let addr = server_at.recv().map_err(lost)?;
    let rate = drive(run, &config, addr)?;
    server.join().map_err(|_| lost(mpsc::RecvError))??;
    Ok(rate)
}

fn serve(run: &Run, config: &UringConfig, address: &mpsc::Sender<SocketAddr>) -> Result<(), Error> {
    pin(run.cpus.map(|c| c.0));
    let mut io = Io::new(Box::new(Uring::new(config)?));
    let (listener, addr) = io.listen(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    io.accept(OPEN, listener);
    // The client waits for this; if it is gone, the accept below never comes and nobody waits for us.
    let _ = address.send(addr);
    let mut events = Vec::new();
    let sock = 'accepted: loop {
        io.poll(Wait::Forever, &mut events);
        for (_, event) in events.drain(..) {
            if let Event::Accepted { sock, .. } = event {
                break 'accepted sock;
            }
        }
    };
    let mut end = End::new(&mut io, sock, REQUEST_BYTES, REPLY_BYTES, run.depth);
    while let Some(requests) = end.turn(&mut io) {
        end.send(&mut io, requests);
    }
    Ok(())
}

fn drive(run: &Run, config: &UringConfig, addr: SocketAddr) -> Result<Rate, Error> {
    let mut io = Io::new(Box::new(Uring::new(config)?));
    let sock = io.connect(OPEN, addr)?;
    let mut events = Vec::new();
    while events.is_empty() {
        io.poll(Wait::Forever, &mut events);
    }
    let mut end = End::new(&mut io, sock, REPLY_BYTES, REQUEST_BYTES, run.depth);
    let mut meter = Meter::new(run);
    end.send(&mut io, run.depth);
    while let Some(replies) = end.turn(&mut io) {
        if let Some(rate) = meter.count(replies) {
            return Ok(rate);
        }
        end.send(&mut io, replies);
    }
    Err(Error { kind: dolmen_io::ErrorKind::Connection, context: "the connection ended".into(), errno: None })
}

/// One end of the connection, as in the floor.
struct End {
    sock: SocketId,
    taken_bytes: usize,
    sent_bytes: usize,
    received: usize,
    output: Slice,
    /// Messages to send when the send under way has ended.
    waiting: usize,
    sending: bool,
    events: Vec<(Tag, Event)>,
}

impl End {
    fn new(io: &mut Io, sock: SocketId, taken_bytes: usize, sent_bytes: usize, depth: usize) -> End {
        let mut output = io.alloc(sent_bytes * depth).expect("a fresh pool has room");
        output.fill(7);
        io.receive(RECEIVE, sock);
        let output = output.freeze();
        End {
            sock,
            taken_bytes,
            sent_bytes,
            received: 0,
            output,
            waiting: 0,
            sending: false,
            events: Vec::new(),
        }
    }

    /// Messages that became complete in one turn; `None` when the connection is over.
    fn turn(&mut self, io: &mut Io) -> Option<usize> {
        io.poll(Wait::No, &mut self.events);
        for (_, event) in self.events.drain(..) {
            match event {
                Event::Received(chunk) => self.received += chunk.len(),
                Event::Sent(data) => {
                    io.recycle(data);
                    self.sending = false;
                }
                _ => return None,
            }
        }
        let messages = self.received / self.taken_bytes;
        self.received %= self.taken_bytes;
        Some(messages)
    }

    fn send(&mut self, io: &mut Io, messages: usize) {
        self.waiting += messages;
        if self.waiting > 0 && !self.sending {
            let mut data = io.slices();
            data.push(self.output.slice(0..self.waiting * self.sent_bytes));
            io.send(SEND, self.sock, data);
            (self.waiting, self.sending) = (0, true);
        }
    }
}
