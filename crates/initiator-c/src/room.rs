//! Where the caller wants structures that begin with their size. They grow at their end, so a caller that was built against another
//! header knows more or less of one than this library: what lies apart is what the caller says, what it does not know is left out.

use crate::{INVALID, client::Client};
use std::{ffi::c_int, marker::PhantomData};

/// Below and beyond these a size is memory that nobody set. Bytes.
const LEAST_BYTES: usize = 2 * size_of::<usize>();
const MOST_BYTES: usize = 4096;

/// Room for structures of one kind.
pub(crate) struct Room<T> {
    at: *mut u8,
    /// From one to the next. Bytes.
    each: usize,
    most: usize,
    what: PhantomData<T>,
}

impl<T> Room<T> {
    /// Room for one.
    ///
    /// # Safety
    /// As [`Room::many`], for one structure.
    pub(crate) unsafe fn one(client: &mut Client, out: *mut T) -> Result<Room<T>, c_int> {
        if out.is_null() {
            return Err(client.fail(INVALID, "the place for the answer is NULL"));
        }
        // SAFETY: the caller's promise.
        unsafe { Room::many(client, out, 1) }
    }

    /// Room for up to `most`; none if `out` is NULL.
    ///
    /// # Safety
    /// `T` is one of the header's structures that begin with `size_t size`, made of plain data; `out` is NULL or has room for
    /// `most` of them, as long as the first one's `size` says.
    pub(crate) unsafe fn many(client: &mut Client, out: *mut T, most: usize) -> Result<Room<T>, c_int> {
        let at = out.cast::<u8>();
        if at.is_null() || most == 0 {
            return Ok(Room { at, each: 0, most: 0, what: PhantomData });
        }
        // SAFETY: the caller's promise.
        let each = unsafe { out.cast::<usize>().read() };
        if !(LEAST_BYTES..=MOST_BYTES).contains(&each) || !each.is_multiple_of(align_of::<T>()) {
            let text = "`size` of the (first) structure to be filled is not its size: set it before the call";
            return Err(client.fail(INVALID, text));
        }
        Ok(Room { at, each, most, what: PhantomData })
    }

    /// Fills the place of that number, if there is one, as far as both know the structure. What the caller knows beyond us is zeroed.
    pub(crate) fn put(&self, index: usize, item: T) {
        if index >= self.most {
            return;
        }
        let known = self.each.min(size_of::<T>());
        // SAFETY: below `most`, so all of it is inside the caller's room; what was there before is plain data, as is what is copied.
        // `each` is a multiple of the alignment, and has room for the size.
        unsafe {
            let at = self.at.add(index * self.each);
            at.write_bytes(0, self.each);
            at.copy_from_nonoverlapping(std::ptr::from_ref(&item).cast(), known);
            at.cast::<usize>().write(self.each);
        }
    }
}

/// A text in a field of `N` bytes: cut where it is too long, with a zero at its end in any case.
pub(crate) fn field<const N: usize>(text: &str) -> [u8; N] {
    let mut end = text.len().min(N - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut field = [0; N];
    // A zero inside would end the text early.
    for (place, byte) in field.iter_mut().zip(text[..end].bytes().filter(|&byte| byte != 0)) {
        *place = byte;
    }
    field
}
