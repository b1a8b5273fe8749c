//! What the initiator and the target say to each other, as tshark reads it: every command, with and without digests. Left out, and
//! said so, where there is no tshark; `cargo xtask test` installs it.
#![allow(clippy::unwrap_used)] // a test that can't go on fails

mod node;

use dolmen_initiator::{
    AcquireAction, Acquisition, BlockRange, Command, Data, Digests, Options, RegisterAction, Registration,
    Release, ReleaseAction, Resend, ReservationType, blocking::Session,
};
use dolmen_io::Io;
use dolmen_nvme::spec::{AbortCommand, LogId};
use dolmen_types::Uuid;
use dolmen_uring::{Uring, UringConfig};
use node::Node;
use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
};

/// The port that the target's side has in the capture.
const PORT: u16 = 4420;
/// Opcodes of the I/O commands that are said.
const SAID: [u32; 12] = [0x00, 0x01, 0x02, 0x05, 0x08, 0x09, 0x0c, 0x0d, 0x0e, 0x11, 0x15, 0x19];
/// A segment of the capture. Bytes.
const SEGMENT: usize = 16 << 10;

/// A part of what one side of a connection said; empty when it was opened.
struct Heard {
    connection: u16,
    from_host: bool,
    bytes: Vec<u8>,
}

