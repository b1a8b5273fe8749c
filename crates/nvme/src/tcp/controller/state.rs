//! A connection at rest as bytes, so that another process can go on with its socket.

use super::{
    Controller, ControllerOptions, Digests, FromBytes, Immutable, IntoBytes, KnownLayout, Negotiated,
    QueueSettings, U16, U32, Unaligned, fmt,
};

/// An initialized connection between PDUs without an open R2T. All there is to know but the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ControllerState {
    /// Version of this layout: 1.
    pub version: U16,
    /// Digests in use, as the DGST field has them.
    pub digests: u8,
    /// HPDA field.
    pub host_alignment: u8,
    /// CPDA field.
    pub controller_alignment: u8,
    /// Reserved, 0.
    pub reserved5: u8,
    /// R2Ts open at most.
    pub max_transfers: U16,
    /// MAXR2T field.
    pub max_r2t: U32,
    /// MAXH2CDATA. Bytes.
    pub max_h2c_data: U32,
    /// In-capsule data at most. Bytes.
    pub in_capsule_bytes: U32,
}

const _: () = assert!(size_of::<ControllerState>() == 20);

impl ControllerState {
    /// The version that this code writes and reads.
    pub const VERSION: u16 = 1;
}

/// The state was not written by a version that this one understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImportError {
    /// The version found.
    pub version: u16,
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a connection state of version {}, or with fields out of range; this build reads version {}",
            self.version,
            ControllerState::VERSION
        )
    }
}

impl std::error::Error for ImportError {}

impl Controller {
    /// The state of a connection at rest; `None` while a PDU is under way, an R2T is open, or before the connection is
    /// initialized or after it has failed.
    #[must_use]
    pub fn export(&self) -> Option<ControllerState> {
        if !self.decoder.at_rest() || self.transfers.open() > 0 {
            return None;
        }
        let terms = &self.terms;
        Some(ControllerState {
            version: ControllerState::VERSION.into(),
            digests: terms.digests.bits(),
            host_alignment: terms.host_alignment,
            controller_alignment: terms.controller_alignment,
            reserved5: 0,
            max_transfers: self.transfers.limit().into(),
            max_r2t: terms.max_r2t.into(),
            max_h2c_data: terms.max_h2c_data.into(),
            in_capsule_bytes: self.in_capsule_bytes.into(),
        })
    }

    /// Goes on where [`Controller::export`] stopped.
    ///
    /// # Errors
    /// A state of another version, or with fields that no export writes.
    pub fn import(state: &ControllerState) -> Result<Controller, ImportError> {
        let terms = Negotiated {
            digests: Digests::from_bits(state.digests),
            host_alignment: state.host_alignment,
            controller_alignment: state.controller_alignment,
            max_r2t: state.max_r2t.get(),
            max_h2c_data: state.max_h2c_data.get(),
        };
        let sound = state.version.get() == ControllerState::VERSION
            && terms.host_alignment <= Negotiated::MAX_ALIGNMENT
            && terms.controller_alignment <= Negotiated::MAX_ALIGNMENT
            && terms.max_h2c_data >= Negotiated::MIN_H2C_DATA;
        if !sound {
            return Err(ImportError { version: state.version.get() });
        }
        let mut controller = Controller::new(ControllerOptions {
            digests: terms.digests,
            alignment: terms.controller_alignment,
            max_h2c_data: terms.max_h2c_data,
        });
        controller.terms = terms;
        controller.set_queue(QueueSettings {
            in_capsule_bytes: state.in_capsule_bytes.get(),
            max_transfers: state.max_transfers.get(),
        });
        controller.start();
        Ok(controller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Version 1, byte by byte: a later build must read what this one wrote.
    #[test]
    fn version_1_stays_as_it_is() {
        let bytes = [1, 0, 3, 31, 7, 0, 128, 0, 15, 0, 0, 0, 0, 0, 2, 0, 0, 32, 0, 0];
        let state = ControllerState::read_from_bytes(&bytes).unwrap();
        let controller = Controller::import(&state).unwrap();
        let terms = controller.negotiated();
        assert_eq!(terms.digests, Digests::BOTH);
        assert_eq!((terms.host_alignment, terms.controller_alignment), (31, 7));
        assert_eq!((terms.max_r2t, terms.max_h2c_data), (15, 131_072));
        assert_eq!(controller.in_capsule_bytes, 8192);
        assert_eq!(controller.transfers.limit(), 128);
        assert_eq!(controller.export().unwrap().as_bytes(), bytes);
    }
}
