//! A small NVMe/TCP controller for tests: it speaks the real protocol through `dolmen-nvme`'s controller side, keeps
//! one namespace in RAM, and can be told to misbehave.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::cast_possible_truncation)] // helpers of several test programs

use dolmen_io::{Event, Io, Owner, PoolConfig, SocketId, Tag};
use dolmen_nvme::{
    spec::{
        AbortCommand, AdminOpcode, AnaGroupDescriptor, AnaLogHeader, AnaState, Capabilities, Cns,
        ConnectCommand, ConnectData, ControllerStatus, Cqe, DataPlan, DatasetCommand, DiscoveryEntry,
        DiscoveryHeader, DsmRange, FabricsType, FeatureId, GetLogCommand, IdentifyCommand,
        IdentifyController, IdentifyNamespace, LbaFormat, LogId, NamespaceIdDescriptor, NvmOpcode, Property,
        PropertyGet, PropertySet, Sqe, Status, SubsystemType, async_event_config, controller_attributes,
        feature_select, notice, number_of_queues,
    },
    tcp::{
        C2hData, Controller, ControllerEvent, ControllerOptions, DIGEST_BYTES, DataEnd, DataSource, Digests,
        MAX_HEADER_BYTES, QueueSettings, R2tRequest,
    },
};
use dolmen_types::{Nqn, Uuid};
use std::{cell::RefCell, collections::VecDeque, net::SocketAddr, rc::Rc};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// A host's buffers: with room for headers, and without.
pub fn host_pool(seed: u64) -> PoolConfig {
    let pool = PoolConfig::sized(32 << 20);
    if seed % 2 == 1 { pool.with_heads() } else { pool }
}

pub const PEER: Owner = Owner(9);
pub const BLOCK: usize = 4096;
pub const UUID: Uuid = Uuid([0x5a; 16]);
const LISTENER: u64 = u64::MAX;

/// How the controller behaves.
#[derive(Clone, Debug)]
pub struct Behaviour {
    pub blocks: u64,
    pub digests: Digests,
    pub max_h2c_data: u32,
    /// Data of one R2T at most.
    pub r2t_bytes: u32,
    /// Data of one C2HData PDU at most.
    pub c2h_bytes: usize,
    pub in_capsule_bytes: u32,
    pub max_transfer: u8,
    pub queues: u16,
    pub entries: u16,
    /// End reads with the success flag, without a response.
    pub success_flag: bool,
    /// Answers to I/O commands before they are looked at, first come first served.
    pub statuses: VecDeque<Status>,
    /// I/O commands that are swallowed without an answer.
    pub swallow: usize,
    /// Keep-alives are swallowed.
    pub deaf: bool,
    /// Looks at CSTS before it reads ready.
    pub slow_ready: usize,
    /// Answer to Connect.
    pub refuse: Option<Status>,
    /// Flips a bit of the n-th byte sent from now on.
    pub corrupt_at: Option<u64>,
    /// A discovery controller with these entries.
    pub discovery: Option<Vec<DiscoveryEntry>>,
    /// Reports ANA, and these states; I/O to a namespace is answered as its state demands.
    pub ana: Option<Vec<(u32, AnaState)>>,
    /// ANATT. Seconds.
    pub ana_transition_s: u8,
    /// CQT. Milliseconds.
    pub quiesce_ms: u16,
    /// TBKAS.
    pub traffic_keeps_alive: bool,
    /// The namespace's UUID.
    pub uuid: Uuid,
    /// CNTLID.
    pub controller_id: u16,
    /// Changes are taken and carried out only by [`Ram::carry_out`], as by a controller that is slow.
    pub hold: bool,
    /// Abort finds swallowed commands and aborts them.
    pub aborts: bool,
    /// Aborts are not answered.
    pub hold_aborts: bool,
    /// Connects of I/O queues are swallowed.
    pub mute: bool,
    /// What identifies a namespace is not told.
    pub hold_identity: bool,
    /// Aborts that it takes at a time (ACL + 1).
    pub abort_limit: u8,
    /// What it does wrong, a byte or more for each command; see [`Ram::twist`].
    pub hostile: VecDeque<u8>,
    /// It does wrong, or has done so.
    pub is_hostile: bool,
}

