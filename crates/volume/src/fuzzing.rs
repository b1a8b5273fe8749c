//! What fuzz targets call: the decoders of the records that volumes keep in the log. Compiled for tests and fuzzing only.

use crate::{descriptor, reservation::record};

/// Decodes `bytes` as a volume's descriptor and as its reservations.
///
/// # Panics
/// When a decoder is wrong: a record that decodes is the only one of what it says.
pub fn records(bytes: &[u8]) {
    if let Ok(volume) = descriptor::decode(bytes) {
        assert_eq!(descriptor::encode(&volume), bytes);
    }
    if let Ok(reservations) = record::decode(bytes) {
        assert_eq!(record::encode(&reservations), bytes);
        let _ = reservations.report();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dolmen_sim::Rng;

    #[test]
    fn no_record_makes_a_decoder_panic() {
        let mut rng = Rng::new(11);
        for _ in 0..4000 {
            let mut bytes = vec![0; rng.index(400)];
            rng.fill(&mut bytes);
            bytes.iter_mut().for_each(|b| *b = if *b < 128 { *b % 13 } else { *b });
            if let [version, high, ..] = bytes.as_mut_slice() {
                (*version, *high) = (1, 0);
            }
            records(&bytes);
        }
    }
}
