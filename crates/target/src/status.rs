//! The one place where what a volume answers becomes an NVMe status.
//!
//! Retryable answers carry no DNR: Linux then tries again, on another path where there is one. An answer that the same
//! command would get again carries DNR.

use dolmen_nvme::spec::Status;
use dolmen_volume::VolumeError;

/// The status of a failed command.
pub(crate) fn of(error: VolumeError) -> Status {
    match error {
        VolumeError::OutOfRange => Status::LBA_OUT_OF_RANGE.with_dnr(),
        VolumeError::CompareFailed => Status::COMPARE_FAILURE.with_dnr(),
        VolumeError::ReservationConflict => Status::RESERVATION_CONFLICT.with_dnr(),
        VolumeError::Preempted => Status::ABORTED_PREEMPT,
        VolumeError::CapacityExceeded => Status::CAPACITY_EXCEEDED.with_dnr(),
        VolumeError::Busy | VolumeError::NotReady => Status::NAMESPACE_NOT_READY,
        VolumeError::Media => Status::UNRECOVERED_READ_ERROR.with_dnr(),
        // Never sequenced, so it may be tried again, and elsewhere.
        VolumeError::Expired | VolumeError::CalledOff => Status::INTERNAL_PATH_ERROR,
        VolumeError::Gone => Status::INVALID_NAMESPACE.with_dnr(),
        VolumeError::TooLarge => Status::COMMAND_SIZE_LIMIT_EXCEEDED.with_dnr(),
        VolumeError::Invalid => Status::INVALID_FIELD.with_dnr(),
        VolumeError::TooManyRegistrants => Status::INTERNAL_ERROR.with_dnr(),
    }
}

/// Statuses of both halves of a fused Compare and Write: what made it fail is told of the first (Base 3.4.2).
pub(crate) fn of_fused(error: VolumeError) -> (Status, Status) {
    (of(error), Status::ABORTED_FAILED_FUSED.with_dnr())
}
