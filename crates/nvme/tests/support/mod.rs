//! Both ends of a connection in memory, and a target small enough to be obviously right.
#![allow(dead_code, reason = "each test binary uses its own part of this module")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use dolmen_nvme::spec::{Cqe, DataPlan, NvmOpcode, Sqe, Status};
use dolmen_nvme::tcp::{
    C2hData, Controller, ControllerEvent, ControllerOptions, DataEnd, DataSource, Digests, Host, HostEvent,
    HostOptions, QueueSettings, R2tRequest, Violation,
};

/// Room for any header.
pub(crate) const ROOM: usize = dolmen_nvme::tcp::MAX_HEADER_BYTES;

/// What both sides are set to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) digests: Digests,
    pub(crate) host_alignment: u8,
    pub(crate) controller_alignment: u8,
    pub(crate) depth: u16,
}

impl Terms {
    pub(crate) const PLAIN: Terms =
        Terms { digests: Digests::NONE, host_alignment: 0, controller_alignment: 0, depth: 8 };

    pub(crate) fn host(self) -> Host {
        Host::new(HostOptions { digests: self.digests, alignment: self.host_alignment, depth: self.depth })
    }

    pub(crate) fn controller(self) -> Controller {
        Controller::new(ControllerOptions {
            digests: Digests::BOTH,
            alignment: self.controller_alignment,
            max_h2c_data: 4096,
        })
    }

    /// Both ends with the handshake done.
    pub(crate) fn connected(self) -> (Host, Controller) {
        let (mut host, mut controller) = (self.host(), self.controller());
        let mut out = [0; ROOM];
        let n = host.write_ic_req(&mut out).unwrap();
        let mut chunk = &out[..n];
        assert!(matches!(controller.receive(&mut chunk), Ok(Some(ControllerEvent::Initialized(_)))));
        controller.set_queue(QueueSettings { in_capsule_bytes: 8192, max_transfers: self.depth });
        let n = controller.write_ic_resp(&mut out).unwrap();
        let mut chunk = &out[..n];
        assert!(matches!(host.receive(&mut chunk), Ok(Some(HostEvent::Initialized(_)))));
        assert_eq!(host.negotiated(), controller.negotiated());
        (host, controller)
    }
}

/// Appends what an encoder writes.
pub(crate) fn put(out: &mut Vec<u8>, encode: impl FnOnce(&mut [u8]) -> Option<usize>) {
    let at = out.len();
    out.resize(at + ROOM, 0);
    let n = encode(&mut out[at..]).expect("room for any header");
    out.truncate(at + n);
}

/// Appends payload and, when negotiated, its digest.
pub(crate) fn put_payload(
    out: &mut Vec<u8>,
    payload: &[u8],
    finish: impl FnOnce(&mut [u8], usize) -> Option<usize>,
) {
    let at = out.len();
    out.extend_from_slice(payload);
    out.extend_from_slice(&[0; 4]);
    let n = finish(&mut out[at..], payload.len()).expect("room for a digest");
    out.truncate(at + payload.len() + n);
}

/// The bytes of command `cid`'s data.
pub(crate) fn pattern(cid: u16, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + usize::from(cid) * 31).to_le_bytes()[0]).collect()
}

/// A write under way.
struct Write {
    data: Vec<u8>,
    /// What is still to be asked for by R2T, from where on.
    unasked: Option<u32>,
    intact: bool,
}

/// Remembers one buffer per command identifier; reads return the pattern.
pub(crate) struct Target {
    pub(crate) controller: Controller,
    pub(crate) out: Vec<u8>,
    pub(crate) written: Vec<(u16, Vec<u8>, bool)>,
    writes: Vec<Option<Write>>,
    capsule: u16,
}

impl Target {
    pub(crate) fn new(controller: Controller, depth: u16) -> Target {
        let writes = (0..depth).map(|_| None).collect();
        Target { controller, out: Vec::new(), written: Vec::new(), writes, capsule: 0 }
    }

