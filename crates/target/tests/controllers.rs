//! Controllers from Connect to their end: what Linux does on the way up, what it reads, and what it may not.
#![allow(clippy::unwrap_used)] // helpers of tests

mod support;

use dolmen_nvme::{spec::*, tcp::Digests};
use dolmen_types::volume::HostAccess;
use support::*;
use zerocopy::FromBytes;

fn rig() -> Rig {
    let mut rig = Rig::new(1, 1);
    rig.set(&[space(1, 1024, only(HOST)), space(2, 2048, only(OTHER)), space(5, 4096, HostAccess::Any)]);
    rig
}

#[test]
fn a_linux_host_comes_up_and_does_io() {
    for digests in [Digests::NONE, Digests::BOTH, Digests { header: true, data: false }] {
        let mut rig = rig();
        let ctrl = rig.controller_with(0, HOST, digests, 5000);
        let page =
            IdentifyController::read_from_bytes(&rig.identify(&ctrl, Cns::CONTROLLER, 0).data).unwrap();
        assert_eq!(padded_ascii(&page.subsystem_nqn), SUBSYSTEM);
        assert_eq!((page.controller_id.get(), page.max_transfer, page.controller_type), (ctrl.id, 6, 1));
        assert_eq!(page.io_command_capsule.get(), (64 + 8192) / 16);
        let queues = feature_select::set(0, 0, FeatureId::NUMBER_OF_QUEUES, 0x0001_0001);
        assert_eq!(rig.exec(0, ctrl.admin, queues, Payload::None).cqe.dw0.get(), 0x0001_0001);
        assert_eq!(rig.active(&ctrl), [1, 5]);
        let io = rig.io_queue(&ctrl, HOST, 1, digests);
        for (lba, bytes) in [(0, 4096), (7, 8192), (100, 12_288), (200, 65_536), (300, 262_144)] {
            let data = pattern(lba, bytes);
            assert_eq!(rig.write(0, io, 1, lba, &data), Status::SUCCESS);
            let back = rig.read(0, io, 1, lba, u32::try_from(bytes / 4096).unwrap());
            assert!(back.intact && back.cqe.status().is_success());
            assert_eq!(back.data, data);
        }
        assert!(
            rig.set_config(&ctrl, ControllerConfig::ENABLE.with_shutdown(ShutdownRequest::Normal))
                .cqe
                .status()
                .is_success()
        );
        assert!(
            ControllerStatus(u32::try_from(rig.property(&ctrl, Property::CSTS, false)).unwrap())
                .shutdown_complete()
        );
        rig.turns(50);
        assert!(rig.machines[0].is_gone(io));
        rig.machines[0].close(ctrl.admin);
        rig.turns(50);
        let stats = rig.cores[0].target.stats();
        assert_eq!((stats.connections, stats.controllers, stats.outstanding, stats.violations), (0, 0, 0, 0));
    }
}

fn refused(rig: &mut Rig, change: impl Fn(&mut ConnectCommand, &mut ConnectData)) -> (Status, u32) {
    let conn = rig.dial(0, 4420, Digests::NONE, 32);
    let mut command = Rig::connect_command(0, 0);
    let mut data = ConnectData::new(HOST_ID, ConnectData::DYNAMIC, SUBSYSTEM, HOST);
    change(&mut command, &mut data);
    let done = rig.connect(0, conn, command, data);
    (done.cqe.status(), done.cqe.dw0.get())
}

#[test]
fn connect_says_which_parameter_is_wrong() {
    let mut rig = rig();
    let wrong = Status::CONNECT_INVALID_PARAMETERS.with_dnr();
    type Change = fn(&mut ConnectCommand, &mut ConnectData);
    let cases: [(Change, Status, u32); 11] = [
        (|c, _| c.record_format = 1, Status::CONNECT_INCOMPATIBLE_FORMAT.with_dnr(), 0),
        (|c, _| c.sq_size = 0, wrong, 44),
        (|c, _| c.sq_size = 128, wrong, 44),
        (|_, d| d.controller_id = 5.into(), wrong, 0x1_0010),
        (|_, d| d.subsystem_nqn = [0; 256], wrong, 0x1_0100),
        (|_, d| d.subsystem_nqn = [b'a'; 256], wrong, 0x1_0100),
        (|_, d| d.subsystem_nqn[4] = b'9', wrong, 0x1_0100),
        (|_, d| d.host_nqn = [0; 256], wrong, 0x1_0200),
        (|_, d| d.host_nqn[0] = 0xff, wrong, 0x1_0200),
        (|_, d| d.host_id = [0; 16], wrong, 0x1_0000),
        // The node may have restarted since: beginning again helps, so no DNR.
        (|c, d| (c.queue, d.controller_id) = (1, 77.into()), Status::CONNECT_INVALID_PARAMETERS, 0x1_0010),
    ];
    for (change, status, dword) in cases {
        assert_eq!(refused(&mut rig, change), (status, dword));
    }
    assert_eq!(rig.cores[0].target.stats().connects_refused, cases.len() as u64);
    assert_eq!(rig.cores[0].target.stats().controllers, 0);
}

