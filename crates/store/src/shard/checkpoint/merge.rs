//! Merging the frozen delta into one line's tree, node by node, and sweeping what dropped points have freed.
//!
//! Only the checkpoint changes trees, so places in one stay valid across waits. Pages are written first and swapped in
//! afterwards, and what they hold leaves the frozen delta in the same breath: readers see the old leaf under the delta, or the
//! new one without it. What is needed is decided by the line's state when the checkpoint began: replay starts from there, so it
//! finds what its records name.

use super::super::fetch::{FetchError, Started, begin, end, stored};
use super::super::meta::{MetaWriter, READ_AHEAD, keep_page, page_buffer};
use super::super::{Shard, Shared};
use super::heirs::{self, Heir, Hidden};
use crate::format::PAGE_BYTES;
use crate::format::page::{
    Leaf, Level, NODE_SLOTS, PAGE_SLOTS, PageName, PageRef, encode_leaf, encode_node, verify,
};
use crate::location::{Location, Slot};
use crate::map::{
    Counts, Entry, LeafRef, Line, LineDelta, Lineage, Merged, Node, Page, Version, is_nowhere, merge, split,
};
use dolmen_io::exec::Handle;
use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;

/// Leaves with fewer slots than this are joined with their right neighbour when that one is rewritten too.
const SPARSE: usize = PAGE_SLOTS / 4;

/// Nodes of dropped lines that one checkpoint frees.
const FREED_NODES: usize = 64;

/// Leaves that one checkpoint looks at only because something may have become free: of each line where a point was dropped, and of all
/// others together. The next one goes on. About as many as it merges changes into anyway.
pub(super) fn swept_leaves(delta_entries: usize) -> usize {
    (delta_entries / 16).clamp(4, 8192)
}

/// How often a leaf that drives fail to read is tried again, and after how long. Milliseconds.
const TRIES: usize = 3;
const TRY_AGAIN_MS: u64 = 1000;

/// Pages of the map that a checkpoint, or a start, gives up. More are no bad sectors but a drive that fails, and what is on it may come
/// back.
const MAX_GIVEN_UP: usize = 64;

/// A leaf's bytes; `None` when nothing gives them any more.
pub(super) type Loaded = Option<Vec<u8>>;

/// A leaf of the nodes to come: one that stays, or one to be written.
enum Planned {
    Keep(LeafRef),
    Write(Page),
}

/// What merging some nodes comes to, before anything is written.
#[derive(Default)]
struct Plan {
    leaves: Vec<Planned>,
    /// Versions that nothing names any more.
    freed: Vec<Entry>,
    /// Leaves that are replaced.
    replaced: Vec<Location>,
    /// What is in the replaced leaves and in those to be written.
    before: Counts,
    after: Counts,
}

/// The task of one line.
struct Job<'a> {
    shard: &'a Shared,
    exec: &'a Handle,
    name: &'a PageName,
    /// Segments of map pages to be emptied.
    evacuate: &'a BTreeSet<Slot>,
    /// The line's state when the checkpoint began.
    base: Rc<Lineage>,
    /// Addresses to look at because something was dropped.
    swept: Range<u64>,
    /// Leaves that may still be looked at for that reason.
    budget: usize,
    /// Those that alone show anything of it.
    heirs: &'a [Heir],
}

/// Merges the frozen delta into `name.line`, or frees a part of a line of which nothing is needed any more.
pub(super) async fn line(
    shard: &Shared,
    exec: &Handle,
    writer: &mut MetaWriter,
    name: &PageName,
    evacuate: &BTreeSet<Slot>,
    heirs: &[Heir],
    unhurried: &mut usize,
) -> Result<(), String> {
    let found =
        shard.borrow().map.lines.get(&name.line).map(|l| (l.base.clone(), l.sweep, l.urgent_rounds > 0));
    // A line that is younger than the checkpoint's beginning is not part of it.
    let Some((Some(base), sweep, urgent)) = found else { return Ok(()) };
    if base.is_doomed() {
        return free(shard, exec, name.line).await;
    }
    let swept = sweep.map_or(0..0, |s| s.from..u64::MAX);
    let budget = if urgent { swept_leaves(shard.borrow().tuning.delta_entries) } else { *unhurried };
    let mut job = Job { shard, exec, name, evacuate, base, swept, budget, heirs };
    let mut index = 0;
    loop {
        let nodes = shard.borrow().map.lines.get(&name.line).map_or(0, |l| l.nodes.len());
        if index >= nodes.max(1) {
            break;
        }
        index += job.node(writer, index).await?;
    }
    if let Some(line) = shard.borrow_mut().map.lines.get_mut(&name.line) {
        if sweep.is_some() {
            line.swept_to(job.swept.end);
            *unhurried = if urgent { *unhurried } else { job.budget };
        }
        line.weigh();
    }
    Ok(())
}

