//! Reed-Solomon over GF(2^8), polynomial 0x11d, for the few columns of a segment: up to 8 of data, up to 2 of parity.
//!
//! The first parity column is the sum (XOR) of the data, the second the sum of 2^i times column *i*. So with one data column
//! every parity column is a copy of it, and any data columns as many as there are can be had from the rest. Positionwise: byte
//! *x* of a column depends on byte *x* of the others alone, so any part of a column is made or rebuilt by itself.

mod gf;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

use gf::{inverse, mul};

/// Data columns at most.
pub const MAX_DATA: usize = 8;
/// Parity columns at most.
pub const MAX_PARITY: usize = 2;
/// Lengths of columns are multiples of this. Bytes.
pub const GRAIN_BYTES: usize = 16;

/// How many columns there are. Columns are numbered: data from 0 on, then parity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    data: u8,
    parity: u8,
}

impl Code {
    /// `data` columns (1 to [`MAX_DATA`]) and `parity` columns (at most [`MAX_PARITY`]); `None` for other numbers.
    #[must_use]
    pub fn new(data: usize, parity: usize) -> Option<Code> {
        let fits = (1..=MAX_DATA).contains(&data) && parity <= MAX_PARITY;
        fits.then_some(Code { data: u8::try_from(data).ok()?, parity: u8::try_from(parity).ok()? })
    }

    /// Data columns.
    #[must_use]
    pub fn data(self) -> usize {
        usize::from(self.data)
    }

    /// Parity columns.
    #[must_use]
    pub fn parity(self) -> usize {
        usize::from(self.parity)
    }

    /// All columns.
    #[must_use]
    pub fn columns(self) -> usize {
        self.data() + self.parity()
    }

    /// Makes the parity of `data`. Old contents of `parity` don't matter.
    ///
    /// # Panics
    /// When the numbers of columns are not this code's, or the lengths differ or are no multiple of [`GRAIN_BYTES`]: a
    /// defect of the caller.
    pub fn encode(self, data: &[&[u8]], parity: &mut [&mut [u8]]) {
        assert_eq!((data.len(), parity.len()), (self.data(), self.parity()), "columns of another code");
        for column in parity.iter() {
            check_lengths(data, column.len());
        }
        match parity {
            [] => {}
            [p] => sum(data, p),
            [p, q] => pair(data, p, q),
            _ => unreachable!("at most MAX_PARITY, asserted above"),
        }
    }

    /// How column `lost` follows from the `present` ones: as many as there are data columns, all different, in the order in
    /// which [`Recipe::apply`] will be given them. `None` for columns that do not exist, are named twice, or are too few.
    #[must_use]
    pub fn rebuild(self, lost: usize, present: &[usize]) -> Option<Recipe> {
        let k = self.data();
        let distinct =
            present.iter().enumerate().all(|(i, c)| *c < self.columns() && !present[..i].contains(c));
        if lost >= self.columns() || present.len() != k || !distinct {
            return None;
        }
        let mut rows = [[0; MAX_DATA]; MAX_DATA];
        for (row, &column) in rows.iter_mut().zip(present) {
            *row = self.row(column);
        }
        let inverse = invert(rows, k)?;
        let wanted = self.row(lost);
        let mut factors = [0; MAX_DATA];
        for (i, factor) in factors.iter_mut().enumerate().take(k) {
            *factor = (0..k).fold(0, |sum, j| sum ^ mul(wanted[j], inverse[j][i]));
        }
        Some(Recipe { factors, count: self.data })
    }

    /// The factors with which the data columns make up a column.
    fn row(self, column: usize) -> [u8; MAX_DATA] {
        let mut row = [0; MAX_DATA];
        let k = self.data();
        match column.checked_sub(k) {
            None => row[column] = 1,
            Some(0) => row[..k].fill(1),
            Some(_) => row.iter_mut().take(k).enumerate().for_each(|(i, factor)| *factor = 1 << i),
        }
        row
    }
}

/// How one column follows from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    factors: [u8; MAX_DATA],
    count: u8,
}

