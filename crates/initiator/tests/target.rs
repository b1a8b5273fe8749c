//! Our host against our target: every command over real sockets, and verified load through faults in a simulated world.
#![allow(clippy::unwrap_used)] // tests

#[path = "common/server.rs"]
mod server;

use dolmen_initiator::{
    BlockRange, Digests, Discovered, Failure, Initiator, Namespace, Notice, OWNER, Options, State,
    blocking::{Session, SessionError},
    load::{Load, LoadOptions, Mix, Pattern, Rng},
};
use dolmen_io::{Io, PoolConfig, Wait};
use dolmen_nvme::spec::{LogId, Status, notice};
use dolmen_sim::{CoreConfig, NodeId, World};
use dolmen_types::{Nqn, Uuid};
use dolmen_uring::{Uring, UringConfig};
use server::{SUBSYSTEM, Server, space};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::mpsc::{Sender, channel},
    thread::JoinHandle,
    time::Duration,
};

fn io() -> Io {
    let config = UringConfig::without_drives(32 << 20);
    Io::new(Box::new(Uring::new(&config).unwrap()))
}

fn options(addr: SocketAddr) -> Options {
    let host: Nqn = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-4333-8444-000000000001".parse().unwrap();
    Options::new(addr, SUBSYSTEM.parse().unwrap(), host, Uuid([3; 16]))
}

enum Order {
    Resize(u64),
    /// Ends, and is started again after this time on the same port with the same data.
    Restart(Duration),
    Stop,
}

