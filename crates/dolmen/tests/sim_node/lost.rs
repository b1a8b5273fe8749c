//! A connection that is lost while its commands wait in a volume's QoS policy: they are called off, so that the host that comes back
//! finds nothing of them before it, on whichever cores its connections were and are.

use crate::{
    host::Host,
    node::NODE,
    why::{Scene, descriptor},
};
use dolmen_initiator::load::{LoadOptions, Mix, Pattern};
use dolmen_types::{
    Uuid,
    qos::{PerDirection, QosAssignment, QosLimits},
    volume::VolumeDescriptor,
};

const MS: u64 = 1_000_000;
/// Writes that the volume may have in a second.
const WRITES: u32 = 5;
/// Commands under way at least: without being called off, a round of them takes four times as long as is allowed here.
const DEPTH: usize = 12;

#[test]
fn commands_of_a_lost_connection_are_in_nobody_s_way() {
    let limits = QosLimits { iops: PerDirection { read: 0, write: WRITES }, ..QosLimits::default() };
    let qos = Some(QosAssignment { policy: Uuid([7; 16]), revision: 1, name: "p".into(), limits });
    let volume = VolumeDescriptor { qos, ..descriptor() };
    for (seed, cores) in [(1, 1), (2, 2), (3, 3), (4, 3)] {
        let mut scene = Scene::new(seed, cores, &volume);
        let deep = |load: &mut LoadOptions| load.depth = DEPTH;
        let mut host = Host::with(&scene.world.clone(), &mut scene.rng, (0, &volume), deep);
        host.load.set_work(Pattern::Random, Mix { reads: 0, zeroes: 0 }, u64::MAX);
        let node = host.node;
        scene.host = Some(host);
        scene.run(4_000 * MS, |_| false);
        for round in 0..4 {
            let done = scene.host.as_ref().unwrap().done();
            assert!(done > 0, "seed {seed}: nothing flows, {}", scene.host.as_ref().unwrap().describe());
            scene.world.reset(node, NODE);
            let began = scene.world.now();
            scene.run(10_000 * MS, |s| s.host.as_ref().unwrap().done() > done);
            let waited = scene.world.now().since(began);
            assert!(waited < 600 * MS, "seed {seed}, round {round}: {} ms", waited / MS);
            scene.run(500 * MS, |_| false);
            scene.host.as_ref().unwrap().judge();
        }
    }
}
