//! The bare drive I/O of a recorded run: the same operations in the same groups through the same loop, and nothing else.

use super::{load::Run, ram::Step};
use crate::Result;
use dolmen_io::{Event, FileId, Io, Owner, Tag, Wait};
use std::time::Duration;

/// Does what `tape` says, over and over for about so long; what it comes to for each of the `commands` that caused it.
pub(crate) fn replay(io: &mut Io, tape: &[Step], commands: u64, time: Duration) -> Result<Run> {
    let ns = u64::try_from(time.as_nanos())?;
    let mut events = Vec::new();
    io.poll(Wait::No, &mut events);
    let (begin, mut passes) = (io.now(), 0);
    while passes == 0 || io.now().since(begin) < ns {
        once(io, tape, &mut events)?;
        passes += 1;
    }
    let commands = commands * passes;
    Ok(Run { commands, ns: io.now().since(begin) as f64 / commands.max(1) as f64 })
}

fn once(io: &mut Io, tape: &[Step], events: &mut Vec<(Tag, Event)>) -> Result<()> {
    let largest = io.pool().largest();
    for (number, step) in tape.iter().enumerate() {
        let (tag, file) = (Tag { owner: Owner(1), key: number as u64 }, FileId(step.file));
        if step.write {
            let (mut slices, mut left) = (io.slices(), step.len as usize);
            // The header's page, and then the payload, as a store has them.
            let mut part = left.min(4096);
            while left > 0 {
                slices.push(io.alloc(part).ok_or("too few buffers")?.freeze());
                left -= part;
                part = left.min(largest);
            }
            io.write_durable(tag, file, step.offset, slices);
        } else {
            let buf = io.alloc(step.len as usize).ok_or("too few buffers")?;
            io.read(tag, file, step.offset, buf);
        }
        if tape.get(number + 1).is_none_or(|next| !next.joined) {
            take(io, events)?;
        }
    }
    take(io, events)
}

fn take(io: &mut Io, events: &mut Vec<(Tag, Event)>) -> Result<()> {
    io.poll(Wait::No, events);
    for (_, event) in events.drain(..) {
        match event {
            Event::Written(slices) => io.recycle(slices),
            Event::Failed { error, .. } => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}
