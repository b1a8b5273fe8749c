//! The io_uring itself: set-up and probing, pushing requests, entering the kernel, taking completions.

use crate::{
    config::{Features, UringConfig},
    errors, process, sys,
    token::{Kind, Token},
};
use dolmen_io::{Error, Pool};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue, types};
use std::os::fd::{AsRawFd, RawFd};

/// Completions that fit the queue; more are kept by the kernel until there is room.
const COMPLETIONS_PER_SUBMISSION: u32 = 8;

/// Largest memory that the kernel registers as one buffer. Bytes.
const LARGEST_REGISTERED_BYTES: usize = 1 << 30;

/// Sockets and drives that are registered at most; what comes later works by descriptor.
const MOST_REGISTERED_FILES: u32 = 16_384;

/// The register operation and enter flag for the ring's own descriptor (`linux/io_uring.h`).
const REGISTER_RING_FDS: libc::c_uint = 20;
const UNREGISTER_RING_FDS: libc::c_uint = 21;

/// One completion.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cqe {
    pub(crate) token: Token,
    pub(crate) result: i32,
    flags: u32,
}

impl Cqe {
    /// The request will complete again.
    pub(crate) fn more(&self) -> bool {
        cqueue::more(self.flags)
    }

    /// The provided buffer that holds the data.
    pub(crate) fn chunk(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }
}

/// What a request works on: a descriptor, or its place in the ring's table of registered files.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    Fd(RawFd),
    Fixed(u32),
}

impl Target {
    /// The two parts that requests are built with.
    pub(crate) fn parts(self) -> (types::Fd, squeue::Flags) {
        match self {
            Target::Fd(fd) => (types::Fd(fd), squeue::Flags::empty()),
            Target::Fixed(at) => {
                let at = i32::try_from(at).expect("the table is far smaller");
                (types::Fd(at), squeue::Flags::FIXED_FILE)
            }
        }
    }
}

/// How long [`Ring::enter`] waits for a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EnterWait {
    No,
    Nanos(u64),
    Forever,
}

/// The kernel's `io_uring_getevents_arg`.
#[repr(C)]
struct GetEventsArg {
    sigmask: u64,
    sigmask_bytes: u32,
    pad: u32,
    time: u64,
}

/// The kernel's `io_uring_rsrc_update`.
#[repr(C)]
struct ResourceUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

pub(crate) struct Ring {
    uring: IoUring,
    /// Place of the ring's descriptor in the thread's table.
    registered: Option<u32>,
    features: Features,
    /// Addresses of the pool that is registered, empty when none is.
    registered_pool: std::ops::Range<usize>,
    free_files: Vec<u32>,
    /// Requests whose last completion has not been taken.
    outstanding: usize,
    /// Completions taken to make room while requests were being pushed.
    early: Vec<Cqe>,
}

impl Ring {
    /// A ring of the calling thread, with the features that the kernel has and `config` doesn't mask.
    pub(crate) fn new(config: &UringConfig, pool: &Pool) -> Result<Ring, Error> {
        let (uring, defer, taskrun_flag) = build(config)?;
        let mut probe = Probe::new();
        uring.submitter().register_probe(&mut probe).map_err(no_ring)?;
        // Came with 6.1, like deferred work, which kernels can lack for other reasons.
        if !probe.is_supported(opcode::SendMsgZc::CODE) {
            return Err(errors::no_ring(libc::EINVAL));
        }
        let mask = &config.mask;
        let features = Features {
            multishot: !mask.multishot,
            defer,
            fixed_buffers: false,
            fixed_files: 0,
            ring_fd: false,
            waitall: !mask.waitall,
            taskrun_flag,
            direct: !mask.direct,
        };
        let (free_files, early) = (Vec::new(), Vec::new());
        let mut ring = Ring {
            uring,
            registered: None,
            features,
            registered_pool: 0..0,
            free_files,
            outstanding: 0,
            early,
        };
        ring.register(config, pool);
        Ok(ring)
    }

    /// True for memory that the kernel knows: our own pool, when it is registered; never a buffer of another core.
    pub(crate) fn is_registered(&self, at: *const u8) -> bool {
        self.registered_pool.contains(&(at as usize))
    }

