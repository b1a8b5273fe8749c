//! The one way in which stored bytes are read by anything that can wait: from their column, and when that is lost, fails, is late
//! or holds something else, through the other columns of the segment. What is late is still waited for: it counts if it comes first,
//! or if the others can't give the bytes.
//!
//! Host reads take the direct way by themselves (`read.rs`), since that is one operation into the caller's buffer; what does not
//! work out comes here too ([`serve`]).

use super::watch::{DriveRead, Unread, first};
use super::{Drives, Shared};
use crate::columns::Columns;
use crate::location::Location;
use crate::parity;
use dolmen_io::exec::{Completion, Handle};
use dolmen_io::{Buf, Op};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

/// Why bytes could not be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FetchError {
    /// Drives could not read, or are out: what the last one said.
    Medium(String),
    /// What the drives hold is not what was written.
    Damaged,
    /// There is no such place.
    Nowhere,
}

impl std::fmt::Display for FetchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FetchError::Medium(why) => f.write_str(why),
            FetchError::Damaged => f.write_str("does not check"),
            FetchError::Nowhere => f.write_str("is nowhere"),
        }
    }
}

/// From where bytes came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From their column.
    Direct,
    /// Through the others, since the drive is out or late.
    Around,
    /// Through the others, since the column failed or holds something else: it should be given up.
    Mended,
}

/// A place in a column of a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) columns: Columns,
    pub(crate) column: usize,
    pub(crate) offset: u32,
}

/// Waits for a future, but no longer than so many milliseconds.
pub(crate) async fn within<T>(exec: &Handle, ms: u64, future: impl Future<Output = T>) -> Option<T> {
    let sleep = exec.sleep_until(exec.now().plus_ms(ms));
    let (mut future, mut sleep) = (pin!(future), pin!(sleep));
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => sleep.as_mut().poll(cx).map(|()| None),
    })
    .await
}

/// A buffer, if the pool has one right now.
pub(super) async fn buffer_now(exec: &Handle, len: usize) -> Option<Buf> {
    let mut alloc = pin!(exec.alloc(len));
    let buf = poll_fn(|cx| match alloc.as_mut().poll(cx) {
        Poll::Ready(buf) => Poll::Ready(Some(buf)),
        Poll::Pending => Poll::Ready(None),
    });
    buf.await.map(|mut buf| {
        buf.set_len(len);
        buf
    })
}

async fn buffer(exec: &Handle, len: usize) -> Buf {
    let mut buf = exec.alloc(len).await;
    buf.set_len(len);
    buf
}

/// A read of a place from its own column.
enum Direct {
    UnderWay(Completion),
    /// The drive is out.
    Out(Buf),
    /// The drive answers late: it is asked where the others do not give the bytes.
    Late(Buf),
}

impl Drives {
    /// The bytes at a place, for which `holds` is true; `buf` is as long as they are.
    pub(crate) async fn fetch(
        &self,
        exec: &Handle,
        place: Place,
        buf: Buf,
        holds: impl Fn(&[u8]) -> bool,
    ) -> Result<(Buf, Way), FetchError> {
        let len = buf.len();
        let direct = self.start(exec, place, buf).ok_or(FetchError::Nowhere)?;
        self.finish(exec, place, len, direct, holds).await
    }

    /// Begins to read a place from its own column. `None` when there is no such place.
    fn start(&self, exec: &Handle, place: Place, buf: Buf) -> Option<Direct> {
        let unit = place.columns.unit(place.column)?;
        if u64::from(place.offset) + buf.len() as u64 > u64::from(self.unit_bytes) {
            return None;
        }
        if self.is_late(unit.drive) && place.columns.parity() > 0 {
            return Some(Direct::Late(buf));
        }
        Some(match self.place(unit, place.offset) {
            Some((file, offset)) => Direct::UnderWay(exec.start(Op::Read { file, offset, buf })),
            None => Direct::Out(buf),
        })
    }

