//! The data keys of encrypted lines, as this process holds them: never printed, wiped when dropped.

use dolmen_types::LineId;
use std::collections::BTreeMap;
use std::fmt;
use zeroize::Zeroizing;

/// The key of one line: 256 random bits from which its ciphers' keys follow.
#[derive(Clone, PartialEq, Eq)]
pub struct DataKey(Zeroizing<[u8; 32]>);

impl DataKey {
    /// From fresh random bytes, or from what was unwrapped.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> DataKey {
        DataKey(Zeroizing::new(bytes))
    }

    /// The bytes, for the few places that need them.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// The keys of a pool's encrypted lines. The store never sees what wraps them.
#[derive(Clone, Debug, Default)]
pub struct Keyring(BTreeMap<LineId, DataKey>);

impl Keyring {
    /// Takes in the key of a line.
    pub fn insert(&mut self, line: LineId, key: DataKey) {
        self.0.insert(line, key);
    }

    /// Forgets the key of a line.
    pub fn remove(&mut self, line: LineId) {
        self.0.remove(&line);
    }

    /// The key of a line.
    #[must_use]
    pub fn key(&self, line: LineId) -> Option<&DataKey> {
        self.0.get(&line)
    }

    /// True when the line's key is here.
    #[must_use]
    pub fn contains(&self, line: LineId) -> bool {
        self.0.contains_key(&line)
    }

    /// The lines whose keys are here, in order.
    pub fn lines(&self) -> impl Iterator<Item = LineId> + '_ {
        self.0.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_do_not_print() {
        let mut keyring = Keyring::default();
        keyring.insert(LineId(3), DataKey::new([0xab; 32]));
        let text = format!("{keyring:?}");
        assert!(text.contains("(secret)") && !text.contains("171") && !text.contains("ab"), "{text}");
    }
}
