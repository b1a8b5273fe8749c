//! Keys, tokens, certificates and roles of the management API.
//!
//! It owns the secret files of a data folder (signing key, TLS key, token, cluster key) and what can be proven with them. It
//! promises: a secret is written with mode 0600, whole or not at all, and can't be printed by accident; a token counts
//! only for the key, the time and the roles it names. It never talks to a network and never reads a clock: the time is
//! passed in as Unix seconds.
#![forbid(unsafe_code)]

mod certificate;
mod cluster_key;
mod error;
pub mod file;
mod key;
mod key_files;
mod passphrase_files;
mod random;
mod roles;
mod secret;
mod token;

pub use certificate::{Certificate, pinned_client_config};
pub use cluster_key::{ClusterKey, Imported, MIN_PASSPHRASE_BYTES, fresh_data_key};
pub use error::Error;
pub use key::SigningKey;
pub use key_files::{KeyFiles, KnownKeys};
pub use passphrase_files::{PassphraseFiles, read_passphrase};
pub use random::fresh_uuid;
pub use roles::{Grants, Level, Scope};
pub use secret::Secret;
pub use token::{KeyId, Rejection, TOKEN_LIFE_SECS, TokenFile, Verifier};

/// Names the cryptography that TLS and tokens shall use. Call it once, before anything else of this crate; calling it
/// again does nothing.
pub fn install_crypto() {
    // Both answer an error when a provider is there already, which is what a second call finds.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
}
