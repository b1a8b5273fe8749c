//! Which parts of a volume hold something, for doors whose clients skip what does not.

use crate::{
    VolumeError, Volumes,
    backing::{Backing, Log},
    limits::MAX_EXTENTS,
    op::{Kind, OpId, Phase},
    span::Span,
};
use dolmen_store::{DiffDone, DiffPage, DiffRequest, StoreError, Ticket, View};
use dolmen_types::{Lba, limits::BLOCK_BYTES};

/// Tickets of listings for commands: this bit and the command's slot. All others are control requests' tokens.
const LISTING: u64 = 1 << 63;

/// A run of bytes that are all stored, or all not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// How long it is. Bytes, never 0.
    pub bytes: u64,
    /// Something is stored there; otherwise it reads as zeros, and takes no space.
    pub stored: bool,
}

impl Volumes {
    /// Lists what is stored of a command's range; false while the log works on that.
    pub(crate) fn list_allocation<L: Log>(&mut self, id: OpId, log: &mut L) -> bool {
        let op = self.ops.at(id);
        let volume = &self.volumes[op.volume];
        let stored = match volume.backing {
            Backing::Null => false,
            Backing::Memory(_) => true,
            Backing::Durable(line) => {
                let question = DiffRequest {
                    // Against nothing: what is mapped is what differs.
                    from: None,
                    to: View { line, at: None },
                    first: Lba(op.span.first()),
                    end: Lba(op.span.after()),
                    limit: MAX_EXTENTS / 2,
                };
                op.phase = Phase::Loading;
                self.diffs += 1;
                log.diff(volume.descriptor.pg, question, Ticket(LISTING | u64::from(id)));
                return false;
            }
        };
        op.kind = Kind::Allocation([Extent { bytes: op.span.len(), stored }].into());
        true
    }

    /// Takes a listing if it was a command's.
    pub(crate) fn take_listing<L: Log>(&mut self, done: DiffDone, log: &mut L) -> Option<DiffDone> {
        if done.ticket.0 & LISTING == 0 {
            return Some(done);
        }
        let id = OpId::try_from(done.ticket.0 & !LISTING).expect("tickets of commands are their slots");
        let op = self.ops.at(id);
        let result = match done.result {
            Ok(page) => {
                op.kind = Kind::Allocation(extents(&page, op.span));
                Ok(())
            }
            // As many as may be are being made.
            Err(StoreError::Refused(_)) => Err(VolumeError::Busy),
            Err(error) => Err(crate::backing::host_error(&error)),
        };
        self.finish(id, result, log);
        None
    }
}

/// Runs from the beginning of `span` on, as far as `page` goes: neighbours differ.
fn extents(page: &DiffPage, span: Span) -> Box<[Extent]> {
    let bytes = |lba: u64| lba.saturating_mul(BLOCK_BYTES as u64).clamp(span.start, span.end);
    let mut all: Vec<Extent> = Vec::new();
    let mut at = span.start;
    let mut add = |to: u64, stored: bool| {
        if to > at {
            match all.last_mut() {
                Some(last) if last.stored == stored => last.bytes += to - at,
                _ => all.push(Extent { bytes: to - at, stored }),
            }
            at = to;
        }
    };
    for range in page.ranges.iter().filter(|range| range.mapped) {
        add(bytes(range.lba.0), false);
        add(bytes(range.lba.0.saturating_add(range.blocks.0)), true);
    }
    add(page.next.map_or(span.end, |next| bytes(next.0)), false);
    all.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ChangedRange, LbaRange};
    use dolmen_types::Blocks;

    fn page(ranges: &[(u64, u64)], next: Option<u64>) -> DiffPage {
        let range = |&(lba, blocks): &(u64, u64)| ChangedRange {
            lba: Lba(lba),
            blocks: Blocks(blocks),
            mapped: true,
        };
        DiffPage { ranges: ranges.iter().map(range).collect(), next: next.map(Lba) }
    }

    fn told(lba: u64, blocks: u32, page: &DiffPage) -> Vec<(u64, bool)> {
        let span = Span::of(LbaRange { lba, blocks }, 9, 1 << 30).unwrap();
        extents(page, span).iter().map(|e| (e.bytes, e.stored)).collect()
    }

    #[test]
    fn runs_cover_the_range_up_to_where_the_listing_ended() {
        let some = page(&[(1, 1), (2, 2), (8, 100)], None);
        assert_eq!(told(0, 80, &some), [(4096, false), (12_288, true), (16_384, false), (8192, true)]);
        // Sectors within a store block.
        assert_eq!(told(9, 2, &some), [(1024, true)]);
        assert_eq!(told(0, 16, &page(&[], None)), [(8192, false)]);
        // What was not looked at is not told of.
        assert_eq!(told(0, 80, &page(&[(1, 1)], Some(3))), [(4096, false), (4096, true), (4096, false)]);
        assert_eq!(told(9, 80, &page(&[], Some(3))), [(7680, false)]);
    }
}
