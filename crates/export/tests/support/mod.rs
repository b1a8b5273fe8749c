//! A server and its clients in one simulated world, over a backend in memory.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // what one test file does not use; a test that can't go on fails

use dolmen_export::{
    Export, Exports,
    backend::{Failure, MAX_DATA_BYTES, Operation, Place, Reply, Request},
    nbd::{Envelope, Listen, Server, ServerConfig},
};
use dolmen_io::{Event, Io, Owner, PoolConfig, SocketId, Tag, Wait};
use dolmen_sim::{CoreConfig, NodeId, Rng, World};
use dolmen_types::{CoreId, Uuid, volume::IpAccess};
use dolmen_volume::{Extent, VolumeRef};
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

pub const SERVER: NodeId = NodeId(1);
pub const CLIENT: NodeId = NodeId(2);
const OWNER: Owner = Owner(6);
const CLIENTS: Owner = Owner(9);

pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const DISCONNECT: u16 = 2;
pub const FLUSH: u16 = 3;
pub const TRIM: u16 = 4;
pub const CACHE: u16 = 5;
pub const ZERO: u16 = 6;
pub const MAP: u16 = 7;

pub const FUA: u16 = 1;
pub const NO_HOLE: u16 = 2;

/// An export of `blocks` blocks of 4 KiB, at slot `number` of the backend.
pub fn export(name: &str, number: u8, blocks: u64) -> Export {
    Export {
        name: name.into(),
        uuid: Uuid([number; 16]),
        size_bytes: blocks * 4096,
        block_bytes: 4096,
        piece_bytes: u32::try_from(MAX_DATA_BYTES).unwrap(),
        read_only: false,
        can_zero: true,
        maps: true,
        nsid: u32::from(number) + 1,
        access: IpAccess::Any,
        place: Place::Volume(VolumeRef { core: CoreId(0), slot: u32::from(number), generation: 0 }),
    }
}

/// Memory for each slot. Answers come late and in any order.
pub struct Ram {
    pub disks: BTreeMap<u32, Vec<u8>>,
    pub waiting: Vec<Request>,
    /// What nobody waits for any more; answered all the same, as anything.
    pub called_off: Vec<u64>,
    /// What the next requests of any kind are answered with.
    pub failures: Vec<Failure>,
    /// Nothing is answered.
    pub asleep: bool,
    /// Requests are carried out in the order in which they came.
    pub in_order: bool,
    /// All of them in one turn.
    pub at_once: bool,
    pub flushes: u32,
    pub most_waiting: usize,
    rng: Rng,
}

impl Ram {
    fn disk(&mut self, place: Place) -> &mut Vec<u8> {
        let Place::Volume(at) = place else { panic!("{place:?} is not a slot") };
        self.disks.entry(at.slot).or_insert_with(|| vec![0; 64 << 20])
    }

    fn answer(&mut self, request: Request) -> Reply {
        let Request { token, place, operation, stamps, .. } = request;
        let mut extents = Vec::new();
        let failure = self.failures.pop();
        let at = |offset: u64, length: usize| {
            let start = usize::try_from(offset).unwrap();
            assert!(start.is_multiple_of(4096) && length.is_multiple_of(4096) && length > 0);
            start..start + length
        };
        let buf = match operation {
            Operation::Read { offset, mut buf } => {
                assert!(buf.len() <= MAX_DATA_BYTES);
                let range = at(offset, buf.len());
                buf.copy_from_slice(&self.disk(place)[range]);
                Some(buf)
            }
            Operation::Write { offset, buf, .. } => {
                assert!(buf.len() <= MAX_DATA_BYTES);
                if failure.is_none() {
                    let range = at(offset, buf.len());
                    self.disk(place)[range].copy_from_slice(&buf);
                }
                Some(buf)
            }
            Operation::WriteZeroes { offset, length, .. } | Operation::Trim { offset, length } => {
                if failure.is_none() {
                    let range = at(offset, usize::try_from(length).unwrap());
                    self.disk(place)[range].fill(0);
                }
                None
            }
            Operation::Map { offset, length } => {
                let range = at(offset, usize::try_from(length).unwrap());
                extents = extents_of(&self.disk(place)[range]);
                None
            }
            Operation::Flush => {
                self.flushes += 1;
                None
            }
        };
        Reply { token, result: failure.map_or(Ok(()), Err), buf, extents: extents.into(), stamps }
    }
}

