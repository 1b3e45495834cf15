//! Threads that read, write and count in a region while its granules move to and fro: nothing is lost,
//! torn or stale. Every pair of a level and a memory type that can be had, with granules of 4 KiB, 64 KiB
//! and 2 MiB and 2 to 8 threads; what cannot be had is refused, see the test
//! `what_a_level_cannot_give_is_refused_with_the_reason`.
//!
//! `COHMEM_STRESS` is how many times as long each test is to be; 1 by default.

mod support;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use cohmem_engine::{
    Direction, Granule, Level, MemoryType, Pool, PoolOptions, Region, RegionOptions,
};
use support::{
    course::{Course, User},
    levels, watchdog, words,
};

/// Migrations under way together, for each pair of a level and a memory type.
const NR_STOPS: u64 = 10_000;

fn courses(level: Level, memory_type: MemoryType) -> [Course; 5] {
    let course = Course {
        level,
        memory_type,
        granule: Granule::SMALLEST,
        nr_granules: 32,
        stop_bytes: 0,
        nr_users: 1,
        nr_movers: 1,
        nr_stops: 2500,
    };
    [
        course,
        Course {
            stop_bytes: 16 << 10,
            nr_users: 4,
            nr_movers: 2,
            nr_stops: 3500,
            ..course
        },
        Course {
            granule: Granule::MEDIUM,
            nr_granules: 16,
            nr_users: 6,
            nr_movers: 2,
            nr_stops: 3500,
            ..course
        },
        Course {
            granule: Granule::MEDIUM,
            nr_granules: 8,
            stop_bytes: 256 << 10,
            nr_users: 2,
            nr_stops: 200,
            ..course
        },
        Course {
            granule: Granule::HUGE,
            nr_granules: 4,
            nr_users: 2,
            nr_movers: 2,
            nr_stops: 300,
            ..course
        },
    ]
}

fn stress(level: Level, memory_type: MemoryType) {
    let _guard = watchdog();
    if !levels().contains(&level) {
        return;
    }
    let mut nr_stops = 0;
    for course in courses(level, memory_type) {
        let options = PoolOptions::new(course.bytes()).frame(course.granule);
        nr_stops += course.run(&Pool::memfd(&options).unwrap());
    }
    assert!(nr_stops >= NR_STOPS, "{nr_stops} migrations");
}

#[test]
fn coherent_at_level_1() {
    stress(Level::Full, MemoryType::Coherent);
}

#[test]
fn private_at_level_1() {
    stress(Level::Full, MemoryType::Private);
}

#[test]
fn coherent_at_level_2() {
    stress(Level::UserMode, MemoryType::Coherent);
}

#[test]
fn coherent_at_level_3() {
    stress(Level::Signal, MemoryType::Coherent);
}

/// Generic memory does not move: migrations that are asked for meanwhile do nothing.
#[test]
fn generic() {
    let _guard = watchdog();
    let pool = Pool::memfd(&PoolOptions::new(1 << 20)).unwrap();
    let options = RegionOptions::new().memory_type(MemoryType::Generic);
    let region = Region::allocate(&pool, 1 << 20, &options).unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for user in 0..2 {
            let (words, is_over) = (words::of(&region), &is_over);
            scope.spawn(move || User::new(words, user, 2).run(is_over));
        }
        for _ in 0..1000 {
            for to in [Direction::ToSystem, Direction::ToDevice] {
                assert_eq!(region.migrate(0..1 << 20, to).unwrap().moved, 0);
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert_eq!(region.stats().nr_stops, 0);
}
