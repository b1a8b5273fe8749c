//! Drives that come, go and fail under a real daemon, as an operator sees it: command line, events, restarts with the flags of before.
#![allow(clippy::unwrap_used)] // a test that can't go on fails

mod node;

use node::{DOLMEN, Node, within};
use serde_json::Value;
use std::{
    path::Path,
    process::{Command, Output},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// True when there is a page of the key table on a drive.
fn holds_keys(drive: &Path) -> bool {
    let label = std::fs::read(drive).unwrap();
    label[..4 << 20].chunks(4096).any(|page| page.starts_with(b"dolmKEYS"))
}

const THREE: [&str; 3] = ["d0", "d1", "d2"];

const FOUR: [&str; 4] = ["d0", "d1", "d2", "d3"];

/// Three drives and a volume with data.
fn filled() -> Node {
    filled_on(&THREE)
}

fn filled_on(drives: &[&str]) -> Node {
    let mut node = Node::new();
    node.start(drives, &[]);
    node.cli(&["volume", "create", "v", "--size", "64MiB", "--acl", "ALLOW_ANY", "--compression", "off"]);
    node.host(1).fill(1, 32);
    node
}

#[test]
fn a_drive_joins_and_another_leaves_while_a_host_writes() {
    let mut node = filled();
    let fourth = node.drive("d3");
    let given = format!("{}:256MiB", fourth.display());
    // Something else in its place is not touched.
    std::fs::write(&fourth, vec![7; 1 << 20]).unwrap();
    assert!(node.fails(1, &["drive", "add", &given]).contains("wipe"));
    assert_eq!(std::fs::read(&fourth).unwrap(), vec![7; 1 << 20]);
    std::fs::remove_file(&fourth).unwrap();
    assert!(node.fails(1, &["drive", "add", node.drive("d0").to_str().unwrap()]).contains("already"));
    let empty = node.drive("empty");
    std::fs::write(&empty, "").unwrap();
    let why = node.fails(1, &["drive", "add", empty.to_str().unwrap()]);
    assert!(why.contains("is empty (0 bytes)") && why.contains("remove it, and give"), "{why}");
    std::fs::remove_file(&empty).unwrap();
    let why = node.fails(1, &["drive", "add", empty.to_str().unwrap()]);
    let sized = format!("give its size: {}:10GiB", empty.display());
    assert!(why.contains("there is no drive") && why.contains(&sized), "{why}");
    node.cli(&["drive", "add", &given]);
    assert_eq!(node.states().len(), 4);
    let second = node.drive("d1").display().to_string();
    node.cli(&["drive", "remove", &second, "--no-wait"]);
    node.host(1).fill(2, 48);
    within(&|| format!("{:?}", node.states()), || node.states().iter().all(|(name, _)| name != "d1"));
    node.host(1).verify(2, 48);
    for event in ["DriveAdded", "DriveLeaving", "DriveGone", "DriveKeysErased"] {
        node.until_event(event);
    }
    assert!(!holds_keys(Path::new(&second)) && holds_keys(&fourth), "only drives of the pool hold keys");
    // Nobody holds the drive that has left any more.
    let list = node.cli(&["drive", "list"]);
    assert!(
        list.as_array().unwrap().iter().any(|d| d["usedBytes"] != "0" && d["liveBytes"] != "0"),
        "{list}"
    );
    node.kill();
    // The flags of before: the one that was added is there, the one that was removed is not.
    node.start(&THREE, &[]);
    let names: Vec<String> = node.states().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["d0", "d2", "d3"]);
    node.host(1).verify(2, 48);
    // Back by hand, as a new one.
    node.cli(&["drive", "add", &second]);
    node.until_event("DriveStale");
    node.stop();
    node.start(&THREE, &[]);
    assert_eq!(node.states().len(), 4);
    node.host(1).verify(2, 48);
}

