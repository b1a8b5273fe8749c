//! QoS over the real store on simulated drives, in virtual time: what a limited volume gets, and what is left for
//! others.

use crate::{HOST, machine::Machine};
use dolmen_sim::World;
use dolmen_types::{
    Uuid,
    qos::{PerDirection, QosAssignment, QosLimits},
    volume::SectorSize,
};
use dolmen_volume::{Command, ControlCommand, Done, Restart, VolumeRef, VolumeUpdate};

/// What one volume is asked for.
#[derive(Clone, Copy)]
enum Load {
    Reads,
    Writes,
}

/// Keeps 8 commands under way on each volume for half a second; how many were answered on each.
fn run(machine: &mut Machine, loads: &[(VolumeRef, Load)]) -> Vec<u64> {
    let mut open = vec![Vec::new(); loads.len()];
    let mut answered = vec![0; loads.len()];
    let end = machine.now().plus_ms(500);
    while machine.now() < end {
        for (n, (volume, load)) in loads.iter().enumerate() {
            let before = open[n].len();
            open[n].retain(|token| match machine.replies.remove(token) {
                Some(reply) => {
                    assert_eq!(reply.result, Ok(Done::Ok));
                    false
                }
                None => true,
            });
            answered[n] += (before - open[n].len()) as u64;
            while open[n].len() < 8 {
                let (lba, buf) = (open[n].len() as u64, machine.buf(&[7; 4096]));
                let command = match load {
                    Load::Reads => Command::Read { lba, blocks: 1, buf },
                    Load::Writes => Command::Write { lba, blocks: 1, buf },
                };
                open[n].push(machine.send(HOST, *volume, command));
            }
        }
        machine.turn();
    }
    machine.until(|m| m.volumes.outstanding() == 0);
    machine.replies.clear();
    answered
}

fn limit(machine: &mut Machine, n: u8, write: u32) {
    let iops = PerDirection { read: 0, write };
    let limits = QosLimits { iops, ..QosLimits::default() };
    let qos = QosAssignment { policy: Uuid([9; 16]), revision: 1, name: "slow".into(), limits };
    let update = VolumeUpdate { qos: Some(Some(qos)), ..VolumeUpdate::default() };
    machine.control(ControlCommand::Update { uuid: Uuid([n; 16]), update: Box::new(update) }).unwrap();
}

#[test]
fn a_limited_volume_keeps_its_rate_and_leaves_the_rest_to_its_neighbour() {
    let world = World::new(11);
    let mut machine = Machine::start(&world, Restart::Process);
    let slow = crate::create(&mut machine, 1, SectorSize::B4096);
    let free = crate::create(&mut machine, 2, SectorSize::B4096);
    run(&mut machine, &[(free, Load::Writes)]);
    let alone = run(&mut machine, &[(free, Load::Reads)])[0];
    limit(&mut machine, 1, 400);
    let both = run(&mut machine, &[(slow, Load::Writes), (free, Load::Reads)]);
    assert!((195..=221).contains(&both[0]), "0.5 s at 400 IOPS and 50 ms saved: {}", both[0]);
    assert!(both[1] * 10 >= alone * 9, "the neighbour had {alone} alone and has {} now", both[1]);
    // Changed live, and still in force after a crash.
    limit(&mut machine, 1, 800);
    for _ in 0..2 {
        let slow = machine.volumes.find(Uuid([1; 16])).unwrap();
        let count = run(&mut machine, &[(slow, Load::Writes)])[0];
        assert!((390..=441).contains(&count), "0.5 s at 800 IOPS and 50 ms saved: {count}");
        world.crash();
        drop(machine);
        machine = Machine::start(&world, Restart::Process);
    }
}
