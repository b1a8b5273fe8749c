//! The log pages (Base 5.16). A page is built whole, then cut to what the command asks for.

use crate::{
    config::TargetConfig,
    discovery,
    events::{Events, Notice},
    features,
    view::View,
};
use dolmen_nvme::spec::{
    AdminOpcode, AnaGroupDescriptor, AnaLogHeader, AnaState, CommandEffects, EffectsLog, ErrorLogEntry,
    FeatureId, FirmwareLog, GetLogCommand, LogId, NvmOpcode, ReservationNotification, SmartLog, Sqe, Status,
    changed_namespaces, effects, set_padded_ascii,
};
use dolmen_types::limits;
use std::{collections::VecDeque, net::SocketAddr};
use zerocopy::{FromZeros, IntoBytes, little_endian::U32};

/// Entries of the Error Information log.
pub(crate) const ERROR_ENTRIES: usize = 16;

/// The NVMe-MI Commands Supported and Effects log (Base 5.16.1.19). Bytes.
const MANAGEMENT_BYTES: usize = 4096;

const INVALID: Status = Status::INVALID_FIELD.with_dnr();

/// The subsystem's health as SMART reports it; fed by the node, which alone knows all cores and drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Critical Warning bits (Base figure 207).
    pub critical_warning: u8,
    /// Free space reserve of the drives. Per cent.
    pub spare_percent: u8,
    /// Used life of the most worn drive. Per cent, may exceed 100.
    pub used_percent: u8,
    /// Bytes that hosts read.
    pub bytes_read: u64,
    /// Bytes that hosts wrote.
    pub bytes_written: u64,
    /// Read commands of hosts.
    pub reads: u64,
    /// Write commands of hosts.
    pub writes: u64,
    /// Unrecovered data integrity errors.
    pub media_errors: u64,
    /// Hours since the process started.
    pub power_on_hours: u64,
}

impl Health {
    /// Critical Warning bit 3: the media take no writes.
    pub const READ_ONLY: u8 = 1 << 3;
}

impl Default for Health {
    fn default() -> Self {
        Health {
            critical_warning: 0,
            spare_percent: 100,
            used_percent: 0,
            bytes_read: 0,
            bytes_written: 0,
            reads: 0,
            writes: 0,
            media_errors: 0,
            power_on_hours: 0,
        }
    }
}

/// The last failed commands of one controller's admin queue, newest first.
#[derive(Debug, Default)]
pub(crate) struct ErrorLog {
    entries: VecDeque<ErrorLogEntry>,
    count: u64,
}

impl ErrorLog {
    /// Notes a command that failed for a reason of its own.
    pub(crate) fn note(&mut self, sqe: &Sqe, status: Status) {
        self.count += 1;
        self.entries.truncate(ERROR_ENTRIES - 1);
        let mut entry = ErrorLogEntry::new_zeroed();
        entry.count = self.count.into();
        entry.cid = sqe.cid;
        entry.status = (status.bits() << 1).into();
        entry.location = u16::MAX.into();
        entry.nsid = if sqe.is_fabrics() { U32::ZERO } else { sqe.nsid };
        entry.transport = 3;
        self.entries.push_front(entry);
    }

    fn page(&self) -> Vec<u8> {
        let mut page: Vec<u8> = self.entries.iter().flat_map(|e| e.as_bytes().to_vec()).collect();
        page.resize(ERROR_ENTRIES * size_of::<ErrorLogEntry>(), 0);
        page
    }
}

/// What a Get Log Page needs to know of its controller.
pub(crate) struct Subject<'a> {
    pub(crate) config: &'a TargetConfig,
    pub(crate) discovery: bool,
    pub(crate) view: &'a View,
    pub(crate) generation: u64,
    pub(crate) local: SocketAddr,
    pub(crate) health: &'a Health,
    pub(crate) errors: &'a ErrorLog,
}

