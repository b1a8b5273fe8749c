//! The store behind the seam, as this crate uses it: everything that is called of `dolmen-store` while serving.

use super::{Log, Refusal};
use dolmen_io::{Buf, Io, Owner, Tag};
use dolmen_store::{AppendError, Batch, DiffDone, DiffRequest, LineInfo, LineUsage, Store, Ticket};
use dolmen_types::{Lba, LineId, Nanos, PgId};

/// One step's access to the core's store. A core without one serves Null and Memory volumes alone.
pub(crate) struct Durable<'a> {
    pub(crate) io: &'a mut Io,
    pub(crate) store: Option<&'a mut Store>,
    /// Owner of our timer's events.
    pub(crate) owner: Owner,
}

impl Log for Durable<'_> {
    fn now(&self) -> Nanos {
        self.io.now()
    }

    fn alloc(&self, len: usize) -> Option<Buf> {
        self.io.pool().alloc_plentiful(len)
    }

    fn alloc_alone(&self, len: usize) -> Option<Buf> {
        self.io.pool().alloc(len)
    }

    fn wake_at(&mut self, at: Nanos) {
        let _ = self.io.timer_at(Tag { owner: self.owner, key: 0 }, at);
    }

    fn read(&mut self, pg: PgId, line: LineId, first: u64, buf: Buf, ticket: u64) {
        let store = self.store.as_mut().expect("durable volumes are only found in a store");
        store.read(pg, line, None, Lba(first), buf, Ticket(ticket));
    }

    fn append(&mut self, batch: Batch, ticket: u64) -> Result<(), (Batch, Refusal)> {
        let Some(store) = self.store.as_mut() else { return Err((batch, Refusal::Stopped)) };
        store.append(batch, Ticket(ticket)).map_err(|(batch, error)| {
            let refusal = match error {
                // Keyed objects of a whole shard are bounded together, and so are snapshots.
                AppendError::Full | AppendError::ObjectsFull | AppendError::SnapshotsFull => Refusal::Full,
                AppendError::TooLarge { fit } => Refusal::TooLarge(fit),
                AppendError::Busy | AppendError::NotReady => Refusal::Busy,
                AppendError::Stopped { .. } => Refusal::Stopped,
                AppendError::Invalid(what) => {
                    debug_assert!(false, "the store calls a batch of ours invalid: {what}");
                    Refusal::Stopped
                }
            };
            (batch, refusal)
        })
    }

    fn usage(&self, pg: PgId, line: LineId, others: &[LineId]) -> LineUsage {
        self.store.as_ref().map(|s| s.usage_with(pg, line, others)).unwrap_or_default()
    }

    fn line(&self, pg: PgId, line: LineId) -> Option<LineInfo> {
        self.store.as_ref()?.line(pg, line)
    }

    fn has_key(&self, pg: PgId, line: LineId) -> bool {
        self.store.as_ref().is_some_and(|s| s.has_key(pg, line))
    }

    fn diff(&mut self, pg: PgId, request: DiffRequest, ticket: Ticket) {
        let store = self.store.as_mut().expect("snapshots are only found in a store");
        store.diff(pg, request, ticket);
    }

    fn drain_diffs(&mut self, out: &mut Vec<DiffDone>) {
        if let Some(store) = self.store.as_mut() {
            store.drain_diffs(out);
        }
    }
}
