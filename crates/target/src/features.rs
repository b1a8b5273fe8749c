//! Get and Set Features of one controller: what can be set, what it starts as, and what a host may not ask.
//!
//! Nothing is saveable: a controller made by Connect lives as long as its association (Base 5.27.1). Everything a host
//! can set here is its own; nothing of it changes what other hosts see. The exception is Reservation Persistence, which
//! is the volume's.

use crate::events::Events;
use dolmen_nvme::spec::{
    AdminOpcode, FeatureId, FeatureSelect, Sqe, Status, feature_select, number_of_queues,
};
use dolmen_types::{Nanos, UnixMillis, limits};
use dolmen_volume::ReservationCommand;
use std::collections::BTreeMap;

/// Data of the Timestamp feature, both ways. Bytes.
pub(crate) const TIMESTAMP_BYTES: usize = 8;
/// Data of Host Behavior Support, both ways. Bytes.
pub(crate) const HOST_BEHAVIOR_BYTES: usize = 512;
/// Granularity of the keep alive timer (KAS), in units of 100 ms.
pub(crate) const KEEP_ALIVE_GRANULARITY: u16 = 10;

/// Namespaces for which one host may have set a value of a feature.
const MAX_NAMESPACE_VALUES: usize = 4096;

const INVALID: Status = Status::INVALID_FIELD.with_dnr();

/// Capabilities that SEL 011b reports.
const PER_NAMESPACE: u32 = 1 << 1;
const CHANGEABLE: u32 = 1 << 2;

/// What Get Features answers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// Dword 0 of the completion.
    Dword(u32),
    /// Data, with dword 0 zero.
    Data(Vec<u8>),
}

/// What Set Features needs of its command's data. Bytes.
pub(crate) fn data_bytes(sqe: &Sqe) -> usize {
    match feature_select::id(sqe) {
        FeatureId::TIMESTAMP => TIMESTAMP_BYTES,
        FeatureId::HOST_BEHAVIOR => HOST_BEHAVIOR_BYTES,
        _ => 0,
    }
}

/// What stands outside of this file but decides about features.
pub(crate) struct Context<'a> {
    /// This turn's time.
    pub(crate) now: Nanos,
    /// The wall clock.
    pub(crate) wall: UnixMillis,
    /// The host, from Connect.
    pub(crate) host_id: [u8; 16],
    /// True when I/O queues exist.
    pub(crate) has_io_queues: bool,
    /// True for a discovery controller, which has only events and keep alive.
    pub(crate) discovery: bool,
    /// True when the host sees the namespace.
    pub(crate) sees: &'a dyn Fn(u32) -> bool,
}

/// The settings of one controller.
#[derive(Debug)]
pub(crate) struct Features {
    arbitration: u32,
    over_threshold: u16,
    under_threshold: u16,
    /// Error recovery: one for all, and those of single namespaces.
    error_recovery_all: u16,
    error_recovery: BTreeMap<u32, u16>,
    atomicity_normal: u32,
    queues: u32,
    /// Keep alive timeout; 0 is none. Milliseconds.
    keep_alive_ms: u32,
    host_behavior: [u8; 3],
    /// When the host set the timestamp and to what; else it counts from the wall clock.
    timestamp: Option<(Nanos, u64)>,
    /// Reservation notification masks: one for all, and those of single namespaces.
    mask_all: u8,
    masks: BTreeMap<u32, u8>,
}

impl Features {
    pub(crate) fn new(keep_alive_ms: u32) -> Features {
        Features {
            arbitration: 0,
            over_threshold: u16::MAX,
            under_threshold: 0,
            error_recovery_all: 0,
            error_recovery: BTreeMap::new(),
            atomicity_normal: 0,
            queues: number_of_queues::value(limits::MAX_IO_QUEUES, limits::MAX_IO_QUEUES),
            keep_alive_ms,
            host_behavior: [0; 3],
            timestamp: None,
            mask_all: 0,
            masks: BTreeMap::new(),
        }
    }

    /// Keep alive timeout; 0 is none. Milliseconds.
    pub(crate) fn keep_alive_ms(&self) -> u32 {
        self.keep_alive_ms
    }

    /// True when the host does not want notices of this kind (1 to 3) about the namespace.
    pub(crate) fn masks_note(&self, nsid: u32, kind: u8) -> bool {
        (self.masks.get(&nsid).copied().unwrap_or(self.mask_all) >> kind) & 1 != 0
    }

