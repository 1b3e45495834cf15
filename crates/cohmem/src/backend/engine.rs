//! The engine backend: its types beside the library's.

use std::{ops::Range, ptr::NonNull};

use cohmem_engine::{
    Granule, Level, LevelChoice, Pool, PoolKind, PoolOptions, Region, RegionOptions, survey,
};
use cohmem_uapi::{Direction, FRAME_BYTES, PageEntry, Reason, ReasonCounts};

use crate::{
    error::{Cause, Error, ErrorKind, Result},
    migrate::Migrated,
    pool::{
        EngineBackend, EngineSource, MemoryType, PoolStatus, memory::Reasons, refusal::Refusal,
    },
    region::RegionStats,
    units::ByteCount,
};

impl From<cohmem_engine::Error> for Error {
    fn from(error: cohmem_engine::Error) -> Self {
        Cause::Engine(error).into()
    }
}

/// The library's kind for an error of the engine's.
pub(crate) fn kind(error: &cohmem_engine::Error) -> ErrorKind {
    use cohmem_engine::ErrorKind as Engine;
    match error.kind() {
        Engine::BadSize => ErrorKind::InvalidInput,
        Engine::BadGranule => ErrorKind::Misaligned,
        Engine::BadRange => ErrorKind::OutOfRange,
        Engine::NotAtThisLevel | Engine::LevelRefused => ErrorKind::Unsupported,
        Engine::NoFrames => ErrorKind::NoFrames,
        Engine::MemoryLocked => ErrorKind::Refused,
        Engine::DeviceBusy => ErrorKind::Busy,
        _ => match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => ErrorKind::NotPermitted,
            Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => ErrorKind::NotFound,
            Some(libc::ENOMEM | libc::ENOSPC) => ErrorKind::NoMemory,
            Some(libc::EBUSY) => ErrorKind::Busy,
            _ => ErrorKind::Io,
        },
    }
}

/// The engine's pool, and how its regions are to work.
#[derive(Debug)]
pub(crate) struct EnginePool {
    pool: Pool,
    level: Level,
}

/// A region of the engine's.
#[derive(Debug)]
pub(crate) struct EngineRegion(Region);

impl EnginePool {
    pub(crate) fn open(engine: &EngineBackend) -> Result<Self> {
        let survey = survey();
        let level = match engine.level {
            LevelChoice::Auto => survey.best(),
            LevelChoice::Exactly(level) => match survey.check(level) {
                Ok(()) => level,
                Err(obstacle) => return Err(Refusal::Level { level, obstacle }.into()),
            },
        };
        let pool = match &engine.source {
            EngineSource::Emulated(size) => {
                let unit = if engine.huge {
                    Granule::HUGE
                } else {
                    Granule::SMALLEST
                };
                let size = size.get().checked_next_multiple_of(unit.bytes() as u64);
                let size = size.and_then(|size| usize::try_from(size).ok());
                let options = PoolOptions::new(size.unwrap_or(usize::MAX));
                Pool::memfd(&if engine.huge {
                    options.frame(unit).huge_pages()
                } else {
                    options
                })?
            }
            EngineSource::Dax(path) => Pool::dax(path, None)?,
        };
        Ok(Self { pool, level })
    }

    pub(crate) const fn level(&self) -> Level {
        self.level
    }

    /// The device and the mechanism, in words.
    pub(crate) fn describe(&self) -> String {
        let bytes = ByteCount::new(self.pool.bytes());
        let source = match self.pool.kind() {
            PoolKind::Dax(path) => format!("{bytes} of {}", path.display()),
            PoolKind::MemfdHuge => format!("{bytes} of emulated device memory in huge pages"),
            _ => format!("{bytes} of emulated device memory"),
        };
        format!("{source}, {}", self.level)
    }

    pub(crate) fn least_granule(&self) -> ByteCount {
        ByteCount::new(self.pool.frame().bytes() as u64)
    }

    pub(crate) fn default_granule(&self) -> u64 {
        self.pool.frame().max(Granule::default()).bytes() as u64
    }

