//! How a server best gathers replies whose payloads lie in buffers of their own: copied behind their headers into one
//! contiguous buffer, or sent from where they are, header and payload as separate vectors.
//!
//! The target's `ATTACH_BYTES` is where the second becomes the better one.

use super::{Course, RECEIVE_BYTES, Rates, between, drive_bare, receive, tally::Tally};
use crate::workload::Workload;
use std::{
    io::{self, ErrorKind, IoSlice, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

/// Bytes of a data PDU's header.
const HEADER_BYTES: usize = 24;
/// Replies in one send at most.
const MOST_REPLIES: usize = 64;

/// How replies are gathered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gather {
    /// Copied into one buffer.
    Staged,
    /// Two vectors each.
    Vectors,
}

/// Runs a workload of reads against a server that gathers so.
pub(crate) fn run(workload: &Workload, course: &Course, gather: Gather) -> io::Result<Rates> {
    between(
        course,
        workload.connections,
        |mut peers, stop| serve(&mut peers[0], workload, gather, stop),
        |streams| drive_bare(streams, workload, course),
    )
}

fn serve(peer: &mut TcpStream, workload: &Workload, gather: Gather, stop: &AtomicBool) -> io::Result<()> {
    let mut into = vec![0u8; RECEIVE_BYTES];
    let mut tally = Tally::of_requests(&workload.exchanges());
    let mut replies = Replies::new(workload, gather);
    while !stop.load(Relaxed) {
        match receive(peer, &mut into) {
            Ok(Some(n)) => replies.owed += tally.take(n).messages,
            Ok(None) => {}
            Err(_) => return Ok(()), // The client is done.
        }
        if replies.send(peer).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Replies that are owed, and the one send of each pass.
struct Replies {
    gather: Gather,
    header: [u8; HEADER_BYTES],
    /// One buffer for each command that may be under way; used in turn.
    payloads: Vec<Vec<u8>>,
    next: usize,
    owed: usize,
    /// Copies that are to be sent before more is staged.
    staging: Vec<u8>,
    /// Bytes that are sent already: of the staging buffer, or of the first reply.
    sent: usize,
}

impl Replies {
    fn new(workload: &Workload, gather: Gather) -> Replies {
        let payloads = (0..workload.depth).map(|_| vec![0x5a; workload.bytes]).collect();
        let staging = Vec::with_capacity(MOST_REPLIES * (HEADER_BYTES + workload.bytes));
        Replies { gather, header: [7; HEADER_BYTES], payloads, next: 0, owed: 0, staging, sent: 0 }
    }

    fn send(&mut self, peer: &mut TcpStream) -> io::Result<()> {
        let sent = match self.gather {
            Gather::Staged => self.send_staged(peer),
            Gather::Vectors => self.send_vectors(peer),
        };
        match sent {
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(()),
            other => other,
        }
    }

    fn send_staged(&mut self, peer: &mut TcpStream) -> io::Result<()> {
        if self.sent == self.staging.len() {
            self.staging.clear();
            self.sent = 0;
            for _ in 0..self.owed.min(MOST_REPLIES) {
                self.staging.extend_from_slice(&self.header);
                self.staging.extend_from_slice(&self.payloads[self.next]);
                self.pop();
            }
        }
        if self.sent < self.staging.len() {
            self.sent += peer.write(&self.staging[self.sent..])?;
        }
        Ok(())
    }

    fn send_vectors(&mut self, peer: &mut TcpStream) -> io::Result<()> {
        let count = self.owed.min(MOST_REPLIES);
        if count == 0 {
            return Ok(());
        }
        let mut vectors = [IoSlice::new(&[]); 2 * MOST_REPLIES];
        for (nth, pair) in vectors.as_chunks_mut::<2>().0.iter_mut().take(count).enumerate() {
            let payload = &self.payloads[(self.next + nth) % self.payloads.len()];
            *pair = [IoSlice::new(&self.header), IoSlice::new(payload)];
        }
        let mut left = &mut vectors[..2 * count];
        IoSlice::advance_slices(&mut left, self.sent);
        self.sent += peer.write_vectored(left)?;
        while self.sent >= HEADER_BYTES + self.payloads[self.next].len() {
            self.sent -= HEADER_BYTES + self.payloads[self.next].len();
            self.pop();
        }
        Ok(())
    }

    /// The first owed reply is done.
    fn pop(&mut self) {
        self.owed -= 1;
        self.next = (self.next + 1) % self.payloads.len();
    }
}
