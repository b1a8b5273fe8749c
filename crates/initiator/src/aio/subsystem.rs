//! One subsystem as tasks see it, and the futures that wait for it.

use super::{Call, CallError, Connecting, Handle, Result};
use crate::{
    BlockRange, Command, Completion, Identity, Namespace, Request, State, SubsystemId, command::NO_DEADLINE,
    identity::active_namespaces,
};
use dolmen_io::Buf;
use dolmen_nvme::spec::{Cns, IdentifyCommand};
use std::{
    cell::Ref,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

/// A subsystem that was live once. Clones are the same subsystem.
#[derive(Clone)]
pub struct Subsystem {
    handle: Handle,
    id: SubsystemId,
    timeout_ms: Option<u64>,
}

impl Subsystem {
    /// The same subsystem, whose commands fail when they take longer than this.
    #[must_use]
    pub fn with_timeout_ms(&self, timeout_ms: u64) -> Subsystem {
        Subsystem { timeout_ms: Some(timeout_ms), ..self.clone() }
    }

    /// How it stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.handle.inner.borrow().state(self.id)
    }

    /// What the controller said of itself. Not to be kept across an `await`.
    #[must_use]
    pub fn identity(&self) -> Option<Ref<'_, Identity>> {
        self.handle.identity(self.id)
    }

    /// A buffer of `len` bytes (old contents).
    ///
    /// # Errors
    /// [`CallError::Memory`] when the pool has none to spare: an eighth of it stays for sending and receiving.
    pub fn alloc(&self, len: usize) -> Result<Buf> {
        self.handle.inner.borrow().pool.alloc_plentiful(len).ok_or(CallError::Memory)
    }

    /// One command of any kind, to its end; commands of one task that are to be under way together are started first and
    /// awaited afterwards.
    #[must_use]
    pub fn execute(&self, command: Command) -> Execute {
        let mut inner = self.handle.inner.borrow_mut();
        let deadline = self.timeout_ms.map_or(NO_DEADLINE, |ms| inner.now.plus_ms(ms));
        let ticket = inner.call(self.id, Request { deadline, ..Request::new(0, command) });
        drop(inner);
        Execute { handle: self.handle.clone(), ticket: Some(ticket) }
    }

    /// Reads from block `lba` on, as many whole blocks as `buf` holds.
    ///
    /// # Errors
    /// What the command answers; [`CallError::Length`].
    pub async fn read(&self, ns: &Namespace, lba: u64, buf: Buf) -> Result<Buf> {
        let blocks = blocks_of(ns, &buf)?;
        self.data(Command::Read { nsid: ns.nsid, lba, blocks, buf }).await
    }

    /// Writes whole blocks from block `lba` on; the buffer comes back.
    ///
    /// # Errors
    /// What the command answers; [`CallError::Length`].
    pub async fn write(&self, ns: &Namespace, lba: u64, buf: Buf) -> Result<Buf> {
        let blocks = blocks_of(ns, &buf)?;
        self.data(Command::Write { nsid: ns.nsid, lba, blocks, buf, fua: false }).await
    }

    /// Compares what is stored from block `lba` on with `buf`, which comes back.
    ///
    /// # Errors
    /// What the command answers, Compare Failure when they differ; [`CallError::Length`].
    pub async fn compare(&self, ns: &Namespace, lba: u64, buf: Buf) -> Result<Buf> {
        let blocks = blocks_of(ns, &buf)?;
        self.data(Command::Compare { nsid: ns.nsid, lba, blocks, buf }).await
    }

    /// Makes completed writes durable.
    ///
    /// # Errors
    /// What the command answers.
    pub async fn flush(&self, ns: &Namespace) -> Result<()> {
        self.execute(Command::Flush { nsid: ns.nsid }).await.map(|_| ())
    }

    /// Trims up to 256 ranges in one command.
    ///
    /// # Errors
    /// What the command answers.
    pub async fn trim(&self, ns: &Namespace, ranges: &[BlockRange]) -> Result<()> {
        self.execute(Command::Deallocate { nsid: ns.nsid, ranges: ranges.into() }).await.map(|_| ())
    }

    /// Makes up to 65,536 blocks read as zeroes, giving their space back.
    ///
    /// # Errors
    /// What the command answers.
    pub async fn write_zeroes(&self, ns: &Namespace, lba: u64, blocks: u32) -> Result<()> {
        let command = Command::WriteZeroes { nsid: ns.nsid, lba, blocks, deallocate: true };
        self.execute(command).await.map(|_| ())
    }

    /// NSIDs of all namespaces that we may see, ascending.
    ///
    /// # Errors
    /// What the commands answer; [`CallError::Malformed`] for a list without an end.
    pub async fn namespaces(&self) -> Result<Vec<u32>> {
        let mut all = Vec::new();
        loop {
            let after = all.last().copied().unwrap_or(0);
            let page = self.identify(Cns::ACTIVE_NAMESPACES, after).await?;
            if active_namespaces(&page, &mut all).map_err(CallError::Malformed)? {
                return Ok(all);
            }
        }
    }

    /// One namespace.
    ///
    /// # Errors
    /// What the commands answer, or [`CallError::Malformed`].
    pub async fn namespace(&self, nsid: u32) -> Result<Namespace> {
        let page = self.identify(Cns::NAMESPACE, nsid).await?;
        let descriptors = self.identify(Cns::NAMESPACE_DESCRIPTORS, nsid).await?;
        Namespace::parse(nsid, &page, &descriptors).map_err(CallError::Malformed)
    }

    /// One page of Identify, 4096 bytes.
    ///
    /// # Errors
    /// What the command answers.
    pub async fn identify(&self, cns: Cns, nsid: u32) -> Result<Buf> {
        let buf = self.alloc(IdentifyCommand::DATA_BYTES)?;
        self.data(Command::Identify { cns, nsid, buf }).await
    }

    /// Ends the subsystem: its commands fail, the controller is told, the connections close.
    pub async fn disconnect(self) {
        self.handle.inner.borrow_mut().ending.push(self.id);
        std::future::poll_fn(|cx| {
            let mut inner = self.handle.inner.borrow_mut();
            if inner.ending.is_empty() && inner.state(self.id) == State::Closed {
                return Poll::Ready(());
            }
            inner.watch(cx.waker());
            Poll::Pending
        })
        .await;
    }

    async fn data(&self, command: Command) -> Result<Buf> {
        self.execute(command).await?.buf.ok_or(CallError::Memory)
    }
}

