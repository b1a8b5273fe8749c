//! Everything at once: overlapping commands with short deadlines, reservations that come and go, resizes, deletions, a
//! log that is busy, full, unreadable, and buffers that run out. Whatever happens, every request is answered once,
//! nothing leaks, and nothing that was answered with an error for good has changed a byte.

use super::*;
use crate::backing::Refusal;
use dolmen_store::StoreError;
use dolmen_types::qos::{PerDirection, QosAssignment, QosLimits};

const BLOCKS: u64 = 24;

fn random_command(rng: &mut Rng, bench: &Bench, sector: usize) -> Option<Command> {
    let sectors = BLOCKS * 4096 / sector as u64;
    let lba = rng.below(sectors + 2);
    let blocks = u32::try_from(1 + rng.below(12)).unwrap();
    let len = blocks as usize * sector;
    let buf = |fill: u8| {
        let mut buf = bench.data.alloc(len)?;
        buf.fill(fill);
        Some(buf)
    };
    // Writes carry odd bytes, compare-and-writes that can not succeed carry even ones.
    let odd = u8::try_from(rng.below(100)).unwrap() * 2 + 1;
    let sources = || (0..2).map(|i| LbaRange { lba: i * 7, blocks: 3 }).collect();
    Some(match rng.below(10) {
        0 | 1 => Command::Read { lba, blocks, buf: buf(0)? },
        2 | 3 => Command::Write { lba, blocks, buf: buf(odd)? },
        4 => Command::CompareAndWrite { lba, blocks, compare: buf(2)?, write: buf(4)? },
        5 => Command::WriteZeroes { lba, blocks, deallocate: true },
        6 => Command::Deallocate { ranges: [LbaRange { lba, blocks }].into() },
        7 => Command::Copy { sources: sources(), dest: lba },
        8 => Command::Verify { lba, blocks },
        _ => Command::Reservation(random_reservation(rng)),
    })
}

fn random_reservation(rng: &mut Rng) -> ReservationCommand {
    let kind = ReservationType::from_code(u8::try_from(rng.below(7)).unwrap());
    let key = 1 + rng.below(2);
    match rng.below(6) {
        0 | 1 => ReservationCommand::Register {
            action: [RegisterAction::Register, RegisterAction::Unregister, RegisterAction::Replace]
                [usize::try_from(rng.below(3)).unwrap()],
            ignore_existing_key: rng.below(2) == 0,
            persist: PersistChange::Keep,
            current_key: key,
            new_key: 1 + rng.below(2),
        },
        2 | 3 => ReservationCommand::Acquire {
            action: [AcquireAction::Acquire, AcquireAction::PreemptAndAbort]
                [usize::try_from(rng.below(2)).unwrap()],
            ignore_existing_key: false,
            kind,
            current_key: key,
            preempt_key: rng.below(3),
        },
        4 => ReservationCommand::Release {
            action: if rng.below(2) == 0 { ReleaseAction::Clear } else { ReleaseAction::Release },
            ignore_existing_key: false,
            kind,
            current_key: key,
        },
        _ => ReservationCommand::Report,
    }
}

fn random_control(rng: &mut Rng, d: &VolumeDescriptor) -> ControlCommand {
    match rng.below(8) {
        0 => ControlCommand::Delete { uuid: d.uuid, expected_revision: None },
        1..=4 => ControlCommand::Create(Box::new(d.clone())),
        5 => ControlCommand::List,
        _ => {
            let limit = |rng: &mut Rng| u32::try_from(rng.below(3) * 40).unwrap();
            let iops = PerDirection { read: limit(rng), write: limit(rng) };
            let limits = QosLimits { iops, ..QosLimits::default() };
            let qos = QosAssignment { policy: Uuid([1; 16]), revision: 1, name: "q".into(), limits };
            let update = VolumeUpdate {
                qos: (rng.below(2) == 0).then_some(Some(qos)),
                size_bytes: Some((BLOCKS / 2 + rng.below(BLOCKS / 2 + 1)) * 4096),
                shrink: Shrink::Discard,
                ..VolumeUpdate::default()
            };
            ControlCommand::Update { uuid: d.uuid, update: Box::new(update) }
        }
    }
}

