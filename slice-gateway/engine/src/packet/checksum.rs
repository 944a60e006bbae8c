//! The Internet checksum (RFC 1071).
//!
//! Sums are kept in the machine's byte order, which the checksum does not mind as long as the
//! result is stored in that order too.

/// Adds `data` to `sum`; data of odd length counts as if a zero followed.
pub fn add(sum: u64, data: &[u8]) -> u64 {
    let mut lanes = [0u64; 8];
    let mut blocks = data.chunks_exact(32);
    for block in &mut blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut sum = lanes.iter().fold(sum, |a, b| a + b);
    let (pairs, odd) = blocks.remainder().as_chunks::<2>();
    for pair in pairs {
        sum += u64::from(u16::from_ne_bytes(*pair));
    }
    if let [last] = odd {
        sum += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    sum
}

/// Adds one 16-bit number given as a value.
pub fn add_u16(sum: u64, value: u16) -> u64 {
    sum + u64::from(value.to_be())
}

/// Folds to 16 bits, not complemented: what a pseudo-header's sum is stored as.
pub fn fold(sum: u64) -> [u8; 2] {
    let mut sum = sum;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (sum as u16).to_ne_bytes()
}

/// Folds and complements: what goes into a header's checksum field.
pub fn finish(sum: u64) -> [u8; 2] {
    let [a, b] = fold(sum);
    [!a, !b]
}

/// True if a sum over data that includes its checksum says "intact".
pub fn intact(sum: u64) -> bool {
    fold(sum) == [0xff, 0xff]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071, word by word, big endian.
    fn plain(data: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in data.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u32::from(u16::from_be_bytes([pair[0], low]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(data in prop::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(finish(add(0, &data)), plain(&data).to_be_bytes());
        }

        #[test]
        fn data_with_its_checksum_is_intact(mut data in prop::collection::vec(any::<u8>(), 2..200)) {
            data[..2].fill(0);
            let sum = finish(add(0, &data));
            data[..2].copy_from_slice(&sum);
            prop_assert!(intact(add(0, &data)));
            data[1] ^= 1;
            prop_assert!(!intact(add(0, &data)));
        }
    }
}
