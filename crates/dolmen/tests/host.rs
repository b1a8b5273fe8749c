//! Every command of the initiator against a whole node: two hosts that share a volume by compare-and-write and by
//! reservations.
#![allow(clippy::unwrap_used)] // a test that can't go on fails

mod node;

use dolmen_initiator::{
    AcquireAction, Acquisition, BlockRange, Failure, Namespace, Options, RegisterAction, Registration,
    Release, ReleaseAction, ReservationType,
    blocking::{Session, SessionError},
};
use dolmen_io::Io;
use dolmen_types::Uuid;
use dolmen_uring::{Uring, UringConfig};
use node::Node;

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
