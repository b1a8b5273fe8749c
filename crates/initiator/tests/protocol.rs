//! The polled face against a controller in a simulated world: bring-up, data in every shape, digests, errors.
#![allow(clippy::unwrap_used)] // tests

mod common;
#[path = "common/pair.rs"]
mod pair;

use common::{BLOCK, Behaviour};
use dolmen_initiator::{
    BlockRange, Command, ErrorKind, Failure, Namespace, Notice, Request, State, SubmitError,
};
use dolmen_nvme::{
    spec::{Cns, Status, notice},
    tcp::Digests,
};
use pair::Pair;

#[test]
fn connects_identifies_and_says_good_bye() {
    let mut p = Pair::new(1, Behaviour { slow_ready: 3, ..Behaviour::default() }, |_| {});
    p.live();
    assert_eq!(p.initiator.state(p.id), State::Live { queues: 2 });
    assert_eq!(p.peer.counts.connections, 3);
    let identity = p.initiator.identity(p.id).unwrap().clone();
    assert_eq!((identity.controller_id, identity.model.as_str()), (7, "RAM"));
    assert_eq!((identity.max_transfer_bytes, identity.in_capsule_bytes), (256 * 1024, 8192));
    let buf = p.buf(4096, 0);
    let page = p.execute(Command::Identify { cns: Cns::NAMESPACE, nsid: 1, buf }).buf.unwrap();
    let buf = p.buf(4096, 0);
    let list = p.execute(Command::Identify { cns: Cns::NAMESPACE_DESCRIPTORS, nsid: 1, buf }).buf.unwrap();
    let ns = Namespace::parse(1, &page, &list).unwrap();
    assert_eq!((ns.block_bytes, ns.blocks, ns.uuid), (4096, 1024, Some(common::UUID)));
    p.initiator.disconnect(&mut p.io, p.id);
    p.until("closed", |p| p.initiator.state(p.id) == State::Closed);
    assert_eq!(p.peer.counts.shutdowns, 1);
    let buf = p.buf(4096, 0);
    let request = Request::new(1, Command::Read { nsid: 1, lba: 0, blocks: 1, buf });
    assert_eq!(p.initiator.submit(&mut p.io, p.id, request).unwrap_err().1, SubmitError::Gone);
}

/// Every way that data can travel: in the capsule, by R2T in one or many pieces, staged or sent from where it lies,
/// with and without digests and success flag, cut anywhere by the network.
#[test]
fn data_travels_in_every_shape() {
    let both = [Digests::NONE, Digests::BOTH, Digests { header: true, data: false }];
    for (seed, digests) in (0..).zip(both) {
        for (in_capsule_bytes, max_h2c_data, r2t_bytes) in
            [(8192, 4096, 4096), (0, 4096, 1 << 20), (65_536, 1 << 20, 8192), (4096, 8192, 12_288)]
        {
            let behaviour = Behaviour {
                digests,
                in_capsule_bytes,
                max_h2c_data,
                r2t_bytes,
                c2h_bytes: 5000,
                success_flag: seed % 2 == 0,
                ..Behaviour::default()
            };
            let mut p = Pair::new(seed, behaviour, |o| {
                o.digests = dolmen_initiator::Digests { header: true, data: true };
            });
            p.live();
            for (i, blocks) in [1u32, 2, 3, 16, 64].into_iter().enumerate() {
                let fill = u8::try_from(i + 1).unwrap();
                let lba = i as u64 * 64;
                let done = p.write(lba, blocks, fill);
                assert_eq!(done.result, Ok(0));
                assert!(done.buf.unwrap().iter().all(|&b| b == fill));
                let back = p.read(lba, blocks);
                assert_eq!(back.result, Ok(0));
                assert!(back.buf.unwrap().iter().all(|&b| b == fill), "{blocks} blocks");
            }
            assert_eq!(p.peer.counts.violations, 0);
        }
    }
}

#[test]
fn the_other_commands() {
    let mut p = Pair::new(3, Behaviour::default(), |_| {});
    p.live();
    p.write(5, 4, 0x77);
    let buf = p.buf(4 * BLOCK, 0x77);
    assert_eq!(p.execute(Command::Compare { nsid: 1, lba: 5, blocks: 4, buf }).result, Ok(0));
    let buf = p.buf(4 * BLOCK, 0x78);
    let failed = p.execute(Command::Compare { nsid: 1, lba: 5, blocks: 4, buf });
    let status = failed.result.unwrap_err().status().unwrap();
    assert!(status.same_code(Status::COMPARE_FAILURE) && failed.buf.is_some());
    let zero = Command::WriteZeroes { nsid: 1, lba: 5, blocks: 1, deallocate: true };
    assert_eq!(p.execute(zero).result, Ok(0));
    let ranges = [BlockRange { lba: 6, blocks: 1 }, BlockRange { lba: 8, blocks: 1 }].into();
    assert_eq!(p.execute(Command::Deallocate { nsid: 1, ranges }).result, Ok(0));
    let got = p.read(5, 4).buf.unwrap();
    let fills: Vec<u8> = got.chunks(BLOCK).map(|b| b[100]).collect();
    assert_eq!(fills, [0, 0, 0x77, 0]);
    assert_eq!(p.execute(Command::Flush { nsid: 1 }).result, Ok(0));
    assert_eq!(p.execute(Command::Verify { nsid: 1, lba: 0, blocks: 9 }).result, Ok(0));
    let beyond = p.read(1020, 5);
    assert!(beyond.result.unwrap_err().status().unwrap().same_code(Status::LBA_OUT_OF_RANGE));
}

