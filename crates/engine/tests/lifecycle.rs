//! Migrations in the background, on several threads, and regions that go away.

mod support;

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use cohmem_engine::{
    Direction, ErrorKind, Granule, LevelChoice, MemoryType, Pool, PoolOptions, Reason, Region,
    RegionOptions, Tier,
};
use support::{each_way, pattern, watchdog};

const BYTES: usize = 8 << 20;

fn region(options: &RegionOptions) -> (Pool, Region) {
    let pool = Pool::memfd(&PoolOptions::new(BYTES)).unwrap();
    let mut region = Region::allocate(&pool, BYTES, options).unwrap();
    pattern::write(region.as_mut_slice(), 1);
    (pool, region)
}

fn options() -> impl Iterator<Item = RegionOptions> {
    each_way().into_iter().map(|(level, memory_type)| {
        RegionOptions::new()
            .level(LevelChoice::Exactly(level))
            .memory_type(memory_type)
    })
}

#[test]
fn a_migration_in_the_background_tells_how_far_it_is() {
    let _guard = watchdog();
    for options in options() {
        let (_pool, region) = region(&options);
        let migration = region
            .start_migration(0..BYTES, Direction::ToDevice)
            .unwrap();
        let mut seen = 0;
        while !migration.is_finished() {
            let (done, total) = migration.progress();
            assert!(done >= seen && done <= total && total == 2048);
            seen = done;
            thread::yield_now();
        }
        assert_eq!(migration.progress(), (2048, 2048));
        assert!(migration.wait().unwrap().is_complete());
        let there = region.residency(0..BYTES).unwrap();
        assert_eq!(there.bytes_on(Tier::Device), BYTES);
        pattern::check(region.as_slice(), 1);
    }
}

#[test]
fn a_cancelled_migration_leaves_what_moved_where_it_is() {
    let _guard = watchdog();
    for options in options() {
        let (pool, region) = region(&options);
        let migration = region
            .start_migration(0..BYTES, Direction::ToDevice)
            .unwrap();
        migration.cancel();
        let migrated = migration.wait().unwrap();
        assert_eq!(migrated.total, 2048);
        assert_eq!(migrated.done(), migrated.moved);
        let there = region.residency(0..BYTES).unwrap();
        assert_eq!(there.bytes_on(Tier::Device) as u64, migrated.moved * 4096);
        assert_eq!(pool.free_bytes(), BYTES as u64 - migrated.moved * 4096);
        pattern::check(region.as_slice(), 1);
    }
}

#[test]
fn a_region_that_is_dropped_ends_its_migrations_and_frees_its_frames() {
    let _guard = watchdog();
    for options in options() {
        for _ in 0..10 {
            let (pool, region) = region(&options);
            let running: Vec<_> = (0..3)
                .map(|_| {
                    region
                        .start_migration(0..BYTES, Direction::ToDevice)
                        .unwrap()
                })
                .collect();
            drop(region);
            assert_eq!(pool.free_bytes(), BYTES as u64);
            for migration in running {
                match migration.wait() {
                    Ok(migrated) => assert!(migrated.done() <= migrated.total),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Closed),
                }
            }
        }
    }
}

#[test]
fn several_threads_move_one_range() {
    let _guard = watchdog();
    for options in options() {
        let options = options.threads(2).granule(Granule::HUGE);
        let (_pool, mut region) = region(&options);
        for round in 1..4 {
            for to in [Direction::ToDevice, Direction::ToSystem] {
                let migrated = region.migrate(0..BYTES, to).unwrap();
                assert_eq!((migrated.moved, migrated.total), (2048, 2048));
            }
            pattern::check(region.as_slice(), round);
            pattern::write(region.as_mut_slice(), round + 1);
        }
    }
}

#[test]
fn two_regions_share_a_pool_and_nothing_else() {
    let _guard = watchdog();
    for options in options() {
        let pool = Pool::memfd(&PoolOptions::new(1 << 20)).unwrap();
        let mut regions: Vec<_> = (0..2)
            .map(|_| Region::allocate(&pool, 1 << 20, &options).unwrap())
            .collect();
        for (region, round) in regions.iter_mut().zip(1..) {
            pattern::write(region.as_mut_slice(), round);
        }
        thread::scope(|scope| {
            for region in &regions {
                scope.spawn(|| {
                    for _ in 0..50 {
                        for to in [Direction::ToDevice, Direction::ToSystem] {
                            let migrated = region.migrate(0..1 << 20, to).unwrap();
                            let expected = migrated.moved
                                + migrated.stayed.get(Reason::NoFrame)
                                + migrated.stayed.get(Reason::AlreadyThere);
                            assert_eq!(expected, migrated.total);
                        }
                    }
                });
            }
        });
        assert_eq!(pool.free_bytes(), 1 << 20);
        for (region, round) in regions.iter().zip(1..) {
            pattern::check(region.as_slice(), round);
        }
    }
}

#[test]
fn a_guard_keeps_granules_while_others_try_to_move_them() {
    let _guard = watchdog();
    for options in options() {
        let (_pool, region) = region(&options);
        let is_over = AtomicBool::new(false);
        let nr_pinned = AtomicU64::new(0);
        let stop = || is_over.load(Ordering::Relaxed);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop() {
                    for to in [Direction::ToDevice, Direction::ToSystem] {
                        let moved = region.migrate(0..512 << 10, to).unwrap();
                        nr_pinned.fetch_add(moved.stayed.get(Reason::Pinned), Ordering::Relaxed);
                    }
                }
            });
            for _ in 0..50 {
                let guard = region.pin(100..200_000).unwrap();
                let before = region.residency(0..256 << 10).unwrap();
                let seen = nr_pinned.load(Ordering::Relaxed);
                while nr_pinned.load(Ordering::Relaxed) == seen {
                    thread::yield_now();
                }
                assert_eq!(region.residency(0..256 << 10).unwrap(), before);
                assert_eq!(guard.region().len(), BYTES);
            }
            is_over.store(true, Ordering::Relaxed);
        });
        pattern::check(region.as_slice(), 1);
    }
}

/// A panic while a region is in use unwinds through it like through any other owner.
#[test]
fn a_panic_drops_a_region_in_order() {
    let _guard = watchdog();
    for options in options() {
        let (pool, region) = region(&options);
        let caught = thread::spawn(move || {
            let running = region
                .start_migration(0..BYTES, Direction::ToDevice)
                .unwrap();
            assert_eq!(region.memory_type(), MemoryType::Generic, "never");
            drop(running);
        })
        .join();
        assert!(caught.is_err());
        assert_eq!(pool.free_bytes(), BYTES as u64);
    }
}
