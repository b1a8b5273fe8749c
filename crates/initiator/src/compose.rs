//! Commands that bring a list or keys with them: Copy and reservations, composed into a buffer of the pool, and the
//! report of a reservation read back into plain values.

use crate::{BlockRange, Command, Data, Error, ErrorKind, Resend, SubmitError};
use dolmen_io::{Buf, Pool};
pub use dolmen_nvme::spec::{AcquireAction, RegisterAction, ReleaseAction, ReservationType};
use dolmen_nvme::spec::{
    AcquireData, CopyCommand, CopyDescriptor, NvmOpcode, ReadWrite, RegisterData,
    RegisteredControllerExtended, ReleaseData, ReportCommand, ReportHeaderExtended, ReservationCommand, Sqe,
};
use zerocopy::{FromBytes, IntoBytes};

/// Source ranges of one Copy at most; a controller may take fewer (MSRC).
const MAX_COPY_RANGES: usize = 256;
/// Blocks of one source range at most.
const MAX_RANGE_BLOCKS: u32 = 65_536;

/// A change of this host's registration (Base 7.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration {
    /// What to do.
    pub action: RegisterAction,
    /// The key registered now; not looked at by Register.
    pub current_key: u64,
    /// The key to be registered; not looked at by Unregister.
    pub new_key: u64,
    /// IEKEY: do it whatever `current_key` says.
    pub ignore_current_key: bool,
    /// CPTPL: whether reservations of the namespace survive a loss of power; unchanged if `None`.
    pub persist: Option<bool>,
}

/// A reservation to be taken (Base 7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acquisition {
    /// What to do.
    pub action: AcquireAction,
    /// Who may still read or write.
    pub kind: ReservationType,
    /// This host's key.
    pub current_key: u64,
    /// The key of those to be preempted.
    pub preempt_key: u64,
}

/// A reservation to be given back (Base 7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// What to do.
    pub action: ReleaseAction,
    /// The kind of reservation that is held; Clear doesn't look at it.
    pub kind: ReservationType,
    /// This host's key.
    pub current_key: u64,
}

/// One registrant of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registrant {
    /// CNTLID; FFFFh when the controller is dynamic.
    pub controller_id: u16,
    /// True when it holds the reservation.
    pub holder: bool,
    /// Its key.
    pub key: u64,
    /// Its host identifier.
    pub host_id: [u8; 16],
}

/// Who is registered, and who holds what (Base 7.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservationReport {
    /// GEN: grows with every change of registrations.
    pub generation: u32,
    /// The reservation that is held.
    pub kind: Option<ReservationType>,
    /// True when registrations persist through power loss.
    pub persists: bool,
    /// Registrants there are; more than `registrants` holds when the buffer was too short for all.
    pub count: u16,
    /// Those that fit the buffer.
    pub registrants: Vec<Registrant>,
}

impl Command {
    /// Copies `sources`, one behind the other, to `destination`. Sent again after a lost connection only when no source
    /// overlaps the destination: then copying twice is as good as once.
    ///
    /// # Errors
    /// [`SubmitError::Invalid`] for ranges that no command can have, [`SubmitError::Memory`] when the pool is empty.
    pub fn copy(
        pool: &Pool,
        nsid: u32,
        destination: u64,
        sources: &[BlockRange],
    ) -> Result<Command, SubmitError> {
        let fits = |r: &BlockRange| (1..=MAX_RANGE_BLOCKS).contains(&r.blocks);
        if !(1..=MAX_COPY_RANGES).contains(&sources.len()) || !sources.iter().all(fits) {
            return Err(SubmitError::Invalid);
        }
        let mut buf = pool.alloc(sources.len() * size_of::<CopyDescriptor>()).ok_or(SubmitError::Memory)?;
        let (entries, _) = buf.as_chunks_mut::<{ size_of::<CopyDescriptor>() }>();
        for (entry, range) in entries.iter_mut().zip(sources) {
            *entry = zerocopy::transmute!(CopyDescriptor::new(range.lba, range.blocks));
        }
        let blocks: u64 = sources.iter().map(|r| u64::from(r.blocks)).sum();
        let end = destination.saturating_add(blocks);
        let overlaps =
            |r: &BlockRange| r.lba < end && destination < r.lba.saturating_add(u64::from(r.blocks));
        let resend = if sources.iter().any(overlaps) { Resend::Never } else { Resend::Allowed };
        let ranges = u16::try_from(sources.len()).expect("at most 256 ranges");
        let copy = CopyCommand { destination, ranges, format: 0, fua: false, protection: 0 };
        Ok(Command::Io { sqe: copy.encode(0, nsid), data: Data::ToController(buf), resend })
    }

