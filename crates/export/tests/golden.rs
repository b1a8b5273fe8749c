//! What real clients send, byte for byte, and what they were answered: captures in `tests/golden`, see the README there.
#![allow(clippy::unwrap_used)] // a test that can't go on fails

use dolmen_export::{
    Export, Exports,
    backend::Place,
    nbd::{Handshake, Opened, Piece, Progress, Requests},
};
use dolmen_types::{CoreId, volume::IpAccess};
use dolmen_volume::VolumeRef;
use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::Arc,
};

/// The option that ends a conversation.
const ABORT: [u8; 16] = *b"IHAVEOPT\0\0\0\x02\0\0\0\0";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The export that the captures were made with.
fn exports() -> Arc<Exports> {
    let web = Export {
        name: "web".into(),
        uuid: "387b391e-236f-4baa-8917-620661098033".parse().unwrap(),
        size_bytes: 16 << 20,
        block_bytes: 4096,
        piece_bytes: 262_144,
        read_only: false,
        can_zero: true,
        // The captures are of a time when that was not told.
        maps: false,
        nsid: 0,
        access: IpAccess::Any,
        place: Place::Volume(VolumeRef { core: CoreId(0), slot: 0, generation: 0 }),
    };
    Arc::new(Exports::new(vec![Arc::new(web)]))
}

/// The handshake's end, what the server says in it, and the rest of the client's bytes.
fn shake<'a>(mut client: &'a [u8], said: &mut Vec<u8>) -> (Option<Opened>, &'a [u8]) {
    let exports = exports();
    let mut handshake = Handshake::new(said);
    loop {
        let mut out = Vec::new();
        let (taken, progress) =
            handshake.receive(client, &exports, IpAddr::V4(Ipv4Addr::LOCALHOST), &mut out);
        said.extend_from_slice(&out);
        client = &client[taken..];
        match progress {
            Progress::Going if client.is_empty() && !handshake.has_more() => return (None, client),
            Progress::Going => {}
            Progress::Open(opened) => return (Some(opened), client),
            Progress::Close => return (None, client),
        }
    }
}

/// The requests of a conversation, one a line.
fn told(client: &[u8]) -> String {
    let (opened, mut rest) = shake(client, &mut Vec::new());
    let mut text = match opened {
        Some(opened) => format!("open {}, structured {}\n", opened.export.name, opened.structured),
        None => "no export\n".into(),
    };
    let mut requests = Requests::default();
    while !rest.is_empty() {
        let (taken, piece) = requests.next(rest, usize::MAX);
        match piece {
            Piece::Request(r) => {
                let (command, flags, offset, length) = (r.command, r.flags, r.offset, r.length);
                writeln!(text, "command {command} flags {flags:#x} at {offset} length {length}").unwrap();
            }
            Piece::Data(_) | Piece::Nothing => {}
            Piece::Broken => panic!("not a request after {text}"),
        }
        rest = &rest[taken..];
    }
    text
}

#[test]
fn real_clients_are_understood_and_answered_as_they_were() {
    let mut captures = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "client") {
            continue;
        }
        captures += 1;
        let client = std::fs::read(&path).unwrap();
        let server = std::fs::read(path.with_extension("server")).unwrap();
        let mut said = Vec::new();
        let _ = shake(&client, &mut said);
        // Who takes his leave doesn't wait for the answer to that.
        let leaves = client.ends_with(&ABORT).then(|| &said[..said.len() - 20]);
        let same = server.starts_with(&said) || leaves.is_some_and(|said| server == said);
        assert!(same, "{}: the handshake is answered otherwise", path.display());
        let (text, kept) = (told(&client), path.with_extension("txt"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&kept, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(&kept).unwrap_or_default(), "{}", path.display());
    }
    assert!(captures >= 4, "only {captures} captures in {}", folder().display());
}
