//! Captures of the kernel's host and target (`golden/README.md`): every PDU is understood, means what tshark says it
//! means, and comes out of our encoders with the same bytes.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test may panic and cut")]

mod support;

use dolmen_nvme::spec::{
    AnaGroupDescriptor, AnaLogHeader, AsyncEvent, Capabilities, Cns, ConnectCommand, ConnectData,
    ControllerConfig, CopyCommand, CopyDescriptor, Cqe, DataPlan, DatasetCommand, DiscoveryEntry,
    DiscoveryHeader, DsmRange, EffectsLog, ErrorLogEntry, FirmwareLog, GetLogCommand, IdentifyCommand,
    IdentifyController, IdentifyNamespace, NamespaceIdDescriptor, PropertyGet, PropertySet, RegisterData,
    ReservationCommand, SmartLog, Sqe, Status, feature_select, identify_list, number_of_queues, padded_ascii,
};
use dolmen_nvme::tcp::{
    C2hData, CapsuleCmd, CapsuleResp, CommandData, CommonHeader, Controller, ControllerEvent,
    ControllerOptions, DataEnd, DataHeader, Digests, Host, HostEvent, HostOptions, IcReq, IcResp, PduKind,
    QueueSettings, R2tRequest, flags,
};
use std::{fs, path::PathBuf};
use support::{put, put_payload};
use zerocopy::{FromBytes, IntoBytes};

/// One captured PDU.
struct Capture {
    name: String,
    bytes: Vec<u8>,
    text: Vec<(String, String)>,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn captures() -> Vec<Capture> {
    let manifest = fs::read_to_string(folder().join("MANIFEST")).unwrap();
    let names =
        manifest.lines().filter(|line| !line.starts_with('#')).map(|line| line.split('\t').next().unwrap());
    let all: Vec<_> = names.map(capture).collect();
    assert!(all.len() > 200, "the captures are there");
    all
}

fn capture(name: &str) -> Capture {
    let bytes = fs::read(folder().join(format!("{name}.bin"))).unwrap();
    let text = fs::read_to_string(folder().join(format!("{name}.txt"))).unwrap_or_default();
    let pair = |line: &str| line.split_once(" = ").map(|(k, v)| (k.to_owned(), v.to_owned()));
    Capture { name: name.to_owned(), bytes, text: text.lines().filter_map(pair).collect() }
}

impl Capture {
    fn common(&self) -> CommonHeader {
        CommonHeader::read_from_prefix(&self.bytes).unwrap().0
    }

    fn digests(&self) -> Digests {
        let bits = self.common().flags;
        Digests { header: bits & flags::HEADER_DIGEST != 0, data: bits & flags::DATA_DIGEST != 0 }
    }

    fn pdu<T: FromBytes>(&self) -> T {
        T::read_from_prefix(&self.bytes).unwrap().0
    }

    /// The data, without padding and digest.
    fn data(&self) -> &[u8] {
        let start = usize::from(self.common().data_offset);
        if start == 0 {
            return &[];
        }
        &self.bytes[start..self.bytes.len() - if self.digests().data { 4 } else { 0 }]
    }

