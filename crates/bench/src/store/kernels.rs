//! The kernels, per block of 4 KiB, beside the best libraries of the machine. The best of several rounds each: they have no state
//! that changes, so everything above that is somebody else's.

use super::{
    data::Fill,
    figures::{Budget, Figure},
};
use dolmen_kernels::{Seal, check64, crc32c, lz4, reed_solomon::Code, rivals};
use std::{hint::black_box, time::Instant};

const BLOCK: usize = 4096;
/// A kernel may take so much more than the rival.
const CLOSE: Budget = Budget::AtMost(1.10);

/// Nanoseconds per call.
fn best(mut work: impl FnMut()) -> f64 {
    let round = |_| {
        let start = Instant::now();
        (0..500).for_each(|_| work());
        start.elapsed().as_secs_f64() * 1e9 / 500.0
    };
    (0..30).map(round).fold(f64::INFINITY, f64::min)
}

fn block(fill: Fill, number: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK];
    fill.fill(&mut bytes, number);
    bytes
}

/// Ours over theirs.
fn ratio(name: &str, rival: &str, ours: f64, theirs: Option<f64>) -> Option<Figure> {
    let Some(theirs) = theirs else {
        return Figure::new(name, "ns", &[ours], Budget::None, format!("{rival} is not on this machine"));
    };
    let text = format!("{ours:.0} ns, {rival} {theirs:.0} ns");
    Figure::new(format!("{name} / {rival}"), "", &[ours / theirs], CLOSE, text)
}

/// Nanoseconds per block when blocks differ, as those of a load do: one block over and over is what branches are predicted for, and
/// how many of them a predictor keeps is what would be compared.
fn best_of_many(blocks: &[Vec<u8>], mut work: impl FnMut(&[u8])) -> f64 {
    let mut all = blocks.iter().cycle();
    best(|| work(black_box(all.next().expect("there are some"))))
}

fn blocks(fill: Fill) -> Vec<Vec<u8>> {
    (0..32).map(|number| block(fill, number)).collect()
}

/// How long the bare compressor takes for a block of such data. Nanoseconds.
pub(crate) fn compressor_ns(fill: Fill) -> f64 {
    let (mut out, mut lz4) = (vec![0; 2 * BLOCK], lz4::Lz4::new());
    best_of_many(&blocks(fill), |block| _ = black_box(lz4.compress(block, &mut out)))
}

/// All of them.
pub(crate) fn figures() -> Vec<Figure> {
    let mut all = Vec::new();
    let noise = block(Fill::Noise, 1);
    let isal = rivals::Isal::load();
    let theirs = isal.as_ref().map(|l| best(|| _ = black_box(l.crc32c(black_box(&noise)))));
    all.extend(ratio("CRC-32C", "ISA-L", best(|| _ = black_box(crc32c(black_box(&noise)))), theirs));
    let xxhash = rivals::XxHash::load();
    let theirs = xxhash.as_ref().map(|l| best(|| _ = black_box(l.hash(1, black_box(&noise)))));
    all.extend(ratio("XXH3-64", "libxxhash", best(|| _ = black_box(check64(1, black_box(&noise)))), theirs));
    compression(&mut all, &noise);
    encryption(&mut all, &noise);
    for (data, parity) in [(4, 1), (4, 2), (8, 1), (8, 2)] {
        all.extend(columns(isal.as_ref(), data, parity));
    }
    all
}

fn compression(all: &mut Vec<Figure>, noise: &[u8]) {
    let (mut theirs, mut out, mut back) = (rivals::Lz4::load(), vec![0; 2 * BLOCK], vec![0; BLOCK]);
    for (name, fill) in [("2:1 in long runs", Fill::Runs), ("2:1 in short runs", Fill::Turns)] {
        let blocks = blocks(fill);
        let rival = theirs
            .as_mut()
            .map(|l| best_of_many(&blocks, |block| _ = black_box(l.compress(block, &mut out))));
        all.extend(ratio(&format!("LZ4, {name}"), "liblz4", compressor_ns(fill), rival));
        let mut pack = |block: &Vec<u8>| {
            let len = lz4::Lz4::new().compress(block, &mut out).unwrap_or(0);
            out[..len].to_vec()
        };
        let packed: Vec<Vec<u8>> = blocks.iter().map(&mut pack).collect();
        let ours = best_of_many(&packed, |block| _ = black_box(lz4::expand(block, &mut back)));
        let rival =
            theirs.as_ref().map(|l| best_of_many(&packed, |block| _ = black_box(l.expand(block, &mut back))));
        all.extend(ratio(&format!("LZ4 expansion, {name}"), "liblz4", ours, rival));
    }
    let look = best(|| _ = black_box(lz4::looks_incompressible(black_box(noise))));
    let whole = compressor_ns(Fill::Noise);
    let text = format!("{look:.0} ns, LZ4 over noise {whole:.0} ns");
    all.extend(Figure::new(
        "the look at noise / LZ4 over it",
        "",
        &[look / whole],
        Budget::AtMost(0.10),
        text,
    ));
}

fn encryption(all: &mut Vec<Figure>, noise: &[u8]) {
    let key: [u8; 64] = std::array::from_fn(|i| u8::try_from(i).unwrap_or(0));
    let Some(mut seal) = Seal::new(&key, &key) else { return };
    let mut out = vec![0; BLOCK];
    let ns = best(|| _ = black_box(seal.seal(&[1; 16], [1; 12], black_box(noise), &mut out)));
    let budget = Budget::AtMost(400.0);
    all.extend(Figure::new("AES-256-XTS and MAC, sealing", "ns", &[ns], budget, String::new()));
    let (check, stored) = (seal.check([1; 12], &out), out.clone());
    let ns = best(|| _ = black_box(seal.open(&[1; 16], [1; 12], check, black_box(&stored), &mut out)));
    all.extend(Figure::new("AES-256-XTS and MAC, opening", "ns", &[ns], budget, String::new()));
}

/// The parity of one block per column.
fn columns(isal: Option<&rivals::Isal>, data: usize, parity: usize) -> Option<Figure> {
    let code = Code::new(data, parity)?;
    let blocks: Vec<Vec<u8>> = (0..data as u64).map(|i| block(Fill::Noise, i)).collect();
    let views: Vec<&[u8]> = blocks.iter().map(Vec::as_slice).collect();
    let (mut p, mut q) = (vec![0; BLOCK], vec![0; BLOCK]);
    let ours = best(|| {
        let mut sums: [&mut [u8]; 2] = [&mut p, &mut q];
        code.encode(black_box(&views), &mut sums[..parity]);
    });
    let theirs = isal.map(|isal| {
        let mut tables = isal.tables(data, parity);
        best(|| {
            let mut sums: [&mut [u8]; 2] = [&mut p, &mut q];
            isal.encode(&mut tables, black_box(&views), &mut sums[..parity]);
        })
    });
    ratio(&format!("parity {data}+{parity}"), "ISA-L", ours, theirs)
}
