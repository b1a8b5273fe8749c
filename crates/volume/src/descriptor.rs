//! The volume descriptor as a keyed object of the log, and which descriptors are valid.
//!
//! ```text
//!  0   version, 1                         u16
//!  2   state: 1 available, 2 deleting     u8
//!  3   log2 of the sector size: 9 or 12   u8
//!  4   host access: 0 none, 1 any, 2 list u8
//!  5   address access: likewise           u8
//!  6   flags: bit 0 it has a QoS policy, bit 1 it is a clone, bit 2 it is compressed, bit 3 it is encrypted  u16
//!  8   namespace id                       u32
//!  12  protection group                   u32
//!  16  line                               u64
//!  24  size in bytes                      u64
//!  32  created, ms since 1970             u64
//!  40  revision                           u64
//!  48  UUID                               16 bytes
//!  64  name, project                      text each: length u8, UTF-8
//!      hosts: count u8, text each         ascending; present for a list only
//!      addresses: count u8, each 4 or 6 (u8) and 4 or 16 bytes, ascending; present for a list only
//!      labels: count u8, key and value    text each
//!      QoS, only with flag bit 0:
//!        policy's UUID, its revision      16 bytes, u64
//!        read and write limit each of IOPS, MB/s, IOPS per GiB (0: none)  6 times u32
//!        policy's name                    text
//!      source, only with flag bit 1: the snapshot's UUID, its name  16 bytes, text
//! ```
//!
//! Only durable volumes are recorded. A newer version, or bytes that do not add up to a valid descriptor, are an
//! error, which quarantines that one volume.

use crate::{
    ControlError,
    codec::{DecodeError, Reader, put_text},
    limits::{MAX_LABEL_BYTES, MAX_LABELS, MAX_MEMORY_VOLUME_BYTES, MAX_PROJECT_BYTES},
};
use dolmen_types::{
    LineId, Nqn, Nsid, PgId, UnixMillis, Uuid,
    limits::{
        BLOCK_BYTES, MAX_ACL_ENTRIES, MAX_IP_ACL_ENTRIES, MAX_VOLUME_BYTES, MAX_VOLUME_NAME_BYTES,
        PROTECTION_GROUPS,
    },
    qos::{PerDirection, QosAssignment, QosLimits},
    snapshot::CloneSource,
    volume::{HostAccess, IpAccess, SectorSize, VolumeDescriptor, VolumeKind, VolumeState},
};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

const VERSION: u16 = 1;

/// The volume has a QoS policy.
const FLAG_QOS: u16 = 1;

/// The volume is a clone.
const FLAG_SOURCE: u16 = 2;

/// The volume's data is compressed.
const FLAG_COMPRESSION: u16 = 4;

/// The volume's data is encrypted.
const FLAG_ENCRYPTION: u16 = 8;

/// All flags.
const FLAGS: u16 = FLAG_QOS | FLAG_SOURCE | FLAG_COMPRESSION | FLAG_ENCRYPTION;

/// Bytes of the largest record.
pub(crate) const MAX_BYTES: usize = 64
    + (1 + MAX_VOLUME_NAME_BYTES)
    + (1 + MAX_PROJECT_BYTES)
    + (1 + MAX_ACL_ENTRIES * (1 + Nqn::MAX_BYTES))
    + (1 + MAX_IP_ACL_ENTRIES * 17)
    + (1 + MAX_LABELS * 2 * (1 + MAX_LABEL_BYTES))
    + (48 + 1 + MAX_VOLUME_NAME_BYTES)
    + (16 + 1 + MAX_VOLUME_NAME_BYTES);

const _: () = assert!(MAX_BYTES <= dolmen_store::MAX_OBJECT_BYTES);

