//! Reads and writes that are done on the spot, over the wire: the same bytes in the same frames as by the long way, and only when
//! nothing speaks against it.
#![allow(clippy::unwrap_used)] // helpers of tests

mod support;

use dolmen_io::{Owner, Stamps};
use dolmen_nvme::{
    spec::{ConnectCommand, ConnectData, NvmOpcode, ReadWrite, SglDescriptor, Sqe},
    tcp::Digests,
};
use dolmen_target::Namespace;
use dolmen_types::{
    CoreId, LineId, Nanos, Nsid, PgId, UnixMillis, Uuid,
    volume::{HostAccess, IpAccess, SectorSize, VolumeDescriptor, VolumeKind, VolumeState},
};
use dolmen_volume::{
    AcquireAction, Command, ControlCommand, ControlDone, ControlRequest, Done, HostId, PersistChange,
    RegisterAction, Request, ReservationCommand, ReservationType, Restart, VolumeRef, Volumes,
};
use std::sync::Arc;
use support::*;

const BLOCKS: u64 = 64;

/// A rig whose near volume holds `data`, while the far one behind the same namespace holds zeros: an answer tells by
/// which way it came.
fn rig(data: &[u8]) -> (Rig, VolumeRef) {
    let (mut rig, at) = rig_of(VolumeKind::Memory);
    let mut volumes = rig.cores[0].near.take().unwrap();
    let core = &mut rig.cores[0];
    let mut buf = core.io.alloc(data.len()).unwrap();
    buf.copy_from_slice(data);
    let blocks = u32::try_from(data.len() / 4096).unwrap();
    run(&mut volumes, core, at, [1; 16], Command::Write { lba: 0, blocks, buf });
    rig.cores[0].near = Some(volumes);
    (rig, at)
}

/// A rig whose near volume is new and of this kind.
fn rig_of(kind: VolumeKind) -> (Rig, VolumeRef) {
    let mut rig = Rig::new(7, 1);
    let mut volumes = Volumes::new(CoreId(0), &[PgId(1)], Restart::Process, Owner(5));
    let core = &mut rig.cores[0];
    let descriptor = VolumeDescriptor {
        uuid: Uuid([1; 16]),
        name: "near".into(),
        project: "default".into(),
        nsid: Nsid(1),
        pg: PgId(1),
        line: LineId(1),
        size_bytes: BLOCKS * 4096,
        sector: SectorSize::B4096,
        kind,
        acl: HostAccess::Any,
        ip_acl: IpAccess::Any,
        labels: vec![],
        compression: false,
        encryption: false,
        qos: None,
        source: None,
        created: UnixMillis(1),
        revision: 0,
        state: VolumeState::Available,
    };
    let command = ControlCommand::Create(Box::new(descriptor));
    volumes.control(ControlRequest { token: 1, command });
    volumes.step(&mut core.io, None);
    let mut answers = Vec::new();
    volumes.drain_control(&mut answers);
    let Ok(ControlDone::Volume(info)) = answers.remove(0).result else { panic!("the volume is made") };
    core.near = Some(volumes);
    let space = Namespace { volume: info.at, ..(*space(1, BLOCKS, HostAccess::Any)).clone() };
    rig.set(&[Arc::new(space)]);
    (rig, info.at)
}

fn run(volumes: &mut Volumes, core: &mut Core, at: VolumeRef, host_id: HostId, command: Command) {
    let (deadline, stamps) = (Nanos(u64::MAX), Stamps::default());
    volumes.submit(Request { token: 1, from: CoreId(0), volume: at, host_id, deadline, stamps, command });
    volumes.step(&mut core.io, None);
    let mut replies = Vec::new();
    volumes.drain(&mut replies);
    assert_eq!(replies.remove(0).1.result, Ok(Done::Ok));
}

/// An I/O queue with or without flow control of its submission queue.
fn queue(rig: &mut Rig, digests: Digests, attributes: u8) -> Conn {
    let ctrl = rig.controller_with(0, HOST, digests, 0);
    let conn = rig.dial(0, 4420, digests, 128);
    let command = ConnectCommand { attributes, ..Rig::connect_command(1, 0) };
    let data = ConnectData::new(HOST_ID, ctrl.id, SUBSYSTEM, HOST);
    assert!(rig.connect(0, conn, command, data).cqe.status().is_success());
    conn
}

#[test]
fn the_bytes_of_the_near_volume_come_in_good_frames() {
    let data = pattern(3, 8 * 4096);
    for digests in [Digests::NONE, Digests::BOTH] {
        for attributes in [0, 4] {
            let (mut rig, _) = rig(&data);
            let conn = queue(&mut rig, digests, attributes);
            for (lba, blocks) in [(0, 1), (7, 1), (2, 1), (0, 8), (5, 1)] {
                let done = rig.read(0, conn, 1, lba, blocks);
                assert!(done.cqe.status().is_success());
                let at = usize::try_from(lba).unwrap() * 4096;
                let here = &data[at..at + blocks as usize * 4096];
                // From 8 KiB on data is not staged: such a read goes the long way, here to a volume of zeros.
                let expected = if blocks < 2 { here.to_vec() } else { vec![0; here.len()] };
                assert_eq!(done.data, expected, "{lba}+{blocks} {digests:?} {attributes}");
            }
            assert_eq!(rig.memory.answered, 1, "one read was too long");
            assert!(rig.read(0, conn, 1, 60, 1).data.iter().all(|&b| b == 0));
            assert_eq!(rig.memory.answered, 1);
        }
    }
}

