//! What the client reads by itself between the caller's commands: discovery logs, and the namespaces of subsystems that are
//! followed.

use dolmen_initiator::{
    Completion, Initiator, Namespace, Notice, SubsystemId,
    discovery::{Change, Discovery},
    namespaces::Namespaces,
};
use dolmen_io::Io;
use dolmen_types::Nanos;
use std::collections::VecDeque;

/// The ticket of commands that follow namespaces; no index of a command of the caller comes near it.
const TICKET: u64 = u64::MAX;
/// Changes kept for a caller that does not take them; the oldest go first.
const MAX_CHANGES: usize = 8192;

/// A subsystem whose namespaces are followed.
struct Followed {
    subsystem: SubsystemId,
    namespaces: Namespaces,
    /// As they were when the caller was last told.
    told: Vec<Namespace>,
}

/// What became of a namespace that is followed.
pub(crate) enum News {
    New,
    Gone,
    Changed,
}

/// Everything that is followed.
#[derive(Default)]
pub(crate) struct Following {
    /// What stays.
    pub(crate) discovery: Option<Discovery>,
    /// What a function of ours waits for.
    pub(crate) asked: Option<Discovery>,
    namespaces: Vec<Followed>,
    changes: VecDeque<Change>,
    /// Changes that were forgotten.
    missed: u64,
    /// One of them was handed something since the last step: it may have something to ask for.
    stirred: bool,
}

impl Following {
    /// Takes what concerns it of a notice.
    pub(crate) fn on_notice(&mut self, notice: &Notice) {
        for discovery in self.discovery.iter_mut().chain(&mut self.asked) {
            discovery.on_notice(notice);
            self.stirred = true;
        }
        for followed in &mut self.namespaces {
            followed.namespaces.on_notice(notice);
            self.stirred = true;
        }
    }

    /// Takes a completion that is not the caller's; what is nobody's is dropped.
    pub(crate) fn on_completion(&mut self, (io, initiator): (&mut Io, &mut Initiator), done: Completion) {
        self.stirred = true;
        if let Some(followed) = self.namespaces.iter_mut().find(|f| f.namespaces.owns(&done)) {
            return followed.namespaces.on_completion(io, done);
        }
        let mut both = self.discovery.iter_mut().chain(&mut self.asked);
        if let Some(discovery) = both.find(|discovery| discovery.owns(done.subsystem)) {
            discovery.on_completion(io, initiator, done);
        }
    }

    /// True for a command of a followed subsystem that is ours.
    pub(crate) fn is_ours(completion: &Completion) -> bool {
        completion.ticket == TICKET
    }

    /// Asks for what is to be read. True: there may be something to send.
    pub(crate) fn step(&mut self, (io, initiator): (&mut Io, &mut Initiator)) -> bool {
        let due = self.wake_at().is_some_and(|at| at <= io.now());
        for discovery in self.discovery.iter_mut().chain(&mut self.asked) {
            discovery.step(io, initiator);
        }
        if let Some(discovery) = &mut self.discovery {
            let mut new = Vec::new();
            discovery.drain(&mut new);
            self.note(new);
        }
        self.namespaces.iter_mut().for_each(|followed| followed.namespaces.step(io, initiator));
        std::mem::take(&mut self.stirred) | due
    }

    fn note(&mut self, new: Vec<Change>) {
        self.changes.extend(new);
        let excess = self.changes.len().saturating_sub(MAX_CHANGES);
        self.changes.drain(..excess);
        self.missed += excess as u64;
    }

    /// When [`Following::step`] wants to be called even if nothing comes.
    pub(crate) fn wake_at(&self) -> Option<Nanos> {
        let logs = self.discovery.iter().chain(&self.asked).filter_map(Discovery::wake_at);
        logs.chain(self.namespaces.iter().filter_map(|f| f.namespaces.wake_at())).min()
    }

    /// How many changes were forgotten since this was last asked.
    pub(crate) fn take_missed(&mut self) -> u64 {
        std::mem::take(&mut self.missed)
    }

    /// The oldest change that was not taken.
    pub(crate) fn next_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    /// Ends discovery that stays, and forgets what it told.
    pub(crate) fn end_discovery(&mut self, (io, initiator): (&mut Io, &mut Initiator)) {
        if let Some(mut discovery) = self.discovery.take() {
            discovery.close(io, initiator);
        }
        self.changes.clear();
        self.missed = 0;
    }

    /// Ends discovery that a function waited for.
    pub(crate) fn end_asked(&mut self, (io, initiator): (&mut Io, &mut Initiator)) {
        if let Some(mut discovery) = self.asked.take() {
            discovery.close(io, initiator);
        }
    }

    /// Follows a subsystem's namespaces from now on.
    pub(crate) fn follow_namespaces(&mut self, subsystem: SubsystemId) {
        if self.namespaces(subsystem).is_none() {
            let namespaces = Namespaces::new(subsystem, TICKET, Vec::new());
            self.namespaces.push(Followed { subsystem, namespaces, told: Vec::new() });
            self.stirred = true;
        }
    }

    /// Follows them no more.
    pub(crate) fn forget_namespaces(&mut self, subsystem: SubsystemId) {
        self.namespaces.retain(|followed| followed.subsystem != subsystem);
    }

    /// What is known of a subsystem's namespaces, if they are followed.
    pub(crate) fn namespaces(&self, subsystem: SubsystemId) -> Option<&[Namespace]> {
        let followed = self.namespaces.iter().find(|f| f.subsystem == subsystem)?;
        Some(followed.namespaces.known())
    }

    /// What became of followed namespaces since this was last asked.
    pub(crate) fn news(&mut self) -> Vec<(SubsystemId, u32, News)> {
        let mut news = Vec::new();
        for followed in &mut self.namespaces {
            if !followed.namespaces.take_changed() {
                continue;
            }
            let known = followed.namespaces.known();
            let told = std::mem::replace(&mut followed.told, known.to_vec());
            let was = |nsid: u32| told.binary_search_by_key(&nsid, |ns| ns.nsid).ok().map(|at| told[at]);
            let is = |nsid: u32| known.binary_search_by_key(&nsid, |ns| ns.nsid).is_ok();
            let gone = told.iter().filter(|ns| !is(ns.nsid)).map(|ns| (ns.nsid, News::Gone));
            let others = known.iter().filter_map(|ns| match was(ns.nsid) {
                None => Some((ns.nsid, News::New)),
                Some(before) if before != *ns => Some((ns.nsid, News::Changed)),
                Some(_) => None,
            });
            news.extend(gone.chain(others).map(|(nsid, what)| (followed.subsystem, nsid, what)));
        }
        news
    }
}
