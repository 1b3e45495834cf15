//! The driver's commands: which error number of which command means what.
//!
//! The table follows the "Errors:" paragraphs of `include/uapi/linux/cohmem.h`; its test holds
//! every documented number of every command.

use std::{error, fmt, io};

use cohmem_uapi::{
    FRAME_BYTES, MAX_ACCOUNTS, MAX_DEVICES, MAX_MOVES, MAX_OBJECTS, MAX_STUCK, MAX_USER_RUNS,
    RANGE_ALIGN,
};

use crate::error::{Cause, Error, ErrorKind};

/// A command with the values that its messages name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Version,
    List,
    Range,
    Attach {
        start: u64,
        length: u64,
    },
    Detach {
        device: u32,
        nr_stuck_max: u32,
    },
    Evict {
        device: u32,
        nr_stuck_max: u32,
    },
    Info {
        device: u32,
    },
    Migrate {
        device: u32,
        start: u64,
        length: u64,
    },
    Query {
        device: u32,
        start: u64,
        length: u64,
    },
    SetQuota {
        device: u32,
        user: u32,
        /// Frames.
        limit: u64,
    },
    Accounts {
        device: u32,
    },
    History {
        device: u32,
        start: u64,
        length: u64,
    },
    SetJob {
        device: u32,
        job: u64,
        /// Frames.
        limit: u64,
    },
    SetRun {
        device: u32,
        /// Frames.
        limit: u64,
    },
    Objects {
        device: u32,
    },
}

/// A command that the driver refused.
#[derive(Debug)]
pub(crate) struct Failed {
    command: Command,
    source: io::Error,
}

