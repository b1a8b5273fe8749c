//! What a decided command changes, as records of one batch.

use crate::{
    VolumeError, descriptor,
    group::kind,
    op::{ControlOp, Kind, Op},
    reservation::record,
    span::Span,
    volume::Volume,
};
use dolmen_io::Buf;
use dolmen_store::{Key, LineAttributes, Record, Records};
use dolmen_types::{Blocks, Lba, LineId, Uuid, limits::BLOCK_BYTES};
use std::ops::Range;

/// What became of a command that has all that it needs.
pub(crate) enum Decision {
    /// It changes nothing: it ends so.
    End(Result<(), VolumeError>),
    /// It changes this.
    Append(Records),
}

impl ControlOp {
    /// True when nothing may be under way on its volume.
    pub(crate) fn needs_quiet(&self) -> bool {
        matches!(self, ControlOp::Rollback(..) | ControlOp::Purge)
    }

    /// The blocks that must be quiet before it may be sequenced.
    pub(crate) fn claims(&self, size: u64) -> impl Iterator<Item = Range<u64>> + use<> {
        let range = match self {
            _ if self.needs_quiet() => Some(super::admit::EVERYWHERE),
            ControlOp::Update(next) if next.size_bytes < size => {
                let first = next.size_bytes / BLOCK_BYTES as u64;
                Some(first..size.div_ceil(BLOCK_BYTES as u64))
            }
            _ => None,
        };
        range.into_iter()
    }
}

/// Decides a command whose loads have ended.
pub(crate) fn decide(op: &mut Op, volume: &Volume) -> Decision {
    let line = volume.descriptor.line;
    match &mut op.kind {
        Kind::Read => {
            if let (Some(image), Some(buf)) = (&op.image, &mut op.buf) {
                buf.copy_from_slice(&image[op.span.in_image()]);
            }
            Decision::End(Ok(()))
        }
        Kind::Verify | Kind::Allocation(_) => Decision::End(Ok(())),
        Kind::Compare => Decision::End(compare(op)),
        Kind::CompareAndWrite => match compare(op) {
            Ok(()) => Decision::Append(write(op, line)),
            Err(error) => Decision::End(Err(error)),
        },
        Kind::Write => Decision::Append(write(op, line)),
        Kind::WriteZeroes => Decision::Append(write_zeroes(op, line)),
        Kind::Deallocate(spans) => Decision::Append(spans.iter().filter_map(|s| unmap(line, *s)).collect()),
        Kind::Copy(_) => {
            let image = op.image.take().expect("a copy has an image");
            Decision::Append(one(send(&mut op.sent, line, op.span.first(), image)))
        }
        Kind::Reserve(command, outcome) => match volume.reservations.apply(op.host, command) {
            Err(error) => Decision::End(Err(error)),
            Ok(next) if next.next == volume.reservations => Decision::End(Ok(())),
            Ok(next) => {
                let value = record::encode(&next.next);
                *outcome = Some(Box::new(next));
                Decision::Append(one(put(kind::RESERVATIONS, volume.descriptor.uuid, value)))
            }
        },
        Kind::Control(control) => Decision::Append(control_records(control, volume)),
    }
}

fn control_records(control: &ControlOp, volume: &Volume) -> Records {
    let (line, uuid) = (volume.descriptor.line, volume.descriptor.uuid);
    let mut records = Records::new();
    match control {
        ControlOp::Create(origin) => {
            records.push(match *origin {
                None => {
                    let (compress, encrypt) = (volume.descriptor.compression, volume.descriptor.encryption);
                    Record::CreateLine { line, attributes: LineAttributes { compress, encrypt } }
                }
                Some((parent, at)) => Record::CloneLine { line, parent, at },
            });
            records.push(put(kind::DESCRIPTOR, uuid, descriptor::encode(&volume.descriptor)));
        }
        ControlOp::Update(next) => {
            records.push(put(kind::DESCRIPTOR, uuid, descriptor::encode(next)));
            let beyond = Span { start: next.size_bytes, end: volume.size.max(next.size_bytes) };
            records.extend(unmap(line, beyond));
        }
        ControlOp::Rollback(next, (parent, at)) => {
            records.push(Record::CloneLine { line: next.line, parent: *parent, at: *at });
            records.push(Record::DropLine { line });
            records.push(put(kind::DESCRIPTOR, uuid, descriptor::encode(next)));
        }
        ControlOp::Delete(next) => records.push(put(kind::DESCRIPTOR, uuid, descriptor::encode(next))),
        ControlOp::Purge => {
            records.push(Record::DropLine { line });
            for kind in [kind::DESCRIPTOR, kind::RESERVATIONS] {
                records.push(Record::Delete { key: key(kind, uuid) });
            }
        }
    }
    records
}

fn compare(op: &Op) -> Result<(), VolumeError> {
    let stored = op.image.as_ref().expect("a compare has an image");
    let claimed = op.buf.as_ref().expect("a compare has the host's data");
    if stored[op.span.in_image()] == **claimed { Ok(()) } else { Err(VolumeError::CompareFailed) }
}

/// The host's data as whole blocks: its own buffer when it is aligned, else what was loaded with the data laid over.
fn write(op: &mut Op, line: LineId) -> Records {
    let slot = if matches!(op.kind, Kind::CompareAndWrite) { &mut op.buf2 } else { &mut op.buf };
    let whole = if op.span.is_aligned() {
        slot.take().expect("a write has data")
    } else {
        let mut image = op.image.take().expect("a misaligned write has an image");
        image[op.span.in_image()].copy_from_slice(slot.as_ref().expect("a write has data"));
        image
    };
    one(send(&mut op.sent, line, op.span.first(), whole))
}

fn write_zeroes(op: &mut Op, line: LineId) -> Records {
    let mut records = Records::new();
    records.extend(unmap(line, op.span));
    if let Some(image) = op.image.take() {
        let edges = image.freeze();
        for (n, at) in (0..2).map_while(|n| Some((n, op.span.edge(n)?))) {
            let data = edges.slice(n * BLOCK_BYTES..(n + 1) * BLOCK_BYTES);
            records.push(Record::Write { line, lba: Lba(at), data });
        }
    }
    records
}

/// A write of a whole buffer, of which the op keeps a view so that it can go back to the host.
fn send(sent: &mut Option<dolmen_io::Slice>, line: LineId, first: u64, buf: Buf) -> Record {
    let data = buf.freeze();
    *sent = Some(data.clone());
    Record::Write { line, lba: Lba(first), data }
}

fn unmap(line: LineId, span: Span) -> Option<Record> {
    let (lba, Blocks(blocks)) = span.inner()?;
    Some(Record::Unmap { line, lba, blocks: Blocks(blocks) })
}

pub(super) fn one(record: Record) -> Records {
    let mut records = Records::new();
    records.push(record);
    records
}

fn key(kind: u8, uuid: Uuid) -> Key {
    Key { kind, id: u128::from_be_bytes(uuid.0) }
}

fn put(kind: u8, uuid: Uuid, value: Vec<u8>) -> Record {
    Record::Put { key: key(kind, uuid), value: value.into() }
}
