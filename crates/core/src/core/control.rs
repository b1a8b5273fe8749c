//! What a core does for the control side: opens drives, pool, shards and volumes one after the other, carries out changes,
//! reports, and comes to an orderly end. Questions whose answer takes time are kept in `Waiting` and looked at each turn.

use super::{
    Closing, Core, DRAIN_MS, LOOP, Pending, STORE, TARGET, VOLUME, held::held_back, home_core, keys::Keeper,
};
use crate::{
    message::{Answer, OpenedDrive, ToCore},
    report::{CoreReport, DriveReport, PoolReport},
};
use dolmen_export::nbd::Server;
use dolmen_io::{OpenDrive, Tag};
use dolmen_store::{Candidate, Keyring, PoolOwner, PoolPlan, ShardTuning, Store};
use dolmen_target::{NamespaceTable, Target, TargetConfig};
use dolmen_types::{
    Nanos, PgId,
    limits::{BLOCK_BYTES, PROTECTION_GROUPS},
};
use dolmen_volume::{
    ControlCommand, ControlError, ControlReply, ControlRequest, NodeIdentity, Replace, Restart, VolumeInfo,
    Volumes,
};
use std::{path::Path, sync::Arc};

impl Core {
    pub(super) fn take_commands(&mut self) -> bool {
        let mut commands = std::mem::take(&mut self.commands);
        let any = self.inbox.drain(&mut commands) > 0;
        for command in commands.drain(..) {
            self.take_command(command);
        }
        self.commands = commands;
        any
    }

    fn take_command(&mut self, command: ToCore) {
        match command {
            ToCore::Link(links) => self.links = links,
            ToCore::OpenDrives { drives, answer } => {
                let opened = self.open_drives(&drives);
                answer.send(opened);
            }
            ToCore::FindPool { paths, answer } => {
                let finding = dolmen_store::find_pool(self.exec.handle(), self.candidates(paths));
                let task = async move { answer.send(finding.await) };
                self.exec.handle().spawn(task).expect("nothing else runs on the core yet");
            }
            ToCore::OpenKeys { plan, drives, answer } => self.open_keys(&plan, &drives, answer),
            ToCore::OpenPool { paths, options, answer } => {
                let candidates = self.candidates(paths);
                let opening = dolmen_store::open_pool(self.exec.handle(), candidates, options);
                let task = async move { answer.send(opening.await) };
                self.exec.handle().spawn(task).expect("nothing else runs on the core yet");
            }
            ToCore::OpenStore { plan, drives, keyring, answer } => {
                if let Err(why) = self.open_store(&plan, &drives, &keyring) {
                    answer.send(Err(why));
                } else {
                    self.waiting.store = Some(answer);
                }
            }
            ToCore::OpenVolumes { restart, identity, answer } => self.open_volumes(restart, identity, answer),
            ToCore::Listen { config, table, answer } => answer.send(self.listen(*config, table)),
            ToCore::ListenNbd { config, exports, answer } => {
                let listening = self.listen_nbd(*config, exports);
                answer.send(listening);
            }
            ToCore::Exports { exports, answer } => {
                self.set_exports(exports);
                answer.send(());
            }
            ToCore::Namespaces { table, answer } => {
                if let Some(target) = &mut self.target {
                    target.set_namespaces(&mut self.io, table);
                }
                answer.send(());
            }
            ToCore::Scrub { plan, answer } => {
                if let Some(store) = &mut self.store {
                    store.set_scrub(plan);
                }
                self.scrub_labels(plan);
                answer.send(());
            }
            ToCore::Health { health, answer } => {
                if let Some(target) = &mut self.target {
                    target.set_health(&mut self.io, health);
                }
                answer.send(());
            }
            ToCore::Volume { command, answer } => self.ask_volumes(command, Pending::User(answer)),
            ToCore::Report { answer } => self.ask_volumes(ControlCommand::List, Pending::Report(answer)),
            ToCore::Traces { nsid, answer } => {
                let now = self.io.now();
                let target = self.target.as_ref().map(|t| t.traces(nsid, now));
                let nbd = self.nbd.as_ref().map(|server| server.traces(nsid, now));
                let held = self.volumes.as_ref().map(|volumes| held_back(volumes, nsid, now));
                answer.send([target, nbd, held].map(Option::unwrap_or_default));
            }
            ToCore::Drain { answer } => self.drain(answer),
            ToCore::Close { answer } => {
                let give_up = self.io.now().plus_ms(DRAIN_MS);
                self.io.timer_at(Tag { owner: LOOP, key: 0 }, give_up);
                self.waiting.closed = Some(Closing { answer, give_up, store_told: false });
            }
            ToCore::Reprotect { paused, bytes_per_s, answer } => {
                if let Some(store) = &mut self.store {
                    store.set_reprotection(paused, bytes_per_s);
                }
                answer.send(());
            }
            ToCore::Exit => self.exit = true,
            other => self.take_drive_command(other),
        }
    }

