//! The pages of Identify (Base 5.17): what this subsystem says of itself, and to each host only of what it may see.

use crate::{
    config::{Identity, LAST_CONTROLLER_ID},
    events::{self, Events},
    features::KEEP_ALIVE_GRANULARITY,
    table::Namespace,
    view::View,
};
use dolmen_nvme::spec::{
    Cns, IdentifyCommand, IdentifyController, IdentifyIndependent, IdentifyNamespace, IdentifyNvmController,
    IdentifyNvmNamespace, NamespaceIdDescriptor, SPEC_VERSION_1_4, Sqe, Status, controller_attributes,
    identify_list, set_padded_ascii,
};
use dolmen_types::{Nqn, limits, volume::SectorSize};
use dolmen_volume::limits as volume_limits;
use zerocopy::{IntoBytes, little_endian::U16};

/// In-capsule data of an I/O command. Bytes. Equal to what the transport grants every admin command, so that the
/// receive path has one size; larger writes are solicited and land in a buffer of their own.
pub(crate) const IN_CAPSULE_BYTES: u32 = 8192;

/// MDTS: the transfer limit as a power of two of 4 KiB pages.
const MDTS: u8 = {
    let pages = limits::MAX_TRANSFER_BYTES / 4096;
    assert!(pages.is_power_of_two() && pages.ilog2() < 32);
    pages.ilog2().to_le_bytes()[0]
};

const INVALID: Status = Status::INVALID_FIELD.with_dnr();
const NO_NAMESPACE: Status = Status::INVALID_NAMESPACE.with_dnr();

/// What an Identify needs to know of its controller.
pub(crate) struct Subject<'a> {
    pub(crate) identity: &'a Identity,
    pub(crate) controller: u16,
    pub(crate) discovery: bool,
    pub(crate) events: &'a Events,
    pub(crate) view: &'a View,
    /// CQT, see [`Timeouts::quiesce_ms`](crate::Timeouts::quiesce_ms). Milliseconds.
    pub(crate) quiesce_ms: u64,
}

/// The page that the command asks for.
pub(crate) fn page(sqe: &Sqe, who: &Subject<'_>) -> Result<Vec<u8>, Status> {
    let (command, nsid) = (IdentifyCommand::of(sqe), sqe.nsid.get());
    if who.discovery {
        return match command.cns {
            Cns::CONTROLLER => Ok(controller(who).as_bytes().to_vec()),
            // Some hosts list namespaces of whatever they are connected to: there are none.
            Cns::ACTIVE_NAMESPACES => Ok(vec![0; IdentifyCommand::DATA_BYTES]),
            _ => Err(INVALID),
        };
    }
    let nvm = command.command_set == 0;
    match command.cns {
        Cns::NAMESPACE | Cns::ALLOCATED_NAMESPACE => {
            Ok(find(who, nsid)?.map_or_else(IdentifyNamespace::zeroed, namespace).as_bytes().to_vec())
        }
        Cns::CONTROLLER => Ok(controller(who).as_bytes().to_vec()),
        Cns::ACTIVE_NAMESPACES | Cns::ALLOCATED_NAMESPACES => active(who, nsid),
        Cns::IO_ACTIVE_NAMESPACES if nvm => active(who, nsid),
        Cns::NAMESPACE_DESCRIPTORS => {
            let space = find(who, nsid)?.ok_or(NO_NAMESPACE)?;
            let mut page = Box::new([0; IdentifyCommand::DATA_BYTES]);
            NamespaceIdDescriptor::write_list(&mut page, space.uuid);
            Ok(page.to_vec())
        }
        Cns::IO_NAMESPACE if nvm => {
            find(who, nsid)?;
            Ok(IdentifyNvmNamespace::zeroed().as_bytes().to_vec())
        }
        Cns::IO_CONTROLLER if nvm => Ok(nvm_controller().as_bytes().to_vec()),
        // A command set that we do not have: zeroes (Base 5.17.2.6).
        Cns::IO_CONTROLLER => Ok(vec![0; IdentifyCommand::DATA_BYTES]),
        Cns::INDEPENDENT_NAMESPACE => {
            Ok(find(who, nsid)?.map_or_else(IdentifyIndependent::zeroed, independent).as_bytes().to_vec())
        }
        Cns::CONTROLLERS => Ok(controllers(who, command.controller)),
        Cns::NAMESPACE_CONTROLLERS => {
            let seen = find(who, nsid)?.is_some();
            Ok(controllers(who, if seen { command.controller } else { u16::MAX }))
        }
        Cns::IO_COMMAND_SETS => {
            // One combination: the NVM Command Set alone.
            let mut page = vec![0; IdentifyCommand::DATA_BYTES];
            page[0] = 1;
            Ok(page)
        }
        _ => Err(INVALID),
    }
}

