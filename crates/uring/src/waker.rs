//! Wakes a core that sleeps in the kernel: a bell, and an eventfd that a read request of the ring waits on.

use crate::sys;
use dolmen_io::{Bell, Error, Wake};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Shared with everyone who may wake the core.
pub(crate) struct Waker {
    pub(crate) bell: Bell,
    event: OwnedFd,
}

impl Waker {
    pub(crate) fn new() -> Result<Waker, Error> {
        Ok(Waker { bell: Bell::new(), event: sys::eventfd()? })
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}

impl Wake for Waker {
    fn wake(&self) {
        if self.bell.ring() {
            sys::signal(&self.event);
        }
    }
}
