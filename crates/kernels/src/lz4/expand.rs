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

/// Two bytes of the input as a number.
#[inline]
fn half(input: &[u8], at: usize) -> Option<u16> {
    input.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
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
    // SAFETY: the caller vouches for `offset` bytes before `to`.
    let pattern = unsafe {
        let before = to.sub(offset);
        match offset {
            2 => u128::from(before.cast::<u16>().read_unaligned()) * (u128::MAX / 0xffff),
            4 => u128::from(before.cast::<u32>().read_unaligned()) * (u128::MAX / 0xffff_ffff),
            8 => u128::from(before.cast::<u64>().read_unaligned()) * (1 | 1 << 64),
            _ => {
                let mut bytes = [0; STEP];
                (0..offset).for_each(|i| bytes[i] = before.add(i).read());
                (offset..STEP).for_each(|i| bytes[i] = bytes[i - offset]);
                u128::from_ne_bytes(bytes)
            }
        }
    };
    let mut done = 0;
    loop {
        // SAFETY: `done` is below `len` or 0, so the step lies within the bytes that the caller vouches for.
        unsafe { to.add(done).cast::<u128>().write_unaligned(pattern) };
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
        if token >> 4 < 15 && input.len() - from >= 2 * STEP && out.len() - to >= 3 * STEP {
            // The common case: few literals, far from either end, and mostly a short match behind them.
            let literals = usize::from(token >> 4);
            // SAFETY: `STEP` bytes are there on both sides, which are different buffers.
            unsafe { copy_wild(input.as_ptr().add(from), out.as_mut_ptr().add(to), 1) };
            (from, to) = (from + literals, to + literals);
            let (offset, len) = (usize::from(half(input, from)?), MIN_MATCH + usize::from(token & 15));
            if token & 15 < 15 && (STEP..=to).contains(&offset) {
                // SAFETY: the match has less than 2 `STEP` bytes, and as many are there behind `to`, so behind the lower source too;
                // they are `offset` apart.
                unsafe {
                    let target = out.as_mut_ptr().add(to);
                    copy_wild(target.sub(offset), target, 1 + STEP);
                }
                (from, to) = (from + 2, to + len);
                continue;
            }
        } else {
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
        }
        let offset = usize::from(half(input, from)?);
        from += 2;
        let len = MIN_MATCH + length(token & 15, input, &mut from)?;
        if offset == 0 || offset > to || len > out.len() - to {
            return None;
        }
        if offset == 1 {
            let byte = out[to - 1];
            out[to..to + len].fill(byte);
            to += len;
            continue;
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
