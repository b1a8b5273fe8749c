//! Merging the frozen delta into one line's tree, node by node.
//!
//! Only the checkpoint changes trees, so places in one stay valid across waits. Pages are written first and swapped in
//! afterwards; readers see the old leaf under the frozen delta or the new one, which comes to the same.

use super::super::Shared;
use super::super::fetch::{begin, end};
use super::super::meta::{MetaWriter, READ_AHEAD, keep_page, page_buffer};
use crate::format::PAGE_BYTES;
use crate::format::page::{Leaf, Level, PAGE_SLOTS, PageName, PageRef, encode_leaf, encode_node, verify};
use crate::location::{Location, Slot};
use crate::map::{Entry, LeafRef, LineDelta, Merged, Node, merge_leaf, split};
use dolmen_io::exec::Handle;
use dolmen_types::LineId;
use std::collections::BTreeSet;

/// Leaves with fewer entries than this are joined with their right neighbour when that one is rewritten too.
const SPARSE: usize = PAGE_SLOTS / 4;

/// Nodes of dropped lines that one checkpoint frees.
const FREED_NODES: usize = 64;

/// A leaf of the node to come: one that stays, or entries to be written.
enum Planned {
    Keep(LeafRef),
    Write(Vec<(u64, Entry)>),
}

/// What merging one node comes to, before anything is written.
struct Plan {
    leaves: Vec<Planned>,
    /// Versions that nothing names any more.
    freed: Vec<Entry>,
    /// Pages that are replaced.
    replaced: Vec<Location>,
    /// Blocks and bytes in the rewritten leaves before and after.
    before: (u64, u64),
    after: (u64, u64),
}

/// Merges the frozen delta into `name.line`, or frees a part of a line that was dropped.
pub(super) async fn line(
    shard: &Shared,
    exec: &Handle,
    writer: &mut MetaWriter,
    name: &PageName,
    evacuate: &BTreeSet<Slot>,
) -> Result<(), String> {
    let dropped = shard.borrow().map.lines.get(&name.line).map(|l| l.dropped);
    match dropped {
        None => return Ok(()),
        Some(true) => return free(shard, exec, name.line).await,
        Some(false) => {}
    }
    let mut index = 0;
    loop {
        let nodes = shard.borrow().map.lines.get(&name.line).map_or(0, |l| l.nodes.len());
        if index >= nodes.max(1) {
            return Ok(());
        }
        index += node(shard, exec, writer, name, evacuate, index).await?;
    }
}

/// Merges one node; how many nodes stand in its place.
async fn node(
    shard: &Shared,
    exec: &Handle,
    writer: &mut MetaWriter,
    name: &PageName,
    evacuate: &BTreeSet<Slot>,
    index: usize,
) -> Result<usize, String> {
    let Some(dirty) = dirty_leaves(shard, name.line, index, evacuate) else { return Ok(1) };
    let old = load(shard, exec, name.line, &dirty).await?;
    let plan = plan(shard, name.line, index, &dirty, &old);
    let nodes = write(writer, name, plan.leaves).await?;
    let count = nodes.len();
    let mut s = shard.borrow_mut();
    let s = &mut *s;
    for freed in &plan.freed {
        s.segments.sub_base(freed.location.slot(), freed.bytes());
    }
    for page in &plan.replaced {
        s.segments.sub_base(page.slot(), PAGE_BYTES);
    }
    for page in nodes.iter().flat_map(|n| &n.written) {
        s.segments.add_base(page.slot(), PAGE_BYTES);
    }
    let Some(line) = s.map.lines.get_mut(&name.line) else { return Ok(1) };
    line.mapped = line.mapped + plan.after.0 - plan.before.0;
    line.stored = line.stored + plan.after.1 - plan.before.1;
    let end = line.nodes.len().min(index + 1);
    let fresh: Vec<Node> = nodes.into_iter().map(|n| n.node).collect();
    drop(line.nodes.splice(index..end, fresh));
    // An empty node leaves its place to the next one; an empty tree has been looked at once.
    Ok(if count == 0 && line.nodes.is_empty() { 1 } else { count })
}