    /// Registers what may be registered; refusals are no failure.
    fn register(&mut self, config: &UringConfig, pool: &Pool) {
        let mask = &config.mask;
        let (base, bytes) = pool.region();
        // Under a limit, memory locked for this would be missing for the next core's ring.
        if config.register_pool && !mask.fixed && bytes <= LARGEST_REGISTERED_BYTES && sys::may_lock_memory()
        {
            let region = libc::iovec { iov_base: base.cast(), iov_len: bytes };
            // SAFETY: registration alone touches nothing, it keeps the pages; requests that name the region hold buffers of it.
            self.features.fixed_buffers =
                unsafe { self.uring.submitter().register_buffers(&[region]) }.is_ok();
            if self.features.fixed_buffers {
                self.registered_pool = base as usize..base as usize + bytes;
            }
        }
        let files = process::descriptor_limit().min(MOST_REGISTERED_FILES);
        // Before 6.13 a file that was taken out of the table stayed open until older requests on other files had ended, which
        // for receives may be never. The nearest thing that can be probed came with 6.15.
        let closes_at_once = self.uring.params().is_feature_no_iowait();
        if !mask.files && closes_at_once && self.uring.submitter().register_files_sparse(files).is_ok() {
            self.features.fixed_files = files;
            self.free_files = (0..files).rev().collect();
        }
        if !mask.ringfd {
            let fd = u64::try_from(self.uring.as_raw_fd()).expect("descriptors are not negative");
            let mut update = ResourceUpdate { offset: u32::MAX, reserved: 0, data: fd };
            self.registered = self.register_ring(REGISTER_RING_FDS, &mut update).then_some(update.offset);
            self.features.ring_fd = self.registered.is_some();
        }
    }

    fn register_ring(&self, what: libc::c_uint, update: &mut ResourceUpdate) -> bool {
        let (fd, update) = (self.uring.as_raw_fd(), std::ptr::from_mut(update));
        // SAFETY: one update structure that lives across the call.
        unsafe { libc::syscall(libc::SYS_io_uring_register, fd, what, update, 1) == 1 }
    }

    pub(crate) fn features(&self) -> Features {
        self.features
    }

