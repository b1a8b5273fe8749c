//! Reading a segment as a log: its header, then commit after commit, through windows. What a column can't give is computed from
//! the others.

use super::fetch::{Place, within};
use super::meta::STAGE_BYTES;
use super::watch::first;
use super::{Drives, Shared};
use crate::columns::Columns;
use crate::format::PAGE_BYTES;
use crate::format::commit::{self, CommitHeader, LogIdentity, LogRecord, OfSegment, StoredBlock, records};
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::location::GRANULE_BYTES;
use crate::parity;
use crate::stored::{BlockVersion, Form, Forms};
use crate::{StoreError, UnitId};
use dolmen_io::{Buf, exec::Handle};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::pin::pin;
use std::rc::Rc;

/// Bytes that are read ahead while commits are small: a few of them. Of larger ones only the header is wanted.
const WINDOW_BYTES: u32 = 32 * 1024;

/// So many pages in a row that can't be read are no bad sectors in the midst of a log any more.
const MAX_UNREAD_PAGES: u32 = 64;

/// A commit's header and its bytes.
pub(crate) type Found = (CommitHeader, Vec<u8>);

/// Bytes of column 0 from an offset on.
type Window = Option<(u32, Buf)>;

/// Reads one segment.
pub(crate) struct SegmentScan {
    exec: Handle,
    drives: Rc<Drives>,
    columns: Columns,
    /// Column 0 as it is, then as it is computed from each set of other columns: from which ones, and what was read so.
    ways: Vec<(Vec<usize>, RefCell<Window>)>,
    /// Bytes that are read ahead: commits are mostly about as large as the one before.
    ahead: Cell<u32>,
}

/// What the columns of a commit give.
pub(crate) struct Payload {
    /// The data columns as they should be: header and blocks in their places, zeros in all others.
    pub(crate) columns: Vec<Vec<u8>>,
    /// Blocks of which nobody can say what they hold, since no drive could read them: by their places in the order of the records.
    pub(crate) unread: Vec<usize>,
    /// Pages of the columns, counted from the commit's offset, at which such blocks lie.
    unread_pages: BTreeSet<usize>,
}

impl Payload {
    /// The runs of pages (from, to; bytes behind the commit's offset) at which all columns are known.
    pub(crate) fn known(&self) -> Vec<(usize, usize)> {
        let (page, depth) = (PAGE_BYTES as usize, self.columns.first().map_or(0, Vec::len));
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for at in (0..depth / page).filter(|p| !self.unread_pages.contains(p)).map(|p| p * page) {
            match runs.last_mut() {
                Some(last) if last.1 == at => last.1 += page,
                _ => runs.push((at, at + page)),
            }
        }
        runs
    }
}

/// One stored block of a commit, and where it lies in the commit's columns.
struct Block {
    column: usize,
    from: usize,
    len: usize,
    version: BlockVersion,
    form: Form,
    check: u64,
}

/// The blocks of a commit that lie in one of its columns.
struct Wanted<'a> {
    /// Those that nothing has given yet, by their places in the order of the records.
    missing: Vec<(usize, &'a Block)>,
    /// Those that something gave otherwise than they were written.
    wrong: BTreeSet<usize>,
    /// The column.
    target: &'a mut Vec<u8>,
}

impl Wanted<'_> {
    /// Takes what of it a part gives, of which some pages could not be read.
    fn take(&mut self, forms: &mut Forms, part: &[u8], unread: &BTreeSet<usize>) -> Result<(), StoreError> {
        let mut left = Vec::new();
        for &(i, b) in &self.missing {
            if b.pages().any(|page| unread.contains(&page)) {
                left.push((i, b));
            } else if b.holds(forms, part)? {
                self.target[b.from..b.from + b.len].copy_from_slice(&part[b.from..b.from + b.len]);
            } else {
                self.wrong.insert(i);
                left.push((i, b));
            }
        }
        self.missing = left;
        Ok(())
    }

    /// True when one that is missing was given wrong.
    fn is_wrong(&self) -> bool {
        self.missing.iter().any(|(i, _)| self.wrong.contains(i))
    }
}

impl Block {
    /// The pages of its column that it touches, counted from the commit's offset.
    fn pages(&self) -> std::ops::Range<usize> {
        self.from / PAGE_BYTES as usize..(self.from + self.len).div_ceil(PAGE_BYTES as usize)
    }

    fn holds(&self, forms: &mut Forms, column: &[u8]) -> Result<bool, StoreError> {
        match column.get(self.from..self.from + self.len) {
            Some(stored) => forms.holds(self.form, self.version, stored, self.check),
            None => Ok(false),
        }
    }
}

