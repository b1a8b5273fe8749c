//! QoS policies: the rate, the neighbours, changes while commands wait, deadlines, and the end of a volume.

use super::*;
use dolmen_io::Event;
use dolmen_types::qos::{PerDirection, QosAssignment, QosLimits};

const FLUSH: Command = Command::Flush;

fn policy(limits: QosLimits) -> Option<QosAssignment> {
    Some(QosAssignment { policy: Uuid([7; 16]), revision: 1, name: "p".into(), limits })
}

fn iops(read: u32, write: u32) -> Option<QosAssignment> {
    policy(QosLimits { iops: PerDirection { read, write }, ..QosLimits::default() })
}

fn volume(n: u8, qos: Option<QosAssignment>) -> VolumeDescriptor {
    VolumeDescriptor { qos, ..descriptor(n, SectorSize::B4096, VolumeKind::Durable, 64) }
}

impl Bench {
    fn read_one(&mut self, volume: VolumeRef, deadline: Nanos) -> u64 {
        let buf = self.data.alloc(4096).unwrap();
        self.send_as(HOST, volume, deadline, Command::Read { lba: 3, blocks: 1, buf })
    }

    /// Gives `ms` to whatever waits for time, in steps of the timer that is set, at least `least_us` each.
    fn pass(&mut self, ms: u64, least_us: u64) {
        self.settle();
        let end = self.log.now.plus_ms(ms);
        while self.log.now < end {
            let wanted = self.log.wake.take().unwrap_or(end);
            let next = wanted.max(Nanos(self.log.now.0 + least_us * 1000)).min(end);
            self.log.now = next;
            self.volumes.on_event(Event::Timer);
            self.settle();
        }
    }

    /// Sends reads so that `depth` are always under way, for `ms`; how many were answered. Time goes on by `step_us`.
    fn reads_in(&mut self, volume: VolumeRef, depth: usize, ms: u64, step_us: u64) -> usize {
        let mut answered = 0;
        let mut open: Vec<u64> = Vec::new();
        let end = self.log.now.plus_ms(ms);
        while self.log.now < end {
            while open.len() < depth {
                open.push(self.read_one(volume, FAR));
            }
            self.settle();
            open.retain(|token| self.replies.remove(token).is_none());
            answered += depth - open.len();
            self.log.now = Nanos(self.log.now.0 + step_us * 1000);
        }
        self.pass(10_000, 500);
        self.replies.clear();
        answered
    }
}

fn limit(n: u8, qos: Option<QosAssignment>) -> ControlCommand {
    let update = VolumeUpdate { qos: Some(qos), ..VolumeUpdate::default() };
    ControlCommand::Update { uuid: Uuid([n; 16]), update: Box::new(update) }
}

#[test]
fn a_volume_gets_its_rate_and_its_neighbour_everything() {
    let mut bench = Bench::new();
    bench.log.now = Nanos(1 << 40);
    let slow = bench.create(volume(1, iops(200, 0)));
    let free = bench.create(volume(2, None));
    let count = bench.reads_in(slow, 32, 2000, 250);
    assert!((400..=411).contains(&count), "2 s at 200 IOPS and what an idle volume has saved: {count}");
    // While commands of the slow one wait, every command of the other is answered in the step in which it comes.
    let waiting: Vec<u64> = (0..32).map(|_| bench.read_one(slow, FAR)).collect();
    bench.settle();
    assert!(bench.volumes.outstanding() > 0);
    for _ in 0..100 {
        assert_eq!(bench.read(free, 0, 1, 4096), vec![0; 4096]);
        bench.write(slow, 1, &[1; 4096], 4096);
    }
    let stats: BTreeMap<Uuid, VolumeStats> =
        bench.volumes.stats().map(|(uuid, s)| (uuid, s.clone())).collect();
    assert_eq!(stats[&Uuid([2; 16])].throttled, 0);
    assert!(stats[&Uuid([1; 16])].throttled > 300 && stats[&Uuid([1; 16])].throttled_ns > 0);
    bench.pass(200, 500);
    assert!(waiting.iter().all(|token| bench.replies.contains_key(token)));
}

