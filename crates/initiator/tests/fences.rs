//! Changes whose outcome is unknown when a path is lost: what waits for them, and what must not.
#![allow(clippy::unwrap_used)] // tests

mod common;
#[path = "common/multi.rs"]
mod multi;

use common::{BLOCK, Behaviour};
use dolmen_initiator::{
    Command, ErrorKind, Failure, Fencing, NO_DEADLINE, Options, PathOptions, Policy, Request,
};
use dolmen_nvme::spec::notice;
use dolmen_types::Nanos;
use multi::{HOST, Multi, addr, node};

fn two() -> Vec<Behaviour> {
    vec![Behaviour::default(); 2]
}

fn quick(o: &mut Options) {
    (o.keep_alive_ms, o.io_timeout_ms, o.abort_timeout_ms) = (2000, 3000, 500);
}

/// The hazard of every failover: a controller that is cut off carries a change out late. With Fencing::Off it overwrites
/// what was written after it, which shows that this test can fail.
#[test]
fn late_changes_of_a_lost_controller_do_not_overwrite_newer_ones() {
    for fencing in [Fencing::Off, Fencing::Blocks, Fencing::Commands] {
        let slow = Behaviour { quiesce_ms: 5000, ..Behaviour::default() };
        let mut m = Multi::new(5, vec![slow.clone(), slow], |o| {
            quick(o);
            o.fencing = fencing;
        });
        m.live();
        m.peer(0).behaviour.hold = true;
        m.submit_write(1, 3, 0x11);
        m.until("held", |m| m.peer(0).held() == 1);
        m.cut(0);
        let lost = m.io.now();
        m.turn();
        // What does not overlap is never held up.
        assert_eq!(m.write(4, 0x44).result, Ok(0));
        assert!(m.io.now().since(lost) < 1_000_000_000);
        if fencing != Fencing::Commands {
            assert_eq!(m.wait(1).result, Ok(0));
            assert!(m.io.now().since(lost) < 1_000_000_000);
            assert_eq!(m.byte(3), 0x11);
        }
        m.submit_write(2, 3, 0x22);
        // The slow controller has noticed at last and ends what it had, within the time that it promised.
        m.pass_ms(2 * 2000 + 4900);
        assert_eq!(m.done(2), fencing == Fencing::Off);
        m.peer(0).carry_out();
        assert_eq!(m.peer(0).counts.late, 1);
        if fencing == Fencing::Commands {
            assert_eq!(m.wait(1).result, Ok(0));
        }
        assert_eq!(m.wait(2).result, Ok(0));
        let found = m.byte(3);
        match fencing {
            Fencing::Off => assert_eq!(found, 0x11, "the hazard is real"),
            // Both were under way together: either may be the last.
            Fencing::Commands => assert!([0x11, 0x22].contains(&found)),
            Fencing::Blocks => assert_eq!(found, 0x22),
        }
        let settled = found;
        m.pass_ms(10_000);
        assert_eq!(m.byte(3), settled);
    }
}

/// The same when the other path is added only after the first one was lost, as when a port has moved.
#[test]
fn a_path_added_later_takes_what_waits_and_keeps_to_the_fences() {
    let slow = Behaviour { quiesce_ms: 5000, ..Behaviour::default() };
    let mut m = Multi::new(25, vec![slow], quick);
    m.live();
    m.peer(0).behaviour.hold = true;
    m.submit_write(1, 3, 0x11);
    m.until("held", |m| m.peer(0).held() == 1);
    m.cut(0);
    let lost = m.io.now();
    m.until("lost", |m| !m.paths()[0].live);
    // Before there is another path, and after.
    m.submit_write(2, 3, 0x22);
    m.submit_write(4, 4, 0x44);
    m.join(Behaviour::default());
    m.until("live", |m| m.paths()[1].live);
    m.submit_write(5, 3, 0x55);
    m.pass_ms(1000);
    assert!(m.done(1) && m.done(4), "nothing stays behind");
    assert!(!m.done(2) && !m.done(5), "the blocks are fenced");
    m.until("the last moment", |m| m.io.now() >= lost.plus_ms(2 * 2000 + 4900));
    assert!(!m.done(2) && !m.done(5));
    m.peer(0).carry_out();
    assert_eq!((m.peer(0).counts.late, m.wait(2).result, m.wait(5).result), (1, Ok(0), Ok(0)));
    let settled = m.byte(3);
    assert!([0x22, 0x55].contains(&settled));
    m.pass_ms(10_000);
    assert_eq!(m.byte(3), settled);
}

