//! Opening: what the log says about the volumes of this core's protection groups, and each group's new epoch.
//!
//! A record that is not understood (damaged, or of a newer version) quarantines its volume and nothing else; so does a key that is
//! missing.

use crate::{
    Change, Restart, Volumes,
    backing::{Backing, Durable, Log},
    descriptor,
    engine::opening_ticket,
    group::{Phase, kind},
    reservation::{Reservations, record},
    volume::{Life, unknown_descriptor},
    volumes::IdentityClaim,
};
use dolmen_io::Io;
use dolmen_store::{Done as StoreDone, Key, MAX_BATCH_RECORDS, Marks, Record, Store};
use dolmen_types::{
    PgId, Uuid,
    volume::{VolumeDescriptor, VolumeState},
};
use std::collections::BTreeMap;

/// What the log holds about one protection group.
#[derive(Default)]
pub(crate) struct Contents {
    pub(crate) marks: Marks,
    pub(crate) objects: Vec<(Key, Box<[u8]>)>,
}

impl Volumes {
    /// Takes over what a recovered store holds, and begins each group's new epoch. Once, before anything is asked of
    /// durable volumes; [`Volumes::is_open`] tells when hosts may come. Every volume found is told as a
    /// [`Change::Present`].
    pub fn open(&mut self, io: &mut Io, store: &mut Store) {
        let groups: Vec<PgId> = self.groups.iter().flatten().map(|g| g.pg).collect();
        let mut found = Vec::new();
        for pg in groups {
            let mut contents = Contents { marks: store.marks(pg), objects: Vec::new() };
            store.for_each_object(pg, |key, value| contents.objects.push((key, value.into())));
            found.push((pg, contents));
        }
        let owner = self.owner;
        self.open_groups(found, &mut Durable { io, store: Some(store), owner });
    }

    /// The same over any world.
    pub(crate) fn open_groups<L: Log>(&mut self, found: Vec<(PgId, Contents)>, log: &mut L) {
        for (pg, contents) in found {
            let ended = self.take_over(pg, &contents.objects, log);
            let Some(group) = self.groups[pg.0 as usize].as_mut() else { continue };
            let mut batches = vec![group.open(contents.marks)];
            if let Some(put) = identity_record(&self.identity, pg, &contents.objects) {
                batches.push(group.batch([put].into_iter().collect()));
            }
            for part in ended.chunks(MAX_BATCH_RECORDS) {
                let delete = |id: &u128| Record::Delete { key: Key { kind: kind::RESERVATIONS, id: *id } };
                batches.push(group.batch(part.iter().map(delete).collect()));
            }
            for mut batch in batches {
                batch.seq = group.next();
                match log.append(batch, opening_ticket(pg)) {
                    Ok(()) => group.opening_sequenced(),
                    Err(_) => group.phase = Phase::Stopped,
                }
            }
        }
    }

    /// A group's new epoch is durable, or its store has failed.
    pub(crate) fn group_opened<L: Log>(&mut self, done: StoreDone, log: &mut L) {
        let pg = PgId(u32::try_from(done.ticket.0 & u64::from(u32::MAX)).expect("masked"));
        match done.result {
            Ok(()) => {
                if let Some(group) = self.groups[pg.0 as usize].as_mut() {
                    group.opening_durable();
                }
            }
            Err(_) => self.stop_group(pg, log),
        }
    }

    /// The store takes no more writes of a group: says so once about each of its volumes.
    pub(crate) fn stop_group<L: Log>(&mut self, pg: PgId, log: &mut L) {
        let Some(group) = self.groups[pg.0 as usize].as_mut() else { return };
        if group.phase == Phase::Stopped {
            return;
        }
        group.phase = Phase::Stopped;
        for slot in 0..self.volumes.len() {
            let volume = &self.volumes[slot];
            let told = matches!(volume.life, Life::Serving | Life::Deleting);
            if told && volume.descriptor.pg == pg && matches!(volume.backing, Backing::Durable(_)) {
                let info = self.info(slot, log);
                self.changes.push(Change::Present(Box::new(info)));
            }
        }
    }

    /// Makes volumes of a group's records. Returns the ids of reservations that ended with the power.
    fn take_over<L: Log>(&mut self, pg: PgId, objects: &[(Key, Box<[u8]>)], log: &L) -> Vec<u128> {
        let mut ended = Vec::new();
        for (key, value) in objects.iter().filter(|(key, _)| key.kind == kind::SNAPSHOT) {
            self.adopt_snapshot(pg, key.id, value);
        }
        let of_kind = |kind: u8| objects.iter().filter(move |(key, _)| key.kind == kind);
        let reservations: BTreeMap<u128, &[u8]> =
            of_kind(kind::RESERVATIONS).map(|(key, value)| (key.id, &**value)).collect();
        for (key, value) in of_kind(kind::DESCRIPTOR) {
            let uuid = Uuid(key.id.to_be_bytes());
            let descriptor = descriptor::decode(value).ok().filter(|d| d.uuid == uuid && d.pg == pg);
            let held = match reservations.get(&key.id) {
                None => Some(Reservations::default()),
                Some(bytes) => record::decode(bytes).ok(),
            };
            let slot = match (descriptor, held) {
                (Some(descriptor), Some(held)) => {
                    let life = match life_of(&descriptor) {
                        Life::Serving if is_locked(&descriptor, log) => Life::Locked,
                        life => life,
                    };
                    let slot = self.place(life, descriptor);
                    if self.restart == Restart::PowerOn && !held.persists() {
                        ended.extend(reservations.contains_key(&key.id).then_some(key.id));
                    } else {
                        self.volumes[slot].reservations = held;
                    }
                    if self.volumes[slot].life == Life::Deleting {
                        self.purges.push_back(slot);
                    }
                    slot
                }
                (descriptor, _) => {
                    let descriptor = descriptor.unwrap_or_else(|| unknown_descriptor(uuid, pg));
                    self.place(Life::Quarantined, descriptor)
                }
            };
            let info = self.info(slot, log);
            self.changes.push(Change::Present(Box::new(info)));
        }
        ended
    }
}

/// The record that tells who the node is, if the log does not tell so.
fn identity_record(claim: &Option<IdentityClaim>, pg: PgId, objects: &[(Key, Box<[u8]>)]) -> Option<Record> {
    let claim = claim.as_ref().filter(|_| pg == PgId(0))?;
    let key = Key { kind: kind::IDENTITY, id: 0 };
    let (there, value) = (objects.iter().find(|(k, _)| *k == key), claim.identity.encode());
    let holds = there.is_some_and(|(_, old)| !claim.replaces || **old == *value);
    (!holds).then(|| Record::Put { key, value: value.into() })
}

/// True for an encrypted volume whose key is not here.
pub(crate) fn is_locked<L: Log>(descriptor: &VolumeDescriptor, log: &L) -> bool {
    descriptor.encryption && !log.has_key(descriptor.pg, descriptor.line)
}

fn life_of(descriptor: &VolumeDescriptor) -> Life {
    match descriptor.state {
        VolumeState::Available => Life::Serving,
        VolumeState::Deleting => Life::Deleting,
    }
}
