//! The NVMe/TCP codec alone, both ends: what each does for one 4 KiB read and one 4 KiB write, 32 commands to a chunk.

use crate::{Result, counted};
use dolmen_nvme::{
    spec::{Cqe, NvmOpcode, ReadWrite, Sqe, Status},
    tcp::{
        C2hData, CommandData, Controller, ControllerEvent, ControllerOptions, DataEnd, Digests, Host,
        HostEvent, HostOptions, MAX_HEADER_BYTES, QueueSettings,
    },
};
use std::hint::black_box;

/// Commands in one chunk.
const BATCH: u16 = 32;
/// Chunks that are counted.
const ROUNDS: u64 = 64;
/// Data of one command. Bytes.
const LENGTH: u32 = 4096;

/// Both ends after their handshake.
struct Ends {
    host: Host,
    controller: Controller,
    /// Bytes on their way.
    wire: Vec<u8>,
}

impl Ends {
    fn new() -> Result<Ends> {
        let host = Host::new(HostOptions { digests: Digests::NONE, alignment: 0, depth: BATCH });
        let options = ControllerOptions { digests: Digests::BOTH, alignment: 0, max_h2c_data: 128 * 1024 };
        let mut ends = Ends { host, controller: Controller::new(options), wire: Vec::new() };
        ends.wire.resize(usize::from(BATCH) * (MAX_HEADER_BYTES + LENGTH as usize), 0);
        let n = ends.host.write_ic_req(&mut ends.wire).ok_or("room for ICReq")?;
        ends.controller.receive(&mut &ends.wire[..n]).map_err(|v| format!("{v:?}"))?;
        let settings = QueueSettings { in_capsule_bytes: 8192, max_transfers: BATCH };
        ends.controller.set_queue(settings);
        let n = ends.controller.write_ic_resp(&mut ends.wire).ok_or("room for ICResp")?;
        ends.host.receive(&mut &ends.wire[..n]).map_err(|v| format!("{v:?}"))?;
        Ok(ends)
    }

    /// The host's commands of one chunk; its length.
    fn commands(&mut self, opcode: NvmOpcode) -> Result<usize> {
        let mut at = 0;
        for cid in 0..BATCH {
            let rw = ReadWrite { start: u64::from(cid), blocks: 1, ..ReadWrite::default() };
            let sqe = Sqe::with_read_write(opcode, cid, 1, rw);
            let (data, payload) = match opcode {
                NvmOpcode::READ => (CommandData::Read(LENGTH), 0),
                _ => (CommandData::WriteInCapsule(LENGTH), LENGTH as usize),
            };
            at += self.host.write_command(&mut self.wire[at..], &sqe, data)?;
            at +=
                payload + self.host.finish_data(&mut self.wire[at..], payload).ok_or("room for a digest")?;
        }
        Ok(at)
    }

    /// The controller takes a chunk; how many commands were in it.
    fn take_commands(&mut self, length: usize) -> Result<u64> {
        let (mut chunk, mut commands) = (&self.wire[..length], 0);
        while let Some(event) = self.controller.receive(&mut chunk).map_err(|v| format!("{v:?}"))? {
            commands += u64::from(matches!(black_box(event), ControllerEvent::Command { .. }));
        }
        Ok(commands)
    }

    /// The controller's answers to a chunk; their length.
    fn replies(&mut self, opcode: NvmOpcode) -> Result<usize> {
        let mut at = 0;
        for cid in 0..BATCH {
            let room = &mut self.wire[at..];
            at += if opcode == NvmOpcode::READ {
                let data = C2hData { cid, offset: 0, length: LENGTH, end: DataEnd::LastAndSuccess };
                let header = self.controller.write_c2h_data(room, &data).ok_or("room for a header")?;
                let digest = self.controller.finish_data(&mut room[header..], LENGTH as usize);
                header + LENGTH as usize + digest.ok_or("room for a digest")?
            } else {
                let cqe = Cqe::new(cid, Status::SUCCESS);
                self.controller.write_response(room, &cqe).ok_or("room for a response")?
            };
        }
        Ok(at)
    }

    /// The host takes a chunk; how many commands ended.
    fn take_replies(&mut self, length: usize) -> Result<u64> {
        let (mut chunk, mut ended) = (&self.wire[..length], 0);
        while let Some(event) = self.host.receive(&mut chunk).map_err(|v| format!("{v:?}"))? {
            ended += u64::from(matches!(black_box(event), HostEvent::Completion { .. }));
        }
        Ok(ended)
    }
}

/// Which end's work is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Host,
    Controller,
}

fn converse(end: End, opcode: NvmOpcode) -> Result<u64> {
    let mut ends = Ends::new()?;
    let mut done = 0;
    for _ in 0..ROUNDS {
        let count = |of: End, work: &mut dyn FnMut() -> Result<u64>| {
            if of == end { counted(work) } else { work() }
        };
        let n = count(End::Host, &mut || Ok(ends.commands(opcode)? as u64))?;
        let taken = count(End::Controller, &mut || ends.take_commands(usize::try_from(n)?))?;
        let n = count(End::Controller, &mut || Ok(ends.replies(opcode)? as u64))?;
        let ended = count(End::Host, &mut || ends.take_replies(usize::try_from(n)?))?;
        if (taken, ended) != (u64::from(BATCH), u64::from(BATCH)) {
            return Err(format!("{taken} of {BATCH} commands came, {ended} ended").into());
        }
        done += ended;
    }
    Ok(done)
}

/// The controller's end of a read: a capsule in, data with its success flag out.
pub(crate) fn controller_read() -> Result<u64> {
    converse(End::Controller, NvmOpcode::READ)
}

/// The controller's end of a write: a capsule with its data in, a response out.
pub(crate) fn controller_write() -> Result<u64> {
    converse(End::Controller, NvmOpcode::WRITE)
}

/// The host's end of a read.
pub(crate) fn host_read() -> Result<u64> {
    converse(End::Host, NvmOpcode::READ)
}

/// The host's end of a write.
pub(crate) fn host_write() -> Result<u64> {
    converse(End::Host, NvmOpcode::WRITE)
}
