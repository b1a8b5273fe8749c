//! The measured inner loops: thin wrappers round the fastest well-kept libraries, so that callers name what they mean and
//! the library can change; our own SIMD where no library is better.
//!
//! ```text
//!   checksum      crc32c, Crc32c, check64     digests of the wire, checks of stored blocks
//!   lz4, zstd     compress, expand            bounded by the caller's own lengths
//!   xts, mac      Xts, Mac                    encryption at rest, and its keyed check
//!   seal          Seal                        both in one pass
//!   hkdf, wrap    derive, KeyWrap             keys from keys, keys under keys
//!   reed_solomon  Code, Recipe                parity columns and what is rebuilt from them
//!   prefetch      prefetch                    memory brought near before it is looked at
//! ```
//!
//! Promises: the same bytes on every machine; SIMD is chosen at run time; input that a peer or a drive can feed never panics.
//! Never: allocates per call, keeps state between calls but in the contexts that the caller owns, knows what it works on.

mod checksum;
pub mod hkdf;
pub mod lz4;
mod mac;
mod prefetch;
pub mod reed_solomon;
#[cfg(feature = "rivals")]
pub mod rivals;
mod seal;
mod wrap;
mod xts;
pub mod zstd;

pub use checksum::{Crc32c, check64, crc32c};
pub use mac::Mac;
pub use prefetch::prefetch;
pub use seal::Seal;
pub use wrap::{KeyWrap, WRAPPED_BYTES};
pub use xts::Xts;
