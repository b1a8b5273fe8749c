//! Both sides talk to each other in memory, the bytes cut at every position: what is understood must not depend on it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use dolmen_nvme::spec::{Cqe, NvmOpcode, ReadWrite, Sqe, Status};
use dolmen_nvme::tcp::{CommandData, Controller, Digests, Host, HostAnswer, HostEvent};
use support::{Target, Terms, pattern, put, put_payload};

/// How a stream is delivered.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Whole,
    /// Two chunks, cut at this position of the stream.
    At(usize),
    /// Chunks of this many bytes.
    Every(usize),
}

/// Delivers one direction's bytes, cutting at positions of the whole stream.
struct Wire {
    cut: Cut,
    passed: usize,
}

impl Wire {
    fn carry(&mut self, bytes: &[u8], mut deliver: impl FnMut(&[u8])) {
        match self.cut {
            Cut::At(at) if (self.passed..self.passed + bytes.len()).contains(&at) => {
                let (first, second) = bytes.split_at(at - self.passed);
                deliver(first);
                deliver(second);
            }
            Cut::Every(n) => bytes.chunks(n).for_each(deliver),
            _ => deliver(bytes),
        }
        self.passed += bytes.len();
    }
}

/// A host that reads, writes and flushes once each way.
struct Client {
    host: Host,
    out: Vec<u8>,
    read: Vec<(u16, Vec<u8>)>,
    done: Vec<(u16, Status, u32)>,
    /// Takes answers the short way where there is one.
    short: bool,
    /// How many came so, with data and without.
    shortened: [usize; 2],
}

const READ_LEN: usize = 300;
const CAPSULE_LEN: usize = 100;
const WRITE_LEN: usize = 5000;

impl Client {
    fn command(&mut self, opcode: NvmOpcode, cid: u16, data: CommandData) {
        let rw = ReadWrite { blocks: 1, ..ReadWrite::default() };
        let sqe = Sqe::with_read_write(opcode, cid, 1, rw);
        put(&mut self.out, |out| Some(self.host.write_command(out, &sqe, data).unwrap()));
        if let CommandData::WriteInCapsule(len) = data {
            let host = &self.host;
            let payload = pattern(cid, usize::try_from(len).unwrap());
            put_payload(&mut self.out, &payload, |data, len| host.finish_data(data, len));
        }
    }

    fn go(&mut self) {
        let len = |n: usize| u32::try_from(n).unwrap();
        self.command(NvmOpcode::READ, 0, CommandData::Read(len(READ_LEN)));
        self.command(NvmOpcode::WRITE, 2, CommandData::WriteInCapsule(len(CAPSULE_LEN)));
        self.command(NvmOpcode::WRITE, 3, CommandData::Write(len(WRITE_LEN)));
        self.command(NvmOpcode::READ, 1, CommandData::Read(len(READ_LEN)));
        self.command(NvmOpcode::FLUSH, 4, CommandData::None);
        self.command(NvmOpcode::READ, 5, CommandData::Read(len(READ_LEN)));
    }

    fn feed(&mut self, mut chunk: &[u8]) {
        loop {
            while self.short
                && let Some(HostAnswer { cqe, received, intact, data }) = self.host.take_answer(&mut chunk)
            {
                assert!(intact);
                let cid = cqe.cid.get();
                if !data.is_empty() {
                    self.read.push((cid, data.to_vec()));
                }
                self.done.push((cid, cqe.status(), received));
                self.shortened[usize::from(data.is_empty())] += 1;
            }
            let Some(event) = self.host.receive(&mut chunk).unwrap() else { break };
            match event {
                HostEvent::Initialized(_) => self.go(),
                HostEvent::Data { cid, offset, bytes } => {
                    if !self.read.iter().any(|(c, _)| *c == cid) {
                        self.read.push((cid, Vec::new()));
                    }
                    let data = &mut self.read.iter_mut().find(|(c, _)| *c == cid).unwrap().1;
                    assert_eq!(data.len(), usize::try_from(offset).unwrap());
                    data.extend_from_slice(bytes);
                }
                HostEvent::SendData { cid } => self.send(cid),
                HostEvent::Completion { cqe, received, intact } => {
                    assert!(intact);
                    self.done.push((cqe.cid.get(), cqe.status(), received));
                }
                HostEvent::Terminated(reason) => panic!("{reason}"),
            }
        }
        assert!(chunk.is_empty());
    }

