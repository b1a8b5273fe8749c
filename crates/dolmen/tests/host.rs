//! Every command of the initiator against a whole node: two hosts that share a volume by compare-and-write and by
//! reservations.
#![allow(clippy::unwrap_used)] // a test that can't go on fails

mod node;

use dolmen_initiator::{
    AcquireAction, Acquisition, BlockRange, Command, Digests, Failure, Namespace, Options, RegisterAction,
    Registration, Release, ReleaseAction, Request, ReservationType, State,
    blocking::{Session, SessionError},
    polled::Client,
};
use dolmen_io::Io;
use dolmen_types::Uuid;
use dolmen_uring::{Uring, UringConfig};
use node::Node;
use std::{collections::BTreeMap, time::Duration};

const BLOCK: usize = 4096;

fn connect(node: &Node, number: u8) -> (Session, Namespace) {
    let status = node.cli(&["status"]);
    let address = format!("127.0.0.1:{}", status["nvmePort"]).parse().unwrap();
    let nqn = status["subsystemNQN"].as_str().unwrap().parse().unwrap();
    let host = format!("nqn.2014-08.org.example:host{number}").parse().unwrap();
    let io = Io::new(Box::new(Uring::new(&UringConfig::default()).unwrap()));
    let options = Options::new(address, nqn, host, Uuid::from_random([number; 16]));
    let mut session = Session::connect(io, Options { io_queues: 2, ..options }).unwrap();
    let namespace = session.namespace(1).unwrap();
    (session, namespace)
}

