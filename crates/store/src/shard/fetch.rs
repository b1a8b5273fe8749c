//! The one way in which stored bytes are read by anything that can wait: from their column, and when that is lost, fails, is late
//! or holds something else, through the other columns of the segment.
//!
//! Host reads take the direct way by themselves (`read.rs`), since that is one operation into the caller's buffer; what does not
//! work out comes here too ([`serve`]).

use super::{Drives, Shared};
use crate::columns::Columns;
use crate::location::Location;
use crate::parity;
use dolmen_io::exec::{Completion, Handle};
use dolmen_io::{Buf, Event, Op};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
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
async fn buffer_now(exec: &Handle, len: usize) -> Option<Buf> {
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
        let Some(unit) = place.columns.unit(place.column) else { return Err(FetchError::Nowhere) };
        if u64::from(place.offset) + len as u64 > u64::from(self.unit_bytes) {
            return Err(FetchError::Nowhere);
        }
        let (mut way, mut error, mut kept) = (Way::Around, FetchError::Damaged, None);
        match self.place(unit, place.offset) {
            None => {
                error = FetchError::Medium(format!("drive {} is out", unit.drive));
                kept = Some(buf);
            }
            Some((file, offset)) => {
                let read = exec.start(Op::Read { file, offset, buf });
                let event = if place.columns.parity() == 0 {
                    Some(read.await)
                } else {
                    within(exec, self.slow_read_ms, read).await
                };
                match event {
                    Some(Event::Read(buf)) if holds(&buf) => return Ok((buf, Way::Direct)),
                    Some(Event::Read(buf)) => (way, kept) = (Way::Mended, Some(buf)),
                    Some(Event::Failed { error: e, buf }) => {
                        (way, error, kept) = (Way::Mended, FetchError::Medium(e.to_string()), buf);
                    }
                    _ => error = FetchError::Medium(format!("drive {} does not answer", unit.drive)),
                }
            }
        }
        let mut buf = match kept {
            Some(buf) => buf,
            None => buffer(exec, len).await,
        };
        for sources in parity::sources(place.columns.data(), place.columns.parity(), place.column) {
            match self.combine(exec, place, &sources, &mut buf).await {
                Ok(()) if holds(&buf) => {
                    self.count_mended();
                    if way == Way::Mended {
                        self.strike(unit.drive, exec.now(), &error.to_string());
                    }
                    return Ok((buf, way));
                }
                Ok(()) => error = FetchError::Damaged,
                Err(why) => error = FetchError::Medium(why),
            }
        }
        Err(error)
    }

    /// Computes the bytes at a place from those at the same offset of other columns; from itself, reads them.
    pub(super) async fn combine(
        &self,
        exec: &Handle,
        place: Place,
        sources: &[usize],
        out: &mut Buf,
    ) -> Result<(), String> {
        let mut reads: VecDeque<Completion> = VecDeque::new();
        let mut parts = Vec::new();
        for &source in sources {
            let unit = place.columns.unit(source).ok_or("there is no such column")?;
            let (file, offset) =
                self.place(unit, place.offset).ok_or_else(|| format!("drive {} is out", unit.drive))?;
            // What is read ahead must not wait for buffers that others of its kind hold.
            let mut buf = buffer_now(exec, out.len()).await;
            if buf.is_none()
                && let Some(read) = reads.pop_front()
            {
                let done = arrived(read).await?;
                parts.push(Part::Copy(done.to_vec()));
                buf = Some(done);
            }
            let buf = match buf {
                Some(buf) => buf,
                None => buffer(exec, out.len()).await,
            };
            reads.push_back(exec.start(Op::Read { file, offset, buf }));
        }
        for read in reads {
            parts.push(Part::Read(arrived(read).await?));
        }
        let bytes: Vec<&[u8]> = parts.iter().map(Part::bytes).collect();
        match bytes.as_slice() {
            [one] if place.columns.data() == 1 || sources == [place.column] => out.copy_from_slice(one),
            _ => {
                let code = (place.columns.data(), place.columns.parity());
                if !parity::rebuild(code, place.column, sources, &bytes, out) {
                    return Err("these columns do not give the lost one".into());
                }
            }
        }
        Ok(())
    }
}

/// What was read of one column.
enum Part {
    Read(Buf),
    /// Its buffer went on to the next column.
    Copy(Vec<u8>),
}

impl Part {
    fn bytes(&self) -> &[u8] {
        match self {
            Part::Read(buf) => buf,
            Part::Copy(bytes) => bytes,
        }
    }
}

/// What a read came to.
async fn arrived(read: Completion) -> Result<Buf, String> {
    match read.await {
        Event::Read(buf) => Ok(buf),
        Event::Failed { error, .. } => Err(error.to_string()),
        other => Err(format!("the driver answered a read with {other:?}")),
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
    let (drives, place) = {
        let s = shard.borrow();
        let columns = s.segments.at(location.slot()).map(|seg| seg.columns).ok_or(FetchError::Nowhere)?;
        let (column, offset) = location.place(s.drives.unit_bytes);
        if column >= columns.data() {
            return Err(FetchError::Nowhere);
        }
        (s.drives.clone(), Place { columns, column, offset })
    };
    let (buf, way) = drives.fetch(exec, place, buf, holds).await?;
    if way == Way::Mended {
        shard.borrow_mut().suspect(location.slot(), &place.columns);
    }
    Ok((buf, way))
}

/// A read on its way, see [`begin`].
pub(crate) struct Started {
    location: Location,
    len: usize,
    read: Option<Completion>,
}

/// Starts to read the bytes stored at a location, so that several such reads go side by side.
pub(crate) fn begin(shard: &Shared, exec: &Handle, location: Location, buf: Buf) -> Started {
    let (s, len) = (shard.borrow(), buf.len());
    let columns = s.segments.at(location.slot()).map(|seg| seg.columns);
    let (column, offset) = location.place(s.drives.unit_bytes);
    let inside = u64::from(offset) + len as u64 <= u64::from(s.drives.unit_bytes);
    let place = columns.filter(|_| inside).and_then(|c| s.drives.place(c.unit(column)?, offset));
    Started { location, len, read: place.map(|(file, offset)| exec.start(Op::Read { file, offset, buf })) }
}

/// The bytes of a read that was begun, for which `holds` is true; through other columns if the direct way does not work out.
pub(crate) async fn end(
    shard: &Shared,
    exec: &Handle,
    started: Started,
    holds: impl Fn(&[u8]) -> bool,
) -> Result<Buf, FetchError> {
    let (slow_read_ms, mendable) = {
        let s = shard.borrow();
        let columns = s.segments.at(started.location.slot()).map(|seg| seg.columns);
        (s.drives.slow_read_ms, columns.is_some_and(|c| c.parity() > 0))
    };
    let event = match started.read {
        Some(read) if mendable => within(exec, slow_read_ms, read).await,
        Some(read) => Some(read.await),
        None => None,
    };
    match event {
        Some(Event::Read(buf)) if holds(&buf) => Ok(buf),
        Some(Event::Failed { error, .. }) if !mendable => Err(FetchError::Medium(error.to_string())),
        _ => stored(shard, exec, started.location, buffer(exec, started.len).await, holds).await,
    }
}
