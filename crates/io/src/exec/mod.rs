//! A small executor for the long flows of one core: recovery, resync, cleaning, set-up. Per-I/O work is state machines,
//! never futures.
//!
//! ```text
//!   each turn:  completions with the executor's owner -> exec.deliver(key, event)
//!               exec.run(&mut io): poll ready tasks, queue what they asked for, arm their timers
//! ```
//!
//! Tasks talk to the world through a [`Handle`] only. Dropping a future does not take its operation back: it runs to its
//! end and its buffer returns to the pool then. Tasks, and with them everything else here, are bounded by
//! [`Exec::new`]'s limit times what one task has under way.

mod ops;
mod sync;

pub use ops::{Alloc, Completion, Sleep, Yield};
pub use sync::{Canceled, Notified, Notify, OneshotReceiver, OneshotSender, oneshot};

use crate::{Buf, Error, Event, FileId, Io, Op, Owner, Slices, Tag, TimerId};
use dolmen_types::Nanos;
use std::{
    cell::RefCell,
    collections::VecDeque,
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
};

/// How long a task that waits for a buffer waits at most before it looks again, when no turn happens by itself. Milliseconds.
const ALLOC_RETRY_MS: u64 = 5;

/// Key of the executor's own timer; slots never reach it.
const RETRY_KEY: u64 = u64::MAX;

/// The tasks of one core.
pub struct Exec {
    handle: Handle,
    tasks: Vec<Option<Task>>,
    free: Vec<usize>,
    retry: Option<TimerId>,
}

struct Task {
    future: Pin<Box<dyn Future<Output = ()>>>,
    waker: Arc<TaskWaker>,
}

/// What tasks use to reach the world; cheap to clone, stays on its core.
#[derive(Clone)]
pub struct Handle {
    state: Rc<RefCell<State>>,
}

/// The executor has as many tasks as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("too many tasks on this core")
    }
}

impl std::error::Error for Full {}

struct State {
    owner: Owner,
    now: Nanos,
    limit: usize,
    /// Tasks that live or are in `spawned`.
    tasks: usize,
    spawned: Vec<Pin<Box<dyn Future<Output = ()>>>>,
    ready: Arc<Ready>,
    /// What tasks asked for since the last run.
    outbox: Vec<(u64, Request)>,
    slots: Vec<Slot>,
    free: Vec<usize>,
    alloc_waiters: VecDeque<Waker>,
    pool: crate::Pool,
}

enum Request {
    Op(Op),
    Timer(Nanos),
    CancelTimer(TimerId),
}

enum Slot {
    Free,
    /// Asked for; the waker of the future that waits, if it was polled.
    Waiting {
        waker: Option<Waker>,
        timer: Option<TimerId>,
    },
    /// Complete, not yet picked up.
    Done(Event),
    /// The future was dropped; the completion goes nowhere.
    Orphan,
}

/// Tasks to poll. A `Mutex` because wakers must be `Send`; nobody contends for it.
#[derive(Default)]
struct Ready(Mutex<VecDeque<usize>>);

impl Ready {
    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct TaskWaker {
    task: usize,
    ready: Arc<Ready>,
    /// True while the task is in `ready`.
    queued: AtomicBool,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.ready.lock().push_back(self.task);
        }
    }
}

impl Exec {
    /// An executor whose operations carry `owner`, for `limit` tasks at most.
    #[must_use]
    pub fn new(owner: Owner, limit: usize, io: &Io) -> Exec {
        let state = State {
            owner,
            now: io.now(),
            limit,
            tasks: 0,
            spawned: Vec::new(),
            ready: Arc::default(),
            outbox: Vec::new(),
            slots: Vec::new(),
            free: Vec::new(),
            alloc_waiters: VecDeque::new(),
            pool: io.pool().clone(),
        };
        let handle = Handle { state: Rc::new(RefCell::new(state)) };
        Exec { handle, tasks: Vec::new(), free: Vec::new(), retry: None }
    }

    /// What tasks work with.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Tasks that have not ended.
    #[must_use]
    pub fn len(&self) -> usize {
        self.handle.state.borrow().tasks
    }

