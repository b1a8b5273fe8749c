//! Commands that meet nobody, of which reads hold no range: what they wait for, and what waits for them.

use super::*;
use crate::{backing::Refusal, near::NearRange};

fn volume(n: u8) -> VolumeDescriptor {
    descriptor(n, SectorSize::B4096, VolumeKind::Durable, 64)
}

impl Bench {
    fn read_block(&mut self, volume: VolumeRef, lba: u64) -> u64 {
        let buf = self.data.alloc(4096).unwrap();
        self.send(volume, Command::Read { lba, blocks: 1, buf })
    }

    fn write_block(&mut self, volume: VolumeRef, lba: u64, fill: u8) -> u64 {
        let buf = self.buf(&[fill; 4096]);
        self.send(volume, Command::Write { lba, blocks: 1, buf })
    }

    /// Ends all appends; reads stay under way.
    fn end_appends(&mut self) {
        while let Some(done) = self.log.end_append() {
            self.volumes.on_store_done(done);
        }
        self.step();
    }

    fn end_reads(&mut self) {
        while !self.log.reads.is_empty() {
            let done = self.log.end_read(0);
            self.volumes.on_store_done(done);
        }
        self.step();
    }

    fn found(&mut self, token: u64) -> u8 {
        let reply = self.replies.remove(&token).unwrap();
        assert_eq!(reply.result, Ok(Done::Ok));
        reply.buf.unwrap()[0]
    }
}

#[test]
fn a_write_that_comes_later_does_not_wait_and_a_read_behind_a_write_sees_it() {
    let mut bench = Bench::new();
    let v = bench.create(volume(1));
    bench.write(v, 3, &[1; 4096], 4096);
    let first = bench.read_block(v, 3);
    bench.step();
    let write = bench.write_block(v, 3, 2);
    bench.step();
    assert_eq!((bench.log.reads.len(), bench.log.appends.len()), (1, 1), "neither waits for the other");
    let behind = bench.read_block(v, 3);
    let beside = bench.read_block(v, 4);
    bench.step();
    assert_eq!(bench.log.reads.len(), 2, "one waits for the write, the other does not");
    bench.end_appends();
    assert_eq!(bench.replies.remove(&write).unwrap().result, Ok(Done::Ok));
    bench.end_reads();
    assert_eq!((bench.found(behind), bench.found(beside)), (2, 0));
    assert!([1, 2].contains(&bench.found(first)), "old or new: they were under way together");
    assert_eq!(bench.volumes.outstanding(), 0);
}

#[test]
fn a_line_is_not_given_up_under_a_read() {
    let mut bench = Bench::new();
    let (v, w) = (bench.create(volume(1)), bench.create(volume(2)));
    bench.write(v, 3, &[1; 4096], 4096);
    let read = bench.read_block(v, 3);
    bench.step();
    let delete = bench.ask(ControlCommand::Delete { uuid: Uuid([1; 16]), expected_revision: None });
    bench.step();
    bench.end_appends();
    bench.end_appends();
    assert!(bench.controls.contains_key(&delete), "that it is being deleted is durable");
    assert_eq!(bench.log.appends.len(), 0, "its line stays for now");
    let late = bench.read_block(v, 3);
    let other = bench.read_block(w, 3);
    bench.step();
    assert_eq!(bench.replies.remove(&late).unwrap().result, Err(VolumeError::Gone));
    assert_eq!(bench.log.reads.len(), 2);
    bench.end_reads();
    assert_eq!((bench.found(read), bench.found(other)), (1, 0));
    assert_eq!(bench.log.appends.len(), 1, "now its line goes");
    bench.settle();
    assert!(bench.volumes.find(Uuid([1; 16])).is_none());
    assert_eq!(bench.volumes.outstanding(), 0);
}

#[test]
fn they_count_against_the_limit_of_a_volume() {
    let mut bench = Bench::new();
    let v = bench.create(volume(1));
    bench.volumes.volume_limit = 3;
    let reads: Vec<u64> = (0..8).map(|lba| bench.read_block(v, lba)).collect();
    bench.step();
    assert_eq!(bench.log.reads.len(), 3);
    assert!(bench.volumes.straight_way(&near(v, 9), Access::Read).is_none(), "nor by the short way");
    bench.settle();
    assert!(reads.into_iter().all(|token| bench.found(token) == 0));
    assert!(bench.volumes.straight_way(&near(v, 9), Access::Read).is_some());
    assert!(bench.volumes.straight_way(&near(v, 64), Access::Read).is_none(), "beyond the end");
}

