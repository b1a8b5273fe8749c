//! Reservations through the engine: enforcement for every command, order, persistence, notices.

use super::*;

const A: HostId = [0xa; 16];
const B: HostId = [0xb; 16];

fn register(key: u64, persist: PersistChange) -> Command {
    Command::Reservation(ReservationCommand::Register {
        action: RegisterAction::Register,
        ignore_existing_key: false,
        persist,
        current_key: 0,
        new_key: key,
    })
}

fn acquire(action: AcquireAction, kind: ReservationType, key: u64, preempt_key: u64) -> Command {
    Command::Reservation(ReservationCommand::Acquire {
        action,
        ignore_existing_key: false,
        kind: Some(kind),
        current_key: key,
        preempt_key,
    })
}

fn run_as(bench: &mut Bench, host: HostId, volume: VolumeRef, command: Command) -> Result<Done, VolumeError> {
    let token = bench.send_as(host, volume, FAR, command);
    bench.settle();
    bench.replies.remove(&token).unwrap().result
}

fn report(bench: &mut Bench, volume: VolumeRef) -> ReservationReport {
    match run_as(bench, HOST, volume, Command::Reservation(ReservationCommand::Report)) {
        Ok(Done::Report(report)) => *report,
        other => panic!("{other:?}"),
    }
}

/// Every command of hosts, with whether it counts as a write.
fn commands(bench: &Bench) -> Vec<(Command, bool)> {
    let buf = || bench.buf(&[0; 4096]);
    let range = LbaRange { lba: 0, blocks: 1 };
    vec![
        (Command::Read { lba: 0, blocks: 1, buf: buf() }, false),
        (Command::Compare { lba: 0, blocks: 1, buf: buf() }, false),
        (Command::Verify { lba: 0, blocks: 1 }, false),
        (Command::Write { lba: 0, blocks: 1, buf: buf() }, true),
        (Command::CompareAndWrite { lba: 0, blocks: 1, compare: buf(), write: buf() }, true),
        (Command::WriteZeroes { lba: 0, blocks: 1, deallocate: false }, true),
        (Command::Deallocate { ranges: [range].into() }, true),
        (Command::Deallocate { ranges: [].into() }, true),
        (Command::Copy { sources: [range].into(), dest: 1 }, true),
        (Command::Flush, true),
    ]
}

#[test]
fn every_command_obeys() {
    for kind in [VolumeKind::Durable, VolumeKind::Memory, VolumeKind::Null] {
        for held in ReservationType::ALL {
            let mut bench = Bench::new();
            let volume = bench.create(descriptor(1, SectorSize::B4096, kind, 8));
            run_as(&mut bench, A, volume, register(1, PersistChange::Keep)).unwrap();
            run_as(&mut bench, B, volume, register(2, PersistChange::Keep)).unwrap();
            run_as(&mut bench, A, volume, acquire(AcquireAction::Acquire, held, 1, 0)).unwrap();
            for (host, is_registrant) in [(A, true), (B, true), (HOST, false)] {
                for (command, is_write) in commands(&bench) {
                    let text = format!("{held:?} {kind:?} {command:?} {host:?}");
                    let free = host == A
                        || (!is_write && !held.excludes_reads())
                        || (is_registrant && !held.is_holder_only());
                    let result = run_as(&mut bench, host, volume, command);
                    let expected = if free { Ok(Done::Ok) } else { Err(VolumeError::ReservationConflict) };
                    assert_eq!(result, expected, "{text}");
                }
            }
        }
    }
}

#[test]
fn they_survive_a_restart_and_a_power_loss_as_asked() {
    for persist in [PersistChange::Set, PersistChange::Clear] {
        let mut bench = Bench::new();
        let volume = bench.create(descriptor(1, SectorSize::B4096, VolumeKind::Durable, 8));
        run_as(&mut bench, A, volume, register(1, persist)).unwrap();
        run_as(&mut bench, B, volume, register(2, PersistChange::Keep)).unwrap();
        let kind = ReservationType::ExclusiveAccess;
        run_as(&mut bench, A, volume, acquire(AcquireAction::Acquire, kind, 1, 0)).unwrap();
        let before = report(&mut bench, volume);
        let mut bench = Bench::over(bench.crash(0), Restart::Process);
        let volume = bench.volumes.find(Uuid([1; 16])).unwrap();
        assert_eq!(report(&mut bench, volume), before);
        assert_eq!(
            run_as(&mut bench, B, volume, Command::Flush),
            Err(VolumeError::ReservationConflict),
            "the fence is up from the first command on"
        );
        let mut bench = Bench::over(bench.crash(0), Restart::PowerOn);
        let volume = bench.volumes.find(Uuid([1; 16])).unwrap();
        let after = report(&mut bench, volume);
        assert_eq!(after.registrants.len(), if persist == PersistChange::Set { 2 } else { 0 });
        // And what ended stays ended.
        let mut bench = Bench::over(bench.crash(0), Restart::Process);
        let volume = bench.volumes.find(Uuid([1; 16])).unwrap();
        assert_eq!(report(&mut bench, volume), after);
    }
}

