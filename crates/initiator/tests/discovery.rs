//! Discovery that stays, in virtual time: logs that change, referrals in a circle, services that go and come back.
#![allow(clippy::unwrap_used)] // tests

mod common;

use common::{Behaviour, PEER, Ram, entry, referral};
use dolmen_initiator::{
    Completion, Initiator, Notice, OWNER,
    discovery::{Change, Discovery, DiscoveryOptions, MAX_DEPTH},
};
use dolmen_io::{Io, PoolConfig, Wait};
use dolmen_nvme::spec::DiscoveryEntry;
use dolmen_sim::{CoreConfig, NodeId, World};
use dolmen_types::Uuid;
use std::net::SocketAddr;

const HOST: NodeId = NodeId(1);

struct Net {
    world: World,
    io: Io,
    initiator: Initiator,
    discovery: Discovery,
    changes: Vec<Change>,
    services: Vec<(Io, Ram)>,
    pause_ns: u64,
}

fn node(index: usize) -> NodeId {
    NodeId(u16::try_from(10 + index).unwrap())
}

fn addr(index: usize) -> SocketAddr {
    SocketAddr::new(node(index).addr(), 8009)
}

fn subsystem(index: usize) -> DiscoveryEntry {
    entry(&format!("nqn.2014-08.org.example:sub{index}"), "192.0.2.1:4420".parse().unwrap())
}

impl Net {
    fn new(logs: Vec<Vec<DiscoveryEntry>>, change: impl FnOnce(&mut DiscoveryOptions)) -> Net {
        let world = World::new(1);
        let core = |node| {
            let pool = PoolConfig::sized(16 << 20);
            Io::new(Box::new(world.driver(CoreConfig { node, pool })))
        };
        let io = core(HOST);
        let host = "nqn.2014-08.org.example:host".parse().unwrap();
        let mut options = DiscoveryOptions::new(host, Uuid([7; 16]));
        change(&mut options);
        let services = logs.into_iter().enumerate().map(|(index, log)| {
            let mut io = core(node(index));
            let behaviour = Behaviour { discovery: Some(log), ..Behaviour::default() };
            let ram = Ram::listen(&mut io, addr(index), behaviour);
            (io, ram)
        });
        let services = services.collect();
        let initiator = Initiator::new(OWNER);
        let discovery = Discovery::new(options);
        Net { world, io, initiator, discovery, changes: Vec::new(), services, pause_ns: 0 }
    }

    fn follow(&mut self, index: usize) {
        self.discovery.add(&mut self.io, &mut self.initiator, addr(index)).unwrap();
    }

    fn turn(&mut self) {
        let (mut events, mut completions, mut notices) =
            (Vec::new(), Vec::<Completion>::new(), Vec::<Notice>::new());
        self.discovery.step(&mut self.io, &mut self.initiator);
        self.initiator.step(&mut self.io);
        self.io.poll(Wait::No, &mut events);
        let mut quiet = events.is_empty();
        for (tag, event) in events.drain(..) {
            self.initiator.on_event(&mut self.io, tag.key, event);
        }
        self.initiator.drain(&mut completions);
        self.initiator.drain_notices(&mut notices);
        notices.iter().for_each(|n| self.discovery.on_notice(n));
        for completion in completions {
            assert!(self.discovery.owns(completion.subsystem) || completion.result.is_err());
            self.discovery.on_completion(&mut self.io, &mut self.initiator, completion);
        }
        self.discovery.drain(&mut self.changes);
        for (io, ram) in &mut self.services {
            ram.step(io);
            io.poll(Wait::No, &mut events);
            quiet &= events.is_empty();
            for (tag, event) in events.drain(..) {
                assert_eq!(tag.owner, PEER);
                ram.on_event(io, tag.key, event);
            }
        }
        self.pause_ns = if quiet { (self.pause_ns * 2).clamp(100, 5_000_000) } else { 0 };
        self.world.advance(self.pause_ns);
    }

    fn until(&mut self, what: &str, mut reached: impl FnMut(&Net) -> bool) {
        for _ in 0..100_000 {
            if reached(self) {
                return;
            }
            self.turn();
        }
        panic!("never: {what}; {:?}", self.changes);
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .discovery
            .records()
            .iter()
            .map(|r| r.nqn.as_str().rsplit(':').next().unwrap().into())
            .collect();
        names.sort();
        names
    }
}

