//! Messages from control threads to a core: many producers, rare, bounded.
//!
//! A mutex is fine here: control messages are few, and the core looks at one atomic flag before it locks anything.

use crate::Wake;
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

struct Shared<T> {
    messages: Mutex<Vec<T>>,
    filled: AtomicBool,
    capacity: usize,
    wake: Arc<dyn Wake>,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        // A `Vec` is whole whatever its last user did.
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes an inbox with room for `capacity` messages, whose core is woken by `wake`.
#[must_use]
pub fn inbox<T>(capacity: usize, wake: Arc<dyn Wake>) -> (InboxSender<T>, Inbox<T>) {
    let messages = Mutex::new(Vec::new());
    let shared = Arc::new(Shared { messages, filled: AtomicBool::new(false), capacity, wake });
    (InboxSender(shared.clone()), Inbox(shared))
}

/// A sending end; any number of them, on any thread.
pub struct InboxSender<T>(Arc<Shared<T>>);

impl<T> Clone for InboxSender<T> {
    fn clone(&self) -> InboxSender<T> {
        InboxSender(self.0.clone())
    }
}

impl<T> InboxSender<T> {
    /// Messages that it holds at most. Count.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.0.capacity
    }

    /// Sends a message and wakes the core; hands it back when the inbox is full.
    pub fn send(&self, message: T) -> Result<(), T> {
        let mut messages = self.0.lock();
        if messages.len() >= self.0.capacity {
            return Err(message);
        }
        messages.push(message);
        self.0.filled.store(true, Ordering::Release);
        drop(messages);
        self.0.wake.wake();
        Ok(())
    }
}

/// The core's end.
pub struct Inbox<T>(Arc<Shared<T>>);

impl<T> Inbox<T> {
    /// Appends every message that is there to `out`, in the order of sending; how many.
    pub fn drain(&mut self, out: &mut Vec<T>) -> usize {
        if !self.0.filled.load(Ordering::Acquire) {
            return 0;
        }
        let mut messages = self.0.lock();
        self.0.filled.store(false, Ordering::Relaxed);
        let n = messages.len();
        out.append(&mut messages);
        n
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;
    impl Wake for Nobody {
        fn wake(&self) {}
    }

    #[test]
    fn keeps_order_and_refuses_when_full() {
        let (tx, mut rx) = inbox(2, Arc::new(Nobody));
        tx.send(1).unwrap();
        tx.clone().send(2).unwrap();
        assert_eq!(tx.send(3), Err(3));
        let mut got = Vec::new();
        assert_eq!(rx.drain(&mut got), 2);
        assert_eq!(rx.drain(&mut got), 0);
        tx.send(3).unwrap();
        rx.drain(&mut got);
        assert_eq!(got, [1, 2, 3]);
    }

    #[test]
    fn many_threads_lose_nothing() {
        let (tx, mut rx) = inbox(10_000, Arc::new(Nobody));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let tx = tx.clone();
                std::thread::spawn(move || (0..1000).for_each(|i| tx.send(i).unwrap()))
            })
            .collect();
        let mut got = Vec::new();
        while got.len() < 4000 {
            rx.drain(&mut got);
        }
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(got.iter().map(|&i| u64::from(i == 999u32)).sum::<u64>(), 4);
    }
}
