//! Hosts that hold memory which others wait for: it comes back, soon, and honest hosts lose nothing by it.
#![allow(clippy::unwrap_used)] // helpers of tests

mod support;

use dolmen_io::PoolConfig;
use dolmen_nvme::{spec::*, tcp::Digests};
use support::*;

const LONG: u32 = 262_144;

fn rig(seed: u64) -> Rig {
    rig_of(seed, 16 << 20)
}

fn rig_of(seed: u64, pool_bytes: usize) -> Rig {
    let mut rig = Rig::with(seed, 1, |_| {}, PoolConfig::sized(pool_bytes));
    rig.set(&[space(1, 256, only(HOST)), space(2, 256, only(OTHER))]);
    rig
}

fn command(opcode: NvmOpcode, nsid: u32, fuse: u8, blocks: u32) -> Sqe {
    let mut sqe = Sqe::with_read_write(opcode, 0, nsid, ReadWrite { blocks, ..ReadWrite::default() });
    sqe.flags |= fuse;
    sqe
}

/// A host with queues, and another one with a queue of its own.
fn hosts(rig: &mut Rig, queues: u16) -> (Vec<Conn>, Conn) {
    let many = rig.controller(0, HOST);
    let queues = (1..=queues).map(|qid| rig.io_queue(&many, HOST, qid, Digests::NONE)).collect();
    let ctrl = rig.controller(1, OTHER);
    (queues, rig.io_queue(&ctrl, OTHER, 1, Digests::NONE))
}

/// More queues than there are large buffers, each with a first half of a fused pair.
fn first_halves(rig: &mut Rig) -> (Vec<Conn>, Conn) {
    let (queues, io) = hosts(rig, 40);
    for &queue in &queues {
        rig.send(0, queue, command(NvmOpcode::COMPARE, 1, 1, 64), Payload::Write(pattern(1, LONG as usize)));
    }
    rig.turns(1000);
    assert!(rig.cores[0].io.pool().alloc_share(PoolConfig::LARGE_BYTES, 0).is_none());
    assert_eq!(rig.cores[0].target.stats().timeouts, 0);
    (queues, io)
}

#[test]
fn lone_first_halves_end_when_others_need_what_they_hold() {
    let mut rig = rig(13);
    let (_, io) = first_halves(&mut rig);
    let cid = rig.send(1, io, command(NvmOpcode::READ, 2, 0, 64), Payload::Read(LONG));
    rig.pass_ms(6000);
    assert!(rig.wait(1, io, cid).cqe.status().is_success());
}

/// For the data of the second halves nothing is left.
#[test]
fn pairs_whose_second_halves_find_no_memory_end() {
    let mut rig = rig(15);
    let (queues, io) = first_halves(&mut rig);
    for &queue in &queues {
        rig.send(0, queue, command(NvmOpcode::WRITE, 1, 2, 64), Payload::Write(pattern(2, LONG as usize)));
    }
    let cid = rig.send(1, io, command(NvmOpcode::READ, 2, 0, 64), Payload::Read(LONG));
    rig.pass_ms(25_000);
    assert!(rig.wait(1, io, cid).cqe.status().is_success());
    assert_eq!(rig.cores[0].target.stats().timeouts, 0);
}

#[test]
fn a_first_half_without_its_second_fails_in_time_and_leaves_its_queue_alone() {
    let mut rig = rig(14);
    let (queues, _) = hosts(&mut rig, 1);
    let io = queues[0];
    let data = |seed| Payload::InCapsule(pattern(seed, 4096));
    let first = rig.send(0, io, command(NvmOpcode::COMPARE, 1, 1, 1), data(1));
    rig.pass_ms(19_000);
    assert_eq!(rig.machines[0].waiting(io), 0);
    rig.pass_ms(3000);
    assert_eq!(rig.wait(0, io, first).cqe.status(), Status::ABORTED_MISSING_FUSED.with_dnr());
    let done = rig.exec(0, io, command(NvmOpcode::WRITE, 1, 2, 1), data(2));
    assert_eq!(done.cqe.status(), Status::ABORTED_FAILED_FUSED.with_dnr());
    assert!(rig.write(0, io, 1, 0, &pattern(3, 4096)).is_success());
    assert_eq!(rig.cores[0].target.stats().timeouts, 0);
}

