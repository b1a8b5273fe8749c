//! What a host sees, and what it is told when that changes: access lists by NQN and by address, identify pages, logs,
//! events.
#![allow(clippy::unwrap_used)] // helpers of tests

mod support;

use dolmen_nvme::{spec::*, tcp::Digests};
use dolmen_target::Namespace;
use dolmen_types::volume::{HostAccess, IpAccess, SectorSize};
use std::sync::Arc;
use support::*;
use zerocopy::FromBytes;

fn aer(rig: &mut Rig, ctrl: &Ctrl) -> u16 {
    let cid =
        rig.send(ctrl.machine, ctrl.admin, Sqe::new(AdminOpcode::ASYNC_EVENT_REQUEST.0, 0), Payload::None);
    rig.turns(20);
    cid
}

fn changed(rig: &mut Rig, ctrl: &Ctrl) -> Vec<u32> {
    let log = rig.log(ctrl, LogId::CHANGED_NAMESPACES, 0, 4096, false);
    log.data.chunks(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).take_while(|&n| n != 0).collect()
}

fn with(space: &Arc<Namespace>, change: impl Fn(&mut Namespace)) -> Arc<Namespace> {
    let mut copy = (**space).clone();
    change(&mut copy);
    Arc::new(copy)
}

const INVALID_NS: Status = Status::INVALID_NAMESPACE.with_dnr();

#[test]
fn access_by_nqn_and_by_address_decides_on_every_path() {
    let machine_address = dolmen_sim::NodeId(2).addr();
    let elsewhere = dolmen_sim::NodeId(77).addr();
    let nqns = [(HostAccess::None, false), (HostAccess::Any, true), (only(HOST), true), (only(OTHER), false)];
    let ips = [
        (IpAccess::None, false),
        (IpAccess::Any, true),
        (IpAccess::Addresses([machine_address].into()), true),
        (IpAccess::Addresses([elsewhere].into()), false),
    ];
    for (acl, by_nqn) in &nqns {
        for (ip_acl, by_ip) in &ips {
            let mut rig = Rig::new(3, 1);
            let tested = with(&space(3, 16, acl.clone()), |s| s.ip_acl = ip_acl.clone());
            rig.set(&[space(1, 16, HostAccess::Any), tested]);
            let ctrl = rig.controller(0, HOST);
            let io = rig.io_queue(&ctrl, HOST, 1, Digests::NONE);
            let sees = *by_nqn && *by_ip;
            assert_eq!(rig.active(&ctrl) == [1, 3], sees);
            let page =
                IdentifyNamespace::read_from_bytes(&rig.identify(&ctrl, Cns::NAMESPACE, 3).data).unwrap();
            assert_eq!(page.size_blocks.get(), if sees { 16 } else { 0 });
            let ids = rig.identify(&ctrl, Cns::NAMESPACE_DESCRIPTORS, 3).cqe.status();
            assert_eq!(ids, if sees { Status::SUCCESS } else { INVALID_NS });
            let status = if sees { Status::SUCCESS } else { INVALID_NS };
            assert_eq!(rig.read(0, io, 3, 0, 1).cqe.status(), status);
            assert_eq!(rig.write(0, io, 3, 0, &pattern(1, 4096)), status);
            assert_eq!(rig.write(0, io, 3, 0, &pattern(1, 16384)), status);
            let ana = rig.log(&ctrl, LogId::ANA, 0, 256, false);
            let header = AnaLogHeader::read_from_prefix(&ana.data).unwrap().0;
            assert_eq!(header.groups.get(), if sees { 2 } else { 1 });
            assert_eq!(rig.memory.answered > 0, sees);
        }
    }
}

