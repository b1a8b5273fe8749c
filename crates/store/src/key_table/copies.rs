//! What the copies of the key table say on the drives; reads only.

use super::READ_PAGES;
use crate::format::PAGE_BYTES;
use crate::format::keys::{KEY_COPIES, KEY_PAGES, KeyPage, key_offset};
use crate::shard::within;
use crate::{PoolPlan, StoreError};
use dolmen_io::FileId;
use dolmen_io::exec::Handle;
use dolmen_types::Uuid;

/// How long some pages may take to be read. Milliseconds.
const READ_MS: u64 = 15_000;

/// A copy of a page on a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) file: FileId,
    pub(crate) page: u16,
    pub(crate) copy: u64,
}

/// What all copies of the table say.
#[derive(Default)]
pub(crate) struct Copies {
    /// The newest page of each number that checks. One without any copy that checks is empty: it was never written, or torn when it
    /// first was, and no line counts on it.
    pub(crate) pages: Vec<KeyPage>,
    /// Copies that are something else, of pages that some copy gives: the newest page, or zeros where there never was one.
    pub(crate) wrong: Vec<Copy>,
    /// Pages that hold something on every drive, and no copy checks.
    pub(crate) lost: Vec<u16>,
    /// Bytes that were read.
    pub(crate) checked_bytes: u64,
}

/// What is in the place of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Held {
    Page(Box<KeyPage>),
    Zeros,
    /// Neither of these, or it can't be read.
    Nothing,
}

/// The drives whose copies are read.
pub(crate) struct Sources {
    pub(crate) files: Vec<FileId>,
    /// Those that may have joined since anything was written there: that one of them has no page tells nothing of the others.
    pub(crate) fresh: Vec<FileId>,
    /// Drives that may be silent.
    pub(crate) spare: usize,
}

impl Sources {
    /// The drives of an opened pool, of which `files[i]` is the handle of the plan's drive `i`.
    pub(crate) fn of(plan: &PoolPlan, files: &[Option<FileId>]) -> Sources {
        let fresh = files.iter().zip(&plan.drives).filter(|(_, d)| d.fresh).filter_map(|(file, _)| *file);
        let (files, fresh) = (files.iter().flatten().copied().collect(), fresh.collect());
        Sources { files, fresh, spare: usize::from(plan.parity) }
    }
}

/// Reads the whole table.
pub(super) async fn read(exec: &Handle, pool: Uuid, sources: &Sources) -> Result<Copies, StoreError> {
    let files = &sources.files;
    let mut found: Vec<Vec<(Copy, Result<Held, String>)>> = vec![Vec::new(); usize::from(KEY_PAGES)];
    for &file in files {
        let mut answers = true;
        for copy in 0..KEY_COPIES {
            for first in (0..KEY_PAGES).step_by(usize::from(READ_PAGES)) {
                let pages = READ_PAGES.min(KEY_PAGES - first);
                let run = read_run(exec, pool, file, (first, pages), copy, &mut answers).await;
                for (page, held) in (first..).zip(run) {
                    found[usize::from(page)].push((Copy { file, page, copy }, held));
                }
            }
        }
    }
    let pages = u64::from(KEY_PAGES) * KEY_COPIES * files.len() as u64;
    let mut copies = Copies { checked_bytes: pages * u64::from(PAGE_BYTES), ..Copies::default() };
    for (index, held) in (0..).zip(found) {
        if let Some(why) = unknown(sources, &held) {
            return Err(StoreError::Drive(format!("the key table could not be read: {why}")));
        }
        let held = held.into_iter().map(|(copy, held)| (copy, held.unwrap_or(Held::Nothing)));
        copies.take(pool, index, held.collect());
    }
    Ok(copies)
}

/// Why the newest version of a page may be one that can't be read: a drive that gives neither copy may be the only one that has it.
fn unknown(sources: &Sources, held: &[(Copy, Result<Held, String>)]) -> Option<String> {
    let why = held.iter().find_map(|(_, held)| held.as_ref().err())?;
    let silent =
        |file: &&FileId| held.iter().filter(|(copy, _)| copy.file == **file).all(|(_, h)| h.is_err());
    let tells = |(copy, held): &(Copy, Result<Held, String>)| match held {
        Ok(Held::Page(_)) => true,
        Ok(Held::Zeros) => !sources.fresh.contains(&copy.file),
        Ok(Held::Nothing) | Err(_) => false,
    };
    let silent = sources.files.iter().filter(silent).count();
    (!held.iter().any(tells) || silent > sources.spare).then(|| why.clone())
}

impl Copies {
    /// Sees which of a page's copies counts, and which differ from it.
    fn take(&mut self, pool: Uuid, index: u16, held: Vec<(Copy, Held)>) {
        let pages =
            held.iter().filter_map(|(_, held)| if let Held::Page(page) = held { Some(page) } else { None });
        let right = match pages.max_by_key(|p| p.sequence) {
            Some(page) => Held::Page(page.clone()),
            None => Held::Zeros,
        };
        self.pages.push(if let Held::Page(page) = &right {
            (**page).clone()
        } else {
            KeyPage::empty(pool, index)
        });
        if held.iter().any(|(_, held)| *held == right) {
            self.wrong.extend(held.iter().filter(|(_, held)| *held != right).map(|(copy, _)| *copy));
        } else if !held.is_empty() {
            self.lost.push(index);
        }
    }
}

/// Some pages of one copy; one by one where they can't be read together. A drive that does not answer is not asked again.
async fn read_run(
    exec: &Handle,
    pool: Uuid,
    file: FileId,
    (first, pages): (u16, u16),
    copy: u64,
    answers: &mut bool,
) -> Vec<Result<Held, String>> {
    if let Ok(held) = read_pages(exec, pool, file, (first, pages), copy, answers).await {
        return held.into_iter().map(Ok).collect();
    }
    let mut all = Vec::new();
    for page in first..first + pages {
        let held = read_pages(exec, pool, file, (page, 1), copy, answers).await;
        all.push(held.map(|held| held.into_iter().next().unwrap_or(Held::Nothing)));
    }
    all
}

async fn read_pages(
    exec: &Handle,
    pool: Uuid,
    file: FileId,
    (first, pages): (u16, u16),
    copy: u64,
    answers: &mut bool,
) -> Result<Vec<Held>, String> {
    let late = || format!("reading the key table took longer than {READ_MS} ms");
    if !*answers {
        return Err(late());
    }
    let len = usize::from(pages) * PAGE_BYTES as usize;
    let mut buf = exec.alloc(len).await;
    buf.set_len(len);
    let read = within(exec, READ_MS, exec.read(file, key_offset(first, copy), buf)).await;
    let buf = match read {
        Some(Ok(buf)) => buf,
        Some(Err((error, _))) => return Err(error.to_string()),
        None => {
            *answers = false;
            return Err(late());
        }
    };
    let held = |(index, bytes): (u16, &[u8])| match KeyPage::decode(bytes, pool, index) {
        Some(page) => Held::Page(Box::new(page)),
        None if bytes.iter().all(|&b| b == 0) => Held::Zeros,
        None => Held::Nothing,
    };
    Ok((first..).zip(buf.chunks_exact(PAGE_BYTES as usize)).map(held).collect())
}
