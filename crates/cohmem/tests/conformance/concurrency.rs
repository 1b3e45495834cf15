//! C1: threads use the memory while it moves, and see no old, torn or lost value.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use cohmem::{ByteCount, Direction, MigrateOptions, Mover, Region, RegionOptions};

use crate::{
    Test,
    subject::{AT_HOME, Subject},
};

pub(crate) const TESTS: &[Test] = &[
    ("owned_words_are_never_lost_or_old", owned_words),
    ("counters_miss_nothing", counters),
    ("readers_see_no_value_go_back", readers),
    ("small_granules", small_granules),
    ("large_granules", large_granules),
    ("two_threads_migrate_at_once", two_movers),
];

/// Only so that a hang ends.
const LIMIT: Duration = Duration::from_secs(240);
/// Rounds of work of each thread for a round of migration, at least.
const WORK: u64 = 10;

/// Migrates there and back again until `done` says so, and `rounds` times at least.
fn migrate_until(mover: &Mover, rounds: u64, done: impl Fn() -> bool) {
    let started = Instant::now();
    let mut round = 0;
    while round < rounds || !done() {
        for direction in [Direction::ToDevice, Direction::ToSystem] {
            let migrated = mover
                .migrate(mover.range(), direction, &MigrateOptions::default())
                .expect("a migration");
            assert_eq!(migrated.done(), migrated.total, "{migrated:?}");
        }
        round += 1;
        assert!(started.elapsed() < LIMIT, "no end after {round} rounds");
    }
}

/// A flag that is set also when the test fails, so that its threads end.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `work_fn(thread, words, rounds done)` on each of some threads, over and over, while the
/// region migrates.
fn beside_migration(
    subject: &Subject,
    region: &mut Region,
    nr_threads: usize,
    work_fn: impl Fn(usize, &[AtomicU64], u64) + Sync,
) {
    let mover = region.mover();
    let words = region.as_atomic_words();
    let stop = AtomicBool::new(false);
    let progress: Vec<_> = (0..nr_threads).map(|_| AtomicU64::new(0)).collect();
    thread::scope(|scope| {
        for (thread, progress) in progress.iter().enumerate() {
            let (stop, work_fn) = (&stop, &work_fn);
            scope.spawn(move || {
                let _stop_all = StopOnPanic(stop);
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    work_fn(thread, words, round);
                    round += 1;
                    progress.store(round, Ordering::Relaxed);
                }
            });
        }
        let _stop_all = SetOnDrop(&stop);
        migrate_until(&mover, subject.nr_rounds(), || {
            let is_stopped = stop.load(Ordering::Relaxed);
            let least = WORK * subject.nr_rounds();
            let worked = |count: &AtomicU64| count.load(Ordering::Relaxed) >= least;
            is_stopped || progress.iter().all(worked)
        });
    });
}

/// Sets the flag when its thread panics, so that the others need not wait.
struct StopOnPanic<'a>(&'a AtomicBool);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// Each thread writes words of its own and finds in them what it wrote last.
fn owned_words_of(subject: &Subject, options: &RegionOptions, size: ByteCount) {
    const NR_THREADS: usize = 3;
    let mut region = subject.pool.allocate(size, options).expect("a region");
    beside_migration(subject, &mut region, NR_THREADS, |thread, words, round| {
        // A word of every page, each page's at another place.
        for (page, words) in words.chunks(512).enumerate() {
            let at = NR_THREADS * (page % 100) + thread;
            let word = &words[at];
            let found = word.load(Ordering::Relaxed);
            assert_eq!(found, round, "word {at} of page {page}");
            word.store(round + 1, Ordering::Relaxed);
        }
    });
}

fn owned_words(subject: &Subject) {
    owned_words_of(subject, &AT_HOME, subject.size());
}

fn small_granules(subject: &Subject) {
    let least = subject.capabilities().least_granule;
    let options = RegionOptions {
        granule: Some(least),
        ..AT_HOME
    };
    let size = ByteCount::new((16 * least.get()).max(256 << 10));
    owned_words_of(subject, &options, size);
}

fn large_granules(subject: &Subject) {
    let granule = ByteCount::new(2 << 20);
    let options = RegionOptions {
        granule: Some(granule),
        ..AT_HOME
    };
    let size = ByteCount::new(4 << 20);
    if subject.capabilities().has_granules {
        owned_words_of(subject, &options, size);
    } else {
        let error = subject.pool.allocate(size, &options).unwrap_err();
        assert_eq!(error.kind(), cohmem::ErrorKind::Misaligned, "{error}");
    }
}

/// Every thread adds to every counter; the sums come out.
fn counters(subject: &Subject) {
    let mut region = subject.region(&AT_HOME);
    let added: Vec<_> = (0..3).map(|_| AtomicU64::new(0)).collect();
    beside_migration(subject, &mut region, added.len(), |thread, words, _| {
        for page in words.chunks(512) {
            page[page.len() / 2].fetch_add(1, Ordering::Relaxed);
        }
        added[thread].fetch_add(1, Ordering::Relaxed);
    });
    let expected: u64 = added
        .iter()
        .map(|count| count.load(Ordering::Relaxed))
        .sum();
    for (page, words) in region.as_atomic_words().chunks(512).enumerate() {
        let found = words[words.len() / 2].load(Ordering::Relaxed);
        assert_eq!(found, expected, "the counter of page {page}");
    }
}

/// One thread counts two words of each page up, one after the other; others never see them the
/// wrong way round, nor go back.
fn readers(subject: &Subject) {
    let mut region = subject.region(&AT_HOME);
    let nr_pages = region.as_slice().len() / 4096;
    let seen: Vec<_> = (0..nr_pages).map(|_| AtomicU64::new(0)).collect();
    beside_migration(subject, &mut region, 2, |thread, words, round| {
        for (page, words) in words.chunks(512).enumerate() {
            let (first, second) = (&words[1], &words[words.len() - 1]);
            if thread == 0 {
                first.store(round + 1, Ordering::Release);
                second.store(round + 1, Ordering::Release);
            } else {
                let second = second.load(Ordering::Acquire);
                let first = first.load(Ordering::Acquire);
                assert!(first >= second, "page {page}: {first} before {second}");
                let before = seen[page].fetch_max(first, Ordering::Relaxed);
                assert!(first >= before, "page {page} went from {before} to {first}");
            }
        }
    });
}

fn two_movers(subject: &Subject) {
    let mut region = subject.region(&AT_HOME);
    let other = region.mover();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let _stop_all = StopOnPanic(&stop);
            while !stop.load(Ordering::Relaxed) {
                for direction in [Direction::ToSystem, Direction::ToDevice] {
                    let options = MigrateOptions::default();
                    let migrated = other.migrate(other.range(), direction, &options);
                    let migrated = migrated.expect("a migration");
                    assert_eq!(migrated.done(), migrated.total, "{migrated:?}");
                }
            }
        });
        let _stop_all = SetOnDrop(&stop);
        let added = AtomicU64::new(0);
        beside_migration(subject, &mut region, 1, |_, words, round| {
            for page in words.chunks(512) {
                let before = page[0].fetch_add(1, Ordering::Relaxed);
                assert_eq!(before, round);
            }
            added.fetch_add(1, Ordering::Relaxed);
        });
    });
}
