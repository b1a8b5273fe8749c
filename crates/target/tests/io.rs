//! I/O commands over the wire: every opcode, right and wrong, fused pairs, digests, memory running short, many cores.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // helpers of tests

mod support;

use dolmen_io::PoolConfig;
use dolmen_nvme::{spec::*, tcp::Digests};
use dolmen_target::TargetConfig;
use dolmen_types::volume::HostAccess;
use support::*;
use zerocopy::IntoBytes;

const BLOCKS: u64 = 1024;

fn ready(seed: u64, digests: Digests) -> (Rig, Ctrl, Conn) {
    let mut rig = Rig::new(seed, 1);
    rig.set(&[space(1, BLOCKS, HostAccess::Any)]);
    let ctrl = rig.controller_with(0, HOST, digests, 0);
    let io = rig.io_queue(&ctrl, HOST, 1, digests);
    (rig, ctrl, io)
}

fn block(opcode: NvmOpcode, start: u64, blocks: u32) -> Sqe {
    Sqe::with_read_write(opcode, 0, 1, ReadWrite { start, blocks, ..ReadWrite::default() })
}

fn fused(sqe: Sqe, half: u8) -> Sqe {
    Sqe { flags: sqe.flags | half, ..sqe }
}

#[test]
fn every_command_does_what_it_says() {
    let (mut rig, _, io) = ready(1, Digests::BOTH);
    let data = pattern(1, 32 * 4096);
    assert!(rig.write(0, io, 1, 0, &data).is_success());
    let status = |rig: &mut Rig, sqe, payload| rig.exec(0, io, sqe, payload).cqe.status();
    assert!(status(&mut rig, block(NvmOpcode::FLUSH, 0, 1), Payload::None).is_success());
    let mut flush_all = Sqe::new(NvmOpcode::FLUSH.0, 0);
    flush_all.nsid = u32::MAX.into();
    assert!(status(&mut rig, flush_all, Payload::None).is_success());
    let same = Payload::Write(data[..16384].to_vec());
    assert!(status(&mut rig, block(NvmOpcode::COMPARE, 0, 4), same).is_success());
    let other = Payload::InCapsule(vec![7; 4096]);
    assert_eq!(status(&mut rig, block(NvmOpcode::COMPARE, 0, 1), other), Status::COMPARE_FAILURE.with_dnr());
    assert!(status(&mut rig, block(NvmOpcode::VERIFY, 0, 64), Payload::None).is_success());
    assert_eq!(
        status(&mut rig, block(NvmOpcode::VERIFY, 0, 65), Payload::None),
        Status::INVALID_FIELD.with_dnr()
    );
    // Copy blocks 4..6 and 1..2 to 100.
    let mut copy = Sqe::new(NvmOpcode::COPY.0, 0);
    (copy.nsid, copy.cdw10, copy.cdw12) = (1.into(), 100.into(), 1.into());
    let ranges = [CopyDescriptor::new(4, 2), CopyDescriptor::new(1, 1)];
    assert!(status(&mut rig, copy, Payload::InCapsule(ranges.as_bytes().to_vec())).is_success());
    let copied = rig.read(0, io, 1, 100, 3).data;
    assert_eq!(copied, [&data[4 * 4096..6 * 4096], &data[4096..2 * 4096]].concat());
    copy.cdw12 = 16.into();
    let many = Payload::InCapsule(vec![0; 17 * 32]);
    assert_eq!(status(&mut rig, copy, many), Status::COMMAND_SIZE_LIMIT_EXCEEDED.with_dnr());
    // Trim two ranges, write zeroes a third.
    let trim = DatasetCommand { ranges: 2, deallocate: true };
    let ranges = [
        DsmRange { attributes: 0.into(), blocks: 1.into(), start: 0.into() },
        DsmRange { attributes: 0.into(), blocks: 2.into(), start: 5.into() },
    ];
    // Linux sends room for 256 ranges, whatever it names; what is behind them is not looked at.
    let mut page = vec![0xee; 4096];
    page[..32].copy_from_slice(ranges.as_bytes());
    assert!(status(&mut rig, trim.encode(0, 1), Payload::InCapsule(page)).is_success());
    let short = Payload::InCapsule(ranges.as_bytes()[..16].to_vec());
    assert_eq!(status(&mut rig, trim.encode(0, 1), short), Status::DATA_SGL_LENGTH_INVALID.with_dnr());
    assert!(status(&mut rig, block(NvmOpcode::WRITE_ZEROES, 10, 2), Payload::None).is_success());
    let back = rig.read(0, io, 1, 0, 32).data;
    let mut expected = data;
    for b in [0, 5, 6, 10, 11] {
        expected[b * 4096..(b + 1) * 4096].fill(0);
    }
    assert_eq!(back, expected);
    // What it does not have.
    for opcode in [0x04, 0x0f, 0x21, 0x80, 0xff] {
        let sqe = block(NvmOpcode(opcode), 0, 1);
        assert_eq!(status(&mut rig, sqe, Payload::None), Status::INVALID_OPCODE.with_dnr(), "{opcode:x}");
    }
}

