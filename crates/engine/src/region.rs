//! Memory that moves.

use std::{
    ops::{ControlFlow, Range},
    ptr::NonNull,
    sync::{Arc, atomic::Ordering},
    thread,
};

use cohmem_uapi::{Direction, Tier};

use crate::{
    Granule, Level, MemoryType, Migrated, Migration, PinGuard, Pool, RegionOptions, Residency,
    Stats,
    background::Gate,
    error::{Cause, Result},
    inner::Inner,
    listener::Threads,
    setup::{self, Built},
    sys::areas::Bytes,
    word::Place,
};

/// A migration on several threads gives each at least so much.
const BYTES_PER_THREAD: usize = 4 << 20;

/// Zeroed memory whose granules move between system memory and a pool.
///
/// Addresses stay for as long as it lives. Dropping it waits for migrations that are under way (each
/// ends after the granule that it is at) and gives its frames back to the pool.
#[derive(Debug)]
pub struct Region {
    // Dropped in this order: the threads use what is shared.
    threads: Option<Threads>,
    inner: Arc<Inner>,
    bytes: Bytes,
    /// Migrations in the background.
    gate: Arc<Gate>,
    level: Level,
    nr_threads: usize,
}

impl Region {
    /// Allocates `bytes` bytes, rounded up to whole granules. They start in system memory, untouched;
    /// under [`MemoryType::Generic`] all of them are on the device at once.
    ///
    /// Takes four times as much address space, which counts only where the machine does not allow
    /// overcommitment (`vm.overcommit_memory=2`), and at level 1 one thread, or two for private memory.
    ///
    /// # Errors
    ///
    /// [`BadSize`](crate::ErrorKind::BadSize), [`BadGranule`](crate::ErrorKind::BadGranule): with the
    /// value and the limit. [`NotAtThisLevel`](crate::ErrorKind::NotAtThisLevel): the memory type needs
    /// another level. [`LevelRefused`](crate::ErrorKind::LevelRefused): what is in the way of the level
    /// that was asked for, or that the memory type needs. [`NoFrames`](crate::ErrorKind::NoFrames):
    /// generic memory does not fit. [`MemoryLocked`](crate::ErrorKind::MemoryLocked).
    /// [`System`](crate::ErrorKind::System). No region is left.
    pub fn allocate(pool: &Pool, bytes: usize, options: &RegionOptions) -> Result<Self> {
        let Built {
            inner,
            bytes: own_bytes,
            level,
        } = setup::build(pool, bytes, options)?;
        let inner = Arc::new(inner);
        let threads = match level {
            Level::Full if inner.hole().is_some() => {
                let is_private = options.memory_type == MemoryType::Private;
                let threads =
                    Threads::start(&inner, is_private).map_err(|source| Cause::System {
                        doing: "start the threads of a region",
                        bytes,
                        source,
                    })?;
                Some(threads)
            }
            Level::Full | Level::UserMode | Level::Signal => None,
        };
        Ok(Self {
            threads,
            inner,
            bytes: own_bytes,
            gate: Arc::new(Gate::default()),
            level,
            nr_threads: options.nr_threads.max(1),
        })
    }

    /// Moves the granules of `range`, bytes from the start of the region, and says how many pages of
    /// 4 KiB moved and why the others stayed. Other threads go on meanwhile; signals of the calling
    /// thread wait for moments (up to 256 KiB or one granule at a time).
    ///
    /// Several threads may migrate at once; a granule that another one is moving is waited for.
    ///
    /// # Errors
    ///
    /// [`BadRange`](crate::ErrorKind::BadRange): with the value and the limit; nothing moved.
    pub fn migrate(&self, range: Range<usize>, to: Direction) -> Result<Migrated> {
        let granules = self.granules_of(&range)?;
        let place = place_of(to);
        let nr_threads = self.nr_threads.min(range.len() / BYTES_PER_THREAD).max(1);
        let on_end = |_: &Migrated| ControlFlow::Continue(());
        if nr_threads == 1 {
            return Ok(self.inner.migrate(granules, place, &mut { on_end }));
        }
        let per_thread = granules.len().div_ceil(nr_threads);
        let parts: Vec<_> = granules
            .clone()
            .step_by(per_thread)
            .map(|start| start..granules.end.min(start + per_thread))
            .collect();
        Ok(thread::scope(|scope| {
            let mut migrated = Migrated::default();
            let mut running = Vec::new();
            for part in parts {
                let own_part = part.clone();
                let started = thread::Builder::new()
                    .name("cohmem-migrate".to_owned())
                    .spawn_scoped(scope, move || {
                        self.inner.migrate(part, place, &mut { on_end })
                    });
                match started {
                    Ok(thread) => running.push(thread),
                    // No more threads: this one does it.
                    Err(_) => {
                        migrated.merge(&self.inner.migrate(own_part, place, &mut { on_end }));
                    }
                }
            }
            for part in running {
                match part.join() {
                    Ok(part) => migrated.merge(&part),
                    Err(payload) => std::panic::resume_unwind(payload),
                }
            }
            migrated
        }))
    }