impl SegmentScan {
    pub(crate) fn new(exec: Handle, drives: Rc<Drives>, columns: Columns) -> SegmentScan {
        let sources = parity::sources(columns.data(), columns.parity(), 0);
        let ways = std::iter::once(vec![0]).chain(sources).map(|sources| (sources, RefCell::default()));
        SegmentScan { exec, drives, columns, ways: ways.collect(), ahead: Cell::new(WINDOW_BYTES) }
    }

    /// What the first of these ways finds, each given with the columns that it reads: the next one begins when one has ended or is late,
    /// those of drives that answer late at the end. `None` when `enough` of them have told that there is nothing, and the others told
    /// nothing else. Then a drive that is silent counts as one that can't read, and is not asked any more.
    async fn first_of<T>(
        &self,
        enough: usize,
        mut ways: Vec<(Vec<usize>, impl Future<Output = Result<Option<T>, String>>)>,
    ) -> Result<Option<T>, String> {
        let (drives, told) = (&self.drives, Cell::new(0));
        let is_any = |way: &[usize], is: &dyn Fn(u16) -> bool| {
            way.iter().filter_map(|&column| self.columns.unit(column)).any(|unit| is(unit.drive))
        };
        let next = || {
            let is_late = |drive| drives.is_late(drive);
            let is_silent = |drive| drives.is_silent(drive, self.exec.now());
            let prompt = ways.iter().position(|(way, _)| !is_any(way, &is_late));
            let asked = |(way, _): &(Vec<usize>, _)| told.get() < enough || !is_any(way, &is_silent);
            let at = prompt.or_else(|| ways.iter().position(asked))?;
            let (_, way) = ways.remove(at);
            let told = &told;
            Some(async move {
                let found = way.await.map_err(Some)?;
                found.ok_or_else(|| {
                    told.set(told.get() + 1);
                    None
                })
            })
        };
        let mut all = pin!(first(&self.exec, drives.slow_read_ms, next));
        let whys = loop {
            match within(&self.exec, drives.silent_ms, &mut all).await {
                Some(Ok(found)) => return Ok(Some(found)),
                Some(Err(whys)) => break whys,
                None if told.get() >= enough => return Ok(None),
                // It is waited for, since nobody else can tell.
                None => {}
            }
        };
        if told.get() >= enough {
            return Ok(None);
        }
        Err(whys.into_iter().flatten().next_back().unwrap_or_else(|| "there is no way to it".into()))
    }

    /// The segment's header, as far as `expected` has it so, from any column. `None` when the segment was not begun.
    pub(crate) async fn header(
        &self,
        expected: impl Fn(&SegmentHeader) -> bool,
    ) -> Result<Option<SegmentHeader>, String> {
        let expected = &expected;
        let read = |(column, &unit): (usize, &UnitId)| async move {
            let (file, at) =
                self.drives.place(unit, 0).ok_or_else(|| format!("drive {} is out", unit.drive))?;
            let mut buf = self.exec.alloc(SEGMENT_HEADER_BYTES as usize).await;
            buf.set_len(SEGMENT_HEADER_BYTES as usize);
            let buf = self.drives.read_again(&self.exec, (unit.drive, file, at), buf).await?;
            let is_it = |h: &SegmentHeader| {
                usize::from(h.column) == column
                    && h.columns == self.columns
                    && h.unit_bytes == self.drives.unit_bytes
                    && expected(h)
            };
            Ok(SegmentHeader::decode(&buf).filter(is_it))
        };
        let ways = self
            .columns
            .units()
            .iter()
            .enumerate()
            .map(|(column, unit)| (vec![column], read((column, unit))));
        // With more columns gone than that nobody can say that it was not begun.
        self.first_of(self.columns.len() - self.columns.parity(), ways.collect()).await
    }

    /// The commit of this log, and of this segment, at `offset`: its header and the header's bytes. `None` when there is none that
    /// holds. What was left there by a segment that had the units before is none.
    pub(crate) async fn commit(
        &self,
        id: &LogIdentity,
        of: OfSegment,
        offset: u32,
    ) -> Result<Option<Found>, String> {
        let ways = self.ways.iter().map(|(sources, window)| {
            let find = async move {
                // One that is given up is read anew.
                let mut here = window.take();
                let found = self.commit_by((sources, &mut here), id, of, offset).await;
                window.replace(here);
                found
            };
            (sources.clone(), find)
        });
        let found = self.first_of(1, ways.collect()).await?;
        if let Some((header, _)) = &found {
            self.ahead.set(if header.depth > WINDOW_BYTES / 2 { PAGE_BYTES } else { WINDOW_BYTES });
        }
        Ok(found)
    }

