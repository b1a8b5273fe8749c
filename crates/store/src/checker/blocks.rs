//! Every leaf of every line, and every stored block that some state still shows.

use super::report::Sort;
use super::{CheckReport, Damage, damage, of_block, of_unit, place};
use crate::format::page::{Leaf, Level, PageRef, verify};
use crate::map::{Clones, Entry, is_nowhere};
use crate::shard::{
    FetchError, MoveItem, Shared, Span, Way, add_extent, copy_holds, shown, still_held, stored_how,
};
use crate::stored::BlockVersion;
use crate::{LostCause, StoreError};
use dolmen_io::exec::Handle;
use dolmen_types::LineId;
use dolmen_types::limits::BLOCK_BYTES;

/// Bytes that are read in one go.
const RUN_BYTES: usize = 128 * 1024;

/// The lines of a shard.
pub(super) async fn check_lines(shard: &Shared, exec: &Handle, report: &mut CheckReport) {
    let lines: Vec<(u64, Vec<(PageRef, PageRef)>)> = {
        let s = shard.borrow();
        let live = s.map.lines.iter().filter(|(_, l)| !l.now.is_doomed());
        live.map(|(&line, tree)| {
            (line, tree.nodes.iter().flat_map(|n| n.leaves.iter().map(|l| (n.page, l.page()))).collect())
        })
        .collect()
    };
    let clones = shard.borrow().map.clones();
    let mut check = Check { shard, exec, report, clones, blind: Vec::new() };
    for (line, leaves) in lines {
        check.report.lines += 1;
        if !shard.borrow().has_keys_of(line) {
            let what = damage(StoreError::NoKey(LineId(line)).to_string());
            check.report.problem(Damage { line: Some(LineId(line)), ..what });
            continue;
        }
        check.line(line, leaves).await;
    }
}

struct Check<'a> {
    shard: &'a Shared,
    exec: &'a Handle,
    report: &'a mut CheckReport,
    clones: Clones,
    /// Leaves that can't be had.
    blind: Vec<PageRef>,
}