struct Peer {
    addr: SocketAddr,
    orders: Sender<Order>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    fn start() -> Peer {
        let (orders, inbox) = channel();
        let (tell, told) = channel();
        let thread = std::thread::spawn(move || {
            let mut server = Server::start(io(), (Ipv4Addr::LOCALHOST, 0).into(), None);
            tell.send(server.addr).unwrap();
            let mut generation = 1;
            loop {
                match inbox.try_recv() {
                    Ok(Order::Resize(bytes)) => {
                        generation += 1;
                        server.set(generation, &[space(1, bytes), space(2, 8 << 20)]);
                    }
                    Ok(Order::Restart(pause)) => {
                        let Server { io: old, target, addr, volumes, .. } = server;
                        drop((target, old));
                        std::thread::sleep(pause);
                        server = Server::start(io(), addr, Some(volumes));
                    }
                    Ok(Order::Stop) => return,
                    Err(_) => {}
                }
                let until = server.io.now().plus_ms(1);
                server.turn(Wait::Until(until));
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

#[test]
fn finds_the_subsystem_by_discovery_and_uses_every_command() {
    let peer = Peer::start();
    let mut o = options(peer.addr);
    o.subsystem = Nqn::DISCOVERY.parse().unwrap();
    let mut discovery = Session::connect(io(), o).unwrap();
    let found = discovery.discover().unwrap();
    let entry = found.iter().find(|e| e.kind == Discovered::Subsystem).unwrap();
    assert_eq!((entry.nqn.as_str(), entry.addr), (SUBSYSTEM, peer.addr));
    let mut io = discovery.disconnect();
    for digests in [false, true] {
        let mut o = options(entry.addr);
        (o.io_queues, o.digests) = (4, Digests { header: digests, data: digests });
        let mut s = Session::connect(io, o).unwrap();
        assert_eq!(s.identity().model, "Dolmen");
        assert_eq!(s.namespaces().unwrap(), [1, 2]);
        for nsid in [1, 2] {
            exercise(&mut s, nsid);
        }
        io = s.disconnect();
    }
}

fn exercise(s: &mut Session, nsid: u32) {
    let ns = s.namespace(nsid).unwrap();
    let block = usize::try_from(ns.block_bytes).unwrap();
    assert_eq!((ns.size_bytes(), ns.uuid), (8 << 20, Some(Uuid([u8::try_from(nsid).unwrap(); 16]))));
    let data: Vec<u8> = (0..1_500 * 512).map(|i: usize| (i / 3).to_le_bytes()[0]).collect();
    let data = &data[..data.len() / block * block];
    let lba = 11;
    s.write(&ns, lba, data).unwrap();
    s.flush(&ns).unwrap();
    let mut back = vec![0; data.len()];
    s.read(&ns, lba, &mut back).unwrap();
    assert!(back == data);
    s.compare(&ns, lba, &data[..16 * block]).unwrap();
    let SessionError::Command(Failure::Status(status)) = s.compare(&ns, lba + 1, &data[..block]).unwrap_err()
    else {
        panic!("a compare with other data failed otherwise");
    };
    assert!(status.same_code(Status::COMPARE_FAILURE));
    s.trim(&ns, &[BlockRange { lba, blocks: 8 }, BlockRange { lba: lba + 16, blocks: 8 }]).unwrap();
    s.write_zeroes(&ns, lba + 10, 2).unwrap();
    s.read(&ns, lba, &mut back[..24 * block]).unwrap();
    let zero = |b: usize| back[b * block..(b + 1) * block].iter().all(|&x| x == 0);
    assert!((0..8).chain(10..12).chain(16..24).all(zero) && !zero(9) && !zero(12));
    assert!(s.read(&ns, ns.blocks, &mut back[..block]).is_err());
}

#[test]
fn a_verified_load_survives_restarts_and_hears_of_resizes() {
    let peer = Peer::start();
    let mut o = options(peer.addr);
    (o.io_queues, o.reconnect_min_ms, o.reconnect_max_ms) = (4, 10, 100);
    let mut s = Session::connect(io(), o).unwrap();
    let ns = s.namespace(1).unwrap();
    let mut load = Load::new(s.subsystem(), load_options(ns, 7)).unwrap();
    load.set_work(Pattern::Random, Mix { reads: 40, zeroes: 10 }, 30_000);
    let mut next = 5000;
    s.run(&mut load, |load, _| {
        if load.stats().reads + load.stats().changes > next {
            next += 10_000;
            peer.orders.send(Order::Restart(Duration::from_millis(60))).unwrap();
        }
        true
    });
    let units = load.units();
    load.set_work(Pattern::Sequential, Mix::READ, units);
    s.run(&mut load, |_, _| true);
    judge(&load);
    let lost = s.take_notices().iter().filter(|n| matches!(n, Notice::PathLost { .. })).count();
    assert!(lost >= 3, "the target was restarted three times");
    peer.orders.send(Order::Resize(4 << 20)).unwrap();
    let changed =
        |n: &Notice| matches!(n, Notice::Event { event, .. } if *event == notice::NAMESPACE_CHANGED);
    while !s.take_notices().iter().any(changed) {
        s.log_page(LogId::SMART, 512).unwrap();
    }
    assert_eq!(s.log_page(LogId::CHANGED_NAMESPACES, 4096).unwrap()[..8], [1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(s.namespace(1).unwrap().size_bytes(), 4 << 20);
}

fn namespace(nsid: u32, block_bytes: u32, blocks: u64) -> Namespace {
    Namespace { nsid, block_bytes, blocks, uuid: None, nguid: [0; 16], deallocated_reads_zero: true }
}

fn load_options(namespace: Namespace, seed: u64) -> LoadOptions {
    LoadOptions {
        region_bytes: 4 << 20,
        size_bytes: 8192,
        depth: 8,
        queues: 4,
        mix: Mix { reads: 40, zeroes: 10 },
        verify: Some(0xd01),
        seed,
        ..LoadOptions::new(namespace)
    }
}

fn judge(load: &Load) {
    let stats = load.stats();
    assert_eq!((stats.errors, stats.first_error), (0, None));
    assert_eq!((stats.violations, &stats.first_violation), (0, &None));
}

/// The same in virtual time, with resets and partitions at every moment, 512-byte blocks, digests.
#[test]
fn verified_load_in_a_simulated_world() {
    const HOST: NodeId = NodeId(1);
    const TARGET: NodeId = NodeId(2);
    for seed in 0..4 {
        let world = World::new(seed);
        let core = |node| {
            let pool = PoolConfig::sized(32 << 20);
            Io::new(Box::new(world.driver(CoreConfig { node, pool })))
        };
        let (mut io, server_io) = (core(HOST), core(TARGET));
        let mut server = Server::start(server_io, SocketAddr::new(TARGET.addr(), 4420), None);
        let mut initiator = Initiator::new(OWNER);
        let mut o = options(server.addr);
        (o.io_queues, o.keep_alive_ms, o.io_timeout_ms) = (4, 2000, 4000);
        o.digests = Digests { header: seed % 2 == 0, data: seed % 2 == 0 };
        let id = initiator.connect(&mut io, o).unwrap();
        let ns = namespace(2, 512, 16_384);
        let mut load = Load::new(id, load_options(ns, seed)).unwrap();
        load.set_work(Pattern::Random, Mix { reads: 40, zeroes: 10 }, 4000);
        let (mut rng, mut cut, mut pause_ns, mut sweeping) = (Rng::new(seed), 0u64, 0u64, false);
        let (mut events, mut completions, mut notices) = (Vec::new(), Vec::new(), Vec::new());
        for turn in 0.. {
            assert!(turn < 2_000_000, "stuck: {:?}", initiator.state(id));
            load.step(&mut io, &mut initiator);
            initiator.step(&mut io);
            io.poll(Wait::No, &mut events);
            let mut quiet = events.is_empty();
            for (tag, event) in events.drain(..) {
                initiator.on_event(&mut io, tag.key, event);
            }
            initiator.drain(&mut completions);
            initiator.drain_notices(&mut notices);
            completions.drain(..).for_each(|c| load.on_completion(c));
            quiet &= server.turn(Wait::No);
            pause_ns = if quiet { (pause_ns * 2).clamp(100, 5_000_000) } else { 0 };
            world.advance(pause_ns);
            if load.is_done() && sweeping {
                break;
            }
            if load.is_done() {
                sweeping = true;
                cut = 1;
                let units = load.units();
                load.set_work(Pattern::Sequential, Mix::READ, units);
            }
            match (cut, rng.below(2500)) {
                (0, 0) if !sweeping => world.reset(HOST, TARGET),
                (0, 1) if !sweeping => {
                    world.partition(HOST, TARGET);
                    cut = 1 + rng.below(3000);
                }
                (1, _) => world.heal(HOST, TARGET),
                _ => {}
            }
            cut = cut.saturating_sub(1);
        }
        judge(&load);
        assert!(matches!(initiator.state(id), State::Live { queues: 4 }));
        assert!(notices.iter().any(|n| matches!(n, Notice::PathLost { .. })), "the test is too kind");
    }
}

/// What is read beside writes lands as often as what is read alone: responses to writes don't stand between the data.
#[test]
fn reads_land_beside_writes() {
    let share = |reads: u8| {
        let world = World::new(5);
        let core = |node| {
            let pool = PoolConfig::sized(32 << 20);
            Io::new(Box::new(world.driver(CoreConfig { node: NodeId(node), pool })))
        };
        let (mut io, server_io) = (core(1), core(2));
        let mut server = Server::start(server_io, SocketAddr::new(NodeId(2).addr(), 4420), None);
        let mut initiator = Initiator::new(OWNER);
        let mut o = options(server.addr);
        (o.io_queues, o.queue_depth) = (1, 32);
        let id = initiator.connect(&mut io, o).unwrap();
        let ns = namespace(1, 4096, 2048);
        let mut load =
            Load::new(id, LoadOptions { depth: 32, queues: 1, size_bytes: 4096, ..load_options(ns, 5) })
                .unwrap();
        load.set_work(Pattern::Random, Mix { reads, zeroes: 0 }, 20_000);
        let (mut events, mut completions) = (Vec::new(), Vec::new());
        for turn in 0.. {
            assert!(turn < 1_000_000, "stuck: {:?}", initiator.state(id));
            load.step(&mut io, &mut initiator);
            initiator.step(&mut io);
            io.poll(Wait::No, &mut events);
            events.drain(..).for_each(|(tag, event)| initiator.on_event(&mut io, tag.key, event));
            initiator.drain(&mut completions);
            completions.drain(..).for_each(|c| load.on_completion(c));
            let quiet = server.turn(Wait::No);
            world.advance(if quiet { 1000 } else { 0 });
            if load.is_done() {
                break;
            }
        }
        assert_eq!((load.stats().errors, load.stats().violations), (0, 0));
        world.landed_bytes() as f64 / (load.stats().reads * 4096) as f64
    };
    let (alone, beside) = (share(100), share(70));
    // The simulated network cuts one segment in four somewhere; what is out of step with the landing then is copied.
    assert!(alone > 0.12 && beside > alone, "landed: {alone} of what is read alone, {beside} beside writes");
}
