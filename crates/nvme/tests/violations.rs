//! Every way to break the protocol, and the terminate request that answers it: status, information, returned header.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use dolmen_nvme::spec::{Cqe, NvmOpcode, Sqe, Status};
use dolmen_nvme::tcp::{
    CapsuleCmd, CapsuleResp, CommandData, CommonHeader, Controller, ControllerEvent, DataHeader, Digests,
    Fes, Host, HostEvent, IcReq, IcResp, PduKind, R2tError, R2tRequest, TermReqHeader, Violation, flags,
};
use support::{Terms, put};
use zerocopy::{FromBytes, IntoBytes};

/// What the controller says to these bytes, its terminate request checked against it.
fn refused(controller: &mut Controller, bytes: &[u8]) -> (Fes, u32) {
    let mut chunk = bytes;
    let violation = loop {
        match controller.receive(&mut chunk) {
            Err(violation) => break violation,
            Ok(Some(_)) => {}
            Ok(None) => panic!("accepted"),
        }
    };
    let mut out = Vec::new();
    put(&mut out, |out| controller.write_term_req(out, &violation));
    check_term_req(&out, PduKind::C2H_TERM_REQ, &violation, bytes);
    let mut more: &[u8] = &[0; 100];
    assert!(controller.receive(&mut more).unwrap().is_none() && more.is_empty(), "the rest is swallowed");
    assert!(controller.export().is_none());
    (violation.fes, violation.fei)
}

fn refused_by_host(host: &mut Host, bytes: &[u8]) -> (Fes, u32) {
    let mut chunk = bytes;
    let violation = loop {
        match host.receive(&mut chunk) {
            Err(violation) => break violation,
            Ok(Some(_)) => {}
            Ok(None) => panic!("accepted"),
        }
    };
    let mut out = Vec::new();
    put(&mut out, |out| host.write_term_req(out, &violation));
    check_term_req(&out, PduKind::H2C_TERM_REQ, &violation, bytes);
    (violation.fes, violation.fei)
}

fn check_term_req(out: &[u8], kind: PduKind, violation: &Violation, offender: &[u8]) {
    let (header, data) = TermReqHeader::read_from_prefix(out).unwrap();
    assert_eq!(header.common.kind, kind.0);
    assert_eq!(header.common.header_len, 24);
    assert_eq!(usize::try_from(header.common.length.get()).unwrap(), out.len());
    assert_eq!((header.status.get(), header.info.get()), (violation.fes.code(), violation.fei));
    assert!(data.len() >= 8 && data.len() <= 128);
    assert!(offender.windows(data.len()).any(|part| part == data), "the header in error is returned");
}

fn field(offset: u32) -> (Fes, u32) {
    (Fes::InvalidHeaderField, offset)
}

fn plain() -> Controller {
    Terms::PLAIN.connected().1
}

fn command() -> CapsuleCmd {
    CapsuleCmd { common: CommonHeader::new(PduKind::CAPSULE_CMD), sqe: Sqe::new(NvmOpcode::FLUSH.0, 1) }
}

#[test]
fn initialisation() {
    let fresh = || Terms::PLAIN.controller();
    let good = IcReq::new(0, 0, 0);
    let req = |change: fn(&mut IcReq)| {
        let mut pdu = good;
        change(&mut pdu);
        pdu.as_bytes().to_vec()
    };
    assert_eq!(refused(&mut fresh(), &req(|p| p.format = 1.into())), (Fes::UnsupportedParameter, 8));
    assert_eq!(refused(&mut fresh(), &req(|p| p.alignment = 32)), field(10));
    assert_eq!(refused(&mut fresh(), &req(|p| p.common.header_len = 64)), field(2));
    assert_eq!(refused(&mut fresh(), &req(|p| p.common.length = 132.into())), field(4));
    assert_eq!(refused(&mut fresh(), &req(|p| p.common.kind = 0x0a)), field(0));
    assert_eq!(refused(&mut fresh(), &req(|p| p.common.kind = PduKind::IC_RESP.0)), field(0));
    assert_eq!(refused(&mut fresh(), command().as_bytes()), (Fes::PduSequence, 0));
    assert_eq!(refused(&mut plain(), good.as_bytes()), (Fes::PduSequence, 0));
    assert_eq!(refused(&mut fresh(), b"GET / HTTP/1.1\r\n\r\n"), field(0));
}

