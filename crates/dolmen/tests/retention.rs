//! Snapshots that are kept for a while only, under a daemon that is killed and started again.
#![allow(clippy::unwrap_used)] // a test that can't go on fails

mod node;

use node::{Node, within};

#[test]
fn snapshots_go_when_their_time_is_over_after_every_kind_of_restart() {
    let mut node = Node::new();
    node.start(&["d0"], &[]);
    node.cli(&["volume", "create", "v", "--size", "16MiB", "--acl", "ALLOW_ANY"]);
    node.cli(&["snapshot", "create", "over-the-kill", "v", "--keep", "2"]);
    node.cli(&["snapshot", "create", "later", "v", "--keep", "3600"]);
    for (name, kill) in [("after-the-kill", true), ("after-the-stop", false)] {
        if kill {
            node.kill()
        } else {
            node.stop()
        }
        node.start(&["d0"], &[]);
        node.cli(&["snapshot", "create", name, "v", "--keep", "1"]);
        let left = || node.cli(&["snapshot", "list"]);
        within(&|| left().to_string(), || left().as_array().unwrap().len() == 1);
        assert_eq!(left()[0]["name"], "later");
    }
}