#[test]
fn lengths_must_agree_and_keep_to_the_limit() {
    let (mut rig, _, io) = ready(2, Digests::NONE);
    let status = |rig: &mut Rig, sqe, payload| rig.exec(0, io, sqe, payload).cqe.status();
    let invalid = Status::INVALID_FIELD.with_dnr();
    let length = Status::DATA_SGL_LENGTH_INVALID.with_dnr();
    assert!(status(&mut rig, block(NvmOpcode::READ, 0, 64), Payload::Read(262_144)).is_success());
    assert_eq!(status(&mut rig, block(NvmOpcode::READ, 0, 65), Payload::Read(266_240)), invalid);
    assert_eq!(status(&mut rig, block(NvmOpcode::WRITE, 0, 65), Payload::Write(vec![0; 266_240])), invalid);
    assert_eq!(status(&mut rig, block(NvmOpcode::READ, 0, 2), Payload::Read(4096)), length);
    assert_eq!(status(&mut rig, block(NvmOpcode::READ, 0, 1), Payload::Read(8192)), length);
    assert_eq!(status(&mut rig, block(NvmOpcode::WRITE, 0, 2), Payload::InCapsule(vec![0; 4096])), length);
    assert_eq!(status(&mut rig, block(NvmOpcode::WRITE, 0, 1), Payload::Write(vec![0; 8192])), length);
    let beyond = Status::LBA_OUT_OF_RANGE.with_dnr();
    assert_eq!(status(&mut rig, block(NvmOpcode::READ, BLOCKS, 1), Payload::Read(4096)), beyond);
    assert_eq!(status(&mut rig, block(NvmOpcode::READ, u64::MAX, 1), Payload::Read(4096)), beyond);
    let other_ns = Sqe { nsid: 2.into(), ..block(NvmOpcode::READ, 0, 1) };
    assert_eq!(status(&mut rig, other_ns, Payload::Read(4096)), Status::INVALID_NAMESPACE.with_dnr());
    let prp = Sqe { flags: 0, ..block(NvmOpcode::READ, 0, 1) };
    assert_eq!(status(&mut rig, prp, Payload::Read(4096)), invalid);
    assert!(status(&mut rig, block(NvmOpcode::READ, 0, 1), Payload::Read(4096)).is_success());
    assert_eq!(rig.cores[0].target.stats().outstanding, 0);
}

