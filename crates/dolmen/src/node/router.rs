//! Carries out what the control side asks of the data plane, and keeps the table of namespaces that every target looks in.
//!
//! What volumes there are comes from the cores alone, as changes in the order in which they became durable; one task takes
//! them, publishes a new table to every core, and only then lets requests that wait for it be answered. So an answer
//! means: durable, and in force everywhere.

use crate::node::{
    boot::Booted, cores::Talk, drive_ops::DriveOps, keys::ClusterKeys, scrubbing::Scrubbing, tell, traces,
};
use dolmen_cluster::{
    plane::{DiffPart, LostObject, NodeRequest, PlaneError, PoolStatus, SnapshotStatus},
    trace::VolumeTraces,
    volume::DEFAULT_PROJECT,
};
use dolmen_core::{
    home_core,
    message::{FromCore, ToCore},
    report::CoreReport,
};
use dolmen_export::{
    Export, Exports,
    backend::{MAX_DATA_BYTES, Place},
};
use dolmen_store::{PoolPlan, ScrubPlan};
use dolmen_target::{Namespace, NamespaceTable};
use dolmen_types::{
    CoreId, Lba, LineId, Nqn, PgId, Uuid,
    snapshot::SnapshotDescriptor,
    volume::{VolumeDescriptor, VolumeKind, VolumeState},
};
use dolmen_volume::{
    Change, ControlCommand, ControlDone, ControlError, DiffQuery, Health, Shrink, VolumeInfo, VolumeUpdate,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};

/// Requests that are carried out at a time; more wait in their channel. Count. A core may find one of each in one turn, and what
/// it tells costs it a copy of every volume.
const REQUESTS: usize = 256;

/// What a node decides by, beside its cores.
pub(crate) struct Parts {
    /// The cluster key.
    pub(crate) keys: Arc<ClusterKeys>,
    /// What changes of its drives need to know.
    pub(crate) drives: DriveOps,
    /// When the pool is scrubbed.
    pub(crate) scrubbing: Scrubbing,
    /// Whether volumes that keep nothing may be made.
    pub(crate) allow_test_volumes: bool,
    /// The NBD door, if there is one.
    pub(crate) nbd: Option<NbdAccess>,
}

/// Who the NBD door is to volumes, and what its clients may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NbdAccess {
    /// The host that a volume must admit to be exported.
    pub host: Nqn,
    /// Clients only read.
    pub read_only: bool,
}

/// What every request needs.
pub(crate) struct Node {
    /// The cores.
    pub(crate) cores: Talk,
    /// The pool.
    pub(crate) plan: Arc<PoolPlan>,
    /// What changes of its drives need to know.
    pub(crate) drives: DriveOps,
    /// The cluster key.
    keys: Arc<ClusterKeys>,
    /// The most that re-protection had to move since everything was protected last. Bytes.
    pub(crate) reprotect_begun: AtomicU64,
    /// Rings when a core has told that the drives have changed.
    pub(crate) drives_bell: Notify,
    /// Whether volumes that keep nothing may be made.
    pub(crate) allow_test_volumes: bool,
    /// When the pool is scrubbed.
    pub(crate) scrubbing: Scrubbing,
    /// What is lost, by name: as of the last look of `watch`.
    pub(super) lost: Mutex<Arc<[LostObject]>>,
    nbd: Option<NbdAccess>,
    catalogue: Mutex<Catalogue>,
    /// Asks the publisher to tell when everything sent before is in force.
    barrier: mpsc::UnboundedSender<oneshot::Sender<()>>,
}

/// The volumes that exist, and the table made from them.
pub struct Catalogue {
    volumes: BTreeMap<Uuid, VolumeInfo>,
    spaces: BTreeMap<Uuid, Arc<Namespace>>,
    generation: u64,
}

