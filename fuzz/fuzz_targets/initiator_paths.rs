//! A host and controllers that do wrong, over whole associations in virtual time: bring-up, I/O, ANA and discovery logs, namespaces,
//! failover. Whatever they answer, every command ends once, nothing spins, and the host comes to its end when it is told to.
//!
//! The first byte chooses how many controllers there are, whether they report ANA, and whether they are discovery services; the
//! rest is shared out among them ([`common::Ram`] says what for).
#![no_main]

#[path = "../../crates/initiator/tests/common/mod.rs"]
mod common;
#[path = "../../crates/initiator/tests/common/multi.rs"]
mod multi;

use common::{BLOCK, Behaviour, entry, referral};
use dolmen_initiator::{
    BlockRange, Command, Policy, State,
    discovery::{Change, Discovery, DiscoveryOptions},
    namespaces::Namespaces,
};
use dolmen_nvme::spec::AnaState;
use dolmen_types::{Nqn, Uuid};
use libfuzzer_sys::fuzz_target;
use multi::{Multi, addr};

/// The ticket of who follows the namespaces.
const FOLLOW: u64 = 1000;
/// Turns before the host is told to end; until it must have done so; and in which what it still had lent comes back.
const TURNS: u32 = 1000;
const END_TURNS: u32 = 4000;
const LAST_TURNS: u32 = 20;

fuzz_target!(|input: &[u8]| {
    let Some((&choice, bytes)) = input.split_first() else { return };
    let count = 1 + usize::from(choice & 1);
    let discovery = choice & 2 != 0;
    let behaviours = (0..count).map(|at| {
        let part = bytes.len() / count;
        Behaviour {
            ana: (choice & 4 != 0).then(|| vec![(1, AnaState::Optimized)]),
            discovery: discovery.then(|| vec![entry("nqn.2020-01.example:ram", addr(0)), referral(addr(1))]),
            hostile: bytes[at * part..(at + 1) * part].iter().copied().collect(),
            is_hostile: true,
            ..Behaviour::default()
        }
    });
    let mut m = Multi::new(u64::from(choice), behaviours.collect(), |o| {
        (o.keep_alive_ms, o.io_timeout_ms, o.abort_timeout_ms, o.connect_timeout_ms) = (500, 300, 100, 300);
        (o.loss_timeout_ms, o.reconnect_max_ms) = (Some(5000), 200);
        o.policy = if choice & 8 != 0 { Policy::RoundRobin } else { Policy::ActivePassive };
        if discovery {
            (o.subsystem, o.paths) = (Nqn::DISCOVERY.parse().expect("a name"), Vec::new());
        }
    });
    if discovery { follow_services(&mut m) } else { use_namespace(&mut m) }
});

fn follow_services(m: &mut Multi) {
    let host = "nqn.2014-08.org.example:host".parse().expect("a name");
    let mut discovery =
        Discovery::new(DiscoveryOptions { keep_alive_ms: 500, ..DiscoveryOptions::new(host, Uuid([7; 16])) });
    discovery.add(&mut m.io, &mut m.initiator, addr(0)).expect("the first one");
    let mut changes: Vec<Change> = Vec::new();
    for _ in 0..TURNS {
        discovery.step(&mut m.io, &mut m.initiator);
        m.turn();
        m.notices.drain(..).for_each(|notice| discovery.on_notice(&notice));
        for completion in m.completions.drain(..) {
            discovery.on_completion(&mut m.io, &mut m.initiator, completion);
        }
        discovery.drain(&mut changes);
        assert!(discovery.services().count() <= 32);
    }
    discovery.close(&mut m.io, &mut m.initiator);
    end(m);
}

fn use_namespace(m: &mut Multi) {
    let mut namespaces = Namespaces::new(m.id, FOLLOW, Vec::new());
    let (mut sent, mut ended) = (0, Vec::new());
    for turn in 0..TURNS {
        // All through the run, so that some are under way whatever happens.
        if turn % 8 == 0 {
            let deadline = m.io.now().plus_ms(2000);
            let lba = sent % 64;
            let command = match sent % 4 {
                0 => Command::Read { nsid: 1, lba, blocks: 1, buf: m.buf(BLOCK, 1) },
                1 => Command::Write { nsid: 1, lba, blocks: 4, buf: m.buf(4 * BLOCK, 2), fua: false },
                2 => Command::Deallocate { nsid: 1, ranges: [BlockRange { lba, blocks: 1 }].into() },
                _ => Command::Flush { nsid: 1 },
            };
            if try_submit(m, sent, deadline, command) {
                sent += 1;
            }
        }
        namespaces.step(&mut m.io, &mut m.initiator);
        m.turn();
        m.notices.drain(..).for_each(|notice| namespaces.on_notice(&notice));
        take(m, &mut namespaces, &mut ended);
    }
    end(m);
    take(m, &mut namespaces, &mut ended);
    ended.sort_unstable();
    assert_eq!(ended, (0..sent).collect::<Vec<_>>(), "every command ends once");
}

fn try_submit(m: &mut Multi, ticket: u64, deadline: dolmen_types::Nanos, command: Command) -> bool {
    let request = dolmen_initiator::Request { ticket, deadline, queue: None, command };
    m.initiator.submit(&mut m.io, m.id, request).is_ok()
}

fn take(m: &mut Multi, namespaces: &mut Namespaces, ended: &mut Vec<u64>) {
    for completion in std::mem::take(&mut m.completions) {
        if namespaces.owns(&completion) {
            namespaces.on_completion(&m.io, completion);
        } else {
            ended.push(completion.ticket);
        }
    }
}

/// The host is told to end, and does.
fn end(m: &mut Multi) {
    m.initiator.disconnect(&mut m.io, m.id);
    let over = (0..END_TURNS).any(|_| {
        m.turn();
        m.initiator.state(m.id) == State::Closed
    });
    assert!(over, "it never ends: {:?}", m.initiator.state(m.id));
    (0..LAST_TURNS).for_each(|_| m.turn());
}
