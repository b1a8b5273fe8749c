//! Identify: the command, the controller page, namespace identification descriptors and id lists (Base 5.17).

use super::{AdminOpcode, Sqe, sqe::split};
use dolmen_types::Uuid;
use zerocopy::{
    FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32},
};

/// Controller or Namespace Structure: which page Identify returns (Base figure 274).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cns(pub u8);

impl Cns {
    /// Identify Namespace, NVM Command Set (4096 bytes).
    pub const NAMESPACE: Cns = Cns(0x00);
    /// Identify Controller.
    pub const CONTROLLER: Cns = Cns(0x01);
    /// Active Namespace ID list, ids above the command's NSID.
    pub const ACTIVE_NAMESPACES: Cns = Cns(0x02);
    /// Namespace Identification Descriptor list.
    pub const NAMESPACE_DESCRIPTORS: Cns = Cns(0x03);
    /// I/O Command Set specific Identify Namespace.
    pub const IO_NAMESPACE: Cns = Cns(0x05);
    /// I/O Command Set specific Identify Controller.
    pub const IO_CONTROLLER: Cns = Cns(0x06);
    /// I/O Command Set specific Active Namespace ID list.
    pub const IO_ACTIVE_NAMESPACES: Cns = Cns(0x07);
    /// I/O Command Set Independent Identify Namespace.
    pub const INDEPENDENT_NAMESPACE: Cns = Cns(0x08);
    /// Allocated Namespace ID list.
    pub const ALLOCATED_NAMESPACES: Cns = Cns(0x10);
    /// Identify Namespace for an allocated NSID.
    pub const ALLOCATED_NAMESPACE: Cns = Cns(0x11);
    /// Controllers attached to the namespace.
    pub const NAMESPACE_CONTROLLERS: Cns = Cns(0x12);
    /// Controllers of the subsystem.
    pub const CONTROLLERS: Cns = Cns(0x13);
    /// UUID list.
    pub const UUIDS: Cns = Cns(0x17);
    /// Identify I/O Command Set (combinations).
    pub const IO_COMMAND_SETS: Cns = Cns(0x1c);
}

/// The dwords of an Identify command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdentifyCommand {
    /// Which page.
    pub cns: Cns,
    /// Controller Identifier; the lowest one wanted, for controller lists.
    pub controller: u16,
    /// CNS Specific Identifier.
    pub specific: u16,
    /// Command Set Identifier; 0 is the NVM Command Set.
    pub command_set: u8,
    /// UUID Index, 7 bits.
    pub uuid_index: u8,
}

impl IdentifyCommand {
    /// Every page is this long. Bytes.
    pub const DATA_BYTES: usize = 4096;

    /// Reads the command.
    #[must_use]
    pub fn of(sqe: &Sqe) -> IdentifyCommand {
        let [cns, _, c0, c1] = sqe.cdw10.get().to_le_bytes();
        let [s0, s1, _, csi] = sqe.cdw11.get().to_le_bytes();
        IdentifyCommand {
            cns: Cns(cns),
            controller: u16::from_le_bytes([c0, c1]),
            specific: u16::from_le_bytes([s0, s1]),
            command_set: csi,
            uuid_index: sqe.cdw14.get().to_le_bytes()[0] & 0x7f,
        }
    }

    /// The command, for namespace `nsid` where the page is about one (else 0).
    #[must_use]
    pub fn encode(&self, cid: u16, nsid: u32) -> Sqe {
        let mut sqe = Sqe::new(AdminOpcode::IDENTIFY.0, cid);
        let [c0, c1] = self.controller.to_le_bytes();
        let [s0, s1] = self.specific.to_le_bytes();
        sqe.nsid = nsid.into();
        sqe.cdw10 = U32::from_bytes([self.cns.0, 0, c0, c1]);
        sqe.cdw11 = U32::from_bytes([s0, s1, 0, self.command_set]);
        sqe.cdw14 = u32::from(self.uuid_index & 0x7f).into();
        sqe
    }
}

