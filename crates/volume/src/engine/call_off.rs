//! Commands that nobody waits for any more: their connection is gone. What of them is not sequenced never will be; their buffers and
//! ranges are free at once. What is sequenced is done, whole, as any other command.
//!
//! A request that comes behind the news that calls its predecessors off is sequenced after whatever was sequenced of them: the
//! news is looked at before anything else in a step.

use super::{admit::take_buffers, take_those};
use crate::{
    Reply, Request, VolumeError, Volumes,
    backing::Log,
    op::{Kind, Op, OpId, Phase},
};
use dolmen_io::Stage;
use dolmen_types::{CoreId, Nanos};

/// Requests that are called off.
#[derive(Clone, Debug)]
pub(crate) struct CalledOff {
    /// The core that they are from.
    from: CoreId,
    /// Their tokens, ascending.
    tokens: Box<[u64]>,
}

impl CalledOff {
    fn has(&self, from: CoreId, token: u64) -> bool {
        self.from == from && self.tokens.binary_search(&token).is_ok()
    }
}

impl Volumes {
    /// Nobody waits for the answers to these requests of a core any more. Each is answered all the same: at once and as
    /// [`VolumeError::CalledOff`] if it was not sequenced and no drive has its buffer.
    pub fn call_off(&mut self, from: CoreId, mut tokens: Box<[u64]>) {
        tokens.sort_unstable();
        self.called_off.push(CalledOff { from, tokens });
    }

    /// Takes what was called off out of everything that it may wait in.
    pub(crate) fn run_called_off<L: Log>(&mut self, log: &mut L) {
        let now = log.now();
        for off in std::mem::take(&mut self.called_off) {
            let refused: Vec<Request> = self.inbox.extract_if(.., |r| off.has(r.from, r.token)).collect();
            refused.into_iter().for_each(|request| self.refuse(request, now));
            self.empty_lanes(&off, now);
            self.empty_backlogs(&off, now);
            let concerned = |op: &Op| off.has(op.from, op.token) && !matches!(op.kind, Kind::Control(_));
            let before = |op: &Op| concerned(op) && op.phase != Phase::Appending;
            let ids: Vec<OpId> = self.ops.iter().filter(|(_, op)| before(op)).map(|(id, _)| id).collect();
            for id in ids {
                // Those that are not waiting for ranges see it before they are sequenced.
                self.ops.at(id).cancelled = Some(VolumeError::CalledOff);
            }
        }
        self.expire_waiting(log);
    }

    /// Those that a QoS policy keeps waiting.
    fn empty_lanes(&mut self, off: &CalledOff, now: Nanos) {
        if self.throttled == 0 {
            return;
        }
        let mut refused = Vec::new();
        for volume in &mut self.volumes {
            for lane in &mut volume.throttle.lanes {
                for (request, since) in take_those(&mut lane.waiting, |(r, _)| off.has(r.from, r.token)) {
                    volume.stats.throttled_ns += now.since(since);
                    refused.push(request);
                }
            }
        }
        self.throttled -= refused.len();
        refused.into_iter().for_each(|request| self.refuse(request, now));
    }

    /// Those that wait for a slot.
    fn empty_backlogs(&mut self, off: &CalledOff, now: Nanos) {
        if self.backlogged == 0 {
            return;
        }
        let mut refused = Vec::new();
        for &slot in &self.backlogs {
            refused.extend(take_those(&mut self.volumes[slot].backlog, |r| off.has(r.from, r.token)));
        }
        let volumes = &self.volumes;
        self.backlogs.retain(|&slot| !volumes[slot].backlog.is_empty());
        self.backlogged -= refused.len();
        refused.into_iter().for_each(|request| self.refuse(request, now));
    }

    /// Answers a request that never became an op.
    fn refuse(&mut self, request: Request, now: Nanos) {
        let Request { token, from, volume: at, mut stamps, command, .. } = request;
        if let Some(volume) = self.volumes.get_mut(at.slot as usize).filter(|v| v.at == at) {
            volume.stats.failed += 1;
        }
        stamps.mark(Stage::Ended, now);
        let (buf, buf2) = take_buffers(command);
        self.reply_to(from, Reply { token, result: Err(VolumeError::CalledOff), buf, buf2, stamps });
    }
}
