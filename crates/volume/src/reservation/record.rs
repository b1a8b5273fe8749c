//! The reservation state as a keyed object of the log.
//!
//! ```text
//!  0      version, 1                                   u16
//!  2      flags: bit 0 persists through power loss     u8
//!  3      RTYPE of the reservation held, 0 for none    u8
//!  4      generation                                   u32
//!  8      holder, zeros for none or all registrants    16 bytes
//!  24     number of registrants                        u16
//!  26     reserved, 0                                  u16
//!  28     registrants, ordered by host: host identifier (16 bytes), key (u64)
//! ```

use super::{HostId, ReservationType, state::Reservations};
use crate::{
    codec::{DecodeError, Reader},
    limits::MAX_REGISTRANTS,
};

/// Version that this code writes; higher ones are refused.
const VERSION: u16 = 1;

/// Bytes of the largest record.
const MAX_BYTES: usize = 28 + 24 * MAX_REGISTRANTS;

const _: () = assert!(MAX_BYTES <= dolmen_store::MAX_OBJECT_BYTES);

/// The record of a state.
pub(crate) fn encode(state: &Reservations) -> Vec<u8> {
    let (code, holder) = state.held.map_or((0, None), |(kind, holder)| (kind as u8, holder));
    let count = u16::try_from(state.registrants.len()).expect("registrants are limited");
    let mut out = Vec::with_capacity(28 + 24 * state.registrants.len());
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[u8::from(state.persists), code]);
    out.extend_from_slice(&state.generation.to_le_bytes());
    out.extend_from_slice(&holder.unwrap_or_default());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    for (host, key) in &state.registrants {
        out.extend_from_slice(host);
        out.extend_from_slice(&key.to_le_bytes());
    }
    out
}

/// The state of a record.
pub(crate) fn decode(bytes: &[u8]) -> Result<Reservations, DecodeError> {
    let mut r = Reader(bytes);
    let version = r.u16()?;
    if version > VERSION {
        return Err(DecodeError::Newer { version });
    }
    let (flags, code, generation) = (r.u8()?, r.u8()?, r.u32()?);
    let holder: HostId = r.array()?;
    let (count, reserved) = (usize::from(r.u16()?), r.u16()?);
    if version == 0 || flags > 1 || reserved != 0 || count > MAX_REGISTRANTS {
        return Err(DecodeError::Malformed);
    }
    let mut registrants: Vec<(HostId, u64)> = Vec::with_capacity(count);
    for _ in 0..count {
        registrants.push((r.array()?, r.u64()?));
    }
    r.end()?;
    let ordered = registrants.windows(2).all(|w| w[0].0 < w[1].0);
    let is_registered = |host: &HostId| registrants.iter().any(|r| r.0 == *host);
    let held = match ReservationType::from_code(code) {
        None if code == 0 && holder == [0; 16] => None,
        Some(kind) if kind.is_all_registrants() && holder == [0; 16] && count > 0 => Some((kind, None)),
        Some(kind) if !kind.is_all_registrants() && is_registered(&holder) => Some((kind, Some(holder))),
        _ => return Err(DecodeError::Malformed),
    };
    if !ordered || is_registered(&[0; 16]) {
        return Err(DecodeError::Malformed);
    }
    Ok(Reservations { generation, persists: flags == 1, held, registrants })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Reservations {
        Reservations {
            generation: 0x0102_0304,
            persists: true,
            held: Some((ReservationType::WriteExclusiveRegistrantsOnly, Some([2; 16]))),
            registrants: vec![([1; 16], 0x11), ([2; 16], 0x22)],
        }
    }

    #[test]
    fn golden_bytes() {
        let mut golden = vec![1, 0, 1, 3, 4, 3, 2, 1];
        golden.extend([2; 16]);
        golden.extend([2, 0, 0, 0]);
        golden.extend([1; 16]);
        golden.extend([0x11, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend([2; 16]);
        golden.extend([0x22, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(encode(&sample()), golden);
        assert_eq!(decode(&golden), Ok(sample()));
        golden[0] = 2;
        assert_eq!(decode(&golden), Err(DecodeError::Newer { version: 2 }));
    }

    #[test]
    fn no_bytes_make_it_panic_and_what_decodes_is_whole() {
        let good = encode(&sample());
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                if let Ok(state) = decode(&bad) {
                    assert_eq!(encode(&state), bad);
                }
            }
            assert!(decode(&good[..at]).is_err());
        }
        assert!(decode(&[good, vec![0]].concat()).is_err());
    }

    #[test]
    fn the_largest_record_is_as_large_as_told() {
        let hosts = (1..=u8::try_from(MAX_REGISTRANTS).unwrap()).map(|i| ([i; 16], 1)).collect();
        let state = Reservations { registrants: hosts, ..Reservations::default() };
        assert_eq!(encode(&state).len(), MAX_BYTES);
        assert_eq!(decode(&encode(&state)), Ok(state));
    }
}
