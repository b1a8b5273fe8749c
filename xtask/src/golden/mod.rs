//! `cargo xtask golden`: captures the kernel's NVMe/TCP host and target talking to each other in the guest and
//! keeps one PDU of each kind and variant under `crates/nvme/tests/golden`, with tshark's reading beside it.

mod capture;
mod dissect;
mod kind;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use capture::{Pdu, Sender};
pub(crate) use dissect::tshark;
use dissect::{Dissection, dissect};
use kind::{Kind, Kinds};

use crate::vm::{Guest, Options, Work};

/// The ports that `tests/vm/golden.sh` uses.
const PORTS: &[u16] = &[4420, 4421, 8009];

/// How many PDUs of one kind without digests are kept; enough for every status and form that was seen.
const MAX_PER_KIND: usize = 6;

/// PDUs longer than this are kept once per kind.
const LONG_BYTES: usize = 600;

/// Commands whose PDUs are kept with digests too: one for each combination of digests.
const WITH_DIGESTS: &[&str] = &[
    "icreq",
    "icresp",
    "connect-admin",
    "connect-io",
    "property-get",
    "property-set",
    "identify-01",
    "get-log-02",
    "async-event",
    "keep-alive",
    "read",
    "write",
    "dataset-management",
];

/// Nothing longer than this is kept.
const MAX_BYTES: usize = 8 << 10;

/// A PDU chosen to be kept.
struct Golden {
    kind: Kind,
    pdu: Pdu,
    dissection: Dissection,
}

/// Captures, sorts and writes the golden files; with a capture file given, only sorts and writes.
pub(crate) fn golden(series: &str, pcap: Option<&Path>) -> Result<()> {
    crate::packages::ensure_vm_tools()?;
    let work = Work::open()?;
    let fresh = work.dir().join("golden.pcap");
    let pcap = match pcap {
        Some(pcap) => pcap,
        None => {
            record(series, work.dir(), &fresh)?;
            &fresh
        }
    };
    let pdus = capture::pdus(&fs::read(pcap)?, PORTS)?;
    let dissections = dissect(pcap, PORTS)?;
    let chosen = choose(pair(pdus, dissections)?);
    let versions = fs::read_to_string(versions_of(pcap)).unwrap_or_default();
    write_all(&chosen, &versions, &crate::root().join("crates/nvme/tests/golden"))
}

/// The file beside a capture that says which kernel and tools it is of.
fn versions_of(pcap: &Path) -> PathBuf {
    pcap.with_extension("versions")
}

/// Runs `tests/vm/golden.sh` in a guest and keeps its capture.
fn record(series: &str, work: &Path, pcap: &Path) -> Result<()> {
    let options = Options { series: series.to_owned(), ..Options::default() };
    let mut guest = Guest::boot(&options, work)?;
    guest.bring_scripts()?;
    let output = guest.check("sh /share/golden.sh", Duration::from_secs(300))?;
    for (name, to) in [("golden.pcap", pcap.to_owned()), ("golden.versions", versions_of(pcap))] {
        fs::copy(guest.share().join(name), to).with_context(|| format!("no {name}:\n{output}"))?;
    }
    guest.shutdown()
}

/// Brings each PDU together with tshark's reading of it. Both were cut independently, so a difference in their
/// number, order or length means that one of the two is wrong.
fn pair(pdus: Vec<Pdu>, dissections: Vec<Dissection>) -> Result<Vec<(Pdu, Dissection)>> {
    let mut by_half: BTreeMap<(usize, Sender), VecDeque<Dissection>> = BTreeMap::new();
    for dissection in dissections {
        let sender = if PORTS.contains(&dissection.source_port) { Sender::Controller } else { Sender::Host };
        by_half.entry((dissection.stream, sender)).or_default().push_back(dissection);
    }
    let mut pairs = Vec::with_capacity(pdus.len());
    for pdu in pdus {
        let half = by_half.entry((pdu.stream, pdu.sender)).or_default();
        let Some(dissection) = half.pop_front() else {
            bail!("stream {}: tshark sees fewer PDUs than there are", pdu.stream);
        };
        if dissection.length != pdu.bytes.len() {
            bail!("stream {}: tshark reads {} bytes of {}", pdu.stream, dissection.length, pdu.bytes.len());
        }
        pairs.push((pdu, dissection));
    }
    Ok(pairs)
}

/// Keeps one PDU of each kind and variant, within the bounds above.
fn choose(pairs: Vec<(Pdu, Dissection)>) -> Vec<Golden> {
    let mut kinds = Kinds::default();
    let mut seen = BTreeSet::new();
    let mut plain_count: BTreeMap<String, usize> = BTreeMap::new();
    let mut chosen = Vec::new();
    for (pdu, dissection) in pairs {
        let kind = kinds.name(&pdu);
        let is_long = pdu.bytes.len() > LONG_BYTES;
        let command = kind.name.split_once('-').map_or(kind.name.as_str(), |(_, command)| command);
        let in_short = [kind.flags].to_vec();
        let wanted = if pdu.bytes.len() > MAX_BYTES {
            false
        } else if kind.has_digest {
            WITH_DIGESTS.contains(&command) && seen.insert((kind.name.clone(), in_short))
        } else if is_long {
            let flags = if command == "read" { in_short } else { Vec::new() };
            seen.insert((kind.name.clone(), flags))
        } else {
            let count = plain_count.entry(kind.name.clone()).or_default();
            let wanted = *count < MAX_PER_KIND && seen.insert((kind.name.clone(), kind.variant.clone()));
            *count += usize::from(wanted);
            wanted
        };
        if wanted {
            chosen.push(Golden { kind, pdu, dissection });
        }
    }
    chosen.sort_by(|a, b| a.kind.name.cmp(&b.kind.name));
    chosen
}

/// Writes the files and the manifest, in place of what was there.
fn write_all(chosen: &[Golden], versions: &str, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ext| ext == "bin" || ext == "txt") {
            fs::remove_file(path)?;
        }
    }
    let mut manifest = String::new();
    for line in versions.lines() {
        writeln!(manifest, "# captured from {line}")?;
    }
    manifest.push_str("# name\tsender\tbytes\tdigests\tstream\twhat tshark says\n");
    let mut numbers: BTreeMap<&str, u32> = BTreeMap::new();
    let mut total = 0;
    for golden in chosen {
        let number = numbers.entry(&golden.kind.name).or_default();
        *number += 1;
        let name = format!("{}-{number}", golden.kind.name);
        let sender = match golden.pdu.sender {
            Sender::Host => "host",
            Sender::Controller => "controller",
        };
        let digests = if golden.kind.has_digest { "yes" } else { "no" };
        let (bytes, stream) = (&golden.pdu.bytes, golden.pdu.stream);
        let summary = &golden.dissection.summary;
        writeln!(manifest, "{name}\t{sender}\t{}\t{digests}\t{stream}\t{summary}", bytes.len())?;
        fs::write(dir.join(format!("{name}.bin")), bytes)?;
        total += bytes.len();
        if !golden.kind.has_digest {
            let mut text = String::new();
            for (field, value) in &golden.dissection.fields {
                writeln!(text, "{field} = {value}")?;
            }
            fs::write(dir.join(format!("{name}.txt")), &text)?;
            total += text.len();
        }
    }
    fs::write(dir.join("MANIFEST"), &manifest)?;
    println!("{} PDUs of {} kinds, {} KiB, in {}", chosen.len(), numbers.len(), total >> 10, dir.display());
    Ok(())
}
