//! What cores promise each other: two in one thread, in a simulated world, or one whose neighbour is the test.
#![allow(clippy::unwrap_used)] // helpers of tests

use dolmen_core::{
    Core,
    message::{Answer, Between, Links, ToCore},
};
use dolmen_io::{Event, InboxSender, Io, Owner, PoolConfig, Tag, Wait, Wake, inbox, mailbox};
use dolmen_nvme::{
    spec::{ConnectCommand, ConnectData, SglDescriptor},
    tcp::{CommonHeader, IcReq, PduKind},
};
use dolmen_sim::{CoreConfig, NodeId, World};
use dolmen_target::{Identity, NamespaceTable, TargetConfig};
use dolmen_types::CoreId;
use std::{net::SocketAddr, sync::Arc};
use zerocopy::IntoBytes;

const NODE: NodeId = NodeId(1);
const SUBSYSTEM: &str = "nqn.2020-01.example:cores";
const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:aaaaaaaa-0000-4000-8000-000000000001";

fn address() -> SocketAddr {
    SocketAddr::new(NODE.addr(), 4420)
}

fn io(world: &World, node: NodeId) -> Io {
    Io::new(Box::new(world.driver(CoreConfig { node, pool: PoolConfig::sized(8 << 20) })))
}

/// A core of two that sleeps as soon as it can, where its orders go, and what wakes it.
fn core(world: &World, id: u16) -> (Core, InboxSender<ToCore>, Arc<dyn Wake>) {
    let io = io(world, NODE);
    let waker = io.waker();
    let (orders, receiver) = inbox(16, waker.clone());
    (Core::new(CoreId(id), 2, io, receiver, Box::new(drop), 0), orders, waker)
}

fn listen(orders: &InboxSender<ToCore>, id: u16) {
    let identity = Identity {
        subsystem: SUBSYSTEM.parse().unwrap(),
        serial: "1".into(),
        model: "Dolmen".into(),
        firmware: "1".into(),
    };
    let config = TargetConfig {
        core: CoreId(id),
        cores: 2,
        io_listen: vec![address()],
        ..TargetConfig::new(identity)
    };
    let (config, table) = (Box::new(config), Arc::new(NamespaceTable::new(1, Vec::new())));
    let answer = Answer::new(|listens: Result<(), String>| listens.unwrap());
    assert!(orders.send(ToCore::Listen { config, table, answer }).is_ok());
}

/// ICReq and the Connect of a queue, as a capsule with its data.
fn connect(queue: u16, controller: u16) -> Vec<u8> {
    let command = ConnectCommand { record_format: 0, queue, sq_size: 31, attributes: 4, keep_alive_ms: 0 };
    let data = ConnectData::new([7; 16], controller, SUBSYSTEM, HOST);
    let mut sqe = command.encode(1);
    sqe.data_pointer = SglDescriptor::in_capsule(1024);
    let mut header = CommonHeader::new(PduKind::CAPSULE_CMD);
    (header.length, header.data_offset) = (1096.into(), 72);
    [IcReq::new(0, 0, 0).as_bytes(), header.as_bytes(), sqe.as_bytes(), data.as_bytes()].concat()
}

/// A host's connection: sends `bytes`, and hears until it has got `wanted` bytes; false when it is ended before, or in vain.
fn hears(host: &mut Io, bytes: &[u8], wanted: usize, mut turn: impl FnMut()) -> bool {
    let tag = |key| Tag { owner: Owner(9), key };
    let sock = host.connect(tag(1), address()).unwrap();
    let (mut events, mut got) = (Vec::new(), 0);
    for _ in 0..2000 {
        host.poll(Wait::No, &mut events);
        for (_, event) in events.drain(..) {
            match event {
                Event::Connected { .. } => {
                    let mut buf = host.alloc(bytes.len()).unwrap();
                    buf.copy_from_slice(bytes);
                    host.send(tag(2), sock, vec![buf.freeze()]);
                    host.receive(tag(3), sock);
                }
                Event::Received(chunk) => got += chunk.len(),
                Event::EndOfStream | Event::Failed { .. } => return false,
                _ => {}
            }
        }
        host.submit();
        if got >= wanted {
            return true;
        }
        turn();
    }
    false
}

/// ICResp and a response. Bytes.
const ANSWERED: usize = 128 + 24;

#[test]
fn a_core_that_does_not_listen_yet_holds_no_connect_up() {
    let world = World::new(1);
    let mut cores = [0, 1].map(|id| core(&world, id));
    let (to_second, from_first) = mailbox::channel(64, cores[1].2.clone());
    let (to_first, from_second) = mailbox::channel(64, cores[0].2.clone());
    let links = [
        Links { out: vec![None, Some(to_second)], into: vec![from_second] },
        Links { out: vec![Some(to_first), None], into: vec![from_first] },
    ];
    for ((_, orders, _), links) in cores.iter().zip(links) {
        assert!(orders.send(ToCore::Link(links)).is_ok());
    }
    listen(&cores[0].1, 0);
    let mut host = io(&world, NodeId(2));
    let mut turn = || {
        world.advance(50_000);
        cores.iter_mut().for_each(|(core, ..)| assert!(core.turn()));
    };
    turn();
    let began = world.now();
    assert!(hears(&mut host, &connect(0, ConnectData::DYNAMIC), ANSWERED, &mut turn), "an admin queue");
    // A queue of a controller from before a restart, on the core that is late.
    assert!(hears(&mut host, &connect(1, 40_000), ANSWERED, &mut turn), "a queue");
    assert!(world.now().since(began) < 1_000_000_000);
}

#[test]
fn mail_that_found_no_room_goes_as_soon_as_there_is_some() {
    const MESSAGES: u64 = 100;
    let world = World::new(2);
    let (mut core, orders, waker) = core(&world, 1);
    let (mut requests, into) = mailbox::channel(256, waker);
    let (out, mut answers) = mailbox::channel(2, io(&world, NODE).waker());
    assert!(orders.send(ToCore::Link(Links { out: vec![Some(out), None], into: vec![into] })).is_ok());
    // That it is to close sets a timer: time goes there when it sleeps.
    let began = world.now();
    assert!(orders.send(ToCore::Close { answer: Answer::new(drop) }).is_ok());
    core.turn();
    for ticket in 0..MESSAGES {
        assert!(
            requests
                .push(Between::CallOff { from: CoreId(0), tokens: Box::default(), ticket: Some(ticket) })
                .is_ok()
        );
    }
    requests.flush();
    let mut got = Vec::new();
    for _ in 0..2 * MESSAGES {
        assert!(core.turn());
        answers.drain(&mut got);
        if got.len() as u64 == MESSAGES {
            break;
        }
    }
    assert_eq!(got.len() as u64, MESSAGES);
    assert!(world.now().since(began) < 1_000_000_000, "it slept");
}
