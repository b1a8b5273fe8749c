//! The paths that discovery services tell of, kept as they tell.

use crate::cli::fabric::Service;
use dolmen_initiator::{
    Completion, Initiator, Notice, PathOptions, SubsystemId,
    discovery::{Change, Discovery, DiscoveryOptions},
};
use dolmen_io::Io;
use dolmen_types::Nqn;
use std::{collections::BTreeMap, net::SocketAddr};

/// Follows discovery services on behalf of one subsystem.
pub(super) struct Ways {
    discovery: Discovery,
    services: Vec<Service>,
    subsystem: Nqn,
    /// What each service tells of it, by the service's address.
    told: BTreeMap<SocketAddr, Vec<SocketAddr>>,
    changes: Vec<Change>,
}

impl Ways {
    pub(super) fn new(
        io: &mut Io,
        initiator: &mut Initiator,
        options: DiscoveryOptions,
        (services, subsystem): (Vec<Service>, Nqn),
    ) -> Result<Ways, dolmen_initiator::Error> {
        let mut discovery = Discovery::new(options);
        for service in &services {
            discovery.add(io, initiator, service.addr)?;
        }
        Ok(Ways { discovery, services, subsystem, told: BTreeMap::new(), changes: Vec::new() })
    }

    pub(super) fn owns(&self, id: SubsystemId) -> bool {
        self.discovery.owns(id)
    }

    pub(super) fn on_notice(&mut self, notice: &Notice) {
        self.discovery.on_notice(notice);
    }

    pub(super) fn on_completion(&mut self, io: &mut Io, initiator: &mut Initiator, completion: Completion) {
        self.discovery.on_completion(io, initiator, completion);
    }

    /// Reads what is to be read, and gives the subsystem the paths that are told of now; what to tell people.
    pub(super) fn step(&mut self, io: &mut Io, initiator: &mut Initiator, id: SubsystemId) -> Vec<String> {
        self.discovery.step(io, initiator);
        self.discovery.drain(&mut self.changes);
        let (mut news, mut changed) = (Vec::new(), false);
        for change in self.changes.drain(..) {
            match change {
                Change::Appeared { record, by } if record.nqn == self.subsystem => {
                    self.told.entry(by).or_default().push(record.addr);
                    changed = true;
                }
                Change::Gone { record, by } if record.nqn == self.subsystem => {
                    self.told.entry(by).or_default().retain(|addr| *addr != record.addr);
                    changed = true;
                }
                Change::Trouble { addr, error } => news.push(format!("discovery service {addr}: {error}")),
                Change::NotFollowed { error, .. } => news.push(error.to_string()),
                Change::Appeared { .. } | Change::Gone { .. } | Change::Following { .. } => {}
            }
        }
        if changed {
            self.adapt(io, initiator, id, &mut news);
        }
        news
    }

    /// Every way that is told of, each once.
    fn wanted(&self) -> Vec<SocketAddr> {
        let mut all = Vec::new();
        for (by, told) in &self.told {
            // One that was referred to has no say about where it is.
            let known = self.services.iter().find(|service| service.addr == *by);
            let service = known.copied().unwrap_or(Service { addr: *by, has_port: false });
            all.extend(service.ways(told));
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    fn adapt(&self, io: &mut Io, initiator: &mut Initiator, id: SubsystemId, news: &mut Vec<String>) {
        let wanted = self.wanted();
        let paths = initiator.paths(id);
        let mut used: Vec<SocketAddr> = paths.iter().filter(|p| !p.given_up).map(|p| p.addr).collect();
        for &addr in &wanted {
            if used.contains(&addr) {
                continue;
            }
            // Behind those that were there before.
            let preference = u8::try_from(paths.len()).unwrap_or(u8::MAX);
            match initiator.add_path(io, id, PathOptions { addr, preference }) {
                Ok(_) => {
                    used.push(addr);
                    news.push(format!("{addr}: a new path"));
                }
                Err(error) => news.push(format!("{addr}: not used: {error}")),
            }
        }
        for path in paths.iter().filter(|p| !p.given_up && !wanted.contains(&p.addr)) {
            // The last one stays; where nothing is told of any more, it is not for us to end it.
            if !wanted.is_empty() && initiator.remove_path(io, id, path.path) {
                news.push(format!("{}: not told of any more; this path is left", path.addr));
            }
        }
    }

    pub(super) fn close(&mut self, io: &mut Io, initiator: &mut Initiator) {
        self.discovery.close(io, initiator);
    }
}
