//! Peers that break the rules, are slow, or send noise: they are told what was wrong and lose their connection; the
//! target keeps its memory and its other hosts.
#![allow(clippy::unwrap_used)] // helpers of tests

mod support;

use dolmen_io::PoolConfig;
use dolmen_nvme::{
    spec::*,
    tcp::{CommonHeader, DataHeader, Digests, Fes, IcReq, PduKind, TermReqHeader, flags},
};
use dolmen_types::volume::HostAccess;
use support::*;
use zerocopy::{FromBytes, IntoBytes};

fn rig(seed: u64) -> Rig {
    let mut rig = Rig::new(seed, 1);
    rig.set(&[space(1, 256, only(HOST)), space(2, 256, only(OTHER))]);
    rig
}

/// The reason of the C2HTermReq that ends what came on a connection, if one did.
fn term(rig: &Rig, conn: Conn) -> Option<Fes> {
    let mut bytes = rig.machines[0].raw(conn);
    while let Ok((header, _)) = CommonHeader::read_from_prefix(bytes) {
        let length = header.length.get() as usize;
        if header.kind == PduKind::C2H_TERM_REQ.0 {
            let (head, _) = TermReqHeader::read_from_prefix(bytes).unwrap();
            assert_eq!(bytes.len(), length, "nothing comes after the last words");
            return Fes::from_code(head.status.get());
        }
        bytes = bytes.get(length..)?;
    }
    None
}

fn capsule(sqe: &Sqe, data: &[u8]) -> Vec<u8> {
    let mut header = CommonHeader::new(PduKind::CAPSULE_CMD);
    header.length = u32::try_from(72 + data.len()).unwrap().into();
    header.data_offset = if data.is_empty() { 0 } else { 72 };
    [header.as_bytes(), sqe.as_bytes(), data].concat()
}

fn connect(qid: u16, controller: u16, nqn: &str) -> Vec<u8> {
    let command =
        ConnectCommand { record_format: 0, queue: qid, sq_size: 31, attributes: 4, keep_alive_ms: 0 };
    let data = ConnectData::new(HOST_ID, controller, SUBSYSTEM, nqn);
    let mut sqe = command.encode(1);
    sqe.data_pointer = SglDescriptor::in_capsule(1024);
    capsule(&sqe, data.as_bytes())
}

#[test]
fn violations_are_named_and_end_the_connection() {
    let ic = IcReq::new(0, 0, 0).as_bytes().to_vec();
    let mut future = IcReq::new(0, 0, 0);
    future.format = 9.into();
    let mut crooked = IcReq::new(40, 0, 0);
    crooked.common.header_len = 128;
    let stray = DataHeader::new(PduKind::H2C_DATA, 1, 7, 0, 4);
    let mut stray_bytes = stray.as_bytes().to_vec();
    (stray_bytes[3], stray_bytes[4]) = (24, 28);
    stray_bytes.extend([0; 4]);
    let mut short = capsule(&Sqe::default(), &[]);
    short[4] = 71;
    let mut wrong_header = capsule(&Sqe::default(), &[]);
    wrong_header[2] = 64;
    let mut response = CommonHeader::new(PduKind::CAPSULE_RESP).as_bytes().to_vec();
    response.extend([0; 16]);
    let big = capsule(&Sqe::default(), &[0; 8196]);
    let cases: Vec<(Vec<u8>, Fes)> = vec![
        (b"GET / HTTP/1.1\r\nHost: dolmen\r\n\r\n".to_vec(), Fes::InvalidHeaderField),
        (vec![0xff; 128], Fes::InvalidHeaderField),
        (capsule(&Sqe::default(), &[]), Fes::PduSequence),
        (future.as_bytes().to_vec(), Fes::UnsupportedParameter),
        (crooked.as_bytes().to_vec(), Fes::InvalidHeaderField),
        ([&ic[..], &ic[..]].concat(), Fes::PduSequence),
        ([&ic[..], &stray_bytes[..]].concat(), Fes::InvalidHeaderField),
        ([&ic[..], &short[..]].concat(), Fes::InvalidHeaderField),
        ([&ic[..], &wrong_header[..]].concat(), Fes::InvalidHeaderField),
        ([&ic[..], &response[..]].concat(), Fes::InvalidHeaderField),
        ([&ic[..], &big[..]].concat(), Fes::LimitExceeded),
    ];
    let mut rig = rig(1);
    for (n, (bytes, fes)) in cases.iter().enumerate() {
        let conn = rig.machines[0].dial_raw(server(4420));
        rig.turns(20);
        rig.machines[0].send_raw(conn, bytes);
        rig.turns(60);
        assert_eq!(term(&rig, conn), Some(*fes), "case {n}");
        assert!(rig.machines[0].is_gone(conn), "case {n}");
    }
    let stats = rig.cores[0].target.stats();
    assert_eq!((stats.violations, stats.connections), (cases.len() as u64, 0));
}

