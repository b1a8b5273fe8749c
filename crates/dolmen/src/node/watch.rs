//! Looks at the node once a second and tells the control side what changed: hosts that came or went, drives that
//! failed, a pool that became full or stopped. What happens to drives is looked at when a core tells. What comes and goes within one look is not told. The targets learn what
//! their SMART log says in the same look.
//!
//! Promises: a crowd of hosts is told over several looks, so that it costs neither memory nor the rest of the events.

use crate::node::{drive_ops::standings, router::Node, sequence::SequenceFile, tell};
use dolmen_cluster::plane::{
    DriveNews, HostStatus, LostObject, Notice, PoolState, PoolStatus, Reprotection, ReprotectionNews,
};
use dolmen_core::{message::ToCore, report::CoreReport};
use dolmen_store::{DriveStanding, DriveState, Finding, PoolPlan, ScrubPlan, ScrubReport};
use dolmen_types::{Nqn, Uuid};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// Hosts told of in one look at most; the others wait for the next. Count.
const HOSTS_A_LOOK: usize = 16;

/// Watches until the control side or the cores are gone. What is to be remembered of the pool goes into its file.
pub(super) async fn watch(node: Arc<Node>, mut sequence: SequenceFile, notices: mpsc::Sender<Notice>) {
    let mut told = Told::new(&node.plan);
    let (mut health, began) = (Default::default(), Instant::now());
    for notice in at_start(&node.plan) {
        if notices.send(notice).await.is_err() {
            return;
        }
    }
    // The first look is at once, others when the time has come or something has happened to a drive.
    node.drives_bell.notify_one();
    let mut scrub = ScrubPlan::default();
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = node.drives_bell.notified() => {}
        }
        let Some(reports) = node.reports().await else { return };
        let now = tell::health(&reports, began.elapsed());
        if now != health {
            health = now;
            if node.cores.ask_all(|answer| ToCore::Health { health, answer }).await.is_err() {
                return;
            }
        }
        let plan = node.scrub_plan(&reports);
        if plan != scrub {
            scrub = plan;
            if node.cores.ask_all(|answer| ToCore::Scrub { plan, answer }).await.is_err() {
                return;
            }
        }
        if let Some(pool) = reports.iter().find_map(|r| r.pool.as_ref()) {
            sequence.remember(pool.sequence);
        }
        if node.release_left(&reports).await {
            node.close_lost(&reports).await;
        }
        let lost = node.name_losses(&reports).await;
        for notice in told.look(&node, &reports).into_iter().chain(told.lost_blocks(&lost)) {
            if notices.send(notice).await.is_err() {
                return;
            }
        }
    }
}

/// What the control side believes.
#[derive(Debug, Default)]
struct Told {
    hosts: BTreeSet<Nqn>,
    pool: PoolState,
    /// Where each drive stands, and where it is.
    drives: BTreeMap<Uuid, DriveState>,
    /// Drives that serve although something is wrong with them.
    ailing: BTreeSet<Uuid>,
    /// Something is to be protected anew.
    at_risk: bool,
    /// Re-protection waits for space.
    lacks_space: bool,
    /// What scrubbing found up to the round that was told of last, and what it gave up as lost.
    mended: u64,
    lost: u64,
    /// What is lost of whom.
    objects: BTreeMap<Uuid, LostObject>,
    /// Keys of deleted volumes that are not erased.
    unerased: usize,
}

/// What the opening of the pool has come upon.
fn at_start(plan: &PoolPlan) -> Vec<Notice> {
    let news = |finding: &Finding| {
        let (path, what) = match finding.clone() {
            Finding::Lost { path, reason, .. } => (path, DriveNews::Absent(reason)),
            Finding::Untouched { path, reason } => (path, DriveNews::Untouched(reason)),
            Finding::Stale { path } => (path, DriveNews::Stale),
            Finding::Joined { path } => (path, DriveNews::Added),
        };
        Notice::Drive { path, what }
    };
    plan.findings.iter().map(news).collect()
}

impl Told {
    fn new(plan: &PoolPlan) -> Told {
        Told { drives: plan.drives.iter().map(|d| (d.uuid, d.state)).collect(), ..Told::default() }
    }