fn blocks_of(ns: &Namespace, buf: &Buf) -> Result<u32> {
    let length = u32::try_from(buf.len()).map_err(|_| CallError::Length)?;
    if length == 0 || !length.is_multiple_of(ns.block_bytes) {
        return Err(CallError::Length);
    }
    Ok(length / ns.block_bytes)
}

/// Resolves to the completion of one command.
pub struct Execute {
    handle: Handle,
    /// `None` once it has resolved.
    ticket: Option<usize>,
}

impl Future for Execute {
    type Output = Result<Completion>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Completion>> {
        let ticket = self.ticket.expect("a future is not polled after it resolved");
        let handle = self.handle.clone();
        let mut inner = handle.inner.borrow_mut();
        if let Call::Waiting(waker) = &mut inner.calls[ticket] {
            *waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let Call::Done(outcome) = std::mem::replace(&mut inner.calls[ticket], Call::Free) else {
            unreachable!("a call belongs to its future until that ends")
        };
        inner.free.push(ticket);
        self.ticket = None;
        Poll::Ready(match outcome {
            Err(error) => Err(error),
            Ok(completion) => match completion.result {
                Ok(_) => Ok(completion),
                Err(failure) => Err(CallError::Command(failure)),
            },
        })
    }
}

impl Drop for Execute {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut inner = self.handle.inner.borrow_mut();
        if let Call::Done(outcome) = std::mem::replace(&mut inner.calls[ticket], Call::Orphan) {
            inner.release(ticket);
            drop(inner);
            drop(outcome);
        }
    }
}

/// Resolves when a subsystem is live, or given up.
pub struct Connect {
    handle: Handle,
    /// `None` once it has resolved: the place may be another's then.
    place: Option<usize>,
}

impl Connect {
    pub(super) fn new(handle: Handle, place: usize) -> Connect {
        Connect { handle, place: Some(place) }
    }
}

impl Future for Connect {
    type Output = Result<Subsystem>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Subsystem>> {
        let place = self.place.expect("a future is not polled after it resolved");
        let handle = self.handle.clone();
        let mut inner = handle.inner.borrow_mut();
        let outcome = match &inner.connecting[place] {
            Connecting::Asked | Connecting::Free => None,
            Connecting::Made(Err(error)) => Some(Err(CallError::Connect(error.clone()))),
            Connecting::Made(Ok(id)) => match inner.state(*id) {
                State::Live { .. } => Some(Ok(*id)),
                State::Lost(error) => Some(Err(CallError::Connect(error))),
                _ => None,
            },
        };
        let Some(outcome) = outcome else {
            inner.watch(cx.waker());
            return Poll::Pending;
        };
        self.place = None;
        match outcome {
            // It belongs to the subsystem now, not to this future.
            Ok(_) => inner.connecting[place] = Connecting::Free,
            Err(_) => inner.call_off(place),
        }
        drop(inner);
        Poll::Ready(outcome.map(|id| Subsystem { handle, id, timeout_ms: None }))
    }
}

impl Drop for Connect {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.handle.inner.borrow_mut().call_off(place);
        }
    }
}
