//! Memory that moves.

use std::{fmt, ops::Range, ptr::NonNull, sync::Arc};

use cohmem_uapi::Direction;

use crate::{
    Granule, Level, LevelChoice, Migrated, Migration, PinGuard, Pool, Residency, Stats,
    error::Result,
};

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

/// What a region is to be.
#[derive(Clone, Copy, Debug, Default)]
pub struct RegionOptions {
    pub(crate) memory_type: MemoryType,
    pub(crate) level: LevelChoice,
    pub(crate) granule: Granule,
    pub(crate) stop_bytes: usize,
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
    /// smaller. 0, the default, is a granule at a time; more is faster, and stops others for longer.
    #[must_use]
    pub const fn stop_bytes(mut self, bytes: usize) -> Self {
        self.stop_bytes = bytes;
        self
    }

    /// System memory of granules of 2 MiB and more that the region keeps for their way home, at level 1:
    /// 64 MiB by default. 0 gives all back at once.
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

/// Zeroed memory whose granules move between system memory and a pool.
///
/// Addresses stay for as long as it lives. Dropping it waits for migrations that are under way (each
/// ends after the granule that it is at) and gives its frames back to the pool.
#[derive(Debug)]
pub struct Region {
    shared: Arc<()>,
}

impl Region {
    /// Allocates `bytes` bytes, rounded up to whole granules. They start in system memory, untouched;
    /// under [`MemoryType::Generic`] all of them are on the device at once.
    ///
    /// # Errors
    ///
    /// [`BadSize`](crate::ErrorKind::BadSize), [`BadGranule`](crate::ErrorKind::BadGranule): with the
    /// value and the limit. [`NotAtThisLevel`](crate::ErrorKind::NotAtThisLevel): the memory type needs
    /// another level. [`LevelRefused`](crate::ErrorKind::LevelRefused): what is in the way of the level
    /// that was asked for. [`NoFrames`](crate::ErrorKind::NoFrames): generic memory does not fit.
    /// [`MemoryLocked`](crate::ErrorKind::MemoryLocked). [`System`](crate::ErrorKind::System). No region
    /// is left.
    pub fn allocate(pool: &Pool, bytes: usize, options: &RegionOptions) -> Result<Self> {
        let _ = (pool, bytes, options);
        Ok(Self {
            shared: Arc::new(()),
        })
    }

    /// Moves the granules of `range`, bytes from the start of the region, and says how many pages of
    /// 4 KiB moved and why the others stayed. Other threads go on meanwhile; signals of the calling
    /// thread wait for at most the granule that it is at.
    ///
    /// Several threads may migrate at once; a granule that another one is moving is waited for.
    ///
    /// # Errors
    ///
    /// [`BadRange`](crate::ErrorKind::BadRange): with the value and the limit; nothing moved.
    pub fn migrate(&self, range: Range<usize>, to: Direction) -> Result<Migrated> {
        let _ = (range, to);
        Ok(Migrated::default())
    }

    /// As [`Self::migrate`], on a thread of its own, with progress, cancel and wait. It ends early when
    /// the region is dropped.
    ///
    /// # Errors
    ///
    /// As [`Self::migrate`], and [`System`](crate::ErrorKind::System): no thread.
    pub fn start_migration(&self, range: Range<usize>, to: Direction) -> Result<Migration> {
        let _ = (range, to, &self.shared);
        Ok(Migration {})
    }

    /// Where the granules of `range` are.
    ///
    /// # Errors
    ///
    /// [`BadRange`](crate::ErrorKind::BadRange).
    pub fn residency(&self, range: Range<usize>) -> Result<Residency> {
        let _ = range;
        Ok(Residency {
            granule: Granule::MEDIUM,
            tiers: Vec::new(),
        })
    }

    /// Keeps the granules that `range` touches where they are until the guard is dropped: migrations
    /// leave them, with the reason [`Pinned`](crate::Reason::Pinned). `range` need not be aligned.
    /// Waits for migrations of them that are under way. Private granules come home first.
    ///
    /// Needed around I/O that pins memory; the crate's page tells which that is.
    ///
    /// # Errors
    ///
    /// [`BadRange`](crate::ErrorKind::BadRange): not within the region. Nothing is pinned.
    pub fn pin(&self, range: Range<usize>) -> Result<PinGuard<'_>> {
        let _ = range;
        Ok(PinGuard { region: self })
    }

    /// The memory.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &[]
    }

    /// The memory.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut []
    }

    /// Its first byte, aligned to the granule. Threads that share the memory through it, and only they,
    /// must order their accesses as for any shared memory; migrations need no care.
    #[must_use]
    pub fn as_ptr(&self) -> NonNull<u8> {
        NonNull::dangling()
    }

    /// Bytes, a multiple of the granule.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub fn len(&self) -> usize {
        0
    }

    /// The unit that moves.
    #[must_use]
    pub fn granule(&self) -> Granule {
        Granule::MEDIUM
    }

    /// How the CPU sees device memory.
    #[must_use]
    pub fn memory_type(&self) -> MemoryType {
        MemoryType::Coherent
    }

    /// The mechanism in use.
    #[must_use]
    pub fn level(&self) -> Level {
        Level::Full
    }

    /// The pool that it lies on.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        panic!()
    }

    /// What it did so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats::default()
    }
}
