//! Volumes over the real store on simulated drives: what is acknowledged survives crashes, commands are all or nothing,
//! and descriptors, reservations and deletions come back as they were.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

mod compression;
mod faults;
mod machine;
mod qos;
mod snapshots;

use dolmen_sim::{Rng, World};
use dolmen_types::{
    Uuid,
    volume::{SectorSize, VolumeDescriptor, VolumeState},
};
use dolmen_volume::{
    AcquireAction, Command, ControlCommand, Done, HostId, PersistChange, RegisterAction, ReservationCommand,
    ReservationType, Restart, VolumeError, VolumeRef,
};
use machine::{Machine, descriptor};
use std::collections::BTreeMap;

const HOST: HostId = [1; 16];
const OTHER: HostId = [2; 16];
const BLOCKS: u64 = 48;
const BYTES: usize = 48 * 4096;

fn create(machine: &mut Machine, n: u8, sector: SectorSize) -> VolumeRef {
    machine.control(ControlCommand::Create(Box::new(descriptor(n, sector, BLOCKS)))).unwrap();
    machine.volumes.find(Uuid([n; 16])).unwrap()
}

fn read_all(machine: &mut Machine, volume: VolumeRef, sector: usize) -> Vec<u8> {
    let blocks = u32::try_from(BYTES / sector).unwrap();
    let buf = machine.alloc(BYTES);
    let reply = machine.run(HOST, volume, Command::Read { lba: 0, blocks, buf });
    assert_eq!(reply.result, Ok(Done::Ok));
    reply.buf.unwrap().to_vec()
}

/// A command that may or may not have been done when the power went.
struct Pending {
    range: std::ops::Range<usize>,
    /// What a write puts there, or what a read is to find.
    data: Vec<u8>,
    is_write: bool,
}

/// Sends a read or a write. `sent` is what the volume holds when all that was sent so far is done in order.
fn random_command(
    rng: &mut Rng,
    machine: &mut Machine,
    volume: VolumeRef,
    sector: usize,
    sent: &mut [u8],
) -> (u64, Pending) {
    let sectors = (BYTES / sector) as u64;
    let lba = rng.below(sectors);
    let blocks = 1 + rng.below((sectors - lba).min(24));
    let start = usize::try_from(lba).unwrap() * sector;
    let range = start..start + usize::try_from(blocks).unwrap() * sector;
    let blocks = u32::try_from(blocks).unwrap();
    if rng.one_in(3) {
        let (buf, data) = (machine.alloc(range.len()), sent[range.clone()].to_vec());
        let token = machine.send(HOST, volume, Command::Read { lba, blocks, buf });
        return (token, Pending { range, data, is_write: false });
    }
    let zeroes = rng.one_in(4);
    let fill = if zeroes { 0 } else { u8::try_from(1 + rng.below(255)).unwrap() };
    let data = vec![fill; range.len()];
    sent[range.clone()].copy_from_slice(&data);
    let command = if zeroes {
        Command::WriteZeroes { lba, blocks, deallocate: true }
    } else {
        Command::Write { lba, blocks, buf: machine.buf(&data) }
    };
    (machine.send(HOST, volume, command), Pending { range, data, is_write: true })
}

/// Takes the replies that are there. Overlapping commands are answered in order of arrival, so applying writes in order
/// of tokens is right.
fn take_replies(machine: &mut Machine, pending: &mut BTreeMap<u64, Pending>, acked: &mut [u8]) {
    for (token, reply) in std::mem::take(&mut machine.replies) {
        assert_eq!(reply.result, Ok(Done::Ok));
        let Pending { range, data, is_write } = pending.remove(&token).unwrap();
        if is_write {
            acked[range].copy_from_slice(&data);
        } else {
            assert!(*reply.buf.unwrap() == *data, "a read sees what was sent before it");
        }
    }
}