    /// Marks blocks as unreadable until they are written again.
    ///
    /// # Errors
    /// [`SubmitError::Invalid`] for a count that no command can have.
    pub fn write_uncorrectable(nsid: u32, lba: u64, blocks: u32) -> Result<Command, SubmitError> {
        if !(1..=MAX_RANGE_BLOCKS).contains(&blocks) {
            return Err(SubmitError::Invalid);
        }
        let rw = ReadWrite { start: lba, blocks, ..ReadWrite::default() };
        let sqe = Sqe::with_read_write(NvmOpcode::WRITE_UNCORRECTABLE, 0, nsid, rw);
        Ok(Command::Io { sqe, data: Data::None, resend: Resend::Allowed })
    }

    /// Registers, unregisters or replaces this host's key. Never sent twice: after a [`Failure::Lost`](crate::Failure::Lost)
    /// a report tells what became of it.
    ///
    /// # Errors
    /// [`SubmitError::Memory`] when the pool is empty.
    pub fn register(pool: &Pool, nsid: u32, what: &Registration) -> Result<Command, SubmitError> {
        let action = match what.action {
            RegisterAction::Register => 0,
            RegisterAction::Unregister => 1,
            RegisterAction::Replace => 2,
        };
        let persistence = match what.persist {
            None => 0,
            Some(false) => 2,
            Some(true) => 3,
        };
        let dword = ReservationCommand { action, ignore_key: what.ignore_current_key, kind: 0, persistence };
        let keys = RegisterData { current_key: what.current_key.into(), new_key: what.new_key.into() };
        reservation(pool, nsid, NvmOpcode::RESERVATION_REGISTER, dword, keys.as_bytes())
    }

    /// Takes a reservation, or preempts others. Never sent twice.
    ///
    /// # Errors
    /// [`SubmitError::Memory`] when the pool is empty.
    pub fn acquire(pool: &Pool, nsid: u32, what: &Acquisition) -> Result<Command, SubmitError> {
        let action = match what.action {
            AcquireAction::Acquire => 0,
            AcquireAction::Preempt => 1,
            AcquireAction::PreemptAndAbort => 2,
        };
        let dword = ReservationCommand { action, ignore_key: false, kind: what.kind.code(), persistence: 0 };
        let keys = AcquireData { current_key: what.current_key.into(), preempt_key: what.preempt_key.into() };
        reservation(pool, nsid, NvmOpcode::RESERVATION_ACQUIRE, dword, keys.as_bytes())
    }

    /// Gives a reservation back, or clears all registrations. Never sent twice.
    ///
    /// # Errors
    /// [`SubmitError::Memory`] when the pool is empty.
    pub fn release(pool: &Pool, nsid: u32, what: &Release) -> Result<Command, SubmitError> {
        let action = match what.action {
            ReleaseAction::Release => 0,
            ReleaseAction::Clear => 1,
        };
        let dword = ReservationCommand { action, ignore_key: false, kind: what.kind.code(), persistence: 0 };
        let keys = ReleaseData { current_key: what.current_key.into() };
        reservation(pool, nsid, NvmOpcode::RESERVATION_RELEASE, dword, keys.as_bytes())
    }

    /// Asks who is registered; the answer, for [`ReservationReport::parse`], holds as many registrants as fit `buf`, whose
    /// length is a multiple of 4.
    ///
    /// # Errors
    /// [`SubmitError::Invalid`] for another length.
    pub fn reservation_report(nsid: u32, buf: Buf) -> Result<Command, SubmitError> {
        if buf.is_empty() || !buf.len().is_multiple_of(4) {
            return Err(SubmitError::Invalid);
        }
        let report = ReportCommand { length: buf.len() as u64, extended: true };
        Ok(Command::Io { sqe: report.encode(0, nsid), data: Data::ToHost(buf), resend: Resend::Allowed })
    }
}

impl ReservationReport {
    /// Reads the extended Reservation Status that [`Command::reservation_report`] brings.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`] when it is too short for its header.
    pub fn parse(page: &[u8]) -> Result<ReservationReport, Error> {
        let (header, rest) = ReportHeaderExtended::ref_from_prefix(page)
            .map_err(|_| Error::new(ErrorKind::Protocol, "a reservation report without a header"))?;
        let count = header.base.controllers.get();
        let (entries, _) = rest.as_chunks::<{ size_of::<RegisteredControllerExtended>() }>();
        let registrants = entries.iter().take(usize::from(count)).map(|entry| {
            let entry: &RegisteredControllerExtended = zerocopy::transmute_ref!(entry);
            Registrant {
                controller_id: entry.controller_id.get(),
                holder: entry.status & 1 != 0,
                key: entry.key.get(),
                host_id: entry.host_id,
            }
        });
        Ok(ReservationReport {
            generation: header.base.generation.get(),
            kind: ReservationType::from_code(header.base.kind),
            persists: header.base.persist & 1 != 0,
            count,
            registrants: registrants.collect(),
        })
    }
}