    fn send(&mut self, cid: u16) {
        let data = pattern(cid, WRITE_LEN);
        loop {
            let mut piece = None;
            put(&mut self.out, |out| {
                piece = self.host.write_h2c_data(out, cid, 1000);
                piece.map_or(Some(0), |p| Some(p.header_bytes))
            });
            let Some(piece) = piece else { return };
            let at = usize::try_from(piece.offset).unwrap();
            let payload = &data[at..at + usize::try_from(piece.length).unwrap()];
            let host = &self.host;
            put_payload(&mut self.out, payload, |data, len| host.finish_data(data, len));
        }
    }
}

/// Runs the whole conversation, with and without the short way for answers; how many bytes each way.
fn converse(terms: Terms, to_target: Cut, to_host: Cut) -> (usize, usize) {
    let (there, back, _) = run(terms, (to_target, to_host), true);
    assert_eq!(run(terms, (to_target, to_host), false), (there, back, [0; 2]));
    (there, back)
}

/// The same, and how many answers came the short way, with data and without.
fn run(terms: Terms, (to_target, to_host): (Cut, Cut), short: bool) -> (usize, usize, [usize; 2]) {
    let (out, read, done) = (Vec::new(), Vec::new(), Vec::new());
    let mut client = Client { host: terms.host(), out, read, done, short, shortened: [0; 2] };
    let mut target = Target::new(terms.controller(), terms.depth);
    let mut there = Wire { cut: to_target, passed: 0 };
    let mut back = Wire { cut: to_host, passed: 0 };
    put(&mut client.out, |out| client.host.write_ic_req(out));
    while !client.out.is_empty() || !target.out.is_empty() {
        let bytes = std::mem::take(&mut client.out);
        there.carry(&bytes, |chunk| target.feed(chunk).unwrap());
        let bytes = std::mem::take(&mut target.out);
        back.carry(&bytes, |chunk| client.feed(chunk));
    }
    assert_eq!(client.read, [0, 1, 5].map(|cid| (cid, pattern(cid, READ_LEN))));
    assert_eq!(target.written, [(2, pattern(2, CAPSULE_LEN), true), (3, pattern(3, WRITE_LEN), true)]);
    client.done.sort_by_key(|done| done.0);
    let ok = Status::SUCCESS;
    assert_eq!(client.done, [(0, ok, 300), (1, ok, 300), (2, ok, 0), (3, ok, 0), (4, ok, 0), (5, ok, 300)]);
    assert_eq!((client.host.outstanding(), target.controller.open_transfers()), (0, 0));
    assert!(target.controller.export().is_some());
    (there.passed, back.passed, client.shortened)
}

fn all_terms() -> Vec<Terms> {
    let mut all = Vec::new();
    for (header, data) in [(false, false), (true, false), (false, true), (true, true)] {
        for (host_alignment, controller_alignment) in [(0, 0), (1, 31), (31, 7)] {
            let digests = Digests { header, data };
            all.push(Terms { digests, host_alignment, controller_alignment, depth: 8 });
        }
    }
    all
}

#[test]
fn every_cut_position_gives_the_same_conversation() {
    for terms in all_terms() {
        let (there, back) = converse(terms, Cut::Whole, Cut::Whole);
        for at in 0..there {
            converse(terms, Cut::At(at), Cut::Whole);
        }
        for at in 0..back {
            converse(terms, Cut::Whole, Cut::At(at));
        }
    }
}

#[test]
fn small_chunks_give_the_same_conversation() {
    for terms in all_terms() {
        for n in [1, 2, 3, 5, 7, 8, 9, 23, 24, 25, 71, 72, 73, 127, 129, 1000] {
            converse(terms, Cut::Every(n), Cut::Every(n));
        }
    }
}

#[test]
fn only_whole_answers_without_digests_go_the_short_way() {
    for terms in all_terms() {
        let usual = terms.digests == Digests::NONE && terms.host_alignment == 0;
        let (_, _, whole) = run(terms, (Cut::Whole, Cut::Whole), true);
        assert_eq!(whole.map(|count| count > 0), [usual; 2], "{terms:?}");
        assert_eq!(run(terms, (Cut::Whole, Cut::Every(20)), true).2, [0; 2]);
        assert_eq!(run(terms, (Cut::Whole, Cut::Every(100)), true).2[0], 0);
    }
}

#[test]
fn an_answer_to_nothing_is_not_taken_the_short_way() {
    let (mut host, controller) = Terms::PLAIN.connected();
    let mut reply = Vec::new();
    put(&mut reply, |out| controller.write_response(out, &Cqe::new(1, Status::SUCCESS)));
    let mut chunk = &reply[..];
    assert_eq!((host.take_answer(&mut chunk), chunk.len()), (None, reply.len()));
    assert!(host.receive(&mut chunk).is_err());
}

