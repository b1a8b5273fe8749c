//! Opening drives: files and block devices, past the page cache, locked to one process.
//!
//! The lock is an advisory one on the open file, so it dies with the process; block devices are claimed from the kernel as
//! well. Direct I/O is used wherever the file system has it; where it has not (some tmpfs), the page cache is used, and
//! [`DriveInfo::direct`](dolmen_io::DriveInfo) says so: durable writes and flushes mean what they say there too.

use crate::{errors, identify};
use dolmen_io::{ALIGN_BYTES, DriveHandle, DriveInfo, Error, ErrorKind, FileId, OpenDrive};
use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    mem::ManuallyDrop,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
        },
    },
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

/// An open drive. Cores of one process share it, and with it its lock.
pub(crate) struct Opened {
    pub(crate) fd: ManuallyDrop<OwnedFd>,
    pub(crate) path: PathBuf,
    pub(crate) align_bytes: u32,
    /// Discards do something; see [`OpenDrive::sparse`].
    pub(crate) discards: bool,
    /// Its file system may ask somebody else before an operation is as much as begun (FUSE: for attributes, before a read), and whoever
    /// begins it waits for that.
    pub(crate) asks: bool,
}

/// How often, and how far apart, opening is tried again when nobody alive seems to be in the way.
const PATIENCE_TRIES: u32 = 100;
const PATIENCE_PAUSE: Duration = Duration::from_millis(20);

/// Alignment assumed where the file system doesn't tell one. Bytes.
const USUAL_ALIGN: u32 = 4096;

fn failed(what: &str, path: &Path, e: &std::io::Error) -> Error {
    errors::drive(format!("{what} {}", path.display()), e.raw_os_error().unwrap_or(libc::EIO))
}

/// Opens a drive on any thread, which may take long: while cores serve, on none of theirs. They get handles of their own from what is
/// told of it ([`dolmen_io::Driver::share_drive`]); the `file` in it is nobody's.
///
/// # Errors
/// It can't be opened, or somebody has it.
pub fn open_drive(options: &OpenDrive) -> Result<(DriveHandle, DriveInfo), Error> {
    open(options).map(|(opened, info)| (DriveHandle(Arc::new(opened)), info))
}

/// Opens a drive; the caller puts its own handle into `file`.
pub(crate) fn open(options: &OpenDrive) -> Result<(Opened, DriveInfo), Error> {
    let path = &options.path;
    let created = match (fs::metadata(path), options.create_bytes) {
        (Ok(_), _) => false,
        (Err(e), Some(bytes)) if e.kind() == std::io::ErrorKind::NotFound => {
            create(path, bytes, options.sparse)?;
            true
        }
        (Err(e), _) => return Err(failed("open", path, &e)),
    };
    let kind = fs::metadata(path).map_err(|e| failed("look at", path, &e))?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        let what = format!("{} is neither a block device nor a regular file", path.display());
        return Err(errors::refused(what));
    }
    let block_device = kind.is_block_device();
    let (file, direct) = open_direct(path, block_device && options.exclusive)?;
    if options.exclusive {
        lock(&file, path)?;
    }
    let (size_bytes, align_bytes) = if block_device {
        block_geometry(&file, path)?
    } else {
        let size = file.metadata().map_err(|e| failed("look at", path, &e))?.len();
        (size, if direct { direct_alignment(&file).unwrap_or(USUAL_ALIGN) } else { 512 })
    };
    if align_bytes as usize > ALIGN_BYTES {
        let what =
            format!("{} wants alignment to {align_bytes} bytes; {ALIGN_BYTES} is the most", path.display());
        return Err(errors::refused(what));
    }
    let discards = block_device || options.sparse;
    let identity = if block_device { identify::block_device(&file) } else { identify::Identity::default() };
    let info = DriveInfo {
        file: FileId(u32::MAX),
        size_bytes: size_bytes - size_bytes % u64::from(align_bytes),
        align_bytes,
        block_device,
        direct,
        created,
        serial: identity.serial,
        model: identity.model,
    };
    let asks = !block_device && asks_others(&file);
    let fd = ManuallyDrop::new(file.into());
    Ok((Opened { fd, path: path.clone(), align_bytes, discards, asks }, info))
}

/// Makes a file and what it takes to find it again durable. Where the file system can, the file has no name before it is
/// complete, so that a process killed here leaves no drive of a wrong size behind.
fn create(path: &Path, bytes: u64, sparse: bool) -> Result<(), Error> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let nameless = OpenOptions::new().write(true).mode(0o600).custom_flags(libc::O_TMPFILE).open(folder);
    let named = nameless.is_err();
    let file = nameless
        .or_else(|_| OpenOptions::new().write(true).create_new(true).mode(0o600).open(path))
        .map_err(|e| failed("create", path, &e))?;
    let made = size(&file, bytes, sparse)
        .and_then(|()| file.sync_all())
        .and_then(|()| if named { Ok(()) } else { name(&file, path) })
        .and_then(|()| File::open(folder)?.sync_all());
    made.map_err(|e| {
        // Half a drive is none. Should this fail too, the next start finds a file of the wrong size.
        if named {
            let _ = fs::remove_file(path);
        }
        let how = if sparse { "create" } else { "preallocate" };
        failed(&format!("{how} {bytes} bytes for"), path, &e)
    })
}