#[test]
fn an_admin_queue_is_told_why_it_ends_with_its_controller() {
    let mut rig = rig(1);
    let ctrl = rig.controller(0, HOST);
    let io = rig.io_queue(&ctrl, HOST, 1, Digests::NONE);
    rig.machines[0].send_raw(ctrl.admin, IcReq::new(0, 0, 0).as_bytes());
    rig.turns(60);
    assert!(rig.machines[0].terminated(ctrl.admin).is_some());
    assert!(rig.machines[0].is_gone(ctrl.admin) && rig.machines[0].is_gone(io));
    assert_eq!(rig.cores[0].target.stats().connections, 0);
}

#[test]
fn every_state_of_a_connection_has_a_deadline() {
    let mut rig = rig(2);
    let silent = rig.machines[0].dial_raw(server(4420));
    let dawdler = rig.machines[0].dial_raw(server(4420));
    let half = rig.machines[0].dial_raw(server(4420));
    let no_data = rig.machines[0].dial_raw(server(4420));
    rig.turns(20);
    for conn in [dawdler, half, no_data] {
        rig.machines[0].send_raw(conn, IcReq::new(0, 0, 0).as_bytes());
    }
    rig.turns(20);
    let admins = [half, no_data].map(|conn| {
        let ctrl = rig.controller(0, HOST);
        rig.machines[0].send_raw(conn, &connect(5, ctrl.id, HOST));
        ctrl.admin
    });
    rig.turns(20);
    let mut sqe =
        Sqe::with_read_write(NvmOpcode::WRITE, 3, 1, ReadWrite { blocks: 8, ..ReadWrite::default() });
    sqe.data_pointer = SglDescriptor::transport(32768);
    let write = capsule(&sqe, &[]);
    rig.machines[0].send_raw(half, &write[..40]);
    rig.machines[0].send_raw(no_data, &write);
    let gone = |rig: &Rig| [silent, dawdler, half, no_data].map(|c| rig.machines[0].is_gone(c));
    rig.pass_ms(4000);
    assert_eq!(gone(&rig), [false; 4]);
    rig.pass_ms(3000);
    assert_eq!(gone(&rig), [true, false, false, false]);
    rig.pass_ms(5000);
    assert_eq!(gone(&rig), [true, true, false, false]);
    rig.pass_ms(10_000);
    assert_eq!(gone(&rig), [true; 4]);
    assert_eq!(rig.cores[0].target.stats().timeouts, 4);
    assert!(admins.iter().all(|&admin| rig.machines[0].is_gone(admin)), "with their queues");
    // An idle queue is not a slow one.
    let ctrl = rig.controller(0, HOST);
    let io = rig.io_queue(&ctrl, HOST, 1, Digests::NONE);
    rig.pass_ms(120_000);
    assert!(rig.read(0, io, 1, 0, 1).cqe.status().is_success());
}