/// The namespace if the host sees it; an id that can't be one is an error.
fn find<'a>(who: &Subject<'a>, nsid: u32) -> Result<Option<&'a Namespace>, Status> {
    if nsid == 0 || nsid >= 0xffff_fffe {
        return Err(NO_NAMESPACE);
    }
    Ok(who.view.find(nsid).map(AsRef::as_ref))
}

fn active(who: &Subject<'_>, after: u32) -> Result<Vec<u8>, Status> {
    if after >= 0xffff_fffe {
        return Err(NO_NAMESPACE);
    }
    let mut page = Vec::with_capacity(IdentifyCommand::DATA_BYTES);
    for space in who.view.above(after).iter().take(IdentifyCommand::DATA_BYTES / 4) {
        page.extend_from_slice(&space.nsid.0.to_le_bytes());
    }
    page.resize(IdentifyCommand::DATA_BYTES, 0);
    Ok(page)
}

/// A controller list: a host is told of the controller that it asks and of no other, for those may be other hosts'.
fn controllers(who: &Subject<'_>, first: u16) -> Vec<u8> {
    let mut page = [U16::ZERO; identify_list::CONTROLLERS + 1];
    identify_list::write_controllers(&mut page, first, [who.controller]);
    page.as_bytes().to_vec()
}

/// Identify Controller.
fn controller(who: &Subject<'_>) -> IdentifyController {
    let mut page = IdentifyController::zeroed();
    set_padded_ascii(&mut page.serial, &who.identity.serial, b' ');
    set_padded_ascii(&mut page.model, &who.identity.model, b' ');
    set_padded_ascii(&mut page.firmware, &who.identity.firmware, b' ');
    page.max_transfer = MDTS;
    page.controller_id = who.controller.into();
    page.version = SPEC_VERSION_1_4.into();
    page.async_events = who.events.supported().into();
    page.attributes = controller_attributes::HOST_ID_128.into();
    page.async_event_limit = u8::try_from(events::MAX_REQUESTS - 1).unwrap_or(u8::MAX);
    page.keep_alive = KEEP_ALIVE_GRANULARITY.into();
    page.max_commands = limits::MAX_QUEUE_DEPTH.into();
    page.sgl_support = (1 | 1 << 20 | 1 << 21).into();
    page.io_command_capsule = ((64 + IN_CAPSULE_BYTES) / 16).into();
    page.io_response_capsule = 1.into();
    page.sgl_descriptors = 1;
    page.sq_entry_size = 0x66;
    page.cq_entry_size = 0x44;
    page.error_log_entries = u8::try_from(crate::logs::ERROR_ENTRIES - 1).unwrap_or(u8::MAX);
    if who.discovery {
        page.controller_type = 2;
        page.log_attributes = 1 << 2;
        set_padded_ascii(&mut page.subsystem_nqn, Nqn::DISCOVERY, 0);
        return page;
    }
    set_padded_ascii(&mut page.subsystem_nqn, who.identity.subsystem.as_str(), 0);
    page.controller_type = 1;
    page.multipath = 1 | 1 << 1 | 1 << 3;
    page.log_attributes = 1 << 1 | 1 << 2 | 1 << 5;
    page.abort_limit = 3;
    // One slot, read only.
    page.firmware_updates = 1 | 1 << 1;
    page.command_quiesce_ms = u16::try_from(who.quiesce_ms).unwrap_or(u16::MAX).into();
    page.ana_transition_s = 10;
    // The five states can be reported; a namespace stays in its group.
    page.ana_capabilities = 0x1f | 1 << 6;
    page.ana_group_max = limits::PROTECTION_GROUPS.into();
    page.ana_groups = limits::PROTECTION_GROUPS.into();
    page.namespaces = limits::MAX_NSID.into();
    page.max_namespaces = limits::MAX_VOLUMES.into();
    // Compare, Dataset Management, Write Zeroes, Save/Select, reservations, Timestamp, Verify, Copy.
    page.optional_nvm = (1u16 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8).into();
    page.fused = 1.into();
    // No volatile cache: what is acknowledged is durable. Flush may name all namespaces at once.
    page.write_cache = 0b11 << 1;
    // In units of the smallest format, so that it holds for both.
    page.atomic_write = blocks_minus_one(volume_limits::ATOMIC_WRITE_BYTES, 4096).into();
    page.atomic_write_power_fail = page.atomic_write;
    page.atomic_compare_write = blocks_minus_one(volume_limits::ATOMIC_COMPARE_AND_WRITE_BYTES, 4096).into();
    page.copy_formats = 1.into();
    page
}

