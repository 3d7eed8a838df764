//! How a crc changes with some bytes, without reading the others again.
//!
//! A crc is linear: between two texts of one length, the sums differ by what the texts' difference comes to from an
//! empty start, and bytes that are the same differ by zero. Zeros behind a difference multiply its remainder by a
//! power of x. So a push's record is summed by its caller, whose caches have it, and the writer, who gives the
//! sequence number, need not read it again.
//!
//! Polynomials over GF(2) modulo Castagnoli's, the highest power in the lowest bit, as crc32c has them.

/// Castagnoli's polynomial without its highest power.
pub(super) const POLYNOMIAL: u32 = 0x82F6_3B78;

/// The polynomial 1.
const ONE: u32 = 1 << 31;

/// Zeros behind a difference at most.
const BEHIND_MAX: usize = 2047;

/// For so many bytes of zeros, what they multiply by: x to the power of their bits.
static POWERS: [u32; BEHIND_MAX + 1] = {
    let mut powers = [ONE; BEHIND_MAX + 1];
    let mut behind = 1;
    while behind <= BEHIND_MAX {
        #[expect(clippy::indexing_slicing, reason = "of a constant")]
        let mut power = powers[behind - 1];
        let mut bit = 0;
        while bit < 8 {
            power = times_x(power);
            bit += 1;
        }
        #[expect(clippy::indexing_slicing, reason = "of a constant")]
        {
            powers[behind] = power;
        }
        behind += 1;
    }
    powers
};

const fn times_x(value: u32) -> u32 {
    value >> 1 ^ POLYNOMIAL & 0u32.wrapping_sub(value & 1)
}

fn product(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    for power in (0..32).rev() {
        product ^= b & 0u32.wrapping_sub(a >> power & 1);
        b = times_x(b);
    }
    product
}

/// By what a sum changes when the bytes at a place change by `difference`, an exclusive or, and `behind` bytes follow.
/// `None` if these are more than is worth it.
pub(super) fn change(difference: &[u8], behind: usize) -> Option<u32> {
    let power = POWERS.get(behind)?;
    let remainder = !crc32c::crc32c_append(!0, difference);
    Some(product(remainder, *power))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_changes_as_it_would_if_all_were_read_again() {
        let text: Vec<u8> = (0u32..3000)
            .map(|number| number.to_le_bytes()[0] ^ 0x5a)
            .collect();
        for length in 8..text.len() {
            for (at, difference) in [
                (0, [1; 8]),
                (length / 2, [0xff; 8]),
                (length - 8, [0, 0, 0, 0, 0, 0, 0, 0x80]),
            ] {
                let at = at.min(length - 8);
                let mut changed = text[..length].to_vec();
                for (byte, difference) in changed[at..].iter_mut().zip(difference) {
                    *byte ^= difference;
                }
                let behind = length - at - 8;
                let sum = |text: &[u8]| crc32c::crc32c_append(0xdead_beef, text);
                let wanted = (behind <= BEHIND_MAX).then(|| sum(&changed) ^ sum(&text[..length]));
                assert_eq!(change(&difference, behind), wanted, "{length} bytes, at {at}");
            }
        }
    }
}
