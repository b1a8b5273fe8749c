//! The polled face when things go wrong: lost connections in the middle of verified I/O, deadlines, silent and lying
//! controllers.
#![allow(clippy::unwrap_used)] // tests

mod common;
#[path = "common/pair.rs"]
mod pair;

use common::{BLOCK, Behaviour, namespace};
use dolmen_initiator::{
    Command, Data, ErrorKind, Failure, NO_DEADLINE, Notice, Request, Resend, State, SubmitError,
    load::{Load, LoadOptions, Mix, Pattern, Rng},
    spare_buffers,
};
use dolmen_io::PoolConfig;
use dolmen_nvme::{
    spec::{NvmOpcode, Sqe},
    tcp::Digests,
};
use pair::{HOST, Pair, TARGET};

fn load_options(seed: u64) -> LoadOptions {
    LoadOptions {
        region_start: 64 * 4096,
        region_bytes: 900 * 4096,
        size_bytes: 8192,
        depth: 16,
        queues: 2,
        mix: Mix { reads: 40, zeroes: 10 },
        verify: Some(0xd01),
        seed,
        ..LoadOptions::new(namespace())
    }
}

/// Drives a load until it is done; `trouble` is called every turn.
fn drive(p: &mut Pair, load: &mut Load, mut trouble: impl FnMut(&mut Pair, u64)) {
    for turn in 0.. {
        for completion in std::mem::take(&mut p.completions) {
            load.on_completion(completion);
        }
        if load.is_done() {
            return;
        }
        load.step(&mut p.io, &mut p.initiator);
        p.turn();
        trouble(p, turn);
        assert!(turn < 2_000_000, "stuck: {:?} {:?}", p.initiator.state(p.id), p.notices.last());
    }
}

fn sweep(p: &mut Pair, load: &mut Load) {
    let units = load.units();
    load.set_work(Pattern::Sequential, Mix::READ, units);
    drive(p, load, |_, _| {});
    let stats = load.stats();
    assert_eq!((stats.violations, &stats.first_violation), (0, &None));
    assert!(stats.reads >= units);
}

/// Whatever happens to connections, every command ends well and every block holds what it must.
#[test]
fn verified_load_through_resets_drops_and_partitions() {
    for seed in 0..6 {
        let digests = if seed % 2 == 0 { Digests::BOTH } else { Digests::NONE };
        let behaviour =
            Behaviour { digests, in_capsule_bytes: 4096 * (seed % 3) as u32, ..Behaviour::default() };
        let mut p = Pair::new(seed, behaviour, |o| {
            o.digests = dolmen_initiator::Digests { header: true, data: true };
            o.keep_alive_ms = 2000;
            o.io_timeout_ms = 3000;
        });
        p.live();
        let mut load = Load::new(p.id, load_options(seed)).unwrap();
        load.set_work(Pattern::Random, Mix { reads: 40, zeroes: 10 }, 6000);
        let mut rng = Rng::new(seed);
        let mut cut = 0;
        drive(&mut p, &mut load, |p, turn| {
            if cut > 0 {
                cut -= 1;
                if cut == 0 {
                    p.world.heal(HOST, TARGET);
                }
                return;
            }
            match rng.below(2500) {
                0 => p.world.reset(HOST, TARGET),
                1 => p.peer.drop_all(&mut p.peer_io),
                2 if turn > 50 => {
                    p.world.partition(HOST, TARGET);
                    cut = 1 + rng.below(4000);
                }
                3 => p.peer.behaviour.swallow = 1,
                _ => {}
            }
        });
        p.world.heal(HOST, TARGET);
        p.peer.behaviour.swallow = 0;
        assert_eq!((load.stats().errors, load.stats().first_error), (0, None));
        let lost = p.notices.iter().filter(|n| matches!(n, Notice::PathLost { .. })).count();
        assert!(lost > 0, "seed {seed}: nothing was lost, the test is too kind");
        sweep(&mut p, &mut load);
    }
}

