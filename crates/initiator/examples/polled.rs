//! The polled face in somebody else's loop: reads blocks of a namespace at random, many at a time, from a plain poll(2)
//! loop that could wait for anything else as well.
//!
//! `cargo run -p dolmen-initiator --example polled -- IP:PORT SUBSYSTEM_NQN [COMMANDS]`

use dolmen_initiator::{Command, Options, Request, State, polled::Client};
use dolmen_io::Io;
use dolmen_types::{Nqn, Uuid};
use dolmen_uring::{Uring, UringConfig};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const DEPTH: u64 = 32;
const BLOCK: usize = 4096;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (Some(addr), Some(subsystem)) = (words.first(), words.get(1)) else {
        return Err("usage: polled IP:PORT SUBSYSTEM_NQN [COMMANDS]".into());
    };
    let commands: u64 = words.get(2).map_or(Ok(10_000), |n| n.parse())?;
    let host: Nqn = "nqn.2014-08.org.nvmexpress:uuid:6f5a0c1e-7d1f-4b52-9d2b-0d6a3f6e5b11".parse()?;
    let options =
        Options::new(addr.parse()?, subsystem.parse()?, host, Uuid::from_random(*b"polled.rs /...01"));

    let mut client = Client::new(Io::new(Box::new(Uring::new(&UringConfig::without_drives(32 << 20))?)));
    let id = client.connect(options)?;
    let (mut submitted, mut completed, mut spare) = (0, 0, Vec::new());
    while completed < commands {
        // What this program has to do: keep so many commands under way.
        while matches!(client.state(id), State::Live { .. })
            && submitted < commands
            && submitted - completed < DEPTH
        {
            let Some(buf) = spare.pop().or_else(|| client.alloc(BLOCK)) else { break };
            let lba = submitted.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 256;
            let read = Command::Read { nsid: 1, lba, blocks: 1, buf };
            client.submit(id, Request::new(submitted, read)).map_err(|(_, error)| error)?;
            submitted += 1;
        }
        client.poll();
        let mut idle = true;
        for done in client.completions() {
            done.result?;
            spare.extend(done.buf);
            (completed, idle) = (completed + 1, false);
        }
        if let State::Lost(error) = client.state(id) {
            return Err(error.into());
        }
        if idle {
            // Other descriptors of the program would be in this list, too.
            let timeout = client.timeout().map(|time| Timespec {
                tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: time.subsec_nanos().into(),
            });
            let descriptor = client.descriptor().ok_or("the driver has no descriptor")?;
            poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], timeout.as_ref())?;
        }
    }
    println!("{completed} reads");
    client.disconnect(id);
    while client.state(id) != State::Closed {
        client.wait(std::time::Duration::from_millis(10));
    }
    Ok(())
}