#[test]
fn a_host_that_does_not_read_loses_its_connection_and_holds_up_no_one() {
    let mut rig = rig(3);
    let frozen = rig.controller(0, HOST);
    let stuck = rig.io_queue(&frozen, HOST, 1, Digests::NONE);
    let ctrl = rig.controller(1, OTHER);
    let io = rig.io_queue(&ctrl, OTHER, 1, Digests::NONE);
    let rw = ReadWrite { start: 0, blocks: 64, ..ReadWrite::default() };
    for _ in 0..100 {
        rig.send(0, stuck, Sqe::with_read_write(NvmOpcode::READ, 0, 1, rw), Payload::Read(262_144));
    }
    rig.turns(5);
    rig.frozen.push(0);
    for lba in 0..32 {
        assert!(rig.write(1, io, 2, lba, &pattern(lba, 4096)).is_success());
        assert_eq!(rig.read(1, io, 2, lba, 1).data, pattern(lba, 4096));
        assert!(rig.read(1, io, 2, lba, 64).cqe.status().is_success());
    }
    rig.pass_ms(32_000);
    let stats = rig.cores[0].target.stats();
    assert_eq!(stats.timeouts, 1);
    assert!(rig.read(1, io, 2, 0, 1).cqe.status().is_success());
    rig.frozen.clear();
    rig.turns(200);
    assert!(rig.machines[0].is_gone(stuck));
}

#[test]
fn a_command_may_come_in_pieces_after_a_long_rest() {
    let mut rig = rig(11);
    let [whole, cut] = [5, 6].map(|qid| {
        let ctrl = rig.controller(0, HOST);
        let conn = rig.machines[0].dial_raw(server(4420));
        rig.turns(20);
        rig.machines[0].send_raw(conn, IcReq::new(0, 0, 0).as_bytes());
        rig.turns(20);
        rig.machines[0].send_raw(conn, &connect(qid, ctrl.id, HOST));
        rig.turns(20);
        conn
    });
    let mut sqe = Sqe::with_read_write(NvmOpcode::READ, 3, 1, long(1));
    sqe.data_pointer = SglDescriptor::transport(4096);
    let read = capsule(&sqe, &[]);
    rig.pass_ms(30_000);
    let before = rig.machines[0].raw(whole).len();
    for conn in [whole, cut] {
        rig.machines[0].send_raw(conn, &read[..40]);
    }
    rig.pass_ms(19_000);
    rig.machines[0].send_raw(whole, &read[40..]);
    rig.pass_ms(3000);
    assert!(!rig.machines[0].is_gone(whole));
    assert!(rig.machines[0].raw(whole).len() > before + 4096);
    // It counts from its first byte all the same.
    assert!(rig.machines[0].is_gone(cut));
}

fn long(blocks: u32) -> ReadWrite {
    ReadWrite { blocks, ..ReadWrite::default() }
}

/// More queues than there are large buffers: what they hold comes back long before a send has to be taken.
#[test]
fn many_queues_that_are_not_read_end_when_others_need_what_they_hold() {
    let mut rig = rig(9);
    let frozen = rig.controller(0, HOST);
    let stuck: Vec<Conn> = (1..=20).map(|qid| rig.io_queue(&frozen, HOST, qid, Digests::NONE)).collect();
    let ctrl = rig.controller(1, OTHER);
    let io = rig.io_queue(&ctrl, OTHER, 1, Digests::NONE);
    let read = |nsid| Sqe::with_read_write(NvmOpcode::READ, 0, nsid, long(64));
    for _ in 0..20 {
        for &queue in &stuck {
            rig.send(0, queue, read(1), Payload::Read(262_144));
        }
    }
    rig.turns(5);
    rig.frozen.push(0);
    rig.turns(100);
    assert_eq!(rig.cores[0].target.stats().timeouts, 0);
    let cids: Vec<u16> = (0..20).map(|_| rig.send(1, io, read(2), Payload::Read(262_144))).collect();
    rig.pass_ms(6000);
    for cid in cids {
        assert!(rig.wait(1, io, cid).cqe.status().is_success());
    }
    rig.frozen.clear();
    rig.turns(500);
    assert!(stuck.iter().all(|&queue| rig.machines[0].is_gone(queue)));
}

#[test]
fn queues_that_are_not_read_for_a_while_stay_when_nobody_needs_what_they_hold() {
    let mut rig = rig(10);
    let frozen = rig.controller(0, HOST);
    let stuck: Vec<Conn> = (1..=13).map(|qid| rig.io_queue(&frozen, HOST, qid, Digests::NONE)).collect();
    let ctrl = rig.controller(1, OTHER);
    let io = rig.io_queue(&ctrl, OTHER, 1, Digests::NONE);
    let mut sent = Vec::new();
    for &queue in &stuck {
        let read = Sqe::with_read_write(NvmOpcode::READ, 0, 1, long(64));
        sent.push((queue, rig.send(0, queue, read, Payload::Read(262_144))));
    }
    rig.turns(5);
    rig.frozen.push(0);
    for _ in 0..50 {
        rig.pass_ms(100);
        assert!(rig.read(1, io, 2, 0, 1).cqe.status().is_success());
    }
    rig.frozen.clear();
    for (queue, cid) in sent {
        assert!(rig.wait(0, queue, cid).cqe.status().is_success());
    }
    assert_eq!(rig.cores[0].target.stats().timeouts, 0);
}