    fn page<T: FromBytes>(&self) -> T {
        T::read_from_prefix(self.data()).unwrap().0
    }
}

/// Both ends, connected with the capture's digests, every identifier and tag in reach.
fn connected(digests: Digests) -> (Host, Controller) {
    let mut host = Host::new(HostOptions { digests, alignment: 0, depth: u16::MAX });
    let options = ControllerOptions { digests, alignment: 0, max_h2c_data: 1 << 20 };
    let mut controller = Controller::new(options);
    let mut out = Vec::new();
    put(&mut out, |out| host.write_ic_req(out));
    controller.receive(&mut &out[..]).unwrap().unwrap();
    controller.set_queue(QueueSettings { in_capsule_bytes: 16384, max_transfers: 64 });
    out.clear();
    put(&mut out, |out| controller.write_ic_resp(out));
    host.receive(&mut &out[..]).unwrap().unwrap();
    (host, controller)
}

/// Encodes what the capture says, by the encoder that would send it.
fn encode(capture: &Capture) -> Vec<u8> {
    let (mut host, mut controller) = connected(capture.digests());
    let mut out = Vec::new();
    match PduKind(capture.common().kind) {
        PduKind::IC_REQ => {
            let pdu: IcReq = capture.pdu();
            let digests = Digests::from_bits(pdu.digests);
            let host = Host::new(HostOptions { digests, alignment: pdu.alignment, depth: 1 });
            put(&mut out, |out| host.write_ic_req(out));
        }
        PduKind::IC_RESP => {
            let pdu: IcResp = capture.pdu();
            let digests = Digests::from_bits(pdu.digests);
            let mut controller = Controller::new(ControllerOptions {
                digests,
                alignment: pdu.alignment,
                max_h2c_data: pdu.max_h2c_data.get(),
            });
            let request = IcReq::new(0, digests.bits(), 0);
            controller.receive(&mut request.as_bytes()).unwrap().unwrap();
            put(&mut out, |out| controller.write_ic_resp(out));
        }
        PduKind::CAPSULE_CMD => {
            let sqe = capture.pdu::<CapsuleCmd>().sqe;
            let data = match sqe.data_pointer.kind {
                0x01 => CommandData::WriteInCapsule(sqe.data_pointer.length.get()),
                _ => CommandData::Read(sqe.data_pointer.length.get()),
            };
            put(&mut out, |out| Some(host.write_command(out, &sqe, data).unwrap()));
            put_payload(&mut out, capture.data(), |data, len| host.finish_data(data, len));
        }
        PduKind::CAPSULE_RESP => {
            let cqe = capture.pdu::<CapsuleResp>().cqe;
            put(&mut out, |out| controller.write_response(out, &cqe));
        }
        PduKind::C2H_DATA => {
            let pdu: DataHeader = capture.pdu();
            let end = match pdu.common.flags & (flags::LAST_PDU | flags::SUCCESS) {
                0 => DataEnd::More,
                flags::LAST_PDU => DataEnd::Last,
                _ => DataEnd::LastAndSuccess,
            };
            let piece =
                C2hData { cid: pdu.cid.get(), offset: pdu.offset.get(), length: pdu.length.get(), end };
            put(&mut out, |out| controller.write_c2h_data(out, &piece));
            put_payload(&mut out, capture.data(), |data, len| controller.finish_data(data, len));
        }
        PduKind::R2T => out = ask_until(&mut controller, &capture.pdu()),
        PduKind::H2C_DATA => {
            open_write(&mut host, &mut controller, &capture.pdu());
            let cid = capture.pdu::<DataHeader>().cid.get();
            put(&mut out, |out| Some(host.write_h2c_data(out, cid, u32::MAX).unwrap().header_bytes));
            put_payload(&mut out, capture.data(), |data, len| host.finish_data(data, len));
        }
        other => panic!("{}: no encoder for {other}", capture.name),
    }
    out
}

/// Opens R2Ts until one gets the wanted tag; the bytes of that one.
fn ask_until(controller: &mut Controller, wanted: &DataHeader) -> Vec<u8> {
    loop {
        let mut out = Vec::new();
        let request = R2tRequest {
            cid: wanted.cid.get(),
            token: 77,
            offset: wanted.offset.get(),
            length: wanted.length.get(),
        };
        put(&mut out, |out| Some(controller.write_r2t(out, request).unwrap()));
        if DataHeader::read_from_prefix(&out).unwrap().0.tag == wanted.tag {
            return out;
        }
    }
}

/// The host has sent a write, and the controller asked for the data that the capture carries.
fn open_write(host: &mut Host, controller: &mut Controller, pdu: &DataHeader) {
    assert_eq!(pdu.offset.get(), 0, "the captures hold first PDUs only");
    let mut out = Vec::new();
    let sqe = Sqe::new(1, pdu.cid.get());
    put(&mut out, |out| Some(host.write_command(out, &sqe, CommandData::Write(pdu.length.get())).unwrap()));
    let r2t = ask_until(controller, pdu);
    assert!(matches!(host.receive(&mut &r2t[..]), Ok(Some(HostEvent::SendData { .. }))));
}

#[test]
fn every_capture_is_encoded_to_the_same_bytes() {
    for capture in captures() {
        let ours = encode(&capture);
        assert!(ours == capture.bytes, "{}: {:02x?}", capture.name, &ours[..ours.len().min(128)]);
    }
}

/// Feeds the capture to the end that it was meant for, in chunks of so many bytes; the data that came out.
fn decode(capture: &Capture, chunk_bytes: usize) -> Vec<u8> {
    let kind = PduKind(capture.common().kind);
    let (mut host, mut controller) = connected(capture.digests());
    let mut data = Vec::new();
    let mut events = 0;
    match kind {
        PduKind::IC_REQ => {
            controller = Controller::new(ControllerOptions {
                digests: Digests::BOTH,
                alignment: 0,
                max_h2c_data: 4096,
            })
        }
        PduKind::IC_RESP => host = Host::new(HostOptions { digests: Digests::BOTH, alignment: 0, depth: 1 }),
        PduKind::H2C_DATA => open_write(&mut host, &mut controller, &capture.pdu()),
        PduKind::C2H_DATA | PduKind::R2T => {
            let pdu: DataHeader = capture.pdu();
            let length = pdu.length.get();
            let plan =
                if kind == PduKind::R2T { CommandData::Write(length) } else { CommandData::Read(length) };
            let sqe = Sqe::new(1, pdu.cid.get());
            host.write_command(&mut [0; 200], &sqe, plan).unwrap();
        }
        PduKind::CAPSULE_RESP => {
            let sqe = Sqe::new(1, capture.pdu::<CapsuleResp>().cqe.cid.get());
            host.write_command(&mut [0; 200], &sqe, CommandData::None).unwrap();
        }
        _ => {}
    }
    for mut chunk in capture.bytes.chunks(chunk_bytes) {
        if matches!(kind, PduKind::IC_REQ | PduKind::CAPSULE_CMD | PduKind::H2C_DATA) {
            while let Some(event) = controller.receive(&mut chunk).unwrap() {
                events += 1;
                match event {
                    ControllerEvent::Command { sqe, .. } => assert_eq!(sqe, capture.pdu::<CapsuleCmd>().sqe),
                    ControllerEvent::Data { bytes, .. } => data.extend_from_slice(bytes),
                    ControllerEvent::DataEnd { intact, .. } => assert!(intact, "{}", capture.name),
                    _ => {}
                }
            }
        } else {
            while let Some(event) = host.receive(&mut chunk).unwrap() {
                events += 1;
                match event {
                    HostEvent::Data { bytes, .. } => data.extend_from_slice(bytes),
                    HostEvent::Completion { intact, .. } => assert!(intact, "{}", capture.name),
                    _ => {}
                }
            }
        }
    }
    assert!(events > 0, "{}", capture.name);
    data
}

#[test]
fn every_capture_is_understood() {
    for capture in captures() {
        for chunk_bytes in [usize::MAX, 7] {
            assert!(decode(&capture, chunk_bytes) == capture.data(), "{}", capture.name);
        }
    }
}

/// A number as tshark prints it: decimal, or hexadecimal behind 0x; bytes separated by colons are little-endian.
fn number(text: &str) -> u64 {
    if let Some(hex) = text.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).unwrap();
    }
    if text.contains(':') {
        let bytes: Vec<u8> = text.split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
        return bytes.iter().take(8).rev().fold(0, |sum, b| sum << 8 | u64::from(*b));
    }
    text.parse().unwrap_or_else(|_| panic!("'{text}' is not a number"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":")
}