    /// Get Features.
    pub(crate) fn get(&self, sqe: &Sqe, events: &Events, at: &Context<'_>) -> Result<Value, Status> {
        let id = feature_select::id(sqe);
        let capabilities = capabilities(id, at.discovery).ok_or(INVALID)?;
        match feature_select::select(sqe) {
            FeatureSelect::Reserved => Err(INVALID),
            FeatureSelect::Capabilities => Ok(Value::Dword(capabilities)),
            FeatureSelect::Current => self.value(sqe, id, events, at),
            // Nothing is saved, so what was saved is what it starts as.
            FeatureSelect::Default | FeatureSelect::Saved => match id {
                FeatureId::KEEP_ALIVE | FeatureId::HOST_ID | FeatureId::TIMESTAMP => {
                    self.value(sqe, id, events, at)
                }
                _ => Features::new(0).value(sqe, id, &Events::new(events.supported()), at),
            },
        }
    }

    fn value(&self, sqe: &Sqe, id: FeatureId, events: &Events, at: &Context<'_>) -> Result<Value, Status> {
        let nsid = sqe.nsid.get();
        Ok(Value::Dword(match id {
            FeatureId::ARBITRATION => self.arbitration,
            FeatureId::POWER_MANAGEMENT => 0,
            FeatureId::TEMPERATURE_THRESHOLD => u32::from(*self.threshold(sqe)?),
            FeatureId::ERROR_RECOVERY => {
                if nsid != u32::MAX && !(at.sees)(nsid) {
                    return Err(Status::INVALID_NAMESPACE.with_dnr());
                }
                u32::from(self.error_recovery.get(&nsid).copied().unwrap_or(self.error_recovery_all))
            }
            FeatureId::NUMBER_OF_QUEUES => self.queues,
            FeatureId::WRITE_ATOMICITY => self.atomicity_normal,
            FeatureId::ASYNC_EVENT => events.config(),
            FeatureId::KEEP_ALIVE => self.keep_alive_ms,
            FeatureId::COMMAND_SET_PROFILE => 0,
            FeatureId::TIMESTAMP => return Ok(Value::Data(self.timestamp_bytes(at).to_vec())),
            FeatureId::HOST_BEHAVIOR => {
                let mut data = vec![0; HOST_BEHAVIOR_BYTES];
                data[..self.host_behavior.len()].copy_from_slice(&self.host_behavior);
                return Ok(Value::Data(data));
            }
            // As it starts; the current value is the volume's (see [`persistence`]).
            FeatureId::RESERVATION_PERSISTENCE => 0,
            // EXHID: fabrics hosts have 128-bit identifiers only.
            FeatureId::HOST_ID if sqe.cdw11.get() & 1 != 0 => return Ok(Value::Data(at.host_id.to_vec())),
            FeatureId::RESERVATION_MASK => {
                if !(at.sees)(nsid) {
                    return Err(Status::INVALID_NAMESPACE.with_dnr());
                }
                u32::from(self.masks.get(&nsid).copied().unwrap_or(self.mask_all))
            }
            _ => return Err(INVALID),
        }))
    }

