//! Drives for real: files in a temporary folder, and a loop device where this machine lets us make one.
#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::{Core, Folder, MASKS, config, pattern, tag};
use dolmen_io::{DriveInfo, ErrorKind, Event, OpenDrive};
use dolmen_uring::UringConfig;
use std::{os::unix::fs::MetadataExt, path::Path, process::Command};

const MIB: u64 = 1 << 20;

fn options(path: &Path) -> OpenDrive {
    OpenDrive { path: path.into(), create_bytes: Some(8 * MIB), sparse: false, exclusive: true }
}

fn write(core: &mut Core, info: &DriveInfo, offset: u64, parts: &[&[u8]], durable: bool) -> Event {
    let mut data = core.io.slices();
    for part in parts {
        let mut buf = core.io.alloc(part.len()).unwrap();
        buf.copy_from_slice(part);
        data.push(buf.freeze());
    }
    if durable {
        core.io.write_durable(tag(1), info.file, offset, data);
    } else {
        core.io.write(tag(1), info.file, offset, data);
    }
    core.next(1)
}

fn read(core: &mut Core, info: &DriveInfo, offset: u64, len: usize) -> Event {
    let mut buf = core.io.alloc(len).unwrap();
    buf.fill(0xEE);
    core.io.read(tag(2), info.file, offset, buf);
    core.next(2)
}

fn bytes(event: Event) -> Vec<u8> {
    match event {
        Event::Read(buf) => buf.to_vec(),
        other => panic!("{other:?}"),
    }
}

fn kind(event: &Event) -> Option<ErrorKind> {
    if let Event::Failed { error, .. } = event { Some(error.kind) } else { None }
}

/// What every drive must do.
fn exercise(core: &mut Core, info: &DriveInfo) {
    let a = pattern(4096, 1);
    let b = pattern(200 * 1024, 2);
    assert!(matches!(write(core, info, 4096, &[&a], true), Event::Written(d) if d.is_empty()));
    assert!(matches!(write(core, info, MIB, &[&a, &b, &a], false), Event::Written(_)));
    assert!(matches!(write(core, info, 2 * MIB, &[&b], true), Event::Written(_)));
    core.io.flush_drive(tag(3), info.file);
    assert!(matches!(core.next(3), Event::Flushed));
    assert_eq!(bytes(read(core, info, 4096, 4096)), a);
    assert_eq!(bytes(read(core, info, MIB, 208 * 1024)), [&a[..], &b[..], &a[..]].concat());
    // Many at once, out of order.
    for i in 0..32u64 {
        let mut buf = core.io.alloc(4096).unwrap();
        buf.fill(u8::try_from(i).unwrap());
        let data = vec![buf.freeze()];
        core.io.write(tag(100 + i), info.file, 4 * MIB + i * 4096, data);
    }
    for i in (0..32u64).rev() {
        assert!(matches!(core.next(100 + i), Event::Written(_)));
    }
    for i in 0..32u64 {
        assert_eq!(bytes(read(core, info, 4 * MIB + i * 4096, 4096)), [u8::try_from(i).unwrap(); 4096]);
    }
    core.io.discard(tag(4), info.file, 4 * MIB, 64 * 4096);
    assert!(matches!(core.next(4), Event::Discarded));
    let beyond = read(core, info, info.size_bytes, 4096);
    assert_eq!(kind(&beyond), Some(ErrorKind::Medium), "{beyond:?}");
    assert!(matches!(beyond, Event::Failed { buf: Some(_), .. }));
}

#[test]
fn files_read_back_what_was_written() {
    for mask in MASKS {
        let folder = Folder::new();
        let path = folder.0.join("d0");
        let mut core = Core::new(&config(mask));
        let info = core.io.open_drive(&options(&path)).unwrap();
        assert!(info.created && !info.block_device && info.size_bytes == 8 * MIB);
        assert!(std::fs::metadata(&path).unwrap().blocks() * 512 >= 8 * MIB, "preallocated");
        exercise(&mut core, &info);
        assert!(std::fs::metadata(&path).unwrap().blocks() * 512 >= 8 * MIB, "discards keep the space");
        core.io.close_drive(info.file);
        let closed = read(&mut core, &info, 0, 4096);
        assert_eq!(kind(&closed), Some(ErrorKind::Closed));
        let again = core.io.open_drive(&options(&path)).unwrap();
        assert!(!again.created);
        assert_eq!(bytes(read(&mut core, &again, 4096, 4096)), pattern(4096, 1));
    }
}

