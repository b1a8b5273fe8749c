//! Every view of a command, on whatever 64 bytes and data a host sends.
#![no_main]

use dolmen_nvme::spec::{
    AuthCommand, ConnectCommand, ConnectData, CopyCommand, CopyDescriptor, DataPlan, DatasetCommand,
    DsmRange, GetLogCommand, IdentifyCommand, PropertyGet, PropertySet, QueueKind, ReportCommand,
    ReservationCommand, Sqe, feature_select, number_of_queues, padded_ascii,
};
use libfuzzer_sys::fuzz_target;
use zerocopy::FromBytes;

fuzz_target!(|input: &[u8]| {
    let Ok((sqe, data)) = Sqe::read_from_prefix(input) else { return };
    let _ = sqe.describe(QueueKind::Admin).to_string();
    let _ = sqe.describe(QueueKind::Io).to_string();
    let rw = sqe.read_write();
    assert!((1..=65_536).contains(&rw.blocks));
    let capsule = u32::try_from(data.len()).unwrap_or(u32::MAX);
    if let Ok(DataPlan::InCapsule { offset, length }) = DataPlan::of(&sqe, capsule) {
        assert!(length > 0 && offset.checked_add(length).is_some_and(|end| end <= capsule));
    }
    if let Ok(log) = GetLogCommand::of(&sqe) {
        assert!(log.length >= 4 && log.offset % 4 == 0);
    }
    let _ = (PropertyGet::of(&sqe), PropertySet::of(&sqe), AuthCommand::of(&sqe), ReportCommand::of(&sqe));
    let _ = (ConnectCommand::of(&sqe), IdentifyCommand::of(&sqe), feature_select::select(&sqe));
    let _ = (feature_select::id(&sqe), feature_select::save(&sqe), number_of_queues::counts(sqe.cdw11.get()));
    let reservation = ReservationCommand::of(&sqe);
    let _ = (reservation.register(), reservation.acquire(), reservation.release());
    assert!((1..=256).contains(&CopyCommand::of(&sqe).ranges));
    assert!((16..=4096).contains(&DatasetCommand::of(&sqe).data_bytes()));
    if let Ok((ranges, _)) = <[CopyDescriptor]>::ref_from_prefix_with_elems(data, data.len() / 32) {
        assert!(ranges.iter().all(|range| (1..=65_536).contains(&range.blocks())));
    }
    let _ = <[DsmRange]>::ref_from_prefix_with_elems(data, data.len() / 16);
    if let Ok((connect, _)) = ConnectData::ref_from_prefix(data) {
        let _ = (padded_ascii(&connect.subsystem_nqn), padded_ascii(&connect.host_nqn));
    }
});
