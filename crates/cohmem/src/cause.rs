//! The values behind an error, its kind and its text.

use std::{fmt, io, path::PathBuf};

use cohmem_uapi::{FRAME_BYTES, RANGE_ALIGN};

use crate::{
    backend,
    command::Failed,
    error::{Error, ErrorKind},
    pool::refusal::Refusal,
    units::PhysRange,
};

/// The values behind an [`Error`].
#[derive(Debug)]
pub(crate) enum Cause {
    Command(Failed),
    Refusal(Refusal),
    Engine(cohmem_engine::Error),
    NoNode {
        path: PathBuf,
        source: io::Error,
    },
    OtherAbi {
        found: u32,
    },
    NoProgress {
        at: u64,
    },
    ReasonsInRange {
        range: String,
    },
    BadSize {
        text: String,
    },
    BadRange {
        text: String,
    },
    Backwards {
        start: u64,
        end: u64,
    },
    Wraps {
        start: u64,
        length: u64,
    },
    BadDevice {
        text: String,
    },
    BadLimit {
        bytes: u64,
    },
    EmptyRegion,
    Mmap {
        length: u64,
        source: io::Error,
    },
    File {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    Unreadable {
        path: PathBuf,
        text: String,
    },
    NoPhysAddresses,
    NoDaxDevice {
        name: String,
    },
    DaxRanges {
        name: String,
        ranges: Vec<PhysRange>,
    },
    DaxInUse {
        name: String,
        users: String,
    },
    UnknownDaxDriver {
        name: String,
        driver: String,
    },
    BlockRefused {
        block: String,
        range: PhysRange,
        state: String,
        name: String,
        source: Option<io::Error>,
    },
    BlocksNotRestored {
        blocks: String,
    },
    StillClaimed {
        range: PhysRange,
        by: String,
    },
    NoCandidate,
    Candidates {
        ranges: Vec<PhysRange>,
    },
    NotGivenBack {
        name: String,
        driver: String,
        source: Box<Error>,
    },
    BadRecord {
        path: PathBuf,
        source: serde_json::Error,
    },
    UndoFailed {
        first: Error,
        undo: Error,
    },
    BadSource {
        text: String,
    },
}

impl Cause {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Command(failed) => failed.kind(),
            Self::Refusal(refusal) => refusal.kind(),
            Self::Engine(error) => backend::engine::kind(error),
            Self::NoNode { source, .. } | Self::File { source, .. } => match source.kind() {
                io::ErrorKind::NotFound if matches!(self, Self::NoNode { .. }) => {
                    ErrorKind::NoDriver
                }
                io::ErrorKind::PermissionDenied => ErrorKind::NotPermitted,
                io::ErrorKind::Interrupted => ErrorKind::Interrupted,
                _ if source.raw_os_error() == Some(libc::ESRCH) => ErrorKind::NoProcess,
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                _ => ErrorKind::Io,
            },
            Self::UndoFailed { first, .. } => first.kind(),
            Self::BadSource { .. } => ErrorKind::InvalidInput,
            Self::OtherAbi { .. } => ErrorKind::Unsupported,
            Self::NoProgress { .. } | Self::Unreadable { .. } | Self::BadRecord { .. } => {
                ErrorKind::Io
            }
            Self::ReasonsInRange { .. } | Self::BadSize { .. } | Self::BadRange { .. } => {
                ErrorKind::InvalidInput
            }
            Self::BadDevice { .. } => ErrorKind::InvalidInput,
            Self::Backwards { .. } | Self::Wraps { .. } => ErrorKind::OutOfRange,
            Self::BadLimit { .. } => ErrorKind::Misaligned,
            Self::EmptyRegion => ErrorKind::Empty,
            Self::Mmap { .. } => ErrorKind::NoMemory,
            Self::NoPhysAddresses => ErrorKind::NotPermitted,
            Self::NoDaxDevice { .. } | Self::NoCandidate => ErrorKind::NotFound,
            Self::DaxRanges { .. } | Self::Candidates { .. } => ErrorKind::Ambiguous,
            Self::DaxInUse { .. } | Self::UnknownDaxDriver { .. } | Self::StillClaimed { .. } => {
                ErrorKind::Busy
            }
            Self::BlockRefused { .. } => ErrorKind::Refused,
            Self::BlocksNotRestored { .. } | Self::NotGivenBack { .. } => ErrorKind::Io,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refusal(refusal) => refusal.fmt(f),
            Self::Engine(error) => error.fmt(f),
            Self::Command(failed) => failed.fmt(f),
            Self::NoNode { path, source } if source.kind() == io::ErrorKind::NotFound => {
                write!(
                    f,
                    "{} does not exist: the cohmem module is not loaded, or no such device is attached",
                    path.display()
                )
            }
            Self::NoNode { path, .. } => write!(f, "cannot open {}", path.display()),
            Self::OtherAbi { found } => write!(
                f,
                "the driver speaks version {found} of the ABI, this program version {}",
                cohmem_uapi::ABI_VERSION
            ),
            Self::NoProgress { at } => write!(f, "the driver made no progress at {at:#x}"),
            Self::ReasonsInRange { range } => {
                write!(
                    f,
                    "range {range} holds the memory that the reasons are written to"
                )
            }
            Self::BadSize { text } => {
                write!(
                    f,
                    "size {text:?} is not a number like 4096, 64K, 2M, 1G or 0x1000 below 16E"
                )
            }
            Self::BadRange { text } => {
                write!(
                    f,
                    "range {text:?} is not START-END or START+SIZE, as 0x100000000+256M"
                )
            }
            Self::Backwards { start, end } => {
                write!(f, "range {start:#x}-{end:#x} ends below its start")
            }
            Self::Wraps { start, length } => {
                write!(
                    f,
                    "range {start:#x}+{length:#x} wraps: it ends above {:#x}",
                    u64::MAX
                )
            }
            Self::BadDevice { text } => write!(
                f,
                "device {text:?} is not cohmemN or N with N below {}",
                cohmem_uapi::MAX_DEVICES
            ),
            Self::BadLimit { bytes } => write!(
                f,
                "a limit of {bytes} bytes is not a multiple of {FRAME_BYTES}"
            ),
            Self::EmptyRegion => write!(f, "a region of 0 bytes was asked for; the least is 1"),
            Self::Mmap { length, .. } => write!(f, "cannot map {length} bytes"),
            Self::File { doing, path, .. } => write!(f, "cannot {doing} {}", path.display()),
            Self::Unreadable { path, text } => {
                write!(
                    f,
                    "{} holds {text:?}, which is not understood",
                    path.display()
                )
            }
            Self::NoPhysAddresses => {
                write!(f, "the kernel shows physical addresses to root only")
            }
            Self::NoDaxDevice { name } => write!(f, "there is no dax device or region {name}"),
            Self::DaxRanges { name, ranges } => write!(
                f,
                "{name} is made of {} ranges, name one of them: {}",
                ranges.len(),
                Listed(ranges)
            ),
            Self::DaxInUse { name, users } => write!(f, "/dev/{name} is open in {users}"),
            Self::UnknownDaxDriver { name, driver } => write!(
                f,
                "{name} is bound to {driver}; only device_dax and kmem are known to give a range up"
            ),
            Self::BlockRefused {
                block,
                range,
                state,
                name,
                ..
            } => write!(
                f,
                "memory block {block} ({range}) of {name} stays {state}: the kernel does not take it \
                 offline now; the other blocks are as before and nothing has changed"
            ),
            Self::BlocksNotRestored { blocks } => {
                write!(
                    f,
                    "these memory blocks could not be put back online: {blocks}"
                )
            }
            Self::StillClaimed { range, by } => {
                write!(
                    f,
                    "range {range} is still claimed by {by:?} after its driver let go"
                )
            }
            Self::NoCandidate => write!(
                f,
                "no soft-reserved range ({RANGE_ALIGN:#x}-aligned) is free or held by a dax driver"
            ),
            Self::Candidates { ranges } => {
                write!(
                    f,
                    "{} ranges can be attached, name one: {}",
                    ranges.len(),
                    Listed(ranges)
                )
            }
            Self::NotGivenBack { name, driver, .. } => {
                write!(f, "{name} could not be given back to {driver}")
            }
            Self::UndoFailed { first, undo } => {
                write!(
                    f,
                    "{first}; and what had been done could not be undone: {undo}"
                )
            }
            Self::BadSource { text } => write!(
                f,
                "{text:?} is not a range (START-END or START+SIZE), a dax device (daxX.Y) or a dax region (hmem.N)"
            ),
            Self::BadRecord { path, .. } => write!(f, "cannot understand {}", path.display()),
        }
    }
}

struct Listed<'a>(&'a [PhysRange]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{range} ({})", range.length())?;
        }
        Ok(())
    }
}