impl Default for Behaviour {
    fn default() -> Behaviour {
        Behaviour {
            blocks: 1024,
            digests: Digests::BOTH,
            max_h2c_data: 32 * 1024,
            r2t_bytes: 128 * 1024,
            c2h_bytes: 64 * 1024,
            in_capsule_bytes: 8192,
            max_transfer: 6,
            queues: 8,
            entries: 128,
            success_flag: true,
            statuses: VecDeque::new(),
            swallow: 0,
            deaf: false,
            slow_ready: 0,
            refuse: None,
            corrupt_at: None,
            discovery: None,
            ana: None,
            ana_transition_s: 2,
            quiesce_ms: 0,
            traffic_keeps_alive: false,
            uuid: UUID,
            controller_id: 7,
            hold: false,
            aborts: false,
            hold_aborts: false,
            mute: false,
            hold_identity: false,
            abort_limit: 1,
            hostile: VecDeque::new(),
            is_hostile: false,
        }
    }
}

struct Transfer {
    sqe: Sqe,
    data: Vec<u8>,
    wanted: usize,
    asked: usize,
}

struct Connection {
    key: usize,
    sock: SocketId,
    codec: Controller,
    out: Vec<u8>,
    sending: bool,
    dead: bool,
    queue: u16,
    /// In-capsule data under way.
    capsule: Option<(Sqe, Vec<u8>)>,
    transfers: Vec<Option<Transfer>>,
    events: Vec<u16>,
}

/// What tests look at.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub connections: usize,
    pub reads: usize,
    pub writes: usize,
    pub r2ts: usize,
    pub keep_alives: usize,
    pub shutdowns: usize,
    pub trims: usize,
    pub violations: usize,
    pub aborts: usize,
    /// The most Aborts that were unanswered at a time.
    pub most_aborts: usize,
    pub resets: usize,
    /// Connects that were swallowed.
    pub muted: usize,
    pub ana_reads: usize,
    /// Changes carried out after their connection was gone.
    pub late: usize,
    /// Commands that moved more than MDTS allows.
    pub too_long: usize,
}

pub struct Ram {
    pub behaviour: Behaviour,
    pub data: Vec<u8>,
    pub counts: Counts,
    pub addr: SocketAddr,
    /// What several controllers of one subsystem have in common.
    pub shared: Option<Rc<RefCell<Vec<u8>>>>,
    held: Vec<(usize, Sqe, Vec<u8>)>,
    /// Connection, queue and identifier.
    swallowed: Vec<(usize, u16, u16)>,
    /// Aborts that are to be answered in a step: whose, and how.
    aborting: Vec<(usize, Cqe)>,
    /// Identify commands that are not answered for now, with their connections.
    asking: Vec<(usize, Sqe)>,
    connections: Vec<Option<Connection>>,
    looks: usize,
    sent_bytes: u64,
    generation: u64,
}

impl Ram {
    pub fn listen(io: &mut Io, addr: SocketAddr, behaviour: Behaviour) -> Ram {
        let (listener, addr) = io.listen(addr).unwrap();
        io.accept(Tag { owner: PEER, key: LISTENER }, listener);
        Ram {
            data: vec![0; behaviour.blocks as usize * BLOCK],
            behaviour,
            counts: Counts::default(),
            addr,
            shared: None,
            held: Vec::new(),
            swallowed: Vec::new(),
            aborting: Vec::new(),
            asking: Vec::new(),
            connections: Vec::new(),
            looks: 0,
            sent_bytes: 0,
            generation: 1,
        }
    }

    pub fn on_event(&mut self, io: &mut Io, key: u64, event: Event) {
        match (key, event) {
            (LISTENER, Event::Accepted { sock, .. }) => self.accepted(io, sock),
            (key, Event::Received(chunk)) => self.received(key as usize, &chunk),
            (key, Event::Sent(_)) => {
                if let Some(c) = &mut self.connections[key as usize] {
                    c.sending = false;
                }
            }
            (key, Event::EndOfStream | Event::Failed { .. }) if key != LISTENER => {
                self.close(io, key as usize)
            }
            _ => {}
        }
    }

    fn accepted(&mut self, io: &mut Io, sock: SocketId) {
        let options = ControllerOptions {
            digests: self.behaviour.digests,
            alignment: 0,
            max_h2c_data: self.behaviour.max_h2c_data,
        };
        let key = self.connections.len();
        self.counts.connections += 1;
        self.connections.push(Some(Connection {
            key,
            sock,
            codec: Controller::new(options),
            out: Vec::new(),
            sending: false,
            dead: false,
            queue: 0,
            capsule: None,
            transfers: Vec::new(),
            events: Vec::new(),
        }));
        io.receive(Tag { owner: PEER, key: key as u64 }, sock);
    }

