//! `dolmen demo`: the whole product in a minute, on a machine with nothing set up.
//!
//! Starts a real node in a temporary folder as a child process, makes a volume with the ordinary command line, writes and
//! verifies it over NVMe/TCP with our own initiator while the node is killed and started again, measures, and tells how a
//! real host connects.

/// Tells people. That nobody reads any more is no reason to stop.
macro_rules! say {
    ($($arg:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($arg)*);
    }};
}

mod child;
mod work;

use crate::interrupts;
use child::{Node, run_cli};
use clap::Args;
use dolmen_initiator::{Options, blocking::Session};
use dolmen_io::Io;
use dolmen_types::{Nqn, Uuid, limits::MAX_IO_QUEUES};
use dolmen_uring::{Uring, UringConfig};
use std::{
    error::Error,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

/// The name under which the demo connects.
const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:8d4f2f1c-5e0b-4c39-9a0e-3b1f6a7c2d10";
/// Its host identifier.
const HOST_ID: [u8; 16] = *b"dolmen demo host";

const _: () = assert!(MAX_IO_QUEUES >= 1);

/// Options of the demo.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// End after the measurements instead of serving until Ctrl-C
    #[arg(long)]
    once: bool,

    /// Address to serve on; another machine can connect if it is one of this machine's
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    listen: IpAddr,

    /// Seconds of each measurement
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
}

/// Runs the demo.
pub fn demo(args: &DemoArgs) -> Result<ExitCode, Box<dyn Error>> {
    interrupts::catch()?;
    let folder = tempfile::Builder::new().prefix("dolmen-demo-").tempdir()?;
    say!("Starting a node in {} ...", folder.path().display());
    let mut node = Node::start(folder.path(), args.listen)?;
    let data = node.data_folder();
    run_cli(&data, &["volume", "create", "demo", "--size", "2GiB", "--acl", "ALLOW_ANY"])?;
    let subsystem: Nqn = node.subsystem_nqn()?.parse()?;
    say!("Serving volume 'demo' (2 GiB, thin) on {}.\n", node.address());

    let mut session = connect(node.address(), &subsystem)?;
    let nsid = *session.namespaces()?.first().ok_or("the node shows no namespace")?;
    let namespace = session.namespace(nsid)?;
    work::verify_over_a_kill(&mut session, &namespace, &mut node)?;
    if !interrupts::seen() {
        work::measure(&mut session, &namespace, Duration::from_secs(args.seconds))?;
    }
    let _ = session.disconnect();

    if !args.once && !interrupts::seen() {
        say!("\nTo use the volume from a Linux host:\n");
        run_cli(&data, &["connect-help", "demo"])?;
        say!("\nTo look around, in another terminal:\n");
        say!("    {} --data {} status", child::program()?.display(), data.display());
        say!("\nServing until Ctrl-C. The folder is removed then.");
        while !interrupts::seen() && node.is_running()? {
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    node.stop()?;
    say!("\nThe node has stopped; {} is removed.", folder.path().display());
    Ok(ExitCode::SUCCESS)
}

fn connect(address: SocketAddr, subsystem: &Nqn) -> Result<Session, Box<dyn Error>> {
    let io = Io::new(Box::new(Uring::new(&UringConfig::default())?));
    let mut options = Options::new(address, subsystem.clone(), HOST.parse()?, Uuid::from_random(HOST_ID));
    // A killed node is back within seconds: look often.
    options.reconnect_max_ms = 500;
    Ok(Session::connect(io, options)?)
}
