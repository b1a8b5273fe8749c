//! A host's commands of before are over when it is let in again.
//!
//! When a connection ends, its commands that volumes still have are called off. The volumes of this core hear of it before anything
//! else can reach them; those of other cores by message, and a successor of the connection may live on yet another core. So a
//! Connect of an admin queue asks every core whether it is done with that host, and is answered when all are:
//!
//! ```text
//!   Connect's core                  any core that had a queue of the host         a volume's core
//!                                   connection ends ─────── call off ───────────▶ looked at before its next command
//!   Settle ───────────────────────▶ not yet ...        ◀─── CalledOff ───────────
//!   the controller is made ◀─────── Settled
//! ```
//!
//! A controller's core counts its queues on other cores in: a queue says that it has left only when its commands are called off.
//! What is not confirmed within the deadline of the commands themselves is over by that. A core whose target has not started yet
//! is done with everybody ([`Envelope::without_target`]).

use crate::{
    connection::{Phase, Request, Stage},
    message::{Envelope, Message, QueueAt},
    slab::Key,
    target::{CalledOff, Target},
};
use dolmen_io::Io;
use dolmen_nvme::spec::{ConnectCommand, ConnectData};
use dolmen_types::{CoreId, Nanos};

/// An admin queue's Connect that waits for the other cores.
#[derive(Debug)]
pub(crate) struct Settling {
    pub(crate) cid: u16,
    pub(crate) command: ConnectCommand,
    pub(crate) data: Box<ConnectData>,
    /// Cores that are not done yet.
    left: u16,
}

/// What a queue's core tells its controller's when the queue has left.
#[derive(Clone, Copy, Debug)]
struct Leaving {
    controller: u16,
    qid: u16,
    queue: QueueAt,
}

/// What one of a host's connections has left behind.
#[derive(Debug)]
enum Rest {
    /// Commands that the volumes of so many other cores have not confirmed to be called off; then the queue has left.
    Commands { ticket: u64, cores: u16, then: Option<Leaving> },
    /// A queue on another core.
    Queue(QueueAt),
}

#[derive(Debug)]
struct Unsettled {
    host_id: [u8; 16],
    rest: Rest,
    /// It is over then in any case.
    until: Nanos,
}

/// What hosts have left behind, and who waits for it.
#[derive(Debug, Default)]
pub(crate) struct Settlements {
    unsettled: Vec<Unsettled>,
    waiting: Vec<([u8; 16], QueueAt)>,
    next_ticket: u64,
}

impl Target {
    /// Calls off the commands of a connection that has ended; a queue of another core's controller tells that it has left when that
    /// is done.
    pub(crate) fn call_off(&mut self, io: &Io, key: Key, leaves: Option<(u16, u16)>) {
        let Some(connection) = self.connections.get(key) else { return };
        let host_id = connection.host_id;
        let here = |r: &Request| r.connection == key && r.stage == Stage::Volume;
        let tokens: Box<[u64]> = match connection.outstanding {
            0 => Box::default(),
            _ => self.requests.keys(here).into_iter().map(Key::bits).collect(),
        };
        let queue = QueueAt { core: self.config.core, connection: key };
        let then = leaves.map(|(controller, qid)| Leaving { controller, qid, queue });
        if tokens.is_empty() {
            return self.tell_left(then);
        }
        self.stats.called_off += u64::try_from(tokens.len()).unwrap_or(0);
        let settlements = &mut self.settlements;
        let ticket = settlements.next_ticket;
        settlements.next_ticket += 1;
        self.outputs.called_off.push(CalledOff { ticket, tokens });
        let cores = self.config.cores.saturating_sub(1);
        if cores == 0 {
            return self.tell_left(then);
        }
        let until = io.now().plus_ms(self.config.timeouts.command_ms);
        let rest = Rest::Commands { ticket, cores, then };
        self.settlements.unsettled.push(Unsettled { host_id, rest, until });
    }

    fn tell_left(&mut self, then: Option<Leaving>) {
        let Some(Leaving { controller, qid, queue }) = then else { return };
        if let Some(core) = self.config.core_of(controller) {
            let message = Message::Leave { controller, qid, queue };
            self.outputs.messages.push(Envelope { to: core, message });
        }
    }

