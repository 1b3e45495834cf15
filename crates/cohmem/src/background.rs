//! A migration on a thread of its own.

use std::{
    fmt,
    ops::ControlFlow,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use cohmem_uapi::Direction;

use crate::{
    device::Device,
    error::{Cause, Result},
    migrate::{MigrateOptions, Migrated, Target},
    process::Process,
    units::AddrRange,
};

/// What both threads see. Plain counters: nothing else is published through them, so relaxed.
#[derive(Debug, Default)]
struct Shared {
    done: AtomicU64,
    is_cancelled: AtomicBool,
}

/// A running migration, see [`Device::start_migration`] and
/// [`Mover::start_migration`](crate::Mover::start_migration).
///
/// Dropping it lets the migration go on to its end.
pub struct Migration {
    shared: Arc<Shared>,
    total: u64,
    thread: JoinHandle<Result<Migrated>>,
}

impl fmt::Debug for Migration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Migration")
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

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
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("cohmem-migrate".to_owned())
            .spawn(move || {
                migrate_fn(&mut |migrated| {
                    seen.done.store(migrated.done(), Ordering::Relaxed);
                    match seen.is_cancelled.load(Ordering::Relaxed) {
                        true => ControlFlow::Break(()),
                        false => ControlFlow::Continue(()),
                    }
                })
            });
        match thread {
            Ok(thread) => Ok(Self {
                shared,
                total,
                thread,
            }),
            Err(source) => {
                let path = PathBuf::from("cohmem-migrate");
                Err(Cause::File {
                    doing: "start the thread",
                    path,
                    source,
                }
                .into())
            }
        }
    }

    /// Pages looked at so far, and pages in all.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        (self.shared.done.load(Ordering::Relaxed), self.total)
    }

    /// Asks it to end after the part that it is at. Pages that moved stay where they are.
    pub fn cancel(&self) {
        self.shared.is_cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether [`Migration::wait`] would return at once.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
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
        match self.thread.join() {
            Ok(migrated) => migrated,
            Err(payload) => std::panic::resume_unwind(payload),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

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
