//! Scrubbing: reads every column of everything that counts, slowly, and sees to it that what is wrong is put right while there
//! are columns enough to do so.
//!
//! ```text
//!   segments by slot, one commit after the other:  header, blocks, parity      wrong -> the segment is suspect: cleaning moves it
//!   then every node and leaf, and the checkpoint's body: each copy             wrong -> a checkpoint writes it anew
//!   then the newest anchor on every drive: each copy                           wrong -> the next checkpoint writes another one
//! ```
//! A wrong column of something dead counts too, since the bytes beside it in other columns are protected by it. What nothing gives
//! any more, and somebody needs, is counted as lost and named.

mod pages;

pub(crate) use pages::copy_holds;

use super::clean::{items_of, still_held};
use super::lost::read_block;
use super::scan::Found;
use super::{MoveItem, Phase, SegmentScan, Shared};
use crate::columns::Columns;
use crate::format::body::ScrubMark;
use crate::format::commit::LogIdentity;
use crate::format::page::PageRef;
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader, Stream};
use crate::location::{Location, Slot};
use crate::parity;
use crate::scrub::MAX_NAMED;
use crate::segments::SegmentName;
use crate::{LostCause, ScrubPlan, ScrubReport};
use dolmen_io::exec::{Handle, Notify};
use dolmen_types::Nanos;
use std::collections::BTreeSet;

/// Looks at the plan at least so often while it waits for the sake of the rate. Nanoseconds.
const WAIT_NS: u64 = 500_000_000;

/// Lost blocks that are known one by one, so as not to be told again.
const MAX_KNOWN: usize = 4096;

/// A shard's scrubber.
#[derive(Default)]
pub(crate) struct Scrub {
    plan: ScrubPlan,
    /// What survives a restart, with the next checkpoint.
    pub(crate) mark: ScrubMark,
    checked_bytes: u64,
    mended: u64,
    lost: u64,
    named: Vec<String>,
    /// Versions (line, block, sequence number) among the lost ones, and where they lie: they are told once.
    known: BTreeSet<(u64, u64, u64, Location)>,
    /// Rings when the plan changes.
    pub(crate) bell: Notify,
}

/// The shard does not serve any more.
struct Ended;

impl super::Shard {
    /// What is to be done from now on.
    pub(crate) fn set_scrub(&mut self, plan: ScrubPlan) {
        self.scrub.plan = plan;
        self.scrub.bell.notify();
    }

    /// Where it stands.
    pub(crate) fn scrub_report(&self) -> ScrubReport {
        let Scrub { plan, mark, checked_bytes, mended, lost, ref named, .. } = self.scrub;
        let running = if plan.round > mark.finished { plan.round } else { 0 };
        let next = if running == mark.round { mark.next } else { 0 };
        let due = || self.segments.iter().filter(|(_, s)| s.stream != Stream::Meta);
        let done = if running > 0 { due().filter(|(slot, _)| slot.0 < next).count() } else { due().count() };
        ScrubReport {
            finished: mark.finished,
            running,
            segments_done: done as u64,
            segments: due().count() as u64,
            checked_bytes,
            mended,
            lost,
            named: named.clone(),
        }
    }

    /// Columns of a segment were wrong: what lives there is moved. No strikes against the drive: what rots over the years is
    /// found all at once here, and a drive that reads badly is struck by whoever moves it.
    fn scrub_mends(&mut self, slot: Slot, columns: &Columns, wrong: &[usize]) {
        self.scrub.mended += wrong.len() as u64;
        self.suspect(slot, columns, wrong);
    }

    /// A block that somebody needs can't be had; false when that was told before.
    pub(super) fn lost_block(&mut self, item: &MoveItem, cause: LostCause) -> bool {
        let MoveItem { line, lba, entry } = item;
        let version = (*line, *lba, entry.seq, entry.location);
        self.lost.name(item, cause);
        if self.scrub.known.contains(&version) {
            return false;
        }
        if self.scrub.known.len() < MAX_KNOWN {
            self.scrub.known.insert(version);
        }
        self.scrub_lost(format!("line {line}: block {lba} at {}", entry.location));
        true
    }

    /// A block that could not be had is there again: if it is lost once more, that is told.
    pub(super) fn is_back(&mut self, item: &MoveItem) {
        self.scrub.known.remove(&(item.line, item.lba, item.entry.seq, item.entry.location));
    }