/// What we say to a field of the common headers; `None` for one that is not there.
fn transport_field(capture: &Capture, field: &str) -> Option<u64> {
    let common = capture.common();
    let data = || capture.pdu::<DataHeader>();
    Some(match field {
        "nvme-tcp.type" => common.kind.into(),
        "nvme-tcp.flags" => common.flags.into(),
        "nvme-tcp.flags.pdu.data_last" => u64::from(common.flags & flags::LAST_PDU != 0),
        "nvme-tcp.flags.pdu.data_success" => u64::from(common.flags & flags::SUCCESS != 0),
        "nvme-tcp.hlen" => common.header_len.into(),
        "nvme-tcp.pdo" => common.data_offset.into(),
        "nvme-tcp.plen" => common.length.get().into(),
        "nvme-tcp.cmd.cid" => data().cid.get().into(),
        "nvme-tcp.ttag" => data().tag.get().into(),
        "nvme-tcp.data.length" | "nvme-tcp.r2t.length" => data().length.get().into(),
        "nvme-tcp.icresp.maxdata" => capture.pdu::<IcResp>().max_h2c_data.get().into(),
        _ => return None,
    })
}

/// The same for the command.
fn command_field(capture: &Capture, field: &str) -> Option<u64> {
    let sqe = capture.pdu::<CapsuleCmd>().sqe;
    let identify = IdentifyCommand::of(&sqe);
    let log = GetLogCommand::of(&sqe);
    let connect = ConnectCommand::of(&sqe);
    Some(match field {
        "nvme.cmd.opc" => sqe.opcode.into(),
        "nvme.cmd.psdt" => sqe.psdt().into(),
        "nvme.cmd.cid" | "nvme.fabrics.cmd.cid" => sqe.cid.get().into(),
        "nvme.cmd.nsid" => sqe.nsid.get().into(),
        "nvme.cmd.sgl.type" => (sqe.data_pointer.kind >> 4).into(),
        "nvme.cmd.sgl.subtype" => (sqe.data_pointer.kind & 0xf).into(),
        "nvme.cmd.sgl1.len" => DataPlan::of(&sqe, capture.data().len() as u32).unwrap().length().into(),
        "nvme.cmd.slba" => sqe.read_write().start,
        "nvme.cmd.nlb" => sqe.read_write().blocks.into(),
        "nvme.cmd.fua" => sqe.read_write().fua.into(),
        "nvme.cmd.dword10" => sqe.cdw10.get().into(),
        "nvme.cmd.dword11" => sqe.cdw11.get().into(),
        "nvme.cmd.dword12" => sqe.cdw12.get().into(),
        "nvme.cmd.identify.dword10.cns" => identify.cns.0.into(),
        "nvme.cmd.identify.dword10.cntid" => identify.controller.into(),
        "nvme.cmd.identify.dwrod11.nvmesetid" => identify.specific.into(),
        "nvme.cmd.get_logpage.dword10.id" => log.unwrap().page.0.into(),
        "nvme.cmd.get_logpage.dword10.rae" => log.unwrap().retain_event.into(),
        "nvme.cmd.get_logpage.numd" => log.unwrap().length / 4 - 1,
        "nvme.cmd.get_logpage.lpo" => log.unwrap().offset,
        "nvme.cmd.get_features.dword10.fid" | "nvme.cmd.set_features.dword10.fid" => {
            feature_select::id(&sqe).0.into()
        }
        "nvme.cmd.set_features.dword11.aec"
        | "nvme.cmd.set_features.dword11.kat.kato"
        | "nvme.cmd.set_features.dword11.nswp.wps"
        | "nvme.cmd.set_features.dword11.pm.ps" => sqe.cdw11.get().into(),
        "nvme.fabrics.cmd.fctype" => sqe.fabrics_type().0.into(),
        "nvme.fabrics.cmd.connect.qid" => connect.queue.into(),
        "nvme.fabrics.cmd.connect.sqsize" => connect.sq_size.into(),
        "nvme.fabrics.cmd.connect.data.cntrlid" => capture.page::<ConnectData>().controller_id.get().into(),
        "nvme.fabrics.cmd.prop_get_set.attrib.size" => PropertyGet::of(&sqe).unwrap().wide.into(),
        "nvme.fabrics.cmd.prop_get_set.offset" => PropertyGet::of(&sqe).unwrap().property.0.into(),
        "nvme.fabrics.prop_get_set.cc" => PropertySet::of(&sqe).unwrap().value,
        "nvme.fabrics.prop_get_set.cc.en" => cc(&sqe).enabled().into(),
        "nvme.fabrics.prop_get_set.cc.css" => cc(&sqe).command_set().into(),
        "nvme.fabrics.prop_get_set.cc.iosqes" => cc(&sqe).sq_entry_size().into(),
        "nvme.fabrics.prop_get_set.cc.iocqes" => cc(&sqe).cq_entry_size().into(),
        _ => return None,
    })
}

