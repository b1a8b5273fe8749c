//! Namespaces elsewhere behind a door: requests and replies in the words of `dolmen-initiator`.

use crate::{
    Export,
    backend::{self, MAX_DATA_BYTES, Operation, Place, Reply},
};
use dolmen_initiator::{
    BlockRange, Command, Completion, Failure, Identity, Initiator, Namespace, Request, SubmitError,
    SubsystemId,
};
use dolmen_io::{Buf, Io, Stamps};
use dolmen_nvme::spec::Status;
use dolmen_types::{Uuid, volume::IpAccess};

/// Bits of ONCS: Dataset Management, Write Zeroes.
const DATASET_MANAGEMENT: u16 = 1 << 2;
const WRITE_ZEROES: u16 = 1 << 3;

/// Turns requests of a door into commands of an initiator, and their completions back.
#[derive(Clone, Copy, Debug, Default)]
pub struct NamespaceBackend;

impl NamespaceBackend {
    /// The export of a namespace under a name; under its UUID if there is no other.
    #[must_use]
    pub fn export(
        subsystem: SubsystemId,
        identity: &Identity,
        namespace: &Namespace,
        name: Option<&str>,
        read_only: bool,
    ) -> Export {
        let uuid = uuid_of(namespace);
        let block = namespace.block_bytes;
        let most = identity.max_transfer_bytes.min(u32::try_from(MAX_DATA_BYTES).unwrap_or(u32::MAX));
        let wanted = DATASET_MANAGEMENT | WRITE_ZEROES;
        Export {
            name: name.map_or_else(|| uuid.to_string(), String::from),
            uuid,
            size_bytes: namespace.size_bytes(),
            block_bytes: block,
            piece_bytes: (most / block).max(1) * block,
            read_only,
            can_zero: identity.optional_nvm & wanted == wanted,
            // Nothing asks a controller for that yet, and nothing here keeps traces.
            maps: false,
            nsid: 0,
            access: IpAccess::Any,
            place: Place::Namespace { subsystem, nsid: namespace.nsid },
        }
    }

    /// Hands a request to the initiator; its reply comes out of [`NamespaceBackend::reply`], or at once when it isn't taken.
    pub fn submit(io: &mut Io, initiator: &mut Initiator, request: backend::Request) -> Option<Reply> {
        let backend::Request { token, place, block_bytes, stamps: _, operation } = request;
        let Place::Namespace { subsystem, nsid } = place else {
            return Some(Reply::refused(token, backend::Failure::Gone, None));
        };
        let block = u64::from(block_bytes);
        let count = |bytes: u64| u32::try_from(bytes / block).unwrap_or(u32::MAX);
        let command = match operation {
            Operation::Read { offset, buf } => {
                Command::Read { nsid, lba: offset / block, blocks: count(buf.len() as u64), buf }
            }
            Operation::Write { offset, buf, durable: fua } => {
                Command::Write { nsid, lba: offset / block, blocks: count(buf.len() as u64), buf, fua }
            }
            Operation::WriteZeroes { offset, length, deallocate } => {
                Command::WriteZeroes { nsid, lba: offset / block, blocks: count(length), deallocate }
            }
            Operation::Trim { offset, length } => {
                let range = BlockRange { lba: offset / block, blocks: count(length) };
                Command::Deallocate { nsid, ranges: [range].into() }
            }
            Operation::Map { .. } => return Some(Reply::refused(token, backend::Failure::Unsupported, None)),
            Operation::Flush => Command::Flush { nsid },
        };
        let (request, why) = initiator.submit(io, subsystem, Request::new(token, command)).err()?;
        let failure = match why {
            SubmitError::Full | SubmitError::Memory => backend::Failure::Busy,
            SubmitError::Gone => backend::Failure::Gone,
            SubmitError::Down => backend::Failure::Failed,
            SubmitError::Invalid | SubmitError::NoQueues | SubmitError::TooLarge => backend::Failure::Invalid,
        };
        Some(Reply::refused(token, failure, buffer_of(request.command)))
    }

    /// The reply for the door.
    #[must_use]
    pub fn reply(completion: Completion) -> Reply {
        let result = completion.result.map(drop).map_err(failure);
        let (token, buf) = (completion.ticket, completion.buf);
        Reply { token, result, buf, extents: Box::default(), stamps: Stamps::default() }
    }
}

fn buffer_of(command: Command) -> Option<Buf> {
    match command {
        Command::Read { buf, .. } | Command::Write { buf, .. } => Some(buf),
        _ => None,
    }
}

fn failure(failure: Failure) -> backend::Failure {
    let Failure::Status(status) = failure else { return backend::Failure::Failed };
    let is = |other: Status| status.same_code(other);
    if is(Status::CAPACITY_EXCEEDED) {
        backend::Failure::NoSpace
    } else if is(Status::RESERVATION_CONFLICT)
        || is(Status::WRITE_TO_READ_ONLY_RANGE)
        || is(Status::NAMESPACE_WRITE_PROTECTED)
    {
        backend::Failure::Forbidden
    } else if is(Status::LBA_OUT_OF_RANGE) || is(Status::INVALID_FIELD) {
        backend::Failure::Invalid
    } else if is(Status::INVALID_OPCODE) {
        backend::Failure::Unsupported
    } else if is(Status::INVALID_NAMESPACE) {
        backend::Failure::Gone
    } else {
        backend::Failure::Failed
    }
}

/// Something that is unique among its subsystem's namespaces and stays the same.
fn uuid_of(namespace: &Namespace) -> Uuid {
    let number = u128::from(namespace.nsid).to_be_bytes();
    namespace.uuid.unwrap_or(Uuid(if namespace.nguid == [0; 16] { number } else { namespace.nguid }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_told_apart_by_all_of_their_nguid() {
        let of = |nguid| {
            uuid_of(&Namespace {
                nsid: 5,
                block_bytes: 4096,
                blocks: 1,
                uuid: None,
                nguid,
                deallocated_reads_zero: true,
            })
        };
        let nguid = |second| {
            let mut nguid = [7; 16];
            (nguid[0], nguid[1]) = (0, second);
            nguid
        };
        assert_eq!(of(nguid(1)), Uuid(nguid(1)));
        assert_ne!(of(nguid(1)), of(nguid(2)));
        assert_eq!(of([0; 16]), Uuid(5u128.to_be_bytes()), "its number, when it has none");
    }
}
