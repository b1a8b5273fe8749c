//! The map: which stored bytes are the newest version of each block of each line.
//!
//! ```text
//!   live delta     changes since the running (or, when none runs, the last) checkpoint began     RAM
//!   frozen delta   changes that the running checkpoint is merging                                RAM
//!   nodes          references to leaves, all of them                                             RAM
//!   leaves         4 KiB pages in the log, read through a cache with a byte budget               drives
//! ```
//! Every stored block keeps its sequence number for life and is named by exactly one entry. A lookup starts from the leaf
//! and lays both deltas over it; the newest sequence number wins, so it does not matter how far a running merge has come.
//! Versions that a snapshot needs will stay in leaves beside the newest, which their order (address, seq) provides for.

mod cache;
mod delta;
mod entry;
mod lookup;
mod merge;
mod tree;

pub(crate) use cache::Cache;
pub(crate) use delta::{Delta, LineDelta};
pub(crate) use entry::Entry;
pub(crate) use lookup::{Lookup, Map};
pub(crate) use merge::{Merged, merge_leaf, split};
pub(crate) use tree::{LeafRef, Line, Node};
