//! Several paths to one subsystem in virtual time: failover, ANA, policies, identity, and what must never happen.
#![allow(clippy::unwrap_used)] // tests

mod common;
#[path = "common/multi.rs"]
mod multi;

use common::{BLOCK, Behaviour};
use dolmen_initiator::{
    Command, ErrorKind, Failure, NO_DEADLINE, Notice, Options, PathOptions, Policy, QueueStatistics, Request,
    State, SubmitError,
};
use dolmen_nvme::spec::{AnaState, Status, notice};
use dolmen_types::Uuid;
use multi::{HOST, Multi, addr, node};

fn two() -> Vec<Behaviour> {
    vec![Behaviour::default(); 2]
}

fn with_ana(states: &[AnaState]) -> Vec<Behaviour> {
    let one = |&state| Behaviour { ana: Some(vec![(1, state)]), ..Behaviour::default() };
    states.iter().map(one).collect()
}

fn quick(o: &mut Options) {
    (o.keep_alive_ms, o.io_timeout_ms, o.abort_timeout_ms) = (2000, 3000, 500);
}

#[test]
fn policies_spread_commands() {
    for (policy, wanted) in [
        (Policy::ActivePassive, [true, false, false]),
        (Policy::RoundRobin, [true, true, true]),
        (Policy::QueueDepth, [true, true, true]),
    ] {
        let mut m = Multi::new(1, vec![Behaviour::default(); 3], |o| o.policy = policy);
        m.live();
        m.traffic();
        for ticket in 0..60 {
            m.submit_write(ticket, ticket, 1);
        }
        (0..60).for_each(|ticket| assert_eq!(m.wait(ticket).result, Ok(0)));
        let traffic = m.traffic();
        assert_eq!(traffic.iter().sum::<usize>(), 60);
        let used: Vec<bool> = traffic.iter().map(|&n| n > 0).collect();
        assert_eq!(used, wanted, "{policy:?}: {traffic:?}");
        if policy != Policy::ActivePassive {
            assert!(traffic.iter().all(|&n| n == 20), "{traffic:?}");
        }
        let reports = m.paths();
        let writes = |p: usize| reports[p].statistics.queues.iter().map(|q| q.writes.commands).sum::<u64>();
        assert_eq!((0..3).map(writes).sum::<u64>(), 60);
        assert_eq!(reports[1].controller_id, Some(2));
    }
    // A path that doesn't answer fills up, and the others take what comes.
    let mut m = Multi::new(2, two(), |o| o.policy = Policy::QueueDepth);
    m.live();
    m.peer(0).behaviour.hold = true;
    m.traffic();
    for ticket in 0..100 {
        m.submit_write(ticket, ticket, 1);
        m.until("answered or held", |m| {
            m.completions.len() + m.peers[0].1.held() > usize::try_from(ticket).unwrap()
        });
    }
    assert!(m.peer(0).held() <= 3 && m.traffic()[1] >= 95);
}

#[test]
fn preference_decides_and_failback_follows() {
    let mut m = Multi::new(3, two(), |o| {
        quick(o);
        (o.preference, o.paths[0].preference) = (5, 1);
    });
    m.live();
    m.traffic();
    m.write(1, 1);
    assert_eq!(m.traffic(), [0, 1]);
    m.cut(1);
    assert_eq!(m.write(1, 2).result, Ok(0));
    m.heal(1);
    m.live();
    m.traffic();
    m.write(1, 3);
    assert_eq!(m.traffic(), [0, 1]);
}

#[test]
fn commands_under_way_go_on_elsewhere() {
    let mut m = Multi::new(4, two(), quick);
    m.live();
    m.peer(0).behaviour.swallow = 8;
    for ticket in 0..8 {
        m.submit_write(ticket, ticket, 9);
    }
    (0..300).for_each(|_| m.turn());
    assert!(m.completions.is_empty());
    m.cut(0);
    let before = m.io.now();
    (0..8).for_each(|ticket| assert_eq!(m.wait(ticket).result, Ok(0)));
    assert!(m.io.now().since(before) < 1_000_000_000, "failover waits for nothing");
    assert!(matches!(m.initiator.state(m.id), State::Live { .. }), "one path is enough");
    assert_eq!(m.paths()[0].statistics.resent, 8);
    assert_eq!(m.byte(7), 9);
}

