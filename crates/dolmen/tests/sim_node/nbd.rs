//! An NBD client that vanishes while its writes wait in a volume's QoS policy: none of them is carried out under its successor,
//! whichever cores the two come to.

use crate::{
    node::NODE,
    why::{Scene, descriptor},
};
use dolmen_export::{
    Export,
    backend::{MAX_DATA_BYTES, Place},
};
use dolmen_io::{Event, Io, Owner, PoolConfig, SocketId, Tag, Wait};
use dolmen_sim::{CoreConfig, NodeId};
use dolmen_types::{
    Nanos, Uuid,
    qos::{PerDirection, QosAssignment, QosLimits},
    volume::{IpAccess, VolumeDescriptor},
};
use std::net::SocketAddr;

const MS: u64 = 1_000_000;
/// Where clients are.
const CLIENT: NodeId = NodeId(9);
/// Writes that wait.
const WRITES: u64 = 12;

/// A client's socket.
pub struct Client {
    io: Io,
    sock: SocketId,
    got: Vec<u8>,
}

impl Client {
    /// One turn, which waits at most until `until`.
    pub fn turn(&mut self, until: Nanos) {
        let mut events = Vec::new();
        self.io.poll(Wait::Until(until), &mut events);
        for (_, event) in events {
            match event {
                Event::Connected { .. } => self.io.receive(tag(1), self.sock),
                Event::Received(chunk) => self.got.extend_from_slice(&chunk),
                _ => {}
            }
        }
    }
}

impl Scene {
    fn say(&mut self, client: usize, parts: &[&[u8]]) {
        let Client { io, sock, .. } = &mut self.clients[client];
        let bytes = parts.concat();
        let mut buf = io.alloc(bytes.len()).unwrap();
        buf.copy_from_slice(&bytes);
        io.send(tag(2), *sock, vec![buf.freeze()]);
    }

    /// Waits for bytes, and takes them.
    fn take(&mut self, client: usize, count: usize) -> Vec<u8> {
        self.run(10_000 * MS, |s| s.clients[client].got.len() >= count);
        self.clients[client].got.drain(..count).collect()
    }

    /// From the connect to the first request.
    fn open(&mut self, to: SocketAddr) -> usize {
        let pool = PoolConfig::sized(16 << 20);
        let mut io = Io::new(Box::new(self.world.driver(CoreConfig { node: CLIENT, pool })));
        let sock = io.connect(tag(0), to).unwrap();
        let client = self.clients.len();
        self.clients.push(Client { io, sock, got: Vec::new() });
        self.take(client, 18);
        // No zeroes; the export by its name, the old way.
        self.say(
            client,
            &[&3u32.to_be_bytes(), b"IHAVEOPT", &1u32.to_be_bytes(), &2u32.to_be_bytes(), b"v1"],
        );
        self.take(client, 10);
        client
    }

    fn request(&mut self, client: usize, command: u16, block: u64, data: &[u8]) {
        let head = [&0x2560_9513u32.to_be_bytes()[..], &[0; 2], &command.to_be_bytes(), &[0; 8]].concat();
        self.say(client, &[&head, &(block * 4096).to_be_bytes(), &4096u32.to_be_bytes(), data]);
    }

    /// The first bytes of the blocks that are written.
    fn firsts(&mut self, client: usize) -> Vec<u8> {
        let read = |block| {
            self.request(client, 0, block, &[]);
            let reply = self.take(client, 16 + 4096);
            assert_eq!(reply[4..8], [0; 4]);
            reply[16]
        };
        (0..WRITES).map(read).collect()
    }
}

fn tag(key: u64) -> Tag {
    Tag { owner: Owner(9), key }
}

#[test]
fn writes_of_a_client_that_is_gone_are_not_carried_out_under_its_successor() {
    let limits = QosLimits { iops: PerDirection { read: 0, write: 1 }, ..QosLimits::default() };
    let qos = Some(QosAssignment { policy: Uuid([7; 16]), revision: 1, name: "p".into(), limits });
    let volume = VolumeDescriptor { qos, ..descriptor() };
    let door = SocketAddr::new(NODE.addr(), 10_809);
    for (seed, cores) in [(1, 1), (2, 2), (3, 3), (4, 3)] {
        let mut scene = Scene::new(seed, cores, &volume);
        scene.process.open_nbd(
            door,
            Export {
                name: "v1".into(),
                uuid: volume.uuid,
                size_bytes: volume.size_bytes,
                block_bytes: 4096,
                piece_bytes: u32::try_from(MAX_DATA_BYTES).unwrap(),
                read_only: false,
                can_zero: true,
                maps: true,
                nsid: 1,
                access: IpAccess::Any,
                place: Place::Volume(scene.at),
            },
        );
        scene.run(100 * MS, |_| false);
        let client = scene.open(door);
        for block in 0..WRITES {
            scene.request(client, 1, block, &[1; 4096]);
        }
        // The first is answered.
        scene.take(client, 16);
        scene.world.reset(CLIENT, NODE);
        let next = scene.open(door);
        let before = scene.firsts(next);
        assert!(before[0] == 1 && before.contains(&0), "seed {seed}: writes wait: {before:?}");
        // By then the policy would have let all of them through.
        scene.run(20_000 * MS, |_| false);
        assert_eq!(scene.firsts(next), before, "seed {seed}");
    }
}