    /// For registering other resources.
    pub(crate) fn submitter(&self) -> io_uring::Submitter<'_> {
        self.uring.submitter()
    }

    /// Requests whose last completion has not been taken.
    pub(crate) fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Puts a descriptor into the table of registered files, if there is room.
    pub(crate) fn register_file(&mut self, fd: RawFd) -> Target {
        let Some(at) = self.free_files.pop() else { return Target::Fd(fd) };
        match self.uring.submitter().register_files_update(at, &[fd]) {
            Ok(_) => Target::Fixed(at),
            Err(_) => {
                self.free_files.push(at);
                Target::Fd(fd)
            }
        }
    }

    /// Takes a file out of the table; to be called before its descriptor is closed.
    pub(crate) fn unregister_file(&mut self, target: Target) {
        if let Target::Fixed(at) = target
            && self.uring.submitter().register_files_update(at, &[-1]).is_ok()
        {
            self.free_files.push(at);
        }
    }

    /// Queues a request. Enters the kernel only when the queue is full.
    ///
    /// # Safety
    /// Whatever the request points to stays valid, and untouched where the kernel writes, until its last completion was
    /// taken; see [`Ring::outstanding`].
    pub(crate) unsafe fn push(&mut self, entry: squeue::Entry, token: Token) {
        let entry = entry.user_data(token.pack());
        // SAFETY: the caller's promise.
        while unsafe { self.uring.submission().push(&entry) }.is_err() {
            self.enter(EnterWait::No);
            let mut early = std::mem::take(&mut self.early);
            self.take_queue(&mut early);
            self.early = early;
        }
        self.outstanding += 1;
    }

    /// Queues the cancellation of a request.
    pub(crate) fn cancel(&mut self, token: Token) {
        let entry = opcode::AsyncCancel::new(token.pack()).build();
        // SAFETY: a cancellation points to nothing.
        unsafe { self.push(entry, Token { kind: Kind::Cancel, ..token }) };
    }

    /// True when entering the kernel without waiting would do anything.
    pub(crate) fn wants_enter(&mut self) -> bool {
        let queue = self.uring.submission();
        let flagged = queue.taskrun() || queue.cq_overflow();
        !queue.is_empty() || flagged || (self.outstanding > 0 && !self.features.taskrun_flag)
    }

    /// True when completions can be taken without entering the kernel.
    pub(crate) fn has_completions(&mut self) -> bool {
        !self.early.is_empty() || !self.uring.completion().is_empty()
    }

    /// Submits what is queued, runs what the kernel deferred, and waits for a completion as `wait` says.
    pub(crate) fn enter(&mut self, wait: EnterWait) {
        const GETEVENTS: u32 = 1;
        const EXT_ARG: u32 = 1 << 3;
        const REGISTERED_RING: u32 = 1 << 4;
        let queued = self.uring.submission().len();
        let (fd, flags) = match self.registered {
            Some(at) => (i64::from(at), GETEVENTS | EXT_ARG | REGISTERED_RING),
            None => (i64::from(self.uring.as_raw_fd()), GETEVENTS | EXT_ARG),
        };
        let nanos = if let EnterWait::Nanos(n) = wait { n } else { 0 };
        let time = libc::timespec {
            tv_sec: i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(nanos % 1_000_000_000).expect("below a second"),
        };
        let bounded = matches!(wait, EnterWait::Nanos(_));
        let time = if bounded { std::ptr::from_ref(&time) as u64 } else { 0 };
        let arg = GetEventsArg { sigmask: 0, sigmask_bytes: 0, pad: 0, time };
        let least = i64::from(wait != EnterWait::No);
        // SAFETY: the argument structures live across the call; requests are valid by `push`'s contract.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                fd,
                queued,
                least,
                flags,
                std::ptr::from_ref(&arg),
                size_of::<GetEventsArg>(),
            )
        };
        if result < 0 {
            let errno = errors::last();
            // Time is up, a signal came, or completions must be taken first: the next turn goes on.
            let passes = [libc::ETIME, libc::EINTR, libc::EBUSY, libc::EAGAIN, libc::ENOMEM];
            assert!(passes.contains(&errno), "io_uring_enter: {}", std::io::Error::from_raw_os_error(errno));
        }
    }

    /// Moves every completion that is there to `out`.
    pub(crate) fn take(&mut self, out: &mut Vec<Cqe>) {
        out.append(&mut self.early);
        self.take_queue(out);
    }

    fn take_queue(&mut self, out: &mut Vec<Cqe>) {
        for cqe in self.uring.completion() {
            if !cqueue::more(cqe.flags()) {
                self.outstanding -= 1;
            }
            let token = Token::unpack(cqe.user_data()).expect("every request carries a token of ours");
            out.push(Cqe { token, result: cqe.result(), flags: cqe.flags() });
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The thread's table would hold the ring until the thread ends.
        if let Some(offset) = self.registered.take() {
            let mut update = ResourceUpdate { offset, reserved: 0, data: 0 };
            self.register_ring(UNREGISTER_RING_FDS, &mut update);
        }
    }
}

/// The ring with the best flags that the kernel takes; whether work is deferred, and whether its flag is raised.
fn build(config: &UringConfig) -> Result<(IoUring, bool, bool), Error> {
    let mut result = Err(errors::no_ring(libc::EINVAL));
    for defer in [true, false] {
        if defer && config.mask.defer {
            continue;
        }
        let flag = !config.mask.taskflag;
        let mut builder = IoUring::builder();
        builder.dontfork().setup_clamp().setup_submit_all();
        builder.setup_cqsize(config.submission_entries.saturating_mul(COMPLETIONS_PER_SUBMISSION));
        if defer {
            builder.setup_single_issuer().setup_defer_taskrun();
        } else {
            builder.setup_coop_taskrun();
        }
        if flag {
            builder.setup_taskrun_flag();
        }
        match builder.build(config.submission_entries) {
            Ok(ring) if ring.params().is_feature_nodrop() && ring.params().is_feature_ext_arg() => {
                return Ok((ring, defer, flag));
            }
            Ok(_) => return Err(errors::no_ring(libc::EINVAL)),
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => result = Err(no_ring(e)),
            Err(e) => return Err(no_ring(e)),
        }
    }
    result
}

fn no_ring(e: std::io::Error) -> Error {
    errors::no_ring(e.raw_os_error().unwrap_or(libc::EIO))
}