#[test]
fn ana_states_decide_and_events_are_followed() {
    use AnaState::{Inaccessible, NonOptimized, Optimized};
    let mut m = Multi::new(8, with_ana(&[NonOptimized, Optimized]), quick);
    m.live();
    m.traffic();
    m.write(1, 1);
    assert_eq!(m.traffic(), [0, 1]);
    // The other becomes the better one, and says so.
    m.peer(1).set_ana(Inaccessible);
    m.peer(0).set_ana(Optimized);
    m.until("followed", |m| m.paths()[1].ana == [(1, Inaccessible)] && m.paths()[0].ana == [(1, Optimized)]);
    m.write(1, 2);
    assert_eq!(m.traffic(), [1, 0]);
    // Non-optimized paths are used when nothing better is left.
    m.peer(0).set_ana(Inaccessible);
    m.peer(1).set_ana(NonOptimized);
    m.until("followed", |m| {
        m.paths()[1].ana == [(1, NonOptimized)] && m.paths()[0].ana == [(1, Inaccessible)]
    });
    m.write(1, 3);
    assert_eq!(m.traffic(), [0, 1]);
    // Nowhere: commands wait, and go on when somebody has it again.
    m.peer(1).set_ana(Inaccessible);
    m.until("followed", |m| m.paths()[1].ana == [(1, Inaccessible)]);
    m.submit_write(5, 1, 4);
    m.pass_ms(20_000);
    assert!(m.completions.is_empty());
    m.peer(0).set_ana_silently(Optimized);
    assert_eq!(m.wait(5).result, Ok(0), "found although the event was lost");
    assert_eq!(m.traffic(), [1, 0]);
}

#[test]
fn statuses_tell_what_the_log_has_not_told_yet() {
    use AnaState::{Change, Inaccessible, Optimized, PersistentLoss};
    let mut m = Multi::new(9, with_ana(&[Optimized, Optimized]), quick);
    m.live();
    for state in [Inaccessible, Change] {
        m.peer(0).set_ana_silently(state);
        m.traffic();
        let before = m.io.now();
        assert_eq!(m.write(1, 1).result, Ok(0));
        assert!(m.io.now().since(before) < 500_000_000);
        assert_eq!(m.traffic(), [0, 1]);
        m.peer(0).set_ana(Optimized);
        m.until("well again", |m| m.paths()[0].ana == [(1, Optimized)]);
    }
    // Lost for good on one: the other has it. Lost on both: that is the answer.
    m.peer(0).set_ana_silently(PersistentLoss);
    assert_eq!(m.write(1, 2).result, Ok(0));
    m.peer(1).set_ana_silently(PersistentLoss);
    let Err(Failure::Status(status)) = m.write(1, 3).result else { panic!("a lost namespace was written") };
    assert!(status.same_code(Status::ANA_PERSISTENT_LOSS));
    assert!(m.paths().iter().all(|p| p.statistics.losses == 0));
}