    fn candidates(&self, paths: Vec<String>) -> Vec<Candidate> {
        let drives = self.drives.iter().zip(paths);
        drives.map(|(d, path)| Candidate { info: d.clone(), path }).collect()
    }

    fn open_drives(&mut self, drives: &[OpenDrive]) -> Vec<Result<OpenedDrive, String>> {
        let mut results = Vec::new();
        for drive in drives {
            let opened = self.open_drive(drive);
            self.drives.extend(opened.iter().map(|opened| opened.info.clone()));
            results.push(opened);
        }
        results
    }

    fn open_store(
        &mut self,
        plan: &Arc<PoolPlan>,
        drives: &[Option<OpenedDrive>],
        keyring: &Keyring,
    ) -> Result<(), String> {
        let mut files = Vec::new();
        for drive in drives {
            files.push(match drive {
                Some(drive) if self.id.0 == 0 => Some(drive.info.file),
                Some(drive) => Some(self.io.share_drive(&drive.handle).map_err(|e| e.to_string())?),
                None => None,
            });
        }
        if self.id.0 == 0 {
            let owner = PoolOwner::new(plan, &files, &self.exec.handle());
            self.sequence = owner.sequence();
            self.owner = Some(owner);
            self.infos = drives.iter().map(|d| d.as_ref().map(|d| d.info.clone())).collect();
        }
        let shards = plan.shards_of(usize::from(self.id.0), self.cores);
        let (tuning, exec) = (ShardTuning::for_pool(plan), self.exec.handle());
        let mut salt = [0; 8];
        self.io.random(&mut salt);
        let salt = u64::from_le_bytes(salt);
        self.store = Some(Store::open(plan, &shards, &files, tuning, STORE, salt, keyring, &exec));
        self.plan = Some(plan.clone());
        self.files = files;
        Ok(())
    }

    /// The protection groups whose shard lives here.
    fn groups(&self) -> Vec<PgId> {
        let Some(plan) = &self.plan else { return Vec::new() };
        let here = |pg: &PgId| home_core(plan, *pg, self.cores) == self.id;
        (0..PROTECTION_GROUPS).map(PgId).filter(here).collect()
    }

    fn open_volumes(
        &mut self,
        restart: Restart,
        identity: Option<(NodeIdentity, Replace)>,
        answer: Answer<Vec<VolumeInfo>>,
    ) {
        let mut volumes = Volumes::new(self.id, &self.groups(), restart, VOLUME);
        if let Some((identity, replaces)) = identity {
            volumes.identify(identity, replaces);
        }
        if let Some(store) = &mut self.store {
            volumes.open(&mut self.io, store);
        }
        self.volumes = Some(volumes);
        self.waiting.volumes = Some(answer);
    }

    fn listen(&mut self, config: TargetConfig, table: Arc<NamespaceTable>) -> Result<(), String> {
        let mut target = Target::new(config, TARGET);
        target.set_namespaces(&mut self.io, table);
        let listening = target.start(&mut self.io).map_err(|e| e.to_string());
        self.target = Some(target);
        listening
    }

    fn ask_volumes(&mut self, command: ControlCommand, pending: Pending) {
        let token = self.next_token;
        self.next_token += 1;
        match &mut self.volumes {
            Some(volumes) => {
                self.pending.insert(token, pending);
                volumes.control(ControlRequest { token, command });
            }
            None => {
                self.pending.insert(token, pending);
                self.answer(ControlReply { token, result: Err(ControlError::NotReady) });
            }
        }
    }

    fn drain(&mut self, answer: Answer<()>) {
        if let Some(target) = &mut self.target {
            target.drain(&mut self.io);
        }
        if let Some(server) = &mut self.nbd {
            server.drain(&mut self.io);
        }
        let give_up = self.io.now().plus_ms(DRAIN_MS);
        self.io.timer_at(Tag { owner: LOOP, key: 0 }, give_up);
        self.waiting.drained = Some((answer, give_up));
    }

