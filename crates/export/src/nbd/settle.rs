//! A client is served when what those before it have left behind is over.
//!
//! Nobody waits for the commands of a client that is gone: the backend is told so, and answers those that it had not begun at once.
//! What it had begun may still change something, under the eyes of a successor that has read the old blocks. So a client that has
//! chosen an export waits until no change of one that is gone is under way there, and until those that have ended their side are
//! gone. Its own requests lie in its input meanwhile. The doors of all cores are asked, since a client comes to any of them:
//!
//! ```text
//!   door of the new client                 door that had the old one               backend
//!                                          connection ends ────── called off ─────▶
//!   Settle ───────────────────────────────▶ not yet ...   ◀────── last reply ──────
//!   requests are looked at ◀────── Settled
//! ```

use super::{
    connection::{Connection, Phase},
    server::Server,
};
use crate::slab::Key;
use dolmen_io::Io;
use dolmen_types::{CoreId, Uuid};
use std::collections::{BTreeMap, BTreeSet};

/// Who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asks {
    core: CoreId,
    connection: Key,
}

/// What the doors of a node say to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// A client has come to an export: is its past over?
    Settle {
        /// The export.
        export: Uuid,
        /// The client.
        asks: Asks,
    },
    /// It is.
    Settled {
        /// The client.
        asks: Asks,
    },
}

impl Message {
    /// What a core answers that has no door.
    #[must_use]
    pub fn answer_of_nobody(self) -> Option<Envelope> {
        match self {
            Message::Settle { asks, .. } => Some(settled(asks)),
            Message::Settled { .. } => None,
        }
    }
}

/// A message on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The core whose door it is for.
    pub to: CoreId,
    /// What it says.
    pub message: Message,
}

/// What clients have left behind here, and who waits for it.
#[derive(Debug, Default)]
pub(super) struct Settlements {
    /// Changes of clients that are gone which the backend has not answered, by export.
    orphans: BTreeMap<Uuid, u32>,
    /// Clients of this core and others; one for each of their slots at most.
    waiting: Vec<(Uuid, Asks)>,
}

impl Settlements {
    /// A change has lost its client.
    pub(super) fn orphaned(&mut self, export: Uuid) {
        *self.orphans.entry(export).or_default() += 1;
    }

    /// Such a change is over.
    pub(super) fn orphan_over(&mut self, export: Uuid) {
        if let Some(count) = self.orphans.get_mut(&export) {
            *count -= 1;
            if *count == 0 {
                self.orphans.remove(&export);
            }
        }
    }

    fn wait(&mut self, export: Uuid, asks: Asks) {
        // Who had the slot before waits no more.
        self.waiting
            .retain(|(_, other)| (other.core, other.connection.index) != (asks.core, asks.connection.index));
        self.waiting.push((export, asks));
    }
}

impl Server {
    /// Takes a message of another core's door.
    pub fn on_message(&mut self, io: &mut Io, message: Message) {
        match message {
            Message::Settle { export, asks } => self.settlements.wait(export, asks),
            Message::Settled { asks } => self.settled(io, asks.connection),
        }
    }

    /// Asks all doors whether they are done with an export that a client has come to; how many.
    pub(super) fn ask_all(&mut self, connection: Key, export: Uuid) -> u16 {
        let asks = Asks { core: self.config.core, connection };
        self.settlements.wait(export, asks);
        let others = (0..self.config.cores).map(CoreId).filter(|core| *core != asks.core);
        let ask = |to| Envelope { to, message: Message::Settle { export, asks } };
        let before = self.outputs.messages.len();
        self.outputs.messages.extend(others.map(ask));
        u16::try_from(self.outputs.messages.len() - before).unwrap_or(u16::MAX).saturating_add(1)
    }

    /// Tells those who wait for nothing any more.
    pub(super) fn tell_settled(&mut self, io: &mut Io) {
        if self.settlements.waiting.is_empty() {
            return;
        }
        let ended: BTreeSet<Uuid> = self.connections.iter().filter_map(|(_, c)| leaves(c)).collect();
        let Settlements { orphans, waiting } = &mut self.settlements;
        let over = |export: &Uuid| !orphans.contains_key(export) && !ended.contains(export);
        let done: Vec<Asks> = waiting.extract_if(.., |(export, _)| over(export)).map(|w| w.1).collect();
        for asks in done {
            if asks.core == self.config.core {
                self.settled(io, asks.connection);
            } else {
                self.outputs.messages.push(settled(asks));
            }
        }
    }

    /// A door is done with the export of a client of ours.
    fn settled(&mut self, io: &mut Io, key: Key) {
        let Some(t) = self.connections.get_mut(key).and_then(|c| c.transmission()) else { return };
        t.settling = t.settling.saturating_sub(1);
        if t.settling == 0 {
            self.pump(io, key);
        }
    }
}

fn settled(asks: Asks) -> Envelope {
    Envelope { to: asks.core, message: Message::Settled { asks } }
}

/// The export that a client is about to leave; none of one that was never let in.
fn leaves(connection: &Connection) -> Option<Uuid> {
    match &connection.phase {
        Phase::Open(t) if connection.has_ended() && t.settling == 0 => Some(t.opened.export.uuid),
        _ => None,
    }
}
