//! The snapshot's descriptor as a keyed object of the log, and which descriptors are valid.
//!
//! ```text
//!  0   version, 1                            u16
//!  2   state: 1 available, 2 deleting        u8
//!  3   log2 of the sector size: 9 or 12; bit 7: the volume's data is compressed  u8
//!  4   protection group                      u32
//!  8   line                                  u64
//!  16  sequence number of the batch that took it, which names the point of the line  u64
//!  24  size of the volume in bytes           u64
//!  32  store blocks written then             u64
//!  40  created, ms since 1970                u64
//!  48  expires, ms since 1970, 0 for never   u64
//!  56  revision                              u64
//!  64  UUID                                  16 bytes
//!  80  volume's UUID                         16 bytes
//!  96  snapshot policy's UUID, or zeros      16 bytes
//!  112 name, project, volume's name          text each: length u8, UTF-8
//!      description                           length u16, UTF-8
//!      labels: count u8, key and value       text each
//! ```

use crate::{
    ControlError,
    codec::{DecodeError, Reader, put_text},
    descriptor::{check_labels, check_names, put_labels, read_labels},
    limits::{MAX_LABEL_BYTES, MAX_LABELS, MAX_PROJECT_BYTES},
};
use dolmen_types::{
    LineId, PgId, Seq, UnixMillis, Uuid,
    limits::{
        BLOCK_BYTES, MAX_DESCRIPTION_BYTES, MAX_VOLUME_BYTES, MAX_VOLUME_NAME_BYTES, PROTECTION_GROUPS,
    },
    snapshot::{SnapshotDescriptor, SnapshotState},
    volume::SectorSize,
};

const VERSION: u16 = 1;

/// In the byte of the sector size: the volume's data is compressed.
const FLAG_COMPRESSION: u8 = 0x80;

/// Likewise: it is encrypted.
const FLAG_ENCRYPTION: u8 = 0x40;

/// Bytes of the largest record.
pub(crate) const MAX_BYTES: usize = 112
    + 2 * (1 + MAX_VOLUME_NAME_BYTES)
    + (1 + MAX_PROJECT_BYTES)
    + (2 + MAX_DESCRIPTION_BYTES)
    + (1 + MAX_LABELS * 2 * (1 + MAX_LABEL_BYTES));

const _: () = assert!(MAX_BYTES <= dolmen_store::MAX_OBJECT_BYTES);

/// Checks every field's range, those aside that the home core fills in.
pub(crate) fn check(d: &SnapshotDescriptor) -> Result<(), ControlError> {
    let invalid = |field, reason| Err(ControlError::Invalid { field, reason });
    if d.uuid.is_nil() {
        return invalid("uuid", "must not be the nil UUID");
    }
    check_names(&d.name, &d.project)?;
    if d.description.len() > MAX_DESCRIPTION_BYTES {
        return invalid("description", "must be at most 256 bytes");
    }
    if d.expires == Some(UnixMillis(0)) || d.policy == Some(Uuid::NIL) {
        return invalid("expires", "0 and nil mean none");
    }
    check_labels(&d.labels)
}

/// The record of a valid descriptor.
pub(crate) fn encode(d: &SnapshotDescriptor) -> Vec<u8> {
    let mut out = Vec::with_capacity(192);
    let state = if d.state == SnapshotState::Available { 1 } else { 2 };
    out.extend_from_slice(&VERSION.to_le_bytes());
    let sector = if d.sector == SectorSize::B512 { 9 } else { 12 };
    let flag = |is: bool, flag: u8| if is { flag } else { 0 };
    let flags = flag(d.compression, FLAG_COMPRESSION) | flag(d.encryption, FLAG_ENCRYPTION);
    out.extend_from_slice(&[state, sector | flags]);
    out.extend_from_slice(&d.pg.0.to_le_bytes());
    let expires = d.expires.unwrap_or_default().0;
    for number in [d.line.0, d.at.0, d.size_bytes, d.mapped_blocks, d.created.0, expires, d.revision] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    for uuid in [d.uuid, d.volume, d.policy.unwrap_or_default()] {
        out.extend_from_slice(&uuid.0);
    }
    put_text(&mut out, &d.name);
    put_text(&mut out, &d.project);
    put_text(&mut out, &d.volume_name);
    let length = u16::try_from(d.description.len()).expect("descriptions are limited");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(d.description.as_bytes());
    put_labels(&mut out, &d.labels);
    out
}

