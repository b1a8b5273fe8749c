//! The header and the library as a C compiler and a C program see them, against our target.
#![allow(clippy::unwrap_used)] // tests

#[path = "../../initiator/tests/common/mod.rs"]
mod common;
#[path = "../../initiator/tests/common/server.rs"]
mod server;

use common::{Behaviour, PEER, Ram};
use dolmen_initiator_c::types;
use dolmen_io::{Io, PoolConfig, Wait};
use dolmen_nvme::spec::DiscoveryEntry;
use dolmen_types::{Nsid, PgId};
use dolmen_uring::{Uring, UringConfig};
use dolmen_volume::{Notice, NoticeKind};
use server::{SUBSYSTEM, Server, space};
use std::{
    io::{BufRead, BufReader, Read},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, TryRecvError, channel},
    },
    thread::JoinHandle,
};

const VOLUME_BYTES: u64 = 8 << 20;
/// Turns in which the service's log is another one each time it is looked at: more than a reader has patience for.
const CHURN_TURNS: u32 = 200;
const ANYWHERE: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

/// Where cargo puts the library: beside the folder of the tests, or in it.
fn library() -> PathBuf {
    let deps = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let profile = deps.parent().unwrap().to_owned();
    let newest = [profile, deps].into_iter().map(|dir| dir.join("libdolmen_initiator_c.so"));
    newest
        .filter(|file| file.exists())
        .max_by_key(|file| file.metadata().unwrap().modified().unwrap())
        .unwrap()
}

/// Compiles one of the programs beside this file against the header, warnings as errors.
fn compile(source: &str) -> PathBuf {
    let library = library();
    let folder = library.parent().unwrap();
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(source).with_extension("program");
    let status = Command::new("gcc")
        .args(["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g", "-o"])
        .arg(&out)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(source))
        .arg("-I")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("include"))
        .arg(&library)
        .arg(format!("-Wl,-rpath,{}", folder.display()))
        .status();
    assert!(status.expect("gcc is needed").success());
    out
}

/// A target of two paths, and a discovery service that refers to it, in a thread of their own.
struct Fabric {
    thread: JoinHandle<()>,
    orders: Sender<String>,
    target: Vec<SocketAddr>,
    service: SocketAddr,
}

fn io() -> Io {
    let config = UringConfig { pool: PoolConfig::sized(16 << 20), ..UringConfig::default() };
    Io::new(Box::new(Uring::new(&config).unwrap()))
}

impl Fabric {
    fn start() -> Fabric {
        let (orders, taken) = channel();
        let (tell, told) = channel();
        let thread = std::thread::spawn(move || {
            let mut server = Server::start(io(), ANYWHERE.into(), None);
            let mut other = io();
            let target = server.target.config().io_listen.clone();
            let log = log("elsewhere", target[0]);
            let behaviour = Behaviour { discovery: Some(log), ..Behaviour::default() };
            let mut service = Ram::listen(&mut other, ANYWHERE.into(), behaviour);
            tell.send((target, service.addr)).unwrap();
            run(&mut server, (&mut other, &mut service), &taken);
        });
        let (target, service) = told.recv().unwrap();
        Fabric { thread, orders, target, service }
    }

    fn end(self) {
        drop(self.orders);
        self.thread.join().unwrap();
    }
}

/// A subsystem somewhere, twice, and a referral.
fn log(name: &str, referral: SocketAddr) -> Vec<DiscoveryEntry> {
    let nqn = format!("nqn.2014-08.org.example:{name}");
    let entry = common::entry(&nqn, ([192, 0, 2, 1], 4420).into());
    vec![entry, entry, common::referral(referral)]
}

