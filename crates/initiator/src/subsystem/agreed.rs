//! What namespaces are, by the word of the paths.
//!
//! The first path that is asked for a namespace says what it is, and the others agree or lead to another one; where one was alone, and
//! has carried commands that nobody had to ask about, it is that one. A path whose word
//! once was the same and now is not tells that the namespace was replaced there; when the last one that still vouches for
//! the old one says so, the new one takes its number. Never by a path that has always led elsewhere, and not while one
//! that vouches is only away.

use crate::NamespaceIds;
use std::collections::BTreeMap;

/// Namespaces that are remembered at most.
const MAX_NAMESPACES: usize = 65_536;

/// What a path's word means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// The same as on the others.
    Same,
    /// Another namespace.
    Other,
    /// The same as nowhere before: all that vouched for the old one have left it.
    Replaced,
}

struct Agreement {
    ids: NamespaceIds,
    /// The paths that said so, as bits.
    by: u32,
}

/// What the paths agree on.
#[derive(Default)]
pub(super) struct Agreed {
    namespaces: BTreeMap<u32, Agreement>,
}

impl Agreed {
    /// Takes what path `at` says of a namespace; `there` are the paths that are not given up, as bits.
    pub(super) fn hear(&mut self, nsid: u32, ids: NamespaceIds, at: u8, there: u32) -> Word {
        if self.namespaces.len() >= MAX_NAMESPACES && !self.namespaces.contains_key(&nsid) {
            self.namespaces.pop_first();
        }
        let bit = 1 << at;
        let agreement = self.namespaces.entry(nsid).or_insert(Agreement { ids, by: bit });
        if agreement.ids == ids {
            agreement.by |= bit;
            return Word::Same;
        }
        let vouched = agreement.by & bit != 0;
        agreement.by &= !bit;
        if !vouched || agreement.by & there != 0 {
            return Word::Other;
        }
        *agreement = Agreement { ids, by: bit };
        Word::Replaced
    }

    /// True when some path has said what a namespace is.
    pub(super) fn knows(&self, nsid: u32) -> bool {
        self.namespaces.contains_key(&nsid)
    }

    /// The number of a path becomes another's.
    pub(super) fn forget_path(&mut self, at: u8) {
        self.namespaces.values_mut().for_each(|agreement| agreement.by &= !(1 << at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(byte: u8) -> NamespaceIds {
        NamespaceIds { nguid: [byte; 16], ..NamespaceIds::default() }
    }

    #[test]
    fn only_those_that_vouched_replace_a_namespace() {
        let mut agreed = Agreed::default();
        assert_eq!(agreed.hear(1, ids(1), 0, 0b111), Word::Same);
        assert_eq!(agreed.hear(1, ids(1), 1, 0b111), Word::Same);
        assert_eq!(agreed.hear(1, ids(9), 2, 0b111), Word::Other);
        assert_eq!(agreed.hear(1, ids(2), 0, 0b111), Word::Other);
        // One that never was the same does not take over, whoever is left.
        assert_eq!(agreed.hear(1, ids(9), 2, 0b100), Word::Other);
        assert_eq!(agreed.hear(1, ids(2), 1, 0b111), Word::Replaced);
        assert_eq!(agreed.hear(1, ids(2), 0, 0b111), Word::Same);
        assert_eq!(agreed.hear(1, ids(1), 1, 0b111), Word::Other);
        // One that is given up vouches for nothing, nor does another one under its number.
        assert_eq!(agreed.hear(1, ids(2), 1, 0b111), Word::Same);
        assert_eq!(agreed.hear(1, ids(3), 0, 0b101), Word::Replaced);
        agreed.forget_path(0);
        assert_eq!(agreed.hear(1, ids(4), 0, 0b111), Word::Other);
    }
}
