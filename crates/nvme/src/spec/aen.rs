//! Asynchronous events: dword 0 of the completion of an Asynchronous Event Request (Base 5.2).

/// An event as dword 0 reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AsyncEvent {
    /// Event type: 0 error, 1 SMART, 2 notice, 6 I/O command set.
    pub kind: u8,
    /// Event information, by type.
    pub info: u8,
    /// The log page that tells more, and whose reading re-arms the event.
    pub log_page: u8,
}

/// The events that a target of ours raises, and the few more that hosts know.
pub mod notice {
    use super::AsyncEvent;

    /// Namespace Attribute Changed: namespaces came, went or changed size.
    pub const NAMESPACE_CHANGED: AsyncEvent = AsyncEvent { kind: 2, info: 0x00, log_page: 0x04 };
    /// Asymmetric Namespace Access Change.
    pub const ANA_CHANGED: AsyncEvent = AsyncEvent { kind: 2, info: 0x03, log_page: 0x0c };
    /// Discovery Log Page Change.
    pub const DISCOVERY_CHANGED: AsyncEvent = AsyncEvent { kind: 2, info: 0xf0, log_page: 0x70 };
    /// Reservation Log Page Available.
    pub const RESERVATION: AsyncEvent = AsyncEvent { kind: 6, info: 0x00, log_page: 0x80 };
}

impl AsyncEvent {
    /// Dword 0.
    #[must_use]
    pub const fn dword(self) -> u32 {
        u32::from_le_bytes([self.kind & 7, self.info, self.log_page, 0])
    }

    /// Reads dword 0.
    #[must_use]
    pub const fn from_dword(dword: u32) -> AsyncEvent {
        let [kind, info, log_page, _] = dword.to_le_bytes();
        AsyncEvent { kind: kind & 7, info, log_page }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_discovery_event_has_the_known_dword() {
        assert_eq!(notice::DISCOVERY_CHANGED.dword(), 0x0070_f002);
        assert_eq!(AsyncEvent::from_dword(0x000c_0302), notice::ANA_CHANGED);
    }
}