#[test]
fn fused_pairs_are_one_and_halves_fail_alone() {
    for in_capsule in [true, false] {
        let (mut rig, _, io) = ready(3, Digests::NONE);
        let wrap = |data: Vec<u8>| if in_capsule { Payload::InCapsule(data) } else { Payload::Write(data) };
        let compare = fused(block(NvmOpcode::COMPARE, 3, 1), 1);
        let write = fused(block(NvmOpcode::WRITE, 3, 1), 2);
        let pair = |rig: &mut Rig, a: Sqe, ad: Vec<u8>, b: Sqe, bd: Vec<u8>| {
            let (first, second) = (rig.send(0, io, a, wrap(ad)), rig.send(0, io, b, wrap(bd)));
            (rig.wait(0, io, first).cqe.status(), rig.wait(0, io, second).cqe.status())
        };
        let new = pattern(5, 4096);
        let ok = (Status::SUCCESS, Status::SUCCESS);
        assert_eq!(pair(&mut rig, compare, vec![0; 4096], write, new.clone()), ok);
        assert_eq!(rig.read(0, io, 1, 3, 1).data, new);
        let failed = (Status::COMPARE_FAILURE.with_dnr(), Status::ABORTED_FAILED_FUSED.with_dnr());
        assert_eq!(pair(&mut rig, compare, vec![0; 4096], write, vec![9; 4096]), failed);
        assert_eq!(rig.read(0, io, 1, 3, 1).data, new);
        // A second half alone; a first half followed by something else; halves that do not fit each other.
        let missing = Status::ABORTED_MISSING_FUSED.with_dnr();
        assert_eq!(rig.exec(0, io, write, wrap(vec![0; 4096])).cqe.status(), missing);
        let plain = block(NvmOpcode::WRITE, 9, 1);
        assert_eq!(pair(&mut rig, compare, vec![0; 4096], plain, vec![1; 4096]), (missing, Status::SUCCESS));
        let elsewhere = fused(block(NvmOpcode::WRITE, 4, 1), 2);
        let apart = (Status::ABORTED_FAILED_FUSED.with_dnr(), Status::INVALID_FIELD.with_dnr());
        assert_eq!(pair(&mut rig, compare, vec![0; 4096], elsewhere, vec![1; 4096]), apart);
        let not_first = fused(block(NvmOpcode::WRITE, 3, 1), 1);
        let refused = (Status::INVALID_FIELD.with_dnr(), Status::ABORTED_FAILED_FUSED.with_dnr());
        assert_eq!(pair(&mut rig, not_first, vec![0; 4096], write, vec![1; 4096]), refused);
        assert_eq!(rig.read(0, io, 1, 3, 1).data, new);
        assert_eq!(rig.cores[0].target.stats().outstanding, 0);
    }
}

/// Reservation Persistence (feature 83h) is the namespace's, so both controllers of a subsystem see one value.
#[test]
fn reservation_persistence_is_a_feature_of_the_namespace() {
    let (mut rig, ctrl, _) = ready(4, Digests::NONE);
    let other = rig.controller(0, HOST);
    let id = FeatureId::RESERVATION_PERSISTENCE;
    let get = |nsid, select: u32| {
        let mut sqe = feature_select::get(0, nsid, id);
        sqe.cdw10 = (sqe.cdw10.get() | select << 8).into();
        sqe
    };
    let ask = |rig: &mut Rig, conn, sqe| {
        let cqe = rig.exec(0, conn, sqe, Payload::None).cqe;
        if cqe.status().is_success() { Ok(cqe.dw0.get()) } else { Err(cqe.status()) }
    };
    assert_eq!(ask(&mut rig, ctrl.admin, get(1, 0)), Ok(0));
    assert_eq!(ask(&mut rig, ctrl.admin, feature_select::set(0, 1, id, 1)), Ok(0));
    assert_eq!(ask(&mut rig, other.admin, get(1, 0)), Ok(1));
    assert_eq!(ask(&mut rig, other.admin, get(1, 1)), Ok(0));
    assert_eq!(ask(&mut rig, other.admin, get(1, 3)), Ok(0b110));
    let unseen = Err(Status::INVALID_NAMESPACE.with_dnr());
    assert_eq!(ask(&mut rig, ctrl.admin, get(9, 0)), unseen);
    assert_eq!(ask(&mut rig, ctrl.admin, feature_select::set(0, 9, id, 1)), unseen);
    let invalid = Err(Status::INVALID_FIELD.with_dnr());
    assert_eq!(ask(&mut rig, ctrl.admin, feature_select::set(0, u32::MAX, id, 1)), invalid);
    let mut save = feature_select::set(0, 1, id, 0);
    save.cdw10 = (save.cdw10.get() | 1 << 31).into();
    assert_eq!(ask(&mut rig, ctrl.admin, save), Err(Status::FEATURE_NOT_SAVEABLE.with_dnr()));
}

