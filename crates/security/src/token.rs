//! Bearer tokens of the management API: RS256 JWTs, their file, and their verification.

use crate::{Error, Grants, Level, Scope, Secret, SigningKey, file};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, path::PathBuf};

/// Life of a token. Seconds (30 days).
pub const TOKEN_LIFE_SECS: u64 = 30 * 24 * 3600;

/// How far the clocks of client and server may differ. Seconds.
const CLOCK_LEEWAY_SECS: u64 = 60;

/// Longest token that is looked at. Bytes.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

const AUDIENCE: &str = "LightOS";

/// Names a key: `<scope>:<credential id>`, the `kid` of a token's header.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId {
    /// `system` or a project.
    pub scope: String,
    /// The credential's id in its scope.
    pub id: String,
}

impl KeyId {
    /// The credential that `serve` makes for itself.
    #[must_use]
    pub fn root() -> KeyId {
        KeyId { scope: "system".into(), id: "root".into() }
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.scope, self.id)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    aud: Audience,
    exp: u64,
    #[serde(default)]
    iat: u64,
    #[serde(default)]
    nbf: u64,
    #[serde(default)]
    jti: String,
    #[serde(default)]
    iss: String,
    #[serde(default)]
    sub: String,
    #[serde(default)]
    roles: Vec<String>,
}

/// RFC 7519, 4.1.3: one audience or a list.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// Why a token doesn't count. The texts are told to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Not a token that we could check.
    Malformed,
    /// Its key is not known here.
    UnknownKey,
    /// Not signed by that key.
    BadSignature,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYetValid,
    /// Made for someone else.
    WrongAudience,
    /// It names no role that grants anything here.
    NoRoles,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rejection::Malformed => "the token is malformed",
            Rejection::UnknownKey => "the token's key is not known to this cluster",
            Rejection::BadSignature => "the token's signature is wrong",
            Rejection::Expired => "the token has expired",
            Rejection::NotYetValid => "the token is not valid yet; check the clocks",
            Rejection::WrongAudience => "the token was made for another audience",
            Rejection::NoRoles => "the token names no role that this cluster knows",
        })
    }
}

impl std::error::Error for Rejection {}

/// Makes a token for `roles`, valid from `now` for `life` seconds.
fn issue(key: &SigningKey, id: &KeyId, roles: &[String], now: u64, life: u64) -> Result<Secret, Error> {
    let crypto = |why: jsonwebtoken::errors::Error| Error::Crypto(format!("can't sign a token: {why}"));
    let header = Header { kid: Some(id.to_string()), ..Header::new(Algorithm::RS256) };
    let claims = Claims {
        aud: Audience::One(AUDIENCE.into()),
        exp: now.saturating_add(life),
        iat: now,
        nbf: now,
        jti: crate::fresh_uuid().to_string(),
        iss: "dolmen".into(),
        sub: "lightos-client".into(),
        roles: roles.to_vec(),
    };
    let key = EncodingKey::from_rsa_pem(key.pem().expose()).map_err(crypto)?;
    let text = jsonwebtoken::encode(&header, &claims, &key).map_err(crypto)?;
    Ok(Secret::new(text.into_bytes()))
}

/// Checks tokens against the public keys of the cluster's credentials.
#[derive(Clone)]
pub struct Verifier {
    keys: BTreeMap<KeyId, DecodingKey>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.keys.keys()).finish()
    }
}

impl Verifier {
    /// A verifier that knows these keys (DER of a SubjectPublicKeyInfo each).
    pub fn new(keys: impl IntoIterator<Item = (KeyId, Vec<u8>)>) -> Verifier {
        let keys = keys.into_iter().map(|(id, der)| (id, DecodingKey::from_rsa_der(&der)));
        Verifier { keys: keys.collect() }
    }

    /// What the bearer of `token` may do at the time `now` (Unix seconds).
    pub fn verify(&self, token: &str, now: u64) -> Result<Grants, Rejection> {
        let token = token.trim();
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Rejection::Malformed);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| Rejection::Malformed)?;
        let kid = header.kid.as_deref().and_then(|kid| kid.split_once(':')).ok_or(Rejection::Malformed)?;
        let id = KeyId { scope: kid.0.into(), id: kid.1.into() };
        let key = self.keys.get(&id).ok_or(Rejection::UnknownKey)?;
        let claims = decode(token, key)?;
        let meant_for_us = match &claims.aud {
            Audience::One(aud) => aud == AUDIENCE,
            Audience::Many(all) => all.iter().any(|aud| aud == AUDIENCE),
        };
        if !meant_for_us {
            return Err(Rejection::WrongAudience);
        }
        if claims.exp.saturating_add(CLOCK_LEEWAY_SECS) <= now {
            return Err(Rejection::Expired);
        }
        if claims.nbf > now.saturating_add(CLOCK_LEEWAY_SECS) {
            return Err(Rejection::NotYetValid);
        }
        let grants = Grants::from_roles(&Scope::parse(&id.scope), &claims.roles);
        if grants.any() { Ok(grants) } else { Err(Rejection::NoRoles) }
    }
}

/// Checks the signature; times and audience are the caller's to check.
fn decode(token: &str, key: &DecodingKey) -> Result<Claims, Rejection> {
    let mut validation = Validation::new(Algorithm::RS256);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    match jsonwebtoken::decode::<Claims>(token, key, &validation) {
        Ok(data) => Ok(data.claims),
        Err(why) => Err(match why.kind() {
            ErrorKind::InvalidSignature => Rejection::BadSignature,
            _ => Rejection::Malformed,
        }),
    }
}

/// The token of the cluster's administrator in a file, kept fresh by `serve`.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    key: SigningKey,
    life: u64,
}

