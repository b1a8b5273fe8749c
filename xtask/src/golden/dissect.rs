//! tshark's reading of a capture, PDU by PDU: the oracle beside the bytes.
//!
//! tshark writes PDML, one XML element a line. A PDU is a `proto` element named `nvme-tcp`; the command or
//! completion inside may follow as a `proto` element named `nvme`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// What tshark says of one PDU.
#[derive(Debug, Clone, Default)]
pub(crate) struct Dissection {
    /// TCP connection, numbered as tshark does.
    pub(crate) stream: usize,
    /// The port it was sent from.
    pub(crate) source_port: u16,
    /// The one-line summary.
    pub(crate) summary: String,
    /// Fields by name, as tshark shows their values; reserved fields and plain zeros are left out.
    pub(crate) fields: Vec<(String, String)>,
    /// Length of the PDU by its own header.
    pub(crate) length: usize,
}

/// Dissects a capture; the PDUs come in the order of the capture's packets.
pub(crate) fn dissect(pcap: &Path, ports: &[u16]) -> Result<Vec<Dissection>> {
    let mut child = tshark(pcap, ports)
        .args(["-T", "pdml", "-Y", "nvme-tcp"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("starting tshark")?;
    let lines = BufReader::new(child.stdout.take().context("tshark's output is a pipe")?).lines();
    let mut reader = Reader::default();
    for line in lines {
        reader.line(&line?);
    }
    if !child.wait()?.success() {
        bail!("tshark failed on {}", pcap.display());
    }
    Ok(reader.done)
}

/// A tshark command line that reads a capture and takes the given ports for NVMe/TCP.
pub(crate) fn tshark(pcap: &Path, ports: &[u16]) -> Command {
    let mut command = Command::new("tshark");
    command.arg("-n").arg("-r").arg(pcap);
    for port in ports {
        command.arg("-d").arg(format!("tcp.port=={port},nvme-tcp"));
    }
    command.stdin(Stdio::null());
    command
}

#[derive(Default)]
struct Reader {
    stream: usize,
    source_port: u16,
    inside: bool,
    done: Vec<Dissection>,
}

impl Reader {
    fn line(&mut self, line: &str) {
        let line = line.trim_start();
        let name = attribute(line, "name").unwrap_or_default();
        if line.starts_with("<packet>") {
            self.inside = false;
        } else if line.starts_with("<proto ") {
            match name.as_str() {
                "nvme-tcp" => {
                    self.inside = true;
                    let summary = attribute(line, "showname").unwrap_or_default();
                    let summary =
                        summary.trim_start_matches("NVM Express Fabrics TCP").trim_start_matches(", ");
                    let (stream, source_port) = (self.stream, self.source_port);
                    let summary = summary.to_owned();
                    self.done.push(Dissection { stream, source_port, summary, ..Dissection::default() });
                }
                "nvme" => {}
                _ => self.inside = false,
            }
        } else if line.starts_with("<field ") {
            let show = attribute(line, "show").unwrap_or_default();
            match name.as_str() {
                "tcp.stream" => self.stream = show.parse().unwrap_or(usize::MAX),
                "tcp.srcport" => self.source_port = show.parse().unwrap_or_default(),
                _ => {}
            }
            if self.inside
                && let Some(pdu) = self.done.last_mut()
            {
                if name == "nvme-tcp.plen" {
                    pdu.length = show.parse().unwrap_or_default();
                }
                if is_telling(&name, &show) {
                    pdu.fields.push((name, show));
                }
            }
        }
    }
}

/// Whether a field is worth keeping: named, not reserved, not zero or empty, not tshark's own notes.
fn is_telling(name: &str, show: &str) -> bool {
    let zero = show.trim_start_matches("0x").chars().all(|c| matches!(c, '0' | ':' | '.'));
    let noise = ["rsvd", "reserved", "cmd_pkt", "cqe_pkt", "cmd_latency", "data_resp", "data_tr", "data.req"];
    !name.is_empty() && !zero && !noise.iter().any(|noise| name.contains(noise))
}

/// The value of an attribute in a line of PDML, with XML's escapes undone.
fn attribute(line: &str, name: &str) -> Option<String> {
    let start = line.find(&format!(" {name}=\""))? + name.len() + 3;
    let end = start + line[start..].find('"')?;
    let text = &line[start..end];
    Some(text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&"))
}

#[cfg(test)]
mod tests {
    use super::{attribute, is_telling};

    #[test]
    fn attributes_are_found_whole() {
        let line = r#"<field name="a.b" showname="A &lt;b&gt;: 3" size="1" show="3" value="03"/>"#;
        assert_eq!(attribute(line, "show").as_deref(), Some("3"));
        assert_eq!(attribute(line, "showname").as_deref(), Some("A <b>: 3"));
        assert_eq!(attribute(line, "pos"), None);
    }

    #[test]
    fn zeros_and_reserved_fields_are_noise() {
        assert!(is_telling("nvme.cmd.nsid", "1"));
        assert!(!is_telling("nvme.cmd.nsid", "0x00000000"));
        assert!(!is_telling("nvme.cmd.rsvd", "7"));
    }
}