/// Blocks of zeroes are holes of this disk. Of a long list only a part is told.
fn extents_of(data: &[u8]) -> Vec<Extent> {
    let mut all: Vec<Extent> = Vec::new();
    for block in data.chunks(4096) {
        let stored = block.iter().any(|byte| *byte != 0);
        let full = all.len() == 5;
        match all.last_mut() {
            Some(last) if last.stored == stored => last.bytes += 4096,
            _ if full => break,
            _ => all.push(Extent { bytes: 4096, stored }),
        }
    }
    all
}

/// One client's socket.
#[derive(Default)]
pub struct Client {
    sock: Option<SocketId>,
    connected: bool,
    pub got: Vec<u8>,
    /// The server has ended the connection.
    pub ended: bool,
    out: Vec<u8>,
    sending: bool,
}

pub struct Rig {
    pub world: World,
    pub io: Io,
    pub server: Server,
    pub ram: Ram,
    /// What the door has said to those of other cores.
    pub doors: Vec<Envelope>,
    client_io: Io,
    pub clients: Vec<Client>,
    addr: SocketAddr,
    /// Bytes of one send at most: streams are cut.
    pub cut: usize,
    pause_ns: u64,
}

impl Rig {
    pub fn new(seed: u64, exports: Vec<Export>, change: impl FnOnce(&mut ServerConfig)) -> Rig {
        Rig::with(seed, exports, change, 24)
    }

    /// With so many long buffers.
    pub fn with(seed: u64, exports: Vec<Export>, change: impl FnOnce(&mut ServerConfig), long: u32) -> Rig {
        let world = World::new(seed);
        let core = |node| {
            let pool = PoolConfig::new(vec![(4096, 64), (32 << 10, 96), (MAX_DATA_BYTES, long)]);
            Io::new(Box::new(world.driver(CoreConfig { node, pool })))
        };
        let (mut io, client_io) = (core(SERVER), core(CLIENT));
        let mut config = ServerConfig::new(vec![Listen::Tcp(SocketAddr::new(SERVER.addr(), 10_809))]);
        change(&mut config);
        let mut server = Server::new(config, OWNER);
        server.set_exports(&mut io, Arc::new(Exports::new(exports.into_iter().map(Arc::new).collect())));
        let bound = server.start(&mut io).unwrap();
        let [Listen::Tcp(addr)] = bound[..] else { panic!("{bound:?}") };
        let ram = Ram {
            disks: BTreeMap::new(),
            waiting: Vec::new(),
            called_off: Vec::new(),
            failures: Vec::new(),
            asleep: false,
            in_order: false,
            at_once: false,
            flushes: 0,
            most_waiting: 0,
            rng: Rng::new(seed),
        };
        let clients = Vec::new();
        Rig {
            world,
            io,
            server,
            ram,
            doors: Vec::new(),
            client_io,
            clients,
            addr,
            cut: usize::MAX,
            pause_ns: 0,
        }
    }

    pub fn connect(&mut self) -> usize {
        let number = self.clients.len();
        let key = u64::try_from(number).unwrap() << 2;
        let sock = self.client_io.connect(Tag { owner: CLIENTS, key }, self.addr).unwrap();
        self.clients.push(Client { sock: Some(sock), ..Client::default() });
        number
    }

    /// One turn of both sides. Time passes in steps that grow while nothing happens.
    pub fn turn(&mut self) {
        let mut events = Vec::new();
        self.io.poll(Wait::No, &mut events);
        let mut quiet = events.is_empty();
        for (tag, event) in events.drain(..) {
            assert_eq!(tag.owner, OWNER);
            self.server.on_event(&mut self.io, tag.key, event);
        }
        let outputs = self.server.outputs();
        self.ram.waiting.append(&mut outputs.requests);
        self.ram.called_off.append(&mut outputs.called_off);
        self.doors.append(&mut outputs.messages);
        self.ram.most_waiting = self.ram.most_waiting.max(self.ram.waiting.len());
        while !self.ram.waiting.is_empty() && !self.ram.asleep {
            let at = if self.ram.in_order { 0 } else { self.ram.rng.index(self.ram.waiting.len()) };
            let request = self.ram.waiting.remove(at);
            let reply = self.ram.answer(request);
            assert!(Server::owns(reply.token));
            self.server.on_reply(&mut self.io, reply);
            quiet = false;
            if !self.ram.at_once && self.ram.rng.index(3) == 0 {
                break;
            }
        }
        self.server.step(&mut self.io);
        self.turn_clients(&mut quiet);
        self.pause_ns = if quiet { (self.pause_ns * 2).clamp(100, 5_000_000) } else { 0 };
        self.world.advance(self.pause_ns);
    }

