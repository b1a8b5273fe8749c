//! What packing blocks with zstd instead of LZ4 would save, and what it would cost: `cargo run --release -p dolmen-kernels --example
//! density`. Blocks of 4 KiB of several kinds, each compressed alone as the store does it: kept when that saves an eighth, in steps of
//! 16 bytes. Two bytes of length are counted for either, and none of zstd's magic number.

use dolmen_kernels::{lz4, zstd::Zstd};
use std::hint::black_box;
use std::time::Instant;

const BLOCK: usize = 4096;
const BLOCKS: usize = 512;
const ROUNDS: usize = 5;

/// A generator of numbers, the same on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or(0) % sides
    }
}

const WORDS: [&str; 24] = [
    "connection",
    "accepted",
    "from",
    "volume",
    "snapshot",
    "created",
    "timeout",
    "after",
    "request",
    "user",
    "session",
    "closed",
    "by",
    "peer",
    "retry",
    "queue",
    "depth",
    "error",
    "write",
    "read",
    "cache",
    "miss",
    "hit",
    "node",
];

fn log_lines(dice: &mut Dice) -> Vec<u8> {
    let mut text = String::new();
    for second in 0.. {
        if text.len() >= BLOCK * BLOCKS {
            break;
        }
        let level = ["INFO", "INFO", "INFO", "WARN", "DEBUG"][dice.roll(5)];
        text += &format!(
            "2026-11-28T20:{:02}:{:02}.{:06}Z {level} ",
            second / 60 % 60,
            second % 60,
            dice.roll(1_000_000)
        );
        for _ in 0..4 + dice.roll(8) {
            text += WORDS[dice.roll(24)];
            text.push(' ');
        }
        text += &format!("id={:08x} took={}us\n", dice.roll(1 << 30), dice.roll(90_000));
    }
    text.into_bytes()
}

fn json(dice: &mut Dice) -> Vec<u8> {
    let mut text = String::new();
    while text.len() < BLOCK * BLOCKS {
        text += &format!(
            "{{\"id\":{},\"name\":\"{} {}\",\"email\":\"{}{}@example.org\",\"balance\":{}.{:02},\"active\":{}}},",
            dice.roll(1 << 30),
            WORDS[dice.roll(24)],
            WORDS[dice.roll(24)],
            WORDS[dice.roll(24)],
            dice.roll(9999),
            dice.roll(100_000),
            dice.roll(100),
            dice.roll(2) == 0
        );
    }
    text.into_bytes()
}

/// Leaves of a B-tree: a header, records of numbers and names, a part that is free.
fn database(dice: &mut Dice) -> Vec<u8> {
    let mut all = Vec::new();
    let mut key = 1u64;
    for _ in 0..BLOCKS {
        let mut page = vec![0; BLOCK];
        page[..4].copy_from_slice(&[0x0d, 0, 0, 40]);
        let end = BLOCK * (60 + dice.roll(38)) / 100;
        let mut at = 64;
        while at + 64 < end {
            key += 1 + dice.roll(3) as u64;
            page[at..at + 8].copy_from_slice(&key.to_be_bytes());
            page[at + 8..at + 16].copy_from_slice(&(dice.roll(1 << 20) as u64).to_le_bytes());
            page[at + 16..at + 24].copy_from_slice(&(dice.roll(1_000_000) as f64 / 100.0).to_le_bytes());
            let name = WORDS[dice.roll(24)].as_bytes();
            page[at + 24..at + 24 + name.len()].copy_from_slice(name);
            let digest = (dice.roll(1 << 30) as u64) << 32 | dice.roll(1 << 30) as u64;
            page[at + 40..at + 48].copy_from_slice(&digest.to_le_bytes());
            at += 52;
        }
        all.extend(page);
    }
    all
}

fn noise(dice: &mut Dice) -> Vec<u8> {
    (0..BLOCK * BLOCKS).map(|_| u8::try_from(dice.roll(256)).unwrap_or(0)).collect()
}