fn cc(sqe: &Sqe) -> ControllerConfig {
    ControllerConfig(PropertySet::of(sqe).unwrap().value as u32)
}

/// The same for the response.
fn response_field(capture: &Capture, field: &str) -> Option<u64> {
    let cqe: Cqe = capture.pdu::<CapsuleResp>().cqe;
    let event = AsyncEvent::from_dword(cqe.dw0.get());
    let cap = Capabilities::from_bits(cqe.result());
    let queues = number_of_queues::counts(cqe.dw0.get()).unwrap_or((0, 0));
    Some(match field {
        "nvme.cqe.sqhd" => cqe.sq_head.get().into(),
        "nvme.cqe.sqid" => cqe.sq_id.get().into(),
        "nvme.cqe.cid" => cqe.cid.get().into(),
        "nvme.cqe.status" => cqe.status.get().into(),
        "nvme.cqe.status.sc" => cqe.status().sc().into(),
        "nvme.cqe.status.sct" => cqe.status().sct().into(),
        "nvme.cqe.status.m" => cqe.status().more().into(),
        "nvme.cqe.status.dnr" => cqe.status().dnr().into(),
        "nvme.cqe.dword0.aev" => event.dword().into(),
        "nvme.cqe.dword0.aev.aet" => event.kind.into(),
        "nvme.cqe.dword0.aev.aei" => event.info.into(),
        "nvme.cqe.dword0.aev.lpi" => event.log_page.into(),
        "nvme.cqe.dword0.get_features.kat.kato" => cqe.dw0.get().into(),
        "nvme.cqe.dword0.get_features.nq.nsqa" | "nvme.cqe.dword0.set_features.nq.nsqa" => {
            u64::from(queues.0) - 1
        }
        "nvme.cqe.dword0.get_features.nq.ncqa" | "nvme.cqe.dword0.set_features.ncqa" => {
            u64::from(queues.1) - 1
        }
        "nvme.fabrics.cqe.connect.cntrlid" => {
            dolmen_nvme::spec::connect_response::controller_id(cqe.dw0.get()).into()
        }
        "nvme.fabrics.prop_get_set.data" | "nvme.fabrics.prop_get.ccap" => cqe.result(),
        "nvme.fabrics.prop_get.ccap.mqes" => cap.max_queue_entries.into(),
        "nvme.fabrics.prop_get.ccap.to" => cap.timeout.into(),
        "nvme.fabrics.prop_get.ccap.css" => cap.command_sets.into(),
        _ => return None,
    })
}