impl TokenFile {
    /// The token file at `path`, signed with `key`, each token living `life` seconds ([`TOKEN_LIFE_SECS`]).
    #[must_use]
    pub fn new(path: PathBuf, key: SigningKey, life: u64) -> TokenFile {
        TokenFile { path, key, life }
    }

    /// Writes a fresh token unless the file holds one that is good for at least half its life more.
    /// Returns whether it wrote.
    pub fn renew(&self, now: u64) -> Result<bool, Error> {
        let id = KeyId::root();
        if let Some(bytes) = file::read_if_there(&self.path)?
            && let Ok(text) = std::str::from_utf8(&bytes)
        {
            let verifier = Verifier::new([(id.clone(), self.key.public_key().to_vec())]);
            let later = now.saturating_add(self.life / 2).saturating_add(CLOCK_LEEWAY_SECS);
            let good_now = verifier.verify(text, now).is_ok_and(|grants| grants.cluster(Level::Admin));
            if good_now && verifier.verify(text, later).is_ok() {
                return Ok(false);
            }
        }
        let token = issue(&self.key, &id, &["system:cluster-admin".to_string()], now, self.life)?;
        let mut line = token.expose().to_vec();
        line.push(b'\n');
        file::replace(&self.path, &line, file::Visibility::Owner)?;
        Ok(true)
    }

    /// Signs a token for other roles, for instance a project's.
    pub fn issue(&self, id: &KeyId, roles: &[String], now: u64, life: u64) -> Result<Secret, Error> {
        issue(&self.key, id, roles, now, life)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn made() -> (tempfile::TempDir, TokenFile, Verifier) {
        crate::install_crypto();
        let dir = tempfile::tempdir().unwrap();
        let key = SigningKey::generate().unwrap();
        let verifier = Verifier::new([(KeyId::root(), key.public_key().to_vec())]);
        let file = TokenFile::new(dir.path().join("token"), key, TOKEN_LIFE_SECS);
        (dir, file, verifier)
    }

    fn read(dir: &tempfile::TempDir) -> String {
        std::fs::read_to_string(dir.path().join("token")).unwrap()
    }

    #[test]
    fn the_file_is_renewed_at_half_life_and_old_tokens_count_on() {
        use std::os::unix::fs::PermissionsExt;
        let (dir, file, verifier) = made();
        assert!(file.renew(NOW).unwrap());
        let mode = std::fs::metadata(dir.path().join("token")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let first = read(&dir);
        assert!(!file.renew(NOW + TOKEN_LIFE_SECS / 2 - 1).unwrap());
        assert!(file.renew(NOW + TOKEN_LIFE_SECS / 2 + 1).unwrap());
        assert_ne!(first, read(&dir));
        assert!(verifier.verify(&first, NOW + 1).unwrap().cluster(Level::Admin));
        std::fs::write(dir.path().join("token"), "garbage").unwrap();
        assert!(file.renew(NOW).unwrap());
    }

    #[test]
    fn time_key_audience_and_bytes_are_checked() {
        let (_dir, file, verifier) = made();
        let admin = ["system:cluster-admin".to_string()];
        let token =
            |id: &KeyId, life| file.issue(id, &admin, NOW, life).unwrap().expose_text().unwrap().to_string();
        let good = token(&KeyId::root(), 100);
        assert!(verifier.verify(&format!("{good}\n"), NOW).is_ok());
        assert_eq!(verifier.verify(&good, NOW + 161), Err(Rejection::Expired));
        assert_eq!(verifier.verify(&good, NOW - 61), Err(Rejection::NotYetValid));
        let stranger = KeyId { scope: "system".into(), id: "else".into() };
        assert_eq!(verifier.verify(&token(&stranger, 100), NOW), Err(Rejection::UnknownKey));
        let other = SigningKey::generate().unwrap();
        let forged = issue(&other, &KeyId::root(), &admin, NOW, 100).unwrap();
        assert_eq!(verifier.verify(forged.expose_text().unwrap(), NOW), Err(Rejection::BadSignature));
        assert_eq!(verifier.verify("", NOW), Err(Rejection::Malformed));
        assert_eq!(verifier.verify("a.b.c", NOW), Err(Rejection::Malformed));
        let none = file.issue(&KeyId::root(), &[], NOW, 100).unwrap();
        assert_eq!(verifier.verify(none.expose_text().unwrap(), NOW), Err(Rejection::NoRoles));
    }

    #[test]
    fn every_changed_byte_is_refused() {
        let (_dir, file, verifier) = made();
        let roles = ["system:cluster-admin".to_string()];
        let good = file.issue(&KeyId::root(), &roles, NOW, 100).unwrap().expose().to_vec();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
            let text = String::from_utf8(bad).unwrap();
            // The last character of a part carries unused bits, so a few changes are none.
            if let Ok(grants) = verifier.verify(&text, NOW) {
                assert!(at + 1 == good.len() && grants.cluster(Level::Admin), "byte {at}");
            }
        }
    }

    #[test]
    fn an_unsigned_token_is_refused() {
        let (_dir, _file, verifier) = made();
        // {"alg":"none","kid":"system:root"} . {"aud":"LightOS","exp":9999999999,"roles":["system:cluster-admin"]} .
        let none = "eyJhbGciOiJub25lIiwia2lkIjoic3lzdGVtOnJvb3QifQ.\
                    eyJhdWQiOiJMaWdodE9TIiwiZXhwIjo5OTk5OTk5OTk5LCJyb2xlcyI6WyJzeXN0ZW06Y2x1c3Rlci1hZG1pbiJdfQ.";
        assert!(verifier.verify(none, NOW).is_err());
    }
}
