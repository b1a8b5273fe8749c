//! Bytes of real conversations, bent at random: whatever comes, both ends stay sound. The fuzz targets do the same for
//! longer; this is the share that runs everywhere.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use dolmen_nvme::spec::{NvmOpcode, Sqe};
use dolmen_nvme::tcp::{
    CommandData, Controller, ControllerEvent, DataSource, Digests, Host, HostEvent, R2tRequest,
};
use support::{Terms, put, put_payload};

/// A small fixed-seed generator (SplitMix64); tests replay exactly.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(n.max(1)).unwrap()).unwrap()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

/// Flips, overwrites, cuts, repeats or inserts a few bytes; often in the first bytes of something, where headers are.
fn bend(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..=random.below(4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.byte(),
            2 => bytes[at] = [0, 0xff, 0x7f, 0x80, 1, 24, 72][random.below(7)],
            3 => bytes.truncate(at),
            4 => {
                let end = (at + random.below(200)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => bytes.insert(at, random.byte()),
        }
    }
}

/// What a host sends: a write in the capsule, two answers to R2Ts, flushes.
fn host_stream(terms: Terms) -> Vec<u8> {
    let (mut host, mut controller) = terms.connected();
    let mut out = Vec::new();
    let payload = [7u8; 700];
    let write = |host: &mut Host, out: &mut Vec<u8>, cid, data| {
        put(out, |out| Some(host.write_command(out, &Sqe::new(NvmOpcode::WRITE.0, cid), data).unwrap()));
    };
    write(&mut host, &mut out, 0, CommandData::WriteInCapsule(100));
    put_payload(&mut out, &payload[..100], |data, len| host.finish_data(data, len));
    for cid in [1, 2] {
        write(&mut host, &mut out, cid, CommandData::Write(700));
        let mut r2t = Vec::new();
        let request = R2tRequest { cid, token: u32::from(cid), offset: 0, length: 700 };
        put(&mut r2t, |out| Some(controller.write_r2t(out, request).unwrap()));
        host.receive(&mut &r2t[..]).unwrap().unwrap();
        for length in [400, 300] {
            put(&mut out, |out| Some(host.write_h2c_data(out, cid, length).unwrap().header_bytes));
            put_payload(&mut out, &payload[..usize::try_from(length).unwrap()], |d, len| {
                host.finish_data(d, len)
            });
        }
    }
    write(&mut host, &mut out, 3, CommandData::None);
    out
}

/// A controller that has asked for what `host_stream` sends, behind an optional handshake.
fn expecting(terms: Terms) -> Controller {
    let (_, mut controller) = terms.connected();
    for cid in [1, 2] {
        let request = R2tRequest { cid, token: u32::from(cid), offset: 0, length: 700 };
        controller.write_r2t(&mut [0; 100], request).unwrap();
    }
    controller
}

/// Feeds everything, in chunks of random lengths, and holds the events against what they promise.
fn feed_controller(controller: &mut Controller, random: &mut Random, bytes: &[u8]) {
    let mut rest = bytes;
    let mut capsule_left = 0usize;
    while !rest.is_empty() {
        let n = 1 + random.below(rest.len().min(300));
        let (mut chunk, tail) = rest.split_at(n);
        rest = tail;
        loop {
            let before = chunk.len();
            match controller.receive(&mut chunk) {
                Ok(Some(ControllerEvent::Command { capsule_data, .. })) => {
                    assert!(capsule_data <= 8192 && capsule_left == 0);
                    capsule_left = usize::try_from(capsule_data).unwrap();
                }
                Ok(Some(ControllerEvent::Data { source, offset, bytes })) => {
                    assert!(!bytes.is_empty() && bytes.len() == before - chunk.len() || before > chunk.len());
                    match source {
                        DataSource::Capsule => capsule_left -= bytes.len(),
                        DataSource::Transfer(token) => {
                            assert!(token == 1 || token == 2);
                            assert!(usize::try_from(offset).unwrap() + bytes.len() <= 700);
                        }
                    }
                }
                Ok(Some(ControllerEvent::DataEnd { .. })) => assert_eq!(capsule_left, 0),
                Ok(Some(ControllerEvent::Initialized(_) | ControllerEvent::Terminated(_))) => {}
                Ok(None) => break,
                Err(violation) => {
                    let mut out = Vec::new();
                    put(&mut out, |out| controller.write_term_req(out, &violation));
                    assert!(out.len() <= 152);
                }
            }
        }
        assert!(chunk.is_empty());
    }
}

fn feed_host(host: &mut Host, random: &mut Random, bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let n = 1 + random.below(rest.len().min(300));
        let (mut chunk, tail) = rest.split_at(n);
        rest = tail;
        loop {
            match host.receive(&mut chunk) {
                Ok(Some(HostEvent::Data { cid, offset, bytes })) => {
                    assert!(cid < 8 && !bytes.is_empty());
                    assert!(usize::try_from(offset).unwrap() + bytes.len() <= 600);
                }
                Ok(Some(HostEvent::SendData { cid })) => {
                    let mut out = [0; 200];
                    let mut sent = 0;
                    while let Some(piece) = host.write_h2c_data(&mut out, cid, 100) {
                        sent += piece.length;
                    }
                    assert!((1..=600).contains(&sent));
                }
                Ok(Some(HostEvent::Completion { received, .. })) => assert!(received <= 600),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(violation) => {
                    let mut out = Vec::new();
                    put(&mut out, |out| host.write_term_req(out, &violation));
                    assert!(out.len() <= 152);
                }
            }
        }
        assert!(chunk.is_empty());
    }
}