    fn close(&mut self, io: &mut Io, key: usize) {
        if let Some(c) = self.connections[key].take() {
            io.close(Tag { owner: PEER, key: key as u64 }, c.sock);
        }
    }

    /// Closes the connections of one queue.
    pub fn drop_queue(&mut self, io: &mut Io, queue: u16) {
        let its = |c: &Option<Connection>| c.as_ref().is_some_and(|c| c.queue == queue);
        let keys: Vec<usize> = (0..self.connections.len()).filter(|&k| its(&self.connections[k])).collect();
        keys.into_iter().for_each(|key| self.close(io, key));
    }

    /// Closes every connection.
    pub fn drop_all(&mut self, io: &mut Io) {
        (0..self.connections.len()).for_each(|key| self.close(io, key));
    }

    /// Another discovery log; its readers are told if they asked.
    pub fn set_discovery(&mut self, entries: Vec<DiscoveryEntry>) {
        self.set_discovery_silently(entries);
        self.raise(notice::DISCOVERY_CHANGED.dword());
    }

    /// Another discovery log, of which nobody is told.
    pub fn set_discovery_silently(&mut self, entries: Vec<DiscoveryEntry>) {
        self.behaviour.discovery = Some(entries);
        self.generation += 1;
    }

    /// Completes a waiting event request of every admin connection with this dword.
    pub fn raise(&mut self, dword: u32) {
        for c in self.connections.iter_mut().flatten() {
            if let Some(cid) = c.events.pop() {
                c.respond(&Cqe::new(cid, Status::SUCCESS).with_dw0(dword));
            }
        }
    }

    fn received(&mut self, key: usize, mut chunk: &[u8]) {
        let Some(mut c) = self.connections[key].take() else { return };
        c.key = key;
        loop {
            match c.codec.receive(&mut chunk) {
                Ok(None) => break,
                Ok(Some(event)) => self.hear(&mut c, event),
                Err(violation) => {
                    self.counts.violations += 1;
                    let mut out = [0; 256];
                    let n = c.codec.write_term_req(&mut out, &violation).unwrap();
                    c.out.extend_from_slice(&out[..n]);
                    c.dead = true;
                    break;
                }
            }
        }
        self.connections[key] = Some(c);
    }

    fn hear(&mut self, c: &mut Connection, event: ControllerEvent<'_>) {
        match event {
            ControllerEvent::Initialized(_) => c.put(|codec, out| codec.write_ic_resp(out).unwrap()),
            ControllerEvent::Command { sqe, capsule_data } => {
                let may_move =
                    sqe.opcode & 3 == 1 || sqe.is_fabrics() && sqe.fabrics_type() == FabricsType::CONNECT;
                match DataPlan::of(&sqe, capsule_data) {
                    Ok(DataPlan::Transport { length }) if may_move && length > 0 => self.ask(c, sqe, length),
                    Ok(DataPlan::InCapsule { .. }) => c.capsule = Some((sqe, Vec::new())),
                    _ => self.perform(c, &sqe, &[]),
                }
            }
            ControllerEvent::Data { source: DataSource::Capsule, bytes, .. } => {
                c.capsule.as_mut().unwrap().1.extend_from_slice(bytes);
            }
            ControllerEvent::DataEnd { source: DataSource::Capsule, intact } => {
                let (sqe, data) = c.capsule.take().unwrap();
                assert!(intact);
                self.perform(c, &sqe, &data);
            }
            ControllerEvent::Data { source: DataSource::Transfer(token), offset, bytes } => {
                let t = c.transfers[token as usize].as_mut().unwrap();
                assert_eq!(offset as usize, t.data.len());
                t.data.extend_from_slice(bytes);
            }
            ControllerEvent::DataEnd { source: DataSource::Transfer(token), intact } => {
                assert!(intact);
                let t = c.transfers[token as usize].take().unwrap();
                if t.data.len() == t.wanted { self.perform(c, &t.sqe, &t.data) } else { self.ask_more(c, t) }
            }
            ControllerEvent::Terminated(_) => c.dead = true,
        }
    }

    fn ask(&mut self, c: &mut Connection, sqe: Sqe, length: u32) {
        let t = Transfer { sqe, data: Vec::new(), wanted: length as usize, asked: 0 };
        self.ask_more(c, t);
    }