impl Job<'_> {
    /// Merges the nodes from `index` on that can't be told apart by addresses, mostly one; how many stand in their place.
    async fn node(&mut self, writer: &mut MetaWriter, index: usize) -> Result<usize, String> {
        let line = self.name.line;
        let (nodes, dirty) = {
            let s = self.shard.borrow();
            let Some(tree) = s.map.lines.get(&line) else { return Ok(1) };
            let nodes = joined_nodes(tree, index);
            let delta = s.map.frozen.as_ref().and_then(|f| f.line(line));
            let dirty = dirty_groups(tree, &nodes, |group, from, to| {
                // What was lost before this start is lost for good: its pages go with this checkpoint.
                let needed = delta.is_some_and(|d| d.touches(from, to))
                    || group.iter().any(|l| l.is_lost() || self.evacuate.contains(&l.page().location.slot()));
                let swept = !needed && sweeps(&mut self.budget, &mut self.swept, &self.base, group, to);
                (needed || swept).then_some(needed)
            });
            let moves = |n: &Node| self.evacuate.contains(&n.page.location.slot());
            let touched = tree.nodes.is_empty() && delta.is_some_and(|d| d.touches(0, u64::MAX));
            if dirty.is_empty() && !touched && !tree.nodes[nodes.clone()].iter().any(moves) {
                return Ok(nodes.len().max(1));
            }
            (nodes, dirty)
        };
        let pages = |g: &Group| g.leaves.iter().map(|leaf| (leaf.page(), g.is_needed)).collect::<Vec<_>>();
        let pages: Vec<(PageRef, bool)> = dirty.iter().flat_map(pages).collect();
        let old = load(self.shard, self.exec, line, &pages).await?;
        let (dirty, old) = without_missing(dirty, old);
        let whole = nodes.is_empty().then_some((0, u64::MAX));
        let ranges: Vec<(u64, u64)> = dirty.iter().map(|g| (g.from, g.to)).chain(whole).collect();
        let hidden = heirs::hidden(self.shard, self.exec, line, self.heirs, &old, &ranges).await;
        let plan = self.plan(&nodes, &dirty, &old, &hidden);
        let written = write(writer, self.name, plan.leaves).await?;
        let count = written.len();
        let mut s = self.shard.borrow_mut();
        let s = &mut *s;
        if !hidden.is_empty() {
            s.map.given_up += 1;
            s.checkpoint.inherited.extend(plan.freed.iter().map(|freed| freed.location.slot()));
        }
        // Those that are only swept are left out by now.
        s.checkpoint.gave_up |= old.iter().any(Option::is_none);
        for freed in &plan.freed {
            s.segments.sub_base(freed.location.slot(), freed.bytes());
        }
        let Some(tree) = s.map.lines.get_mut(&line) else { return Ok(1) };
        let gone = tree.nodes[nodes.clone()].iter().map(|n| n.page.location).chain(plan.replaced);
        for page in gone {
            s.segments.sub_base(page.slot(), PAGE_BYTES);
        }
        for page in written.iter().flat_map(|n| &n.written) {
            s.segments.add_base(page.slot(), PAGE_BYTES);
        }
        tree.counts.replace(&plan.before, &plan.after);
        let fresh: Vec<Node> = written.into_iter().map(|n| n.node).collect();
        drop(tree.nodes.splice(nodes, fresh));
        // From here on these leaves speak for themselves: a hole may be gone with all that it hid, and what the delta has of
        // that must not show through.
        if let Some(frozen) = &mut s.map.frozen {
            for (from, to) in ranges {
                frozen.change(line, |d| d.forget(from, to, &tree.now));
            }
        }
        // An empty node leaves its place to the next one; an empty tree has been looked at once.
        Ok(if count == 0 && tree.nodes.is_empty() { 1 } else { count })
    }

    /// Merges the dirty groups (`old` holds their leaves' bytes, one behind the other).
    fn plan(&self, nodes: &Range<usize>, dirty: &[Group], old: &[Loaded], hidden: &[Hidden]) -> Plan {
        let s = self.shard.borrow();
        let nothing = LineDelta::default();
        let delta = s.map.frozen.as_ref().and_then(|f| f.line(self.name.line)).unwrap_or(&nothing);
        let mut plan = Plan::default();
        let Some(tree) = s.map.lines.get(&self.name.line) else { return plan };
        let mut merged = Merged::default();
        if tree.nodes.is_empty() {
            merge(std::iter::empty(), delta, (0, u64::MAX), hidden, &self.base, &mut merged);
            self.emit(&mut merged, &mut Vec::new(), &mut plan);
            plan.freed = merged.freed;
            return plan;
        }
        let leaves: Vec<LeafRef> =
            tree.nodes[nodes.clone()].iter().flat_map(|n| &n.leaves).copied().collect();
        let (mut at, mut next, mut before) = (0, dirty.iter().peekable(), Vec::new());
        let mut bytes = old.iter();
        while at < leaves.len() {
            let Some(group) = next.next_if(|g| g.index == at) else {
                plan.leaves.push(Planned::Keep(leaves[at]));
                at += 1;
                continue;
            };
            at += group.leaves.len();
            let own = before.len();
            let mut lost = None;
            for (leaf, bytes) in group.leaves.iter().zip(&mut bytes) {
                match bytes {
                    Some(bytes) => before.push((*leaf, Leaf::trusted(bytes))),
                    None => {
                        plan.replaced.push(leaf.page().location);
                        lost = Some(group.lost(tree.merged_to.0));
                    }
                }
            }
            let slots = before[own..].iter().flat_map(|(_, leaf)| leaf.slots());
            let begin = |lba: u64| hidden.partition_point(|h| h.0 < lba);
            let hidden = &hidden[begin(group.from)..begin(group.to)];
            merge(slots.chain(lost), delta, (group.from, group.to), hidden, &self.base, &mut merged);
            let right_neighbour_too = next.peek().is_some_and(|g| g.index == at);
            if merged.slots.len() >= SPARSE || !right_neighbour_too {
                self.emit(&mut merged, &mut before, &mut plan);
            }
        }
        plan.freed = merged.freed;
        plan
    }

    /// Cuts what was merged into leaves. A leaf that comes out as it was stays.
    fn emit(&self, merged: &mut Merged, before: &mut Vec<(LeafRef, Leaf<'_>)>, plan: &mut Plan) {
        let goes_on = |i: usize| before.get(i + 1).is_some_and(|next| next.0.first() == before[i].0.first());
        let mut unchanged = BTreeSet::new();
        for page in split(&std::mem::take(&mut merged.slots)) {
            let key = (page.slots[0].0, page.slots[0].1.seq());
            let same = before.binary_search_by_key(&key, |(leaf, _)| leaf.key()).ok().filter(|&i| {
                let (leaf, view) = &before[i];
                leaf.page().flags == page.flags
                    && goes_on(i) == page.goes_on
                    && !self.evacuate.contains(&leaf.page().location.slot())
                    && view.slots().eq(page.slots.iter().copied())
            });
            if let Some(i) = same {
                unchanged.insert(i);
                plan.leaves.push(Planned::Keep(before[i].0));
            } else {
                plan.after.add_leaf(page.slots.iter().copied(), page.goes_on, &self.base);
                plan.leaves.push(Planned::Write(page));
            }
        }
        for (i, (leaf, view)) in before.iter().enumerate().filter(|(i, _)| !unchanged.contains(i)) {
            plan.before.add_leaf(view.slots(), goes_on(i), &self.base);
            plan.replaced.push(leaf.page().location);
        }
        before.clear();
    }
}