fn some_terms() -> [Terms; 4] {
    let with = |digests, controller_alignment| Terms { digests, controller_alignment, ..Terms::PLAIN };
    [
        Terms::PLAIN,
        with(Digests { header: false, data: true }, 0),
        with(Digests { header: false, data: true }, 31),
        with(Digests::BOTH, 3),
    ]
}

#[test]
fn a_controller_survives_bent_bytes() {
    let mut random = Random(1);
    for terms in some_terms() {
        let stream = host_stream(terms);
        feed_controller(&mut expecting(terms), &mut random, &stream);
        for _ in 0..20_000 {
            let mut bytes = stream.clone();
            bend(&mut random, &mut bytes);
            feed_controller(&mut expecting(terms), &mut random, &bytes);
        }
    }
}

#[test]
fn a_host_survives_bent_bytes() {
    let mut random = Random(2);
    for terms in some_terms() {
        let stream = controller_stream(terms);
        feed_host(&mut waiting(terms), &mut random, &stream);
        for _ in 0..20_000 {
            let mut bytes = stream.clone();
            bend(&mut random, &mut bytes);
            feed_host(&mut waiting(terms), &mut random, &bytes);
        }
    }
}

/// A host with reads of 600 bytes (0 to 2), writes of 600 bytes (3 to 5) and a flush (6) outstanding.
fn waiting(terms: Terms) -> Host {
    let (mut host, _) = terms.connected();
    for cid in 0..7 {
        let data = match cid {
            0..3 => CommandData::Read(600),
            3..6 => CommandData::Write(600),
            _ => CommandData::None,
        };
        host.write_command(&mut [0; 200], &Sqe::new(0, cid), data).unwrap();
    }
    host
}

/// What a controller answers to those.
fn controller_stream(terms: Terms) -> Vec<u8> {
    use dolmen_nvme::spec::{Cqe, Status};
    use dolmen_nvme::tcp::{C2hData, DataEnd};
    let (_, mut controller) = terms.connected();
    let mut out = Vec::new();
    for cid in 0..3 {
        for (offset, end) in [(0, DataEnd::More), (300, DataEnd::LastAndSuccess)] {
            put(&mut out, |out| controller.write_c2h_data(out, &C2hData { cid, offset, length: 300, end }));
            put_payload(&mut out, &[9; 300], |data, len| controller.finish_data(data, len));
        }
    }
    for cid in 3..6 {
        let request = R2tRequest { cid, token: 0, offset: 0, length: 600 };
        put(&mut out, |out| Some(controller.write_r2t(out, request).unwrap()));
        put(&mut out, |out| controller.write_response(out, &Cqe::new(cid, Status::SUCCESS)));
    }
    put(&mut out, |out| controller.write_response(out, &Cqe::new(6, Status::SUCCESS)));
    out
}

#[test]
fn plain_noise_is_refused() {
    let mut random = Random(3);
    for _ in 0..20_000 {
        let len = random.below(400);
        let bytes: Vec<u8> = (0..len).map(|_| random.byte()).collect();
        feed_controller(&mut Terms::PLAIN.controller(), &mut random, &bytes);
        feed_host(&mut Terms::PLAIN.host(), &mut random, &bytes);
    }
}