#[test]
fn reservations_cross_the_wire() {
    let (mut rig, _, io) = ready(4, Digests::NONE);
    let command = |opcode: NvmOpcode, dword: ReservationCommand| {
        let mut sqe = Sqe::new(opcode.0, 0);
        (sqe.nsid, sqe.cdw10) = (1.into(), dword.dword().into());
        sqe
    };
    let plain = ReservationCommand { action: 0, ignore_key: false, kind: 0, persistence: 0 };
    let key = RegisterData { current_key: 0.into(), new_key: 0x1234.into() };
    let register = command(NvmOpcode::RESERVATION_REGISTER, plain);
    let done = rig.exec(0, io, register, Payload::InCapsule(key.as_bytes().to_vec()));
    assert!(done.cqe.status().is_success());
    let acquire = command(NvmOpcode::RESERVATION_ACQUIRE, ReservationCommand { kind: 1, ..plain });
    let key = AcquireData { current_key: 0x99.into(), preempt_key: 0.into() };
    let done = rig.exec(0, io, acquire, Payload::InCapsule(key.as_bytes().to_vec()));
    assert_eq!(done.cqe.status(), Status::RESERVATION_CONFLICT.with_dnr());
    let key = AcquireData { current_key: 0x1234.into(), preempt_key: 0.into() };
    let done = rig.exec(0, io, acquire, Payload::InCapsule(key.as_bytes().to_vec()));
    assert!(done.cqe.status().is_success());
    let mut report = Sqe::new(NvmOpcode::RESERVATION_REPORT.0, 0);
    (report.nsid, report.cdw10) = (1.into(), 31.into());
    let done = rig.exec(0, io, report, Payload::Read(128));
    assert_eq!(done.cqe.status(), Status::HOST_ID_INCONSISTENT.with_dnr());
    report.cdw11 = 1.into();
    let data = rig.exec(0, io, report, Payload::Read(128)).data;
    assert_eq!((data[0], data[4], data[5]), (1, 1, 1));
    assert_eq!((data[66], &data[72..74], &data[80..96]), (1, &[0x34u8, 0x12][..], &HOST_ID[..]));
    let bad = command(NvmOpcode::RESERVATION_ACQUIRE, ReservationCommand { kind: 9, ..plain });
    let done = rig.exec(0, io, bad, Payload::InCapsule(vec![0; 16]));
    assert_eq!(done.cqe.status(), Status::INVALID_FIELD.with_dnr());
}

