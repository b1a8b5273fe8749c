//! The discovery service, asked the way the stock clients ask: byte by byte, with what they insist on and what they
//! leave out.
#![allow(clippy::unwrap_used)] // helpers of tests

mod support;

use dolmen_nvme::{
    spec::*,
    tcp::{CapsuleResp, CommonHeader, DataHeader, Digests, IcReq, IcResp, PduKind, flags},
};
use dolmen_types::{Nqn, volume::HostAccess};
use support::*;
use zerocopy::{FromBytes, IntoBytes};

/// A discovery client that writes PDUs by hand: no SGL for Identify, one of 16 bytes for Get Log Page.
struct Client {
    conn: Conn,
    read: usize,
    cid: u16,
}

impl Client {
    fn dial(rig: &mut Rig, port: u16) -> Client {
        let conn = rig.machines[0].dial_raw(server(port));
        let mut client = Client { conn, read: 0, cid: 1 };
        rig.turns(20);
        rig.machines[0].send_raw(conn, IcReq::new(0, 0, 0).as_bytes());
        let (header, rest) = client.pdu(rig);
        assert_eq!((header.kind, header.length.get()), (PduKind::IC_RESP.0, 128));
        let resp = IcResp::read_from_bytes(&[header.as_bytes(), &rest].concat()).unwrap();
        assert_eq!((resp.format.get(), resp.alignment, resp.digests), (0, 0, 0));
        client
    }

    /// The next whole PDU: its common header and the rest.
    fn pdu(&mut self, rig: &mut Rig) -> (CommonHeader, Vec<u8>) {
        for _ in 0..500 {
            let bytes = &rig.machines[0].raw(self.conn)[self.read..];
            if let Ok((header, rest)) = CommonHeader::read_from_prefix(bytes) {
                let body = header.length.get() as usize - 8;
                if rest.len() >= body {
                    let rest = rest[..body].to_vec();
                    self.read += 8 + body;
                    return (header, rest);
                }
            }
            rig.turn();
        }
        panic!("no PDU came");
    }

    fn send(&mut self, rig: &mut Rig, mut sqe: Sqe, sgl: SglDescriptor, data: &[u8]) -> u16 {
        sqe.cid = self.cid.into();
        sqe.data_pointer = sgl;
        self.cid += 1;
        let mut header = CommonHeader::new(PduKind::CAPSULE_CMD);
        header.length = u32::try_from(72 + data.len()).unwrap().into();
        header.data_offset = if data.is_empty() { 0 } else { 72 };
        rig.machines[0].send_raw(self.conn, &[header.as_bytes(), sqe.as_bytes(), data].concat());
        self.cid - 1
    }

    fn completion(&mut self, rig: &mut Rig) -> Cqe {
        let (header, rest) = self.pdu(rig);
        assert_eq!((header.kind, header.flags, header.length.get()), (PduKind::CAPSULE_RESP.0, 0, 24));
        CapsuleResp::read_from_bytes(&[header.as_bytes(), &rest].concat()).unwrap().cqe
    }

    /// One C2HData PDU with PDO 24 and no SUCCESS flag, then a completion of its own.
    fn page(&mut self, rig: &mut Rig, cid: u16, length: usize) -> Vec<u8> {
        let (header, rest) = self.pdu(rig);
        assert_eq!((header.kind, header.data_offset), (PduKind::C2H_DATA.0, 24));
        assert_eq!(header.flags & flags::SUCCESS, 0);
        assert_eq!(header.length.get() as usize, 24 + length);
        let head = DataHeader::read_from_bytes(&[header.as_bytes(), &rest[..16]].concat()).unwrap();
        assert_eq!((head.cid.get(), head.offset.get(), head.length.get() as usize), (cid, 0, length));
        let cqe = self.completion(rig);
        assert_eq!((cqe.cid.get(), cqe.status()), (cid, Status::SUCCESS));
        rest[16..].to_vec()
    }

