//! CPU time: of our own threads, and of the processes that serve the target, where they run on this machine and we may
//! look at them.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

/// The state of a listening socket in /proc/net/tcp.
const LISTENS: &str = "0A";

/// The unit of times in /proc/PID/stat, USER_HZ, which Linux has at 100 a second. Nanoseconds.
const TICK_NS: u64 = 10_000_000;

/// The processes that listen at the targets' addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    processes: Vec<u32>,
    /// Their names, for people.
    pub(super) names: String,
}

impl Peer {
    /// Looks for them; the reason if those of all addresses can't be seen.
    pub(super) fn find(addresses: &[SocketAddr]) -> Result<Peer, String> {
        let tables =
            ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
        let mut processes = Vec::new();
        for &addr in addresses {
            if !is_here(addr.ip()) {
                return Err(format!("{} is on another machine", addr.ip()));
            }
            let sockets: Vec<u64> = tables.iter().flat_map(|table| listeners(table, addr)).collect();
            let found = owners(&sockets);
            if found.is_empty() {
                return Err(format!("no process that we may look at listens at {addr}"));
            }
            processes.extend(found);
        }
        processes.sort_unstable();
        processes.dedup();
        let name = |pid: &u32| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("{} (process {pid})", name.trim())
        };
        let names: Vec<String> = processes.iter().map(name).collect();
        Ok(Peer { processes, names: names.join(", ") })
    }

    /// CPU time that all their threads have had. Nanoseconds; `None` when one of them is gone.
    pub(super) fn cpu_ns(&self) -> Option<u64> {
        self.processes.iter().map(|&pid| process_ns(pid)).sum()
    }
}

/// CPU time that the calling thread has had. Nanoseconds.
pub(super) fn thread_ns() -> Option<u64> {
    schedstat("/proc/thread-self/schedstat")
}

/// CPU time of a process. The threads that live tell it exactly; those that have ended are in the process's own count alone,
/// which has what all of them had, in ticks.
fn process_ns(pid: u32) -> Option<u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let living = threads.filter_map(|thread| schedstat(&thread.path().join("schedstat").to_string_lossy()));
    let living = living.sum();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(ticks(&stat).map_or(living, |ticks| living.max(ticks.saturating_mul(TICK_NS))))
}

/// What a process's stat file says of its CPU time, in user and system mode. Ticks.
fn ticks(stat: &str) -> Option<u64> {
    // The second field is a name that may hold anything; what follows its end begins with the third.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_ascii_whitespace().skip(11);
    Some(times.next()?.parse::<u64>().ok()? + times.next()?.parse::<u64>().ok()?)
}

/// The first number of a schedstat file.
fn schedstat(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

/// True for an address of this machine: what we would send there from is the address itself.
fn is_here(ip: IpAddr) -> bool {
    let any: IpAddr = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let source = || {
        let socket = UdpSocket::bind((any, 0)).ok()?;
        // Sends nothing; asks for the route.
        socket.connect((ip, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    ip.is_loopback() || source() == Some(ip)
}

/// Inodes of the sockets in a table like /proc/net/tcp that listen for `addr`.
fn listeners(table: &str, addr: SocketAddr) -> Vec<u64> {
    let inode = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let (ip, port) = words.get(1)?.split_once(':')?;
        let listens = *words.get(3)? == LISTENS && u16::from_str_radix(port, 16).ok()? == addr.port();
        let local = table_ip(ip)?;
        let here = local.is_unspecified() || local.to_canonical() == addr.ip().to_canonical();
        (listens && here).then(|| words.get(9)?.parse().ok()).flatten().filter(|&inode| inode != 0)
    };
    table.lines().filter_map(inode).collect()
}

/// An address as the kernel prints it: 32-bit words in host order.
fn table_ip(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let octets: [u8; 16] = words.concat().try_into().ok()?;
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

/// Processes that have one of the sockets open.
fn owners(sockets: &[u64]) -> Vec<u32> {
    let wanted: Vec<String> = sockets.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let holds = |pid: &u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_link(file.path()).ok()).any(|link| {
            let link = link.to_string_lossy();
            wanted.iter().any(|socket| *socket == link)
        })
    };
    if wanted.is_empty() {
        return Vec::new();
    }
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(holds).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_process_behind_a_local_address_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = Peer::find(&[listener.local_addr().unwrap(); 2]).unwrap();
        assert_eq!(peer.processes, [std::process::id()]);
        assert!(peer.cpu_ns().unwrap() > 0 && thread_ns().unwrap() > 0);
        assert!(peer.names.contains(&std::process::id().to_string()), "{}", peer.names);
    }

    #[test]
    fn a_thread_that_ended_leaves_its_time_behind() {
        let peer = Peer { processes: vec![std::process::id()], names: String::new() };
        let before = peer.cpu_ns().unwrap();
        let worked = std::thread::spawn(|| {
            // So much CPU time, however long it takes.
            let mut turns = 0u64;
            while thread_ns().is_some_and(|ns| ns < 20 * TICK_NS) {
                turns = std::hint::black_box(turns + 1);
            }
            thread_ns().unwrap_or(0)
        });
        let worked = worked.join().unwrap();
        let after = peer.cpu_ns().unwrap();
        // Both times of the process are cut to whole ticks.
        assert!(after - before + 2 * TICK_NS >= worked, "{before} {after} {worked}");
        assert_eq!(ticks("7 (a b) c) S 1 2 3 4 5 6 7 8 9 10 30 12 0 0"), Some(42));
        assert_eq!(ticks("7 (a"), None);
    }

    #[test]
    fn tables_are_read_as_the_kernel_writes_them() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1144 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0
   1: 0100007F:1144 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0
   2: 00000000:1144 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0
   3: nonsense";
        let at = |addr: &str| listeners(table, addr.parse().unwrap());
        if cfg!(target_endian = "little") {
            assert_eq!(at("127.0.0.1:4420"), [4711, 4713]);
        }
        assert_eq!(at("192.0.2.7:4420"), [4713]);
        assert!(at("127.0.0.1:4421").is_empty());
        assert!(Peer::find(&["192.0.2.7:4420".parse().unwrap()]).is_err());
    }
}