/// A pair is two commands, either of which may tell; it goes elsewhere as a whole, if it was not carried out.
#[test]
fn a_pair_that_is_refused_for_its_path_goes_elsewhere() {
    let (ana, fused) = (Status::ANA_INACCESSIBLE, Status::ABORTED_FAILED_FUSED);
    let mut m = Multi::new(28, with_ana(&[AnaState::Optimized; 2]), quick);
    m.live();
    let counted = |m: &Multi, path: usize| {
        let s = &m.paths()[path].statistics;
        let sum = |what: fn(&QueueStatistics) -> u64| s.queues.iter().map(what).sum::<u64>();
        (sum(|q| q.writes.commands), sum(|q| q.others.commands), sum(|q| q.errors), s.retried)
    };
    let pair = |m: &mut Multi, was: u8, becomes: u8, statuses: &[Status]| {
        m.until("well", |m| m.paths()[0].ana == [(1, AnaState::Optimized)]);
        m.peer(0).behaviour.statuses = statuses.iter().copied().collect();
        let (compare, write) = (m.buf(BLOCK, was), m.buf(BLOCK, becomes));
        m.submit(7, NO_DEADLINE, Command::CompareAndWrite { nsid: 1, lba: 5, blocks: 1, compare, write });
        let done = m.wait(7);
        assert_eq!(done.buf.unwrap()[0], becomes, "what was to be written comes back");
        m.peer(0).behaviour.statuses.clear();
        done.result
    };
    for (round, statuses) in (1..).zip([[ana, ana], [ana, fused], [fused, ana]]) {
        assert_eq!(pair(&mut m, round - 1, round, &statuses), Ok(0), "{statuses:?}");
        let n = u64::from(round);
        assert_eq!((counted(&m, 0), counted(&m, 1)), ((n, n, 2 * n, n), (n, n, 0, 0)));
    }
    assert_eq!(m.byte(5), 3);
    // What is no affair of the path is the answer, and so is what may have been carried out.
    for statuses in [[Status::COMPARE_FAILURE.with_dnr(), fused], [ana, Status::SUCCESS]] {
        let Err(Failure::Status(status)) = pair(&mut m, 3, 4, &statuses) else { panic!("{statuses:?}") };
        assert!(status.same_code(statuses[0]));
        assert_eq!(counted(&m, 0).3, 3);
    }
}

#[test]
fn a_transition_without_an_end_costs_the_controller_its_association() {
    let mut m = Multi::new(10, with_ana(&[AnaState::Optimized; 2]), quick);
    m.live();
    m.peer(0).set_ana(AnaState::Change);
    m.until("followed", |m| m.paths()[0].ana == [(1, AnaState::Change)]);
    m.pass_ms(1500);
    assert_eq!(m.paths()[0].statistics.losses, 0, "ANATT is 2 s");
    m.until("lost", |m| m.paths()[0].statistics.losses == 1);
    assert_eq!(m.write(1, 1).result, Ok(0));
}

#[test]
fn one_path_follows_ana_too() {
    use AnaState::{Change, Inaccessible, Optimized};
    let mut m = Multi::new(11, with_ana(&[Optimized]), |o| {
        quick(o);
        o.retries = 2;
    });
    m.live();
    m.peer(0).set_ana_silently(Inaccessible);
    m.submit_write(1, 1, 1);
    m.pass_ms(5000);
    assert!(m.completions.is_empty(), "waits for as long as it takes");
    m.peer(0).set_ana(Change);
    m.pass_ms(500);
    m.peer(0).set_ana(Optimized);
    assert_eq!(m.wait(1).result, Ok(0));
    assert!(m.paths()[0].statistics.retried <= 2);
}

#[test]
fn another_namespace_under_the_same_number_is_never_used() {
    let mut behaviours = two();
    behaviours[1].uuid = Uuid([0x77; 16]);
    let mut m = Multi::new(12, behaviours, |o| {
        quick(o);
        o.policy = Policy::RoundRobin;
    });
    m.live();
    assert!(m.notices.iter().any(|n| matches!(n, Notice::Mismatch { nsid: 1, .. })));
    m.traffic();
    (0..20).for_each(|lba| assert_eq!(m.write(lba, 1).result, Ok(0)));
    let odd = m.notices.iter().find_map(|n| match n {
        Notice::Mismatch { path, .. } => Some(usize::from(*path)),
        _ => None,
    });
    let odd = odd.unwrap();
    assert_eq!(m.traffic()[odd], 0);
    // Nor while the right one has to be asked again, nor when it is away.
    for round in 0..20 {
        m.peer(1 - odd).raise(notice::NAMESPACE_CHANGED.dword());
        m.submit_write(round, round, 1);
        m.turn();
    }
    (0..20).for_each(|ticket| assert_eq!(m.wait(ticket).result, Ok(0)));
    m.cut(1 - odd);
    m.submit_write(1, 1, 1);
    m.pass_ms(1000);
    assert!(m.traffic()[odd] == 0 && !m.done(1), "waits for the right one");
    m.heal(1 - odd);
    assert_eq!(m.wait(1).result, Ok(0));
    assert_eq!(m.traffic()[odd], 0);
    // Taken away, it leaves nothing to wait for; the other is another still, asked anew or not.
    m.submit_write(2, 1, 1);
    assert!(m.initiator.remove_path(&mut m.io, m.id, u8::try_from(1 - odd).unwrap()));
    m.peer(odd).raise(notice::NAMESPACE_CHANGED.dword());
    m.pass_ms(1000);
    assert!(m.traffic()[odd] == 0 && !m.done(2));
}

