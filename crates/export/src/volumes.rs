//! Volumes of this node behind a door: requests and replies in the words of `dolmen-volume`.

use crate::backend::{Failure, Operation, Place, Reply, Request};
use dolmen_io::Stage;
use dolmen_types::{CoreId, Nanos};
use dolmen_volume::{self as volume, Command, Done, HostId, LbaRange, VolumeError};

/// How long a command may wait until it is sequenced. Milliseconds.
const DEADLINE_MS: u64 = 60_000;

/// All clients of this door are one host, which holds no reservation: it reads and writes what those of others leave open.
const HOST: HostId = *b"dolmen nbd door\0";

/// Turns requests of a door on one core into those of volumes, and their replies back.
#[derive(Clone, Copy, Debug)]
pub struct VolumeBackend {
    /// The core that the door runs on, which replies go to.
    pub core: CoreId,
}

impl VolumeBackend {
    /// The request for the volume; the reply, when it is for none.
    ///
    /// # Errors
    /// The reply to a request for what is no volume.
    pub fn request(&self, now: Nanos, request: Request) -> Result<volume::Request, Reply> {
        let Request { token, place, block_bytes, mut stamps, operation } = request;
        let Place::Volume(at) = place else {
            return Err(Reply::refused(token, Failure::Gone, None));
        };
        let block = u64::from(block_bytes);
        // Requests are checked against the export, and no longer than the volume takes.
        let count = |bytes: u64| u32::try_from(bytes / block).unwrap_or(u32::MAX);
        let command = match operation {
            Operation::Read { offset, buf } => {
                Command::Read { lba: offset / block, blocks: count(buf.len() as u64), buf }
            }
            // Every write is durable when it is answered.
            Operation::Write { offset, buf, durable: _ } => {
                Command::Write { lba: offset / block, blocks: count(buf.len() as u64), buf }
            }
            Operation::WriteZeroes { offset, length, deallocate } => {
                Command::WriteZeroes { lba: offset / block, blocks: count(length), deallocate }
            }
            Operation::Trim { offset, length } => Command::Deallocate {
                ranges: [LbaRange { lba: offset / block, blocks: count(length) }].into(),
            },
            Operation::Map { offset, length } => {
                Command::Allocation { lba: offset / block, blocks: count(length) }
            }
            Operation::Flush => Command::Flush,
        };
        let deadline = now.plus_ms(DEADLINE_MS);
        stamps.mark(Stage::Handed, now);
        Ok(volume::Request { token, from: self.core, volume: at, host_id: HOST, deadline, stamps, command })
    }

    /// The reply for the door.
    #[must_use]
    pub fn reply(reply: volume::Reply) -> Reply {
        let (result, extents) = match reply.result {
            Ok(Done::Allocation(extents)) => (Ok(()), extents),
            Ok(Done::Ok | Done::Report(_)) => (Ok(()), Box::default()),
            Err(error) => (Err(failure(error)), Box::default()),
        };
        Reply { token: reply.token, result, buf: reply.buf, extents, stamps: reply.stamps }
    }
}

fn failure(error: VolumeError) -> Failure {
    match error {
        VolumeError::Busy => Failure::Busy,
        VolumeError::CapacityExceeded => Failure::NoSpace,
        VolumeError::ReservationConflict | VolumeError::Preempted => Failure::Forbidden,
        VolumeError::OutOfRange | VolumeError::TooLarge | VolumeError::Invalid => Failure::Invalid,
        VolumeError::Gone => Failure::Gone,
        VolumeError::CompareFailed
        | VolumeError::NotReady
        | VolumeError::Media
        | VolumeError::Expired
        | VolumeError::CalledOff
        | VolumeError::TooManyRegistrants => Failure::Failed,
    }
}
