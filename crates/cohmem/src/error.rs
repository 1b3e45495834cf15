//! The one error type of the library.

use std::{error, fmt};

pub(crate) use crate::cause::Cause;
use crate::pool::refusal::Refusal;

/// What the library's functions return.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, for programs to decide on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The driver is not loaded.
    NoDriver,
    /// The driver is of another version, or lacks what was asked for.
    Unsupported,
    /// The device is not attached, or no longer.
    NoDevice,
    /// The caller lacks a right.
    NotPermitted,
    /// A value that no rule below names is not allowed.
    InvalidInput,
    /// A range or a length is empty.
    Empty,
    /// An address or a length is not a multiple of what it must be.
    Misaligned,
    /// A range wraps, or ends beyond what exists.
    OutOfRange,
    /// The physical range holds System RAM.
    SystemRam,
    /// The firmware did not reserve all of the physical range for special purpose.
    NotReserved,
    /// Somebody else holds it; the message says who.
    Busy,
    /// The limit of a count is reached.
    TooMany,
    /// There is too little system memory.
    NoMemory,
    /// The device has too few free frames.
    NoFrames,
    /// No mapping lies in the range.
    NotMapped,
    /// The process is gone.
    NoProcess,
    /// A file descriptor is closed, or not of the needed kind.
    WrongFile,
    /// The device is being taken back.
    Draining,
    /// A signal ended the call.
    Interrupted,
    /// A memory address of an argument cannot be read or written.
    BadAddress,
    /// Several things fit, and none was named.
    Ambiguous,
    /// Nothing fits.
    NotFound,
    /// The kernel would not give the memory up; nothing has changed.
    Refused,
    /// The region was dropped.
    Gone,
    /// A file of the system could not be read or written.
    Io,
}

/// An error of the library: what failed, with the value and its limit.
///
/// A layer shows only itself; [`source`](error::Error::source) leads to the layer beneath.
pub struct Error(Box<Cause>);

impl Error {
    /// What went wrong, for programs to decide on.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind()
    }

    /// The error number of the system call that failed, if one did.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        match &*self.0 {
            Cause::Command(failed) => Some(failed.errno()),
            Cause::File { source, .. }
            | Cause::NoNode { source, .. }
            | Cause::BlockRefused {
                source: Some(source),
                ..
            }
            | Cause::Mmap { source, .. } => source.raw_os_error(),
            Cause::Refusal(refusal) => refusal.io()?.raw_os_error(),
            Cause::Engine(error) => error.raw_os_error(),
            _ => None,
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match &*self.0 {
            Cause::Command(failed) => Some(failed.source()),
            Cause::File { source, .. }
            | Cause::NoNode { source, .. }
            | Cause::BlockRefused {
                source: Some(source),
                ..
            }
            | Cause::Mmap { source, .. } => Some(source),
            Cause::NotGivenBack { source, .. } => Some(source),
            Cause::UndoFailed { first, .. } => error::Error::source(first),
            Cause::BadRecord { source, .. } => Some(source),
            Cause::Refusal(refusal) => Some(refusal.io()?),
            Cause::Engine(error) => error::Error::source(error),
            _ => None,
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Cause::Refusal(refusal).into()
    }
}

impl From<Cause> for Error {
    fn from(cause: Cause) -> Self {
        Self(Box::new(cause))
    }
}
