//! Every limit of the product that more than one crate relies on, with its unit; relations between them are
//! asserted at compile time.

/// Size of a store block, the unit of mapping, of checks and of thin allocation. Bytes.
pub const BLOCK_BYTES: usize = 4096;

/// Largest transfer of one NVMe command that we advertise (MDTS, a power of two of the 4 KiB minimum page). Bytes.
pub const MAX_TRANSFER_BYTES: usize = 256 * 1024;

/// Largest number of store blocks that one host command can touch with data, misaligned ends included. Blocks.
pub const MAX_COMMAND_BLOCKS: usize = MAX_TRANSFER_BYTES / BLOCK_BYTES + 1;

/// I/O queues of one controller at most.
pub const MAX_IO_QUEUES: u16 = 128;

/// Entries of one submission queue at most (MQES + 1).
pub const MAX_QUEUE_DEPTH: u16 = 1024;

/// Entries of the admin queue at most.
pub const MAX_ADMIN_DEPTH: u16 = 128;

/// Host NQNs in a volume's access list at most.
pub const MAX_ACL_ENTRIES: usize = 64;

/// Addresses in a volume's IP access list at most (`lightos-api.md`: 16).
pub const MAX_IP_ACL_ENTRIES: usize = 16;

/// Volumes of one pool at most; bounds the active namespace lists and the ANA log.
pub const MAX_VOLUMES: u32 = 16_384;

/// Snapshots of one pool at most.
pub const MAX_SNAPSHOTS: u32 = 65_536;

/// Bytes of a snapshot's description at most (`lightos-api.md`: 256).
pub const MAX_DESCRIPTION_BYTES: usize = 256;

/// Largest namespace id that is given out, and the number of namespaces that a controller reports (NN).
pub const MAX_NSID: u32 = 1 << 20;

/// Largest logical size of one volume. Bytes (256 TiB).
pub const MAX_VOLUME_BYTES: u64 = 256 << 40;

/// Protection groups of one pool; fixed, and equal to the number of ANA groups that we report.
pub const PROTECTION_GROUPS: u32 = 64;

/// Bytes of a volume's name at most (`lightos-api.md`: 1 to 253 of `[A-Za-z0-9-_.]`).
pub const MAX_VOLUME_NAME_BYTES: usize = 253;

/// Labels of one volume at most. Count.
pub const MAX_LABELS: usize = 16;

/// Bytes of a label's key or of its value at most.
pub const MAX_LABEL_BYTES: usize = 63;

/// Cores (loops) of one process at most.
pub const MAX_CORES: usize = 256;

const _: () = assert!(MAX_TRANSFER_BYTES.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(MAX_TRANSFER_BYTES.is_power_of_two());
const _: () = assert!(MAX_VOLUMES <= MAX_NSID);
const _: () = assert!(MAX_VOLUME_BYTES.is_multiple_of(BLOCK_BYTES as u64));