#[test]
fn a_start_without_any_drive_says_why() {
    let node = Node::new();
    let none = node.drive("none").display().to_string();
    let why = node.refused(&[], &["--drive", &none]);
    let last = why.lines().rfind(|line| line.starts_with("error:")).unwrap_or_default();
    assert!(last.contains(&format!("there is no drive {none}")), "{why}");
    // One drive by two names is one drive.
    let link = node.drive("link");
    std::fs::File::create(node.drive("d0")).unwrap().set_len(256 << 20).unwrap();
    std::os::unix::fs::symlink(node.drive("d0"), &link).unwrap();
    let why = node.refused(&["d0"], &["--drive", link.to_str().unwrap()]);
    assert!(why.contains("is the same drive as"), "{why}");
}

#[test]
fn who_removes_a_drive_is_told_how_to_call_it_off_and_it_is_no_drive_of_the_pool_then() {
    let mut node = filled_on(&FOUR);
    let second = node.drive("d1");
    let mut command = Command::new(DOLMEN);
    command.arg("--data").arg(node.data()).args(["drive", "remove"]).arg(&second);
    let Output { status, stderr, .. } = command.output().unwrap();
    let said = String::from_utf8_lossy(&stderr);
    assert!(status.success() && said.contains("when this command is interrupted"), "{said}");
    assert!(said.contains(&format!("drive keep {}", second.display())), "{said}");
    node.kill();
    let checked = node.cli(&["pool", "check"]);
    let drives = checked["drives"].as_array().unwrap();
    assert!(drives.len() == 3 && !drives.contains(&second.to_str().unwrap().into()), "{checked}");
    // A drive that nobody names is not told as one that is gone.
    let named = ["d0", "d2"].map(|d| node.drive(d).display().to_string());
    let checked = node.answers(8, &["pool", "check", "--drive", &named[0], "--drive", &named[1]]);
    let missing = checked["missing"].to_string();
    assert!(missing.contains("d3: it was not named") && !missing.contains("not there"), "{checked}");
}

/// A drive that is cut to nothing while a host writes: out at once with an event, the data is made good, the wreck does not keep the
/// next start from serving, and a fresh one takes its place.
#[test]
fn a_drive_dies() {
    let mut node = filled();
    node.cli(&["pool", "reprotect", "--pause", "--rate", "64MiB"]);
    let dead = node.drive("d2");
    // A host writes the second half of the volume over and over, until the drive is out and once more.
    let over = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let (mut writer, mut rounds) = (node.host(1), 0);
            // Bounded, lest a failure on the other side goes untold.
            while rounds < 400 && (!over.load(Ordering::Acquire) || rounds == 0) {
                rounds += 1;
                writer.fill_from(rounds, 32, 16);
            }
            rounds
        });
        std::fs::OpenOptions::new().write(true).open(&dead).unwrap().set_len(0).unwrap();
        // What is read there now is not what was written; an operator gives it up.
        node.host(1).verify(1, 32);
        node.cli(&["drive", "remove", dead.to_str().unwrap(), "--force", "--no-wait"]);
        over.store(true, Ordering::Release);
        writing.join().unwrap()
    });
    node.host(1).verify_from(rounds, 32, 16);
    node.until_event("DriveFailed");
    within(&|| node.cli(&["pool", "show"]).to_string(), || {
        node.cli(&["pool", "show"])["reprotection"]["state"] == "Paused"
    });
    let health = node.cli(&["status"])["health"].clone();
    assert_eq!((&health["state"], &health["numDegradedVolumes"]), (&"Warning".into(), &1.into()), "{health}");
    let volume = node.cli(&["volume", "show", "v"]);
    assert_eq!(volume["protectionState"], "Degraded", "{volume}");
    let mut events = node.events();
    // What came a moment ago (a host that went) may be on its way to the file; what was answered since is in it.
    events.truncate(events.iter().rposition(|event| event == "DriveFailed").unwrap() + 1);
    node.kill();
    node.start(&THREE, &[]);
    assert!(node.events().starts_with(&events), "{:?} then {:?}", events, node.events());
    assert_eq!(node.cli(&["pool", "show"])["reprotection"]["paused"], true);
    node.host(1).verify(1, 32);
    node.host(1).verify_from(rounds, 32, 16);
    node.cli(&["pool", "reprotect", "--resume", "--rate", "0B"]);
    node.until_event("ReprotectionFinished");
    node.until_protected();
    assert_eq!(node.cli(&["status"])["health"]["state"], "OK");
    std::fs::remove_file(&dead).unwrap();
    node.cli(&["drive", "add", &format!("{}:256MiB", dead.display())]);
    node.host(1).fill(3, 32);
    node.host(1).verify(3, 32);
}

