//! The component of a core: all subsystems that this core is connected to, behind one polled face.
//!
//! ```text
//!   turn:  io.poll(..)          events with our owner  -> initiator.on_event(&mut io, key, event)
//!          initiator.drain(..)  completions            -> the caller's next commands
//!          initiator.submit(..)
//!          initiator.step(&mut io)                     -> one send per queue that has something to say
//! ```
//!
//! Nothing here waits, and nothing is allocated per command once the vectors have found their size.

use crate::{
    Completion, Error, ErrorKind, Identity, Options, PathOptions, PathReport, PathStatistics, Request,
    SubmitError, SubsystemId,
    subsystem::{Out, Subsystem},
};
use dolmen_io::{Event, Io, Owner, Tag, TimerId};
use dolmen_nvme::spec::AsyncEvent;

/// The owner of this component's events when it runs among the other components of a core.
pub const OWNER: Owner = Owner(4);

/// The path number in the keys of timers.
const TIMER_PATH: u8 = u8::MAX;

/// How a subsystem stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not connected (yet, or again); commands wait.
    Connecting,
    /// Commands flow.
    Live {
        /// I/O queues that the controller granted; 0 for discovery.
        queues: u16,
    },
    /// Given up; every command fails. Only [`Initiator::disconnect`] is left.
    Lost(Error),
    /// Disconnected by us, the controller is being told.
    Closing,
    /// Gone.
    Closed,
}

/// Something to know about a subsystem, beside completions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// An association was made: commands can flow on this path.
    PathLive {
        /// Whose.
        subsystem: SubsystemId,
        /// Which, by its place in [`Options::addr`] (0) and [`Options::paths`] (from 1).
        path: u8,
    },
    /// A path was given up; others may go on.
    PathGivenUp {
        /// Whose.
        subsystem: SubsystemId,
        /// Which.
        path: u8,
        /// Why.
        error: Error,
    },
    /// A namespace is not the same on this path as on the others: it is not used for it.
    Mismatch {
        /// Whose.
        subsystem: SubsystemId,
        /// Which.
        path: u8,
        /// The namespace.
        nsid: u32,
    },
    /// Its state changed.
    State {
        /// Which.
        subsystem: SubsystemId,
        /// The new state.
        state: State,
    },
    /// An association ended or could not be made; another attempt follows.
    PathLost {
        /// Whose.
        subsystem: SubsystemId,
        /// Which.
        path: u8,
        /// Why.
        error: Error,
    },
    /// A controller reported an event. It stays masked until the log page that it names is read there: ANA's is read here,
    /// and with several paths all others too, by themselves; with one path they are the caller's to read.
    Event {
        /// Whose.
        subsystem: SubsystemId,
        /// Which path's controller.
        path: u8,
        /// What.
        event: AsyncEvent,
    },
}

/// An NVMe/TCP host on one core.
pub struct Initiator {
    owner: Owner,
    /// By id; a forgotten subsystem leaves `None`.
    subsystems: Vec<Option<Entry>>,
    out: Out,
}

struct Entry {
    subsystem: Box<Subsystem>,
    timer: Option<(TimerId, dolmen_types::Nanos)>,
}

/// Where an event of ours belongs, as the 64-bit key of its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) subsystem: SubsystemId,
    pub(crate) path: u8,
    /// 0 to 128.
    pub(crate) queue: u16,
    pub(crate) generation: u16,
}

impl Key {
    pub(crate) fn bits(self) -> u64 {
        let queue = u64::from(self.queue & 0xff);
        u64::from(self.subsystem.0) << 32
            | u64::from(self.path) << 24
            | queue << 16
            | u64::from(self.generation)
    }

    fn of(bits: u64) -> Key {
        let [g0, g1, queue, path, s @ ..] = bits.to_le_bytes();
        Key {
            subsystem: SubsystemId(u32::from_le_bytes(s)),
            path,
            queue: queue.into(),
            generation: u16::from_le_bytes([g0, g1]),
        }
    }
}

impl Initiator {
    /// A host without connections, whose operations carry `owner` ([`OWNER`] on a core that has other components).
    #[must_use]
    pub fn new(owner: Owner) -> Initiator {
        Initiator { owner, subsystems: Vec::new(), out: Out::default() }
    }

    /// Starts to connect to a subsystem, and keeps connected to it. Commands may be submitted at once; they wait.
    ///
    /// # Errors
    /// [`ErrorKind::Options`](crate::ErrorKind::Options) for options that can't work.
    pub fn connect(&mut self, io: &mut Io, options: Options) -> Result<SubsystemId, Error> {
        options.check()?;
        let index = u32::try_from(self.subsystems.len()).expect("far fewer than 2^32 connects");
        let id = SubsystemId(index);
        let subsystem = Box::new(Subsystem::new(id, self.owner, options, io.now()));
        self.subsystems.push(Some(Entry { subsystem, timer: None }));
        Ok(id)
    }

    /// Ends a subsystem: its commands fail with [`Failure::Disconnected`](crate::Failure::Disconnected), its connections close.
    pub fn disconnect(&mut self, io: &mut Io, id: SubsystemId) {
        if let Some(entry) = entry(&mut self.subsystems, id) {
            entry.subsystem.disconnect(io, &mut self.out);
        }
    }

    /// Hands over a command. Its completion comes out of [`Initiator::drain`], never from inside this call.
    ///
    /// # Errors
    /// The request itself, with the reason why it was not taken.
    pub fn submit(
        &mut self,
        io: &mut Io,
        id: SubsystemId,
        request: Request,
    ) -> Result<(), (Request, SubmitError)> {
        match entry(&mut self.subsystems, id) {
            Some(entry) => entry.subsystem.submit(io, request),
            None => Err((request, SubmitError::Gone)),
        }
    }