#[test]
fn a_namespace_that_is_replaced_on_all_paths_is_used_when_all_say_so() {
    let mut m = Multi::new(20, two(), |o| {
        quick(o);
        o.policy = Policy::RoundRobin;
    });
    m.live();
    let replace = |m: &mut Multi, path: usize| {
        m.peer(path).behaviour.uuid = Uuid([0x77; 16]);
        m.peer(path).raise(notice::NAMESPACE_CHANGED.dword());
        m.pass_ms(20);
        m.traffic();
    };
    // As long as one has the old one, it is what is meant; while that is away, too.
    replace(&mut m, 0);
    (0..10).for_each(|lba| assert_eq!(m.write(lba, 1).result, Ok(0)));
    assert_eq!(m.traffic(), [0, 10]);
    m.cut(1);
    m.submit_write(1, 1, 1);
    m.pass_ms(1000);
    assert!(m.traffic()[0] == 0 && !m.done(1));
    m.heal(1);
    assert_eq!(m.wait(1).result, Ok(0));
    replace(&mut m, 1);
    (0..10).for_each(|lba| assert_eq!(m.write(lba, 1).result, Ok(0)));
    assert_eq!(m.traffic().iter().sum::<usize>(), 10);
    m.pass_ms(20);
    m.traffic();
    (0..10).for_each(|lba| assert_eq!(m.write(lba, 1).result, Ok(0)));
    assert_eq!(m.traffic(), [5, 5]);
}

/// What is lost for good on one path is not lost while another one is only away.
#[test]
fn a_lost_namespace_waits_for_the_path_that_has_it() {
    let mut m = Multi::new(21, with_ana(&[AnaState::PersistentLoss, AnaState::Optimized]), |o| {
        quick(o);
        o.loss_timeout_ms = Some(8000);
    });
    m.live();
    m.cut(1);
    m.submit_write(1, 1, 1);
    m.pass_ms(3000);
    assert!(!m.done(1));
    m.heal(1);
    assert_eq!(m.wait(1).result, Ok(0));
    // When that one is given up, nothing is left to wait for.
    m.cut(1);
    m.submit_write(2, 1, 1);
    let Err(Failure::Status(status)) = m.wait(2).result else { panic!("a lost namespace was written") };
    assert!(status.same_code(Status::ANA_PERSISTENT_LOSS) && m.paths()[1].given_up);
}

/// Who was there alone has said nothing of its namespaces, but commands have gone to them.
#[test]
fn a_path_that_joins_does_not_say_what_a_namespace_is() {
    for seed in 0..20 {
        let mut m = Multi::new(seed, vec![Behaviour::default()], quick);
        m.live();
        assert_eq!(m.write(1, 1).result, Ok(0));
        m.join(Behaviour { uuid: Uuid([9; 16]), ..Behaviour::default() });
        m.until("live", |m| m.paths()[1].live);
        m.traffic();
        assert_eq!(m.write(1, 2).result, Ok(0));
        assert_eq!(m.traffic(), [1, 0], "seed {seed}");
        let other = |n: &Notice| matches!(n, Notice::Mismatch { path: 1, nsid: 1, .. });
        m.until("it is another one", |m| m.notices.iter().any(other));
    }
}

