//! Messages between two cores: one ring each way, one producer, one consumer.
//!
//! The sender gathers a turn's messages and publishes them with [`Sender::flush`]: one atomic store for the batch, and one
//! ring of the receiver's bell, which costs a system call only when that core sleeps. A mailbox never blocks; its
//! capacity is chosen so that every request which may be outstanding has room, and a full one is an answer to the
//! caller, who then waits for replies.

use crate::Wake;
use std::sync::Arc;

/// Makes a mailbox with room for `capacity` messages, whose receiver is woken by `wake`.
#[must_use]
pub fn channel<T>(capacity: usize, wake: Arc<dyn Wake>) -> (Sender<T>, Receiver<T>) {
    let (producer, consumer) = rtrb::RingBuffer::new(capacity);
    (Sender { producer, staged: Vec::new(), room: capacity, wake }, Receiver { consumer })
}

/// The sending end; belongs to one core.
pub struct Sender<T> {
    producer: rtrb::Producer<T>,
    staged: Vec<T>,
    /// Slots of the ring that were free when we last looked. The receiver can only add to them.
    room: usize,
    wake: Arc<dyn Wake>,
}

impl<T> Sender<T> {
    /// Adds a message to the batch; hands it back when the mailbox is full.
    pub fn push(&mut self, message: T) -> Result<(), T> {
        if self.staged.len() == self.room {
            self.room = self.producer.slots();
        }
        if self.staged.len() >= self.room {
            return Err(message);
        }
        self.staged.push(message);
        Ok(())
    }

    /// Messages that could be pushed now.
    #[must_use]
    pub fn room(&self) -> usize {
        self.producer.slots() - self.staged.len()
    }

    /// Publishes the batch, if there is one, and rings the receiver. Called once at the end of a turn.
    pub fn flush(&mut self) {
        if self.staged.is_empty() {
            return;
        }
        let chunk = self.producer.write_chunk_uninit(self.staged.len()).expect("push made sure of the room");
        self.room -= chunk.fill_from_iter(self.staged.drain(..));
        self.wake.wake();
    }

    /// True when the receiver is gone and messages go nowhere.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.producer.is_abandoned()
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.flush();
    }
}

/// The receiving end; belongs to one core.
pub struct Receiver<T> {
    consumer: rtrb::Consumer<T>,
}

impl<T> Receiver<T> {
    /// Appends every message that is there to `out`, in the order of sending; how many.
    pub fn drain(&mut self, out: &mut Vec<T>) -> usize {
        let n = self.consumer.slots();
        if n > 0 {
            let chunk = self.consumer.read_chunk(n).expect("slots counted them");
            out.extend(chunk);
        }
        n
    }

    /// True when the sender is gone; what it sent before may still be there.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.consumer.is_abandoned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bell;
    use std::{
        sync::atomic::{AtomicU64, Ordering},
        thread::Thread,
    };

    #[derive(Default)]
    struct Counter(AtomicU64);
    impl Wake for Counter {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_batch_is_published_whole_with_one_wake() {
        let count = Arc::new(Counter::default());
        let (mut tx, mut rx) = channel(4, count.clone());
        let mut got = Vec::new();
        for i in 0..4 {
            tx.push(i).unwrap();
        }
        assert_eq!(tx.push(9), Err(9));
        assert_eq!(rx.drain(&mut got), 0);
        tx.flush();
        tx.flush();
        assert_eq!((rx.drain(&mut got), count.0.load(Ordering::Relaxed)), (4, 1));
        assert_eq!(got, [0, 1, 2, 3]);
        assert_eq!(tx.room(), 4);
        tx.push(4).unwrap();
        drop(tx);
        assert_eq!(rx.drain(&mut got), 1);
        assert!(rx.is_abandoned());
    }

    struct Parked {
        bell: Bell,
        thread: std::sync::OnceLock<Thread>,
    }
    impl Wake for Parked {
        fn wake(&self) {
            if self.bell.ring() {
                self.thread.get().expect("set before the first message").unpark();
            }
        }
    }

    /// A request and its reply cross between two threads that both sleep when idle; in order, none lost.
    #[test]
    fn request_and_reply_between_sleepers() {
        const MESSAGES: u64 = 40_000;
        const DEPTH: u64 = 16;
        let core = || Arc::new(Parked { bell: Bell::new(), thread: std::sync::OnceLock::new() });
        let (a, b) = (core(), core());
        let (mut requests, mut requests_in) = channel::<u64>(64, b.clone());
        let (mut replies, mut replies_in) = channel::<u64>(64, a.clone());
        let server = {
            let b = b.clone();
            std::thread::spawn(move || {
                b.thread.set(std::thread::current()).unwrap();
                let mut batch = Vec::new();
                while !requests_in.is_abandoned() {
                    if b.bell.try_sleep() {
                        std::thread::park_timeout(std::time::Duration::from_secs(1));
                    }
                    b.bell.awake();
                    requests_in.drain(&mut batch);
                    for m in batch.drain(..) {
                        replies.push(m + 1).unwrap();
                    }
                    replies.flush();
                }
            })
        };
        while b.thread.get().is_none() {
            std::thread::yield_now();
        }
        a.thread.set(std::thread::current()).unwrap();
        let (mut sent, mut got, mut batch) = (0, 0, Vec::new());
        let start = std::time::Instant::now();
        while got < MESSAGES {
            while sent < MESSAGES && sent - got < DEPTH {
                requests.push(sent).unwrap();
                sent += 1;
            }
            requests.flush();
            if a.bell.try_sleep() {
                std::thread::park_timeout(std::time::Duration::from_secs(1));
            }
            a.bell.awake();
            replies_in.drain(&mut batch);
            for m in batch.drain(..) {
                assert_eq!(m, got + 1);
                got += 1;
            }
        }
        // Lost wake-ups would cost a second each.
        assert!(start.elapsed().as_secs() < 20, "wake-ups were lost");
        drop(requests);
        b.wake();
        server.join().unwrap();
    }
}