/// Connections that ask for pages without end and read none of them.
fn floods(rig: &mut Rig, connections: usize, rounds: usize) {
    let deaf: Vec<Conn> = (0..connections).map(|_| rig.machines[0].dial_deaf(server(4420))).collect();
    rig.turns(20);
    let enable = PropertySet { property: Property::CC, wide: false, value: 0x0046_0001 };
    let mut identify = Sqe::new(AdminOpcode::IDENTIFY.0, 3);
    (identify.cdw10, identify.data_pointer) = (1.into(), SglDescriptor::transport(4096));
    let init = IcReq::new(0, 0, 0);
    let hello = [init.as_bytes(), &connect(0, 0xffff, HOST), &capsule(&enable.encode(2), &[])].concat();
    let flood = capsule(&identify, &[]).repeat(100);
    for &conn in &deaf {
        rig.machines[0].send_raw(conn, &hello);
    }
    rig.turns(20);
    for _ in 0..rounds {
        for &conn in &deaf {
            rig.machines[0].send_raw(conn, &flood);
        }
        rig.turns(3);
    }
}

#[test]
fn floods_whose_answers_are_not_read_leave_memory_to_the_others() {
    for connections in [10, 60] {
        let mut rig = rig(8);
        let ctrl = rig.controller(1, OTHER);
        let io = rig.io_queue(&ctrl, OTHER, 1, Digests::NONE);
        floods(&mut rig, connections, 100);
        if connections > 10 {
            // More than there is memory for: they end since others wait for that, some after the others.
            rig.send(1, io, Sqe::with_read_write(NvmOpcode::READ, 0, 2, long(16)), Payload::Read(65_536));
            rig.pass_ms(15_000);
        }
        for round in 0..50 {
            let data = pattern(round, 65_536);
            assert!(rig.write(1, io, 2, round, &data).is_success());
            assert!(rig.read(1, io, 2, round, 16).data == data);
            assert!(rig.identify(&ctrl, Cns::CONTROLLER, 0).cqe.status().is_success());
        }
    }
}

#[test]
fn a_flood_of_commands_whose_answers_are_not_read_takes_no_memory() {
    let mut rig = rig(7);
    let deaf = rig.machines[0].dial_deaf(server(4420));
    rig.turns(20);
    let mut flood = [IcReq::new(0, 0, 0).as_bytes(), &connect(0, 0xffff, HOST)[..]].concat();
    let enable = PropertySet { property: Property::CC, wide: false, value: 0x0046_0001 };
    flood.extend(capsule(&enable.encode(2), &[]));
    rig.machines[0].send_raw(deaf, &flood);
    let mut identify = Sqe::new(AdminOpcode::IDENTIFY.0, 3);
    (identify.cdw10, identify.data_pointer) = (1.into(), SglDescriptor::transport(4096));
    let flood = [capsule(&Sqe::new(0xff, 3), &[]).repeat(100), capsule(&identify, &[]).repeat(100)].concat();
    for _ in 0..400 {
        rig.machines[0].send_raw(deaf, &flood);
        rig.turns(3);
    }
    let pool = rig.cores[0].io.pool();
    let free = pool.available(1) * 100
        / PoolConfig::sized(16 << 20).classes.iter().map(|c| c.1 as usize).sum::<usize>();
    assert!(free > 80, "{free} % of the buffers are free");
    assert!(pool.available(PoolConfig::CHUNK_BYTES) > 64, "{pool:?}");
    rig.pass_ms(32_000);
    assert_eq!(rig.cores[0].target.stats().connections, 0);
}

