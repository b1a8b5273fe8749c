//! The real target on one core, with volumes in memory behind it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // helpers of tests

use dolmen_io::{Io, Owner, Wait};
use dolmen_target::{Identity, Namespace, NamespaceTable, Target, TargetConfig};
use dolmen_types::{
    CoreId, Nsid, PgId, Uuid,
    volume::{HostAccess, IpAccess, SectorSize},
};
use dolmen_volume::{
    AcquireAction, Command, Done, HostId, Near, PersistChange, RegisterAction, Registrant, ReleaseAction,
    Reply, Request, ReservationCommand, ReservationReport, VolumeError, VolumeRef,
};
use std::{net::SocketAddr, sync::Arc};

pub const SUBSYSTEM: &str = "nqn.2016-01.com.lightbitslabs:uuid:11111111-2222-4333-8444-555555555555";
const TARGET: Owner = Owner(1);

/// A namespace that everybody may see; nsid 1 has 4096-byte blocks, nsid 2 has 512-byte blocks.
pub fn space(nsid: u32, bytes: u64) -> Arc<Namespace> {
    Arc::new(Namespace {
        nsid: Nsid(nsid),
        uuid: Uuid([u8::try_from(nsid).unwrap(); 16]),
        volume: VolumeRef { core: CoreId(0), slot: nsid, generation: 1 },
        pg: PgId(0),
        size_bytes: bytes,
        sector: if nsid == 2 { SectorSize::B512 } else { SectorSize::B4096 },
        acl: HostAccess::Any,
        ip_acl: IpAccess::Any,
    })
}

pub struct Server {
    pub io: Io,
    pub target: Target,
    pub addr: SocketAddr,
    /// By nsid - 1: block size and contents.
    pub volumes: Vec<(usize, Vec<u8>)>,
    /// By nsid - 1.
    pub reservations: [ReservationReport; 2],
}

impl Server {
    /// Listens at `addr`, with these contents or fresh ones of 8 MiB each.
    pub fn start(mut io: Io, addr: SocketAddr, volumes: Option<Vec<(usize, Vec<u8>)>>) -> Server {
        let identity = Identity {
            subsystem: SUBSYSTEM.parse().unwrap(),
            serial: "d01be9".into(),
            model: "Dolmen".into(),
            firmware: "test".into(),
        };
        let mut config = TargetConfig::new(identity);
        // Two ports: two paths to one subsystem.
        config.io_listen = vec![addr, SocketAddr::new(addr.ip(), 0)];
        let mut target = Target::new(config, TARGET);
        target.start(&mut io).unwrap();
        let addr = target.config().io_listen[0];
        let volumes = volumes.unwrap_or_else(|| vec![(4096, vec![0; 8 << 20]), (512, vec![0; 8 << 20])]);
        let mut server = Server { io, target, addr, volumes, reservations: Default::default() };
        server.set(1, &[space(1, 8 << 20), space(2, 8 << 20)]);
        server
    }

    pub fn set(&mut self, generation: u64, spaces: &[Arc<Namespace>]) {
        let table = Arc::new(NamespaceTable::new(generation, spaces.to_vec()));
        self.target.set_namespaces(&mut self.io, table);
    }

    pub fn turn(&mut self, wait: Wait) -> bool {
        let mut events = Vec::new();
        self.io.poll(wait, &mut events);
        let quiet = events.is_empty();
        for (tag, event) in events {
            assert_eq!(tag.owner, TARGET);
            self.target.on_event(&mut self.io, &mut Near::of(None), tag.key, event);
        }
        for request in std::mem::take(&mut self.target.outputs().requests) {
            let reply = self.answer(request);
            self.target.on_reply(&mut self.io, reply);
        }
        self.target.step(&mut self.io, &mut Near::of(None));
        self.io.submit();
        quiet
    }