    fn ask_more(&mut self, c: &mut Connection, mut t: Transfer) {
        self.counts.r2ts += 1;
        let length = (t.wanted - t.asked).min(self.behaviour.r2t_bytes as usize);
        let token = c.transfers.iter().position(Option::is_none).unwrap_or_else(|| {
            c.transfers.push(None);
            c.transfers.len() - 1
        });
        let request = R2tRequest {
            cid: t.sqe.cid.get(),
            token: token as u32,
            offset: t.asked as u32,
            length: length as u32,
        };
        t.asked += length;
        c.transfers[token] = Some(t);
        let mut out = [0; 256];
        match c.codec.write_r2t(&mut out, request) {
            Ok(n) => c.out.extend_from_slice(&out[..n]),
            // One that answered commands before their data came has too many open: it gives up.
            Err(_) if self.behaviour.is_hostile => c.dead = true,
            Err(error) => panic!("{error:?}"),
        }
    }

    fn perform(&mut self, c: &mut Connection, sqe: &Sqe, data: &[u8]) {
        let cid = sqe.cid.get();
        if let Some(how) = self.behaviour.hostile.pop_front()
            && self.twist(c, sqe, how)
        {
            return;
        }
        if sqe.is_fabrics() {
            return self.fabrics(c, sqe, data);
        }
        if c.queue == 0 {
            return self.admin(c, sqe);
        }
        if self.behaviour.swallow > 0 {
            self.behaviour.swallow -= 1;
            self.swallowed.push((c.key, c.queue, cid));
            return;
        }
        if let Some(status) = self.ana_status(sqe.nsid.get()) {
            return c.respond(&Cqe::new(cid, status));
        }
        if sqe.read_write().blocks as usize * BLOCK > 4096 << self.behaviour.max_transfer
            && [NvmOpcode::READ, NvmOpcode::WRITE, NvmOpcode::COMPARE].contains(&NvmOpcode(sqe.opcode))
        {
            self.counts.too_long += 1;
            return c.respond(&Cqe::new(cid, Status::INVALID_FIELD.with_dnr()));
        }
        if self.behaviour.hold && sqe.opcode != NvmOpcode::READ.0 {
            return self.held.push((c.key, *sqe, data.to_vec()));
        }
        if let Some(status) = self.behaviour.statuses.pop_front() {
            return c.respond(&Cqe::new(cid, status));
        }
        self.io(c, sqe, data);
    }

    /// Does something else with a command than it should, as `how` and the hostile bytes behind it say; false: after all not.
    fn twist(&mut self, c: &mut Connection, sqe: &Sqe, how: u8) -> bool {
        let cid = sqe.cid.get();
        let mut some = |count: usize| -> Vec<u8> {
            let hostile = &mut self.behaviour.hostile;
            hostile.drain(..count.min(hostile.len())).collect()
        };
        match how {
            // Any status, any result, of this command or of any.
            1..=40 => {
                let b: [u8; 8] = some(8).try_into().unwrap_or_default();
                let number = |at: usize| u16::from_le_bytes([b[at], b[at + 1]]);
                let cid = if how & 1 == 0 { cid } else { number(6) };
                let dw0 = u32::from(number(2)) << 16 | u32::from(number(4));
                c.respond(&Cqe::new(cid, Status::from_bits(number(0))).with_dw0(dw0));
            }
            // A page or data of any contents, mostly zeroes behind them, of any length up to a little too much.
            41..=120 => {
                let length = match DataPlan::of(sqe, 0) {
                    Ok(DataPlan::Transport { length }) => length as usize,
                    _ => 0,
                };
                let mut page = some(usize::from(how) * 2);
                page.resize(
                    if how & 7 == 0 { length / 2 } else { length + usize::from(how & 7 == 1) * 4 },
                    0,
                );
                self.reply_data(c, cid, &page);
            }
            // Nothing at all.
            121..=125 => {}
            // Bytes that are no PDU.
            126..=140 => {
                let bytes = some(usize::from(how));
                c.out.extend_from_slice(&bytes);
            }
            141..=145 => c.dead = true,
            // An event, whether it was asked for or not.
            146..=160 => {
                let b: [u8; 4] = some(4).try_into().unwrap_or_default();
                let cid = c.events.pop().unwrap_or(cid);
                c.respond(&Cqe::new(cid, Status::SUCCESS).with_dw0(u32::from_le_bytes(b)));
                return false;
            }
            // Data for a read that nobody asked for, or twice.
            161..=170 => {
                let page = some(64);
                self.reply_data(c, cid, &page);
                return false;
            }
            _ => return false,
        }
        true
    }