#[test]
fn more_connections_than_there_is_room_for_are_closed() {
    let mut rig = Rig::with(4, 1, |c| c.bounds.connections = 8, PoolConfig::sized(16 << 20));
    rig.set(&[space(1, 16, HostAccess::Any)]);
    let ctrl = rig.controller(0, HOST);
    let crowd: Vec<Conn> = (0..20).map(|_| rig.machines[0].dial_raw(server(4420))).collect();
    rig.turns(100);
    assert_eq!(crowd.iter().filter(|&&c| rig.machines[0].is_gone(c)).count(), 13);
    assert_eq!(rig.cores[0].target.stats().refused, 13);
    assert!(rig.identify(&ctrl, Cns::CONTROLLER, 0).cqe.status().is_success());
    rig.pass_ms(6000);
    rig.io_queue(&ctrl, HOST, 1, Digests::NONE);
}

#[test]
fn no_more_queues_than_there_are_request_slots() {
    let mut rig = Rig::with(5, 1, |c| c.bounds.requests = 200, PoolConfig::sized(16 << 20));
    rig.set(&[space(1, 16, HostAccess::Any)]);
    let ctrl = rig.controller(0, HOST);
    let one = rig.io_queue(&ctrl, HOST, 1, Digests::NONE);
    let join = |rig: &mut Rig| {
        let conn = rig.dial(0, 4420, Digests::NONE, 32);
        let data = ConnectData::new(HOST_ID, ctrl.id, SUBSYSTEM, HOST);
        rig.connect(0, conn, Rig::connect_command(2, 0), data).cqe.status()
    };
    assert_eq!(join(&mut rig), Status::CONNECT_CONTROLLER_BUSY);
    rig.machines[0].close(one);
    rig.turns(100);
    assert_eq!(join(&mut rig), Status::SUCCESS);
}

/// A Connect that is refused, with what it asked for.
fn refused(rig: &mut Rig, conn: Conn) -> u16 {
    let data = ConnectData::new(HOST_ID, 1, SUBSYSTEM, HOST);
    let payload = Payload::InCapsule(data.as_bytes().to_vec());
    rig.send(0, conn, Rig::connect_command(1, 0).encode(0), payload)
}

#[test]
fn a_refused_connect_takes_no_request_slots_from_others() {
    let mut rig = Rig::with(12, 1, |c| c.bounds.requests = 200, PoolConfig::sized(16 << 20));
    rig.set(&[space(1, 16, HostAccess::Any)]);
    let conn = rig.dial(0, 4420, Digests::NONE, 32);
    let cid = refused(&mut rig, conn);
    let status = rig.wait(0, conn, cid).cqe.status();
    assert_eq!(status, Status::CONNECT_INVALID_PARAMETERS, "there is no such controller");
    let ctrl = rig.controller(1, OTHER);
    rig.io_queue(&ctrl, OTHER, 1, Digests::NONE);
    assert!(!rig.machines[0].is_gone(conn));
}

#[test]
fn connects_that_are_refused_again_and_again_win_no_time() {
    let mut rig = rig(13);
    let conn = rig.dial(0, 4420, Digests::NONE, 32);
    for _ in 0..12 {
        refused(&mut rig, conn);
        rig.pass_ms(1000);
    }
    assert!(rig.machines[0].is_gone(conn));
    assert_eq!(rig.cores[0].target.stats().timeouts, 1);
}

