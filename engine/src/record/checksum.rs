//! CRC32C of a batch whose first bytes are not known yet.
//!
//! The journal's thread gives a batch its number, and with it the checksum; all that it does between two syncs is time
//! in which the disk idles. So whoever built the batch sums up its end, and the journal's thread adds the beginning:
//! the checksum of two pieces is that of the first one times x^(8 · length of the second), modulo the polynomial,
//! plus that of the second. Bits are reflected: x^0 is the highest.

const POLYNOMIAL: u32 = 0x82F6_3B78;
const ONE: u32 = 1 << 31;

/// Below this it takes longer to find the factor than to sum up the bytes.
const WORTH: usize = 32 << 10;

/// x^(2^n) for each n.
const POWERS: [u32; 32] = {
    let mut powers = [ONE >> 1; 32];
    let mut at = 1;
    while at < 32 {
        powers[at] = times(powers[at - 1], powers[at - 1]);
        at += 1;
    }
    powers
};

/// The product of two polynomials, modulo CRC32C's.
const fn times(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = ONE;
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        b = if b & 1 == 0 { b >> 1 } else { (b >> 1) ^ POLYNOMIAL };
        bit >>= 1;
    }
    product
}

/// The end of a batch, summed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    crc: u32,
    /// What a checksum of bytes in front of it is multiplied by.
    factor: u32,
}

impl Tail {
    /// Sums up; `None` when the bytes are so few that it is done faster with the beginning.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        (bytes.len() >= WORTH).then(|| {
            // Eight bits a byte: the first power is x^(2^3).
            let bits = (0..usize::BITS as usize).filter(|bit| bytes.len() >> bit & 1 == 1);
            let powers = bits.filter_map(|bit| POWERS.get((bit + 3) % POWERS.len()));
            Self {
                crc: crc32c::crc32c(bytes),
                factor: powers.fold(ONE, |factor, power| times(factor, *power)),
            }
        })
    }

    /// The checksum of `head` and this after it.
    pub(crate) fn after(&self, head: &[u8]) -> u32 {
        times(self.factor, crc32c::crc32c(head)) ^ self.crc
    }
}

#[cfg(test)]
mod tests {
    use super::{Tail, WORTH};

    #[test]
    fn a_checksum_of_two_pieces_is_that_of_the_whole() {
        let bytes: Vec<u8> =
            (0..3_000_017u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for length in [WORTH, WORTH + 1, 65_535, 65_536, 1 << 20, (1 << 20) + 77, 2_999_999] {
            let whole = &bytes[..16 + length];
            let (head, tail) = whole.split_at(16);
            let tail = Tail::of(tail).expect("long enough");
            assert_eq!(tail.after(head), crc32c::crc32c(whole), "{length} bytes");
            assert_eq!(tail.after(&bytes[7..23]) == crc32c::crc32c(whole), bytes[7..23] == whole[..16]);
        }
        assert_eq!(Tail::of(&bytes[..WORTH - 1]), None);
    }
}
