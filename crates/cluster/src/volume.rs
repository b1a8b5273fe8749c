//! What a user may ask of a volume: the request in typed form, and every rule about names, sizes and lists.
//!
//! Texts name the field as the management API spells it, since that is what the user wrote.

use crate::{Error, qos::PolicyKey};
use dolmen_types::{
    ByteSize, Nqn, Uuid, limits,
    volume::{HostAccess, IpAccess, SectorSize, VolumeKind},
};
use std::{collections::BTreeSet, net::IpAddr};

/// Bytes of a project's name at most.
pub const MAX_PROJECT_NAME_BYTES: usize = 63;

/// The project that always exists.
pub const DEFAULT_PROJECT: &str = "default";

/// A volume to be made, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Unique in the project.
    pub name: String,
    /// The tenant.
    pub project: String,
    /// Bytes, already rounded up.
    pub size_bytes: u64,
    /// Logical block size; that of the source, or 4096, if none is named.
    pub sector: Option<SectorSize>,
    /// Whether its data is compressed; that of the source, or yes on the drives, if it is not said.
    pub compression: Option<bool>,
    /// Whether its data is encrypted; that of the source, or what is the default for the drives, if it is not said.
    pub encryption: Option<bool>,
    /// Durable, or one of the test kinds.
    pub kind: VolumeKind,
    /// Admitted hosts.
    pub acl: HostAccess,
    /// Admitted addresses.
    pub ip_acl: IpAccess,
    /// Key and value, in the order given.
    pub labels: Vec<(String, String)>,
    /// The QoS policy; the default one if none is named.
    pub qos: Option<PolicyKey>,
    /// The snapshot that it is to be a clone of.
    pub source: Option<VolumeKey>,
}

/// What to change about a volume; `None` leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeChange {
    /// New size in bytes, already rounded up; may not be smaller.
    pub size_bytes: Option<u64>,
    /// The whole new list.
    pub acl: Option<HostAccess>,
    /// The whole new list.
    pub ip_acl: Option<IpAccess>,
    /// What it is already: it can't change.
    pub compression: Option<bool>,
    /// Likewise.
    pub encryption: Option<bool>,
    /// A new name.
    pub name: Option<String>,
    /// The whole new set.
    pub labels: Option<Vec<(String, String)>>,
    /// Another QoS policy.
    pub qos: Option<PolicyKey>,
}

/// Which volume (or snapshot) is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeKey {
    /// By identity.
    Uuid(Uuid),
    /// By name in the project of the request.
    Name(String),
}

/// Checks the name of a volume, a snapshot or a policy: a word, and no UUID. Where either may stand, a UUID is taken for one, and what is
/// meant for the object of that name would be done to another.
pub fn check_name(field: &str, name: &str) -> Result<(), Error> {
    if name.parse::<Uuid>().is_ok() {
        return Err(Error::invalid(
            field,
            format!("'{name}' is a UUID; a name is none, lest it be taken for that of something else"),
        ));
    }
    check_word(field, name)
}

/// Checks a word, such as a label's: 1 to 253 of letters, digits, `-`, `_` and `.`.
pub fn check_word(field: &str, name: &str) -> Result<(), Error> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() {
        return Err(Error::invalid(field, "a name is needed"));
    }
    if name.len() > limits::MAX_VOLUME_NAME_BYTES || !name.bytes().all(good) {
        return Err(Error::invalid(
            field,
            format!("'{}' is not a name (1 to 253 of A-Z a-z 0-9 - _ .)", shortened(name)),
        ));
    }
    Ok(())
}