#[test]
fn what_no_command_can_be_is_refused_with_its_buffer() {
    let mut p = Pair::new(4, Behaviour::default(), |o| (o.queue_depth, o.backlog) = (1, 1));
    p.live();
    let refused = |p: &mut Pair, command| {
        let (request, error) = p.initiator.submit(&mut p.io, p.id, Request::new(0, command)).unwrap_err();
        (request, error)
    };
    let buf = p.buf(4096, 0);
    assert_eq!(refused(&mut p, Command::Read { nsid: 1, lba: 0, blocks: 0, buf }).1, SubmitError::Invalid);
    let buf = p.buf(65 * 4096, 0);
    let (request, error) = refused(&mut p, Command::Write { nsid: 1, lba: 0, blocks: 65, buf, fua: true });
    assert_eq!(error, SubmitError::TooLarge);
    assert!(matches!(request.command, Command::Write { buf, .. } if buf.len() == 65 * 4096));
    assert_eq!(refused(&mut p, Command::Deallocate { nsid: 1, ranges: [].into() }).1, SubmitError::Invalid);
    for ticket in 0..3 {
        p.submit(ticket, Command::Flush { nsid: 1 });
    }
    assert_eq!(refused(&mut p, Command::Flush { nsid: 1 }).1, SubmitError::Full);
    (0..3).for_each(|t| assert_eq!(p.wait(t).result, Ok(0)));
}

#[test]
fn many_commands_keep_every_queue_busy_and_all_come_back() {
    let mut p = Pair::new(5, Behaviour::default(), |o| o.io_queues = 4);
    p.live();
    let mut outstanding = 0u64;
    for round in 0..2000u64 {
        let lba = round % 512;
        let buf = p.buf(4096, u8::try_from(lba % 251).unwrap());
        p.submit(round, Command::Write { nsid: 1, lba, blocks: 1, buf, fua: false });
        outstanding += 1;
        if outstanding == 200 {
            p.until("all", |p| p.completions.len() == 200);
            let queues: std::collections::BTreeSet<u16> = p.completions.iter().map(|c| c.queue).collect();
            assert_eq!(queues.len(), 4);
            assert!(p.completions.drain(..).all(|c| c.result == Ok(0)));
            outstanding = 0;
        }
    }
    assert!((0..512).all(|b| p.peer.data[b * BLOCK] == u8::try_from(b % 251).unwrap()));
}

#[test]
fn not_now_is_tried_again_and_no_means_no() {
    let mut b = Behaviour::default();
    // Retry delay index 1: the controller's CRDT1, 200 ms.
    let crd1 = Status::from_bits(Status::NAMESPACE_NOT_READY.bits() | 1 << 11);
    b.statuses.extend([Status::ANA_TRANSITION, crd1]);
    let mut p = Pair::new(6, b, |_| {});
    p.live();
    let before = p.io.now();
    assert_eq!(p.write(0, 1, 9).result, Ok(0));
    assert!(p.io.now().since(before) >= 300_000_000, "both pauses were kept");
    p.peer.behaviour.statuses.push_back(Status::CAPACITY_EXCEEDED);
    assert_eq!(p.write(0, 1, 9).result, Err(Failure::Status(Status::CAPACITY_EXCEEDED)));
    p.peer.behaviour.statuses.push_back(Status::ANA_INACCESSIBLE.with_dnr());
    assert_eq!(p.write(0, 1, 9).result, Err(Failure::Status(Status::ANA_INACCESSIBLE.with_dnr())));
}

#[test]
fn events_are_told_and_asked_for_again() {
    let mut p = Pair::new(7, Behaviour::default(), |_| {});
    p.live();
    for _ in 0..3 {
        p.write(0, 1, 1);
        p.peer.raise(notice::NAMESPACE_CHANGED.dword());
        let id = p.id;
        let wanted = Notice::Event { subsystem: id, path: 0, event: notice::NAMESPACE_CHANGED };
        p.until("the event", |p| p.notices.contains(&wanted));
        p.notices.clear();
    }
}

#[test]
fn a_refused_connect_is_tried_again_unless_told_not_to() {
    let refuse = |status| Behaviour { refuse: Some(status), ..Behaviour::default() };
    let mut p = Pair::new(8, refuse(Status::CONNECT_INVALID_HOST.with_dnr()), |_| {});
    p.until("lost", |p| matches!(p.initiator.state(p.id), State::Lost(_)));
    let State::Lost(error) = p.initiator.state(p.id) else { unreachable!() };
    assert_eq!((error.kind, error.is_final()), (ErrorKind::Refused, true));
    let mut p = Pair::new(9, refuse(Status::CONNECT_CONTROLLER_BUSY), |_| {});
    p.until("some attempts", |p| p.notices.len() >= 3);
    p.peer.behaviour.refuse = None;
    p.live();
}