#[test]
fn a_deep_queue_of_everything_against_a_model() {
    for (seed, digests) in [(10, Digests::NONE), (11, Digests::BOTH)] {
        let (mut rig, _, io) = ready(seed, digests);
        let mut rng = dolmen_sim::Rng::new(seed);
        let mut model = vec![0u8; BLOCKS as usize * 4096];
        for _ in 0..40 {
            // Up to 100 commands on blocks that are not used twice in a round.
            let mut at = 0;
            let mut round = Vec::new();
            while at < BLOCKS && round.len() < 100 {
                let blocks = match rng.below(10) {
                    0 => rng.between(5, 64),
                    _ => rng.between(1, 4),
                }
                .min(BLOCKS - at);
                let range = at as usize * 4096..(at + blocks) as usize * 4096;
                let n = u32::try_from(blocks).unwrap();
                let cid = if rng.one_in(2) {
                    let data = pattern(rng.next_u64(), range.len());
                    let payload = if data.len() <= 8192 && rng.one_in(2) {
                        Payload::InCapsule(data.clone())
                    } else {
                        Payload::Write(data.clone())
                    };
                    model[range].copy_from_slice(&data);
                    (rig.send(0, io, block(NvmOpcode::WRITE, at, n), payload), None)
                } else {
                    (rig.send(0, io, block(NvmOpcode::READ, at, n), Payload::Read(n * 4096)), Some(range))
                };
                round.push(cid);
                at += blocks + rng.below(8);
            }
            for (cid, range) in round {
                let done = rig.wait(0, io, cid);
                assert!(done.cqe.status().is_success() && done.intact, "{}", done.cqe);
                if let Some(range) = range {
                    assert!(done.data == model[range]);
                }
            }
        }
        let stats = rig.cores[0].target.stats();
        assert_eq!((stats.outstanding, stats.violations, stats.traffic.errors), (0, 0, 0));
        assert_eq!(rig.memory.volumes[&1].data, model);
    }
}

#[test]
fn little_memory_means_waiting_and_never_losing() {
    let pool = PoolConfig::new(vec![(4096, 24), (32 * 1024, 28), (PoolConfig::LARGE_BYTES, 6)]);
    let mut rig = Rig::with(20, 1, |c| c.bounds.requests = 1000, pool);
    rig.set(&[space(1, BLOCKS, HostAccess::Any)]);
    let ctrl = rig.controller(0, HOST);
    let queues: Vec<Conn> = (1..=4).map(|qid| rig.io_queue(&ctrl, HOST, qid, Digests::BOTH)).collect();
    let mut rng = dolmen_sim::Rng::new(20);
    for round in 0..6 {
        let mut sent = Vec::new();
        for n in 0..240u64 {
            let queue = queues[(n % 4) as usize];
            let (lba, blocks) = (n * 4, u32::try_from(rng.between(1, 4)).unwrap());
            let cid = if round % 2 == 0 {
                let data = pattern(n + round, blocks as usize * 4096);
                let payload =
                    if data.len() <= 8192 { Payload::InCapsule(data) } else { Payload::Write(data) };
                rig.send(0, queue, block(NvmOpcode::WRITE, lba, blocks), payload)
            } else {
                rig.send(0, queue, block(NvmOpcode::READ, lba, blocks), Payload::Read(blocks * 4096))
            };
            sent.push((queue, cid, lba, blocks));
        }
        for (queue, cid, lba, blocks) in sent {
            let done = rig.wait(0, queue, cid);
            assert!(done.cqe.status().is_success() && done.intact);
            if round % 2 == 1 {
                let start = lba as usize * 4096;
                assert!(done.data == rig.memory.volumes[&1].data[start..start + blocks as usize * 4096]);
            }
        }
    }
    let stats = rig.cores[0].target.stats();
    assert!(stats.traffic.stalls > 0 && stats.outstanding == 0);
    // All memory is back.
    rig.turns(100);
    let io = &rig.cores[0].io;
    assert!(io.pool().available(PoolConfig::LARGE_BYTES) == 6, "{:?}", io.pool());
}