/// The leaves of a node that change, as (index, page). `None` when the whole node stays as it is.
fn dirty_leaves(
    shard: &Shared,
    line: u64,
    index: usize,
    evacuate: &BTreeSet<Slot>,
) -> Option<Vec<(usize, PageRef)>> {
    let s = shard.borrow();
    let tree = s.map.lines.get(&line)?;
    let delta = s.map.frozen.as_ref().and_then(|f| f.line(line));
    let (from, to) = node_range(tree, index);
    let touched = delta.is_some_and(|d| d.touches(from, to));
    let Some(node) = tree.nodes.get(index) else { return touched.then(Vec::new) };
    let moves = |page: &PageRef| evacuate.contains(&page.location.slot());
    let dirty: Vec<(usize, PageRef)> = (0..node.leaves.len())
        .filter(|&i| {
            let (from, to) = leaf_range(node, i, from, to);
            moves(&node.leaves[i].page) || (touched && delta.is_some_and(|d| d.touches(from, to)))
        })
        .map(|i| (i, node.leaves[i].page))
        .collect();
    (!dirty.is_empty() || moves(&node.page)).then_some(dirty)
}

fn node_range(tree: &crate::map::Line, index: usize) -> (u64, u64) {
    let from = if index == 0 { 0 } else { tree.nodes.get(index).map_or(0, Node::first) };
    (from, tree.nodes.get(index + 1).map_or(u64::MAX, Node::first))
}

fn leaf_range(node: &Node, i: usize, from: u64, to: u64) -> (u64, u64) {
    let first = if i == 0 { from } else { node.leaves[i].page.first };
    (first, node.leaves.get(i + 1).map_or(to, |l| l.page.first))
}

/// The bytes of leaves, from the cache or the drives, verified.
async fn load(
    shard: &Shared,
    exec: &Handle,
    line: u64,
    leaves: &[(usize, PageRef)],
) -> Result<Vec<Vec<u8>>, String> {
    let mut loaded = Vec::with_capacity(leaves.len());
    for part in leaves.chunks(READ_AHEAD) {
        let mut waiting = Vec::new();
        for (_, page) in part {
            let cached = {
                let mut s = shard.borrow_mut();
                let s = &mut *s;
                let hint = s.map.lines.get(&line).and_then(|tree| {
                    let (node, leaf) = tree.find(page.first).0?;
                    Some(tree.nodes[node].leaves[leaf].hint)
                });
                hint.and_then(|h| s.map.cache.at(h, page)).map(<[u8]>::to_vec)
            };
            waiting.push(match cached {
                Some(bytes) => Ok(bytes),
                None => Err(begin(shard, exec, page.location, page_buffer(shard, exec).await)),
            });
        }
        for ((_, page), wait) in part.iter().zip(waiting) {
            loaded.push(match wait {
                Ok(bytes) => bytes,
                Err(started) => {
                    let holds = |bytes: &[u8]| verify(bytes, Level::Leaf, line, page);
                    let named = |e| format!("the leaf of line {line} at {}: {e}", page.location);
                    let buf = end(shard, exec, started, holds).await.map_err(named)?;
                    let bytes = buf.to_vec();
                    keep_page(shard, buf);
                    bytes
                }
            });
        }
    }
    Ok(loaded)
}

/// Merges the dirty leaves (`old` holds their bytes).
fn plan(shard: &Shared, line: u64, index: usize, dirty: &[(usize, PageRef)], old: &[Vec<u8>]) -> Plan {
    let s = shard.borrow();
    let nothing = LineDelta::default();
    let delta = s.map.frozen.as_ref().and_then(|f| f.line(line)).unwrap_or(&nothing);
    let mut plan =
        Plan { leaves: Vec::new(), freed: Vec::new(), replaced: Vec::new(), before: (0, 0), after: (0, 0) };
    let Some(tree) = s.map.lines.get(&line) else { return plan };
    let (from, to) = node_range(tree, index);
    let mut merged = Merged::default();
    let emit = |merged: &mut Merged, leaves: &mut Vec<Planned>| {
        leaves.extend(split(&merged.entries).map(|page| Planned::Write(page.to_vec())));
        merged.entries.clear();
    };
    if let Some(node) = tree.nodes.get(index) {
        plan.replaced.push(node.page.location);
        let mut next = dirty.iter().zip(old).peekable();
        for (i, leaf) in node.leaves.iter().enumerate() {
            let Some(((_, page), bytes)) = next.next_if(|((d, _), _)| *d == i) else {
                plan.leaves.push(Planned::Keep(*leaf));
                continue;
            };
            plan.replaced.push(page.location);
            let view = Leaf::trusted(bytes);
            add(&mut plan.before, view.from(0).map(|(_, e)| e));
            let (from, to) = leaf_range(node, i, from, to);
            merge_leaf(view.from(0), delta, from, to, &mut merged);
            let right_neighbour_too = next.peek().is_some_and(|((d, _), _)| *d == i + 1);
            if merged.entries.len() >= SPARSE || !right_neighbour_too {
                add(&mut plan.after, merged.entries.iter().map(|(_, e)| *e));
                emit(&mut merged, &mut plan.leaves);
            }
        }
    } else {
        merge_leaf(std::iter::empty(), delta, from, to, &mut merged);
        add(&mut plan.after, merged.entries.iter().map(|(_, e)| *e));
        emit(&mut merged, &mut plan.leaves);
    }
    plan.freed = merged.freed;
    plan
}