#[test]
fn a_wreck_does_not_keep_the_pool_from_starting() {
    let mut node = filled();
    node.kill();
    std::fs::write(node.drive("d0"), vec![0x5a; 1 << 20]).unwrap();
    node.start(&THREE, &[]);
    node.until_event("DriveAbsent");
    node.until_event("DriveUntouched");
    let drives = node.cli(&["drive", "list"]);
    let lost = drives.as_array().unwrap().iter().find(|d| d["path"].as_str().unwrap().ends_with("d0"));
    assert!(lost.is_none_or(|d| d["state"] == "Absent"), "{drives}");
    node.host(1).verify(1, 32);
    node.until_protected();
    assert_eq!(std::fs::read(node.drive("d0")).unwrap(), vec![0x5a; 1 << 20]);
    node.kill();
    node.start(&THREE, &[]);
    node.host(1).verify(1, 32);
    node.kill();
    // A healthy one that is forgotten is missed.
    assert!(node.refused(&["d0", "d1"], &[]).contains("d2"));
    node.start(&["d0", "d1"], &["--degraded"]);
    node.host(1).verify(1, 32);
}

/// The daemon is killed while a drive is being emptied: the flags of before start it, and the drive leaves all the same; one that has
/// left when nobody was there to see it is let go then.
#[test]
fn a_removal_goes_on_after_a_kill() {
    let mut node = filled();
    node.cli(&["drive", "add", &format!("{}:256MiB", node.drive("d3").display())]);
    node.cli(&["pool", "reprotect", "--pause"]);
    // It holds data, and nothing is moved: it is leaving until somebody says otherwise.
    let first = node.drive("d0");
    for _ in 0..2 {
        node.cli(&["drive", "remove", first.to_str().unwrap(), "--no-wait"]);
        node.kill();
        node.start(&THREE, &[]);
        let leaves = |(name, state): &(String, String)| name == "d0" && state == "Leaving";
        within(&|| format!("{:?}", node.states()), || node.states().iter().any(leaves));
        node.host(1).verify(1, 32);
        node.cli(&["drive", "keep", first.to_str().unwrap()]);
    }
    node.cli(&["drive", "remove", first.to_str().unwrap(), "--no-wait"]);
    node.kill();
    node.start(&THREE, &[]);
    node.cli(&["pool", "reprotect", "--resume"]);
    node.until_event("DriveKeysErased");
    assert!(!holds_keys(&first));
    node.kill();
    node.start(&THREE, &[]);
    let names: Vec<String> = node.states().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["d1", "d2", "d3"]);
    node.host(1).verify(1, 32);
}

/// Starts it with drives that are named as devices are: without a size, so that none is made.
fn start_on_devices(node: &mut Node, names: &[&str]) {
    let paths: Vec<String> = names.iter().map(|name| node.drive(name).display().to_string()).collect();
    let flags: Vec<&str> = paths.iter().flat_map(|path| ["--drive", path]).collect();
    node.start(&[], &flags);
}

/// Four drives of which the second was removed, stopped.
fn without_second() -> Node {
    let mut node = filled_on(&FOUR);
    let second = node.drive("d1").display().to_string();
    node.cli(&["drive", "remove", &second]);
    node.until_event("DriveKeysErased");
    node.host(1).verify(1, 32);
    node.stop();
    node
}

/// The drives that are left serve under these names; no start has missed one or taken one back.
fn serve_under(node: &Node, names: [&str; 3]) {
    let mut states = node.states();
    states.sort();
    assert_eq!(states, names.map(|name| (name.to_string(), "Active".to_string())));
    let events = node.events();
    assert!(!events.iter().any(|e| ["DriveAbsent", "DriveStale"].contains(&e.as_str())), "{events:?}");
    node.host(1).verify(1, 32);
}

