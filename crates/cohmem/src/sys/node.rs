//! The driver's device files and their commands.

use std::{fs::File, io, path::Path};

use cohmem_uapi::{args, ioctl};
use rustix::ioctl::{Updater, ioctl as run};

/// An open `/dev/cohmem` or `/dev/cohmemN`.
///
/// # Invariants
///
/// `file` is a node of the cohmem driver with our version of the ABI: [`Node::open`] got an answer
/// to the version command, which carries the driver's own magic and structure size.
#[derive(Debug)]
pub(crate) struct Node {
    file: File,
}

impl Node {
    /// Opens a node and asks for its version, which it returns with it.
    pub(crate) fn open(path: &Path) -> io::Result<(Self, args::Version)> {
        let file = File::options().read(true).write(true).open(path)?;
        let mut version = args::Version::default();
        // SAFETY: The number is `_IOWR` of the cohmem driver's magic and the size of this very
        // structure, which the kernel reads and writes and which holds no pointer. Should the path
        // name a file of another driver, that driver sees a command number which carries the size
        // of the memory that it may use, as every `_IOWR` number does.
        let command = unsafe { Updater::<{ ioctl::VERSION }, _>::new(&mut version) };
        // SAFETY: As above: this is the one command for which `command` was made.
        unsafe { run(&file, command) }?;
        // INVARIANT: The version command was answered.
        Ok((Self { file }, version))
    }