/// Leaves among which the versions of some blocks are: one, or several that begin at the same address.
struct Group {
    /// Of its first leaf, among the leaves of the nodes that are merged.
    index: usize,
    leaves: Vec<LeafRef>,
    /// Its addresses.
    from: u64,
    to: u64,
    /// Something is merged into it, or it has to move. Otherwise it is only swept.
    is_needed: bool,
}

impl Group {
    /// What stands for it when one of its leaves can't be had: nobody knows what its blocks held up to the newest change of a host in
    /// leaves. Whatever the delta says of older versions, where cleaning has put them, is not to be believed: newer ones may be lost.
    fn lost(&self, merged_to: u64) -> (u64, Version) {
        let first = self.leaves[0].first();
        (first, Version::Lost { until: merged_to.saturating_add(1), blocks: self.to.saturating_sub(first) })
    }
}

/// The node `index` and those behind it that share a group with the one before.
fn joined_nodes(tree: &Line, index: usize) -> Range<usize> {
    let mut end = tree.nodes.len().min(index + 1);
    while let Some(next) = tree.nodes.get(end)
        && tree.nodes[end - 1].leaves.last().is_some_and(|l| l.first() == next.first())
    {
        end += 1;
    }
    index.min(end)..end
}

/// The groups that can be looked at, and the bytes of their leaves: one that is only swept is left as it is when it can't be had.
fn without_missing(dirty: Vec<Group>, old: Vec<Loaded>) -> (Vec<Group>, Vec<Loaded>) {
    let mut bytes = old.into_iter();
    let loaded = dirty.into_iter().map(|group| {
        let leaves: Vec<Loaded> = bytes.by_ref().take(group.leaves.len()).collect();
        (group, leaves)
    });
    let there =
        |(group, leaves): &(Group, Vec<Loaded>)| group.is_needed || leaves.iter().all(Option::is_some);
    let (groups, leaves): (Vec<Group>, Vec<Vec<Loaded>>) = loaded.filter(there).unzip();
    (groups, leaves.into_iter().flatten().collect())
}