    fn turn_clients(&mut self, quiet: &mut bool) {
        let mut events = Vec::new();
        self.client_io.poll(Wait::No, &mut events);
        *quiet &= events.is_empty();
        for (tag, event) in events {
            let client = &mut self.clients[usize::try_from(tag.key >> 2).unwrap()];
            let tag = |kind| Tag { owner: CLIENTS, key: tag.key & !3 | kind };
            match event {
                Event::Connected { .. } => {
                    client.connected = true;
                    self.client_io.receive(tag(1), client.sock.unwrap());
                }
                Event::Received(chunk) => client.got.extend_from_slice(&chunk),
                Event::Sent(slices) => {
                    self.client_io.recycle(slices);
                    client.sending = false;
                }
                Event::EndOfStream | Event::Failed { .. } => client.ended = true,
                _ => {}
            }
        }
        for (client, number) in self.clients.iter_mut().zip(0u64..) {
            if client.out.is_empty() || client.sending || !client.connected || client.ended {
                continue;
            }
            let most = client.out.len().min(self.cut).min(4096);
            let Some(mut buf) = self.client_io.alloc(most) else { continue };
            buf.copy_from_slice(&client.out[..most]);
            client.out.drain(..most);
            let slices = vec![buf.freeze()];
            self.client_io.send(Tag { owner: CLIENTS, key: number << 2 | 2 }, client.sock.unwrap(), slices);
            client.sending = true;
            *quiet = false;
        }
    }

    pub fn until(&mut self, what: &str, mut reached: impl FnMut(&mut Rig) -> bool) {
        for _ in 0..200_000 {
            if reached(self) {
                return;
            }
            self.turn();
        }
        panic!("never: {what}; {:?}", self.server.stats());
    }

    pub fn turns(&mut self, count: u32) {
        (0..count).for_each(|_| self.turn());
    }

    pub fn say(&mut self, client: usize, bytes: &[u8]) {
        self.clients[client].out.extend_from_slice(bytes);
    }

    /// The next bytes that a client gets.
    pub fn take(&mut self, client: usize, count: usize) -> Vec<u8> {
        self.until("bytes for the client", |rig| {
            rig.clients[client].got.len() >= count || rig.clients[client].ended
        });
        let got = &mut self.clients[client].got;
        assert!(got.len() >= count, "the server ended the connection after {got:?}");
        got.drain(..count).collect()
    }

    /// A client begins to read what it is sent, or ends to.
    pub fn set_reading(&mut self, client: usize, reads: bool) {
        let tag = Tag { owner: CLIENTS, key: u64::try_from(client).unwrap() << 2 | 1 };
        let sock = self.clients[client].sock.unwrap();
        if reads {
            self.client_io.receive(tag, sock);
        } else {
            self.client_io.stop_receive(tag, sock);
        }
    }

    /// Lets time pass while both sides go on.
    pub fn pass_ms(&mut self, ms: u64) {
        let end = self.io.now().plus_ms(ms);
        while self.io.now() < end {
            self.turn();
        }
    }

    pub fn until_ended(&mut self, client: usize) {
        self.until("the end of the connection", |rig| rig.clients[client].ended);
    }

    /// Greeting and client flags.
    pub fn greet(&mut self, client: usize, flags: u32) {
        assert_eq!(self.take(client, 18), b"NBDMAGICIHAVEOPT\0\x03");
        self.say(client, &flags.to_be_bytes());
    }

    /// Says an option.
    pub fn option(&mut self, client: usize, option: u32, data: &[u8]) {
        self.say(client, &option_bytes(option, data));
    }

    /// The reply to an option: its kind and its data.
    pub fn option_reply(&mut self, client: usize, option: u32) -> (u32, Vec<u8>) {
        let head = self.take(client, 20);
        assert_eq!(head[..8], 0x0003_e889_0455_65a9u64.to_be_bytes());
        assert_eq!(head[8..12], option.to_be_bytes());
        let [kind, length] = [12, 16].map(|at| u32::from_be_bytes(head[at..at + 4].try_into().unwrap()));
        (kind, self.take(client, usize::try_from(length).unwrap()))
    }

    /// From the connect to the first request; the transmission flags.
    pub fn open(&mut self, name: &str, structured: bool) -> (usize, u16) {
        let client = self.connect();
        self.greet(client, 3);
        if structured {
            self.option(client, 8, &[]);
            assert_eq!(self.option_reply(client, 8), (1, vec![]));
        }
        self.option(client, 7, &go(name, &[]));
        let (kind, info) = self.option_reply(client, 7);
        assert_eq!((kind, &info[..2]), (3, &[0, 0][..]));
        let flags = u16::from_be_bytes([info[10], info[11]]);
        let (kind, sizes) = self.option_reply(client, 7);
        assert_eq!((kind, &sizes[..2]), (3, &[0, 3][..]));
        assert_eq!(self.option_reply(client, 7), (1, vec![]));
        (client, flags)
    }

