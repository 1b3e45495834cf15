//! Granules that were touched while they were a hole, and that somebody must bring home.

use crate::sync::{AtomicU64, Futex, Ordering};

const IDLE: u32 = 0;
const WORK: u32 = 1;
const END: u32 = 2;

/// The granules that wait, a bit each.
///
/// The listener, which must never wait for a granule's lock, only sets bits; a thread of its own, which
/// may wait, brings the granules home. So a touch of a granule that somebody holds is kept until it is
/// let go.
#[derive(Debug)]
pub(crate) struct Touches {
    bits: Box<[AtomicU64]>,
    /// Whether there is something to do.
    work: Futex,
}

impl Touches {
    pub(crate) fn new(nr_granules: usize) -> Self {
        let nr_words = nr_granules.div_ceil(64);
        Self {
            bits: (0..nr_words).map(|_| AtomicU64::new(0)).collect(),
            work: Futex::new(IDLE),
        }
    }

    /// Notes a touch. Allocates nothing and waits for nobody.
    pub(crate) fn add(&self, index: usize) {
        let Some(word) = self.bits.get(index / 64) else {
            return;
        };
        // Release: pairs with the acquire in `next`.
        word.fetch_or(1 << (index % 64), Ordering::Release);
        self.turn(IDLE, WORK);
    }

    /// Ends [`Self::wait`].
    pub(crate) fn end(&self) {
        while !self.turn(IDLE, END)
            && !self.turn(WORK, END)
            && self.work.load(Ordering::Acquire) != END
        {}
    }

    /// Takes one touched granule, if there is one.
    pub(crate) fn next(&self) -> Option<usize> {
        for (index, word) in self.bits.iter().enumerate() {
            let bits = word.load(Ordering::Acquire);
            if bits != 0 {
                let lowest = bits & bits.wrapping_neg();
                word.fetch_and(!lowest, Ordering::Acquire);
                return Some(index * 64 + lowest.trailing_zeros() as usize);
            }
        }
        None
    }

    /// Waits until a touch was noted since the last call; `false` if it is over.
    pub(crate) fn wait(&self) -> bool {
        loop {
            if self.turn(WORK, IDLE) {
                return true;
            }
            if self.work.load(Ordering::Acquire) == END {
                return false;
            }
            self.work.wait(IDLE);
        }
    }

    fn turn(&self, from: u32, to: u32) -> bool {
        // Acquire and release: a bit set before is seen after.
        let is_turned = self
            .work
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok();
        if is_turned && to != IDLE {
            self.work.wake_all();
        }
        is_turned
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn each_touch_is_told_once_and_none_is_lost() {
        let touches = Touches::new(200);
        for index in [3, 199, 64, 3] {
            touches.add(index);
        }
        assert!(touches.wait());
        let told: Vec<_> = std::iter::from_fn(|| touches.next()).collect();
        assert_eq!(told, [3, 64, 199]);
        touches.add(64);
        assert!(touches.wait());
        assert_eq!(touches.next(), Some(64));
        touches.end();
        assert!(!touches.wait());
    }
}