/// Checks a project's name: lower-case letters, digits, `.` and `-`, not at its ends the latter two.
pub fn check_project(field: &str, name: &str) -> Result<(), Error> {
    let edge = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    let good = !bytes.is_empty()
        && bytes.len() <= MAX_PROJECT_NAME_BYTES
        && bytes.first().is_some_and(edge)
        && bytes.last().is_some_and(edge)
        && bytes.iter().all(|b| edge(b) || matches!(b, b'.' | b'-'));
    if good {
        Ok(())
    } else {
        Err(Error::invalid(
            field,
            format!("'{}' is not a project name (1 to 63 of a-z 0-9 . -)", shortened(name)),
        ))
    }
}

/// Reads a size as clients send it and rounds it up to whole store blocks.
pub fn parse_size(field: &str, text: &str) -> Result<u64, Error> {
    let ByteSize(bytes) = ByteSize::parse_lenient(text).map_err(|why| Error::invalid(field, why))?;
    let block = limits::BLOCK_BYTES as u64;
    if bytes == 0 {
        return Err(Error::invalid(field, "a volume must not be empty"));
    }
    if bytes > limits::MAX_VOLUME_BYTES {
        return Err(Error::invalid(
            field,
            format!(
                "'{}' is more than the largest volume, {}",
                shortened(text),
                ByteSize(limits::MAX_VOLUME_BYTES)
            ),
        ));
    }
    Ok(bytes.div_ceil(block) * block)
}

/// Reads a list of host NQNs, or the lone word `ALLOW_ANY` or `ALLOW_NONE`.
pub fn parse_acl(field: &str, values: &[String]) -> Result<HostAccess, Error> {
    match lone_word(field, values)? {
        Some(Word::Any) => return Ok(HostAccess::Any),
        Some(Word::None) => return Ok(HostAccess::None),
        None => {}
    }
    let mut hosts = BTreeSet::new();
    for value in values {
        let nqn = Nqn::of_host(value)
            .map_err(|why| Error::invalid(field, format!("'{}' is {why}", shortened(value))))?;
        hosts.insert(nqn);
    }
    if hosts.len() > limits::MAX_ACL_ENTRIES {
        return Err(Error::invalid(field, format!("more than {} hosts", limits::MAX_ACL_ENTRIES)));
    }
    Ok(HostAccess::Hosts(hosts))
}

/// Reads a list of IP addresses, or the lone word `ALLOW_ANY` or `ALLOW_NONE`.
pub fn parse_ip_acl(field: &str, values: &[String]) -> Result<IpAccess, Error> {
    match lone_word(field, values)? {
        Some(Word::Any) => return Ok(IpAccess::Any),
        Some(Word::None) => return Ok(IpAccess::None),
        None => {}
    }
    let mut addresses = BTreeSet::new();
    for value in values {
        let ip: IpAddr = value
            .parse()
            .map_err(|_| Error::invalid(field, format!("'{}' is not an IP address", shortened(value))))?;
        addresses.insert(ip.to_canonical());
    }
    if addresses.len() > limits::MAX_IP_ACL_ENTRIES {
        return Err(Error::invalid(field, format!("more than {} addresses", limits::MAX_IP_ACL_ENTRIES)));
    }
    Ok(IpAccess::Addresses(addresses))
}

/// Checks labels: at most 16, keys unique, keys and values like names.
pub fn check_labels(field: &str, labels: &[(String, String)]) -> Result<(), Error> {
    if labels.len() > limits::MAX_LABELS {
        return Err(Error::invalid(field, format!("more than {}", limits::MAX_LABELS)));
    }
    let mut keys = BTreeSet::new();
    for (key, value) in labels {
        for word in [key, value] {
            check_word(field, word)?;
            if word.len() > limits::MAX_LABEL_BYTES {
                let most = limits::MAX_LABEL_BYTES;
                return Err(Error::invalid(
                    field,
                    format!("'{}' has more than {most} characters", shortened(word)),
                ));
            }
        }
        if !keys.insert(key) {
            return Err(Error::invalid(field, format!("the key '{}' appears twice", shortened(key))));
        }
    }
    Ok(())
}

enum Word {
    Any,
    None,
}