    /// A second handle of the same open file.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        // INVARIANT: It is the same open file.
        Ok(Self {
            file: self.file.try_clone()?,
        })
    }

    /// [`ioctl::ATTACH`].
    pub(crate) fn attach(&self, argument: &mut args::Attach) -> io::Result<()> {
        // SAFETY: The number and the structure belong together in the ABI; it holds no pointer.
        let command = unsafe { Updater::<{ ioctl::ATTACH }, _>::new(argument) };
        // SAFETY: `file` is a node of the driver, by the type invariants.
        Ok(unsafe { run(&self.file, command) }?)
    }

    /// [`ioctl::LIST`].
    pub(crate) fn list(&self, argument: &mut args::List) -> io::Result<()> {
        // SAFETY: The number and the structure belong together in the ABI; it holds no pointer.
        let command = unsafe { Updater::<{ ioctl::LIST }, _>::new(argument) };
        // SAFETY: `file` is a node of the driver, by the type invariants.
        Ok(unsafe { run(&self.file, command) }?)
    }

    /// [`ioctl::RANGE`].
    pub(crate) fn range(&self, argument: &mut args::Range) -> io::Result<()> {
        // SAFETY: The number and the structure belong together in the ABI; it holds no pointer.
        let command = unsafe { Updater::<{ ioctl::RANGE }, _>::new(argument) };
        // SAFETY: `file` is a node of the driver, by the type invariants.
        Ok(unsafe { run(&self.file, command) }?)
    }

    /// [`ioctl::INFO`].
    pub(crate) fn info(&self, argument: &mut args::Info) -> io::Result<()> {
        // SAFETY: The number and the structure belong together in the ABI; it holds no pointer.
        let command = unsafe { Updater::<{ ioctl::INFO }, _>::new(argument) };
        // SAFETY: `file` is a node of the driver, by the type invariants.
        Ok(unsafe { run(&self.file, command) }?)
    }

    /// [`ioctl::DETACH`]; the driver writes at most `stuck.len()` entries to `stuck`.
    pub(crate) fn detach(
        &self,
        argument: &mut args::Detach,
        stuck: &mut [args::Stuck],
    ) -> io::Result<()> {
        lend_stuck(argument, stuck);
        // SAFETY: The number and the structure belong together in the ABI. Its pointer and count
        // are those of `stuck`, which is borrowed until the command has ended.
        let command = unsafe { Updater::<{ ioctl::DETACH }, _>::new(argument) };
        // SAFETY: `file` is a node of the driver, by the type invariants.
        Ok(unsafe { run(&self.file, command) }?)
    }

    /// [`ioctl::EVICT`]; the driver writes at most `stuck.len()` entries to `stuck`.
    pub(crate) fn evict(
        &self,
        argument: &mut args::Detach,
        stuck: &mut [args::Stuck],
    ) -> io::Result<()> {
        lend_stuck(argument, stuck);
        // SAFETY: The number and the structure belong together in the ABI. Its pointer and count
        // are those of `stuck`, which is borrowed until the command has ended.
        let command = unsafe { Updater::<{ ioctl::EVICT }, _>::new(argument) };
        // SAFETY: `file` is a node of the driver, by the type invariants.
        Ok(unsafe { run(&self.file, command) }?)
    }

    /// [`ioctl::SET_QUOTA`].
    pub(crate) fn set_quota(&self, argument: &mut args::Quota) -> io::Result<()> {
        // SAFETY: The number and the structure belong together in the ABI; it holds no pointer.
        let command = unsafe { Updater::<{ ioctl::SET_QUOTA }, _>::new(argument) };
        // SAFETY: `file` is a node of the driver, by the type invariants.
        Ok(unsafe { run(&self.file, command) }?)
    }

    /// [`ioctl::ACCOUNTS`]; the driver writes at most `accounts.len()` entries to `accounts`.
    pub(crate) fn accounts(
        &self,
        argument: &mut args::Accounts,
        accounts: &mut [args::Account],
    ) -> io::Result<()> {
        // A longer slice than a u32 counts is told short; the driver refuses far smaller ones.
        argument.nr_max = u32::try_from(accounts.len()).unwrap_or(u32::MAX);
        argument.accounts_ptr = accounts.as_mut_ptr().expose_provenance() as u64;
        // SAFETY: The number and the structure belong together in the ABI. Its pointer and count
        // are those of `accounts`, which is borrowed until the command has ended.
        let command = unsafe { Updater::<{ ioctl::ACCOUNTS }, _>::new(argument) };
        // SAFETY: `file` is a node of the driver, by the type invariants.
        Ok(unsafe { run(&self.file, command) }?)
    }

    /// [`ioctl::HISTORY`]; the driver writes at most `moves.len()` entries to `moves`.
    pub(crate) fn history(
        &self,
        argument: &mut args::History,
        moves: &mut [args::Move],
    ) -> io::Result<()> {
        // A longer slice than a u32 counts is told short; the driver refuses far smaller ones.
        argument.nr_max = u32::try_from(moves.len()).unwrap_or(u32::MAX);
        argument.moves_ptr = moves.as_mut_ptr().expose_provenance() as u64;
        // SAFETY: The number and the structure belong together in the ABI. Its pointer and count
        // are those of `moves`, which is borrowed until the command has ended.
        let command = unsafe { Updater::<{ ioctl::HISTORY }, _>::new(argument) };
        // SAFETY: `file` is a node of the driver, by the type invariants.
        Ok(unsafe { run(&self.file, command) }?)
    }

    /// [`ioctl::SET_JOB`].
    pub(crate) fn set_job(&self, argument: &mut args::Job) -> io::Result<()> {
        // SAFETY: The number and the structure belong together in the ABI; it holds no pointer.
        let command = unsafe { Updater::<{ ioctl::SET_JOB }, _>::new(argument) };
        // SAFETY: `file` is a node of the driver, by the type invariants.
        Ok(unsafe { run(&self.file, command) }?)
    }

    /// [`ioctl::SET_RUN`].
    pub(crate) fn set_run(&self, argument: &mut args::Run) -> io::Result<()> {
        // SAFETY: The number and the structure belong together in the ABI; it holds no pointer.
        let command = unsafe { Updater::<{ ioctl::SET_RUN }, _>::new(argument) };
        // SAFETY: `file` is a node of the driver, by the type invariants.
        Ok(unsafe { run(&self.file, command) }?)
    }

    /// [`ioctl::OBJECTS`]; the driver writes at most `objects.len()` entries to `objects`.
    pub(crate) fn objects(
        &self,
        argument: &mut args::Objects,
        objects: &mut [args::Object],
    ) -> io::Result<()> {
        // A longer slice than a u32 counts is told short; the driver refuses far smaller ones.
        argument.nr_max = u32::try_from(objects.len()).unwrap_or(u32::MAX);
        argument.objects_ptr = objects.as_mut_ptr().expose_provenance() as u64;
        // SAFETY: The number and the structure belong together in the ABI. Its pointer and count
        // are those of `objects`, which is borrowed until the command has ended.
        let command = unsafe { Updater::<{ ioctl::OBJECTS }, _>::new(argument) };
        // SAFETY: `file` is a node of the driver, by the type invariants.
        Ok(unsafe { run(&self.file, command) }?)
    }

    /// [`ioctl::MIGRATE`]; the driver writes one byte a page of the range to `reasons`.
    ///
    /// # Panics
    ///
    /// `reasons` has not one byte for each page of the range.
    pub(crate) fn migrate(
        &self,
        argument: &mut args::Migrate,
        reasons: Option<&mut [u8]>,
    ) -> io::Result<()> {
        argument.reasons_ptr = match reasons {
            Some(reasons) => {
                assert!(
                    reasons.len() as u64 >= argument.length.div_ceil(cohmem_uapi::FRAME_BYTES),
                    "there is one reason a page"
                );
                reasons.as_mut_ptr().expose_provenance() as u64
            }
            None => 0,
        };
        // SAFETY: The number and the structure belong together in the ABI. Its pointer is 0 or that
        // of `reasons`, long enough by the assertion and borrowed until the command has ended.
        let command = unsafe { Updater::<{ ioctl::MIGRATE }, _>::new(argument) };
        // SAFETY: `file` is a node of the driver, by the type invariants. Migration keeps the
        // content and the address of every page; filling gives zeros to pages that were never
        // touched, which read as zeros before.
        Ok(unsafe { run(&self.file, command) }?)
    }

    /// [`ioctl::QUERY`]; the driver writes one entry a page of the range to `map`.
    ///
    /// # Panics
    ///
    /// `map` has not one entry for each page of the range.
    pub(crate) fn query(
        &self,
        argument: &mut args::Query,
        map: Option<&mut [u16]>,
    ) -> io::Result<()> {
        argument.map_ptr = match map {
            Some(map) => {
                assert!(
                    map.len() as u64 >= argument.length.div_ceil(cohmem_uapi::FRAME_BYTES),
                    "there is one entry a page"
                );
                map.as_mut_ptr().expose_provenance() as u64
            }
            None => 0,
        };
        // SAFETY: The number and the structure belong together in the ABI. Its pointer is 0 or that
        // of `map`, long enough by the assertion and borrowed until the command has ended.
        let command = unsafe { Updater::<{ ioctl::QUERY }, _>::new(argument) };
        // SAFETY: `file` is a node of the driver, by the type invariants.
        Ok(unsafe { run(&self.file, command) }?)
    }
}

fn lend_stuck(argument: &mut args::Detach, stuck: &mut [args::Stuck]) {
    // A longer slice than a u32 counts is told short; the driver refuses far smaller ones.
    argument.nr_stuck_max = u32::try_from(stuck.len()).unwrap_or(u32::MAX);
    argument.stuck_ptr = if stuck.is_empty() {
        0
    } else {
        stuck.as_mut_ptr().expose_provenance() as u64
    };
}
