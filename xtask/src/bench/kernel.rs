//! `cargo xtask bench kernel`: what a command costs our target and the kernel's own, in instructions.
//!
//! A guest with one processor whose clock counts instructions (`-icount shift=0`) runs both targets and our initiator, so
//! the scheduler's nanoseconds are instructions, and repeat to a fraction of a per cent on any machine. Two rules of
//! counting, the same for both: what the target's own threads used (for the kernel's target that is its workers and
//! `ksoftirqd`), and what everything but the client used. TCP's receiving half runs in whoever sends, so each side carries
//! the other's there; it is the same for both targets.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde::{Deserialize, Serialize};

use crate::packages::ensure_vm_tools;
use crate::root;
use crate::sh::run;
use crate::vm::{Guest, Options, Work};

/// The process name of the client.
const CLIENT: &str = "dolmen-bench";
/// Repeats have to agree within this, as a share.
const TOLERANCE: f64 = 0.01;

#[derive(Parser)]
#[command(name = "cargo xtask bench kernel", no_binary_name = true)]
/// Count the instructions of a command at our target and at the kernel's, in an emulated machine.
struct Args {
    /// Kernel series: 6.12 or 6.1.
    #[arg(long, default_value = "6.12")]
    kernel: String,
    /// Connections.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32])]
    connections: Vec<u16>,
    /// Commands under way on each connection.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 32])]
    depth: Vec<u16>,
    /// Commands that are counted, each time.
    #[arg(long, default_value_t = 10_000)]
    commands: u64,
    /// How often each count is taken.
    #[arg(long, default_value_t = 2)]
    repeats: usize,
    /// Only this volume, null or memory, and this shape, read or write.
    #[arg(long, num_args = 2, value_names = ["VOLUME", "SHAPE"])]
    only: Option<Vec<String>>,
    /// Take the release binaries as they are.
    #[arg(long)]
    no_build: bool,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Also put the table into docs/performance.md.
    #[arg(long)]
    docs: bool,
}

/// A target in the guest.
struct Target {
    name: &'static str,
    port: u16,
    subsystem: String,
    /// Process names that are the target's own.
    own: &'static [&'static str],
}

/// What the client in the guest prints.
#[derive(Deserialize)]
struct Counts {
    commands: u64,
    used_ns: BTreeMap<String, u64>,
}

impl Counts {
    /// Instructions per command of the processes that are wanted.
    fn each(&self, wanted: impl Fn(&str) -> bool) -> f64 {
        let used: u64 = self.used_ns.iter().filter(|(name, _)| wanted(name)).map(|(_, ns)| ns).sum();
        used as f64 / self.commands.max(1) as f64
    }
}

/// One load at one target: medians over the repeats, in instructions per command.
#[derive(Serialize)]
struct Count {
    target: &'static str,
    volume: &'static str,
    shape: &'static str,
    depth: u16,
    connections: u16,
    /// By the target's threads.
    target_threads: f64,
    /// By all but the client.
    beside_client: f64,
    /// By the client.
    client: f64,
    /// Largest deviation of a repeat from the median of `beside_client`, as a share.
    deviation: f64,
}

/// Boots, counts, prints.
pub(super) fn bench(words: &[String]) -> Result<()> {
    let args = Args::parse_from(words);
    ensure_vm_tools()?;
    if !args.no_build {
        super::build("dolmen")?;
        super::build("dolmen-bench")?;
    }
    let work = Work::open()?;
    let options = Options {
        series: args.kernel.clone(),
        cpus: 1,
        memory_mib: 2048,
        counts_instructions: true,
        ..Options::default()
    };
    eprintln!("booting Linux {} with a clock that counts instructions", args.kernel);
    let mut guest = Guest::boot(&options, work.dir())?;
    guest.bring_scripts()?;
    for program in ["dolmen", CLIENT] {
        bring(&root().join("target/release").join(program), guest.share())?;
    }
    let targets = [ours(&mut guest)?, kernels(&mut guest)?];
    let release = guest.check("uname -r", Duration::from_secs(60))?.trim().to_owned();
    let counts = count_all(&mut guest, &targets, &args)?;
    guest.shutdown()?;
    let text =
        if args.json { serde_json::to_string_pretty(&counts)? } else { table(&release, &args, &counts) };
    println!("{text}");
    if args.docs { write_to_docs(&table(&release, &args, &counts)) } else { Ok(()) }
}