/// Power State Descriptor (Base figure 276), only the fields that a fabrics controller fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PowerState {
    /// Maximum Power, in units of 0.01 W.
    pub max_power: U16,
    /// Reserved.
    pub reserved2: u8,
    /// Flags: MXPS, NOPS.
    pub flags: u8,
    /// Entry Latency. Microseconds.
    pub entry_latency_us: U32,
    /// Exit Latency. Microseconds.
    pub exit_latency_us: U32,
    /// Relative read throughput and latency, write throughput and latency.
    pub relative: [u8; 4],
    /// Idle and active power fields.
    pub rest: [u8; 16],
}

const _: () = assert!(size_of::<PowerState>() == 32);

/// Identify Controller (CNS 01h; Base figure 276). The specification's abbreviations stand in the comments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyController {
    /// VID: PCI Vendor ID, 0 on fabrics.
    pub vendor: U16,
    /// SSVID.
    pub subsystem_vendor: U16,
    /// SN: serial number, ASCII padded with blanks.
    pub serial: [u8; 20],
    /// MN: model number, ASCII padded with blanks.
    pub model: [u8; 40],
    /// FR: firmware revision, ASCII padded with blanks.
    pub firmware: [u8; 8],
    /// RAB: recommended arbitration burst, a power of two.
    pub arbitration_burst: u8,
    /// IEEE OUI, least significant byte first.
    pub oui: [u8; 3],
    /// CMIC: bit 0 several ports, bit 1 several controllers, bit 3 ANA reporting.
    pub multipath: u8,
    /// MDTS: largest transfer as a power of two of the minimum page; 0 is no limit.
    pub max_transfer: u8,
    /// CNTLID.
    pub controller_id: U16,
    /// VER.
    pub version: U32,
    /// RTD3R. Microseconds.
    pub rtd3_resume_us: U32,
    /// RTD3E. Microseconds.
    pub rtd3_entry_us: U32,
    /// OAES: optional asynchronous events supported, bits as in [`super::async_event_config`].
    pub async_events: U32,
    /// CTRATT: see [`controller_attributes`].
    pub attributes: U32,
    /// RRLS.
    pub read_recovery_levels: U16,
    /// Reserved.
    pub reserved102: [u8; 9],
    /// CNTRLTYPE: 1 I/O, 2 discovery, 3 administrative.
    pub controller_type: u8,
    /// FGUID.
    pub fru_guid: [u8; 16],
    /// CRDT1 to CRDT3: command retry delay times, in units of 100 ms.
    pub retry_delays: [U16; 3],
    /// Reserved.
    pub reserved134: [u8; 119],
    /// NVMSR.
    pub subsystem_report: u8,
    /// VWCI.
    pub vpd_write_cycles: u8,
    /// MEC.
    pub management_endpoint: u8,
    /// OACS: optional admin commands.
    pub optional_admin: U16,
    /// ACL: outstanding Aborts, counted from 0.
    pub abort_limit: u8,
    /// AERL: outstanding Asynchronous Event Requests, counted from 0.
    pub async_event_limit: u8,
    /// FRMW: firmware updates; bit 0 slot 1 read only, bits 3:1 number of slots.
    pub firmware_updates: u8,
    /// LPA: log page attributes; bit 0 SMART per namespace, 1 effects log, 2 extended data (offsets), 5 supported pages.
    pub log_attributes: u8,
    /// ELPE: error log entries, counted from 0.
    pub error_log_entries: u8,
    /// NPSS: power states, counted from 0.
    pub power_states: u8,
    /// AVSCC.
    pub vendor_admin: u8,
    /// APSTA.
    pub autonomous_power: u8,
    /// WCTEMP. Kelvin.
    pub warning_temperature: U16,
    /// CCTEMP. Kelvin.
    pub critical_temperature: U16,
    /// MTFA, in units of 100 ms.
    pub firmware_activation: U16,
    /// HMPRE, in units of 4 KiB.
    pub host_memory_preferred: U32,
    /// HMMIN, in units of 4 KiB.
    pub host_memory_minimum: U32,
    /// TNVMCAP, 128 bits. Bytes.
    pub total_capacity: [u8; 16],
    /// UNVMCAP, 128 bits. Bytes.
    pub unallocated_capacity: [u8; 16],
    /// RPMBS.
    pub rpmb: U32,
    /// EDSTT. Minutes.
    pub self_test_minutes: U16,
    /// DSTO.
    pub self_test_options: u8,
    /// FWUG.
    pub firmware_granularity: u8,
    /// KAS: granularity of the keep alive timer, in units of 100 ms; 0 is "not supported".
    pub keep_alive: U16,
    /// HCTMA.
    pub thermal_management: U16,
    /// MNTMT. Kelvin.
    pub thermal_minimum: U16,
    /// MXTMT. Kelvin.
    pub thermal_maximum: U16,
    /// SANICAP.
    pub sanitize: U32,
    /// HMMINDS, in units of 4 KiB.
    pub host_memory_entry: U32,
    /// HMMAXD.
    pub host_memory_entries: U16,
    /// NSETIDMAX.
    pub nvm_set_max: U16,
    /// ENDGIDMAX.
    pub endurance_group_max: U16,
    /// ANATT: longest ANA transition. Seconds.
    pub ana_transition_s: u8,
    /// ANACAP: bits 4:0 the states that can be reported, 6 ANAGRPID never changes, 7 NSIDs in the log only on demand.
    pub ana_capabilities: u8,
    /// ANAGRPMAX: highest ANA group identifier.
    pub ana_group_max: U32,
    /// NANAGRPID: number of ANA groups.
    pub ana_groups: U32,
    /// PELS.
    pub persistent_event_log: U32,
    /// DOMAINID.
    pub domain: U16,
    /// Reserved.
    pub reserved358: [u8; 10],
    /// MEGCAP, 128 bits. Bytes.
    pub max_endurance_capacity: [u8; 16],
    /// TMPTHHA.
    pub temperature_hysteresis: u8,
    /// Reserved.
    pub reserved385: u8,
    /// CQT: command quiesce time (Base 2.1). Milliseconds.
    pub command_quiesce_ms: U16,
    /// Reserved.
    pub reserved388: [u8; 124],
    /// SQES: required and maximum submission entry sizes, powers of two (66h).
    pub sq_entry_size: u8,
    /// CQES: the same of completions (44h).
    pub cq_entry_size: u8,
    /// MAXCMD: outstanding commands per I/O queue that are useful; mandatory on fabrics.
    pub max_commands: U16,
    /// NN: highest NSID.
    pub namespaces: U32,
    /// ONCS: bit 0 Compare, 1 Write Uncorrectable, 2 Dataset Management, 3 Write Zeroes, 4 Save in features,
    /// 5 reservations, 6 Timestamp, 7 Verify, 8 Copy.
    pub optional_nvm: U16,
    /// FUSES: bit 0 Compare and Write.
    pub fused: U16,
    /// FNA.
    pub format_attributes: u8,
    /// VWC: bit 0 a volatile write cache is present; bits 2:1 = 3 when Flush with NSID FFFFFFFFh is supported.
    pub write_cache: u8,
    /// AWUN: logical blocks, counted from 0.
    pub atomic_write: U16,
    /// AWUPF: logical blocks, counted from 0.
    pub atomic_write_power_fail: U16,
    /// ICSVSCC.
    pub vendor_io: u8,
    /// NWPC.
    pub write_protection: u8,
    /// ACWU: logical blocks of a fused Compare and Write, counted from 0.
    pub atomic_compare_write: U16,
    /// CDFS: Copy descriptor formats, bit per format.
    pub copy_formats: U16,
    /// SGLS: bits 1:0 SGLs supported, 2 keyed, 20 offset in capsule, 21 transport data block.
    pub sgl_support: U32,
    /// MNAN: largest number of namespaces; needed for ANA.
    pub max_namespaces: U32,
    /// MAXDNA.
    pub max_domain_namespaces: [u8; 16],
    /// MAXCNA.
    pub max_controller_namespaces: U32,
    /// OAQD.
    pub admin_queue_depth: U32,
    /// Reserved.
    pub reserved568: [u8; 200],
    /// SUBNQN, padded with zeroes.
    pub subsystem_nqn: [u8; 256],
    /// Reserved.
    pub reserved1024: [u8; 768],
    /// IOCCSZ: largest command capsule of an I/O queue, in units of 16 bytes (4 is a bare command).
    pub io_command_capsule: U32,
    /// IORCSZ: response capsule, in units of 16 bytes (1).
    pub io_response_capsule: U32,
    /// ICDOFF: where in-capsule data starts behind the command, in units of 16 bytes (0 on TCP).
    pub in_capsule_offset: U16,
    /// FCATT: bit 0 set for static controllers, clear for dynamic ones.
    pub fabrics_attributes: u8,
    /// MSDBD: SGL descriptors in a capsule (1 on TCP).
    pub sgl_descriptors: u8,
    /// OFCS: bit 0 Disconnect supported.
    pub optional_fabrics: U16,
    /// DCTYPE: kind of discovery controller (Base 2.0 figure 276), 0 not reported.
    pub discovery_type: u8,
    /// Reserved.
    pub reserved1807: [u8; 241],
    /// PSD0 to PSD31.
    pub power: [PowerState; 32],
    /// Vendor specific.
    pub vendor_specific: [u8; 1024],
}

