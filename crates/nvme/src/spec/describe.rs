//! One line about a command for people: logs, traces, error messages.

use super::{
    AdminOpcode, ConnectCommand, CopyCommand, DatasetCommand, FabricsType, GetLogCommand, IdentifyCommand,
    NvmOpcode, Opcode, PropertyGet, PropertySet, QueueKind, ReservationCommand, Sqe, feature_select,
};
use std::fmt;

/// A command as a line of text; made by [`Sqe::describe`].
#[derive(Clone, Copy, Debug)]
pub struct Description<'a> {
    sqe: &'a Sqe,
    opcode: Opcode,
}

impl Sqe {
    /// The command as people read it, with the specification's names; the queue gives opcodes their meaning.
    #[must_use]
    pub fn describe(&self, queue: QueueKind) -> Description<'_> {
        Description { sqe: self, opcode: self.opcode_on(queue) }
    }
}

impl fmt::Display for Description<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sqe = self.sqe;
        if sqe.is_fabrics() {
            write!(f, "{}", sqe.fabrics_type())?;
            fabrics(sqe, f)?;
        } else {
            write!(f, "{}", self.opcode)?;
            match self.opcode {
                Opcode::Admin(opcode) => admin(opcode, sqe, f)?,
                Opcode::Nvm(opcode) => nvm(opcode, sqe, f)?,
            }
        }
        write!(f, " (cid {})", sqe.cid)
    }
}

fn fabrics(sqe: &Sqe, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match sqe.fabrics_type() {
        FabricsType::CONNECT => {
            let connect = ConnectCommand::of(sqe);
            let entries = u32::from(connect.sq_size) + 1;
            write!(f, " queue {}, {entries} entries, KATO {} ms", connect.queue, connect.keep_alive_ms)
        }
        FabricsType::PROPERTY_GET => match PropertyGet::of(sqe) {
            Ok(get) => write!(f, " {:x}h", get.property.0),
            Err(status) => write!(f, ": {status}"),
        },
        FabricsType::PROPERTY_SET => match PropertySet::of(sqe) {
            Ok(set) => write!(f, " {:x}h = {:x}h", set.property.0, set.value),
            Err(status) => write!(f, ": {status}"),
        },
        _ => Ok(()),
    }
}

fn admin(opcode: AdminOpcode, sqe: &Sqe, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match opcode {
        AdminOpcode::IDENTIFY => {
            let identify = IdentifyCommand::of(sqe);
            write!(f, " CNS {:02x}h, nsid {:x}h", identify.cns.0, sqe.nsid)
        }
        AdminOpcode::GET_LOG_PAGE => match GetLogCommand::of(sqe) {
            Ok(log) => {
                let (page, nsid) = (log.page.0, sqe.nsid);
                write!(f, " {page:02x}h, {} bytes from {}, nsid {nsid:x}h", log.length, log.offset)
            }
            Err(status) => write!(f, ": {status}"),
        },
        AdminOpcode::GET_FEATURES => write!(f, " {:02x}h", feature_select::id(sqe).0),
        AdminOpcode::SET_FEATURES => write!(f, " {:02x}h = {:x}h", feature_select::id(sqe).0, sqe.cdw11),
        AdminOpcode::ABORT => {
            let [q0, q1, c0, c1] = sqe.cdw10.get().to_le_bytes();
            let (queue, cid) = (u16::from_le_bytes([q0, q1]), u16::from_le_bytes([c0, c1]));
            write!(f, " of cid {cid} on queue {queue}")
        }
        _ => Ok(()),
    }
}

fn nvm(opcode: NvmOpcode, sqe: &Sqe, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, " nsid {:x}h", sqe.nsid)?;
    match opcode {
        NvmOpcode::READ
        | NvmOpcode::WRITE
        | NvmOpcode::COMPARE
        | NvmOpcode::WRITE_ZEROES
        | NvmOpcode::WRITE_UNCORRECTABLE
        | NvmOpcode::VERIFY => {
            let rw = sqe.read_write();
            let fua = if rw.fua { ", FUA" } else { "" };
            write!(f, ", {} blocks from {}{fua}", rw.blocks, rw.start)
        }
        NvmOpcode::DATASET_MANAGEMENT => {
            let dataset = DatasetCommand::of(sqe);
            let deallocate = if dataset.deallocate { ", deallocate" } else { "" };
            write!(f, ", {} ranges{deallocate}", dataset.ranges)
        }
        NvmOpcode::COPY => {
            let copy = CopyCommand::of(sqe);
            write!(f, ", {} ranges to {}", copy.ranges, copy.destination)
        }
        NvmOpcode::RESERVATION_REGISTER | NvmOpcode::RESERVATION_ACQUIRE | NvmOpcode::RESERVATION_RELEASE => {
            let reservation = ReservationCommand::of(sqe);
            write!(f, ", action {}, type {}", reservation.action, reservation.kind)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Cns, ReadWrite};

    #[test]
    fn reads_like_a_sentence() {
        let rw = ReadWrite { start: 8, blocks: 4, fua: true, ..ReadWrite::default() };
        let write = Sqe::with_read_write(NvmOpcode::WRITE, 7, 1, rw);
        assert_eq!(write.describe(QueueKind::Io).to_string(), "Write nsid 1h, 4 blocks from 8, FUA (cid 7)");
        let identify = IdentifyCommand {
            cns: Cns::CONTROLLER,
            controller: 0,
            specific: 0,
            command_set: 0,
            uuid_index: 0,
        };
        let text = identify.encode(3, 0).describe(QueueKind::Admin).to_string();
        assert_eq!(text, "Identify CNS 01h, nsid 0h (cid 3)");
        assert_eq!(Sqe::disconnect(1).describe(QueueKind::Io).to_string(), "Disconnect (cid 1)");
        let unknown = Sqe::new(0xc1, 2);
        assert_eq!(unknown.describe(QueueKind::Admin).to_string(), "opcode c1h (cid 2)");
    }
}