impl Catalogue {
    /// The volumes that a start has found; `generation` is larger than any that hosts were ever told.
    #[must_use]
    pub fn new(generation: u64, found: Vec<VolumeInfo>) -> Catalogue {
        let mut catalogue = Catalogue { volumes: BTreeMap::new(), spaces: BTreeMap::new(), generation };
        for info in found {
            catalogue.apply(Change::Present(Box::new(info)));
        }
        catalogue
    }

    /// Takes changes in the order in which the cores told them; the table that is to be in force after them.
    #[must_use]
    pub fn take(&mut self, changes: Vec<Change>) -> Arc<NamespaceTable> {
        self.generation += 1;
        changes.into_iter().for_each(|change| self.apply(change));
        self.table()
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Present(info) => {
                let uuid = info.descriptor.uuid;
                match namespace(&info) {
                    Some(space) if self.spaces.get(&uuid).is_none_or(|old| **old != space) => {
                        self.spaces.insert(uuid, Arc::new(space));
                    }
                    Some(_) => {}
                    None => {
                        self.spaces.remove(&uuid);
                    }
                }
                self.volumes.insert(uuid, *info);
            }
            Change::Gone(uuid) => {
                self.volumes.remove(&uuid);
                self.spaces.remove(&uuid);
            }
        }
    }

    /// The exports of the NBD door: the volumes that admit it as a host.
    fn exports(&self, access: &NbdAccess) -> Arc<Exports> {
        let admitted = self.spaces.values().filter(|space| space.acl.admits(&access.host));
        let all = admitted.filter_map(|space| {
            let info = self.volumes.get(&space.uuid)?;
            Some(Arc::new(export(info, space, access.read_only)))
        });
        Arc::new(Exports::new(all.collect()))
    }

    /// The table as it is now.
    #[must_use]
    pub fn table(&self) -> Arc<NamespaceTable> {
        Arc::new(NamespaceTable::new(self.generation, self.spaces.values().cloned().collect()))
    }
}

/// What clients of the NBD door see of a volume.
fn export(info: &VolumeInfo, space: &Namespace, read_only: bool) -> Export {
    let (name, project) = (&info.descriptor.name, &info.descriptor.project);
    Export {
        // A name is unique in its project.
        name: if project == DEFAULT_PROJECT { name.clone() } else { format!("{project}/{name}") },
        uuid: space.uuid,
        size_bytes: space.size_bytes,
        block_bytes: space.sector.bytes(),
        piece_bytes: u32::try_from(MAX_DATA_BYTES).unwrap_or(u32::MAX),
        read_only,
        can_zero: true,
        maps: true,
        nsid: space.nsid.0,
        access: space.ip_acl.clone(),
        place: Place::Volume(space.volume),
    }
}

/// What hosts may see of a volume; `None` when they may not.
fn namespace(info: &VolumeInfo) -> Option<Namespace> {
    let available = info.descriptor.state == VolumeState::Available;
    (available && info.health != Health::Quarantined).then(|| Namespace::of(info))
}

impl Node {
    /// A router over cores that have booted; `generation` is larger than any that hosts were ever told.
    pub(crate) fn start(
        cores: Talk,
        booted: Booted,
        parts: Parts,
        generation: u64,
        changes: mpsc::UnboundedReceiver<FromCore>,
    ) -> Arc<Node> {
        let Parts { keys, drives, scrubbing, allow_test_volumes, nbd } = parts;
        let catalogue = Catalogue::new(generation, booted.volumes);
        let (barrier, barriers) = mpsc::unbounded_channel();
        let node = Arc::new(Node {
            cores,
            plan: booted.plan,
            drives,
            keys,
            reprotect_begun: AtomicU64::new(0),
            drives_bell: Notify::new(),
            allow_test_volumes,
            scrubbing,
            lost: Mutex::default(),
            nbd,
            catalogue: Mutex::new(catalogue),
            barrier,
        });
        tokio::spawn(publish(node.clone(), changes, barriers));
        node
    }

