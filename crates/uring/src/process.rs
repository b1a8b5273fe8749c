//! What the process itself asks of the kernel before its cores start.

use crate::errors;
use dolmen_io::Error;

/// Pins the calling thread to one CPU.
///
/// # Errors
/// When there is no such CPU, or it is not allowed to this process.
pub fn pin_thread(cpu: usize) -> Result<(), Error> {
    let known = usize::try_from(libc::CPU_SETSIZE).expect("a small constant");
    if cpu < known {
        // SAFETY: an all-zero set is valid, the CPU lies within it, and it lives across the call.
        let result = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(cpu, &mut set);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
        };
        if result == 0 {
            return Ok(());
        }
    }
    Err(errors::refused(format!("cannot run on CPU {cpu}: it is not there, or not allowed to this process")))
}

fn limits() -> libc::rlimit {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` lives across the call.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    limit
}

/// Descriptors that this process may have open.
pub(crate) fn descriptor_limit() -> u32 {
    u32::try_from(limits().rlim_cur).unwrap_or(u32::MAX)
}

/// Raises the soft limit of open descriptors to the hard one, since every connection takes one; the limit after that. To be
/// called before the first ring is made.
pub fn raise_descriptor_limit() -> u32 {
    let mut limit = limits();
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` lives across the call. Where it is refused, the old limit stays.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    descriptor_limit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_to_a_cpu_that_is_there() {
        std::thread::spawn(|| {
            assert!(pin_thread(1 << 20).is_err());
            assert!((0..64).any(|cpu| pin_thread(cpu).is_ok()));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn descriptors_can_be_had() {
        assert!(raise_descriptor_limit() >= 256);
    }
}
