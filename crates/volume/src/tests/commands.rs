//! Order, deadlines, faults and bounds of single commands.

use super::*;
use crate::backing::Refusal;
use dolmen_store::{Record, StoreError};

fn durable(bench: &mut Bench, sector: SectorSize) -> VolumeRef {
    bench.create(descriptor(1, sector, VolumeKind::Durable, 128))
}

fn write(bench: &Bench, lba: u64, fill: u8) -> Command {
    Command::Write { lba, blocks: 1, buf: bench.buf(&[fill; 4096]) }
}

fn read(bench: &Bench, lba: u64) -> Command {
    Command::Read { lba, blocks: 1, buf: bench.data.alloc(4096).unwrap() }
}

#[test]
fn an_overlapping_read_waits_and_a_distant_one_does_not() {
    let mut bench = Bench::new();
    let volume = durable(&mut bench, SectorSize::B4096);
    let (w, near, far) = (write(&bench, 5, 7), read(&bench, 5), read(&bench, 6));
    let (w, near, far) = (bench.send(volume, w), bench.send(volume, near), bench.send(volume, far));
    bench.step();
    assert_eq!((bench.log.reads.len(), bench.log.appends.len()), (1, 1));
    let done = bench.log.end_read(0);
    bench.volumes.on_store_done(done);
    bench.step();
    assert!(bench.replies.contains_key(&far) && !bench.replies.contains_key(&w));
    let done = bench.log.end_append().unwrap();
    bench.volumes.on_store_done(done);
    bench.step();
    assert!(bench.replies.contains_key(&w) && bench.log.reads.len() == 1);
    bench.settle();
    assert!(bench.replies[&near].buf.as_ref().unwrap().iter().all(|&b| b == 7));
    let stats = bench.volumes.stats().next().unwrap().1;
    assert_eq!((stats.reads.count(), stats.writes.count(), stats.waited), (2, 1, 1));
}

#[test]
fn a_host_command_is_one_batch_of_at_most_the_promised_size() {
    let mut bench = Bench::new();
    let volume = durable(&mut bench, SectorSize::B512);
    let buf = bench.buf(&vec![1; limits::ATOMIC_WRITE_BYTES]);
    let blocks = u32::try_from(limits::ATOMIC_WRITE_BYTES / 512).unwrap();
    bench.send(volume, Command::Write { lba: 1, blocks, buf });
    bench.send(volume, Command::WriteZeroes { lba: 1, blocks: 30, deallocate: false });
    bench.step();
    for _ in 0..2 {
        while !bench.log.reads.is_empty() {
            let done = bench.log.end_read(0);
            bench.volumes.on_store_done(done);
        }
        bench.step();
    }
    assert_eq!(bench.log.appends.len(), 1, "the second waits for the first");
    let records = &bench.log.appends[0].0.records;
    assert!(matches!(&records[..], [Record::Write { data, .. }] if data.len() == 65 * 4096));
    let done = bench.log.end_append().unwrap();
    bench.volumes.on_store_done(done);
    bench.step();
    while bench.log.appends.is_empty() {
        let done = bench.log.end_read(0);
        bench.volumes.on_store_done(done);
        bench.step();
    }
    let records = &bench.log.appends[0].0.records;
    assert!(matches!(
        &records[..],
        [Record::Unmap { blocks, .. }, Record::Write { .. }, Record::Write { .. }] if blocks.0 == 2
    ));
    bench.settle();
    let bytes = bench.read(volume, 0, 40, 512);
    assert!(bytes[..512].iter().all(|&b| b == 0) && bytes[512..31 * 512].iter().all(|&b| b == 0));
    assert!(bytes[31 * 512..].iter().all(|&b| b == 1));
}

