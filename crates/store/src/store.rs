//! The store of one core: its shards, their requests and completions.

use crate::{
    AppendError, Batch, Done, Key, LineUsage, Marks, PoolPlan, ShardTuning, SpaceReport, StoreError, Ticket,
    ToPool, ToShard,
};
use dolmen_io::{Buf, Event, FileId, Io, Owner, exec};
use dolmen_types::{Lba, LineId, PgId, Seq, ShardId};

/// The shards that live on one core. Stepped once per turn; never waits.
pub struct Store {
    _private: (),
}

#[allow(unused_variables, clippy::unused_self)]
impl Store {
    /// Hosts those shards of an opened pool whose number modulo `cores` is `core`; `files[i]` is this core's handle of
    /// the plan's drive `i`. Recovery starts at once as a task on `exec`; [`Store::ready`] tells when it has ended.
    /// `owner` tags the store's own drive operations (reads and commits).
    #[must_use]
    pub fn open(
        plan: &PoolPlan,
        shards: &[ShardId],
        files: &[FileId],
        tuning: ShardTuning,
        owner: Owner,
        exec: exec::Handle,
    ) -> Store {
        unreachable!("the skeleton has no insides yet")
    }

    /// `None` while recovering; then whether every shard serves.
    #[must_use]
    pub fn ready(&self) -> Option<Result<(), StoreError>> {
        unreachable!("the skeleton has no insides yet")
    }

    /// Queues a batch; its [`Done`] comes when it is durable and applied, in chain order. The shard is that of `batch.pg`.
    pub fn append(&mut self, batch: Batch, ticket: Ticket) -> Result<(), (Batch, AppendError)> {
        unreachable!("the skeleton has no insides yet")
    }

    /// Reads `buf.len() / 4096` blocks as of the newest version (or the newest at or below `at`); unmapped blocks read zeros,
    /// every stored block is verified. `pg` names the shard.
    pub fn read(
        &mut self,
        io: &mut Io,
        pg: PgId,
        line: LineId,
        at: Option<Seq>,
        lba: Lba,
        buf: Buf,
        ticket: Ticket,
    ) {
        unreachable!("the skeleton has no insides yet")
    }

    /// Completions of operations that carry the store's owner.
    pub fn on_event(&mut self, io: &mut Io, key: u64, event: Event) {
        unreachable!("the skeleton has no insides yet")
    }

    /// Once per turn: forms and submits commits, applies what is durable, starts checkpoints and cleaning.
    /// True when another turn could do more at once.
    pub fn step(&mut self, io: &mut Io) -> bool {
        unreachable!("the skeleton has no insides yet")
    }

    /// Takes completions.
    pub fn drain(&mut self, out: &mut Vec<Done>) {
        unreachable!("the skeleton has no insides yet")
    }

    /// Takes messages for the pool's owner.
    pub fn drain_pool(&mut self, out: &mut Vec<ToPool>) {
        unreachable!("the skeleton has no insides yet")
    }

    /// A message of the pool's owner for one of our shards.
    pub fn on_pool(&mut self, shard: ShardId, message: ToShard) {
        unreachable!("the skeleton has no insides yet")
    }

    /// Calls `visit` for every keyed object of a group, in key order (applied state).
    pub fn for_each_object(&self, pg: PgId, visit: impl FnMut(Key, &[u8])) {
        unreachable!("the skeleton has no insides yet")
    }

    /// Epoch and highest applied sequence number of a group.
    #[must_use]
    pub fn marks(&self, pg: PgId) -> Marks {
        unreachable!("the skeleton has no insides yet")
    }

    /// The lines of a group's shard, in order.
    #[must_use]
    pub fn lines(&self, pg: PgId) -> Vec<LineId> {
        unreachable!("the skeleton has no insides yet")
    }

    /// What a line takes.
    #[must_use]
    pub fn usage(&self, pg: PgId, line: LineId) -> LineUsage {
        unreachable!("the skeleton has no insides yet")
    }

    /// Where the space of this core's shards is.
    #[must_use]
    pub fn space(&self) -> SpaceReport {
        unreachable!("the skeleton has no insides yet")
    }

    /// Asks for a checkpoint of every shard, soon.
    pub fn checkpoint(&mut self) {
        unreachable!("the skeleton has no insides yet")
    }

    /// Stops taking appends, finishes those under way, checkpoints, so that a restart replays nothing.
    pub fn shutdown(&mut self) {
        unreachable!("the skeleton has no insides yet")
    }

    /// True when [`Store::shutdown`] is through (or a shard stopped for another reason).
    #[must_use]
    pub fn is_down(&self) -> bool {
        unreachable!("the skeleton has no insides yet")
    }
}
