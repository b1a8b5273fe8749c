//! Where io_uring is refused, as container profiles do, the error names the remedy.
#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::config;
use dolmen_io::ErrorKind;
use dolmen_uring::Uring;

/// Makes `io_uring_setup` fail with `errno` in the calling thread.
fn forbid_io_uring(errno: u16) {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let setup = u32::try_from(libc::SYS_io_uring_setup).unwrap();
    let mut filter = [
        step(LOAD_WORD, 0, 0, 0), // the system call's number
        step(JUMP_IF_EQUAL, 0, 1, setup),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | u32::from(errno)),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: the program lives across the calls, which concern this thread alone.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let result =
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, std::ptr::from_ref(&program));
        assert_eq!(result, 0);
    }
}

#[test]
fn a_refusal_names_its_reason_and_the_remedy() {
    for (errno, words) in [
        (libc::EPERM, ["forbidden", "kernel.io_uring_disabled"]),
        (libc::ENOSYS, ["seccomp", "io_uring_setup"]),
        (libc::ENOMEM, ["memory", "RLIMIT_MEMLOCK"]),
    ] {
        let error = std::thread::spawn(move || {
            forbid_io_uring(u16::try_from(errno).unwrap());
            Uring::new(&config("none")).err()
        })
        .join()
        .unwrap()
        .expect("refused");
        assert_eq!(error.errno, Some(errno));
        assert_eq!(error.kind == ErrorKind::Resources, errno == libc::ENOMEM);
        for word in words {
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