/// After a crash: every sector holds what was acknowledged last or what a later unacknowledged write put there, and the
/// newest of those writes, which nothing overlaps from above, is there whole or not at all.
fn check_after_crash(found: &[u8], acked: &[u8], pending: &BTreeMap<u64, Pending>) {
    for (at, byte) in found.iter().enumerate() {
        let possible = |p: &Pending| p.range.contains(&at) && p.data[0] == *byte;
        assert!(
            *byte == acked[at] || pending.values().any(possible),
            "byte {at} is {byte}, was {}",
            acked[at]
        );
    }
    if let Some(last) = pending.values().last() {
        let part = &found[last.range.clone()];
        let older = pending.values().rev().skip(1).any(|p| {
            p.data[0] == last.data[0] && p.range.start < last.range.end && last.range.start < p.range.end
        });
        let same_as_before = acked[last.range.clone()].contains(&last.data[0]);
        if !older && !same_as_before && part.contains(&last.data[0]) {
            assert!(part == last.data, "a write is all or nothing");
        }
    }
}

fn crash_run(seed: u64, sector: SectorSize) {
    let world = World::new(seed);
    let mut rng = Rng::new(seed ^ 0x5eed);
    let mut machine = Machine::start(&world, Restart::Process);
    let mut volume = create(&mut machine, 1, sector);
    let bytes = sector.bytes() as usize;
    let mut acked = vec![0u8; BYTES];
    for _ in 0..4 {
        let mut sent = acked.clone();
        let mut pending: BTreeMap<u64, Pending> = BTreeMap::new();
        for _ in 0..60 {
            while pending.len() < 8 {
                let (token, command) = random_command(&mut rng, &mut machine, volume, bytes, &mut sent);
                pending.insert(token, command);
            }
            for _ in 0..rng.below(12) {
                machine.turn();
            }
            take_replies(&mut machine, &mut pending, &mut acked);
        }
        if rng.one_in(3) {
            machine.until(|m| m.volumes.outstanding() == 0);
            take_replies(&mut machine, &mut pending, &mut acked);
            assert!(pending.is_empty(), "every command is answered");
            machine.stop();
        } else {
            world.crash();
            drop(machine);
        }
        machine = Machine::start(&world, Restart::Process);
        volume = machine.volumes.find(Uuid([1; 16])).unwrap();
        let found = read_all(&mut machine, volume, bytes);
        pending.retain(|_, p| p.is_write);
        check_after_crash(&found, &acked, &pending);
        acked = found;
    }
}

#[test]
fn acknowledged_writes_survive_crashes() {
    for seed in 0..20 {
        crash_run(seed, SectorSize::B4096);
        crash_run(seed + 1000, SectorSize::B512);
    }
}

fn descriptors(machine: &mut Machine) -> Vec<VolumeDescriptor> {
    let mut all: Vec<_> = machine.list().into_iter().map(|i| i.descriptor).collect();
    all.sort_by_key(|d| d.uuid);
    all
}

#[test]
fn descriptors_and_reservations_come_back() {
    let world = World::new(7);
    let mut machine = Machine::start(&world, Restart::Process);
    let volume = create(&mut machine, 1, SectorSize::B4096);
    create(&mut machine, 2, SectorSize::B512);
    let register = ReservationCommand::Register {
        action: RegisterAction::Register,
        ignore_existing_key: false,
        persist: PersistChange::Set,
        current_key: 0,
        new_key: 5,
    };
    let acquire = ReservationCommand::Acquire {
        action: AcquireAction::Acquire,
        ignore_existing_key: false,
        kind: Some(ReservationType::WriteExclusive),
        current_key: 5,
        preempt_key: 0,
    };
    for command in [register, acquire] {
        assert_eq!(machine.run(HOST, volume, Command::Reservation(command)).result, Ok(Done::Ok));
    }
    let report = machine.run(HOST, volume, Command::Reservation(ReservationCommand::Report)).result;
    let before = descriptors(&mut machine);
    for restart in [Restart::Process, Restart::PowerOn] {
        world.crash();
        drop(machine);
        machine = Machine::start(&world, restart);
        let after = descriptors(&mut machine);
        assert_eq!(after, before);
        let volume = machine.volumes.find(Uuid([1; 16])).unwrap();
        assert_eq!(
            machine.run(OTHER, volume, Command::Reservation(ReservationCommand::Report)).result,
            report
        );
        assert_eq!(machine.run(OTHER, volume, Command::Flush).result, Err(VolumeError::ReservationConflict));
    }
}