/// A host whose link is slow, a window every two seconds: its sends are under way for long, but they go on.
#[test]
fn slow_readers_lose_nothing_while_others_wait() {
    // Each of them has several buffers on their way, and all together so many that little is left.
    let mut rig = rig_of(16, 64 << 20);
    let (queues, io) = hosts(&mut rig, 10);
    let read = |nsid| command(NvmOpcode::READ, nsid, 0, 64);
    let mut sent = Vec::new();
    for _ in 0..16 {
        for &queue in &queues {
            sent.push((queue, rig.send(0, queue, read(1), Payload::Read(LONG))));
        }
    }
    rig.machines[0].set_reading(false);
    let mut others = Vec::new();
    for round in 1..1000 {
        let reads = round % 20 == 0;
        if reads {
            rig.machines[0].set_reading(true);
        }
        if round % 10 == 0 {
            others.push(rig.send(1, io, read(2), Payload::Read(LONG)));
        }
        rig.pass_ms(100);
        if reads {
            rig.machines[0].set_reading(false);
        }
    }
    assert_eq!(rig.cores[0].target.stats().timeouts, 0);
    rig.machines[0].set_reading(true);
    for (queue, cid) in sent {
        assert!(rig.wait(0, queue, cid).cqe.status().is_success());
    }
    for cid in others {
        assert!(rig.wait(1, io, cid).cqe.status().is_success());
    }
}

#[test]
fn responses_that_find_no_memory_hold_the_stream_up() {
    let mut rig = rig(18);
    let ctrl = rig.controller(0, HOST);
    let deaf = rig.machines[0].dial_deaf(server(4420));
    rig.turns(20);
    rig.machines[0].send_raw(deaf, &raw_queue(ctrl.id));
    rig.turns(20);
    let held = drain(&rig);
    let flood = capsule(&Sqe::new(0xff, 3), &[]).repeat(100);
    for _ in 0..400 {
        rig.machines[0].send_raw(deaf, &flood);
        rig.turns(3);
    }
    // As many as its machine's window takes answers of, and a few more.
    let answered = rig.cores[0].target.stats().traffic.errors;
    assert!((1000..20_000).contains(&answered), "{answered} of 40000 commands were answered");
    drop(held);
}

/// Writes that find no memory for their data don't keep what answers are staged in.
#[test]
fn writes_that_wait_leave_answers_their_buffers() {
    let mut rig = rig(20);
    let (queues, _) = hosts(&mut rig, 8);
    let other = rig.controller(1, OTHER);
    let held = drain(&rig);
    for &queue in &queues {
        rig.send(
            0,
            queue,
            command(NvmOpcode::WRITE, 1, 0, 32),
            Payload::Write(pattern(1, LONG as usize / 2)),
        );
    }
    rig.turns(200);
    let done = rig.exec(1, other.admin, Sqe::new(AdminOpcode::KEEP_ALIVE.0, 0), Payload::None);
    assert!(done.cqe.status().is_success());
    drop(held);
}

/// The data that an R2T asked for lies behind a command that finds no memory.
#[test]
fn who_is_held_up_is_not_late_with_what_was_asked_for() {
    let mut rig = rig(21);
    let (queues, _) = hosts(&mut rig, 1);
    let io = queues[0];
    rig.machines[0].set_reading(false);
    let data = pattern(1, LONG as usize / 2);
    let long = rig.send(0, io, command(NvmOpcode::WRITE, 1, 0, 32), Payload::Write(data));
    rig.turns(50);
    let held = drain(&rig);
    let short = rig.send(0, io, command(NvmOpcode::WRITE, 1, 0, 1), Payload::InCapsule(pattern(2, 4096)));
    rig.turns(50);
    // Now it hears of the R2T.
    rig.machines[0].set_reading(true);
    rig.pass_ms(25_000);
    drop(held);
    for cid in [long, short] {
        assert!(rig.wait(0, io, cid).cqe.status().is_success());
    }
    assert_eq!(rig.cores[0].target.stats().timeouts, 0);
}

/// What waits for memory is sent when there is some, in order, and the stream goes on.
#[test]
fn responses_that_found_no_memory_come_when_there_is_some() {
    let mut rig = rig(19);
    let (queues, _) = hosts(&mut rig, 12);
    let held = drain(&rig);
    let mut sent = Vec::new();
    for _ in 0..100 {
        for &queue in &queues {
            sent.push((queue, rig.send(0, queue, Sqe::new(0xff, 1), Payload::None)));
        }
    }
    rig.turns(50);
    drop(held);
    for (queue, cid) in sent {
        assert_eq!(rig.wait(0, queue, cid).cqe.status(), Status::INVALID_OPCODE.with_dnr());
    }
}
