//! What an NBD client can send: a handshake, and requests with their data, in chunks of any size.
//!
//! The last two bytes choose the size of the chunks, and whether the handshake lies behind us already.
#![no_main]

use dolmen_export::{
    Export, Exports,
    backend::Place,
    nbd::{Handshake, Piece, Progress, Requests},
};
use dolmen_types::{CoreId, Uuid, volume::IpAccess};
use dolmen_volume::VolumeRef;
use libfuzzer_sys::fuzz_target;
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, LazyLock},
};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

static EXPORTS: LazyLock<Arc<Exports>> = LazyLock::new(|| {
    let export = |number: u8| Export {
        name: format!("export{number}"),
        uuid: Uuid([number; 16]),
        size_bytes: 1 << 30,
        block_bytes: 4096,
        piece_bytes: 262_144,
        read_only: number == 1,
        can_zero: true,
        maps: true,
        nsid: 1,
        access: IpAccess::Any,
        place: Place::Volume(VolumeRef { core: CoreId(0), slot: 0, generation: 0 }),
    };
    Arc::new(Exports::new((0..3).map(|number| Arc::new(export(number))).collect()))
});

fuzz_target!(|input: &[u8]| {
    let Some((bytes, &[chunk_bytes, open])) = input.split_last_chunk::<2>() else { return };
    let mut out = Vec::new();
    let mut handshake = (open & 1 == 0).then(|| Handshake::new(&mut out));
    let mut requests = Requests::default();
    let mut promised = 0u64;
    for mut chunk in bytes.chunks(usize::from(chunk_bytes) + 1) {
        while !chunk.is_empty() {
            if let Some(shaking) = &mut handshake {
                out.clear();
                let (taken, progress) = shaking.receive(chunk, &EXPORTS, HERE, &mut out);
                chunk = &chunk[taken..];
                assert!(out.len() < 64 << 10, "much is said at once");
                match progress {
                    Progress::Going => assert!(taken > 0 || !out.is_empty(), "it gets on"),
                    Progress::Open(_) => handshake = None,
                    Progress::Close => return,
                }
                continue;
            }
            let (taken, piece) = requests.next(chunk, 1000);
            assert!(taken > 0 && taken <= chunk.len());
            chunk = &chunk[taken..];
            match piece {
                Piece::Request(request) => {
                    assert_eq!(promised, 0);
                    promised = u64::from(requests.data_left());
                    assert!(promised == 0 || promised == u64::from(request.length));
                }
                Piece::Data(data) => {
                    assert!(!data.is_empty() && data.len() <= 1000);
                    promised = promised.checked_sub(data.len() as u64).expect("no more than announced");
                }
                Piece::Nothing => {}
                Piece::Broken => return,
            }
        }
    }
});
