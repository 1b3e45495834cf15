//! What can be wrong.

use std::{error, fmt, io, path::PathBuf, result};

use crate::{Level, MemoryType, Obstacle};

/// The result of what the engine does.
pub type Result<T, E = Error> = result::Result<T, E>;

/// Why the engine refused or failed. Unless a function says otherwise nothing was changed.
#[derive(Debug)]
pub struct Error(Box<Cause>);

/// What a caller may tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A size is 0, or more than the address space holds.
    BadSize,
    /// A granule is not a power of two from 4 KiB to 1 GiB, or does not fit its pool.
    BadGranule,
    /// A range is not a multiple of the granule, or not within the region.
    BadRange,
    /// The memory type cannot be had at the level that was asked for.
    NotAtThisLevel,
    /// The level cannot be had on this machine by this process; the message says what is in the way.
    LevelRefused,
    /// The pool has too few free frames.
    NoFrames,
    /// The process has locked its future memory (`mlockall`), which the engine cannot work with.
    MemoryLocked,
    /// The device is used by another process.
    DeviceBusy,
    /// The system refused a file, memory, a thread; see [`Error::raw_os_error`].
    System,
    /// The region was dropped before anything was done.
    Closed,
}

#[derive(Debug)]
pub(crate) enum Cause {
    BadSize {
        what: &'static str,
        bytes: usize,
        limit: usize,
    },
    BadGranule {
        bytes: usize,
    },
    PoolOfFrames {
        bytes: usize,
        frame: usize,
    },
    GranuleOfPool {
        granule: usize,
        frame: usize,
    },
    BadRange {
        start: usize,
        end: usize,
        length: usize,
    },
    Unaligned {
        start: usize,
        end: usize,
        granule: usize,
    },
    NotAtThisLevel {
        memory_type: MemoryType,
        level: Level,
    },
    LevelRefused {
        level: Level,
        obstacle: Obstacle,
    },
    NoFrames {
        needed: u64,
        free: u64,
    },
    MemoryLocked,
    DeviceBusy {
        path: PathBuf,
    },
    NotADevice {
        path: PathBuf,
        why: &'static str,
    },
    File {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    System {
        doing: &'static str,
        bytes: usize,
        source: io::Error,
    },
    Closed,
}

impl Error {
    /// What kind it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match *self.0 {
            Cause::BadSize { .. } | Cause::PoolOfFrames { .. } => ErrorKind::BadSize,
            Cause::BadGranule { .. } | Cause::GranuleOfPool { .. } => ErrorKind::BadGranule,
            Cause::BadRange { .. } | Cause::Unaligned { .. } => ErrorKind::BadRange,
            Cause::NotAtThisLevel { .. } => ErrorKind::NotAtThisLevel,
            Cause::LevelRefused { .. } => ErrorKind::LevelRefused,
            Cause::NoFrames { .. } => ErrorKind::NoFrames,
            Cause::MemoryLocked => ErrorKind::MemoryLocked,
            Cause::DeviceBusy { .. } => ErrorKind::DeviceBusy,
            Cause::NotADevice { .. } | Cause::File { .. } | Cause::System { .. } => {
                ErrorKind::System
            }
            Cause::Closed => ErrorKind::Closed,
        }
    }

    /// The system's error number, where a system call failed.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        match &*self.0 {
            Cause::File { source, .. } | Cause::System { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// What is in the way of a level that was refused.
    #[must_use]
    pub fn obstacle(&self) -> Option<&Obstacle> {
        match &*self.0 {
            Cause::LevelRefused { obstacle, .. } => Some(obstacle),
            _ => None,
        }
    }
}

impl From<Cause> for Error {
    fn from(cause: Cause) -> Self {
        Self(Box::new(cause))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Cause::BadSize { what, bytes, limit } => {
                write!(f, "{what} of {bytes} bytes: must be from 1 to {limit}")
            }
            Cause::BadGranule { bytes } => write!(
                f,
                "granule of {bytes} bytes: must be a power of two from 4096 to {}",
                1 << 30
            ),
            Cause::PoolOfFrames { bytes, frame } => write!(
                f,
                "pool of {bytes} bytes: must be a multiple of its frames of {frame} bytes"
            ),
            Cause::GranuleOfPool { granule, frame } => write!(
                f,
                "granule of {granule} bytes: must be a multiple of the pool's frames of {frame} bytes"
            ),
            Cause::BadRange { start, end, length } => write!(
                f,
                "range {start:#x}..{end:#x} is not within the region's {length:#x} bytes"
            ),
            Cause::Unaligned {
                start,
                end,
                granule,
            } => write!(
                f,
                "range {start:#x}..{end:#x} is not a multiple of the granule of {granule} bytes"
            ),
            Cause::NotAtThisLevel { memory_type, level } => write!(
                f,
                "{memory_type} memory cannot be had at {level}: system calls that touch a granule on \
                 the device would fail, and futexes in it end the process; level 1 makes them wait"
            ),
            Cause::LevelRefused { level, obstacle } => {
                write!(f, "{level} cannot be had here: {obstacle}")
            }
            Cause::NoFrames { needed, free } => {
                write!(f, "the pool has {free} free frames, {needed} needed")
            }
            Cause::MemoryLocked => write!(
                f,
                "the process locks all memory that it maps (mlockall with MCL_FUTURE); \
                 a region cannot work so"
            ),
            Cause::DeviceBusy { path } => {
                write!(f, "another process uses {} as a pool", path.display())
            }
            Cause::NotADevice { path, why } => {
                write!(f, "{} is no device-dax memory: {why}", path.display())
            }
            Cause::File { doing, path, .. } => write!(f, "cannot {doing} {}", path.display()),
            Cause::System { doing, bytes, .. } => write!(f, "cannot {doing} ({bytes} bytes)"),
            Cause::Closed => write!(f, "the region was dropped before anything moved"),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match &*self.0 {
            Cause::File { source, .. } | Cause::System { source, .. } => Some(source),
            _ => None,
        }
    }
}