/// One path alone is not fenced: what comes later goes behind what came before.
#[test]
fn one_path_waits_for_no_fence() {
    let slow = Behaviour { quiesce_ms: 5000, ..Behaviour::default() };
    let mut m = Multi::new(26, vec![slow], quick);
    m.live();
    m.peer(0).behaviour.swallow = 1;
    m.submit_write(1, 3, 0x11);
    (0..300).for_each(|_| m.turn());
    let (io, peer) = &mut m.peers[0];
    peer.drop_all(io);
    m.until("lost", |m| !m.paths()[0].live);
    let before = m.io.now();
    m.submit_write(2, 3, 0x22);
    assert_eq!((m.wait(1).result, m.wait(2).result, m.write(3, 0x33).result), (Ok(0), Ok(0), Ok(0)));
    assert!(m.io.now().since(before) < 1_000_000_000);
}

/// Nor is that needed against what a lost connection had still to send, which another one would overtake: it never arrives.
#[test]
fn what_a_lost_connection_had_to_send_never_arrives() {
    for seed in 0..10 {
        let mut m = Multi::new(seed, vec![Behaviour { quiesce_ms: 5000, ..Behaviour::default() }], quick);
        m.live();
        m.world.partition(HOST, node(0));
        let (deadline, buf) = (m.io.now().plus_ms(500), m.buf(BLOCK, 0x11));
        m.submit(1, deadline, Command::Write { nsid: 1, lba: 3, blocks: 1, buf, fua: false });
        assert_eq!(m.wait(1).result, Err(Failure::Expired));
        let before = m.io.now();
        m.world.heal_and_resend_after(HOST, node(0), 3000);
        assert_eq!(m.write(3, 0x22).result, Ok(0));
        assert!(m.io.now().since(before) < 1_000_000_000);
        m.pass_ms(5000);
        assert_eq!(m.byte(3), 0x22, "seed {seed}");
    }
}

/// A controller that is never told when to notice a loss can't be fenced: a second path is refused then.
#[test]
fn several_paths_take_a_keep_alive_or_no_fences() {
    for fencing in [Fencing::Blocks, Fencing::Off] {
        let mut m = Multi::new(27, two(), |o| {
            o.paths.clear();
            (o.keep_alive_ms, o.fencing) = (0, fencing);
        });
        m.live();
        let path = PathOptions { addr: addr(1), preference: 0 };
        let added = m.initiator.add_path(&mut m.io, m.id, path);
        assert_eq!(
            added.map_err(|e| e.kind),
            if fencing == Fencing::Off { Ok(1) } else { Err(ErrorKind::Options) }
        );
    }
}

/// Two changes of one block under way together on two paths, one of which is lost: the one that is sent again must not be
/// answered before its twin can no longer be carried out.
#[test]
fn overlapping_changes_on_two_paths_are_held_together() {
    let slow = Behaviour { quiesce_ms: 1000, ..Behaviour::default() };
    let mut m = Multi::new(6, vec![slow.clone(), slow], |o| {
        quick(o);
        o.policy = Policy::RoundRobin;
    });
    m.live();
    m.peer(0).behaviour.hold = true;
    m.peer(1).behaviour.hold = true;
    m.submit_write(1, 3, 0x11);
    m.submit_write(2, 3, 0x22);
    m.until("held", |m| m.peer(0).held() + m.peer(1).held() == 2);
    m.cut(0);
    m.peer(1).behaviour.hold = false;
    m.pass_ms(500);
    m.peer(1).carry_out();
    m.pass_ms(1000);
    assert!(m.peer(1).held() == 0 && m.completions.len() == 1, "the lost one waits");
    m.peer(0).carry_out();
    m.until("both", |m| m.done(1) && m.done(2));
    assert!(m.completions.drain(..).all(|c| c.result == Ok(0)));
    let settled = m.byte(3);
    m.pass_ms(10_000);
    assert_eq!(m.byte(3), settled);
}

#[test]
fn a_controller_that_ended_the_connection_itself_needs_no_keep_alive_time() {
    let slow = Behaviour { quiesce_ms: 500, ..Behaviour::default() };
    let mut m = Multi::new(7, vec![slow.clone(), slow], |o| o.keep_alive_ms = 60_000);
    m.live();
    m.peer(0).behaviour.swallow = 1;
    m.submit_write(1, 3, 0x11);
    (0..300).for_each(|_| m.turn());
    let (io, peer) = &mut m.peers[0];
    peer.drop_all(io);
    assert_eq!(m.wait(1).result, Ok(0));
    let before = m.io.now();
    assert_eq!(m.write(3, 0x22).result, Ok(0));
    let waited = m.io.now().since(before);
    assert!((400_000_000..2_000_000_000).contains(&waited), "CQT alone: {waited}");
}

