//! The initiator against the Linux kernel's target. `cargo xtask vm run initiator` boots a kernel, sets up its target
//! (namespaces of 512 and of 4096-byte blocks, RAM behind them) and says in the environment where it is.
#![allow(clippy::unwrap_used)] // tests

use dolmen_initiator::{
    BlockRange, Command, Digests, Namespace, Notice, Options, PathOptions, PathReport, Policy, Request,
    State,
    blocking::Session,
    discovery::{Discovery, DiscoveryOptions},
    load::{Load, LoadOptions, Mix, Pattern},
    polled::Client,
};
use dolmen_io::Io;
use dolmen_nvme::spec::notice;
use dolmen_types::{Nqn, Uuid};
use dolmen_uring::{Uring, UringConfig};
use std::{net::SocketAddr, time::Duration};

const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:6f5a0c1e-7d1f-4b52-9d2b-0d6a3f6e5b12";

fn io() -> Io {
    let config = UringConfig::without_drives(32 << 20);
    Io::new(Box::new(Uring::new(&config).unwrap()))
}

/// Where the target is, from the environment.
fn options(subsystem: Option<&str>) -> Options {
    let from = |name: &str| std::env::var(name).expect("run by `cargo xtask vm run initiator`");
    let addr = from("DOLMEN_KERNEL_TARGET").parse().unwrap();
    let subsystem = subsystem.map_or_else(|| from("DOLMEN_KERNEL_SUBSYSTEM"), str::to_owned);
    Options::new(
        addr,
        subsystem.parse().unwrap(),
        HOST.parse().unwrap(),
        Uuid::from_random(*b"kernel target 01"),
    )
}

/// Bytes that differ from block to block and from salt to salt.
fn bytes(len: usize, salt: u8) -> Vec<u8> {
    (0..len).map(|at| (at % 251).to_le_bytes()[0] ^ (at / 512).to_le_bytes()[0] ^ salt).collect()
}

/// Writes, reads, zeroes and trims one namespace in sizes below, at and above what fits a capsule or one command.
fn exercise(session: &mut Session, ns: &Namespace, salt: u8) {
    let block = usize::try_from(ns.block_bytes).unwrap();
    let capsule = (16 << 10) / block;
    for (lba, blocks) in (5..).zip([1, 3, capsule, capsule + 7, (1 << 20) / block]) {
        let written = bytes(blocks * block, salt ^ u64::to_le_bytes(lba)[0]);
        session.write(ns, lba, &written).unwrap();
        let mut read = vec![0; written.len()];
        session.read(ns, lba, &mut read).unwrap();
        assert!(read == written, "{blocks} blocks of {block} bytes at {lba}");
    }
    session.flush(ns).unwrap();
    session.write_zeroes(ns, 6, 2).unwrap();
    let mut read = vec![0xff; 4 * block];
    session.read(ns, 5, &mut read).unwrap();
    assert!(read[block..3 * block].iter().all(|&byte| byte == 0), "zeroes");
    assert!(read[3 * block..].iter().any(|&byte| byte != 0), "what lies beside stays");
    session.trim(ns, &[BlockRange { lba: 0, blocks: 8 }, BlockRange { lba: 64, blocks: 8 }]).unwrap();
    assert!(session.read(ns, ns.blocks - 1, &mut vec![0; 2 * block]).is_err(), "beyond the end");
}

#[test]
#[ignore = "needs the kernel's target"]
fn data_move_with_every_digest_and_queue_count() {
    for (header, data) in [(false, false), (true, false), (false, true), (true, true)] {
        for io_queues in [1, 2] {
            let digests = Digests { header, data };
            let mut session =
                Session::connect(io(), Options { digests, io_queues, ..options(None) }).unwrap();
            let nsids = session.namespaces().unwrap();
            assert_eq!(nsids, [1, 2]);
            for nsid in nsids {
                let ns = session.namespace(nsid).unwrap();
                assert_eq!(ns.block_bytes, if nsid == 1 { 512 } else { 4096 });
                exercise(
                    &mut session,
                    &ns,
                    u8::from(header) * 16 + u8::from(data) * 32 + nsid.to_le_bytes()[0],
                );
            }
            session.disconnect();
        }
    }
}

#[test]
#[ignore = "needs the kernel's target"]
fn discovery_names_the_subsystem() {
    let wanted = options(None).subsystem;
    let mut session = Session::connect(io(), options(Some(Nqn::DISCOVERY))).unwrap();
    let found = session.discover().unwrap();
    assert!(found.iter().any(|entry| entry.nqn == wanted), "{found:?}");
}

#[test]
#[ignore = "needs the kernel's target"]
fn a_verified_load_finds_what_it_wrote() {
    let options = Options { io_queues: 2, digests: Digests { header: true, data: true }, ..options(None) };
    let mut session = Session::connect(io(), options).unwrap();
    let ns = session.namespace(2).unwrap();
    let (start, len) = (16 << 20, 8 << 20);
    for lba in (start / 4096..(start + len) / 4096).step_by(64) {
        session.write_zeroes(&ns, lba, 64).unwrap();
    }
    let load_options = LoadOptions {
        region_start: start,
        region_bytes: len,
        size_bytes: 4096,
        depth: 16,
        queues: 2,
        mix: Mix { reads: 50, zeroes: 5 },
        verify: Some(2),
        seed: 3,
        deadline_ms: Some(20_000),
        ..LoadOptions::new(ns)
    };
    let mut load = Load::new(session.subsystem(), load_options).unwrap();
    load.set_work(Pattern::Random, Mix { reads: 50, zeroes: 5 }, 4000);
    session.run(&mut load, |_, _| true);
    let units = load.units();
    load.set_work(Pattern::Sequential, Mix::READ, units);
    session.run(&mut load, |_, _| true);
    let stats = load.stats();
    assert_eq!((stats.errors, stats.violations, &stats.first_violation), (0, 0, &None));
}