/// Gives a file without a name its name; fails if the name is taken.
fn name(file: &File, path: &Path) -> std::io::Result<()> {
    let from = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let to = CString::new(path.as_os_str().as_bytes())?;
    let (here, follow) = (libc::AT_FDCWD, libc::AT_SYMLINK_FOLLOW);
    // SAFETY: both strings end with a zero and live across the call.
    match unsafe { libc::linkat(here, from.as_ptr(), here, to.as_ptr(), follow) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn size(file: &File, bytes: u64, sparse: bool) -> std::io::Result<()> {
    if sparse {
        return file.set_len(bytes);
    }
    let len = i64::try_from(bytes).map_err(|_| std::io::Error::from_raw_os_error(libc::EFBIG))?;
    loop {
        // SAFETY: no pointers.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, len) } == 0 {
            return Ok(());
        }
        let e = std::io::Error::last_os_error();
        if e.raw_os_error() != Some(libc::EINTR) {
            return Err(e);
        }
    }
}

/// Opens past the page cache, or through it where there is no other way; which of the two.
fn open_direct(path: &Path, claim: bool) -> Result<(File, bool), Error> {
    let claim_flag = if claim { libc::O_EXCL } else { 0 };
    let open = |flags: i32| OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
    let attempt = || match open(libc::O_DIRECT | claim_flag) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => open(claim_flag).map(|f| (f, false)),
        other => other.map(|f| (f, true)),
    };
    let busy = |e: &std::io::Error| claim && e.raw_os_error() == Some(libc::EBUSY);
    let opened = patiently(attempt, |e| busy(e) && identify::users_of_device(path).is_empty());
    opened.map_err(|e| {
        if !busy(&e) {
            return failed("open", path, &e);
        }
        if let Some(other) = fs::metadata(path).ok().and_then(|meta| identify::open_here(&meta, None)) {
            return same_drive(path, &other, Some(libc::EBUSY));
        }
        let users = identify::users_of_device(path);
        let by = if users.is_empty() { "by another process or the kernel" } else { &users };
        let context = format!("{} is in use: {by}", path.display());
        Error { kind: ErrorKind::Refused, context, errno: Some(libc::EBUSY) }
    })
}

/// A drive that is named twice, perhaps by two names: only the file's own is known of the other one.
fn same_drive(path: &Path, other: &Path, errno: Option<i32>) -> Error {
    let file = if path == other { String::new() } else { format!(", {}", other.display()) };
    let path = path.display();
    let context =
        format!("{path} is the same drive as one that this process has open already{file}; name it once");
    Error { kind: ErrorKind::Refused, context, errno }
}

/// Tries again for a while as long as the failure `may_pass`: the kernel lets go of a killed process's operations, and with
/// them of its files, a moment after the process itself.
fn patiently<T>(
    mut attempt: impl FnMut() -> std::io::Result<T>,
    may_pass: impl Fn(&std::io::Error) -> bool,
) -> std::io::Result<T> {
    for _ in 0..PATIENCE_TRIES {
        match attempt() {
            Err(e) if may_pass(&e) => std::thread::sleep(PATIENCE_PAUSE),
            other => return other,
        }
    }
    attempt()
}

fn lock(file: &File, path: &Path) -> Result<(), Error> {
    let holder = || file.metadata().ok().and_then(|m| identify::lock_holder(m.dev(), m.ino()));
    let attempt = || {
        // SAFETY: no pointers.
        match unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    let taken = |e: &std::io::Error| e.raw_os_error() == Some(libc::EWOULDBLOCK);
    patiently(attempt, |e| taken(e) && holder().is_none()).map_err(|e| {
        if !taken(&e) {
            return failed("lock", path, &e);
        }
        let other = file.metadata().ok().and_then(|meta| identify::open_here(&meta, Some(file.as_raw_fd())));
        if let Some(other) = other {
            return same_drive(path, &other, None);
        }
        let holder = holder().unwrap_or_else(|| "another process".into());
        let context = format!("{} is in use by {holder}; a drive belongs to one daemon", path.display());
        Error { kind: ErrorKind::Refused, context, errno: None }
    })
}

/// What the file system asks of direct I/O (statx, Linux 6.1); `None` when it doesn't tell.
fn direct_alignment(file: &File) -> Option<u32> {
    const STATX_DIOALIGN: u32 = 0x2000;
    // `struct statx` as 32-bit words: stx_mask is word 0, stx_dio_mem_align word 38, stx_dio_offset_align word 39.
    let mut answer = [0u32; 64];
    let empty = CString::default();
    // SAFETY: `struct statx` has 256 bytes, and both pointers live across the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_statx,
            file.as_raw_fd(),
            empty.as_ptr(),
            libc::AT_EMPTY_PATH,
            STATX_DIOALIGN,
            answer.as_mut_ptr(),
        )
    };
    let (memory, offset) = (answer[38], answer[39]);
    (result == 0 && answer[0] & STATX_DIOALIGN != 0 && offset > 0).then_some(memory.max(offset).max(512))
}

