//! The async face: two tasks on one core, one writing and one reading behind it.
//!
//! `cargo run -p dolmen-initiator --example async_io -- IP:PORT SUBSYSTEM_NQN`
//!
//! It overwrites the first 64 blocks of the first namespace that it sees.

use dolmen_initiator::{
    Options,
    aio::{CallError, Runtime, Subsystem},
};
use dolmen_io::{Io, exec::oneshot};
use dolmen_types::{Nqn, Uuid};
use dolmen_uring::{Uring, UringConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (Some(addr), Some(subsystem)) = (words.first(), words.get(1)) else {
        return Err("usage: async_io IP:PORT SUBSYSTEM_NQN".into());
    };
    let host: Nqn = "nqn.2014-08.org.nvmexpress:uuid:6f5a0c1e-7d1f-4b52-9d2b-0d6a3f6e5b11".parse()?;
    let options =
        Options::new(addr.parse()?, subsystem.parse()?, host, Uuid::from_random(*b"async_io.rs / 01"));

    let mut runtime = Runtime::new(Io::new(Box::new(Uring::new(&UringConfig::without_drives(32 << 20))?)));
    let (handle, tasks) = (runtime.handle(), runtime.tasks());
    runtime.block_on(async move {
        let subsystem = handle.connect(options).await?.with_timeout_ms(10_000);
        let nsid = *subsystem.namespaces().await?.first().expect("a namespace");
        let ns = subsystem.namespace(nsid).await?;
        let block = usize::try_from(ns.block_bytes).expect("a block is small");

        // A task of its own writes; this one waits for it, block by block, and reads.
        let (tell, written) = oneshot();
        let writer = subsystem.clone();
        let write = async move {
            for lba in 0..64u8 {
                let mut buf = writer.alloc(block)?;
                buf.fill(lba.to_le_bytes()[0]);
                writer.write(&ns, u64::from(lba), buf).await?;
            }
            writer.flush(&ns).await
        };
        tasks.spawn(async move { drop(tell.send(write.await)) }).expect("there is room for a task");
        written.await.expect("the task says how it went")?;
        read_back(&subsystem, &ns).await?;
        subsystem.disconnect().await;
        Ok::<_, CallError>(())
    })?;
    println!("64 blocks written and read back");
    Ok(())
}

/// Reads all blocks at once: the commands are started first and awaited afterwards.
async fn read_back(subsystem: &Subsystem, ns: &dolmen_initiator::Namespace) -> Result<(), CallError> {
    let mut reads = Vec::new();
    for lba in 0..64u8 {
        let buf = subsystem.alloc(usize::try_from(ns.block_bytes).expect("a block is small"))?;
        let read = dolmen_initiator::Command::Read { nsid: ns.nsid, lba: lba.into(), blocks: 1, buf };
        reads.push((lba, subsystem.execute(read)));
    }
    for (lba, read) in reads {
        let done = read.await?;
        assert!(done.buf.is_some_and(|buf| buf.iter().all(|&byte| byte == lba)), "block {lba}");
    }
    Ok(())
}
