//! What a controller can send to the host's end of a connection.
//!
//! The last three bytes choose digests and alignment, the size of the chunks, and whether the handshake and some
//! commands lie behind us already; so a captured PDU is a good seed as it is.
#![no_main]

use dolmen_nvme::spec::Sqe;
use dolmen_nvme::tcp::{CommandData, Digests, Host, HostEvent, HostOptions, IcResp, MAX_HEADER_BYTES};
use libfuzzer_sys::fuzz_target;
use zerocopy::IntoBytes;

const COMMAND_BYTES: u32 = 600;

fuzz_target!(|input: &[u8]| {
    let Some((bytes, &[choice, chunk_bytes, started])) = input.split_last_chunk::<3>() else { return };
    let digests = Digests::from_bits(choice);
    let mut host = Host::new(HostOptions { digests, alignment: choice >> 3, depth: 8 });
    let mut out = [0; MAX_HEADER_BYTES];
    if started & 1 != 0 {
        let response = IcResp::new(0, digests.bits(), 4096);
        host.receive(&mut response.as_bytes()).expect("a good ICResp");
        for cid in 0..7 {
            let data = match cid {
                0..3 => CommandData::Read(COMMAND_BYTES),
                3..6 => CommandData::Write(COMMAND_BYTES),
                _ => CommandData::None,
            };
            host.write_command(&mut out, &Sqe::new(0, cid), data).expect("room and identifiers");
        }
    }
    for mut chunk in bytes.chunks(usize::from(chunk_bytes) + 1) {
        loop {
            match host.receive(&mut chunk) {
                Ok(Some(HostEvent::Data { cid, offset, bytes })) => {
                    assert!(cid < 3 && !bytes.is_empty());
                    assert!(offset as usize + bytes.len() <= COMMAND_BYTES as usize);
                }
                Ok(Some(HostEvent::SendData { cid })) => {
                    let mut sent = 0;
                    while let Some(piece) = host.write_h2c_data(&mut out, cid, 100) {
                        sent += piece.length;
                    }
                    assert!((1..=COMMAND_BYTES).contains(&sent));
                }
                Ok(Some(HostEvent::Completion { received, .. })) => assert!(received <= COMMAND_BYTES),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(violation) => {
                    host.write_term_req(&mut out, &violation).expect("room for a terminate request");
                }
            }
        }
        assert!(chunk.is_empty());
    }
});
