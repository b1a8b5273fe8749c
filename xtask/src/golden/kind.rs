//! Gives every PDU of a capture a kind: `cmd-identify-01`, `resp-connect-io`, `c2hdata-read`.
//!
//! Answers name only the command identifier, so the commands of each connection are remembered. This knows
//! just enough of the wire format to find names; it is not the project's codec, on purpose: golden bytes that
//! our own decoder had sorted would prove less.

use std::collections::BTreeMap;

use super::capture::{Pdu, Sender, le32};

/// Remembers commands in flight.
#[derive(Default)]
pub(crate) struct Kinds {
    /// Name of the command by (stream, command identifier).
    commands: BTreeMap<(usize, [u8; 2]), String>,
    /// Whether a stream is the admin queue, once its Connect has been seen.
    admin: BTreeMap<usize, bool>,
}

/// What a PDU is.
#[derive(Debug, Clone)]
pub(crate) struct Kind {
    /// The name of the kind.
    pub(crate) name: String,
    /// The flags byte of the common header; for ICReq and ICResp the digests asked for.
    pub(crate) flags: u8,
    /// What sets PDUs of one kind apart enough to keep both: flags, status, queue, the command's own words.
    pub(crate) variant: Vec<u8>,
    /// Whether header or data digest is on.
    pub(crate) has_digest: bool,
}

/// Flag bits of the common header: header digest, data digest.
const DIGESTS: u8 = 0b11;

impl Kinds {
    /// Names the next PDU; they must come in the order of the capture.
    pub(crate) fn name(&mut self, pdu: &Pdu) -> Kind {
        let (kind, flags, header_len) = (pdu.bytes[0], pdu.bytes[1], usize::from(pdu.bytes[2]));
        let header = pdu.bytes.get(8..header_len.max(8)).unwrap_or_default();
        let flags = if kind < 2 { header.get(3).copied().unwrap_or_default() } else { flags };
        let mut variant = vec![flags];
        let name = match kind {
            0x00 => "icreq".to_owned(),
            0x01 => "icresp".to_owned(),
            0x02 => "h2ctermreq".to_owned(),
            0x03 => "c2htermreq".to_owned(),
            0x04 => {
                let command = self.command(pdu.stream, header);
                // The command without its identifier, and what data follows it.
                variant.extend_from_slice(&header[..2]);
                variant.extend_from_slice(&header[4..]);
                format!("cmd-{command}")
            }
            0x05 => {
                variant.extend_from_slice(&header[14..16]);
                format!("resp-{}", self.of_answer(pdu.stream, &header[12..14]))
            }
            0x06 => format!("h2cdata-{}", self.of_answer(pdu.stream, &header[..2])),
            0x07 => format!("c2hdata-{}", self.of_answer(pdu.stream, &header[..2])),
            0x09 => format!("r2t-{}", self.of_answer(pdu.stream, &header[..2])),
            other => format!("type-{other:02x}"),
        };
        if pdu.sender == Sender::Controller && kind == 0x05 && name == "resp-async-event" {
            // The event's type, detail and log page are in DW0.
            variant.extend_from_slice(&header[..4]);
        }
        if kind < 2 {
            variant.extend_from_slice(header);
        }
        Kind { name, flags, variant, has_digest: flags & DIGESTS != 0 }
    }

    fn of_answer(&self, stream: usize, id: &[u8]) -> String {
        let id = [id[0], id[1]];
        self.commands.get(&(stream, id)).cloned().unwrap_or_else(|| "unknown".to_owned())
    }

    /// Names a submission queue entry and remembers it under its identifier.
    fn command(&mut self, stream: usize, entry: &[u8]) -> String {
        let word10 = le32(&entry[40..]);
        let low = word10 & 0xff;
        let admin = *self.admin.get(&stream).unwrap_or(&true);
        let name = match (entry[0], admin) {
            (0x7f, _) => match entry[4] {
                0x00 => "property-set".to_owned(),
                0x01 => {
                    // Queue identifier: bytes 42 and 43.
                    let is_admin = entry[42] == 0 && entry[43] == 0;
                    self.admin.insert(stream, is_admin);
                    if is_admin { "connect-admin" } else { "connect-io" }.to_owned()
                }
                0x04 => "property-get".to_owned(),
                0x05 => "auth-send".to_owned(),
                0x06 => "auth-receive".to_owned(),
                0x08 => "disconnect".to_owned(),
                other => format!("fabrics-{other:02x}"),
            },
            (0x02, true) => format!("get-log-{low:02x}"),
            (0x06, true) => format!("identify-{low:02x}"),
            (0x08, true) => "abort".to_owned(),
            (0x09, true) => format!("set-features-{low:02x}"),
            (0x0a, true) => format!("get-features-{low:02x}"),
            (0x0c, true) => "async-event".to_owned(),
            (0x18, true) => "keep-alive".to_owned(),
            (opcode, true) => format!("admin-{opcode:02x}"),
            (opcode, false) => match opcode {
                0x00 => "flush".to_owned(),
                0x01 => "write".to_owned(),
                0x02 => "read".to_owned(),
                0x04 => "write-uncorrectable".to_owned(),
                0x05 => "compare".to_owned(),
                0x08 => "write-zeroes".to_owned(),
                0x09 => "dataset-management".to_owned(),
                0x0c => "verify".to_owned(),
                0x0d => "resv-register".to_owned(),
                0x0e => "resv-report".to_owned(),
                0x11 => "resv-acquire".to_owned(),
                0x15 => "resv-release".to_owned(),
                0x19 => "copy".to_owned(),
                other => format!("io-{other:02x}"),
            },
        };
        self.commands.insert((stream, [entry[2], entry[3]]), name.clone());
        name
    }
}
