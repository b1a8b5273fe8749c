//! Direct calls to the few sockets that are busy while the core spins.
//!
//! With a request in the kernel each arrival of data takes a wake-up there, work that is deferred to us, and a system call to run it.
//! A core that looks all the time anyway gets the same data by asking for it: one call, nothing to be woken. That pays for few
//! sockets, since each of them is asked each time. So every [`WINDOW`] looks it is counted which sockets have spoken; while they
//! are at most [`MOST_DIRECT`] their receives are taken back from the kernel, and what they are sent is sent at once. Before the
//! core sleeps all receives are with the kernel again.

use super::{Events, Receive, Socket, Sockets, failed};
use crate::{
    errors,
    ring::Ring,
    sys,
    token::{Kind, Token},
};
use dolmen_io::{Buf, Event, Pool, PoolConfig};

/// Busy sockets that are asked directly, at most; with more, none is.
const MOST_DIRECT: usize = 2;

/// Looks in a row after which it is decided anew.
const WINDOW: u32 = 1024;

/// Chunks that one call may fill.
const CHUNKS: usize = 4;

/// The sockets that are asked directly.
#[derive(Default)]
pub(super) struct Direct {
    /// Their slots.
    asked: Vec<usize>,
    /// Those that have spoken since the last decision.
    heard: Vec<usize>,
    looks: u32,
    /// Chunks for the next call.
    spare: Vec<Buf>,
}

impl Direct {
    /// A socket has spoken for the first time since the last decision.
    pub(super) fn heard(&mut self, index: usize) {
        self.heard.push(index);
    }

    /// The kernel has given a socket's receive back.
    pub(super) fn add(&mut self, index: usize) {
        self.asked.push(index);
    }

    /// The socket receives no more.
    pub(super) fn forget(&mut self, index: usize) {
        self.asked.retain(|&asked| asked != index);
    }

    /// The socket closes: its slot will be another's, which has not spoken yet.
    pub(super) fn closes(&mut self, index: usize) {
        self.forget(index);
        self.heard.retain(|&heard| heard != index);
    }
}

impl Sockets {
    /// Asks for what has come; the core spins.
    pub(crate) fn ask(&mut self, pool: &Pool, ring: &mut Ring, out: &mut Events) {
        self.direct.looks += 1;
        if self.direct.looks == WINDOW {
            self.direct.looks = 0;
            self.choose(ring);
        }
        let mut at = 0;
        while let Some(&index) = self.direct.asked.get(at) {
            // One that has ended has left the list.
            if self.ask_one(index, pool, out) {
                at += 1;
            }
        }
    }

    /// The core is about to sleep: the kernel shall wake it.
    pub(crate) fn ask_no_more(&mut self, ring: &mut Ring) {
        self.direct.looks = 0;
        self.direct.spare.clear();
        for index in std::mem::take(&mut self.direct.asked) {
            self.arm(index, ring);
        }
    }

    /// Gives a directly asked socket's receive to the kernel.
    fn arm(&mut self, index: usize, ring: &mut Ring) {
        let slot = &mut self.slots[index];
        let token = Token::new(Kind::Receive, index, slot.generation);
        if let Some(socket) = slot.socket.as_deref_mut()
            && let Receive::Direct(tag) = socket.receive
        {
            socket.arm_receive(tag, token, ring);
        }
    }

    /// Decides who is asked until the next decision.
    fn choose(&mut self, ring: &mut Ring) {
        let mut heard = std::mem::take(&mut self.direct.heard);
        let few = heard.len() <= MOST_DIRECT;
        for index in std::mem::take(&mut self.direct.asked) {
            if few && heard.contains(&index) {
                self.direct.add(index);
            } else {
                self.arm(index, ring);
            }
        }
        for index in heard.drain(..) {
            let slot = &mut self.slots[index];
            let token = Token::new(Kind::Receive, index, slot.generation);
            let Some(socket) = slot.socket.as_deref_mut() else { continue };
            socket.heard = false;
            let free = !socket.stopping && !socket.taking_back && socket.closing.is_none();
            if few && free && matches!(socket.receive, Receive::Armed(_)) {
                socket.taking_back = true;
                ring.cancel(token);
            }
        }
        self.direct.heard = heard;
    }

