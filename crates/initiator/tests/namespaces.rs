//! The namespaces of a subsystem, followed in virtual time: one that grows, with one path and with two, while a path is away.
#![allow(clippy::unwrap_used)] // tests

mod common;
#[path = "common/multi.rs"]
mod multi;

use common::{BLOCK, Behaviour};
use dolmen_initiator::{State, namespaces::Namespaces};
use dolmen_nvme::spec::notice;
use multi::Multi;

const TICKET: u64 = 77;

fn turn(m: &mut Multi, namespaces: &mut Namespaces) {
    namespaces.step(&mut m.io, &mut m.initiator);
    m.turn();
    m.notices.drain(..).for_each(|notice| namespaces.on_notice(&notice));
    for completion in m.completions.drain(..) {
        assert!(namespaces.owns(&completion));
        namespaces.on_completion(&m.io, completion);
    }
}

fn until_size(m: &mut Multi, namespaces: &mut Namespaces, blocks: u64) {
    for _ in 0..20_000 {
        turn(m, namespaces);
        if namespaces.known().iter().any(|n| n.blocks == blocks) {
            assert!(namespaces.take_changed() && !namespaces.take_changed());
            let known = namespaces.known();
            assert_eq!((known.len(), known[0].nsid), (1, 1));
            assert_eq!(known[0].size_bytes(), blocks * BLOCK as u64);
            return;
        }
    }
    panic!("never {blocks} blocks: {namespaces:?}");
}

fn resize(m: &mut Multi, blocks: u64) {
    for (_, peer) in &mut m.peers {
        peer.behaviour.blocks = blocks;
        peer.raise(notice::NAMESPACE_CHANGED.dword());
    }
}

#[test]
fn a_resize_is_heard_of_each_time_with_one_path_or_several() {
    for paths in [1, 2] {
        let mut m = Multi::new(paths as u64, vec![Behaviour::default(); paths], |_| {});
        let mut namespaces = Namespaces::new(m.id, TICKET, Vec::new());
        until_size(&mut m, &mut namespaces, 1024);
        for blocks in [2048, 512, 4096] {
            resize(&mut m, blocks);
            until_size(&mut m, &mut namespaces, blocks);
        }
    }
}

#[test]
fn what_changed_while_the_path_was_away_is_seen_when_it_is_back() {
    let mut m = Multi::new(3, vec![Behaviour::default()], |o| o.keep_alive_ms = 2000);
    let mut namespaces = Namespaces::new(m.id, TICKET, Vec::new());
    until_size(&mut m, &mut namespaces, 1024);
    m.cut(0);
    m.peer(0).behaviour.blocks = 8192;
    for _ in 0..200 {
        turn(&mut m, &mut namespaces);
    }
    assert_eq!(namespaces.known()[0].blocks, 1024);
    m.heal(0);
    until_size(&mut m, &mut namespaces, 8192);
}

#[test]
fn a_change_during_a_reading_is_not_lost() {
    let mut m = Multi::new(4, vec![Behaviour::default()], |_| {});
    let mut namespaces = Namespaces::new(m.id, TICKET, Vec::new());
    for round in 0..60 {
        resize(&mut m, 100 + round);
        // At every point of the reading.
        (0..round).for_each(|_| turn(&mut m, &mut namespaces));
    }
    for _ in 0..2000 {
        turn(&mut m, &mut namespaces);
    }
    assert_eq!(namespaces.known()[0].blocks, 159);
}

/// Turns for so long; how often it was put off.
fn put_off(m: &mut Multi, namespaces: &mut Namespaces, ms: u64) -> usize {
    let until = m.io.now().plus_ms(ms);
    let (mut count, mut last) = (0, namespaces.wake_at());
    while m.io.now() < until {
        turn(m, namespaces);
        let next = namespaces.wake_at();
        count += usize::from(next.is_some() && next != last);
        last = next;
    }
    count
}

#[test]
fn a_subsystem_that_was_given_up_is_asked_for_nothing_more() {
    let mut m = Multi::new(5, vec![Behaviour::default()], |o| {
        (o.keep_alive_ms, o.loss_timeout_ms) = (2000, Some(4000));
    });
    let mut namespaces = Namespaces::new(m.id, TICKET, Vec::new());
    until_size(&mut m, &mut namespaces, 1024);
    resize(&mut m, 2048);
    m.cut(0);
    while !matches!(m.initiator.state(m.id), State::Lost(_)) {
        turn(&mut m, &mut namespaces);
    }
    // What was under way fails, and is tried once more at most.
    put_off(&mut m, &mut namespaces, 2000);
    assert_eq!((put_off(&mut m, &mut namespaces, 60_000), namespaces.wake_at()), (0, None));
    assert_eq!(namespaces.known()[0].blocks, 1024, "what was known stays known");
    // One that begins then ends at its first try.
    let mut late = Namespaces::new(m.id, TICKET, Vec::new());
    assert_eq!((put_off(&mut m, &mut late, 60_000), late.wake_at()), (0, None));
}

#[test]
fn what_cannot_be_read_is_tried_ever_more_rarely_and_at_once_when_a_path_is_back() {
    let mut m = Multi::new(6, vec![Behaviour::default()], |o| {
        (o.keep_alive_ms, o.loss_timeout_ms, o.fast_fail_ms) = (2000, None, Some(100));
    });
    let mut namespaces = Namespaces::new(m.id, TICKET, Vec::new());
    until_size(&mut m, &mut namespaces, 1024);
    m.cut(0);
    put_off(&mut m, &mut namespaces, 10_000);
    m.peer(0).behaviour.blocks = 8192;
    let mut late = Namespaces::new(m.id, TICKET, Vec::new());
    let tries = put_off(&mut m, &mut late, 300_000);
    assert!((7..=11).contains(&tries), "{tries} tries in five minutes");
    m.heal(0);
    let healed = m.io.now();
    until_size(&mut m, &mut late, 8192);
    assert!(m.io.now().since(healed) < 10_000_000_000, "it waits out its pause");
}