    fn look(&mut self, node: &Node, reports: &[CoreReport]) -> Vec<Notice> {
        let mut notices = self.hosts(&tell::hosts(reports));
        notices.extend(self.drives(standings(reports).map(|(_, drive)| drive)));
        let pool = node.pool_status(reports);
        notices.extend(self.pool(&pool));
        notices.extend(self.reprotection(pool.reprotection));
        notices.extend(self.lacks_space(pool.reprotection));
        notices.extend(self.scrub(&tell::scrub(reports)));
        notices.extend(self.unerased(reports.iter().find_map(|report| report.unerased.as_ref())));
        notices
    }

    /// When they begin to be left behind, and when none is any more.
    fn unerased(&mut self, now: Option<&(usize, String)>) -> Option<Notice> {
        let before = std::mem::replace(&mut self.unerased, now.map_or(0, |(count, _)| *count));
        match (before, now) {
            (0, Some((count, why))) => Some(Notice::KeysLeft { count: *count, why: why.clone() }),
            (1.., None) => Some(Notice::KeysErased),
            _ => None,
        }
    }

    /// What is lost is told at once, what was mended when the round is through.
    fn scrub(&mut self, report: &ScrubReport) -> Vec<Notice> {
        let mut notices = Vec::new();
        if report.lost > self.lost {
            let count = report.lost - self.lost;
            let text = format!(
                "{count} damaged places were found that no drive gives any more: `volume list` and the event BlocksLost tell whose, \
                 `pool scrub` where they were"
            );
            notices.push(Notice::Scrub { lost: true, text });
            self.lost = report.lost;
        }
        if report.running == 0 && report.mended > self.mended {
            let count = report.mended - self.mended;
            let text = format!("scrubbing found {count} damaged places; other drives had what belongs there");
            notices.push(Notice::Scrub { lost: false, text });
            self.mended = report.mended;
        }
        notices
    }

    /// Whenever more of something is lost than was told, and when nothing of it is any more.
    fn lost_blocks(&mut self, now: &[LostObject]) -> Vec<Notice> {
        let mut notices = Vec::new();
        let before = std::mem::take(&mut self.objects);
        self.objects = now.iter().map(|object| (object.uuid, object.clone())).collect();
        for (of, object) in &self.objects {
            if before.get(of).is_none_or(|before| !before.covers(object)) {
                let text = format!("data is lost that no drive gives any more: {}", object.sentence());
                notices.push(Notice::Lost { of: *of, text });
            }
        }
        let gone = before.into_iter().filter(|(of, _)| !self.objects.contains_key(of));
        notices.extend(gone.map(|(of, object)| Notice::LostNoMore { of, name: object.title() }));
        notices
    }

    /// Begins and ends; both may fall into one look.
    fn reprotection(&mut self, now: Reprotection) -> Option<Notice> {
        let at_risk = now.at_risk_segments > 0;
        let news = match (self.at_risk, at_risk) {
            (false, true) => ReprotectionNews::Started(now.at_risk_bytes),
            (true, false) => ReprotectionNews::Finished,
            _ => return None,
        };
        self.at_risk = at_risk;
        Some(Notice::Reprotection(news))
    }

    /// When it begins to wait for space; what is short by more since is the same wait.
    fn lacks_space(&mut self, now: Reprotection) -> Option<Notice> {
        let lacks = now.lacks_bytes > 0;
        let before = std::mem::replace(&mut self.lacks_space, lacks);
        (lacks && !before).then_some(Notice::Reprotection(ReprotectionNews::LacksSpace(now.lacks_bytes)))
    }

