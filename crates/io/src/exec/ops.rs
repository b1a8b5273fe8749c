//! The futures that wait for the world: completions, time, buffers.

use super::{Handle, Request, Slot};
use crate::{Buf, Event};
use dolmen_types::Nanos;
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

/// Resolves to the event of one operation.
pub struct Completion {
    handle: Handle,
    slot: usize,
    taken: bool,
}

impl Completion {
    pub(super) fn new(handle: Handle, slot: usize) -> Completion {
        Completion { handle, slot, taken: false }
    }
}

impl Future for Completion {
    type Output = Event;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Event> {
        let slot = self.slot;
        let handle = self.handle.clone();
        let mut state = handle.state.borrow_mut();
        match &mut state.slots[slot] {
            Slot::Waiting { waker, .. } => {
                *waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Slot::Done(_) => {}
            Slot::Free | Slot::Orphan => unreachable!("a slot belongs to its future until that ends"),
        }
        let Slot::Done(event) = std::mem::replace(&mut state.slots[slot], Slot::Free) else {
            unreachable!("seen above")
        };
        state.free.push(slot);
        self.taken = true;
        Poll::Ready(event)
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        let mut state = self.handle.state.borrow_mut();
        if matches!(state.slots[self.slot], Slot::Done(_)) {
            let event = std::mem::replace(&mut state.slots[self.slot], Slot::Free);
            state.free.push(self.slot);
            drop(state);
            drop(event);
        } else {
            state.slots[self.slot] = Slot::Orphan;
        }
    }
}

/// Resolves when the clock has reached an instant.
pub struct Sleep {
    handle: Handle,
    at: Nanos,
    slot: Option<usize>,
}

impl Sleep {
    pub(super) fn new(handle: Handle, at: Nanos) -> Sleep {
        Sleep { handle, at, slot: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let handle = self.handle.clone();
        let mut state = handle.state.borrow_mut();
        let slot = match self.slot {
            Some(slot) => slot,
            None if state.now >= self.at => return Poll::Ready(()),
            None => {
                let slot = state.take_slot();
                state.outbox.push((slot as u64, Request::Timer(self.at)));
                self.slot = Some(slot);
                slot
            }
        };
        if let Slot::Waiting { waker, .. } = &mut state.slots[slot] {
            *waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        state.release(slot);
        self.slot = None;
        Poll::Ready(())
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let Some(slot) = self.slot else { return };
        let mut state = self.handle.state.borrow_mut();
        match state.slots[slot] {
            // Armed: its event may be on its way already, so the slot stays until either is sure. A timer that is
            // cancelled never fires; one that is about to fire is delivered in this very turn.
            Slot::Waiting { timer: Some(id), .. } => {
                state.slots[slot] = Slot::Orphan;
                state.outbox.push((slot as u64, Request::CancelTimer(id)));
            }
            // Not armed yet: whoever would arm it frees the slot.
            Slot::Waiting { timer: None, .. } => state.slots[slot] = Slot::Orphan,
            _ => state.release(slot),
        }
    }
}

/// Resolves to a buffer once the pool has one.
pub struct Alloc {
    handle: Handle,
    len: usize,
}

impl Alloc {
    pub(super) fn new(handle: Handle, len: usize) -> Alloc {
        Alloc { handle, len }
    }
}

impl Future for Alloc {
    type Output = Buf;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Buf> {
        let mut state = self.handle.state.borrow_mut();
        match state.pool.alloc(self.len) {
            Some(buf) => Poll::Ready(buf),
            None => {
                state.alloc_waiters.push_back(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Resolves at the second poll.
#[derive(Default)]
pub struct Yield {
    yielded: bool,
}

impl Future for Yield {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.yielded {
            return Poll::Ready(());
        }
        self.yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
