//! Zstandard frames: denser than LZ4, and slower.

use zstd_safe::{CCtx, DCtx};

/// Both directions' memory, some hundred KiB: one per core, reused from block to block.
pub struct Zstd {
    compressor: CCtx<'static>,
    expander: DCtx<'static>,
}

impl Zstd {
    /// `None` without memory.
    #[must_use]
    pub fn new() -> Option<Zstd> {
        Some(Zstd { compressor: CCtx::try_create()?, expander: DCtx::try_create()? })
    }

    /// Compresses `input` into the start of `out` at a level of the library (1 is fast, 3 usual, 19 dense); how many bytes it
    /// took. `None` when it does not fit.
    pub fn compress(&mut self, input: &[u8], level: i32, out: &mut [u8]) -> Option<usize> {
        self.compressor.compress(out, input, level).ok()
    }

    /// Expands the frame `input` so that it fills `out` whole. False for anything that does not give exactly that many bytes;
    /// `out` then holds whatever was decoded. What the frame says about its size is not trusted.
    #[must_use]
    pub fn expand(&mut self, input: &[u8], out: &mut [u8]) -> bool {
        let len = out.len();
        self.expander.decompress(out, input) == Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_at_every_level() {
        let mut zstd = Zstd::new().unwrap();
        let block = b"A dolmen is a few standing stones that carry one slab. ".repeat(80);
        for level in [-5, 1, 3, 9, 19] {
            let (mut out, mut back) = (vec![0; 4096], vec![0; block.len()]);
            let len = zstd.compress(&block, level, &mut out).unwrap();
            assert!(len < 200 && zstd.expand(&out[..len], &mut back) && back == block, "level {level}");
            assert!(!zstd.expand(&out[..len], &mut back[1..]) && !zstd.expand(&out[..len - 1], &mut back));
        }
        assert!(zstd.compress(&block, 1, &mut [0; 10]).is_none());
    }

    /// RFC 8878: magic, a frame header of one segment with a size of 5, one raw block of 5 bytes, the last one.
    #[test]
    fn reads_the_published_format() {
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 5, 0x29, 0, 0, b'h', b'e', b'l', b'l', b'o'];
        let mut out = [0; 5];
        assert!(Zstd::new().unwrap().expand(&frame, &mut out));
        assert_eq!(&out, b"hello");
    }
}