const _: () = assert!(size_of::<IdentifyController>() == 4096);
const _: () = assert!(std::mem::offset_of!(IdentifyController, optional_admin) == 256);
const _: () = assert!(std::mem::offset_of!(IdentifyController, sq_entry_size) == 512);
const _: () = assert!(std::mem::offset_of!(IdentifyController, subsystem_nqn) == 768);
const _: () = assert!(std::mem::offset_of!(IdentifyController, io_command_capsule) == 1792);
const _: () = assert!(std::mem::offset_of!(IdentifyController, power) == 2048);

impl IdentifyController {
    /// A page of zeroes, to be filled.
    #[must_use]
    pub fn zeroed() -> IdentifyController {
        IdentifyController::new_zeroed()
    }
}

/// Bits of CTRATT (Base figure 276).
pub mod controller_attributes {
    /// 128-bit host identifiers are supported; mandatory on fabrics.
    pub const HOST_ID_128: u32 = 1 << 0;
    /// Traffic Based Keep Alive is supported.
    pub const TRAFFIC_KEEP_ALIVE: u32 = 1 << 6;
    /// The UUID list is supported.
    pub const UUID_LIST: u32 = 1 << 9;
    /// Extended LBA formats are supported.
    pub const EXTENDED_LBA_FORMATS: u32 = 1 << 15;
}