    /// Hosts with a controller that is more than a look into discovery.
    fn hosts(&mut self, hosts: &[HostStatus]) -> Vec<Notice> {
        let here: Vec<_> = hosts
            .iter()
            .filter_map(|h| h.controllers.iter().find(|c| !c.discovery).map(|c| (&h.nqn, c.peer)))
            .collect();
        let known: BTreeSet<&Nqn> = here.iter().map(|(nqn, _)| *nqn).collect();
        let gone: Vec<Nqn> = self.hosts.iter().filter(|nqn| !known.contains(nqn)).cloned().collect();
        let left = gone
            .into_iter()
            .map(|nqn| Notice::HostDisconnected { nqn, reason: "it has no controller here any more".into() });
        let came = here
            .iter()
            .filter(|(nqn, _)| !self.hosts.contains(*nqn))
            .map(|(nqn, peer)| Notice::HostConnected { nqn: (*nqn).clone(), peer: *peer });
        let notices: Vec<Notice> = left.chain(came).take(HOSTS_A_LOOK).collect();
        for notice in &notices {
            match notice {
                Notice::HostConnected { nqn, .. } => drop(self.hosts.insert(nqn.clone())),
                Notice::HostDisconnected { nqn, .. } => drop(self.hosts.remove(nqn)),
                _ => {}
            }
        }
        notices
    }

