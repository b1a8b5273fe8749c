//! Fabrics commands (Base 6): Connect, Property Get and Set, Authentication Send and Receive, Disconnect.

use super::{AdminOpcode, Property, Sqe, Status, sqe::split};
use std::fmt;
use zerocopy::{
    FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian::U16,
    little_endian::U32,
};

/// FCTYPE: which Fabrics command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FabricsType(pub u8);

impl FabricsType {
    /// Property Set.
    pub const PROPERTY_SET: FabricsType = FabricsType(0x00);
    /// Connect.
    pub const CONNECT: FabricsType = FabricsType(0x01);
    /// Property Get.
    pub const PROPERTY_GET: FabricsType = FabricsType(0x04);
    /// Authentication Send.
    pub const AUTH_SEND: FabricsType = FabricsType(0x05);
    /// Authentication Receive.
    pub const AUTH_RECEIVE: FabricsType = FabricsType(0x06);
    /// Disconnect.
    pub const DISCONNECT: FabricsType = FabricsType(0x08);
}

impl fmt::Display for FabricsType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            FabricsType::PROPERTY_SET => "Property Set",
            FabricsType::CONNECT => "Connect",
            FabricsType::PROPERTY_GET => "Property Get",
            FabricsType::AUTH_SEND => "Authentication Send",
            FabricsType::AUTH_RECEIVE => "Authentication Receive",
            FabricsType::DISCONNECT => "Disconnect",
            FabricsType(other) => return write!(f, "FCTYPE {other:02x}h"),
        })
    }
}

fn fabrics_sqe(kind: FabricsType, cid: u16) -> Sqe {
    let mut sqe = Sqe::new(AdminOpcode::FABRICS.0, cid);
    sqe.nsid = U32::from_bytes([kind.0, 0, 0, 0]);
    sqe
}

/// Bits of CATTR of Connect.
pub mod connect_attributes {
    /// Bit 2: the host asks to disable SQ flow control.
    pub const DISABLE_FLOW_CONTROL: u8 = 1 << 2;
    /// Bit 3: the host supports deletion of single I/O queues (Disconnect).
    pub const QUEUE_DELETION: u8 = 1 << 3;
}

/// The dwords of a Connect command (Base figure 378).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectCommand {
    /// RECFMT: format of the data, 0.
    pub record_format: u16,
    /// QID: 0 makes an admin queue and a controller.
    pub queue: u16,
    /// SQSIZE: entries of the queue, counted from 0.
    pub sq_size: u16,
    /// CATTR: see [`connect_attributes`].
    pub attributes: u8,
    /// KATO: keep alive timeout, 0 disables it. Milliseconds.
    pub keep_alive_ms: u32,
}

impl ConnectCommand {
    /// Reads the command.
    #[must_use]
    pub fn of(sqe: &Sqe) -> ConnectCommand {
        let [f0, f1, q0, q1] = sqe.cdw10.get().to_le_bytes();
        let [s0, s1, attributes, _] = sqe.cdw11.get().to_le_bytes();
        ConnectCommand {
            record_format: u16::from_le_bytes([f0, f1]),
            queue: u16::from_le_bytes([q0, q1]),
            sq_size: u16::from_le_bytes([s0, s1]),
            attributes,
            keep_alive_ms: sqe.cdw12.get(),
        }
    }

    /// The command; its data is [`ConnectData`], in the capsule.
    #[must_use]
    pub fn encode(&self, cid: u16) -> Sqe {
        let mut sqe = fabrics_sqe(FabricsType::CONNECT, cid);
        let [f0, f1] = self.record_format.to_le_bytes();
        let [q0, q1] = self.queue.to_le_bytes();
        let [s0, s1] = self.sq_size.to_le_bytes();
        sqe.cdw10 = U32::from_bytes([f0, f1, q0, q1]);
        sqe.cdw11 = U32::from_bytes([s0, s1, self.attributes, 0]);
        sqe.cdw12 = self.keep_alive_ms.into();
        sqe
    }

    /// True when the host asks to disable SQ flow control.
    #[must_use]
    pub fn flow_control_disabled(&self) -> bool {
        self.attributes & connect_attributes::DISABLE_FLOW_CONTROL != 0
    }
}