/// This very program.
fn machine_code() -> Vec<u8> {
    std::env::current_exe().and_then(std::fs::read).unwrap_or_default()
}

fn source() -> Vec<u8> {
    [
        include_str!("../src/lz4.rs"),
        include_str!("../src/zstd.rs"),
        include_str!("../src/seal.rs"),
        include_str!("../src/xts.rs"),
        include_str!("../../../ARCHITECTURE.md"),
        include_str!("density.rs"),
    ]
    .concat()
    .into_bytes()
}

/// What one way makes of the blocks.
#[derive(Default)]
struct Outcome {
    stored: usize,
    compress_ns: f64,
    expand_ns: f64,
}

fn best(mut work: impl FnMut()) -> f64 {
    let timed = |_| {
        let began = Instant::now();
        work();
        began.elapsed().as_nanos() as f64
    };
    (0..ROUNDS).map(timed).fold(f64::INFINITY, f64::min)
}

/// `level` of zstd; `None` for LZ4. Times are per block, those of expanding per block that is packed.
fn measure(blocks: &[&[u8]], level: Option<i32>) -> Outcome {
    let (mut lz, mut zstd) = (lz4::Lz4::new(), Zstd::new().expect("memory for a context"));
    let mut out = vec![0; 2 * BLOCK];
    let mut pack = |block: &[u8], out: &mut [u8]| match level {
        None => lz.compress(block, out),
        Some(level) => zstd.compress(block, level, out),
    };
    let mut packed = Vec::new();
    let mut stored = 0;
    for block in blocks {
        let len = pack(block, &mut out).unwrap_or(BLOCK);
        let counted = (len + 2 - if level.is_some() { 4 } else { 0 }).next_multiple_of(16);
        if counted <= BLOCK - BLOCK / 8 {
            packed.push(out[..len].to_vec());
            stored += counted;
        } else {
            stored += BLOCK;
        }
    }
    let compress = best(|| blocks.iter().for_each(|block| _ = black_box(pack(black_box(block), &mut out))));
    let mut back = vec![0; BLOCK];
    let mut opener = Zstd::new().expect("memory for a context");
    let expand = best(|| {
        for bytes in &packed {
            let came = match level {
                None => lz4::expand(black_box(bytes), &mut back),
                Some(_) => opener.expand(black_box(bytes), &mut back),
            };
            assert!(black_box(came), "a block comes back");
        }
    });
    Outcome {
        stored,
        compress_ns: compress / blocks.len() as f64,
        expand_ns: expand / packed.len().max(1) as f64,
    }
}

fn main() {
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    let kinds = [
        ("log lines", log_lines(&mut dice)),
        ("JSON", json(&mut dice)),
        ("database pages", database(&mut dice)),
        ("source and text", source()),
        ("machine code", machine_code()),
        ("noise", noise(&mut dice)),
    ];
    println!("{:<18}{:>10}  ratio, ns to compress and to expand a block", "", "");
    let ways = [("LZ4", None), ("zstd -1", Some(-1)), ("zstd 1", Some(1)), ("zstd 3", Some(3))];
    let mut sums = [0.0; 4];
    for (name, data) in &kinds {
        let blocks: Vec<&[u8]> = data.chunks_exact(BLOCK).take(BLOCKS).collect();
        for ((way, level), sum) in ways.iter().zip(&mut sums) {
            let got = measure(&blocks, *level);
            let ratio = (blocks.len() * BLOCK) as f64 / got.stored as f64;
            *sum += 1.0 / ratio;
            println!("{name:<18}{way:>10}  {ratio:>6.2}  {:>8.0}  {:>8.0}", got.compress_ns, got.expand_ns);
        }
    }
    for ((way, _), sum) in ways.iter().zip(sums) {
        println!("{:<18}{way:>10}  {:>6.2}", "as much of each", kinds.len() as f64 / sum);
    }
}
