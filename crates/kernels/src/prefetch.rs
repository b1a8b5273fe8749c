//! Memory that will be looked at soon, brought near while there is something else to do.

/// Bytes of a cache line, on every machine on which this does anything.
#[cfg(target_arch = "x86_64")]
const LINE_BYTES: usize = 64;

/// Has every cache line of `place` fetched. A hint: it never waits, and means nothing but time.
#[inline]
pub fn prefetch<T: ?Sized>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let start = core::ptr::from_ref(place).cast::<i8>();
        let before = start.addr() % LINE_BYTES;
        let lines = (before + size_of_val(place)).div_ceil(LINE_BYTES);
        for line in 0..lines {
            // A prefetch does not look at what it fetches and never faults; the lines are those of a value that is there.
            let at = start.wrapping_sub(before).wrapping_add(line * LINE_BYTES);
            // SAFETY: every address may be prefetched, and every x86-64 has the instruction.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_values_of_any_size_and_place() {
        let bytes = [7u8; 300];
        prefetch(&bytes[..0]);
        prefetch(&bytes[1..2]);
        prefetch(&bytes[63..]);
        prefetch(&bytes);
        assert_eq!(bytes, [7; 300]);
    }
}