impl Failed {
    pub(crate) fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(0)
    }

    pub(crate) fn source(&self) -> &(dyn error::Error + 'static) {
        &self.source
    }

    pub(crate) fn kind(&self) -> ErrorKind {
        let errno = self.errno();
        // What every command can return.
        match errno {
            libc::EPERM | libc::EACCES => return ErrorKind::NotPermitted,
            libc::EINVAL => return ErrorKind::InvalidInput,
            libc::EOPNOTSUPP | libc::ENOTTY => return ErrorKind::Unsupported,
            libc::EFAULT => return ErrorKind::BadAddress,
            libc::ENOMEM => return ErrorKind::NoMemory,
            libc::ENODEV => return ErrorKind::NoDevice,
            libc::EINTR => return ErrorKind::Interrupted,
            _ => {}
        }
        match (self.command, errno) {
            (Command::Attach { .. }, libc::EADDRINUSE) => ErrorKind::SystemRam,
            (Command::Attach { .. }, libc::EADDRNOTAVAIL) => ErrorKind::NotReserved,
            (
                Command::Attach { .. }
                | Command::Migrate { .. }
                | Command::SetQuota { .. }
                | Command::SetJob { .. }
                | Command::SetRun { .. },
                libc::ENOSPC,
            )
            | (Command::SetRun { .. }, libc::EDQUOT) => ErrorKind::TooMany,
            (
                Command::Detach { .. }
                | Command::Evict { .. }
                | Command::Accounts { .. }
                | Command::History { .. }
                | Command::Objects { .. },
                libc::EMSGSIZE,
            ) => ErrorKind::TooMany,
            (
                Command::SetQuota { .. } | Command::SetJob { .. } | Command::SetRun { .. },
                libc::ERANGE,
            ) => ErrorKind::OutOfRange,
            (
                Command::Attach { .. } | Command::Detach { .. } | Command::Evict { .. },
                libc::EBUSY,
            ) => ErrorKind::Busy,
            (Command::Attach { .. }, libc::EAGAIN) => ErrorKind::Busy,
            (Command::Migrate { .. }, libc::EAGAIN) => ErrorKind::Draining,
            (Command::Migrate { .. }, libc::EILSEQ) => ErrorKind::InvalidInput,
            (Command::Migrate { .. } | Command::Query { .. }, libc::EADDRNOTAVAIL) => {
                ErrorKind::NotMapped
            }
            (Command::Range, libc::ENODATA) => ErrorKind::NotFound,
            (
                Command::Migrate { .. } | Command::Query { .. } | Command::History { .. },
                errno @ (libc::EBADF | libc::EBADFD | libc::ESRCH | libc::ERANGE),
            ) => match errno {
                libc::ESRCH => ErrorKind::NoProcess,
                libc::ERANGE => ErrorKind::OutOfRange,
                _ => ErrorKind::WrongFile,
            },
            (_, libc::ENODATA) => ErrorKind::Empty,
            (_, libc::EDOM) => ErrorKind::Misaligned,
            (_, libc::EOVERFLOW) => ErrorKind::OutOfRange,
            _ => ErrorKind::Io,
        }
    }

    /// The limit that was passed, or who was in the way; the command's values are said already.
    fn why(&self) -> Option<String> {
        let align = match self.command {
            Command::Attach { .. } => RANGE_ALIGN,
            _ => FRAME_BYTES,
        };
        let text = match (self.command, self.errno()) {
            (Command::Migrate { .. }, libc::EPERM) => {
                "moving pages that other processes map as well needs CAP_SYS_NICE".into()
            }
            (
                Command::SetQuota { .. } | Command::SetJob { .. } | Command::SetRun { .. },
                libc::EINVAL,
            ) => "the limit contradicts itself".into(),
            (_, libc::EPERM) => "it needs CAP_SYS_ADMIN".into(),
            (_, libc::EINVAL) => "the driver wants a zero where this program put a value".into(),
            (_, libc::EOPNOTSUPP) => "the driver does not know one of the flags".into(),
            (_, libc::ENOTTY) => {
                "the driver does not know the command: it is of another version".into()
            }
            (_, libc::EFAULT) => "the driver could not read or write its argument".into(),
            (Command::Range, libc::ENODATA) => "there is none above the address".into(),
            (_, libc::ENODATA) => "its length is 0".into(),
            (_, libc::EDOM) => format!("it does not start and end at a multiple of {align:#x}"),
            (Command::Attach { .. }, libc::EOVERFLOW) => {
                "it wraps or ends above the processor's physical addresses".into()
            }
            (_, libc::EOVERFLOW) => "it wraps".into(),
            (Command::SetQuota { user, limit, .. }, libc::ERANGE) => {
                format!("user {user} is no user, or {limit} frames are more than any device has")
            }
            (Command::Migrate { .. } | Command::SetQuota { .. }, libc::ENOSPC) => {
                format!(
                    "{MAX_ACCOUNTS} other users have frames or a limit of it, which is the limit"
                )
            }
            (Command::SetJob { job, limit, .. }, libc::ERANGE) => format!(
                "{job} is no number of a control group, or {limit} frames are more than any device has"
            ),
            (Command::SetRun { limit, .. }, libc::ERANGE) => {
                format!("{limit} frames are more than any device has")
            }
            (Command::SetJob { .. }, libc::ENOSPC) => {
                format!("{MAX_ACCOUNTS} control groups are jobs or hold frames, which is the limit")
            }
            (Command::SetRun { .. }, libc::ENOSPC) => {
                format!("there are {MAX_ACCOUNTS} run instances, which is the limit")
            }
            (Command::SetRun { .. }, libc::EDQUOT) => {
                format!("this user has {MAX_USER_RUNS} run instances, which is the limit")
            }
            (Command::Objects { .. }, libc::EMSGSIZE) => {
                format!("a list of jobs and run instances is over the limit of {MAX_OBJECTS}")
            }
            (Command::Accounts { .. }, libc::EMSGSIZE) => {
                format!("a list of accounts is over the limit of {MAX_ACCOUNTS}")
            }
            (Command::History { .. }, libc::EMSGSIZE) => {
                format!("a list of records is over the limit of {MAX_MOVES}")
            }
            (_, libc::ERANGE) => "it ends above the user address space".into(),
            (Command::Attach { .. }, libc::EADDRINUSE) => "it holds System RAM".into(),
            (Command::Attach { .. }, libc::EADDRNOTAVAIL) => {
                "the firmware did not reserve all of it for special purpose".into()
            }
            (Command::Attach { .. }, libc::EBUSY) => "another driver has claimed a part".into(),
            (Command::Attach { .. }, libc::ENOSPC) => {
                format!("{MAX_DEVICES} devices are attached, which is the limit")
            }
            (Command::Attach { length, .. }, libc::ENOMEM) => format!(
                "no memory for its struct pages ({} bytes); keeping them on the device (altmap) helps",
                length / FRAME_BYTES * 64
            ),
            (Command::Detach { .. } | Command::Evict { .. }, libc::ENOMEM) => {
                "too little system memory to take all content home".into()
            }
            (Command::Detach { .. } | Command::Evict { .. }, libc::EBUSY) => {
                "another detach or evict is running".into()
            }
            (
                Command::Detach { nr_stuck_max, .. } | Command::Evict { nr_stuck_max, .. },
                libc::EMSGSIZE,
            ) => format!("a list of {nr_stuck_max} stuck frames is over the limit of {MAX_STUCK}"),
            (_, libc::EINTR) => "a signal ended it".into(),
            (_, libc::EADDRNOTAVAIL) => "no mapping lies in it".into(),
            (_, libc::EILSEQ) => "the driver does not know the direction".into(),
            (_, libc::EBADF) => "the file descriptor of the process is closed".into(),
            (_, libc::EBADFD) => {
                "the file descriptor is not a pagemap or mem file of procfs".into()
            }
            (_, libc::ESRCH) => "the process is gone".into(),
            (_, libc::ENODEV) => "the device is not attached".into(),
            (Command::Attach { .. }, libc::EAGAIN) => "hibernation is under way".into(),
            (_, libc::EAGAIN) => "the device is being taken back".into(),
            (_, libc::ENOMEM) => "no memory for the driver's own arrays".into(),
            _ => return None,
        };
        Some(text)
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.command {
            Command::Version => write!(f, "cannot ask the driver for its version")?,
            Command::List => write!(f, "cannot list the devices")?,
            Command::Range => write!(f, "cannot ask the driver for soft-reserved memory")?,
            Command::Attach { start, length } => {
                write!(
                    f,
                    "cannot attach range {start:#x}-{:#x}",
                    start.saturating_add(length)
                )?;
            }
            Command::Detach { device, .. } => write!(f, "cannot detach cohmem{device}")?,
            Command::Evict { device, .. } => write!(f, "cannot evict cohmem{device}")?,
            Command::Info { device } => write!(f, "cannot read the state of cohmem{device}")?,
            Command::Migrate {
                device,
                start,
                length,
            } => write!(
                f,
                "cannot migrate range {start:#x}-{:#x} by cohmem{device}",
                start.saturating_add(length)
            )?,
            Command::Query {
                device,
                start,
                length,
            } => write!(
                f,
                "cannot query range {start:#x}-{:#x} by cohmem{device}",
                start.saturating_add(length)
            )?,
            Command::SetQuota { device, .. } => write!(f, "cannot set a limit on cohmem{device}")?,
            Command::SetJob { device, .. } => {
                write!(f, "cannot set a job's limit on cohmem{device}")?;
            }
            Command::SetRun { device, .. } => {
                write!(f, "cannot make a run instance on cohmem{device}")?;
            }
            Command::Objects { device } => {
                write!(
                    f,
                    "cannot list the jobs and run instances of cohmem{device}"
                )?;
            }
            Command::Accounts { device } => {
                write!(f, "cannot list who holds memory of cohmem{device}")?;
            }
            Command::History {
                device, length: 0, ..
            } => write!(f, "cannot read the history of cohmem{device}")?,
            Command::History {
                device,
                start,
                length,
            } => write!(
                f,
                "cannot read the history of range {start:#x}-{:#x} on cohmem{device}",
                start.saturating_add(length)
            )?,
        }
        match self.why() {
            Some(why) => write!(f, ": {why}"),
            None => Ok(()),
        }
    }
}

/// The error for `command` that failed with `source`.
pub(crate) fn failed(command: Command, source: io::Error) -> Error {
    Cause::Command(Failed { command, source }).into()
}

#[cfg(test)]
mod tests;