/// The bytes that the command asks for; its length was checked against MDTS. Reading with RAE clear re-arms events.
pub(crate) fn page(sqe: &Sqe, who: &Subject<'_>, events: &mut Events) -> Result<Vec<u8>, Status> {
    let command = GetLogCommand::of(sqe)?;
    let clear = !command.retain_event;
    let whole = match (command.page, who.discovery) {
        (LogId::DISCOVERY, true) => {
            if clear {
                events.clear(Notice::Discovery);
            }
            discovery::page(who.config, who.view, who.generation, who.local)
        }
        (LogId::SUPPORTED, discovery) => supported(discovery),
        (LogId::ERROR, _) => who.errors.page(),
        (_, true) | (LogId::DISCOVERY, false) => return Err(Status::INVALID_LOG_PAGE.with_dnr()),
        (LogId::SMART, _) => {
            if clear {
                events.clear(Notice::Health);
            }
            smart(who)
        }
        (LogId::FIRMWARE, _) => firmware(who),
        (LogId::CHANGED_NAMESPACES, _) => {
            let mut page = [U32::ZERO; changed_namespaces::ENTRIES];
            changed_namespaces::write(&mut page, events.changed_list(clear));
            page.as_bytes().to_vec()
        }
        (LogId::EFFECTS, _) => effects_page(command.command_set),
        (LogId::FEATURES, _) => features_page(),
        // No NVMe-MI command is supported here.
        (LogId::MANAGEMENT, _) => vec![0; MANAGEMENT_BYTES],
        (LogId::ANA, _) => {
            if clear {
                events.clear(Notice::Ana);
            }
            ana(who.view, command.specific & 1 != 0)
        }
        (LogId::RESERVATION_NOTIFICATION, _) => reservation(events, clear),
        _ => return Err(Status::INVALID_LOG_PAGE.with_dnr()),
    };
    cut(&whole, command.offset, command.length)
}

/// `length` bytes from `offset` on; what lies beyond the page's end reads zeroes, an offset beyond it is an error.
fn cut(page: &[u8], offset: u64, length: u64) -> Result<Vec<u8>, Status> {
    let offset = usize::try_from(offset).map_err(|_| INVALID)?;
    let length = usize::try_from(length).map_err(|_| INVALID)?;
    let rest = page.get(offset..).ok_or(INVALID)?;
    let mut out = rest[..length.min(rest.len())].to_vec();
    out.resize(length, 0);
    Ok(out)
}

/// Log page 00h: 256 entries of 4 bytes, bit 0 "supported".
fn supported(discovery: bool) -> Vec<u8> {
    let pages: &[LogId] = if discovery {
        &[LogId::SUPPORTED, LogId::ERROR, LogId::DISCOVERY]
    } else {
        &[
            LogId::SUPPORTED,
            LogId::ERROR,
            LogId::SMART,
            LogId::FIRMWARE,
            LogId::CHANGED_NAMESPACES,
            LogId::EFFECTS,
            LogId::ANA,
            LogId::FEATURES,
            LogId::MANAGEMENT,
            LogId::RESERVATION_NOTIFICATION,
        ]
    };
    let mut out = vec![0; 1024];
    for id in pages {
        out[usize::from(id.0) * 4] = 1;
    }
    out
}

fn smart(who: &Subject<'_>) -> Vec<u8> {
    let health = who.health;
    let mut page = SmartLog::zeroed();
    page.critical_warning = health.critical_warning;
    page.spare = health.spare_percent;
    page.spare_threshold = 10;
    page.used = health.used_percent;
    page.data_units_read = SmartLog::counter(health.bytes_read.div_ceil(512_000));
    page.data_units_written = SmartLog::counter(health.bytes_written.div_ceil(512_000));
    page.host_reads = SmartLog::counter(health.reads);
    page.host_writes = SmartLog::counter(health.writes);
    page.media_errors = SmartLog::counter(health.media_errors);
    page.power_on_hours = SmartLog::counter(health.power_on_hours);
    page.error_entries = SmartLog::counter(who.errors.count);
    page.as_bytes().to_vec()
}

fn firmware(who: &Subject<'_>) -> Vec<u8> {
    let mut revision = [0; 8];
    set_padded_ascii(&mut revision, &who.config.identity.firmware, b' ');
    FirmwareLog::single(revision).as_bytes().to_vec()
}

/// Commands Supported and Effects; a command set that we do not have supports no I/O command.
fn effects_page(command_set: u8) -> Vec<u8> {
    let mut page = EffectsLog::zeroed();
    let admin = CommandEffects((effects::SUPPORTED | effects::OF_CONTROLLER).into());
    let io = effects::SUPPORTED | effects::OF_NAMESPACE;
    let (plain, changes) = (CommandEffects(io.into()), CommandEffects((io | effects::CHANGES_BLOCKS).into()));
    for op in [
        AdminOpcode::GET_LOG_PAGE,
        AdminOpcode::IDENTIFY,
        AdminOpcode::ABORT,
        AdminOpcode::SET_FEATURES,
        AdminOpcode::GET_FEATURES,
        AdminOpcode::ASYNC_EVENT_REQUEST,
        AdminOpcode::KEEP_ALIVE,
    ] {
        page.admin[usize::from(op.0)] = admin;
    }
    if command_set == 0 {
        for op in [NvmOpcode::WRITE, NvmOpcode::WRITE_ZEROES, NvmOpcode::DATASET_MANAGEMENT, NvmOpcode::COPY]
        {
            page.io[usize::from(op.0)] = changes;
        }
        for op in [
            NvmOpcode::FLUSH,
            NvmOpcode::READ,
            NvmOpcode::COMPARE,
            NvmOpcode::VERIFY,
            NvmOpcode::RESERVATION_REGISTER,
            NvmOpcode::RESERVATION_REPORT,
            NvmOpcode::RESERVATION_ACQUIRE,
            NvmOpcode::RESERVATION_RELEASE,
        ] {
            page.io[usize::from(op.0)] = plain;
        }
    }
    page.as_bytes().to_vec()
}

