//! Golden bytes of every structure, round trips, and decoders that meet any bytes.

use super::anchor::{Anchor, Chunk, Era, Start, decode_list, encode_list};
use super::body::{Body, LineRow, Lost, LostRow, PointRow, ScrubMark, SegmentRow, put_object};
use super::commit::{self, CommitPlace, HeaderWriter, LogIdentity, LogRecord, StoredBlock, records};
use super::keys::{KeyPage, KeySlot};
use super::page::{Leaf, Level, PageName, PageRef, encode_leaf, encode_node, node_refs, verify};
use super::segment::{SegmentHeader, Stream};
use super::superblock::{DriveEntry, DriveState, NotOurs, Superblock};
use crate::check::{block_check, check64};
use crate::columns::Columns;
use crate::location::{Location, Slot};
use crate::map::{Entry, Sweep, Version};
use crate::stored::{BlockVersion, Form};
use crate::{Key, LineAttributes, Marks, UnitId};
use dolmen_types::{Epoch, PgId, Seq, ShardId, Uuid};
use proptest::prelude::*;
use std::fmt::Write;

const POOL: Uuid = Uuid([0xaa; 16]);

fn unit(drive: u16, unit: u32) -> UnitId {
    UnitId { drive, unit }
}

fn columns(n: u32) -> Columns {
    Columns::new(&[unit(0, n), unit(1, n + 1), unit(2, n + 2)], 1).unwrap()
}

fn mirror() -> Columns {
    Columns::new(&[unit(1, 77), unit(0, 8)], 1).unwrap()
}

/// The first bytes in hexadecimal, 16 to a line, and the XXH3-64 of all.
fn picture(bytes: &[u8], shown: usize) -> String {
    let mut text = String::new();
    for line in bytes[..shown].chunks(16) {
        line.iter().for_each(|b| write!(text, "{b:02x}").unwrap());
        text.push('\n');
    }
    write!(text, "{} bytes, {:016x}", bytes.len(), check64(0, bytes)).unwrap();
    text
}

fn superblock() -> Superblock {
    let drive = |i: u8| DriveEntry {
        uuid: Uuid([i; 16]),
        units: 1000 + u32::from(i),
        state: if i == 1 { DriveState::In } else { DriveState::Leaving },
        fresh: i == 2,
        serial: format!("SER{i}"),
        path: format!("/dev/d{i}"),
    };
    Superblock {
        sequence: 5,
        pool: POOL,
        index: 1,
        incarnation: 7,
        shards: 2,
        parity: 1,
        deficit: 1,
        unit_bytes: 1 << 20,
        drives: vec![drive(1), drive(2)],
    }
}

fn anchor() -> Anchor {
    let start = |n: u32| Some(Start { columns: columns(n), offset: n * 4096, stream_seq: u64::from(n) + 10 });
    let era = |n: u32, end| Era {
        incarnation: u64::from(n),
        salt: 0x1111 * u64::from(n),
        end,
        starts: [start(n), start(n + 1), start(n + 2).filter(|_| n == 3)],
    };
    Anchor {
        generation: 9,
        pool: POOL,
        shard: ShardId(1),
        base: 100,
        chain: 0xc0ffee,
        eras: vec![era(3, 120), era(4, u64::MAX)],
        chunks: vec![Chunk { columns: mirror(), offset: 8192, len: 5000, check: 0xbeef }],
        listed: false,
    }
}

/// The chunks of a body that are named by a list.
fn listed_chunks() -> Vec<Chunk> {
    let alone = Columns::new(&[unit(2, 9)], 0).unwrap();
    vec![
        Chunk { columns: mirror(), offset: 4096, len: 262_144, check: 0xbeef },
        Chunk { columns: alone, offset: 266_240, len: 5000, check: 0xcafe },
    ]
}

fn segment() -> SegmentHeader {
    SegmentHeader {
        pool: POOL,
        shard: ShardId(1),
        stream: Stream::Cold,
        slot: Slot(17),
        stream_seq: 33,
        incarnation: 7,
        salt: 0x5a17,
        unit_bytes: 1 << 20,
        columns: columns(66),
        column: 1,
        successor: Some(mirror()),
    }
}

const LOG: LogIdentity = LogIdentity { pool: POOL, shard: ShardId(1), incarnation: 7, salt: 0x5a17 };