#[test]
fn a_wrong_data_digest_costs_a_retry_and_a_wrong_header_digest_the_connection() {
    let mut p = Pair::new(1, Behaviour { success_flag: false, ..Behaviour::default() }, |o| {
        o.digests = dolmen_initiator::Digests { header: true, data: true };
    });
    p.live();
    p.write(3, 1, 0x33);
    p.peer.behaviour.corrupt_at = Some(p.peer.sent_bytes() + 500);
    assert!(p.read(3, 1).buf.unwrap().iter().all(|&b| b == 0x33));
    assert!(p.peer.behaviour.corrupt_at.is_none() && p.peer.counts.reads == 2);
    p.notices.clear();
    p.peer.behaviour.corrupt_at = Some(p.peer.sent_bytes() + 9);
    assert!(p.read(3, 1).buf.unwrap().iter().all(|&b| b == 0x33));
    assert!(
        p.notices
            .iter()
            .any(|n| matches!(n, Notice::PathLost { error, .. } if error.kind == ErrorKind::Protocol))
    );
}

#[test]
fn deadlines_end_commands_wherever_they_are() {
    let mut p = Pair::new(2, Behaviour { swallow: 1, ..Behaviour::default() }, |_| {});
    p.live();
    p.notices.clear();
    // A read that the controller swallows: its caller gets the buffer back, the connection stays.
    let (at, buf) = (p.io.now().plus_ms(100), p.buf(BLOCK, 0));
    p.submit_by(1, at, Command::Read { nsid: 1, lba: 0, blocks: 1, buf });
    let done = p.wait(1);
    assert_eq!((done.result, done.buf.is_some()), (Err(Failure::Expired), true));
    assert!(done.completed >= at && p.notices.is_empty());
    assert_eq!(p.write(1, 1, 1).result, Ok(0));
    // A write: it must not be carried out later, so its association ends.
    p.peer.behaviour.swallow = 1;
    let (at, buf) = (p.io.now().plus_ms(100), p.buf(64 * BLOCK, 9));
    p.submit_by(2, at, Command::Write { nsid: 1, lba: 0, blocks: 64, buf, fua: false });
    let done = p.wait(2);
    assert_eq!((done.result, done.buf.map(|b| b.len())), (Err(Failure::Expired), Some(64 * BLOCK)));
    assert!(p.notices.iter().any(|n| matches!(n, Notice::PathLost { .. })));
    p.live();
    assert_eq!(p.write(1, 1, 1).result, Ok(0));
    // One that waits while the controller is away.
    p.world.partition(HOST, TARGET);
    p.world.reset(HOST, TARGET);
    p.until("down", |p| p.initiator.state(p.id) == State::Connecting);
    let at = p.io.now().plus_ms(100);
    p.submit_by(3, at, Command::Flush { nsid: 1 });
    assert_eq!(p.wait(3).result, Err(Failure::Expired));
}

/// A silent controller and impatient callers: what was given up keeps its identifier, and nothing overflows.
#[test]
fn many_commands_given_up_are_bounded() {
    let mut p = Pair::new(8, Behaviour { swallow: usize::MAX, ..Behaviour::default() }, |o| {
        (o.queue_depth, o.backlog) = (8, 4);
        o.io_timeout_ms = 2000;
    });
    p.live();
    let (mut ticket, mut full) = (0, false);
    for _ in 0..20 {
        loop {
            let (deadline, buf) = (p.io.now().plus_ms(20), p.buf(BLOCK, 0));
            let command = Command::Read { nsid: 1, lba: 0, blocks: 1, buf };
            let request = Request { ticket, deadline, queue: None, command };
            ticket += 1;
            if p.initiator.submit(&mut p.io, p.id, request).is_err() {
                full = true;
                break;
            }
        }
        let before = p.io.now();
        p.until("the deadlines", |p| p.io.now().since(before) > 50_000_000);
        assert_eq!(p.completions.drain(..).filter(|c| c.result == Err(Failure::Expired)).count(), 20);
    }
    assert!(full);
    p.peer.behaviour.swallow = 0;
    assert_eq!(p.write(0, 1, 1).result, Ok(0));
}