    fn ana_status(&self, nsid: u32) -> Option<Status> {
        let states = self.behaviour.ana.as_ref()?;
        match states.iter().find(|(id, _)| *id == nsid)?.1 {
            AnaState::Optimized | AnaState::NonOptimized => None,
            AnaState::Inaccessible => Some(Status::ANA_INACCESSIBLE),
            AnaState::PersistentLoss => Some(Status::ANA_PERSISTENT_LOSS),
            AnaState::Change => Some(Status::ANA_TRANSITION),
        }
    }

    /// Another ANA state of namespace 1; hosts are told.
    pub fn set_ana(&mut self, state: AnaState) {
        self.set_ana_silently(state);
        self.raise(notice::ANA_CHANGED.dword());
    }

    /// The same without an event.
    pub fn set_ana_silently(&mut self, state: AnaState) {
        self.behaviour.ana = Some(vec![(1, state)]);
    }

    /// Carries out the changes that were held back, whether anybody still waits for them or not.
    pub fn carry_out(&mut self) {
        self.carry_out_first(self.held.len());
    }

    /// The first `count` of them.
    pub fn carry_out_first(&mut self, count: usize) {
        for (key, sqe, data) in self.held.drain(..count).collect::<Vec<_>>() {
            let cid = sqe.cid.get();
            let mut c = self.connections[key].take();
            self.counts.late += usize::from(c.is_none());
            let status = self.change(&sqe, &data);
            if let Some(c) = &mut c {
                c.respond(&Cqe::new(cid, status));
            }
            self.connections[key] = c;
        }
    }

    /// Changes that are held back.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// The first block of each.
    pub fn held_blocks(&self) -> Vec<u64> {
        self.held.iter().map(|(_, sqe, _)| sqe.read_write().start).collect()
    }

    fn abort(&mut self, c: &mut Connection, sqe: &Sqe) {
        self.counts.aborts += 1;
        let AbortCommand { queue, cid } = AbortCommand::of(sqe);
        let found = self.swallowed.iter().position(|&(_, q, c)| (q, c) == (queue, cid));
        let found = found.filter(|_| self.behaviour.aborts).map(|at| self.swallowed.swap_remove(at));
        if let Some((key, ..)) = found
            && let Some(victim) = &mut self.connections[key]
        {
            victim.respond(&Cqe::new(cid, Status::ABORT_REQUESTED));
        }
        let done = u32::from(found.is_none());
        self.aborting.push((c.key, Cqe::new(sqe.cid.get(), Status::SUCCESS).with_dw0(done)));
        self.counts.most_aborts = self.counts.most_aborts.max(self.aborting.len());
    }

    fn answer_aborts(&mut self) {
        for (key, cqe) in std::mem::take(&mut self.aborting) {
            if let Some(c) = &mut self.connections[key] {
                c.respond(&cqe);
            }
        }
    }

    /// Commands that ask what a namespace is and are not answered for now.
    pub fn asking(&self) -> usize {
        self.asking.len()
    }

    fn answer_identity(&mut self) {
        for (key, sqe) in std::mem::take(&mut self.asking) {
            if let Some(mut c) = self.connections[key].take() {
                self.admin(&mut c, &sqe);
                self.connections[key] = Some(c);
            }
        }
    }

