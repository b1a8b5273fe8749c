//! Data of writes that lands in its request's buffer: whole, cut anywhere, wrong, and cut off with its connection.
//!
//! Two of three simulated sockets fill landings, in pieces of any length, and now and then bytes pass one by.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // helpers of tests

mod support;

use dolmen_io::PoolConfig;
use dolmen_nvme::{
    spec::*,
    tcp::{
        CommonHeader, DIGEST_BYTES, DataDigest, DataHeader, Digests, Fes, IcReq, PduKind, TermReqHeader,
        flags,
    },
};
use dolmen_sim::{NodeId, Rng};
use dolmen_types::volume::HostAccess;
use support::*;
use zerocopy::{FromBytes, IntoBytes};

const BLOCKS: u64 = 1024;
const BLOCK: usize = 4096;

fn write(start: u64, blocks: u32) -> Sqe {
    let rw = ReadWrite { start, blocks, ..ReadWrite::default() };
    Sqe::with_read_write(NvmOpcode::WRITE, 0, 1, rw)
}

fn free(rig: &Rig) -> [usize; 3] {
    let pool = rig.cores[0].io.pool();
    [BLOCK, PoolConfig::CHUNK_BYTES, PoolConfig::LARGE_BYTES].map(|n| pool.available(n))
}

#[test]
fn most_of_what_long_writes_bring_lands_and_all_of_it_is_right() {
    for (seed, digests) in [(1, Digests::NONE), (2, Digests::BOTH)] {
        let mut rig = Rig::new(seed, 1);
        rig.set(&[space(1, BLOCKS, HostAccess::Any)]);
        let ctrl = rig.controller_with(0, HOST, digests, 0);
        let queues: Vec<Conn> = (1..=3).map(|qid| rig.io_queue(&ctrl, HOST, qid, digests)).collect();
        let mut rng = Rng::new(seed);
        let mut model = vec![0u8; BLOCKS as usize * BLOCK];
        let (mut long, landed_before) = (0, rig.world.landed_bytes());
        for _ in 0..6 {
            let (mut at, mut sent) = (0, Vec::new());
            while at + 64 <= BLOCKS {
                // Long ones, with short ones in between.
                let blocks = if rng.one_in(3) { rng.between(1, 4) } else { rng.between(8, 64) };
                let range = at as usize * BLOCK..(at + blocks) as usize * BLOCK;
                let data = pattern(rng.next_u64(), range.len());
                model[range].copy_from_slice(&data);
                long += if blocks >= 8 { data.len() } else { 0 };
                let payload =
                    if data.len() <= BLOCK { Payload::InCapsule(data) } else { Payload::Write(data) };
                let queue = queues[rng.index(3)];
                sent.push((queue, rig.send(0, queue, write(at, blocks as u32), payload)));
                at += blocks;
            }
            for (queue, cid) in sent {
                let done = rig.wait(0, queue, cid);
                assert!(done.cqe.status().is_success(), "{}", done.cqe);
            }
        }
        assert!(rig.memory.volumes[&1].data == model);
        let stats = rig.cores[0].target.stats();
        assert_eq!((stats.outstanding, stats.violations, stats.traffic.errors), (0, 0, 0));
        let landed = rig.world.landed_bytes() - landed_before;
        assert!(landed > long / 3, "{landed} of {long} bytes landed");
    }
}

/// Whenever a connection ends, its buffers come back, what it was promised is promised to others, and nobody else's data is touched.
#[test]
fn connections_that_are_cut_in_the_midst_of_data_give_everything_back() {
    let few = |c: &mut dolmen_target::TargetConfig| c.bounds.solicited_bytes = 600 << 10;
    let mut rig = Rig::with(3, 1, few, PoolConfig::sized(16 << 20));
    rig.set(&[space(1, BLOCKS, HostAccess::Any)]);
    rig.turns(20);
    let before = free(&rig);
    let mut rng = Rng::new(3);
    for round in 0..60u64 {
        let good = rig.controller_with(1, OTHER, Digests::NONE, 0);
        let steady = rig.io_queue(&good, OTHER, 1, Digests::NONE);
        let digests = if round % 2 == 0 { Digests::NONE } else { Digests::BOTH };
        let ctrl = rig.controller_with(0, HOST, digests, 0);
        let queues: Vec<Conn> = (1..=2).map(|qid| rig.io_queue(&ctrl, HOST, qid, digests)).collect();
        for n in 0..8u64 {
            let data = vec![0xee; 64 * BLOCK];
            rig.send(0, queues[n as usize % 2], write(n * 64, 64), Payload::Write(data));
        }
        let data = pattern(round, 64 * BLOCK);
        let cid = rig.send(1, steady, write(900, 64), Payload::Write(data.clone()));
        rig.turns(rng.index(60));
        match rng.below(3) {
            0 => rig.world.reset(SERVER, NodeId(2)),
            1 => rig.machines[0].close(ctrl.admin),
            _ => queues.iter().for_each(|&queue| rig.machines[0].close(queue)),
        }
        assert!(rig.wait(1, steady, cid).cqe.status().is_success());
        assert!(rig.read(1, steady, 1, 900, 64).data == data);
        rig.machines[0].close(ctrl.admin);
        rig.machines[1].close(good.admin);
        rig.turns(60);
        let stats = rig.cores[0].target.stats();
        assert_eq!((stats.connections, stats.outstanding), (0, 0), "round {round}");
        assert_eq!(free(&rig), before, "round {round}");
    }
    assert!(rig.world.landed_bytes() > 0);
}