    fn answer(&mut self, request: Request) -> Reply {
        let index = usize::try_from(request.volume.slot).unwrap() - 1;
        let (block, data) = &mut self.volumes[index];
        let end = data.len();
        let span = |lba: u64, blocks: u32| {
            let start = usize::try_from(lba).unwrap() * *block;
            start..start + usize::try_from(blocks).unwrap() * *block
        };
        let (mut result, mut kept) = (Ok(Done::Ok), None);
        match request.command {
            Command::Read { lba, blocks, buf } if span(lba, blocks).end > end => {
                (result, kept) = (Err(VolumeError::OutOfRange), Some(buf));
            }
            Command::Read { lba, blocks, mut buf } => {
                buf.copy_from_slice(&data[span(lba, blocks)]);
                kept = Some(buf);
            }
            Command::Write { lba, blocks, buf } => {
                data[span(lba, blocks)].copy_from_slice(&buf);
                kept = Some(buf);
            }
            Command::Compare { lba, blocks, buf } => {
                if data[span(lba, blocks)] != *buf {
                    result = Err(VolumeError::CompareFailed);
                }
                kept = Some(buf);
            }
            Command::CompareAndWrite { lba, blocks, compare, write } => {
                if data[span(lba, blocks)] != *compare {
                    result = Err(VolumeError::CompareFailed);
                } else {
                    data[span(lba, blocks)].copy_from_slice(&write);
                }
                kept = Some(compare);
            }
            Command::Copy { sources, dest } => {
                let mut to = span(dest, 0).start;
                for source in sources {
                    let from = span(source.lba, source.blocks);
                    data.copy_within(from.clone(), to);
                    to += from.len();
                }
            }
            Command::WriteZeroes { lba, blocks, .. } => data[span(lba, blocks)].fill(0),
            Command::Deallocate { ranges } => ranges.iter().for_each(|r| data[span(r.lba, r.blocks)].fill(0)),
            Command::Reservation(command) => {
                result = reserve(&mut self.reservations[index], request.host_id, command);
            }
            _ => {}
        }
        Reply { token: request.token, result, buf: kept, buf2: None, stamps: request.stamps }
    }
}

/// As much of reservations as a host's own side can be seen to get right; what they keep others from is not here.
fn reserve(
    state: &mut ReservationReport,
    host: HostId,
    command: ReservationCommand,
) -> Result<Done, VolumeError> {
    let at = state.registrants.iter().position(|r| r.host == host);
    let mine = |key: u64| at.filter(|&at| state.registrants[at].key == key);
    match command {
        ReservationCommand::Register { action, ignore_existing_key, persist, current_key, new_key } => {
            let at = if ignore_existing_key { at } else { mine(current_key) };
            match (action, at) {
                (RegisterAction::Register, _) => {
                    state.registrants.push(Registrant { host, key: new_key, holder: false });
                }
                (_, None) => return Err(VolumeError::ReservationConflict),
                (RegisterAction::Unregister, Some(at)) => drop(state.registrants.remove(at)),
                (RegisterAction::Replace, Some(at)) => state.registrants[at].key = new_key,
            }
            match persist {
                PersistChange::Keep => {}
                PersistChange::Clear => state.persists = false,
                PersistChange::Set => state.persists = true,
            }
            state.generation += 1;
        }
        ReservationCommand::Acquire { action, kind, current_key, preempt_key, .. } => {
            let mut at = mine(current_key).ok_or(VolumeError::ReservationConflict)?;
            if action != AcquireAction::Acquire {
                state.registrants.retain(|r| r.key != preempt_key);
                at = state.registrants.iter().position(|r| r.host == host).unwrap();
            } else if state.registrants.iter().any(|r| r.holder && r.host != host) {
                return Err(VolumeError::ReservationConflict);
            }
            (state.registrants[at].holder, state.kind) = (true, kind);
        }
        ReservationCommand::Release { action, kind, current_key, .. } => {
            let at = mine(current_key).ok_or(VolumeError::ReservationConflict)?;
            if action == ReleaseAction::Clear {
                state.registrants.clear();
            } else if state.kind != kind {
                return Err(VolumeError::Invalid);
            } else {
                state.registrants[at].holder = false;
            }
            state.kind = None;
        }
        ReservationCommand::SetPersistence { persists } => state.persists = persists,
        ReservationCommand::Report => return Ok(Done::Report(Box::new(state.clone()))),
    }
    Ok(Done::Ok)
}
