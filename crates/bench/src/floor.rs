//! The floor: what a program can reach that does nothing but move the same bytes over TCP.
//!
//! Client and server each run one polled loop of non-blocking receives and sends on sockets with NODELAY, pinned, with
//! the same congestion control as everybody else. A request is [`READ_REQUEST_BYTES`] one way and [`READ_REPLY_BYTES`]
//! the other, the size of an NVMe/TCP 4 KiB read without digests: command capsule 8 + 64, data PDU 24 + 4096 with the
//! success flag. Each pass sends once, from one contiguous buffer that is warm and never rewritten. The client
//! reads into a buffer of its own and counts bytes; nobody looks at them.

use crate::cores::pin;
use dolmen_initiator::load::Histogram;
use rustix::net::sockopt::tcp_congestion;
use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Bytes of a read command on the wire.
pub(crate) const READ_REQUEST_BYTES: usize = 72;
/// Bytes of a 4 KiB read's data PDU on the wire.
pub(crate) const READ_REPLY_BYTES: usize = 24 + 4096;
/// Bytes of a 4 KiB write command with its data in the capsule.
pub(crate) const WRITE_REQUEST_BYTES: usize = 72 + 4096;
/// Bytes of a response capsule.
pub(crate) const WRITE_REPLY_BYTES: usize = 24;

/// Bytes that one receive call asks for at most.
const RECEIVE_BYTES: usize = 256 * 1024;

/// One contest.
#[derive(Clone, Debug)]
pub(crate) struct FloorOptions {
    pub(crate) server_cpu: usize,
    pub(crate) client_cpu: usize,
    /// Requests under way on each connection.
    pub(crate) depth: usize,
    pub(crate) connections: usize,
    /// Bytes client to server per request.
    pub(crate) request_bytes: usize,
    /// Bytes server to client per request.
    pub(crate) reply_bytes: usize,
    /// Not counted.
    pub(crate) ramp: Duration,
    /// Counted.
    pub(crate) runtime: Duration,
}

/// What a contestant reached.
#[derive(Clone, Debug)]
pub(crate) struct Rates {
    /// Requests answered per second.
    pub(crate) per_second: f64,
    /// Round trips, in nanoseconds.
    pub(crate) latency: Histogram,
    /// Requests answered per second, connection by connection.
    pub(crate) by_connection: Vec<f64>,
    /// The congestion control in force, where it was asked for; all contestants use the system's default.
    pub(crate) congestion: Option<String>,
}

/// Runs both ends and counts at the client.
pub(crate) fn run(options: &FloorOptions) -> io::Result<Rates> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let addr = listener.local_addr()?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            pin(options.server_cpu)?;
            let peers = (0..options.connections)
                .map(|_| listener.accept().and_then(|(s, _)| prepare(s)))
                .collect::<io::Result<Vec<_>>>()?;
            serve(peers, options, &stop)
        });
        let client = scope.spawn(|| {
            let result = pin(options.client_cpu).and_then(|()| {
                let streams = (0..options.connections)
                    .map(|_| TcpStream::connect(addr).and_then(prepare))
                    .collect::<io::Result<Vec<_>>>()?;
                drive(streams, options)
            });
            stop.store(true, Relaxed);
            result
        });
        let result = client.join().expect("the client's loop doesn't panic");
        server.join().expect("the server's loop doesn't panic")?;
        result
    })
}

fn prepare(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// One connection's bytes still to be sent, out of a buffer that holds `depth` messages.
struct Outgoing {
    warm: Vec<u8>,
    owed: usize,
}

impl Outgoing {
    fn new(message_bytes: usize, depth: usize) -> Outgoing {
        Outgoing { warm: vec![0x5a; message_bytes * depth], owed: 0 }
    }

    /// At most one send; true when it moved bytes.
    fn send(&mut self, stream: &mut TcpStream) -> io::Result<bool> {
        if self.owed == 0 {
            return Ok(false);
        }
        let n = self.owed.min(self.warm.len());
        match stream.write(&self.warm[..n]) {
            Ok(sent) => {
                self.owed -= sent;
                Ok(true)
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// One receive; `None` when there is nothing, an error at the end of the stream.
fn receive(stream: &mut TcpStream, into: &mut [u8]) -> io::Result<Option<usize>> {
    match stream.read(into) {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Ok(n) => Ok(Some(n)),
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(e) => Err(e),
    }
}

fn serve(mut peers: Vec<TcpStream>, options: &FloorOptions, stop: &AtomicBool) -> io::Result<()> {
    let mut into = vec![0u8; RECEIVE_BYTES];
    let mut partial = vec![0usize; peers.len()];
    let mut out: Vec<_> = peers.iter().map(|_| Outgoing::new(options.reply_bytes, options.depth)).collect();
    while !stop.load(Relaxed) {
        for (index, stream) in peers.iter_mut().enumerate() {
            match receive(stream, &mut into) {
                Ok(Some(n)) => {
                    partial[index] += n;
                    out[index].owed += partial[index] / options.request_bytes * options.reply_bytes;
                    partial[index] %= options.request_bytes;
                }
                Ok(None) => {}
                Err(_) => return Ok(()), // The client is done, and says so by closing.
            }
            if out[index].send(stream).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn drive(mut streams: Vec<TcpStream>, options: &FloorOptions) -> io::Result<Rates> {
    let mut into = vec![0u8; RECEIVE_BYTES];
    let mut out: Vec<_> =
        streams.iter().map(|_| Outgoing::new(options.request_bytes, options.depth)).collect();
    let mut partial = vec![0usize; streams.len()];
    let mut sent_at: Vec<VecDeque<Instant>> =
        streams.iter().map(|_| VecDeque::with_capacity(options.depth)).collect();
    let mut counts = vec![0u64; streams.len()];
    let mut latency = Histogram::new();
    let begin = Instant::now();
    let (count_from, end) = (begin + options.ramp, begin + options.ramp + options.runtime);
    for (index, o) in out.iter_mut().enumerate() {
        o.owed = options.request_bytes * options.depth;
        sent_at[index].extend(std::iter::repeat_n(begin, options.depth));
    }
    let mut now = begin;
    while now < end {
        let mut quiet = true;
        for (index, stream) in streams.iter_mut().enumerate() {
            out[index].send(stream)?;
            let Some(n) = receive(stream, &mut into)? else { continue };
            quiet = false;
            partial[index] += n;
            let answered = partial[index] / options.reply_bytes;
            partial[index] %= options.reply_bytes;
            if answered == 0 {
                continue;
            }
            now = Instant::now();
            for _ in 0..answered {
                let sent = sent_at[index].pop_front().expect("one instant per request under way");
                sent_at[index].push_back(now);
                if now >= count_from {
                    latency.record(u64::try_from((now - sent).as_nanos()).unwrap_or(u64::MAX));
                    counts[index] += 1;
                }
            }
            out[index].owed += answered * options.request_bytes;
        }
        if quiet {
            now = Instant::now();
        }
    }
    let seconds = (now - count_from).as_secs_f64();
    let rate = |n: u64| n as f64 / seconds;
    Ok(Rates {
        per_second: rate(counts.iter().sum()),
        latency,
        congestion: streams.first().map(tcp_congestion).transpose()?,
        by_connection: counts.into_iter().map(rate).collect(),
    })
}
