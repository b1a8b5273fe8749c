//! The key table: the wrapped keys of encrypted lines, on every drive in two copies, changed in place.
//!
//! A change writes the first copy of a page on all drives, durably, then the second: a crash tears one copy of each drive at most,
//! and the newest page that checks counts. Changes are one page each and all or nothing, so a rotation that a crash cuts short has
//! some pages under the old cluster key and the rest under the new one, and goes on from there. An erased key is gone from every copy.
//! A drive that does not take a page is named by [`KeyTable::behind`] until it leaves, and must be out before that change or a later
//! one counts: come back alone, it would tell of the pages as they were. What no drive takes has not changed.
//! Never: sees a key that is not wrapped.

mod copies;
mod erase;

pub(crate) use copies::{Copies, Copy, Sources};
pub use erase::erase_keys_on;

use crate::format::PAGE_BYTES;
use crate::format::keys::{KEY_COPIES, KeyPage, KeySlot, WRAPPED_KEY_BYTES, key_offset};
use crate::shard::within;
use crate::{LabelScrub, PoolPlan, StoreError};
use copies::read;
use dolmen_io::exec::Handle;
use dolmen_io::{Event, FileId, Op};
use dolmen_types::{LineId, PgId, Uuid};
use erase::Late;
use std::collections::BTreeSet;

/// How long a page may take on one drive. Milliseconds.
const WRITE_MS: u64 = 5_000;

/// Pages that are read at a time.
const READ_PAGES: u16 = 32;

/// A key as it is in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrappedKey {
    /// The line that it is the key of.
    pub line: LineId,
    /// The protection group that orders the line.
    pub pg: PgId,
    /// Names the cluster key that wraps it.
    pub cluster_key: [u8; 16],
    /// AES-256 key wrap of the line's key (RFC 3394).
    pub wrapped: [u8; WRAPPED_KEY_BYTES],
}

/// See the module. There is one per pool, on the core that owns its units.
#[derive(Debug)]
pub struct KeyTable {
    /// The drives that take pages.
    drives: Vec<FileId>,
    /// Drives that may fail to take a change; whoever runs the pool sees to it that they go out.
    spare: usize,
    pages: Vec<KeyPage>,
    /// By page the highest number that it was ever written under: what failed may be on a drive, or still come.
    tried: Vec<u64>,
    /// Pages that hold something on the drives of which nothing is known: they are left as they are.
    lost: Vec<u16>,
    /// Drives that did not take a page, and why. They are given no more.
    behind: Vec<(FileId, String)>,
    /// Writes of pages that were given up and may still come.
    late: Late,
}

impl KeyTable {
    /// Reads the table of an opened pool and brings copies up to date that a crash, a fault or a drive's absence left behind.
    /// `files[i]` is the handle of the plan's drive `i`.
    pub async fn load(
        exec: &Handle,
        plan: &PoolPlan,
        files: &[Option<FileId>],
    ) -> Result<KeyTable, StoreError> {
        let sources = Sources::of(plan, files);
        let Copies { pages, wrong, lost, .. } = read(exec, plan.pool, &sources).await?;
        let Sources { files: drives, spare, .. } = sources;
        let tried = pages.iter().map(|page| page.sequence).collect();
        let (behind, late) = (Vec::new(), Late::default());
        let mut table = KeyTable { drives, spare, pages, tried, lost, behind, late };
        table.mend(exec, &wrong).await?;
        Ok(table)
    }

    /// Reads every copy of every page on every drive, and writes anew those that are not what they should be.
    pub async fn scrub(&mut self, exec: &Handle) -> Result<LabelScrub, StoreError> {
        let pool = self.pages[0].pool;
        // All of them were given the whole table.
        let sources = Sources { files: self.drives.clone(), fresh: Vec::new(), spare: self.spare };
        let found = read(exec, pool, &sources).await?;
        let known = |copy: &&Copy| found.pages[usize::from(copy.page)] == self.pages[usize::from(copy.page)];
        // A page that is not the one in memory anywhere is none to mend others from.
        let wrong: Vec<Copy> = found.wrong.iter().filter(known).copied().collect();
        self.mend(exec, &wrong).await?;
        Ok(LabelScrub { checked_bytes: found.checked_bytes, mended: wrong.len() as u64 })
    }