#[test]
fn queues_of_one_controller_on_many_cores() {
    let mut rig = Rig::new(30, 3);
    rig.set(&[space(1, BLOCKS, HostAccess::Any)]);
    let ctrl = rig.controller_with(0, HOST, Digests::NONE, 5000);
    let queues: Vec<Conn> = (1..=12).map(|qid| rig.io_queue(&ctrl, HOST, qid, Digests::NONE)).collect();
    let per_core: Vec<usize> = rig.cores.iter().map(|c| c.target.connections().len()).collect();
    assert!(per_core.iter().filter(|&&n| n > 0).count() > 1, "{per_core:?}");
    for (n, &queue) in (0u64..).zip(&queues) {
        assert!(rig.write(0, queue, 1, n, &pattern(n, 4096)).is_success());
    }
    for (n, &queue) in (0u64..).zip(queues.iter().rev()) {
        assert_eq!(rig.read(0, queue, 1, n, 1).data, pattern(n, 4096));
    }
    let queues_known: u32 = rig.cores.iter().flat_map(|c| c.target.hosts()).map(|h| h.io_queues).sum();
    assert_eq!(queues_known, 12);
    // One queue goes, and its id can be used again.
    rig.machines[0].close(queues[4]);
    rig.turns(100);
    let again = rig.io_queue(&ctrl, HOST, 5, Digests::NONE);
    assert!(rig.read(0, again, 1, 0, 1).cqe.status().is_success());
    // Silence: every queue on every core ends.
    rig.pass_ms(8000);
    for &queue in queues.iter().chain([&again]) {
        assert!(rig.machines[0].is_gone(queue));
    }
    for core in &rig.cores {
        let stats = core.target.stats();
        assert_eq!((stats.connections, stats.controllers), (0, 0));
    }
}

#[test]
fn draining_answers_what_runs_and_closes() {
    for cores in [1, 3] {
        let mut rig = Rig::new(40, cores);
        rig.set(&[space(1, BLOCKS, HostAccess::Any)]);
        let ctrl = rig.controller(0, HOST);
        let queues: Vec<Conn> = (1..=4).map(|qid| rig.io_queue(&ctrl, HOST, qid, Digests::NONE)).collect();
        rig.memory.hold = true;
        let data = pattern(1, 65536);
        let sent: Vec<(Conn, u16)> = queues
            .iter()
            .map(|&q| (q, rig.send(0, q, block(NvmOpcode::WRITE, 0, 16), Payload::Write(data.clone()))))
            .collect();
        rig.turns(60);
        assert_eq!(rig.memory.requests.len(), 4);
        for core in &mut rig.cores {
            core.target.drain(&mut core.io);
        }
        rig.turns(20);
        assert!(rig.cores.iter().any(|c| !c.target.is_drained()));
        assert!(!rig.machines[0].is_gone(ctrl.admin));
        rig.memory.hold = false;
        for (queue, cid) in sent {
            assert!(rig.wait(0, queue, cid).cqe.status().is_success());
        }
        rig.turns(200);
        assert!(rig.cores.iter().all(|c| c.target.is_drained()));
        assert!(rig.machines[0].is_gone(ctrl.admin) && queues.iter().all(|&q| rig.machines[0].is_gone(q)));
    }
}

#[test]
fn replies_to_hosts_that_are_gone_give_everything_back() {
    for cores in [1, 2] {
        let mut rig = Rig::new(50, cores);
        rig.set(&[space(1, BLOCKS, HostAccess::Any)]);
        let classes = [4096, PoolConfig::CHUNK_BYTES, PoolConfig::LARGE_BYTES];
        let free = |rig: &Rig| -> Vec<usize> {
            rig.cores.iter().flat_map(|c| classes.map(|n| c.io.pool().available(n))).collect()
        };
        rig.turns(20);
        let before = free(&rig);
        let ctrl = rig.controller(0, HOST);
        let queues: Vec<Conn> = (1..=3).map(|qid| rig.io_queue(&ctrl, HOST, qid, Digests::NONE)).collect();
        rig.memory.hold = true;
        for &q in &queues {
            rig.send(0, q, block(NvmOpcode::READ, 0, 8), Payload::Read(32768));
            rig.send(0, q, block(NvmOpcode::WRITE, 0, 1), Payload::InCapsule(vec![1; 4096]));
            rig.send(0, q, block(NvmOpcode::WRITE, 8, 64), Payload::Write(vec![2; 262_144]));
            rig.send(0, q, fused(block(NvmOpcode::COMPARE, 99, 1), 1), Payload::InCapsule(vec![0; 4096]));
            rig.send(0, q, fused(block(NvmOpcode::WRITE, 99, 1), 2), Payload::InCapsule(vec![3; 4096]));
            // A first half that stays alone, and data that never comes whole.
            rig.send(0, q, fused(block(NvmOpcode::COMPARE, 5, 1), 1), Payload::InCapsule(vec![0; 4096]));
        }
        rig.turns(100);
        assert_eq!(rig.memory.requests.len(), 4 * 3);
        rig.machines[0].close(ctrl.admin);
        rig.turns(100);
        assert!(queues.iter().all(|&q| rig.machines[0].is_gone(q)));
        rig.memory.hold = false;
        rig.turns(100);
        for core in &rig.cores {
            let stats = core.target.stats();
            assert_eq!((stats.connections, stats.controllers, stats.outstanding), (0, 0, 0));
        }
        assert_eq!(free(&rig), before);
    }
}