/// Checks every field's range.
pub(crate) fn check(d: &VolumeDescriptor) -> Result<(), ControlError> {
    let invalid = |field, reason| Err(ControlError::Invalid { field, reason });
    if d.uuid.is_nil() {
        return invalid("uuid", "must not be the nil UUID");
    }
    check_names(&d.name, &d.project)?;
    if d.nsid.0 == 0 || d.nsid.0 == u32::MAX {
        return invalid("nsid", "must be 1 to 0xFFFFFFFE");
    }
    if d.pg.0 >= PROTECTION_GROUPS {
        return invalid("pg", "no such protection group");
    }
    if d.line.0 == 0 && d.kind == VolumeKind::Durable {
        return invalid("line", "must not be 0");
    }
    if d.size_bytes == 0 || !d.size_bytes.is_multiple_of(BLOCK_BYTES as u64) {
        return invalid("size_bytes", "must be a multiple of 4096, and not 0");
    }
    if d.size_bytes > MAX_VOLUME_BYTES {
        return invalid("size_bytes", "must be at most 256 TiB");
    }
    if d.kind == VolumeKind::Memory && d.size_bytes > MAX_MEMORY_VOLUME_BYTES {
        return invalid("size_bytes", "must be at most 1 GiB for a memory volume");
    }
    if matches!(&d.acl, HostAccess::Hosts(h) if h.is_empty() || h.len() > MAX_ACL_ENTRIES) {
        return invalid("acl", "must have 1 to 64 entries");
    }
    if matches!(&d.ip_acl, IpAccess::Addresses(a) if a.is_empty() || a.len() > MAX_IP_ACL_ENTRIES) {
        return invalid("ip_acl", "must have 1 to 16 entries");
    }
    check_labels(&d.labels)?;
    if d.qos.as_ref().is_some_and(|q| q.policy.is_nil() || !is_name(&q.name, MAX_VOLUME_NAME_BYTES)) {
        return invalid("qos", "must name its policy");
    }
    if d.source.as_ref().is_some_and(|s| s.snapshot.is_nil() || !is_name(&s.name, MAX_VOLUME_NAME_BYTES)) {
        return invalid("source", "must name its snapshot");
    }
    Ok(())
}

fn is_name(name: &str, longest: usize) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.len() <= longest && name.chars().all(good)
}

/// Checks the name and the project of a volume or snapshot.
pub(crate) fn check_names(name: &str, project: &str) -> Result<(), ControlError> {
    let invalid = |field, reason| Err(ControlError::Invalid { field, reason });
    if !is_name(name, MAX_VOLUME_NAME_BYTES) {
        return invalid("name", "must be 1 to 253 letters, digits, '-', '_' and '.'");
    }
    if !is_name(project, MAX_PROJECT_BYTES) {
        return invalid("project", "must be 1 to 63 letters, digits, '-', '_' and '.'");
    }
    Ok(())
}

/// Checks the labels of a volume or snapshot.
pub(crate) fn check_labels(labels: &[(String, String)]) -> Result<(), ControlError> {
    let label =
        |(k, v): &(String, String)| !k.is_empty() && k.len() <= MAX_LABEL_BYTES && v.len() <= MAX_LABEL_BYTES;
    if labels.len() > MAX_LABELS || !labels.iter().all(label) {
        let reason = "must be at most 16, keys and values of at most 63 bytes";
        return Err(ControlError::Invalid { field: "labels", reason });
    }
    Ok(())
}

/// The record of a valid descriptor of a durable volume.
pub(crate) fn encode(d: &VolumeDescriptor) -> Vec<u8> {
    let mut out = Vec::with_capacity(160);
    let state = if d.state == VolumeState::Available { 1 } else { 2 };
    let access = |none: bool, any: bool| if none { 0 } else { 2 - u8::from(any) };
    let acl = access(d.acl == HostAccess::None, d.acl == HostAccess::Any);
    let ip_acl = access(d.ip_acl == IpAccess::None, d.ip_acl == IpAccess::Any);
    let count = |n: usize| u8::try_from(n).expect("lists of a valid descriptor are short");
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[state, if d.sector == SectorSize::B512 { 9 } else { 12 }, acl, ip_acl]);
    let flag = |is: bool, flag: u16| if is { flag } else { 0 };
    let flags = flag(d.qos.is_some(), FLAG_QOS)
        | flag(d.source.is_some(), FLAG_SOURCE)
        | flag(d.compression, FLAG_COMPRESSION)
        | flag(d.encryption, FLAG_ENCRYPTION);
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(&d.nsid.0.to_le_bytes());
    out.extend_from_slice(&d.pg.0.to_le_bytes());
    for number in [d.line.0, d.size_bytes, d.created.0, d.revision] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&d.uuid.0);
    put_text(&mut out, &d.name);
    put_text(&mut out, &d.project);
    if let HostAccess::Hosts(hosts) = &d.acl {
        out.push(count(hosts.len()));
        hosts.iter().for_each(|h| put_text(&mut out, h.as_str()));
    }
    if let IpAccess::Addresses(addresses) = &d.ip_acl {
        out.push(count(addresses.len()));
        for address in addresses {
            match address {
                IpAddr::V4(a) => {
                    out.push(4);
                    out.extend_from_slice(&a.octets());
                }
                IpAddr::V6(a) => {
                    out.push(6);
                    out.extend_from_slice(&a.octets());
                }
            }
        }
    }
    put_labels(&mut out, &d.labels);
    if let Some(qos) = &d.qos {
        put_qos(&mut out, qos);
    }
    if let Some(source) = &d.source {
        out.extend_from_slice(&source.snapshot.0);
        put_text(&mut out, &source.name);
    }
    out
}