#[test]
fn those_that_wait_go_on_in_order_and_the_next_look_has_its_timer() {
    let mut bench = Bench::new();
    bench.log.now = Nanos(1 << 40);
    let slow = bench.create(volume(1, iops(0, 10)));
    let tokens: Vec<u64> = (0..6u8)
        .map(|n| {
            let buf = bench.buf(&[n + 1; 4096]);
            bench.send(slow, Command::Write { lba: 5, blocks: 1, buf })
        })
        .collect();
    bench.settle();
    assert_eq!(bench.replies.len(), 1, "50 ms saved are less than one command, so the first one goes alone");
    let mut seen = vec![tokens[0]];
    for _ in 0..5 {
        let at = bench.log.wake.expect("there is a timer");
        assert!(at.since(bench.log.now) <= 100_000_000, "the sweep's, or that of the refill");
        bench.pass(100, 500);
        seen.extend(bench.replies.keys().copied().filter(|t| !seen.contains(t)).collect::<Vec<_>>());
    }
    assert_eq!(seen, tokens);
    assert_eq!(bench.read(slow, 5, 1, 4096), vec![6; 4096], "the last one is the newest");
}

#[test]
fn bandwidth_counts_bytes_and_trims_are_commands() {
    let mut bench = Bench::new();
    bench.log.now = Nanos(1 << 40);
    let limits = QosLimits {
        megabytes: PerDirection { read: 0, write: 1 },
        iops: PerDirection { read: 0, write: 1000 },
        ..QosLimits::default()
    };
    let slow = bench.create(volume(1, policy(limits)));
    let write = |bench: &mut Bench| {
        let buf = bench.buf(&[1; 64 * 4096]);
        bench.send(slow, Command::Write { lba: 0, blocks: 64, buf })
    };
    let (first, second) = (write(&mut bench), write(&mut bench));
    bench.pass(200, 500);
    assert!(bench.replies.contains_key(&first) && !bench.replies.contains_key(&second));
    bench.pass(20, 500);
    assert!(bench.replies.contains_key(&second), "256 KiB less 50 ms saved at 1 MB/s are 212 ms");
    bench.pass(300, 500);
    let ranges = || [LbaRange { lba: 0, blocks: 64 }].into();
    let tokens: Vec<u64> =
        (0..40).map(|_| bench.send(slow, Command::Deallocate { ranges: ranges() })).collect();
    bench.pass(5, 500);
    assert!(tokens.iter().all(|t| bench.replies.contains_key(t)), "they move no bytes");
}

#[test]
fn a_change_is_in_force_at_once_also_for_those_that_wait() {
    let mut bench = Bench::new();
    bench.log.now = Nanos(1 << 40);
    let v = bench.create(volume(1, None));
    let before: Vec<u64> = (0..20).map(|_| bench.read_one(v, FAR)).collect();
    bench.settle();
    assert!(before.iter().all(|t| bench.replies.contains_key(t)));
    bench.control(limit(1, iops(1, 1))).unwrap();
    let waiting: Vec<u64> = (0..20).map(|_| bench.read_one(v, FAR)).collect();
    bench.pass(1500, 500);
    assert_eq!(waiting.iter().filter(|t| bench.replies.contains_key(t)).count(), 2);
    bench.control(limit(1, iops(10, 1))).unwrap();
    bench.pass(1000, 500);
    let count = waiting.iter().filter(|t| bench.replies.contains_key(t)).count();
    assert!((11..=13).contains(&count), "{count}");
    bench.control(limit(1, None)).unwrap();
    assert!(waiting.iter().all(|t| bench.replies.contains_key(t)), "no limit, no wait");
    assert_eq!(bench.volumes.throttled, 0);
    bench.replies.clear();
    // The size counts too.
    let per_gib = QosLimits { iops_per_gib: PerDirection { read: 1, write: 0 }, ..QosLimits::default() };
    bench.control(limit(1, policy(per_gib))).unwrap();
    let waiting: Vec<u64> = (0..50).map(|_| bench.read_one(v, FAR)).collect();
    bench.pass(1000, 500);
    assert!(waiting.iter().filter(|t| bench.replies.contains_key(t)).count() <= 2);
    let grow = VolumeUpdate { size_bytes: Some(1000 << 30), ..VolumeUpdate::default() };
    bench.control(ControlCommand::Update { uuid: Uuid([1; 16]), update: Box::new(grow) }).unwrap();
    bench.pass(100, 500);
    assert!(waiting.iter().all(|t| bench.replies.contains_key(t)));
}

#[test]
fn waiting_counts_for_the_deadline_and_costs_no_tokens() {
    let mut bench = Bench::new();
    bench.log.now = Nanos(1 << 40);
    let v = bench.create(volume(1, iops(1, 1)));
    let first = bench.read_one(v, FAR);
    let soon = bench.log.now.plus_ms(300);
    let late: Vec<u64> = (0..5).map(|_| bench.read_one(v, soon)).collect();
    let last = bench.read_one(v, FAR);
    bench.pass(450, 500);
    assert_eq!(bench.replies[&first].result, Ok(Done::Ok));
    for token in late {
        let reply = &bench.replies[&token];
        assert_eq!(reply.result, Err(VolumeError::Expired));
        assert!(reply.buf.is_some(), "the buffer goes back");
    }
    bench.pass(600, 500);
    assert_eq!(bench.replies[&last].result, Ok(Done::Ok), "the late ones took nothing");
}

