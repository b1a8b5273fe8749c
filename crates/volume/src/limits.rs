//! The limits of a volume's commands, with units: what the identify data promises to hosts, and what bounds our memory.

use dolmen_types::limits::{MAX_COMMAND_BLOCKS, MAX_TRANSFER_BYTES};
pub use dolmen_types::limits::{MAX_LABEL_BYTES, MAX_LABELS};

/// Bytes that are written by one command all or not at all, also across a power failure, at any alignment: one host
/// command is one commit. The door turns this into AWUN, AWUPF, NAWUN and NAWUPF (0's based, in logical blocks), and
/// reports no atomic boundary (NABSN, NABO, NABSPF = 0).
pub const ATOMIC_WRITE_BYTES: usize = MAX_TRANSFER_BYTES;

/// Bytes that one fused Compare and Write may cover (ACWU, NACWU: 0's based, in logical blocks).
pub const ATOMIC_COMPARE_AND_WRITE_BYTES: usize = MAX_TRANSFER_BYTES;

/// Ranges of one Dataset Management command (NVM Command Set 1.0, section 3.2.3: NR is an 8-bit 0's based value).
pub const MAX_DEALLOCATE_RANGES: usize = 256;

/// Source ranges of one Copy command: MSRC + 1 (MSRC itself is 0's based).
pub const MAX_COPY_RANGES: usize = 16;

/// Bytes of one source range of a Copy command (MSSRL, in logical blocks there).
pub const MAX_COPY_RANGE_BYTES: usize = MAX_TRANSFER_BYTES;

/// Bytes of all source ranges of a Copy command together (MCL, in logical blocks there).
pub const MAX_COPY_BYTES: usize = MAX_TRANSFER_BYTES;

/// Bytes that one Verify command may cover (VSL says so to hosts, as a power of two of 4 KiB).
pub const MAX_VERIFY_BYTES: usize = MAX_TRANSFER_BYTES;

/// Bytes that one question for what is stored may cover.
pub const MAX_ALLOCATION_BYTES: usize = 256 << 20;

/// Runs that are told at a time.
pub const MAX_EXTENTS: usize = 1024;

/// Bytes that one Write Zeroes command may cover when it does not deallocate. Deallocating ones cover up to the
/// field's limit (65536 logical blocks), since they move no data but at the two ends.
pub const MAX_WRITE_ZEROES_BYTES: usize = 65_536 * 4096;

/// Hosts that may be registered with one volume.
pub const MAX_REGISTRANTS: usize = 128;

/// Commands that may be under way in one core's volumes at once; later ones wait in backlogs.
pub const MAX_COMMANDS: usize = 65_536;

/// Ranges that one core's commands may hold or wait for at once; later ones wait in backlogs.
pub const MAX_LOCKED_RANGES: usize = 4 * MAX_COMMANDS;

/// Commands of one volume that may be under way at once; later ones wait in its backlog before they are looked at. So no
/// volume takes all slots, and the work that a hot spot causes (every command looks at all that it overlaps) is bounded.
pub const MAX_VOLUME_COMMANDS: usize = 4096;

/// Ranges that commands of one volume may hold or wait for at once; one more command may come on top, later ones wait in its backlog.
/// Reached by Deallocates of many ranges alone: each is looked for among all of them, and they share the core's room.
pub const MAX_VOLUME_RANGES: usize = 2 * MAX_VOLUME_COMMANDS;

/// Command slots that hosts cannot use, so that control requests always get one.
pub const RESERVED_COMMANDS: usize = 1024;

/// Control requests that may wait on one core; beyond it they are answered
/// [`ControlError::Busy`](crate::ControlError::Busy).
pub const MAX_CONTROL_REQUESTS: usize = 1024;

/// How often waiting commands are checked against their deadlines. Milliseconds.
pub const SWEEP_MS: u64 = 100;

/// Bytes that one memory volume may keep in RAM at once; a write beyond is answered
/// [`VolumeError::CapacityExceeded`](crate::VolumeError::CapacityExceeded).
pub const MAX_MEMORY_VOLUME_BYTES: u64 = 1 << 30;

/// Bytes of a project's name.
pub const MAX_PROJECT_BYTES: usize = 63;

const _: () = assert!(ATOMIC_WRITE_BYTES <= MAX_COMMAND_BLOCKS * dolmen_types::limits::BLOCK_BYTES);
const _: () = assert!(RESERVED_COMMANDS + MAX_VOLUME_COMMANDS < MAX_COMMANDS);
const _: () = assert!(2 * MAX_DEALLOCATE_RANGES <= dolmen_store::MAX_BATCH_RECORDS);
const _: () = assert!(MAX_COPY_RANGE_BYTES <= MAX_COPY_BYTES);
const _: () = assert!(MAX_COPY_BYTES <= MAX_TRANSFER_BYTES);