impl Recipe {
    /// Makes the column, or any part of it, from the same part of the columns that [`Code::rebuild`] was told.
    ///
    /// # Panics
    /// When the number of sources is another, or the lengths differ or are no multiple of [`GRAIN_BYTES`]: a defect of the
    /// caller.
    pub fn apply(&self, sources: &[&[u8]], out: &mut [u8]) {
        let factors = &self.factors[..usize::from(self.count)];
        assert_eq!(sources.len(), factors.len(), "sources of another recipe");
        check_lengths(sources, out.len());
        if factors.iter().all(|&f| f == 1) { sum(sources, out) } else { dot(factors, sources, out) }
    }
}

fn check_lengths(columns: &[&[u8]], len: usize) {
    assert!(len.is_multiple_of(GRAIN_BYTES), "a column's length is a multiple of {GRAIN_BYTES}");
    assert!(columns.iter().all(|c| c.len() == len), "columns are of one length");
}

/// Gauss-Jordan elimination of the upper left k * k numbers; `None` when they are not independent.
fn invert(mut rows: [[u8; MAX_DATA]; MAX_DATA], k: usize) -> Option<[[u8; MAX_DATA]; MAX_DATA]> {
    let mut result = [[0; MAX_DATA]; MAX_DATA];
    (0..k).for_each(|i| result[i][i] = 1);
    for i in 0..k {
        let pivot = (i..k).find(|&r| rows[r][i] != 0)?;
        rows.swap(i, pivot);
        result.swap(i, pivot);
        let scale = inverse(rows[i][i]);
        for j in 0..k {
            rows[i][j] = mul(rows[i][j], scale);
            result[i][j] = mul(result[i][j], scale);
        }
        let (own, own_result) = (rows[i], result[i]);
        for r in (0..k).filter(|&r| r != i) {
            let factor = rows[r][i];
            for j in 0..k {
                rows[r][j] ^= mul(own[j], factor);
                result[r][j] ^= mul(own_result[j], factor);
            }
        }
    }
    Some(result)
}

/// Calls a loop of the best level that the machine has, and of the narrower ones for what that leaves.
macro_rules! widest_first {
    ($name:ident ( $($arg:expr),* ) of $len:expr) => {{
        #[allow(unused_mut)] // Without vectors the plain loop begins at 0.
        let mut at = 0;
        #[cfg(target_arch = "x86_64")]
        for level in x86::Level::ALL {
            if at < $len && level.is_there() {
                at = level.$name($($arg,)* at);
            }
        }
        scalar::$name($($arg,)* at);
    }};
}

fn sum(data: &[&[u8]], p: &mut [u8]) {
    let len = p.len();
    widest_first!(sum(data, p) of len);
}

fn pair(data: &[&[u8]], p: &mut [u8], q: &mut [u8]) {
    let len = p.len();
    widest_first!(pair(data, p, q) of len);
}

