//! The floor's server.

use super::{Outgoing, RECEIVE_BYTES, Waiting, receive, tally::Tally};
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
pub(super) fn serve(
    mut peers: Vec<TcpStream>,
    workload: &Workload,
    waiting: Waiting,
    stop: &AtomicBool,
) -> io::Result<()> {
    let exchanges = workload.exchanges();
    let most = exchanges.iter().map(|e| e.reply).max().unwrap_or(0) * usize::from(workload.depth);
    let mut into = vec![0u8; RECEIVE_BYTES];
    let mut tallies: Vec<_> = peers.iter().map(|_| Tally::of_requests(&exchanges)).collect();
    let mut out: Vec<_> = peers.iter().map(|_| Outgoing::new(most)).collect();
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
                    out[index].owed += tallies[index].take(n).answer_bytes;
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
            sleeper.sleep(out.iter().any(|o| o.owed > 0))?;
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
