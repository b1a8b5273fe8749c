//! Taking batches in: limits, existence of lines, a first look at space.

use super::staging::lies_on_pages;
use super::{Pending, Phase, Shard};
use crate::format::commit::{FIXED_BYTES, MAX_HEADER_BYTES, write_record_bytes};
use crate::format::page::SLOT_BYTES;
use crate::stored::{MAX_ENCRYPTED_LBA, MAX_ENCRYPTED_SEQ};
use crate::{
    AppendError, Batch, LineAttributes, MAX_BATCH_RECORDS, MAX_OBJECT_BYTES, Record, StoreError, Ticket,
};
use dolmen_types::limits::BLOCK_BYTES;

/// What a batch takes; the fields are those of [`Pending`].
struct Measured {
    header_bytes: usize,
    payload_bytes: usize,
    holes_bytes: usize,
    packs: bool,
    made: bool,
}

/// What the slots of a hole take in the map at most: its own, and those of the two parts of one that it cuts. Bytes.
pub(super) const HOLE_BYTES: usize = 3 * SLOT_BYTES;

/// Bytes that the opening of a batch takes in a header.
const BATCH_BYTES: usize = 24;

/// Bytes that a record takes in a header at most.
fn header_bytes(record: &Record) -> usize {
    match record {
        Record::Write { data, .. } => write_record_bytes(data.len() / BLOCK_BYTES),
        Record::Put { value, .. } => 24 + value.len().next_multiple_of(8),
        Record::CreateLine { .. } | Record::DropLine { .. } | Record::Snapshot { .. } => 16,
        Record::Delete { .. } | Record::DropSnapshot { .. } => 24,
        Record::Unmap { .. } | Record::CloneLine { .. } => 32,
    }
}

impl Shard {
    /// Queues a batch.
    #[allow(clippy::result_large_err)] // The batch goes back to the caller, in place.
    pub(crate) fn append(&mut self, batch: Batch, ticket: Ticket) -> Result<(), (Batch, AppendError)> {
        match &self.phase {
            Phase::Serving if !self.closing => {}
            Phase::Serving | Phase::Recovering => return Err((batch, AppendError::NotReady)),
            Phase::Stopped(reason) => {
                let reason = reason.clone();
                return Err((batch, AppendError::Stopped { reason }));
            }
            Phase::Failed(error) => {
                let reason = error.to_string();
                return Err((batch, AppendError::Stopped { reason }));
            }
        }
        let Measured { header_bytes, payload_bytes, holes_bytes, packs, made } = match self.measure(&batch) {
            Ok(measured) => measured,
            Err(error) => return Err((batch, error)),
        };
        if self.queue.len() >= self.tuning.queued_batches {
            return Err((batch, AppendError::Busy));
        }
        if self.space.full
            && (payload_bytes > 0 && !self.allowed(payload_bytes as u64)
                || holes_bytes > 0 && !self.may_take_holes(holes_bytes as u64))
        {
            // What was overwritten or unmapped since the last checkpoint may make room.
            self.hope_for_room();
            return Err((batch, AppendError::Full));
        }
        self.announced.add(&batch);
        self.queue.push_back(Pending {
            batch,
            ticket,
            header_bytes,
            payload_bytes,
            holes_bytes,
            packs,
            made,
        });
        Ok(())
    }