#[test]
fn command_capsules() {
    let with = |change: fn(&mut CommonHeader)| {
        let mut pdu = command();
        change(&mut pdu.common);
        let mut bytes = pdu.as_bytes().to_vec();
        bytes.resize(9000, 0);
        bytes
    };
    assert_eq!(refused(&mut plain(), &with(|h| h.flags = flags::HEADER_DIGEST)), field(1));
    assert_eq!(refused(&mut plain(), &with(|h| h.header_len = 24)), field(2));
    assert_eq!(refused(&mut plain(), &with(|h| h.length = 71.into())), field(4));
    // PDO 0 means that data follows at once.
    let at_once = with(|h| (h.data_offset, h.length) = (0, 80.into()));
    let event = plain().receive(&mut &at_once[..80]).unwrap().unwrap();
    assert!(matches!(event, ControllerEvent::Command { capsule_data: 8, .. }));
    assert_eq!(refused(&mut plain(), &with(|h| (h.data_offset, h.length) = (72, 71.into()))), field(4));
    assert_eq!(refused(&mut plain(), &with(|h| (h.data_offset, h.length) = (71, 80.into()))), field(3));
    assert_eq!(refused(&mut plain(), &with(|h| (h.data_offset, h.length) = (74, 80.into()))), field(3));
    assert_eq!(refused(&mut plain(), &with(|h| (h.data_offset, h.length) = (76, 76.into()))), field(4));
    let digested =
        |h: &mut CommonHeader| (h.flags, h.data_offset, h.length) = (flags::DATA_DIGEST, 72, 80.into());
    assert_eq!(refused(&mut plain(), &with(digested)), field(1));
    let large = |h: &mut CommonHeader| (h.data_offset, h.length) = (72, (72 + 8193).into());
    assert_eq!(refused(&mut plain(), &with(large)), (Fes::LimitExceeded, 0));
    let huge = |h: &mut CommonHeader| (h.data_offset, h.length) = (72, u32::MAX.into());
    assert_eq!(refused(&mut plain(), &with(huge)), (Fes::LimitExceeded, 0));

    let aligned = Terms { controller_alignment: 31, ..Terms::PLAIN };
    let (_, mut controller) = aligned.connected();
    let at_72 = |h: &mut CommonHeader| (h.data_offset, h.length) = (72, 80.into());
    assert_eq!(refused(&mut controller, &with(at_72)), field(3));
}

#[test]
fn header_digests() {
    let terms = Terms { digests: Digests { header: true, data: false }, ..Terms::PLAIN };
    let (mut host, mut controller) = terms.connected();
    assert_eq!(refused(&mut terms.connected().1, command().as_bytes()), field(1));
    let mut out = Vec::new();
    let sqe = Sqe::new(NvmOpcode::FLUSH.0, 1);
    put(&mut out, |out| Some(host.write_command(out, &sqe, CommandData::None).unwrap()));
    out[40] ^= 1;
    let came = u32::from_le_bytes(*out.last_chunk().unwrap());
    assert_eq!(refused(&mut controller, &out), (Fes::HeaderDigest, came));
}

/// A controller with an R2T open for bytes 1000 to 10,000 of command 5, tag 0.
fn asked() -> Controller {
    let mut controller = plain();
    let request = R2tRequest { cid: 5, token: 1, offset: 1000, length: 9000 };
    controller.write_r2t(&mut [0; 100], request).unwrap();
    controller
}