/// A host by hand, with data digests, whose one write has been asked for its data.
struct Raw {
    rig: Rig,
    ctrl: Ctrl,
    conn: Conn,
    tag: u16,
}

const LENGTH: u32 = 128 << 10;

/// A PDU with data, without its digest.
fn with_data(header: &mut [u8], data: &[u8]) -> Vec<u8> {
    let start = u8::try_from(header.len()).unwrap();
    header[1] |= flags::DATA_DIGEST;
    header[3] = start;
    let length = u32::from(start) + data.len() as u32 + DIGEST_BYTES as u32;
    header[4..8].copy_from_slice(&length.to_le_bytes());
    [header, data].concat()
}

fn digest(data: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut digest = DataDigest::new();
    digest.update(data);
    digest.finish()
}

fn capsule(sqe: &Sqe, data: &[u8]) -> Vec<u8> {
    let mut header = CommonHeader::new(PduKind::CAPSULE_CMD);
    header.length = 72.into();
    let mut header = [header.as_bytes(), sqe.as_bytes()].concat();
    if data.is_empty() { header } else { [with_data(&mut header, data), digest(data).to_vec()].concat() }
}

impl Raw {
    fn new(seed: u64) -> Raw {
        let mut rig = Rig::new(seed, 1);
        rig.set(&[space(1, BLOCKS, HostAccess::Any)]);
        let ctrl = rig.controller(0, HOST);
        // One socket of three doesn't land.
        rig.machines[0].dial_raw(server(4420));
        let conn = rig.machines[0].dial_raw(server(4420));
        rig.turns(20);
        let command =
            ConnectCommand { record_format: 0, queue: 1, sq_size: 31, attributes: 4, keep_alive_ms: 0 };
        let mut connect = command.encode(1);
        connect.data_pointer = SglDescriptor::in_capsule(1024);
        let host = ConnectData::new(HOST_ID, ctrl.id, SUBSYSTEM, HOST);
        let mut sqe = write(7, LENGTH / 4096);
        (sqe.cid, sqe.data_pointer) = (3.into(), SglDescriptor::transport(LENGTH));
        rig.machines[0]
            .send_raw(conn, IcReq::new(0, Digests { header: false, data: true }.bits(), 0).as_bytes());
        rig.machines[0].send_raw(conn, &capsule(&connect, host.as_bytes()));
        rig.turns(40);
        rig.machines[0].send_raw(conn, &capsule(&sqe, &[]));
        rig.turns(40);
        let mut raw = Raw { rig, ctrl, conn, tag: 0 };
        let r2t = raw.said(PduKind::R2T).expect("an R2T");
        raw.tag = DataHeader::read_from_prefix(&r2t).unwrap().0.tag.get();
        raw
    }

    /// The last PDU of a kind that came.
    fn said(&self, kind: PduKind) -> Option<Vec<u8>> {
        let (mut bytes, mut found) = (self.rig.machines[0].raw(self.conn), None);
        while let Ok((header, _)) = CommonHeader::read_from_prefix(bytes) {
            let (pdu, rest) = bytes.split_at_checked(header.length.get() as usize)?;
            found = if header.kind == kind.0 { Some(pdu.to_vec()) } else { found };
            bytes = rest;
        }
        found
    }

    /// Data without its digest.
    fn data(&self, offset: u32, data: &[u8], last: bool) -> Vec<u8> {
        let mut header = DataHeader::new(PduKind::H2C_DATA, 3, self.tag, offset, data.len() as u32);
        header.common.flags = if last { flags::LAST_PDU } else { 0 };
        with_data(header.as_mut_bytes(), data)
    }

    /// Sends in pieces, so that the last ones land.
    fn send(&mut self, bytes: &[u8], cuts: &[usize]) {
        let mut from = 0;
        for &cut in cuts.iter().chain([&bytes.len()]) {
            self.rig.machines[0].send_raw(self.conn, &bytes[from..cut]);
            self.rig.turns(30);
            from = cut;
        }
    }

