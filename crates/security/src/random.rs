//! Random identities for the control side.

use dolmen_types::Uuid;

/// A fresh random UUID from the system's randomness.
///
/// # Panics
/// If the system gives no randomness, which the library treats as fatal too.
#[must_use]
pub fn fresh_uuid() -> Uuid {
    let mut bytes = [0u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random source works");
    Uuid::from_random(bytes)
}
