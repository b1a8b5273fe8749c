//! What the target notes of the commands that it answers, for tools that ask where the time goes.

use crate::{slab::Key, target::Target};
use dolmen_io::{Io, Stage, Stamps, trace::Answered};
use dolmen_nvme::spec::Sqe;
use dolmen_volume::{Done, VolumeError};

impl Target {
    /// Takes note of a command that is answered now.
    #[inline]
    pub(crate) fn trace(
        &mut self,
        io: &Io,
        key: Key,
        sqe: &Sqe,
        stamps: &Stamps,
        result: &Result<Done, VolumeError>,
    ) {
        let (nsid, now) = (sqe.nsid.get(), io.now());
        if !self.traces.is_wanted(nsid, stamps.at(Stage::Received).unwrap_or(now), now) {
            return;
        }
        let connection = self.connections.get_mut(key);
        let range = sqe.read_write();
        let answered = Answered {
            nsid,
            opcode: sqe.opcode,
            failed: result.is_err(),
            lba: range.start,
            blocks: range.blocks,
            outstanding: connection.as_ref().map_or(0, |c| c.outstanding),
            connection: key,
        };
        let traces = self.traces.keep(&answered, stamps, now);
        if let Some(connection) = connection {
            connection.unsent.add(traces);
        }
    }
}
