//! A pool that fills up under a real daemon: refusals with the right status, reads all the while, kills, and room again.
#![allow(clippy::unwrap_used)] // a test that can't go on fails

mod node;

use node::{Node, within};

const THREE: [&str; 3] = ["d0", "d1", "d2"];

#[test]
fn a_full_pool_refuses_serves_and_recovers() {
    let mut node = Node::new();
    node.start(&THREE, &[]);
    for name in ["first", "second"] {
        node.cli(&["volume", "create", name, "--size", "4GiB", "--acl", "ALLOW_ANY"]);
    }
    node.host(1).fill(1, 24);
    let (kept, why) = node.host(2).try_fill(2, 4096).unwrap_err();
    assert!(why.to_string().contains("Capacity Exceeded"), "{why}");
    assert!(kept > 100, "{kept} MiB");
    node.until_event("PoolFull");
    // It reads, also after a kill, and stays full.
    node.host(1).verify(1, 24);
    node.kill();
    node.start(&THREE, &[]);
    node.host(1).verify(1, 24);
    node.host(2).verify(2, kept);
    assert!(node.host(2).try_fill(2, 4096).is_err());
    node.cli(&["volume", "delete", "second", "--yes"]);
    within(&|| "room for 24 MiB".into(), || node.host(1).try_fill(3, 24).is_ok());
    node.until_event("PoolReady");
    node.host(1).verify(3, 24);
    node.kill();
    node.start(&THREE, &[]);
    node.host(1).verify(3, 24);
    node.stop();
    let checked = node.cli(&["pool", "check"]);
    assert_eq!((&checked["lost"], &checked["mendable"]), (&"0".into(), &"0".into()), "{checked}");
}
