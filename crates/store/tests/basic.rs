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