/// Header of a Namespace Identification Descriptor (CNS 03h; Base figure 277); the identifier follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NamespaceIdDescriptor {
    /// NIDT.
    pub kind: u8,
    /// NIDL: bytes of the identifier.
    pub length: u8,
    /// Reserved.
    pub reserved: U16,
}

const _: () = assert!(size_of::<NamespaceIdDescriptor>() == 4);

impl NamespaceIdDescriptor {
    /// IEEE EUI-64, 8 bytes.
    pub const EUI64: u8 = 1;
    /// NGUID, 16 bytes.
    pub const NGUID: u8 = 2;
    /// UUID, 16 bytes.
    pub const UUID: u8 = 3;
    /// Command Set Identifier, 1 byte.
    pub const COMMAND_SET: u8 = 4;

    /// Writes the descriptors of a namespace (NGUID and UUID of the same value, NVM Command Set) into a page, and
    /// zeroes the rest of it.
    pub fn write_list(page: &mut [u8; IdentifyCommand::DATA_BYTES], uuid: Uuid) {
        page.fill(0);
        let mut at = 0;
        let ids: [(u8, &[u8]); 3] =
            [(Self::NGUID, &uuid.0), (Self::UUID, &uuid.0), (Self::COMMAND_SET, &[0])];
        for (kind, id) in ids {
            page[at] = kind;
            page[at + 1] = u8::try_from(id.len()).expect("an identifier has at most 16 bytes");
            page[at + 4..at + 4 + id.len()].copy_from_slice(id);
            at += 4 + id.len();
        }
    }

    /// The descriptors of a page as (kind, identifier); stops at the end mark and at the first that doesn't fit.
    pub fn list(page: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
        let mut rest = page;
        std::iter::from_fn(move || {
            let (&[kind, length, _, _], tail) = rest.split_first_chunk::<4>()?;
            if length == 0 {
                return None;
            }
            let (id, tail) = tail.split_at_checked(usize::from(length))?;
            rest = tail;
            Some((kind, id))
        })
    }
}