    /// Answers the control side's long questions when the time has come. True when that gives the volumes work.
    pub(super) fn watch(&mut self) -> bool {
        let mut more = false;
        if self.waiting.store.is_some()
            && let Some(store) = &self.store
            && let Some(result) = store.ready()
            && let Some(answer) = self.waiting.store.take()
        {
            let contradiction = self.contradiction.clone().map_or(Ok(()), Err);
            let sound = result.map_err(|e| e.to_string()).and(contradiction);
            answer.send(sound.map(|()| store.highest_line()));
        }
        if self.waiting.volumes.is_some()
            && self.volumes.as_ref().is_some_and(Volumes::is_open)
            && let Some(answer) = self.waiting.volumes.take()
        {
            self.ask_volumes(ControlCommand::List, Pending::Opened(answer));
            more = true;
        }
        self.watch_joining();
        let now = self.io.now();
        if let Some((_, give_up)) = &self.waiting.drained
            && (*give_up <= now
                || (self.target.as_ref().is_none_or(Target::is_drained) && self.nbd_is_drained()))
            && let Some((answer, _)) = self.waiting.drained.take()
        {
            answer.send(());
        }
        self.settle_keys();
        self.settle_labels();
        self.watch_closing(now);
        more
    }

    fn watch_closing(&mut self, now: Nanos) {
        let Some(closing) = &mut self.waiting.closed else { return };
        let idle = self.volumes.as_ref().is_none_or(|v| v.outstanding() == 0);
        if !closing.store_told && (idle || closing.give_up <= now) {
            closing.store_told = true;
            if let Some(store) = &mut self.store {
                store.shutdown();
            }
        }
        let down = closing.store_told && self.store.as_ref().is_none_or(Store::is_down);
        // Keys that the last checkpoint made useless are better erased now than by the next start.
        let erased = self.keeper.as_ref().is_none_or(Keeper::is_idle) || closing.give_up <= now;
        if down
            && erased
            && let Some(closing) = self.waiting.closed.take()
        {
            closing.answer.send(());
        }
    }

    pub(super) fn report(&self, volumes: Vec<VolumeInfo>) -> CoreReport {
        let stats = self.volumes.as_ref().map(|v| v.stats().map(|(uuid, s)| (uuid, s.clone())).collect());
        CoreReport {
            core: self.id,
            counters: self.counters,
            target: self.target.as_ref().map(Target::stats).unwrap_or_default(),
            connections: self.target.as_ref().map(Target::connections).unwrap_or_default(),
            nbd: self.nbd.as_ref().map(Server::stats).unwrap_or_default(),
            nbd_clients: self.nbd.as_ref().map(Server::clients).unwrap_or_default(),
            hosts: self.target.as_ref().map(Target::hosts).unwrap_or_default(),
            volumes,
            volume_stats: stats.unwrap_or_default(),
            space: self.store.as_ref().map(Store::space).unwrap_or_default(),
            lost: self.store.as_ref().map(Store::lost).unwrap_or_default(),
            scrub: self.store.as_ref().and_then(Store::scrub).map(|shards| self.labels.with(shards)),
            pool: self.owner.as_ref().map(|owner| PoolReport {
                sequence: owner.sequence(),
                deficit: owner.deficit(),
                drives: (0..)
                    .zip(owner.drives())
                    .map(|(i, standing): (usize, _)| {
                        let info = self.infos.get(i).cloned().flatten();
                        DriveReport { standing, info }
                    })
                    .collect(),
                capacity_bytes: owner.capacity_bytes(),
                reserve_bytes: owner.reserve_bytes(),
            }),
            drives: self
                .files
                .iter()
                .map(|file| file.map(|file| self.io.drive_counters(file)).unwrap_or_default())
                .collect(),
            live_by_drive: self.store.as_ref().map(Store::live_by_drive).unwrap_or_default(),
            unerased: self.keeper.as_ref().and_then(Keeper::unerased),
            stopped: self
                .store
                .as_ref()
                .and_then(Store::stopped)
                .map(|(shard, why)| format!("shard {shard}: {why}")),
            buffers_free: u64::try_from(self.io.pool().available(BLOCK_BYTES)).unwrap_or(u64::MAX),
            buffers_total: self.buffers_total,
        }
    }
}

/// Why a drive can't be opened, and what to do about it.
#[must_use]
pub fn describe(drive: &OpenDrive, error: &dolmen_io::Error) -> String {
    let path = drive.path.display();
    if drive.create_bytes.is_none() && !drive.path.exists() {
        return format!(
            "there is no drive {path}; to make a file that stands for one, give its size: --drive {path}:10GiB"
        );
    }
    if let Some(folder) = drive.path.parent().filter(|folder| *folder != Path::new("") && !folder.exists()) {
        return format!("there is no folder {} to make the drive {path} in; make it first", folder.display());
    }
    error.to_string()
}
