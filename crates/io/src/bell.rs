//! The handshake by which one thread keeps another from sleeping, without a lost wake-up and without a system call
//! while the other is awake. Drivers build their [`Wake`](crate::Wake) on it.
//!
//! ```text
//!   ringer                           core
//!   publish the message              loop:
//!   bell.ring() -> must_wake           if bell.try_sleep() { wait in the kernel }
//!   if must_wake: wake the kernel      bell.awake()
//!                                      look for messages
//! ```
//!
//! Whoever rings either finds the core asleep (and wakes it through the kernel), or leaves the bell rung, and then the
//! core's next `try_sleep` refuses. Messages published before `ring` are visible after the `awake` that follows.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// One core's bell; shared with everyone who may send it messages.
#[derive(Debug, Default)]
pub struct Bell {
    rung: AtomicBool,
    sleeping: AtomicBool,
}

impl Bell {
    /// A bell of a core that is awake.
    #[must_use]
    pub const fn new() -> Bell {
        Bell { rung: AtomicBool::new(false), sleeping: AtomicBool::new(false) }
    }

    /// Rings. True: the core sleeps (or is about to), and the caller must wake it through the kernel; exactly one of
    /// several ringers is told so.
    #[must_use]
    pub fn ring(&self) -> bool {
        // A bell that is rung already was not heard yet, so our message will be seen with the earlier ringer's.
        !self.rung.swap(true, SeqCst) && self.sleeping.swap(false, SeqCst)
    }

    /// Called by the core before it waits. False: it was rung since the last [`Bell::awake`], don't wait.
    #[must_use]
    pub fn try_sleep(&self) -> bool {
        self.sleeping.store(true, SeqCst);
        if self.rung.load(SeqCst) {
            self.sleeping.store(false, SeqCst);
            return false;
        }
        true
    }

    /// Called by the core after each look at the kernel and before it looks for messages. True: it was rung.
    pub fn awake(&self) -> bool {
        self.sleeping.store(false, SeqCst);
        // A plain load first: the busy core's turns stay free of read-modify-write cycles.
        self.rung.load(SeqCst) && self.rung.swap(false, SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::{Arc, atomic::AtomicU64},
        time::Duration,
    };

    /// Two ringers and a core that parks without a time-out of its own: a lost wake-up would hang the sum.
    #[test]
    fn no_wake_up_is_lost() {
        const EACH: u64 = 100_000;
        let bell = Arc::new(Bell::new());
        let sent = Arc::new(AtomicU64::new(0));
        let (done, finished) = std::sync::mpsc::channel();
        let core = {
            let (bell, sent) = (bell.clone(), sent.clone());
            std::thread::spawn(move || {
                let mut slept = 0u64;
                while sent.load(SeqCst) < 2 * EACH {
                    if bell.try_sleep() {
                        slept += 1;
                        std::thread::park();
                    }
                    bell.awake();
                }
                done.send(slept).unwrap();
            })
        };
        let ringers: Vec<_> = (0..2u64)
            .map(|id| {
                let (bell, sent, core) = (bell.clone(), sent.clone(), core.thread().clone());
                std::thread::spawn(move || {
                    for i in 0..EACH {
                        sent.fetch_add(1, SeqCst);
                        if bell.ring() {
                            core.unpark();
                        }
                        if (i + id).is_multiple_of(64) {
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        for r in ringers {
            r.join().unwrap();
        }
        finished.recv_timeout(Duration::from_secs(20)).expect("the core sleeps with messages waiting");
        core.join().unwrap();
    }

    #[test]
    fn a_rung_bell_refuses_sleep_once() {
        let bell = Bell::new();
        assert!(!bell.ring());
        assert!(!bell.try_sleep());
        assert!(bell.awake());
        assert!(bell.try_sleep());
        assert!(bell.ring());
        assert!(!bell.ring());
        assert!(bell.awake());
        assert!(!bell.awake());
    }
}