/// Memory-backed files: with direct I/O on new kernels, through the page cache on older ones.
#[test]
fn a_file_on_tmpfs() {
    let path = std::path::PathBuf::from(format!("/dev/shm/dolmen-uring-{}", std::process::id()));
    if !Path::new("/dev/shm").is_dir() {
        eprintln!("skipped: no /dev/shm");
        return;
    }
    let mut core = Core::new(&config("none"));
    let opened = core.io.open_drive(&options(&path));
    // The open file stays usable without its name.
    let _ = std::fs::remove_file(&path);
    exercise(&mut core, &opened.unwrap());
}

#[test]
fn misaligned_access_is_refused_not_wrong() {
    let folder = Folder::new();
    let mut core = Core::new(&config("none"));
    let info = core.io.open_drive(&options(&folder.0.join("d0"))).unwrap();
    let refused = read(&mut core, &info, 100, 4096);
    assert_eq!(kind(&refused), Some(ErrorKind::Refused), "{refused:?}");
    let refused = write(&mut core, &info, 0, &[&[1; 100], &[1; 3996]], true);
    assert_eq!(kind(&refused), Some(ErrorKind::Refused), "{refused:?}");
}

#[test]
fn sparse_files_and_their_limits() {
    let folder = Folder::new();
    let mut core = Core::new(&config("none"));
    let sparse = OpenDrive { create_bytes: Some(1 << 40), sparse: true, ..options(&folder.0.join("s")) };
    let info = core.io.open_drive(&sparse).unwrap();
    assert_eq!(info.size_bytes, 1 << 40);
    let held = || std::fs::metadata(folder.0.join("s")).unwrap().blocks();
    assert!(matches!(write(&mut core, &info, 1 << 39, &[&pattern(65536, 1)], true), Event::Written(_)));
    let before = held();
    core.io.discard(tag(4), info.file, 1 << 39, 65536);
    assert!(matches!(core.next(4), Event::Discarded));
    assert!(held() < before, "the space goes back to the file system");
    let huge = OpenDrive { sparse: false, create_bytes: Some(1 << 50), ..options(&folder.0.join("huge")) };
    let error = core.io.open_drive(&huge).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NoSpace, "{error}");
    assert!(!folder.0.join("huge").exists(), "half a drive is none");
    let missing = OpenDrive { create_bytes: None, ..options(&folder.0.join("missing")) };
    assert!(core.io.open_drive(&missing).unwrap_err().to_string().contains("missing"));
    let error = core.io.open_drive(&options(&folder.0)).unwrap_err();
    assert!(error.to_string().contains("neither"), "{error}");
}

