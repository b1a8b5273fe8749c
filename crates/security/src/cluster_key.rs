//! The cluster key: wraps the data keys of encrypted volumes. It is on no drive of the pool, so drives alone give nothing away, and
//! whoever loses it loses what it wraps: keep the file, or what [`ClusterKey::export`] gave, elsewhere too.
//!
//! ```text
//!   DIR/keys/cluster.key    dolmen cluster key 1
//!                           id  32 hexadecimal digits, which follow from the key
//!                           key 64 hexadecimal digits
//!
//!   sealed by a passphrase  dolmen cluster key 1 sealed
//!                           id     likewise, of the key inside
//!                           salt   32 hexadecimal digits
//!                           sealed 80 hexadecimal digits: the key wrapped by the one that follows from passphrase and salt
//! ```

use crate::{Error, Secret, file};
use aws_lc_rs::{pbkdf2, rand};
use dolmen_kernels::{KeyWrap, WRAPPED_BYTES, hkdf};
use std::{fmt, num::NonZeroU32, path::Path};
use zeroize::{Zeroize, Zeroizing};

const HEAD: &str = "dolmen cluster key 1";
const SEALED_HEAD: &str = "dolmen cluster key 1 sealed";

/// Rounds of PBKDF2-HMAC-SHA-256 between a passphrase and a key.
const ROUNDS: NonZeroU32 = NonZeroU32::new(600_000).expect("not zero");

/// Bytes of a passphrase at least.
pub const MIN_PASSPHRASE_BYTES: usize = 12;

/// What became of a text that should hold a cluster key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Imported {
    /// The key.
    Key(ClusterKey),
    /// It is sealed, and no passphrase was given.
    Sealed,
    /// It is sealed by another passphrase, or damaged.
    WrongPassphrase,
    /// It is no cluster key, or damaged: a mistyped digit included.
    Damaged,
}

/// A key of 256 bits that wraps others. Printed by its name alone, wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey {
    key: Zeroizing<[u8; 32]>,
}

impl ClusterKey {
    /// A new random key.
    pub fn generate() -> Result<ClusterKey, Error> {
        let mut key = Zeroizing::new([0; 32]);
        rand::fill(key.as_mut()).map_err(|_| Error::Crypto("the system gives no randomness".into()))?;
        Ok(ClusterKey { key })
    }

