//! Hosts that come and go at random on several cores while volumes appear, change hands and vanish: at the end nothing is
//! left over, and at every moment no host got what it may not see.
#![allow(clippy::unwrap_used)] // helpers of tests

mod support;

use dolmen_nvme::tcp::Digests;
use dolmen_sim::Rng;
use dolmen_target::Namespace;
use dolmen_types::volume::HostAccess;
use std::{collections::BTreeMap, sync::Arc};
use support::*;

struct Host {
    ctrl: Ctrl,
    nqn: &'static str,
    queues: BTreeMap<u16, Conn>,
}

fn random_space(nsid: u32, rng: &mut Rng) -> Arc<Namespace> {
    let acl = match rng.below(4) {
        0 => HostAccess::None,
        1 => HostAccess::Any,
        2 => only(HOST),
        _ => only(OTHER),
    };
    space(nsid, rng.between(16, 64), acl)
}

fn churn(seed: u64, cores: u16) {
    let mut rig = Rig::new(seed, cores);
    let mut rng = Rng::new(seed);
    let mut table: BTreeMap<u32, Arc<Namespace>> = BTreeMap::new();
    let mut hosts: Vec<Host> = Vec::new();
    for _ in 0..250 {
        match rng.below(10) {
            0 if hosts.len() < 6 => {
                let nqn = [HOST, OTHER][rng.index(2)];
                let digests = [Digests::NONE, Digests::BOTH][rng.index(2)];
                let ctrl = rig.controller_with(rng.index(2), nqn, digests, 0);
                hosts.push(Host { ctrl, nqn, queues: BTreeMap::new() });
            }
            1 if !hosts.is_empty() => {
                let host = hosts.swap_remove(rng.index(hosts.len()));
                rig.machines[host.ctrl.machine].close(host.ctrl.admin);
            }
            2 | 3 if !hosts.is_empty() => {
                let host = rng.index(hosts.len());
                let qid = u16::try_from(rng.between(1, 6)).unwrap();
                if let Some(old) = hosts[host].queues.remove(&qid) {
                    rig.machines[hosts[host].ctrl.machine].close(old);
                    rig.turns(60);
                }
                let (ctrl, nqn) = (hosts[host].ctrl, hosts[host].nqn);
                let conn = rig.io_queue(&ctrl, nqn, qid, Digests::NONE);
                hosts[host].queues.insert(qid, conn);
            }
            4 | 5 => {
                let nsid = u32::try_from(rng.between(1, 5)).unwrap();
                match rng.below(3) {
                    0 => drop(table.remove(&nsid)),
                    _ => drop(table.insert(nsid, random_space(nsid, &mut rng))),
                }
                let spaces: Vec<_> = table.values().cloned().collect();
                rig.set(&spaces);
            }
            _ if !hosts.is_empty() => {
                let host = &hosts[rng.index(hosts.len())];
                let (ctrl, nqn) = (host.ctrl, host.nqn.parse().unwrap());
                let visible: Vec<u32> =
                    table.values().filter(|s| s.acl.admits(&nqn)).map(|s| s.nsid.0).collect();
                let Some((_, &queue)) = host.queues.first_key_value() else { continue };
                let nsid = u32::try_from(rng.between(1, 5)).unwrap();
                let seen = visible.contains(&nsid);
                let status = if rng.one_in(2) {
                    rig.read(ctrl.machine, queue, nsid, rng.below(16), 1).cqe.status()
                } else {
                    let blocks = [1, 2, 4, 8][rng.index(4)];
                    rig.write(ctrl.machine, queue, nsid, rng.below(8), &pattern(1, blocks * 4096))
                };
                assert_eq!(status.is_success(), seen, "{status}");
                assert_eq!(rig.active(&ctrl), visible);
            }
            _ => {}
        }
    }
    rig.turns(100);
    let known: usize = rig.cores.iter().map(|c| c.target.hosts().len()).sum();
    assert_eq!(known, hosts.len());
    for host in hosts {
        rig.machines[host.ctrl.machine].close(host.ctrl.admin);
    }
    rig.turns(200);
    for core in &rig.cores {
        let stats = core.target.stats();
        assert_eq!((stats.connections, stats.controllers, stats.outstanding), (0, 0, 0), "{stats:?}");
        assert_eq!((stats.violations, stats.timeouts), (0, 0));
    }
}

#[test]
fn nothing_is_left_and_nothing_leaks() {
    for seed in 0..8 {
        churn(seed, 1);
        churn(seed + 100, 3);
    }
}