/// Lets the log make some progress, not always a good one.
fn progress(rng: &mut Rng, bench: &mut Bench) {
    for _ in 0..rng.below(5) {
        let reads = bench.log.reads.len() as u64;
        let done = if reads > 0 && rng.below(2) == 0 {
            let n = usize::try_from(rng.below(reads)).unwrap();
            let fails = rng.below(12) == 0;
            Some(if fails {
                bench.log.fail_read(n, StoreError::Medium { reason: "chaos".into() })
            } else {
                bench.log.end_read(n)
            })
        } else if rng.below(15) == 0 && bench.log.next_is_host_data() {
            bench.log.fail_append(StoreError::Full)
        } else {
            bench.log.end_append()
        };
        done.into_iter().for_each(|d| bench.volumes.on_store_done(d));
    }
}

fn run(seed: u64) {
    let mut rng = Rng(seed);
    let mut bench = Bench::new();
    bench.volumes.volume_limit = if seed.is_multiple_of(3) { 6 } else { limits::MAX_VOLUME_COMMANDS };
    let sector = if seed.is_multiple_of(2) { SectorSize::B512 } else { SectorSize::B4096 };
    let d = descriptor(1, sector, VolumeKind::Durable, BLOCKS);
    let mut at = bench.create(d.clone());
    let hosts = [HOST, [1; 16], [2; 16]];
    let (mut sent, mut asked) = (0, 1);
    for _ in 0..400 {
        for _ in 0..rng.below(8) {
            let Some(command) = random_command(&mut rng, &bench, sector.bytes() as usize) else { break };
            let host = hosts[usize::try_from(rng.below(3)).unwrap()];
            let deadline = if rng.below(5) == 0 { bench.log.now.plus_ms(rng.below(4)) } else { FAR };
            bench.send_as(host, at, deadline, command);
            sent += 1;
        }
        if rng.below(10) == 0 {
            bench.ask(random_control(&mut rng, &d));
            asked += 1;
        }
        bench.log.refuse = match rng.below(12) {
            0 => Some(Refusal::Busy),
            1 => Some(Refusal::Full),
            _ => None,
        };
        bench.step();
        progress(&mut rng, &mut bench);
        bench.log.now = bench.log.now.plus_ms(rng.below(60));
        bench.step();
        at = bench.volumes.find(d.uuid).unwrap_or(at);
        assert!(bench.log.disk.blocks.values().all(|b| b.iter().all(|&x| x == 0 || x % 2 == 1)));
        // Hosts give their buffers back when they have their answers.
        bench.replies.values_mut().for_each(|r| (r.buf, r.buf2) = (None, None));
    }
    bench.log.refuse = None;
    bench.settle();
    while bench.volumes.throttled > 0 {
        bench.log.now = bench.log.now.plus_ms(1);
        bench.settle();
    }
    bench.replies.values_mut().for_each(|r| (r.buf, r.buf2) = (None, None));
    assert_eq!((bench.replies.len(), bench.controls.len()), (sent, asked - 1), "one answer each");
    assert_eq!((bench.volumes.outstanding(), bench.volumes.locks.len(), bench.volumes.waiting), (0, 0, 0));
    assert_eq!((bench.log.pool.available(1), bench.data.available(1)), (48, 128), "every buffer is back");
    assert!(bench.volumes.volumes.iter().all(|v| v.commands == 0 && v.backlog.is_empty()));
    let durable = bench.log.disk.lines.len();
    assert_eq!(bench.volumes.by_uuid.len(), durable, "what we know is what the log says");
}

#[test]
fn every_request_is_answered_and_nothing_leaks() {
    (0..60).for_each(run);
}
