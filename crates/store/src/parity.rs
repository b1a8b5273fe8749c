//! Parity of columns: what is stored in the parity columns, and a lost column from the others.
//!
//! With one data column the parity columns are copies of it. With one parity column it is the exclusive or of the data.

/// Adds `bytes` to `sum`, which is as long.
pub(crate) fn add(sum: &mut [u8], bytes: &[u8]) {
    debug_assert_eq!(sum.len(), bytes.len());
    for (s, b) in sum.iter_mut().zip(bytes) {
        *s ^= b;
    }
}

/// Computes the parity columns of the data columns; all are as long.
pub(crate) fn encode(data: &[&[u8]], parity: &mut [&mut [u8]]) {
    for sum in parity {
        sum.copy_from_slice(data[0]);
        for column in &data[1..] {
            add(sum, column);
        }
    }
}

/// The sets of columns from any one of which the column `lost` of `data + parity` can be computed, the handiest first.
pub(crate) fn sources(data: usize, parity: usize, lost: usize) -> Vec<Vec<usize>> {
    let others = || (0..data + parity).filter(move |&c| c != lost);
    match (data, parity) {
        (_, 0) => Vec::new(),
        (1, _) => others().map(|c| vec![c]).collect(),
        _ => vec![others().collect()],
    }
}