/// The groups of some nodes that `is_dirty` (leaves, first address, address behind the last), and whether they are needed.
fn dirty_groups(
    tree: &Line,
    nodes: &Range<usize>,
    mut is_dirty: impl FnMut(&[LeafRef], u64, u64) -> Option<bool>,
) -> Vec<Group> {
    let leaves: Vec<LeafRef> = tree.nodes[nodes.clone()].iter().flat_map(|n| &n.leaves).copied().collect();
    let behind = tree.nodes.get(nodes.end).map_or(u64::MAX, Node::first);
    let (mut index, mut dirty) = (0, Vec::new());
    for group in leaves.chunk_by(|a, b| a.first() == b.first()) {
        // What lies before the first leaf of all belongs to it.
        let from = if nodes.start == 0 && index == 0 { 0 } else { group[0].first() };
        let to = leaves.get(index + group.len()).map_or(behind, LeafRef::first);
        if let Some(is_needed) = is_dirty(group, from, to) {
            dirty.push(Group { index, leaves: group.to_vec(), from, to, is_needed });
        }
        index += group.len();
    }
    dirty
}

/// Whether a group is to be looked at because something was dropped. When the budget is used up, the sweep ends before it.
fn sweeps(budget: &mut usize, swept: &mut Range<u64>, base: &Lineage, group: &[LeafRef], to: u64) -> bool {
    let first = group[0].first();
    if to <= swept.start || first >= swept.end || (base.head && !group.iter().any(LeafRef::has_history)) {
        return false;
    }
    if *budget == 0 {
        swept.end = first;
        return false;
    }
    *budget = budget.saturating_sub(group.len());
    true
}

/// The bytes of leaves, from the cache or the drives, verified. Those that are needed are given up when nothing gives them.
async fn load(
    shard: &Shared,
    exec: &Handle,
    line: u64,
    leaves: &[(PageRef, bool)],
) -> Result<Vec<Loaded>, String> {
    let mut loaded = Vec::with_capacity(leaves.len());
    for part in leaves.chunks(READ_AHEAD) {
        let mut waiting = Vec::new();
        for (page, _) in part {
            let cached = {
                let mut s = shard.borrow_mut();
                let s = &mut *s;
                let hint = s.map.lines.get(&line).and_then(|tree| {
                    let (node, leaf) = tree.find(page.first, page.seq).0?;
                    Some(tree.nodes[node].leaves[leaf].hint)
                });
                hint.and_then(|h| s.map.cache.at(h, page)).map(<[u8]>::to_vec)
            };
            waiting.push(match cached {
                Some(bytes) => Ok(Some(bytes)),
                // The start has given it up.
                None if is_nowhere(page.location) => Ok(None),
                None => Err(begin(shard, exec, page.location, page_buffer(shard, exec).await)),
            });
        }
        for ((page, is_needed), wait) in part.iter().zip(waiting) {
            loaded.push(match wait {
                Ok(bytes) => bytes,
                Err(started) => leaf(shard, exec, line, (page, *is_needed), started).await?,
            });
        }
    }
    Ok(loaded)
}