/// Holds a write of block 3 on the first I/O queue of path 0, whose controller then ends the other one; until we hear of that.
fn one_queue_ends(m: &mut Multi) {
    m.peer(0).behaviour.hold = true;
    let buf = m.buf(BLOCK, 0x11);
    let command = Command::Write { nsid: 1, lba: 3, blocks: 1, buf, fua: false };
    let request = Request { ticket: 1, deadline: NO_DEADLINE, queue: Some(0), command };
    m.initiator.submit(&mut m.io, m.id, request).map_err(|(_, e)| e).unwrap();
    m.until("held", |m| m.peer(0).held() == 1);
    let (io, peer) = &mut m.peers[0];
    peer.drop_queue(io, 2);
    m.until("heard", |m| !m.paths()[0].live);
}

/// What is written to a block now waits until that time at least, and comes behind what a path's controller carries out only then.
fn write_behind_the_fence(m: &mut Multi, lba: u64, (path, until): (usize, Nanos)) {
    m.submit_write(99, lba, 0x22);
    m.until("the last moment", |m| m.io.now() >= until);
    assert!(!m.done(99), "the block is fenced");
    m.peer(path).carry_out();
    assert_eq!((m.wait(99).result, m.byte(lba)), (Ok(0), 0x22));
}

/// The other queues of the controller live on, and so may what is on its way to them.
#[test]
fn an_io_queue_that_ends_does_not_prove_that_its_controller_has_ended() {
    let slow = Behaviour { quiesce_ms: 500, ..Behaviour::default() };
    let mut m = Multi::new(43, vec![slow.clone(), slow], quick);
    m.live();
    one_queue_ends(&mut m);
    // Nothing that we say from now on reaches it.
    m.world.partition(HOST, node(0));
    let lost = m.io.now();
    assert_eq!(m.wait(1).result, Ok(0));
    write_behind_the_fence(&mut m, 3, (0, lost.plus_ms(2 * 2000 + 400)));
}

/// It is asked to end the others as well, and what it confirms is proof.
#[test]
fn a_controller_that_ended_one_queue_is_reset_and_needs_no_keep_alive_time() {
    let slow = Behaviour { quiesce_ms: 500, ..Behaviour::default() };
    let mut m = Multi::new(44, vec![slow.clone(), slow], |o| o.keep_alive_ms = 60_000);
    m.live();
    one_queue_ends(&mut m);
    let lost = m.io.now();
    assert_eq!((m.wait(1).result, m.write(3, 0x22).result), (Ok(0), Ok(0)));
    let waited = m.io.now().since(lost);
    assert!((400_000_000..2_000_000_000).contains(&waited), "CQT alone: {waited}");
    assert_eq!((m.peer(0).counts.resets, m.paths()[0].statistics.losses, m.byte(3)), (1, 1, 0x22));
}

/// Each path has a time of its own until what was under way on it is over.
#[test]
fn changes_that_expire_together_on_several_paths_are_fenced_by_their_own() {
    let slow = Behaviour { quiesce_ms: 5000, ..Behaviour::default() };
    let mut m = Multi::new(45, vec![Behaviour::default(), slow.clone(), slow], |o| {
        quick(o);
        o.policy = Policy::RoundRobin;
    });
    m.live();
    m.peer(0).behaviour.hold = true;
    m.peer(1).behaviour.hold = true;
    let deadline = m.io.now().plus_ms(500);
    for lba in 3..6 {
        let buf = m.buf(BLOCK, 0x11);
        m.submit(lba, deadline, Command::Write { nsid: 1, lba, blocks: 1, buf, fua: false });
    }
    m.until("held", |m| m.peer(0).held() == 1 && m.peer(1).held() == 1);
    let lba = m.peer(1).held_blocks()[0];
    m.until("expired", |m| m.completions.len() == 3);
    assert_eq!(m.completions.iter().filter(|c| c.result == Err(Failure::Expired)).count(), 2);
    let lost = m.io.now();
    m.peer(0).behaviour.hold = false;
    m.peer(1).behaviour.hold = false;
    write_behind_the_fence(&mut m, lba, (1, lost.plus_ms(2 * 2000 + 4900)));
}