/// A path to another namespace of that number is no way, and none will become one.
#[test]
fn a_namespace_is_lost_with_the_last_path_that_led_to_it() {
    let mut m = Multi::new(34, vec![Behaviour::default()], |o| {
        quick(o);
        o.loss_timeout_ms = Some(4000);
    });
    m.live();
    // The one that joins finds nobody who could contradict, unless this one has spoken before.
    m.join(Behaviour::default());
    m.live();
    m.join(Behaviour { uuid: Uuid([9; 16]), ..Behaviour::default() });
    m.live();
    let other = |n: &Notice| matches!(n, Notice::Mismatch { path: 2, .. });
    m.until("it is another one", |m| m.notices.iter().any(other));
    m.cut(0);
    m.cut(1);
    m.submit_write(2, 1, 3);
    assert_eq!(m.wait(2).result, Err(Failure::Lost));
    assert!(m.paths()[0].given_up && matches!(m.initiator.state(m.id), State::Live { .. }));
    let before = m.io.now();
    m.submit_write(3, 1, 3);
    assert_eq!(m.wait(3).result, Err(Failure::Lost));
    assert!(m.io.now().since(before) < 100_000_000);
    // One that leads there again.
    m.join(Behaviour::default());
    m.until("it is there", |m| m.paths()[3].live);
    assert_eq!(m.write(1, 4).result, Ok(0));
}

#[test]
fn a_command_that_takes_too_long_is_aborted_and_sent_again() {
    let able = Behaviour { aborts: true, swallow: 1, ..Behaviour::default() };
    let mut m = Multi::new(13, vec![able], quick);
    m.until("live", |m| m.paths()[0].live);
    m.submit_write(1, 1, 1);
    assert_eq!(m.wait(1).result, Ok(0));
    let s = m.paths()[0].statistics.clone();
    assert_eq!((s.aborts, s.resets, s.losses, m.peer(0).counts.aborts), (1, 0, 0, 1));
    // One that doesn't abort is reset; one that answers nothing at all is left.
    m.peer(0).behaviour.aborts = false;
    m.peer(0).behaviour.swallow = 1;
    let before = m.io.now();
    m.submit_write(2, 1, 2);
    assert_eq!(m.wait(2).result, Ok(0));
    assert!(m.io.now().since(before) >= 3_000_000_000, "has all of its time");
    let s = m.paths()[0].statistics.clone();
    assert_eq!((s.aborts, s.resets, s.losses, m.peer(0).counts.resets), (2, 1, 1, 1));
}

/// What was asked for one command says nothing of the next one under its identifier.
#[test]
fn an_abort_that_helped_is_over() {
    let able = Behaviour { aborts: true, swallow: 1, ..Behaviour::default() };
    let mut m = Multi::new(22, vec![able], |o| {
        quick(o);
        (o.io_queues, o.queue_depth) = (1, 1);
    });
    m.until("live", |m| m.paths()[0].live);
    m.submit_write(1, 1, 1);
    assert_eq!(m.wait(1).result, Ok(0));
    m.peer(0).behaviour.hold = true;
    m.submit_write(2, 2, 2);
    m.pass_ms(2500);
    m.peer(0).behaviour.hold = false;
    m.peer(0).carry_out();
    assert_eq!(m.wait(2).result, Ok(0));
    let s = m.paths()[0].statistics.clone();
    assert_eq!((s.aborts, s.resets, s.losses), (1, 0, 0), "it was slow, not late");
}

#[test]
fn a_controller_is_asked_for_no_more_aborts_than_it_takes() {
    for (seed, abort_limit) in (23..33).flat_map(|seed| [(seed, 1), (seed, 4)]) {
        let able = Behaviour { aborts: true, abort_limit, ..Behaviour::default() };
        let mut m = Multi::new(seed, vec![able], quick);
        m.live();
        m.peer(0).behaviour.swallow = 30;
        (0..30).for_each(|ticket| m.submit_write(ticket, ticket, 1));
        (0..30).for_each(|ticket| assert_eq!(m.wait(ticket).result, Ok(0)));
        let s = m.paths()[0].statistics.clone();
        assert_eq!((s.aborts, s.resets, s.losses), (30, 0, 0), "seed {seed}");
        let most = m.peer(0).counts.most_aborts;
        assert!(
            (abort_limit.min(2)..=abort_limit).contains(&u8::try_from(most).unwrap()),
            "{most}, seed {seed}"
        );
    }
}