    /// The exports of the NBD door as they are now; `None` where there is no such door.
    pub(crate) fn exports(&self) -> Option<Arc<Exports>> {
        let access = self.nbd.as_ref()?;
        Some(self.catalogue.lock().unwrap_or_else(PoisonError::into_inner).exports(access))
    }

    /// The table as it is now.
    pub(crate) fn table(&self) -> Arc<NamespaceTable> {
        self.catalogue.lock().unwrap_or_else(PoisonError::into_inner).table()
    }

    /// Serves requests until the control side goes away. Every request is a task of its own, so that it does not wait for
    /// another's drives.
    pub(crate) async fn serve(self: Arc<Node>, mut requests: mpsc::Receiver<NodeRequest>) {
        let room = Arc::new(Semaphore::new(REQUESTS));
        while let Some(request) = requests.recv().await {
            let Ok(held) = room.clone().acquire_owned().await else { return };
            let node = self.clone();
            tokio::spawn(async move {
                node.carry_out(request).await;
                drop(held);
            });
        }
    }

    async fn carry_out(&self, request: NodeRequest) {
        // A receiver that went away meanwhile needs no answer.
        match request {
            NodeRequest::CreateVolume { descriptor, answer } => {
                drop(answer.send(self.create(*descriptor).await))
            }
            NodeRequest::UpdateVolume { descriptor, expected_revision, answer } => {
                drop(answer.send(self.update(*descriptor, expected_revision).await));
            }
            NodeRequest::DeleteVolume { uuid, expected_revision, answer, .. } => {
                drop(answer.send(self.delete(uuid, expected_revision).await));
            }
            NodeRequest::ListVolumes { only, answer } => {
                if let Some(reports) = self.reports().await {
                    drop(answer.send(tell::volumes(&reports, only, &self.losses())));
                }
            }
            NodeRequest::CreateSnapshots { descriptors, answer } => {
                drop(answer.send(self.create_snapshots(descriptors).await));
            }
            NodeRequest::DeleteSnapshot { uuid, pg, expected_revision, answer } => {
                let command =
                    ControlCommand::DeleteSnapshot { uuid, expected_revision: Some(expected_revision) };
                drop(answer.send(self.change_snapshots(pg, command).await));
            }
            NodeRequest::Rollback { uuid, snapshot, line, expected_revision, answer } => {
                drop(answer.send(self.roll_back(uuid, snapshot, line, expected_revision).await));
            }
            NodeRequest::ListSnapshots { answer } => {
                if let Some(all) = self.snapshots().await {
                    drop(answer.send(all));
                }
            }
            NodeRequest::Diff { pg, snapshot, base, first, limit, answer } => {
                let query = DiffQuery { snapshot, base, first: Lba(first), limit };
                drop(answer.send(self.diff(pg, query).await));
            }
            NodeRequest::Hosts { answer } => {
                if let Some(reports) = self.reports().await {
                    drop(answer.send(tell::hosts(&reports)));
                }
            }
            NodeRequest::Pool { answer } => {
                if let Some(reports) = self.reports().await {
                    drop(answer.send(self.pool_status(&reports)));
                }
            }
            NodeRequest::Scrub { change, answer } => {
                if let Some(reports) = self.reports().await {
                    let report = tell::scrub(&reports);
                    self.scrubbing.change(change, &report, crate::control::now());
                    drop(answer.send(self.scrubbing.status(&report)));
                }
            }
            NodeRequest::Drives { answer } => {
                if let Some(reports) = self.reports().await {
                    drop(answer.send(tell::drives(&self.plan, &reports)));
                }
            }
            NodeRequest::Keys { answer } => {
                if let Some(status) = self.keys.status(&self.cores).await {
                    drop(answer.send(status));
                }
            }
            NodeRequest::RotateKeys { answer } => {
                let rotated = self.keys.rotate(&self.cores).await;
                let status = self.keys.status(&self.cores).await;
                let status = status.ok_or_else(|| PlaneError::Unavailable("the node is stopping".into()));
                drop(answer.send(rotated.and(status)));
            }
            NodeRequest::AddDrive { path, size_bytes, answer } => {
                drop(answer.send(self.add_drive(path, size_bytes).await));
            }
            NodeRequest::ChangeDrive { drive, change, answer } => {
                drop(answer.send(self.change_drive(drive, change).await));
            }
            NodeRequest::LocateDrive { drive, light, answer } => {
                drop(answer.send(self.locate_drive(drive, light).await));
            }
            NodeRequest::SetReprotection { paused, bytes_per_s, answer } => {
                drop(answer.send(self.set_reprotection(paused, bytes_per_s).await));
            }
            NodeRequest::Traces { uuid, answer } => {
                if let Some(told) = self.traces(uuid).await {
                    drop(answer.send(told));
                }
            }
            NodeRequest::Metrics { answer } => {
                if let Some(reports) = self.reports().await {
                    drop(answer.send(Box::new(tell::metrics(&self.plan, &reports))));
                }
            }
        }
    }