/// Copies a program, without its debug information, and the libraries that it loads.
fn bring(program: &Path, share: &Path) -> Result<()> {
    let name = program.file_name().context("a program without a name")?;
    run("strip").arg("-o").arg(share.join(name)).arg(program).bytes()?;
    let lib = share.join("lib");
    fs::create_dir_all(&lib)?;
    for library in crate::vm::libraries_of(program)? {
        let name = library.file_name().context("a library without a name")?;
        // The loader itself is the guest's own.
        if !name.to_string_lossy().starts_with("ld-") {
            fs::copy(&library, lib.join(name))?;
        }
    }
    Ok(())
}

fn ours(guest: &mut Guest) -> Result<Target> {
    let status = guest.check("sh /share/daemon.sh", Duration::from_secs(240))?;
    let start = status.find('{').with_context(|| format!("the daemon's status: {status}"))?;
    let status: serde_json::Value = serde_json::from_str(&status[start..]).context("the daemon's status")?;
    let subsystem = crate::scenario::subsystem_in(&status)?;
    Ok(Target { name: "dolmen", port: 4430, subsystem, own: &["dolmen"] })
}

fn kernels(guest: &mut Guest) -> Result<Target> {
    let said = guest.check("sh /share/kernel-target.sh", Duration::from_secs(120))?;
    // The last line, should a module have had something to say.
    let subsystem = said.trim().lines().last().context("no subsystem was named")?.to_owned();
    Ok(Target { name: "nvmet-tcp", port: 4420, subsystem, own: &["kworker", "ksoftirqd"] })
}

fn count_all(guest: &mut Guest, targets: &[Target], args: &Args) -> Result<Vec<Count>> {
    let mut counts = Vec::new();
    for (volume, nsid) in [("null", 1), ("memory", 2)] {
        for shape in ["read", "write"] {
            if args.only.as_ref().is_some_and(|only| only.as_slice() != [volume, shape]) {
                continue;
            }
            for &depth in &args.depth {
                for &connections in &args.connections {
                    for target in targets {
                        let load = Load { volume, nsid, shape, depth, connections };
                        let count = count(guest, target, &load, args)?;
                        eprintln!("{}", line(&count));
                        counts.push(count);
                    }
                }
            }
        }
    }
    Ok(counts)
}

struct Load {
    volume: &'static str,
    nsid: u32,
    shape: &'static str,
    depth: u16,
    connections: u16,
}

fn count(guest: &mut Guest, target: &Target, load: &Load, args: &Args) -> Result<Count> {
    let Load { volume, nsid, shape, depth, connections } = *load;
    let script = format!(
        "/run/{CLIENT} count --target 127.0.0.1:{} --nqn {} --nsid {nsid} --shape {shape} --depth {depth} \
         --connections {connections} --commands {}{}",
        target.port,
        target.subsystem,
        args.commands,
        if volume == "memory" { " --fill" } else { "" }
    );
    let mut taken: Vec<Counts> = Vec::new();
    for _ in 0..args.repeats.max(1) {
        let text = guest.check(&script, Duration::from_secs(300))?;
        taken.push(serde_json::from_str(text.trim()).with_context(|| format!("the client printed: {text}"))?);
    }
    let over = |figure: &dyn Fn(&Counts) -> f64| -> Vec<f64> { taken.iter().map(figure).collect() };
    let beside = over(&|c| c.each(|name| name != CLIENT));
    let beside_client = median(&beside);
    if beside_client <= 0.0 {
        bail!("nothing was counted beside the client: {:?}", taken[0].used_ns);
    }
    Ok(Count {
        target: target.name,
        volume,
        shape,
        depth,
        connections,
        target_threads: median(&over(&|c| c.each(|name| target.own.contains(&name)))),
        beside_client,
        client: median(&over(&|c| c.each(|name| name == CLIENT))),
        deviation: beside.iter().map(|b| (b / beside_client - 1.0).abs()).fold(0.0, f64::max),
    })
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted.get((sorted.len().max(1) - 1) / 2), sorted.get(sorted.len() / 2));
    f64::midpoint(low.copied().unwrap_or(0.0), high.copied().unwrap_or(0.0))
}

