//! Asymmetric Namespace Access log (Base 5.16.1.13; 2.4.1).

use std::fmt;
use zerocopy::{
    FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

/// Header of the ANA log; group descriptors follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AnaLogHeader {
    /// Change Count: grows whenever the log's content changes.
    pub change_count: U64,
    /// Number of group descriptors.
    pub groups: U16,
    /// Reserved.
    pub reserved: [u8; 6],
}

const _: () = assert!(size_of::<AnaLogHeader>() == 16);

impl AnaLogHeader {
    /// The header.
    #[must_use]
    pub fn new(change_count: u64, groups: u16) -> AnaLogHeader {
        AnaLogHeader { change_count: change_count.into(), groups: groups.into(), reserved: [0; 6] }
    }
}

/// Header of one group's descriptor; `nsids` namespace ids of 4 bytes, ascending, follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AnaGroupDescriptor {
    /// ANA Group ID, from 1.
    pub group: U32,
    /// Number of NSIDs that follow; 0 when only groups were asked for.
    pub nsids: U32,
    /// Change Count of this group; 0 is "not reported".
    pub change_count: U64,
    /// State in bits 3:0.
    pub state: u8,
    /// Reserved.
    pub reserved: [u8; 15],
}

const _: () = assert!(size_of::<AnaGroupDescriptor>() == 32);

impl AnaGroupDescriptor {
    /// The descriptor.
    #[must_use]
    pub fn new(group: u32, nsids: u32, change_count: u64, state: AnaState) -> AnaGroupDescriptor {
        let mut descriptor = AnaGroupDescriptor::new_zeroed();
        descriptor.group = group.into();
        descriptor.nsids = nsids.into();
        descriptor.change_count = change_count.into();
        descriptor.state = state.code();
        descriptor
    }

    /// The group's state; `None` for a reserved value.
    #[must_use]
    pub fn state(&self) -> Option<AnaState> {
        AnaState::from_code(self.state & 0xf)
    }
}

/// How a controller reaches the namespaces of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AnaState {
    /// Best path.
    Optimized,
    /// Works, at a cost.
    NonOptimized,
    /// Commands fail for now.
    Inaccessible,
    /// Commands will always fail here.
    PersistentLoss,
    /// On the way from one state to another.
    Change,
}

impl AnaState {
    /// The 4-bit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            AnaState::Optimized => 1,
            AnaState::NonOptimized => 2,
            AnaState::Inaccessible => 3,
            AnaState::PersistentLoss => 4,
            AnaState::Change => 0xf,
        }
    }

    /// The state of a code.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<AnaState> {
        match code {
            1 => Some(AnaState::Optimized),
            2 => Some(AnaState::NonOptimized),
            3 => Some(AnaState::Inaccessible),
            4 => Some(AnaState::PersistentLoss),
            0xf => Some(AnaState::Change),
            _ => None,
        }
    }
}

impl fmt::Display for AnaState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AnaState::Optimized => "optimized",
            AnaState::NonOptimized => "non-optimized",
            AnaState::Inaccessible => "inaccessible",
            AnaState::PersistentLoss => "persistent-loss",
            AnaState::Change => "change",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_round_trip() {
        for code in 0..=255 {
            if let Some(state) = AnaState::from_code(code) {
                assert_eq!(state.code(), code);
            }
        }
        let bytes = AnaGroupDescriptor::new(3, 1, 9, AnaState::Change);
        assert_eq!(&bytes.as_bytes()[..17], [3, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 15]);
    }
}
