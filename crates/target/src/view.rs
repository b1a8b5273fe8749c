//! What one host may see: the namespaces whose access lists admit its NQN and its address.
//!
//! A view is shared by all connections of one (NQN, address) on a core and follows the table, so that the check of
//! access in the I/O path is a search by nsid in a list that holds nothing else. What is not in the view does not
//! exist for the host: identify, lists, logs, events and I/O all go through here.

use crate::table::{Namespace, NamespaceTable};
use dolmen_types::Nqn;
use std::{cell::Cell, collections::BTreeMap, net::IpAddr, sync::Arc};

/// Handle of a view on its core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ViewId(u32);

/// The namespaces that one host sees.
#[derive(Debug)]
pub(crate) struct View {
    nqn: Nqn,
    ip: IpAddr,
    users: u32,
    spaces: Vec<Arc<Namespace>>,
    /// Where the last one was found that was looked for: hosts mostly go on with the same one.
    last: Cell<usize>,
    /// Changes of group membership or state since the view was made: the ANA log's change count.
    ana_changes: u64,
}

impl View {
    /// The namespace, if the host may see it.
    #[inline]
    pub(crate) fn find(&self, nsid: u32) -> Option<&Arc<Namespace>> {
        if let Some(space) = self.spaces.get(self.last.get()).filter(|space| space.nsid.0 == nsid) {
            return Some(space);
        }
        let at = self.spaces.binary_search_by_key(&nsid, |s| s.nsid.0).ok()?;
        self.last.set(at);
        self.spaces.get(at)
    }

    /// All of them, by ascending nsid.
    pub(crate) fn spaces(&self) -> &[Arc<Namespace>] {
        &self.spaces
    }

    /// Those with an nsid above `nsid`.
    pub(crate) fn above(&self, nsid: u32) -> &[Arc<Namespace>] {
        &self.spaces[self.spaces.partition_point(|s| s.nsid.0 <= nsid)..]
    }

    /// The ANA log's change count.
    pub(crate) fn ana_changes(&self) -> u64 {
        self.ana_changes
    }

    fn admits(&self, space: &Namespace) -> bool {
        space.acl.admits(&self.nqn) && space.ip_acl.admits(self.ip)
    }

    /// Applies one difference of the table; records what the host must be told.
    fn apply(&mut self, old: Option<&Arc<Namespace>>, new: Option<&Arc<Namespace>>, change: &mut ViewChange) {
        let Some(nsid) = old.or(new).map(|s| s.nsid.0) else { return };
        let new = new.filter(|s| self.admits(s));
        match (self.spaces.binary_search_by_key(&nsid, |s| s.nsid.0), new) {
            (Ok(at), Some(new)) => {
                if new.looks_different(&self.spaces[at]) {
                    change.namespaces.push(nsid);
                }
                if new.pg != self.spaces[at].pg {
                    self.ana_changes += 1;
                    change.ana = true;
                }
                self.spaces[at] = Arc::clone(new);
            }
            (Ok(at), None) => {
                self.spaces.remove(at);
                self.ana_changes += 1;
                change.namespaces.push(nsid);
            }
            (Err(at), Some(new)) => {
                self.spaces.insert(at, Arc::clone(new));
                self.ana_changes += 1;
                change.namespaces.push(nsid);
            }
            (Err(_), None) => {}
        }
    }
}

/// What a new table changed for one view.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ViewChange {
    /// Namespaces that came, went, or look different, by ascending nsid.
    pub(crate) namespaces: Vec<u32>,
    /// A namespace that stayed moved to another ANA group.
    pub(crate) ana: bool,
    /// The view became empty, or ceased to be: its discovery log changed.
    pub(crate) discovery: bool,
}

/// All views of a core.
#[derive(Debug)]
pub(crate) struct Views {
    table: Arc<NamespaceTable>,
    slots: Vec<Option<View>>,
    free: Vec<u32>,
    by_host: BTreeMap<(Nqn, IpAddr), u32>,
}

impl Views {
    pub(crate) fn new() -> Views {
        Views { table: Arc::default(), slots: Vec::new(), free: Vec::new(), by_host: BTreeMap::new() }
    }

    /// Version of the table in force.
    pub(crate) fn generation(&self) -> u64 {
        self.table.generation()
    }

    /// The view of a host, made if need be; to be given back with [`Views::release`].
    pub(crate) fn hold(&mut self, nqn: &Nqn, ip: IpAddr) -> ViewId {
        let ip = ip.to_canonical();
        let key = (nqn.clone(), ip);
        if let Some(&at) = self.by_host.get(&key) {
            if let Some(view) = self.slots.get_mut(at as usize).and_then(Option::as_mut) {
                view.users += 1;
            }
            return ViewId(at);
        }
        let mut view =
            View { nqn: nqn.clone(), ip, users: 1, spaces: Vec::new(), last: Cell::new(0), ana_changes: 0 };
        view.spaces = self.table.spaces().iter().filter(|s| view.admits(s)).cloned().collect();
        let at = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("views are bounded by connections")
        });
        self.slots[at as usize] = Some(view);
        self.by_host.insert(key, at);
        ViewId(at)
    }

    /// Gives a view back.
    pub(crate) fn release(&mut self, id: ViewId) {
        let Some(slot) = self.slots.get_mut(id.0 as usize) else { return };
        let Some(view) = slot.as_mut() else { return };
        view.users -= 1;
        if view.users == 0 {
            let key = (view.nqn.clone(), view.ip);
            *slot = None;
            self.by_host.remove(&key);
            self.free.push(id.0);
        }
    }

    /// A view that is held.
    pub(crate) fn at(&self, id: ViewId) -> &View {
        self.slots[id.0 as usize].as_ref().expect("whoever has the id holds the view")
    }

    /// Takes a new table; returns what it changed, for views that it changed.
    pub(crate) fn update(&mut self, table: Arc<NamespaceTable>) -> Vec<(ViewId, ViewChange)> {
        let old = std::mem::replace(&mut self.table, Arc::clone(&table));
        let mut differences = Vec::new();
        old.diff(&table, |a, b| differences.push((a.cloned(), b.cloned())));
        let mut changes = Vec::new();
        for (at, view) in (0u32..).zip(&mut self.slots) {
            let Some(view) = view else { continue };
            let (mut change, was_empty) = (ViewChange::default(), view.spaces.is_empty());
            for (a, b) in &differences {
                view.apply(a.as_ref(), b.as_ref(), &mut change);
            }
            change.discovery = was_empty != view.spaces.is_empty();
            if change != ViewChange::default() {
                changes.push((ViewId(at), change));
            }
        }
        changes
    }
}
