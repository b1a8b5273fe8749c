//! Hosts of one machine: connections that speak through the `nvme` crate's host side.

use dolmen_io::{Event, Io, Owner, PoolConfig, SocketId, Tag, Wait};
use dolmen_nvme::{
    spec::{Cqe, Sqe},
    tcp::{CommandData, Digests, Host, HostEvent, HostOptions, TermReason},
};
use dolmen_sim::{CoreConfig, NodeId, World};
use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
};

const OWNER: Owner = Owner(9);

/// A connection of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conn(pub usize);

/// What a command moves.
#[derive(Clone, Debug)]
pub enum Payload {
    None,
    Read(u32),
    InCapsule(Vec<u8>),
    Write(Vec<u8>),
}

/// A finished command.
#[derive(Clone, Debug)]
pub struct Completion {
    pub cqe: Cqe,
    pub data: Vec<u8>,
    pub intact: bool,
}

struct Link {
    sock: SocketId,
    protocol: Option<Host>,
    open: bool,
    gone: bool,
    terminated: Option<TermReason>,
    next_cid: u16,
    depth: u16,
    reads: BTreeMap<u16, Vec<u8>>,
    writes: BTreeMap<u16, Vec<u8>>,
    done: BTreeMap<u16, Completion>,
    out: VecDeque<Vec<u8>>,
    sending: bool,
    /// It never reads.
    deaf: bool,
    raw: Vec<u8>,
}

pub struct Machine {
    pub io: Io,
    links: Vec<Link>,
}

impl Machine {
    pub fn new(world: &World, node: NodeId) -> Machine {
        let pool = PoolConfig::sized(32 << 20);
        Machine { io: Io::new(Box::new(world.driver(CoreConfig { node, pool }))), links: Vec::new() }
    }

    fn tag(conn: usize, what: u64) -> Tag {
        Tag { owner: OWNER, key: what << 32 | conn as u64 }
    }

    /// Starts a connection that will send an ICReq.
    pub fn dial(&mut self, addr: SocketAddr, digests: Digests, depth: u16) -> Conn {
        let protocol = Host::new(HostOptions { digests, alignment: 0, depth });
        self.start(addr, Some(protocol), depth)
    }

    /// Starts a connection on which the test sends bytes of its own.
    pub fn dial_raw(&mut self, addr: SocketAddr) -> Conn {
        self.start(addr, None, 0)
    }

    /// The same, and nothing that comes is ever read.
    pub fn dial_deaf(&mut self, addr: SocketAddr) -> Conn {
        let conn = self.dial_raw(addr);
        self.links[conn.0].deaf = true;
        conn
    }

    fn start(&mut self, addr: SocketAddr, protocol: Option<Host>, depth: u16) -> Conn {
        let at = self.links.len();
        let sock = self.io.connect(Machine::tag(at, 1), addr).unwrap();
        self.links.push(Link {
            sock,
            protocol,
            open: false,
            gone: false,
            terminated: None,
            next_cid: 0,
            depth,
            reads: BTreeMap::new(),
            writes: BTreeMap::new(),
            done: BTreeMap::new(),
            out: VecDeque::new(),
            sending: true,
            deaf: false,
            raw: Vec::new(),
        });
        Conn(at)
    }

    /// Has its connections read on, or leave what comes where it is.
    pub fn set_reading(&mut self, reads: bool) {
        for (at, link) in self.links.iter().enumerate().filter(|(_, link)| link.open && !link.gone) {
            if reads {
                self.io.receive(Machine::tag(at, 2), link.sock);
            } else {
                self.io.stop_receive(Machine::tag(at, 2), link.sock);
            }
        }
    }

    pub fn is_open(&self, conn: Conn) -> bool {
        self.links[conn.0].open
    }

    pub fn is_gone(&self, conn: Conn) -> bool {
        self.links[conn.0].gone
    }

    pub fn terminated(&self, conn: Conn) -> Option<TermReason> {
        self.links[conn.0].terminated
    }

    /// Everything that came on a raw connection.
    pub fn raw(&self, conn: Conn) -> &[u8] {
        &self.links[conn.0].raw
    }

    pub fn send_raw(&mut self, conn: Conn, bytes: &[u8]) {
        self.links[conn.0].out.push_back(bytes.to_vec());
        self.flush(conn.0);
    }

    pub fn close(&mut self, conn: Conn) {
        let sock = self.links[conn.0].sock;
        self.io.close(Machine::tag(conn.0, 4), sock);
        self.links[conn.0].gone = true;
    }