#[test]
fn a_load_that_is_too_large_says_so() {
    let mut p = Pair::new(9, Behaviour { max_transfer: 1, ..Behaviour::default() }, |_| {});
    p.live();
    let options = LoadOptions { size_bytes: 64 * 1024, region_start: 0, ..load_options(1) };
    let mut load = Load::new(p.id, options).unwrap();
    load.step(&mut p.io, &mut p.initiator);
    assert!(load.is_done());
    assert_eq!(load.stats().first_error, Some(Failure::NotTaken(SubmitError::TooLarge)));
}

/// Whatever else wakes us or does not, a command that stays unanswered has its own time.
#[test]
fn a_command_that_is_swallowed_is_noticed_in_its_time() {
    for keep_alive_ms in [0, 60_000] {
        let mut p = Pair::new(11, Behaviour::default(), |o| {
            (o.keep_alive_ms, o.io_timeout_ms) = (keep_alive_ms, 500);
        });
        p.live();
        let before = p.io.now();
        p.until("some time", |p| p.io.now().since(before) > 10_000_000_000);
        p.peer.behaviour.swallow = 1;
        let before = p.io.now();
        assert_eq!(p.write(1, 1, 1).result, Ok(0));
        let took = p.io.now().since(before);
        assert!((500_000_000..2_000_000_000).contains(&took), "{keep_alive_ms}: {took}");
        // The same for what was sent again.
        p.peer.behaviour.swallow = 1;
        let buf = p.buf(BLOCK, 1);
        p.submit(7, Command::Write { nsid: 1, lba: 1, blocks: 1, buf, fua: false });
        (0..50).for_each(|_| p.turn());
        p.peer.drop_all(&mut p.peer_io);
        p.until("lost", |p| p.initiator.state(p.id) == State::Connecting);
        p.peer.behaviour.swallow = 1;
        let before = p.io.now();
        assert_eq!(p.wait(7).result, Ok(0));
        let took = p.io.now().since(before);
        assert!((500_000_000..2_500_000_000).contains(&took), "{keep_alive_ms}: {took}");
    }
}

#[test]
fn a_silent_controller_is_noticed() {
    // By its keep-alive ...
    let mut p = Pair::new(3, Behaviour { deaf: true, ..Behaviour::default() }, |o| o.keep_alive_ms = 1000);
    p.live();
    p.until("lost", |p| p.notices.iter().any(|n| matches!(n, Notice::PathLost { .. })));
    assert!(
        p.initiator.identity(p.id).is_some(),
        "what is known of a controller stays known while it is away"
    );
    p.peer.behaviour.deaf = false;
    while p.initiator.state(p.id) == State::Connecting {
        assert!(p.initiator.identity(p.id).is_some());
        p.turn();
    }
    p.live();
    // ... or by a command without an answer, which is then sent again.
    let mut p = Pair::new(4, Behaviour { swallow: 1, ..Behaviour::default() }, |o| o.io_timeout_ms = 500);
    p.live();
    let before = p.io.now();
    assert_eq!(p.write(7, 2, 5).result, Ok(0));
    assert!(p.io.now().since(before) >= 500_000_000);
    assert!(p.peer.data[7 * BLOCK..9 * BLOCK].iter().all(|&b| b == 5));
}

#[test]
fn what_must_not_be_repeated_fails_with_its_connection() {
    let mut p = Pair::new(5, Behaviour { swallow: 1, ..Behaviour::default() }, |_| {});
    p.live();
    let sqe = Sqe { nsid: 1.into(), ..Sqe::new(NvmOpcode::RESERVATION_ACQUIRE.0, 0) };
    let data = Data::ToController(p.buf(16, 1));
    p.submit(1, Command::Io { sqe, data, resend: Resend::Never });
    (0..300).for_each(|_| p.turn());
    assert!(p.completions.is_empty());
    p.world.reset(HOST, TARGET);
    let done = p.wait(1);
    assert_eq!((done.result, done.buf.is_some()), (Err(Failure::Lost), true));
    p.live();
}