    fn status(&self) -> Option<Status> {
        let pdu = self.said(PduKind::CAPSULE_RESP)?;
        let cqe = Cqe::read_from_bytes(&pdu[8..]).unwrap();
        (cqe.cid.get() == 3).then(|| cqe.status())
    }

    fn ended(&self) -> Option<Fes> {
        let pdu = self.said(PduKind::C2H_TERM_REQ)?;
        Fes::from_code(TermReqHeader::read_from_prefix(&pdu).unwrap().0.status.get())
    }
}

#[test]
fn landed_data_is_digested_and_cut_anywhere() {
    let data = pattern(5, LENGTH as usize);
    let half = data.len() / 2;
    // Within a header, behind it, within data, around its end, within the digest, around the next header.
    let cuts = [9, 24, 25, 1000, half + 23, half + 24, half + 25, half + 28, half + 30, half + 52, half + 60];
    for (n, wrong) in [None, Some(0), Some(1)].into_iter().enumerate() {
        let mut raw = Raw::new(10 + n as u64);
        let landed = raw.rig.world.landed_bytes();
        let mut bytes = Vec::new();
        for (at, last) in [(0, false), (half, true)] {
            let piece = &data[at..at + half];
            let mut digest = digest(piece);
            digest[2] ^= u8::from(wrong == Some(usize::from(last)));
            bytes.extend(raw.data(at as u32, piece, last));
            bytes.extend(digest);
        }
        raw.send(&bytes, &cuts);
        assert!(raw.rig.world.landed_bytes() - landed > 4 * BLOCK);
        let kept = &raw.rig.memory.volumes[&1].data[7 * BLOCK..7 * BLOCK + data.len()];
        if wrong.is_none() {
            assert_eq!(raw.status(), Some(Status::SUCCESS));
            assert!(kept == data);
        } else {
            assert_eq!(raw.status(), Some(Status::TRANSIENT_TRANSPORT_ERROR));
            assert!(kept.iter().all(|&b| b == 0));
        }
        assert_eq!(raw.ended(), None);
    }
}

#[test]
fn what_follows_landed_data_is_judged_as_ever() {
    let piece = vec![1; LENGTH as usize / 2];
    let half = LENGTH / 2;
    type Next = fn(&Raw, &[u8]) -> Vec<u8>;
    let cases: [(Next, Fes); 6] = [
        (|raw, piece| raw.data(LENGTH / 2 - 4, piece, true), Fes::PduSequence),
        (|raw, piece| raw.data(LENGTH / 2 + 4, piece, true), Fes::DataOutOfRange),
        (|raw, piece| raw.data(LENGTH / 2, piece, false), Fes::PduSequence),
        (|raw, piece| raw.data(LENGTH / 2, &piece[4..], true), Fes::PduSequence),
        (|_, _| vec![0xff; 5000], Fes::InvalidHeaderField),
        (
            |raw, piece| {
                let mut bytes = raw.data(LENGTH / 2, piece, true);
                bytes[10] ^= 1;
                bytes
            },
            Fes::InvalidHeaderField,
        ),
    ];
    for (n, (next, fes)) in cases.into_iter().enumerate() {
        let mut raw = Raw::new(20 + n as u64);
        let first = [raw.data(0, &piece, false), digest(&piece).to_vec()].concat();
        let bytes = [first.clone(), next(&raw, &piece)].concat();
        raw.send(&bytes, &[100, half as usize, first.len() + n]);
        assert_eq!(raw.ended(), Some(fes), "case {n}");
        raw.rig.turns(60);
        assert!(raw.rig.machines[0].is_gone(raw.conn) && raw.status().is_none(), "case {n}");
        assert!(
            raw.rig.memory.requests.is_empty() && raw.rig.memory.volumes[&1].data.iter().all(|&b| b == 0)
        );
        assert_eq!(raw.rig.cores[0].target.stats().outstanding, 0);
    }
}

#[test]
fn a_command_whose_data_is_landing_is_not_aborted() {
    let data = pattern(6, LENGTH as usize);
    let mut raw = Raw::new(30);
    let bytes = [raw.data(0, &data, true), digest(&data).to_vec()].concat();
    let landed = raw.rig.world.landed_bytes();
    raw.send(&bytes[..60_000], &[20, 200, 30_000]);
    assert!(raw.rig.world.landed_bytes() - landed > BLOCK);
    let mut abort = Sqe::new(AdminOpcode::ABORT.0, 0);
    abort.cdw10 = (3 << 16 | 1).into();
    let admin = raw.ctrl.admin;
    let done = raw.rig.exec(0, admin, abort, Payload::None);
    assert_eq!((done.cqe.status(), done.cqe.dw0.get()), (Status::SUCCESS, 1));
    raw.send(&bytes[60_000..], &[10]);
    assert_eq!(raw.status(), Some(Status::SUCCESS));
    assert!(raw.rig.memory.volumes[&1].data[7 * BLOCK..][..data.len()] == data);
}
