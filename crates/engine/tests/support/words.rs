//! A region as words that threads share.

use std::{
    slice,
    sync::atomic::{AtomicU64, Ordering},
};

use cohmem_engine::Region;

/// Words of a turn: one for each of up to seven users, and a counter.
pub(crate) const TURN: usize = 8;
/// The counter's place in a turn.
pub(crate) const COUNTER: usize = TURN - 1;

/// All of the region's words, for threads to share.
pub(crate) fn of(region: &Region) -> &[AtomicU64] {
    let start = region.as_ptr().cast::<AtomicU64>();
    // SAFETY: The region is that many bytes, aligned to 4096 at least, initialised, and lives as long as
    // the borrow. An atomic word has the size of a plain one, and may be changed through shared
    // references; these tests make no other references meanwhile.
    unsafe { slice::from_raw_parts(start.as_ptr(), region.len() / size_of::<AtomicU64>()) }
}

/// The counter of each turn.
pub(crate) fn counters(words: &[AtomicU64]) -> impl Iterator<Item = &AtomicU64> {
    words.iter().skip(COUNTER).step_by(TURN)
}

/// The sum of all words.
pub(crate) fn sum(words: &[AtomicU64]) -> u64 {
    words.iter().fold(0, |sum, word| {
        sum.wrapping_add(word.load(Ordering::Relaxed))
    })
}

/// Numbers that look random and are the same in each run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `limit`, from the high bits of a mixed counter.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let wide = u128::from(mixed ^ (mixed >> 31)) * limit as u128;
        usize::try_from(wide >> 64).unwrap()
    }
}
