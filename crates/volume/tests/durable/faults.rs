//! Power cuts at every point of a short life, drives that fail, a pool that is full.

use super::*;
use dolmen_sim::{CrashLimits, DriveFaults, NodeId};
use dolmen_volume::{Change, ControlError, Health, LbaRange};
use machine::DRIVES;
use std::path::PathBuf;

const UUID: Uuid = Uuid([1; 16]);

fn register(key: u64) -> Command {
    Command::Reservation(ReservationCommand::Register {
        action: RegisterAction::Register,
        ignore_existing_key: false,
        persist: PersistChange::Set,
        current_key: 0,
        new_key: key,
    })
}

fn registrants(machine: &mut Machine, volume: VolumeRef) -> usize {
    match machine.run(HOST, volume, Command::Reservation(ReservationCommand::Report)).result {
        Ok(Done::Report(report)) => report.registrants.len(),
        other => panic!("{other:?}"),
    }
}

/// What a restart finds must be what was acknowledged, or the next step of the life, never anything else.
fn check_life(machine: &mut Machine, acknowledged: u64) {
    let found = machine.volumes.find(UUID);
    let Some(volume) = found else {
        assert!(acknowledged == 0 || acknowledged >= 4, "the volume is lost after step {acknowledged}");
        return;
    };
    let info = machine.list().remove(0);
    assert_eq!(info.health, Health::Good);
    if info.descriptor.state == VolumeState::Deleting {
        assert!(acknowledged >= 3);
        machine.until(|m| m.volumes.find(UUID).is_none());
        return;
    }
    assert!(acknowledged < 4, "a deletion is undone");
    let count = registrants(machine, volume) as u64;
    assert!(count == u64::from(acknowledged >= 2) || (acknowledged == 1 && count == 1));
    let data = read_all(machine, volume, 4096);
    let written = data[..8192].iter().all(|&b| b == 9);
    assert!(written || (acknowledged < 3 && data[..8192].iter().all(|&b| b == 0)));
}

#[test]
fn a_power_cut_at_any_point_of_a_short_life() {
    let world = World::new(3);
    let mut machine = Machine::start(&world, Restart::Process);
    world.start_recording();
    let volume = create(&mut machine, 1, SectorSize::B4096);
    world.mark(1);
    assert_eq!(machine.run(HOST, volume, register(5)).result, Ok(Done::Ok));
    world.mark(2);
    let buf = machine.buf(&[9; 8192]);
    assert_eq!(machine.run(HOST, volume, Command::Write { lba: 0, blocks: 2, buf }).result, Ok(Done::Ok));
    world.mark(3);
    machine.control(ControlCommand::Delete { uuid: UUID, expected_revision: None }).unwrap();
    world.mark(4);
    machine.until(|m| m.volumes.find(UUID).is_none());
    let recording = world.stop_recording().unwrap();
    let mut states = 0;
    for (seed, state) in (0..).zip(recording.crash_states(CrashLimits { per_point: 8, total: 300, seed: 1 }))
    {
        let mut machine = Machine::start(&World::restore(seed, &state), Restart::Process);
        check_life(&mut machine, state.mark.unwrap_or(0));
        states += 1;
    }
    assert!(states > 20, "only {states} states");
}

fn set_faults(world: &World, faults: DriveFaults) {
    for n in 0..DRIVES {
        world.set_faults(NodeId(0), &PathBuf::from(format!("drive{n}")), faults.clone());
    }
}

#[test]
fn a_failed_drive_write_never_loses_what_was_acknowledged() {
    let often = DriveFaults { write_ppm: 200_000, flush_ppm: 200_000, ..DriveFaults::default() };
    let always = DriveFaults { write_ppm: 1_000_000, ..DriveFaults::default() };
    for (seed, faults) in (0..12).map(|n| (n, if n % 2 == 0 { often.clone() } else { always.clone() })) {
        let world = World::new(seed);
        let mut machine = Machine::start(&world, Restart::Process);
        let volume = create(&mut machine, 1, SectorSize::B4096);
        let buf = machine.buf(&[1; 4096]);
        assert_eq!(machine.run(HOST, volume, Command::Write { lba: 0, blocks: 1, buf }).result, Ok(Done::Ok));
        set_faults(&world, faults);
        let mut last = 1;
        for fill in 2..20u8 {
            let buf = machine.buf(&[fill; 4096]);
            match machine.run(HOST, volume, Command::Write { lba: 0, blocks: 1, buf }).result {
                Ok(_) => last = fill,
                Err(error) => assert_eq!(error, VolumeError::NotReady),
            }
        }
        let stopped = machine
            .changes
            .iter()
            .any(|c| matches!(c, Change::Present(info) if info.health == Health::Stopped));
        if stopped {
            let delete = ControlCommand::Delete { uuid: UUID, expected_revision: None };
            assert_eq!(machine.control(delete), Err(ControlError::NotReady));
        } else {
            assert_eq!(last, 19, "without a stop every write is done");
        }
        world.crash();
        drop(machine);
        set_faults(&world, DriveFaults::default());
        let mut machine = Machine::start(&world, Restart::Process);
        let volume = machine.volumes.find(UUID).unwrap();
        let found = read_all(&mut machine, volume, 4096);
        assert!(found[0] >= last, "acknowledged {last}, found {}", found[0]);
        assert!(found[..4096].iter().all(|&b| b == found[0]));
    }
}

#[test]
fn a_full_pool_refuses_writes_takes_deallocates_and_recovers() {
    let world = World::new(5);
    let mut machine = Machine::start(&world, Restart::Process);
    let blocks = 1 << 16;
    let plain = VolumeDescriptor { compression: false, ..descriptor(1, SectorSize::B4096, blocks) };
    machine.control(ControlCommand::Create(Box::new(plain))).unwrap();
    let volume = machine.volumes.find(UUID).unwrap();
    let mut written = 0;
    let refused = loop {
        let buf = machine.buf(&[7; 32 * 4096]);
        let reply = machine.run(HOST, volume, Command::Write { lba: written, blocks: 32, buf });
        match reply.result {
            Ok(_) => written += 32,
            Err(error) => break error,
        }
        assert!(written < blocks, "more was written than the drives hold");
    };
    assert_eq!(refused, VolumeError::CapacityExceeded);
    assert!(written > 4096, "{written} blocks only");
    let half = LbaRange { lba: 0, blocks: u32::try_from(written / 2).unwrap() };
    let deallocate = Command::Deallocate { ranges: [half].into() };
    assert_eq!(machine.run(HOST, volume, deallocate).result, Ok(Done::Ok));
    // Space comes back in the background, soon.
    let since = machine.now();
    loop {
        let buf = machine.buf(&[8; 32 * 4096]);
        let reply = machine.run(HOST, volume, Command::Write { lba: 0, blocks: 32, buf });
        match reply.result {
            Ok(_) => break,
            Err(error) => assert_eq!(error, VolumeError::CapacityExceeded),
        }
        assert!(machine.now().since(since) < 5_000_000_000, "no space came back");
        machine.turn();
    }
    let buf = machine.alloc(4096);
    let reply = machine.run(HOST, volume, Command::Read { lba: written - 1, blocks: 1, buf });
    assert!(reply.buf.unwrap().iter().all(|&b| b == 7));
}