    /// The next commit of a segment at or behind `offset` with a number above `after`, whatever lies before it. `None` at the end, and
    /// where nothing can be read any more.
    pub(crate) async fn next(
        &self,
        id: &LogIdentity,
        of: OfSegment,
        offset: u32,
        after: u64,
    ) -> Option<Found> {
        let (mut at, mut unread) = (offset, 0);
        while at < self.drives.unit_bytes && unread < MAX_UNREAD_PAGES {
            match self.commit(id, of, at).await {
                Ok(Some(found)) if found.0.place.number > after => return Some(found),
                Ok(_) => unread = 0,
                Err(_) => unread += 1,
            }
            at += PAGE_BYTES;
        }
        None
    }

    async fn commit_by(
        &self,
        (sources, window): (&[usize], &mut Window),
        id: &LogIdentity,
        of: OfSegment,
        offset: u32,
    ) -> Result<Option<Found>, String> {
        let (unit_bytes, data) = (self.drives.unit_bytes, self.columns.data());
        let Some(first) = self.bytes(sources, window, offset, PAGE_BYTES).await? else { return Ok(None) };
        let Some(len) = commit::claimed_len(first) else { return Ok(None) };
        let len = u32::try_from(len).expect("at most MAX_HEADER_BYTES");
        let Some(bytes) = self.bytes(sources, window, offset, len).await? else { return Ok(None) };
        let header = commit::decode(bytes, id, of, offset, unit_bytes);
        Ok(header.filter(|h| usize::from(h.place.data) == data).map(|h| (h, bytes.to_vec())))
    }

    /// What a commit's columns give, directly or through other columns. `None` when some block was read and is not what was written:
    /// the commit was torn, or has rotted. What could only not be read speaks against nothing. Fails without a key that would tell:
    /// then nothing is decided.
    pub(crate) async fn payload(&self, shard: &Shared, found: &Found) -> Result<Option<Payload>, StoreError> {
        let (header, bytes) = found;
        let Some(blocks) = blocks_of(header, bytes) else { return Ok(None) };
        let depth = header.depth as usize;
        let columns = vec![vec![0; depth]; self.columns.data()];
        let mut payload = Payload { columns, unread: Vec::new(), unread_pages: BTreeSet::new() };
        payload.columns[0][..bytes.len()].copy_from_slice(bytes);
        for (column, target) in payload.columns.iter_mut().enumerate() {
            let here = blocks.iter().enumerate().filter(|(_, b)| b.column == column);
            let wanted = Wanted { missing: here.collect(), wrong: BTreeSet::new(), target };
            if wanted.missing.is_empty() {
                continue;
            }
            let (wanted, unknown) = (RefCell::new(wanted), RefCell::new(None));
            let sources = parity::sources(self.columns.data(), self.columns.parity(), column);
            let ways = std::iter::once(vec![column]).chain(sources).filter(|way| self.is_there(way));
            let read = |way: Vec<usize>| {
                let (wanted, unknown, sources) = (&wanted, &unknown, way.clone());
                let read = async move {
                    let (part, unread) = self.part(column, &sources, header.place.offset, depth).await;
                    let mut wanted = wanted.borrow_mut();
                    if let Err(why) = wanted.take(&mut shard.borrow_mut().forms, &part, &unread) {
                        unknown.replace(Some(why));
                    }
                    match wanted.missing.is_empty() {
                        true => Ok(Some(())),
                        false if wanted.is_wrong() => Ok(None),
                        false => Err("it can't be read".into()),
                    }
                };
                (way, read)
            };
            // What it comes to is in what is missing.
            let _ = self.first_of(1, ways.map(read).collect()).await;
            if let Some(why) = unknown.into_inner() {
                return Err(why);
            }
            let wanted = wanted.into_inner();
            if wanted.is_wrong() {
                return Ok(None);
            }
            payload.unread.extend(wanted.missing.iter().map(|(i, _)| *i));
            payload.unread_pages.extend(wanted.missing.iter().flat_map(|(_, b)| b.pages()));
        }
        Ok(Some(payload))
    }

    /// True when no drive of these columns is out.
    fn is_there(&self, columns: &[usize]) -> bool {
        let place = |&c: &usize| self.drives.place(self.columns.unit(c)?, 0);
        columns.iter().all(|c| place(c).is_some())
    }

    /// Bytes of a column like [`SegmentScan::column`], and which pages of them could not be read: what fails is read once more, page by
    /// page.
    async fn part(
        &self,
        column: usize,
        sources: &[usize],
        offset: u32,
        len: usize,
    ) -> (Vec<u8>, BTreeSet<usize>) {
        let (mut bytes, mut unread) = (Vec::with_capacity(len), BTreeSet::new());
        let place = |at: usize| offset + u32::try_from(at).expect("within a unit");
        while bytes.len() < len {
            let step = (len - bytes.len()).min(STAGE_BYTES);
            if let Ok(part) = self.column(column, sources, place(bytes.len()), step).await {
                bytes.extend_from_slice(&part);
                continue;
            }
            let end = bytes.len() + step;
            while bytes.len() < end {
                let (at, step) = (bytes.len(), (end - bytes.len()).min(PAGE_BYTES as usize));
                match self.column(column, sources, place(at), step).await {
                    Ok(part) => bytes.extend_from_slice(&part),
                    Err(_) => {
                        unread.insert(at / PAGE_BYTES as usize);
                        bytes.resize(at + step, 0);
                    }
                }
            }
        }
        (bytes, unread)
    }