/// A wire that keeps what goes through it.
struct Tap {
    addr: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Tap {
    fn to(target: SocketAddr) -> Tap {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tap = Tap { addr: listener.local_addr().unwrap(), heard: Arc::default() };
        let heard = Arc::clone(&tap.heard);
        std::thread::spawn(move || {
            for (connection, near) in (0..).zip(listener.incoming().map_while(Result::ok)) {
                let far = TcpStream::connect(target).unwrap();
                heard.lock().unwrap().push(Heard { connection, from_host: true, bytes: Vec::new() });
                for (from, to, from_host) in [(&near, &far, true), (&far, &near, false)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let heard = Arc::clone(&heard);
                    std::thread::spawn(move || carry(from, to, (connection, from_host), &heard));
                }
            }
        });
        tap
    }
}

fn carry(
    mut from: TcpStream,
    mut to: TcpStream,
    (connection, from_host): (u16, bool),
    heard: &Mutex<Vec<Heard>>,
) {
    let mut some = vec![0; SEGMENT];
    while let Ok(count @ 1..) = from.read(&mut some) {
        // Kept before it goes on: an answer is behind its question.
        heard.lock().unwrap().push(Heard { connection, from_host, bytes: some[..count].to_vec() });
        if to.write_all(&some[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// A capture file (pcap, Ethernet) of what was heard.
fn capture(heard: &[Heard]) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [0xa1b2_c3d4, 4 << 16 | 2, 0, 0, 1 << 18, 1] {
        out.extend_from_slice(&u32::to_le_bytes(word));
    }
    let mut sequences = vec![[1u32; 2]; heard.len()];
    for (number, part) in (0u32..).zip(heard) {
        let Heard { connection, from_host, bytes } = part;
        let sequence = &mut sequences[usize::from(*connection)];
        let mut packet = |from_host: bool, flags: u8, at: u32, acknowledged: u32, bytes: &[u8]| {
            let frame = frame((*connection, from_host), flags, (at, acknowledged), bytes);
            let length = u32::try_from(frame.len()).unwrap();
            for word in [1_700_000_000, number, length, length] {
                out.extend_from_slice(&word.to_le_bytes());
            }
            out.extend_from_slice(&frame);
        };
        if bytes.is_empty() {
            packet(true, 2, 0, 0, &[]);
            packet(false, 0x12, 0, 1, &[]);
            continue;
        }
        let (mine, other) = (usize::from(!from_host), usize::from(*from_host));
        packet(*from_host, 0x18, sequence[mine], sequence[other], bytes);
        sequence[mine] += u32::try_from(bytes.len()).unwrap();
    }
    out
}

/// One TCP segment over IPv4 over Ethernet; checksums are 0, which tshark takes for offloaded.
fn frame(
    (connection, from_host): (u16, bool),
    flags: u8,
    (at, acknowledged): (u32, u32),
    bytes: &[u8],
) -> Vec<u8> {
    let ends = [([10, 0, 0, 1], 40_000 + connection), ([10, 0, 0, 2], PORT)];
    let [(from, from_port), (to, to_port)] = if from_host { ends } else { [ends[1], ends[0]] };
    let total = u16::try_from(40 + bytes.len()).unwrap();
    [
        &[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0][..],
        &[0x45, 0],
        &total.to_be_bytes(),
        &[0, 0, 0, 0, 64, 6, 0, 0],
        &from,
        &to,
        &from_port.to_be_bytes(),
        &to_port.to_be_bytes(),
        &at.to_be_bytes(),
        &acknowledged.to_be_bytes(),
        &[0x50, flags, 0xff, 0xff, 0, 0, 0, 0],
        bytes,
    ]
    .concat()
}

/// Says everything that there is to say.
fn talk(s: &mut Session, key: u64) {
    let ns = s.namespace(1).unwrap();
    let block = usize::try_from(ns.block_bytes).unwrap();
    let page = |fill: u8| vec![fill; block];
    let range = |lba, blocks| BlockRange { lba, blocks };
    s.write(&ns, 8, &page(3)).unwrap();
    // Longer than a capsule takes: with R2T and H2CData.
    s.write(&ns, 64, &vec![4; 40 * block]).unwrap();
    let mut got = vec![0; 40 * block];
    s.read(&ns, 64, &mut got).unwrap();
    s.compare(&ns, 8, &page(3)).unwrap();
    assert!(s.compare(&ns, 8, &page(9)).is_err());
    s.compare_and_write(&ns, 8, &page(3), &page(5)).unwrap();
    s.copy(&ns, 200, &[range(8, 1), range(64, 3)]).unwrap();
    s.verify(&ns, 200, 4).unwrap();
    s.write_zeroes(&ns, 200, 2).unwrap();
    s.trim(&ns, &[range(64, 4), range(80, 2)]).unwrap();
    s.flush(&ns).unwrap();
    let action = RegisterAction::Register;
    let registration =
        Registration { action, current_key: 0, new_key: key, ignore_current_key: false, persist: None };
    s.register(&ns, &registration).unwrap();
    let kind = ReservationType::WriteExclusive;
    let acquire = Acquisition { action: AcquireAction::Acquire, kind, current_key: key, preempt_key: 0 };
    s.acquire(&ns, &acquire).unwrap();
    assert_eq!(s.reservations(&ns).unwrap().count, 1);
    s.release(&ns, &Release { action: ReleaseAction::Release, kind, current_key: key }).unwrap();
    s.release(&ns, &Release { action: ReleaseAction::Clear, kind, current_key: key }).unwrap();
    let (sqe, data) = (AbortCommand { queue: 1, cid: 77 }.encode(0), Data::None);
    s.execute(Command::Admin { sqe, data, resend: Resend::Never }).unwrap();
    for page in [LogId::SMART, LogId::ANA, LogId::CHANGED_NAMESPACES] {
        s.log_page(page, 512).unwrap();
    }
}

/// Values of a field in the packets that a filter takes, as tshark reads them; `None` where there is no tshark.
fn tshark(pcap: &Path, filter: &str, field: &str) -> Option<Vec<String>> {
    let mut command = std::process::Command::new("tshark");
    command.arg("-n").arg("-r").arg(pcap).args(["-d", &format!("tcp.port=={PORT},nvme-tcp")]);
    let Ok(output) = command.args(["-Y", filter, "-T", "fields", "-e", field]).output() else {
        eprintln!("skipped: there is no tshark");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    Some(text.lines().flat_map(|line| line.split(',')).map(String::from).collect())
}

#[test]
fn tshark_reads_every_command_with_and_without_digests() {
    let mut node = Node::new();
    node.start(&["a"], &[]);
    node.cli(&["volume", "create", "v", "--size", "64MiB", "--acl", "ALLOW_ANY"]);
    let status = node.cli(&["status"]);
    let target = format!("127.0.0.1:{}", status["nvmePort"]).parse().unwrap();
    let nqn = status["subsystemNQN"].as_str().unwrap();
    for (number, digests) in [
        (1u8, Digests::default()),
        (2, Digests { header: true, data: false }),
        (3, Digests { header: true, data: true }),
    ] {
        let tap = Tap::to(target);
        let host = "nqn.2014-08.org.example:host".parse().unwrap();
        let options = Options::new(tap.addr, nqn.parse().unwrap(), host, Uuid::from_random([number; 16]));
        let io = Io::new(Box::new(Uring::new(&UringConfig::default()).unwrap()));
        let mut session = Session::connect(io, Options { digests, ..options }).unwrap();
        talk(&mut session, u64::from(number));
        session.disconnect();
        let pcap = node.drive(&format!("{number}.pcap"));
        std::fs::write(&pcap, capture(&tap.heard.lock().unwrap())).unwrap();
        let Some(malformed) =
            tshark(&pcap, "_ws.malformed || _ws.expert.severity >= 0x600000", "frame.number")
        else {
            return;
        };
        assert_eq!(malformed, Vec::<String>::new(), "{digests:?}: frames of {}", pcap.display());
        let opcodes = tshark(&pcap, "nvme-tcp.cmd.qid == 1", "nvme.cmd.opc").unwrap();
        let opcodes: BTreeSet<u32> = opcodes
            .iter()
            .filter_map(|text| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok())
            .collect();
        assert!(opcodes.is_superset(&SAID.into()), "{digests:?}: {opcodes:x?}");
        let lost = tshark(&pcap, "tcp.analysis.flags", "frame.number").unwrap();
        assert!(lost.is_empty(), "the capture itself is whole: {lost:?}");
    }
}