fn commit() -> (commit::CommitHeader, Vec<u8>, Vec<u8>) {
    let payload = [vec![1; 4096], vec![2; 4096], vec![3; 4096]].concat();
    let mut w = HeaderWriter::start(Vec::new());
    w.batch(PgId(5), Epoch(2), Seq(40));
    w.create_line(9, LineAttributes { compress: true, encrypt: true });
    w.write_even(9, 100, 2, Form(0), 0);
    w.check(block_check(9, 100, 40, &payload[..4096]));
    w.check(block_check(9, 101, 40, &payload[4096..8192]));
    w.write_each(9, 110, 1);
    let check = block_check(9, 110, 40, &payload[8192..8192 + 160]);
    w.block(StoredBlock { at: 512, granules: 10, form: Form(Form::LZ4), check });
    w.unmap(9, 200, 1 << 40);
    w.put(Key { kind: 3, id: 0x1234 }, b"value");
    w.delete(Key { kind: 4, id: 0x5678 });
    w.drop_line(8);
    w.snapshot(9);
    w.drop_snapshot(9, 35);
    w.clone_line(12, 9, 40);
    w.retire(Slot(6), Stream::Hot, 21);
    let moved = StoredBlock {
        at: 512,
        granules: 256,
        form: Form(0),
        check: block_check(9, 300, 11, &payload[8192..]),
    };
    w.moved(BlockVersion { line: 9, lba: 300, seq: 11 }, Location::new(Slot(2), 8192), moved);
    let place = CommitPlace {
        stream: Stream::Hot,
        stream_seq: 33,
        slot: Slot(17),
        offset: 4096,
        data: 2,
        unit_bytes: 1 << 20,
        number: 55,
        previous: 0xfeed,
        durable_through: 53,
    };
    let (header, bytes) = w.finish(&LOG, place, 3 * 4096);
    (header, bytes, payload)
}

fn key_page() -> KeyPage {
    let mut page = KeyPage { sequence: 3, cluster_key: [0x11; 16], ..KeyPage::empty(POOL, 2) };
    page.keys[0] = Some(KeySlot { line: 9, pg: PgId(5), wrapped: [0x22; 40] });
    page.keys[2] = Some(KeySlot { line: 10, pg: PgId(6), wrapped: [0x33; 40] });
    page
}

fn name() -> PageName {
    PageName { pool: POOL, line: 9, generation: 6 }
}

fn entry(seq: u64) -> Entry {
    Entry { seq, location: Location::new(Slot(3), 4096), check: seq * 7, granules: 256, form: Form(3) }
}

fn slots() -> Vec<(u64, Version)> {
    let stored = |n: u64| Version::Stored(entry(n));
    let hole = Version::Hole { seq: 4, blocks: 1 << 40 };
    let lost = Version::Lost { until: 5, blocks: 77 };
    vec![(1000, stored(1)), (1001, stored(2)), (1001, hole), (5000, lost), (5000, stored(6))]
}

fn body() -> Vec<u8> {
    let node =
        PageRef { first: 10, seq: 7, location: Location::new(Slot(1), 4096), check: 3, count: 2, flags: 0 };
    let line = LineRow {
        attributes: LineAttributes { compress: false, encrypt: true },
        line: 9,
        head: true,
        parent: Some((8, 30)),
        sweep: Some(Sweep { from: 77, again: true }),
        merged_to: 40,
        mapped: 2,
        stored: 8192,
        newest: 4096,
        points: vec![
            PointRow { seq: 35, mapped: 2, snapshot: true, newest: 4096 },
            PointRow { seq: 38, mapped: 1, snapshot: false, newest: 0 },
        ],
        nodes: vec![node],
    };
    let row = SegmentRow {
        slot: Slot(2),
        columns: columns(3),
        stream: Stream::Hot,
        stream_seq: 4,
        live: 8192,
        last_commit: 99,
        suspect: 4,
    };
    let body = Body {
        next_seq: [5, 6, 7, 8],
        scrub: ScrubMark { finished: 2, round: 3, next: 17 },
        segments: vec![row],
        retired: vec![(Slot(3), 4096)],
        lost: [Lost::Damaged(entry(7)), Lost::Unreadable(entry(8)), Lost::Leaf(300)]
            .into_iter()
            .zip(50..)
            .map(|(what, lba)| LostRow { line: 9, lba, what })
            .collect(),
        lines: vec![line],
        marks: vec![(PgId(5), Marks { epoch: Epoch(2), highest_seq: Seq(40) })],
        objects: vec![(PgId(5), Key { kind: 1, id: 2 }, b"object".to_vec().into())],
    };
    let mut w = body.encode_head(1);
    let (pg, key, value) = &body.objects[0];
    put_object(&mut w, *pg, *key, value);
    let bytes = w.finish();
    assert_eq!(Body::decode(&bytes), Some(body));
    bytes
}

