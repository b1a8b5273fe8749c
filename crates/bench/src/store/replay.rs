//! The bare drive I/O of a recorded run: the same operations in the same groups through the same loop, and nothing else.

use super::{load::Run, ram::Step};
use crate::Result;
use dolmen_io::{Event, FileId, Io, Owner, Tag, Wait};

/// Does what `tape` says; what it comes to for each of the `commands` that caused it. Once only: a log comes back to where it has
/// written when the whole drive was written over, and so must its replay, or it would write to memory that the caches still hold.
pub(crate) fn replay(io: &mut Io, tape: &[Step], commands: u64) -> Result<Run> {
    let mut events = Vec::new();
    io.poll(Wait::No, &mut events);
    let begin = io.now();
    once(io, tape, &mut events)?;
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
