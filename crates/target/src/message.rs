//! What the targets of different cores tell each other: an I/O queue is served by the core that accepted its
//! connection, its controller lives on the core of the admin queue.
//!
//! ```text
//!   queue's core                          controller's core
//!   Connect(CNTLID, QID) ──── Join ─────▶  checks, remembers the queue
//!                        ◀─── Joined ────  yes or no
//!   connection ends      ──── Leave ────▶  forgets the queue
//!   gives it up          ──── GiveUp ───▶  ends
//!   closes it            ◀─── Close ─────  reset, shutdown, keep alive expired, admin queue lost
//! ```
//!
//! What a new controller's core asks all others before is in `settle.rs`.

use crate::{fabrics::no_longer, slab::Key};
use dolmen_nvme::spec::{ConnectError, Status};
use dolmen_types::{CoreId, Nqn};

/// A message and where it goes. Opaque to the composition, which only carries it.
#[derive(Debug)]
pub struct Envelope {
    /// The core whose target gets it, through [`Target::on_message`](crate::Target::on_message).
    pub to: CoreId,
    pub(crate) message: Message,
}

impl Envelope {
    /// Tells the core `to` that the volumes here have been told of its [`CalledOff`](crate::CalledOff) with this ticket.
    #[must_use]
    pub fn called_off(to: CoreId, ticket: u64) -> Envelope {
        Envelope { to, message: Message::CalledOff { ticket } }
    }

    /// What a core answers that has no target yet, if it is asked something: there is no controller on it, and nothing of any host.
    #[must_use]
    pub fn without_target(self) -> Option<Envelope> {
        match self.message {
            Message::Join(join) => {
                let result = Err(no_longer(ConnectError::CONTROLLER_ID));
                let Join { controller, qid, queue, .. } = *join;
                let membership = Membership { controller, qid };
                let message = Message::Joined { connection: queue.connection, membership, result };
                Some(Envelope { to: queue.core, message })
            }
            Message::Settle { asks, .. } => {
                let message = Message::Settled { connection: asks.connection };
                Some(Envelope { to: asks.core, message })
            }
            Message::Joined { .. }
            | Message::Leave { .. }
            | Message::GiveUp { .. }
            | Message::Close { .. }
            | Message::Settled { .. }
            | Message::CalledOff { .. } => None,
        }
    }
}

/// One I/O queue: the core and the connection that serve it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueAt {
    pub(crate) core: CoreId,
    pub(crate) connection: Key,
}

/// Which queue of which controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) controller: u16,
    pub(crate) qid: u16,
}

#[derive(Debug)]
pub(crate) enum Message {
    /// A queue wants to belong to a controller.
    Join(Box<Join>),
    /// The answer; a refusal is a status and dword 0 of the completion.
    Joined { connection: Key, membership: Membership, result: Result<(), (Status, u32)> },
    /// A queue that joined has ended.
    Leave { controller: u16, qid: u16, queue: QueueAt },
    /// A queue that joined can't go on, and its controller is to end.
    GiveUp { controller: u16, qid: u16, queue: QueueAt },
    /// A queue is to end.
    Close { connection: Key },
    /// Are you done with this host?
    Settle { host_id: [u8; 16], asks: QueueAt },
    /// We are.
    Settled { connection: Key },
    /// A core's volumes have called off what this ticket of the receiver's names.
    CalledOff { ticket: u64 },
}

/// An I/O queue's Connect on its way to the controller.
#[derive(Debug)]
pub(crate) struct Join {
    pub(crate) controller: u16,
    pub(crate) qid: u16,
    pub(crate) queue: QueueAt,
    pub(crate) host_nqn: Nqn,
    pub(crate) host_id: [u8; 16],
}
