//! What a contestant is asked to do: commands of one size, so many under way on each of so many connections.

use clap::ValueEnum;
use dolmen_initiator::load::Mix;
use serde::Serialize;
use std::fmt;

/// Bytes of a command capsule without data.
pub(crate) const COMMAND_BYTES: usize = 72;
/// Bytes before the data of a data PDU.
pub(crate) const DATA_HEADER_BYTES: usize = 24;
/// Bytes of a response capsule.
const RESPONSE_BYTES: usize = 24;

/// Which way the data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Shape {
    /// To the client.
    Read,
    /// To the server.
    Write,
    /// 70 % reads, 30 % writes.
    Mix,
}

/// Bytes of one request on the wire, without digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exchange {
    /// Client to server.
    pub(crate) request: usize,
    /// Server to client.
    pub(crate) reply: usize,
}

/// The load that all contestants of a row get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub(crate) struct Workload {
    /// Which way the data goes.
    pub(crate) shape: Shape,
    /// Data of one command. Bytes.
    pub(crate) bytes: usize,
    /// Commands under way on each connection.
    pub(crate) depth: u16,
    /// Connections (I/O queues).
    pub(crate) connections: u16,
}

impl Workload {
    /// Up to this size addresses are random; above, commands follow one another.
    pub(crate) const RANDOM_UP_TO_BYTES: usize = 4096;

    /// A 4 KiB load.
    pub(crate) fn small(shape: Shape, depth: u16, connections: u16) -> Workload {
        Workload { shape, bytes: 4096, depth, connections }
    }

    /// Its shares of reads and writes.
    pub(crate) fn mix(&self) -> Mix {
        match self.shape {
            Shape::Read => Mix::READ,
            Shape::Write => Mix::WRITE,
            Shape::Mix => Mix { reads: 70, zeroes: 0 },
        }
    }

    /// What goes over the wire, request after request, from the start again at the end: a read is a capsule for a data PDU
    /// with the success flag, a write a capsule that holds its data for a response capsule.
    pub(crate) fn exchanges(&self) -> Vec<Exchange> {
        let read = Exchange { request: COMMAND_BYTES, reply: DATA_HEADER_BYTES + self.bytes };
        let write = Exchange { request: COMMAND_BYTES + self.bytes, reply: RESPONSE_BYTES };
        match self.shape {
            Shape::Read => vec![read],
            Shape::Write => vec![write],
            Shape::Mix => vec![read, read, write, read, read, write, read, read, write, read],
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = if self.bytes <= Self::RANDOM_UP_TO_BYTES { "random" } else { "sequential" };
        let shape = match self.shape {
            Shape::Read => "read",
            Shape::Write => "write",
            Shape::Mix => "70/30",
        };
        let Workload { depth, connections, bytes, .. } = self;
        write!(f, "{}K {order} {shape}, depth {depth}, {connections} conn", bytes >> 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_on_the_wire() {
        let of = |shape| Workload::small(shape, 1, 1).exchanges();
        assert_eq!(of(Shape::Read), [Exchange { request: 72, reply: 4120 }]);
        assert_eq!(of(Shape::Write), [Exchange { request: 4168, reply: 24 }]);
        let mix = of(Shape::Mix);
        assert_eq!((mix.len(), mix.iter().filter(|e| e.request == 72).count()), (10, 7));
    }

    #[test]
    fn its_name_says_it_all() {
        let large = Workload { shape: Shape::Write, bytes: 128 << 10, depth: 8, connections: 1 };
        assert_eq!(large.to_string(), "128K sequential write, depth 8, 1 conn");
        assert_eq!(Workload::small(Shape::Mix, 32, 4).to_string(), "4K random 70/30, depth 32, 4 conn");
    }
}