    /// Sends a command under the next free identifier, which it returns.
    pub fn send(&mut self, conn: Conn, mut sqe: Sqe, payload: Payload) -> u16 {
        let link = &mut self.links[conn.0];
        let cid = link.next_cid;
        link.next_cid = (cid + 1) % link.depth;
        sqe.cid = cid.into();
        let protocol = link.protocol.as_mut().unwrap();
        let mut out = vec![0; 256];
        let data = match &payload {
            Payload::None => CommandData::None,
            Payload::Read(n) => CommandData::Read(*n),
            Payload::InCapsule(d) => CommandData::WriteInCapsule(u32::try_from(d.len()).unwrap()),
            Payload::Write(d) => CommandData::Write(u32::try_from(d.len()).unwrap()),
        };
        let n = protocol.write_command(&mut out, &sqe, data).unwrap();
        out.truncate(n);
        match payload {
            Payload::InCapsule(d) => {
                let at = out.len();
                out.extend_from_slice(&d);
                out.resize(out.len() + 4, 0);
                let digest = protocol.finish_data(&mut out[at..], d.len()).unwrap();
                out.truncate(at + d.len() + digest);
            }
            Payload::Write(d) => drop(link.writes.insert(cid, d)),
            Payload::Read(_) => drop(link.reads.insert(cid, Vec::new())),
            Payload::None => {}
        }
        link.out.push_back(out);
        self.flush(conn.0);
        cid
    }

    pub fn take(&mut self, conn: Conn, cid: u16) -> Option<Completion> {
        self.links[conn.0].done.remove(&cid)
    }

    /// Completions that wait to be taken.
    pub fn waiting(&self, conn: Conn) -> usize {
        self.links[conn.0].done.len()
    }

    pub fn turn(&mut self) {
        let mut events = Vec::new();
        self.io.poll(Wait::No, &mut events);
        for (tag, event) in events {
            let (at, what) = (usize::try_from(tag.key & 0xffff_ffff).unwrap(), tag.key >> 32);
            self.event(at, what, event);
        }
        self.io.submit();
    }

    fn event(&mut self, at: usize, what: u64, event: Event) {
        match event {
            Event::Connected { .. } => {
                let link = &mut self.links[at];
                link.sending = false;
                if let Some(protocol) = &link.protocol {
                    let mut out = vec![0; 128];
                    protocol.write_ic_req(&mut out).unwrap();
                    link.out.push_front(out);
                } else {
                    link.open = true;
                }
                if !link.deaf {
                    self.io.receive(Machine::tag(at, 2), link.sock);
                }
                self.flush(at);
            }
            Event::Received(chunk) => self.receive(at, &chunk),
            Event::ReceiveStopped => {}
            Event::Sent(_) => {
                self.links[at].sending = false;
                self.flush(at);
            }
            Event::EndOfStream | Event::Failed { .. } => {
                if !self.links[at].gone {
                    let sock = self.links[at].sock;
                    self.io.close(Machine::tag(at, 4), sock);
                }
                self.links[at].gone = true;
            }
            Event::Closed => self.links[at].gone = true,
            other => panic!("{what}: {other:?}"),
        }
    }

    fn receive(&mut self, at: usize, mut bytes: &[u8]) {
        let link = &mut self.links[at];
        let Some(protocol) = link.protocol.as_mut() else {
            link.raw.extend_from_slice(bytes);
            return;
        };
        while let Some(event) = protocol.receive(&mut bytes).unwrap() {
            match event {
                HostEvent::Initialized(_) => link.open = true,
                HostEvent::Data { cid, offset, bytes } => {
                    let data = link.reads.get_mut(&cid).unwrap();
                    assert_eq!(data.len(), offset as usize);
                    data.extend_from_slice(bytes);
                }
                HostEvent::SendData { cid } => {
                    let data = &link.writes[&cid];
                    loop {
                        let mut out = vec![0; 256];
                        let Some(piece) = protocol.write_h2c_data(&mut out, cid, u32::MAX) else { break };
                        out.truncate(piece.header_bytes);
                        let start = piece.offset as usize;
                        let length = piece.length as usize;
                        out.extend_from_slice(&data[start..start + length]);
                        out.resize(out.len() + 4, 0);
                        let digest = protocol.finish_data(&mut out[piece.header_bytes..], length).unwrap();
                        out.truncate(piece.header_bytes + length + digest);
                        link.out.push_back(out);
                    }
                }
                HostEvent::Completion { cqe, intact, .. } => {
                    let cid = cqe.cid.get();
                    let data = link.reads.remove(&cid).unwrap_or_default();
                    link.writes.remove(&cid);
                    link.done.insert(cid, Completion { cqe, data, intact });
                }
                HostEvent::Terminated(reason) => link.terminated = Some(reason),
            }
        }
        self.flush(at);
    }

    fn flush(&mut self, at: usize) {
        let link = &mut self.links[at];
        if link.sending || link.gone || link.out.is_empty() {
            return;
        }
        let mut slices = Vec::new();
        while let Some(bytes) = link.out.front() {
            let bufs: Option<Vec<_>> = bytes
                .chunks(PoolConfig::CHUNK_BYTES)
                .map(|c| self.io.alloc(c.len()).map(|b| (b, c)))
                .collect();
            let Some(bufs) = bufs else { break };
            for (mut buf, chunk) in bufs {
                buf.copy_from_slice(chunk);
                slices.push(buf.freeze());
            }
            link.out.pop_front();
        }
        if !slices.is_empty() {
            link.sending = true;
            self.io.send(Machine::tag(at, 3), link.sock, slices);
        }
    }
}