#[test]
fn golden_bytes() {
    let (leaf_ref, leaf) = encode_leaf(&slots(), PageRef::HISTORY | PageRef::HOLES, &name(), Vec::new());
    let (_, node) = encode_node(&[leaf_ref], &name(), Vec::new());
    let pictures = [
        ("superblock", picture(&superblock().encode(), 480)),
        ("anchor", picture(&anchor().encode(), 480)),
        ("anchor of a list", picture(&Anchor { listed: true, ..anchor() }.encode(), 128)),
        ("list of chunks", picture(&encode_list(listed_chunks().iter()), 96)),
        ("segment header", picture(&segment().encode(), 256)),
        ("commit", picture(&commit().1, 512)),
        ("leaf", picture(&leaf, 224)),
        ("node", picture(&node, 104)),
        ("key page", picture(&key_page().encode(), 256)),
        ("checkpoint body", picture(&body(), 528)),
    ];
    let all: String = pictures.iter().map(|(n, p)| format!("{n}\n{p}\n")).collect();
    assert_eq!(
        all.trim(),
        include_str!("golden.txt").trim(),
        "the format changed: a new version, or a mistake?\n{all}"
    );
}

#[test]
fn round_trips() {
    assert_eq!(Superblock::decode(&superblock().encode()), Ok(superblock()));
    assert_eq!(Anchor::decode(&anchor().encode()), Some(anchor()));
    let of_list = Anchor { listed: true, ..anchor() };
    assert_eq!(Anchor::decode(&of_list.encode()), Some(of_list));
    let list = encode_list(listed_chunks().iter());
    assert_eq!(decode_list(&list), Some(listed_chunks()));
    assert_eq!((decode_list(&list[..95]), decode_list(&[])), (None, None));
    let mut of_lists = anchor().encode();
    of_lists[66] = 2;
    assert_eq!(Anchor::decode(&resealed(of_lists, 0)), None, "there are no lists of lists");
    assert_eq!(SegmentHeader::decode(&segment().encode()), Some(segment()));
    let (header, bytes, payload) = commit();
    assert_eq!(commit::claimed_len(&bytes), Some(4096));
    let of = (header.place.stream, header.place.stream_seq);
    assert_eq!(commit::decode(&bytes, &LOG, of, 4096, 1 << 20), Some(header));
    assert_eq!(commit::decode(&bytes, &LOG, (of.0, of.1 + 1), 4096, 1 << 20), None);
    for other in Stream::LOGS.into_iter().filter(|s| *s != of.0) {
        assert_eq!(commit::decode(&bytes, &LOG, (other, of.1), 4096, 1 << 20), None);
    }
    assert_eq!(commit::decode(&bytes, &LOG, of, 8192, 1 << 20), None);
    assert_eq!(commit::decode(&bytes, &LogIdentity { salt: 1, ..LOG }, of, 4096, 1 << 20), None);
    assert_eq!(commit::decode(&bytes, &LOG, of, 4096, 8192), None);
    assert_eq!(header.depth, 8192);
    // The header fills the first page of column 0, the payload the rest of it and then column 1.
    let places = [0, 256, 512].map(|at| header.location(at).place(1 << 20));
    assert_eq!(places, [(0, 8192), (1, 4096), (1, 8192)]);
    assert_eq!(payload.len(), 3 * 4096);
    let got: Vec<LogRecord<'_>> = records(&bytes, &header).map(Option::unwrap).collect();
    assert_eq!(got.len(), 13);
    assert_eq!(got[10], LogRecord::CloneLine { line: 12, parent: 9, at: 40 });
    assert_eq!(got[5], LogRecord::Put { key: Key { kind: 3, id: 0x1234 }, value: b"value" });
    assert_eq!(KeyPage::decode(&key_page().encode(), POOL, 2), Some(key_page()));
    assert_eq!(KeyPage::decode(&key_page().encode(), POOL, 3), None);
    assert_eq!(KeyPage::decode(&key_page().encode(), Uuid([1; 16]), 2), None);
    let (page, leaf) = encode_leaf(&slots(), PageRef::HISTORY | PageRef::HOLES, &name(), Vec::new());
    assert!(verify(&leaf, Level::Leaf, 9, &page) && !verify(&leaf, Level::Leaf, 8, &page));
    assert!(!verify(&leaf, Level::Node, 9, &page));
    let view = Leaf::trusted(&leaf);
    assert_eq!(view.slots().collect::<Vec<_>>(), slots());
    assert_eq!(view.seek(1001, 0), 1);
    assert_eq!(view.seek(1001, 3), 2);
    assert_eq!(view.seek(5001, 0), 5);
    let (above, node) = encode_node(&[page], &name(), Vec::new());
    assert!(verify(&node, Level::Node, 9, &above));
    assert_eq!(node_refs(&node), [page]);
}