    /// What a batch takes at most, or what is wrong with it.
    fn measure(&self, batch: &Batch) -> Result<Measured, AppendError> {
        let invalid = |why| Err(AppendError::Invalid(why));
        if batch.records.is_empty() || batch.records.len() > MAX_BATCH_RECORDS {
            return invalid("a batch has 1 to MAX_BATCH_RECORDS records");
        }
        let (mut header, mut payload, mut packs, mut made) = (BATCH_BYTES, 0, false, false);
        let mut lines = self.announced.view(&self.map);
        for record in &batch.records {
            lines.record(record, batch.seq.0)?;
            match record {
                Record::Write { line, lba, data } => {
                    let attributes = lines.attributes(line.0).unwrap_or_default();
                    if data.is_empty() || !data.len().is_multiple_of(BLOCK_BYTES) {
                        return invalid("a write has whole store blocks, at least one");
                    }
                    let blocks = data.len() / BLOCK_BYTES;
                    let Some(end) = lba.0.checked_add(blocks as u64) else {
                        return invalid("a write ends beyond the last address");
                    };
                    if attributes.encrypt {
                        self.may_encrypt(line.0, end, batch.seq.0).map_err(AppendError::Invalid)?;
                    }
                    payload += data.len();
                    packs |= attributes.compress;
                    made |= attributes != LineAttributes::default() || !lies_on_pages(data);
                }
                Record::Unmap { lba, blocks, .. } if lba.0.checked_add(blocks.0).is_none() => {
                    return invalid("an unmap ends beyond the last address");
                }
                Record::Put { key, value } => {
                    if value.len() > MAX_OBJECT_BYTES {
                        return invalid("an object has at most MAX_OBJECT_BYTES");
                    }
                    // What does not grow fits always: deleting a thing may begin with a new value for it.
                    let old = self.objects.get(&(batch.pg, *key)).map_or(0, |old| old.len());
                    let growth = value.len().saturating_sub(old);
                    if growth > 0 && self.objects_bytes + growth > self.tuning.objects_bytes {
                        return Err(AppendError::ObjectsFull);
                    }
                }
                _ => {}
            }
            header += header_bytes(record);
        }
        if !self.fits(header, payload) {
            return Err(AppendError::TooLarge { fit: self.fitting(batch) });
        }
        // Whatever else is in a batch is never refused for want of space, and takes holes with it.
        let holes_bytes = if batch.records.iter().all(|r| matches!(r, Record::Unmap { .. })) {
            let keeps = |r: &&Record| matches!(r, Record::Unmap { line, .. } if lines.keeps_holes(line.0));
            batch.records.iter().filter(keeps).count() * HOLE_BYTES
        } else {
            0
        };
        Ok(Measured { header_bytes: header, payload_bytes: payload, holes_bytes, packs, made })
    }

    /// True when so many bytes of records, and of data, fit one commit.
    fn fits(&self, header: usize, payload: usize) -> bool {
        let room = self.drives.unit_bytes as usize - 4096;
        let whole = (header + FIXED_BYTES).next_multiple_of(4096) + payload;
        header + FIXED_BYTES <= MAX_HEADER_BYTES && whole <= room.min(self.tuning.commit_bytes)
    }

    /// How many records of a batch, from the first one on, fit one commit.
    fn fitting(&self, batch: &Batch) -> usize {
        let (mut header, mut payload) = (BATCH_BYTES, 0);
        let fits = |record: &&Record| {
            header += header_bytes(record);
            payload += if let Record::Write { data, .. } = record { data.len() } else { 0 };
            self.fits(header, payload)
        };
        batch.records.iter().take_while(fits).count()
    }

    /// How the blocks of a line that exists, or is about to, are stored.
    pub(crate) fn attributes(&self, line: u64) -> Option<LineAttributes> {
        self.announced.view(&self.map).attributes(line)
    }

    /// False for an encrypted line whose key is not here.
    pub(crate) fn has_keys_of(&self, line: u64) -> bool {
        !self.attributes(line).is_some_and(|a| a.encrypt) || self.forms.has_key(line)
    }

    /// Whether blocks below `end` may be written to an encrypted line as `seq`.
    fn may_encrypt(&self, line: u64, end: u64, seq: u64) -> Result<(), &'static str> {
        if !self.forms.has_key(line) {
            return Err("the key of an encrypted line is not here");
        }
        if end > MAX_ENCRYPTED_LBA || seq >= MAX_ENCRYPTED_SEQ {
            return Err("an address or a sequence number is beyond what an encrypted line has");
        }
        Ok(())
    }

    /// Ends a queued append without having done anything.
    pub(crate) fn refuse(&mut self, ticket: Ticket, error: StoreError) {
        let result = Err(error);
        self.done.push(crate::Done { ticket, result, buf: None, timing: crate::Timing::default() });
    }
}
