//! The RSA key that signs API tokens: made at first start, kept in `DIR/token.key`.

use crate::{Error, Secret, file};
use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der},
    rsa::{KeyPair, KeySize},
    signature::KeyPair as _,
};
use std::path::Path;

/// A private RSA key of 2048 bits, for RS256.
#[derive(Debug)]
pub struct SigningKey {
    /// PKCS #8 in PEM.
    pem: Secret,
    /// SubjectPublicKeyInfo in DER.
    public: Vec<u8>,
}

impl SigningKey {
    /// A new key.
    pub fn generate() -> Result<SigningKey, Error> {
        let refused = |_| Error::Crypto("can't make an RSA key".into());
        let pair = KeyPair::generate(KeySize::Rsa2048).map_err(refused)?;
        let private: Pkcs8V1Der<'_> = pair.as_der().map_err(refused)?;
        let pem = pem::encode(&pem::Pem::new("PRIVATE KEY", private.as_ref()));
        Ok(SigningKey { pem: Secret::new(pem.into_bytes()), public: public_of(&pair)? })
    }

    /// The key in `path`, made there if the file is not there.
    pub fn load_or_make(path: &Path) -> Result<SigningKey, Error> {
        let damaged = |what: &str| Error::Damaged { path: path.into(), what: what.into() };
        let Some(bytes) = file::read_if_there(path)? else {
            let key = SigningKey::generate()?;
            file::replace(path, key.pem.expose(), file::Visibility::Owner)?;
            return Ok(key);
        };
        let parsed = pem::parse(&bytes).map_err(|_| damaged("not a key in PEM form"))?;
        let pair =
            KeyPair::from_pkcs8(parsed.contents()).map_err(|_| damaged("not an RSA key in PKCS #8 form"))?;
        Ok(SigningKey { pem: Secret::new(bytes), public: public_of(&pair)? })
    }

    /// The public half: DER of a SubjectPublicKeyInfo.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        &self.public
    }

    /// The private key in PEM form.
    pub(crate) fn pem(&self) -> &Secret {
        &self.pem
    }
}

fn public_of(pair: &KeyPair) -> Result<Vec<u8>, Error> {
    let der: PublicKeyX509Der<'_> =
        pair.public_key().as_der().map_err(|_| Error::Crypto("can't encode an RSA public key".into()))?;
    Ok(der.as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token.key");
        let made = SigningKey::load_or_make(&path).unwrap();
        let again = SigningKey::load_or_make(&path).unwrap();
        assert_eq!(made.public_key(), again.public_key());
        assert!(!format!("{made:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_damaged_key_is_refused_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token.key");
        for bad in [&b""[..], b"x", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            std::fs::write(&path, bad).unwrap();
            assert!(matches!(SigningKey::load_or_make(&path), Err(Error::Damaged { .. })));
        }
    }
}
