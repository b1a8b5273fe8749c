//! Abort (Base 5.1).

use super::{AdminOpcode, Sqe};

/// The dwords of an Abort command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortCommand {
    /// SQID: the queue of the command to be aborted.
    pub queue: u16,
    /// CID: its identifier there.
    pub cid: u16,
}

impl AbortCommand {
    /// Bit 0 of dword 0 of the completion: the command was not aborted.
    pub const NOT_ABORTED: u32 = 1;

    /// Reads the command.
    #[must_use]
    pub fn of(sqe: &Sqe) -> AbortCommand {
        let [q0, q1, c0, c1] = sqe.cdw10.get().to_le_bytes();
        AbortCommand { queue: u16::from_le_bytes([q0, q1]), cid: u16::from_le_bytes([c0, c1]) }
    }

    /// The command.
    #[must_use]
    pub fn encode(&self, cid: u16) -> Sqe {
        let mut sqe = Sqe::new(AdminOpcode::ABORT.0, cid);
        sqe.cdw10 = (u32::from(self.queue) | u32::from(self.cid) << 16).into();
        sqe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_spec_puts_them() {
        let abort = AbortCommand { queue: 3, cid: 0x1234 };
        let sqe = abort.encode(9);
        assert_eq!((sqe.cdw10.get(), AbortCommand::of(&sqe)), (0x1234_0003, abort));
    }
}
