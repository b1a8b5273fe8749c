//! Drives of the simulated world, through the seam as the store uses them.
#![allow(clippy::unwrap_used)] // helpers of tests

use dolmen_io::{DriveInfo, ErrorKind, Event, Io, OpenDrive, Owner, Tag, Wait};
use dolmen_sim::{CoreConfig, CrashLimits, DriveFaults, DriveSpec, Fault, NodeId, Rng, World};
use std::{collections::BTreeSet, path::Path};

const NODE: NodeId = NodeId(0);
const BLOCK: usize = 4096;

fn tag(key: u64) -> Tag {
    Tag { owner: Owner(1), key }
}

fn start(world: &World) -> (Io, DriveInfo) {
    let mut io = Io::new(Box::new(world.driver(CoreConfig::default())));
    let info = io.open_drive(&options()).unwrap();
    (io, info)
}

fn options() -> OpenDrive {
    OpenDrive { path: "d0".into(), create_bytes: Some(1 << 20), sparse: true, exclusive: true }
}

fn write(io: &mut Io, info: &DriveInfo, key: u64, block: u64, fill: u8, durable: bool) {
    let mut buf = io.alloc(BLOCK).unwrap();
    buf.fill(fill);
    let data = vec![buf.freeze()];
    if durable {
        io.write_durable(tag(key), info.file, block * BLOCK as u64, data);
    } else {
        io.write(tag(key), info.file, block * BLOCK as u64, data);
    }
}

fn next(io: &mut Io, n: usize) -> Vec<(u64, Event)> {
    let (mut events, mut turns) = (Vec::new(), 0);
    while events.len() < n {
        io.poll(Wait::Forever, &mut events);
        turns += 1;
        assert!(turns < 10_000, "nothing happens");
    }
    events.into_iter().map(|(t, e)| (t.key, e)).collect()
}