/// Feature Identifiers Supported and Effects: 256 entries of 4 bytes.
fn features_page() -> Vec<u8> {
    (0..=u8::MAX)
        .flat_map(|id| {
            let bits = match features::is_per_namespace(FeatureId(id)) {
                None => 0,
                Some(true) => effects::SUPPORTED | effects::OF_NAMESPACE,
                Some(false) => effects::SUPPORTED | effects::OF_CONTROLLER,
            };
            bits.to_le_bytes()
        })
        .collect()
}

/// The ANA log: the groups that hold a namespace this host sees, all reached at their best on a single node.
fn ana(view: &View, groups_only: bool) -> Vec<u8> {
    let mut members: Vec<Vec<u32>> = vec![Vec::new(); limits::PROTECTION_GROUPS as usize + 1];
    for space in view.spaces() {
        if let Some(group) = members.get_mut(space.ana_group() as usize) {
            group.push(space.nsid.0);
        }
    }
    let used = members.iter().filter(|m| !m.is_empty()).count();
    let header = AnaLogHeader::new(view.ana_changes(), u16::try_from(used).unwrap_or(u16::MAX));
    let mut page = header.as_bytes().to_vec();
    for (group, nsids) in (0u32..).zip(&members).filter(|(_, nsids)| !nsids.is_empty()) {
        let count = if groups_only { 0 } else { u32::try_from(nsids.len()).unwrap_or(u32::MAX) };
        let head = AnaGroupDescriptor::new(group, count, view.ana_changes(), AnaState::Optimized);
        page.extend_from_slice(head.as_bytes());
        if !groups_only {
            page.extend(nsids.iter().flat_map(|n| n.to_le_bytes()));
        }
    }
    page
}

/// Log page 80h: one notification a reading, the oldest first.
fn reservation(events: &mut Events, clear: bool) -> Vec<u8> {
    let mut page = ReservationNotification::new_zeroed();
    if let Some((note, left)) = events.oldest_note(clear) {
        page.count = note.count.into();
        page.kind = note.kind;
        page.more = u8::try_from(left).unwrap_or(u8::MAX);
        page.nsid = note.nsid.into();
    }
    page.as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_cut_and_filled_up() {
        assert_eq!(cut(&[1, 2, 3, 4, 5, 6, 7, 8], 4, 8), Ok(vec![5, 6, 7, 8, 0, 0, 0, 0]));
        assert_eq!(cut(&[1, 2, 3, 4], 4, 4), Ok(vec![0; 4]));
        assert_eq!(cut(&[1, 2, 3, 4], 8, 4), Err(INVALID));
        assert_eq!(cut(&[1, 2, 3, 4], u64::MAX - 3, 4), Err(INVALID));
    }

    #[test]
    fn pages_say_what_is_supported_and_what_it_concerns() {
        let entry = |page: &[u8], id: u8| {
            let at = usize::from(id) * 4;
            u32::from_le_bytes(page[at..at + 4].try_into().unwrap())
        };
        let features = features_page();
        assert_eq!(features.len(), 1024);
        assert_eq!(entry(&features, FeatureId::NUMBER_OF_QUEUES.0), 0x0020_0001);
        assert_eq!(entry(&features, FeatureId::ERROR_RECOVERY.0), 0x0010_0001);
        assert_eq!(entry(&features, FeatureId::WRITE_CACHE.0), 0);
        let commands = effects_page(0);
        assert_eq!(entry(&commands, AdminOpcode::ABORT.0), 0x0020_0001);
        assert_eq!(entry(&commands[1024..], NvmOpcode::WRITE.0), 0x0010_0003);
        let pages = supported(false);
        assert_eq!((entry(&pages, LogId::FEATURES.0), entry(&pages, LogId::DISCOVERY.0)), (1, 0));
    }

    #[test]
    fn the_error_log_keeps_the_newest() {
        let mut log = ErrorLog::default();
        for cid in 0..40 {
            log.note(&Sqe::new(0xff, cid), Status::INVALID_OPCODE.with_dnr());
        }
        let page = log.page();
        assert_eq!(page.len(), 1024);
        assert_eq!(page[..8], 40u64.to_le_bytes());
        assert_eq!(page[15 * 64..15 * 64 + 8], 25u64.to_le_bytes());
    }
}