    fn drives<'a>(&mut self, drives: impl Iterator<Item = &'a DriveStanding>) -> Vec<Notice> {
        let mut notices = Vec::new();
        for drive in drives {
            if let Some(why) = &drive.ailment {
                if self.ailing.insert(drive.uuid) {
                    let what = DriveNews::Ailing(why.clone());
                    notices.push(Notice::Drive { path: drive.path.clone(), what });
                }
            } else {
                self.ailing.remove(&drive.uuid);
            }
            let before = self.drives.insert(drive.uuid, drive.state);
            let what = match (before, drive.state) {
                (Some(before), now) if before == now => continue,
                (_, DriveState::Out) => {
                    DriveNews::Out(drive.reason.clone().unwrap_or_else(|| "it is not there".into()))
                }
                (None, _) => DriveNews::Added,
                (_, DriveState::Leaving) => DriveNews::Leaving,
                (_, DriveState::In) => DriveNews::Kept,
                (_, DriveState::Gone) => DriveNews::Gone,
            };
            notices.push(Notice::Drive { path: drive.path.clone(), what });
        }
        notices
    }

    /// A full pool is ready again only with twice the space that makes it full, lest it be told every second.
    fn pool(&mut self, pool: &PoolStatus) -> Option<Notice> {
        let scarce = pool.free_bytes < 2 * tell::full_below(pool.usable_bytes);
        if pool.state == self.pool
            || (self.pool == PoolState::Full && pool.state == PoolState::Ready && scarce)
        {
            return None;
        }
        self.pool.clone_from(&pool.state);
        Some(Notice::Pool { state: pool.state.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dolmen_cluster::plane::{ControllerStatus, LostBlocks};

    fn host(number: usize, discovery: bool) -> HostStatus {
        let address = "127.0.0.1:4420".parse().unwrap();
        HostStatus {
            nqn: format!("nqn.2014-08.org.example:{number}").parse().unwrap(),
            host_id: Uuid([0; 16]),
            controllers: vec![ControllerStatus {
                cntlid: 1,
                discovery,
                peer: address,
                local: address,
                io_queues: 1,
                since: Default::default(),
            }],
            volumes: Vec::new(),
        }
    }

    #[test]
    fn what_scrubbing_finds_is_told_once() {
        let mut told = Told::default();
        let report = |running, mended, lost| ScrubReport { running, mended, lost, ..ScrubReport::default() };
        let lost = |n: &Notice| matches!(n, Notice::Scrub { lost: true, .. });
        assert!(told.scrub(&report(1, 3, 0)).is_empty(), "the round is not through");
        assert_eq!(told.scrub(&report(1, 3, 1)).iter().filter(|n| lost(n)).count(), 1);
        let end = told.scrub(&report(0, 4, 1));
        assert!(end.len() == 1 && !lost(&end[0]), "{end:?}");
        assert!(told.scrub(&report(0, 4, 1)).is_empty());
    }

    #[test]
    fn lost_blocks_are_told_when_they_become_more_and_when_none_is_left() {
        let object = |ranges: &[(u64, u64)]| LostObject {
            uuid: Uuid([7; 16]),
            volume: "db".into(),
            snapshots: Vec::new(),
            also: Vec::new(),
            sector_bytes: 4096,
            ranges: ranges
                .iter()
                .map(|&(lba, blocks)| LostBlocks { lba, blocks, cause: "Damaged" })
                .collect(),
        };
        let mut told = Told::default();
        assert!(told.lost_blocks(&[]).is_empty());
        let first = told.lost_blocks(&[object(&[(5, 10)])]);
        assert!(
            matches!(first.as_slice(), [Notice::Lost { text, .. }] if text.contains("volume db: LBA 5-14 ")),
            "{first:?}"
        );
        // Some of it was overwritten.
        assert!(told.lost_blocks(&[object(&[(5, 2), (12, 3)])]).is_empty());
        assert_eq!(told.lost_blocks(&[object(&[(5, 2), (30, 1)])]).len(), 1);
        let end = told.lost_blocks(&[]);
        assert!(matches!(end.as_slice(), [Notice::LostNoMore { .. }]), "{end:?}");
    }

    #[test]
    fn a_drive_that_reads_badly_is_told_once() {
        let mut told = Told::default();
        let mut look = |state, ailment: Option<&str>| {
            let drive = DriveStanding {
                uuid: Uuid([7; 16]),
                path: "/dev/x".into(),
                serial: String::new(),
                units: 9,
                state,
                reason: None,
                ailment: ailment.map(str::to_owned),
                free_units: 0,
                held_units: 0,
            };
            let all = told.drives([&drive].into_iter());
            all.into_iter().filter(|n| matches!(n, Notice::Drive { what: DriveNews::Ailing(_), .. })).count()
        };
        assert_eq!(look(DriveState::In, None), 0);
        assert_eq!(look(DriveState::In, Some("so")), 1);
        assert_eq!(look(DriveState::Leaving, Some("so")), 0);
        assert_eq!(look(DriveState::Gone, None), 0);
    }

    #[test]
    fn that_space_is_missing_is_told_once_each_time() {
        let mut told = Told::default();
        let lacks =
            |lacks_bytes| Reprotection { lacks_bytes, at_risk_segments: 1, ..Reprotection::default() };
        assert!(told.lacks_space(lacks(0)).is_none());
        let first = told.lacks_space(lacks(7));
        assert_eq!(first, Some(Notice::Reprotection(ReprotectionNews::LacksSpace(7))));
        assert!(told.lacks_space(lacks(9)).is_none());
        assert!(told.lacks_space(lacks(0)).is_none());
        assert!(told.lacks_space(lacks(2)).is_some());
    }

    #[test]
    fn keys_that_are_left_are_told_once() {
        let mut told = Told::default();
        let left = |count| Some((count, "a bad sector".to_owned()));
        assert!(told.unerased(None).is_none());
        assert!(matches!(told.unerased(left(2).as_ref()), Some(Notice::KeysLeft { count: 2, .. })));
        assert!(told.unerased(left(3).as_ref()).is_none());
        assert_eq!(told.unerased(None), Some(Notice::KeysErased));
        assert!(told.unerased(None).is_none());
    }

    #[test]
    fn each_host_is_told_once_and_a_crowd_bit_by_bit() {
        let mut told = Told::default();
        assert!(told.hosts(&[host(1, true)]).is_empty(), "discovery is not told");
        let crowd: Vec<_> = (0..HOSTS_A_LOOK + 3).map(|n| host(n, false)).collect();
        assert_eq!(told.hosts(&crowd).len(), HOSTS_A_LOOK);
        assert_eq!(told.hosts(&crowd).len(), 3);
        assert!(told.hosts(&crowd).is_empty());
        let left = told.hosts(&crowd[1..]);
        assert!(matches!(left.as_slice(), [Notice::HostDisconnected { nqn, .. }] if *nqn == crowd[0].nqn));
    }

    #[test]
    fn a_pool_at_the_brink_is_told_once() {
        let mut told = Told::default();
        let at =
            |free_bytes, state| PoolStatus { usable_bytes: 1000, free_bytes, state, ..PoolStatus::default() };
        assert!(told.pool(&at(500, PoolState::Ready)).is_none());
        assert!(told.pool(&at(5, PoolState::Full)).is_some());
        assert!(told.pool(&at(12, PoolState::Ready)).is_none());
        assert!(told.pool(&at(5, PoolState::Full)).is_none());
        assert!(told.pool(&at(20, PoolState::Ready)).is_some());
        assert!(told.pool(&at(20, PoolState::Stopped("drive".into()))).is_some());
    }
}
