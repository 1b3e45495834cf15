//! What a region is to be.

use std::fmt;

use crate::{Granule, LevelChoice};

/// How the CPU sees device memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MemoryType {
    /// The CPU reads and writes device memory in place, at the memory's own speed; granules move both
    /// ways. At every level.
    #[default]
    Coherent,
    /// The CPU cannot reach device memory: a touch brings the granule home. At level 1 only.
    Private,
    /// The CPU reads and writes device memory in place, and nothing ever moves: all of the region lies
    /// on the device from the start. At every level, none is used.
    Generic,
}

impl fmt::Display for MemoryType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Coherent => "coherent",
            Self::Private => "private",
            Self::Generic => "generic",
        })
    }
}

/// Bytes that move in one stop unless the caller says otherwise.
const STOP_BYTES: usize = 256 << 10;

/// What a region is to be.
#[derive(Clone, Copy, Debug, Default)]
pub struct RegionOptions {
    pub(crate) memory_type: MemoryType,
    pub(crate) level: LevelChoice,
    pub(crate) granule: Granule,
    stop_bytes: Option<usize>,
    pub(crate) kept_bytes: Option<usize>,
    pub(crate) nr_threads: usize,
}

impl RegionOptions {
    /// Coherent memory in granules of 64 KiB at the best level that can be had.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How the CPU sees device memory.
    #[must_use]
    pub const fn memory_type(mut self, memory_type: MemoryType) -> Self {
        self.memory_type = memory_type;
        self
    }

    /// The mechanism.
    #[must_use]
    pub const fn level(mut self, level: LevelChoice) -> Self {
        self.level = level;
        self
    }

    /// The unit that moves.
    #[must_use]
    pub const fn granule(mut self, granule: Granule) -> Self {
        self.granule = granule;
        self
    }

    /// Bytes of neighbouring granules that move in one stop of the other threads, where granules are
    /// smaller: 256 KiB by default. More is faster, less stops others for shorter; 0 is a granule at a
    /// time.
    #[must_use]
    pub const fn stop_bytes(mut self, bytes: usize) -> Self {
        self.stop_bytes = Some(bytes);
        self
    }

    /// Granules that move in one stop.
    pub(crate) fn granules_per_stop(&self) -> usize {
        (self.stop_bytes.unwrap_or(STOP_BYTES) / self.granule.bytes()).max(1)
    }

    /// System memory of granules on the device that the region keeps for their way home, at level 1:
    /// 64 MiB by default. 0 gives all of it back to the system.
    #[must_use]
    pub const fn kept_bytes(mut self, bytes: usize) -> Self {
        self.kept_bytes = Some(bytes);
        self
    }

    /// Threads that a migration of several granules uses, each for at least 4 MiB of them. 1, the
    /// default, is the caller's alone. It pays for granules of 2 MiB and more.
    #[must_use]
    pub const fn threads(mut self, nr_threads: usize) -> Self {
        self.nr_threads = nr_threads;
        self
    }
}