    /// The bytes at a place whose own column is being read.
    async fn finish(
        &self,
        exec: &Handle,
        place: Place,
        len: usize,
        direct: Direct,
        holds: impl Fn(&[u8]) -> bool,
    ) -> Result<(Buf, Way), FetchError> {
        let drive = place.columns.unit(place.column).ok_or(FetchError::Nowhere)?.drive;
        let (mut way, mut late, mut kept) = (Way::Around, None, None);
        let mut sets = parity::sources(place.columns.data(), place.columns.parity(), place.column);
        let error = match direct {
            Direct::Out(buf) => {
                kept = Some(buf);
                FetchError::Medium(format!("drive {drive} is out"))
            }
            Direct::Late(buf) => {
                sets.push(vec![place.column]);
                kept = Some(buf);
                FetchError::Medium(format!("drive {drive} does not answer"))
            }
            Direct::UnderWay(read) => {
                let mut read = self.reading(exec, drive, read);
                let ended = if place.columns.parity() == 0 {
                    Some((&mut read).await)
                } else {
                    self.prompt(exec, &mut read).await
                };
                match ended {
                    Some(Ok(buf)) if holds(&buf) => return Ok((buf, Way::Direct)),
                    Some(ended) => {
                        // One that went out meanwhile has failed no more than that.
                        way = if self.counts(drive) { Way::Mended } else { Way::Around };
                        let (error, buf) = useless(ended);
                        kept = buf;
                        error
                    }
                    None => {
                        late = Some(read);
                        FetchError::Medium(format!("drive {drive} does not answer"))
                    }
                }
            }
        };
        let others = pin!(self.around(exec, place, sets, kept, len, &holds));
        match sooner(late, others, &holds).await {
            Sooner::Late(buf) => Ok((buf, Way::Direct)),
            Sooner::Others(Ok(buf)) => {
                self.count_mended();
                if way == Way::Mended {
                    self.strike(drive, exec.now(), &error.to_string());
                }
                Ok((buf, way))
            }
            Sooner::Others(Err(why)) => Err(why.unwrap_or(error)),
        }
    }

    /// The bytes at a place by way of one of these sets of columns; what the last ones said, if there are any.
    async fn around(
        &self,
        exec: &Handle,
        place: Place,
        mut sets: Vec<Vec<usize>>,
        mut kept: Option<Buf>,
        len: usize,
        holds: &impl Fn(&[u8]) -> bool,
    ) -> Result<Buf, Option<FetchError>> {
        let drive_of = |&column: &usize| place.columns.unit(column).map(|unit| unit.drive);
        let is_in = |set: &Vec<usize>| set.iter().filter_map(drive_of).all(|drive| self.counts(drive));
        // One that is out says so, where there is no other.
        if sets.iter().any(is_in) {
            sets.retain(is_in);
        }
        let late = |set: &Vec<usize>| set.iter().filter_map(drive_of).any(|drive| self.is_late(drive));
        let ways = || {
            let next = sets.iter().position(|set| !late(set)).unwrap_or(0);
            let sources = (next < sets.len()).then(|| sets.remove(next))?;
            let kept = kept.take();
            Some(async move {
                let buf = match kept {
                    Some(buf) => buf,
                    None => buffer(exec, len).await,
                };
                match self.combine(exec, place, &sources, buf).await {
                    Ok(buf) if holds(&buf) => Ok(buf),
                    Ok(_) => Err(FetchError::Damaged),
                    Err(why) => Err(FetchError::Medium(why)),
                }
            })
        };
        first(exec, self.slow_read_ms, ways).await.map_err(|mut whys| whys.pop())
    }

    /// Computes the bytes at a place from those at the same offset of other columns; from itself, reads them. `out` is as long as they are,
    /// and the only buffer that it needs: with others it is faster, and it waits for none, since who holds them may wait for this.
    pub(super) async fn combine(
        &self,
        exec: &Handle,
        place: Place,
        sources: &[usize],
        out: Buf,
    ) -> Result<Buf, String> {
        let len = out.len();
        let begin = |source: usize, buf: Buf| {
            let unit = place.columns.unit(source).ok_or("there is no such column")?;
            let (file, offset) =
                self.place(unit, place.offset).ok_or_else(|| format!("drive {} is out", unit.drive))?;
            Ok::<_, String>(self.reading(exec, unit.drive, exec.start(Op::Read { file, offset, buf })))
        };
        let arrived = async |read| self.arrived(exec, read).await.map_err(|unread: Unread| unread.why);
        if let &[source] = sources
            && (place.columns.data() == 1 || source == place.column)
        {
            return arrived(begin(source, out)?).await;
        }
        let mut reads: VecDeque<DriveRead<'_>> = VecDeque::new();
        let (mut parts, mut out) = (Vec::new(), Some(out));
        for &source in sources {
            let mut buf = buffer_now(exec, len).await.or_else(|| out.take());
            if buf.is_none()
                && let Some(read) = reads.pop_front()
            {
                let done = arrived(read).await?;
                parts.push(Part::Copy(done.to_vec()));
                buf = Some(done);
            }
            reads.push_back(begin(source, buf.expect("what took the last one is under way"))?);
        }
        for read in reads {
            parts.push(Part::Read(arrived(read).await?));
        }
        // What was read into it has to make room.
        let last = parts.last_mut().filter(|_| out.is_none());
        let mut out = out.or_else(|| last.and_then(Part::copied)).ok_or("there are no such columns")?;
        let bytes: Vec<&[u8]> = parts.iter().map(Part::bytes).collect();
        let code = (place.columns.data(), place.columns.parity());
        if parity::rebuild(code, place.column, sources, &bytes, &mut out) {
            Ok(out)
        } else {
            Err("these columns do not give the lost one".into())
        }
    }
}

