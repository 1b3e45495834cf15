//! Pools of huge pages, which the machine must have in reserve (`vm.nr_hugepages`).
//!
//! Where it has too few that is told, or with `COHMEM_HUGE_PAGES=must` an error.

mod support;

use std::error::Error as _;

use cohmem_engine::{
    Direction, ErrorKind, Granule, LevelChoice, MemoryType, Pool, PoolKind, PoolOptions, Reason,
    Region, RegionOptions, Tier,
};
use support::{course::Course, each_way, pattern, watchdog};

const NR_GRANULES: usize = 4;
const BYTES: usize = NR_GRANULES * (2 << 20);

fn pool() -> Option<Pool> {
    match Pool::memfd(&PoolOptions::new(BYTES).huge_pages()) {
        Ok(pool) => {
            assert_eq!(pool.kind(), &PoolKind::MemfdHuge);
            assert_eq!(
                (pool.frame(), pool.free_bytes()),
                (Granule::HUGE, BYTES as u64)
            );
            Some(pool)
        }
        Err(error) => {
            let is_needed = std::env::var_os("COHMEM_HUGE_PAGES").is_some();
            assert!(!is_needed, "{NR_GRANULES} huge pages: {error}");
            assert_eq!(error.kind(), ErrorKind::System, "{error}");
            let why = error.source().map(ToString::to_string).unwrap_or_default();
            eprintln!("NOT RUN: huge pages: {error}: {why}");
            None
        }
    }
}

/// One test: it uses what little there may be, all of it each time.
#[test]
fn huge_pages() {
    let _guard = watchdog();
    if pool().is_none() {
        return;
    }
    for (level, memory_type) in each_way() {
        let options = RegionOptions::new()
            .memory_type(memory_type)
            .level(LevelChoice::Exactly(level))
            .granule(Granule::HUGE);
        there_and_back(&options);
        let course = Course {
            level,
            memory_type,
            granule: Granule::HUGE,
            nr_granules: NR_GRANULES,
            stop_bytes: 0,
            nr_users: 2,
            nr_movers: 2,
            nr_stops: 100,
        };
        assert!(course.run(&pool().unwrap()) >= 100);
    }
    small_granules_are_refused();
    generic_memory();
}

fn there_and_back(options: &RegionOptions) {
    let pool = pool().unwrap();
    let mut region = Region::allocate(&pool, BYTES + 1, options).unwrap();
    pattern::write(region.as_mut_slice(), 1);
    for round in 1..4 {
        // One granule more than there are frames.
        let out = region
            .migrate(0..region.len(), Direction::ToDevice)
            .unwrap();
        assert_eq!((out.moved, out.stayed.get(Reason::NoFrame)), (2048, 512));
        assert_eq!(pool.free_bytes(), 0);
        let map = region.residency(0..region.len()).unwrap();
        assert_eq!(map.bytes_on(Tier::Device), BYTES);
        pattern::check(region.as_slice(), round);
        pattern::write(region.as_mut_slice(), round + 1);
        // Private memory has come home by touch, all of it.
        region.residency(0..region.len()).unwrap();
        region
            .migrate(0..region.len(), Direction::ToSystem)
            .unwrap();
        assert_eq!(pool.free_bytes(), BYTES as u64);
        pattern::check(region.as_slice(), round + 1);
    }
    // A part of a huge page does not move.
    let error = region.migrate(0..4096, Direction::ToDevice).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadRange);
}

fn small_granules_are_refused() {
    let options = RegionOptions::new().granule(Granule::MEDIUM);
    let error = Region::allocate(&pool().unwrap(), BYTES, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadGranule);
    assert_eq!(
        error.to_string(),
        "granule of 65536 bytes: must be a multiple of the pool's frames of 2097152 bytes"
    );
}

fn generic_memory() {
    let options = RegionOptions::new()
        .memory_type(MemoryType::Generic)
        .granule(Granule::HUGE);
    let pool = pool().unwrap();
    let mut region = Region::allocate(&pool, BYTES, &options).unwrap();
    assert!(region.as_slice().iter().all(|&byte| byte == 0));
    pattern::write(region.as_mut_slice(), 7);
    pattern::check(region.as_slice(), 7);
    drop(region);
    let region = Region::allocate(&pool, BYTES, &options).unwrap();
    assert!(region.as_slice().iter().all(|&byte| byte == 0));
}
