//! A core that stands still while its hosts go on by other paths: what it wakes up to is old, and not carried out any more.

use crate::{
    node::{NODE, SUBSYSTEM, address},
    why::{Scene, descriptor},
};
use dolmen_initiator::{Command, Completion, Initiator, OWNER, Options, Request, State, SubsystemId};
use dolmen_io::{Event, Io, PoolConfig, Tag, Wait};
use dolmen_sim::{CoreConfig, NodeId, World};
use dolmen_types::{CoreId, PgId, Uuid, volume::VolumeDescriptor};

const MS: u64 = 1_000_000;
const BLOCK: usize = 4096;
/// The core that stands still, and the one where the volume lives.
const STILL: CoreId = CoreId(1);
const HOME: CoreId = CoreId(0);

/// A path of a host: one I/O queue, and commands one by one.
struct Path {
    node: NodeId,
    io: Io,
    initiator: Initiator,
    id: SubsystemId,
    events: Vec<(Tag, Event)>,
    completions: Vec<Completion>,
}

impl Path {
    fn new(world: &World, number: u16) -> Path {
        let node = NodeId(number);
        let mut io = Io::new(Box::new(world.driver(CoreConfig { node, pool: PoolConfig::sized(8 << 20) })));
        let mut initiator = Initiator::new(OWNER);
        let name = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-4333-8444-000000000001";
        let (subsystem, host) = (SUBSYSTEM.parse().unwrap(), name.parse().unwrap());
        let mut options = Options::new(address(), subsystem, host, Uuid([1; 16]));
        (options.io_queues, options.keep_alive_ms) = (1, 5_000);
        let id = initiator.connect(&mut io, options).unwrap();
        Path { node, io, initiator, id, events: Vec::new(), completions: Vec::new() }
    }

    fn is_live(&self) -> bool {
        matches!(self.initiator.state(self.id), State::Live { .. })
    }

    fn turn(&mut self) {
        self.initiator.step(&mut self.io);
        self.io.poll(Wait::No, &mut self.events);
        for (tag, event) in self.events.drain(..) {
            self.initiator.on_event(&mut self.io, tag.key, event);
        }
        self.initiator.step(&mut self.io);
        self.io.submit();
        self.initiator.drain(&mut self.completions);
    }

    fn submit(&mut self, command: impl FnOnce(dolmen_io::Buf) -> Command, byte: u8) {
        let mut buf = self.io.alloc(BLOCK).unwrap();
        buf.fill(byte);
        self.initiator.submit(&mut self.io, self.id, Request::new(1, command(buf))).unwrap();
    }

    fn write(&mut self, byte: u8) {
        self.submit(|buf| Command::Write { nsid: 1, lba: 0, blocks: 1, buf, fua: false }, byte);
    }

    fn read(&mut self) {
        self.submit(|buf| Command::Read { nsid: 1, lba: 0, blocks: 1, buf }, 0);
    }
}

/// Rounds of these cores and these paths, a tenth of a millisecond each, until something holds.
fn rounds(
    scene: &mut Scene,
    cores: &[CoreId],
    paths: &mut [&mut Path],
    holds: impl Fn(&[&mut Path]) -> bool,
) {
    for _ in 0..50_000 {
        if holds(paths) {
            return;
        }
        pass(scene, cores, paths, MS / 10);
    }
    panic!("it takes too long");
}

fn pass(scene: &mut Scene, cores: &[CoreId], paths: &mut [&mut Path], ns: u64) {
    scene.world.advance(ns);
    cores.iter().for_each(|core| scene.process.turn_core(usize::from(core.0)));
    scene.process.step(&mut Vec::new());
    paths.iter_mut().for_each(|path| path.turn());
}

/// A path whose queues are both on this core, after as many tries as that takes: which core gets a connection is chance.
fn path_to(scene: &mut Scene, core: CoreId, numbers: std::ops::Range<u16>) -> Path {
    let all = [HOME, STILL];
    for number in numbers {
        let mut path = Path::new(&scene.world.clone(), number);
        rounds(scene, &all, &mut [&mut path], |paths| paths[0].is_live());
        let mut reports = scene.process.reports();
        let mut queues = 0;
        for _ in 0..1000 {
            pass(scene, &all, &mut [&mut path], MS / 10);
            reports.retain_mut(|(on, report)| match report.try_recv() {
                Ok(report) => {
                    let mine = report.connections.iter().filter(|c| c.peer.ip() == path.node.addr());
                    queues += if *on == core { mine.count() } else { 0 };
                    false
                }
                Err(_) => true,
            });
            if reports.is_empty() {
                break;
            }
        }
        if queues == 2 {
            return path;
        }
    }
    panic!("no path to core {}", core.0);
}

#[test]
fn what_a_core_that_stood_still_wakes_up_to_is_not_carried_out() {
    let volume = VolumeDescriptor { pg: PgId(0), ..descriptor() };
    let mut scene = Scene::new(21, 2, &volume);
    assert_eq!(scene.at.core, HOME);
    let world = scene.world.clone();
    let mut lost = path_to(&mut scene, STILL, 10..60);
    let mut other = path_to(&mut scene, HOME, 60..110);
    // It arrives at a core that does not look, and nothing more comes from there.
    lost.write(1);
    for _ in 0..10 {
        pass(&mut scene, &[HOME], &mut [&mut lost, &mut other], MS / 10);
    }
    world.partition(lost.node, NODE);
    for _ in 0..3_500 {
        pass(&mut scene, &[HOME], &mut [&mut other], 10 * MS);
    }
    // The host is out of patience: it repeats the write, and goes on.
    for byte in [1, 2] {
        other.write(byte);
        rounds(&mut scene, &[HOME], &mut [&mut other], |paths| !paths[0].completions.is_empty());
        assert!(other.completions.pop().unwrap().result.is_ok());
    }
    for _ in 0..1_000 {
        pass(&mut scene, &[HOME, STILL], &mut [&mut other], MS);
    }
    other.read();
    rounds(&mut scene, &[HOME, STILL], &mut [&mut other], |paths| !paths[0].completions.is_empty());
    let read = other.completions.pop().unwrap();
    assert!(read.result.is_ok());
    assert_eq!(read.buf.unwrap()[..], [2; BLOCK]);
    // Who comes anew is heard.
    path_to(&mut scene, STILL, 110..160);
}