    /// Where the time of a volume's commands went, on all cores.
    async fn traces(&self, uuid: Uuid) -> Option<VolumeTraces> {
        let nsid = {
            let catalogue = self.catalogue.lock().unwrap_or_else(PoisonError::into_inner);
            catalogue.volumes.get(&uuid).map(|info| info.descriptor.nsid.0)
        };
        let Some(nsid) = nsid else { return Some(VolumeTraces::default()) };
        let told = self.cores.ask_all(|answer| ToCore::Traces { nsid, answer }).await.ok()?;
        let reports = self.reports().await?;
        let paths = traces::drive_paths(&reports);
        let told =
            self.cores.ids().zip(&told).flat_map(|(core, doors)| doors.iter().map(move |door| (core, door)));
        Some(traces::collect(told, &paths))
    }

    /// The pool as a whole, with how far re-protection and scrubbing have come.
    pub(super) fn pool_status(&self, reports: &[CoreReport]) -> PoolStatus {
        let mut pool = tell::pool(&self.plan, reports);
        let all = &mut pool.reprotection;
        if all.at_risk_segments == 0 {
            self.reprotect_begun.store(0, Ordering::Relaxed);
        } else {
            self.reprotect_begun.fetch_max(all.at_risk_bytes, Ordering::Relaxed);
        }
        all.begun_bytes = self.reprotect_begun.load(Ordering::Relaxed);
        (all.paused, all.bytes_per_s) = self.drives.reprotection();
        pool.scrub = self.scrubbing.status(&tell::scrub(reports));
        pool.lost = self.losses().to_vec();
        pool
    }

    /// What the scrubbers are to do now.
    pub(super) fn scrub_plan(&self, reports: &[CoreReport]) -> ScrubPlan {
        let held_bytes = reports.iter().map(|r| r.space.held_bytes).sum();
        self.scrubbing.look(&tell::scrub(reports), self.plan.shards, held_bytes, crate::control::now())
    }

    /// A snapshot of every core; `None` (and so no answer) when the node is stopping.
    pub(super) async fn reports(&self) -> Option<Vec<CoreReport>> {
        let reports = self.cores.ask_all(|answer| ToCore::Report { answer }).await.ok()?;
        Some(reports.into_iter().map(|r| *r).collect())
    }

    async fn create(&self, descriptor: VolumeDescriptor) -> Result<(), PlaneError> {
        if descriptor.kind != VolumeKind::Durable && !self.allow_test_volumes {
            return Err(PlaneError::Unsupported(
                "volumes of this kind need `serve --allow-test-volumes`".into(),
            ));
        }
        let core = home_core(&self.plan, descriptor.pg, self.cores.count());
        let keyed = descriptor.encryption.then_some((descriptor.pg, descriptor.line));
        self.change_keyed(core, keyed, ControlCommand::Create(Box::new(descriptor))).await
    }

