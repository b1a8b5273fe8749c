//! What a server can tell about its clients and about where the time of their commands goes.

use super::{
    connection::Phase,
    server::{PieceSlot, Server},
};
use crate::backend::Reply;
use dolmen_io::{
    Io, Stage,
    trace::{Answered, TraceReport},
};
use dolmen_nvme::spec::NvmOpcode;
use dolmen_types::Nanos;
use std::net::SocketAddr;

/// One client that has chosen an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInfo {
    /// The export's name.
    pub export: String,
    /// Where it comes from; this machine, without a port, at a socket in the file system.
    pub peer: SocketAddr,
    /// Its number among those of this core.
    pub number: u32,
    /// Commands under way now.
    pub outstanding: u32,
    /// Commands that were answered.
    pub commands: u64,
    /// Data that it has read. Bytes.
    pub read_bytes: u64,
    /// Data that it has written. Bytes.
    pub written_bytes: u64,
}

impl Server {
    /// The clients of this core.
    #[must_use]
    pub fn clients(&self) -> Vec<ClientInfo> {
        let all = self.connections.iter().filter_map(|(key, connection)| {
            let Phase::Open(transmission) = &connection.phase else { return None };
            let traffic = connection.traffic;
            Some(ClientInfo {
                export: transmission.opened.export.name.clone(),
                peer: connection.peer,
                number: key.index,
                outstanding: transmission.commands,
                commands: traffic.commands,
                read_bytes: traffic.read_bytes,
                written_bytes: traffic.written_bytes,
            })
        });
        all.collect()
    }

    /// Where the time of a namespace's commands went lately, as far as this server answered them.
    #[must_use]
    pub fn traces(&self, nsid: u32, now: Nanos) -> TraceReport {
        self.traces.report(nsid, now, |_| self.config.host.clone())
    }

    /// Takes note of a piece that is answered now; its command remembers the last one, until the send that carries the reply.
    pub(super) fn trace(&mut self, io: &Io, piece: &PieceSlot, reply: &Reply) {
        let Some(command) = self.commands.get_mut(piece.command) else { return };
        let Some(connection) = self.connections.get(command.connection) else { return };
        let Phase::Open(transmission) = &connection.phase else { return };
        let export = &transmission.opened.export;
        if export.nsid == 0 {
            return;
        }
        let (now, received) = (io.now(), reply.stamps.at(Stage::Received));
        if !self.traces.is_wanted(export.nsid, received.unwrap_or(now), now) {
            command.traces = [None, None];
            return;
        }
        let block = u64::from(export.block_bytes);
        let answered = Answered {
            nsid: export.nsid,
            opcode: if piece.flush { NvmOpcode::FLUSH.0 } else { command.kind.opcode() },
            failed: reply.result.is_err(),
            lba: piece.range.start / block,
            blocks: u32::try_from((piece.range.end - piece.range.start) / block).unwrap_or(u32::MAX),
            outstanding: transmission.commands,
            connection: command.connection,
        };
        command.traces = self.traces.keep(&answered, &reply.stamps, now);
    }
}