    /// True when a data column of a commit, as it was read, has what it should: the header if it is the first one, and the blocks. Of
    /// a block whose key is not here nothing is known.
    pub(crate) fn agrees(&self, shard: &Shared, found: &Found, column: usize, is: &[u8]) -> bool {
        let (header, bytes) = found;
        if column == 0 && !is.starts_with(bytes) {
            return false;
        }
        let blocks = blocks_of(header, bytes).unwrap_or_default();
        let forms = &mut shard.borrow_mut().forms;
        blocks.iter().filter(|b| b.column == column).all(|b| b.holds(forms, is).unwrap_or(true))
    }

    /// Bytes of a column as they are computed from others (or read, from itself).
    pub(crate) async fn column(
        &self,
        column: usize,
        sources: &[usize],
        offset: u32,
        len: usize,
    ) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let step = (len - bytes.len()).min(STAGE_BYTES);
            let mut buf = self.exec.alloc(step).await;
            buf.set_len(step);
            let at = offset + u32::try_from(bytes.len()).expect("within a unit");
            let place = Place { columns: self.columns, column, offset: at };
            bytes.extend_from_slice(&self.drives.combine(&self.exec, place, sources, buf).await?);
        }
        Ok(bytes)
    }

    /// A column as its own drive gives it. One that does not answer is not waited for beyond the time in which it would count as silent.
    pub(crate) async fn own_column(&self, column: usize, offset: u32, len: usize) -> Result<Vec<u8>, String> {
        let unit = self.columns.unit(column).ok_or("there is no such column")?;
        let itself = [column];
        let read = self.column(column, &itself, offset, len);
        self.drives.soon(&self.exec, unit.drive, read).await?
    }

    /// `len` bytes at `offset` of column 0, computed from these columns by way of a window; `None` beyond its end.
    async fn bytes<'w>(
        &self,
        sources: &[usize],
        window: &'w mut Window,
        offset: u32,
        len: u32,
    ) -> Result<Option<&'w [u8]>, String> {
        let unit_bytes = self.drives.unit_bytes;
        if offset.checked_add(len).is_none_or(|end| end > unit_bytes) {
            return Ok(None);
        }
        let covers =
            |w: &(u32, Buf)| w.0 <= offset && offset + len <= w.0 + u32::try_from(w.1.len()).unwrap_or(0);
        if !window.as_ref().is_some_and(covers) {
            let want = (unit_bytes - offset).min(len.max(self.ahead.get()));
            let mut buf = match window.take() {
                Some((_, buf)) if buf.capacity() >= want as usize => buf,
                _ => self.exec.alloc(want as usize).await,
            };
            buf.set_len(want as usize);
            let place = Place { columns: self.columns, column: 0, offset };
            let buf = match self.drives.combine(&self.exec, place, sources, buf).await {
                Ok(buf) => buf,
                Err(_) => {
                    // What was asked for may be readable where what lies behind it is not.
                    let mut buf = self.exec.alloc(len as usize).await;
                    buf.set_len(len as usize);
                    self.drives.combine(&self.exec, place, sources, buf).await?
                }
            };
            *window = Some((offset, buf));
        }
        Ok(window.as_ref().map(|(start, buf)| {
            let from = (offset - start) as usize;
            &buf[from..from + len as usize]
        }))
    }
}

/// The stored blocks that a commit names; `None` when its records are malformed.
fn blocks_of(header: &CommitHeader, bytes: &[u8]) -> Option<Vec<Block>> {
    let depth = header.depth as usize;
    let mut blocks = Vec::new();
    let mut batch = 0;
    let mut add = |version: BlockVersion, block: StoredBlock| {
        let StoredBlock { at, granules, form, check } = block;
        let place = header.header_len as usize + at as usize * GRANULE_BYTES as usize;
        let len = usize::from(granules) * GRANULE_BYTES as usize;
        blocks.push(Block { column: place / depth, from: place % depth, len, version, form, check });
    };
    for record in records(bytes, header) {
        match record? {
            LogRecord::Batch { seq, .. } => batch = seq.0,
            LogRecord::Write { line, lba, blocks } => {
                for (lba, block) in (lba..).zip(blocks.iter()) {
                    add(BlockVersion { line, lba, seq: batch }, block);
                }
            }
            LogRecord::Move { line, lba, seq, block, .. } => add(BlockVersion { line, lba, seq }, block),
            _ => {}
        }
    }
    Some(blocks)
}
