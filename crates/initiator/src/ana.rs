//! How one controller reaches the namespaces: its Asymmetric Namespace Access log, read into a table.
//!
//! A log that is longer than one command brings is read piece by piece: [`parse`] says what is still missing.

use crate::{Error, ErrorKind};
use dolmen_nvme::spec::{AnaGroupDescriptor, AnaLogHeader, AnaState};
use zerocopy::{FromBytes, little_endian::U32};

/// The longest log that is read: beyond any controller's that this host could use. Bytes.
const MAX_LOG_BYTES: usize = 4 << 20;

/// The states of the namespaces behind one controller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AnaTable {
    /// By ascending namespace id.
    states: Vec<(u32, AnaState)>,
}

/// What [`parse`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// The log is whole.
    Whole(AnaTable),
    /// So many bytes are needed to go on, more than there are.
    Needs(usize),
}

impl AnaTable {
    /// How the namespace is reached. One that the log does not name is taken to be reached well: its commands tell if not.
    pub(crate) fn state(&self, nsid: u32) -> AnaState {
        let at = self.states.binary_search_by_key(&nsid, |&(id, _)| id).ok();
        at.map_or(AnaState::Optimized, |at| self.states[at].1)
    }

    /// Notes what a command's status told, until the log is read again.
    pub(crate) fn note(&mut self, nsid: u32, state: AnaState) {
        match self.states.binary_search_by_key(&nsid, |&(id, _)| id) {
            Ok(at) => self.states[at].1 = state,
            Err(at) => self.states.insert(at, (nsid, state)),
        }
    }

    /// True when a namespace is on its way from one state to another.
    pub(crate) fn in_transition(&self) -> bool {
        self.states.iter().any(|&(_, state)| state == AnaState::Change)
    }

    /// Namespaces and their states, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, AnaState)> + '_ {
        self.states.iter().copied()
    }
}

/// Reads a log as far as it is there.
///
/// # Errors
/// [`ErrorKind::Protocol`] for a log that makes no sense or has no end.
pub(crate) fn parse(log: &[u8]) -> Result<Parsed, Error> {
    let wrong = |what: &str| Err(Error::new(ErrorKind::Protocol, format!("the ANA log {what}")));
    let Ok((header, _)) = AnaLogHeader::ref_from_prefix(log) else {
        return Ok(Parsed::Needs(size_of::<AnaLogHeader>()));
    };
    let (mut at, mut states) = (size_of::<AnaLogHeader>(), Vec::new());
    for _ in 0..header.groups.get() {
        let Ok((group, _)) = AnaGroupDescriptor::ref_from_prefix(log.get(at..).unwrap_or_default()) else {
            return needs(at + size_of::<AnaGroupDescriptor>());
        };
        at += size_of::<AnaGroupDescriptor>();
        let bytes = usize::try_from(group.nsids.get()).unwrap_or(usize::MAX).saturating_mul(size_of::<U32>());
        let end = at.saturating_add(bytes);
        let Some(nsids) = log.get(at..end) else { return needs(end) };
        let Some(state) = group.state() else { return wrong("names a state that does not exist") };
        let (nsids, _) = <[U32]>::ref_from_prefix(nsids).unwrap_or_default();
        states.extend(nsids.iter().map(|nsid| (nsid.get(), state)));
        at = end;
    }
    states.sort_unstable_by_key(|&(nsid, _)| nsid);
    if states.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return wrong("has a namespace in two groups");
    }
    Ok(Parsed::Whole(AnaTable { states }))
}

fn needs(bytes: usize) -> Result<Parsed, Error> {
    if bytes > MAX_LOG_BYTES {
        return Err(Error::new(ErrorKind::Protocol, "the ANA log has no end"));
    }
    Ok(Parsed::Needs(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    fn log(groups: &[(AnaState, &[u32])]) -> Vec<u8> {
        let mut out = AnaLogHeader::new(1, u16::try_from(groups.len()).unwrap()).as_bytes().to_vec();
        for (id, (state, nsids)) in (1..).zip(groups) {
            let count = u32::try_from(nsids.len()).unwrap();
            out.extend_from_slice(AnaGroupDescriptor::new(id, count, 1, *state).as_bytes());
            out.extend(nsids.iter().flat_map(|n| n.to_le_bytes()));
        }
        out
    }

    #[test]
    fn a_log_is_read_from_any_pieces() {
        let bytes = log(&[
            (AnaState::NonOptimized, &[1, 5, 9]),
            (AnaState::Change, &[]),
            (AnaState::Inaccessible, &[2]),
        ]);
        let mut have = 0;
        let table = loop {
            match parse(&bytes[..have]).unwrap() {
                Parsed::Whole(table) => break table,
                Parsed::Needs(more) => {
                    assert!(more > have && more <= bytes.len());
                    have = more;
                }
            }
        };
        assert_eq!(have, bytes.len());
        let states: Vec<_> = [1, 2, 3, 9].map(|nsid| table.state(nsid)).into();
        use AnaState::{Inaccessible, NonOptimized, Optimized};
        assert_eq!(states, [NonOptimized, Inaccessible, Optimized, NonOptimized]);
        assert!(!table.in_transition() && table.iter().count() == 4);
        let mut padded = bytes;
        padded.resize(4096, 0);
        assert!(matches!(parse(&padded), Ok(Parsed::Whole(_))));
    }

    #[test]
    fn what_a_status_tells_is_noted() {
        let mut table = AnaTable::default();
        table.note(7, AnaState::Change);
        table.note(3, AnaState::Inaccessible);
        table.note(7, AnaState::Optimized);
        assert_eq!((table.state(7), table.state(3)), (AnaState::Optimized, AnaState::Inaccessible));
    }

    #[test]
    fn nonsense_is_refused_and_noise_never_harms() {
        let two = log(&[(AnaState::Optimized, &[1]), (AnaState::Inaccessible, &[1])]);
        assert!(parse(&two).is_err());
        let mut endless = log(&[(AnaState::Optimized, &[1])]);
        endless[20..24].fill(0xff);
        assert!(parse(&endless).is_err());
        let mut stateless = log(&[(AnaState::Optimized, &[1])]);
        stateless[32] = 9;
        assert!(parse(&stateless).is_err());
        let mut rng = crate::load::Rng::new(1);
        for _ in 0..2000 {
            let length = usize::try_from(rng.below(300)).unwrap();
            let mut noise: Vec<u8> = (0..length).map(|_| rng.next_u64().to_le_bytes()[0]).collect();
            // Few groups of few namespaces, so that the walk gets somewhere.
            noise.iter_mut().skip(9).step_by(4).for_each(|b| *b = 0);
            let _ = parse(&noise);
        }
    }
}