#[test]
fn a_host_hears_of_what_it_sees_and_of_nothing_else() {
    let mut rig = Rig::new(4, 1);
    let (one, two) = (space(1, 16, only(HOST)), space(2, 16, only(OTHER)));
    rig.set(&[Arc::clone(&one), Arc::clone(&two)]);
    let ctrl = rig.controller(0, HOST);
    let cid = aer(&mut rig, &ctrl);
    let heard = |rig: &mut Rig, cid: u16| {
        rig.turns(50);
        rig.machines[0].take(ctrl.admin, cid).map(|done| done.cqe.dw0.get())
    };
    // Someone else's volume comes, changes and goes: silence.
    let other = space(3, 16, only(OTHER));
    rig.set(&[Arc::clone(&one), Arc::clone(&two), Arc::clone(&other)]);
    rig.set(&[Arc::clone(&one), with(&two, |s| s.size_bytes *= 2)]);
    // An access list grows by another host: nothing to see here.
    let wider =
        with(&one, |s| s.acl = HostAccess::Hosts([HOST.parse().unwrap(), OTHER.parse().unwrap()].into()));
    rig.set(&[Arc::clone(&wider), Arc::clone(&two)]);
    assert_eq!(heard(&mut rig, cid), None);
    // Resize.
    let larger = with(&wider, |s| s.size_bytes *= 2);
    rig.set(&[Arc::clone(&larger), Arc::clone(&two)]);
    assert_eq!(heard(&mut rig, cid), Some(notice::NAMESPACE_CHANGED.dword()));
    // Masked until the log is read: more changes gather there.
    let cid = aer(&mut rig, &ctrl);
    let seen = with(&two, |s| s.acl = HostAccess::Any);
    rig.set(&[Arc::clone(&larger), Arc::clone(&seen)]);
    assert_eq!(heard(&mut rig, cid), None);
    assert_eq!(changed(&mut rig, &ctrl), [1, 2]);
    assert_eq!(changed(&mut rig, &ctrl), [0u32; 0]);
    // Withdrawn.
    rig.set(&[larger, two]);
    assert_eq!(heard(&mut rig, cid), Some(notice::NAMESPACE_CHANGED.dword()));
    assert_eq!(changed(&mut rig, &ctrl), [2]);
    assert_eq!(rig.active(&ctrl), [1]);
    // Turned off, nothing comes.
    let off = feature_select::set(0, 0, FeatureId::ASYNC_EVENT, 0);
    assert!(rig.exec(0, ctrl.admin, off, Payload::None).cqe.status().is_success());
    let cid = aer(&mut rig, &ctrl);
    rig.set(&[]);
    assert_eq!(heard(&mut rig, cid), None);
}

#[test]
fn both_formats_are_described_and_served() {
    let mut rig = Rig::new(5, 1);
    let small = with(&space(2, 16, HostAccess::Any), |s| s.sector = SectorSize::B512);
    rig.set(&[space(1, 64, HostAccess::Any), Arc::clone(&small)]);
    let ctrl = rig.controller(0, HOST);
    let io = rig.io_queue(&ctrl, HOST, 1, Digests::NONE);
    for (nsid, shift, blocks) in [(1, 12, 64), (2, 9, 128)] {
        let page =
            IdentifyNamespace::read_from_bytes(&rig.identify(&ctrl, Cns::NAMESPACE, nsid).data).unwrap();
        assert_eq!((page.block_bytes(), page.size_blocks.get()), (Some(1 << shift), blocks));
        assert_eq!(page.atomic_write_power_fail.get(), u16::try_from(((256 * 1024) >> shift) - 1).unwrap());
        assert_eq!((page.ana_group.get(), page.nguid), (nsid + 1, [u8::try_from(nsid).unwrap(); 16]));
        assert_eq!((page.reservations, page.sharing), (0xff, 1));
        let ids = rig.identify(&ctrl, Cns::NAMESPACE_DESCRIPTORS, nsid).data;
        let uuid = NamespaceIdDescriptor::list(&ids).find(|(kind, _)| *kind == NamespaceIdDescriptor::UUID);
        assert_eq!(uuid.unwrap().1, page.nguid);
    }
    let rw = ReadWrite { start: 127, blocks: 1, ..ReadWrite::default() };
    let data = pattern(9, 512);
    let write = Sqe::with_read_write(NvmOpcode::WRITE, 0, 2, rw);
    assert!(rig.exec(0, io, write, Payload::InCapsule(data.clone())).cqe.status().is_success());
    let read = Sqe::with_read_write(NvmOpcode::READ, 0, 2, rw);
    assert_eq!(rig.exec(0, io, read, Payload::Read(512)).data, data);
}

#[test]
fn identify_answers_what_it_has_and_refuses_the_rest() {
    let mut rig = Rig::new(6, 1);
    rig.set(&[space(1, 64, HostAccess::Any)]);
    let ctrl = rig.controller(0, HOST);
    for cns in [0x00, 0x01, 0x02, 0x05, 0x06, 0x07, 0x08, 0x10, 0x11, 0x12, 0x13, 0x1c] {
        assert!(rig.identify(&ctrl, Cns(cns), 1).cqe.status().is_success(), "{cns:x}");
    }
    for cns in [0x04, 0x09, 0x14, 0x15, 0x17, 0x1b, 0xff] {
        assert_eq!(
            rig.identify(&ctrl, Cns(cns), 1).cqe.status(),
            Status::INVALID_FIELD.with_dnr(),
            "{cns:x}"
        );
    }
    for nsid in [0, u32::MAX, 0xffff_fffe] {
        assert_eq!(rig.identify(&ctrl, Cns::NAMESPACE, nsid).cqe.status(), INVALID_NS);
    }
    let gone = rig.identify(&ctrl, Cns::NAMESPACE, 9);
    assert!(gone.cqe.status().is_success() && gone.data.iter().all(|&b| b == 0));
    let short = rig.exec(
        0,
        ctrl.admin,
        IdentifyCommand { cns: Cns(1), controller: 0, specific: 0, command_set: 0, uuid_index: 0 }
            .encode(0, 0),
        Payload::Read(1024),
    );
    assert_eq!(short.cqe.status(), Status::DATA_SGL_LENGTH_INVALID.with_dnr());
}