    pub(crate) fn status(&self) -> PoolStatus {
        PoolStatus {
            total: ByteCount::new(self.pool.bytes()),
            free: ByteCount::new(self.pool.free_bytes()),
        }
    }

    /// A region of `bytes` bytes, with what became of its pages at birth.
    pub(crate) fn allocate(
        &self,
        bytes: u64,
        kind: MemoryType,
        is_on_device: bool,
        granule: u64,
    ) -> Result<(EngineRegion, Migrated)> {
        let granule = Granule::new(usize::try_from(granule).unwrap_or(0))?;
        let memory_type = match kind {
            MemoryType::Coherent => cohmem_engine::MemoryType::Coherent,
            MemoryType::Private => cohmem_engine::MemoryType::Private,
            MemoryType::Generic => cohmem_engine::MemoryType::Generic,
        };
        let options = RegionOptions::new()
            .memory_type(memory_type)
            .level(LevelChoice::Exactly(self.level))
            .granule(granule);
        let length = usize::try_from(bytes).unwrap_or(usize::MAX);
        let region = Region::allocate(&self.pool, length, &options)?;
        let nr_pages = region.len() as u64 / FRAME_BYTES;
        let mut placed = Migrated::default();
        if kind == MemoryType::Generic {
            placed.total = nr_pages;
            placed.filled = nr_pages;
        } else if is_on_device {
            let done = region.migrate(0..region.len(), Direction::ToDevice)?;
            placed.total = done.total;
            placed.filled = done.moved;
            placed.stayed = done.stayed;
        }
        Ok((EngineRegion(region), placed))
    }
}

impl EngineRegion {
    pub(crate) fn span(&self) -> (NonNull<u8>, usize) {
        (self.0.as_ptr(), self.0.len())
    }

    pub(crate) fn migrate(
        &self,
        part: Range<u64>,
        direction: Direction,
        reasons: Reasons,
    ) -> Result<Migrated> {
        let mut all = Migrated::default();
        match reasons {
            Reasons::Counted => {
                let done = self.0.migrate(offsets(part), direction)?;
                all.moved = done.moved;
                all.stayed = done.stayed;
            }
            Reasons::EachPage => {
                // A granule has one fate.
                let granule = self.0.granule().bytes();
                for start in offsets(part).step_by(granule) {
                    let done = self.0.migrate(start..start + granule, direction)?;
                    all.moved += done.moved;
                    all.stayed.merge(&done.stayed);
                    all.reasons.extend(each_page(done.moved, &done.stayed));
                }
            }
        }
        Ok(all)
    }

    pub(crate) fn query(&self, part: Range<u64>) -> Result<Vec<PageEntry>> {
        let residency = self.0.residency(offsets(part))?;
        let nr_pages = usize::try_from(residency.granule().nr_pages()).unwrap_or(0);
        let entry = |&tier| std::iter::repeat_n(PageEntry::new(tier, 0, None), nr_pages);
        Ok(residency.tiers().iter().flat_map(entry).collect())
    }

    /// Waits for what moves in `part`, and has private granules come home.
    pub(crate) fn settle(&self, part: Range<u64>) -> Result<()> {
        // What keeps them there are the library's pins: every migration of this region goes
        // through them.
        drop(self.0.pin(offsets(part))?);
        Ok(())
    }

    pub(crate) fn stats(&self) -> RegionStats {
        let stats = self.0.stats();
        RegionStats {
            moved_in: stats.pages_to_device,
            moved_out: stats.pages_to_system,
            nr_stops: stats.nr_stops,
            longest_stop: stats.longest_stop,
            total_stop: stats.total_stop,
        }
    }
}

/// The part lies in a mapping, so that its ends are lengths.
fn offsets(part: Range<u64>) -> Range<usize> {
    let offset = |at| usize::try_from(at).unwrap_or(usize::MAX);
    offset(part.start)..offset(part.end)
}

fn each_page(moved: u64, stayed: &ReasonCounts) -> Vec<Option<Reason>> {
    let times = |count| usize::try_from(count).unwrap_or(0);
    let mut fates = vec![None; times(moved)];
    for (reason, count) in stayed.iter() {
        fates.extend(std::iter::repeat_n(Some(reason), times(count)));
    }
    fates
}