/// Why what came of a read is of no use, and its buffer.
fn useless(ended: Result<Buf, Unread>) -> (FetchError, Option<Buf>) {
    match ended {
        Ok(buf) => (FetchError::Damaged, Some(buf)),
        Err(Unread { why, buf }) => (FetchError::Medium(why), buf),
    }
}

/// Which of two ways gave the bytes, or that neither did.
enum Sooner {
    Late(Buf),
    Others(Result<Buf, Option<FetchError>>),
}

/// Waits for a late read and for the other columns, until one of them gives the bytes. A late one that is of no use gives its buffer
/// back at once, since the others may need it.
async fn sooner(
    mut late: Option<DriveRead<'_>>,
    mut others: Pin<&mut impl Future<Output = Result<Buf, Option<FetchError>>>>,
    holds: &impl Fn(&[u8]) -> bool,
) -> Sooner {
    let mut failed = None;
    poll_fn(|cx| {
        if let Some(read) = &mut late
            && let Poll::Ready(ended) = Pin::new(read).poll(cx)
        {
            late = None;
            match ended {
                Ok(buf) if holds(&buf) => return Poll::Ready(Sooner::Late(buf)),
                // Of two reasons this is the one that tells more.
                ended if failed.is_some() => failed = Some(Some(useless(ended).0)),
                _ => {}
            }
        }
        if failed.is_none()
            && let Poll::Ready(ended) = others.as_mut().poll(cx)
        {
            match ended {
                Ok(buf) => return Poll::Ready(Sooner::Others(Ok(buf))),
                Err(why) => failed = Some(why),
            }
        }
        match failed.take_if(|_| late.is_none()) {
            Some(why) => Poll::Ready(Sooner::Others(Err(why))),
            None => Poll::Pending,
        }
    })
    .await
}

/// What was read of one column.
enum Part {
    Read(Buf),
    /// Its buffer went on to the next column.
    Copy(Vec<u8>),
}

impl Part {
    /// Goes on as a copy, and gives its buffer.
    fn copied(&mut self) -> Option<Buf> {
        let copy = Part::Copy(self.bytes().to_vec());
        match std::mem::replace(self, copy) {
            Part::Read(buf) => Some(buf),
            Part::Copy(_) => None,
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Part::Read(buf) => buf,
            Part::Copy(bytes) => bytes,
        }
    }
}

/// The bytes stored at a location of a shard, for which `holds` is true; `buf` is as long as they are.
pub(crate) async fn stored(
    shard: &Shared,
    exec: &Handle,
    location: Location,
    buf: Buf,
    holds: impl Fn(&[u8]) -> bool,
) -> Result<Buf, FetchError> {
    stored_how(shard, exec, location, buf, holds).await.map(|(buf, _)| buf)
}

/// Likewise, and the way in which they came.
pub(crate) async fn stored_how(
    shard: &Shared,
    exec: &Handle,
    location: Location,
    buf: Buf,
    holds: impl Fn(&[u8]) -> bool,
) -> Result<(Buf, Way), FetchError> {
    end_how(shard, exec, begin(shard, exec, location, buf), holds).await
}

/// A read on its way, see [`begin`].
pub(crate) struct Started {
    location: Location,
    drives: Rc<Drives>,
    len: usize,
    read: Option<(Place, Direct)>,
}

/// Starts to read the bytes stored at a location, so that several such reads go side by side.
pub(crate) fn begin(shard: &Shared, exec: &Handle, location: Location, buf: Buf) -> Started {
    let (s, len) = (shard.borrow(), buf.len());
    let (column, offset) = location.place(s.drives.unit_bytes);
    let columns = s.segments.at(location.slot()).map(|seg| seg.columns).filter(|c| column < c.data());
    let read = columns.and_then(|columns| {
        let place = Place { columns, column, offset };
        Some((place, s.drives.start(exec, place, buf)?))
    });
    Started { location, drives: s.drives.clone(), len, read }
}

/// The bytes of a read that was begun, for which `holds` is true; through other columns if the direct way does not work out.
pub(crate) async fn end(
    shard: &Shared,
    exec: &Handle,
    started: Started,
    holds: impl Fn(&[u8]) -> bool,
) -> Result<Buf, FetchError> {
    end_how(shard, exec, started, holds).await.map(|(buf, _)| buf)
}

async fn end_how(
    shard: &Shared,
    exec: &Handle,
    started: Started,
    holds: impl Fn(&[u8]) -> bool,
) -> Result<(Buf, Way), FetchError> {
    let Started { location, drives, len, read } = started;
    let (place, direct) = read.ok_or(FetchError::Nowhere)?;
    let (buf, way) = drives.finish(exec, place, len, direct, holds).await?;
    if way == Way::Mended {
        shard.borrow_mut().suspect(location.slot(), &place.columns, &[place.column]);
    }
    Ok((buf, way))
}