#[test]
fn an_io_queue_needs_its_own_host_an_enabled_controller_and_a_free_id() {
    let mut rig = rig();
    let ctrl = rig.controller(0, HOST);
    let join = |rig: &mut Rig, qid: u16, nqn: &str, id: [u8; 16]| {
        let conn = rig.dial(0, 4420, Digests::NONE, 32);
        let data = ConnectData::new(id, ctrl.id, SUBSYSTEM, nqn);
        let done = rig.connect(0, conn, Rig::connect_command(qid, 0), data);
        (done.cqe.status(), done.cqe.dw0.get())
    };
    let wrong = Status::CONNECT_INVALID_PARAMETERS.with_dnr();
    let (gone, sequence) = (Status::CONNECT_INVALID_PARAMETERS, Status::COMMAND_SEQUENCE_ERROR);
    assert_eq!(join(&mut rig, 1, OTHER, HOST_ID), (gone, 0x1_0200));
    assert_eq!(join(&mut rig, 1, HOST, [1; 16]), (gone, 0x1_0000));
    assert_eq!(join(&mut rig, 129, HOST, HOST_ID), (wrong, 42));
    assert_eq!(join(&mut rig, 1, HOST, HOST_ID).0, Status::SUCCESS);
    assert_eq!(join(&mut rig, 1, HOST, HOST_ID).0, sequence);
    assert_eq!(join(&mut rig, 128, HOST, HOST_ID).0, Status::SUCCESS);
    // Reset: the queues end, the admin queue stays, and the same ids can join again once it is enabled.
    assert!(rig.set_config(&ctrl, ControllerConfig(0x0046_0000)).cqe.status().is_success());
    assert_eq!(rig.property(&ctrl, Property::CSTS, false), 0);
    rig.turns(50);
    assert_eq!(rig.cores[0].target.hosts()[0].io_queues, 0);
    assert_eq!(join(&mut rig, 1, HOST, HOST_ID).0, sequence);
    assert_eq!(rig.identify(&ctrl, Cns::CONTROLLER, 0).cqe.status(), sequence.with_dnr());
    rig.enable(&ctrl);
    // A host that asked for two queues has no third one.
    let queues = feature_select::set(0, 0, FeatureId::NUMBER_OF_QUEUES, 0x0001_0001);
    assert!(rig.exec(0, ctrl.admin, queues, Payload::None).cqe.status().is_success());
    assert_eq!(join(&mut rig, 3, HOST, HOST_ID), (wrong, 42));
    assert_eq!(join(&mut rig, 2, HOST, HOST_ID).0, Status::SUCCESS);
    assert_eq!(rig.cores[0].target.hosts()[0].io_queues, 1);
}

#[test]
fn silence_beyond_keep_alive_ends_everything_and_no_sooner() {
    let mut rig = rig();
    let ctrl = rig.controller_with(0, HOST, Digests::NONE, 5000);
    let io = rig.io_queue(&ctrl, HOST, 1, Digests::NONE);
    let keep_alive = Sqe::new(AdminOpcode::KEEP_ALIVE.0, 0);
    for _ in 0..4 {
        rig.pass_ms(4500);
        assert!(rig.exec(0, ctrl.admin, keep_alive, Payload::None).cqe.status().is_success());
    }
    rig.pass_ms(4000);
    // Traffic on I/O queues alone is no sign of life: we do not offer traffic based keep alive.
    assert!(rig.read(0, io, 1, 0, 1).cqe.status().is_success());
    rig.pass_ms(3000);
    assert!(rig.machines[0].is_gone(io) && rig.machines[0].is_gone(ctrl.admin));
    let stats = rig.cores[0].target.stats();
    assert_eq!((stats.keep_alive_expired, stats.controllers, stats.connections), (1, 0, 0));
}