    /// The key that follows from a passphrase and a salt: the same on every machine. The salt (the pool's UUID, for instance) is no
    /// secret, but differs from pool to pool. Takes part of a second on purpose.
    pub fn from_passphrase(passphrase: &Secret, salt: &[u8]) -> Result<ClusterKey, Error> {
        if passphrase.expose().len() < MIN_PASSPHRASE_BYTES {
            let text = format!("a passphrase has at least {MIN_PASSPHRASE_BYTES} bytes");
            return Err(Error::Crypto(text));
        }
        let mut key = Zeroizing::new([0; 32]);
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, salt, passphrase.expose(), key.as_mut());
        Ok(ClusterKey { key })
    }

    /// The key in a file; `None` when there is no such file.
    pub fn load(path: &Path) -> Result<Option<ClusterKey>, Error> {
        let Some(bytes) = file::read_if_there(path)?.map(Zeroizing::new) else { return Ok(None) };
        let text = std::str::from_utf8(&bytes).ok();
        let what = "this is no cluster key; put a copy back, nothing that it wrapped can be read without it";
        let damaged = || Error::Key { path: path.into(), what: what.into() };
        text.and_then(ClusterKey::parse).map(Some).ok_or_else(damaged)
    }

    /// Puts the key into a file that only its owner can read. One that is there with another key is left alone.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        match ClusterKey::load(path)? {
            Some(known) if known == *self => Ok(()),
            Some(known) => Err(Error::Key {
                path: path.into(),
                what: format!("it holds cluster key {known}, which may be needed still; move it away first"),
            }),
            None => file::replace(path, self.export().expose(), file::Visibility::Owner),
        }
    }

    /// The key as text that only the passphrase opens.
    pub fn export_sealed(&self, passphrase: &Secret) -> Result<Secret, Error> {
        let mut salt = [0; 16];
        rand::fill(&mut salt).map_err(|_| Error::Crypto("the system gives no randomness".into()))?;
        let sealed = ClusterKey::from_passphrase(passphrase, &salt)?.wrap(&self.key);
        let (id, salt, sealed) = (hex(&self.id()), hex(&salt), hex(&sealed));
        let text = format!("{SEALED_HEAD}\nid     {}\nsalt   {}\nsealed {}\n", *id, *salt, *sealed);
        Ok(Secret::new(text.into_bytes()))
    }

    /// The key as text, for recovery elsewhere; [`ClusterKey::import`] takes it back.
    #[must_use]
    pub fn export(&self) -> Secret {
        let text = Zeroizing::new(format!("{HEAD}\nid  {}\nkey {}\n", *hex(&self.id()), *hex(&*self.key)));
        Secret::new(text.as_bytes().to_vec())
    }

    /// The key that [`ClusterKey::export`] or [`ClusterKey::export_sealed`] made text of.
    #[must_use]
    pub fn import(text: &Secret, passphrase: Option<&Secret>) -> Imported {
        let Some(text) = text.expose_text() else { return Imported::Damaged };
        if text.lines().next().map(str::trim) != Some(SEALED_HEAD) {
            return ClusterKey::parse(text).map_or(Imported::Damaged, Imported::Key);
        }
        let Some((id, salt, sealed)) = parse_sealed(text) else { return Imported::Damaged };
        let Some(passphrase) = passphrase else { return Imported::Sealed };
        let opened = ClusterKey::from_passphrase(passphrase, &salt).ok().and_then(|by| by.unwrap(&sealed));
        match opened.map(|key| ClusterKey { key }).filter(|key| key.id() == id) {
            Some(key) => Imported::Key(key),
            None => Imported::WrongPassphrase,
        }
    }

    /// Which key a text holds that was exported, plain or sealed, whether or not it can be opened.
    #[must_use]
    pub fn id_in(text: &Secret) -> Option<[u8; 16]> {
        let mut lines = text.expose_text()?.lines();
        if ![HEAD, SEALED_HEAD].contains(&lines.next()?.trim()) {
            return None;
        }
        unhex(lines.next()?.strip_prefix("id")?.trim())
    }

    /// Names the key without giving anything of it away.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        hkdf::derive(b"dolmen cluster key", &*self.key, b"id", &mut id);
        id
    }

    /// A data key wrapped.
    #[must_use]
    pub fn wrap(&self, data_key: &[u8; 32]) -> [u8; WRAPPED_BYTES] {
        self.wrapper().wrap(data_key)
    }

    /// The data key that was wrapped by this key; `None` when it was another one, or something changed since.
    #[must_use]
    pub fn unwrap(&self, wrapped: &[u8; WRAPPED_BYTES]) -> Option<Zeroizing<[u8; 32]>> {
        self.wrapper().unwrap(wrapped).map(Zeroizing::new)
    }

    fn wrapper(&self) -> KeyWrap {
        let mut key = [0; 32];
        hkdf::derive(b"dolmen cluster key", &*self.key, b"wrap", &mut key);
        let wrapper = KeyWrap::new(&key);
        key.zeroize();
        wrapper
    }

    fn parse(text: &str) -> Option<ClusterKey> {
        let mut lines = text.lines();
        if lines.next()?.trim() != HEAD {
            return None;
        }
        let id: [u8; 16] = unhex(lines.next()?.strip_prefix("id")?.trim())?;
        let key = ClusterKey { key: Zeroizing::new(unhex(lines.next()?.strip_prefix("key")?.trim())?) };
        (key.id() == id && lines.all(|l| l.trim().is_empty())).then_some(key)
    }
}

/// The parts of a sealed key: id, salt, wrapped key.
fn parse_sealed(text: &str) -> Option<([u8; 16], [u8; 16], [u8; WRAPPED_BYTES])> {
    let mut lines = text.lines().skip(1);
    let mut part = |name: &str| lines.next()?.strip_prefix(name).map(str::trim);
    let (id, salt, sealed) = (part("id")?, part("salt")?, part("sealed")?);
    Some((unhex(id)?, unhex(salt)?, unhex(sealed)?))
}

impl fmt::Display for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.id()))
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterKey({self})")
    }
}

/// A new random data key.
pub fn fresh_data_key() -> Result<Zeroizing<[u8; 32]>, Error> {
    ClusterKey::generate().map(|random| random.key)
}

/// Bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> Zeroizing<String> {
    let digit = |n: u8| char::from_digit(u32::from(n), 16).unwrap_or('0');
    let mut text = Zeroizing::new(String::with_capacity(2 * bytes.len()));
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).for_each(|c| text.push(c));
    text
}