    fn fabrics(&mut self, c: &mut Connection, sqe: &Sqe, data: &[u8]) {
        let cid = sqe.cid.get();
        let ok = Cqe::new(cid, Status::SUCCESS);
        match sqe.fabrics_type() {
            FabricsType::CONNECT => {
                let connect = ConnectCommand::of(sqe);
                let page = ConnectData::ref_from_bytes(data).unwrap();
                assert!(Nqn::from_field(&page.host_nqn).is_ok() && page.host_id != [0; 16]);
                assert!(connect.flow_control_disabled());
                c.queue = connect.queue;
                let in_capsule = if c.queue == 0 { 8192 } else { self.behaviour.in_capsule_bytes };
                if self.behaviour.mute && c.queue > 0 {
                    return self.counts.muted += 1;
                }
                let max_transfers = connect.sq_size + 1;
                c.codec.set_queue(QueueSettings { in_capsule_bytes: in_capsule, max_transfers });
                match self.behaviour.refuse {
                    Some(status) => c.respond(&Cqe::new(cid, status)),
                    None => c.respond(&ok.with_dw0(self.behaviour.controller_id.into())),
                }
            }
            FabricsType::PROPERTY_GET => {
                let value = match PropertyGet::of(sqe).unwrap().property {
                    Property::CAP => Capabilities {
                        max_queue_entries: self.behaviour.entries - 1,
                        timeout: 4,
                        subsystem_reset: false,
                        command_sets: 1,
                        min_page: 0,
                        max_page: 0,
                    }
                    .bits(),
                    Property::CSTS => {
                        self.looks += 1;
                        let ready = self.looks > self.behaviour.slow_ready;
                        u64::from(if ready { ControllerStatus::READY } else { 0 })
                    }
                    _ => 0,
                };
                c.respond(&ok.with_result(value));
            }
            FabricsType::PROPERTY_SET => {
                let value = PropertySet::of(sqe).unwrap().value;
                self.counts.shutdowns += usize::from(value & 0xc000 != 0);
                if value & 1 == 0 {
                    self.counts.resets += 1;
                    // What it had it has ended when it says that it is reset.
                    self.carry_out();
                }
                c.respond(&ok);
            }
            _ => c.respond(&Cqe::new(cid, Status::INVALID_FIELD.with_dnr())),
        }
    }

    fn admin(&mut self, c: &mut Connection, sqe: &Sqe) {
        let cid = sqe.cid.get();
        match AdminOpcode(sqe.opcode) {
            AdminOpcode::IDENTIFY
                if self.behaviour.hold_identity
                    && IdentifyCommand::of(sqe).cns == Cns::NAMESPACE_DESCRIPTORS =>
            {
                self.asking.push((c.key, *sqe));
            }
            AdminOpcode::IDENTIFY => match self.identify(sqe) {
                Some(page) => self.reply_data(c, cid, &page),
                None => c.respond(&Cqe::new(cid, Status::INVALID_FIELD.with_dnr())),
            },
            AdminOpcode::SET_FEATURES if feature_select::id(sqe) == FeatureId::NUMBER_OF_QUEUES => {
                let q = self.behaviour.queues;
                c.respond(&Cqe::new(cid, Status::SUCCESS).with_dw0(number_of_queues::value(q, q)));
            }
            AdminOpcode::SET_FEATURES => c.respond(&Cqe::new(cid, Status::SUCCESS)),
            AdminOpcode::ASYNC_EVENT_REQUEST => c.events.push(cid),
            AdminOpcode::KEEP_ALIVE => {
                self.counts.keep_alives += 1;
                if !self.behaviour.deaf {
                    c.respond(&Cqe::new(cid, Status::SUCCESS));
                }
            }
            AdminOpcode::ABORT => self.abort(c, sqe),
            AdminOpcode::GET_LOG_PAGE => {
                let log = GetLogCommand::of(sqe).unwrap();
                self.counts.ana_reads += usize::from(log.page == LogId::ANA);
                let page = self.log(log.page);
                let at = (log.offset as usize).min(page.len());
                let mut bytes = page[at..].to_vec();
                bytes.resize(log.length as usize, 0);
                self.reply_data(c, cid, &bytes);
            }
            _ => c.respond(&Cqe::new(cid, Status::INVALID_OPCODE.with_dnr())),
        }
    }