#[test]
fn without_keep_alive_nothing_expires_and_a_lost_admin_queue_ends_all() {
    let mut rig = rig();
    let ctrl = rig.controller(0, HOST);
    let io = rig.io_queue(&ctrl, HOST, 1, Digests::NONE);
    rig.pass_ms(300_000);
    assert!(rig.read(0, io, 1, 0, 1).cqe.status().is_success());
    rig.machines[0].close(ctrl.admin);
    rig.turns(100);
    assert!(rig.machines[0].is_gone(io));
    assert_eq!(rig.cores[0].target.stats().controllers, 0);
}

#[test]
fn admin_commands_that_are_not_there_say_so() {
    let mut rig = rig();
    let ctrl = rig.controller(0, HOST);
    let invalid = Status::INVALID_OPCODE.with_dnr();
    for opcode in
        [0x00, 0x01, 0x04, 0x05, 0x0d, 0x10, 0x11, 0x14, 0x15, 0x1a, 0x80, 0x81, 0x82, 0x84, 0xc0, 0xff]
    {
        assert_eq!(
            rig.exec(0, ctrl.admin, Sqe::new(opcode, 0), Payload::None).cqe.status(),
            invalid,
            "{opcode:x}"
        );
    }
    assert_eq!(rig.log(&ctrl, LogId(0x77), 0, 512, false).cqe.status(), Status::INVALID_LOG_PAGE.with_dnr());
    assert_eq!(
        rig.log(&ctrl, LogId::DISCOVERY, 0, 1024, false).cqe.status(),
        Status::INVALID_LOG_PAGE.with_dnr()
    );
    let huge = rig.log(&ctrl, LogId::SMART, 0, 512 * 1024, false);
    assert_eq!(huge.cqe.status(), Status::INVALID_FIELD.with_dnr());
    let errors = rig.log(&ctrl, LogId::ERROR, 0, 1024, false);
    let newest = ErrorLogEntry::read_from_prefix(&errors.data).unwrap().0;
    assert_eq!((newest.count.get(), newest.status.get() >> 1), (19, Status::INVALID_FIELD.with_dnr().bits()));
    // Properties: what can't be read or written.
    let get = PropertyGet { property: Property::NSSR, wide: false }.encode(0);
    assert_eq!(rig.exec(0, ctrl.admin, get, Payload::None).cqe.status(), Status::INVALID_FIELD.with_dnr());
    let set = PropertySet { property: Property::VS, wide: false, value: 1 }.encode(0);
    assert_eq!(rig.exec(0, ctrl.admin, set, Payload::None).cqe.status(), Status::INVALID_FIELD.with_dnr());
    let io = rig.io_queue(&ctrl, HOST, 1, Digests::NONE);
    let get = PropertyGet { property: Property::VS, wide: false }.encode(0);
    assert_eq!(rig.exec(0, io, get, Payload::None).cqe.status(), invalid);
}

#[test]
fn event_requests_are_limited_and_can_be_aborted() {
    let mut rig = rig();
    let ctrl = rig.controller(0, HOST);
    let aer = Sqe::new(AdminOpcode::ASYNC_EVENT_REQUEST.0, 0);
    let cids: Vec<u16> = (0..8).map(|_| rig.send(0, ctrl.admin, aer, Payload::None)).collect();
    let one_more = rig.exec(0, ctrl.admin, aer, Payload::None).cqe.status();
    assert_eq!(one_more, Status::ASYNC_EVENT_LIMIT_EXCEEDED.with_dnr());
    let mut abort = Sqe::new(AdminOpcode::ABORT.0, 0);
    abort.cdw10 = (u32::from(cids[3]) << 16).into();
    assert_eq!(rig.exec(0, ctrl.admin, abort, Payload::None).cqe.dw0.get(), 0);
    assert_eq!(rig.wait(0, ctrl.admin, cids[3]).cqe.status(), Status::ABORT_REQUESTED);
    assert_eq!(rig.exec(0, ctrl.admin, abort, Payload::None).cqe.dw0.get(), 1);
}

