//! NBD doors and what stands before and behind them: stock clients, the process of `dolmen export nbd`, a wire that can be cut.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // what one test file does not use; a test that can't go on fails

use super::node::{DOLMEN, Node};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

/// Runs a client that must succeed; its output, or nothing where there is no such program.
pub fn client(words: &[&str]) -> Option<String> {
    let ran = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output();
    let Ok(Output { status, stdout, stderr }) = ran else {
        eprintln!("skipped: there is no {}", words[0]);
        return None;
    };
    let [stdout, stderr] = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(status.success(), "{words:?}: {status}\n{stdout}{stderr}");
    Some(stdout)
}

/// Data with runs of zeroes in it.
pub fn source(path: &Path, mib: usize) {
    let mut x = 1u64;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    let data: Vec<u8> = (0..mib << 20 >> 3)
        .flat_map(|word| if word >> 14 & 3 == 1 { [0; 8] } else { next().to_le_bytes() })
        .collect();
    std::fs::write(path, data).unwrap();
}

pub struct Door {
    pub node: Node,
    pub socket: PathBuf,
}

impl Door {
    pub fn new(more: &[&str]) -> Door {
        let mut node = Node::new();
        let socket = node.drive("nbd.sock");
        let at = format!("unix:{}", socket.display());
        node.start(&["a"], &[&["--nbd", &at], more].concat());
        Door { node, socket }
    }

    pub fn volume(&self, name: &str, acl: &str) -> String {
        let made = self.node.cli(&["volume", "create", name, "--size", "64MiB", "--acl", acl]);
        made["UUID"].as_str().unwrap().to_string()
    }

    pub fn uri(&self, name: &str) -> String {
        uri(&self.socket, name)
    }
}

pub fn uri(socket: &Path, name: &str) -> String {
    format!("nbd+unix:///{name}?socket={}", socket.display())
}

/// `dolmen export nbd` in a process of its own.
pub struct Relay {
    child: Child,
    /// What it said when it was ready.
    pub told: Value,
    socket: PathBuf,
}

impl Relay {
    pub fn start(args: &[&str], socket: &Path) -> Relay {
        let mut command = Command::new(DOLMEN);
        command.args(["--output", "json", "export", "nbd"]).args(args);
        command.args(["--listen", &format!("unix:{}", socket.display())]);
        let log = std::fs::File::create(socket.with_extension("log")).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        // It is one JSON value, and the process goes on.
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let (mut text, mut told) = (String::new(), None);
        while told.is_none() {
            assert!(lines.read_line(&mut text).unwrap() > 0, "it ended; {args:?}: {text}");
            told = serde_json::from_str(&text).ok();
        }
        Relay { child, told: told.unwrap(), socket: socket.into() }
    }

    pub fn uri(&self, name: &str) -> String {
        uri(&self.socket, name)
    }

    /// The addresses of its paths.
    pub fn paths(&self) -> Vec<String> {
        self.told["paths"].as_array().unwrap().iter().map(|at| at.as_str().unwrap().to_string()).collect()
    }

    /// What it said since then.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.socket.with_extension("log")).unwrap()
    }

    pub fn stop(mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success(), "{}", self.said());
        assert!(!self.socket.exists(), "it leaves its socket behind");
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A wire to an address, which can be cut and mended.
pub struct Wire {
    pub addr: SocketAddr,
    state: Arc<WireState>,
}

struct WireState {
    /// Both ends of what goes through it; `None` while it is cut.
    open: Mutex<Option<Vec<TcpStream>>>,
    bytes: AtomicU64,
    /// Directions of conversations that go on.
    carried: AtomicU64,
}

impl Wire {
    pub fn to(target: SocketAddr) -> Wire {
        Wire::at("127.0.0.1:0".parse().unwrap(), target)
    }

    /// One that begins at this address.
    pub fn at(begin: SocketAddr, target: SocketAddr) -> Wire {
        let listener = TcpListener::bind(begin).unwrap();
        let addr = listener.local_addr().unwrap();
        let state = Arc::new(WireState {
            open: Mutex::new(Some(Vec::new())),
            bytes: AtomicU64::new(0),
            carried: AtomicU64::new(0),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let mut open = shared.open.lock().unwrap();
                let Some(ends) = &mut *open else { continue };
                let Ok(far) = TcpStream::connect(target) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let shared = Arc::clone(&shared);
                    shared.carried.fetch_add(1, Ordering::Relaxed);
                    std::thread::spawn(move || {
                        carry(from, to, &shared.bytes);
                        shared.carried.fetch_sub(1, Ordering::Relaxed);
                    });
                }
                ends.extend([near, far]);
            }
        });
        Wire { addr, state }
    }

    /// Bytes that have gone through it.
    pub fn bytes(&self) -> u64 {
        self.state.bytes.load(Ordering::Relaxed)
    }

    /// True when nobody has a connection over it.
    pub fn is_unused(&self) -> bool {
        self.state.carried.load(Ordering::Relaxed) == 0
    }

    /// Everything on it ends, and nothing comes through any more.
    pub fn cut(&self) {
        for end in self.state.open.lock().unwrap().take().into_iter().flatten() {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    pub fn mend(&self) {
        *self.state.open.lock().unwrap() = Some(Vec::new());
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, bytes: &AtomicU64) {
    let mut some = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut some) {
        if to.write_all(&some[..count]).is_err() {
            break;
        }
        bytes.fetch_add(count as u64, Ordering::Relaxed);
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// A client that keeps its connection, and says what it is told to.
pub struct Raw {
    stream: UnixStream,
    /// Bytes of the export when it connected.
    pub size: u64,
}

impl Raw {
    pub fn open(socket: &Path, name: &str) -> Raw {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.read_exact(&mut [0; 18]).unwrap();
        // Fixed newstyle without zeroes; NBD_OPT_EXPORT_NAME.
        let length = u32::try_from(name.len()).unwrap();
        let hello = [&3u32.to_be_bytes()[..], b"IHAVEOPT", &1u32.to_be_bytes(), &length.to_be_bytes()];
        stream.write_all(&[&hello.concat(), name.as_bytes()].concat()).unwrap();
        let mut told = [0; 10];
        stream.read_exact(&mut told).unwrap();
        Raw { stream, size: u64::from_be_bytes(told[..8].try_into().unwrap()) }
    }

    /// Reads (0) or writes (1) 4 KiB; the error of the reply.
    pub fn ask(&mut self, command: u16, offset: u64) -> u32 {
        self.send(command, offset);
        self.answer(command)
    }

    /// The same without waiting for the reply.
    pub fn send(&mut self, command: u16, offset: u64) {
        let head = [&0x2560_9513u32.to_be_bytes()[..], &[0; 2], &command.to_be_bytes(), &7u64.to_be_bytes()];
        let range = [&offset.to_be_bytes()[..], &4096u32.to_be_bytes()];
        let data = if command == 1 { vec![9; 4096] } else { Vec::new() };
        self.stream.write_all(&[head.concat(), range.concat(), data].concat()).unwrap();
    }

    fn answer(&mut self, command: u16) -> u32 {
        let mut reply = [0; 16];
        self.stream.read_exact(&mut reply).unwrap();
        let error = u32::from_be_bytes(reply[4..8].try_into().unwrap());
        if command == 0 && error == 0 {
            self.stream.read_exact(&mut [0; 4096]).unwrap();
        }
        error
    }
}