/// Appends labels.
pub(crate) fn put_labels(out: &mut Vec<u8>, labels: &[(String, String)]) {
    out.push(u8::try_from(labels.len()).expect("labels are few"));
    for (key, value) in labels {
        put_text(out, key);
        put_text(out, value);
    }
}

fn put_qos(out: &mut Vec<u8>, qos: &QosAssignment) {
    out.extend_from_slice(&qos.policy.0);
    out.extend_from_slice(&qos.revision.to_le_bytes());
    for limit in [qos.limits.iops, qos.limits.megabytes, qos.limits.iops_per_gib] {
        out.extend_from_slice(&limit.read.to_le_bytes());
        out.extend_from_slice(&limit.write.to_le_bytes());
    }
    put_text(out, &qos.name);
}

/// The descriptor of a record.
pub(crate) fn decode(bytes: &[u8]) -> Result<VolumeDescriptor, DecodeError> {
    let mut r = Reader(bytes);
    let version = r.u16()?;
    if version > VERSION {
        return Err(DecodeError::Newer { version });
    }
    let (state, sector, acl, ip_acl, flags) = (r.u8()?, r.u8()?, r.u8()?, r.u8()?, r.u16()?);
    if version == 0 || flags & !FLAGS != 0 {
        return Err(DecodeError::Malformed);
    }
    let descriptor = VolumeDescriptor {
        nsid: Nsid(r.u32()?),
        pg: PgId(r.u32()?),
        line: LineId(r.u64()?),
        size_bytes: r.u64()?,
        created: UnixMillis(r.u64()?),
        revision: r.u64()?,
        uuid: Uuid(r.array()?),
        name: r.text()?.into(),
        project: r.text()?.into(),
        acl: match acl {
            0 => HostAccess::None,
            1 => HostAccess::Any,
            2 => HostAccess::Hosts(read_set(&mut r, read_nqn)?),
            _ => return Err(DecodeError::Malformed),
        },
        ip_acl: match ip_acl {
            0 => IpAccess::None,
            1 => IpAccess::Any,
            2 => IpAccess::Addresses(read_set(&mut r, read_address)?),
            _ => return Err(DecodeError::Malformed),
        },
        labels: read_labels(&mut r)?,
        compression: flags & FLAG_COMPRESSION != 0,
        encryption: flags & FLAG_ENCRYPTION != 0,
        qos: if flags & FLAG_QOS != 0 { Some(read_qos(&mut r)?) } else { None },
        source: if flags & FLAG_SOURCE != 0 {
            Some(CloneSource { snapshot: Uuid(r.array()?), name: r.text()?.into() })
        } else {
            None
        },
        sector: match sector {
            9 => SectorSize::B512,
            12 => SectorSize::B4096,
            _ => return Err(DecodeError::Malformed),
        },
        kind: VolumeKind::Durable,
        state: match state {
            1 => VolumeState::Available,
            2 => VolumeState::Deleting,
            _ => return Err(DecodeError::Malformed),
        },
    };
    r.end()?;
    check(&descriptor).map_err(|_| DecodeError::Malformed)?;
    Ok(descriptor)
}