/// Data of a Connect command (Base figure 379).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ConnectData {
    /// HOSTID.
    pub host_id: [u8; 16],
    /// CNTLID: FFFFh asks for a new dynamic controller.
    pub controller_id: U16,
    /// Reserved.
    pub reserved18: [u8; 238],
    /// SUBNQN, ended and padded with zeroes.
    pub subsystem_nqn: [u8; 256],
    /// HOSTNQN, ended and padded with zeroes.
    pub host_nqn: [u8; 256],
    /// Reserved.
    pub reserved768: [u8; 256],
}

const _: () = assert!(size_of::<ConnectData>() == 1024);

impl ConnectData {
    /// A CNTLID that asks for a dynamic controller.
    pub const DYNAMIC: u16 = 0xffff;

    /// The data.
    #[must_use]
    pub fn new(host_id: [u8; 16], controller_id: u16, subsystem_nqn: &str, host_nqn: &str) -> ConnectData {
        let mut data = ConnectData::new_zeroed();
        data.host_id = host_id;
        data.controller_id = controller_id.into();
        super::set_padded_ascii(&mut data.subsystem_nqn, subsystem_nqn, 0);
        super::set_padded_ascii(&mut data.host_nqn, host_nqn, 0);
        data
    }
}

/// Which parameter a refused Connect complains about (Base figure 381).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// A field of the command, by its byte offset there.
    InCommand(u16),
    /// A field of the data, by its byte offset there.
    InData(u16),
}

impl ConnectError {
    /// QID of the command.
    pub const QUEUE: ConnectError = ConnectError::InCommand(42);
    /// SQSIZE of the command.
    pub const SQ_SIZE: ConnectError = ConnectError::InCommand(44);
    /// KATO of the command.
    pub const KEEP_ALIVE: ConnectError = ConnectError::InCommand(48);
    /// HOSTID of the data.
    pub const HOST_ID: ConnectError = ConnectError::InData(0);
    /// CNTLID of the data.
    pub const CONTROLLER_ID: ConnectError = ConnectError::InData(16);
    /// SUBNQN of the data.
    pub const SUBSYSTEM_NQN: ConnectError = ConnectError::InData(256);
    /// HOSTNQN of the data.
    pub const HOST_NQN: ConnectError = ConnectError::InData(512);

    /// Dword 0 of the completion with Connect Invalid Parameters: IPO and IATTR.
    #[must_use]
    pub fn dword(self) -> u32 {
        match self {
            ConnectError::InCommand(offset) => u32::from(offset),
            ConnectError::InData(offset) => 1 << 16 | u32::from(offset),
        }
    }
}

/// Dword 0 of a successful Connect.
pub mod connect_response {
    /// AUTHREQ bit ATR: the host must authenticate on this queue.
    pub const AUTHENTICATION_REQUIRED: u32 = 1 << 17;

    /// The controller id, without authentication demands.
    #[must_use]
    pub fn success(controller_id: u16) -> u32 {
        u32::from(controller_id)
    }

    /// Controller id in a response.
    #[must_use]
    pub fn controller_id(dword: u32) -> u16 {
        let [a, b, _, _] = dword.to_le_bytes();
        u16::from_le_bytes([a, b])
    }
}

/// A Property Get (Base figure 385).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PropertyGet {
    /// Which property.
    pub property: Property,
    /// True for 8 bytes, false for 4.
    pub wide: bool,
}

impl PropertyGet {
    /// Reads the command.
    ///
    /// # Errors
    /// Invalid Field for a reserved size.
    pub fn of(sqe: &Sqe) -> Result<PropertyGet, Status> {
        Ok(PropertyGet { property: Property(sqe.cdw11.get()), wide: property_width(sqe)? })
    }

    /// The command.
    #[must_use]
    pub fn encode(&self, cid: u16) -> Sqe {
        let mut sqe = fabrics_sqe(FabricsType::PROPERTY_GET, cid);
        sqe.cdw10 = u32::from(self.wide).into();
        sqe.cdw11 = self.property.0.into();
        sqe
    }
}

