//! The map: which stored bytes are which version of each block of each line.
//!
//! ```text
//!   live delta     changes since the running (or, when none runs, the last) checkpoint began     RAM
//!   frozen delta   changes that the running checkpoint is merging                                RAM
//!   nodes          references to leaves, all of them                                             RAM
//!   leaves         4 KiB pages in the log, read through a cache with a byte budget               drives
//! ```
//! Every stored block keeps its sequence number for life and is named by exactly one entry. A lookup starts from the leaf
//! and lays both deltas over it; the newest sequence number wins. What a merge has put into leaves leaves the frozen delta.
//! What a line holds nothing of it shows of its parent. Which versions are kept says `lineage.rs`; merges prune the rest.

mod cache;
mod counts;
mod delta;
mod entry;
mod entry_map;
mod holes;
mod lineage;
mod lookup;
mod merge;
mod shown;
mod split;
mod sums;
mod together;
mod tree;
mod usage;

pub(crate) use cache::Cache;
pub(crate) use counts::Counts;
pub(crate) use delta::{DELTA_ENTRY_BYTES, Delta, LineDelta};
pub(crate) use entry::{Content, Entry, Version, is_nowhere};
pub(crate) use holes::Holes;
pub(crate) use lineage::{Hold, Lineage, Point};
pub(crate) use lookup::{Aside, Found, Held, Levels, Lookup, Map, NextStored};
pub(crate) use merge::{Merged, merge};
pub(crate) use shown::{Clones, Holding};
pub(crate) use split::{Page, split};
pub(crate) use together::{AT_ONCE, Asked, Newest};
pub(crate) use tree::{LeafRef, Line, Node, Sweep};

#[cfg(test)]
mod tests;
