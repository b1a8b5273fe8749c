//! The initiator against the Linux kernel's target. `cargo xtask vm run initiator` boots a kernel, sets up its target
//! (namespaces of 512 and of 4096-byte blocks, RAM behind them) and says in the environment where it is.
#![allow(clippy::unwrap_used)] // tests

use dolmen_initiator::{
    BlockRange, Digests, Namespace, Options,
    blocking::Session,
    load::{Load, LoadOptions, Mix, Pattern},
};
use dolmen_io::{Io, PoolConfig};
use dolmen_types::{Nqn, Uuid};
use dolmen_uring::{Uring, UringConfig};

const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:6f5a0c1e-7d1f-4b52-9d2b-0d6a3f6e5b12";

fn io() -> Io {
    let config = UringConfig { pool: PoolConfig::sized(32 << 20), ..UringConfig::default() };
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