#[test]
fn what_is_late_is_never_sequenced() {
    let mut bench = Bench::new();
    let volume = durable(&mut bench, SectorSize::B4096);
    bench.log.now = Nanos(1000);
    let command = write(&bench, 0, 1);
    let at_once = bench.send_as(HOST, volume, Nanos(1000), command);
    bench.step();
    assert_eq!(bench.replies[&at_once].result, Err(VolumeError::Expired));
    assert!(bench.replies[&at_once].buf.is_some());
    assert!(bench.log.appends.is_empty());

    // One that waits for an overlapping command is answered at its deadline, not when the other ends.
    let (first, late) = (write(&bench, 0, 1), write(&bench, 0, 2));
    let first = bench.send(volume, first);
    let late = bench.send_as(HOST, volume, Nanos(2000), late);
    bench.step();
    assert!(bench.log.wake.is_some(), "a timer is armed while commands wait");
    bench.log.now = bench.log.wake.unwrap();
    bench.volumes.on_event(dolmen_io::Event::Timer);
    bench.step();
    assert_eq!(bench.replies[&late].result, Err(VolumeError::Expired));
    assert!(!bench.replies.contains_key(&first));

    // One that the log has no room for expires too.
    bench.settle();
    bench.log.refuse = Some(Refusal::Busy);
    let command = write(&bench, 0, 3);
    let deadline = bench.log.now.plus_ms(1);
    let unsent = bench.send_as(HOST, volume, deadline, command);
    bench.step();
    bench.log.now = deadline;
    bench.log.refuse = None;
    bench.step();
    assert_eq!(bench.replies[&unsent].result, Err(VolumeError::Expired));
    bench.settle();
    assert!(bench.read(volume, 0, 1, 4096).iter().all(|&b| b == 1));
}

#[test]
fn a_misaligned_write_that_becomes_late_while_it_reads_is_not_sequenced() {
    let mut bench = Bench::new();
    let volume = durable(&mut bench, SectorSize::B512);
    let command = Command::Write { lba: 1, blocks: 1, buf: bench.buf(&[5; 512]) };
    let token = bench.send_as(HOST, volume, Nanos(50), command);
    bench.step();
    assert_eq!(bench.log.reads.len(), 1);
    bench.log.now = Nanos(50);
    bench.settle();
    assert_eq!(bench.replies[&token].result, Err(VolumeError::Expired));
    assert!(bench.log.disk.blocks.is_empty());
}

#[test]
fn compare_and_write_is_one_step() {
    let mut bench = Bench::new();
    let volume = durable(&mut bench, SectorSize::B512);
    // Many hosts race for a lock word: each swaps 0 for its own number, one wins.
    let tokens: Vec<u64> = (1..=20u8)
        .map(|n| {
            let (compare, write) = (bench.buf(&[0; 512]), bench.buf(&[n; 512]));
            bench.send(volume, Command::CompareAndWrite { lba: 3, blocks: 1, compare, write })
        })
        .collect();
    bench.settle();
    let winners: Vec<u64> =
        tokens.iter().copied().filter(|t| bench.replies[t].result == Ok(Done::Ok)).collect();
    assert_eq!(winners, tokens[..1]);
    assert!(tokens[1..].iter().all(|t| bench.replies[t].result == Err(VolumeError::CompareFailed)));
    assert!(bench.replies.values().all(|r| r.buf.is_some() && r.buf2.is_some()));
    assert!(bench.read(volume, 3, 1, 512).iter().all(|&b| b == 1));
}

#[test]
fn malformed_commands_are_refused_with_their_buffers() {
    let mut bench = Bench::new();
    let volume = durable(&mut bench, SectorSize::B4096);
    let short = bench.buf(&[0; 4096]);
    let reply = bench.run(volume, Command::Write { lba: 0, blocks: 2, buf: short });
    assert_eq!((reply.result, reply.buf.is_some()), (Err(VolumeError::Invalid), true));
    let mut refused = |command, error| assert_eq!(bench.run(volume, command).result, Err(error));
    refused(Command::Verify { lba: 0, blocks: 0 }, VolumeError::Invalid);
    refused(Command::Verify { lba: u64::MAX, blocks: 1 }, VolumeError::OutOfRange);
    refused(Command::WriteZeroes { lba: 128, blocks: 1, deallocate: true }, VolumeError::OutOfRange);
    let range = LbaRange { lba: 0, blocks: 1 };
    refused(Command::Deallocate { ranges: vec![range; 257].into() }, VolumeError::TooLarge);
    refused(Command::Copy { sources: vec![range; 17].into(), dest: 0 }, VolumeError::TooLarge);
    refused(Command::Copy { sources: [].into(), dest: 0 }, VolumeError::Invalid);
    let long = LbaRange { lba: 0, blocks: 64 };
    refused(Command::Copy { sources: vec![long, long].into(), dest: 0 }, VolumeError::TooLarge);
    refused(Command::Copy { sources: vec![range].into(), dest: 128 }, VolumeError::OutOfRange);
    let stale = VolumeRef { generation: 77, ..volume };
    assert_eq!(bench.run(stale, Command::Flush).result, Err(VolumeError::Gone));
    let absent = VolumeRef { slot: 9, ..volume };
    assert_eq!(bench.run(absent, Command::Flush).result, Err(VolumeError::Gone));
    assert_eq!(bench.run(volume, Command::Flush).result, Ok(Done::Ok));
}

