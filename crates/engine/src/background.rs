//! Migrations on threads of their own.

use std::{
    fmt, io,
    ops::ControlFlow,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use crate::{
    Migrated,
    error::{Cause, Result},
};

/// Counts the threads that use a region without borrowing it.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    nr_inside: Mutex<usize>,
    left: Condvar,
}

impl Gate {
    fn enter(&self) {
        *self
            .nr_inside
            .lock()
            .unwrap_or_else(PoisonError::into_inner) += 1;
    }

    fn leave(&self) {
        *self
            .nr_inside
            .lock()
            .unwrap_or_else(PoisonError::into_inner) -= 1;
        self.left.notify_all();
    }

    pub(crate) fn wait_until_idle(&self) {
        let mut nr_inside = self
            .nr_inside
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        while *nr_inside > 0 {
            nr_inside = self
                .left
                .wait(nr_inside)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Leaves the gate, also on a panic.
struct Inside(Arc<Gate>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// What both threads see. Plain counters: nothing else is published through them, so relaxed.
#[derive(Debug, Default)]
struct Shared {
    done: AtomicU64,
    is_cancelled: AtomicBool,
}

/// Work in steps on a thread of its own, with progress, cancel and wait: what the migrations of this crate
/// and of the library are made of.
///
/// Dropping it lets the work go on to its end.
pub struct Background<T> {
    shared: Arc<Shared>,
    total: u64,
    thread: JoinHandle<T>,
}

impl<T> fmt::Debug for Background<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Background")
            .field("shared", &self.shared)
            .field("total", &self.total)
            .finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Background<T> {
    /// Starts work of `total` parts. `work_fn` is given a function to tell after each step how many parts
    /// are done in all, and ends early when that breaks.
    ///
    /// # Errors
    ///
    /// The system's: no thread could be had. `work_fn` was dropped and not called.
    pub fn start(
        total: u64,
        work_fn: impl FnOnce(&mut dyn FnMut(u64) -> ControlFlow<()>) -> T + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("cohmem-migrate".to_owned())
            .spawn(move || {
                work_fn(&mut |done| {
                    seen.done.store(done, Ordering::Relaxed);
                    match seen.is_cancelled.load(Ordering::Relaxed) {
                        true => ControlFlow::Break(()),
                        false => ControlFlow::Continue(()),
                    }
                })
            })?;
        Ok(Self {
            shared,
            total,
            thread,
        })
    }

    /// Parts done so far, and parts in all.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        (self.shared.done.load(Ordering::Relaxed), self.total)
    }

    /// Asks it to end after the step that it is at.
    pub fn cancel(&self) {
        self.shared.is_cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether [`Self::wait`] would return at once.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end: what the work came to.
    ///
    /// # Panics
    ///
    /// If the work itself panicked.
    pub fn wait(self) -> T {
        match self.thread.join() {
            Ok(outcome) => outcome,
            Err(payload) => std::panic::resume_unwind(payload),
        }
    }
}

/// A running migration, see [`Region::start_migration`](crate::Region::start_migration).
///
/// Dropping it lets the migration go on to its end.
#[derive(Debug)]
pub struct Migration(Background<Migrated>);

impl Migration {
    pub(crate) fn start(
        gate: &Arc<Gate>,
        total: u64,
        migrate_fn: impl FnOnce(&mut dyn FnMut(&Migrated) -> ControlFlow<()>) -> Migrated
        + Send
        + 'static,
    ) -> Result<Self> {
        gate.enter();
        let inside = Inside(Arc::clone(gate));
        let started = Background::start(total, move |step_fn| {
            // The closure, and with it the region's memory, is gone before the gate is left.
            let _inside = inside;
            migrate_fn(&mut |migrated| step_fn(migrated.done()))
        });
        let running = started.map_err(|source| Cause::System {
            doing: "start the thread of a migration",
            bytes: 0,
            source,
        })?;
        Ok(Self(running))
    }

    /// Pages looked at so far, and pages in all.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        self.0.progress()
    }

    /// Asks it to end after the granules that it is at. Granules that moved stay where they are.
    pub fn cancel(&self) {
        self.0.cancel();
    }

    /// Whether [`Migration::wait`] would return at once.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits for its end and says what it did, up to where it was cancelled or its region dropped:
    /// then [`Migrated::done`] is less than [`Migrated::total`].
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed): the region was dropped before anything was looked at.
    ///
    /// # Panics
    ///
    /// If the migration itself panicked.
    pub fn wait(self) -> Result<Migrated> {
        let shared = Arc::clone(&self.0.shared);
        let migrated = self.0.wait();
        let is_cancelled = shared.is_cancelled.load(Ordering::Relaxed);
        if migrated.done() == 0 && migrated.total > 0 && !is_cancelled {
            return Err(Cause::Closed.into());
        }
        Ok(migrated)
    }
}
