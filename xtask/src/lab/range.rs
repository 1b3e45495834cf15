//! Sizes and physical ranges as people write them: `512M`, `512M@0x140000000`.

use std::{fmt, str::FromStr};

use anyhow::{Context as _, Result, bail};

/// Half-open range of guest physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Range {
    /// First address.
    pub(crate) start: u64,
    /// Length.
    pub(crate) bytes: u64,
}

impl Range {
    /// What a range must be a multiple of: the kernel's section size, the unit of hot-plugging.
    pub(crate) const ALIGN: u64 = 128 << 20;

    /// First address behind the range.
    pub(crate) fn end(self) -> u64 {
        self.start + self.bytes
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}M@{:#x}", self.bytes >> 20, self.start)
    }
}

impl FromStr for Range {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (size, start) = text
            .split_once('@')
            .with_context(|| format!("{text:?} is not SIZE@ADDRESS"))?;
        let range = Self {
            start: parse_size(start)?,
            bytes: parse_size(size)?,
        };
        if range.bytes == 0
            || !range.bytes.is_multiple_of(Self::ALIGN)
            || !range.start.is_multiple_of(Self::ALIGN)
        {
            bail!("{text}: size and address must be multiples of 128M");
        }
        if range
            .start
            .checked_add(range.bytes)
            .is_none_or(|end| end > 1 << 39)
        {
            bail!("{text} ends above 512G, further than the guest's processor can address");
        }
        Ok(range)
    }
}

/// Reads a decimal or 0x number with an optional K, M, G or T (powers of 1024).
pub(crate) fn parse_size(text: &str) -> Result<u64> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 20),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 30),
        Some(b't' | b'T') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let number = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    }
    .with_context(|| format!("{text:?} is not a size such as 512M, 2G or 0x20000000"))?;
    number
        .checked_mul(1 << shift)
        .with_context(|| format!("{text} is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_or_none() {
        let sizes = ["4096", "0x1000", "4k", "1M", "0x10M", "2G", "1T"].map(|s| parse_size(s).ok());
        let expected = [4096, 4096, 4096, 1 << 20, 16 << 20, 2 << 30, 1 << 40].map(Some);
        assert_eq!(sizes, expected);
    }

    #[test]
    fn bad_sizes_are_refused_by_name() {
        for text in ["", "M", "1.5G", "-1", "12x", "99999999999T"] {
            let error = parse_size(text).expect_err(text).to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn a_range_is_aligned_and_reachable() {
        let range: Range = "512M@0x140000000".parse().expect("a good range");
        assert_eq!(
            range,
            Range {
                start: 0x1_4000_0000,
                bytes: 512 << 20
            }
        );
        assert_eq!(range.to_string(), "512M@0x140000000");
        for text in [
            "512M",
            "0@4G",
            "100M@4G",
            "512M@0x140001000",
            "1T@0",
            "1G@0xffffffffc0000000",
        ] {
            assert!(text.parse::<Range>().is_err(), "{text}");
        }
    }
}
