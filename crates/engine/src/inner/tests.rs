//! Tests that hold a moment of a migration open: they do the steps of a migration by themselves.

use std::{
    fs, io,
    os::fd::{AsRawFd as _, BorrowedFd},
    sync::atomic::Ordering,
    thread::{self, ScopedJoinHandle},
    time::Duration,
};

use cohmem_uapi::{Direction, Reason};

use super::*;
use crate::{
    Level, LevelChoice, Pool, PoolOptions, Region,
    host::{Host as _, StopHost as _},
    survey,
    sys::last_word,
    word::Held,
};

mod kernel_access;
mod pinned;
mod waiting;

const GRANULE: usize = 64 << 10;
/// After so long a test hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// Ends the process unless it is dropped in time.
struct Watchdog(Arc<AtomicBool>);

impl Watchdog {
    fn new() -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&is_over);
        thread::spawn(move || {
            let start = Instant::now();
            while !seen.load(Ordering::Relaxed) {
                if start.elapsed() > LIMIT {
                    last_word::abort("\nWATCHDOG: a thread that waits for a granule hangs\n");
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        Self(is_over)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn region(level: Level, memory_type: MemoryType) -> Option<Region> {
    if let Err(obstacle) = survey().check(level) {
        eprintln!("NOT RUN: {level}: {obstacle}");
        return None;
    }
    let pool = Pool::memfd(&PoolOptions::new(8 * GRANULE)).unwrap();
    let options = RegionOptions::new()
        .level(LevelChoice::Exactly(level))
        .memory_type(memory_type);
    Some(Region::allocate(&pool, 8 * GRANULE, &options).unwrap())
}

fn word_at(region: &Region, offset: usize) -> &AtomicUsize {
    crate::sys::areas::word_at(&region.inner().mechanism.memory().areas, offset)
}

fn word_of(region: &Region, index: usize) -> &AtomicUsize {
    word_at(region, index * GRANULE)
}

/// Accesses that wait for the file's answer, whether or not somebody read of them.
fn nr_queued(uffd: BorrowedFd<'_>) -> usize {
    let path = format!("/proc/self/fdinfo/{}", uffd.as_raw_fd());
    let text = fs::read_to_string(path).unwrap();
    let total = text.lines().find_map(|line| line.strip_prefix("total:"));
    total.unwrap().trim().parse().unwrap()
}

/// Starts a thread that writes a word, and returns when it sleeps.
fn sleeping_writer<'s, 'e>(
    scope: &'s thread::Scope<'s, 'e>,
    word: &'e AtomicUsize,
) -> ScopedJoinHandle<'s, ()> {
    let (send, receive) = std::sync::mpsc::channel();
    let writer = scope.spawn(move || {
        send.send(rustix::thread::gettid()).unwrap();
        word.fetch_add(1, Ordering::Relaxed);
    });
    let thread = receive.recv().unwrap();
    let path = format!("/proc/self/task/{}/stat", thread.as_raw_nonzero());
    loop {
        let stat = fs::read_to_string(&path).unwrap();
        // Behind the name, which may hold blanks.
        let state = stat.rsplit(')').next().unwrap().trim_start().chars().next();
        if matches!(state, Some('S' | 'D')) {
            return writer;
        }
        thread::yield_now();
    }
}

#[test]
fn a_touch_of_a_granule_that_is_held_is_kept_until_it_is_let_go() {
    let _guard = Watchdog::new();
    let Some(region) = region(Level::Full, MemoryType::Private) else {
        return;
    };
    let inner = region.inner();
    word_of(&region, 3).store(41, Ordering::Relaxed);
    region.migrate(0..8 * GRANULE, Direction::ToDevice).unwrap();
    assert_eq!(inner.words[3].try_lock(Pins::Heeded), Ok(Place::Device));
    thread::scope(|scope| {
        let writer = sleeping_writer(scope, word_of(&region, 3));
        // Others come home meanwhile, one of them by a touch: nobody waits for the granule but those
        // who want it.
        let home = region.migrate(GRANULE..2 * GRANULE, Direction::ToSystem);
        assert_eq!(home.unwrap().moved, 16);
        // The thread that brings granules home has met the lock by now, or will.
        assert_eq!(inner.words[3].try_lock(Pins::Heeded), Err(Held::Locked));
        while !inner.words[3].is_waited_for() {
            thread::yield_now();
        }
        assert!(!writer.is_finished());
        inner.words[3].unlock(Place::Device);
        writer.join().unwrap();
    });
    assert_eq!(word_of(&region, 3).load(Ordering::Relaxed), 42);
    // The query waits until all is done, which a touch does not.
    region.residency(0..8 * GRANULE).unwrap();
    assert_eq!(region.stats().nr_touched_home, 1);
}

#[test]
fn a_mapping_moves_home_while_a_touched_granule_is_held() {
    let _guard = Watchdog::new();
    let Some(coherent) = region(Level::Full, MemoryType::Coherent) else {
        return;
    };
    // The listener must answer the move of a mapping although a fault came before it that nobody can
    // deal with yet.
    let inner = coherent.inner();
    coherent
        .migrate(4 * GRANULE..8 * GRANULE, Direction::ToDevice)
        .unwrap();
    let hole = inner.hole().unwrap();
    assert_eq!(inner.words[0].try_lock(Pins::Heeded), Ok(Place::System));
    let span = inner.span_of(0..1);
    word_of(&coherent, 0).store(6, Ordering::Relaxed);
    hole.populate(span).unwrap();
    crate::host::HoleHost::arm(hole, span).unwrap();
    assert_eq!(crate::host::HoleHost::take(hole, span), (GRANULE, Ok(())));
    thread::scope(|scope| {
        let writer = sleeping_writer(scope, word_of(&coherent, 0));
        let home = coherent.migrate(4 * GRANULE..8 * GRANULE, Direction::ToSystem);
        assert_eq!(home.unwrap().moved, 64);
        assert!(!writer.is_finished());
        assert_eq!(
            crate::host::HoleHost::put_back(hole, span),
            (GRANULE, Ok(()))
        );
        crate::host::HoleHost::disarm(hole, span).unwrap();
        crate::host::HoleHost::wake(hole, span);
        writer.join().unwrap();
    });
    inner.words[0].unlock(Place::System);
    assert_eq!(word_of(&coherent, 0).load(Ordering::Relaxed), 7);
}

#[test]
fn a_stopped_granule_is_readable_and_a_writer_waits_until_it_is_released() {
    let _guard = Watchdog::new();
    for level in [Level::UserMode, Level::Signal] {
        let Some(region) = region(level, MemoryType::Coherent) else {
            continue;
        };
        for place in [Place::System, Place::Device] {
            let inner = region.inner();
            word_of(&region, 2).store(10, Ordering::Relaxed);
            if place == Place::Device {
                region.migrate(0..8 * GRANULE, Direction::ToDevice).unwrap();
            }
            let Mechanism::Stop(host) = &inner.mechanism else {
                panic!("levels 2 and 3 stop writes");
            };
            let span = inner.span_of(2..3);
            assert_eq!(inner.words[2].try_lock(Pins::Heeded), Ok(place));
            host.populate(span).unwrap();
            host.stop(span, place).unwrap();
            thread::scope(|scope| {
                let writer = sleeping_writer(scope, word_of(&region, 2));
                assert_eq!(word_of(&region, 2).load(Ordering::Relaxed), 10);
                host.release(span, place);
                inner.words[2].unlock(place);
                writer.join().unwrap();
            });
            assert_eq!(word_of(&region, 2).load(Ordering::Relaxed), 11);
        }
    }
}

#[test]
fn a_stopped_granule_is_not_written_by_the_kernel() {
    let _guard = Watchdog::new();
    for level in [Level::UserMode, Level::Signal] {
        let Some(region) = region(level, MemoryType::Coherent) else {
            continue;
        };
        let inner = region.inner();
        let Mechanism::Stop(host) = &inner.mechanism else {
            panic!("levels 2 and 3 stop writes");
        };
        let span = inner.span_of(1..2);
        assert_eq!(inner.words[1].try_lock(Pins::Heeded), Ok(Place::System));
        word_of(&region, 1).store(5, Ordering::Relaxed);
        host.stop(span, Place::System).unwrap();
        let areas = &inner.mechanism.memory().areas;
        let file = fs::File::open("/dev/zero").unwrap();
        let refused = crate::sys::areas::read_into(areas, &file, GRANULE, 8).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EFAULT));
        host.release(span, Place::System);
        inner.words[1].unlock(Place::System);
        assert_eq!(word_of(&region, 1).load(Ordering::Relaxed), 5);
        assert_eq!(
            crate::sys::areas::read_into(areas, &file, GRANULE, 8).unwrap(),
            8
        );
        assert_eq!(word_of(&region, 1).load(Ordering::Relaxed), 0);
    }
}

#[test]
fn locked_memory_stays_at_level_1_and_the_reason_says_so() {
    let _guard = Watchdog::new();
    let Some(region) = region(Level::Full, MemoryType::Coherent) else {
        return;
    };
    word_of(&region, 0).store(3, Ordering::Relaxed);
    crate::sys::areas::lock_memory(&region.inner().mechanism.memory().areas, GRANULE);
    let out = region.migrate(0..2 * GRANULE, Direction::ToDevice).unwrap();
    assert_eq!((out.moved, out.stayed.get(Reason::Locked)), (16, 16));
    assert_eq!(word_of(&region, 0).load(Ordering::Relaxed), 3);
}