    /// Set Features; `data` holds [`data_bytes`]. Returns dword 0 of the completion.
    pub(crate) fn set(
        &mut self,
        sqe: &Sqe,
        data: &[u8],
        events: &mut Events,
        at: &Context<'_>,
    ) -> Result<u32, Status> {
        let id = feature_select::id(sqe);
        let capabilities = capabilities(id, at.discovery).ok_or(INVALID)?;
        if feature_select::save(sqe) {
            return Err(Status::FEATURE_NOT_SAVEABLE.with_dnr());
        }
        let (value, nsid) = (sqe.cdw11.get(), sqe.nsid.get());
        if capabilities & PER_NAMESPACE == 0 && nsid != 0 && nsid != u32::MAX && nsid_is_strict(id) {
            return Err(Status::FEATURE_NOT_NAMESPACE_SPECIFIC.with_dnr());
        }
        match id {
            FeatureId::ARBITRATION => self.arbitration = value & 7,
            FeatureId::POWER_MANAGEMENT if value & 0x1f == 0 => {}
            FeatureId::TEMPERATURE_THRESHOLD => {
                let threshold = u16::try_from(value & 0xffff).map_err(|_| INVALID)?;
                *self.threshold_mut(sqe)? = threshold;
            }
            FeatureId::ERROR_RECOVERY => {
                // DULBE: we report no deallocated-block errors (NSFEAT), so it can't be turned on.
                if value & (1 << 16) != 0 {
                    return Err(INVALID);
                }
                let [low, high, ..] = value.to_le_bytes();
                let (all, each) = (&mut self.error_recovery_all, &mut self.error_recovery);
                set_of_namespace(all, each, u16::from_le_bytes([low, high]), nsid, at)?;
            }
            FeatureId::NUMBER_OF_QUEUES => return self.set_queues(value, at),
            FeatureId::WRITE_ATOMICITY => self.atomicity_normal = value & 1,
            FeatureId::ASYNC_EVENT => events.set_config(value),
            FeatureId::KEEP_ALIVE => self.keep_alive_ms = round_keep_alive(value),
            FeatureId::COMMAND_SET_PROFILE if value & 0x1ff == 0 => {}
            FeatureId::COMMAND_SET_PROFILE => {
                return Err(Status::IO_COMMAND_SET_COMBINATION_REJECTED.with_dnr());
            }
            FeatureId::TIMESTAMP => {
                let bytes = data.first_chunk::<TIMESTAMP_BYTES>().ok_or(INVALID)?;
                self.timestamp = Some((at.now, u64::from_le_bytes(*bytes) & 0xffff_ffff_ffff));
            }
            FeatureId::HOST_BEHAVIOR => self.set_host_behavior(data)?,
            // Fabrics: it came with Connect (Base 5.27.1.25).
            FeatureId::HOST_ID => return Err(Status::COMMAND_SEQUENCE_ERROR.with_dnr()),
            FeatureId::RESERVATION_MASK => {
                let [mask, ..] = (value & 0b1110).to_le_bytes();
                set_of_namespace(&mut self.mask_all, &mut self.masks, mask, nsid, at)?;
            }
            _ => return Err(INVALID),
        }
        Ok(0)
    }

    /// I/O queues that the host may have: their ids are 1 to this.
    pub(crate) fn granted_queues(&self) -> u16 {
        number_of_queues::counts(self.queues).map_or(0, |(submission, _)| submission)
    }

    fn set_queues(&mut self, value: u32, at: &Context<'_>) -> Result<u32, Status> {
        if at.has_io_queues {
            return Err(Status::COMMAND_SEQUENCE_ERROR.with_dnr());
        }
        let (submission, completion) = number_of_queues::counts(value).ok_or(INVALID)?;
        // A fabrics queue is a pair: as many of the one as of the other.
        let granted = submission.min(completion).min(limits::MAX_IO_QUEUES);
        self.queues = number_of_queues::value(granted, granted);
        Ok(self.queues)
    }

    fn set_host_behavior(&mut self, data: &[u8]) -> Result<(), Status> {
        let new = data.first_chunk::<3>().ok_or(INVALID)?;
        if new.iter().any(|&b| b > 1) {
            return Err(INVALID);
        }
        self.host_behavior = *new;
        Ok(())
    }

    /// TMPSEL must be the composite temperature, THSEL over or under.
    fn threshold(&self, sqe: &Sqe) -> Result<&u16, Status> {
        match threshold_select(sqe) {
            0 => Ok(&self.over_threshold),
            0x10 => Ok(&self.under_threshold),
            _ => Err(INVALID),
        }
    }

    fn threshold_mut(&mut self, sqe: &Sqe) -> Result<&mut u16, Status> {
        match threshold_select(sqe) {
            0 => Ok(&mut self.over_threshold),
            0x10 => Ok(&mut self.under_threshold),
            _ => Err(INVALID),
        }
    }

    /// Milliseconds in 6 bytes, then the origin in bits 3:1: 1 when a host set it (Base figure 324).
    fn timestamp_bytes(&self, at: &Context<'_>) -> [u8; TIMESTAMP_BYTES] {
        let (ms, origin) = match self.timestamp {
            Some((set, value)) => (value.saturating_add(at.now.since(set) / 1_000_000), 1u64),
            None => (at.wall.0, 0),
        };
        ((ms & 0xffff_ffff_ffff) | (origin << 1) << 48).to_le_bytes()
    }
}