    /// A page of a line's map can't be had.
    pub(super) fn lost_page(&mut self, line: u64, page: &PageRef) {
        self.lost_leaf(line, page);
        let text = format!("line {line}: the page of its map at {}", page.location);
        if !self.scrub.named.contains(&text) {
            self.scrub_lost(text);
        }
    }

    fn scrub_lost(&mut self, what: String) {
        self.scrub.lost += 1;
        if self.scrub.named.len() < MAX_NAMED {
            self.scrub.named.push(what);
        }
    }
}

/// The task.
pub(super) async fn serve(shard: Shared, exec: Handle) {
    let bell = shard.borrow().scrub.bell.clone();
    let mut scrubber = Scrubber { shard, exec };
    loop {
        let due = {
            let s = scrubber.shard.borrow();
            if !matches!(s.phase, Phase::Serving | Phase::Stopped(_)) || s.closing {
                return;
            }
            !s.scrub.plan.paused && s.scrub.plan.round > s.scrub.mark.finished
        };
        if !due {
            bell.notified().await;
        } else if scrubber.round().await.is_err() {
            return;
        }
    }
}

struct Scrubber {
    shard: Shared,
    exec: Handle,
}

impl Scrubber {
    /// Goes on with the round that is due, to its end.
    async fn round(&mut self) -> Result<(), Ended> {
        let round = {
            let mut s = self.shard.borrow_mut();
            let round = s.scrub.plan.round;
            if s.scrub.mark.round != round {
                s.scrub.mark = ScrubMark { round, next: 0, ..s.scrub.mark };
            }
            round
        };
        loop {
            let next = {
                let s = self.shard.borrow();
                let from = s.scrub.mark.next;
                let due =
                    s.segments.iter().filter(|(slot, seg)| slot.0 >= from && seg.stream != Stream::Meta);
                due.map(|(slot, _)| slot).next()
            };
            let Some(slot) = next else { break };
            self.segment(slot).await?;
            self.shard.borrow_mut().scrub.mark.next = slot.0 + 1;
            self.exec.yield_now().await;
        }
        self.map().await?;
        self.chunks().await?;
        self.anchors().await?;
        let mut s = self.shard.borrow_mut();
        s.scrub.mark = ScrubMark { finished: round, round, next: 0 };
        // So that a restart knows.
        s.checkpoint.requested = true;
        Ok(())
    }

    /// So many bytes were read: waits for the sake of the rate, as it is at each look, and while the plan says so.
    async fn pace(&mut self, bytes: u64) -> Result<(), Ended> {
        self.shard.borrow_mut().scrub.checked_bytes += bytes;
        let began = self.exec.now();
        loop {
            let (paused, bell, rate) = {
                let s = self.shard.borrow();
                if !matches!(s.phase, Phase::Serving | Phase::Stopped(_)) || s.closing {
                    return Err(Ended);
                }
                (s.scrub.plan.paused, s.scrub.bell.clone(), s.scrub.plan.bytes_per_s)
            };
            let now = self.exec.now();
            let takes = bytes.saturating_mul(1_000_000_000).checked_div(rate).unwrap_or(0);
            let until = began.0.saturating_add(takes);
            if paused {
                bell.notified().await;
            } else if now.0 >= until {
                return Ok(());
            } else {
                self.exec.sleep_until(Nanos(until.min(now.0 + WAIT_NS))).await;
            }
        }
    }

    /// One segment of a log stream.
    async fn segment(&mut self, slot: Slot) -> Result<(), Ended> {
        let (segment, last, drives, id) = {
            let s = self.shard.borrow();
            let Some(segment) = s.segments.at(slot).copied() else { return Ok(()) };
            (segment, segment.last_commit.min(s.log.applied), s.drives.clone(), s.id)
        };
        let name = segment.name(slot);
        // What is to be moved anyway, or holds nothing, is not worth the while.
        if segment.suspect != 0 || segment.cleaned || segment.live() == 0 {
            return Ok(());
        }
        let scan = SegmentScan::new(self.exec.clone(), drives, segment.columns);
        let header = scan.header(|h| h.slot == slot && h.shard == id.shard).await.ok().flatten();
        let Some(header) = header else {
            self.gone(name, format!("the header of segment {}", slot.0));
            return Ok(());
        };
        self.heads(&scan, name, &header).await?;
        let id = LogIdentity { incarnation: header.incarnation, salt: header.salt, ..id };
        let (mut offset, mut seen) = (SEGMENT_HEADER_BYTES, 0);
        while seen < last && self.is_still(name) {
            let next = scan.next(&id, (name.stream, name.stream_seq), offset, seen).await;
            if next.as_ref().is_none_or(|found| found.0.place.offset != offset) {
                self.gone(name, format!("a commit of segment {} at {offset}", slot.0));
            }
            let Some(found) = next else { break };
            seen = found.0.place.number;
            offset = u32::try_from(found.0.end()).unwrap_or(u32::MAX);
            self.commit(&scan, name, &segment.columns, &found).await?;
        }
        Ok(())
    }

