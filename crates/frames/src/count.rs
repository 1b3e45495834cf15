//! A count of frames that several CPUs change at once.

use crate::sync::{AtomicU64, Ordering};

/// A count of frames, exact whenever no operation is under way.
///
/// Each operation counts after it changed the bitmap. So while one is under way, another that undoes
/// it may count first, and the stored value is then briefly below zero, modulo 2^64. Sums commute, so
/// it is right again once both have counted. Counts stay below 2^52 (`MAX_FRAMES`), which tells a
/// negative value from a large one.
#[derive(Debug)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn zero() -> Self {
        Self(AtomicU64::new(0))
    }

    pub(crate) fn add(&self, nr_frames: u64) {
        self.0.fetch_add(nr_frames, Ordering::Relaxed);
    }

    /// Release: pairs with the acquire in [`Self::get`]. Who reads a count sees all that was done
    /// before each decrease in it, since later changes are read-modify-writes and continue the release
    /// sequence.
    pub(crate) fn sub(&self, nr_frames: u64) {
        self.0.fetch_sub(nr_frames, Ordering::Release);
    }

    /// The count, 0 where it is briefly negative.
    pub(crate) fn get(&self) -> u64 {
        // Acquire: pairs with the release in `sub`.
        let value = self.0.load(Ordering::Acquire);
        if value > u64::MAX / 2 { 0 } else { value }
    }
}