#[test]
fn a_second_open_is_refused_by_name_and_the_lock_dies_with_its_holder() {
    let folder = Folder::new();
    let path = folder.0.join("d0");
    let mut core = Core::new(&config("none"));
    let info = core.io.open_drive(&options(&path)).unwrap();
    let error = core.io.open_drive(&options(&path)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    assert!(error.to_string().contains("this process") && error.to_string().contains("d0"), "{error}");
    // By another name it is told as the same drive.
    let (link, hard) = (folder.0.join("link"), folder.0.join("hard"));
    std::os::unix::fs::symlink(&path, &link).unwrap();
    std::fs::hard_link(&path, &hard).unwrap();
    for other in [link, hard] {
        let why = core.io.open_drive(&options(&other)).unwrap_err().to_string();
        let same = format!("{} is the same drive as one", other.display());
        assert!(why.contains(&same), "{why}");
    }
    // Other cores of the process share the lock, and it lives as long as one of them.
    let handle = core.io.export_drive(info.file).unwrap();
    let mut other = Core::new(&config("none"));
    let shared = DriveInfo { file: other.io.share_drive(&handle).unwrap(), ..info.clone() };
    drop(handle);
    drop(core);
    assert!(matches!(write(&mut other, &shared, 0, &[&[7; 4096]], true), Event::Written(_)));
    let mut third = Core::new(&config("none"));
    assert!(third.io.open_drive(&options(&path)).is_err());
    drop(other);
    third.io.open_drive(&options(&path)).unwrap();
    drop(third);
    // Another process holds it: one, which leaves no child of its own behind.
    let Ok(mut child) = Command::new("flock").arg("--no-fork").arg(&path).args(["sleep", "30"]).spawn()
    else {
        eprintln!("skipped the other process: no flock command here");
        return;
    };
    let mut core = Core::new(&config("none"));
    let error = (0..100).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        core.io.open_drive(&options(&path)).map(|i| core.io.close_drive(i.file)).err()
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let error = error.expect("the child took the lock");
    assert!(error.to_string().contains("process"), "{error}");
}

#[test]
fn a_dropped_driver_waits_for_its_operations() {
    for mask in MASKS {
        let folder = Folder::new();
        let mut core = Core::new(&config(mask));
        let info = core.io.open_drive(&options(&folder.0.join("d0"))).unwrap();
        let (client, server) = core.pair();
        core.io.receive(tag(1), client);
        core.io.receive(tag(2), server);
        for i in 0..64u64 {
            let buf = core.io.alloc(4096).unwrap();
            core.io.read(tag(3), info.file, i * 4096, buf);
        }
        core.io.submit();
        let start = std::time::Instant::now();
        drop(core);
        assert!(start.elapsed().as_secs() < 5);
    }
}

/// A loop device, detached at the end.
struct Loop(String);

impl Loop {
    fn attach(file: &Path) -> Option<Loop> {
        let out = Command::new("losetup").args(["-f", "--show"]).arg(file).output().ok()?;
        let name = String::from_utf8(out.stdout).unwrap().trim().to_owned();
        (out.status.success() && !name.is_empty()).then_some(Loop(name))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

#[test]
fn block_devices() {
    let folder = Folder::new();
    let file = folder.0.join("image");
    std::fs::write(&file, vec![0; 8 << 20]).unwrap();
    let Some(device) = Loop::attach(&file) else {
        eprintln!("skipped: no loop device can be made here");
        return;
    };
    for mask in ["none", "all"] {
        let mut core = Core::new(&config(mask));
        let drive = OpenDrive { create_bytes: None, ..options(Path::new(&device.0)) };
        let info = core.io.open_drive(&drive).unwrap();
        assert!(info.block_device && info.direct && !info.created);
        assert_eq!((info.size_bytes, info.align_bytes), (8 * MIB, 512));
        exercise(&mut core, &info);
        let error = core.io.open_drive(&drive).unwrap_err();
        assert!(error.to_string().contains("same drive"), "{error}");
        let shared = OpenDrive { exclusive: false, ..drive.clone() };
        assert!(core.io.open_drive(&shared).is_ok());
    }
}

/// What is large is under way as soon as it is submitted: the drive need not wait for the end of the turn.
#[test]
fn large_writes_do_not_wait_for_the_next_look() {
    let folder = Folder::new();
    let mut core = Core::new(&config("none"));
    let path = folder.0.join("d0");
    let info = core.io.open_drive(&options(&path)).unwrap();
    let data = pattern(256 * 1024, 3);
    let mut buf = core.io.alloc(data.len()).unwrap();
    buf.copy_from_slice(&data);
    core.io.write_durable(tag(1), info.file, 0, vec![buf.freeze()]);
    core.io.submit();
    // Without a look at completions, the bytes come into the file.
    let came = (0..10_000).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(1));
        std::fs::read(&path).unwrap()[..data.len()] == data
    });
    assert!(came);
    assert!(matches!(core.next(1), Event::Written(_)));
}

#[test]
fn buffers_with_heads_are_not_for_drives() {
    let folder = Folder::new();
    let mut core = Core::new(&UringConfig::without_drives(8 << 20));
    let error = core.io.open_drive(&options(&folder.0.join("drive"))).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused, "{error}");
    assert!(!folder.0.join("drive").exists(), "nothing is made for nobody");
}
