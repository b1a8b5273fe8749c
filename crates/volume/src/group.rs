//! The sequencer of one protection group: which epoch it is in, and which sequence number comes next.
//!
//! Every opening is a new epoch, made durable by a record of its own before anything else is sequenced, and its first
//! number lies beyond every number that the log has seen: so no two histories ever share a number.

use dolmen_store::{Batch, Key, Marks, Record, Records};
use dolmen_types::{Epoch, PgId, Seq};

/// Kinds of keyed objects. Part of the format: numbers are never reused.
pub(crate) mod kind {
    /// A volume's descriptor; the id is its UUID.
    pub(crate) const DESCRIPTOR: u8 = 1;
    /// A volume's reservations; the id is its UUID.
    pub(crate) const RESERVATIONS: u8 = 2;
    /// A snapshot; the id is its UUID.
    pub(crate) const SNAPSHOT: u8 = 4;
    /// A protection group's opening; the id is its number. Value: version 1 (u16), epoch (u64).
    pub(crate) const GROUP: u8 = 3;
    /// Who the node is to its hosts; the id is 0, in group 0.
    pub(crate) const IDENTITY: u8 = 5;
}

/// How far beyond the highest number that was seen an opening begins. What was under way and lost may have reached the drives under
/// numbers that the log never saw; no other data may have them, since check and cipher of a block rest on its number. Far more than
/// can have been under way, and 2^32 openings fit the 56 bits that the cipher has room for.
const SKIPPED: u64 = 1 << 24;

/// Where a group stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not opened.
    Closed,
    /// Its new epoch is not durable yet.
    Opening,
    /// Takes commands.
    Open,
    /// The store refuses to go on; reads are still tried.
    Stopped,
}

/// One protection group whose home is this core.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) pg: PgId,
    pub(crate) phase: Phase,
    epoch: Epoch,
    next: Seq,
    /// Batches of the opening that are not durable yet.
    opening: usize,
}

impl Group {
    pub(crate) fn new(pg: PgId) -> Group {
        Group { pg, phase: Phase::Closed, epoch: Epoch(0), next: Seq(0), opening: 0 }
    }

    /// Begins a new epoch beyond all that the log has seen; the batch makes it durable.
    pub(crate) fn open(&mut self, marks: Marks) -> Batch {
        self.epoch = Epoch(marks.epoch.0 + 1);
        self.next = Seq(marks.highest_seq.0.saturating_add(SKIPPED));
        self.phase = Phase::Opening;
        let mut value = 1u16.to_le_bytes().to_vec();
        value.extend_from_slice(&self.epoch.0.to_le_bytes());
        let key = Key { kind: kind::GROUP, id: u128::from(self.pg.0) };
        let mut records = Records::new();
        records.push(Record::Put { key, value: value.into() });
        self.batch(records)
    }

    /// A batch with the next number, which is not used up before [`Group::sequenced`].
    pub(crate) fn batch(&self, records: Records) -> Batch {
        Batch { pg: self.pg, epoch: self.epoch, seq: self.next, records }
    }

    /// The next sequence number.
    pub(crate) fn next(&self) -> Seq {
        self.next
    }

    /// The store took a batch of the opening.
    pub(crate) fn opening_sequenced(&mut self) {
        self.opening += 1;
        self.sequenced();
    }

    /// A batch of the opening is durable; with the last one the group is open.
    pub(crate) fn opening_durable(&mut self) {
        self.opening -= 1;
        if self.opening == 0 && self.phase == Phase::Opening {
            self.phase = Phase::Open;
        }
    }

    /// The store took the batch.
    pub(crate) fn sequenced(&mut self) {
        self.next.0 += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opening_is_a_new_epoch_beyond_all_that_was_seen() {
        let mut group = Group::new(PgId(3));
        let batch = group.open(Marks { epoch: Epoch(4), highest_seq: Seq(17) });
        assert_eq!((batch.epoch, batch.seq), (Epoch(5), Seq(17 + SKIPPED)));
        let Record::Put { key, value } = &batch.records[0] else { panic!("a put") };
        assert_eq!((*key, &value[..]), (Key { kind: 3, id: 3 }, &[1, 0, 5, 0, 0, 0, 0, 0, 0, 0][..]));
        group.sequenced();
        assert_eq!(group.batch(Records::new()).seq, Seq(18 + SKIPPED));
    }
}
