//! Ends of streams that the kernel has forgotten to tell.
//!
//! When data and the end of its stream come right after each other, before the work that a multishot receive has deferred to us runs, the
//! kernel may take the data, count the second wake-up as dealt with, and wait for a third that never comes (seen with Linux 6.18). The
//! receive stays armed for good on a connection that is gone, which nothing else tells of: not even keep-alive, whose timers end with it.
//! So a second after a receive that goes on has brought something, all such sockets are asked whether their stream has ended, in one call.
//! Where it has, the receive is made again: a new one sees the end.

use super::{Receive, Sockets};
use crate::{
    ring::Ring,
    sys,
    token::{Kind, Token},
};
use dolmen_types::Nanos;
use std::os::fd::AsRawFd;

/// From the first sign to the look. Nanoseconds.
const LOOK_NS: u64 = 1_000_000_000;

/// Whose end may have been forgotten.
#[derive(Default)]
pub(super) struct Ends {
    /// Slots of sockets that have heard something since the last look.
    unsure: Vec<usize>,
    /// When the next look is due, once that is known.
    due: Option<Nanos>,
    /// What is asked, and of whom.
    asked: Vec<libc::pollfd>,
    slots: Vec<usize>,
}

impl Ends {
    /// A receive that goes on has brought something.
    pub(super) fn heard(&mut self, index: usize, unsure: &mut bool) {
        if !std::mem::replace(unsure, true) {
            self.unsure.push(index);
        }
    }
}

impl Sockets {
    /// When streams are to be asked for their ends, if any is.
    pub(crate) fn ends_due(&self, now: Nanos) -> Option<Nanos> {
        let ends = &self.ends;
        (!ends.unsure.is_empty()).then(|| ends.due.unwrap_or(Nanos(now.0.saturating_add(LOOK_NS))))
    }

    /// Asks streams for their ends, when it is time.
    pub(crate) fn look_for_ends(&mut self, now: Nanos, ring: &mut Ring) {
        let Some(due) = self.ends_due(now) else { return };
        if now < due {
            self.ends.due = Some(due);
            return;
        }
        let ends = &mut self.ends;
        ends.due = None;
        ends.asked.clear();
        ends.slots.clear();
        for index in ends.unsure.drain(..) {
            let Some(socket) = self.slots[index].socket.as_deref_mut() else { continue };
            let waits = std::mem::take(&mut socket.unsure) && matches!(socket.receive, Receive::Armed(_));
            if waits && !socket.stopping && !socket.taking_back && socket.closing.is_none() {
                ends.asked.push(libc::pollfd {
                    fd: socket.fd.as_raw_fd(),
                    events: libc::POLLRDHUP,
                    revents: 0,
                });
                ends.slots.push(index);
            }
        }
        sys::poll_now(&mut ends.asked);
        for (asked, &index) in ends.asked.iter().zip(&ends.slots) {
            let slot = &mut self.slots[index];
            if asked.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0
                && let Some(socket) = slot.socket.as_deref_mut()
            {
                socket.again = true;
                ring.cancel(Token::new(Kind::Receive, index, slot.generation));
            }
        }
    }
}