    /// As [`Node::change`], for a change that makes a line; for an encrypted one with a key, which goes again if nothing comes of it.
    async fn change_keyed(
        &self,
        core: CoreId,
        keyed: Option<(PgId, LineId)>,
        command: ControlCommand,
    ) -> Result<(), PlaneError> {
        if let Some((pg, line)) = keyed {
            self.keys.make(&self.cores, core, pg, line).await?;
        }
        let result = self.change(core, command).await;
        if let (Err(_), Some((pg, line))) = (&result, keyed) {
            self.keys.give_up(&self.cores, core, pg, line).await;
        }
        result
    }

    async fn update(&self, new: VolumeDescriptor, expected_revision: u64) -> Result<(), PlaneError> {
        let core = home_core(&self.plan, new.pg, self.cores.count());
        let update = VolumeUpdate {
            expected_revision: Some(expected_revision),
            name: Some(new.name),
            size_bytes: Some(new.size_bytes),
            shrink: Shrink::Refuse,
            acl: Some(new.acl),
            ip_acl: Some(new.ip_acl),
            labels: Some(new.labels),
            qos: Some(new.qos),
        };
        self.change(core, ControlCommand::Update { uuid: new.uuid, update: Box::new(update) }).await
    }

    async fn delete(&self, uuid: Uuid, expected_revision: u64) -> Result<(), PlaneError> {
        let core = self.home_of(uuid)?;
        let command = ControlCommand::Delete { uuid, expected_revision: Some(expected_revision) };
        self.change(core, command).await
    }

    async fn roll_back(
        &self,
        uuid: Uuid,
        snapshot: Uuid,
        line: LineId,
        expected_revision: u64,
    ) -> Result<(), PlaneError> {
        let (core, keyed) = {
            let catalogue = self.catalogue.lock().unwrap_or_else(PoisonError::into_inner);
            let volume = catalogue.volumes.get(&uuid).ok_or(PlaneError::NotFound)?;
            let VolumeDescriptor { pg, encryption, .. } = volume.descriptor;
            (home_core(&self.plan, pg, self.cores.count()), encryption.then_some((pg, line)))
        };
        let expected_revision = Some(expected_revision);
        let command = ControlCommand::Rollback { uuid, snapshot, line, expected_revision };
        self.change_keyed(core, keyed, command).await
    }

    /// The home core of a volume that exists.
    fn home_of(&self, uuid: Uuid) -> Result<CoreId, PlaneError> {
        let catalogue = self.catalogue.lock().unwrap_or_else(PoisonError::into_inner);
        let pg = catalogue.volumes.get(&uuid).map(|info| info.descriptor.pg);
        Ok(home_core(&self.plan, pg.ok_or(PlaneError::NotFound)?, self.cores.count()))
    }

    async fn create_snapshots(
        &self,
        descriptors: Vec<SnapshotDescriptor>,
    ) -> Result<Vec<SnapshotDescriptor>, PlaneError> {
        let Some(pg) = descriptors.first().map(|d| d.pg) else { return Ok(Vec::new()) };
        self.change_snapshots(pg, ControlCommand::CreateSnapshots(descriptors)).await
    }

    async fn change_snapshots(
        &self,
        pg: PgId,
        command: ControlCommand,
    ) -> Result<Vec<SnapshotDescriptor>, PlaneError> {
        match self.ask_home(pg, command).await? {
            ControlDone::Snapshots(all) => Ok(all.into_iter().map(|info| info.descriptor).collect()),
            _ => Ok(Vec::new()),
        }
    }

    /// All snapshots by UUID; `None` (and so no answer) when the node is stopping.
    pub(super) async fn snapshots(&self) -> Option<Vec<SnapshotStatus>> {
        let mut all = Vec::new();
        for core in self.cores.ids() {
            let command = ControlCommand::ListSnapshots;
            let listed = self.cores.ask(core, |answer| ToCore::Volume { command, answer }).await.ok()?;
            if let Ok(ControlDone::Snapshots(here)) = listed {
                all.extend(here.into_iter().map(|info| SnapshotStatus {
                    usable: info.health == Health::Good,
                    descriptor: info.descriptor,
                }));
            }
        }
        all.sort_by_key(|s| s.descriptor.uuid);
        Some(all)
    }