/// A drive was removed and pulled, and the devices behind it are numbered anew: the names of before, less the last, are the drives
/// that are left.
#[test]
fn devices_move_up_after_a_removal() {
    let mut node = without_second();
    std::fs::remove_file(node.drive("d1")).unwrap();
    std::fs::rename(node.drive("d2"), node.drive("d1")).unwrap();
    std::fs::rename(node.drive("d3"), node.drive("d2")).unwrap();
    for _ in 0..2 {
        start_on_devices(&mut node, &FOUR);
        serve_under(&node, ["d0", "d1", "d2"]);
        node.stop();
    }
}

/// A drive that was removed stays in the machine, and changes its name with one of the pool's: it is known by what it holds.
#[test]
fn a_removed_drive_is_known_under_any_name() {
    let mut node = without_second();
    let [second, third, other] = ["d1", "d2", "other"].map(|name| node.drive(name));
    std::fs::rename(&second, &other).unwrap();
    std::fs::rename(&third, &second).unwrap();
    std::fs::rename(&other, &third).unwrap();
    for _ in 0..2 {
        start_on_devices(&mut node, &FOUR);
        serve_under(&node, ["d0", "d1", "d3"]);
        node.stop();
    }
    start_on_devices(&mut node, &FOUR);
    // By hand it comes back.
    node.cli(&["drive", "add", third.to_str().unwrap()]);
    node.until_event("DriveStale");
    node.kill();
    start_on_devices(&mut node, &FOUR);
    assert_eq!(node.states().len(), 4);
    node.until_protected();
    node.host(1).verify(1, 32);
}

/// Who waits for a drive to leave hears when it stays after all.
#[test]
fn a_drive_that_stays_was_not_removed() {
    let node = filled_on(&FOUR);
    node.cli(&["pool", "reprotect", "--pause"]);
    let first = node.drive("d0").display().to_string();
    let removal = node.begin(&["drive", "remove", &first]);
    let state = || node.states().into_iter().find(|(name, _)| name == "d0").unwrap().1;
    within(&state, || state() == "Leaving");
    node.cli(&["drive", "keep", &first]);
    let ended = removal.wait_with_output().unwrap();
    let told = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{told}");
    assert!(told.contains("stays in the pool") && told.contains(&first), "{told}");
}

/// Who gives a drive up never finds it in service afterwards, and so is not told that it stays.
#[test]
fn a_drive_that_was_given_up_is_out_when_that_is_answered() {
    let node = filled_on(&FOUR);
    for name in ["d0", "d1", "d2", "d3"] {
        let drive = node.drive(name).display().to_string();
        node.cli(&["pool", "reprotect", "--pause"]);
        let given_up = node.cli(&["drive", "remove", &drive, "--force", "--no-wait"]);
        assert_eq!(given_up["state"], "Out", "{given_up}");
        node.cli(&["pool", "reprotect", "--resume"]);
        node.until_event("DriveKeysErased");
        within(&|| format!("{:?}", node.states()), || node.states().iter().all(|(other, _)| other != name));
        node.cli(&["drive", "add", &drive]);
        node.until_protected();
        node.cli(&["drive", "remove", &drive, "--force"]);
        node.cli(&["drive", "add", &drive]);
        node.until_protected();
    }
    node.host(1).verify(1, 32);
}