#[test]
fn an_answered_command_is_durable_and_an_unanswered_one_all_or_nothing() {
    for also in [0, 1] {
        let mut bench = Bench::new();
        let volume = bench.create(descriptor(1, SectorSize::B4096, VolumeKind::Durable, 8));
        run_as(&mut bench, A, volume, register(1, PersistChange::Keep)).unwrap();
        let token = bench.send_as(B, volume, FAR, register(2, PersistChange::Keep));
        bench.step();
        assert!(!bench.replies.contains_key(&token));
        let mut bench = Bench::over(bench.crash(also), Restart::Process);
        let volume = bench.volumes.find(Uuid([1; 16])).unwrap();
        assert_eq!(report(&mut bench, volume).registrants.len(), 1 + also);
    }
}

#[test]
fn nothing_of_a_preempted_host_is_sequenced_after_the_preemption() {
    let mut bench = Bench::new();
    let volume = bench.create(descriptor(1, SectorSize::B4096, VolumeKind::Durable, 8));
    let kind = ReservationType::WriteExclusive;
    run_as(&mut bench, A, volume, register(1, PersistChange::Keep)).unwrap();
    run_as(&mut bench, B, volume, register(2, PersistChange::Keep)).unwrap();
    run_as(&mut bench, A, volume, acquire(AcquireAction::Acquire, kind, 1, 0)).unwrap();
    let write = |bench: &Bench, fill: u8| Command::Write { lba: 0, blocks: 1, buf: bench.buf(&[fill; 4096]) };
    // The first write of A is sequenced, the second waits for it, the third comes after the preemption.
    let (first, second, third) = (write(&bench, 1), write(&bench, 2), write(&bench, 3));
    let first = bench.send_as(A, volume, FAR, first);
    let second = bench.send_as(A, volume, FAR, second);
    bench.step();
    let abort = bench.send_as(B, volume, FAR, acquire(AcquireAction::PreemptAndAbort, kind, 2, 1));
    let third = bench.send_as(A, volume, FAR, third);
    bench.step();
    assert_eq!(bench.replies[&second].result, Err(VolumeError::Preempted));
    assert_eq!(bench.log.appends.len(), 2, "the first write, then the reservation");
    assert!(bench.notices.is_empty(), "nobody is told before it is durable");
    bench.settle();
    assert_eq!(bench.replies[&first].result, Ok(Done::Ok));
    assert_eq!(bench.replies[&abort].result, Ok(Done::Ok));
    assert_eq!(bench.replies[&third].result, Err(VolumeError::ReservationConflict));
    let notice = Notice { volume, nsid: Nsid(1), host: A, kind: NoticeKind::RegistrationPreempted };
    assert_eq!(bench.notices, [notice]);
}

#[test]
fn a_write_that_was_reading_when_it_lost_its_right_is_not_sequenced() {
    let mut bench = Bench::new();
    let volume = bench.create(descriptor(1, SectorSize::B512, VolumeKind::Durable, 8));
    let kind = ReservationType::WriteExclusive;
    run_as(&mut bench, B, volume, register(2, PersistChange::Keep)).unwrap();
    let buf = bench.buf(&[1; 512]);
    let late = bench.send_as(A, volume, FAR, Command::Write { lba: 1, blocks: 1, buf });
    bench.step();
    assert_eq!(bench.log.reads.len(), 1);
    bench.send_as(B, volume, FAR, acquire(AcquireAction::Acquire, kind, 2, 0));
    bench.settle();
    assert_eq!(bench.replies[&late].result, Err(VolumeError::ReservationConflict));
    assert!(bench.log.disk.blocks.is_empty());
}