fn dot(factors: &[u8], sources: &[&[u8]], out: &mut [u8]) {
    let len = out.len();
    widest_first!(dot(factors, sources, out) of len);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(count: usize, len: usize) -> Vec<Vec<u8>> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = || {
            state = state.wrapping_mul(0xd129_42d9_57d5_9f2d).wrapping_add(0x1405_7b7e_f767_814f);
            state.to_be_bytes()[0]
        };
        (0..count).map(|_| (0..len).map(|_| next()).collect()).collect()
    }

    fn views(columns: &[Vec<u8>]) -> Vec<&[u8]> {
        columns.iter().map(Vec::as_slice).collect()
    }

    fn encoded(code: Code, len: usize) -> Vec<Vec<u8>> {
        let mut all = columns(code.data(), len);
        let mut parity = vec![vec![0xaa; len]; code.parity()];
        let mut out: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
        code.encode(&views(&all), &mut out);
        all.extend(parity);
        all
    }

    /// The definition, byte by byte.
    #[test]
    fn parity_is_as_defined() {
        for k in 1..=MAX_DATA {
            for len in [0, 16, 48, 112, 128, 144, 4096, 4096 + 240] {
                let all = encoded(Code::new(k, 2).unwrap(), len);
                let defined = |x: usize| {
                    let p = all[..k].iter().fold(0, |sum, d| sum ^ d[x]);
                    (p, all[..k].iter().enumerate().fold(0, |sum, (i, d)| sum ^ mul(1 << i, d[x])))
                };
                for (x, found) in all[k].iter().copied().zip(all[k + 1].iter().copied()).enumerate() {
                    assert_eq!(found, defined(x), "k {k} len {len} byte {x}");
                }
            }
        }
    }

    /// P and Q of a RAID-6 stripe, as every implementation of polynomial 0x11d and generator 2 has them.
    #[test]
    fn parity_has_the_known_values() {
        let data: Vec<Vec<u8>> = [0x01, 0x80, 0xff].iter().map(|&b| vec![b; 16]).collect();
        let (mut p, mut q) = ([0; 16], [0; 16]);
        Code::new(3, 2).unwrap().encode(&views(&data), &mut [&mut p, &mut q]);
        // 2 * 0x80 = 0x1d; 4 * 0xff = 0xdb (0xff -> 0xe3 -> 0xdb).
        assert_eq!((p, q), ([0x7e; 16], [0x01 ^ 0x1d ^ 0xdb; 16]));
    }

    #[test]
    fn one_data_column_is_copied() {
        let all = encoded(Code::new(1, 2).unwrap(), 160);
        assert!(all[0] == all[1] && all[0] == all[2]);
    }

    /// Every lost column from every choice of k others.
    #[test]
    fn anything_is_rebuilt_from_any_k() {
        for (k, m) in (1..=MAX_DATA).flat_map(|k| (0..=MAX_PARITY).map(move |m| (k, m))) {
            let code = Code::new(k, m).unwrap();
            let all = encoded(code, 4096 + 16);
            for mask in (0u32..1 << (k + m)).filter(|mask| mask.count_ones() as usize == k) {
                let present: Vec<usize> = (0..k + m).filter(|i| mask >> i & 1 == 1).rev().collect();
                let sources: Vec<&[u8]> = present.iter().map(|&i| all[i].as_slice()).collect();
                for lost in 0..k + m {
                    let mut out = vec![0x55; all[0].len()];
                    code.rebuild(lost, &present).unwrap().apply(&sources, &mut out);
                    assert!(out == all[lost], "{k}+{m}: column {lost} from {present:?}");
                }
            }
        }
    }

    #[test]
    fn nonsense_has_no_recipe() {
        assert!(Code::new(0, 1).is_none() && Code::new(9, 1).is_none() && Code::new(4, 3).is_none());
        let code = Code::new(3, 1).unwrap();
        assert!(code.rebuild(4, &[0, 1, 2]).is_none());
        assert!(code.rebuild(0, &[1, 2]).is_none());
        assert!(code.rebuild(0, &[1, 2, 2]).is_none());
        assert!(code.rebuild(0, &[1, 2, 4]).is_none());
    }

    /// Each level by itself against the plain loops, for every factor.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn every_level_computes_the_same() {
        let (data, len) = (columns(8, 1040), 1040);
        let data = views(&data);
        for level in x86::Level::ALL.into_iter().filter(|l| l.is_there()) {
            for k in 1..=8 {
                let (mut p, mut q) = (vec![0; len], vec![0; len]);
                let (mut p2, mut q2) = (p.clone(), q.clone());
                scalar::pair(&data[..k], &mut p, &mut q, 0);
                let at = level.pair(&data[..k], &mut p2, &mut q2, 0);
                assert!(at > 900 && p[..at] == p2[..at] && q[..at] == q2[..at], "{level:?}");
                p2.fill(0);
                let at = level.sum(&data[..k], &mut p2, 0);
                assert!(at > 900 && p[..at] == p2[..at], "{level:?}");
            }
            for factor in 0..=255u8 {
                let factors = [factor, 1, factor ^ 0x5a, 0, 255];
                let (mut out, mut out2) = (vec![0; len], vec![0; len]);
                scalar::dot(&factors, &data[..5], &mut out, 0);
                let at = level.dot(&factors, &data[..5], &mut out2, 0);
                assert!(at > 900 && out[..at] == out2[..at], "{level:?}, factor {factor}");
            }
        }
    }
}