#[test]
fn a_deletion_goes_on_after_a_crash_at_any_moment() {
    for turns in 0..40 {
        let world = World::new(turns);
        let mut machine = Machine::start(&world, Restart::Process);
        let volume = create(&mut machine, 1, SectorSize::B4096);
        let buf = machine.buf(&[7; 16384]);
        assert_eq!(machine.run(HOST, volume, Command::Write { lba: 0, blocks: 4, buf }).result, Ok(Done::Ok));
        let command = ControlCommand::Delete { uuid: Uuid([1; 16]), expected_revision: None };
        let token = machine.ask(command);
        for _ in 0..turns {
            machine.turn();
        }
        let answered = machine.controls.contains_key(&token);
        world.crash();
        drop(machine);
        let mut machine = Machine::start(&world, Restart::Process);
        machine.until(|m| m.volumes.outstanding() == 0);
        let left = machine.list();
        if answered {
            machine.until(|m| m.volumes.find(Uuid([1; 16])).is_none());
        } else if let Some(volume) = machine.volumes.find(Uuid([1; 16]))
            && left[0].descriptor.state == VolumeState::Available
        {
            let data = read_all(&mut machine, volume, 4096);
            assert!(data[..16384].iter().all(|&b| b == 7), "not deleted, so whole");
        }
        // The name, the line's successor and the slot are free for a new volume, which reads zeros.
        let volume = create(&mut machine, 3, SectorSize::B4096);
        assert!(read_all(&mut machine, volume, 4096).iter().all(|&b| b == 0));
    }
}

#[test]
fn what_is_stored_is_listed_as_it_is_now() {
    for (sector, per_block) in [(SectorSize::B512, 8), (SectorSize::B4096, 1)] {
        let world = World::new(61);
        let mut machine = Machine::start(&world, Restart::Process);
        let volume = create(&mut machine, 1, sector);
        let told = |machine: &mut Machine, volume, first: u64, blocks: u64| {
            let (lba, blocks) = (first * per_block, u32::try_from(blocks * per_block).unwrap());
            match machine.run(HOST, volume, Command::Allocation { lba, blocks }).result.unwrap() {
                Done::Allocation(extents) => {
                    extents.iter().map(|e| (e.bytes / 4096, e.stored)).collect::<Vec<_>>()
                }
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(told(&mut machine, volume, 0, BLOCKS), [(BLOCKS, false)]);
        let buf = machine.buf(&[7; 8 * 4096]);
        let (lba, blocks) = (4 * per_block, u32::try_from(8 * per_block).unwrap());
        assert!(machine.run(HOST, volume, Command::Write { lba, blocks, buf }).result.is_ok());
        let blocks = u32::try_from(2 * per_block).unwrap();
        let zeroes = Command::WriteZeroes { lba: 6 * per_block, blocks, deallocate: true };
        assert!(machine.run(HOST, volume, zeroes).result.is_ok());
        let wanted = [(4, false), (2, true), (2, false), (4, true), (36, false)];
        assert_eq!(told(&mut machine, volume, 0, BLOCKS), wanted);
        assert_eq!(told(&mut machine, volume, 5, 2), [(1, true), (1, false)]);
        let beyond = Command::Allocation { lba: BLOCKS * per_block, blocks: 1 };
        assert_eq!(machine.run(HOST, volume, beyond).result, Err(VolumeError::OutOfRange));
    }
}