/// Who reserves a volume fences the others: what they have begun comes before that, or not at all.
#[test]
fn nothing_is_sequenced_between_the_look_at_the_reservations_and_a_write() {
    let mut bench = Bench::new();
    let v = bench.create(volume(1));
    let other = [8; 16];
    let reserve = |bench: &mut Bench, command| bench.send_as(other, v, FAR, Command::Reservation(command));
    let register = reserve(
        &mut bench,
        ReservationCommand::Register {
            action: RegisterAction::Register,
            current_key: 0,
            new_key: 1,
            ignore_existing_key: false,
            persist: PersistChange::Keep,
        },
    );
    // It waits for the one before it, whose end is told in the very turn in which the write begins.
    let acquire = reserve(
        &mut bench,
        ReservationCommand::Acquire {
            action: AcquireAction::Acquire,
            ignore_existing_key: false,
            kind: Some(ReservationType::ExclusiveAccess),
            current_key: 1,
            preempt_key: 0,
        },
    );
    bench.step();
    assert_eq!(bench.log.appends.len(), 1);
    let way = bench.volumes.straight_way(&near(v, 3), Access::Write).unwrap();
    let asker = Asker { token: 99, from: CORE, host_id: HOST, deadline: FAR, stamps: Stamps::default() };
    let buf = bench.buf(&[7; 4096]);
    bench.volumes.begin_straight(way, buf, asker, Nanos(0));
    let done = bench.log.end_append().unwrap();
    bench.volumes.on_store_done(done);
    bench.step();
    assert_eq!(bench.log.appends.len(), 2);
    // The log ends them in the order in which they were sequenced.
    let done = bench.log.end_append().unwrap();
    bench.volumes.on_store_done(done);
    bench.step();
    assert!(bench.replies.contains_key(&99) && !bench.replies.contains_key(&acquire), "the write came first");
    bench.settle();
    assert!([register, acquire, 99].iter().all(|token| bench.replies[token].result == Ok(Done::Ok)));
    assert!(bench.volumes.straight_way(&near(v, 3), Access::Write).is_none());
    let late = bench.write_block(v, 3, 8);
    bench.settle();
    assert_eq!(bench.replies[&late].result, Err(VolumeError::ReservationConflict));
}

fn near(volume: VolumeRef, lba: u64) -> NearRange<'static> {
    NearRange { volume, host_id: &HOST, lba, blocks: 1 }
}

#[test]
fn a_write_that_the_log_has_no_room_for_waits_as_any_other() {
    let mut bench = Bench::new();
    let v = bench.create(volume(1));
    bench.log.refuse = Some(Refusal::Busy);
    let waits = bench.write_block(v, 3, 1);
    let gone = bench.write_block(v, 4, 2);
    bench.step();
    let behind = bench.read_block(v, 3);
    bench.step();
    assert_eq!((bench.log.appends.len(), bench.log.reads.len(), bench.replies.len()), (0, 0, 0));
    // Nobody waits for one of them any more; one that is called off before it was ever looked at never begins.
    let fresh = bench.write_block(v, 5, 3);
    bench.volumes.call_off(CORE, [gone, fresh].into());
    bench.step();
    assert_eq!(bench.replies.len(), 2);
    for token in [gone, fresh] {
        let reply = bench.replies.remove(&token).unwrap();
        assert!(reply.result == Err(VolumeError::CalledOff) && reply.buf.is_some());
    }
    bench.log.refuse = None;
    bench.settle();
    assert_eq!(bench.replies.remove(&waits).unwrap().result, Ok(Done::Ok));
    assert_eq!(bench.found(behind), 1);
    assert_eq!([4, 5].map(|lba| bench.read(v, lba, 1, 4096)[0]), [0, 0]);
    // No space is an error of this write alone.
    bench.log.refuse = Some(Refusal::Full);
    let full = bench.write_block(v, 3, 9);
    bench.step();
    let reply = bench.replies.remove(&full).unwrap();
    assert!(reply.result == Err(VolumeError::CapacityExceeded) && reply.buf.is_some());
    bench.log.refuse = None;
    bench.write(v, 3, &[4; 4096], 4096);
    assert_eq!(bench.read(v, 3, 1, 4096)[0], 4);
    assert_eq!(bench.volumes.outstanding(), 0);
}
