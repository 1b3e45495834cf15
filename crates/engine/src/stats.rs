//! What a region did so far.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use cohmem_uapi::{NR_REASONS, ReasonCounts};

use crate::word::Place;

/// What a region did since it was allocated. Pages are of 4 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Pages that moved to the device.
    pub pages_to_device: u64,
    /// Pages that moved to system memory, on request or by touch.
    pub pages_to_system: u64,
    /// Times that other threads were stopped to move something: one each granule, or each run of small
    /// ones that move together.
    pub nr_stops: u64,
    /// Granules that a touch brought home ([`MemoryType::Private`](crate::MemoryType::Private)).
    pub nr_touched_home: u64,
    /// Longest time for which a granule was kept from other threads.
    pub longest_stop: Duration,
    /// All times for which granules were kept from other threads, added up.
    pub total_stop: Duration,
    /// Pages that stayed, by reason.
    pub stayed: ReasonCounts,
}

/// The counters behind [`Stats`]. Each is exact; together they are a moment's view, so relaxed.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pages_to_device: AtomicU64,
    pages_to_system: AtomicU64,
    nr_stops: AtomicU64,
    nr_touched_home: AtomicU64,
    longest_stop_ns: AtomicU64,
    total_stop_ns: AtomicU64,
    stayed: [AtomicU64; NR_REASONS],
}

impl Counters {
    pub(crate) fn add_stop(&self, time: Duration, to: Place, nr_pages: u64) {
        let time_ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.nr_stops.fetch_add(1, Ordering::Relaxed);
        self.longest_stop_ns.fetch_max(time_ns, Ordering::Relaxed);
        self.total_stop_ns.fetch_add(time_ns, Ordering::Relaxed);
        let moved = match to {
            Place::Device => &self.pages_to_device,
            Place::System => &self.pages_to_system,
        };
        moved.fetch_add(nr_pages, Ordering::Relaxed);
    }

    pub(crate) fn add_touched(&self) {
        self.nr_touched_home.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_stayed(&self, stayed: &ReasonCounts) {
        for (count, more) in self.stayed.iter().zip(stayed.raw()) {
            if *more > 0 {
                count.fetch_add(*more, Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn read(&self) -> Stats {
        let mut stayed = [0; NR_REASONS];
        for (target, count) in stayed.iter_mut().zip(&self.stayed) {
            *target = count.load(Ordering::Relaxed);
        }
        Stats {
            pages_to_device: self.pages_to_device.load(Ordering::Relaxed),
            pages_to_system: self.pages_to_system.load(Ordering::Relaxed),
            nr_stops: self.nr_stops.load(Ordering::Relaxed),
            nr_touched_home: self.nr_touched_home.load(Ordering::Relaxed),
            longest_stop: Duration::from_nanos(self.longest_stop_ns.load(Ordering::Relaxed)),
            total_stop: Duration::from_nanos(self.total_stop_ns.load(Ordering::Relaxed)),
            stayed: ReasonCounts::from_raw(stayed),
        }
    }
}