#[test]
fn a_deadline_holds_behind_those_that_have_longer() {
    let mut bench = Bench::new();
    bench.log.now = Nanos(1 << 40);
    let v = bench.create(volume(1, iops(1, 1)));
    let [first, patient] = [0; 2].map(|_| bench.read_one(v, FAR));
    let soon = bench.log.now.plus_ms(300);
    let hasty: Vec<u64> = (0..5).map(|_| bench.read_one(v, soon)).collect();
    let last = bench.read_one(v, FAR);
    bench.pass(450, 500);
    assert!(bench.replies.contains_key(&first) && !bench.replies.contains_key(&patient));
    for token in hasty {
        let reply = bench.replies.get(&token).expect("it is answered in its own time");
        assert_eq!(reply.result, Err(VolumeError::Expired));
    }
    bench.pass(600, 500);
    assert_eq!(bench.replies[&patient].result, Ok(Done::Ok));
    assert!(!bench.replies.contains_key(&last), "in order");
    bench.pass(1000, 500);
    assert_eq!(bench.replies[&last].result, Ok(Done::Ok), "those that were late took nothing");
    assert_eq!(bench.volumes.outstanding(), 0);
    // A volume that has as many under way as it may keeps its backlog in the same way.
    let full = bench.create(volume(2, None));
    bench.volumes.volume_limit = 1;
    let write = |bench: &mut Bench, deadline: Nanos| {
        let buf = bench.buf(&[1; 4096]);
        bench.send_as(HOST, full, deadline, Command::Write { lba: 0, blocks: 1, buf })
    };
    let soon = bench.log.now.plus_ms(300);
    let [under_way, patient, hasty] = [FAR, FAR, soon].map(|deadline| write(&mut bench, deadline));
    bench.step();
    bench.log.now = bench.log.now.plus_ms(450);
    bench.volumes.on_event(Event::Timer);
    bench.step();
    assert_eq!(bench.replies[&hasty].result, Err(VolumeError::Expired));
    bench.settle();
    assert!([under_way, patient].iter().all(|token| bench.replies[token].result == Ok(Done::Ok)));
}

#[test]
fn reservations_and_flushes_pass_those_that_wait() {
    let mut bench = Bench::new();
    bench.log.now = Nanos(1 << 40);
    let v = bench.create(volume(1, iops(1, 1)));
    let waiting: Vec<u64> = (0..4).map(|_| bench.read_one(v, FAR)).collect();
    bench.settle();
    assert_eq!(bench.run(v, FLUSH).result, Ok(Done::Ok));
    let report = bench.run(v, Command::Reservation(ReservationCommand::Report));
    assert!(matches!(report.result, Ok(Done::Report(_))));
    assert_eq!(waiting.iter().filter(|t| bench.replies.contains_key(t)).count(), 1);
}

#[test]
fn the_end_of_a_volume_is_told_to_those_that_wait() {
    let mut bench = Bench::new();
    bench.log.now = Nanos(1 << 40);
    let v = bench.create(volume(1, iops(1, 1)));
    let waiting: Vec<u64> = (0..4).map(|_| bench.read_one(v, FAR)).collect();
    bench.settle();
    bench.control(ControlCommand::Delete { uuid: Uuid([1; 16]), expected_revision: None }).unwrap();
    let results: Vec<_> = waiting.iter().map(|t| bench.replies[t].result.clone()).collect();
    assert_eq!(results[0], Ok(Done::Ok));
    assert!(results[1..].iter().all(|r| *r == Err(VolumeError::Gone)));
    bench.settle();
    // The slot's next volume is not held up by what was set for this one.
    let next = bench.create(volume(2, None));
    assert_eq!(next.slot, v.slot);
    assert_eq!(bench.read(next, 0, 1, 4096), vec![0; 4096]);
    bench.pass(2000, 500);
    assert_eq!((bench.volumes.outstanding(), bench.volumes.alarms.len()), (0, 0));
}

#[test]
fn limits_come_back_after_a_crash() {
    let mut bench = Bench::new();
    bench.create(volume(1, iops(1, 1)));
    let mut bench = Bench::over(bench.crash(0), Restart::Process);
    bench.log.now = Nanos(1 << 40);
    let v = bench.volumes.find(Uuid([1; 16])).unwrap();
    let waiting: Vec<u64> = (0..4).map(|_| bench.read_one(v, FAR)).collect();
    bench.settle();
    assert_eq!(waiting.iter().filter(|t| bench.replies.contains_key(t)).count(), 1);
}