fn add(sum: &mut (u64, u64), entries: impl Iterator<Item = Entry>) {
    for e in entries {
        *sum = (sum.0 + 1, sum.1 + u64::from(e.bytes()));
    }
}

/// A node that was written, and the pages that are new with it.
struct Written {
    node: Node,
    written: Vec<Location>,
}

/// Writes the planned leaves and the nodes over them.
async fn write(
    writer: &mut MetaWriter,
    name: &PageName,
    leaves: Vec<Planned>,
) -> Result<Vec<Written>, String> {
    let mut refs = Vec::with_capacity(leaves.len());
    let mut memory = Vec::new();
    for leaf in leaves {
        match leaf {
            Planned::Keep(leaf) => refs.push((leaf, None)),
            Planned::Write(entries) => {
                let (mut page, bytes) = encode_leaf(&entries, name, memory);
                page.location = writer.page(&bytes).await?.location();
                memory = bytes;
                refs.push((LeafRef::new(page), Some(page.location)));
            }
        }
    }
    let nodes = refs.len().div_ceil(PAGE_SLOTS).max(1);
    let each = refs.len().div_ceil(nodes).max(1);
    let mut out = Vec::new();
    for part in refs.chunks(each) {
        let pages: Vec<PageRef> = part.iter().map(|(leaf, _)| leaf.page).collect();
        let (mut page, bytes) = encode_node(&pages, name, memory);
        page.location = writer.page(&bytes).await?.location();
        memory = bytes;
        let mut written: Vec<Location> = part.iter().filter_map(|(_, new)| *new).collect();
        written.push(page.location);
        out.push(Written {
            node: Node { page, leaves: part.iter().map(|(leaf, _)| *leaf).collect() },
            written,
        });
    }
    writer.flush_stage().await?;
    Ok(out)
}

/// Frees the last nodes of a dropped line.
async fn free(shard: &Shared, exec: &Handle, line: u64) -> Result<(), String> {
    {
        let mut s = shard.borrow_mut();
        let s = &mut *s;
        if let Some(delta) = s.map.frozen.as_mut().and_then(|f| f.remove(line)) {
            delta.points().for_each(|(_, e)| s.segments.sub_base(e.location.slot(), e.bytes()));
        }
    }
    for _ in 0..FREED_NODES {
        let node = shard.borrow().map.lines.get(&line).and_then(|l| l.nodes.last().cloned());
        let Some(node) = node else { return Ok(()) };
        let leaves: Vec<(usize, PageRef)> = node.leaves.iter().map(|l| l.page).enumerate().collect();
        let old = load(shard, exec, line, &leaves).await?;
        let mut s = shard.borrow_mut();
        let s = &mut *s;
        for ((_, page), bytes) in leaves.iter().zip(&old) {
            for (_, entry) in Leaf::trusted(bytes).from(0) {
                s.segments.sub_base(entry.location.slot(), entry.bytes());
            }
            s.segments.sub_base(page.location.slot(), PAGE_BYTES);
        }
        s.segments.sub_base(node.page.location.slot(), PAGE_BYTES);
        if let Some(tree) = s.map.lines.get_mut(&LineId(line).0) {
            tree.nodes.pop();
        }
    }
    Ok(())
}