#[test]
fn referrals_are_followed_and_a_circle_ends() {
    // 0 -> 1 -> 2 -> 0, and each refers to itself.
    let log = |own: usize, next: usize| vec![subsystem(own), referral(addr(next)), referral(addr(own))];
    let mut net = Net::new(vec![log(0, 1), log(1, 2), log(2, 0)], |_| {});
    net.follow(0);
    net.until("all three", |n| n.names() == ["sub0", "sub1", "sub2"]);
    (0..2000).for_each(|_| net.turn());
    let followed = net.changes.iter().filter(|c| matches!(c, Change::Following { .. })).count();
    assert_eq!((followed, net.discovery.services().count()), (2, 3));
    assert!(net.services.iter().all(|(_, ram)| ram.counts.connections == 1), "one connection to each");
    assert!(net.discovery.is_settled());
}

#[test]
fn changes_are_told_and_followed() {
    let mut net = Net::new(vec![vec![subsystem(0)], vec![subsystem(1)]], |_| {});
    net.follow(0);
    net.until("the first", |n| n.names() == ["sub0"]);
    net.changes.clear();
    net.services[0].1.set_discovery(vec![subsystem(5), referral(addr(1))]);
    net.until("the change", |n| n.names() == ["sub1", "sub5"]);
    let gone = |c: &Change| matches!(c, Change::Gone { record, by } if record.nqn.as_str().ends_with("sub0") && *by == addr(0));
    assert!(net.changes.iter().any(gone), "{:?}", net.changes);
    // The event is armed again: a second change is heard of, too; the referral's own records go with it.
    net.services[0].1.set_discovery(vec![subsystem(6)]);
    net.until("the second change", |n| n.names() == ["sub6"]);
    net.until("the other is left", |n| n.discovery.services().count() == 1);
    assert_eq!(net.services[1].1.counts.connections, 1);
}

#[test]
fn a_service_that_comes_back_is_read_again() {
    let mut net = Net::new(vec![vec![subsystem(0)]], |o| o.keep_alive_ms = 2000);
    net.follow(0);
    net.until("the first", |n| n.names() == ["sub0"]);
    net.world.partition(HOST, node(0));
    net.world.reset(HOST, node(0));
    net.until("trouble", |n| n.changes.iter().any(|c| matches!(c, Change::Trouble { .. })));
    assert_eq!(net.names(), ["sub0"], "what was named stays");
    net.services[0].1.set_discovery(vec![subsystem(3)]);
    net.world.heal(HOST, node(0));
    net.until("read again", |n| n.names() == ["sub3"]);
}

#[test]
fn a_reading_that_was_put_off_does_not_wake_who_waits_for_a_connection() {
    let mut net = Net::new(vec![vec![subsystem(0)]], |o| o.keep_alive_ms = 2000);
    net.follow(0);
    // A log that is another one each time it is looked at is left alone for a while.
    let mut next = 0;
    while net.discovery.wake_at().is_none() {
        next += 1;
        net.services[0].1.set_discovery_silently(vec![subsystem(next)]);
        net.turn();
        assert!(next < 100_000);
    }
    net.world.partition(HOST, node(0));
    net.world.reset(HOST, node(0));
    let until = net.io.now().plus_ms(3000);
    net.until("the pause is over", |n| n.io.now() > until);
    assert_eq!(net.discovery.wake_at(), None, "nothing can be read now");
    net.world.heal(HOST, node(0));
    net.until("read again", |n| n.names() == [format!("sub{next}")]);
}

#[test]
fn many_and_far_referrals_are_bounded() {
    let far = usize::try_from(MAX_DEPTH).unwrap() + 3;
    let chain = (0..far).map(|i| vec![subsystem(i), referral(addr(i + 1))]).collect();
    let mut net = Net::new(chain, |_| {});
    net.follow(0);
    let refused = |n: &Net| n.changes.iter().any(|c| matches!(c, Change::NotFollowed { .. }));
    net.until("the end of the chain", refused);
    assert_eq!(net.discovery.services().count(), far - 2);
    let star = vec![(0..40).map(|i| referral(addr(i + 1))).collect()];
    let mut net = Net::new(star, |o| o.max_services = 5);
    net.follow(0);
    net.until("too many", refused);
    assert_eq!(net.discovery.services().count(), 5);
    assert_eq!(net.changes.iter().filter(|c| matches!(c, Change::NotFollowed { .. })).count(), 36);
}