    /// Takes an event whose tag has our owner.
    pub fn on_event(&mut self, io: &mut Io, key: u64, event: Event) {
        let key = Key::of(key);
        let Some(entry) = entry(&mut self.subsystems, key.subsystem) else { return };
        if key.path == TIMER_PATH {
            entry.timer = None;
        } else {
            let queue = (key.queue, key.generation);
            entry.subsystem.on_event(io, usize::from(key.path), queue, event, &mut self.out);
        }
    }

    /// Sends what was submitted, looks at the clock. Once per turn, after [`Initiator::on_event`] and submits.
    pub fn step(&mut self, io: &mut Io) {
        for (slot, index) in self.subsystems.iter_mut().zip(0u32..) {
            let Some(entry) = slot else { continue };
            let subsystem = &mut entry.subsystem;
            if subsystem.wake_at() <= io.now() {
                subsystem.tick(io, &mut self.out);
            }
            subsystem.step(io, &mut self.out);
            if subsystem.is_over() {
                if let Some((timer, _)) = entry.timer.take() {
                    io.cancel_timer(timer);
                }
                *slot = None;
                continue;
            }
            let key = Key { subsystem: SubsystemId(index), path: TIMER_PATH, queue: 0, generation: 0 };
            arm(io, &mut entry.timer, Tag { owner: self.owner, key: key.bits() }, entry.subsystem.wake_at());
        }
    }

    /// Appends completions to `out`, in the order in which they happened.
    pub fn drain(&mut self, out: &mut Vec<Completion>) {
        if out.is_empty() {
            std::mem::swap(out, &mut self.out.completions);
        } else {
            out.append(&mut self.out.completions);
        }
    }

    /// Appends what else happened to `out`.
    pub fn drain_notices(&mut self, out: &mut Vec<Notice>) {
        out.append(&mut self.out.notices);
    }

    /// How a subsystem stands; [`State::Closed`] for one that is forgotten.
    #[must_use]
    pub fn state(&self, id: SubsystemId) -> State {
        self.get(id).map_or(State::Closed, |s| s.state().clone())
    }

    /// What the first live controller said of itself, or the last one that was live, with the least transfer limit of all that are
    /// live; `None` before any was.
    #[must_use]
    pub fn identity(&self, id: SubsystemId) -> Option<&Identity> {
        self.get(id).and_then(Subsystem::identity)
    }

    /// Adds a path to a subsystem; returns its number. It may be that of one that was taken away or, when there are as many as there
    /// may be, given up.
    ///
    /// # Errors
    /// [`ErrorKind::Options`](crate::ErrorKind::Options) when there are too many, one leads to the same address and is
    /// not given up, or the subsystem is gone.
    pub fn add_path(&mut self, io: &mut Io, id: SubsystemId, path: PathOptions) -> Result<u8, Error> {
        match entry(&mut self.subsystems, id) {
            Some(entry) => entry.subsystem.add_path(path, io.now()),
            None => Err(Error::new(ErrorKind::Options, "no such subsystem")),
        }
    }

    /// Takes a path away: what is under way on it goes to the others. The last one that is not given up can't be taken away; that
    /// is [`Initiator::disconnect`]. False: there is no such path, or it is the last.
    pub fn remove_path(&mut self, io: &mut Io, id: SubsystemId, path: u8) -> bool {
        entry(&mut self.subsystems, id).is_some_and(|e| e.subsystem.remove_path(io, path, &mut self.out))
    }

    /// How a subsystem's paths stand, and what happened on them. Copies histograms: not for every turn.
    #[must_use]
    pub fn paths(&self, id: SubsystemId) -> Vec<PathReport> {
        self.get(id).map_or_else(Vec::new, Subsystem::reports)
    }

    /// What happened on one of its paths, where it is kept; `None` when there is no such path.
    #[must_use]
    pub fn statistics(&self, id: SubsystemId, path: u8) -> Option<&PathStatistics> {
        self.get(id).and_then(|subsystem| subsystem.statistics(path))
    }

    fn get(&self, id: SubsystemId) -> Option<&Subsystem> {
        let index = usize::try_from(id.0).ok()?;
        self.subsystems.get(index)?.as_ref().map(|e| &*e.subsystem)
    }
}

fn entry(subsystems: &mut [Option<Entry>], id: SubsystemId) -> Option<&mut Entry> {
    subsystems.get_mut(usize::try_from(id.0).ok()?)?.as_mut()
}

/// Keeps one timer at `at` or earlier; an early one only costs a turn.
pub(crate) fn arm(
    io: &mut Io,
    timer: &mut Option<(TimerId, dolmen_types::Nanos)>,
    tag: Tag,
    at: dolmen_types::Nanos,
) {
    match timer {
        Some((_, armed)) if *armed == at => {}
        Some((id, armed)) => {
            if io.rearm_timer(*id, at) {
                *armed = at;
            } else {
                *timer = Some((io.timer_at(tag, at), at));
            }
        }
        None => *timer = Some((io.timer_at(tag, at), at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip() {
        let key = Key { subsystem: SubsystemId(0x0102_0304), path: 5, queue: 6, generation: 0x708 };
        assert_eq!(Key::of(key.bits()), key);
        assert_eq!(key.bits(), 0x0102_0304_0506_0708);
    }
}
