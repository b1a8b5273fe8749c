//! Thin, safe wrappers round the system calls that are not io_uring's.

use crate::errors;
use dolmen_io::{Buf, Error};
use dolmen_types::{Nanos, UnixMillis};
use std::{
    mem::{size_of, zeroed},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, fs::FileTypeExt, net::UnixStream},
    },
    path::Path,
    time::Duration,
};

/// Connections that wait to be accepted at most; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// How often, and how far apart, a bind is tried again: the kernel lets go of a killed process's accept, and with it of the
/// port, a moment after the process itself.
const BIND_TRIES: u32 = 25;
const BIND_PAUSE: Duration = Duration::from_millis(20);

/// Asks for a region to be backed by large pages where it is used: its parts are then found with few entries of the TLB. A wish;
/// nothing is set aside for it, and what is never used still takes no memory.
pub(crate) fn prefer_large_pages((base, bytes): (*mut u8, usize)) {
    // SAFETY: advice about a region that the caller owns; it changes no contents, and where it can't be had nothing happens.
    unsafe { libc::madvise(base.cast(), bytes, libc::MADV_HUGEPAGE) };
}

/// A socket address in the kernel's form.
#[derive(Clone, Copy)]
pub(crate) struct RawAddr {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

fn len_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("structs are small")
}

impl RawAddr {
    pub(crate) fn empty() -> RawAddr {
        // SAFETY: all zeros is a valid `sockaddr_storage`.
        RawAddr { storage: unsafe { zeroed() }, len: len_of::<libc::sockaddr_storage>() }
    }

    pub(crate) fn new(addr: SocketAddr) -> RawAddr {
        let mut raw = RawAddr::empty();
        match addr {
            SocketAddr::V4(v4) => {
                let sin = libc::sockaddr_in {
                    sin_family: family(addr).try_into().expect("AF_INET is small"),
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                raw.len = len_of::<libc::sockaddr_in>();
                // SAFETY: `sockaddr_storage` is large and aligned enough for every address family.
                unsafe { std::ptr::from_mut(&mut raw.storage).cast::<libc::sockaddr_in>().write(sin) };
            }
            SocketAddr::V6(v6) => {
                let sin6 = libc::sockaddr_in6 {
                    sin6_family: family(addr).try_into().expect("AF_INET6 is small"),
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                raw.len = len_of::<libc::sockaddr_in6>();
                // SAFETY: as above.
                unsafe { std::ptr::from_mut(&mut raw.storage).cast::<libc::sockaddr_in6>().write(sin6) };
            }
        }
        raw
    }

    /// A path in the file system.
    fn unix(path: &Path) -> Result<RawAddr, Error> {
        let bytes = path.as_os_str().as_bytes();
        // SAFETY: all zeros is a valid `sockaddr_un`.
        let mut sun: libc::sockaddr_un = unsafe { zeroed() };
        // The path ends with a zero.
        if bytes.is_empty() || bytes.len() >= sun.sun_path.len() || bytes.contains(&0) {
            let most = sun.sun_path.len() - 1;
            let text = format!("{}: the path of a socket has 1 to {most} bytes", path.display());
            return Err(errors::refused(text));
        }
        sun.sun_family = libc::AF_UNIX.try_into().expect("AF_UNIX is small");
        for (to, from) in sun.sun_path.iter_mut().zip(bytes) {
            *to = libc::c_char::from_ne_bytes([*from]);
        }
        let mut raw = RawAddr::empty();
        raw.len = len_of::<libc::sockaddr_un>();
        // SAFETY: `sockaddr_storage` is large and aligned enough for every address family.
        unsafe { std::ptr::from_mut(&mut raw.storage).cast::<libc::sockaddr_un>().write(sun) };
        Ok(raw)
    }

    /// Unspecified for a socket in the file system; `None` for other families.
    fn get(&self) -> Option<SocketAddr> {
        match i32::from(self.storage.ss_family) {
            libc::AF_UNIX => Some(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0)),
            libc::AF_INET => {
                // SAFETY: the family says that this is a `sockaddr_in`.
                let sin = unsafe { std::ptr::from_ref(&self.storage).cast::<libc::sockaddr_in>().read() };
                let ip = Ipv4Addr::from(sin.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(sin.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: the family says that this is a `sockaddr_in6`.
                let sin6 = unsafe { std::ptr::from_ref(&self.storage).cast::<libc::sockaddr_in6>().read() };
                let ip = Ipv6Addr::from(sin6.sin6_addr.s6_addr);
                let port = u16::from_be(sin6.sin6_port);
                Some(SocketAddrV6::new(ip, port, sin6.sin6_flowinfo, sin6.sin6_scope_id).into())
            }
            _ => None,
        }
    }

    pub(crate) fn as_ptr(&self) -> *const libc::sockaddr {
        std::ptr::from_ref(&self.storage).cast()
    }

    pub(crate) fn len(&self) -> libc::socklen_t {
        self.len
    }
}

fn family(addr: SocketAddr) -> i32 {
    if addr.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }
}

/// Ends our side of a stream. A socket that is not connected any more has no stream to end, which is as good.
pub(crate) fn end_stream(socket: &OwnedFd) {
    // SAFETY: takes two numbers; the descriptor is open.
    let _ = unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_WR) };
}