/// Exactly as many bytes from hexadecimal digits.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits: Zeroizing<Vec<u8>> = Zeroizing::new(
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect::<Option<_>>()?,
    );
    let mut out = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    out.iter_mut().zip(digits.chunks_exact(2)).for_each(|(byte, pair)| *byte = (pair[0] << 4) | pair[1]);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_kept_in_a_file_of_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.key");
        assert_eq!(ClusterKey::load(&path).unwrap(), None);
        let key = ClusterKey::generate().unwrap();
        key.save(&path).unwrap();
        key.save(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(ClusterKey::load(&path).unwrap(), Some(key.clone()));
        let other = ClusterKey::generate().unwrap();
        assert!(other.save(&path).is_err(), "a key that may be needed is not replaced");
        assert_eq!(ClusterKey::load(&path).unwrap(), Some(key));
        std::fs::write(&path, "dolmen cluster key 1\nid  00\nkey 00\n").unwrap();
        assert!(matches!(ClusterKey::load(&path), Err(Error::Key { .. })));
    }

    #[test]
    fn text_comes_back_and_a_mistyped_digit_is_seen() {
        let key = ClusterKey::generate().unwrap();
        let text = key.export();
        assert_eq!(ClusterKey::import(&text, None), Imported::Key(key.clone()));
        let at = text.expose().len() - 2;
        let mut wrong = text.expose().to_vec();
        wrong[at] = if wrong[at] == b'0' { b'1' } else { b'0' };
        assert_eq!(ClusterKey::import(&Secret::new(wrong), None), Imported::Damaged);
        assert_eq!(ClusterKey::import(&Secret::new(b"".to_vec()), None), Imported::Damaged);
        let digits = text.expose_text().unwrap().split("key ").last().unwrap().trim().to_owned();
        assert!(!format!("{key} {key:?}").contains(&digits[..16]), "a key does not print");
    }

    #[test]
    fn a_sealed_key_opens_with_its_passphrase_alone() {
        let key = ClusterKey::generate().unwrap();
        let phrase = Secret::new(b"correct horse battery staple".to_vec());
        let sealed = key.export_sealed(&phrase).unwrap();
        let text = sealed.expose_text().unwrap();
        assert!(text.contains(&key.to_string()), "people see which key it is");
        assert!(!text.contains(&*hex(&*key.key)));
        assert_eq!(ClusterKey::import(&sealed, Some(&phrase)), Imported::Key(key.clone()));
        assert_eq!(ClusterKey::import(&sealed, None), Imported::Sealed);
        let other = Secret::new(b"correct horse battery stable".to_vec());
        assert_eq!(ClusterKey::import(&sealed, Some(&other)), Imported::WrongPassphrase);
        let cut = Secret::new(text.as_bytes()[..text.len() - 9].to_vec());
        assert_eq!(ClusterKey::import(&cut, Some(&phrase)), Imported::Damaged);
        assert!(key.export_sealed(&Secret::new(b"short".to_vec())).is_err());
    }

    #[test]
    fn only_the_key_that_wrapped_unwraps() {
        let (one, two) = (ClusterKey::generate().unwrap(), ClusterKey::generate().unwrap());
        let data = fresh_data_key().unwrap();
        let mut wrapped = one.wrap(&data);
        assert_eq!(one.unwrap(&wrapped).as_deref(), Some(&*data));
        assert_eq!(two.unwrap(&wrapped), None);
        wrapped[3] ^= 1;
        assert_eq!(one.unwrap(&wrapped), None);
    }

    /// What is on drives depends on these derivations: they may not change.
    #[test]
    fn a_passphrase_gives_the_same_key_everywhere() {
        let phrase = Secret::new(b"correct horse battery staple".to_vec());
        let key = ClusterKey::from_passphrase(&phrase, b"salt of a pool").unwrap();
        assert_eq!(key, ClusterKey::from_passphrase(&phrase, b"salt of a pool").unwrap());
        assert_ne!(key, ClusterKey::from_passphrase(&phrase, b"another").unwrap());
        assert!(ClusterKey::from_passphrase(&Secret::new(b"short".to_vec()), b"salt").is_err());
        let fixed = ClusterKey { key: Zeroizing::new([7; 32]) };
        assert_eq!(fixed.to_string(), "98352ce80ce3d800151d1178fa395037");
        let wrapped = "3bb5346fe3989ed4ada23c1db95b694a46c15c336755891597fbb20ff465684167a49ff758b612f5";
        assert_eq!(*hex(&fixed.wrap(&[9; 32])), wrapped);
    }
}
