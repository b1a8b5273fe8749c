//! Stream sockets: connect, receive, send, close.
//!
//! A socket's slot is freed when its close is complete, and that waits for every request on it. Per socket there is at most one
//! receive, one send and one connect; their storage for the kernel lives in the boxed [`Socket`], whose address is stable.

use crate::{
    chunks::{Chunks, GROUP},
    errors,
    ring::{Cqe, Ring, Target},
    sys::{self, RawAddr},
    token::{GENERATIONS, Kind, Token},
};
use dolmen_io::{Error, Event, Landing, Slices, SocketId, Tag};
use io_uring::opcode;
use std::{
    collections::VecDeque,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
};

mod direct;
mod ends;

use direct::Direct;
use ends::Ends;

/// Vectors of one message at most (UIO_MAXIOV).
const MOST_VECTORS: usize = 1024;

/// Events of operations, gathered for the next look.
pub(crate) type Events = Vec<(Tag, Event)>;

/// State of a socket's receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receive {
    Idle,
    /// A request is in the kernel.
    Armed(Tag),
    /// The kernel had no chunk; a request is made when there are some.
    Starved(Tag),
    /// Asked for by ourselves.
    Direct(Tag),
}

struct Socket {
    fd: OwnedFd,
    target: Target,
    receive: Receive,
    stopping: bool,
    /// The kernel is to give the receive back, to be asked for directly.
    taking_back: bool,
    /// It has heard something by a receive that goes on, and was not asked for its end since.
    unsure: bool,
    /// The receive was taken back from the kernel to be made again.
    again: bool,
    /// How often something came since that was decided last.
    spoken: u32,
    /// Receives left for which it gets more than one chunk when asked directly.
    plenty: u8,
    connecting: Option<Tag>,
    addr: RawAddr,
    sending: Option<Tag>,
    data: Slices,
    /// The slice that is next, and how much of it has gone.
    slice: usize,
    sent: usize,
    vectors: Vec<libc::iovec>,
    message: libc::msghdr,
    closing: Option<Tag>,
    /// The close throws away what was sent and has not arrived.
    aborting: bool,
    /// What was lent, and its rooms that what is asked for directly goes to: none once bytes have passed it by in a chunk.
    landing: Option<Box<Landing>>,
    rooms: Vec<libc::iovec>,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    socket: Option<Box<Socket>>,
}

/// All sockets of a core.
#[derive(Default)]
pub(crate) struct Sockets {
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Slots whose receive waits for a chunk, longest wait first.
    starved: VecDeque<usize>,
    direct: Direct,
    ends: Ends,
}

/// What a socket's receive needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Nothing,
    /// A chunk.
    Chunk,
    /// To be asked directly.
    Asking,
}

fn failed(error: Error) -> Event {
    Event::Failed { error, buf: None }
}

impl Sockets {
    /// Adds a socket that was made or accepted.
    pub(crate) fn insert(&mut self, fd: OwnedFd, ring: &mut Ring) -> SocketId {
        let target = ring.register_file(fd.as_raw_fd());
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        self.slots[index].socket = Some(Box::new(Socket::new(fd, target)));
        SocketId(u32::try_from(index).expect("descriptors are far fewer"))
    }

    fn get(&mut self, sock: SocketId) -> Option<(usize, u32, &mut Socket)> {
        let index = sock.0 as usize;
        let slot = self.slots.get_mut(index)?;
        let socket = slot.socket.as_deref_mut().filter(|s| s.closing.is_none())?;
        Some((index, slot.generation, socket))
    }

    // Operations.

    pub(crate) fn connect(
        &mut self,
        tag: Tag,
        sock: SocketId,
        addr: SocketAddr,
        ring: &mut Ring,
        out: &mut Events,
    ) {
        let Some((index, generation, socket)) = self.get(sock) else {
            return out.push((tag, failed(errors::closed("connect"))));
        };
        if socket.connecting.is_some() {
            return out.push((tag, failed(errors::refused("a connect on a socket that connects".into()))));
        }
        socket.connecting = Some(tag);
        socket.addr = RawAddr::new(addr);
        let (fd, flags) = socket.target.parts();
        let entry = opcode::Connect::new(fd, socket.addr.as_ptr(), socket.addr.len()).build().flags(flags);
        // SAFETY: the address lives in the boxed socket, which stays until the request has ended.
        unsafe { ring.push(entry, Token::new(Kind::Connect, index, generation)) };
    }

