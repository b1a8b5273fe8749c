//! Direct calls to the few sockets that are busy while the core spins.
//!
//! With a request in the kernel each arrival of data takes a wake-up there, work that is deferred to us, and a system call to run it.
//! A core that looks all the time anyway gets the same data by asking for it: one call, nothing to be woken. That pays as long
//! as not too many are asked in vain while others wait: while at most [`MOST_QUIET`] sockets speak at all, and else for those
//! that have something to say in many of the looks that bring anything. Who that is, is counted over [`WINDOW`] looks; their
//! receives are taken back from the kernel, and what they are sent is sent at once. Before the core sleeps all receives are
//! with the kernel again.
//!
//! A look ends when [`MOST_HEARD`] have brought something; the next one goes on with the others. What these brought is dealt with before more
//! is taken, so it is still in the cache, and so are the buffers that it came in.

use super::{Events, MOST_VECTORS, Receive, Socket, Sockets, failed};
use crate::{
    errors,
    ring::Ring,
    sys,
    token::{Kind, Token},
};
use dolmen_io::{Buf, Event, Landing, Pool, PoolConfig, SocketId, Tag};

/// Sockets that are asked directly however seldom they speak, if no others do.
const MOST_QUIET: usize = 16;

/// Sockets that are asked again at once when they had nothing.
const MOST_FEW: usize = 2;

/// Sockets of which one look takes something.
const MOST_HEARD: usize = 8;

/// Looks at all of them in a row after which it is decided anew, or messages, if that many come sooner.
const WINDOW: u32 = 1024;

/// Chunks that one call may fill. Half of what a queue of depth 32 writes: the other half is dealt with while the peer has the answers to this
/// one, where all at once would have both sides wait for each other.
const CHUNKS: usize = 2;

/// Receives for which a socket gets [`CHUNKS`] after it filled a chunk; one that brings less gets one, for which there is a quicker call.
const PLENTY: u8 = 16;

/// What asking a socket came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Nothing,
    Something,
    /// It is no longer among those that are asked.
    Gone,
}

/// The sockets that are asked directly.
#[derive(Default)]
pub(super) struct Direct {
    /// Their slots.
    asked: Vec<usize>,
    /// Who of them is asked next.
    at: usize,
    /// Those that have spoken since the last decision.
    heard: Vec<usize>,
    /// Looks at all of them.
    looks: u32,
    /// Those that brought something.
    busy: u32,
    messages: u32,
    /// Messages up to the last one.
    before: u32,
    /// Chunks for the next call.
    spare: Vec<Buf>,
}

impl Direct {
    /// A socket has spoken.
    pub(super) fn heard(&mut self, index: usize, socket: &mut Socket) {
        if socket.spoken == 0 {
            self.heard.push(index);
        }
        socket.spoken += 1;
        self.messages += 1;
    }

    fn restart(&mut self) {
        (self.at, self.looks, self.busy, self.messages, self.before) = (0, 0, 0, 0, 0);
    }

    /// The kernel has given a socket's receive back.
    pub(super) fn add(&mut self, index: usize) {
        self.asked.push(index);
    }

    /// The socket receives no more.
    pub(super) fn forget(&mut self, index: usize) {
        if let Some(at) = self.asked.iter().position(|&asked| asked == index) {
            self.asked.remove(at);
            self.at -= usize::from(at < self.at);
        }
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
        if self.direct.looks.max(self.direct.messages) >= WINDOW {
            self.choose(ring);
        }
        let mut room = MOST_HEARD;
        for _ in 0..self.direct.asked.len() {
            let Some(&index) = self.direct.asked.get(self.direct.at) else { break };
            match self.ask_one(index, pool, ring, out) {
                Answer::Nothing => self.direct.at += 1,
                Answer::Something => {
                    self.direct.at += 1;
                    room -= 1;
                }
                Answer::Gone => {}
            }
            if room == 0 {
                break;
            }
        }
        let direct = &mut self.direct;
        if direct.at >= direct.asked.len() {
            direct.at = 0;
            direct.looks += 1;
            direct.busy += u32::from(direct.messages != direct.before);
            direct.before = direct.messages;
        }
    }

    /// True when a look takes no longer than the rest of a turn.
    pub(crate) fn asks_few(&self) -> bool {
        (1..=MOST_FEW).contains(&self.direct.asked.len())
    }

    /// The core is about to sleep: the kernel shall wake it.
    pub(crate) fn ask_no_more(&mut self, ring: &mut Ring) {
        self.direct.restart();
        self.direct.spare.clear();
        let mut heard = std::mem::take(&mut self.direct.heard);
        for index in heard.drain(..) {
            if let Some(socket) = self.slots[index].socket.as_deref_mut() {
                socket.spoken = 0;
            }
        }
        self.direct.heard = heard;
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
        let busy = self.direct.busy;
        self.direct.restart();
        let few = heard.len() <= MOST_QUIET;
        for index in std::mem::take(&mut self.direct.asked) {
            let spoken = self.slots[index].socket.as_deref().map_or(0, |socket| socket.spoken);
            if (few && spoken > 0) || spoken > busy / 8 {
                self.direct.add(index);
            } else {
                self.arm(index, ring);
            }
        }
        for index in heard.drain(..) {
            let slot = &mut self.slots[index];
            let token = Token::new(Kind::Receive, index, slot.generation);
            let Some(socket) = slot.socket.as_deref_mut() else { continue };
            let spoken = std::mem::take(&mut socket.spoken);
            let free = !socket.stopping && !socket.taking_back && socket.closing.is_none();
            let pays = few || spoken > busy / 4;
            match socket.receive {
                Receive::Armed(_) if pays && free => {
                    socket.taking_back = true;
                    ring.cancel(token);
                }
                Receive::Starved(tag) if pays && free => {
                    socket.receive = Receive::Direct(tag);
                    self.starved.retain(|&waiting| waiting != index);
                    self.direct.add(index);
                }
                _ => {}
            }
        }
        self.direct.heard = heard;
    }