    fn start(&mut self, rig: &mut Rig, nqn: &str) {
        let connect =
            ConnectCommand { record_format: 0, queue: 0, sq_size: 31, attributes: 0, keep_alive_ms: 0 };
        let data = ConnectData::new([3; 16], 0xffff, Nqn::DISCOVERY, nqn);
        self.send(rig, connect.encode(0), SglDescriptor::in_capsule(1024), data.as_bytes());
        assert!(self.completion(rig).status().is_success());
        let nothing = SglDescriptor::transport(0);
        self.send(rig, PropertyGet { property: Property::CAP, wide: true }.encode(0), nothing, &[]);
        assert!(self.completion(rig).status().is_success());
        let enable = PropertySet { property: Property::CC, wide: false, value: 0x0046_0001 };
        self.send(rig, enable.encode(0), nothing, &[]);
        assert!(self.completion(rig).status().is_success());
        self.send(rig, PropertyGet { property: Property::CSTS, wide: false }.encode(0), nothing, &[]);
        assert_eq!(self.completion(rig).result(), 1);
        let identify =
            IdentifyCommand { cns: Cns(1), controller: 0, specific: 0, command_set: 0, uuid_index: 0 };
        let cid = self.send(rig, identify.encode(0, 0), SglDescriptor::default(), &[]);
        let page = IdentifyController::read_from_bytes(&self.page(rig, cid, 4096)).unwrap();
        assert_eq!(padded_ascii(&page.subsystem_nqn), Nqn::DISCOVERY);
        assert_eq!((page.controller_type, page.async_events.get() >> 31, page.log_attributes & 4), (2, 1, 4));
        let set = feature_select::set(0, 0, FeatureId::ASYNC_EVENT, 0x8000_0000);
        self.send(rig, set, SglDescriptor::default(), &[]);
        assert!(self.completion(rig).status().is_success());
    }

    fn log(&mut self, rig: &mut Rig, offset: u64, length: usize) -> Vec<u8> {
        let command = GetLogCommand {
            page: LogId::DISCOVERY,
            specific: 0,
            retain_event: false,
            length: length as u64,
            offset,
            identifier: 0,
            command_set: 0,
        };
        let cid = self.send(rig, command.encode(0, 0), SglDescriptor::transport(16), &[]);
        self.page(rig, cid, length)
    }

    /// GENCTR and the entries, as the client reads them: header, everything, header again.
    fn discover(&mut self, rig: &mut Rig) -> (u64, Vec<DiscoveryEntry>) {
        let header = DiscoveryHeader::read_from_bytes(&self.log(rig, 0, 1024)).unwrap();
        let n = usize::try_from(header.records.get()).unwrap();
        let all = self.log(rig, 0, 1024 + 1024 * n);
        let again = DiscoveryHeader::read_from_bytes(&self.log(rig, 0, 1024)).unwrap();
        assert_eq!((again.generation, header.format.get()), (header.generation, 0));
        let entries = all[1024..].chunks(1024).map(|e| DiscoveryEntry::read_from_bytes(e).unwrap()).collect();
        (header.generation.get(), entries)
    }

    fn await_event(&mut self, rig: &mut Rig) -> u16 {
        let aer = Sqe::new(AdminOpcode::ASYNC_EVENT_REQUEST.0, 0);
        let cid = self.send(rig, aer, SglDescriptor::default(), &[]);
        rig.turns(20);
        cid
    }
}

#[test]
fn the_stock_client_finds_the_controller_on_either_port() {
    for port in [8009, 4420] {
        let mut rig = Rig::new(1, 1);
        rig.set(&[space(1, 16, only(HOST))]);
        let mut client = Client::dial(&mut rig, port);
        client.start(&mut rig, HOST);
        let (_, entries) = client.discover(&mut rig);
        assert_eq!(entries.len(), 1);
        let e = &entries[0];
        assert_eq!((e.transport, e.family, e.subsystem_type), (3, 1, 2));
        assert_eq!((e.controller_id.get(), e.admin_queue_size.get()), (0xffff, 32));
        assert_eq!(padded_ascii(&e.service).parse::<u16>(), Ok(4420));
        assert_eq!(padded_ascii(&e.address), SERVER.addr().to_string());
        assert_eq!(padded_ascii(&e.subsystem_nqn), SUBSYSTEM);
        // In pieces, by offset.
        assert_eq!(client.log(&mut rig, 1024, 1024), e.as_bytes());
        // A host without a volume gets a page without entries.
        let mut stranger = Client::dial(&mut rig, port);
        stranger.start(&mut rig, OTHER);
        assert_eq!(stranger.discover(&mut rig).1.len(), 0);
    }
}