#[test]
fn writes_that_wait_in_their_volume_keep_to_their_connection_s_share() {
    let bound = |c: &mut TargetConfig| c.bounds.connection_bytes = 1 << 20;
    let mut rig = Rig::with(60, 1, bound, PoolConfig::sized(16 << 20));
    rig.set(&[space(1, BLOCKS, HostAccess::Any)]);
    let ctrl = rig.controller(0, HOST);
    let io = rig.io_queue(&ctrl, HOST, 1, Digests::NONE);
    let large = |rig: &Rig| rig.cores[0].io.pool().available(PoolConfig::LARGE_BYTES);
    let before = large(&rig);
    rig.memory.hold = true;
    let write = |n: u64| block(NvmOpcode::WRITE, n % 16 * 64, 64);
    let cids: Vec<u16> =
        (0..40).map(|n| rig.send(0, io, write(n), Payload::Write(vec![1; 262_144]))).collect();
    rig.turns(1000);
    let taken = before - large(&rig);
    assert!((1..=5).contains(&taken), "{taken} large buffers are taken");
    // Data that came in its capsule counts, too; what needs none passes.
    let small = |n: u64| block(NvmOpcode::WRITE, n, 2);
    let more: Vec<u16> =
        (0..80).map(|n| rig.send(0, io, small(n), Payload::InCapsule(vec![2; 8192]))).collect();
    rig.turns(100);
    assert!(
        rig.memory.requests.len() <= taken + 8,
        "{} commands are in the volume",
        rig.memory.requests.len()
    );
    rig.memory.hold = false;
    for cid in cids.into_iter().chain(more) {
        assert!(rig.wait(0, io, cid).cqe.status().is_success());
    }
    assert_eq!(large(&rig), before);
}

#[test]
fn a_slow_volume_leaves_memory_to_the_others() {
    let mut rig = Rig::new(61, 1);
    rig.set(&[space(1, BLOCKS, only(HOST)), space(2, BLOCKS, only(OTHER))]);
    let ctrl = rig.controller(0, HOST);
    let slow: Vec<Conn> = (1..=6).map(|qid| rig.io_queue(&ctrl, HOST, qid, Digests::NONE)).collect();
    let other = rig.controller(1, OTHER);
    let io = rig.io_queue(&other, OTHER, 1, Digests::NONE);
    rig.memory.slow = Some(1);
    let mut sent = Vec::new();
    for n in 0..40 {
        for &queue in &slow {
            let write = block(NvmOpcode::WRITE, n % 16 * 64, 64);
            sent.push((queue, rig.send(0, queue, write, Payload::Write(vec![1; 262_144]))));
        }
    }
    rig.turns(500);
    for n in 0..20 {
        let data = pattern(n, 262_144);
        assert!(rig.write(1, io, 2, n % 4 * 64, &data).is_success());
        assert!(rig.read(1, io, 2, n % 4 * 64, 64).data == data);
        // One is let on, as by a limit of its rate: what it gives back is not for those before it alone.
        rig.memory.let_on(1);
    }
    rig.memory.slow = None;
    for (queue, cid) in sent {
        assert!(rig.wait(0, queue, cid).cqe.status().is_success());
    }
}
