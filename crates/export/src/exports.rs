//! What a door offers, as one immutable snapshot: made anew at every change, and given to every core.

use crate::backend::Place;
use dolmen_types::{Uuid, volume::IpAccess};
use std::{net::IpAddr, sync::Arc};

/// One export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// Its name, unique.
    pub name: String,
    /// Its identity, under which it is found too.
    pub uuid: Uuid,
    /// Size. Bytes, a multiple of the block.
    pub size_bytes: u64,
    /// The smallest unit of a request. Bytes, a power of two.
    pub block_bytes: u32,
    /// Data of one request to its backend at most: a multiple of the block, at most
    /// [`MAX_DATA_BYTES`](crate::backend::MAX_DATA_BYTES). Bytes.
    pub piece_bytes: u32,
    /// No client may change it.
    pub read_only: bool,
    /// Write Zeroes and trim work.
    pub can_zero: bool,
    /// What is stored of it can be told.
    pub maps: bool,
    /// The namespace that its commands are traced as; 0 for none.
    pub nsid: u32,
    /// Which clients see it, by address.
    pub access: IpAccess,
    /// Where its data is.
    pub place: Place,
}

/// A read that may not be cut is never refused as too long up to this. Bytes (NBD protocol, NBD_CMD_FLAG_DF).
const WHOLE_BYTES: u32 = 65_536;

impl Export {
    /// True if reads can be answered whole: so much, beginning anywhere in a block, is one request to the backend.
    pub(crate) fn answers_whole(&self) -> bool {
        self.piece_bytes >= WHOLE_BYTES.saturating_add(self.block_bytes.saturating_mul(2))
    }
}

/// All exports at one moment.
#[derive(Clone, Debug, Default)]
pub struct Exports {
    all: Vec<Arc<Export>>,
}

impl Exports {
    /// A snapshot.
    #[must_use]
    pub fn new(mut all: Vec<Arc<Export>>) -> Exports {
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Exports { all }
    }

    /// How many there are, seen or not.
    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }

    /// The one at a place in the order of names.
    pub(crate) fn at(&self, index: usize) -> Option<&Export> {
        self.all.get(index).map(|e| &**e)
    }

    /// Those that a client at `ip` sees, by name.
    pub fn seen_from(&self, ip: IpAddr) -> impl Iterator<Item = &Arc<Export>> {
        self.all.iter().filter(move |e| e.access.admits(ip))
    }

    /// The one that a client at `ip` means by `name`: a name, a UUID, or nothing where there is only one.
    #[must_use]
    pub fn find(&self, name: &str, ip: IpAddr) -> Option<&Arc<Export>> {
        if name.is_empty() {
            let mut seen = self.seen_from(ip);
            let first = seen.next();
            return first.filter(|_| seen.next().is_none());
        }
        let by_name = self.all.binary_search_by(|e| e.name.as_str().cmp(name)).ok().map(|at| &self.all[at]);
        let by_uuid = || name.parse().ok().and_then(|uuid| self.of(uuid));
        by_name.or_else(by_uuid).filter(|e| e.access.admits(ip))
    }

    /// The one with this identity.
    #[must_use]
    pub fn of(&self, uuid: Uuid) -> Option<&Arc<Export>> {
        self.all.iter().find(|e| e.uuid == uuid)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use dolmen_types::CoreId;
    use dolmen_volume::VolumeRef;
    use std::net::Ipv4Addr;

    /// An export of 1 MiB for tests.
    pub(crate) fn export(name: &str, number: u8) -> Export {
        Export {
            name: name.into(),
            uuid: Uuid([number; 16]),
            size_bytes: 1 << 20,
            block_bytes: 4096,
            piece_bytes: 262_144,
            read_only: false,
            can_zero: true,
            maps: true,
            nsid: 1,
            access: IpAccess::Any,
            place: Place::Volume(VolumeRef { core: CoreId(0), slot: u32::from(number), generation: 0 }),
        }
    }

    #[test]
    fn exports_are_found_by_name_or_identity_by_those_who_may() {
        let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let hidden = Export { access: IpAccess::None, ..export("hidden", 3) };
        let all = [export("web", 1), export("db", 2), hidden].map(Arc::new).to_vec();
        let exports = Exports::new(all);
        let name = |wanted: &str| exports.find(wanted, here).map(|e| e.name.clone());
        assert_eq!(name("web"), Some("web".into()));
        assert_eq!(name(&Uuid([2; 16]).to_string()), Some("db".into()));
        assert_eq!((name("hidden"), name(&Uuid([3; 16]).to_string())), (None, None));
        assert_eq!((name(""), name("nothing")), (None, None));
        let seen: Vec<&str> = exports.seen_from(here).map(|e| e.name.as_str()).collect();
        assert_eq!(seen, ["db", "web"]);
        let one = Exports::new(vec![Arc::new(export("only", 1))]);
        assert_eq!(one.find("", here).map(|e| e.name.as_str()), Some("only"));
    }
}
