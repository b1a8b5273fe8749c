//! Reading a segment as a log: its header, then commit after commit, through a window.

use super::Geometry;
use super::meta::STAGE_BYTES;
use crate::UnitId;
use crate::format::PAGE_BYTES;
use crate::format::commit::{self, CommitHeader, LogIdentity};
use crate::format::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::location::Slot;
use dolmen_io::{Buf, exec::Handle};
use std::rc::Rc;

/// Bytes that are read ahead: a few small commits, or the header of a large one.
const WINDOW_BYTES: u32 = 32 * 1024;

/// Reads one unit.
pub(crate) struct SegmentScan {
    exec: Handle,
    geometry: Rc<Geometry>,
    unit: UnitId,
    window: Option<(u32, Buf)>,
}

impl SegmentScan {
    pub(crate) fn new(exec: Handle, geometry: Rc<Geometry>, unit: UnitId) -> SegmentScan {
        SegmentScan { exec, geometry, unit, window: None }
    }

    /// The segment header, if the unit begins with one that says it is there.
    pub(crate) async fn header(&mut self) -> Result<Option<SegmentHeader>, String> {
        let unit = self.unit;
        let unit_bytes = self.geometry.unit_bytes;
        let header = self.bytes(0, SEGMENT_HEADER_BYTES).await?.and_then(SegmentHeader::decode);
        Ok(header
            .filter(|h| h.members.get(usize::from(h.column)) == Some(&unit) && h.unit_bytes == unit_bytes))
    }

    /// The commit of this log at `offset`: its header and the header's bytes. `None` when there is none that holds.
    pub(crate) async fn commit(
        &mut self,
        id: &LogIdentity,
        slot: Option<Slot>,
        offset: u32,
    ) -> Result<Option<(CommitHeader, Vec<u8>)>, String> {
        let unit_bytes = self.geometry.unit_bytes;
        let Some(first) = self.bytes(offset, PAGE_BYTES).await? else { return Ok(None) };
        let Some(len) = commit::claimed_len(first) else { return Ok(None) };
        let len = u32::try_from(len).expect("at most MAX_HEADER_BYTES");
        let Some(bytes) = self.bytes(offset, len).await? else { return Ok(None) };
        Ok(commit::decode(bytes, id, slot, offset, unit_bytes).map(|h| (h, bytes.to_vec())))
    }

    /// A commit's payload.
    pub(crate) async fn payload(&mut self, header: &CommitHeader) -> Result<Vec<u8>, String> {
        let mut payload = Vec::new();
        let mut at = u64::from(header.place.offset) + u64::from(header.header_len);
        while at < header.end() {
            let left = usize::try_from(header.end() - at).expect("bounded by the unit");
            let mut buf = self.exec.alloc(left.min(STAGE_BYTES)).await;
            buf.set_len(left.min(STAGE_BYTES));
            let (file, offset) = self.geometry.place(self.unit, at);
            let buf = self.exec.read(file, offset, buf).await.map_err(|(e, _)| e.to_string())?;
            at += buf.len() as u64;
            payload.extend_from_slice(&buf);
        }
        Ok(payload)
    }

    /// `len` bytes at `offset` of the unit; `None` beyond its end.
    async fn bytes(&mut self, offset: u32, len: u32) -> Result<Option<&[u8]>, String> {
        let unit_bytes = self.geometry.unit_bytes;
        if offset.checked_add(len).is_none_or(|end| end > unit_bytes) {
            return Ok(None);
        }
        let covers =
            |w: &(u32, Buf)| w.0 <= offset && offset + len <= w.0 + u32::try_from(w.1.len()).unwrap_or(0);
        if !self.window.as_ref().is_some_and(covers) {
            let want = (unit_bytes - offset).min(len.max(WINDOW_BYTES));
            let mut buf = match self.window.take() {
                Some((_, buf)) if buf.capacity() >= want as usize => buf,
                _ => self.exec.alloc(want as usize).await,
            };
            buf.set_len(want as usize);
            let (file, at) = self.geometry.place(self.unit, u64::from(offset));
            let buf = self.exec.read(file, at, buf).await.map_err(|(e, _)| e.to_string())?;
            self.window = Some((offset, buf));
        }
        let window = self.window.as_ref().map(|(start, buf)| {
            let from = (offset - start) as usize;
            &buf[from..from + len as usize]
        });
        Ok(window)
    }
}