/// True when the file's contents are another process's or another machine's.
fn asks_others(file: &File) -> bool {
    // FUSE, NFS, SMB, CIFS, Ceph, 9P: `include/uapi/linux/magic.h` and the file systems' own sources.
    const OTHERS: [u64; 6] = [0x6573_5546, 0x6969, 0xfe53_4d42, 0xff53_4d42, 0x00c3_6400, 0x0102_1997];
    // SAFETY: all zeros is a valid answer, and the kernel fills it in.
    let mut answer: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, and the answer lives across the call.
    let result = unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut answer) };
    result == 0 && u64::try_from(answer.f_type).is_ok_and(|kind| OTHERS.contains(&kind))
}

/// Size and alignment of a block device.
fn block_geometry(file: &File, path: &Path) -> Result<(u64, u32), Error> {
    const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;
    const BLKSSZGET: libc::c_ulong = 0x1268;
    let (mut bytes, mut sector) = (0u64, 0i32);
    // SAFETY: each request fills the integer that it is given.
    let results = unsafe {
        [
            libc::ioctl(file.as_raw_fd(), BLKGETSIZE64, &mut bytes),
            libc::ioctl(file.as_raw_fd(), BLKSSZGET, &mut sector),
        ]
    };
    if results != [0, 0] {
        return Err(failed("ask for the size of", path, &std::io::Error::last_os_error()));
    }
    Ok((bytes, u32::try_from(sector).unwrap_or(USUAL_ALIGN).max(512)))
}

/// How long a drive may take to be closed before nobody waits for it any more: until then a device that was claimed is free again when
/// this returns.
const CLOSE_PATIENCE: Duration = Duration::from_millis(100);

impl Drop for Opened {
    fn drop(&mut self) {
        // The kernel may hold the open file for a moment after our last operation on it; the lock shall not wait for that.
        // SAFETY: no pointers. Without a lock there is nothing to undo.
        unsafe { libc::flock(self.fd.as_raw_fd(), libc::LOCK_UN) };
        // SAFETY: nobody has it after this.
        let fd = unsafe { ManuallyDrop::take(&mut self.fd) };
        // Closing asks some drives to flush, and one that hangs never answers: that must not be a core's affair.
        let (closed, wait) = mpsc::channel();
        let close = move || {
            drop(fd);
            // Nobody may wait for it any more.
            let _ = closed.send(());
        };
        // Where no thread is to be had it is closed here, by the closure's end.
        if thread::Builder::new().name("close-drive".into()).spawn(close).is_ok() {
            // Nothing depends on which of both it was.
            let _ = wait.recv_timeout(CLOSE_PATIENCE);
        }
    }
}

/// Opened drives are named by their path in messages.
impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opened({})", String::from_utf8_lossy(self.path.as_os_str().as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::Write,
        net::{TcpListener, TcpStream},
        time::Instant,
    };

    /// A socket stands for a drive that hangs: what it has sent nobody takes, and closing it waits for that.
    #[test]
    fn closing_what_hangs_holds_nobody_up() {
        const LINGERS: Duration = Duration::from_secs(20);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut hangs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let _peer = listener.accept().unwrap();
        hangs.set_nonblocking(true).unwrap();
        while hangs.write(&[0; 65536]).is_ok() {}
        let linger = libc::linger { l_onoff: 1, l_linger: LINGERS.as_secs().try_into().unwrap() };
        let (value, len) = (std::ptr::from_ref(&linger).cast(), size_of_val(&linger).try_into().unwrap());
        // SAFETY: the option's value lives across the call, and has that length.
        let set =
            unsafe { libc::setsockopt(hangs.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, value, len) };
        assert_eq!(set, 0);
        let fd = ManuallyDrop::new(OwnedFd::from(hangs));
        let opened =
            Opened { fd, path: PathBuf::from("hangs"), align_bytes: 512, discards: false, asks: false };
        let began = Instant::now();
        drop(opened);
        assert!(began.elapsed() < LINGERS / 2);
    }
}