/// Sets a feature that namespaces have one by one: of the one named, or of all.
fn set_of_namespace<T>(
    all: &mut T,
    each: &mut BTreeMap<u32, T>,
    value: T,
    nsid: u32,
    at: &Context<'_>,
) -> Result<(), Status> {
    if nsid == u32::MAX {
        *all = value;
        each.clear();
        return Ok(());
    }
    if !(at.sees)(nsid) {
        return Err(Status::INVALID_NAMESPACE.with_dnr());
    }
    if each.len() >= MAX_NAMESPACE_VALUES && !each.contains_key(&nsid) {
        each.pop_first();
    }
    each.insert(nsid, value);
    Ok(())
}

impl Features {
    /// What a host may have asked for that has this keep alive timeout: it was rounded up. Milliseconds.
    pub(crate) fn least_keep_alive_ms(&self) -> u32 {
        self.keep_alive_ms.saturating_sub(u32::from(KEEP_ALIVE_GRANULARITY) * 100)
    }
}

/// A keep alive timeout as it is kept: rounded up to the granularity that we report.
pub(crate) fn round_keep_alive(ms: u32) -> u32 {
    let step = u32::from(KEEP_ALIVE_GRANULARITY) * 100;
    ms.checked_next_multiple_of(step).unwrap_or(u32::MAX)
}

fn threshold_select(sqe: &Sqe) -> u8 {
    sqe.cdw11.get().to_le_bytes()[2] & 0x3f
}

/// Hosts often leave a namespace in commands about the controller; only where it can mislead is it refused.
fn nsid_is_strict(id: FeatureId) -> bool {
    matches!(id, FeatureId::NUMBER_OF_QUEUES | FeatureId::ASYNC_EVENT | FeatureId::KEEP_ALIVE)
}

/// What a Get or Set Features command asks of a volume, when it is about Reservation Persistence: the one feature that is the
/// namespace's own state, the same for all hosts. Of one namespace at a time.
pub(crate) fn persistence(sqe: &Sqe) -> Result<Option<ReservationCommand>, Status> {
    if feature_select::id(sqe) != FeatureId::RESERVATION_PERSISTENCE {
        return Ok(None);
    }
    let command = match AdminOpcode(sqe.opcode) {
        AdminOpcode::SET_FEATURES if feature_select::save(sqe) => {
            return Err(Status::FEATURE_NOT_SAVEABLE.with_dnr());
        }
        AdminOpcode::SET_FEATURES => {
            ReservationCommand::SetPersistence { persists: sqe.cdw11.get() & 1 != 0 }
        }
        _ if feature_select::select(sqe) == FeatureSelect::Current => ReservationCommand::Report,
        _ => return Ok(None),
    };
    if sqe.nsid.get() == u32::MAX { Err(INVALID) } else { Ok(Some(command)) }
}

/// Whether an I/O controller keeps a feature per namespace; `None` for one that it does not have.
pub(crate) fn is_per_namespace(id: FeatureId) -> Option<bool> {
    capabilities(id, false).map(|bits| bits & PER_NAMESPACE != 0)
}

