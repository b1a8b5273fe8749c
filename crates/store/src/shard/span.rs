//! Which stored blocks are read together: those whose pages touch.

use crate::format::PAGE_BYTES;
use crate::location::{Location, Slot};
use crate::map::Entry;
use crate::stored::{BlockVersion, Forms};

/// A run of whole pages of one segment, and how many bytes of it are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    slot: Slot,
    /// First byte, a multiple of the page size.
    from: u64,
    /// Behind the last byte.
    to: u64,
    /// Behind the last stored block.
    end: u64,
}

impl Span {
    /// The pages that hold one stored block.
    pub(crate) fn of(entry: &Entry) -> Span {
        let page = u64::from(PAGE_BYTES);
        let (start, end) = (entry.location.offset(), entry.location.offset() + u64::from(entry.bytes()));
        let to = end.next_multiple_of(page);
        Span { slot: entry.location.slot(), from: start - start % page, to, end }
    }

    /// Takes one more block in, when it lies behind the others, no page stays unread in between, and the whole is at most
    /// `max_bytes` long.
    pub(crate) fn extend(&mut self, entry: &Entry, max_bytes: usize) -> bool {
        let next = Span::of(entry);
        let joins = next.slot == self.slot
            && entry.location.offset() >= self.end
            && next.from <= self.to
            && next.to - self.from <= max_bytes as u64;
        if joins {
            (self.to, self.end) = (next.to, next.end);
        }
        joins
    }

    /// Where it begins.
    pub(crate) fn location(&self) -> Location {
        Location::new(self.slot, u32::try_from(self.from).unwrap_or(u32::MAX - u32::MAX % PAGE_BYTES))
    }

    /// How far behind the span's first byte a block lies.
    pub(crate) fn distance(&self, entry: &Entry) -> usize {
        usize::try_from(entry.location.offset() - self.from).expect("a block of the span")
    }

    /// Bytes.
    pub(crate) fn len(&self) -> usize {
        usize::try_from(self.to - self.from).expect("a span is at most some stored blocks long")
    }

    /// True when every one of the versions, each with its entry, is among the span's bytes as it was written.
    pub(crate) fn holds<'e>(
        &self,
        forms: &mut Forms,
        blocks: impl IntoIterator<Item = (BlockVersion, &'e Entry)>,
        bytes: &[u8],
    ) -> bool {
        blocks.into_iter().all(|(version, entry)| {
            let part = self.part(entry, bytes);
            part.is_some_and(|part| forms.holds(entry.form, version, part, entry.check) == Ok(true))
        })
    }

    /// A block's bytes among those of the span.
    pub(crate) fn part<'b>(&self, entry: &Entry, bytes: &'b [u8]) -> Option<&'b [u8]> {
        let at = usize::try_from(entry.location.offset().checked_sub(self.from)?).ok()?;
        bytes.get(at..at + entry.bytes() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stored::Form;

    fn entry(offset: u32, granules: u16) -> Entry {
        let location = Location::new(Slot(3), offset);
        Entry { seq: 1, location, check: 0, granules, form: Form(0) }
    }

    #[test]
    fn whole_blocks_make_whole_pages() {
        let mut span = Span::of(&entry(8192, 256));
        assert!(span.extend(&entry(12288, 256), 1 << 20));
        assert_eq!((span.location().offset(), span.len()), (8192, 8192));
        assert!(!span.extend(&entry(20480, 256), 1 << 20), "a page would stay unread");
        assert!(!span.extend(&entry(8192, 256), 1 << 20), "backwards");
        assert!(!span.extend(&entry(16384, 256), 8192), "too long");
        let elsewhere = Entry { location: Location::new(Slot(4), 16384), ..entry(0, 256) };
        assert!(!span.extend(&elsewhere, 1 << 20));
    }

    #[test]
    fn small_blocks_share_pages() {
        let mut span = Span::of(&entry(4096 + 16, 10));
        assert!(span.extend(&entry(4096 + 800, 255), 1 << 20), "a gap within a page");
        assert_eq!((span.location().offset(), span.len()), (4096, 8192));
        let bytes: Vec<u8> = (0..8192u32).map(|i| i.to_le_bytes()[0]).collect();
        assert_eq!(span.part(&entry(4096 + 32, 2), &bytes).map(|p| (p[0], p.len())), Some((32, 32)));
        assert_eq!(span.part(&entry(4080, 1), &bytes), None);
        assert_eq!(span.part(&entry(12288, 1), &bytes), None);
    }
}