/// A pair is lost while a send still holds its payloads, and its second half is found first: it has the smaller slot.
#[test]
fn a_lost_pair_is_answered_once() {
    const LARGE: u32 = 16;
    let behaviour = Behaviour { in_capsule_bytes: LARGE * 4096, ..Behaviour::default() };
    let mut p = Pair::new(12, behaviour, |o| {
        (o.io_queues, o.queue_depth, o.keep_alive_ms) = (1, 16, 1000);
    });
    p.live();
    // Slots that are freed in order are taken in reverse.
    for ticket in 0..10 {
        let buf = p.buf(BLOCK, 0);
        p.submit(ticket, Command::Read { nsid: 1, lba: 0, blocks: 1, buf });
    }
    (0..10).for_each(|ticket| assert_eq!(p.wait(ticket).result, Ok(0)));
    p.world.partition(HOST, TARGET);
    for ticket in 0..6 {
        let buf = p.buf(LARGE as usize * BLOCK, 1);
        p.submit(ticket, Command::Write { nsid: 1, lba: 0, blocks: LARGE, buf, fua: false });
    }
    let (compare, write) = (p.buf(BLOCK, 1), p.buf(BLOCK, 2));
    p.submit(6, Command::CompareAndWrite { nsid: 1, lba: 0, blocks: 1, compare, write });
    p.until("lost", |p| p.initiator.state(p.id) == State::Connecting);
    p.world.heal(HOST, TARGET);
    (0..6).for_each(|ticket| assert_eq!(p.wait(ticket).result, Ok(0)));
    let pair = p.wait(6);
    assert_eq!((pair.result, pair.buf.map(|b| b[0])), (Err(Failure::Lost), Some(2)));
    assert_eq!(p.read(0, 1).result, Ok(0));
    assert!(p.completions.is_empty(), "each was answered once");
}

#[test]
fn a_controller_that_stays_away_is_given_up() {
    let mut p = Pair::new(6, Behaviour::default(), |o| {
        o.loss_timeout_ms = Some(5000);
        // The limit falls between two attempts.
        (o.reconnect_min_ms, o.reconnect_max_ms) = (4000, 4000);
    });
    p.live();
    assert_eq!(p.read(0, 1).result, Ok(0));
    let buf = p.buf(BLOCK, 1);
    p.world.partition(HOST, TARGET);
    p.world.reset(HOST, TARGET);
    let since = p.io.now();
    p.submit(1, Command::Write { nsid: 1, lba: 0, blocks: 1, buf, fua: false });
    let done = p.wait(1);
    assert_eq!((done.result, done.buf.is_some()), (Err(Failure::Lost), true));
    let away_ns = p.io.now().since(since);
    assert!((5_000_000_000..5_200_000_000).contains(&away_ns), "{away_ns}");
    assert!(matches!(p.initiator.state(p.id), State::Lost(_)));
}

/// A controller that comes and goes is not connected to ever and ever again without a pause; one that has stayed is, at once.
#[test]
fn a_controller_that_does_not_stay_is_left_alone_for_longer_and_longer() {
    let mut p = Pair::new(12, Behaviour::default(), |o| o.reconnect_max_ms = 5000);
    let end = p.io.now().plus_ms(60_000);
    while p.io.now() < end {
        if matches!(p.initiator.state(p.id), State::Live { .. }) {
            p.peer.drop_all(&mut p.peer_io);
            p.until("lost", |p| p.initiator.state(p.id) == State::Connecting);
        }
        p.turn();
    }
    // 50 ms doubled seven times are 5 s, after about 10; then one each 4 to 5 s.
    let made = p.initiator.statistics(p.id, 0).unwrap().connects;
    assert!((15..25).contains(&made), "{made}");
    p.live();
    let stayed = p.io.now().plus_ms(6000);
    p.until("it has stayed", |p| p.io.now() >= stayed);
    let before = p.io.now();
    p.peer.drop_all(&mut p.peer_io);
    p.until("lost", |p| p.initiator.state(p.id) == State::Connecting);
    p.live();
    assert!(p.io.now().since(before) < 100_000_000, "the pause is the shortest again");
}

