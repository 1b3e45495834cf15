//! What a region did so far.

use std::time::Duration;

use cohmem_uapi::ReasonCounts;

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
