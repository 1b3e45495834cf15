//! The unit that moves.

use std::fmt;

use crate::error::{Cause, Result};

/// The unit in which memory moves: a power of two of bytes.
///
/// Small granules move little at a time and stop other threads briefly; large ones move fast. 64 KiB is
/// the default, 2 MiB lets both sides use huge pages.
///
/// # Invariants
///
/// The number is a power of two from 4096 to 2^30.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Granule(usize);

impl Granule {
    /// 4 KiB, the smallest.
    pub const SMALLEST: Self = Self(4096);
    /// 64 KiB, the default.
    pub const MEDIUM: Self = Self(64 << 10);
    /// 2 MiB, the size of a huge page.
    pub const HUGE: Self = Self(2 << 20);
    /// 1 GiB, the largest.
    pub const LARGEST: Self = Self(1 << 30);

    /// A granule of `bytes` bytes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::BadGranule`](crate::ErrorKind::BadGranule): `bytes` is not a power of two from 4096
    /// to 2^30.
    pub fn new(bytes: usize) -> Result<Self> {
        if bytes.is_power_of_two() && (Self::SMALLEST.0..=Self::LARGEST.0).contains(&bytes) {
            // INVARIANT: both were just checked.
            Ok(Self(bytes))
        } else {
            Err(Cause::BadGranule { bytes }.into())
        }
    }

    /// Bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.0
    }

    /// Pages of 4 KiB.
    #[must_use]
    pub const fn nr_pages(self) -> u64 {
        (self.0 / Self::SMALLEST.0) as u64
    }
}

impl fmt::Display for Granule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 >= 1 << 20 {
            write!(f, "{} MiB", self.0 >> 20)
        } else {
            write!(f, "{} KiB", self.0 >> 10)
        }
    }
}

impl Default for Granule {
    fn default() -> Self {
        Self::MEDIUM
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn only_powers_of_two_in_the_range_are_granules() {
        for bytes in [4096, 64 << 10, 2 << 20, 1 << 30] {
            assert_eq!(Granule::new(bytes).unwrap().bytes(), bytes);
        }
        for bytes in [0, 1, 2048, 4097, 12288, 2 << 30] {
            assert_eq!(
                Granule::new(bytes).unwrap_err().kind(),
                ErrorKind::BadGranule
            );
        }
        assert_eq!(Granule::HUGE.to_string(), "2 MiB");
        assert_eq!(Granule::MEDIUM.to_string(), "64 KiB");
    }
}