/// The name of the status that a call failed with.
fn refused<T: std::fmt::Debug>(outcome: Result<T, SessionError>) -> &'static str {
    match outcome {
        Err(SessionError::Command(Failure::Status(status))) => status.name().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn two_hosts_share_a_volume() {
    let mut node = Node::new();
    node.start(&["d0"], &[]);
    node.cli(&["volume", "create", "v", "--size", "64MiB", "--acl", "ALLOW_ANY"]);
    let ((mut a, ns), (mut b, _)) = (connect(&node, 1), connect(&node, 2));
    let page = |fill: u8| vec![fill; BLOCK];

    assert!(a.identity().fused && a.identity().ana && a.identity().quiesce_ms > 0);
    a.compare_and_write(&ns, 5, &page(0), &page(1)).unwrap();
    assert_eq!(refused(b.compare_and_write(&ns, 5, &page(0), &page(2))), "Compare Failure");
    b.compare_and_write(&ns, 5, &page(1), &page(2)).unwrap();
    let mut got = page(9);
    a.read(&ns, 5, &mut got).unwrap();
    assert_eq!(got, page(2));

    a.write(&ns, 8, &[page(3), page(4)].concat()).unwrap();
    let range = |lba, blocks| BlockRange { lba, blocks };
    a.copy(&ns, 100, &[range(9, 1), range(8, 2)]).unwrap();
    let mut got = vec![0; 3 * BLOCK];
    b.read(&ns, 100, &mut got).unwrap();
    assert!(got == [page(4), page(3), page(4)].concat());
    a.verify(&ns, 100, 3).unwrap();
    assert_eq!(refused(a.verify(&ns, ns.blocks, 1)), "LBA Out of Range");
    assert_eq!(refused(a.write_uncorrectable(&ns, 100, 1)), "Invalid Command Opcode");

    let register = |key| Registration {
        action: RegisterAction::Register,
        current_key: 0,
        new_key: key,
        ignore_current_key: false,
        persist: Some(true),
    };
    a.register(&ns, &register(0xa)).unwrap();
    b.register(&ns, &register(0xb)).unwrap();
    let kind = ReservationType::WriteExclusive;
    let acquire = |action, current_key, preempt_key| Acquisition { action, kind, current_key, preempt_key };
    a.acquire(&ns, &acquire(AcquireAction::Acquire, 0xa, 0)).unwrap();
    assert_eq!(refused(b.write(&ns, 0, &page(7))), "Reservation Conflict");
    b.read(&ns, 0, &mut got).unwrap();
    let report = b.reservations(&ns).unwrap();
    assert_eq!((report.kind, report.persists, report.count), (Some(kind), true, 2));
    let holder = report.registrants.iter().find(|r| r.holder).unwrap();
    assert_eq!((holder.key, holder.host_id), (0xa, Uuid::from_random([1; 16]).0));

    // The holder is gone for good: the other takes over, also across a kill of the node.
    node.kill();
    node.start(&["d0"], &[]);
    let ((mut a, _), (mut b, _)) = (connect(&node, 1), connect(&node, 2));
    b.acquire(&ns, &acquire(AcquireAction::Preempt, 0xb, 0xa)).unwrap();
    assert_eq!(refused(a.write(&ns, 0, &page(7))), "Reservation Conflict");
    b.write(&ns, 0, &page(8)).unwrap();
    b.release(&ns, &Release { action: ReleaseAction::Release, kind, current_key: 0xb }).unwrap();
    a.write(&ns, 0, &page(7)).unwrap();
    let clear = Release { action: ReleaseAction::Clear, kind, current_key: 0xb };
    b.release(&ns, &clear).unwrap();
    let report = a.reservations(&ns).unwrap();
    assert_eq!((report.kind, report.count), (None, 0));
}

/// What is under way of one host.
enum Sent {
    Write,
    /// Of which block, and the newest write to it that went before.
    Read(u64, u64),
}

/// NVMe promises nothing about commands that are under way together, but ours of one queue come to their blocks in the order in which
/// they were sent, by whatever way they go: a read sees the write before it, and the last of several writes stays.
#[test]
fn what_is_sent_first_comes_to_a_block_first() {
    let mut node = Node::new();
    node.start(&["d0"], &[]);
    node.cli(&["volume", "create", "v", "--size", "64MiB", "--acl", "ALLOW_ANY"]);
    let status = node.cli(&["status"]);
    for data in [false, true] {
        let address = format!("127.0.0.1:{}", status["nvmePort"]).parse().unwrap();
        let nqn = status["subsystemNQN"].as_str().unwrap().parse().unwrap();
        let host = "nqn.2014-08.org.example:order".parse().unwrap();
        let options = Options::new(address, nqn, host, Uuid::from_random([7; 16]));
        let options = Options { io_queues: 1, digests: Digests { header: false, data }, ..options };
        let mut client = Client::new(Io::new(Box::new(Uring::new(&UringConfig::default()).unwrap())));
        let id = client.connect(options).unwrap();
        let (mut seed, mut sent) = (0x1234_5678_9abc_def1u64, BTreeMap::<u64, Sent>::new());
        let mut random = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        let (mut next, mut last, mut seen) = (1u64, [0u64; 6], 0);
        // The first of all writes to each block is older than any that a run before has left there.
        while next < 20_000 || !sent.is_empty() {
            while matches!(client.state(id), State::Live { .. }) && next < 20_000 && sent.len() < 32 {
                let blocks = 1 + random(8) / 7;
                let (lba, ticket) = (random(7 - blocks), next);
                let Some(mut buf) = client.alloc(BLOCK * usize::try_from(blocks).unwrap()) else { break };
                let count = u32::try_from(blocks).unwrap();
                let first = next <= 6;
                let command = if first || random(3) == 0 {
                    let (lba, blocks) = if first { (next - 1, 1) } else { (lba, blocks) };
                    buf.set_len(BLOCK * usize::try_from(blocks).unwrap());
                    buf.fill(0);
                    for block in 0..usize::try_from(blocks).unwrap() {
                        buf[block * BLOCK..][..8].copy_from_slice(&ticket.to_le_bytes());
                        last[usize::try_from(lba).unwrap() + block] = ticket;
                    }
                    sent.insert(ticket, Sent::Write);
                    let blocks = u32::try_from(blocks).unwrap();
                    Command::Write { nsid: 1, lba, blocks, buf, fua: false }
                } else {
                    sent.insert(ticket, Sent::Read(lba, last[usize::try_from(lba).unwrap()]));
                    Command::Read { nsid: 1, lba, blocks: count, buf }
                };
                client.submit(id, Request::new(ticket, command)).map_err(|(_, error)| error).unwrap();
                next += 1;
            }
            client.wait(Duration::from_millis(100));
            for done in client.completions() {
                done.result.unwrap();
                if let Some(Sent::Read(lba, before)) = sent.remove(&done.ticket) {
                    let buf = done.buf.unwrap();
                    let found = u64::from_le_bytes(buf[..8].try_into().unwrap());
                    assert!(found >= before, "read {} of {lba} saw {found}, not {before}", done.ticket);
                    seen += 1;
                }
            }
            assert!(!matches!(client.state(id), State::Lost(_)), "the host was lost");
        }
        assert!(seen > 5_000);
        client.disconnect(id);
        while client.state(id) != State::Closed {
            client.wait(Duration::from_millis(10));
        }
        let (mut session, ns) = connect(&node, 1);
        for (lba, &ticket) in (0..).zip(&last) {
            let mut got = vec![0; BLOCK];
            session.read(&ns, lba, &mut got).unwrap();
            assert_eq!(u64::from_le_bytes(got[..8].try_into().unwrap()), ticket, "block {lba}");
        }
    }
}
