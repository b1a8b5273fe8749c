//! Compression over the real store: what it saves, and that a clone and a rolled back volume have what their source has.

use crate::{BLOCKS, BYTES, HOST, machine::Machine, machine::descriptor, read_all, snapshots::snapshot};
use dolmen_sim::{Rng, World};
use dolmen_types::{
    LineId, PgId, Uuid,
    snapshot::CloneSource,
    volume::{SectorSize, VolumeDescriptor},
};
use dolmen_volume::{Command, ControlCommand, ControlDone, ControlError, Done, LineUsage, Restart};

fn volume(n: u8, compression: bool) -> VolumeDescriptor {
    VolumeDescriptor { pg: PgId(0), compression, ..descriptor(n, SectorSize::B4096, BLOCKS) }
}

fn clone_of(n: u8, of: u8, compression: bool) -> VolumeDescriptor {
    let source = Some(CloneSource { snapshot: Uuid([of; 16]), name: "s".into() });
    VolumeDescriptor { source, ..volume(n, compression) }
}

fn create(machine: &mut Machine, descriptor: VolumeDescriptor) -> Result<ControlDone, ControlError> {
    machine.control(ControlCommand::Create(Box::new(descriptor)))
}

/// Lines of a log, no two of them equal.
fn text() -> Vec<u8> {
    let lines = (0..)
        .map(|n: u64| format!("2026-01-31T12:00:{:02} request {n} answered in {} us\n", n % 60, n * n % 997));
    lines.flat_map(String::into_bytes).take(BYTES).collect()
}

fn noise() -> Vec<u8> {
    let mut rng = Rng::new(7);
    (0..BYTES).map(|_| u8::try_from(rng.below(256)).unwrap()).collect()
}

fn write_all(machine: &mut Machine, n: u8, data: &[u8]) {
    let volume = machine.volumes.find(Uuid([n; 16])).unwrap();
    let blocks = u32::try_from(BLOCKS).unwrap();
    let command = Command::Write { lba: 0, blocks, buf: machine.buf(data) };
    assert_eq!(machine.run(HOST, volume, command).result, Ok(Done::Ok));
}

fn holds(machine: &mut Machine, n: u8, data: &[u8]) {
    let volume = machine.volumes.find(Uuid([n; 16])).unwrap();
    assert!(read_all(machine, volume, 4096) == data, "volume {n} reads back");
}

/// What a volume is said to take, and whether it is said to be compressed.
fn told(machine: &mut Machine, n: u8) -> (LineUsage, bool) {
    let list = machine.list();
    let info = list.iter().find(|info| info.descriptor.uuid == Uuid([n; 16])).unwrap();
    (info.usage, info.descriptor.compression)
}

#[test]
fn text_takes_less_than_half_and_noise_no_more() {
    let world = World::new(21);
    let mut machine = Machine::start(&world, Restart::Process);
    let contents = [(1, true, text()), (2, false, text()), (3, true, noise()), (4, false, noise())];
    for (n, compression, data) in &contents {
        create(&mut machine, volume(*n, *compression)).unwrap();
        write_all(&mut machine, *n, data);
    }
    let check = |machine: &mut Machine| {
        for (n, compression, data) in &contents {
            holds(machine, *n, data);
            let (usage, told) = told(machine, *n);
            assert_eq!((told, usage.own_blocks), (*compression, BLOCKS));
            match n {
                1 => assert!(usage.stored_bytes * 2 < BYTES as u64, "{usage:?}"),
                _ => assert_eq!(usage.stored_bytes, BYTES as u64, "volume {n}"),
            }
        }
    };
    check(&mut machine);
    machine.stop();
    let mut machine = Machine::start(&world, Restart::Process);
    check(&mut machine);
}

#[test]
fn clones_and_rollbacks_are_stored_as_their_source() {
    let world = World::new(22);
    let mut machine = Machine::start(&world, Restart::Process);
    for (n, compression) in [(1, true), (2, false)] {
        create(&mut machine, volume(n, compression)).unwrap();
        write_all(&mut machine, n, &noise());
        let taken = machine.control(ControlCommand::CreateSnapshots(vec![snapshot(n + 100, n)])).unwrap();
        let ControlDone::Snapshots(taken) = taken else { panic!("{taken:?}") };
        assert_eq!(taken[0].descriptor.compression, compression);
        let refused = create(&mut machine, clone_of(n + 10, n + 100, !compression));
        assert!(matches!(refused, Err(ControlError::Invalid { field: "compression", .. })), "{refused:?}");
        create(&mut machine, clone_of(n + 10, n + 100, compression)).unwrap();
        assert_eq!(told(&mut machine, n + 10).0.own_blocks, 0);
        machine
            .control(ControlCommand::Rollback {
                uuid: Uuid([n; 16]),
                snapshot: Uuid([n + 100; 16]),
                line: LineId(u64::from(n) + 50),
                expected_revision: None,
            })
            .unwrap();
    }
    machine.stop();
    let mut machine = Machine::start(&world, Restart::Process);
    for (n, compression) in [(1, true), (2, false), (11, true), (12, false)] {
        holds(&mut machine, n, &noise());
        write_all(&mut machine, n, &text());
        holds(&mut machine, n, &text());
        let (usage, told) = told(&mut machine, n);
        // Of one that was rolled back, the line that its snapshot keeps belongs to it as well.
        let lines = if n < 10 { 2 } else { 1 };
        assert_eq!((told, usage.own_blocks), (compression, lines * BLOCKS));
        assert_eq!(usage.head_bytes * 2 < BYTES as u64, compression, "{usage:?}");
    }
}
