//! A world of memory for two sides: sockets that hand bytes over, drives that are vectors, and a clock that moves by a step at
//! each look. Everything is done when it is submitted; nothing waits, nothing fails.

use dolmen_io::{
    Buf, DriveCounters, DriveHandle, DriveInfo, Driver, Error, ErrorKind, Event, FileId, Landing, ListenerId,
    Op, OpenDrive, Pool, PoolConfig, Slices, SocketId, Tag, Wait, Wake,
};
use dolmen_types::{Nanos, UnixMillis};
use std::{
    cell::RefCell,
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

/// How far the clock moves at each look at completions. Nanoseconds.
const STEP_NS: u64 = 1000;

/// Buffers of one side. Bytes of address space.
const POOL_BYTES: usize = 64 << 20;

/// One end of a connection.
struct Socket {
    side: usize,
    /// The other end, once connected.
    peer: Option<usize>,
    /// Who receives, while somebody does.
    receiver: Option<Tag>,
    landing: Option<Box<Landing>>,
    /// What came while nobody did.
    kept: VecDeque<Buf>,
    ended: bool,
}

struct Listener {
    side: usize,
    addr: SocketAddr,
    acceptor: Option<Tag>,
}

/// What both sides share.
struct Shared {
    now: u64,
    sockets: Vec<Socket>,
    listeners: Vec<Listener>,
    drives: Vec<Vec<u8>>,
    ready: [Vec<(Tag, Event)>; 2],
    pools: [Pool; 2],
    random: u64,
}

/// The world.
#[derive(Clone)]
pub(crate) struct World(Rc<RefCell<Shared>>);

/// One side's driver.
struct Side {
    world: World,
    side: usize,
    pool: Pool,
}

struct Nobody;

impl Wake for Nobody {
    fn wake(&self) {}
}

impl World {
    /// With so many drives of so many bytes.
    pub(crate) fn new(drives: usize, bytes: usize) -> World {
        let pool = PoolConfig::sized(POOL_BYTES);
        // Side 0 is a node with drives, side 1 a host.
        let pools = [Pool::new(&pool), Pool::new(&pool.with_heads())];
        World(Rc::new(RefCell::new(Shared {
            now: STEP_NS,
            sockets: Vec::new(),
            listeners: Vec::new(),
            drives: (0..drives).map(|_| vec![0; bytes]).collect(),
            ready: [Vec::new(), Vec::new()],
            pools,
            random: 0x9e37_79b9_7f4a_7c15,
        })))
    }

    /// The driver of side 0 or 1.
    pub(crate) fn driver(&self, side: usize) -> Box<dyn Driver> {
        let pool = self.0.borrow().pools[side].clone();
        Box::new(Side { world: self.clone(), side, pool })
    }
}

fn refused(what: &str) -> Error {
    Error { kind: ErrorKind::Refused, context: format!("{what} in the guard's world"), errno: None }
}

impl Shared {
    fn perform(&mut self, side: usize, tag: Tag, op: Op) {
        let event = match op {
            Op::Accept { listener } => {
                self.listeners[listener.0 as usize].acceptor = Some(tag);
                return;
            }
            Op::Connect { sock, addr } => self.connect(sock, addr),
            Op::Receive { sock } => return self.receive(tag, sock),
            Op::StopReceive { sock } => {
                let receiver = self.sockets[sock.0 as usize].receiver.take();
                return receiver
                    .into_iter()
                    .for_each(|tag| self.ready[side].push((tag, Event::ReceiveStopped)));
            }
            Op::EndStream { sock } => return self.end(sock),
            Op::Send { sock, data } => self.send(sock, data),
            Op::Close { sock } | Op::Abort { sock } => {
                self.end(sock);
                self.sockets[sock.0 as usize].receiver = None;
                Event::Closed
            }
            Op::Read { file, offset, mut buf } => {
                let len = buf.len();
                buf.copy_from_slice(self.range(file, offset, len));
                Event::Read(buf)
            }
            Op::Write { file, offset, data, .. } => self.write(file, offset, data),
            Op::Flush { .. } => Event::Flushed,
            Op::Discard { .. } => Event::Discarded,
        };
        self.ready[side].push((tag, event));
    }

    fn connect(&mut self, sock: SocketId, addr: SocketAddr) -> Event {
        let found = self.listeners.iter().find(|l| l.addr.port() == addr.port());
        let Some((side, acceptor)) = found.and_then(|l| Some((l.side, l.acceptor?))) else {
            return Event::Failed { error: refused("connecting to nobody"), buf: None };
        };
        let (here, there) = (sock.0 as usize, self.add_socket(side));
        let local = SocketAddr::from((
            Ipv4Addr::LOCALHOST,
            1000_u16.saturating_add(u16::try_from(sock.0).unwrap_or(0)),
        ));
        self.sockets[here].peer = Some(there.0 as usize);
        self.sockets[there.0 as usize].peer = Some(here);
        self.ready[side].push((acceptor, Event::Accepted { sock: there, peer: local, local: addr }));
        Event::Connected { local }
    }

    fn add_socket(&mut self, side: usize) -> SocketId {
        let (peer, receiver, landing, kept) = (None, None, None, VecDeque::new());
        self.sockets.push(Socket { side, peer, receiver, landing, kept, ended: false });
        SocketId(u32::try_from(self.sockets.len() - 1).expect("a handful of sockets"))
    }

    fn receive(&mut self, tag: Tag, sock: SocketId) {
        let socket = &mut self.sockets[sock.0 as usize];
        let ready = &mut self.ready[socket.side];
        ready.extend(socket.kept.drain(..).map(|buf| (tag, Event::Received(buf))));
        if socket.ended {
            ready.push((tag, Event::EndOfStream));
        } else {
            socket.receiver = Some(tag);
        }
    }

    fn end(&mut self, sock: SocketId) {
        let Some(peer) = self.sockets[sock.0 as usize].peer else { return };
        let peer = &mut self.sockets[peer];
        peer.ended = true;
        if let Some(tag) = peer.receiver.take() {
            self.ready[peer.side].push((tag, Event::EndOfStream));
        }
    }

    /// What fits a landing of the receiver is copied there, and taken off `data`.
    fn land(&mut self, to: usize, data: &mut Slices) {
        let socket = &mut self.sockets[to];
        let (Some(tag), Some(mut landing)) = (socket.receiver, socket.landing.take()) else { return };
        let (mut bytes, mut at, mut from) = (0, 0, 0);
        for mut room in landing.rooms() {
            while let Some(part) = data.get(at).filter(|_| !room.is_empty()) {
                let n = (part.len() - from).min(room.len());
                let (here, rest) = room.split_at_mut(n);
                here.copy_from_slice(&part[from..from + n]);
                (room, from, bytes) = (rest, from + n, bytes + n);
                if from == part.len() {
                    (at, from) = (at + 1, 0);
                }
            }
        }
        data.drain(..at);
        if let Some(first) = data.first_mut().filter(|_| from > 0) {
            *first = first.slice(from..first.len());
        }
        self.ready[socket.side].push((tag, Event::Landed { landing, bytes }));
    }

    /// Copies what is sent into chunks of the receiver, as the kernel does.
    fn send(&mut self, sock: SocketId, mut data: Slices) -> Event {
        let Some(peer) = self.sockets[sock.0 as usize].peer else {
            return Event::Failed { error: refused("sending to nobody"), buf: None };
        };
        self.land(peer, &mut data);
        let side = self.sockets[peer].side;
        let mut chunk: Option<(Buf, usize)> = None;
        for part in data.drain(..) {
            let mut part = &part[..];
            while !part.is_empty() {
                let (mut buf, filled) = chunk.take().unwrap_or_else(|| {
                    let buf = self.pools[side].alloc(PoolConfig::CHUNK_BYTES);
                    (buf.expect("the pool is large"), 0)
                });
                let n = part.len().min(buf.len() - filled);
                buf[filled..filled + n].copy_from_slice(&part[..n]);
                part = &part[n..];
                if filled + n == buf.len() {
                    self.deliver(peer, buf);
                } else {
                    chunk = Some((buf, filled + n));
                }
            }
        }
        if let Some((mut buf, filled)) = chunk {
            buf.set_len(filled);
            self.deliver(peer, buf);
        }
        Event::Sent(data)
    }

    fn deliver(&mut self, to: usize, buf: Buf) {
        let socket = &mut self.sockets[to];
        match socket.receiver {
            Some(tag) => self.ready[socket.side].push((tag, Event::Received(buf))),
            None => socket.kept.push_back(buf),
        }
    }

    fn write(&mut self, file: FileId, offset: u64, mut data: Slices) -> Event {
        let len = data.iter().map(|part| part.len()).sum();
        let mut room = self.range(file, offset, len);
        for part in data.drain(..) {
            let (here, rest) = room.split_at_mut(part.len());
            here.copy_from_slice(&part);
            room = rest;
        }
        Event::Written(data)
    }

    fn range(&mut self, file: FileId, offset: u64, len: usize) -> &mut [u8] {
        let offset = usize::try_from(offset).expect("drives are small");
        &mut self.drives[file.0 as usize][offset..offset + len]
    }
}

impl Driver for Side {
    fn submit(&mut self, ops: &mut Vec<(Tag, Op)>) {
        let mut shared = self.world.0.borrow_mut();
        ops.drain(..).for_each(|(tag, op)| shared.perform(self.side, tag, op));
    }

    fn reap(&mut self, _: Wait, events: &mut Vec<(Tag, Event)>) -> Nanos {
        let mut shared = self.world.0.borrow_mut();
        shared.now += STEP_NS;
        events.append(&mut shared.ready[self.side]);
        Nanos(shared.now)
    }

    fn now(&self) -> Nanos {
        Nanos(self.world.0.borrow().now)
    }

    fn wall(&self) -> UnixMillis {
        UnixMillis(1)
    }

    fn random(&mut self, out: &mut [u8]) {
        let state = &mut self.world.0.borrow_mut().random;
        out.iter_mut().for_each(|byte| *byte = crate::next_random(state).to_be_bytes()[0]);
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(Nobody)
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }

    fn listen(&mut self, addr: SocketAddr) -> Result<(ListenerId, SocketAddr), Error> {
        let listeners = &mut self.world.0.borrow_mut().listeners;
        listeners.push(Listener { side: self.side, addr, acceptor: None });
        Ok((ListenerId(u32::try_from(listeners.len() - 1).expect("a handful of listeners")), addr))
    }

    fn close_listener(&mut self, _: ListenerId) {}

    /// As a core that spins and has one busy socket.
    fn lands(&self, sock: SocketId) -> bool {
        let socket = &self.world.0.borrow().sockets[sock.0 as usize];
        socket.receiver.is_some() && socket.landing.is_none()
    }

    fn land(&mut self, sock: SocketId, landing: Box<Landing>) -> Result<(), Box<Landing>> {
        self.world.0.borrow_mut().sockets[sock.0 as usize].landing = Some(landing);
        Ok(())
    }

    fn recall(&mut self, sock: SocketId) -> Option<Box<Landing>> {
        self.world.0.borrow_mut().sockets[sock.0 as usize].landing.take()
    }

    fn socket(&mut self, _: SocketAddr) -> Result<SocketId, Error> {
        Ok(self.world.0.borrow_mut().add_socket(self.side))
    }

    /// A drive's path is its number.
    fn open_drive(&mut self, options: &OpenDrive) -> Result<DriveInfo, Error> {
        let number = options.path.to_string_lossy().parse::<u32>().ok();
        let shared = self.world.0.borrow();
        let drive = number.and_then(|n| Some((n, shared.drives.get(n as usize)?.len())));
        let (number, bytes) = drive.ok_or_else(|| refused("a drive of another name"))?;
        Ok(DriveInfo {
            file: FileId(number),
            size_bytes: bytes as u64,
            align_bytes: 4096,
            block_device: true,
            direct: true,
            created: false,
            serial: None,
            model: None,
        })
    }

    fn share_drive(&mut self, _: &DriveHandle) -> Result<FileId, Error> {
        Err(refused("sharing a drive"))
    }

    /// Nobody looks into it: there is one core.
    fn export_drive(&self, file: FileId) -> Result<DriveHandle, Error> {
        Ok(DriveHandle(Arc::new(file)))
    }

    fn drive_counters(&self, _: FileId) -> DriveCounters {
        DriveCounters::default()
    }

    fn close_drive(&mut self, _: FileId) {}
}
