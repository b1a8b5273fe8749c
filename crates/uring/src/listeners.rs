//! Listening sockets: one accept request each, which brings many connections.

use crate::{
    errors,
    ring::{Cqe, Ring},
    sockets::{Events, Sockets},
    sys,
    token::{GENERATIONS, Kind, Token},
};
use dolmen_io::{Event, ListenerId, Tag};
use io_uring::{opcode, types};
use std::os::fd::{AsRawFd, OwnedFd};

#[derive(Default)]
struct Slot {
    generation: u32,
    fd: Option<OwnedFd>,
    accept: Option<Tag>,
    closing: bool,
}

/// All listeners of a core.
#[derive(Default)]
pub(crate) struct Listeners {
    slots: Vec<Slot>,
}

impl Listeners {
    pub(crate) fn insert(&mut self, fd: OwnedFd) -> ListenerId {
        let index = self.slots.iter().position(|s| s.fd.is_none()).unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        self.slots[index].fd = Some(fd);
        ListenerId(u32::try_from(index).expect("descriptors are far fewer"))
    }

    pub(crate) fn accept(&mut self, tag: Tag, listener: ListenerId, ring: &mut Ring, out: &mut Events) {
        let index = listener.0 as usize;
        let Some(slot) = self.slots.get_mut(index).filter(|s| s.fd.is_some() && !s.closing) else {
            return out.push((tag, Event::Failed { error: errors::closed("accept"), buf: None }));
        };
        if slot.accept.is_some() {
            let error = errors::refused("a second accept on a listener".into());
            return out.push((tag, Event::Failed { error, buf: None }));
        }
        slot.accept = Some(tag);
        slot.arm(Token::new(Kind::Accept, index, slot.generation), ring);
    }

    pub(crate) fn close(&mut self, listener: ListenerId, ring: &mut Ring) {
        let index = listener.0 as usize;
        let Some(slot) = self.slots.get_mut(index).filter(|s| s.fd.is_some() && !s.closing) else { return };
        if slot.accept.is_some() {
            slot.closing = true;
            ring.cancel(Token::new(Kind::Accept, index, slot.generation));
        } else {
            slot.fd = None;
        }
    }

    pub(crate) fn close_all(&mut self, ring: &mut Ring) {
        for index in 0..self.slots.len() {
            self.close(ListenerId(u32::try_from(index).expect("given out as such")), ring);
        }
    }

    pub(crate) fn complete(&mut self, cqe: &Cqe, sockets: &mut Sockets, ring: &mut Ring, out: &mut Events) {
        let slot = &mut self.slots[cqe.token.index as usize];
        let tag = slot.accept.expect("only accepts under way complete");
        if cqe.result >= 0 {
            // SAFETY: the kernel just made this descriptor for us.
            let fd = unsafe { sys::own(cqe.result) };
            // A connection that is over already has no peer; it is closed by being dropped.
            if let (false, Ok(peer), Ok(local)) = (slot.closing, sys::peer_addr(&fd), sys::local_addr(&fd)) {
                let sock = sockets.insert(fd, ring);
                out.push((tag, Event::Accepted { sock, peer, local }));
            }
        }
        if cqe.more() {
            return;
        }
        let errno = -cqe.result;
        // What went wrong for one connection is no reason to stop.
        let passes = [libc::ECONNABORTED, libc::EINTR, libc::EAGAIN, libc::EPROTO, libc::ENETDOWN];
        let error = if slot.closing {
            slot.fd = None;
            slot.closing = false;
            slot.generation = (slot.generation + 1) % GENERATIONS;
            errors::closed("accept")
        } else if cqe.result >= 0 || passes.contains(&errno) {
            return slot.arm(cqe.token, ring);
        } else {
            errors::socket("accept", errno)
        };
        slot.accept = None;
        out.push((tag, Event::Failed { error, buf: None }));
    }
}

impl Slot {
    fn arm(&self, token: Token, ring: &mut Ring) {
        let fd = types::Fd(self.fd.as_ref().expect("an open listener").as_raw_fd());
        let flags = libc::SOCK_CLOEXEC;
        let entry = if ring.features().multishot {
            opcode::AcceptMulti::new(fd).flags(flags).build()
        } else {
            opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut()).flags(flags).build()
        };
        // SAFETY: an accept without an address points to nothing.
        unsafe { ring.push(entry, token) };
    }
}
