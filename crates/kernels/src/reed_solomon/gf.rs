//! GF(2^8) with the polynomial x^8 + x^4 + x^3 + x^2 + 1 (0x11d), in which 2 generates every number but 0.

/// The polynomial without its highest term: what a carry out of the top bit comes back as.
pub(super) const CARRY: u8 = 0x1d;

/// Product of two numbers.
pub(super) const fn mul(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    while b != 0 {
        if b & 1 != 0 {
            product ^= a;
        }
        let carry = if a & 0x80 != 0 { CARRY } else { 0 };
        a = (a << 1) ^ carry;
        b >>= 1;
    }
    product
}

/// The number whose product with `a` is 1; 0 for 0.
pub(super) const fn inverse(a: u8) -> u8 {
    // a^255 = 1, so the inverse is a^254.
    let (mut power, mut square, mut exponent) = (1, a, 254u8);
    while exponent != 0 {
        if exponent & 1 != 0 {
            power = mul(power, square);
        }
        square = mul(square, square);
        exponent >>= 1;
    }
    power
}

/// For each factor its products with 0..16, then with 0, 16, ..., 240: what a byte shuffle looks up by nibbles.
pub(super) static NIBBLES: [[u8; 32]; 256] = {
    let mut tables = [[0; 32]; 256];
    let mut factor = 0;
    while factor < 256 {
        let mut i = 0;
        while i < 16 {
            tables[factor][i] = mul(low(factor), low(i));
            tables[factor][16 + i] = mul(low(factor), low(i << 4));
            i += 1;
        }
        factor += 1;
    }
    tables
};

/// For each factor the bit matrix of multiplying by it, as the affine instruction wants it: row of result bit *i* in byte
/// 7 - *i*.
#[cfg(target_arch = "x86_64")]
pub(super) static MATRICES: [u64; 256] = {
    let mut matrices = [0; 256];
    let mut factor = 0;
    while factor < 256 {
        let mut j = 0;
        while j < 8 {
            let product = mul(low(factor), 1 << j);
            let mut i = 0;
            while i < 8 {
                let bit = ((product >> i) & 1) as u64;
                matrices[factor] |= bit << ((7 - i) * 8 + j);
                i += 1;
            }
            j += 1;
        }
        factor += 1;
    }
    matrices
};

/// The low byte, where `u8::try_from` may not be called yet.
const fn low(number: usize) -> u8 {
    number.to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_generates_the_field() {
        let (mut power, mut seen) = (1, [false; 256]);
        for _ in 0..255 {
            assert!(!std::mem::replace(&mut seen[usize::from(power)], true));
            power = mul(power, 2);
        }
        assert_eq!((power, seen[0]), (1, false));
    }

    #[test]
    fn inverses_hold() {
        for a in 1..=255 {
            assert_eq!(mul(a, inverse(a)), 1, "{a}");
        }
    }
}