/// Lists of identifiers, as CNS 02h, 07h, 10h (namespaces) and 12h, 13h (controllers) return them.
pub mod identify_list {
    use zerocopy::little_endian::{U16, U32};

    /// Namespace identifiers of one page at most.
    pub const NAMESPACES: usize = 1024;
    /// Controller identifiers of one page at most.
    pub const CONTROLLERS: usize = 2047;

    /// Fills a namespace list page with the ids above `after`, of ids that come in ascending order; an unused entry is 0.
    pub fn write_namespaces(page: &mut [U32; NAMESPACES], after: u32, ids: impl IntoIterator<Item = u32>) {
        page.fill(U32::ZERO);
        for (slot, id) in page.iter_mut().zip(ids.into_iter().filter(|&id| id > after)) {
            *slot = id.into();
        }
    }

    /// Fills a controller list page (count, then ids) with the ids from `first` on, of ids in ascending order.
    pub fn write_controllers(
        page: &mut [U16; CONTROLLERS + 1],
        first: u16,
        ids: impl IntoIterator<Item = u16>,
    ) {
        page.fill(U16::ZERO);
        let mut count = 0u16;
        for (slot, id) in page[1..].iter_mut().zip(ids.into_iter().filter(|&id| id >= first)) {
            *slot = id.into();
            count += 1;
        }
        page[0] = count.into();
    }

    /// The ids of a namespace list page, up to its first 0.
    pub fn namespaces(page: &[U32]) -> impl Iterator<Item = u32> {
        page.iter().map(|id| id.get()).take_while(|&id| id != 0)
    }
}

/// The 128-bit little-endian number `value`, as capacities and counters are stored.
#[must_use]
pub(crate) fn wide(value: u64) -> [u8; 16] {
    let mut out = [0; 16];
    let [low, high] = split(value);
    out[..4].copy_from_slice(&low.to_le_bytes());
    out[4..8].copy_from_slice(&high.to_le_bytes());
    out
}

impl IdentifyController {
    /// Sets TNVMCAP and UNVMCAP. Bytes.
    pub fn set_capacity(&mut self, total: u64, unallocated: u64) {
        self.total_capacity = wide(total);
        self.unallocated_capacity = wide(unallocated);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptor_lists_round_trip_and_stop_at_nonsense() {
        let mut page = [0xffu8; 4096];
        let uuid = Uuid([7; 16]);
        NamespaceIdDescriptor::write_list(&mut page, uuid);
        let found: Vec<_> = NamespaceIdDescriptor::list(&page).collect();
        assert_eq!(found, [(2, &[7u8; 16][..]), (3, &[7u8; 16][..]), (4, &[0u8][..])]);
        assert!(page[45..].iter().all(|&b| b == 0));
        assert_eq!(NamespaceIdDescriptor::list(&[3, 16, 0, 0, 1]).count(), 0);
        assert_eq!(NamespaceIdDescriptor::list(&[3]).count(), 0);
    }

    #[test]
    fn id_lists_start_behind_what_was_seen() {
        let mut page = [U32::MAX_VALUE; 1024];
        identify_list::write_namespaces(&mut page, 2, [1, 2, 3, 9]);
        assert_eq!(identify_list::namespaces(&page).collect::<Vec<_>>(), [3, 9]);
        let mut page = [U16::ZERO; 2048];
        identify_list::write_controllers(&mut page, 2, [1, 2, 5]);
        assert_eq!(page[..4], [2, 2, 5, 0].map(U16::new));
    }

    #[test]
    fn the_command_round_trips() {
        let command = IdentifyCommand {
            cns: Cns::CONTROLLERS,
            controller: 0x102,
            specific: 3,
            command_set: 4,
            uuid_index: 5,
        };
        let sqe = command.encode(9, 1);
        assert_eq!(IdentifyCommand::of(&sqe), command);
        assert_eq!(sqe.cdw10.get(), 0x0102_0013);
    }
}
