//! What following needs of the machine. A trait, so that it is tested on processes that are not.

use std::time::Duration;

use cohmem::{AddrRange, PageEntry, ReasonCounts};

use crate::policy::Area;

/// Why a step came to nothing.
#[derive(Debug)]
pub(crate) enum Obstacle {
    /// The process has ended, or has become another program.
    Gone,
    /// The process is not the caller's to see.
    Hidden,
    /// Not now: the mapping is gone or changes, or a file could not be opened.
    Later,
    /// The device takes no pages: it is being taken back, or is gone.
    Closed,
    /// Following makes no more sense.
    Fatal(cohmem::Error),
}

pub(crate) type Step<T> = Result<T, Obstacle>;

/// Counts that change when a process gets memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signature {
    /// Page faults so far.
    pub(crate) faults: u64,
    /// Pages of anonymous memory, and of address space.
    pub(crate) anonymous: u64,
    pub(crate) mapped: u64,
}

/// What a call moved, of the pages of its range.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moved {
    pub(crate) pages: u64,
    pub(crate) stayed: ReasonCounts,
}

/// Processes, and devices by number.
pub(crate) trait Machine {
    /// A process for good: not another one that takes its number.
    type Process;

    /// Time since some moment.
    fn now(&self) -> Duration;
    /// The number that the newest process or thread of the machine got; `None` where it is not told.
    ///
    /// A process that is being made has its number before it is in any list.
    fn newest(&self) -> Option<u32>;
    /// Children of any thread of `parent`, as far as they can be listed.
    fn children(&self, parent: u32) -> Vec<u32>;
    fn open(&self, pid: u32) -> Step<Self::Process>;
    /// `None` when it has ended.
    fn signature(&self, process: &Self::Process) -> Option<Signature>;
    fn areas(&self, process: &Self::Process) -> Step<Vec<Area>>;
    /// Pages of `range` that are on devices.
    fn count(&self, process: &Self::Process, range: AddrRange) -> Step<u64>;
    /// Pages of `range` that are in memory, also in a mapping without access.
    fn present(&self, process: &Self::Process, range: AddrRange) -> Step<u64>;
    /// The parts of `range` that hold memory.
    fn occupied(&self, process: &Self::Process, range: AddrRange) -> Step<Vec<AddrRange>>;
    /// Tells of each page where it is, and of those at home why they would not move.
    fn look(&self, process: &Self::Process, range: AddrRange) -> Step<Vec<PageEntry>>;
    /// Free frames of a device.
    fn free(&self, device: u32) -> Step<u64>;
    fn move_in(&self, device: u32, process: &Self::Process, range: AddrRange) -> Step<Moved>;
    fn move_home(&self, device: u32, process: &Self::Process, range: AddrRange) -> Step<Moved>;
}
