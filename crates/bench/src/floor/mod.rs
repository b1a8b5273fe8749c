//! The floor: what a program can reach that does nothing but move the same bytes over TCP.
//!
//! Client and server each run one loop of non-blocking receives and sends on sockets with NODELAY, pinned, with the same
//! congestion control as everybody else. Requests and replies have the sizes of an NVMe/TCP command's
//! ([`Workload::exchanges`]): a 4 KiB read is 72 bytes one way and 4120 the other, a write 4168 and 24. Each pass sends
//! once, from one contiguous buffer that is warm and never rewritten. The client reads into a buffer of its own and counts
//! bytes; nobody looks at them.
//!
//! Beside it: [`filling`], the same with what no pair can leave out, [`bulk`], the same bytes without requests, and [`staging`], how a
//! server best gathers its replies.

pub(crate) mod bulk;
mod client;
pub(crate) mod filling;
mod server;
pub(crate) mod staging;
mod tally;

use crate::{
    cores::pin,
    sample::Latency,
    workload::{Exchange, Workload},
};
use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};
use tally::Taken;

/// Bytes that one receive call asks for at most.
const RECEIVE_BYTES: usize = 256 * 1024;

/// What a server does when nothing came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Asks again.
    Polls,
    /// Sleeps in `epoll_wait` until something comes.
    Sleeps,
}

/// Where both ends run and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Course {
    /// The servers' CPU.
    pub(crate) server_cpu: usize,
    /// The clients' CPU.
    pub(crate) client_cpu: usize,
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
    /// Round trips.
    pub(crate) latency: Latency,
    /// Requests answered per second, connection by connection.
    pub(crate) by_connection: Vec<f64>,
    /// The congestion control in force, where it was asked for; all contestants use the system's default.
    pub(crate) congestion: Option<String>,
    /// CPU time of the server's threads per request, where it was asked for. Nanoseconds.
    pub(crate) server_cpu_ns: Option<f64>,
}

/// Runs both ends of a workload and counts at the client.
pub(crate) fn run(workload: &Workload, course: &Course, waiting: Waiting) -> io::Result<Rates> {
    between(
        course,
        workload.connections,
        |peers, stop| {
            let most = most_bytes(workload, |e| e.reply);
            server::serve(peers, workload, waiting, stop, || Outgoing::new(most))
        },
        |streams| drive_bare(streams, workload, course),
    )
}

/// The client that only moves bytes.
fn drive_bare(streams: Vec<TcpStream>, workload: &Workload, course: &Course) -> io::Result<Rates> {
    let most = most_bytes(workload, |e| e.request);
    client::drive(streams, workload, course, (|| Outgoing::new(most), || ()))
}

/// Length of all that can be owed at a time on one connection.
fn most_bytes(workload: &Workload, length: fn(&Exchange) -> usize) -> usize {
    workload.exchanges().iter().map(length).max().unwrap_or(0) * usize::from(workload.depth)
}

/// Connects so many streams and runs one end each in a pinned thread; the server ends when the client has.
fn between(
    course: &Course,
    connections: u16,
    server: impl FnOnce(Vec<TcpStream>, &AtomicBool) -> io::Result<()> + Send,
    client: impl FnOnce(Vec<TcpStream>) -> io::Result<Rates> + Send,
) -> io::Result<Rates> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let addr = listener.local_addr()?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| {
            pin(course.server_cpu)?;
            let peers = (0..connections)
                .map(|_| listener.accept().and_then(|(s, _)| prepare(s)))
                .collect::<io::Result<Vec<_>>>()?;
            server(peers, &stop)
        });
        let driving = scope.spawn(|| {
            let result = pin(course.client_cpu).and_then(|()| {
                let streams = (0..connections)
                    .map(|_| TcpStream::connect(addr).and_then(prepare))
                    .collect::<io::Result<Vec<_>>>()?;
                client(streams)
            });
            stop.store(true, Relaxed);
            result
        });
        let result = driving.join().expect("the client's loop doesn't panic");
        serving.join().expect("the server's loop doesn't panic")?;
        result
    })
}

fn prepare(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// How one end of a connection sends what it owes.
trait Sender {
    /// So much more is owed.
    fn owe(&mut self, taken: Taken);

    /// True while something is owed.
    fn owes(&self) -> bool;

    /// At most one send; true when it moved bytes.
    fn send(&mut self, stream: &mut TcpStream) -> io::Result<bool>;
}

/// How the client receives.
trait Receiver {
    /// At most one receive; `warm` is room that all connections share.
    fn receive(&mut self, stream: &mut TcpStream, warm: &mut [u8]) -> io::Result<Option<usize>>;
}

/// Does not look at what comes.
impl Receiver for () {
    fn receive(&mut self, stream: &mut TcpStream, warm: &mut [u8]) -> io::Result<Option<usize>> {
        receive(stream, warm)
    }
}

/// Sends out of a buffer that is never rewritten.
struct Outgoing {
    warm: Vec<u8>,
    owed: usize,
}

impl Outgoing {
    /// `most` is what can be owed at a time, about: more takes several sends.
    fn new(most: usize) -> Outgoing {
        Outgoing { warm: vec![0x5a; most.max(1)], owed: 0 }
    }
}

impl Sender for Outgoing {
    fn owe(&mut self, taken: Taken) {
        self.owed += taken.answer_bytes;
    }

    fn owes(&self) -> bool {
        self.owed > 0
    }

    fn send(&mut self, stream: &mut TcpStream) -> io::Result<bool> {
        if self.owed == 0 {
            return Ok(false);
        }
        let n = self.owed.min(self.warm.len());
        let sent = moved(stream.write(&self.warm[..n]))?;
        self.owed -= sent;
        Ok(sent > 0)
    }
}

/// Bytes that a send moved: none while the socket takes none.
fn moved(sent: io::Result<usize>) -> io::Result<usize> {
    match sent {
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}

/// One receive; `None` when there is nothing, an error at the end of the stream.
fn receive(stream: &mut TcpStream, into: &mut [u8]) -> io::Result<Option<usize>> {
    received(stream.read(into))
}

fn received(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Ok(n) => Ok(Some(n)),
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(e) => Err(e),
    }
}