    async fn diff(&self, pg: PgId, query: DiffQuery) -> Result<DiffPart, PlaneError> {
        match self.ask_home(pg, ControlCommand::Diff(query)).await? {
            ControlDone::Diff(page) => Ok(DiffPart {
                ranges: page.ranges.iter().map(|range| (range.lba.0, range.blocks.0)).collect(),
                next: page.next.map(|lba| lba.0),
            }),
            _ => Ok(DiffPart::default()),
        }
    }

    /// Asks the home core of a protection group.
    async fn ask_home(&self, pg: PgId, command: ControlCommand) -> Result<ControlDone, PlaneError> {
        let core = home_core(&self.plan, pg, self.cores.count());
        let answered = self.cores.ask(core, |answer| ToCore::Volume { command, answer }).await;
        let gone = |_| PlaneError::Unavailable("the node is stopping".into());
        answered.map_err(gone)?.map_err(|error| refusal(&error))
    }

    /// Has a core carry out a change and waits until it is in force on every core.
    async fn change(&self, core: CoreId, command: ControlCommand) -> Result<(), PlaneError> {
        let gone = || PlaneError::Unavailable("the node is stopping".into());
        let result = self.cores.ask(core, |answer| ToCore::Volume { command, answer }).await;
        match result.map_err(|_| gone())? {
            Ok(_) => {}
            Err(error) => return Err(refusal(&error)),
        }
        let (reached, in_force) = oneshot::channel();
        self.barrier.send(reached).map_err(|_| gone())?;
        in_force.await.map_err(|_| gone())
    }
}

fn refusal(error: &ControlError) -> PlaneError {
    let text = error.to_string();
    match error {
        ControlError::NotFound => PlaneError::NotFound,
        ControlError::Exists | ControlError::Conflict { .. } => PlaneError::Conflict,
        ControlError::TooMany => PlaneError::Exhausted(text),
        ControlError::TooManyTogether { .. } => PlaneError::Refused(text),
        ControlError::Invalid { .. } => PlaneError::Unsupported(text),
        _ => PlaneError::Unavailable(text),
    }
}

#[cfg(test)]
mod tests;

/// Takes changes from the cores, publishes a table after each batch, then answers who waits for it.
async fn publish(
    node: Arc<Node>,
    mut changes: mpsc::UnboundedReceiver<FromCore>,
    mut barriers: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
) {
    loop {
        let mut batch = Vec::new();
        let mut waiting = Vec::new();
        tokio::select! {
            change = changes.recv() => match change {
                Some(FromCore::Change(change)) => batch.push(change),
                Some(FromCore::Drives) => node.drives_bell.notify_one(),
                None => return,
            },
            barrier = barriers.recv() => match barrier {
                Some(barrier) => waiting.push(barrier),
                None => return,
            },
        }
        while let Ok(barrier) = barriers.try_recv() {
            waiting.push(barrier);
        }
        // A core tells a change before it answers for it, so what a barrier waits for is in the channel by now.
        while let Ok(told) = changes.try_recv() {
            match told {
                FromCore::Change(change) => batch.push(change),
                FromCore::Drives => node.drives_bell.notify_one(),
            }
        }
        if !batch.is_empty() {
            let table = {
                let mut catalogue = node.catalogue.lock().unwrap_or_else(PoisonError::into_inner);
                catalogue.take(batch)
            };
            let told = node.cores.ask_all(|answer| ToCore::Namespaces { table: table.clone(), answer }).await;
            if told.is_err() {
                return;
            }
            if let Some(exports) = node.exports()
                && node
                    .cores
                    .ask_all(|answer| ToCore::Exports { exports: exports.clone(), answer })
                    .await
                    .is_err()
            {
                return;
            }
        }
        for barrier in waiting {
            // Whoever waited may have given up.
            let _ = barrier.send(());
        }
    }
}
