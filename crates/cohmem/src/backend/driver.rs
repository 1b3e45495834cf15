//! The driver backend: the commands of `/dev/cohmem` and `/dev/cohmemN` with the library's types.

use std::{
    io,
    path::{Path, PathBuf},
};

use cohmem_uapi::{ABI_VERSION, MAX_STUCK, PROC_SELF, args};

use crate::{
    command::{Command, failed},
    error::{Cause, Result},
    process::Process,
    sys::node::Node,
    units::AddrRange,
};

/// The control node.
#[derive(Debug)]
pub(crate) struct ControlNode(Node);

/// The node of one device.
#[derive(Debug)]
pub(crate) struct DeviceNode {
    node: Node,
    device: u32,
}

/// What a detach or an evict left.
#[derive(Debug)]
pub(crate) struct Drained {
    pub(crate) argument: args::Detach,
    pub(crate) stuck: Vec<args::Stuck>,
}

/// Whose pages a command is about.
pub(crate) fn proc_fd(process: Option<&Process>) -> i32 {
    process.map_or(PROC_SELF, Process::authority_fd)
}

fn open(path: PathBuf) -> Result<Node> {
    let (node, version) = match Node::open(&path) {
        Ok(opened) => opened,
        Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {
            return Err(failed(Command::Version, error));
        }
        Err(source) => return Err(Cause::NoNode { path, source }.into()),
    };
    if version.abi != ABI_VERSION {
        return Err(Cause::OtherAbi { found: version.abi }.into());
    }
    Ok(node)
}

impl ControlNode {
    pub(crate) fn open() -> Result<Self> {
        open(PathBuf::from("/dev/cohmem")).map(Self)
    }

    pub(crate) fn attach(&self, mut argument: args::Attach) -> Result<args::Attach> {
        let command = Command::Attach {
            start: argument.start,
            length: argument.length,
        };
        match self.0.attach(&mut argument) {
            Ok(()) => Ok(argument),
            Err(source) => Err(failed(command, source)),
        }
    }

    pub(crate) fn list(&self) -> Result<u64> {
        let mut argument = args::List::default();
        match self.0.list(&mut argument) {
            Ok(()) => Ok(argument.devices),
            Err(source) => Err(failed(Command::List, source)),
        }
    }

    /// The soft-reserved memory, part by part.
    pub(crate) fn ranges(&self) -> Result<Vec<args::Range>> {
        let mut parts = Vec::new();
        let mut part = args::Range::default();
        loop {
            match self.0.range(&mut part) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENODATA) => return Ok(parts),
                Err(source) => return Err(failed(Command::Range, source)),
            }
            parts.push(part);
            part.from = part.start.saturating_add(part.length);
        }
    }

    pub(crate) fn detach(&self, device: u32, timeout_ms: u32) -> Result<Drained> {
        let argument = args::Detach {
            device,
            timeout_ms,
            ..args::Detach::default()
        };
        let command = Command::Detach {
            device,
            nr_stuck_max: MAX_STUCK,
        };
        drain(argument, command, |argument, stuck| {
            self.0.detach(argument, stuck)
        })
    }
}

impl DeviceNode {
    pub(crate) fn open(device: u32) -> Result<Self> {
        let path = PathBuf::from(format!("/dev/cohmem{device}"));
        if !path.exists() && Path::new("/dev/cohmem").exists() {
            return Err(failed(
                Command::Info { device },
                io::Error::from_raw_os_error(libc::ENODEV),
            ));
        }
        Ok(Self {
            node: open(path)?,
            device,
        })
    }

    pub(crate) fn try_clone(&self) -> Result<Self> {
        match self.node.try_clone() {
            Ok(node) => Ok(Self {
                node,
                device: self.device,
            }),
            Err(source) => {
                let path = PathBuf::from(format!("/dev/cohmem{}", self.device));
                Err(Cause::File {
                    doing: "duplicate the handle of",
                    path,
                    source,
                }
                .into())
            }
        }
    }

    pub(crate) const fn device(&self) -> u32 {
        self.device
    }

    pub(crate) fn info(&self) -> Result<args::Info> {
        let mut argument = args::Info::default();
        match self.node.info(&mut argument) {
            Ok(()) => Ok(argument),
            Err(source) => Err(failed(
                Command::Info {
                    device: self.device,
                },
                source,
            )),
        }
    }

    pub(crate) fn evict(&self, timeout_ms: u32) -> Result<Drained> {
        let argument = args::Detach {
            timeout_ms,
            ..args::Detach::default()
        };
        let command = Command::Evict {
            device: self.device,
            nr_stuck_max: MAX_STUCK,
        };
        drain(argument, command, |argument, stuck| {
            self.node.evict(argument, stuck)
        })
    }

    pub(crate) fn set_quota(&self, quota: &args::Quota) -> Result<()> {
        let mut argument = *quota;
        let command = Command::SetQuota {
            device: self.device,
            user: quota.user,
            limit: quota.limit,
        };
        match self.node.set_quota(&mut argument) {
            Ok(()) => Ok(()),
            Err(source) => Err(failed(command, source)),
        }
    }

