//! What was done on each path and queue, and how long it took.

use crate::{Histogram, ana::AnaTable};
use dolmen_nvme::spec::{AnaState, NvmOpcode};
use dolmen_types::Nanos;
use std::net::SocketAddr;

/// One kind of command on one queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answered {
    /// Answered, well or not. Count.
    pub commands: u64,
    /// Moved by those that ended well. Bytes.
    pub bytes: u64,
    /// From being sent to the answer, of those that ended well; `None` before the first. Nanoseconds.
    pub latency: Option<Box<Histogram>>,
}

/// One I/O queue of a path, over all its associations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueStatistics {
    /// Reads.
    pub reads: Answered,
    /// Writes.
    pub writes: Answered,
    /// All other commands.
    pub others: Answered,
    /// Answered with an error status. Count.
    pub errors: u64,
}

/// What happened on a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathStatistics {
    /// Associations that became live. Count.
    pub connects: u64,
    /// Associations that were lost. Count.
    pub losses: u64,
    /// Commands that were under way on lost associations and were sent again, here or elsewhere. Count.
    pub resent: u64,
    /// Commands that were sent again because of their status. Count.
    pub retried: u64,
    /// Abort commands sent. Count.
    pub aborts: u64,
    /// Controller resets. Count.
    pub resets: u64,
    /// By I/O queue.
    pub queues: Vec<QueueStatistics>,
}

/// How a path stands, and what happened on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathReport {
    /// Its number, as in notices.
    pub path: u8,
    /// Where it leads.
    pub addr: SocketAddr,
    /// True when commands can flow.
    pub live: bool,
    /// True when it was given up.
    pub given_up: bool,
    /// CNTLID of the controller behind it, when it last was live.
    pub controller_id: Option<u16>,
    /// ANA states of the namespaces that the controller names; empty when it reports none.
    pub ana: Vec<(u32, AnaState)>,
    /// What happened.
    pub statistics: PathStatistics,
}

impl Answered {
    fn note(&mut self, bytes: u64, nanos: u64) {
        self.bytes += bytes;
        self.latency.get_or_insert_default().record(nanos);
    }
}

impl QueueStatistics {
    /// Notes an answer.
    pub(crate) fn note(&mut self, opcode: u8, bytes: usize, (sent, now): (Nanos, Nanos), good: bool) {
        let kind = match NvmOpcode(opcode) {
            NvmOpcode::READ => &mut self.reads,
            NvmOpcode::WRITE => &mut self.writes,
            _ => &mut self.others,
        };
        kind.commands += 1;
        if good {
            kind.note(bytes as u64, now.since(sent));
        } else {
            self.errors += 1;
        }
    }
}

impl PathStatistics {
    /// I/O commands that were answered. Count.
    pub(crate) fn answered(&self) -> u64 {
        let queue = |q: &QueueStatistics| q.reads.commands + q.writes.commands + q.others.commands;
        self.queues.iter().map(queue).sum()
    }
}

/// The states of a table, for a report.
pub(crate) fn ana_states(table: Option<&AnaTable>) -> Vec<(u32, AnaState)> {
    table.map_or_else(Vec::new, |table| table.iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_kind() {
        let mut queue = QueueStatistics::default();
        queue.note(NvmOpcode::READ.0, 4096, (Nanos(10), Nanos(30)), true);
        queue.note(NvmOpcode::READ.0, 4096, (Nanos(10), Nanos(30)), false);
        queue.note(NvmOpcode::FLUSH.0, 0, (Nanos(10), Nanos(15)), true);
        assert_eq!((queue.reads.commands, queue.reads.bytes, queue.errors), (2, 4096, 1));
        assert_eq!(queue.reads.latency.map(|l| (l.count(), l.max())), Some((1, 20)));
        assert_eq!((queue.writes.latency, queue.others.commands), (None, 1));
    }
}