#[test]
fn what_speaks_against_it_is_left_to_the_long_way() {
    let data = pattern(4, 8 * 4096);
    let (mut rig, at) = rig(&data);
    let conn = queue(&mut rig, Digests::BOTH, 4);
    assert_eq!(rig.read(0, conn, 1, 0, 1).data, data[..4096]);
    // Beyond the end: the volume, not the shortcut, says what is wrong.
    assert!(!rig.read(0, conn, 1, BLOCKS - 1, 2).cqe.status().is_success());
    assert_eq!(rig.memory.answered, 1);
    // Another host holds it for itself alone.
    let mut volumes = rig.cores[0].near.take().unwrap();
    let register = ReservationCommand::Register {
        action: RegisterAction::Register,
        current_key: 0,
        new_key: 1,
        ignore_existing_key: false,
        persist: PersistChange::Keep,
    };
    let acquire = ReservationCommand::Acquire {
        action: AcquireAction::Acquire,
        ignore_existing_key: false,
        kind: Some(ReservationType::ExclusiveAccess),
        current_key: 1,
        preempt_key: 0,
    };
    for command in [register, acquire] {
        run(&mut volumes, &mut rig.cores[0], at, [9; 16], Command::Reservation(command));
    }
    rig.cores[0].near = Some(volumes);
    assert!(rig.read(0, conn, 1, 0, 1).data.iter().all(|&b| b == 0));
    assert_eq!(rig.memory.answered, 2);
}

#[test]
fn writes_are_taken_from_their_capsule_and_read_back() {
    for digests in [Digests::NONE, Digests::BOTH] {
        for attributes in [0, 4] {
            let (mut rig, _) = rig_of(VolumeKind::Memory);
            let conn = queue(&mut rig, digests, attributes);
            let mut near = 0;
            for lba in 0..24 {
                let data = pattern(lba, 4096);
                let before = rig.memory.answered;
                assert!(rig.write(0, conn, 1, lba, &data).is_success());
                let on_the_spot = rig.memory.answered == before;
                // The network cuts the stream as it likes; data in pieces takes the long way, to the other volume.
                assert_eq!(rig.read(0, conn, 1, lba, 1).data == data, on_the_spot);
                near += usize::from(on_the_spot);
            }
            // A digest has to be looked at first, so the whole of the data is collected.
            assert_eq!(near > 0, digests == Digests::NONE, "{digests:?} {attributes}");
        }
    }
}

#[test]
fn long_reads_of_nothing_are_zeros_in_good_frames() {
    for digests in [Digests::NONE, Digests::BOTH] {
        for attributes in [0, 4] {
            let (mut rig, _) = rig_of(VolumeKind::Null);
            let conn = queue(&mut rig, digests, attributes);
            for blocks in [1, 4, 9, 33, 64] {
                let done = rig.read(0, conn, 1, 0, blocks);
                assert!(done.cqe.status().is_success());
                assert_eq!(done.data.len(), blocks as usize * 4096);
                assert!(done.data.iter().all(|&b| b == 0));
            }
            assert_eq!(rig.memory.answered, 0);
        }
    }
}

/// A connection whose host does not read, with one response that waits for memory, and a read of one block on its way.
fn late_and_a_read() -> (Rig, Vec<dolmen_io::Buf>) {
    // So many responses fit its machine's window behind those that open the queue; two more are under way and waiting.
    const FITS: usize = (262_144 - 152) / 24;
    let (mut rig, _) = rig_of(VolumeKind::Memory);
    let ctrl = rig.controller(0, HOST);
    let deaf = rig.machines[0].dial_deaf(server(4420));
    rig.turns(20);
    rig.machines[0].send_raw(deaf, &raw_queue(ctrl.id));
    rig.turns(20);
    let held = drain(&rig);
    let bad = capsule(&Sqe::new(0xff, 3), &[]);
    for _ in 0..FITS / 100 {
        rig.machines[0].send_raw(deaf, &bad.repeat(100));
        rig.turns(10);
    }
    for _ in 0..FITS % 100 + 2 {
        rig.machines[0].send_raw(deaf, &bad);
        rig.turns(10);
    }
    let traffic = rig.cores[0].target.stats().traffic;
    assert_eq!((traffic.errors, traffic.stalls), (FITS as u64 + 2, 0));
    let range = ReadWrite { blocks: 1, ..ReadWrite::default() };
    let mut read = Sqe::with_read_write(NvmOpcode::READ, 4, 1, range);
    read.data_pointer = SglDescriptor::transport(4096);
    rig.machines[0].send_raw(deaf, &capsule(&read, &[]));
    (rig, held)
}

#[test]
fn nothing_is_answered_beside_responses_that_wait() {
    let (mut rig, _held) = late_and_a_read();
    let mut arrives = 0;
    while rig.cores[0].target.stats().traffic.stalls == 0 {
        rig.turn();
        arrives += 1;
        assert!(arrives < 100, "it was never held");
    }
    // Now there is memory again just when it comes.
    let (mut rig, held) = late_and_a_read();
    rig.turns(arrives - 1);
    drop(held);
    rig.turn();
    let traffic = rig.cores[0].target.stats().traffic;
    assert_eq!((traffic.stalls, traffic.reads), (1, 0));
}