    fn identify(&self, sqe: &Sqe) -> Option<Vec<u8>> {
        let mut page = vec![0u8; 4096];
        match IdentifyCommand::of(sqe).cns {
            Cns::CONTROLLER => {
                let mut id = IdentifyController::zeroed();
                id.max_transfer = self.behaviour.max_transfer;
                id.abort_limit = self.behaviour.abort_limit - 1;
                id.controller_id = self.behaviour.controller_id.into();
                id.command_quiesce_ms = self.behaviour.quiesce_ms.into();
                if self.behaviour.traffic_keeps_alive {
                    id.attributes = controller_attributes::TRAFFIC_KEEP_ALIVE.into();
                }
                if self.behaviour.ana.is_some() {
                    id.multipath = 1 << 3;
                    id.ana_transition_s = self.behaviour.ana_transition_s;
                    (id.ana_groups, id.ana_group_max, id.max_namespaces) = (4.into(), 4.into(), 16.into());
                }
                id.model[..3].copy_from_slice(b"RAM");
                id.io_command_capsule = (4 + self.behaviour.in_capsule_bytes / 16).into();
                id.async_events =
                    (async_event_config::NAMESPACE | async_event_config::DISCOVERY | async_event_config::ANA)
                        .into();
                id.retry_delays[0] = 2.into();
                page.copy_from_slice(id.as_bytes());
            }
            Cns::ACTIVE_NAMESPACES => page[0] = u8::from(sqe.nsid.get() == 0),
            Cns::NAMESPACE => {
                let mut id = IdentifyNamespace::new_zeroed();
                id.size_blocks = self.behaviour.blocks.into();
                id.formats[0] = LbaFormat { metadata_bytes: 0.into(), data_size: 12, performance: 0 };
                id.deallocate_features = 1;
                page.copy_from_slice(id.as_bytes());
            }
            Cns::NAMESPACE_DESCRIPTORS => {
                NamespaceIdDescriptor::write_list((&mut page[..]).try_into().unwrap(), self.behaviour.uuid);
            }
            _ => return None,
        }
        Some(page)
    }

    fn log(&self, page: LogId) -> Vec<u8> {
        match (page, &self.behaviour.discovery) {
            (LogId::DISCOVERY, Some(entries)) => {
                let header = DiscoveryHeader::new(self.generation, entries.len() as u64);
                let mut bytes = header.as_bytes().to_vec();
                entries.iter().for_each(|e| bytes.extend_from_slice(e.as_bytes()));
                bytes
            }
            (LogId::ANA, _) => {
                let states = self.behaviour.ana.clone().unwrap_or_default();
                let mut bytes = AnaLogHeader::new(1, states.len() as u16).as_bytes().to_vec();
                for (group, (nsid, state)) in (1..).zip(states) {
                    bytes.extend_from_slice(AnaGroupDescriptor::new(group, 1, 1, state).as_bytes());
                    bytes.extend_from_slice(&nsid.to_le_bytes());
                }
                bytes
            }
            _ => vec![0; 4096],
        }
    }

    fn io(&mut self, c: &mut Connection, sqe: &Sqe, data: &[u8]) {
        let cid = sqe.cid.get();
        if sqe.opcode != NvmOpcode::READ.0 {
            let status = self.change(sqe, data);
            return c.respond(&Cqe::new(cid, status));
        }
        let rw = sqe.read_write();
        let range = rw.start as usize * BLOCK..(rw.start as usize + rw.blocks as usize) * BLOCK;
        self.counts.reads += 1;
        let bytes = self.with_data(|data| data.get(range).map(<[u8]>::to_vec));
        match bytes {
            Some(bytes) => self.reply_data(c, cid, &bytes),
            None => c.respond(&Cqe::new(cid, Status::LBA_OUT_OF_RANGE.with_dnr())),
        }
    }

    fn with_data<T>(&mut self, what: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        match &self.shared {
            Some(shared) => what(&mut shared.borrow_mut()),
            None => what(&mut self.data),
        }
    }

    /// Everything but reads.
    fn change(&mut self, sqe: &Sqe, data: &[u8]) -> Status {
        let rw = sqe.read_write();
        let span = |start: u64, blocks: u32| {
            let (start, blocks) = ((start as usize).saturating_mul(BLOCK), blocks as usize * BLOCK);
            start..start.saturating_add(blocks)
        };
        let opcode = NvmOpcode(sqe.opcode);
        self.counts.writes += usize::from(opcode == NvmOpcode::WRITE);
        self.counts.trims += usize::from(opcode == NvmOpcode::DATASET_MANAGEMENT);
        self.with_data(|stored| {
            let ranged = [NvmOpcode::WRITE, NvmOpcode::COMPARE, NvmOpcode::WRITE_ZEROES].contains(&opcode);
            let range = span(rw.start, rw.blocks);
            if ranged && range.end > stored.len() {
                return Status::LBA_OUT_OF_RANGE.with_dnr();
            }
            if opcode == NvmOpcode::WRITE && data.len() != range.len() {
                return Status::DATA_SGL_LENGTH_INVALID.with_dnr();
            }
            match opcode {
                NvmOpcode::WRITE => stored[range].copy_from_slice(data),
                NvmOpcode::COMPARE if stored[range.clone()] != *data => {
                    return Status::COMPARE_FAILURE.with_dnr();
                }
                NvmOpcode::WRITE_ZEROES => stored[range].fill(0),
                NvmOpcode::DATASET_MANAGEMENT => {
                    let count = usize::from(DatasetCommand::of(sqe).ranges);
                    for r in <[DsmRange]>::ref_from_bytes(data).unwrap().iter().take(count) {
                        stored[span(r.start.get(), r.blocks.get())].fill(0);
                    }
                }
                _ => {}
            }
            Status::SUCCESS
        })
    }