/// The descriptor of a record.
pub(crate) fn decode(bytes: &[u8]) -> Result<SnapshotDescriptor, DecodeError> {
    let mut r = Reader(bytes);
    let version = r.u16()?;
    if version > VERSION {
        return Err(DecodeError::Newer { version });
    }
    if version == 0 {
        return Err(DecodeError::Malformed);
    }
    let state = match r.u8()? {
        1 => SnapshotState::Available,
        2 => SnapshotState::Deleting,
        _ => return Err(DecodeError::Malformed),
    };
    let sector = r.u8()?;
    let (compression, encryption) = (sector & FLAG_COMPRESSION != 0, sector & FLAG_ENCRYPTION != 0);
    let sector = match sector & !(FLAG_COMPRESSION | FLAG_ENCRYPTION) {
        9 => SectorSize::B512,
        12 => SectorSize::B4096,
        _ => return Err(DecodeError::Malformed),
    };
    let (pg, line, at) = (PgId(r.u32()?), LineId(r.u64()?), Seq(r.u64()?));
    let (size_bytes, mapped_blocks, created) = (r.u64()?, r.u64()?, UnixMillis(r.u64()?));
    let expires = Some(UnixMillis(r.u64()?)).filter(|at| at.0 != 0);
    let revision = r.u64()?;
    let (uuid, volume) = (Uuid(r.array()?), Uuid(r.array()?));
    let policy = Some(Uuid(r.array()?)).filter(|uuid| !uuid.is_nil());
    let (name, project, volume_name) = (r.text()?.into(), r.text()?.into(), r.text()?.into());
    let length = usize::from(r.u16()?);
    let description = std::str::from_utf8(r.bytes(length)?).map_err(|_| DecodeError::Malformed)?.into();
    let labels = read_labels(&mut r)?;
    r.end()?;
    let good_size = size_bytes > 0 && size_bytes <= MAX_VOLUME_BYTES;
    let aligned = size_bytes.is_multiple_of(BLOCK_BYTES as u64);
    if !good_size || !aligned || line.0 == 0 || at.0 == 0 || pg.0 >= PROTECTION_GROUPS {
        return Err(DecodeError::Malformed);
    }
    let descriptor = SnapshotDescriptor {
        uuid,
        name,
        project,
        description,
        volume,
        volume_name,
        pg,
        line,
        at,
        size_bytes,
        sector,
        compression,
        encryption,
        mapped_blocks,
        labels,
        created,
        expires,
        policy,
        revision,
        state,
    };
    check(&descriptor).map_err(|_| DecodeError::Malformed)?;
    Ok(descriptor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> SnapshotDescriptor {
        SnapshotDescriptor {
            uuid: Uuid([7; 16]),
            name: "s".into(),
            project: "default".into(),
            description: "é".into(),
            volume: Uuid([8; 16]),
            volume_name: "db".into(),
            pg: PgId(3),
            line: LineId(9),
            at: Seq(0x0102),
            size_bytes: 1 << 20,
            sector: SectorSize::B512,
            compression: true,
            encryption: true,
            mapped_blocks: 5,
            labels: vec![("k".into(), "v".into())],
            created: UnixMillis(1),
            expires: Some(UnixMillis(2)),
            policy: Some(Uuid([6; 16])),
            revision: 4,
            state: SnapshotState::Deleting,
        }
    }

    #[test]
    fn golden_bytes() {
        let mut golden = vec![1, 0, 2, 0xc9, 3, 0, 0, 0];
        for number in [9u64, 0x0102, 1 << 20, 5, 1, 2, 4] {
            golden.extend(number.to_le_bytes());
        }
        golden.extend([7; 16]);
        golden.extend([8; 16]);
        golden.extend([6; 16]);
        golden.extend(b"\x01s\x07default\x02db\x02\x00\xc3\xa9\x01\x01k\x01v");
        assert_eq!(encode(&sample()), golden);
        assert_eq!(decode(&golden), Ok(sample()));
        let bare = SnapshotDescriptor {
            expires: None,
            policy: None,
            description: String::new(),
            compression: false,
            encryption: false,
            ..sample()
        };
        assert_eq!(encode(&bare)[3], 9);
        assert_eq!(decode(&encode(&bare)), Ok(bare));
        golden[0] = 2;
        assert_eq!(decode(&golden), Err(DecodeError::Newer { version: 2 }));
    }

    #[test]
    fn no_bytes_make_it_panic_and_what_decodes_is_whole() {
        let good = encode(&sample());
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                if let Ok(descriptor) = decode(&bad) {
                    assert_eq!(encode(&descriptor), bad);
                }
            }
            assert!(decode(&good[..at]).is_err());
        }
        assert!(decode(&[good, vec![0]].concat()).is_err());
    }

    #[test]
    fn the_largest_descriptor_fits_its_bound() {
        let mut d = sample();
        d.name = "n".repeat(MAX_VOLUME_NAME_BYTES);
        d.volume_name = "v".repeat(MAX_VOLUME_NAME_BYTES);
        d.project = "p".repeat(MAX_PROJECT_BYTES);
        d.description = "d".repeat(MAX_DESCRIPTION_BYTES);
        d.labels = vec![("l".repeat(MAX_LABEL_BYTES), "v".repeat(MAX_LABEL_BYTES)); MAX_LABELS];
        check(&d).unwrap();
        assert_eq!(encode(&d).len(), MAX_BYTES);
        assert_eq!(decode(&encode(&d)), Ok(d));
    }
}