#[test]
fn a_persistent_client_is_told_and_asks_on_a_second_connection() {
    let mut rig = Rig::new(2, 1);
    rig.set(&[]);
    let mut client = Client::dial(&mut rig, 8009);
    client.start(&mut rig, HOST);
    let (before, entries) = client.discover(&mut rig);
    assert_eq!(entries.len(), 0);
    let cid = client.await_event(&mut rig);
    let one = space(1, 16, only(HOST));
    // Someone else's volume: the counter moves, but no one is told.
    rig.set(&[space(2, 16, only(OTHER))]);
    rig.turns(50);
    assert_eq!(rig.machines[0].raw(client.conn).len(), client.read);
    rig.set(&[std::sync::Arc::clone(&one)]);
    let cqe = client.completion(&mut rig);
    assert_eq!((cqe.cid.get(), cqe.dw0.get()), (cid, 0x0070_f002));
    let mut second = Client::dial(&mut rig, 8009);
    second.start(&mut rig, HOST);
    let (after, entries) = second.discover(&mut rig);
    assert!(after > before && entries.len() == 1);
    let end = PropertySet { property: Property::CC, wide: false, value: 0x0046_4001 };
    second.send(&mut rig, end.encode(0), SglDescriptor::transport(0), &[]);
    assert!(second.completion(&mut rig).status().is_success());
    rig.machines[0].close(second.conn);
    // Armed again, the first one hears of the next change although it never read the page itself.
    let cid = client.await_event(&mut rig);
    rig.set(&[]);
    rig.turns(50);
    let cqe = client.completion(&mut rig);
    assert_eq!((cqe.cid.get(), cqe.dw0.get()), (cid, 0x0070_f002));
}

#[test]
fn without_kato_a_discovery_client_has_two_minutes() {
    let mut rig = Rig::new(3, 1);
    rig.set(&[space(1, 16, HostAccess::Any)]);
    let mut client = Client::dial(&mut rig, 8009);
    client.start(&mut rig, HOST);
    client.await_event(&mut rig);
    let keep_alive = Sqe::new(AdminOpcode::KEEP_ALIVE.0, 0);
    for _ in 0..3 {
        rig.pass_ms(115_000);
        client.send(&mut rig, keep_alive, SglDescriptor::default(), &[]);
        assert!(client.completion(&mut rig).status().is_success());
    }
    rig.pass_ms(119_000);
    assert!(!rig.machines[0].is_gone(client.conn));
    rig.pass_ms(3_000);
    assert!(rig.machines[0].is_gone(client.conn));
}

#[test]
fn a_discovery_controller_has_no_namespaces_queues_or_other_features() {
    let mut rig = Rig::new(4, 1);
    rig.set(&[space(1, 16, HostAccess::Any)]);
    let admin = rig.dial(0, 8009, Digests::BOTH, 32);
    let data = ConnectData::new([0; 16], ConnectData::DYNAMIC, Nqn::DISCOVERY, HOST);
    let done = rig.connect(0, admin, Rig::connect_command(0, 5000), data);
    let ctrl = Ctrl { machine: 0, admin, id: connect_response::controller_id(done.cqe.dw0.get()) };
    rig.enable(&ctrl);
    assert_eq!(rig.active(&ctrl), [0u32; 0]);
    assert_eq!(rig.identify(&ctrl, Cns::NAMESPACE, 1).cqe.status(), Status::INVALID_FIELD.with_dnr());
    assert_eq!(rig.log(&ctrl, LogId::SMART, 0, 512, false).cqe.status(), Status::INVALID_LOG_PAGE.with_dnr());
    let page = rig.log(&ctrl, LogId::DISCOVERY, 0, 2048, false);
    assert!(page.intact && page.cqe.status().is_success() && page.data[1024] == 3);
    let queues = feature_select::set(0, 0, FeatureId::NUMBER_OF_QUEUES, 0);
    assert_eq!(rig.exec(0, admin, queues, Payload::None).cqe.status(), Status::INVALID_FIELD.with_dnr());
    let conn = rig.dial(0, 8009, Digests::NONE, 32);
    let data = ConnectData::new([0; 16], ctrl.id, Nqn::DISCOVERY, HOST);
    let done = rig.connect(0, conn, Rig::connect_command(1, 0), data);
    assert_eq!((done.cqe.status(), done.cqe.dw0.get()), (Status::CONNECT_INVALID_PARAMETERS.with_dnr(), 42));
}

#[test]
fn the_address_told_is_the_one_configured() {
    let advertise = "192.0.2.7".parse().unwrap();
    let change = |config: &mut dolmen_target::TargetConfig| config.advertise = Some(advertise);
    let mut rig = Rig::with(5, 1, change, dolmen_io::PoolConfig::sized(16 << 20));
    rig.set(&[space(1, 16, HostAccess::Any)]);
    let mut client = Client::dial(&mut rig, 8009);
    client.start(&mut rig, HOST);
    assert_eq!(padded_ascii(&client.discover(&mut rig).1[0].address), "192.0.2.7");
}