/// A stream that a real host could send.
fn honest(controller: Option<u16>, rng: &mut dolmen_sim::Rng) -> Vec<u8> {
    let mut out = IcReq::new(0, 0, 0).as_bytes().to_vec();
    let Some(controller) = controller else {
        out.extend(connect(0, 0xffff, OTHER));
        let set = PropertySet { property: Property::CC, wide: false, value: 0x0046_0001 };
        out.extend(capsule(&set.encode(2), &[]));
        for n in 0..12u16 {
            let mut sqe = Sqe::new([6, 2, 10, 9, 12, 8, 24][rng.index(7)], 3 + n);
            sqe.cdw10 = u32::try_from(rng.below(0x1_0000)).unwrap().into();
            sqe.data_pointer = SglDescriptor::transport(4096);
            out.extend(capsule(&sqe, &[]));
        }
        return out;
    };
    out.extend(connect(u16::try_from(rng.between(1, 100)).unwrap(), controller, OTHER));
    for n in 0..20u16 {
        let opcode = NvmOpcode([0, 1, 2, 2, 5, 8, 9, 12, 13, 14, 17, 21, 25][rng.index(13)]);
        let rw = ReadWrite { start: rng.below(300), blocks: 1, ..ReadWrite::default() };
        let mut sqe = Sqe::with_read_write(opcode, 2 + n, 2, rw);
        sqe.flags |= u8::try_from(rng.below(24).saturating_sub(20)).unwrap();
        if rng.one_in(2) {
            let data = vec![0; [4096, 16, 512, 8][rng.index(4)]];
            sqe.data_pointer = SglDescriptor::in_capsule(u32::try_from(data.len()).unwrap());
            out.extend(capsule(&sqe, &data));
        } else {
            sqe.data_pointer = SglDescriptor::transport([4096, 128, 8192][rng.index(3)]);
            out.extend(capsule(&sqe, &[]));
            if rng.one_in(2) {
                // Data for an R2T that may come under one of the first tags.
                let length = sqe.data_pointer.length.get();
                let tag = u16::try_from(rng.below(3)).unwrap();
                let mut data = DataHeader::new(PduKind::H2C_DATA, 2 + n, tag, 0, length);
                data.common.flags = flags::LAST_PDU;
                data.common.data_offset = 24;
                data.common.length = (24 + length).into();
                out.extend_from_slice(data.as_bytes());
                out.extend(vec![7; length as usize]);
            }
        }
    }
    out
}

/// Bends a stream: bits, lengths, order, end.
fn bend(bytes: &mut Vec<u8>, rng: &mut dolmen_sim::Rng) {
    for _ in 0..rng.between(1, 6) {
        let at = rng.index(bytes.len());
        match rng.below(6) {
            0 => bytes.truncate(at.max(1)),
            1 => bytes[at] = 0xff,
            2 => {
                let tail = bytes[at..].to_vec();
                bytes.extend(tail);
            }
            3 => drop(bytes.drain(at..(at + 24).min(bytes.len() - 1).max(at))),
            _ => bytes[at] ^= 1 << rng.below(8),
        }
    }
}

#[test]
fn bent_streams_and_noise_harm_no_one_else() {
    let mut rig = rig(6);
    let good = rig.controller_with(1, HOST, Digests::NONE, 0);
    let io = rig.io_queue(&good, HOST, 1, Digests::NONE);
    let mut rng = dolmen_sim::Rng::new(6);
    let free =
        |rig: &Rig| [4096, 32 * 1024, PoolConfig::LARGE_BYTES].map(|n| rig.cores[0].io.pool().available(n));
    let before = free(&rig);
    for round in 0..120u64 {
        let victim = rig.controller_with(0, OTHER, Digests::NONE, 0);
        let mut conns = Vec::new();
        for _ in 0..6 {
            let conn = rig.machines[0].dial_raw(server([4420, 8009][rng.index(2)]));
            let mut bytes = match rng.below(8) {
                0 => pattern(rng.next_u64(), 2000),
                n => honest((n > 3).then_some(victim.id), &mut rng),
            };
            if !rng.one_in(6) {
                bend(&mut bytes, &mut rng);
            }
            conns.push((conn, bytes));
        }
        rig.turns(8);
        for (conn, bytes) in &conns {
            let cut = rng.index(bytes.len());
            rig.machines[0].send_raw(*conn, &bytes[..cut]);
            rig.machines[0].send_raw(*conn, &bytes[cut..]);
        }
        let data = pattern(round, 8192);
        assert!(rig.write(1, io, 1, round % 100, &data).is_success());
        assert_eq!(rig.read(1, io, 1, round % 100, 2).data, data);
        for (conn, _) in conns {
            rig.machines[0].close(conn);
        }
        rig.machines[0].close(victim.admin);
        rig.turns(40);
    }
    rig.pass_ms(2000);
    let stats = rig.cores[0].target.stats();
    assert_eq!((stats.connections, stats.controllers, stats.outstanding), (2, 1, 0), "{stats:?}");
    assert!(stats.violations > 100, "{stats:?}");
    assert_eq!(free(&rig), before);
    assert!(rig.read(1, io, 1, 0, 2).cqe.status().is_success());
}