/// `bytes` in logical blocks of `block` bytes, counted from 0.
fn blocks_minus_one(bytes: usize, block: usize) -> u16 {
    u16::try_from((bytes / block).saturating_sub(1)).unwrap_or(u16::MAX)
}

/// Identify Namespace.
fn namespace(space: &Namespace) -> IdentifyNamespace {
    let mut page = IdentifyNamespace::zeroed();
    let block = usize::try_from(space.sector.bytes()).unwrap_or(4096);
    let (per_store_block, blocks) = (limits::BLOCK_BYTES / block, space.blocks());
    page.size_blocks = blocks.into();
    page.capacity_blocks = blocks.into();
    page.used_blocks = blocks.into();
    // Atomic units and preferred granularities are valid, UUID and NGUID are never reused.
    page.features = 1 << 1 | 1 << 3 | 1 << 4;
    page.formats_count = 0;
    page.formats[0].data_size = match space.sector {
        SectorSize::B512 => 9,
        SectorSize::B4096 => 12,
    };
    page.sharing = 1;
    page.reservations = RESERVATION_CAPABILITIES;
    // Deallocated blocks read as zeroes, and Write Zeroes may deallocate.
    page.deallocate_features = 1 | 1 << 3;
    page.atomic_write = blocks_minus_one(volume_limits::ATOMIC_WRITE_BYTES, block).into();
    page.atomic_write_power_fail = page.atomic_write;
    page.atomic_compare_write = blocks_minus_one(volume_limits::ATOMIC_COMPARE_AND_WRITE_BYTES, block).into();
    let granularity = u16::try_from(per_store_block - 1).unwrap_or(0);
    page.write_granularity = granularity.into();
    page.write_alignment = granularity.into();
    page.deallocate_granularity = granularity.into();
    page.deallocate_alignment = granularity.into();
    page.optimal_write = blocks_minus_one(limits::MAX_TRANSFER_BYTES, block).into();
    page.copy_range_blocks =
        u16::try_from(volume_limits::MAX_COPY_RANGE_BYTES / block).unwrap_or(u16::MAX).into();
    page.copy_blocks = u32::try_from(volume_limits::MAX_COPY_BYTES / block).unwrap_or(u32::MAX).into();
    page.copy_ranges = u8::try_from(volume_limits::MAX_COPY_RANGES - 1).unwrap_or(u8::MAX);
    page.ana_group = space.ana_group().into();
    page.nguid = space.uuid.0;
    page.set_capacity_bytes(space.size_bytes);
    page
}

/// RESCAP: persist through power loss, the six types, and IEKEY as revision 1.3 defines it.
const RESERVATION_CAPABILITIES: u8 = 0xff;

fn independent(space: &Namespace) -> IdentifyIndependent {
    let mut page = IdentifyIndependent::zeroed();
    page.features = 1 << 3;
    page.sharing = 1;
    page.reservations = RESERVATION_CAPABILITIES;
    page.ana_group = space.ana_group().into();
    page.status = 1;
    page
}

fn nvm_controller() -> IdentifyNvmController {
    let mut page = IdentifyNvmController::zeroed();
    let pages = volume_limits::MAX_VERIFY_BYTES / 4096;
    page.verify_limit = u8::try_from(pages.ilog2()).unwrap_or(0);
    page
}

const _: () = assert!(volume_limits::MAX_VERIFY_BYTES.is_power_of_two());
const _: () = assert!(LAST_CONTROLLER_ID < 0xfff0);
