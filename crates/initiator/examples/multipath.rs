//! Several paths and several cores: finds every address of a subsystem by discovery, then each of two threads connects to
//! all of them with a client of its own and writes its own part of the first namespace, round-robin over the paths.
//!
//! `cargo run -p dolmen-initiator --example multipath -- DISCOVERY_IP:PORT [COMMANDS]`
//!
//! It overwrites the first 512 blocks of the first namespace that it sees. Cut a path while it runs: it goes on.

use dolmen_initiator::{
    Command, Discovered, NO_DEADLINE, Options, PathOptions, Policy, Request, State, blocking::Session,
    polled::Client,
};
use dolmen_io::Io;
use dolmen_types::{Nqn, Uuid};
use dolmen_uring::{Uring, UringConfig};
use std::time::Duration;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const THREADS: u64 = 2;
const DEPTH: u64 = 32;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let Some(addr) = words.first() else {
        return Err("usage: multipath DISCOVERY_IP:PORT [COMMANDS]".into());
    };
    let commands: u64 = words.get(1).map_or(Ok(20_000), |n| n.parse())?;
    let host: Nqn = "nqn.2014-08.org.nvmexpress:uuid:6f5a0c1e-7d1f-4b52-9d2b-0d6a3f6e5b11".parse()?;
    let host_id = Uuid::from_random(*b"multipath.rs /01");

    // All records with the name of the first are ways to the same subsystem.
    let service = Options::new(addr.parse()?, Nqn::DISCOVERY.parse()?, host.clone(), host_id);
    let mut discovery = Session::connect(io()?, service)?;
    let found = discovery.discover()?;
    discovery.disconnect();
    let mut ways = found.iter().filter(|record| record.kind == Discovered::Subsystem);
    let first = ways.next().ok_or("the discovery service names no subsystem")?;
    let mut options = Options::new(first.addr, first.nqn.clone(), host, host_id);
    let others = ways.filter(|record| record.nqn == first.nqn && record.addr != first.addr);
    options.paths = others.map(|record| PathOptions { addr: record.addr, preference: 0 }).collect();
    options.policy = Policy::RoundRobin;

    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|n| (n, options.clone()))
            .map(|(n, o)| scope.spawn(move || load(n, o, commands)))
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a client doesn't panic"))
    })
}

fn io() -> Result<Io> {
    let config = UringConfig::without_drives(32 << 20);
    Ok(Io::new(Box::new(Uring::new(&config)?)))
}

/// One thread: a client, its connections, its blocks.
fn load(thread: u64, options: Options, commands: u64) -> Result<()> {
    let mut client = Client::new(io()?);
    let id = client.connect(options)?;
    let (mut submitted, mut completed, mut spare) = (0, 0, Vec::new());
    while completed < commands {
        while submitted < commands && submitted - completed < DEPTH {
            let Some(mut buf) = spare.pop().or_else(|| client.alloc(4096)) else { break };
            buf.fill(submitted.to_le_bytes()[0]);
            // A thread never has two commands for one block under way.
            let lba = thread * 256 + submitted % 256;
            let write = Command::Write { nsid: 1, lba, blocks: 1, buf, fua: false };
            let request = Request { ticket: submitted, deadline: NO_DEADLINE, queue: None, command: write };
            client.submit(id, request).map_err(|(_, error)| error)?;
            submitted += 1;
        }
        client.wait(Duration::from_millis(100));
        for done in client.completions() {
            done.result?;
            spare.extend(done.buf);
            completed += 1;
        }
        if let State::Lost(error) = client.state(id) {
            return Err(error.into());
        }
    }
    let (_, initiator) = client.parts();
    for path in initiator.paths(id) {
        let writes: u64 = path.statistics.queues.iter().map(|q| q.writes.commands).sum();
        let slowest = path
            .statistics
            .queues
            .iter()
            .filter_map(|q| q.writes.latency.as_ref())
            .map(|l| l.percentile(99_000))
            .max();
        println!(
            "thread {thread}, path {} to {}: {writes} writes, p99 {} us, lost {} times",
            path.path,
            path.addr,
            slowest.unwrap_or(0) / 1000,
            path.statistics.losses
        );
    }
    client.disconnect(id);
    while client.state(id) != State::Closed {
        client.wait(Duration::from_millis(10));
    }
    Ok(())
}