/// Its controller is connected to again and again, and ends each association as soon as it is live.
fn comes_and_goes(p: &mut Pair) {
    p.peer.behaviour.swallow = usize::MAX;
    for _ in 0..100_000 {
        if !p.completions.is_empty() {
            return;
        }
        if matches!(p.initiator.state(p.id), State::Live { .. }) {
            p.peer.drop_all(&mut p.peer_io);
        }
        p.turn();
    }
    panic!("nothing ends: {:?}, {:?}", p.initiator.state(p.id), p.peer.counts);
}

#[test]
fn a_controller_that_comes_and_goes_is_away_all_the_time() {
    let mut p = Pair::new(13, Behaviour::default(), |o| {
        (o.loss_timeout_ms, o.reconnect_max_ms) = (Some(10_000), 2000);
    });
    p.live();
    assert_eq!(p.write(0, 1, 1).result, Ok(0));
    let since = p.io.now();
    let buf = p.buf(BLOCK, 1);
    p.submit(1, Command::Write { nsid: 1, lba: 0, blocks: 1, buf, fua: false });
    comes_and_goes(&mut p);
    assert_eq!(p.completions[0].result, Err(Failure::Lost));
    let away_ns = p.io.now().since(since);
    assert!((10_000_000_000..10_500_000_000).contains(&away_ns), "{away_ns}");
    assert!(matches!(p.initiator.state(p.id), State::Lost(_)));
    assert!(p.initiator.statistics(p.id, 0).unwrap().connects > 5);
}

#[test]
fn with_fast_fail_nobody_waits_for_a_controller_that_comes_and_goes() {
    let mut p = Pair::new(14, Behaviour::default(), |o| {
        (o.fast_fail_ms, o.reconnect_max_ms) = (Some(3000), 1000);
    });
    p.live();
    assert_eq!(p.write(0, 1, 1).result, Ok(0));
    let buf = p.buf(BLOCK, 1);
    p.submit(1, Command::Write { nsid: 1, lba: 0, blocks: 1, buf, fua: false });
    let since = p.io.now();
    comes_and_goes(&mut p);
    assert_eq!(p.completions[0].result, Err(Failure::Lost));
    assert!((3_000_000_000..3_500_000_000).contains(&p.io.now().since(since)));
    // Whatever it answers, it is back.
    p.peer.behaviour.swallow = 0;
    p.completions.clear();
    p.live();
    assert_eq!(p.write(0, 1, 1).result, Ok(0));
}

#[test]
fn a_controller_that_takes_commands_and_answers_none_is_given_up() {
    let mut p = Pair::new(15, Behaviour::default(), |o| {
        (o.io_timeout_ms, o.abort_timeout_ms) = (3000, 0);
        (o.loss_timeout_ms, o.reconnect_max_ms) = (Some(10_000), 2000);
    });
    p.live();
    // Nothing was asked of it for longer than the loss timeout: it was not away.
    let asked_at = p.io.now().plus_ms(60_000);
    p.until("it is asked", |p| p.io.now() >= asked_at);
    p.peer.behaviour.swallow = 2;
    assert_eq!(p.write(0, 1, 1).result, Ok(0));
    assert_eq!(p.initiator.statistics(p.id, 0).unwrap().losses, 2);
    p.peer.behaviour.swallow = usize::MAX;
    let since = p.io.now();
    assert_eq!(p.write(0, 1, 1).result, Err(Failure::Lost));
    // From the end of the one that had answered on, with the last one's time to answer.
    let away_ns = p.io.now().since(since);
    assert!((13_000_000_000..17_000_000_000).contains(&away_ns), "{away_ns}");
    assert!(matches!(p.initiator.state(p.id), State::Lost(_)));
}

