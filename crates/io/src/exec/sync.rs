//! What the tasks of one core tell each other with: a value sent once, and a flag that wakes.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
};

struct Cell<T> {
    value: Option<T>,
    waker: Option<Waker>,
}

/// The sender went away without sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Canceled;

/// Makes a channel for one value, within one core.
#[must_use]
pub fn oneshot<T>() -> (OneshotSender<T>, OneshotReceiver<T>) {
    let cell = Rc::new(RefCell::new(Cell { value: None, waker: None }));
    (OneshotSender(Rc::downgrade(&cell)), OneshotReceiver(cell))
}

/// Sends one value.
pub struct OneshotSender<T>(Weak<RefCell<Cell<T>>>);

impl<T> OneshotSender<T> {
    /// Sends; hands the value back when nobody waits for it any more.
    pub fn send(self, value: T) -> Result<(), T> {
        match self.0.upgrade() {
            Some(cell) => {
                cell.borrow_mut().value = Some(value);
                Ok(())
            }
            None => Err(value),
        }
    }
}

impl<T> Drop for OneshotSender<T> {
    fn drop(&mut self) {
        // Also after `send`, which only stores the value. Only this weak handle exists, so the count then reads 0.
        let Some(cell) = self.0.upgrade() else { return };
        self.0 = Weak::new();
        let waker = cell.borrow_mut().waker.take();
        drop(cell);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Resolves to the value sent.
pub struct OneshotReceiver<T>(Rc<RefCell<Cell<T>>>);

impl<T> Future for OneshotReceiver<T> {
    type Output = Result<T, Canceled>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T, Canceled>> {
        let mut cell = self.0.borrow_mut();
        if let Some(value) = cell.value.take() {
            return Poll::Ready(Ok(value));
        }
        if Rc::weak_count(&self.0) == 0 {
            return Poll::Ready(Err(Canceled));
        }
        cell.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[derive(Default)]
struct Flag {
    set: bool,
    waiters: Vec<Waker>,
}

/// A flag that tasks wait for: set by [`Notify::notify`], cleared by the first waiter that sees it. Clones share it.
#[derive(Clone, Default)]
pub struct Notify(Rc<RefCell<Flag>>);

impl Notify {
    /// Sets the flag and wakes whoever waits; one of them goes on.
    pub fn notify(&self) {
        let waiters = {
            let mut flag = self.0.borrow_mut();
            flag.set = true;
            std::mem::take(&mut flag.waiters)
        };
        waiters.into_iter().for_each(Waker::wake);
    }

    /// Resolves when the flag is set, and clears it.
    #[must_use]
    pub fn notified(&self) -> Notified {
        Notified(self.clone())
    }
}

/// Waits for a [`Notify`].
pub struct Notified(Notify);

impl Future for Notified {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut flag = self.0.0.borrow_mut();
        if std::mem::take(&mut flag.set) {
            return Poll::Ready(());
        }
        flag.waiters.push(cx.waker().clone());
        Poll::Pending
    }
}