/// The kernel's ANA states change all the time; nothing fails, and both paths are used.
#[test]
#[ignore = "needs the kernel's target"]
fn a_verified_load_follows_ana_over_two_paths() {
    let ways = std::env::var("DOLMEN_KERNEL_PATHS").expect("run by `cargo xtask vm run initiator`");
    let ways: Vec<SocketAddr> = ways.split(',').map(|way| way.parse().unwrap()).collect();
    let name = format!("{}-paths", options(None).subsystem.as_str());
    let options = Options {
        addr: ways[0],
        paths: vec![PathOptions { addr: ways[1], preference: 0 }],
        policy: Policy::RoundRobin,
        io_queues: 2,
        ..options(Some(&name))
    };
    let mut client = Client::new(io());
    let id = client.connect(options).unwrap();
    let live = |client: &mut Client| client.parts().1.paths(id).iter().all(|path| path.live);
    while !live(&mut client) {
        client.wait(Duration::from_millis(20));
    }
    assert!(client.identity(id).unwrap().ana);
    let (mut submitted, mut completed, mut changes) = (0u64, 0u64, 0);
    let begin = client.clock();
    let mut expected = [0u8; 256];
    // Some eight seconds: twice all states.
    while client.clock().since(begin) < 8_000_000_000 || submitted > completed {
        while submitted - completed < 16 && client.clock().since(begin) < 8_000_000_000 {
            // Blocks in turn, so that no two commands for one block are under way together.
            let (block, fill) = (submitted % 256, (submitted / 256).to_le_bytes()[0]);
            let at = usize::try_from(block).unwrap();
            let mut buf = client.alloc(4096).unwrap();
            let command = if submitted / 256 % 2 == 0 {
                buf.fill(fill);
                expected[at] = fill;
                Command::Write { nsid: 3, lba: block, blocks: 1, buf, fua: false }
            } else {
                Command::Read { nsid: 3, lba: block, blocks: 1, buf }
            };
            client.submit(id, Request::new(submitted, command)).map_err(|(_, e)| e).unwrap();
            submitted += 1;
        }
        client.wait(Duration::from_millis(20));
        for done in client.completions() {
            assert!(done.result.is_ok(), "{:?}", done.result);
            let at = usize::try_from(done.ticket % 256).unwrap();
            if done.ticket / 256 % 2 == 1 {
                assert!(done.buf.unwrap().iter().all(|&byte| byte == expected[at]));
            }
            completed += 1;
        }
        let ana = |n: &Notice| matches!(n, Notice::Event { event, .. } if *event == notice::ANA_CHANGED);
        changes += client.notices().filter(ana).count();
    }
    let paths = client.parts().1.paths(id);
    let answered =
        |path: &PathReport| path.statistics.queues.iter().map(|q| q.reads.commands + q.writes.commands).sum();
    let answered: Vec<u64> = paths.iter().map(answered).collect();
    assert!(changes > 4 && answered.iter().all(|&n| n > 100), "{changes} changes, {answered:?}");
    assert!(paths.iter().all(|path| path.statistics.losses == 0 && path.ana.len() == 1));
    client.disconnect(id);
    while client.state(id) != State::Closed {
        client.wait(Duration::from_millis(10));
    }
}

/// Every command keeps the association alive there (TBKAS); an Abort is answered; discovery stays connected.
#[test]
#[ignore = "needs the kernel's target"]
fn keep_alives_and_discovery_last() {
    let mut session = Session::connect(io(), Options { keep_alive_ms: 1000, ..options(None) }).unwrap();
    assert!(session.identity().traffic_keeps_alive, "the kernel's target counts any command");
    let ns = session.namespace(2).unwrap();
    let begin = session.now();
    while session.now().since(begin) < 4_000_000_000 {
        session.flush(&ns).unwrap();
    }
    assert!(!session.take_notices().iter().any(|n| matches!(n, Notice::PathLost { .. })));
    session.disconnect();

    let mut client = Client::new(io());
    let wanted = options(None);
    let mut discovery = Discovery::new(DiscoveryOptions::new(wanted.host.clone(), wanted.host_id));
    let (io, initiator) = client.parts();
    discovery.add(io, initiator, wanted.addr).unwrap();
    let begin = client.clock();
    while !discovery.is_settled() || client.clock().since(begin) < 1_000_000_000 {
        client.wait(Duration::from_millis(20));
        let notices: Vec<_> = client.notices().collect();
        notices.iter().for_each(|n| discovery.on_notice(n));
        let done: Vec<_> = client.completions().collect();
        let (io, initiator) = client.parts();
        done.into_iter().for_each(|c| discovery.on_completion(io, initiator, c));
        discovery.step(io, initiator);
        assert!(client.clock().since(begin) < 20_000_000_000, "{:?}", discovery.records());
    }
    assert!(discovery.records().iter().any(|record| record.nqn == wanted.subsystem));
}