#[test]
fn the_active_list_goes_on_beyond_a_page() {
    let mut rig = Rig::new(7, 1);
    let spaces: Vec<_> =
        (1..=3000).map(|n| with(&space(n, 1, HostAccess::Any), |s| s.volume.slot = 1)).collect();
    rig.set(&spaces);
    let ctrl = rig.controller(0, HOST);
    let mut all = Vec::new();
    loop {
        let data = rig.identify(&ctrl, Cns::ACTIVE_NAMESPACES, all.last().copied().unwrap_or(0)).data;
        let page: Vec<u32> = data
            .chunks(4)
            .map(|b| u32::from_le_bytes(b.try_into().unwrap()))
            .take_while(|&n| n != 0)
            .collect();
        if page.is_empty() {
            break;
        }
        all.extend(page);
    }
    assert_eq!(all, (1..=3000).collect::<Vec<u32>>());
    // The ANA log in pieces is the ANA log whole.
    let whole = rig.log(&ctrl, LogId::ANA, 0, 16 + 64 * 32 + 3000 * 4, false).data;
    let mut pieces = Vec::new();
    while pieces.len() < whole.len() {
        let left = u32::try_from((whole.len() - pieces.len()).min(4096)).unwrap();
        pieces.extend(rig.log(&ctrl, LogId::ANA, pieces.len() as u64, left, true).data);
    }
    assert_eq!(pieces, whole);
    let mut at = 16;
    let mut members = Vec::new();
    for _ in 0..64 {
        let group = AnaGroupDescriptor::read_from_bytes(&whole[at..at + 32]).unwrap();
        assert_eq!(group.state(), Some(AnaState::Optimized));
        at += 32;
        for _ in 0..group.nsids.get() {
            let nsid = u32::from_le_bytes(whole[at..at + 4].try_into().unwrap());
            assert_eq!(nsid % 64 + 1, group.group.get());
            members.push(nsid);
            at += 4;
        }
    }
    members.sort_unstable();
    assert_eq!(members, all);
}

#[test]
fn a_namespace_taken_away_under_load_fails_what_comes_and_ends_what_runs() {
    let mut rig = Rig::new(8, 1);
    let one = space(1, 64, HostAccess::Any);
    rig.set(&[Arc::clone(&one)]);
    let ctrl = rig.controller(0, HOST);
    let io = rig.io_queue(&ctrl, HOST, 1, Digests::NONE);
    rig.memory.hold = true;
    let rw = ReadWrite { start: 0, blocks: 1, ..ReadWrite::default() };
    let sqe = Sqe::with_read_write(NvmOpcode::READ, 0, 1, rw);
    let before: Vec<u16> = (0..4).map(|_| rig.send(0, io, sqe, Payload::Read(4096))).collect();
    rig.turns(30);
    rig.set(&[with(&one, |s| s.acl = HostAccess::None)]);
    let after = rig.send(0, io, sqe, Payload::Read(4096));
    rig.turns(30);
    rig.memory.hold = false;
    assert_eq!(rig.wait(0, io, after).cqe.status(), INVALID_NS);
    for cid in before {
        assert!(rig.wait(0, io, cid).cqe.status().is_success());
    }
}

#[test]
fn reservation_notices_reach_the_host_they_concern() {
    let mut rig = Rig::new(9, 1);
    let one = space(1, 64, HostAccess::Any);
    rig.set(&[Arc::clone(&one)]);
    let ctrl = rig.controller(0, HOST);
    let [cid, next] = [(); 2].map(|()| aer(&mut rig, &ctrl));
    let tell = |rig: &mut Rig, host: [u8; 16], kind| {
        let notice = dolmen_volume::Notice { volume: one.volume, nsid: one.nsid, host, kind };
        let core = &mut rig.cores[0];
        core.target.on_notice(&mut core.io, &notice);
        core.target.step(&mut core.io, &mut dolmen_volume::Near::of(None));
        rig.turns(30);
    };
    tell(&mut rig, [9; 16], dolmen_volume::NoticeKind::ReservationReleased);
    assert!(rig.machines[0].take(ctrl.admin, cid).is_none());
    tell(&mut rig, HOST_ID, dolmen_volume::NoticeKind::ReservationReleased);
    tell(&mut rig, HOST_ID, dolmen_volume::NoticeKind::ReservationPreempted);
    assert_eq!(rig.wait(0, ctrl.admin, cid).cqe.dw0.get(), notice::RESERVATION.dword());
    for (kind, left) in [(2, 1), (3, 0), (0, 0)] {
        let page = rig.log(&ctrl, LogId::RESERVATION_NOTIFICATION, 0, 64, false);
        assert_eq!((page.data[8], page.data[9]), (kind, left));
        if left > 0 {
            // It is told to the request that waits, now that the page has been read.
            assert_eq!(rig.wait(0, ctrl.admin, next).cqe.dw0.get(), notice::RESERVATION.dword());
        }
    }
}