fn h2c(cid: u16, tag: u16, offset: u32, length: u32, flag_bits: u8) -> Vec<u8> {
    let mut pdu = DataHeader::new(PduKind::H2C_DATA, cid, tag, offset, length);
    pdu.common.flags = flag_bits;
    pdu.common.data_offset = 24;
    pdu.common.length = (24u32.wrapping_add(length)).into();
    let mut bytes = pdu.as_bytes().to_vec();
    bytes.resize(24 + usize::try_from(length).unwrap().min(20_000), 0);
    bytes
}

#[test]
fn data_from_the_host() {
    const LAST: u8 = flags::LAST_PDU;
    let sequence = (Fes::PduSequence, 0);
    let range = (Fes::DataOutOfRange, 0);
    assert_eq!(refused(&mut plain(), &h2c(5, 0, 1000, 100, 0)), field(10), "nothing was asked for");
    assert_eq!(refused(&mut asked(), &h2c(5, 1, 1000, 100, 0)), field(10));
    assert_eq!(refused(&mut asked(), &h2c(5, 0xffff, 1000, 100, 0)), field(10));
    assert_eq!(refused(&mut asked(), &h2c(4, 0, 1000, 100, 0)), field(8));
    assert_eq!(refused(&mut asked(), &h2c(5, 0, 999, 100, 0)), range);
    assert_eq!(refused(&mut asked(), &h2c(5, 0, 9950, 100, 0)), range);
    assert_eq!(refused(&mut asked(), &h2c(5, 0, 9997, 4, 0)), range, "one byte too many");
    assert_eq!(refused(&mut asked(), &h2c(5, 0, u32::MAX, 4, 0)), range);
    assert_eq!(refused(&mut asked(), &h2c(5, 0, 1004, 100, 0)), sequence);
    assert_eq!(refused(&mut asked(), &h2c(5, 0, 1000, 100, LAST)), sequence);
    assert_eq!(refused(&mut asked(), &h2c(5, 0, 1000, 4097, 0)), (Fes::LimitExceeded, 0));
    let mut all = h2c(5, 0, 1000, 4096, 0);
    all.extend(h2c(5, 0, 5096, 4096, 0));
    let mut unlast = all.clone();
    unlast.extend(h2c(5, 0, 9192, 808, 0));
    assert_eq!(refused(&mut asked(), &unlast), sequence, "LAST_PDU is missing");
    all.extend(h2c(5, 0, 9192, 808, LAST));
    let mut twice = all.clone();
    twice.extend(h2c(5, 0, 1000, 100, 0));
    assert_eq!(refused(&mut asked(), &twice), field(10), "the R2T is closed");

    let mut lying = h2c(5, 0, 1000, 100, 0);
    lying[16] = 96;
    assert_eq!(refused(&mut asked(), &lying), field(16));
    let mut empty = h2c(5, 0, 1000, 0, 0);
    empty[3] = 0;
    assert_eq!(refused(&mut asked(), &empty), field(4));

    let mut controller = asked();
    let mut chunk = &all[..];
    let mut last = None;
    while let Some(event) = controller.receive(&mut chunk).unwrap() {
        last = Some(event);
    }
    assert!(matches!(last, Some(ControllerEvent::DataEnd { intact: true, .. })));
    assert_eq!(controller.open_transfers(), 0);
}

#[test]
fn r2ts_are_bounded() {
    let mut controller = plain();
    let mut out = [0; 100];
    let request = |offset, length| R2tRequest { cid: 1, token: 0, offset, length };
    assert_eq!(controller.write_r2t(&mut out, request(0, 0)), Err(R2tError::Range));
    assert_eq!(controller.write_r2t(&mut out, request(u32::MAX, 1)), Err(R2tError::Range));
    assert_eq!(controller.write_r2t(&mut out[..23], request(0, 1)), Err(R2tError::NoRoom));
    for _ in 0..Terms::PLAIN.depth {
        controller.write_r2t(&mut out, request(0, 1)).unwrap();
    }
    assert_eq!(controller.write_r2t(&mut out, request(0, 1)), Err(R2tError::TooMany));
    assert!(controller.export().is_none());
}