#[test]
fn many_commands_in_one_chunk() {
    let (mut host, mut controller) = Terms { depth: 32, ..Terms::PLAIN }.connected();
    let mut out = Vec::new();
    for cid in 0..32 {
        let sqe =
            Sqe::with_read_write(NvmOpcode::READ, cid, 1, ReadWrite { blocks: 1, ..ReadWrite::default() });
        put(&mut out, |out| Some(host.write_command(out, &sqe, CommandData::Read(4096)).unwrap()));
    }
    assert_eq!(out.len(), 32 * 72);
    let mut chunk = &out[..];
    for cid in 0..32 {
        let event = controller.receive(&mut chunk).unwrap().unwrap();
        let dolmen_nvme::tcp::ControllerEvent::Command { sqe, capsule_data: 0 } = event else {
            panic!("{event:?}")
        };
        assert_eq!(sqe.cid.get(), cid);
    }
    assert!(controller.receive(&mut chunk).unwrap().is_none());
}

#[test]
fn a_connection_moves_to_another_process() {
    for terms in all_terms() {
        let (mut host, controller) = terms.connected();
        let state = controller.export().unwrap();
        let mut controller = Controller::import(&state).unwrap();
        assert_eq!(controller.export(), Some(state));
        assert_eq!(controller.negotiated(), host.negotiated());
        let mut out = Vec::new();
        let sqe = Sqe::new(NvmOpcode::FLUSH.0, 1);
        put(&mut out, |out| Some(host.write_command(out, &sqe, CommandData::None).unwrap()));
        let mut first = &out[..20];
        assert!(controller.receive(&mut first).unwrap().is_none());
        assert!(controller.export().is_none(), "a PDU is under way");
        let mut rest = &out[20..];
        assert!(controller.receive(&mut rest).unwrap().is_some());
        assert!(controller.export().is_some());
        let mut reply = Vec::new();
        put(&mut reply, |out| controller.write_response(out, &Cqe::new(1, Status::SUCCESS)));
        assert!(matches!(host.receive(&mut &reply[..]), Ok(Some(HostEvent::Completion { .. }))));
    }
    let (_, controller) = Terms::PLAIN.connected();
    let mut state = controller.export().unwrap();
    state.version = 2.into();
    assert!(Controller::import(&state).is_err());
}

#[test]
fn wrong_data_digests_fail_the_command_only() {
    let terms = Terms { digests: Digests::BOTH, ..Terms::PLAIN };
    let (host, controller) = terms.connected();
    let (out, read, done) = (Vec::new(), Vec::new(), Vec::new());
    let mut client = Client { host, out, read, done, short: true, shortened: [0; 2] };
    let mut target = Target::new(controller, terms.depth);
    client.command(NvmOpcode::WRITE, 2, CommandData::WriteInCapsule(64));
    let last = client.out.len() - 1;
    client.out[last] ^= 1;
    client.command(NvmOpcode::WRITE, 3, CommandData::WriteInCapsule(64));
    target.feed(&std::mem::take(&mut client.out)).unwrap();
    client.feed(&std::mem::take(&mut target.out));
    assert_eq!(client.done, [(2, Status::TRANSIENT_TRANSPORT_ERROR, 0), (3, Status::SUCCESS, 0)]);
    assert_eq!(target.written, [(2, pattern(2, 64), false), (3, pattern(3, 64), true)]);

    // A flipped byte of the first of an R2T's PDUs is remembered to its end.
    client.command(NvmOpcode::WRITE, 3, CommandData::Write(5000));
    target.feed(&std::mem::take(&mut client.out)).unwrap();
    client.feed(&std::mem::take(&mut target.out));
    client.out[500] ^= 0x80;
    while !client.out.is_empty() {
        target.feed(&std::mem::take(&mut client.out)).unwrap();
        client.feed(&std::mem::take(&mut target.out));
    }
    assert_eq!(client.done[2], (3, Status::TRANSIENT_TRANSPORT_ERROR, 0));

    // On the host's side likewise: the completion says that the data is not to be used.
    client.command(NvmOpcode::READ, 1, CommandData::Read(300));
    target.feed(&std::mem::take(&mut client.out)).unwrap();
    let mut bytes = std::mem::take(&mut target.out);
    bytes[60] ^= 4;
    let mut chunk = &bytes[..];
    let mut verdicts = Vec::new();
    while let Some(event) = client.host.receive(&mut chunk).unwrap() {
        if let HostEvent::Completion { intact, .. } = event {
            verdicts.push(intact);
        }
    }
    assert_eq!(verdicts, [false]);
}