/// A Property Set (Base figure 388).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PropertySet {
    /// Which property.
    pub property: Property,
    /// True for 8 bytes, false for 4.
    pub wide: bool,
    /// The value; its upper half is without meaning when not `wide`.
    pub value: u64,
}

impl PropertySet {
    /// Reads the command.
    ///
    /// # Errors
    /// Invalid Field for a reserved size.
    pub fn of(sqe: &Sqe) -> Result<PropertySet, Status> {
        let wide = property_width(sqe)?;
        let high = if wide { sqe.cdw13.get() } else { 0 };
        let value = u64::from(sqe.cdw12.get()) | u64::from(high) << 32;
        Ok(PropertySet { property: Property(sqe.cdw11.get()), wide, value })
    }

    /// The command.
    #[must_use]
    pub fn encode(&self, cid: u16) -> Sqe {
        let mut sqe = fabrics_sqe(FabricsType::PROPERTY_SET, cid);
        let [low, high] = split(self.value);
        sqe.cdw10 = u32::from(self.wide).into();
        sqe.cdw11 = self.property.0.into();
        sqe.cdw12 = low.into();
        sqe.cdw13 = high.into();
        sqe
    }
}

/// ATTRIB bits 2:0: 0 is 4 bytes, 1 is 8.
fn property_width(sqe: &Sqe) -> Result<bool, Status> {
    match sqe.cdw10.get().to_le_bytes()[0] & 7 {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Status::INVALID_FIELD.with_dnr()),
    }
}

/// The dwords of Authentication Send and Receive (Base figures 372, 375).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthCommand {
    /// SECP: security protocol, E9h for NVMe.
    pub protocol: u8,
    /// SPSP0 and SPSP1: protocol specific, 1 and 1.
    pub specific: [u8; 2],
    /// TL or AL. Bytes.
    pub length: u32,
}

impl AuthCommand {
    /// Reads the command.
    #[must_use]
    pub fn of(sqe: &Sqe) -> AuthCommand {
        let [_, spsp0, spsp1, protocol] = sqe.cdw10.get().to_le_bytes();
        AuthCommand { protocol, specific: [spsp0, spsp1], length: sqe.cdw11.get() }
    }
}

/// A Disconnect command (Base figure 383): the queue it comes on shall be deleted.
impl Sqe {
    /// A Disconnect command.
    #[must_use]
    pub fn disconnect(cid: u16) -> Sqe {
        fabrics_sqe(FabricsType::DISCONNECT, cid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connect_bytes() {
        let connect =
            ConnectCommand { record_format: 0, queue: 1, sq_size: 31, attributes: 4, keep_alive_ms: 15_000 };
        let sqe = connect.encode(1);
        let bytes = sqe.as_bytes();
        assert_eq!(&bytes[..5], [0x7f, 0x40, 1, 0, 1]);
        assert_eq!(&bytes[40..52], [0, 0, 1, 0, 31, 0, 4, 0, 0x98, 0x3a, 0, 0]);
        assert_eq!(ConnectCommand::of(&sqe), connect);
        assert!(connect.flow_control_disabled());
    }

    #[test]
    fn property_bytes() {
        let set = PropertySet { property: Property::CC, wide: false, value: 0x0046_0001 };
        let sqe = set.encode(2);
        assert_eq!(&sqe.as_bytes()[40..56], [0, 0, 0, 0, 0x14, 0, 0, 0, 1, 0, 0x46, 0, 0, 0, 0, 0]);
        assert_eq!(PropertySet::of(&sqe), Ok(set));
        let get = PropertyGet { property: Property::CAP, wide: true };
        assert_eq!(PropertyGet::of(&get.encode(3)), Ok(get));
        let odd = Sqe { cdw10: 2.into(), ..Sqe::default() };
        assert!(PropertyGet::of(&odd).is_err() && PropertySet::of(&odd).is_err());
    }

    #[test]
    fn refusals_point_at_the_field() {
        assert_eq!(ConnectError::HOST_NQN.dword(), 0x0001_0200);
        assert_eq!(ConnectError::SQ_SIZE.dword(), 44);
    }
}