    /// As [`Self::migrate`], on a thread of its own, with progress, cancel and wait. It ends early when
    /// the region is dropped.
    ///
    /// # Errors
    ///
    /// As [`Self::migrate`], and [`System`](crate::ErrorKind::System): no thread.
    pub fn start_migration(&self, range: Range<usize>, to: Direction) -> Result<Migration> {
        let granules = self.granules_of(&range)?;
        let total = granules.len() as u64 * self.granule().nr_pages();
        let (inner, place) = (Arc::clone(&self.inner), place_of(to));
        Migration::start(&self.gate, total, move |step_fn| {
            inner.migrate(granules, place, step_fn)
        })
    }

    /// Where the granules of `range` are. Waits for those that are moving.
    ///
    /// # Errors
    ///
    /// [`BadRange`](crate::ErrorKind::BadRange).
    pub fn residency(&self, range: Range<usize>) -> Result<Residency> {
        let granules = self.granules_of(&range)?;
        let tiers = self.inner.words[granules]
            .iter()
            .map(|word| match word.place_at_rest() {
                Place::System => Tier::System,
                Place::Device => Tier::Device,
            })
            .collect();
        Ok(Residency {
            granule: self.granule(),
            tiers,
        })
    }

    /// Keeps the granules that `range` touches where they are until the guard is dropped: migrations
    /// leave them, with the reason [`Pinned`](crate::Reason::Pinned). `range` need not be aligned.
    /// Waits for migrations of them that are under way. Private granules come home first.
    ///
    /// Needed around I/O that pins memory; the crate's page tells which that is.
    ///
    /// # Errors
    ///
    /// [`BadRange`](crate::ErrorKind::BadRange): not within the region. Nothing is pinned.
    pub fn pin(&self, range: Range<usize>) -> Result<PinGuard<'_>> {
        self.check_within(&range)?;
        let granule = self.granule().bytes();
        let end = if range.is_empty() {
            range.start / granule
        } else {
            range.end.div_ceil(granule)
        };
        Ok(PinGuard::new(self, range.start / granule..end))
    }

    /// The memory.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// The memory.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self.bytes.as_mut_slice()
    }

    /// Its first byte, aligned to the granule. Threads that share the memory through it, and only they,
    /// must order their accesses as for any shared memory; migrations need no care.
    #[must_use]
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.inner.mechanism.memory().areas.region()
    }

    /// Bytes, a multiple of the granule.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub fn len(&self) -> usize {
        self.inner.mechanism.memory().areas.length()
    }

    /// The unit that moves.
    #[must_use]
    pub fn granule(&self) -> Granule {
        self.inner.granule
    }

    /// How the CPU sees device memory.
    #[must_use]
    pub fn memory_type(&self) -> MemoryType {
        self.inner.memory_type
    }

    /// The mechanism in use. Generic memory uses none, and tells what was asked for or
    /// [`Level::Signal`].
    #[must_use]
    pub const fn level(&self) -> Level {
        self.level
    }

    /// The pool that it lies on.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        self.inner.pool()
    }

    /// What it did so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.inner.counters.read()
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    fn check_within(&self, range: &Range<usize>) -> Result<()> {
        if range.start > range.end || range.end > self.len() {
            return Err(Cause::BadRange {
                start: range.start,
                end: range.end,
                length: self.len(),
            }
            .into());
        }
        Ok(())
    }

    fn granules_of(&self, range: &Range<usize>) -> Result<Range<usize>> {
        self.check_within(range)?;
        let granule = self.granule().bytes();
        if !range.start.is_multiple_of(granule) || !range.end.is_multiple_of(granule) {
            return Err(Cause::Unaligned {
                start: range.start,
                end: range.end,
                granule,
            }
            .into());
        }
        Ok(range.start / granule..range.end / granule)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // Relaxed: it only hurries; the gate orders.
        self.inner.is_closed.store(true, Ordering::Relaxed);
        self.gate.wait_until_idle();
        drop(self.threads.take());
    }
}

const fn place_of(direction: Direction) -> Place {
    match direction {
        Direction::ToDevice => Place::Device,
        Direction::ToSystem => Place::System,
    }
}