    pub(crate) fn receive(&mut self, tag: Tag, sock: SocketId, ring: &mut Ring, out: &mut Events) {
        let Some((index, generation, socket)) = self.get(sock) else {
            return out.push((tag, failed(errors::closed("receive"))));
        };
        if socket.receive != Receive::Idle {
            return out.push((tag, failed(errors::refused("a receive on a socket that receives".into()))));
        }
        socket.stopping = false;
        socket.arm_receive(tag, Token::new(Kind::Receive, index, generation), ring);
    }

    pub(crate) fn stop_receive(&mut self, sock: SocketId, ring: &mut Ring, out: &mut Events) {
        let Some((index, generation, socket)) = self.get(sock) else { return };
        match socket.receive {
            Receive::Idle => {}
            Receive::Starved(tag) => {
                socket.receive = Receive::Idle;
                out.push((tag, Event::ReceiveStopped));
                self.starved.retain(|&waiting| waiting != index);
            }
            Receive::Direct(tag) => {
                socket.receive = Receive::Idle;
                out.push((tag, Event::ReceiveStopped));
                self.direct.forget(index);
            }
            Receive::Armed(_) => {
                socket.stopping = true;
                ring.cancel(Token::new(Kind::Receive, index, generation));
            }
        }
    }

    pub(crate) fn send(&mut self, tag: Tag, sock: SocketId, data: Slices, ring: &mut Ring, out: &mut Events) {
        let Some((index, generation, socket)) = self.get(sock) else {
            return out.push((tag, failed(errors::closed("send"))));
        };
        if socket.sending.is_some() {
            return out.push((tag, failed(errors::refused("a send on a socket that sends".into()))));
        }
        (socket.data, socket.slice, socket.sent) = (data, 0, 0);
        if !socket.skip_sent(0) {
            return out.push((tag, Event::Sent(socket.take_data())));
        }
        if matches!(socket.receive, Receive::Direct(_)) && socket.send_now() {
            return out.push((tag, Event::Sent(socket.take_data())));
        }
        socket.sending = Some(tag);
        socket.push_send(Token::new(Kind::Send, index, generation), ring);
    }

    pub(crate) fn close(&mut self, tag: Tag, sock: SocketId, ring: &mut Ring, out: &mut Events) {
        let Some((index, generation, socket)) = self.get(sock) else {
            return out.push((tag, failed(errors::closed("close"))));
        };
        socket.closing = Some(tag);
        if let Receive::Starved(receive) | Receive::Direct(receive) = socket.receive {
            socket.receive = Receive::Idle;
            out.push((receive, failed(errors::closed("receive"))));
        }
        let under_way = [
            (Kind::Receive, socket.receive != Receive::Idle),
            (Kind::Send, socket.sending.is_some()),
            (Kind::Connect, socket.connecting.is_some()),
        ];
        for (kind, _) in under_way.into_iter().filter(|(_, busy)| *busy) {
            ring.cancel(Token::new(kind, index, generation));
        }
        self.starved.retain(|&waiting| waiting != index);
        self.direct.closes(index);
        self.finish_close(index, ring, out);
    }

    pub(crate) fn abort(&mut self, tag: Tag, sock: SocketId, ring: &mut Ring, out: &mut Events) {
        if let Some((_, _, socket)) = self.get(sock) {
            socket.aborting = true;
        }
        self.close(tag, sock, ring, out);
    }

    pub(crate) fn end_stream(&mut self, sock: SocketId) {
        if let Some((_, _, socket)) = self.get(sock) {
            sys::end_stream(&socket.fd);
        }
    }

    pub(crate) fn bytes_taken(&self, sock: SocketId) -> Option<u64> {
        let socket = self.slots.get(sock.0 as usize)?.socket.as_deref()?;
        sys::bytes_acknowledged(&socket.fd)
    }

    /// As many receives that found no chunk are made again as there are chunks now.
    pub(crate) fn feed_starved(&mut self, mut chunks: usize, ring: &mut Ring) {
        while chunks > 0
            && let Some(index) = self.starved.pop_front()
        {
            let slot = &mut self.slots[index];
            let token = Token::new(Kind::Receive, index, slot.generation);
            if let Some(socket) = slot.socket.as_deref_mut()
                && let Receive::Starved(tag) = socket.receive
            {
                socket.arm_receive(tag, token, ring);
                chunks -= 1;
            }
        }
    }

    /// True when receives wait for chunks.
    pub(crate) fn starving(&self) -> bool {
        !self.starved.is_empty()
    }

