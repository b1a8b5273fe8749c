//! Commands that nobody waits for any more: wherever they wait, their buffers are back at once, what has begun is done whole, and
//! nothing of them comes after what is sent later.

use super::*;
use crate::backing::Refusal;
use dolmen_types::qos::{PerDirection, QosAssignment, QosLimits};

const OFF: Result<Done, VolumeError> = Err(VolumeError::CalledOff);

fn volume(n: u8) -> VolumeDescriptor {
    descriptor(n, SectorSize::B512, VolumeKind::Durable, 64)
}

impl Bench {
    /// A write of `count` store blocks from block `first` on, each filled with `fill`.
    fn fill(&mut self, volume: VolumeRef, first: u64, count: usize, fill: u8) -> u64 {
        let buf = self.buf(&vec![fill; count * 4096]);
        self.send(volume, Command::Write { lba: first * 8, blocks: u32::try_from(count * 8).unwrap(), buf })
    }

    fn call_off(&mut self, tokens: &[u64]) {
        self.volumes.call_off(CORE, tokens.into());
    }

    /// The answer is here, as called off, with the buffer.
    fn is_off(&mut self, token: u64) -> bool {
        self.replies.remove(&token).is_some_and(|reply| reply.result == OFF && reply.buf.is_some())
    }

    fn byte(&mut self, volume: VolumeRef, block: u64) -> u8 {
        self.read(volume, block * 8, 8, 512)[0]
    }
}

#[test]
fn what_waits_is_over_at_once_and_what_has_begun_is_done_whole() {
    let mut bench = Bench::new();
    let v = bench.create(volume(1));
    let begun = bench.fill(v, 0, 4, 1);
    bench.step();
    // One behind the range of another, one that reads first, one that the log has no room for, one not looked at yet.
    let waits = bench.fill(v, 2, 4, 2);
    let buf = bench.buf(&[3; 512]);
    let loads = bench.send(v, Command::Write { lba: 81, blocks: 1, buf });
    bench.step();
    bench.log.refuse = Some(Refusal::Busy);
    let unsent = bench.fill(v, 20, 1, 4);
    bench.step();
    let fresh = bench.fill(v, 30, 1, 5);
    let stranger = bench.fill(v, 31, 1, 6);
    assert_eq!((bench.log.appends.len(), bench.log.reads.len(), bench.replies.len()), (1, 1, 0));
    let free = bench.data.available(4096);
    bench.call_off(&[begun, waits, loads, unsent, fresh]);
    bench.log.refuse = None;
    bench.step();
    assert!(bench.is_off(waits) && bench.is_off(unsent) && bench.is_off(fresh));
    assert!(bench.data.available(4096) > free, "the buffers are back");
    assert_eq!(bench.log.appends.len(), 2, "what was begun, and the stranger's");
    // The successor, on the very same blocks.
    let next = bench.fill(v, 2, 4, 7);
    bench.settle();
    assert!(bench.is_off(loads));
    for token in [begun, stranger, next] {
        assert_eq!(bench.replies.remove(&token).unwrap().result, Ok(Done::Ok));
    }
    let found = [0, 1, 2, 5, 10, 20, 30, 31].map(|block| bench.byte(v, block));
    assert_eq!(found, [1, 1, 7, 7, 0, 0, 0, 6]);
    assert_eq!(bench.volumes.outstanding(), 0);
}

#[test]
fn those_that_a_policy_or_a_full_volume_keeps_waiting_go_too() {
    let mut bench = Bench::new();
    bench.log.now = Nanos(1 << 40);
    let limits = QosLimits { iops: PerDirection { read: 0, write: 5 }, ..QosLimits::default() };
    let qos = Some(QosAssignment { policy: Uuid([7; 16]), revision: 1, name: "p".into(), limits });
    let slow = bench.create(VolumeDescriptor { qos, ..volume(1) });
    let crowded = bench.create(volume(2));
    let ours: Vec<u64> = (0..20).map(|n| bench.fill(slow, n, 1, 1)).collect();
    let other = bench.fill(slow, 40, 1, 2);
    bench.settle();
    let waiting: Vec<u64> = ours.iter().copied().filter(|token| !bench.replies.contains_key(token)).collect();
    assert!(waiting.len() > 10, "{}", waiting.len());
    bench.volumes.volume_limit = 2;
    let backlog: Vec<u64> = (0..6).map(|n| bench.fill(crowded, n, 1, 3)).collect();
    bench.step();
    bench.call_off(&ours);
    bench.call_off(&backlog[2..5]);
    bench.step();
    assert!(waiting.iter().all(|&token| bench.is_off(token)));
    assert!(backlog[2..5].iter().all(|&token| bench.is_off(token)));
    // Nobody is in the way of the one that is left.
    bench.log.now = bench.log.now.plus_ms(1100);
    bench.volumes.on_event(dolmen_io::Event::Timer);
    bench.settle();
    assert_eq!(bench.replies.remove(&other).unwrap().result, Ok(Done::Ok));
    let found = [0, 1, 2, 4, 5].map(|block| bench.byte(crowded, block));
    assert_eq!(found, [3, 3, 0, 0, 3]);
    assert_eq!(bench.volumes.outstanding(), 0);
}

/// Load of connections that are lost and made again, over few blocks: after each loss the successor writes the same blocks, and
/// from then on what it wrote is there, and never half of anything.
#[test]
fn nothing_of_a_lost_connection_comes_after_its_successor() {
    for seed in 0..60 {
        let (mut bench, mut rng) = (Bench::new(), Rng(seed));
        let v = bench.create(volume(1));
        let mut fill = 0u8;
        for _ in 0..25 {
            let mut tokens = Vec::new();
            for _ in 0..1 + rng.below(8) {
                fill = fill.wrapping_add(1).max(1);
                tokens.push(bench.fill(v, rng.below(3), 3, fill));
                bench.log.refuse = (rng.below(6) == 0).then_some(Refusal::Busy);
                if rng.below(2) == 0 {
                    bench.step();
                }
                if rng.below(3) == 0
                    && let Some(done) = bench.log.end_append()
                {
                    bench.volumes.on_store_done(done);
                }
            }
            bench.call_off(&tokens);
            fill = fill.wrapping_add(1).max(1);
            bench.log.refuse = None;
            let next = bench.fill(v, 1, 2, fill);
            bench.settle();
            assert_eq!(bench.replies.remove(&next).unwrap().result, Ok(Done::Ok));
            assert_eq!([1, 2].map(|block| bench.byte(v, block)), [fill; 2], "seed {seed}");
            // Whole or not at all: each command covered block 2, and two others.
            let answered = |token: &u64| bench.replies.get(token).map(|r| r.result.clone());
            assert!(tokens.iter().all(|t| matches!(answered(t), Some(Ok(Done::Ok) | OFF))), "seed {seed}");
            bench.replies.clear();
            assert_eq!(bench.volumes.outstanding(), 0);
        }
    }
}
