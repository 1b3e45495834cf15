//! Exit status and error messages.

use std::{error, fmt, io, net::SocketAddr, path::PathBuf, process::ExitCode};

use cohmem::{ByteCount, ErrorKind};

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All was done.
    Done,
    /// A part was done, or the answer is no.
    Partly,
    /// It cannot be done on this machine.
    Impossible,
    /// The status of the program that was run.
    Program(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => Self::from(0),
            Exit::Partly => Self::from(1),
            Exit::Impossible => Self::from(3),
            Exit::Program(status) => Self::from(status),
        }
    }
}

/// What ends a command early.
#[derive(Debug)]
pub(crate) enum CliError {
    Library(cohmem::Error),
    /// A library error with a line that helps.
    Helped {
        error: cohmem::Error,
        help: String,
    },
    Output(io::Error),
    Json(serde_json::Error),
    Start {
        program: String,
        source: io::Error,
    },
    Signals(io::Error),
    /// A file that was asked for could not be written.
    File {
        path: PathBuf,
        source: io::Error,
    },
    /// A picture could not be drawn.
    Picture {
        path: PathBuf,
        text: String,
    },
    /// Nobody can be served at an address.
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
    /// What needs a terminal has none.
    NoTerminal,
    /// The process had no memory to look at.
    NothingRecorded,
    NoDevices,
    /// Options that do not go together.
    Misused(&'static str),
    SeveralDevices {
        numbers: Vec<u32>,
    },
    /// Devices were named by the policy and beside it.
    DevicesTwice,
    /// A strict policy ended the program.
    NoRoom {
        is_limit: bool,
        pages: u64,
    },
    /// A file of the user's that cannot be read.
    Read {
        path: PathBuf,
        source: io::Error,
    },
    /// A line of such a file that is wrong.
    Line {
        path: PathBuf,
        number: usize,
        says: String,
    },
}

pub(crate) type Result<T> = std::result::Result<T, CliError>;

impl CliError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Library(error) | Self::Helped { error, .. } => {
                ExitCode::from(status(error.kind()))
            }
            Self::Start { source, .. } => {
                // As env(1) and the shells do.
                ExitCode::from(if source.kind() == io::ErrorKind::NotFound {
                    127
                } else {
                    126
                })
            }
            Self::Output(_)
            | Self::Json(_)
            | Self::Signals(_)
            | Self::File { .. }
            | Self::Listen { .. }
            | Self::Picture { .. }
            | Self::NothingRecorded
            | Self::NoRoom { .. } => ExitCode::from(1),
            Self::SeveralDevices { .. }
            | Self::NoTerminal
            | Self::Read { .. }
            | Self::Line { .. }
            | Self::Misused(_)
            | Self::DevicesTwice => ExitCode::from(2),
            Self::NoDevices => ExitCode::from(3),
        }
    }
}

const fn status(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::NoDriver | ErrorKind::Unsupported | ErrorKind::NotFound => 3,
        ErrorKind::InvalidInput
        | ErrorKind::Empty
        | ErrorKind::Misaligned
        | ErrorKind::OutOfRange
        | ErrorKind::SystemRam
        | ErrorKind::NotReserved
        | ErrorKind::Ambiguous => 2,
        _ => 1,
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Library(error) | Self::Helped { error, .. } => error.fmt(f),
            Self::Output(_) => f.write_str("cannot write to the standard output"),
            Self::Json(_) => f.write_str("cannot write JSON"),
            Self::Start { program, .. } => write!(f, "cannot start {program:?}"),
            Self::Signals(_) => f.write_str("cannot receive signals"),
            Self::File { path, .. } => write!(f, "cannot write {}", path.display()),
            Self::Picture { path, text } => write!(f, "cannot draw {}: {text}", path.display()),
            Self::Listen { address, .. } => write!(f, "cannot serve at {address}"),
            Self::NoTerminal => {
                f.write_str("the standard output is no terminal; --once and --json need none")
            }
            Self::NothingRecorded => f.write_str("the process has no memory to look at"),
            Self::Misused(what) => f.write_str(what),
            Self::NoDevices => f.write_str("no device is attached; `cohmem attach` attaches one"),
            Self::SeveralDevices { numbers } => {
                write!(
                    f,
                    "{} devices are attached, name one with --device:",
                    numbers.len()
                )?;
                numbers.iter().try_for_each(|number| write!(f, " {number}"))
            }
            Self::DevicesTwice => {
                f.write_str("--device and devices= of the policy both name devices")
            }
            Self::NoRoom { is_limit, pages } => write!(
                f,
                "the program was ended, since {pages} pages ({}) found no room: {}",
                ByteCount::of_frames(*pages),
                if *is_limit {
                    "the limit is reached"
                } else {
                    "no frame is free"
                }
            ),
            Self::Read { path, .. } => write!(f, "cannot read {}", path.display()),
            Self::Line { path, number, says } => {
                write!(f, "{} line {number}: {says}", path.display())
            }
        }
    }
}

impl error::Error for CliError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Library(error) | Self::Helped { error, .. } => error.source(),
            Self::Output(source)
            | Self::Start { source, .. }
            | Self::Signals(source)
            | Self::File { source, .. }
            | Self::Listen { source, .. }
            | Self::Read { source, .. } => Some(source),
            Self::Json(source) => Some(source),
            Self::Picture { .. }
            | Self::NothingRecorded
            | Self::NoTerminal
            | Self::NoDevices
            | Self::SeveralDevices { .. }
            | Self::Line { .. }
            | Self::Misused(_)
            | Self::DevicesTwice
            | Self::NoRoom { .. } => None,
        }
    }
}

impl From<cohmem::Error> for CliError {
    fn from(error: cohmem::Error) -> Self {
        Self::Library(error)
    }
}

impl From<io::Error> for CliError {
    fn from(source: io::Error) -> Self {
        Self::Output(source)
    }
}

impl From<serde_json::Error> for CliError {
    fn from(source: serde_json::Error) -> Self {
        if source.is_io() {
            Self::Output(source.into())
        } else {
            Self::Json(source)
        }
    }
}

/// Prints the error, layer by layer, and gives the exit status.
pub(crate) fn report(result: Result<Exit>) -> ExitCode {
    match result {
        Ok(exit) => exit.into(),
        // The reader of the output has gone: it has what it wanted.
        Err(CliError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            let mut source = error::Error::source(&error);
            while let Some(cause) = source {
                eprintln!("caused by: {cause}");
                source = cause.source();
            }
            if let CliError::Helped { help, .. } = &error {
                eprintln!("help: {help}");
            }
            error.exit_code()
        }
    }
}

/// Prints a failure that does not end the command.
pub(crate) fn warn(what: &str, error: &dyn error::Error) {
    eprintln!("warning: {what}: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        eprintln!("caused by: {cause}");
        source = cause.source();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_the_documented_status() {
        for (kind, expected) in [
            (ErrorKind::NoDriver, 3),
            (ErrorKind::Unsupported, 3),
            (ErrorKind::NotFound, 3),
            (ErrorKind::Misaligned, 2),
            (ErrorKind::SystemRam, 2),
            (ErrorKind::Ambiguous, 2),
            (ErrorKind::Busy, 1),
            (ErrorKind::Refused, 1),
            (ErrorKind::NotPermitted, 1),
        ] {
            assert_eq!(status(kind), expected, "{kind:?}");
        }
    }
}