    fn ask_one(&mut self, index: usize, pool: &Pool, ring: &mut Ring, out: &mut Events) -> Answer {
        let Some(socket) = self.slots[index].socket.as_deref_mut() else { return Answer::Nothing };
        let Receive::Direct(tag) = socket.receive else { return Answer::Nothing };
        let took = if !socket.rooms.is_empty() {
            socket.fill_landing(tag, out)
        } else if self.direct.find_chunks(pool) {
            self.direct.fill_chunks(tag, socket, out)
        } else {
            // The kernel has chunks that were provided, and gives them to all who wait in turn.
            self.direct.forget(index);
            self.arm(index, ring);
            return Answer::Gone;
        };
        match took {
            Ok(0) => out.push((tag, Event::EndOfStream)),
            Ok(_) => {
                self.direct.heard(index, socket);
                return Answer::Something;
            }
            Err(libc::EAGAIN | libc::EINTR | libc::ENOMEM | libc::ENOBUFS) => return Answer::Nothing,
            Err(errno) => out.push((tag, failed(errors::socket("receive", errno)))),
        }
        socket.receive = Receive::Idle;
        self.direct.forget(index);
        Answer::Gone
    }

    /// True when the socket is asked directly and has no landing.
    pub(crate) fn lands(&self, sock: SocketId) -> bool {
        let socket = self.slots.get(sock.0 as usize).and_then(|slot| slot.socket.as_deref());
        socket.is_some_and(|s| matches!(s.receive, Receive::Direct(_)) && s.landing.is_none())
    }

    /// Lends a landing to a socket that is asked directly.
    pub(crate) fn land(&mut self, sock: SocketId, mut landing: Box<Landing>) -> Result<(), Box<Landing>> {
        if !self.lands(sock) {
            return Err(landing);
        }
        let Some((_, _, socket)) = self.get(sock) else { return Err(landing) };
        socket.rooms.clear();
        let vector =
            |room: &mut [u8]| libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
        landing.rooms().take(MOST_VECTORS).for_each(|room| socket.rooms.push(vector(room)));
        socket.landing = Some(landing);
        Ok(())
    }

    pub(crate) fn recall(&mut self, sock: SocketId) -> Option<Box<Landing>> {
        let socket = self.slots.get_mut(sock.0 as usize)?.socket.as_deref_mut()?;
        socket.rooms.clear();
        socket.landing.take()
    }
}

impl Direct {
    /// Gets chunks for the next call; false when there is none. The one that was used last is filled first.
    fn find_chunks(&mut self, pool: &Pool) -> bool {
        let chunk = PoolConfig::CHUNK_BYTES.min(pool.largest());
        while self.spare.len() < CHUNKS
            && let Some(buf) = pool.alloc_fitting(chunk)
        {
            self.spare.insert(0, buf);
        }
        !self.spare.is_empty()
    }

    /// Receives into chunks: how many bytes, or the error's number.
    fn fill_chunks(&mut self, tag: Tag, socket: &mut Socket, out: &mut Events) -> Result<usize, i32> {
        let spare = &mut self.spare;
        let count = if socket.plenty > 0 { spare.len() } else { 1 };
        let took = sys::receive_now(&socket.fd, &mut spare[..count])?;
        socket.plenty = if took >= spare[0].len() { PLENTY } else { socket.plenty.saturating_sub(1) };
        let mut left = took;
        while left > 0 {
            let mut buf = spare.remove(0);
            let len = buf.len().min(left);
            left -= len;
            buf.set_len(len);
            out.push((tag, Event::Received(buf)));
        }
        Ok(took)
    }
}

impl Socket {
    /// Receives into the landing, which goes with its event: how many bytes, or the error's number.
    fn fill_landing(&mut self, tag: Tag, out: &mut Events) -> Result<usize, i32> {
        // SAFETY: there are rooms only while their landing is here; nobody else has it, and its buffers stay where they are.
        let bytes = unsafe { sys::receive_into(&self.fd, &mut self.rooms) }?;
        if bytes > 0
            && let Some(landing) = self.landing.take()
        {
            self.rooms.clear();
            out.push((tag, Event::Landed { landing, bytes }));
        }
        Ok(bytes)
    }

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
    use dolmen_io::Owner;
    use std::{io::Write, net::TcpStream, os::fd::OwnedFd};

    /// A core that sleeps now and then never comes to a decision; connections that come and go meanwhile leave nothing.
    #[test]
    fn closed_sockets_leave_nothing() {
        let pool = PoolConfig::new(vec![(PoolConfig::CHUNK_BYTES, 64)]);
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
