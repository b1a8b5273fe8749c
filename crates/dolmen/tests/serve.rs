//! The real daemon as its users start it, rightly and wrongly: what it says, and what it leaves behind when it refuses.
#![allow(clippy::unwrap_used)] // a test that can't go on fails

use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    os::unix::net::{UnixDatagram, UnixStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

const DOLMEN: &str = env!("CARGO_BIN_EXE_dolmen");

fn serve(data: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(DOLMEN);
    command.arg("serve").arg("--data").arg(data).args(["--listen", "127.0.0.1", "--sparse"]);
    command.args(["--port", "0", "--discovery-port", "0", "--api-port", "0"]).args(more);
    command
}

/// A start that must fail with this code; its stderr.
fn refused(code: i32, mut command: Command) -> String {
    let Output { status, stderr, .. } = command.output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(code), "{stderr}");
    stderr
}

fn terminate(child: &Child) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
}

fn within(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "{what} takes too long");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Starts a node, waits until it serves, and ends it in an orderly way.
fn served_once(data: &Path, more: &[&str]) {
    let mut child = serve(data, more).stderr(Stdio::null()).spawn().unwrap();
    within("the start", || data.join("endpoint").exists());
    terminate(&child);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_drive_that_is_away_is_named_and_nothing_is_left_in_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let (data, here, away) = (dir.path().join("data"), dir.path().join("here"), dir.path().join("away"));
    let drives = [&here, &away].map(|path| format!("{}:256MiB", path.display()));
    let both = ["--parity", "0", "--drive", &drives[0], "--drive", &drives[1]];
    served_once(&data, &both);
    let kept = dir.path().join("kept");
    std::fs::rename(&away, &kept).unwrap();
    let why = refused(1, serve(&data, &both));
    assert!(why.contains("missing") && why.contains(&away.display().to_string()), "{why}");
    assert!(!away.exists(), "a blank drive is left where the drive belongs");
    std::fs::rename(&kept, &away).unwrap();
    let resized = [format!("{}:1GiB", here.display()), away.display().to_string()];
    served_once(&data, &["--drive", &resized[0], "--drive", &resized[1]]);
    assert_eq!(std::fs::metadata(&here).unwrap().len(), 256 << 20, "a drive keeps its size");
}

/// With parity the same start goes on, and still leaves nothing in the drive's place.
#[test]
fn a_dead_drive_does_not_keep_a_mirror_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let (data, here, away) = (dir.path().join("data"), dir.path().join("here"), dir.path().join("away"));
    let drives = [&here, &away].map(|path| format!("{}:256MiB", path.display()));
    let both = ["--drive", &drives[0], "--drive", &drives[1]];
    served_once(&data, &both);
    // Forgotten, it is missed by name.
    let why = refused(1, serve(&data, &both[..2]));
    assert!(why.contains(&away.display().to_string()) && why.contains("--degraded"), "{why}");
    let kept = dir.path().join("kept");
    std::fs::rename(&away, &kept).unwrap();
    served_once(&data, &both);
    assert!(!away.exists(), "a blank drive is left where the drive belongs");
    // Cut to nothing, it is left so.
    std::fs::write(&away, "").unwrap();
    served_once(&data, &both);
    assert_eq!(std::fs::metadata(&away).unwrap().len(), 0);
    // Back, it joins anew.
    std::fs::rename(&kept, &away).unwrap();
    served_once(&data, &both);
}

/// What tells a drive that was left behind is damaged: then the drives that are there may not be all that is left.
#[test]
fn a_drive_that_was_left_behind_does_not_serve_alone_though_the_folder_forgot() {
    let dir = tempfile::tempdir().unwrap();
    let (data, a, b) = (dir.path().join("data"), dir.path().join("a"), dir.path().join("b"));
    let drives = [&a, &b].map(|path| format!("{}:256MiB", path.display()));
    let both = ["--drive", &drives[0], "--drive", &drives[1]];
    served_once(&data, &both);
    let away = |path: &Path| std::fs::rename(path, path.with_extension("away")).unwrap();
    let back = |path: &Path| std::fs::rename(path.with_extension("away"), path).unwrap();
    away(&a);
    served_once(&data, &both);
    away(&b);
    back(&a);
    let known = data.join("pool-sequence");
    let number = std::fs::read_to_string(&known).unwrap();
    for damage in ["", "\0\0\0\0"] {
        std::fs::write(&known, damage).unwrap();
        let why = refused(1, serve(&data, &both));
        assert!(why.contains(known.to_str().unwrap()) && why.contains(b.to_str().unwrap()), "{why}");
    }
    std::fs::remove_file(&known).unwrap();
    let why = refused(1, serve(&data, &both));
    assert!(why.contains(known.to_str().unwrap()), "{why}");
    // The one that went on serves alone: it knows that the other is out. What it says is written down anew.
    away(&a);
    back(&b);
    served_once(&data, &both);
    let after = std::fs::read_to_string(&known).unwrap();
    assert!(after.trim().parse::<u64>().unwrap() > number.trim().parse().unwrap(), "{after}");
}