/// SEL 011b of every feature there is; `None` for one that there is not: PCIe's interrupts, the volatile write cache
/// that we do not have (Base 5.27.1.6 wants Invalid Field then), write protection.
fn capabilities(id: FeatureId, discovery: bool) -> Option<u32> {
    match id {
        FeatureId::ASYNC_EVENT | FeatureId::KEEP_ALIVE => Some(CHANGEABLE),
        _ if discovery => None,
        FeatureId::ARBITRATION
        | FeatureId::POWER_MANAGEMENT
        | FeatureId::TEMPERATURE_THRESHOLD
        | FeatureId::NUMBER_OF_QUEUES
        | FeatureId::WRITE_ATOMICITY
        | FeatureId::TIMESTAMP
        | FeatureId::HOST_BEHAVIOR => Some(CHANGEABLE),
        FeatureId::ERROR_RECOVERY | FeatureId::RESERVATION_MASK | FeatureId::RESERVATION_PERSISTENCE => {
            Some(CHANGEABLE | PER_NAMESPACE)
        }
        FeatureId::COMMAND_SET_PROFILE | FeatureId::HOST_ID => Some(0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(sees: &dyn Fn(u32) -> bool) -> Context<'_> {
        Context {
            now: Nanos(5_000_000_000),
            wall: UnixMillis(1_700_000_000_000),
            host_id: [7; 16],
            has_io_queues: false,
            discovery: false,
            sees,
        }
    }

    fn set(f: &mut Features, id: FeatureId, nsid: u32, value: u32) -> Result<u32, Status> {
        let sees = |n: u32| n == 1;
        f.set(&feature_select::set(1, nsid, id, value), &[], &mut Events::new(0), &context(&sees))
    }

    fn get(f: &Features, id: FeatureId, nsid: u32, dword11: u32) -> Result<Value, Status> {
        let sees = |n: u32| n == 1;
        let mut sqe = feature_select::get(1, nsid, id);
        sqe.cdw11 = dword11.into();
        f.get(&sqe, &Events::new(0x100), &context(&sees))
    }

    #[test]
    fn queues_are_granted_up_to_the_limit_in_pairs() {
        let mut f = Features::new(0);
        assert_eq!(set(&mut f, FeatureId::NUMBER_OF_QUEUES, 0, 0x0007_0003), Ok(0x0003_0003));
        assert_eq!(set(&mut f, FeatureId::NUMBER_OF_QUEUES, 0, 0xfffe_fffe), Ok(0x007f_007f));
        assert_eq!(set(&mut f, FeatureId::NUMBER_OF_QUEUES, 0, 0xffff_0001), Err(INVALID));
    }

    #[test]
    fn what_is_absent_is_an_invalid_field() {
        let mut f = Features::new(0);
        for id in [0x00, 0x03, 0x06, 0x08, 0x09, 0x0c, 0x10, 0x80, 0x84, 0xc0] {
            assert_eq!(get(&f, FeatureId(id), 0, 0), Err(INVALID), "{id:x}");
            assert_eq!(set(&mut f, FeatureId(id), 0, 0), Err(INVALID), "{id:x}");
        }
    }

    #[test]
    fn reservation_masks_are_per_namespace() {
        let mut f = Features::new(0);
        assert_eq!(set(&mut f, FeatureId::RESERVATION_MASK, 1, 0b0110), Ok(0));
        assert!(f.masks_note(1, 1) && f.masks_note(1, 2) && !f.masks_note(1, 3) && !f.masks_note(2, 1));
        assert_eq!(set(&mut f, FeatureId::RESERVATION_MASK, 2, 2), Err(Status::INVALID_NAMESPACE.with_dnr()));
        assert_eq!(set(&mut f, FeatureId::RESERVATION_MASK, u32::MAX, 0b1000), Ok(0));
        assert_eq!(get(&f, FeatureId::RESERVATION_MASK, 1, 0), Ok(Value::Dword(0b1000)));
    }

    #[test]
    fn error_recovery_is_per_namespace() {
        let mut f = Features::new(0);
        assert_eq!(set(&mut f, FeatureId::ERROR_RECOVERY, 1, 100), Ok(0));
        assert_eq!(get(&f, FeatureId::ERROR_RECOVERY, 1, 0), Ok(Value::Dword(100)));
        assert_eq!(get(&f, FeatureId::ERROR_RECOVERY, u32::MAX, 0), Ok(Value::Dword(0)));
        let unseen = Err(Status::INVALID_NAMESPACE.with_dnr());
        assert_eq!(set(&mut f, FeatureId::ERROR_RECOVERY, 2, 100), unseen);
        assert_eq!(set(&mut f, FeatureId::ERROR_RECOVERY, u32::MAX, 7), Ok(0));
        assert_eq!(get(&f, FeatureId::ERROR_RECOVERY, 1, 0), Ok(Value::Dword(7)));
        assert_eq!(set(&mut f, FeatureId::ERROR_RECOVERY, 1, 1 << 16), Err(INVALID));
    }

    #[test]
    fn host_id_and_timestamp_come_as_data() {
        let f = Features::new(0);
        assert_eq!(get(&f, FeatureId::HOST_ID, 0, 1), Ok(Value::Data(vec![7; 16])));
        assert_eq!(get(&f, FeatureId::HOST_ID, 0, 0), Err(INVALID));
        let Ok(Value::Data(now)) = get(&f, FeatureId::TIMESTAMP, 0, 0) else { panic!("data") };
        assert_eq!(now, 1_700_000_000_000u64.to_le_bytes());
    }

    #[test]
    fn keep_alive_is_rounded_up() {
        assert_eq!((round_keep_alive(0), round_keep_alive(1), round_keep_alive(5000)), (0, 1000, 5000));
        assert_eq!(round_keep_alive(u32::MAX), u32::MAX);
    }
}