#[test]
fn two_hundred_and_fifty_six_scattered_ranges_are_one_batch() {
    let mut bench = Bench::new();
    let volume = bench.create(descriptor(1, SectorSize::B4096, VolumeKind::Durable, 600));
    let ranges: Vec<LbaRange> = (0..256).map(|i| LbaRange { lba: 2 * i, blocks: 1 }).collect();
    bench.send(volume, Command::Deallocate { ranges: ranges.into() });
    bench.step();
    assert_eq!(bench.log.appends[0].0.records.len(), 256);
    bench.settle();
}

#[test]
fn a_full_store_refuses_data_and_serves_on() {
    let mut bench = Bench::new();
    let volume = durable(&mut bench, SectorSize::B4096);
    bench.log.refuse = Some(Refusal::Full);
    let command = write(&bench, 0, 1);
    let reply = bench.run(volume, command);
    assert_eq!((reply.result, reply.buf.is_some()), (Err(VolumeError::CapacityExceeded), true));
    bench.log.refuse = None;
    // Found out later, when the log had taken it already.
    let command = write(&bench, 0, 1);
    let token = bench.send(volume, command);
    bench.step();
    let done = bench.log.fail_append(StoreError::Full).unwrap();
    bench.volumes.on_store_done(done);
    bench.settle();
    assert_eq!(bench.replies[&token].result, Err(VolumeError::CapacityExceeded));
    bench.write(volume, 0, &[4; 4096], 4096);
}

/// A full map takes no holes: zeros can't be written then, and what is deallocated stays as it is.
/// Deallocates of many ranges take no more of the core's range locks than one volume may have: others get theirs.
#[test]
fn many_ranges_of_one_volume_leave_room_for_others() {
    let mut bench = Bench::new();
    let greedy = durable(&mut bench, SectorSize::B4096);
    let other = bench.create(descriptor(2, SectorSize::B4096, VolumeKind::Durable, 128));
    let ranges: Vec<LbaRange> = (0..60).map(|n| LbaRange { lba: 2 * n, blocks: 1 }).collect();
    let deallocate = || Command::Deallocate { ranges: ranges.clone().into() };
    let all: Vec<u64> = (0..4000).map(|_| bench.send(greedy, deallocate())).collect();
    bench.step();
    let taken = bench.volumes.locks.len();
    assert!(taken < limits::MAX_VOLUME_RANGES + limits::MAX_DEALLOCATE_RANGES, "{taken}");
    let before = bench.log.appends.len();
    let written = write(&bench, 5, 7);
    let written = bench.send(other, written);
    bench.step();
    assert_eq!(bench.log.appends.len(), before + 1, "it does not wait");
    bench.settle();
    for token in all.iter().chain([&written]) {
        assert_eq!(bench.replies.remove(token).unwrap().result, Ok(Done::Ok));
    }
    assert_eq!((bench.volumes.outstanding(), bench.volumes.locks.len()), (0, 0));
}