    pub(crate) fn accounts(&self, accounts: &mut [args::Account]) -> Result<args::Accounts> {
        let mut argument = args::Accounts::default();
        match self.node.accounts(&mut argument, accounts) {
            Ok(()) => Ok(argument),
            Err(source) => Err(failed(
                Command::Accounts {
                    device: self.device,
                },
                source,
            )),
        }
    }

    pub(crate) fn history(
        &self,
        mut argument: args::History,
        moves: &mut [args::Move],
    ) -> Result<args::History> {
        let command = Command::History {
            device: self.device,
            start: argument.start,
            length: argument.length,
        };
        match self.node.history(&mut argument, moves) {
            Ok(()) => Ok(argument),
            Err(source) => Err(failed(command, source)),
        }
    }

    pub(crate) fn set_job(&self, job: &args::Job) -> Result<()> {
        let mut argument = *job;
        let command = Command::SetJob {
            device: self.device,
            job: job.job,
            limit: job.limit,
        };
        match self.node.set_job(&mut argument) {
            Ok(()) => Ok(()),
            Err(source) => Err(failed(command, source)),
        }
    }

    pub(crate) fn set_run(&self, run: &args::Run) -> Result<u64> {
        let mut argument = *run;
        let command = Command::SetRun {
            device: self.device,
            limit: run.limit,
        };
        match self.node.set_run(&mut argument) {
            Ok(()) => Ok(argument.run),
            Err(source) => Err(failed(command, source)),
        }
    }

    pub(crate) fn objects(&self, objects: &mut [args::Object]) -> Result<args::Objects> {
        let mut argument = args::Objects::default();
        let command = Command::Objects {
            device: self.device,
        };
        match self.node.objects(&mut argument, objects) {
            Ok(()) => Ok(argument),
            Err(source) => Err(failed(command, source)),
        }
    }

    pub(crate) fn migrate(
        &self,
        mut argument: args::Migrate,
        reasons: Option<&mut [u8]>,
    ) -> Result<args::Migrate> {
        let command = Command::Migrate {
            device: self.device,
            start: argument.start,
            length: argument.length,
        };
        match self.node.migrate(&mut argument, reasons) {
            Ok(()) => Ok(argument),
            Err(source) => Err(failed(command, source)),
        }
    }

    pub(crate) fn query(
        &self,
        range: AddrRange,
        process: Option<&Process>,
        flags: u32,
        map: Option<&mut [u16]>,
    ) -> Result<args::Query> {
        let mut argument = args::Query {
            start: range.start().get(),
            length: range.length().get(),
            proc_fd: proc_fd(process),
            flags,
            ..args::Query::default()
        };
        let command = Command::Query {
            device: self.device,
            start: argument.start,
            length: argument.length,
        };
        match self.node.query(&mut argument, map) {
            Ok(()) => Ok(argument),
            Err(source) => Err(failed(command, source)),
        }
    }
}

/// Frames left at the time limit are an outcome; EBUSY without any is another drain that runs.
fn drain(
    mut argument: args::Detach,
    command: Command,
    drain_fn: impl FnOnce(&mut args::Detach, &mut [args::Stuck]) -> io::Result<()>,
) -> Result<Drained> {
    let mut stuck = vec![args::Stuck::default(); MAX_STUCK as usize];
    let drained = drain_fn(&mut argument, &mut stuck);
    match drained {
        Err(source) if source.raw_os_error() != Some(libc::EBUSY) || argument.nr_stuck == 0 => {
            Err(failed(command, source))
        }
        Ok(()) | Err(_) => {
            stuck.truncate(usize::try_from(argument.nr_stuck).unwrap_or(usize::MAX));
            Ok(Drained { argument, stuck })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    const COMMAND: Command = Command::Detach {
        device: 0,
        nr_stuck_max: MAX_STUCK,
    };

    fn busy() -> io::Error {
        io::Error::from_raw_os_error(libc::EBUSY)
    }

    #[test]
    fn frames_left_are_an_outcome() {
        let drained = drain(args::Detach::default(), COMMAND, |argument, stuck| {
            stuck[0].phys = 0x1000;
            stuck[1].phys = 0x2000;
            argument.nr_stuck = 2;
            argument.nr_evicted = 7;
            Err(busy())
        })
        .unwrap();
        assert_eq!(drained.stuck.len(), 2);
        assert_eq!(drained.argument.nr_evicted, 7);
    }

    #[test]
    fn more_frames_than_entries_are_counted() {
        let drained = drain(args::Detach::default(), COMMAND, |argument, _| {
            argument.nr_stuck = 1_000_000;
            Err(busy())
        })
        .unwrap();
        assert_eq!(drained.stuck.len(), 4096);
        assert_eq!(drained.argument.nr_stuck, 1_000_000);
    }

    #[test]
    fn busy_without_frames_is_an_error() {
        let error = drain(args::Detach::default(), COMMAND, |_, _| Err(busy())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
    }
}