/// The word that stands alone in the list, if one does; an error if a word stands among others or the list is empty.
fn lone_word(field: &str, values: &[String]) -> Result<Option<Word>, Error> {
    match values {
        [] => Err(Error::invalid(field, "the list is empty; write ALLOW_NONE to admit nobody")),
        [word] if word == "ALLOW_ANY" => Ok(Some(Word::Any)),
        [word] if word == "ALLOW_NONE" => Ok(Some(Word::None)),
        many if many.iter().any(|v| v == "ALLOW_ANY" || v == "ALLOW_NONE") => {
            Err(Error::invalid(field, "ALLOW_ANY and ALLOW_NONE stand alone"))
        }
        _ => Ok(None),
    }
}

/// A user's text as it may stand in a message: cut to a readable length.
fn shortened(text: &str) -> String {
    const KEEP: usize = 64;
    if text.chars().count() <= KEEP { text.into() } else { text.chars().take(KEEP).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(values: &[&str]) -> Vec<String> {
        values.iter().map(|v| (*v).into()).collect()
    }

    #[test]
    fn sizes_are_rounded_up_and_bounded() {
        assert_eq!(parse_size("size", "1"), Ok(4096));
        assert_eq!(parse_size("size", "1 gib"), Ok(1 << 30));
        assert_eq!(parse_size("size", "4097b"), Ok(8192));
        for bad in ["0", "0 gib", "9223372036854775807", "-1", "", "x", "1 parsec"] {
            let error = parse_size("size", bad).unwrap_err();
            assert!(error.text.starts_with("size: "), "{error}");
        }
    }

    #[test]
    fn lists_take_names_or_one_word() {
        assert_eq!(parse_acl("acl", &list(&["ALLOW_ANY"])), Ok(HostAccess::Any));
        assert_eq!(parse_acl("acl", &list(&["ALLOW_NONE"])), Ok(HostAccess::None));
        assert!(parse_acl("acl", &list(&["ALLOW_ANY", "nqn.2014-08.org.nvmexpress:a"])).is_err());
        assert!(parse_acl("acl", &list(&["host1"])).is_err());
        assert!(parse_acl("acl", &[]).is_err());
        let many: Vec<String> = (0..65).map(|i| format!("nqn.2014-08.org.nvmexpress:{i}")).collect();
        assert!(parse_acl("acl", &many).is_err());
        assert!(parse_acl("acl", &many[..64]).is_ok());
        let mapped = parse_ip_acl("IPAcl", &list(&["::ffff:192.0.2.1"])).unwrap();
        assert!(mapped.admits("192.0.2.1".parse().unwrap()));
        assert!(parse_ip_acl("IPAcl", &list(&["192.0.2.0/24"])).is_err());
    }

    #[test]
    fn names_and_labels() {
        assert!(check_name("name", "volume-1_a.B").is_ok());
        for bad in ["", "a b", "ä", "a/b", &"x".repeat(254)] {
            assert!(check_name("name", bad).is_err(), "{bad}");
        }
        // A label may say whose it is.
        let uuid = "5C1D3F4E-0000-4000-8000-000000000009";
        assert!(check_name("name", uuid).unwrap_err().text.contains("is a UUID"));
        assert!(check_name("name", &format!("pvc-{uuid}")).is_ok());
        assert!(check_labels("labels", &[("owner".into(), uuid.into())]).is_ok());
        for bad in ["", "A", "-a", "a-", "a_b", &"x".repeat(64)] {
            assert!(check_project("projectName", bad).is_err(), "{bad}");
        }
        let label = |k: &str| (k.to_string(), "v".to_string());
        assert!(check_labels("labels", &[label("a"), label("b")]).is_ok());
        assert!(check_labels("labels", &[label("a"), label("a")]).is_err());
        assert!(check_labels("labels", &[label(&"x".repeat(63))]).is_ok());
        assert!(check_labels("labels", &[label(&"x".repeat(64))]).is_err());
    }
}