/// Fills in what is true of descriptors now, without waiting. When the kernel has no memory for that nothing is said of any.
pub(crate) fn poll_now(asked: &mut [libc::pollfd]) {
    let count = libc::nfds_t::try_from(asked.len()).expect("descriptors are far fewer");
    // SAFETY: as many entries as are named, which live across the call.
    let _ = unsafe { libc::poll(asked.as_mut_ptr(), count, 0) };
}

/// Ends a TCP stream at once, both ways: what is still to be sent is thrown away, and the peer told of a reset. Not left to the close
/// (SO_LINGER): the kernel may keep a file that was registered with the ring for as long as requests of others are under way that
/// are older. A socket that is not connected any more is as good.
pub(crate) fn disconnect(socket: &OwnedFd) {
    // All zeros: AF_UNSPEC.
    let nowhere = RawAddr::empty();
    // SAFETY: the address lives across the call and has the length given.
    let _ = unsafe { libc::connect(socket.as_raw_fd(), nowhere.as_ptr(), nowhere.len()) };
}

/// How many bytes of a TCP stream the peer has acknowledged; `None` for another kind of socket.
pub(crate) fn bytes_acknowledged(socket: &OwnedFd) -> Option<u64> {
    // `struct tcp_info` as 64-bit words: tcpi_bytes_acked is word 15 (Linux 4.1).
    const WORD: usize = 15;
    let mut info = [0u64; WORD + 1];
    let mut len = libc::socklen_t::try_from(size_of_val(&info)).expect("a short struct");
    let (to, option) = (info.as_mut_ptr().cast(), libc::TCP_INFO);
    // SAFETY: the kernel fills at most as many bytes as the length says, which it sets to those that it filled.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, option, to, &raw mut len) };
    (result == 0 && len as usize == size_of_val(&info)).then_some(info[WORD])
}

/// `result` of a call that returns -1 on failure.
fn check(what: &str, result: i32) -> Result<i32, Error> {
    if result < 0 { Err(errors::socket(what, errors::last())) } else { Ok(result) }
}

/// Takes a descriptor that a system call just returned.
///
/// # Safety
/// `fd` is open and nobody else's.
pub(crate) unsafe fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the caller's promise.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn set_option(fd: &OwnedFd, level: i32, name: i32, value: i32) -> Result<(), Error> {
    let value = std::ptr::from_ref(&value).cast();
    // SAFETY: the option's value is an int that lives across the call.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value, len_of::<i32>()) };
    check("set a socket option", result).map(drop)
}

/// What a TCP socket may receive before it is read, from the start. Bytes.
///
/// The kernel begins with 128 KiB and gives more to those of which it has seen that they read fast. Until then a burst of a queue's replies, or
/// of its writes, closes the window, and each pause that this makes keeps the kernel from seeing it.
const RECEIVE_WINDOW_BYTES: i32 = 1 << 20;