/// The bytes of a leaf whose read was begun.
async fn leaf(
    shard: &Shared,
    exec: &Handle,
    line: u64,
    (page, is_needed): (&PageRef, bool),
    started: Started,
) -> Result<Loaded, String> {
    let holds = |bytes: &[u8]| verify(bytes, Level::Leaf, line, page);
    let mut read = end(shard, exec, started, holds).await;
    for _ in 0..TRIES {
        // What is there and wrong stays wrong.
        if !is_needed || !matches!(read, Err(FetchError::Medium(_))) {
            break;
        }
        exec.sleep_until(exec.now().plus_ms(TRY_AGAIN_MS)).await;
        read = stored(shard, exec, page.location, page_buffer(shard, exec).await, holds).await;
    }
    match read {
        Ok(buf) => {
            let bytes = buf.to_vec();
            keep_page(shard, buf);
            Ok(Some(bytes))
        }
        Err(_) if !is_needed => Ok(None),
        Err(error) => shard.borrow_mut().give_up_page(line, page, &error).map(|()| None),
    }
}

impl Shard {
    /// A page of a line's map that is needed can't be had: the blocks that it named are lost, and others go on. An error when that is
    /// more than damage.
    pub(in super::super) fn give_up_page(
        &mut self,
        line: u64,
        page: &PageRef,
        error: &FetchError,
    ) -> Result<(), String> {
        if self.halted.is_some() || self.checkpoint.lost_leaves >= MAX_GIVEN_UP {
            return Err(format!("the page of the map of line {line} at {}: {error}", page.location));
        }
        self.checkpoint.lost_leaves += 1;
        self.counters.integrity_errors += 1;
        self.lost_page(line, page);
        Ok(())
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
            Planned::Write(page) => {
                let (mut page, bytes) = encode_leaf(&page.slots, page.flags, name, memory);
                page.location = writer.page(&bytes).await?.location();
                memory = bytes;
                refs.push((LeafRef::new(page), Some(page.location)));
            }
        }
    }
    let nodes = refs.len().div_ceil(NODE_SLOTS).max(1);
    let each = refs.len().div_ceil(nodes).max(1);
    let mut out = Vec::new();
    for part in refs.chunks(each) {
        let pages: Vec<PageRef> = part.iter().map(|(leaf, _)| leaf.page()).collect();
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

/// Frees the last nodes of a line of which nothing is needed any more.
async fn free(shard: &Shared, exec: &Handle, line: u64) -> Result<(), String> {
    {
        let mut s = shard.borrow_mut();
        let s = &mut *s;
        if let Some(delta) = s.map.frozen.as_mut().and_then(|f| f.remove(line)) {
            delta.entries().for_each(|(_, e)| s.segments.sub_base(e.location.slot(), e.bytes()));
        }
    }
    for _ in 0..FREED_NODES {
        let node = shard.borrow().map.lines.get(&line).and_then(|l| l.nodes.last().cloned());
        let Some(node) = node else { break };
        // What nothing gives of it costs nobody anything: its blocks count until cleaning finds that nobody holds them.
        let leaves: Vec<(PageRef, bool)> = node.leaves.iter().map(|leaf| (leaf.page(), false)).collect();
        let old = load(shard, exec, line, &leaves).await?;
        let mut s = shard.borrow_mut();
        let s = &mut *s;
        for ((page, _), bytes) in leaves.iter().zip(&old) {
            let slots = bytes.iter().flat_map(|bytes| Leaf::trusted(bytes).slots());
            for entry in slots.filter_map(|(_, v): (u64, Version)| v.stored().copied()) {
                s.segments.sub_base(entry.location.slot(), entry.bytes());
            }
            s.segments.sub_base(page.location.slot(), PAGE_BYTES);
        }
        s.segments.sub_base(node.page.location.slot(), PAGE_BYTES);
        if let Some(tree) = s.map.lines.get_mut(&line) {
            tree.nodes.pop();
        }
    }
    if let Some(tree) = shard.borrow_mut().map.lines.get_mut(&line) {
        tree.weigh();
    }
    Ok(())
}
