//! Parity of columns: what is stored in the parity columns, and a lost column from the others.
//!
//! With one data column the parity columns are copies of it; the first one is the exclusive or of the data; the second makes it a
//! Reed-Solomon code, so that any two columns may be lost.

use dolmen_kernels::reed_solomon::Code;

/// Computes the parity columns of the data columns; all are as long, and a multiple of 16 bytes.
pub(crate) fn encode(data: &[&[u8]], parity: &mut [&mut [u8]]) {
    let code = Code::new(data.len(), parity.len()).expect("a segment has as many columns as the code allows");
    code.encode(data, parity);
}

/// Computes the column `lost` of `data + parity` from the `present` ones, whose bytes are given in that order. False when these are
/// not such that it can be.
pub(crate) fn rebuild(
    (data, parity): (usize, usize),
    lost: usize,
    present: &[usize],
    bytes: &[&[u8]],
    out: &mut [u8],
) -> bool {
    let recipe = Code::new(data, parity).and_then(|code| code.rebuild(lost, present));
    recipe.is_some_and(|recipe| {
        recipe.apply(bytes, out);
        true
    })
}

/// The sets of columns from any one of which the column `lost` of `data + parity` can be computed, the handiest first: those without
/// the last parity column before the others.
pub(crate) fn sources(data: usize, parity: usize, lost: usize) -> Vec<Vec<usize>> {
    let others: Vec<usize> = (0..data + parity).filter(|&c| c != lost).collect();
    match parity {
        0 => Vec::new(),
        _ if data == 1 => others.into_iter().map(|c| vec![c]).collect(),
        1 => vec![others],
        _ => (0..others.len())
            .rev()
            .map(|omitted| {
                let kept = others.iter().enumerate().filter(|(i, _)| *i != omitted);
                kept.map(|(_, &c)| c).collect()
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any column of any code comes back from each of its sets of sources.
    #[test]
    fn every_set_of_sources_gives_the_column() {
        for (data, parity) in [(1, 1), (1, 2), (2, 1), (3, 1), (2, 2), (4, 2), (8, 2)] {
            let mut columns: Vec<Vec<u8>> = (0..data)
                .map(|c| (0..64).map(|i| u8::try_from((i * 7 + c * 31) % 251).unwrap()).collect())
                .collect();
            let mut sums = vec![vec![0; 64]; parity];
            let views: Vec<&[u8]> = columns.iter().map(Vec::as_slice).collect();
            let mut outs: Vec<&mut [u8]> = sums.iter_mut().map(Vec::as_mut_slice).collect();
            encode(&views, &mut outs);
            columns.append(&mut sums);
            for lost in 0..data + parity {
                let sets = sources(data, parity, lost);
                assert!(!sets.is_empty());
                for set in sets {
                    assert!(!set.contains(&lost));
                    let bytes: Vec<&[u8]> = set.iter().map(|&c| columns[c].as_slice()).collect();
                    let mut out = vec![0; 64];
                    assert!(rebuild((data, parity), lost, &set, &bytes, &mut out));
                    assert_eq!(out, columns[lost], "{data}+{parity}, column {lost} from {set:?}");
                }
            }
        }
    }
}