/// The same for a controller's data.
fn page_field(capture: &Capture, field: &str) -> Option<u64> {
    let controller = || capture.page::<IdentifyController>();
    let namespace = || capture.page::<IdentifyNamespace>();
    let group =
        || AnaGroupDescriptor::read_from_prefix(&capture.data()[size_of::<AnaLogHeader>()..]).unwrap().0;
    let error = || capture.page::<ErrorLogEntry>();
    let low = |counter: [u8; 16]| u64::from_le_bytes(*counter.first_chunk().unwrap());
    Some(match field {
        "nvme.cmd.identify.ctrl.cntlid" => controller().controller_id.get().into(),
        "nvme.cmd.identify.ctrl.ver" => controller().version.get().into(),
        "nvme.cmd.identify.ctrl.oaes" => controller().async_events.get().into(),
        "nvme.cmd.identify.ctrl.cntrltype" => controller().controller_type.into(),
        "nvme.cmd.identify.ctrl.lpa" => u64::from(controller().log_attributes) >> 2,
        "nvme.cmd.identify.ctrl.lpa.elp" => u64::from(controller().log_attributes >> 2) & 1,
        "nvme.cmd.identify.ctrl.maxcmd" => controller().max_commands.get().into(),
        "nvme.cmd.identify.ctrl.sgls" => controller().sgl_support.get().into(),
        "nvme.cmd.identify.ns.nsze" => namespace().size_blocks.get(),
        "nvme.cmd.identify.ns.ncap" => namespace().capacity_blocks.get(),
        "nvme.cmd.identify.ns.nuse" => namespace().used_blocks.get(),
        "nvme.cmd.identify.ns.nsfeat" => namespace().features.into(),
        "nvme.cmd.identify.ns.nmic" => namespace().sharing.into(),
        "nvme.cmd.identify.ns.lbaf" => {
            u32::from_le_bytes(namespace().formats[0].as_bytes().try_into().unwrap()).into()
        }
        "nvme.cmd.get_logpage.smart.dur" => low(capture.page::<SmartLog>().data_units_read),
        "nvme.cmd.get_logpage.smart.duw" => low(capture.page::<SmartLog>().data_units_written),
        "nvme.cmd.get_logpage.smart.hrc" => low(capture.page::<SmartLog>().host_reads),
        "nvme.cmd.get_logpage.smart.hwc" => low(capture.page::<SmartLog>().host_writes),
        "nvme.cmd.get_logpage.ana.ngd" => capture.page::<AnaLogHeader>().groups.get().into(),
        "nvme.cmd.get_logpage.ana.grp.id" => group().group.get().into(),
        "nvme.cmd.get_logpage.ana.grp.nns" => group().nsids.get().into(),
        "nvme.cmd.get_logpage.ana.grp.anas.state" => group().state().unwrap().code().into(),
        "nvme.cmd.get_logpage.identify.genctr" => capture.page::<DiscoveryHeader>().generation.get(),
        "nvme.cmd.get_logpage.identify.numrec" => capture.page::<DiscoveryHeader>().records.get(),
        "nvme.cmd.get_logpage.errinf.errcnt" => error().count.get(),
        "nvme.cmd.get_logpage.errinf.cid" => error().cid.get().into(),
        "nvme.cmd.get_logpage.errinf.sf" => error().status.get().into(),
        "nvme.cmd.get_logpage.errinf.pel" => error().location.get().into(),
        _ => return None,
    })
}