#[test]
fn a_full_store_refuses_zeros_and_ignores_deallocation() {
    let mut bench = Bench::new();
    let volume = durable(&mut bench, SectorSize::B4096);
    bench.write(volume, 0, &[4; 4096], 4096);
    let zeros = || Command::WriteZeroes { lba: 0, blocks: 1, deallocate: false };
    let deallocate = || Command::Deallocate { ranges: [LbaRange { lba: 0, blocks: 1 }].into() };
    bench.log.refuse = Some(Refusal::Full);
    assert_eq!(bench.run(volume, zeros()).result, Err(VolumeError::CapacityExceeded));
    assert_eq!(bench.run(volume, deallocate()).result, Ok(Done::Ok));
    bench.log.refuse = None;
    for (command, result) in [(zeros(), Err(VolumeError::CapacityExceeded)), (deallocate(), Ok(Done::Ok))] {
        let token = bench.send(volume, command);
        bench.step();
        let done = bench.log.fail_append(StoreError::Full).unwrap();
        bench.volumes.on_store_done(done);
        bench.settle();
        assert_eq!(bench.replies[&token].result, result);
    }
    assert_eq!(bench.read(volume, 0, 1, 4096), [4; 4096]);
    assert_eq!(bench.run(volume, zeros()).result, Ok(Done::Ok));
    assert_eq!(bench.read(volume, 0, 1, 4096), [0; 4096]);
}

#[test]
fn a_stopped_store_stops_writes_but_not_reads_and_says_so() {
    let mut bench = Bench::new();
    let volume = durable(&mut bench, SectorSize::B4096);
    bench.write(volume, 0, &[4; 4096], 4096);
    let command = write(&bench, 0, 1);
    let token = bench.send(volume, command);
    bench.step();
    bench.changes.clear();
    let done = bench.log.fail_append(StoreError::Stopped { reason: "test".into() }).unwrap();
    bench.volumes.on_store_done(done);
    bench.settle();
    assert_eq!(bench.replies[&token].result, Err(VolumeError::NotReady));
    assert!(matches!(&bench.changes[..], [Change::Present(info)] if info.health == Health::Stopped));
    let command = write(&bench, 0, 1);
    assert_eq!(bench.run(volume, command).result, Err(VolumeError::NotReady));
    assert!(bench.read(volume, 0, 1, 4096).iter().all(|&b| b == 4));
    let uuid = Uuid([1; 16]);
    assert_eq!(
        bench.control(ControlCommand::Delete { uuid, expected_revision: None }),
        Err(ControlError::NotReady)
    );
}

#[test]
fn unreadable_blocks_fail_what_needs_them() {
    let mut bench = Bench::new();
    let volume = durable(&mut bench, SectorSize::B512);
    let buf = bench.buf(&[1; 512]);
    for command in [
        Command::Read { lba: 8, blocks: 8, buf: bench.data.alloc(4096).unwrap() },
        Command::Write { lba: 1, blocks: 1, buf },
        Command::Verify { lba: 0, blocks: 8 },
    ] {
        let token = bench.send(volume, command);
        bench.step();
        let done = bench.log.fail_read(0, StoreError::Medium { reason: "test".into() });
        bench.volumes.on_store_done(done);
        bench.settle();
        assert_eq!(bench.replies[&token].result, Err(VolumeError::Media));
    }
    assert_eq!((bench.volumes.outstanding(), bench.volumes.locks.len()), (0, 0));
}

#[test]
fn null_volumes_forget_and_read_zeros() {
    let mut bench = Bench::new();
    let volume = bench.create(descriptor(1, SectorSize::B4096, VolumeKind::Null, 1 << 30));
    let buf = bench.buf(&[7; 8192]);
    assert_eq!(bench.run(volume, Command::Write { lba: 1 << 20, blocks: 2, buf }).result, Ok(Done::Ok));
    let mut buf = bench.data.alloc(8192).unwrap();
    buf.fill(3);
    let reply = bench.run(volume, Command::Read { lba: 1 << 20, blocks: 2, buf });
    assert!(reply.buf.unwrap().iter().all(|&b| b == 0));
    assert!(bench.log.disk.objects.keys().all(|(_, key)| key.kind == crate::group::kind::GROUP));
}