    /// False when the socket receives no more.
    fn ask_one(&mut self, index: usize, pool: &Pool, out: &mut Events) -> bool {
        let spare = &mut self.direct.spare;
        let chunk = PoolConfig::CHUNK_BYTES.min(pool.largest());
        while spare.len() < CHUNKS
            && let Some(buf) = pool.alloc_fitting(chunk)
        {
            spare.push(buf);
        }
        let Some(socket) = self.slots[index].socket.as_deref_mut() else { return true };
        let Receive::Direct(tag) = socket.receive else { return true };
        if spare.is_empty() {
            return true;
        }
        match sys::receive_now(&socket.fd, spare) {
            Ok(mut left) if left > 0 => {
                if !std::mem::replace(&mut socket.heard, true) {
                    self.direct.heard.push(index);
                }
                let filled = spare.iter().scan(left, |left, buf| {
                    let used = *left > 0;
                    *left = left.saturating_sub(buf.len());
                    used.then_some(())
                });
                let filled = filled.count();
                for mut buf in spare.drain(..filled) {
                    let len = buf.len().min(left);
                    left -= len;
                    buf.set_len(len);
                    out.push((tag, Event::Received(buf)));
                }
                return true;
            }
            Err(libc::EAGAIN | libc::EINTR | libc::ENOMEM | libc::ENOBUFS) => return true,
            Ok(_) => out.push((tag, Event::EndOfStream)),
            Err(errno) => out.push((tag, failed(errors::socket("receive", errno)))),
        }
        socket.receive = Receive::Idle;
        self.direct.forget(index);
        false
    }
}

impl Socket {
    /// Sends what it can at once; true when that was all.
    pub(super) fn send_now(&mut self) -> bool {
        self.fill_message();
        // SAFETY: the message names vectors of this socket, and these its slices; none changes meanwhile.
        match unsafe { sys::send_now(&self.fd, &self.message) } {
            Ok(sent) => !self.skip_sent(sent),
            // The request that follows tells what is wrong.
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Mask, config::UringConfig};
    use dolmen_io::{Owner, Tag};
    use std::{io::Write, net::TcpStream, os::fd::OwnedFd};

    /// A core that sleeps now and then never comes to a decision; connections that come and go meanwhile leave nothing.
    #[test]
    fn closed_sockets_leave_nothing() {
        let pool = PoolConfig { classes: vec![(PoolConfig::CHUNK_BYTES, 64)] };
        let config = UringConfig { pool, mask: Mask::default(), ..UringConfig::default() };
        let pool = Pool::new(&config.pool);
        let mut ring = Ring::new(&config, &pool).unwrap();
        let mut chunks = crate::chunks::Chunks::new(&ring.submitter(), 64, &pool).unwrap();
        let (mut sockets, mut out, mut cqes) = (Sockets::default(), Vec::new(), Vec::new());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let tag = Tag { owner: Owner(1), key: 1 };
        for _ in 0..20 {
            let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let sock = sockets.insert(OwnedFd::from(listener.accept().unwrap().0), &mut ring);
            chunks.refill(&pool);
            sockets.receive(tag, sock, &mut ring, &mut out);
            peer.write_all(b"spoken").unwrap();
            for event in [Event::Received(pool.alloc(6).unwrap()), Event::Closed] {
                let start = std::time::Instant::now();
                let like = |other: &Event| std::mem::discriminant(other) == std::mem::discriminant(&event);
                while !out.iter().any(|(_, other)| like(other)) {
                    assert!(start.elapsed().as_secs() < 10, "no {event:?}");
                    ring.enter(crate::ring::EnterWait::Nanos(100_000_000));
                    ring.take(&mut cqes);
                    for cqe in cqes.drain(..).filter(|cqe| cqe.token.kind == Kind::Receive) {
                        sockets.complete(&cqe, &mut chunks, &mut ring, &mut out);
                    }
                }
                out.clear();
                if matches!(event, Event::Received(_)) {
                    assert_eq!(sockets.direct.heard.len(), 1);
                    sockets.close(tag, sock, &mut ring, &mut out);
                }
            }
            assert!(sockets.direct.heard.is_empty());
        }
    }
}