#[test]
fn an_abort_that_comes_too_late_costs_nothing() {
    let slow = Behaviour { hold: true, hold_aborts: true, ..Behaviour::default() };
    let mut m = Multi::new(24, vec![slow], quick);
    m.until("live", |m| m.paths()[0].live);
    m.submit_write(1, 1, 1);
    m.until("asked for its abort", |m| m.peer(0).counts.aborts == 1);
    m.peer(0).carry_out();
    assert_eq!(m.wait(1).result, Ok(0));
    m.peer(0).behaviour.hold_aborts = false;
    m.pass_ms(2000);
    let s = m.paths()[0].statistics.clone();
    assert_eq!((s.aborts, s.resets, s.losses), (1, 0, 0));
}

#[test]
fn traffic_keeps_an_association_alive_where_the_controller_says_so() {
    for (traffic_keeps_alive, most) in [(true, 2), (false, 100)] {
        let behaviour = Behaviour { traffic_keeps_alive, ..Behaviour::default() };
        let mut m = Multi::new(14, vec![behaviour], |o| o.keep_alive_ms = 1000);
        m.until("live", |m| m.paths()[0].live);
        m.peer(0).counts.keep_alives = 0;
        for _ in 0..50 {
            m.write(1, 1);
            m.pass_ms(100);
        }
        let sent = m.peer(0).counts.keep_alives;
        assert!(sent <= most && (sent > 5) != traffic_keeps_alive, "{sent}");
        // Without traffic they are sent.
        m.peer(0).counts.keep_alives = 0;
        m.pass_ms(5000);
        assert!(m.peer(0).counts.keep_alives >= 5);
    }
}

#[test]
fn paths_come_and_go() {
    let mut m = Multi::new(15, vec![Behaviour::default(); 3], |o| {
        quick(o);
        o.paths.clear();
    });
    m.live();
    let one = PathOptions { addr: addr(1), preference: 0 };
    assert_eq!(m.initiator.add_path(&mut m.io, m.id, one), Ok(1));
    m.live();
    for number in [0, 1] {
        let same = PathOptions { addr: addr(number), preference: 5 };
        let refused = m.initiator.add_path(&mut m.io, m.id, same).unwrap_err();
        assert!(
            refused.kind == ErrorKind::Options && refused.to_string().contains("same address"),
            "{refused}"
        );
    }
    m.peer(0).behaviour.swallow = 1;
    m.submit_write(1, 1, 1);
    (0..300).for_each(|_| m.turn());
    assert!(m.initiator.remove_path(&mut m.io, m.id, 0));
    assert_eq!(m.wait(1).result, Ok(0), "goes on elsewhere");
    assert!(!m.initiator.remove_path(&mut m.io, m.id, 0) && !m.initiator.remove_path(&mut m.io, m.id, 1));
    let again = PathOptions { addr: addr(2), preference: 0 };
    assert_eq!(m.initiator.add_path(&mut m.io, m.id, again), Ok(0), "the place is used again");
    m.until("live", |m| m.paths().iter().all(|p| p.live));
    m.cut(1);
    assert_eq!(m.write(2, 2).result, Ok(0));
    let too_many = (0..40).map(|i| PathOptions { addr: ([192, 0, 2, 1], 5000 + i).into(), preference: 9 });
    let outcomes: Vec<_> = too_many.map(|p| m.initiator.add_path(&mut m.io, m.id, p)).collect();
    assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 30);
    assert!(outcomes.iter().flat_map(|o| o.as_ref().err()).all(|e| e.kind == ErrorKind::Options));
}

#[test]
fn a_path_that_stays_away_is_given_up_and_with_the_last_one_the_subsystem() {
    let mut m = Multi::new(16, two(), |o| {
        quick(o);
        o.loss_timeout_ms = Some(4000);
    });
    m.live();
    m.cut(0);
    m.until("given up", |m| m.paths()[0].given_up);
    assert!(m.notices.iter().any(|n| matches!(n, Notice::PathGivenUp { path: 0, .. })));
    assert_eq!(m.write(1, 1).result, Ok(0));
    m.cut(1);
    let before = m.io.now();
    m.submit_write(2, 2, 2);
    assert_eq!(m.wait(2).result, Err(Failure::Lost));
    assert!(m.io.now().since(before) >= 4_000_000_000);
    assert!(matches!(m.initiator.state(m.id), State::Lost(_)));
}