/// Of a pair whose compare is answered the write may still be carried out.
#[test]
fn a_pair_that_expires_half_answered_is_fenced() {
    let slow = Behaviour { quiesce_ms: 5000, ..Behaviour::default() };
    let mut m = Multi::new(46, vec![slow.clone(), slow], quick);
    m.live();
    m.peer(0).behaviour.hold = true;
    let (compare, write) = (m.buf(BLOCK, 0), m.buf(BLOCK, 0x11));
    let deadline = m.io.now().plus_ms(500);
    m.submit(1, deadline, Command::CompareAndWrite { nsid: 1, lba: 3, blocks: 1, compare, write });
    m.until("held", |m| m.peer(0).held() == 2);
    m.peer(0).carry_out_first(1);
    assert_eq!(m.wait(1).result, Err(Failure::Expired));
    let lost = m.io.now();
    m.peer(0).behaviour.hold = false;
    write_behind_the_fence(&mut m, 3, (0, lost.plus_ms(2 * 2000 + 4900)));
}

/// What a path sends on its own behalf changes no blocks, on whichever queue: nothing waits for it.
#[test]
fn a_reconnect_that_fails_fences_nothing() {
    let slow = Behaviour { quiesce_ms: 5000, ..Behaviour::default() };
    let mut m = Multi::new(40, vec![slow.clone(), slow], quick);
    m.live();
    m.cut(0);
    m.until("lost", |m| !m.paths()[0].live);
    m.peer(0).behaviour.mute = true;
    m.heal(0);
    for attempt in 1..4 {
        // Each opens two queues and hears nothing of them.
        m.until("asked for its queues", |m| m.peer(0).counts.muted == 2 * attempt);
        let (io, peer) = &mut m.peers[0];
        peer.drop_all(io);
        m.pass_ms(50);
        let before = m.io.now();
        assert_eq!(m.write(3, 0x33).result, Ok(0));
        assert!(m.io.now().since(before) < 1_000_000_000, "the healthy path serves");
    }
    assert_eq!(m.paths()[0].statistics.losses, 1);
}

#[test]
fn a_look_at_a_namespace_fences_nothing() {
    let slow = Behaviour { quiesce_ms: 5000, ..Behaviour::default() };
    let mut m = Multi::new(41, vec![slow.clone(), slow], quick);
    m.live();
    m.peer(1).behaviour.hold_identity = true;
    m.peer(1).raise(notice::NAMESPACE_CHANGED.dword());
    m.peer(0).behaviour.hold = true;
    m.pass_ms(20);
    m.submit_write(1, 3, 0x11);
    m.until("asked", |m| m.peer(0).held() == 1 && m.peer(1).asking() == 1);
    m.cut(0);
    m.until("lost", |m| !m.paths()[0].live);
    let lost = m.io.now();
    m.peer(1).behaviour.hold_identity = false;
    m.submit_write(2, 4, 0x22);
    assert_eq!((m.wait(1).result, m.wait(2).result), (Ok(0), Ok(0)));
    assert!(m.io.now().since(lost) < 1_000_000_000, "nothing else was under way");
}

/// The fence of a change is not in its own way, in however many pieces it goes on.
#[test]
fn a_change_that_goes_on_in_pieces_passes_its_own_fence() {
    let long = Behaviour { quiesce_ms: 5000, max_transfer: 5, ..Behaviour::default() };
    let short = Behaviour { max_transfer: 3, ..long.clone() };
    let mut m = Multi::new(42, vec![long, short], quick);
    m.cut(1);
    m.until("one live", |m| m.paths()[0].live);
    assert_eq!(m.read(0).result, Ok(0));
    m.peer(0).behaviour.hold = true;
    let (blocks, bytes) = (32, 32 * BLOCK);
    let buf = m.buf(bytes, 0x11);
    m.submit(1, NO_DEADLINE, Command::Write { nsid: 1, lba: 0, blocks, buf, fua: false });
    m.until("held", |m| m.peer(0).held() == 1);
    m.heal(1);
    m.until("both live", |m| m.paths()[1].live);
    m.cut(0);
    m.until("lost", |m| !m.paths()[0].live);
    let lost = m.io.now();
    m.submit_write(2, 20, 0x22);
    let done = m.wait(1);
    assert_eq!((done.result, done.buf.unwrap().len()), (Ok(0), bytes));
    assert!(m.io.now().since(lost) < 1_000_000_000, "waits for nobody");
    assert!(m.peer(1).counts.writes == 4 && m.peer(1).counts.too_long == 0);
    // Others still do.
    assert!(!m.done(2));
    m.peer(0).carry_out();
    assert_eq!((m.wait(2).result, m.byte(20), m.byte(21)), (Ok(0), 0x22, 0x11));
}