impl Check<'_> {
    /// A line: its leaves, each with the node that names it, and what was written since the checkpoint.
    async fn line(&mut self, line: u64, leaves: Vec<(PageRef, PageRef)>) {
        let mut above = None;
        for (node, page) in leaves {
            if above.replace(node) != Some(node) && !is_nowhere(page.location) {
                self.copies(line, Level::Node, &node).await;
            }
            if is_nowhere(page.location) {
                let (_, at) = place(self.shard, &self.report.table, node.location);
                self.lost_leaf(line, &page, at, "the node of the map over it is damaged").await;
                continue;
            }
            self.report.leaves += 1;
            self.report.meter.add(BLOCK_BYTES as u64);
            match self.leaf(line, &page).await {
                Ok(entries) => {
                    let needed = self.still_needed(line, entries).await;
                    self.blocks(line, &needed).await;
                }
                Err(why) => {
                    let (_, at) = place(self.shard, &self.report.table, page.location);
                    self.lost_leaf(line, &page, at, &why).await;
                }
            }
        }
        let recent: Vec<(u64, Entry)> = {
            let s = self.shard.borrow();
            s.map.live.line(line).into_iter().flat_map(|d| d.entries()).map(|(lba, e)| (lba, *e)).collect()
        };
        let needed = self.still_needed(line, recent).await;
        self.blocks(line, &needed).await;
    }

    /// The copies of a page that the pool can read: those that are wrong.
    async fn copies(&mut self, line: u64, level: Level, page: &PageRef) {
        let (columns, offset, drives) = {
            let s = self.shard.borrow();
            let Some(segment) = s.segments.at(page.location.slot()) else { return };
            (segment.columns, page.location.place(s.drives.unit_bytes).1, s.drives.clone())
        };
        let holds = |bytes: &[u8]| verify(bytes, level, line, page);
        for (column, unit) in columns.units().iter().enumerate() {
            let at = (columns, column, offset);
            let reading = copy_holds(&drives, self.exec, at, BLOCK_BYTES, &holds);
            let why = match drives.soon(self.exec, unit.drive, reading).await {
                Ok(Some(false)) => String::new(),
                Ok(_) => continue,
                Err(why) => format!(" can't be read: {why}"),
            };
            let place = of_unit(&self.report.table, *unit, offset);
            let what = if level == Level::Leaf { "the leaf" } else { "a node" };
            let damage = of_block(line, page.first, place, format!("{what} of the map from here on{why}"));
            self.report.mended(unit.drive, Sort::Page, damage);
        }
    }

    async fn lost_leaf(&mut self, line: u64, page: &PageRef, at: String, why: &str) {
        self.blind.push(*page);
        let what = format!("all from here on, up to the next leaf of the map, can't be found: {why}");
        self.report.lost_blocks(of_block(line, page.first, at, what));
        let blocks = self.shard.borrow().map.extent(line, page).unwrap_or(1);
        self.lost_extent(line, page.first, blocks).await;
    }

    async fn lost_extent(&mut self, line: u64, lba: u64, blocks: u64) {
        let Check { shard, exec, clones, blind, .. } = self;
        let mut losses = std::mem::take(&mut self.report.losses);
        add_extent(shard, exec, clones, (line, lba, blocks), blind, &mut losses).await;
        self.report.losses = losses;
    }

    /// Without what the log since the checkpoint has moved or overwritten, and what nobody sees since: cleaning may have given its place
    /// to others.
    async fn still_needed(&mut self, line: u64, entries: Vec<(u64, Entry)>) -> Vec<(u64, Entry)> {
        let (mut needed, mut lost) = (Vec::new(), Vec::new());
        for (lba, entry) in entries {
            // Of what nobody can say it is told.
            let held = still_held(self.shard, self.exec, &MoveItem { line, lba, entry }, &mut lost).await;
            if !matches!(held, Ok(false)) {
                needed.push((lba, entry));
            }
        }
        needed
    }

    /// What a leaf says is stored.
    async fn leaf(&mut self, line: u64, page: &PageRef) -> Result<Vec<(u64, Entry)>, String> {
        let mut buf = self.exec.alloc(BLOCK_BYTES).await;
        buf.set_len(BLOCK_BYTES);
        let holds = |bytes: &[u8]| verify(bytes, Level::Leaf, line, page);
        let read = stored_how(self.shard, self.exec, page.location, buf, holds).await;
        let (bytes, _) = read.map_err(|error| error.to_string())?;
        self.copies(line, Level::Leaf, page).await;
        let leaf = Leaf::trusted(&bytes);
        let (lost, stored) = (leaf.lost(), leaf.slots().filter_map(|(lba, v)| v.stored().map(|e| (lba, *e))));
        let stored = stored.collect();
        self.shard.borrow_mut().map.leaf_read(LineId(line), page, &bytes);
        for (lba, blocks) in lost {
            let what = format!(
                "what {blocks} blocks from here on held was lost with a leaf of the map, but for what was written since"
            );
            self.report.lost_blocks(of_block(line, lba, String::new(), what));
            self.lost_extent(line, lba, blocks).await;
        }
        Ok(stored)
    }

    /// Reads stored blocks, what lies on touching pages in one go, and names each that does not check.
    async fn blocks(&mut self, line: u64, entries: &[(u64, Entry)]) {
        let mut rest = entries;
        while let Some((_, first)) = rest.first() {
            let mut span = Span::of(first);
            let count = 1 + rest[1..].iter().take_while(|(_, e)| span.extend(e, RUN_BYTES)).count();
            let (run, tail) = rest.split_at(count);
            rest = tail;
            self.report.blocks += count as u64;
            self.report.meter.add(run.iter().map(|(_, e)| u64::from(e.bytes())).sum());
            if self.read(line, run).await == Ok(Way::Direct) {
                continue;
            }
            for &(lba, entry) in run {
                self.one(line, lba, entry).await;
            }
        }
    }

    /// One block of a run that is not as it should be.
    async fn one(&mut self, line: u64, lba: u64, entry: Entry) {
        let (drive, at) = place(self.shard, &self.report.table, entry.location);
        let error = match self.read(line, &[(lba, entry)]).await {
            Ok(Way::Direct) => return,
            Ok(Way::Around) => return self.report.absent(drive),
            Ok(Way::Mended) => {
                let damage = of_block(line, lba, at, "not what was written");
                return self.report.mended(drive, Sort::Block, damage);
            }
            Err(error) => error,
        };
        self.report.lost_blocks(of_block(line, lba, at, error.to_string()));
        let item = MoveItem { line, lba, entry };
        let views = shown(self.shard, self.exec, &self.clones, &item, &mut self.blind).await;
        self.report.losses.add(line, views, LostCause::from(&error), (lba, 1));
    }

    /// Reads blocks whose pages touch.
    async fn read(&self, line: u64, run: &[(u64, Entry)]) -> Result<Way, FetchError> {
        let Some((_, first)) = run.first() else { return Ok(Way::Direct) };
        let mut span = Span::of(first);
        run[1..].iter().for_each(|(_, e)| _ = span.extend(e, RUN_BYTES));
        let mut buf = self.exec.alloc(span.len()).await;
        buf.set_len(span.len());
        let holds = |bytes: &[u8]| {
            let blocks = run.iter().map(|(lba, e)| (BlockVersion { line, lba: *lba, seq: e.seq }, e));
            span.holds(&mut self.shard.borrow_mut().forms, blocks, bytes)
        };
        stored_how(self.shard, self.exec, span.location(), buf, holds).await.map(|(_, way)| way)
    }
}