#[test]
fn terminate_requests_are_never_answered() {
    let mut pdu = TermReqHeader::read_from_bytes(&[0; 24]).unwrap();
    pdu.common = CommonHeader::new(PduKind::H2C_TERM_REQ);
    pdu.status = 4.into();
    pdu.info = 9.into();
    for length in [24u32, 152, 0, 7, 25, 153, u32::MAX] {
        for header_len in [24, 0, 255] {
            pdu.common.length = length.into();
            pdu.common.header_len = header_len;
            let mut bytes = pdu.as_bytes().to_vec();
            bytes.resize(200, 0xee);
            let mut controller = plain();
            let mut chunk = &bytes[..];
            let event = controller.receive(&mut chunk).unwrap();
            let Some(ControllerEvent::Terminated(reason)) = event else { panic!("{event:?}") };
            let whole = header_len == 24 && length >= 24;
            assert_eq!((reason.code, reason.fei), if whole { (4, 9) } else { (0, 0) });
            assert!(chunk.is_empty());
            assert!(controller.receive(&mut &bytes[..]).unwrap().is_none());
        }
    }
}

/// A host with a read of 1000 bytes (0), a write of 1000 bytes (1) and a flush (2) outstanding.
fn busy() -> Host {
    let (mut host, _) = Terms::PLAIN.connected();
    let mut out = [0; 100];
    let plans = [(0, CommandData::Read(1000)), (1, CommandData::Write(1000)), (2, CommandData::None)];
    for (cid, data) in plans {
        host.write_command(&mut out, &Sqe::new(0, cid), data).unwrap();
    }
    host
}

fn c2h(cid: u16, offset: u32, length: u32, flag_bits: u8) -> Vec<u8> {
    let mut bytes = h2c(cid, 0, offset, length, flag_bits);
    bytes[0] = PduKind::C2H_DATA.0;
    bytes
}

#[test]
fn what_a_controller_can_do_wrong() {
    let sequence = (Fes::PduSequence, 0);
    let range = (Fes::DataOutOfRange, 0);
    let resp = |cid| {
        let common = CommonHeader::new(PduKind::CAPSULE_RESP);
        CapsuleResp { common, cqe: Cqe::new(cid, Status::SUCCESS) }.as_bytes().to_vec()
    };
    let r2t = |cid, offset, length| DataHeader::new(PduKind::R2T, cid, 3, offset, length).as_bytes().to_vec();
    assert_eq!(refused_by_host(&mut busy(), &resp(3)), field(20));
    assert_eq!(refused_by_host(&mut busy(), &resp(9)), field(20));
    assert_eq!(refused_by_host(&mut busy(), &c2h(5, 0, 100, 0)), field(8));
    assert_eq!(refused_by_host(&mut busy(), &c2h(0, 0, 1001, 0)), range);
    assert_eq!(refused_by_host(&mut busy(), &c2h(2, 0, 4, 0)), range);
    assert_eq!(refused_by_host(&mut busy(), &c2h(0, u32::MAX, 4, 0)), range);
    assert_eq!(refused_by_host(&mut busy(), &c2h(0, 4, 100, 0)), sequence);
    assert_eq!(refused_by_host(&mut busy(), &c2h(0, 0, 100, flags::SUCCESS)), field(1));
    let mut after_last = c2h(0, 0, 100, flags::LAST_PDU);
    after_last.extend(c2h(0, 100, 100, flags::LAST_PDU));
    assert_eq!(refused_by_host(&mut busy(), &after_last), sequence);
    assert_eq!(refused_by_host(&mut busy(), &r2t(5, 0, 100)), field(8));
    assert_eq!(refused_by_host(&mut busy(), &r2t(1, 0, 0)), field(16));
    assert_eq!(refused_by_host(&mut busy(), &r2t(1, 0, 1001)), range);
    assert_eq!(refused_by_host(&mut busy(), &r2t(0, 0, 4)), range, "a read");
    assert_eq!(refused_by_host(&mut busy(), &r2t(1, 4, 4)), sequence);
    let two = [r2t(1, 0, 4), r2t(1, 4, 4)].concat();
    assert_eq!(refused_by_host(&mut busy(), &two), (Fes::LimitExceeded, 0));
    assert_eq!(refused_by_host(&mut busy(), command().as_bytes()), field(0));
    let again = IcResp::new(0, 0, 4096);
    assert_eq!(refused_by_host(&mut busy(), again.as_bytes()), sequence);

    let fresh = || Terms::PLAIN.host();
    assert_eq!(refused_by_host(&mut fresh(), IcResp::new(0, 1, 4096).as_bytes()), field(11));
    assert_eq!(refused_by_host(&mut fresh(), IcResp::new(32, 0, 4096).as_bytes()), field(10));
    assert_eq!(refused_by_host(&mut fresh(), IcResp::new(0, 0, 4095).as_bytes()), field(12));
    assert_eq!(refused_by_host(&mut fresh(), &resp(0)), sequence);
}