#[test]
fn features_with_data_and_capabilities() {
    let mut rig = rig();
    let ctrl = rig.controller(0, HOST);
    let mut get = feature_select::get(0, 0, FeatureId::HOST_ID);
    get.cdw11 = 1.into();
    assert_eq!(rig.exec(0, ctrl.admin, get, Payload::Read(16)).data, HOST_ID);
    let set = feature_select::set(0, 0, FeatureId::TIMESTAMP, 0);
    let stamp = 1_800_000_000_000u64.to_le_bytes().to_vec();
    assert!(rig.exec(0, ctrl.admin, set, Payload::InCapsule(stamp.clone())).cqe.status().is_success());
    assert!(rig.exec(0, ctrl.admin, set, Payload::Write(stamp.clone())).cqe.status().is_success());
    rig.pass_ms(2000);
    let back =
        rig.exec(0, ctrl.admin, feature_select::get(0, 0, FeatureId::TIMESTAMP), Payload::Read(8)).data;
    let value = u64::from_le_bytes(back.try_into().unwrap());
    assert_eq!(value >> 48, 2);
    assert!((2000..4000).contains(&((value & 0xffff_ffff_ffff) - 1_800_000_000_000)));
    let short = rig.exec(0, ctrl.admin, set, Payload::InCapsule(vec![0; 4])).cqe.status();
    assert_eq!(short, Status::DATA_SGL_LENGTH_INVALID.with_dnr());
    let mut save = feature_select::set(0, 0, FeatureId::ARBITRATION, 0);
    save.cdw10 = (save.cdw10.get() | 1 << 31).into();
    assert_eq!(
        rig.exec(0, ctrl.admin, save, Payload::None).cqe.status(),
        Status::FEATURE_NOT_SAVEABLE.with_dnr()
    );
    let mut capabilities = feature_select::get(0, 0, FeatureId::ASYNC_EVENT);
    capabilities.cdw10 = (0x300 | 0x0b).into();
    assert_eq!(rig.exec(0, ctrl.admin, capabilities, Payload::None).cqe.dw0.get(), 4);
}

#[test]
fn a_queue_can_be_disconnected_alone() {
    let mut rig = rig();
    let ctrl = rig.controller(0, HOST);
    let (one, two) =
        (rig.io_queue(&ctrl, HOST, 1, Digests::NONE), rig.io_queue(&ctrl, HOST, 2, Digests::NONE));
    assert!(rig.exec(0, one, Sqe::disconnect(0), Payload::None).cqe.status().is_success());
    rig.turns(100);
    assert!(rig.machines[0].is_gone(one));
    assert!(rig.read(0, two, 1, 0, 1).cqe.status().is_success());
    assert_eq!(rig.cores[0].target.hosts()[0].io_queues, 1);
    let admin = rig.exec(0, ctrl.admin, Sqe::disconnect(0), Payload::None).cqe.status();
    assert_eq!(admin, Status::INVALID_QUEUE_TYPE.with_dnr());
}

#[test]
fn a_queue_whose_host_closes_its_connection_ends_alone() {
    let mut rig = Rig::new(3, 3);
    rig.set(&[space(1, 1024, only(HOST))]);
    let ctrl = rig.controller(0, HOST);
    let queues: Vec<Conn> = (1..=6).map(|qid| rig.io_queue(&ctrl, HOST, qid, Digests::NONE)).collect();
    for &queue in &queues[..5] {
        rig.machines[0].close(queue);
    }
    rig.turns(100);
    assert!(rig.read(0, queues[5], 1, 0, 1).cqe.status().is_success());
    // As Linux does it: it closes its I/O queues first, and then shuts the controller down.
    rig.machines[0].close(queues[5]);
    rig.turns(100);
    let shutdown = ControllerConfig::ENABLE.with_shutdown(ShutdownRequest::Normal);
    assert!(rig.set_config(&ctrl, shutdown).cqe.status().is_success());
}

/// We don't say that queues can be deleted one by one, so a host may take the end of one for the end of all, and go on by another path:
/// what it had sent to the others must not be carried out then.
#[test]
fn a_queue_that_the_target_gives_up_takes_its_association_along() {
    for cores in [1, 3] {
        let mut rig = Rig::new(4, cores);
        rig.set(&[space(1, 1024, only(HOST)), space(2, 1024, only(OTHER))]);
        for broken in 0..6 {
            let ctrl = rig.controller(0, HOST);
            let queues: Vec<Conn> =
                (1..=6).map(|qid| rig.io_queue(&ctrl, HOST, qid, Digests::NONE)).collect();
            let other = rig.controller(1, OTHER);
            rig.machines[0].send_raw(queues[broken], &[0xff; 128]);
            rig.turns(100);
            assert!(rig.machines[0].terminated(queues[broken]).is_some(), "it is told why");
            let gone = |&queue: &Conn| rig.machines[0].is_gone(queue);
            assert!(queues.iter().all(gone) && gone(&ctrl.admin), "{cores} cores");
            assert!(rig.identify(&other, Cns::CONTROLLER, 0).cqe.status().is_success());
            rig.machines[1].close(other.admin);
            rig.turns(100);
            let left = |c: &Core| (c.target.stats().controllers, c.target.stats().connections);
            assert!(rig.cores.iter().all(|c| left(c) == (0, 0)), "{cores} cores");
        }
    }
}