    /// A controller that ends has a queue on another core.
    pub(crate) fn await_queue(&mut self, io: &Io, host_id: [u8; 16], queue: QueueAt) {
        let until = io.now().plus_ms(self.config.timeouts.command_ms);
        self.settlements.unsettled.push(Unsettled { host_id, rest: Rest::Queue(queue), until });
    }

    /// Another core's volumes have called off what a ticket of ours names.
    pub(crate) fn called_off(&mut self, ticket: u64) {
        let mine = |u: &Unsettled| matches!(u.rest, Rest::Commands { ticket: t, .. } if t == ticket);
        let Some(at) = self.settlements.unsettled.iter().position(mine) else { return };
        let Rest::Commands { cores, then, .. } = &mut self.settlements.unsettled[at].rest else { return };
        *cores -= 1;
        if *cores == 0 {
            let then = then.take();
            self.settlements.unsettled.swap_remove(at);
            self.tell_left(then);
            self.tell_settled();
        }
    }

    /// A queue on another core has left.
    pub(crate) fn queue_left(&mut self, queue: QueueAt) {
        let before = self.settlements.unsettled.len();
        self.settlements.unsettled.retain(|u| !matches!(u.rest, Rest::Queue(other) if other == queue));
        if self.settlements.unsettled.len() < before {
            self.tell_settled();
        }
    }

    /// What is over by its deadline.
    pub(crate) fn prune_settlements(&mut self, now: Nanos) {
        let over: Vec<Unsettled> =
            self.settlements.unsettled.extract_if(.., |unsettled| unsettled.until <= now).collect();
        for unsettled in over {
            if let Rest::Commands { then, .. } = unsettled.rest {
                self.tell_left(then);
            }
        }
        self.tell_settled();
    }

    /// A core asks whether we are done with a host.
    pub(crate) fn settle(&mut self, io: &Io, host_id: [u8; 16], asks: QueueAt) {
        let cores = usize::from(self.config.cores);
        let most =
            usize::try_from(self.config.bounds.connections).unwrap_or(usize::MAX).saturating_mul(cores);
        // More than there can be connections: those of before are given up. Theirs end by their own deadline.
        if self.settlements.waiting.len() >= most {
            self.settlements.waiting.clear();
        }
        self.settlements.waiting.push((host_id, asks));
        self.prune_settlements(io.now());
    }

    fn tell_settled(&mut self) {
        let Settlements { unsettled, waiting, .. } = &mut self.settlements;
        let done = waiting.extract_if(.., |(host, _)| !unsettled.iter().any(|u| u.host_id == *host));
        let done: Vec<QueueAt> = done.map(|(_, asks)| asks).collect();
        for asks in done {
            let message = Message::Settled { connection: asks.connection };
            self.outputs.messages.push(Envelope { to: asks.core, message });
        }
    }

    /// Asks all cores whether they are done with the host of a Connect, this one too; false when there is no other.
    pub(crate) fn ask_all(&mut self, key: Key, cid: u16, command: ConnectCommand, data: ConnectData) -> bool {
        let cores = self.config.cores;
        let Some(connection) = self.connections.get_mut(key).filter(|_| cores > 1) else { return false };
        let host_id = data.host_id;
        connection.phase =
            Phase::Settling(Box::new(Settling { cid, command, data: Box::new(data), left: cores }));
        let asks = QueueAt { core: self.config.core, connection: key };
        for to in (0..cores).map(CoreId) {
            self.outputs.messages.push(Envelope { to, message: Message::Settle { host_id, asks } });
        }
        true
    }

    /// A core is done with the host of a Connect of ours.
    pub(crate) fn settled(&mut self, io: &mut Io, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Phase::Settling(settling) = &mut connection.phase else { return };
        settling.left -= 1;
        if settling.left > 0 {
            return;
        }
        if let Phase::Settling(settling) = std::mem::replace(&mut connection.phase, Phase::Open) {
            self.finish_admin(io, key, settling.cid, &settling.command, &settling.data);
        }
    }
}