    fn is_still(&self, name: SegmentName) -> bool {
        self.shard.borrow().segments.named(name).is_some_and(|s| s.suspect == 0)
    }

    /// What no column gives any more, unless the segment went meanwhile.
    fn gone(&self, name: SegmentName, what: String) {
        if self.is_still(name) {
            let mut s = self.shard.borrow_mut();
            s.scrub_lost(what);
            s.lost.gap(name);
        }
    }

    /// The heads of a segment's columns.
    async fn heads(
        &mut self,
        scan: &SegmentScan,
        name: SegmentName,
        header: &SegmentHeader,
    ) -> Result<(), Ended> {
        let len = SEGMENT_HEADER_BYTES as usize;
        for column in 0..header.columns.len() {
            if self.is_out(&header.columns, column) {
                continue;
            }
            let is = scan.column(column, &[column], 0, len).await;
            let right = is.as_deref() == Ok(header.for_column(column).encode().as_slice());
            if !right && self.is_still(name) {
                self.shard.borrow_mut().scrub_mends(name.slot, &header.columns, &[column]);
            }
            self.pace(len as u64).await?;
        }
        Ok(())
    }

    fn is_out(&self, columns: &Columns, column: usize) -> bool {
        let s = self.shard.borrow();
        columns.unit(column).is_none_or(|u| s.drives.place(u, 0).is_none())
    }

    /// One commit: every block, and the parity.
    async fn commit(
        &mut self,
        scan: &SegmentScan,
        name: SegmentName,
        columns: &Columns,
        found: &Found,
    ) -> Result<(), Ended> {
        let (header, depth) = (&found.0, found.0.depth as usize);
        let (mut all, mut bad, mut absent) = (Vec::new(), Vec::new(), false);
        for column in 0..columns.len() {
            let out = self.is_out(columns, column);
            absent |= out;
            let bytes = if out {
                None
            } else {
                scan.column(column, &[column], header.place.offset, depth).await.ok()
            };
            // A drive may have gone while it was read.
            absent |= self.is_out(columns, column);
            let wrong = column < columns.data()
                && bytes.as_ref().is_some_and(|b| !scan.agrees(&self.shard, found, column, b));
            if !self.is_out(columns, column) && (bytes.is_none() || wrong) {
                bad.push(column);
            }
            all.push(bytes.unwrap_or_default());
            self.pace(depth as u64).await?;
        }
        if bad.is_empty() && !absent {
            bad = wrong_parity(&all, columns, depth);
        }
        if bad.is_empty() || !self.is_still(name) {
            return Ok(());
        }
        if scan.payload(&self.shard, found).await.is_ok_and(|p| p.is_none_or(|p| !p.unread.is_empty())) {
            self.what_is_lost(items_of(found)).await?;
        }
        self.shard.borrow_mut().scrub_mends(name.slot, columns, &bad);
        Ok(())
    }

    /// Looks which of these versions that somebody needs can't be had any more.
    async fn what_is_lost(&mut self, items: Vec<MoveItem>) -> Result<(), Ended> {
        let mut lost_leaves = Vec::new();
        for item in items {
            if still_held(&self.shard, &self.exec, &item, &mut lost_leaves).await.unwrap_or(false)
                && let Err(why) = read_block(&self.shard, &self.exec, &item).await
            {
                self.shard.borrow_mut().lost_block(&item, LostCause::from(&why));
            }
            self.pace(0).await?;
        }
        Ok(())
    }
}

/// Parity columns that are not what the data columns make them.
pub(crate) fn wrong_parity(all: &[Vec<u8>], columns: &Columns, depth: usize) -> Vec<usize> {
    let (data, parity) = all.split_at(columns.data());
    let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
    let mut made = vec![vec![0; depth]; columns.parity()];
    let mut sums: Vec<&mut [u8]> = made.iter_mut().map(Vec::as_mut_slice).collect();
    parity::encode(&data, &mut sums);
    let wrong = made.iter().zip(parity).enumerate().filter(|(_, (made, is))| made != is);
    wrong.map(|(i, _)| columns.data() + i).collect()
}
