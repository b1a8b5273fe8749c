//! The plain life of a store: write, read, trim, objects, restart, checkpoint, several drives and cores.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used)]

mod common;
use common::*;
use dolmen_sim::World;
use dolmen_store::*;
use dolmen_types::{LineId, PgId, Seq};

#[test]
fn writes_reads_and_survives_restarts() {
    let world = World::new(1);
    let setup = Setup::tiny(64);
    let mut node = Node::open(&world, &setup).unwrap();
    assert!(node.plan.created);
    node.commit(0, 1, vec![create(7), Record::Put { key: key(5), value: b"hello".to_vec().into() }]).unwrap();
    let write = node.write(7, 10, &[1, 2, 0, 4]);
    node.commit(0, 2, vec![write]).unwrap();
    assert_eq!(node.read(0, 7, 9, 6).unwrap(), [0, 1, 2, 0, 4, 0]);
    node.commit(0, 3, vec![unmap(7, 11, 1)]).unwrap();
    assert_eq!(node.read(0, 7, 9, 6).unwrap(), [0, 1, 0, 0, 4, 0]);
    assert_eq!(node.read(0, 8, 0, 1), Err(StoreError::NoLine(LineId(8))));
    for round in 0..3 {
        let world = world.clone();
        if round == 1 {
            node.checkpoint();
            assert_eq!(node.read(0, 7, 9, 6).unwrap(), [0, 1, 0, 0, 4, 0]);
        }
        if round == 2 {
            node.shutdown();
        } else {
            world.crash();
            drop(node);
        }
        node = Node::open(&world, &setup).unwrap();
        assert!(!node.plan.created);
        assert_eq!(node.read(0, 7, 9, 6).unwrap(), [0, 1, 0, 0, 4, 0], "round {round}");
        assert_eq!(node.stores[0].marks(PgId(0)).highest_seq, Seq(3));
        assert_eq!(node.stores[0].usage(PgId(0), LineId(7)).mapped_blocks, 2);
        let mut objects = Vec::new();
        node.stores[0].for_each_object(PgId(0), |k, v| objects.push((k, v.to_vec())));
        assert_eq!(objects, [(key(5), b"hello".to_vec())]);
    }
}

#[test]
fn objects_at_their_limit_can_still_be_replaced_by_what_is_no_longer() {
    let world = World::new(4);
    let unit_bytes = 1 << 20;
    let tuning = ShardTuning { log_bytes: 16 << 20, commit_bytes: 512 << 10, ..Setup::tiny(1).tuning };
    let setup = Setup { drives: vec![("d0", 96 << 20)], unit_bytes, tuning, ..Setup::tiny(1) };
    let mut node = Node::open(&world, &setup).unwrap();
    let put = |id: u128, byte: u8, len: usize| Record::Put { key: key(id), value: vec![byte; len].into() };
    let mut seq = 0;
    loop {
        seq += 1;
        match node.append(0, seq, vec![put(u128::from(seq), 1, 24 << 10)]) {
            Ok(ticket) => assert_eq!(node.wait(ticket).result, Ok(())),
            Err(AppendError::ObjectsFull) => break,
            Err(other) => panic!("{other:?}"),
        }
        assert!(seq < 1000, "there is a limit");
    }
    for id in 1..u128::from(seq) {
        seq += 1;
        node.commit(0, seq, vec![put(id, 2, 24 << 10)]).unwrap();
        seq += 1;
        node.commit(0, seq, vec![put(id, 3, 10)]).unwrap();
        seq += 1;
        node.commit(0, seq, vec![Record::Delete { key: key(id) }]).unwrap();
    }
    seq += 1;
    node.commit(0, seq, vec![put(1, 4, 24 << 10)]).unwrap();
}