fn read(io: &mut Io, info: &DriveInfo, block: u64) -> Vec<u8> {
    let buf = io.alloc(BLOCK).unwrap();
    io.read(tag(99), info.file, block * BLOCK as u64, buf);
    match next(io, 1).pop().unwrap().1 {
        Event::Read(buf) => buf.to_vec(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn durable_and_flushed_writes_survive_and_the_rest_is_at_risk() {
    let (mut lost, mut kept, mut torn) = (0, 0, 0);
    for seed in 0..60 {
        let world = World::new(seed);
        let (mut io, info) = start(&world);
        assert!(info.created);
        write(&mut io, &info, 1, 0, 1, true);
        write(&mut io, &info, 2, 1, 2, false);
        next(&mut io, 2);
        io.flush_drive(tag(3), info.file);
        next(&mut io, 1);
        write(&mut io, &info, 4, 2, 3, false);
        next(&mut io, 1);
        assert_eq!(read(&mut io, &info, 2), [3; BLOCK], "reads see the cache");
        assert_eq!(world.writes_at_risk(), 1);
        world.crash();
        drop(io);
        let (mut io, info) = start(&world);
        assert!(!info.created);
        assert_eq!(read(&mut io, &info, 0), [1; BLOCK]);
        assert_eq!(read(&mut io, &info, 1), [2; BLOCK]);
        match read(&mut io, &info, 2).iter().filter(|&&b| b == 3).count() {
            0 => lost += 1,
            BLOCK => kept += 1,
            n if n.is_multiple_of(512) => torn += 1,
            n => panic!("{n} bytes"),
        }
    }
    assert!(lost > 5 && kept > 5 && torn > 2, "{lost} lost, {kept} kept, {torn} torn");
}

#[test]
fn a_kill_keeps_the_cache_and_a_live_process_keeps_the_lock() {
    let world = World::new(1);
    let (mut io, info) = start(&world);
    write(&mut io, &info, 1, 0, 7, false);
    next(&mut io, 1);
    let mut other = Io::new(Box::new(world.driver(CoreConfig::default())));
    let refused = other.open_drive(&options()).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Refused);
    let shared = io.export_drive(info.file).unwrap();
    assert!(other.share_drive(&shared).is_ok());
    drop(other);
    world.kill_node(NODE);
    let (mut io, info) = start(&world);
    assert_eq!(read(&mut io, &info, 0), [7; BLOCK]);
}

#[test]
fn injected_faults_and_missing_drives() {
    let world = World::new(3);
    let path = Path::new("d0");
    let (mut io, info) = start(&world);
    world.fail_next(NODE, path, Fault::Read);
    let buf = io.alloc(BLOCK).unwrap();
    io.read(tag(1), info.file, 0, buf);
    match next(&mut io, 1).pop().unwrap().1 {
        Event::Failed { error, buf: Some(_) } => assert_eq!(error.kind, ErrorKind::Medium),
        other => panic!("{other:?}"),
    }
    let always = DriveFaults { write_ppm: 1_000_000, flush_ppm: 1_000_000, ..DriveFaults::default() };
    world.set_faults(NODE, path, always);
    write(&mut io, &info, 2, 0, 1, true);
    io.flush_drive(tag(3), info.file);
    assert!(next(&mut io, 2).iter().all(|(_, e)| matches!(e, Event::Failed { .. })));
    world.remove_drive(NODE, path);
    io.discard(tag(4), info.file, 0, 8192);
    assert!(matches!(&next(&mut io, 1)[0].1, Event::Failed { error, .. } if error.kind == ErrorKind::Gone));
    drop(io);
    let mut io = Io::new(Box::new(world.driver(CoreConfig::default())));
    assert_eq!(io.open_drive(&options()).unwrap_err().kind, ErrorKind::Gone);
    world.return_drive(NODE, path);
    let info = io.open_drive(&options()).unwrap();
    let buf = io.alloc(BLOCK).unwrap();
    io.read(tag(5), info.file, 512, buf);
    let misaligned = next(&mut io, 1).pop().unwrap().1;
    assert!(matches!(misaligned, Event::Failed { error, buf: Some(_) } if error.kind == ErrorKind::Refused));
    world.add_drive(NODE, Path::new("/dev/x"), DriveSpec { block_device: true, ..DriveSpec::file(1 << 30) });
    let there = OpenDrive { path: "/dev/x".into(), create_bytes: None, sparse: false, exclusive: true };
    assert!(io.open_drive(&there).unwrap().block_device);
    assert!(io.open_drive(&OpenDrive { path: "/dev/y".into(), ..there }).is_err());
}

/// A tiny write-ahead scheme (data, flush, durable commit mark) holds in every enumerated state; without the flush some
/// state breaks it.
#[test]
fn enumeration_finds_a_missing_flush() {
    for with_flush in [true, false] {
        let world = World::new(5);
        let (mut io, info) = start(&world);
        world.start_recording();
        for round in 1..=3u8 {
            write(&mut io, &info, 1, u64::from(round), round, false);
            write(&mut io, &info, 2, u64::from(round) + 10, round, false);
            next(&mut io, 2);
            if with_flush {
                io.flush_drive(tag(3), info.file);
                next(&mut io, 1);
            }
            write(&mut io, &info, 4, 0, round, true);
            next(&mut io, 1);
            world.mark(u64::from(round));
        }
        let recording = world.stop_recording().unwrap();
        let (mut states, mut broken, mut commits) = (0, 0, BTreeSet::new());
        for state in recording.crash_states(CrashLimits::default()) {
            states += 1;
            let world = World::restore(9, &state);
            let (mut io, info) = start(&world);
            let header = read(&mut io, &info, 0);
            // The mark itself may be torn; a real store has a checksum to see that.
            let whole = header.iter().all(|&b| b == header[0]);
            let committed = header[0].min(header[BLOCK - 1]);
            assert!(!whole || u64::from(committed) >= state.mark.unwrap_or(0), "{}", state.label);
            commits.insert(committed);
            let holds = (1..=committed).all(|r| {
                read(&mut io, &info, u64::from(r)) == [r; BLOCK]
                    && read(&mut io, &info, u64::from(r) + 10) == [r; BLOCK]
            });
            broken += u32::from(!holds);
        }
        assert!(states > 30, "{states} states");
        assert_eq!(commits.len(), 4);
        assert_eq!(broken == 0, with_flush, "{broken} of {states} states broken");
    }
}

/// Random writes, flushes and crashes: every sector holds a value that it may hold.
#[test]
fn random_histories_stay_inside_the_model() {
    for seed in 0..40 {
        let mut rng = Rng::new(seed);
        let world = World::new(seed);
        let (mut io, mut info) = start(&world);
        // What each of 8 blocks may hold after a crash, newest last; the first is safe.
        let mut may: Vec<Vec<u8>> = vec![vec![0]; 8];
        for fill in 1..120u8 {
            match rng.below(8) {
                0 => {
                    io.flush_drive(tag(1), info.file);
                    next(&mut io, 1);
                    may.iter_mut().for_each(|m| *m = vec![*m.last().unwrap()]);
                }
                1 => {
                    world.crash();
                    drop(io);
                    (io, info) = start(&world);
                    for (block, m) in may.iter_mut().enumerate() {
                        let data = read(&mut io, &info, block as u64);
                        for sector in data.chunks(512) {
                            assert!(m.contains(&sector[0]) && sector.iter().all(|&b| b == sector[0]));
                        }
                        // Make it whole again before going on.
                        write(&mut io, &info, 1, block as u64, fill, true);
                        next(&mut io, 1);
                        *m = vec![fill];
                    }
                }
                n => {
                    let block = rng.index(8);
                    write(&mut io, &info, 1, block as u64, fill, n < 4);
                    next(&mut io, 1);
                    if n < 4 {
                        may[block] = vec![fill]
                    } else {
                        may[block].push(fill)
                    }
                    assert_eq!(read(&mut io, &info, block as u64), [fill; BLOCK]);
                }
            }
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let history = |seed| {
        let world = World::new(seed);
        let (mut io, info) = start(&world);
        for i in 0..20u8 {
            write(&mut io, &info, u64::from(i), u64::from(i), i, i % 3 == 0);
        }
        let order: Vec<u64> = next(&mut io, 20).into_iter().map(|(k, _)| k).collect();
        let mut random = [0; 16];
        io.random(&mut random);
        world.crash();
        (order, random, world.image(NODE, Path::new("d0")), world.now())
    };
    assert_eq!(history(4), history(4));
    assert_ne!(history(4), history(5));
}

#[test]
fn time_moves_only_while_waiting_and_timers_fire() {
    let world = World::new(1);
    let (mut io, _) = start(&world);
    let from = io.now();
    io.timer_at(tag(1), from.plus_ms(50));
    assert_eq!(next(&mut io, 1)[0].0, 1);
    assert_eq!(io.now().since(from.plus_ms(50)), 0);
    io.waker().wake();
    let mut events = Vec::new();
    io.poll(Wait::Forever, &mut events);
    assert!(events.is_empty(), "a wake ends a wait");
    world.advance(1_000);
    io.poll(Wait::No, &mut events);
    assert!(io.now() > from.plus_ms(50));
}