    /// Asks for the context of what is stored; true when it is given.
    pub fn ask_allocation(&mut self, client: usize, name: &str) -> bool {
        let length = u32::try_from(name.len()).unwrap().to_be_bytes();
        let query = b"base:allocation";
        let data = [&length[..], name.as_bytes(), &1u32.to_be_bytes(), &15u32.to_be_bytes(), query].concat();
        self.option(client, 10, &data);
        match self.option_reply(client, 10) {
            (4, told) => {
                assert_eq!(told, [&1u32.to_be_bytes()[..], query].concat());
                assert_eq!(self.option_reply(client, 10), (1, vec![]));
                true
            }
            (kind, _) => {
                assert_eq!(kind, 1);
                false
            }
        }
    }

    /// What is stored, as lengths and flags; or the error.
    pub fn map(&mut self, client: usize, flags: u16, at: u64, length: u32) -> Result<Vec<(u32, u32)>, u32> {
        self.request(client, (MAP, flags, 79, at, length), &[]);
        let head = self.take(client, 20);
        let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
        assert_eq!(
            (number(0), &head[4..6], &head[8..16]),
            (0x668e_33ef, &[0, 1][..], &79u64.to_be_bytes()[..])
        );
        let data = self.take(client, usize::try_from(number(16)).unwrap());
        let words: Vec<u32> =
            data.chunks_exact(4).map(|w| u32::from_be_bytes(w.try_into().unwrap())).collect();
        match &head[6..8] {
            [0, 5] => {
                assert_eq!(words[0], 1, "the context");
                Ok(words[1..].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
            }
            [0x80, 1] => Err(words[0]),
            kind => panic!("a chunk of kind {kind:?}"),
        }
    }

    pub fn request(&mut self, client: usize, request: (u16, u16, u64, u64, u32), data: &[u8]) {
        self.say(client, &request_bytes(request, data));
    }

    /// A simple reply: error, cookie.
    pub fn reply(&mut self, client: usize) -> (u32, u64) {
        let head = self.take(client, 16);
        assert_eq!(head[..4], 0x6744_6698u32.to_be_bytes());
        let error = u32::from_be_bytes(head[4..8].try_into().unwrap());
        (error, u64::from_be_bytes(head[8..].try_into().unwrap()))
    }

    /// One request to its end; the error.
    pub fn execute(&mut self, client: usize, command: u16, flags: u16, at: u64, data: &[u8]) -> u32 {
        let length = u32::try_from(data.len()).unwrap();
        self.request(client, (command, flags, 77, at, length), data);
        let (error, cookie) = self.reply(client);
        assert_eq!(cookie, 77);
        error
    }

    pub fn read(&mut self, client: usize, at: u64, length: u32) -> Result<Vec<u8>, u32> {
        self.request(client, (READ, 0, 78, at, length), &[]);
        match self.reply(client) {
            (0, 78) => Ok(self.take(client, usize::try_from(length).unwrap())),
            (error, cookie) => {
                assert_eq!(cookie, 78);
                Err(error)
            }
        }
    }
}

/// Data of GO and INFO.
pub fn go(name: &str, wanted: &[u16]) -> Vec<u8> {
    let length = u32::try_from(name.len()).unwrap().to_be_bytes();
    let count = u16::try_from(wanted.len()).unwrap().to_be_bytes();
    let wanted: Vec<u8> = wanted.iter().flat_map(|w| w.to_be_bytes()).collect();
    [&length[..], name.as_bytes(), &count, &wanted].concat()
}

pub fn option_bytes(option: u32, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap().to_be_bytes();
    [b"IHAVEOPT", &option.to_be_bytes()[..], &length, data].concat()
}

/// Command, flags, cookie, offset, length.
pub fn request_bytes(
    (command, flags, cookie, offset, length): (u16, u16, u64, u64, u32),
    data: &[u8],
) -> Vec<u8> {
    let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.extend_from_slice(&command.to_be_bytes());
    bytes.extend_from_slice(&cookie.to_be_bytes());
    bytes.extend_from_slice(&offset.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    if command == WRITE {
        bytes.extend_from_slice(data);
    }
    bytes
}

pub fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|i| u8::try_from((i / 7 + i) % 251).unwrap() ^ seed).collect()
}