/// Gives a TCP socket room for [`RECEIVE_WINDOW_BYTES`]. Unlike SO_RCVBUF, which is bounded by `net.core.rmem_max` and ends the kernel's own
/// adjustment, a low-water mark makes room for itself, within half of `net.ipv4.tcp_rmem`'s maximum; and then goes.
fn open_window(fd: &OwnedFd) -> Result<(), Error> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, RECEIVE_WINDOW_BYTES)?;
    set_option(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, 1)
}

/// Sets how a TCP socket decides how fast it sends.
fn set_congestion(fd: &OwnedFd, name: &str) -> Result<(), Error> {
    let len = libc::socklen_t::try_from(name.len()).expect("a short word");
    let (value, option) = (name.as_ptr().cast(), libc::TCP_CONGESTION);
    // SAFETY: the option's value are bytes that live across the call, as many as its length says.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, option, value, len) };
    let known = "/proc/sys/net/ipv4/tcp_available_congestion_control names those that there are";
    check(&format!("set the congestion control {name} ({known})"), result).map(drop)
}

/// Whether sockets can be had with this congestion control: better asked before anything is opened.
pub(crate) fn check_congestion(name: &str) -> Result<(), Error> {
    stream_socket(SocketAddr::from(([127, 0, 0, 1], 0)), Some(name)).map(drop)
}

/// A blocking stream socket with NODELAY (io_uring itself never blocks on it), a window that takes bursts, and this congestion control, else
/// the system's.
pub(crate) fn stream_socket(addr: SocketAddr, congestion: Option<&str>) -> Result<OwnedFd, Error> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(family(addr), libc::SOCK_STREAM | libc::SOCK_CLOEXEC, libc::IPPROTO_TCP) };
    // SAFETY: just made.
    let fd = unsafe { own(check("make a socket", fd)?) };
    set_option(&fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    open_window(&fd)?;
    congestion.map_or(Ok(()), |name| set_congestion(&fd, name))?;
    Ok(fd)
}

/// Silence after which the kernel asks whether a peer is still there, pause between questions, and unanswered questions
/// that end a connection: a peer whose machine died is noticed within two minutes. Seconds, seconds, count.
const KEEPALIVE: [(i32, i32); 3] =
    [(libc::TCP_KEEPIDLE, 60), (libc::TCP_KEEPINTVL, 10), (libc::TCP_KEEPCNT, 6)];