/// What was given up is no way, though it is still told of.
#[test]
fn the_last_path_that_is_not_given_up_stays() {
    let mut m = Multi::new(29, vec![Behaviour::default(); 3], |o| {
        quick(o);
        (o.loss_timeout_ms, o.paths) = (Some(4000), vec![PathOptions { addr: addr(1), preference: 0 }]);
    });
    m.live();
    m.cut(0);
    m.until("given up", |m| m.paths()[0].given_up);
    assert!(!m.initiator.remove_path(&mut m.io, m.id, 1));
    assert_eq!(m.write(1, 1).result, Ok(0));
    // When all places are taken, the next path has that of one that was given up; and then there is another way.
    let path = |port: u16| PathOptions { addr: ([192, 0, 2, 1], port).into(), preference: 9 };
    for port in 2..32 {
        assert_eq!(m.initiator.add_path(&mut m.io, m.id, path(port)), Ok(u8::try_from(port).unwrap()));
    }
    let another = PathOptions { addr: addr(2), preference: 0 };
    assert_eq!(m.initiator.add_path(&mut m.io, m.id, another), Ok(0), "also where one that was given up led");
    m.until("live", |m| m.paths()[0].live);
    assert!(m.initiator.remove_path(&mut m.io, m.id, 1));
    assert_eq!((m.write(2, 2).result, m.byte(2)), (Ok(0), 2));
    // One that was given up can be taken away.
    m.until("given up", |m| m.paths()[31].given_up);
    assert!(m.initiator.remove_path(&mut m.io, m.id, 31));
}

#[test]
fn with_fast_fail_nobody_waits_for_long() {
    let mut m = Multi::new(17, two(), |o| {
        quick(o);
        o.fast_fail_ms = Some(1000);
    });
    m.live();
    m.cut(0);
    m.cut(1);
    m.until("down", |m| m.initiator.state(m.id) == State::Connecting);
    let before = m.io.now();
    m.submit_write(1, 1, 1);
    assert_eq!(m.wait(1).result, Err(Failure::Lost));
    assert!((500_000_000..2_000_000_000).contains(&m.io.now().since(before)));
    let buf = m.buf(BLOCK, 1);
    let request = Request::new(2, Command::Read { nsid: 1, lba: 0, blocks: 1, buf });
    assert_eq!(m.initiator.submit(&mut m.io, m.id, request).map_err(|(_, e)| e), Err(SubmitError::Down));
    m.heal(0);
    m.until("back", |m| matches!(m.initiator.state(m.id), State::Live { .. }));
    assert_eq!(m.write(1, 2).result, Ok(0));
}

#[test]
fn commands_given_up_at_their_deadline_are_answered_once() {
    let mut m = Multi::new(18, two(), quick);
    m.live();
    m.peer(0).behaviour.swallow = 3;
    let (at, buf) = (m.io.now().plus_ms(100), m.buf(BLOCK, 1));
    m.submit(1, at, Command::Write { nsid: 1, lba: 1, blocks: 1, buf, fua: false });
    let buf = m.buf(BLOCK, 0);
    m.submit(2, at, Command::Read { nsid: 1, lba: 1, blocks: 1, buf });
    let buf = m.buf(BLOCK, 0);
    m.submit(3, NO_DEADLINE, Command::Read { nsid: 1, lba: 1, blocks: 1, buf });
    assert_eq!(m.wait(1).result, Err(Failure::Expired));
    assert_eq!(m.wait(2).result, Err(Failure::Expired));
    assert_eq!(m.wait(3).result, Ok(0), "its path ended with the write's deadline");
    m.world.heal(HOST, node(0));
    m.pass_ms(5000);
    assert!(m.completions.is_empty());
}