    /// Handles all of one chunk.
    pub(crate) fn feed(&mut self, mut chunk: &[u8]) -> Result<(), Violation> {
        loop {
            let due = self.controller.data_due().filter(|_| !chunk.is_empty());
            let Some(event) = self.controller.receive(&mut chunk)? else { break };
            if let Some(due) = due {
                let ControllerEvent::Data { source, offset, bytes } = event else {
                    panic!("{event:?} instead of {due:?}")
                };
                assert_eq!((source, offset), (DataSource::Transfer(due.token), due.offset));
                assert!(bytes.len() <= usize::try_from(due.left).unwrap());
            }
            match event {
                ControllerEvent::Initialized(_) => {
                    let depth = u16::try_from(self.writes.len()).unwrap();
                    self.controller.set_queue(QueueSettings { in_capsule_bytes: 8192, max_transfers: depth });
                    put(&mut self.out, |out| self.controller.write_ic_resp(out));
                }
                ControllerEvent::Command { sqe, capsule_data } => self.command(&sqe, capsule_data),
                ControllerEvent::Data { source, offset, bytes } => {
                    let at = usize::try_from(offset).unwrap();
                    let cid = self.cid(source);
                    let write = self.writes[usize::from(cid)].as_mut().expect("data only for writes");
                    write.data[at..at + bytes.len()].copy_from_slice(bytes);
                }
                ControllerEvent::DataEnd { source, intact } => self.data_end(source, intact),
                ControllerEvent::Terminated(_) => {}
            }
        }
        assert!(chunk.is_empty(), "None means that the chunk is used up");
        Ok(())
    }

    fn cid(&self, source: DataSource) -> u16 {
        match source {
            DataSource::Capsule => self.capsule,
            DataSource::Transfer(token) => u16::try_from(token).unwrap(),
        }
    }

    fn command(&mut self, sqe: &Sqe, capsule_data: u32) {
        let cid = sqe.cid.get();
        let plan = DataPlan::of(sqe, capsule_data);
        match NvmOpcode(sqe.opcode) {
            NvmOpcode::READ => self.read(cid, plan.unwrap().length()),
            NvmOpcode::WRITE => {
                let plan = plan.unwrap();
                let len = usize::try_from(plan.length()).unwrap();
                let in_capsule = matches!(plan, DataPlan::InCapsule { .. });
                let half = plan.length().div_ceil(2);
                let unasked = (!in_capsule && half < plan.length()).then_some(half);
                self.writes[usize::from(cid)] = Some(Write { data: vec![0; len], unasked, intact: true });
                if in_capsule {
                    self.capsule = cid;
                } else {
                    // Two R2Ts, the second when the first is answered.
                    self.ask(cid, 0, half);
                }
            }
            _ => self.respond(cid, Status::SUCCESS),
        }
    }

    fn ask(&mut self, cid: u16, offset: u32, length: u32) {
        let request = R2tRequest { cid, token: u32::from(cid), offset, length };
        put(&mut self.out, |out| Some(self.controller.write_r2t(out, request).unwrap()));
    }

    fn respond(&mut self, cid: u16, status: Status) {
        put(&mut self.out, |out| self.controller.write_response(out, &Cqe::new(cid, status)));
    }

    /// Two C2HData PDUs, but one for identifier 5; with an odd identifier the last says SUCCESS.
    fn read(&mut self, cid: u16, length: u32) {
        let data = pattern(cid, usize::try_from(length).unwrap());
        let first = if cid == 5 { 0 } else { length / 3 };
        let success = cid % 2 == 1;
        let end = if success { DataEnd::LastAndSuccess } else { DataEnd::Last };
        for (offset, end_at, end) in [(0, first, DataEnd::More), (first, length, end)] {
            if offset == end_at {
                continue;
            }
            let piece = C2hData { cid, offset, length: end_at - offset, end };
            put(&mut self.out, |out| self.controller.write_c2h_data(out, &piece));
            let range = usize::try_from(offset).unwrap()..usize::try_from(end_at).unwrap();
            let controller = &self.controller;
            put_payload(&mut self.out, &data[range], |data, len| controller.finish_data(data, len));
        }
        if !success {
            self.respond(cid, Status::SUCCESS);
        }
    }

    fn data_end(&mut self, source: DataSource, intact: bool) {
        let cid = self.cid(source);
        let write = self.writes[usize::from(cid)].as_mut().expect("data only for writes");
        write.intact &= intact;
        if let Some(offset) = write.unasked.take() {
            let length = u32::try_from(write.data.len()).unwrap() - offset;
            return self.ask(cid, offset, length);
        }
        let write = self.writes[usize::from(cid)].take().expect("looked at above");
        self.respond(cid, if write.intact { Status::SUCCESS } else { Status::TRANSIENT_TRANSPORT_ERROR });
        self.written.push((cid, write.data, write.intact));
    }
}
