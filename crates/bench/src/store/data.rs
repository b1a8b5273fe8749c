//! What is written.

/// Kinds of contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    /// Nothing repeats.
    Noise,
    /// 2:1 in long runs: in each KiB half noise, half zeros, as load generators make it.
    Runs,
    /// 2:1 in short runs: 32 bytes of noise and 32 times the same byte in turns.
    Turns,
}

impl Fill {
    /// Fills a buffer; other numbers give other bytes.
    pub(crate) fn fill(self, bytes: &mut [u8], number: u64) {
        let mut state = 0x9e37_79b9_7f4a_7c15 ^ number;
        for byte in bytes.iter_mut() {
            state = state.wrapping_mul(0xd129_42d9_57d5_9f2d).wrapping_add(0x1405_7b7e_f767_814f);
            *byte = state.to_be_bytes()[0];
        }
        match self {
            Fill::Noise => {}
            Fill::Runs => bytes.chunks_mut(1024).for_each(|c| c[512..].fill(0)),
            Fill::Turns => bytes.chunks_mut(64).for_each(|c| {
                let same = c[0];
                c[32..].fill(same);
            }),
        }
    }
}
