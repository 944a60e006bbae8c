//! Bit rates and sizes as people write them.

use std::fmt;

use crate::violation::Violation;

/// Least rate that can be asked for: below, a full packet takes longer than a tenth of a second.
pub const MIN_RATE: Rate = Rate(128_000);
/// Most: beyond, no link there is goes.
pub const MAX_RATE: Rate = Rate(1_000_000_000_000);
/// Least burst: two full packets.
pub const MIN_BURST: Bytes = Bytes(3_000);
/// Most: what a fast link sends in some milliseconds.
pub const MAX_BURST: Bytes = Bytes(64 << 20);

/// Bits a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(pub u64);

/// A number of bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

impl Rate {
    /// Reads a rate: a number, with a fraction if need be, and `k`, `M`, `G`, `T` (powers of 1,000)
    /// or `Ki`, `Mi`, `Gi`, `Ti` (of 1,024), and then `bit` if one likes: `100M`, `1.5Gbit`. Always
    /// bits a second, as in the bandwidth annotations of Kubernetes.
    ///
    /// # Errors
    /// It is no such number, or outside [`MIN_RATE`] to [`MAX_RATE`].
    pub fn parse(field: &str, text: &str) -> Result<Self, Violation> {
        let number = text.strip_suffix("bit").unwrap_or(text);
        let fault = |reason, what: &str| {
            Violation::new(
                field,
                text,
                reason,
                format!(
                    "{what}; rates are bits a second, as 100M, 1.5Gbit or 64Mi, from {MIN_RATE} to {MAX_RATE}"
                ),
            )
        };
        let Some(bits) = quantity(number) else {
            return Err(fault("MalformedRate", "is not a bit rate"));
        };
        let rate = Self(bits);
        if !(MIN_RATE..=MAX_RATE).contains(&rate) {
            return Err(fault("RateRange", "is too low or too high"));
        }
        Ok(rate)
    }

    /// Bytes a second.
    pub fn bytes(self) -> u64 {
        self.0 / 8
    }

    /// Bytes in so many milliseconds.
    pub fn bytes_in(self, milliseconds: u64) -> u64 {
        u64::try_from(u128::from(self.0) * u128::from(milliseconds) / 8_000).unwrap_or(u64::MAX)
    }

    /// This many thousandths of it.
    #[must_use]
    pub fn permille(self, permille: u64) -> Self {
        let part = u128::from(self.0) * u128::from(permille) / 1_000;
        Self(u64::try_from(part).unwrap_or(u64::MAX))
    }
}

impl Bytes {
    /// Reads a size: as [`Rate::parse`] without `bit`: `64Ki`, `1M`.
    ///
    /// # Errors
    /// It is no such number, or outside [`MIN_BURST`] to [`MAX_BURST`].
    pub fn parse(field: &str, text: &str) -> Result<Self, Violation> {
        let fault = |reason, what: &str| {
            Violation::new(
                field,
                text,
                reason,
                format!(
                    "{what}; sizes are bytes, as 64Ki or 1M, from {} to {}",
                    MIN_BURST.0, MAX_BURST.0
                ),
            )
        };
        let Some(bytes) = quantity(text) else {
            return Err(fault("MalformedSize", "is not a size"));
        };
        if !(MIN_BURST..=MAX_BURST).contains(&Self(bytes)) {
            return Err(fault("SizeRange", "is too small or too large"));
        }
        Ok(Self(bytes))
    }
}

/// The shortest way to write it exactly: `100M`, `1500k`.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units =
            [(1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")];
        let unit = units.iter().find(|(size, _)| self.0 > 0 && self.0.is_multiple_of(*size));
        match unit {
            Some((size, letter)) => write!(f, "{}{letter}", self.0 / size),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A decimal number with a suffix, rounded down; `None` where it is none or too large. Exact: no
/// floating point.
fn quantity(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let unit: u128 = match suffix {
        "" => 1,
        "k" | "K" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
        Some(_) => return None,
        None => (number, ""),
    };
    if whole.is_empty() || whole.len() > 15 || fraction.len() > 9 || fraction.contains('.') {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let whole: u128 = whole.parse().ok()?;
    let part: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    u64::try_from(whole * unit + part * unit / scale).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_they_are_written_in_kubernetes() {
        for (text, bits) in [
            ("100M", 100_000_000),
            ("100Mbit", 100_000_000),
            ("1.5G", 1_500_000_000),
            ("1Mi", 1 << 20),
            ("250k", 250_000),
            ("250000", 250_000),
            ("0.128M", 128_000),
            ("1T", 1_000_000_000_000),
        ] {
            assert_eq!(Rate::parse("f", text), Ok(Rate(bits)), "{text}");
        }
    }

    #[test]
    fn what_is_no_rate_is_told_apart_from_what_is_out_of_range() {
        for text in [
            "",
            "M",
            "-1M",
            "1e6",
            "1.M",
            ".5M",
            "1.2.3M",
            "100MB",
            "100Mbps",
            "1 M",
            "99999999999999999999",
        ] {
            assert_eq!(Rate::parse("f", text).unwrap_err().reason, "MalformedRate", "{text}");
        }
        for text in ["0", "127k", "2T", "1.0000001T"] {
            assert_eq!(Rate::parse("f", text).unwrap_err().reason, "RateRange", "{text}");
        }
        assert_eq!(Bytes::parse("f", "64Ki"), Ok(Bytes(65_536)));
        assert_eq!(Bytes::parse("f", "64Kibit").unwrap_err().reason, "MalformedSize");
        assert_eq!(Bytes::parse("f", "1k").unwrap_err().reason, "SizeRange");
    }

    #[test]
    fn a_rate_is_shown_so_that_it_reads_back() {
        for bits in [128_000, 1_500_000, 1_000_000_000, 999_999_999, 1_000_000_000_000] {
            let text = Rate(bits).to_string();
            assert_eq!(Rate::parse("f", &text), Ok(Rate(bits)), "{text}");
        }
        assert_eq!(Rate(100_000_000).to_string(), "100M");
        assert_eq!(Rate(8_000).bytes_in(1), 1);
    }
}