#[test]
fn a_host_keeps_to_maxh2cdata() {
    let (mut host, _) = Terms::PLAIN.connected();
    let mut out = [0; 100];
    host.write_command(&mut out, &Sqe::new(1, 0), CommandData::Write(5000)).unwrap();
    let r2t = DataHeader::new(PduKind::R2T, 0, 3, 0, 5000);
    host.receive(&mut r2t.as_bytes()).unwrap().unwrap();
    let mut piece = || host.write_h2c_data(&mut out, 0, u32::MAX).map(|p| (p.offset, p.length, p.last));
    assert_eq!([piece(), piece(), piece()], [Some((0, 4096, false)), Some((4096, 904, true)), None]);
}

#[test]
fn a_host_keeps_its_own_rules() {
    use dolmen_nvme::tcp::CommandError::{BadIdentifier, NoRoom, NotReady};
    let mut host = busy();
    let mut out = [0; 100];
    let mut try_command = |host: &mut Host, cid, room: usize| {
        host.write_command(&mut out[..room], &Sqe::new(0, cid), CommandData::None)
    };
    assert_eq!(try_command(&mut host, 1, 100), Err(BadIdentifier));
    assert_eq!(try_command(&mut host, 8, 100), Err(BadIdentifier));
    assert_eq!(try_command(&mut host, 3, 71), Err(NoRoom));
    assert_eq!(try_command(&mut host, 3, 72), Ok(72));
    assert_eq!(try_command(&mut Terms::PLAIN.host(), 0, 100), Err(NotReady));
    assert_eq!(host.outstanding(), 4);
    assert!(host.write_h2c_data(&mut out, 1, 100).is_none(), "nothing was asked for");
    let r2t = DataHeader::new(PduKind::R2T, 1, 3, 0, 1000);
    assert!(matches!(host.receive(&mut r2t.as_bytes()), Ok(Some(HostEvent::SendData { cid: 1 }))));
    assert!(host.write_h2c_data(&mut out, 1, 0).is_none());
    assert!(host.write_h2c_data(&mut out[..20], 1, 100).is_none());
    let first = host.write_h2c_data(&mut out, 1, 600).unwrap();
    assert_eq!((first.offset, first.length, first.last), (0, 600, false));
    let second = host.write_h2c_data(&mut out, 1, 600).unwrap();
    assert_eq!((second.offset, second.length, second.last), (600, 400, true));
    assert!(host.write_h2c_data(&mut out, 1, 600).is_none());
}
