//! The blocking face over real sockets on the loopback, with the controller of the other tests on a thread of its own.
#![allow(clippy::unwrap_used)] // tests

mod common;

use common::{BLOCK, Behaviour, PEER, Ram, entry};
use dolmen_initiator::{
    BlockRange, Digests, ErrorKind, Options, State,
    blocking::{Session, SessionError},
    load::{Load, LoadOptions, Mix, Pattern},
};
use dolmen_io::{Io, Wait};
use dolmen_nvme::spec::Status;
use dolmen_types::{Nqn, Uuid};
use dolmen_uring::{Uring, UringConfig};
use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::mpsc::{Sender, channel},
    thread::JoinHandle,
};

fn io() -> Io {
    let config = UringConfig::without_drives(32 << 20);
    Io::new(Box::new(Uring::new(&config).unwrap()))
}

enum Order {
    DropAll,
    Stop,
}

/// A controller on its own thread.
struct Peer {
    addr: SocketAddr,
    orders: Sender<Order>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    fn start(behaviour: Behaviour) -> Peer {
        let (orders, inbox) = channel();
        let (tell, told) = channel();
        let thread = std::thread::spawn(move || {
            let mut io = io();
            let mut ram = Ram::listen(&mut io, (Ipv4Addr::LOCALHOST, 0).into(), behaviour);
            tell.send(ram.addr).unwrap();
            let mut events = Vec::new();
            loop {
                match inbox.try_recv() {
                    Ok(Order::DropAll) => ram.drop_all(&mut io),
                    Ok(Order::Stop) => return,
                    Err(_) => {}
                }
                ram.step(&mut io);
                let until = io.now().plus_ms(2);
                io.poll(Wait::Until(until), &mut events);
                for (tag, event) in events.drain(..) {
                    assert_eq!(tag.owner, PEER);
                    ram.on_event(&mut io, tag.key, event);
                }
            }
        });
        Peer { addr: told.recv().unwrap(), orders, thread: Some(thread) }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn options(addr: SocketAddr) -> Options {
    let host: Nqn = "nqn.2014-08.org.example:host".parse().unwrap();
    Options::new(addr, "nqn.2014-08.org.example:ram".parse().unwrap(), host, Uuid([3; 16]))
}

#[test]
fn reads_and_writes_more_than_one_command_takes() {
    let peer = Peer::start(Behaviour { max_transfer: 4, ..Behaviour::default() });
    for digests in [false, true] {
        let mut o = options(peer.addr);
        (o.io_queues, o.digests) = (3, Digests { header: digests, data: digests });
        let mut s = Session::connect(io(), o).unwrap();
        assert_eq!(s.state(), State::Live { queues: 3 });
        assert_eq!(s.namespaces().unwrap(), [1]);
        let ns = s.namespace(1).unwrap();
        assert_eq!((ns.size_bytes(), ns.uuid), (1024 * 4096, Some(common::UUID)));
        let data: Vec<u8> = (0..700 * BLOCK).map(|i| (i / 7).to_le_bytes()[0]).collect();
        s.write(&ns, 100, &data).unwrap();
        s.flush(&ns).unwrap();
        let mut back = vec![0; data.len()];
        s.read(&ns, 100, &mut back).unwrap();
        assert!(back == data);
        s.compare(&ns, 100, &data[..8 * BLOCK]).unwrap();
        let differs = s.compare(&ns, 101, &data[..BLOCK]).unwrap_err();
        let SessionError::Command(failure) = differs else { panic!("{differs}") };
        assert!(failure.status().unwrap().same_code(Status::COMPARE_FAILURE));
        s.trim(&ns, &[BlockRange { lba: 100, blocks: 2 }, BlockRange { lba: 110, blocks: 1 }]).unwrap();
        s.write_zeroes(&ns, 105, 1).unwrap();
        s.read(&ns, 100, &mut back[..11 * BLOCK]).unwrap();
        let zero = |b: usize| back[b * BLOCK..(b + 1) * BLOCK].iter().all(|&x| x == 0);
        assert!([0, 1, 5, 10].into_iter().all(zero) && !zero(2) && !zero(9));
        assert_eq!(s.read(&ns, 0, &mut [0; 100]), Err(SessionError::Length));
        s.disconnect();
    }
}

#[test]
fn discovers() {
    let addr: SocketAddr = "192.0.2.7:4420".parse().unwrap();
    let names: Vec<String> = (0..40).map(|i| format!("nqn.2014-08.org.example:sub{i}")).collect();
    let entries = names.iter().map(|n| entry(n, addr)).collect();
    let peer = Peer::start(Behaviour { discovery: Some(entries), ..Behaviour::default() });
    let mut o = options(peer.addr);
    o.subsystem = Nqn::DISCOVERY.parse().unwrap();
    let mut s = Session::connect(io(), o).unwrap();
    let found = s.discover().unwrap();
    assert_eq!(found.len(), 40);
    assert!(found.iter().zip(&names).all(|(f, n)| f.nqn.as_str() == n && f.addr == addr));
}

#[test]
fn a_load_goes_on_when_its_connections_are_dropped() {
    let peer = Peer::start(Behaviour::default());
    let mut o = options(peer.addr);
    o.io_queues = 2;
    let mut s = Session::connect(io(), o).unwrap();
    let load_options = LoadOptions {
        region_bytes: 1024 * 4096,
        size_bytes: 4096,
        depth: 16,
        queues: 2,
        mix: Mix { reads: 50, zeroes: 5 },
        verify: Some(1),
        deadline_ms: Some(20_000),
        ..LoadOptions::new(s.namespace(1).unwrap())
    };
    let mut load = Load::new(s.subsystem(), load_options).unwrap();
    load.set_work(Pattern::Random, Mix { reads: 50, zeroes: 5 }, 20_000);
    let mut next = 2000;
    s.run(&mut load, |load, _| {
        let stats = load.stats();
        if stats.reads + stats.changes > next {
            next += 5000;
            peer.orders.send(Order::DropAll).unwrap();
        }
        true
    });
    let units = load.units();
    load.set_work(Pattern::Sequential, Mix::READ, units);
    s.run(&mut load, |_, _| true);
    let stats = load.stats();
    assert_eq!((stats.errors, stats.violations, &stats.first_violation), (0, 0, &None));
    assert!(s.take_notices().len() >= 4, "connections were dropped");
}

#[test]
fn nobody_there_is_an_error_at_once() {
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    match Session::connect(io(), options(closed)) {
        Err(SessionError::Connect(error)) => assert_eq!(error.kind, ErrorKind::Connection),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("connected to nobody"),
    }
}