/// The same for texts.
fn text_field(capture: &Capture, field: &str) -> Option<String> {
    Some(match field {
        "nvme.cmd.identify.ctrl.sn" => padded_ascii(&capture.page::<IdentifyController>().serial),
        "nvme.cmd.identify.ctrl.mn" => padded_ascii(&capture.page::<IdentifyController>().model),
        "nvme.cmd.identify.ctrl.fr" => hex(&capture.page::<IdentifyController>().firmware),
        "nvme.cmd.identify.ctrl.subnqn" => padded_ascii(&capture.page::<IdentifyController>().subsystem_nqn),
        "nvme.cmd.identify.ns.nguid" => hex(&capture.page::<IdentifyNamespace>().nguid),
        "nvme.fabrics.cmd.connect.data.hostid" => hex(&capture.page::<ConnectData>().host_id),
        "nvme.fabrics.cmd.connect.data.subnqn" => padded_ascii(&capture.page::<ConnectData>().subsystem_nqn),
        "nvme.fabrics.cmd.connect.data.hostnqn" => padded_ascii(&capture.page::<ConnectData>().host_nqn),
        _ => return None,
    })
}

#[test]
fn fields_mean_what_tshark_says() {
    let mut compared = 0;
    for capture in captures() {
        for (field, theirs) in &capture.text {
            if let Some(ours) = text_field(&capture, field) {
                assert_eq!(ours, theirs.trim_end(), "{} {field}", capture.name);
                compared += 1;
                continue;
            }
            let ours = transport_field(&capture, field).or_else(|| match PduKind(capture.common().kind) {
                PduKind::CAPSULE_CMD => command_field(&capture, field),
                PduKind::CAPSULE_RESP => response_field(&capture, field),
                PduKind::C2H_DATA => page_field(&capture, field),
                _ => None,
            });
            if let Some(ours) = ours {
                assert_eq!(ours, number(theirs), "{} {field}", capture.name);
                compared += 1;
            }
        }
    }
    assert!(compared > 2000, "only {compared} fields were compared");
}

