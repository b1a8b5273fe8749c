//! Expanding an LZ4 block: the format's own loop, with copies of 16 bytes that may run past what they are for as long as they stay
//! within both buffers. What they write too much is written again, or the block is refused.

/// Bytes of a copy.
const STEP: usize = 16;
/// Bytes that a match has at least.
const MIN_MATCH: usize = 4;

/// A length that does not fit its half of the token goes on in bytes, up to one that is not 255. `None` when the input ends first.
#[inline]
fn length(half: u8, input: &[u8], at: &mut usize) -> Option<usize> {
    let mut len = usize::from(half);
    if half == 15 {
        loop {
            let more = *input.get(*at)?;
            *at += 1;
            len += usize::from(more);
            if more != 255 {
                break;
            }
        }
    }
    Some(len)
}

/// Copies `len` bytes in steps, up to `STEP` more than asked for.
///
/// # Safety
/// `len + STEP` bytes can be read at `from` and written at `to`. When they overlap, `to` lies `STEP` or more behind `from`.
#[inline]
unsafe fn copy_wild(from: *const u8, to: *mut u8, len: usize) {
    let mut done = 0;
    loop {
        // SAFETY: `done` is below `len` or 0, so the step lies within the bytes that the caller vouches for.
        unsafe {
            let step = from.add(done).cast::<[u8; STEP]>().read_unaligned();
            to.add(done).cast::<[u8; STEP]>().write_unaligned(step);
        }
        done += STEP;
        if done >= len {
            return;
        }
    }
}

/// Expands `input` so that it fills `out` whole; `None` when it does not.
pub(super) fn expand(input: &[u8], out: &mut [u8]) -> Option<()> {
    let (mut from, mut to) = (0, 0);
    loop {
        let token = *input.get(from)?;
        from += 1;
        let literals = length(token >> 4, input, &mut from)?;
        let (left, room) = (input.len() - from, out.len() - to);
        if literals > left || literals > room {
            return None;
        }
        if literals + STEP <= left && literals + STEP <= room {
            // SAFETY: `STEP` more than the literals are there on both sides, which are different buffers.
            unsafe { copy_wild(input.as_ptr().add(from), out.as_mut_ptr().add(to), literals) };
        } else {
            out[to..to + literals].copy_from_slice(&input[from..from + literals]);
        }
        (from, to) = (from + literals, to + literals);
        if from == input.len() {
            // The last sequence has no match.
            return (to == out.len()).then_some(());
        }
        let offset = usize::from(u16::from_le_bytes([input[from], *input.get(from + 1)?]));
        from += 2;
        let len = MIN_MATCH + length(token & 15, input, &mut from)?;
        if offset == 0 || offset > to || len > out.len() - to {
            return None;
        }
        let roomy = len + STEP <= out.len() - to;
        if offset >= STEP && roomy {
            // SAFETY: `STEP` more than the match are within the buffer behind `to`, so behind the lower source too; they are
            // `offset` apart.
            unsafe {
                let target = out.as_mut_ptr().add(to);
                copy_wild(target.sub(offset), target, len);
            }
        } else if offset == 1 {
            let byte = out[to - 1];
            out[to..to + len].fill(byte);
        } else {
            for i in to..to + len {
                out[i] = out[i - offset];
            }
        }
        to += len;
    }
}
