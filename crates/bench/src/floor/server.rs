//! The floor's server.

use super::{RECEIVE_BYTES, Sender, Waiting, receive, tally::Tally};
use crate::workload::Workload;
use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, Event, EventData, EventFlags},
    fd::OwnedFd,
};
use std::{
    io,
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

/// Answers until told to stop, or until a client has gone.
pub(super) fn serve<S: Sender>(
    mut peers: Vec<TcpStream>,
    workload: &Workload,
    waiting: Waiting,
    stop: &AtomicBool,
    sender: impl Fn() -> S,
) -> io::Result<()> {
    let exchanges = workload.exchanges();
    let mut into = vec![0u8; RECEIVE_BYTES];
    let mut tallies: Vec<_> = peers.iter().map(|_| Tally::of_requests(&exchanges)).collect();
    let mut out: Vec<_> = peers.iter().map(|_| sender()).collect();
    let mut sleeper = match waiting {
        Waiting::Polls => None,
        Waiting::Sleeps => Some(Sleeper::new(&peers)?),
    };
    while !stop.load(Relaxed) {
        let mut quiet = true;
        for (index, stream) in peers.iter_mut().enumerate() {
            match receive(stream, &mut into) {
                Ok(Some(n)) => {
                    quiet = false;
                    out[index].owe(tallies[index].take(n));
                }
                Ok(None) => {}
                Err(_) => return Ok(()), // The client is done, and says so by closing.
            }
            match out[index].send(stream) {
                Ok(moved) => quiet &= !moved,
                Err(_) => return Ok(()),
            }
        }
        if let (true, Some(sleeper)) = (quiet, &mut sleeper) {
            sleeper.sleep(out.iter().any(Sender::owes))?;
        }
    }
    Ok(())
}

/// Waits for any of the connections.
struct Sleeper {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl Sleeper {
    fn new(peers: &[TcpStream]) -> io::Result<Sleeper> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        for (peer, index) in peers.iter().zip(0u64..) {
            epoll::add(&epoll, peer, EventData::new_u64(index), EventFlags::IN)?;
        }
        Ok(Sleeper { epoll, events: Vec::with_capacity(peers.len().max(1)) })
    }

    /// Sleeps until something comes; not while something still has to be sent, which no event would tell.
    fn sleep(&mut self, sending: bool) -> io::Result<()> {
        if !sending {
            self.events.clear();
            epoll::wait(&self.epoll, spare_capacity(&mut self.events), None)?;
        }
        Ok(())
    }
}
