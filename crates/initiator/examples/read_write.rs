//! Connects to an NVMe/TCP target, writes a block, reads it back, and says how long both took.
//!
//! `cargo run -p dolmen-initiator --example read_write -- IP:PORT SUBSYSTEM_NQN [HOST_NQN]`
//!
//! It overwrites the last block of the first namespace that it sees.

use dolmen_initiator::{Options, blocking::Session};
use dolmen_io::Io;
use dolmen_types::{Nqn, Uuid};
use dolmen_uring::{Uring, UringConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (Some(addr), Some(subsystem)) = (words.first(), words.get(1)) else {
        return Err("usage: read_write IP:PORT SUBSYSTEM_NQN [HOST_NQN]".into());
    };
    let host =
        words.get(2).map_or("nqn.2014-08.org.nvmexpress:uuid:6f5a0c1e-7d1f-4b52-9d2b-0d6a3f6e5b11", |h| h);

    // The loop's door to the world: one io_uring, used by this thread alone.
    let io = Io::new(Box::new(Uring::new(&UringConfig::without_drives(32 << 20))?));
    let host_id = Uuid::from_random(*b"read_write.rs/01");
    let options = Options::new(addr.parse()?, subsystem.parse::<Nqn>()?, host.parse()?, host_id);
    let mut session = Session::connect(io, options)?;
    println!("connected to {} ({})", session.identity().model, session.identity().serial);

    let nsid = *session.namespaces()?.first().ok_or("the target shows us no namespace")?;
    let ns = session.namespace(nsid)?;
    println!("namespace {nsid}: {} blocks of {} bytes", ns.blocks, ns.block_bytes);

    let last = ns.blocks.checked_sub(1).ok_or("the namespace is empty")?;
    let written: Vec<u8> = (0..ns.block_bytes).map(|i| i.to_le_bytes()[0]).collect();
    let start = session.now();
    session.write(&ns, last, &written)?;
    session.flush(&ns)?;
    let mut read = vec![0; written.len()];
    session.read(&ns, last, &mut read)?;
    if read != written {
        return Err("the block came back different".into());
    }
    println!("wrote, flushed and read a block in {} us", session.now().since(start) / 1000);
    session.disconnect();
    Ok(())
}
