//! A migration on a thread of its own.

use std::{ops::ControlFlow, path::PathBuf};

use cohmem_engine::Background;
use cohmem_uapi::Direction;

use crate::{
    device::Device,
    error::{Cause, Result},
    migrate::{MigrateOptions, Migrated, Target},
    process::Process,
    units::AddrRange,
};

/// A running migration, see [`Device::start_migration`] and
/// [`Mover::start_migration`](crate::Mover::start_migration).
///
/// Dropping it lets the migration go on to its end.
#[derive(Debug)]
pub struct Migration(Background<Result<Migrated>>);

impl Migration {
    pub(crate) fn start(
        device: &Device,
        range: AddrRange,
        direction: Direction,
        options: MigrateOptions,
        process: Option<&Process>,
    ) -> Result<Self> {
        let device = device.try_clone()?;
        let process = process.map(Process::try_clone).transpose()?;
        Self::spawn(range.nr_pages(), move |progress_fn| {
            let target = process.as_ref().map_or(Target::Own, Target::Process);
            device.migrate_with(range, direction, &options, target, progress_fn)
        })
    }

    pub(crate) fn spawn(
        total: u64,
        migrate_fn: impl FnOnce(&mut dyn FnMut(&Migrated) -> ControlFlow<()>) -> Result<Migrated>
        + Send
        + 'static,
    ) -> Result<Self> {
        let started = Background::start(total, move |step_fn| {
            migrate_fn(&mut |migrated| step_fn(migrated.done()))
        });
        let running = started.map_err(|source| Cause::File {
            doing: "start the thread",
            path: PathBuf::from("cohmem-migrate"),
            source,
        })?;
        Ok(Self(running))
    }

    /// Pages looked at so far, and pages in all.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        self.0.progress()
    }

    /// Asks it to end after the part that it is at. Pages that moved stay where they are.
    pub fn cancel(&self) {
        self.0.cancel();
    }

    /// Whether [`Migration::wait`] would return at once.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits for its end and says what it did, up to where it was cancelled.
    ///
    /// # Errors
    ///
    /// Those of [`Device::migrate`] or [`Mover::migrate`](crate::Mover::migrate).
    ///
    /// # Panics
    ///
    /// If the migration itself panicked.
    pub fn wait(self) -> Result<Migrated> {
        self.0.wait()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;

    #[test]
    fn a_cancelled_migration_ends_after_its_part() {
        let (go, goes) = mpsc::channel();
        let migration = Migration::spawn(100, move |progress_fn| {
            let mut migrated = Migrated {
                total: 100,
                ..Migrated::default()
            };
            loop {
                goes.recv().unwrap();
                migrated.moved += 10;
                if progress_fn(&migrated).is_break() {
                    return Ok(migrated);
                }
            }
        })
        .unwrap();
        go.send(()).unwrap();
        while migration.progress() != (10, 100) {
            thread::yield_now();
        }
        assert!(!migration.is_finished());
        migration.cancel();
        go.send(()).unwrap();
        assert_eq!(migration.wait().unwrap().moved, 20);
    }
}