#[test]
fn superblocks_of_other_versions_and_damaged_ones_are_told_apart() {
    let mut bytes = superblock().encode();
    bytes[300] ^= 1;
    assert_eq!(Superblock::decode(&bytes), Err(NotOurs::Damaged));
    for version in [1, 3] {
        bytes[16] = version;
        assert_eq!(Superblock::decode(&bytes), Err(NotOurs::Unsure(version.into())));
        assert_eq!(Superblock::decode(&resealed(bytes.clone(), 0)), Err(NotOurs::Version(version.into())));
    }
    bytes[19] = 1;
    assert_eq!(Superblock::decode(&bytes), Err(NotOurs::Damaged), "no such version");
    bytes[0] = 0;
    assert_eq!(Superblock::decode(&bytes), Err(NotOurs::Unknown));
}

/// Puts a right check over wrong bytes, so that decoders meet what a hostile drive could hold.
fn resealed(mut bytes: Vec<u8>, seed: u64) -> Vec<u8> {
    crate::check::seal(seed, &mut bytes);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever the bytes, decoders answer; with a right check over wrong bytes too.
    #[test]
    fn decoders_never_panic(at in 0usize..4096, with in proptest::collection::vec(any::<u8>(), 1..24), which in 0usize..9) {
        let mutate = |mut bytes: Vec<u8>| {
            let at = 16 + at % (bytes.len() - 16);
            let end = (at + with.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&with[..end - at]);
            bytes
        };
        match which {
            0 => drop(Superblock::decode(&resealed(mutate(superblock().encode()), 0))),
            1 => drop(Anchor::decode(&resealed(mutate(anchor().encode()), 0))),
            2 => drop(SegmentHeader::decode(&resealed(mutate(segment().encode()), 0))),
            3 => {
                let (header, bytes, _) = commit();
                let of = (header.place.stream, header.place.stream_seq);
                let bytes = resealed(mutate(bytes), LOG.salt);
                commit::claimed_len(&bytes);
                if let Some(header) = commit::decode(&bytes, &LOG, of, 4096, 1 << 20) {
                    prop_assert!(records(&bytes, &header).count() < 1000);
                    header.location(0);
                }
            }
            4 => {
                let (page, bytes) = encode_leaf(&slots(), PageRef::HISTORY | PageRef::HOLES, &name(), Vec::new());
                let bytes = resealed(mutate(bytes), 0);
                let check = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
                if verify(&bytes, Level::Leaf, 9, &PageRef { check, ..page }) {
                    let leaf = Leaf::trusted(&bytes);
                    prop_assert!(leaf.slots().count() <= 126);
                    leaf.seek(1001, 2);
                }
            }
            5 => {
                let (page, bytes) = encode_node(&[], &name(), Vec::new());
                let bytes = resealed(mutate(bytes), 0);
                let check = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
                if verify(&bytes, Level::Node, 9, &PageRef { check, ..page }) {
                    prop_assert!(node_refs(&bytes).len() <= 100);
                }
            }
            7 => drop(decode_list(&mutate(encode_list(listed_chunks().iter())))),
            6 => drop(KeyPage::decode(&resealed(mutate(key_page().encode()), 0), POOL, 2)),
            _ => drop(Body::decode(&mutate(body()))),
        }
    }

    #[test]
    fn noise_is_nothing(bytes in proptest::collection::vec(any::<u8>(), 4096)) {
        prop_assert_eq!(Anchor::decode(&bytes), None);
        prop_assert_eq!(SegmentHeader::decode(&bytes), None);
        prop_assert_eq!(commit::decode(&bytes, &LOG, (Stream::Hot, 0), 4096, 1 << 20), None);
        prop_assert_eq!(Body::decode(&bytes), None);
    }
}