#[test]
fn the_queue_head_is_told_only_under_flow_control() {
    let mut rig = rig();
    for (attributes, first) in [(0, 1), (4, 0xffff)] {
        let conn = rig.dial(0, 4420, Digests::NONE, 16);
        let command = ConnectCommand { sq_size: 3, attributes, ..Rig::connect_command(0, 0) };
        let data = ConnectData::new(HOST_ID, ConnectData::DYNAMIC, SUBSYSTEM, HOST);
        assert_eq!(rig.connect(0, conn, command, data).cqe.sq_head.get(), first);
        let get = PropertyGet { property: Property::VS, wide: false };
        let heads: Vec<u16> =
            (0..5).map(|_| rig.exec(0, conn, get.encode(0), Payload::None).cqe.sq_head.get()).collect();
        assert_eq!(heads, if attributes == 0 { [2, 3, 0, 1, 2] } else { [0; 5] });
    }
}

/// Writes of one host on every core's queues that volumes keep, in a machine of several cores: when their connections end they are
/// called off, and the host is let in again only when all cores are done with what it had.
#[test]
fn a_host_is_let_in_again_when_its_commands_of_before_are_over() {
    for cores in [1, 3] {
        let mut rig = Rig::new(7, cores);
        rig.set(&[space(1, 1024, only(HOST))]);
        let ctrl = rig.controller(0, HOST);
        let queues: Vec<Conn> = (1..=6).map(|qid| rig.io_queue(&ctrl, HOST, qid, Digests::NONE)).collect();
        rig.memory.hold = true;
        for (at, &queue) in queues.iter().enumerate() {
            let rw = ReadWrite { start: at as u64, blocks: 2, ..ReadWrite::default() };
            let sqe = Sqe::with_read_write(NvmOpcode::WRITE, 0, 1, rw);
            rig.send(0, queue, sqe, Payload::InCapsule(pattern(9, 8192)));
        }
        rig.turns(50);
        assert_eq!(rig.memory.requests.len(), 6);
        // The volumes' answers to what is called off are on their way, for a while.
        rig.mute = true;
        queues.iter().for_each(|&queue| rig.machines[0].close(queue));
        rig.machines[0].close(ctrl.admin);
        rig.turns(50);
        let outstanding: u32 = rig.cores.iter().map(|c| c.target.stats().outstanding).sum();
        assert_eq!((rig.memory.requests.len(), outstanding), (0, 0), "their buffers are back");
        let other = rig.dial(1, 4420, Digests::NONE, 32);
        let admin = rig.dial(0, 4420, Digests::NONE, 32);
        let connect = |rig: &mut Rig, machine, conn, id, nqn| {
            use zerocopy::IntoBytes;
            let data = ConnectData::new(id, ConnectData::DYNAMIC, SUBSYSTEM, nqn);
            let payload = Payload::InCapsule(data.as_bytes().to_vec());
            rig.send(machine, conn, Rig::connect_command(0, 0).encode(0), payload)
        };
        let theirs = connect(&mut rig, 1, other, [7; 16], OTHER);
        let ours = connect(&mut rig, 0, admin, HOST_ID, HOST);
        rig.turns(100);
        assert!(rig.machines[1].take(other, theirs).is_some(), "nobody else waits");
        let early = rig.machines[0].take(admin, ours);
        assert_eq!(early.is_some(), cores == 1, "{cores} cores");
        rig.mute = false;
        let done = early.unwrap_or_else(|| rig.wait(0, admin, ours));
        assert!(done.cqe.status().is_success());
        let called_off: u64 = rig.cores.iter().map(|c| c.target.stats().called_off).sum();
        assert_eq!(called_off, 6);
    }
}

/// Should a core never answer, the deadline of the commands themselves ends the wait.
#[test]
fn a_core_that_does_not_answer_does_not_keep_a_host_out() {
    let mut rig = Rig::new(8, 2);
    rig.set(&[space(1, 1024, only(HOST))]);
    let ctrl = rig.controller(0, HOST);
    let queue = rig.io_queue(&ctrl, HOST, 1, Digests::NONE);
    (rig.memory.hold, rig.mute) = (true, true);
    let rw = ReadWrite { start: 0, blocks: 1, ..ReadWrite::default() };
    rig.send(
        0,
        queue,
        Sqe::with_read_write(NvmOpcode::WRITE, 0, 1, rw),
        Payload::InCapsule(pattern(9, 4096)),
    );
    rig.turns(50);
    rig.machines[0].close(queue);
    rig.machines[0].close(ctrl.admin);
    rig.turns(50);
    rig.pass_ms(25_000);
    rig.controller(0, HOST);
}
