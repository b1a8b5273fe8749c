//! The header and the library as a C compiler and a C program see them, against our target.
#![allow(clippy::unwrap_used)] // tests

#[path = "../../initiator/tests/common/server.rs"]
mod server;

use dolmen_initiator_c as _;
use dolmen_io::{Io, PoolConfig, Wait};
use dolmen_uring::{Uring, UringConfig};
use server::{SUBSYSTEM, Server};
use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc::{TryRecvError, channel},
};

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

/// Compiles a program against the header, warnings as errors.
fn compile(source: &Path, standard: &str, out: &Path) {
    let library = library();
    let folder = library.parent().unwrap();
    let status = Command::new("gcc")
        .args([standard, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g", "-o"])
        .arg(out)
        .arg(source)
        .arg("-I")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("include"))
        .arg(&library)
        .arg(format!("-Wl,-rpath,{}", folder.display()))
        .status();
    assert!(status.expect("gcc is needed").success());
}

#[test]
fn a_c_program_embeds_the_client_in_its_own_loop() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/program.c");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("c-program");
    compile(&source, "-std=c99", &program);
    let (stop, stopped) = channel::<()>();
    let (tell, told) = channel();
    let target = std::thread::spawn(move || {
        let config = UringConfig { pool: PoolConfig::sized(16 << 20), ..UringConfig::default() };
        let io = Io::new(Box::new(Uring::new(&config).unwrap()));
        let mut server = Server::start(io, (Ipv4Addr::LOCALHOST, 0).into(), None);
        tell.send(server.target.config().io_listen.clone()).unwrap();
        while stopped.try_recv() == Err(TryRecvError::Empty) {
            let until = server.io.now().plus_ms(1);
            server.turn(Wait::Until(until));
        }
    });
    let ports = told.recv().unwrap();
    let [first, second] = ports[..] else { panic!("{ports:?}") };
    let arguments = [&first.to_string(), SUBSYSTEM, &second.to_string()];
    let output = Command::new(&program).args(arguments).output().unwrap();
    stop.send(()).unwrap();
    target.join().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && output.stdout == b"ok\n", "{said}");
}