#[test]
fn a_hot_volume_waits_for_itself_and_leaves_room_for_others() {
    let mut bench = Bench::new();
    let hot = durable(&mut bench, SectorSize::B4096);
    let other = bench.create(descriptor(2, SectorSize::B4096, VolumeKind::Durable, 8));
    let many = limits::MAX_VOLUME_COMMANDS + 100;
    for _ in 0..many {
        bench.send(hot, Command::WriteZeroes { lba: 0, blocks: 1, deallocate: true });
    }
    let late = bench.send_as(HOST, hot, Nanos(500), Command::Verify { lba: 9, blocks: 1 });
    let neighbour = bench.send(other, Command::WriteZeroes { lba: 0, blocks: 1, deallocate: true });
    bench.step();
    assert_eq!(bench.log.appends.len(), 2, "one of the hot ones, and the neighbour's");
    assert_eq!((bench.volumes.outstanding(), bench.volumes.backlogged), (many + 2, 101));
    while !bench.replies.contains_key(&neighbour) {
        let done = bench.log.end_append().unwrap();
        bench.volumes.on_store_done(done);
        bench.step();
    }
    assert!(bench.volumes.backlogged > 90);
    // Control requests get through, and so does the end of the volume.
    let third = descriptor(3, SectorSize::B4096, VolumeKind::Durable, 1);
    let created = bench.ask(ControlCommand::Create(Box::new(third)));
    bench.log.now = Nanos(1 << 40);
    bench.settle();
    assert!(bench.controls[&created].is_ok());
    assert_eq!(bench.replies[&late].result, Err(VolumeError::Expired));
    assert_eq!(bench.replies.values().filter(|r| r.result == Ok(Done::Ok)).count(), many + 1);
    assert_eq!((bench.volumes.outstanding(), bench.volumes.backlogs.len()), (0, 0));
}

#[test]
fn those_in_the_backlog_of_a_deleted_volume_are_told() {
    let mut bench = Bench::new();
    let volume = durable(&mut bench, SectorSize::B4096);
    for _ in 0..limits::MAX_VOLUME_COMMANDS + 100 {
        bench.send(volume, Command::WriteZeroes { lba: 0, blocks: 1, deallocate: true });
    }
    bench.step();
    bench.ask(ControlCommand::Delete { uuid: Uuid([1; 16]), expected_revision: None });
    bench.settle();
    let told =
        |result: Result<Done, VolumeError>| bench.replies.values().filter(|r| r.result == result).count();
    assert_eq!(told(Ok(Done::Ok)) + told(Err(VolumeError::Gone)), limits::MAX_VOLUME_COMMANDS + 100);
    assert!(told(Err(VolumeError::Gone)) > 0);
    assert_eq!((bench.volumes.outstanding(), bench.volumes.backlogs.len()), (0, 0));
}

#[test]
fn hosts_can_not_take_the_last_slots() {
    let mut bench = Bench::new();
    let volumes: Vec<VolumeRef> =
        (1..=17).map(|n| bench.create(descriptor(n, SectorSize::B4096, VolumeKind::Durable, 4096))).collect();
    for volume in volumes {
        for lba in 0..limits::MAX_VOLUME_COMMANDS as u64 {
            bench.send(volume, Command::WriteZeroes { lba, blocks: 1, deallocate: true });
        }
    }
    bench.step();
    assert!(bench.volumes.ops.is_full(limits::RESERVED_COMMANDS) && !bench.volumes.ops.is_full(0));
    let other = descriptor(18, SectorSize::B4096, VolumeKind::Durable, 1);
    let token = bench.ask(ControlCommand::Create(Box::new(other)));
    bench.settle();
    assert!(bench.controls[&token].is_ok());
    assert_eq!(bench.replies.len(), 17 * limits::MAX_VOLUME_COMMANDS);
    assert!(bench.replies.values().all(|r| r.result == Ok(Done::Ok)));
}

/// Those who have all buffers that hosts may take wait for commands that need one more.
#[test]
fn commands_that_need_memory_run_one_by_one_when_hosts_have_all_of_theirs() {
    let mut bench = Bench::new();
    let volume = durable(&mut bench, SectorSize::B512);
    let held: Vec<Buf> = std::iter::from_fn(|| bench.log.pool.alloc_plentiful(4096)).collect();
    let tokens: Vec<u64> = (0..20u64)
        .map(|n| {
            let buf = bench.buf(&[7; 2048]);
            bench.send(volume, Command::Write { lba: n * 8 + 1, blocks: 4, buf })
        })
        .collect();
    bench.settle();
    for token in tokens {
        assert_eq!(bench.replies.remove(&token).unwrap().result, Ok(Done::Ok));
    }
    drop(held);
    assert_eq!(bench.log.pool.available(1), 48);
}