fn line(count: &Count) -> String {
    let Count { target, volume, shape, depth, connections, .. } = count;
    format!(
        "{volume:<7} {shape:<6} {depth:>5} {connections:>5}  {target:<10} {:>8.0} {:>9.0} {:>8.0}   {:>5.2} %",
        count.target_threads,
        count.beside_client,
        count.client,
        count.deviation * 100.0
    )
}

/// All counts, and under each pair what the kernel's target takes over what ours takes.
fn table(release: &str, args: &Args, counts: &[Count]) -> String {
    let mut text = format!(
        "cargo xtask bench kernel --kernel {} --commands {} --repeats {}\n\
         Linux {release} in QEMU, one CPU, instructions per 4K command; medians\n\n\
         volume  shape  depth  conn  target      threads  all-client  client  repeats differ\n",
        args.kernel, args.commands, args.repeats
    );
    for pair in counts.chunks(2) {
        for count in pair {
            text.push_str(&line(count));
            text.push('\n');
        }
        if let [ours, kernels] = pair {
            text.push_str(&format!(
                "{:<38} {:>8.2} {:>9.2}   kernel / ours\n",
                "",
                kernels.target_threads / ours.target_threads,
                kernels.beside_client / ours.beside_client
            ));
        }
    }
    let wide = counts.iter().filter(|c| c.deviation > TOLERANCE).count();
    text.push_str(&format!("{wide} of {} counts differ by more than 1 % between repeats", counts.len()));
    text
}

/// Between these lines of performance.md stands the table.
const BEGIN: &str = "<!-- written by cargo xtask bench kernel --docs: begin -->";
const END: &str = "<!-- written by cargo xtask bench kernel --docs: end -->";

fn write_to_docs(table: &str) -> Result<()> {
    let file = root().join("docs/performance.md");
    let text = fs::read_to_string(&file)?;
    let cut = text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = cut.context("docs/performance.md lacks the marks of the kernel's table")?;
    Ok(fs::write(&file, format!("{before}{BEGIN}\n```\n{table}\n```\n{END}{after}"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_shared_out_by_name() {
        let text =
            r#"{"commands":100,"mean_ns":5,"used_ns":{"dolmen":2000,"dolmen-bench":1000,"kworker":300}}"#;
        let counts: Counts = serde_json::from_str(text).expect("what the client prints");
        assert_eq!(counts.each(|name| name == "dolmen"), 20.0);
        assert_eq!(counts.each(|name| name != CLIENT), 23.0);
    }

    #[test]
    fn pairs_are_compared() {
        let count = |target, each| Count {
            target,
            volume: "null",
            shape: "read",
            depth: 32,
            connections: 8,
            target_threads: each,
            beside_client: each,
            client: 1.0,
            deviation: if each > 150.0 { 0.02 } else { 0.0 },
        };
        let args = Args::parse_from(Vec::<String>::new());
        let text = table("6.12.1", &args, &[count("dolmen", 100.0), count("nvmet-tcp", 220.0)]);
        assert!(text.contains("2.20") && text.contains("1 of 2 counts differ"), "{text}");
        assert_eq!(median(&[3.0, 1.0]), 2.0);
    }
}
