//! Reservation commands between the wire and the volume: decoding what a host asks, encoding what is reported.

use dolmen_nvme::spec::{
    AcquireAction, AcquireData, RegisterAction, RegisterData, RegisteredControllerExtended, ReleaseAction,
    ReleaseData, ReportHeader, ReportHeaderExtended, ReservationCommand as Dword, ReservationType, Sqe,
    Status,
};
use dolmen_volume as volume;
use dolmen_volume::{PersistChange, ReservationCommand, ReservationReport};
use zerocopy::{FromBytes, IntoBytes};

const INVALID: Status = Status::INVALID_FIELD.with_dnr();

/// CNTLID of a registrant: our controllers are dynamic, and a registration outlives them (Base figure 411).
const NO_CONTROLLER: u16 = 0xffff;

fn read<T: FromBytes>(data: &[u8]) -> Result<T, Status> {
    T::read_from_prefix(data).map(|(value, _)| value).map_err(|_| INVALID)
}

/// Reservation Register.
pub(crate) fn register(sqe: &Sqe, data: &[u8]) -> Result<ReservationCommand, Status> {
    let (dword, keys) = (Dword::of(sqe), read::<RegisterData>(data)?);
    Ok(ReservationCommand::Register {
        action: match dword.register()? {
            RegisterAction::Register => volume::RegisterAction::Register,
            RegisterAction::Unregister => volume::RegisterAction::Unregister,
            RegisterAction::Replace => volume::RegisterAction::Replace,
        },
        ignore_existing_key: dword.ignore_key,
        persist: match dword.persistence {
            0 => PersistChange::Keep,
            2 => PersistChange::Clear,
            3 => PersistChange::Set,
            _ => return Err(INVALID),
        },
        current_key: keys.current_key.get(),
        new_key: keys.new_key.get(),
    })
}

/// Reservation Acquire.
pub(crate) fn acquire(sqe: &Sqe, data: &[u8]) -> Result<ReservationCommand, Status> {
    let (dword, keys) = (Dword::of(sqe), read::<AcquireData>(data)?);
    let (action, kind) = dword.acquire()?;
    Ok(ReservationCommand::Acquire {
        action: match action {
            AcquireAction::Acquire => volume::AcquireAction::Acquire,
            AcquireAction::Preempt => volume::AcquireAction::Preempt,
            AcquireAction::PreemptAndAbort => volume::AcquireAction::PreemptAndAbort,
        },
        ignore_existing_key: dword.ignore_key,
        kind: volume::ReservationType::from_code(kind.code()),
        current_key: keys.current_key.get(),
        preempt_key: keys.preempt_key.get(),
    })
}

/// Reservation Release.
pub(crate) fn release(sqe: &Sqe, data: &[u8]) -> Result<ReservationCommand, Status> {
    let (dword, keys) = (Dword::of(sqe), read::<ReleaseData>(data)?);
    Ok(ReservationCommand::Release {
        action: match dword.release()? {
            ReleaseAction::Release => volume::ReleaseAction::Release,
            ReleaseAction::Clear => volume::ReleaseAction::Clear,
        },
        ignore_existing_key: dword.ignore_key,
        kind: volume::ReservationType::from_code(dword.kind),
        current_key: keys.current_key.get(),
    })
}

/// The extended Reservation Status, cut or filled up to `out`.
pub(crate) fn write_report(report: &ReservationReport, out: &mut [u8]) {
    let kind = report.kind.and_then(|k| ReservationType::from_code(k as u8));
    let registrants = u16::try_from(report.registrants.len()).unwrap_or(u16::MAX);
    let header = ReportHeaderExtended {
        base: ReportHeader::new(report.generation, kind, registrants, report.persists),
        reserved24: [0; 40],
    };
    let mut page = header.as_bytes().to_vec();
    for r in &report.registrants {
        let entry = RegisteredControllerExtended::new(NO_CONTROLLER, r.holder, r.key, r.host);
        page.extend_from_slice(entry.as_bytes());
    }
    let n = page.len().min(out.len());
    out[..n].copy_from_slice(&page[..n]);
    out[n..].fill(0);
}