/// Serves until nobody can give orders any more.
fn run(server: &mut Server, (io, service): (&mut Io, &mut Ram), orders: &Receiver<String>) {
    let (mut generation, mut churning) = (1, 0);
    let referral = server.addr;
    loop {
        match orders.try_recv() {
            Ok(order) if order == "churn" => {
                churning = CHURN_TURNS;
                service.set_discovery(log("churned", referral));
            }
            Ok(order) => {
                generation += 1;
                carry_out(server, generation, &order);
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return,
        }
        let until = server.io.now().plus_ms(1);
        server.turn(Wait::Until(until));
        if churning > 0 {
            churning -= 1;
            service.set_discovery_silently(log("churned", referral));
        }
        service.step(io);
        let mut events = Vec::new();
        io.poll(Wait::No, &mut events);
        for (tag, event) in events {
            assert_eq!(tag.owner, PEER);
            service.on_event(io, tag.key, event);
        }
        service.step(io);
        io.submit();
    }
}

/// What a program asks for by saying so.
fn carry_out(server: &mut Server, generation: u64, order: &str) {
    let both = [space(1, VOLUME_BYTES), space(2, VOLUME_BYTES)];
    let larger = [space(1, 2 * VOLUME_BYTES), space(2, VOLUME_BYTES)];
    match order {
        "resize" => server.set(generation, &larger),
        "hide" => server.set(generation, &[]),
        "show" => server.set(generation, &both),
        "move" => {
            let mut moved = (*both[1]).clone();
            moved.pg = PgId(1);
            server.set(generation, &[both[0].clone(), Arc::new(moved)]);
        }
        "preempt" => {
            let Some(registrant) = server.reservations[0].registrants.first() else {
                panic!("nobody is registered")
            };
            let (volume, kind) = (both[0].volume, NoticeKind::ReservationReleased);
            let notice = Notice { volume, nsid: Nsid(1), host: registrant.host, kind };
            server.target.on_notice(&mut server.io, &notice);
        }
        "nobody discovers" => assert!(server.target.hosts().iter().all(|host| !host.discovery)),
        other => panic!("{other}?"),
    }
}

/// Runs a program to its end; what it says before "ok" is carried out.
fn succeed(program: &Path, arguments: &[&str], fabric: &Fabric) {
    let mut child =
        Command::new(program).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut last = String::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        last = line.unwrap();
        if last != "ok" {
            fabric.orders.send(last.clone()).unwrap();
        }
    }
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success() && last == "ok", "{said}");
}

#[test]
fn a_c_program_embeds_the_client_in_its_own_loop() {
    let program = compile("program.c");
    let fabric = Fabric::start();
    let [first, second] = fabric.target[..] else { panic!("{:?}", fabric.target) };
    succeed(&program, &[&first.to_string(), SUBSYSTEM, &second.to_string()], &fabric);
    fabric.end();
}

#[test]
fn a_c_program_discovers_reserves_and_hears_what_changes() {
    let program = compile("fabric.c");
    let fabric = Fabric::start();
    let [first, second] = fabric.target[..] else { panic!("{:?}", fabric.target) };
    // Nobody listens where somebody did until now.
    let nobody = std::net::TcpListener::bind(ANYWHERE).unwrap().local_addr().unwrap();
    let addresses = [fabric.service, first, second, nobody].map(|addr| addr.to_string());
    let [service, first, second, nobody] = &addresses;
    succeed(&program, &[service, first, SUBSYSTEM, second, nobody], &fabric);
    fabric.end();
}

#[test]
fn the_header_and_the_library_agree_and_nothing_happens_without_a_client() {
    let output = Command::new(compile("alone.c")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let sizes: Vec<usize> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    let ours = [
        size_of::<types::COptions>(),
        size_of::<types::CCompletion>(),
        size_of::<types::CNamespace>(),
        size_of::<types::CRange>(),
        size_of::<types::CIdentity>(),
        size_of::<types::CKnownNamespace>(),
        size_of::<types::CNotice>(),
        size_of::<types::CDiscoveryOptions>(),
        size_of::<types::CDiscovered>(),
        size_of::<types::CChange>(),
        size_of::<types::CReservation>(),
        size_of::<types::CRegistrant>(),
        size_of::<types::CPath>(),
        size_of::<types::CAna>(),
        size_of::<types::CStatistics>(),
        size_of::<types::CBucket>(),
    ];
    assert_eq!(sizes, ours);
}

#[test]
fn the_header_is_c_plus_plus_too() {
    for standard in ["-std=c++11", "-std=c++20"] {
        let status = Command::new("g++")
            .args([standard, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", "-x", "c++"])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("include/dolmen_initiator.h"))
            .status();
        assert!(status.expect("g++ is needed").success());
    }
}