    // Completions.

    pub(crate) fn complete(&mut self, cqe: &Cqe, chunks: &mut Chunks, ring: &mut Ring, out: &mut Events) {
        let index = cqe.token.index as usize;
        let slot = &mut self.slots[index];
        assert!(slot.generation == cqe.token.generation, "a slot waits for all of its requests");
        let socket = slot.socket.as_deref_mut().expect("a slot waits for all of its requests");
        match cqe.token.kind {
            Kind::Connect => socket.connected(cqe.result, out),
            Kind::Send => socket.sent(cqe, ring, out),
            _ => {
                if cqe.result > 0 {
                    self.direct.heard(index, socket);
                    if cqe.more() {
                        self.ends.heard(index, &mut socket.unsure);
                    }
                }
                match socket.received(cqe, chunks, ring, out) {
                    Next::Nothing => {}
                    Next::Chunk => self.starved.push_back(index),
                    Next::Asking => self.direct.add(index),
                }
            }
        }
        self.finish_close(index, ring, out);
    }

    /// Frees the slot once a close was asked for and nothing is under way.
    fn finish_close(&mut self, index: usize, ring: &mut Ring, out: &mut Events) {
        let slot = &mut self.slots[index];
        let Some(socket) = slot.socket.as_deref() else { return };
        let busy = socket.receive != Receive::Idle || socket.sending.is_some() || socket.connecting.is_some();
        if busy {
            return;
        }
        if let Some(tag) = socket.closing {
            if socket.aborting {
                sys::disconnect(&socket.fd);
            }
            ring.unregister_file(socket.target);
            slot.socket = None;
            slot.generation = (slot.generation + 1) % GENERATIONS;
            self.free.push(index);
            out.push((tag, Event::Closed));
        }
    }

    /// Asks the kernel to end everything; nobody will look at the events.
    pub(crate) fn close_all(&mut self, ring: &mut Ring) {
        let mut ignored = Vec::new();
        let nobody = Tag { owner: dolmen_io::Owner(0), key: 0 };
        for index in 0..self.slots.len() {
            let sock = SocketId(u32::try_from(index).expect("given out as such"));
            self.close(nobody, sock, ring, &mut ignored);
        }
    }
}

impl Socket {
    fn new(fd: OwnedFd, target: Target) -> Socket {
        Socket {
            fd,
            target,
            receive: Receive::Idle,
            stopping: false,
            taking_back: false,
            unsure: false,
            again: false,
            spoken: 0,
            plenty: 0,
            connecting: None,
            addr: RawAddr::empty(),
            sending: None,
            data: Slices::new(),
            slice: 0,
            sent: 0,
            vectors: Vec::new(),
            // SAFETY: all zeros is a valid, empty message.
            message: unsafe { std::mem::zeroed() },
            closing: None,
            aborting: false,
            landing: None,
            rooms: Vec::new(),
        }
    }

    // Receiving.

    fn arm_receive(&mut self, tag: Tag, token: Token, ring: &mut Ring) {
        (self.receive, self.taking_back, self.again) = (Receive::Armed(tag), false, false);
        let (fd, flags) = self.target.parts();
        let entry = if ring.features().multishot {
            opcode::RecvMulti::new(fd, GROUP).build().flags(flags)
        } else {
            let select = io_uring::squeue::Flags::BUFFER_SELECT;
            opcode::Recv::new(fd, std::ptr::null_mut(), 0).buf_group(GROUP).build().flags(flags | select)
        };
        // SAFETY: the data goes to provided chunks, which `Chunks` owns until the kernel hands them back.
        unsafe { ring.push(entry, token) };
    }

