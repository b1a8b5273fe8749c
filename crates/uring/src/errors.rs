//! From the system's error numbers to the seam's kinds.

use dolmen_io::{Error, ErrorKind};

/// An error of a socket operation. `errno` positive.
pub(crate) fn socket(what: &str, errno: i32) -> Error {
    let kind = match errno {
        libc::ECANCELED | libc::EBADF => ErrorKind::Closed,
        libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS | libc::EADDRNOTAVAIL => {
            ErrorKind::Resources
        }
        libc::EINVAL | libc::EACCES | libc::EPERM | libc::EAFNOSUPPORT | libc::EADDRINUSE => {
            ErrorKind::Refused
        }
        _ => ErrorKind::Connection,
    };
    Error { kind, context: what.into(), errno: Some(errno) }
}

/// An error of a drive operation. `errno` positive.
pub(crate) fn drive(what: String, errno: i32) -> Error {
    let kind = match errno {
        libc::ENODEV | libc::ENXIO => ErrorKind::Gone,
        libc::ENOSPC | libc::EDQUOT | libc::EFBIG => ErrorKind::NoSpace,
        libc::ENOMEM | libc::EMFILE | libc::ENFILE => ErrorKind::Resources,
        libc::EBADF | libc::ECANCELED => ErrorKind::Closed,
        libc::EINVAL
        | libc::EOPNOTSUPP
        | libc::EACCES
        | libc::EPERM
        | libc::EROFS
        | libc::ENOENT
        | libc::EBUSY => ErrorKind::Refused,
        _ => ErrorKind::Medium,
    };
    Error { kind, context: what, errno: Some(errno) }
}

/// An operation that ended because its socket or file was closed, or is not there.
pub(crate) fn closed(what: &str) -> Error {
    Error { kind: ErrorKind::Closed, context: what.into(), errno: None }
}

/// Something that we should not have asked for.
pub(crate) fn refused(context: String) -> Error {
    Error { kind: ErrorKind::Refused, context, errno: None }
}

/// The last system call's error number.
pub(crate) fn last() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// Why there is no ring, and what to do about it.
pub(crate) fn no_ring(errno: i32) -> Error {
    let remedy = match errno {
        libc::ENOSYS => {
            "io_uring is not there: the kernel was built without it, or a container's seccomp profile hides it \
             (allow io_uring_setup, io_uring_enter and io_uring_register)"
        }
        libc::EPERM | libc::EACCES => {
            "io_uring is forbidden here: set `sysctl kernel.io_uring_disabled=0`, or allow io_uring_setup, \
             io_uring_enter and io_uring_register in the container's seccomp profile"
        }
        libc::ENOMEM => {
            "no memory for an io_uring: raise RLIMIT_MEMLOCK (`ulimit -l`, LimitMEMLOCK=) or the memory limit"
        }
        libc::EINVAL => "this kernel's io_uring is too old: Linux 6.1 or later is needed",
        _ => "io_uring could not be set up",
    };
    let kind = if errno == libc::ENOMEM { ErrorKind::Resources } else { ErrorKind::Refused };
    Error { kind, context: remedy.into(), errno: Some(errno) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_remedy() {
        assert!(no_ring(libc::EPERM).to_string().contains("kernel.io_uring_disabled"));
        assert!(no_ring(libc::ENOSYS).to_string().contains("seccomp"));
        assert!(no_ring(libc::ENOMEM).to_string().contains("RLIMIT_MEMLOCK"));
        assert!(no_ring(libc::EINVAL).to_string().contains("6.1"));
    }
}