    /// True when every task has ended.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True when [`Exec::run`] would find a task to poll: the loop must not wait.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        let state = self.handle.state.borrow();
        !state.spawned.is_empty() || !state.ready.lock().is_empty() || !state.outbox.is_empty()
    }

    /// Takes a completion whose tag has this executor's owner.
    pub fn deliver(&mut self, key: u64, event: Event) {
        if key == RETRY_KEY {
            self.retry = None;
            return;
        }
        let mut state = self.handle.state.borrow_mut();
        let key = usize::try_from(key).expect("our own keys are indexes");
        match std::mem::replace(&mut state.slots[key], Slot::Done(event)) {
            Slot::Waiting { waker, .. } => {
                drop(state);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            Slot::Orphan | Slot::Free | Slot::Done(_) => state.release(key),
        }
    }

    /// Polls every task that is ready, once, then queues what they asked for. True when something was polled.
    pub fn run(&mut self, io: &mut Io) -> bool {
        {
            let mut state = self.handle.state.borrow_mut();
            state.now = io.now();
            for waker in std::mem::take(&mut state.alloc_waiters) {
                waker.wake();
            }
        }
        self.admit();
        let batch = std::mem::take(&mut *self.handle.state.borrow().ready.lock());
        let worked = !batch.is_empty();
        for task in batch {
            self.poll_task(task);
        }
        self.admit();
        self.send_requests(io);
        worked
    }

    fn admit(&mut self) {
        let (spawned, ready) = {
            let mut state = self.handle.state.borrow_mut();
            if state.spawned.is_empty() {
                return;
            }
            (std::mem::take(&mut state.spawned), state.ready.clone())
        };
        for future in spawned {
            let task = self.free.pop().unwrap_or_else(|| {
                self.tasks.push(None);
                self.tasks.len() - 1
            });
            let queued = AtomicBool::new(false);
            let waker = Arc::new(TaskWaker { task, ready: ready.clone(), queued });
            waker.wake_by_ref();
            self.tasks[task] = Some(Task { future, waker });
        }
    }

    fn poll_task(&mut self, index: usize) {
        // A waker may outlive its task; waking it then is harmless.
        let Some(task) = self.tasks[index].as_mut() else { return };
        task.waker.queued.store(false, Ordering::Release);
        let waker = Waker::from(task.waker.clone());
        if task.future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            self.tasks[index] = None;
            self.free.push(index);
            self.handle.state.borrow_mut().tasks -= 1;
        }
    }

    fn send_requests(&mut self, io: &mut Io) {
        let mut state = self.handle.state.borrow_mut();
        let owner = state.owner;
        for (key, request) in std::mem::take(&mut state.outbox) {
            let tag = Tag { owner, key };
            match request {
                Request::Op(op) => io.queue_op(tag, op),
                // Where it fired already, its event frees the slot.
                Request::CancelTimer(id) => {
                    if io.cancel_timer(id) {
                        let index = usize::try_from(key).expect("our own keys are indexes");
                        state.release(index);
                    }
                }
                Request::Timer(at) => {
                    let index = usize::try_from(key).expect("our own keys are indexes");
                    match &mut state.slots[index] {
                        Slot::Waiting { timer, .. } => *timer = Some(io.timer_at(tag, at)),
                        _ => state.release(index), // Dropped before it was armed.
                    }
                }
            }
        }
        if !state.alloc_waiters.is_empty() && self.retry.is_none() {
            let at = io.now().plus_ms(ALLOC_RETRY_MS);
            self.retry = Some(io.timer_at(Tag { owner, key: RETRY_KEY }, at));
        }
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        // Tasks hold handles, and the handle holds spawned tasks: break the circle.
        self.tasks.clear();
        let spawned = std::mem::take(&mut self.handle.state.borrow_mut().spawned);
        drop(spawned);
    }
}

impl State {
    fn take_slot(&mut self) -> usize {
        let waiting = Slot::Waiting { waker: None, timer: None };
        match self.free.pop() {
            Some(index) => {
                self.slots[index] = waiting;
                index
            }
            None => {
                self.slots.push(waiting);
                self.slots.len() - 1
            }
        }
    }

    fn release(&mut self, index: usize) {
        self.slots[index] = Slot::Free;
        self.free.push(index);
    }
}

impl Handle {
    /// Starts a task at the next run; refused when there are as many as allowed.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) -> Result<(), Full> {
        let mut state = self.state.borrow_mut();
        if state.tasks >= state.limit {
            return Err(Full);
        }
        state.tasks += 1;
        state.spawned.push(Box::pin(future));
        Ok(())
    }

    /// The time of the turn that is running.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.state.borrow().now
    }

    /// Reads `buf.len()` bytes at `offset`. A failure hands the buffer back when the driver could.
    pub async fn read(&self, file: FileId, offset: u64, buf: Buf) -> Result<Buf, (Error, Option<Buf>)> {
        match self.start(Op::Read { file, offset, buf }).await {
            Event::Read(buf) => Ok(buf),
            Event::Failed { error, buf } => Err((error, buf)),
            other => unreachable!("the driver answered a read with {other:?}"),
        }
    }

    /// Writes `data` at `offset`; complete when the drive has it, perhaps in a volatile cache.
    pub async fn write(&self, file: FileId, offset: u64, data: Slices) -> Result<(), Error> {
        self.finish(Op::Write { file, offset, data, durable: false }).await
    }

    /// Writes `data` at `offset`; complete when it is on stable media.
    pub async fn write_durable(&self, file: FileId, offset: u64, data: Slices) -> Result<(), Error> {
        self.finish(Op::Write { file, offset, data, durable: true }).await
    }

    /// Makes everything written before durable. A failure is never retried.
    pub async fn flush(&self, file: FileId) -> Result<(), Error> {
        self.finish(Op::Flush { file }).await
    }

    /// Gives a range of a drive up; reads of it may return anything afterwards.
    pub async fn discard(&self, file: FileId, offset: u64, len: u64) -> Result<(), Error> {
        self.finish(Op::Discard { file, offset, len }).await
    }

    /// Waits until the clock has reached `at`.
    #[must_use]
    pub fn sleep_until(&self, at: Nanos) -> Sleep {
        Sleep::new(self.clone(), at)
    }

    /// Lets other tasks and the core's other work go first.
    #[must_use]
    pub fn yield_now(&self) -> Yield {
        Yield::default()
    }

    /// A buffer of `len` bytes (old contents); waits until the pool has one.
    ///
    /// # Panics
    /// When no class of the pool holds `len` bytes, so that the wait would never end: a defect of the caller.
    #[must_use]
    pub fn alloc(&self, len: usize) -> Alloc {
        let largest = self.state.borrow().pool.largest();
        assert!(len <= largest, "{len} bytes asked of a pool whose largest buffer has {largest}");
        Alloc::new(self.clone(), len)
    }

    /// Starts any operation that has a single event; resolves to that event.
    #[must_use]
    pub fn start(&self, op: Op) -> Completion {
        let mut state = self.state.borrow_mut();
        let slot = state.take_slot();
        state.outbox.push((slot as u64, Request::Op(op)));
        drop(state);
        Completion::new(self.clone(), slot)
    }

    async fn finish(&self, op: Op) -> Result<(), Error> {
        match self.start(op).await {
            Event::Failed { error, .. } => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