    fn reply_data(&mut self, c: &mut Connection, cid: u16, bytes: &[u8]) {
        let pieces = bytes.chunks(self.behaviour.c2h_bytes);
        let (count, mut offset) = (pieces.len(), 0);
        let flag = self.behaviour.success_flag && self.behaviour.discovery.is_none();
        for (i, piece) in pieces.enumerate() {
            let end = match (i + 1 == count, flag) {
                (false, _) => DataEnd::More,
                (true, true) => DataEnd::LastAndSuccess,
                (true, false) => DataEnd::Last,
            };
            let data = C2hData { cid, offset, length: piece.len() as u32, end };
            let mut out = vec![0; MAX_HEADER_BYTES + piece.len() + DIGEST_BYTES];
            let n = c.codec.write_c2h_data(&mut out, &data).unwrap();
            out[n..n + piece.len()].copy_from_slice(piece);
            let d = c.codec.finish_data(&mut out[n..], piece.len()).unwrap();
            c.out.extend_from_slice(&out[..n + piece.len() + d]);
            offset += piece.len() as u32;
        }
        if !flag {
            c.respond(&Cqe::new(cid, Status::SUCCESS));
        }
    }

    pub fn step(&mut self, io: &mut Io) {
        if !self.behaviour.hold_aborts {
            self.answer_aborts();
        }
        if !self.behaviour.hold_identity {
            self.answer_identity();
        }
        for key in 0..self.connections.len() {
            let Some(c) = &mut self.connections[key] else { continue };
            if c.sending {
                continue;
            }
            if c.out.is_empty() {
                if c.dead {
                    self.close(io, key);
                }
                continue;
            }
            let before = self.sent_bytes;
            self.sent_bytes += c.out.len() as u64;
            if let Some(at) = self.behaviour.corrupt_at.filter(|at| (before..self.sent_bytes).contains(at)) {
                c.out[(at - before) as usize] ^= 0x20;
                self.behaviour.corrupt_at = None;
            }
            let mut slices = io.slices();
            let (mut taken, chunk) = (0, 32 * 1024);
            for part in c.out.chunks(chunk) {
                let Some(mut buf) = io.alloc(part.len()) else { break };
                buf.copy_from_slice(part);
                taken += part.len();
                slices.push(buf.freeze());
            }
            c.out.drain(..taken);
            c.sending = taken > 0;
            if taken > 0 {
                io.send(Tag { owner: PEER, key: key as u64 }, c.sock, slices);
            }
        }
    }

    /// Bytes sent so far, for [`Behaviour::corrupt_at`].
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }
}

impl Connection {
    fn put(&mut self, write: impl FnOnce(&mut Controller, &mut [u8]) -> usize) {
        let mut out = [0; 256];
        let n = write(&mut self.codec, &mut out);
        self.out.extend_from_slice(&out[..n]);
    }

    fn respond(&mut self, cqe: &Cqe) {
        self.put(|codec, out| codec.write_response(out, cqe).unwrap());
    }
}

/// The controller's namespace, as far as a load has to know it.
pub fn namespace() -> dolmen_initiator::Namespace {
    dolmen_initiator::Namespace {
        nsid: 1,
        block_bytes: 4096,
        blocks: 1024,
        uuid: None,
        nguid: [0; 16],
        deallocated_reads_zero: true,
    }
}

/// A discovery log entry.
pub fn entry(nqn: &str, addr: SocketAddr) -> DiscoveryEntry {
    DiscoveryEntry::tcp(SubsystemType::NVM, nqn, addr.ip(), addr.port(), 1)
}

/// A referral to another discovery service.
pub fn referral(addr: SocketAddr) -> DiscoveryEntry {
    DiscoveryEntry::tcp(SubsystemType::REFERRAL, Nqn::DISCOVERY, addr.ip(), addr.port(), 0)
}