/// A drive is given up, and the others are too small for what the pool has: who did it is told, and a drive more ends it.
#[test]
fn what_has_no_room_on_the_drives_that_remain_is_said_to_wait_for_space() {
    let mut node = Node::new();
    node.start(&FOUR, &[]);
    node.cli(&["volume", "create", "v", "--size", "1GiB", "--acl", "ALLOW_ANY", "--compression", "off"]);
    let usable: u64 = node.cli(&["pool", "show"])["usableBytes"].as_str().unwrap().parse().unwrap();
    let mib = (usable >> 20) * 85 / 100;
    node.host(1).fill(1, mib);
    let first = node.drive("d0").display().to_string();
    let why = node.fails(1, &["drive", "remove", &first]);
    assert!(why.contains("the other 3 drives hold"), "{why}");
    let mut command = Command::new(DOLMEN);
    command.arg("--data").arg(node.data()).args(["drive", "remove", "--force", "--no-wait"]).arg(&first);
    let Output { status, stderr, .. } = command.output().unwrap();
    let said = String::from_utf8_lossy(&stderr);
    assert!(status.success() && said.contains("warning: the other drives hold"), "{said}");
    node.until_event("ReprotectionLacksSpace");
    let state = || node.cli(&["pool", "show"])["reprotection"]["state"].to_string();
    within(&state, || state() == "\"WaitsForSpace\"");
    node.cli(&["drive", "add", &format!("{}:256MiB", node.drive("d4").display())]);
    within(&state, || state() == "\"Protected\"");
    node.host(1).verify(1, mib);
}

/// Nobody holds a drive that has left, although it was there from the start: it may be pulled, or come back.
#[test]
fn a_drive_that_has_left_may_come_back_at_once() {
    let node = filled_on(&FOUR);
    let first = node.drive("d0").display().to_string();
    assert_eq!(node.cli(&["drive", "remove", &first])["state"], "Gone");
    node.until_event("DriveKeysErased");
    node.cli(&["drive", "add", &first]);
    assert_eq!(node.states().len(), 4);
    node.host(1).verify(1, 32);
}

/// A drive that has died and is still missed is given up by its UUID: that is not said of the one that has its path by now.
#[test]
fn giving_up_a_dead_drive_spares_its_replacement() {
    let mut node = filled();
    node.cli(&["pool", "reprotect", "--pause"]);
    let path = node.drive("d2").display().to_string();
    let at_path = |node: &Node| -> Vec<Value> {
        let drives = node.cli(&["drive", "list"]);
        drives.as_array().unwrap().iter().filter(|d| d["path"] == path.as_str()).cloned().collect()
    };
    let dead = at_path(&node)[0]["UUID"].as_str().unwrap().to_string();
    node.stop();
    std::fs::remove_file(&path).unwrap();
    node.start(&THREE, &[]);
    node.until_event("DriveAbsent");
    node.cli(&["drive", "add", &format!("{path}:256MiB")]);
    node.cli(&["drive", "remove", &dead, "--force", "--no-wait"]);
    node.until_event("DriveKeysLeft");
    for _ in 0..2 {
        node.kill();
        node.start(&THREE, &[]);
        let new = at_path(&node).into_iter().find(|d| d["UUID"] != dead.as_str()).unwrap();
        assert_eq!(new["state"], "Active");
        let decided = std::fs::read_to_string(node.data().join("drives.json")).unwrap();
        let decided: Value = serde_json::from_str(&decided).unwrap();
        assert_eq!(decided["leaving"], Value::Array(Vec::new()), "{decided}");
        assert!(!node.events().iter().any(|e| e == "DriveLeaving"));
    }
    node.cli(&["pool", "reprotect", "--resume"]);
    node.until_protected();
    assert_eq!(node.states().len(), 3);
    node.host(1).verify(1, 32);
}

/// Devices move up when one is gone: where the dead one was is another drive now, which is not taken for it.
#[test]
fn a_dead_drive_is_not_where_another_one_is() {
    let mut node = filled();
    let second = node.drive("d1").display().to_string();
    let drives = node.cli(&["drive", "list"]);
    let uuid = |at: &str| {
        let mut all = drives.as_array().unwrap().iter();
        let found = all.find(|d| d["path"].as_str().unwrap().ends_with(at)).unwrap();
        found["UUID"].as_str().unwrap().to_string()
    };
    let (dead, other) = (uuid("d1"), uuid("d2"));
    // Else the dead one may hold nothing any more, and be forgotten, before it is looked for.
    node.cli(&["pool", "reprotect", "--pause"]);
    node.stop();
    std::fs::rename(node.drive("d2"), &second).unwrap();
    start_on_devices(&mut node, &THREE);
    node.until_event("DriveAbsent");
    let shown = node.cli(&["drive", "list"]);
    let at_path: Vec<&Value> =
        shown.as_array().unwrap().iter().filter(|d| d["path"] == second.as_str()).collect();
    assert!(at_path.len() == 1 && at_path[0]["UUID"] == other.as_str(), "{shown}");
    let place = node.cli(&["drive", "locate", &dead]);
    let slot = place["slot"].as_str().unwrap();
    assert!(slot.contains("not there") && slot.contains(&other) && place["light"] == "None", "{place}");
    node.host(1).verify(1, 32);
}