    fn received(&mut self, cqe: &Cqe, chunks: &mut Chunks, ring: &mut Ring, out: &mut Events) -> Next {
        let Receive::Armed(tag) = self.receive else { unreachable!("only armed receives complete") };
        let len = usize::try_from(cqe.result).unwrap_or(0);
        // Taken in any case, so that it goes home.
        let chunk = cqe.chunk().map(|id| chunks.take(id, len));
        if len > 0 && self.closing.is_none() {
            let chunk = chunk.expect("data comes in a chunk");
            self.rooms.clear();
            out.push((tag, Event::Received(chunk)));
        }
        if cqe.more() {
            return Next::Nothing;
        }
        self.receive = Receive::Idle;
        let taken_back = std::mem::take(&mut self.taking_back);
        let errno = -cqe.result;
        if self.closing.is_some() {
            out.push((tag, failed(errors::closed("receive"))));
        } else if cqe.result == 0 {
            out.push((tag, Event::EndOfStream));
        } else if self.stopping && (cqe.result > 0 || [libc::ECANCELED, libc::ENOBUFS].contains(&errno)) {
            out.push((tag, Event::ReceiveStopped));
        } else if taken_back && (cqe.result > 0 || [libc::ECANCELED, libc::ENOBUFS].contains(&errno)) {
            self.receive = Receive::Direct(tag);
            return Next::Asking;
        } else if cqe.result > 0
            || [libc::EINTR, libc::EAGAIN].contains(&errno)
            || (self.again && errno == libc::ECANCELED)
        {
            self.arm_receive(tag, cqe.token, ring);
        } else if errno == libc::ENOBUFS {
            chunks.ran_dry();
            self.receive = Receive::Starved(tag);
            return Next::Chunk;
        } else {
            out.push((tag, failed(errors::socket("receive", errno))));
        }
        Next::Nothing
    }

    // Sending.

    /// Counts `n` bytes as sent; false when nothing is left.
    fn skip_sent(&mut self, mut n: usize) -> bool {
        while let Some(slice) = self.data.get(self.slice) {
            let left = slice.len() - self.sent;
            if n < left {
                self.sent += n;
                return true;
            }
            n -= left;
            (self.slice, self.sent) = (self.slice + 1, 0);
        }
        false
    }

    fn take_data(&mut self) -> Slices {
        self.data.clear();
        std::mem::take(&mut self.data)
    }

    /// Names what is left to be sent in the socket's message.
    fn fill_message(&mut self) {
        let vector =
            |bytes: &[u8]| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        self.vectors.clear();
        self.vectors.push(vector(&self.data[self.slice][self.sent..]));
        let more = self.data[self.slice + 1..].iter().take(MOST_VECTORS - 1);
        self.vectors.extend(more.map(|s| vector(s)));
        self.message.msg_iov = self.vectors.as_mut_ptr();
        self.message.msg_iovlen = self.vectors.len();
    }

    fn push_send(&mut self, token: Token, ring: &mut Ring) {
        let (fd, target_flags) = self.target.parts();
        let wait_all = if ring.features().waitall { libc::MSG_WAITALL } else { 0 };
        let flags = libc::MSG_NOSIGNAL | wait_all;
        let rest = &self.data[self.slice][self.sent..];
        let entry = if self.slice + 1 == self.data.len() {
            let len = u32::try_from(rest.len()).expect("a pool buffer is small");
            opcode::Send::new(fd, rest.as_ptr(), len).flags(flags).build()
        } else {
            self.fill_message();
            let flags = u32::try_from(flags).expect("flags are not negative");
            opcode::SendMsg::new(fd, std::ptr::from_ref(&self.message)).flags(flags).build()
        };
        // SAFETY: message and vectors live in the boxed socket, and the slices in `data`; none changes until the completion.
        unsafe { ring.push(entry.flags(target_flags), token) };
    }

    fn sent(&mut self, cqe: &Cqe, ring: &mut Ring, out: &mut Events) {
        let tag = self.sending.expect("only sends under way complete");
        let errno = -cqe.result;
        if let Ok(n) = usize::try_from(cqe.result) {
            if !self.skip_sent(n) {
                self.sending = None;
                let data = self.take_data();
                return out.push((tag, Event::Sent(data)));
            }
        } else if ![libc::EINTR, libc::EAGAIN].contains(&errno) || self.closing.is_some() {
            self.sending = None;
            self.take_data();
            let closing = self.closing.is_some();
            let error = if closing { errors::closed("send") } else { errors::socket("send", errno) };
            return out.push((tag, failed(error)));
        }
        if self.closing.is_some() {
            self.sending = None;
            self.take_data();
            return out.push((tag, failed(errors::closed("send"))));
        }
        self.push_send(cqe.token, ring);
    }

    fn connected(&mut self, result: i32, out: &mut Events) {
        let tag = self.connecting.take().expect("only connects under way complete");
        let event = if self.closing.is_some() {
            failed(errors::closed("connect"))
        } else if result < 0 {
            failed(errors::socket("connect", -result))
        } else {
            match sys::local_addr(&self.fd) {
                Ok(local) => Event::Connected { local },
                Err(error) => failed(error),
            }
        };
        out.push((tag, event));
    }
}
