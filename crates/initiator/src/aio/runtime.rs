//! A loop with nothing but a host and an executor on it.

use super::{Handle, Host};
use crate::OWNER;
use dolmen_io::{
    Event, Io, Owner, Poller, Tag, Turn,
    exec::{self, Exec},
};
use std::{cell::RefCell, future::Future, rc::Rc};

/// The executor's events.
const EXEC_OWNER: Owner = Owner(OWNER.0 + 1);
/// Tasks at a time.
const MAX_TASKS: usize = 4096;
/// Spins this long after work before it sleeps. Nanoseconds.
const SPIN_NS: u64 = 50_000;

/// An executor for programs that do nothing else on this thread.
pub struct Runtime {
    io: Io,
    exec: Exec,
    host: Host,
    poller: Poller,
    events: Vec<(Tag, Event)>,
    worked: bool,
}

impl Runtime {
    /// A runtime on the world behind `io`.
    #[must_use]
    pub fn new(io: Io) -> Runtime {
        let exec = Exec::new(EXEC_OWNER, MAX_TASKS, &io);
        let host = Host::new(OWNER, &io);
        Runtime { io, exec, host, poller: Poller::new(SPIN_NS), events: Vec::new(), worked: true }
    }

    /// What tasks use to reach subsystems.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.host.handle()
    }

    /// What tasks use to start others, and for timers.
    #[must_use]
    pub fn tasks(&self) -> exec::Handle {
        self.exec.handle()
    }

    /// Runs `future`, and every task that was started, until `future` has ended.
    ///
    /// # Panics
    /// When more tasks than fit are running.
    pub fn block_on<T: 'static>(&mut self, future: impl Future<Output = T> + 'static) -> T {
        let outcome = Rc::new(RefCell::new(None));
        let place = outcome.clone();
        let task = async move {
            let value = future.await;
            *place.borrow_mut() = Some(value);
        };
        self.exec.handle().spawn(task).expect("there is room for a task");
        loop {
            if let Some(value) = outcome.borrow_mut().take() {
                return value;
            }
            self.turn();
        }
    }

    fn turn(&mut self) {
        let mut more = self.exec.run(&mut self.io);
        more |= self.host.step(&mut self.io);
        let turn = match (more || self.exec.has_ready(), self.worked) {
            (true, _) => Turn::MoreToDo,
            (false, true) => Turn::Worked,
            (false, false) => Turn::Idle,
        };
        let wait = self.poller.wait(self.io.now(), turn);
        self.io.poll(wait, &mut self.events);
        self.worked = !self.events.is_empty();
        for (tag, event) in self.events.drain(..) {
            if tag.owner == OWNER {
                self.host.on_event(&mut self.io, tag.key, event);
            } else {
                self.exec.deliver(tag.key, event);
            }
        }
    }
}