/// Nor does it hold up what comes behind it.
#[test]
fn a_pair_that_no_queue_has_room_for_is_refused() {
    let mut p = Pair::new(16, Behaviour { entries: 2, ..Behaviour::default() }, |_| {});
    p.live();
    let (compare, write) = (p.buf(BLOCK, 1), p.buf(BLOCK, 2));
    p.submit(1, Command::CompareAndWrite { nsid: 1, lba: 0, blocks: 1, compare, write });
    for ticket in 2..6 {
        let buf = p.buf(BLOCK, 0);
        p.submit(ticket, Command::Read { nsid: 1, lba: 0, blocks: 1, buf });
    }
    let pair = p.wait(1);
    assert!(matches!(pair.result, Err(Failure::Status(_))), "{:?}", pair.result);
    assert_eq!(pair.buf.map(|b| b[0]), Some(2));
    (2..6).for_each(|ticket| assert_eq!(p.wait(ticket).result, Ok(0)));
}

#[test]
fn disconnecting_returns_every_command() {
    let mut p = Pair::new(7, Behaviour { swallow: 5, ..Behaviour::default() }, |_| {});
    p.live();
    for ticket in 0..20 {
        let buf = p.buf(16 * BLOCK, 3);
        p.submit(ticket, Command::Write { nsid: 1, lba: 0, blocks: 16, buf, fua: false });
        p.turn();
    }
    p.initiator.disconnect(&mut p.io, p.id);
    p.until("closed", |p| p.initiator.state(p.id) == State::Closed && p.completions.len() == 20);
    assert!(p.completions.iter().all(|c| c.buf.as_ref().is_some_and(|b| b.len() == 16 * BLOCK)));
    let gone = p.completions.iter().filter(|c| c.result == Err(Failure::Disconnected)).count();
    assert!(gone >= 5);
    p.completions.clear();
    (0..200).for_each(|_| p.turn());
    let free = p.io.pool().available(1);
    let whole = dolmen_io::Pool::new(&dolmen_io::PoolConfig::sized(32 << 20)).available(1);
    assert!(whole - free <= 4, "{} buffers leaked", whole - free);
}

/// A controller that sends damaged bytes anywhere in its stream: never a panic, never a wrong byte with digests on,
/// and all is well again after it stops.
#[test]
fn damaged_bytes_from_the_peer_never_harm() {
    for seed in 0..150u64 {
        let mut rng = Rng::new(seed);
        let digests = if seed % 2 == 0 { Digests::BOTH } else { Digests::NONE };
        let first = rng.below(3000);
        let behaviour = Behaviour {
            digests,
            corrupt_at: Some(first),
            success_flag: seed % 3 == 0,
            ..Behaviour::default()
        };
        let mut p = Pair::new(seed, behaviour, |o| {
            o.digests = dolmen_initiator::Digests { header: true, data: true };
            o.connect_timeout_ms = 300;
            o.io_timeout_ms = 300;
            o.loss_timeout_ms = None;
        });
        for ticket in 0..40 {
            let (lba, buf) = (ticket % 8, p.buf(BLOCK, 0));
            if matches!(p.initiator.state(p.id), State::Lost(_)) {
                break;
            }
            p.submit(ticket, Command::Read { nsid: 1, lba, blocks: 1, buf });
            for _ in 0..rng.below(60) {
                p.turn();
            }
            if p.peer.behaviour.corrupt_at.is_none() && ticket < 30 {
                p.peer.behaviour.corrupt_at = Some(p.peer.sent_bytes() + rng.below(6000));
            }
        }
        p.peer.behaviour.corrupt_at = None;
        // A damaged status may well say "do not retry" while connecting: then giving up is right.
        if !matches!(p.initiator.state(p.id), State::Lost(_)) {
            p.until("an end", |p| {
                matches!(p.initiator.state(p.id), State::Lost(_)) || p.completions.len() == 40
            });
        }
        if digests == Digests::BOTH {
            let good = p.completions.iter().filter(|c| c.result.is_ok());
            good.for_each(|c| assert!(c.buf.as_ref().unwrap().iter().all(|&b| b == 0)));
        }
    }
}