    /// The keys, in no order.
    pub fn keys(&self) -> impl Iterator<Item = WrappedKey> + '_ {
        self.pages.iter().flat_map(keys_of)
    }

    /// The key of a line, as it is in the table.
    #[must_use]
    pub fn key(&self, line: LineId) -> Option<WrappedKey> {
        self.keys().find(|key| key.line == line)
    }

    /// Adds the key of a new line, durably. Before the line's first record.
    pub async fn add(&mut self, exec: &Handle, key: WrappedKey) -> Result<(), StoreError> {
        if self.key(key.line).is_some() {
            return Err(StoreError::Refused(format!("line {} has a key", key.line)));
        }
        let fits = |p: &&KeyPage| {
            (p.count() == 0 || p.cluster_key == key.cluster_key) && !self.lost.contains(&p.index)
        };
        let page = self.pages.iter().filter(fits).find(|p| p.keys.iter().any(Option::is_none));
        let Some(page) = page else {
            return Err(StoreError::Refused("the pool has as many encrypted lines as it can".into()));
        };
        let mut new = page.clone();
        new.cluster_key = key.cluster_key;
        if let Some(place) = new.keys.iter_mut().find(|k| k.is_none()) {
            *place = Some(KeySlot { line: key.line.0, pg: key.pg, wrapped: key.wrapped });
        }
        self.change(exec, new).await
    }

    /// Erases the keys of lines that are gone, in place on every drive; without them what is left of the lines' blocks can't be
    /// read by anyone. Nothing happens for a line without a key.
    pub async fn erase(&mut self, exec: &Handle, lines: &BTreeSet<LineId>) -> Result<(), StoreError> {
        let gone = |k: &Option<KeySlot>| k.is_some_and(|k| lines.contains(&LineId(k.line)));
        for index in 0..self.pages.len() {
            if !self.pages[index].keys.iter().any(gone) {
                continue;
            }
            let mut new = self.pages[index].clone();
            new.keys.iter_mut().filter(|k| gone(k)).for_each(|k| *k = None);
            if new.count() == 0 {
                new.cluster_key = [0; 16];
            }
            self.change(exec, new).await?;
        }
        Ok(())
    }

    /// Wraps every key that is not under cluster key `to` anew, page by page; what was done before a crash is not done again.
    /// `rewrap` answers `None` for a key that it can't unwrap: then that page stays as it is, and an error names the line.
    pub async fn rotate(
        &mut self,
        exec: &Handle,
        to: [u8; 16],
        rewrap: impl Fn(&WrappedKey) -> Option<[u8; WRAPPED_KEY_BYTES]>,
    ) -> Result<(), StoreError> {
        for index in 0..self.pages.len() {
            let page = &self.pages[index];
            if page.count() == 0 || page.cluster_key == to {
                continue;
            }
            let mut new = page.clone();
            for (slot, key) in new.keys.iter_mut().flatten().zip(keys_of(page)) {
                slot.wrapped = rewrap(&key).ok_or(StoreError::NoKey(key.line))?;
            }
            new.cluster_key = to;
            self.change(exec, new).await?;
        }
        Ok(())
    }

    /// Gives a drive that is about to join the pool the whole table, durably, and every change from then on. Its label area was
    /// zeroed before; it may count only after this.
    pub async fn join(&mut self, exec: &Handle, file: FileId) -> Result<(), StoreError> {
        for page in self.pages.iter().filter(|page| page.sequence > 0) {
            for copy in 0..KEY_COPIES {
                self.put(exec, file, page, copy).await.map_err(|why| refused(&why))?;
            }
        }
        self.leave(file);
        self.drives.push(file);
        Ok(())
    }

    /// A drive is out, or has left, or did not join after all: it takes no more pages.
    pub fn leave(&mut self, file: FileId) {
        self.drives.retain(|drive| *drive != file);
        self.behind.retain(|(drive, _)| *drive != file);
    }

    /// The drives that did not take a page and have not left since, and why: no change counts before they are out.
    #[must_use]
    pub fn behind(&self) -> &[(FileId, String)] {
        &self.behind
    }

    /// Makes a changed page durable, then believes it. Never under the number of a try that failed: a start could not tell the two apart.
    async fn change(&mut self, exec: &Handle, mut page: KeyPage) -> Result<(), StoreError> {
        let index = usize::from(page.index);
        self.tried[index] += 1;
        page.sequence = self.tried[index];
        self.write(exec, &page).await?;
        self.pages[index] = page;
        Ok(())
    }

    /// Writes copies anew, and no others: those that are right stay, whatever becomes of this.
    async fn mend(&mut self, exec: &Handle, wrong: &[Copy]) -> Result<(), StoreError> {
        for &Copy { file, page, copy } in wrong {
            if !self.drives.contains(&file) {
                continue;
            }
            let page = &self.pages[usize::from(page)];
            if let Err(why) = self.put(exec, file, page, copy).await {
                let failed = refused(&why);
                self.fall_behind(vec![(file, why)]);
                if self.drives.is_empty() || self.behind.len() > self.spare {
                    return Err(failed);
                }
            }
        }
        Ok(())
    }

    /// Writes both copies of a page on all drives, one after the other. A drive that did not take the first is not given the second: it
    /// may have torn one copy, and must not tear both.
    async fn write(&mut self, exec: &Handle, page: &KeyPage) -> Result<(), StoreError> {
        let mut failed: Vec<(FileId, String)> = Vec::new();
        for copy in 0..KEY_COPIES {
            for &file in &self.drives {
                if failed.iter().any(|(bad, _)| *bad == file) {
                    continue;
                }
                if let Err(why) = self.put(exec, file, page, copy).await {
                    failed.push((file, why));
                }
            }
            // Also where no drive is left that is given pages: nothing would have it.
            if failed.len() > self.spare || failed.len() == self.drives.len() {
                let why = failed.first().or(self.behind.first()).map(|(_, why)| why.as_str());
                return Err(refused(why.unwrap_or("no drive of the pool takes it")));
            }
        }
        self.fall_behind(failed);
        Ok(())
    }

    /// Drives did not take a page: they are given no more.
    fn fall_behind(&mut self, mut failed: Vec<(FileId, String)>) {
        self.drives.retain(|drive| failed.iter().all(|(bad, _)| bad != drive));
        self.behind.append(&mut failed);
    }

    /// Writes one copy of a page to one drive; one that was never written becomes zeros. Nothing goes to a drive on which an earlier write
    /// may still come: it would take this one back.
    async fn put(&self, exec: &Handle, file: FileId, page: &KeyPage, copy: u64) -> Result<(), String> {
        if self.late.has(file) {
            return Err("an earlier write of a page was given up and has not ended".into());
        }
        let bytes = if page.sequence > 0 { page.encode() } else { vec![0; PAGE_BYTES as usize] };
        let mut buf = exec.alloc(bytes.len()).await;
        buf.set_len(bytes.len());
        buf.copy_from_slice(&bytes);
        let offset = key_offset(page.index, copy);
        let data = vec![buf.freeze()];
        let mut writing = Box::pin(exec.start(Op::Write { file, offset, data, durable: true }));
        match within(exec, WRITE_MS, &mut writing).await {
            Some(Event::Failed { error, .. }) => Err(error.to_string()),
            Some(_) => Ok(()),
            None => {
                self.late.give_up(exec, file, writing);
                Err(format!("a page of the key table took longer than {WRITE_MS} ms"))
            }
        }
    }
}

/// A page was not written where it must be.
fn refused(why: &str) -> StoreError {
    StoreError::Drive(format!("the key table could not be written: {why}"))
}

/// The keys of a page.
fn keys_of(page: &KeyPage) -> impl Iterator<Item = WrappedKey> + '_ {
    let whole = |slot: &KeySlot| WrappedKey {
        line: LineId(slot.line),
        pg: slot.pg,
        cluster_key: page.cluster_key,
        wrapped: slot.wrapped,
    };
    page.keys.iter().flatten().map(whole)
}

/// The keys that the drives of a pool hold; reads only.
pub(crate) async fn read_keys(
    exec: &Handle,
    pool: Uuid,
    sources: &Sources,
) -> Result<Vec<WrappedKey>, StoreError> {
    let Copies { pages, .. } = read(exec, pool, sources).await?;
    Ok(pages.iter().flat_map(keys_of).collect())
}

/// What a check finds of the table on the drives; reads only.
pub(crate) async fn check_keys(exec: &Handle, pool: Uuid, sources: &Sources) -> Result<Copies, StoreError> {
    read(exec, pool, sources).await
}
