//! Makes a region: checks the request, picks the level, lays the memory out.

use std::{io, sync::Arc};

use crate::{
    Level, LevelChoice, MemoryType, Pool, RegionOptions,
    error::{Cause, Error, Result},
    host::Span,
    inner::{Inner, Mechanism},
    kernel::{Brake, Hole, Memory, Stop},
    level::survey,
    pool::Shortage,
    sys::{
        areas::{AreaError, Areas, Bytes},
        ballast,
        faults::Watch,
        fork,
        uffd::Uffd,
    },
    word::{Place, Word},
};

/// System memory kept for the way home unless the caller says otherwise.
const KEPT_BYTES: usize = 64 << 20;

/// What a level works with.
enum Tool {
    Full(Uffd),
    UserMode(Uffd),
    Signal,
    None(Level),
}

impl Tool {
    const fn level(&self) -> Level {
        match self {
            Self::Full(_) => Level::Full,
            Self::UserMode(_) => Level::UserMode,
            Self::Signal => Level::Signal,
            Self::None(level) => *level,
        }
    }
}

/// A region without its threads.
pub(crate) struct Built {
    pub(crate) inner: Inner,
    pub(crate) bytes: Bytes,
    pub(crate) level: Level,
}

/// Makes all of a region but its threads.
pub(crate) fn build(pool: &Pool, bytes: usize, options: &RegionOptions) -> Result<Built> {
    let granule = options.granule;
    let frame = pool.frame();
    if granule < frame {
        return Err(Cause::GranuleOfPool {
            granule: granule.bytes(),
            frame: frame.bytes(),
        }
        .into());
    }
    let limit = isize::MAX.unsigned_abs() / 8;
    if bytes == 0 || bytes > limit {
        let what = "region";
        return Err(Cause::BadSize { what, bytes, limit }.into());
    }
    let length = bytes.next_multiple_of(granule.bytes());
    let tool = choose(options)?;
    let level = tool.level();
    fork::heed_guards();
    ballast::keep();
    let (areas, bytes) = Areas::new(length, granule.bytes()).map_err(|error| match error {
        AreaError::Locked => Error::from(Cause::MemoryLocked),
        AreaError::System(source) => system("reserve the addresses of a region", length, source),
    })?;
    let granule_shift = granule.bytes().trailing_zeros();
    let words: Arc<[Word]> = (0..length >> granule_shift)
        .map(|_| Word::new(Place::System))
        .collect();
    let watch = || {
        let start = areas.region().addr().get();
        Watch::new(start, length, Arc::clone(&words), granule_shift)
            .map_err(|source| system("install a handler of SIGSEGV", length, source))
    };
    let brake = match tool {
        Tool::UserMode(uffd) if pool.is_dax() => Some(Brake::UffdAndWatch(uffd, watch()?)),
        Tool::UserMode(uffd) => Some(Brake::Uffd(uffd)),
        Tool::Signal => Some(Brake::Watch(watch()?)),
        Tool::Full(uffd) => {
            let memory = Memory::new(areas, pool.clone(), granule_shift);
            let kept = options.kept_bytes.unwrap_or(KEPT_BYTES);
            let hole = Hole::new(memory, uffd, kept)
                .map_err(|error| system("register a region", length, error.into()))?;
            let inner = Inner::new(Mechanism::Hole(hole), words, options);
            return Ok(Built {
                inner,
                bytes,
                level,
            });
        }
        Tool::None(_) => None,
    };
    let memory = Memory::new(areas, pool.clone(), granule_shift);
    let Some(brake) = brake else {
        let inner = Inner::new(Mechanism::Fixed(memory), words, options);
        place_all(&inner)?;
        return Ok(Built {
            inner,
            bytes,
            level,
        });
    };
    let inner = Inner::new(Mechanism::Stop(Stop { brake, memory }), words, options);
    Ok(Built {
        inner,
        bytes,
        level,
    })
}

fn system(doing: &'static str, bytes: usize, source: io::Error) -> Error {
    Cause::System {
        doing,
        bytes,
        source,
    }
    .into()
}

/// Finds the best tool that was not ruled out.
fn choose(options: &RegionOptions) -> Result<Tool> {
    let refused = |level| move |obstacle| Error::from(Cause::LevelRefused { level, obstacle });
    let full = || Uffd::open_full().map(Tool::Full);
    let user_mode = || Uffd::open_user_mode().map(Tool::UserMode);
    match (options.memory_type, options.level) {
        (MemoryType::Generic, LevelChoice::Auto) => Ok(Tool::None(Level::Signal)),
        (MemoryType::Generic, LevelChoice::Exactly(level)) => {
            survey().check(level).map_err(refused(level))?;
            Ok(Tool::None(level))
        }
        (MemoryType::Private, LevelChoice::Auto | LevelChoice::Exactly(Level::Full))
        | (MemoryType::Coherent, LevelChoice::Exactly(Level::Full)) => {
            full().map_err(refused(Level::Full))
        }
        (memory_type @ MemoryType::Private, LevelChoice::Exactly(level)) => {
            Err(Cause::NotAtThisLevel { memory_type, level }.into())
        }
        (MemoryType::Coherent, LevelChoice::Exactly(Level::UserMode)) => {
            user_mode().map_err(refused(Level::UserMode))
        }
        (MemoryType::Coherent, LevelChoice::Exactly(Level::Signal)) => Ok(Tool::Signal),
        (MemoryType::Coherent, LevelChoice::Auto) => {
            // What is in the way of a better level is told by `survey`.
            Ok(full().or_else(|_| user_mode()).unwrap_or(Tool::Signal))
        }
    }
}

/// Puts all of a region on the device, zeroed.
fn place_all(inner: &Inner) -> Result<()> {
    let pool = inner.pool();
    let memory = inner.mechanism.memory();
    let nr_granules = inner.nr_granules();
    let length = memory.areas.length();
    let mut at = 0;
    while at < nr_granules {
        let taken =
            pool.take(nr_granules - at, inner.granule)
                .map_err(|shortage| match shortage {
                    Shortage::NoFrame => Error::from(Cause::NoFrames {
                        needed: (length / pool.frame().bytes()) as u64,
                        free: pool.free_bytes() / pool.frame().bytes() as u64
                            + (at * inner.granule.bytes() / pool.frame().bytes()) as u64,
                    }),
                    Shortage::NoMemory => system("get memory for a pool", length, no_memory()),
                })?;
        let span = Span {
            start: at * inner.granule.bytes(),
            length: taken.nr_granules * inner.granule.bytes(),
        };
        for (nr_before, index) in (at..at + taken.nr_granules).enumerate() {
            // From here on the region gives them back.
            inner.set_slot(index, taken.slot + nr_before * inner.granule.bytes());
            inner.words[index].unlock(Place::Device);
        }
        pool.mapping().zero(taken.slot, span.length);
        memory
            .areas
            .map_device(span, pool.mapping(), taken.slot)
            .map_err(|error| system("map a region", length, error.into()))?;
        at += taken.nr_granules;
    }
    Ok(())
}

fn no_memory() -> io::Error {
    io::ErrorKind::OutOfMemory.into()
}