/// A listening socket and the address it got. Accepted sockets inherit NODELAY, window, congestion control and keep-alive from
/// it.
pub(crate) fn listener(
    addr: SocketAddr,
    reuse_port: bool,
    congestion: Option<&str>,
) -> Result<(OwnedFd, SocketAddr), Error> {
    let fd = stream_socket(addr, congestion)?;
    set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if reuse_port {
        set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    }
    set_option(&fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    for (name, value) in KEEPALIVE {
        set_option(&fd, libc::IPPROTO_TCP, name, value)?;
    }
    if addr.is_ipv6() {
        set_option(&fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    let raw = RawAddr::new(addr);
    // SAFETY: the address lives across the call and has the length given.
    let bind = || unsafe { libc::bind(fd.as_raw_fd(), raw.as_ptr(), raw.len()) };
    let mut bound = bind();
    for _ in 0..BIND_TRIES {
        if bound == 0 || errors::last() != libc::EADDRINUSE {
            break;
        }
        std::thread::sleep(BIND_PAUSE);
        bound = bind();
    }
    check(&format!("bind {addr}"), bound)?;
    // SAFETY: no pointers.
    check(&format!("listen on {addr}"), unsafe { libc::listen(fd.as_raw_fd(), BACKLOG) })?;
    let local = local_addr(&fd)?;
    Ok((fd, local))
}

/// A listening socket in the file system that only its owner may use. One that is left over from a process that is gone is
/// replaced.
pub(crate) fn unix_listener(path: &Path) -> Result<OwnedFd, Error> {
    let raw = RawAddr::unix(path)?;
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    // SAFETY: just made.
    let fd = unsafe { own(check("make a socket", fd)?) };
    // Before it is bound: then there is no moment in which others may connect.
    // SAFETY: takes two numbers; the descriptor is open.
    check("restrict a socket", unsafe { libc::fchmod(fd.as_raw_fd(), 0o600) })?;
    // SAFETY: the address lives across the call and has the length given.
    let bind = || unsafe { libc::bind(fd.as_raw_fd(), raw.as_ptr(), raw.len()) };
    let mut bound = bind();
    if bound != 0 && errors::last() == libc::EADDRINUSE && is_left_over(path) {
        // Should it fail, the second bind tells.
        let _ = std::fs::remove_file(path);
        bound = bind();
    }
    check(&format!("bind {}", path.display()), bound)?;
    // SAFETY: no pointers.
    let listening = unsafe { libc::listen(fd.as_raw_fd(), BACKLOG) };
    check(&format!("listen at {}", path.display()), listening)?;
    Ok(fd)
}

/// True for a socket that nobody listens at.
fn is_left_over(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    let refused = |why: std::io::Error| why.kind() == std::io::ErrorKind::ConnectionRefused;
    is_socket && UnixStream::connect(path).is_err_and(refused)
}

/// Our end's address.
pub(crate) fn local_addr(fd: &OwnedFd) -> Result<SocketAddr, Error> {
    let mut raw = RawAddr::empty();
    let storage = std::ptr::from_mut(&mut raw.storage).cast();
    // SAFETY: storage and length live across the call, and the length is that of the storage.
    let result = unsafe { libc::getsockname(fd.as_raw_fd(), storage, &mut raw.len) };
    check("ask for a socket's address", result)?;
    raw.get().ok_or_else(|| errors::refused("a socket with an address that is not IP".into()))
}

/// The other end's address.
pub(crate) fn peer_addr(fd: &OwnedFd) -> Result<SocketAddr, Error> {
    let mut raw = RawAddr::empty();
    let storage = std::ptr::from_mut(&mut raw.storage).cast();
    // SAFETY: as in `local_addr`.
    let result = unsafe { libc::getpeername(fd.as_raw_fd(), storage, &mut raw.len) };
    check("ask for a peer's address", result)?;
    raw.get().ok_or_else(|| errors::refused("a peer with an address that is not IP".into()))
}

/// A blocking eventfd, so that a read request of the ring waits on it.
pub(crate) fn eventfd() -> Result<OwnedFd, Error> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    // SAFETY: just made.
    Ok(unsafe { own(check("make an eventfd", fd)?) })
}

/// An eventfd that never blocks and is readable from the start, for loops that wait on the ring by it.
pub(crate) fn polled_eventfd() -> Result<OwnedFd, Error> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::eventfd(1, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    // SAFETY: just made.
    Ok(unsafe { own(check("make an eventfd", fd)?) })
}

/// Makes an eventfd that never blocks unreadable until it is signalled again.
pub(crate) fn clear(event: &OwnedFd) {
    let mut count = [0u8; 8];
    // SAFETY: eight bytes that live across the call. It fails when nothing was signalled, which is as good.
    unsafe { libc::read(event.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
}

/// Adds one to an eventfd.
pub(crate) fn signal(event: &OwnedFd) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: eight bytes that live across the call. It can only fail when the counter is full, and then the core wakes too.
    unsafe { libc::write(event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
}

/// Receives what is there into `bufs`, one after the other. Fails with the error's number.
pub(crate) fn receive_now(socket: &OwnedFd, bufs: &mut [Buf]) -> Result<usize, i32> {
    const MOST: usize = 8;
    let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; MOST];
    let count = bufs.len().min(MOST);
    for (vector, buf) in vectors.iter_mut().zip(bufs) {
        (vector.iov_base, vector.iov_len) = (buf.as_mut_ptr().cast(), buf.len());
    }
    // SAFETY: the buffers live across the call and are ours alone.
    unsafe { receive_into(socket, &mut vectors[..count]) }
}

/// Receives what is there into `rooms`, one after the other. Fails with the error's number.
///
/// # Safety
/// The rooms live across the call, and nothing else uses them meanwhile.
pub(crate) unsafe fn receive_into(socket: &OwnedFd, rooms: &mut [libc::iovec]) -> Result<usize, i32> {
    let flags = libc::MSG_DONTWAIT;
    if let [room] = rooms {
        // SAFETY: the caller's promise.
        return unsafe { bytes_call(libc::SYS_recvfrom, socket, *room, flags) };
    }
    // SAFETY: all zeros is a valid, empty message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (rooms.as_mut_ptr(), rooms.len());
    // SAFETY: the caller's promise; the vectors live across the call.
    unsafe { message_call(libc::SYS_recvmsg, socket, &raw mut message, flags) }
}

/// Sends of a message what the socket takes. Fails with the error's number.
///
/// # Safety
/// The message names vectors and bytes that live across the call.
pub(crate) unsafe fn send_now(socket: &OwnedFd, message: &libc::msghdr) -> Result<usize, i32> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    if message.msg_iovlen == 1 {
        // SAFETY: the caller's promise: there is such a vector.
        return unsafe { bytes_call(libc::SYS_sendto, socket, *message.msg_iov, flags) };
    }
    // SAFETY: the caller's promise; the kernel only reads the message.
    unsafe { message_call(libc::SYS_sendmsg, socket, (&raw const *message).cast_mut(), flags) }
}

/// `recvmsg` or `sendmsg` without libc's provisions for threads that are cancelled meanwhile: two locked instructions in each call.
///
/// # Safety
/// What these calls ask for, on a socket that doesn't wait.
unsafe fn message_call(
    number: libc::c_long,
    socket: &OwnedFd,
    message: *mut libc::msghdr,
    flags: libc::c_int,
) -> Result<usize, i32> {
    // SAFETY: the caller's promise.
    let n = unsafe { libc::syscall(number, socket.as_raw_fd(), message, flags) };
    usize::try_from(n).map_err(|_| errors::last())
}

/// `recvfrom` or `sendto`, likewise, of a connected peer. A message of one vector takes the kernel 140 ns more (Linux 6.18), for copying and
/// checking what is the same.
///
/// # Safety
/// What these calls ask for, on a socket that doesn't wait.
unsafe fn bytes_call(
    number: libc::c_long,
    socket: &OwnedFd,
    bytes: libc::iovec,
    flags: libc::c_int,
) -> Result<usize, i32> {
    let (nobody, no_length) = (std::ptr::null_mut::<libc::sockaddr>(), 0usize);
    // SAFETY: the caller's promise.
    let n = unsafe {
        libc::syscall(number, socket.as_raw_fd(), bytes.iov_base, bytes.iov_len, flags, nobody, no_length)
    };
    usize::try_from(n).map_err(|_| errors::last())
}

fn clock(id: libc::clockid_t) -> libc::timespec {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` lives across the call; both clocks exist on every kernel that we run on.
    unsafe { libc::clock_gettime(id, &mut time) };
    time
}

/// CLOCK_BOOTTIME.
pub(crate) fn boot_time() -> Nanos {
    let t = clock(libc::CLOCK_BOOTTIME);
    Nanos(t.tv_sec.unsigned_abs() * 1_000_000_000 + t.tv_nsec.unsigned_abs())
}

/// CLOCK_REALTIME; 0 before 1970.
pub(crate) fn wall_time() -> UnixMillis {
    let t = clock(libc::CLOCK_REALTIME);
    UnixMillis(u64::try_from(t.tv_sec).unwrap_or(0) * 1000 + t.tv_nsec.unsigned_abs() / 1_000_000)
}

/// Fills `out` from the kernel's generator.
pub(crate) fn random(mut out: &mut [u8]) {
    while !out.is_empty() {
        // SAFETY: the slice lives across the call.
        let n = unsafe { libc::getrandom(out.as_mut_ptr().cast(), out.len(), 0) };
        // The kernel's generator fails only for bad arguments, or is interrupted.
        if let Ok(n) = usize::try_from(n) {
            out = &mut out[n..];
        } else {
            assert!(errors::last() == libc::EINTR, "the kernel refuses random bytes");
        }
    }
}

/// True when this process may lock any amount of memory: by capability, or for want of a limit.
pub(crate) fn may_lock_memory() -> bool {
    const VERSION_3: u32 = 0x2008_0522;
    const CAP_IPC_LOCK: u32 = 14;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // The header is (version, pid); the answer is twice (effective, permitted, inheritable).
    let (header, mut answer) = ([VERSION_3, 0], [0u32; 6]);
    // SAFETY: all structures live across the calls and have the kernel's sizes.
    let capable = unsafe {
        libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit);
        libc::syscall(libc::SYS_capget, header.as_ptr(), answer.as_mut_ptr()) == 0
    };
    limit.rlim_cur == libc::RLIM_INFINITY || (capable && answer[0] & (1 << CAP_IPC_LOCK) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    #[test]
    fn addresses_round_trip() {
        for text in ["127.0.0.1:4420", "[::1]:8009", "[fe80::1%3]:1", "0.0.0.0:0"] {
            let addr: SocketAddr = text.parse().unwrap();
            assert_eq!(RawAddr::new(addr).get(), Some(addr));
        }
        assert_eq!(RawAddr::empty().get(), None);
    }

    #[test]
    fn listeners_get_a_port_and_a_second_one_is_refused() {
        for ip in [IpAddr::from([127, 0, 0, 1]), IpAddr::from(Ipv6Addr::LOCALHOST)] {
            let (_fd, addr) = listener(SocketAddr::new(ip, 0), false, None).unwrap();
            assert_ne!(addr.port(), 0);
            let error = listener(addr, false, None).unwrap_err();
            assert_eq!(error.kind, dolmen_io::ErrorKind::Refused);
            assert!(error.to_string().contains(&addr.to_string()));
        }
    }

    /// A socket that connects, and one that is accepted.
    fn connected(congestion: Option<&str>) -> [OwnedFd; 2] {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (listening, addr) = listener(any, false, congestion).unwrap();
        let connecting = stream_socket(addr, congestion).unwrap();
        let raw = RawAddr::new(addr);
        // SAFETY: the address lives across the call and has the length given.
        assert_eq!(unsafe { libc::connect(connecting.as_raw_fd(), raw.as_ptr(), raw.len()) }, 0);
        let (accepted, _) = std::net::TcpListener::from(listening).accept().unwrap();
        [connecting, accepted.into()]
    }

    /// An option's value, as far as it has one.
    fn option(fd: &OwnedFd, level: i32, name: i32) -> Vec<u8> {
        let (mut value, mut len) = ([0u8; 16], len_of::<[u8; 16]>());
        let to = value.as_mut_ptr().cast();
        // SAFETY: bytes and their length, which live across the call.
        assert_eq!(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, to, &raw mut len) }, 0);
        value[..len as usize].to_vec()
    }

    #[test]
    fn windows_take_a_burst_from_the_start() {
        let int = |fd, name| i32::from_ne_bytes(option(fd, libc::SOL_SOCKET, name).try_into().unwrap());
        for fd in &connected(None) {
            assert!(int(fd, libc::SO_RCVBUF) >= RECEIVE_WINDOW_BYTES);
            assert_eq!(int(fd, libc::SO_RCVLOWAT), 1, "any byte is told");
        }
    }

    #[test]
    fn congestion_control_is_chosen_and_inherited() {
        for fd in &connected(Some("reno")) {
            let name = option(fd, libc::IPPROTO_TCP, libc::TCP_CONGESTION);
            assert!(name.starts_with(b"reno\0"), "{name:?}");
        }
        let error = listener(SocketAddr::from(([127, 0, 0, 1], 0)), false, Some("pigeons")).unwrap_err();
        assert!(error.to_string().contains("pigeons"), "{error}");
        assert!(error.to_string().contains("tcp_available_congestion_control"), "{error}");
    }

    #[test]
    fn clocks_run_and_random_differs() {
        let (a, mut x, mut y) = (boot_time(), [0; 32], [0; 32]);
        random(&mut x);
        random(&mut y);
        assert_ne!(x, y);
        assert!(boot_time() >= a && wall_time().0 > 1_600_000_000_000);
    }
}