fn reservation(
    pool: &Pool,
    nsid: u32,
    opcode: NvmOpcode,
    dword: ReservationCommand,
    keys: &[u8],
) -> Result<Command, SubmitError> {
    let mut buf = pool.alloc(keys.len()).ok_or(SubmitError::Memory)?;
    buf.copy_from_slice(keys);
    let sqe = Sqe { nsid: nsid.into(), cdw10: dword.dword().into(), ..Sqe::new(opcode.0, 0) };
    Ok(Command::Io { sqe, data: Data::ToController(buf), resend: Resend::Never })
}

#[cfg(test)]
mod tests {
    use super::*;
    use dolmen_io::PoolConfig;
    use dolmen_nvme::spec::ReportHeader;

    fn pool() -> Pool {
        Pool::new(&PoolConfig::new(vec![(4096, 2), (16 * 1024, 1)]))
    }

    fn parts(command: Command) -> (Sqe, Vec<u8>, Resend) {
        match command {
            Command::Io { sqe, data: Data::ToController(buf), resend } => (sqe, buf.to_vec(), resend),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn copies_are_repeated_only_when_that_is_harmless() {
        let pool = pool();
        let range = |lba, blocks| BlockRange { lba, blocks };
        let copy = |destination, sources: &[BlockRange]| Command::copy(&pool, 3, destination, sources);
        let (sqe, list, resend) = parts(copy(100_000, &[range(0, 50), range(200, 65_536)]).unwrap());
        assert_eq!((CopyCommand::of(&sqe).ranges, list.len(), resend), (2, 64, Resend::Allowed));
        assert_eq!(list[32 + 8..32 + 18], [200, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
        assert_eq!(parts(copy(100, &[range(109, 1), range(0, 10)]).unwrap()).2, Resend::Never);
        assert_eq!(parts(copy(100, &[range(111, 1), range(0, 10)]).unwrap()).2, Resend::Allowed);
        for bad in [&[][..], &[range(0, 0)], &[range(0, 65_537)], &vec![range(0, 1); 257]] {
            assert!(matches!(copy(0, bad), Err(SubmitError::Invalid)));
        }
        assert!(Command::write_uncorrectable(1, 0, 0).is_err());
    }

    #[test]
    fn reservation_commands_have_their_bytes() {
        let pool = pool();
        let register = Registration {
            action: RegisterAction::Replace,
            current_key: 1,
            new_key: 0x0203,
            ignore_current_key: true,
            persist: Some(true),
        };
        let (sqe, keys, resend) = parts(Command::register(&pool, 9, &register).unwrap());
        assert_eq!((sqe.opcode, sqe.nsid.get(), sqe.cdw10.get()), (0x0d, 9, 0xc000_000a));
        assert_eq!((keys, resend), (vec![1, 0, 0, 0, 0, 0, 0, 0, 3, 2, 0, 0, 0, 0, 0, 0], Resend::Never));
        let acquire = Acquisition {
            action: AcquireAction::Preempt,
            kind: ReservationType::WriteExclusive,
            current_key: 5,
            preempt_key: 6,
        };
        let (sqe, keys, _) = parts(Command::acquire(&pool, 9, &acquire).unwrap());
        assert_eq!((sqe.opcode, sqe.cdw10.get(), keys[0], keys[8]), (0x11, 0x101, 5, 6));
        let release =
            Release { action: ReleaseAction::Clear, kind: ReservationType::ExclusiveAccess, current_key: 7 };
        let (sqe, keys, _) = parts(Command::release(&pool, 9, &release).unwrap());
        assert_eq!((sqe.opcode, sqe.cdw10.get(), keys.len()), (0x15, 0x201, 8));
    }

    #[test]
    fn reports_are_read_as_far_as_they_go() {
        let base = ReportHeader::new(4, Some(ReservationType::ExclusiveAccess), 2, true);
        let mut page = ReportHeaderExtended { base, reserved24: [0; 40] }.as_bytes().to_vec();
        for (key, holder) in [(1, false), (2, true)] {
            page.extend_from_slice(
                RegisteredControllerExtended::new(0xffff, holder, key, [3; 16]).as_bytes(),
            );
        }
        let report = ReservationReport::parse(&page).unwrap();
        assert_eq!((report.count, report.registrants.len(), report.persists), (2, 2, true));
        assert!(report.registrants[1].holder && report.kind == Some(ReservationType::ExclusiveAccess));
        assert_eq!(ReservationReport::parse(&page[..150]).unwrap().registrants.len(), 1);
        assert!(ReservationReport::parse(&page[..60]).is_err());
    }
}