#[test]
fn a_port_that_is_taken_is_told_before_a_drive_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let drive = dir.path().join("drive");
    let mut command = Command::new(DOLMEN);
    command.arg("serve").arg("--data").arg(dir.path().join("data")).args([
        "--listen",
        "127.0.0.1",
        "--port",
        "0",
    ]);
    command.args(["--discovery-port", "0", "--api-port", &port, "--log-format", "json"]);
    command.arg("--drive").arg(format!("{}:256MiB", drive.display()));
    let why = refused(1, command);
    assert!(why.contains(&format!("--api-port {port}")) && why.contains("another port"), "{why}");
    for line in why.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    }
    assert!(!drive.exists());
}

#[test]
fn what_is_missing_is_told_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let nowhere = dir.path().join("nowhere");
    let why = refused(1, serve(&data, &["--drive", &format!("{}/drive:256MiB", nowhere.display())]));
    assert!(why.contains(&format!("there is no folder {}", nowhere.display())), "{why}");
    let empty = dir.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    let why = refused(1, serve(&data, &["--drive", empty.to_str().unwrap()]));
    assert!(why.contains("too little") && why.contains(&format!("{} has 0 bytes", empty.display())), "{why}");
}

/// A folder that takes nothing more keeps the command line away, not the hosts.
#[test]
fn hosts_are_served_though_the_data_folder_takes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (data, log, door) = (dir.path().join("data"), dir.path().join("log"), dir.path().join("door"));
    let (drive, nbd) =
        (format!("{}:256MiB", dir.path().join("d0").display()), format!("unix:{}", door.display()));
    served_once(&data, &["--drive", &drive]);
    // What can't be written over stands for a disk that is full.
    std::fs::create_dir_all(data.join("endpoint/full")).unwrap();
    let mut command = serve(&data, &["--drive", &drive, "--nbd", &nbd]);
    let mut child = command.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
    let said = || std::fs::read_to_string(&log).unwrap();
    within("the start", || {
        assert!(child.try_wait().unwrap().is_none(), "{}", said());
        said().contains("before there is room in its data folder")
    });
    UnixStream::connect(&door).unwrap();
    std::fs::remove_dir_all(data.join("endpoint")).unwrap();
    within("writing again", || data.join("endpoint").is_file());
    let status = Command::new(DOLMEN).arg("--data").arg(&data).arg("status").output().unwrap();
    assert!(status.status.success(), "{}", said());
    terminate(&child);
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_service_manager_is_asked_for_time_and_told_when_it_serves() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let drive = format!("{}:256MiB", dir.path().join("a").display());
    let mut command = serve(&dir.path().join("data"), &["--drive", &drive]);
    let mut child = command.env("NOTIFY_SOCKET", &path).spawn().unwrap();
    let heard = || {
        let mut said = [0; 256];
        let len = manager.recv(&mut said).unwrap();
        String::from_utf8_lossy(&said[..len]).into_owned()
    };
    let first = heard();
    assert!(first.starts_with("EXTEND_TIMEOUT_USEC="), "{first}");
    let mut next = heard();
    while next == first {
        next = heard();
    }
    assert!(next.starts_with("READY=1\n"), "{next}");
    terminate(&child);
    assert!(heard().starts_with("STOPPING=1\n"));
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_demo_that_is_told_to_end_takes_its_node_with_it() {
    let mut demo = Command::new(DOLMEN).arg("demo").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines().map(Result::unwrap);
    let folder = lines.next().unwrap();
    let folder = folder.split(' ').find(|word| word.starts_with('/')).unwrap().to_string();
    assert!(lines.any(|line| line.starts_with("Serving volume")));
    assert!(Path::new(&folder).exists());
    terminate(&demo);
    let rest: Vec<String> = lines.collect();
    assert!(demo.wait().unwrap().success(), "{rest:?}");
    assert!(!Path::new(&folder).exists());
    let nodes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let line = std::fs::read(entry.unwrap().path().join("cmdline")).ok()?;
        String::from_utf8_lossy(&line).contains(&folder).then_some(())
    });
    assert_eq!(nodes.count(), 0, "the node lives on");
}