#[test]
fn what_can_not_be_done_says_why() {
    let mut node = Node::new();
    node.start(&["d0", "d1"], &[]);
    let first = node.drive("d0").display().to_string();
    assert!(node.fails(1, &["drive", "remove", &first]).contains("one drive more"));
    assert!(node.fails(1, &["drive", "keep", &first]).contains("not being removed"));
    assert!(node.fails(3, &["drive", "remove", "/nowhere"]).contains("no drive"));
    assert!(node.fails(1, &["drive", "add", "/nowhere/drive"]).contains("/nowhere/drive"));
    let place = node.cli(&["drive", "locate", &first]);
    assert_eq!((place["path"].as_str(), place["light"].as_str()), (Some(first.as_str()), Some("None")));
    node.fails(2, &["pool", "reprotect"]);
    node.stop();
}

/// Every drive that a pool was made on is replaced by another one: the keys of its encrypted volumes have moved with the data.
#[test]
fn all_drives_may_be_replaced() {
    let mut node = filled();
    let new = ["n0", "n1", "n2"];
    for name in new {
        node.cli(&["drive", "add", &format!("{}:256MiB", node.drive(name).display())]);
    }
    node.cli(&["volume", "create", "later", "--size", "16MiB", "--acl", "ALLOW_ANY"]);
    node.host(2).fill(3, 8);
    for name in THREE {
        let path = node.drive(name).display().to_string();
        node.cli(&["drive", "remove", &path, "--no-wait"]);
        within(&|| format!("{:?}", node.states()), || node.states().iter().all(|(n, _)| n != name));
    }
    node.kill();
    THREE.iter().for_each(|name| std::fs::remove_file(node.drive(name)).unwrap());
    node.start(&new, &[]);
    node.host(1).verify(1, 32);
    node.host(2).verify(3, 8);
}

/// A device that takes its time to open: hosts do not feel it.
#[test]
fn a_drive_that_is_slow_to_open_keeps_no_host_waiting() {
    let mut node = Node::new();
    node.start(&THREE, &["--cores", "1"]);
    node.cli(&["volume", "create", "v", "--size", "64MiB", "--acl", "ALLOW_ANY"]);
    let mut host = node.host(1);
    let slow = std::fs::File::create(node.drive("d3")).unwrap();
    slow.set_len(256 << 20).unwrap();
    // A lock whose process is gone, though the file stays open: whoever opens a drive waits a while for such a one.
    let locking = Command::new("flock").args(["--exclusive", "0"]).stdin(slow.try_clone().unwrap()).status();
    if !locking.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no flock command here");
        return;
    }
    let adding = Instant::now();
    let mut child = node.begin(&["drive", "add", node.drive("d3").to_str().unwrap()]);
    let mut longest = Duration::ZERO;
    while child.try_wait().unwrap().is_none() {
        let began = Instant::now();
        host.fill(1, 1);
        longest = longest.max(began.elapsed());
    }
    let (took, Output { stderr, .. }) = (adding.elapsed(), child.wait_with_output().unwrap());
    let why = String::from_utf8_lossy(&stderr);
    assert!(why.contains("d3 is in use"), "{why}");
    assert!(longest < took / 2, "1 MiB took {longest:?}, and the drive {took:?} to be refused");
    drop(slow);
    node.cli(&["drive", "add", node.drive("d3").to_str().unwrap()]);
}