/// Entries in strictly ascending order, so that a descriptor has one record only.
fn read_set<T: Ord>(
    r: &mut Reader<'_>,
    read: impl Fn(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<BTreeSet<T>, DecodeError> {
    let mut set = BTreeSet::new();
    for _ in 0..r.u8()? {
        let entry = read(r)?;
        if set.last().is_some_and(|last| *last >= entry) {
            return Err(DecodeError::Malformed);
        }
        set.insert(entry);
    }
    Ok(set)
}

fn read_nqn(r: &mut Reader<'_>) -> Result<Nqn, DecodeError> {
    r.text()?.parse().map_err(|_| DecodeError::Malformed)
}

fn read_address(r: &mut Reader<'_>) -> Result<IpAddr, DecodeError> {
    match r.u8()? {
        4 => Ok(IpAddr::V4(Ipv4Addr::from(r.array::<4>()?))),
        6 => Ok(IpAddr::V6(Ipv6Addr::from(r.array::<16>()?))),
        _ => Err(DecodeError::Malformed),
    }
}

/// Takes labels off.
pub(crate) fn read_labels(r: &mut Reader<'_>) -> Result<Vec<(String, String)>, DecodeError> {
    (0..r.u8()?).map(|_| Ok((r.text()?.into(), r.text()?.into()))).collect()
}

fn read_qos(r: &mut Reader<'_>) -> Result<QosAssignment, DecodeError> {
    let (policy, revision) = (Uuid(r.array()?), r.u64()?);
    let mut limit = || Ok(PerDirection { read: r.u32()?, write: r.u32()? });
    let limits = QosLimits { iops: limit()?, megabytes: limit()?, iops_per_gib: limit()? };
    Ok(QosAssignment { policy, revision, name: r.text()?.into(), limits })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> VolumeDescriptor {
        VolumeDescriptor {
            uuid: Uuid([7; 16]),
            name: "db".into(),
            project: "default".into(),
            nsid: Nsid(5),
            pg: PgId(3),
            line: LineId(9),
            size_bytes: 1 << 20,
            sector: SectorSize::B512,
            kind: VolumeKind::Durable,
            acl: HostAccess::Hosts([Nqn::DISCOVERY.parse().unwrap()].into()),
            ip_acl: IpAccess::Addresses(["10.0.0.1".parse().unwrap(), "::1".parse().unwrap()].into()),
            labels: vec![("k".into(), "v".into())],
            compression: true,
            encryption: true,
            qos: Some(QosAssignment {
                policy: Uuid([8; 16]),
                revision: 6,
                name: "gold".into(),
                limits: QosLimits {
                    iops: PerDirection { read: 1, write: 2 },
                    megabytes: PerDirection { read: 3, write: 4 },
                    iops_per_gib: PerDirection { read: 0, write: 5 },
                },
            }),
            source: Some(CloneSource { snapshot: Uuid([9; 16]), name: "snap".into() }),
            created: UnixMillis(0x0102),
            revision: 4,
            state: VolumeState::Available,
        }
    }

    #[test]
    fn golden_bytes() {
        let mut golden = vec![1, 0, 1, 9, 2, 2, 15, 0, 5, 0, 0, 0, 3, 0, 0, 0];
        golden.extend([9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0]);
        golden.extend([2, 1, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend([7; 16]);
        golden.extend(b"\x02db\x07default\x01\x24nqn.2014-08.org.nvmexpress.discovery");
        golden.extend([2, 4, 10, 0, 0, 1, 6]);
        golden.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        golden.extend(b"\x01\x01k\x01v");
        golden.extend([8; 16]);
        golden.extend([6, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend([1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0]);
        golden.extend(b"\x04gold");
        golden.extend([9; 16]);
        golden.extend(b"\x04snap");
        assert_eq!(encode(&sample()), golden);
        assert_eq!(decode(&golden), Ok(sample()));
        golden[0] = 2;
        assert_eq!(decode(&golden), Err(DecodeError::Newer { version: 2 }));
        let without =
            VolumeDescriptor { qos: None, source: None, compression: false, encryption: false, ..sample() };
        let bytes = encode(&without);
        assert_eq!((bytes[6], bytes.len()), (0, golden.len() - 53 - 21));
        assert_eq!(decode(&bytes), Ok(without));
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
        d.project = "p".repeat(MAX_PROJECT_BYTES);
        let nqn =
            |i: usize| format!("nqn.2014-08.org.{i:02}{}", "x".repeat(Nqn::MAX_BYTES - 18)).parse().unwrap();
        d.acl = HostAccess::Hosts((0..MAX_ACL_ENTRIES).map(nqn).collect());
        let address = |i: usize| IpAddr::V6(Ipv6Addr::from(u128::try_from(i).unwrap() + 1));
        d.ip_acl = IpAccess::Addresses((0..MAX_IP_ACL_ENTRIES).map(address).collect());
        d.labels = vec![("l".repeat(MAX_LABEL_BYTES), "v".repeat(MAX_LABEL_BYTES)); MAX_LABELS];
        d.qos.as_mut().unwrap().name = "q".repeat(MAX_VOLUME_NAME_BYTES);
        d.source.as_mut().unwrap().name = "s".repeat(MAX_VOLUME_NAME_BYTES);
        check(&d).unwrap();
        assert_eq!(encode(&d).len(), MAX_BYTES);
        assert_eq!(decode(&encode(&d)), Ok(d));
    }
}
