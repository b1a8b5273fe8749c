//! A namespace that load is made on.

use super::BenchArgs;
use crate::cli::{
    error::CliError,
    fabric::{Failed, namespace_of, reach},
};
use dolmen_initiator::{Namespace, Options};
use dolmen_types::ByteSize;

/// A namespace, and how to reach it.
#[derive(Clone, Debug)]
pub(super) struct Goal {
    /// With the address, the subsystem and who we are.
    pub(super) options: Options,
    /// What is there.
    pub(super) namespace: Namespace,
    /// The most that one command may move. Bytes.
    pub(super) most_bytes: u64,
    /// The most commands that one of its queues takes at once.
    pub(super) most_depth: u16,
    /// The controller's model and firmware.
    pub(super) model: String,
}

impl Goal {
    /// Asks the target for what was not given, and looks at the namespace.
    pub(super) fn find(target: &str, args: &BenchArgs) -> Result<Goal, CliError> {
        let (mut session, options) = reach(target, &args.fabric)?;
        let options = Options {
            io_queues: args.connections,
            queue_depth: args.iodepth,
            loss_timeout_ms: args.loss_timeout.0,
            ..options
        };
        let addr = options.addr;
        let nsid = namespace_of(&mut session, &args.fabric, &options)?;
        let namespace = session.namespace(nsid).failed(|| format!("namespace {nsid} at {addr}"))?;
        let identity = session.identity();
        let goal = Goal {
            most_bytes: u64::from(identity.max_transfer_bytes),
            most_depth: identity.max_entries.saturating_sub(1).max(1),
            model: format!("{} {}", identity.model, identity.firmware).trim().to_string(),
            options,
            namespace,
        };
        session.disconnect();
        Ok(goal)
    }

    /// For people.
    pub(super) fn name(&self) -> String {
        let size = ByteSize(self.namespace.size_bytes());
        let uuid = self.namespace.uuid.map(|uuid| format!(" ({uuid})")).unwrap_or_default();
        format!("namespace {}{uuid} of {size} at {}", self.namespace.nsid, self.options.addr)
    }
}
