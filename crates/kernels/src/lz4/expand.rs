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

/// How far a copy of a pattern of so many bytes advances: by a multiple of its length, at most `STEP`.
const STRIDES: [usize; STEP] = [0, 16, 16, 15, 16, 15, 12, 14, 16, 9, 10, 11, 12, 13, 14, 15];

/// Puts the `offset` bytes before `to`, fewer than `STEP`, there over and over, up to `STEP` more than the `len` asked for. Nothing
/// that was just written is read again.
///
/// # Safety
/// `offset` bytes can be read before `to`, and `len + STEP` written there; `offset` is 1 to 15.
#[inline]
unsafe fn repeat_wild(to: *mut u8, offset: usize, len: usize) {
    let mut pattern = [0u8; STEP];
    // SAFETY: the caller vouches for `offset` bytes before `to`.
    let before = unsafe { std::slice::from_raw_parts(to.sub(offset), offset) };
    match *before {
        [a] => pattern = [a; STEP],
        [a, b] => pattern.as_chunks_mut().0.fill([a, b]),
        [a, b, c, d] => pattern.as_chunks_mut().0.fill([a, b, c, d]),
        [a, b, c, d, e, f, g, h] => pattern.as_chunks_mut().0.fill([a, b, c, d, e, f, g, h]),
        _ => pattern.iter_mut().zip(before.iter().cycle()).for_each(|(p, b)| *p = *b),
    }
    let mut done = 0;
    loop {
        // SAFETY: `done` is below `len` or 0, so the step lies within the bytes that the caller vouches for.
        unsafe { to.add(done).cast::<[u8; STEP]>().write_unaligned(pattern) };
        done += STRIDES[offset];
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
        // What is close to the end comes byte by byte.
        let wild = len.min((out.len() - to).saturating_sub(STEP));
        if wild > 0 {
            // SAFETY: `STEP` more than these bytes of the match are within the buffer behind `to`, so behind the lower source too;
            // source and target are `offset` apart, and `offset` bytes are before `to`.
            unsafe {
                let target = out.as_mut_ptr().add(to);
                if offset >= STEP {
                    copy_wild(target.sub(offset), target, wild);
                } else {
                    repeat_wild(target, offset, wild);
                }
            }
        }
        for i in to + wild..to + len {
            out[i] = out[i - offset];
        }
        to += len;
    }
}
