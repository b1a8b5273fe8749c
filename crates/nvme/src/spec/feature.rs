//! Get and Set Features (Base 5.15, 5.27): identifiers and the few values with inner fields.

use super::{AdminOpcode, Sqe};

/// Feature Identifier (Base figure 317).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FeatureId(pub u8);

impl FeatureId {
    /// Arbitration.
    pub const ARBITRATION: FeatureId = FeatureId(0x01);
    /// Power Management.
    pub const POWER_MANAGEMENT: FeatureId = FeatureId(0x02);
    /// Temperature Threshold.
    pub const TEMPERATURE_THRESHOLD: FeatureId = FeatureId(0x04);
    /// Error Recovery.
    pub const ERROR_RECOVERY: FeatureId = FeatureId(0x05);
    /// Volatile Write Cache.
    pub const WRITE_CACHE: FeatureId = FeatureId(0x06);
    /// Number of Queues.
    pub const NUMBER_OF_QUEUES: FeatureId = FeatureId(0x07);
    /// Interrupt Coalescing (PCIe).
    pub const INTERRUPT_COALESCING: FeatureId = FeatureId(0x08);
    /// Interrupt Vector Configuration (PCIe).
    pub const INTERRUPT_VECTOR: FeatureId = FeatureId(0x09);
    /// Write Atomicity Normal.
    pub const WRITE_ATOMICITY: FeatureId = FeatureId(0x0a);
    /// Asynchronous Event Configuration.
    pub const ASYNC_EVENT: FeatureId = FeatureId(0x0b);
    /// Timestamp.
    pub const TIMESTAMP: FeatureId = FeatureId(0x0e);
    /// Keep Alive Timer.
    pub const KEEP_ALIVE: FeatureId = FeatureId(0x0f);
    /// Host Behavior Support.
    pub const HOST_BEHAVIOR: FeatureId = FeatureId(0x16);
    /// I/O Command Set Profile.
    pub const COMMAND_SET_PROFILE: FeatureId = FeatureId(0x19);
    /// Host Identifier.
    pub const HOST_ID: FeatureId = FeatureId(0x81);
    /// Reservation Notification Mask.
    pub const RESERVATION_MASK: FeatureId = FeatureId(0x82);
    /// Reservation Persistence.
    pub const RESERVATION_PERSISTENCE: FeatureId = FeatureId(0x83);
    /// Namespace Write Protection.
    pub const WRITE_PROTECTION: FeatureId = FeatureId(0x84);
}

/// SEL of Get Features: which of a feature's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureSelect {
    /// The current value.
    Current,
    /// The default value.
    Default,
    /// The saved value.
    Saved,
    /// Capabilities: bit 0 saveable, 1 namespace specific, 2 changeable.
    Capabilities,
    /// A reserved value.
    Reserved,
}

/// CDW10 of both commands.
pub mod feature_select {
    use super::{AdminOpcode, FeatureId, FeatureSelect, Sqe};

    /// The feature that a Get or Set Features command is about.
    #[must_use]
    pub fn id(sqe: &Sqe) -> FeatureId {
        FeatureId(sqe.cdw10.get().to_le_bytes()[0])
    }

    /// SEL of Get Features.
    #[must_use]
    pub fn select(sqe: &Sqe) -> FeatureSelect {
        match sqe.cdw10.get().to_le_bytes()[1] & 7 {
            0 => FeatureSelect::Current,
            1 => FeatureSelect::Default,
            2 => FeatureSelect::Saved,
            3 => FeatureSelect::Capabilities,
            _ => FeatureSelect::Reserved,
        }
    }

    /// SV of Set Features: save across resets.
    #[must_use]
    pub fn save(sqe: &Sqe) -> bool {
        sqe.cdw10.get() & 1 << 31 != 0
    }

    /// A Get Features command for the current value.
    #[must_use]
    pub fn get(cid: u16, nsid: u32, id: FeatureId) -> Sqe {
        let mut sqe = Sqe::new(AdminOpcode::GET_FEATURES.0, cid);
        sqe.nsid = nsid.into();
        sqe.cdw10 = u32::from(id.0).into();
        sqe
    }

    /// A Set Features command with its value in dword 11.
    #[must_use]
    pub fn set(cid: u16, nsid: u32, id: FeatureId, value: u32) -> Sqe {
        let mut sqe = Sqe::new(AdminOpcode::SET_FEATURES.0, cid);
        sqe.nsid = nsid.into();
        sqe.cdw10 = u32::from(id.0).into();
        sqe.cdw11 = value.into();
        sqe
    }
}

/// Number of Queues (feature 07h): both counts stand from 0 on the wire.
pub mod number_of_queues {
    /// The value for so many submission and completion queues, each 1 to 65,535.
    #[must_use]
    pub fn value(submission: u16, completion: u16) -> u32 {
        u32::from(submission.saturating_sub(1)) | u32::from(completion.saturating_sub(1)) << 16
    }

    /// Submission and completion queues of a value; `None` for the reserved FFFFh in either half.
    #[must_use]
    pub fn counts(value: u32) -> Option<(u16, u16)> {
        let [a, b, c, d] = value.to_le_bytes();
        Some((u16::from_le_bytes([a, b]).checked_add(1)?, u16::from_le_bytes([c, d]).checked_add(1)?))
    }
}

/// Asynchronous Event Configuration (feature 0Bh) and OAES of Identify Controller: which notices are wanted or offered.
pub mod async_event_config {
    /// Bit 8: namespace attribute notices.
    pub const NAMESPACE: u32 = 1 << 8;
    /// Bit 9: firmware activation notices.
    pub const FIRMWARE: u32 = 1 << 9;
    /// Bit 11: ANA change notices.
    pub const ANA: u32 = 1 << 11;
    /// Bit 31: discovery log page change notices.
    pub const DISCOVERY: u32 = 1 << 31;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_counts_round_trip() {
        assert_eq!(number_of_queues::value(4, 2), 0x0001_0003);
        assert_eq!(number_of_queues::counts(0x0001_0003), Some((4, 2)));
        assert_eq!(number_of_queues::counts(0x0001_ffff), None);
    }

    #[test]
    fn command_fields() {
        let sqe = Sqe { cdw10: 0x8000_030b.into(), ..Sqe::default() };
        assert_eq!(feature_select::id(&sqe), FeatureId::ASYNC_EVENT);
        assert_eq!(feature_select::select(&sqe), FeatureSelect::Capabilities);
        assert!(feature_select::save(&sqe));
    }
}
