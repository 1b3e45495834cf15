//! How long steps of a computation take: a histogram that many threads write.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Four buckets a power of two of nanoseconds.
const NR_BUCKETS: usize = 4 * 64;

/// Times of steps. Plain counters, so relaxed.
#[derive(Debug)]
pub(super) struct Pauses {
    buckets: Vec<AtomicU64>,
    longest: AtomicU64,
}

/// What they came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spread {
    /// Half of the steps took no longer.
    pub(super) median: Duration,
    /// Ninety-nine of a hundred took no longer.
    pub(super) p99: Duration,
    /// The longest.
    pub(super) longest: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self {
            buckets: (0..NR_BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            longest: AtomicU64::new(0),
        }
    }
}

fn bucket(nanoseconds: u64) -> usize {
    let value = nanoseconds.max(4);
    let power = value.ilog2();
    let quarter = (value >> (power - 2)) & 3;
    (power as usize * 4 + usize::try_from(quarter).unwrap_or(0)).min(NR_BUCKETS - 1)
}

/// The largest time that the bucket holds.
fn upper_end(bucket: usize) -> u64 {
    let power = u32::try_from(bucket / 4).unwrap_or(0).max(2);
    let quarter = (bucket % 4) as u64;
    (((5 + quarter) << (power - 2)) - 1).max(4)
}

impl Pauses {
    pub(super) fn note(&self, took: Duration) {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(nanoseconds)].fetch_add(1, Ordering::Relaxed);
        self.longest.fetch_max(nanoseconds, Ordering::Relaxed);
    }

    /// Begins anew, and says what was noted so far.
    pub(super) fn take(&self) -> Spread {
        let counts: Vec<_> = self
            .buckets
            .iter()
            .map(|bucket| bucket.swap(0, Ordering::Relaxed))
            .collect();
        let longest = self.longest.swap(0, Ordering::Relaxed);
        let total: u64 = counts.iter().sum();
        let below = |percent: u64| {
            let rank = (total * percent).div_ceil(100).max(1);
            let mut seen = 0;
            let found = counts.iter().position(|count| {
                seen += count;
                seen >= rank
            });
            Duration::from_nanos(found.map_or(0, upper_end).min(longest))
        };
        Spread {
            median: below(50),
            p99: below(99),
            longest: Duration::from_nanos(longest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_they_say() {
        for nanoseconds in [0, 4, 5, 7, 8, 1000, 123_456, 1 << 40] {
            let at = bucket(nanoseconds);
            assert!(nanoseconds <= upper_end(at), "{nanoseconds}");
            assert!(
                at == bucket(0) || nanoseconds > upper_end(at - 1),
                "{nanoseconds}"
            );
        }
        assert_eq!(bucket(u64::MAX), NR_BUCKETS - 1);
    }

    #[test]
    fn a_spread_is_of_what_was_noted_since_the_last() {
        let pauses = Pauses::default();
        for micros in 1..=200 {
            pauses.note(Duration::from_micros(micros));
        }
        let spread = pauses.take();
        assert_eq!(spread.longest, Duration::from_micros(200));
        let is_near = |found: Duration, micros: u128| {
            let found = found.as_micros();
            found >= micros && found <= micros * 5 / 4
        };
        assert!(is_near(spread.median, 100) && is_near(spread.p99, 198));
        assert_eq!(pauses.take(), Spread::default());
    }
}