/// Of many queues that send from little memory none has all of it: who found none is the first next time.
#[test]
fn little_memory_goes_round_the_queues() {
    const QUEUES: u16 = 8;
    for seed in 0..4 {
        let behaviour = Behaviour { queues: QUEUES, in_capsule_bytes: 8192, ..Behaviour::default() };
        let mut p = Pair::new(seed, behaviour, |o| (o.io_queues, o.queue_depth) = (QUEUES, 120));
        p.live();
        let mut held = Vec::new();
        while let Some(buf) = p.io.alloc(PoolConfig::CHUNK_BYTES) {
            held.push(buf);
        }
        // One to receive into, one to send from: a queue's commands take nine.
        held.drain(..2);
        let (mut under_way, mut done) = ([0u64; QUEUES as usize], [0u64; QUEUES as usize]);
        for _ in 0..20_000 {
            for queue in 0..QUEUES {
                while under_way[usize::from(queue)] < 120 {
                    let Some(buf) = p.io.alloc(BLOCK) else { break };
                    let (ticket, lba) = (u64::from(queue), u64::from(queue));
                    let command = Command::Write { nsid: 1, lba, blocks: 1, buf, fua: false };
                    let request = Request { queue: Some(queue), ..Request::new(ticket, command) };
                    p.initiator.submit(&mut p.io, p.id, request).map_err(|(_, error)| error).unwrap();
                    under_way[usize::from(queue)] += 1;
                }
            }
            p.turn();
            for completion in p.completions.drain(..) {
                completion.result.unwrap();
                let queue = usize::try_from(completion.ticket).unwrap();
                (under_way[queue], done[queue]) = (under_way[queue] - 1, done[queue] + 1);
            }
        }
        let (least, most) = (done.iter().min().unwrap(), done.iter().max().unwrap());
        assert!(*least > 100 && least * 2 > *most, "seed {seed}: {done:?}");
    }
}

/// Buffers that queues keep for what will come are taken where there are plenty, and given back when there are no more.
#[test]
fn buffers_for_arrivals_leave_the_pool_to_others() {
    const QUEUES: u16 = 8;
    let mut p = Pair::new(1, Behaviour { queues: QUEUES, ..Behaviour::default() }, |o| {
        (o.io_queues, o.queue_depth) = (QUEUES, 32);
    });
    p.live();
    let mut held: Vec<_> = std::iter::from_fn(|| p.io.pool().alloc_fitting(BLOCK)).collect();
    let all = held.len();
    let reads = |p: &mut Pair, held: &mut Vec<dolmen_io::Buf>, free: usize| {
        held.extend(std::iter::from_fn(|| p.io.pool().alloc_fitting(BLOCK)));
        held.truncate(all - free);
        let mut under_way = [0; QUEUES as usize];
        for round in 0..4000 {
            for queue in (0..QUEUES).filter(|_| round < 2000) {
                while under_way[usize::from(queue)] < 8 {
                    let buf = p.io.alloc(BLOCK).unwrap();
                    let command = Command::Read { nsid: 1, lba: 7, blocks: 1, buf };
                    let request =
                        Request { ticket: queue.into(), deadline: NO_DEADLINE, queue: Some(queue), command };
                    p.initiator.submit(&mut p.io, p.id, request).map_err(|(_, e)| e).unwrap();
                    under_way[usize::from(queue)] += 1;
                }
            }
            p.turn();
            for completion in p.completions.drain(..) {
                assert!(completion.result.is_ok());
                under_way[usize::try_from(completion.ticket).unwrap()] -= 1;
            }
        }
        assert_eq!(under_way, [0; QUEUES as usize]);
        let idle: Vec<_> = std::iter::from_fn(|| p.io.pool().alloc_fitting(BLOCK)).collect();
        all.saturating_sub(held.len() + idle.len())
    };
    let plenty = all / 8;
    let kept = reads(&mut p, &mut held, all);
    assert!((100..=usize::from(QUEUES) * spare_buffers(BLOCK)).contains(&kept), "{kept} are kept of {all}");
    let kept = reads(&mut p, &mut held, plenty + 90);
    assert!((1..=90).contains(&kept), "{kept} are kept of {}", plenty + 90);
    assert_eq!(reads(&mut p, &mut held, plenty), 0, "are kept of {plenty}");
}
