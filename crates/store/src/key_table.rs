//! The key table: the wrapped keys of encrypted lines, on every drive in two copies, changed in place.
//!
//! A change writes the first copy of a page on all drives, durably, then the second: a crash tears one copy of each drive at most,
//! and the newest page that checks counts. Changes are one page each and all or nothing, so a rotation that a crash cuts short has
//! some pages under the old cluster key and the rest under the new one, and goes on from there. An erased key is gone from every copy.
//! Never: sees a key that is not wrapped.

use crate::format::PAGE_BYTES;
use crate::format::keys::{KEY_COPIES, KEY_PAGES, KeyPage, WRAPPED_KEY_BYTES, key_offset};
use crate::{PoolPlan, StoreError};
use dolmen_io::FileId;
use dolmen_io::exec::Handle;
use dolmen_types::{LineId, Uuid};

/// A key as it is in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrappedKey {
    /// The line that it is the key of.
    pub line: LineId,
    /// Names the cluster key that wraps it.
    pub cluster_key: [u8; 16],
    /// AES-256 key wrap of the line's key (RFC 3394).
    pub wrapped: [u8; WRAPPED_KEY_BYTES],
}

/// See the module. There is one per pool, on the core that owns its units.
#[derive(Debug)]
pub struct KeyTable {
    /// The drives that are there.
    files: Vec<FileId>,
    /// Drives that may fail to take a page.
    spare: usize,
    pages: Vec<KeyPage>,
}

impl KeyTable {
    /// Reads the table of an opened pool and brings copies up to date that a crash, a fault or a drive's absence left behind.
    /// `files[i]` is the handle of the plan's drive `i`.
    pub async fn load(
        exec: &Handle,
        plan: &PoolPlan,
        files: &[Option<FileId>],
    ) -> Result<KeyTable, StoreError> {
        let files: Vec<FileId> = files.iter().flatten().copied().collect();
        let mut table = KeyTable { files, spare: usize::from(plan.parity), pages: Vec::new() };
        for index in 0..KEY_PAGES {
            let (page, stale) = table.newest(exec, plan.pool, index).await?;
            if stale {
                table.write(exec, &page).await?;
            }
            table.pages.push(page);
        }
        Ok(table)
    }

    /// The keys, in no order.
    pub fn keys(&self) -> impl Iterator<Item = WrappedKey> + '_ {
        self.pages.iter().flat_map(|page| {
            let key = |&(line, wrapped): &(u64, [u8; WRAPPED_KEY_BYTES])| WrappedKey {
                line: LineId(line),
                cluster_key: page.cluster_key,
                wrapped,
            };
            page.keys.iter().flatten().map(key)
        })
    }

    /// Adds the key of a new line, durably. Before the line's first record.
    pub async fn add(&mut self, exec: &Handle, key: WrappedKey) -> Result<(), StoreError> {
        if self.keys().any(|k| k.line == key.line) {
            return Err(StoreError::Refused(format!("line {} has a key", key.line)));
        }
        let fits = |p: &&mut KeyPage| p.count() == 0 || p.cluster_key == key.cluster_key;
        let page = self.pages.iter_mut().filter(fits).find(|p| p.keys.iter().any(Option::is_none));
        let Some(page) = page else {
            return Err(StoreError::Refused("the pool has as many encrypted lines as it can".into()));
        };
        let mut new = page.clone();
        new.cluster_key = key.cluster_key;
        if let Some(place) = new.keys.iter_mut().find(|k| k.is_none()) {
            *place = Some((key.line.0, key.wrapped));
        }
        self.change(exec, new).await
    }

    /// Erases the key of a line that is gone, in place on every drive; without it what is left of the line's blocks can't be read
    /// by anyone. Nothing happens for a line without a key.
    pub async fn erase(&mut self, exec: &Handle, line: LineId) -> Result<(), StoreError> {
        let holds = |k: &Option<(u64, [u8; WRAPPED_KEY_BYTES])>| k.is_some_and(|(l, _)| l == line.0);
        let Some(page) = self.pages.iter().find(|p| p.keys.iter().any(holds)) else { return Ok(()) };
        let mut new = page.clone();
        new.keys.iter_mut().filter(|k| holds(k)).for_each(|k| *k = None);
        if new.count() == 0 {
            new.cluster_key = [0; 16];
        }
        self.change(exec, new).await
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
            for key in new.keys.iter_mut().flatten() {
                let (line, cluster_key) = (LineId(key.0), page.cluster_key);
                let renewed = rewrap(&WrappedKey { line, cluster_key, wrapped: key.1 });
                key.1 = renewed.ok_or(StoreError::NoKey(line))?;
            }
            new.cluster_key = to;
            self.change(exec, new).await?;
        }
        Ok(())
    }

    /// Makes a changed page durable, then believes it.
    async fn change(&mut self, exec: &Handle, mut page: KeyPage) -> Result<(), StoreError> {
        page.sequence += 1;
        self.write(exec, &page).await?;
        let index = usize::from(page.index);
        self.pages[index] = page;
        Ok(())
    }

    /// Writes both copies of a page on all drives, one after the other.
    async fn write(&self, exec: &Handle, page: &KeyPage) -> Result<(), StoreError> {
        let bytes = page.encode();
        for copy in 0..KEY_COPIES {
            let (mut failed, mut last) = (0, String::new());
            for &file in &self.files {
                let mut buf = exec.alloc(bytes.len()).await;
                buf.set_len(bytes.len());
                buf.copy_from_slice(&bytes);
                let at = key_offset(page.index, copy);
                if let Err(error) = exec.write_durable(file, at, vec![buf.freeze()]).await {
                    (failed, last) = (failed + 1, error.to_string());
                }
            }
            if failed > self.spare.min(self.files.len() - 1) {
                return Err(StoreError::Drive(format!("the key table could not be written: {last}")));
            }
        }
        Ok(())
    }

    /// The newest page that checks, and whether some copy is another. Without any the page is empty: it was never written, or
    /// torn when it first was, and no line counts on it.
    async fn newest(&self, exec: &Handle, pool: Uuid, index: u16) -> Result<(KeyPage, bool), StoreError> {
        let mut found = Vec::new();
        let mut failed = String::new();
        for &file in &self.files {
            for copy in 0..KEY_COPIES {
                let mut buf = exec.alloc(PAGE_BYTES as usize).await;
                buf.set_len(PAGE_BYTES as usize);
                match exec.read(file, key_offset(index, copy), buf).await {
                    Ok(buf) => found.push(KeyPage::decode(&buf, pool, index)),
                    Err((error, _)) => failed = error.to_string(),
                }
            }
        }
        if found.is_empty() {
            return Err(StoreError::Drive(format!("the key table could not be read: {failed}")));
        }
        let newest = found.iter().flatten().max_by_key(|p| p.sequence).cloned();
        let stale = newest.is_some() && found.iter().any(|p| *p != newest);
        Ok((newest.unwrap_or_else(|| KeyPage::empty(pool, index)), stale))
    }
}