fn sqe(name: &str) -> Sqe {
    capture(name).pdu::<CapsuleCmd>().sqe
}

/// Commands whose inside tshark doesn't show, against what the capture's script did.
#[test]
fn ranges_and_reservations() {
    let copy = capture("cmd-copy-1");
    let command = CopyCommand::of(&sqe("cmd-copy-1"));
    assert_eq!((command.destination, command.ranges, command.format), (0x80, 2, 0));
    let ranges = <[CopyDescriptor]>::ref_from_bytes(copy.data()).unwrap();
    let ranges: Vec<_> = ranges.iter().map(|range| (range.start.get(), range.blocks())).collect();
    assert_eq!(ranges, [(0, 4), (8, 4)]);

    let dsm = capture("cmd-dataset-management-1");
    let command = DatasetCommand::of(&sqe("cmd-dataset-management-1"));
    assert_eq!(command, DatasetCommand { ranges: 2, deallocate: true });
    assert_eq!(command.data_bytes(), dsm.data().len());
    assert_eq!(<[DsmRange]>::ref_from_bytes(dsm.data()).unwrap().len(), 2);

    let register = capture("cmd-resv-register-1");
    assert_eq!(register.page::<RegisterData>().as_bytes(), register.data());
    assert!(ReservationCommand::of(&sqe("cmd-resv-register-1")).register().is_ok());
    assert!(ReservationCommand::of(&sqe("cmd-resv-acquire-1")).acquire().is_ok());
    let refused = capture("resp-resv-acquire-1").pdu::<CapsuleResp>().cqe.status();
    assert_eq!(refused, Status::INVALID_OPCODE.with_dnr().with_more());
}

/// Pages that tshark reads in part only.
#[test]
fn pages_of_the_kernels_target() {
    let controller: IdentifyController = capture("c2hdata-identify-01-3").page();
    assert_eq!((controller.sq_entry_size, controller.cq_entry_size), (0x66, 0x44));
    assert_eq!((controller.io_command_capsule.get(), controller.io_response_capsule.get()), (68, 1));
    assert_eq!(
        (controller.keep_alive.get(), controller.multipath, controller.namespaces.get()),
        (10, 0xb, 1024)
    );
    assert_eq!((controller.ana_transition_s, controller.ana_capabilities), (10, 0x1f));
    assert_eq!((controller.ana_group_max.get(), controller.ana_groups.get()), (128, 128));
    assert_eq!((controller.optional_nvm.get(), controller.write_cache), (0x0c, 1));
    assert_eq!(padded_ascii(&controller.model), "Linux");
    assert_eq!(controller.sgl_descriptors, 1);

    let namespace: IdentifyNamespace = capture("c2hdata-identify-00-1").page();
    assert_eq!(namespace.block_bytes(), Some(4096));
    assert_eq!(namespace.ana_group.get(), 1);

    let listed = capture("c2hdata-identify-02-1");
    let ids = <[zerocopy::little_endian::U32]>::ref_from_bytes(listed.data()).unwrap();
    assert_eq!(identify_list::namespaces(ids).collect::<Vec<_>>(), [1, 2]);

    let descriptors = capture("c2hdata-identify-03-1");
    let kinds: Vec<_> =
        NamespaceIdDescriptor::list(descriptors.data()).map(|(kind, id)| (kind, id.len())).collect();
    assert!(kinds.contains(&(NamespaceIdDescriptor::UUID, 16)), "{kinds:?}");
    assert_eq!(IdentifyCommand::of(&sqe("cmd-identify-03-1")).cns, Cns::NAMESPACE_DESCRIPTORS);

    assert_eq!(capture("c2hdata-get-log-03-1").data().len(), size_of::<FirmwareLog>());
    let effects: EffectsLog = capture("c2hdata-get-log-05-1").page();
    assert_eq!((effects.io[2].0.get(), effects.io[1].0.get()), (1, 3));
    assert!(capture("c2hdata-get-log-70-1").data().len() == size_of::<DiscoveryEntry>());
}
