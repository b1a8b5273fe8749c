//! The owner of the pool's units: leases them to shards, keeps the reserve, shares out what hosts may fill.

use crate::{PoolPlan, ToPool, ToShard};
use dolmen_types::ShardId;

/// Lives on core 0; pure bookkeeping, fed by messages.
pub struct PoolOwner {
    _private: (),
}

#[allow(unused_variables, clippy::unused_self)]
impl PoolOwner {
    /// Knows nothing about who holds what until every shard has reported [`ToPool::Recovered`].
    #[must_use]
    pub fn new(plan: &PoolPlan) -> PoolOwner {
        unreachable!("the skeleton has no insides yet")
    }

    /// A message of a shard.
    pub fn on_shard(&mut self, message: ToPool) {
        unreachable!("the skeleton has no insides yet")
    }

    /// Takes what is to be sent to shards.
    pub fn drain(&mut self, out: &mut Vec<(ShardId, ToShard)>) {
        unreachable!("the skeleton has no insides yet")
    }
}
