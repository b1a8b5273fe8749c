//! Reads a capture file (pcap, Ethernet) and cuts its TCP streams into NVMe/TCP PDUs.
//!
//! The captures are of a loopback, so segments arrive in order; one that comes again is dropped, one that is
//! missing is an error.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

/// Who sent a PDU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sender {
    /// The NVMe host.
    Host,
    /// The controller.
    Controller,
}

/// One PDU of a capture.
#[derive(Debug, Clone)]
pub(crate) struct Pdu {
    /// The TCP connection: numbered from zero in the order of their SYNs, as tshark numbers them.
    pub(crate) stream: usize,
    /// Who sent it.
    pub(crate) sender: Sender,
    /// All bytes, from the common header to the last digest.
    pub(crate) bytes: Vec<u8>,
}

/// Cuts a capture into PDUs, in the order in which their last bytes were seen.
pub(crate) fn pdus(pcap: &[u8], ports: &[u16]) -> Result<Vec<Pdu>> {
    let mut streams = Streams { ports, numbers: BTreeMap::new(), halves: BTreeMap::new(), count: 0 };
    let mut found = Vec::new();
    for packet in Packets::open(pcap)? {
        if let Some(segment) = Segment::parse(packet?) {
            streams.take(&segment, &mut found)?;
        }
    }
    Ok(found)
}

/// Iterator over the packets of a little-endian pcap file (libpcap's classic format).
struct Packets<'a> {
    rest: &'a [u8],
}

impl<'a> Packets<'a> {
    fn open(pcap: &'a [u8]) -> Result<Self> {
        // magic (4), version (4), zone and accuracy (8), snap length (4), link type (4).
        let (header, rest) = pcap.split_at_checked(24).context("capture without a header")?;
        if header[..4] != 0xa1b2_c3d4_u32.to_le_bytes() || header[20..24] != 1_u32.to_le_bytes() {
            bail!("not a little-endian Ethernet capture with microseconds");
        }
        Ok(Self { rest })
    }
}

impl<'a> Iterator for Packets<'a> {
    type Item = Result<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        // seconds, microseconds, captured length, length on the wire.
        let (header, rest) = self.rest.split_at_checked(16)?;
        let captured = le32(&header[8..]);
        if captured != le32(&header[12..]) {
            return Some(Err(anyhow::anyhow!("the capture cut a packet short")));
        }
        let (packet, rest) = rest.split_at_checked(captured as usize)?;
        self.rest = rest;
        Some(Ok(packet))
    }
}

/// A TCP segment over IPv4.
struct Segment<'a> {
    from: ([u8; 4], u16),
    to: ([u8; 4], u16),
    sequence: u32,
    syn: bool,
    payload: &'a [u8],
}

impl<'a> Segment<'a> {
    fn parse(frame: &'a [u8]) -> Option<Self> {
        let ip = frame.get(14..)?;
        if be16(frame.get(12..14)?) != 0x0800 || ip.first()? >> 4 != 4 || *ip.get(9)? != 6 {
            return None;
        }
        let ip_header = usize::from(ip[0] & 0xf) * 4;
        let ip = ip.get(..usize::from(be16(&ip[2..4])).max(ip_header)).unwrap_or(ip);
        let tcp = ip.get(ip_header..)?;
        let tcp_header = usize::from(tcp.get(12)? >> 4) * 4;
        let address = |at: usize| -> Option<[u8; 4]> { ip.get(at..at + 4)?.try_into().ok() };
        Some(Self {
            from: (address(12)?, be16(&tcp[..2])),
            to: (address(16)?, be16(&tcp[2..4])),
            sequence: u32::from_be_bytes(tcp[4..8].try_into().ok()?),
            syn: tcp[13] & 2 != 0,
            payload: tcp.get(tcp_header..)?,
        })
    }
}

type Endpoint = ([u8; 4], u16);

/// One direction of a connection.
struct Half {
    stream: usize,
    next: u32,
    waiting: Vec<u8>,
}

struct Streams<'a> {
    ports: &'a [u16],
    numbers: BTreeMap<(Endpoint, Endpoint), usize>,
    halves: BTreeMap<(Endpoint, Endpoint), Half>,
    count: usize,
}

impl Streams<'_> {
    fn take(&mut self, segment: &Segment<'_>, found: &mut Vec<Pdu>) -> Result<()> {
        let key = (segment.from, segment.to);
        if segment.syn {
            let from_host = self.ports.contains(&segment.to.1);
            let stream = if from_host {
                self.count += 1;
                self.numbers.insert(key, self.count - 1);
                self.count - 1
            } else {
                *self.numbers.get(&(segment.to, segment.from)).context("an answer to a SYN never seen")?
            };
            let next = segment.sequence.wrapping_add(1);
            self.halves.insert(key, Half { stream, next, waiting: Vec::new() });
            return Ok(());
        }
        // Bare acknowledgements; after a FIN they number one byte that never comes.
        if segment.payload.is_empty() {
            return Ok(());
        }
        let Some(half) = self.halves.get_mut(&key) else {
            bail!("the capture began in the middle of a connection");
        };
        // How much of the segment was seen before; a segment from the future means a hole.
        let seen = half.next.wrapping_sub(segment.sequence) as usize;
        if seen > segment.payload.len() {
            if seen < 1 << 31 {
                return Ok(());
            }
            bail!("stream {}: the capture lost a segment", half.stream);
        }
        let fresh = &segment.payload[seen..];
        half.waiting.extend_from_slice(fresh);
        half.next = half.next.wrapping_add(u32::try_from(fresh.len())?);
        let sender = if self.ports.contains(&segment.to.1) { Sender::Host } else { Sender::Controller };
        while half.waiting.len() >= 8 {
            let length = le32(&half.waiting[4..]) as usize;
            if length < 8 {
                bail!("stream {}: a PDU of {length} bytes", half.stream);
            }
            if half.waiting.len() < length {
                break;
            }
            let bytes = half.waiting.drain(..length).collect();
            found.push(Pdu { stream: half.stream, sender, bytes });
        }
        Ok(())
    }
}

/// The first four bytes as a little-endian number; short input reads as if followed by zeros.
pub(crate) fn le32(bytes: &[u8]) -> u32 {
    let mut word = [0; 4];
    for (to, from) in word.iter_mut().zip(bytes) {
        *to = *from;
    }
    u32::from_le_bytes(word)
}

fn be16(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}
