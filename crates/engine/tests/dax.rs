//! Regions on real device memory, named by `COHMEM_DAX` (for example `/dev/dax0.0`).
//!
//! A pool takes all of the device, so these run one after the other, with `--test-threads 1`.

mod support;

use std::path::{Path, PathBuf};

use cohmem_engine::{
    Direction, ErrorKind, Granule, LevelChoice, MemoryType, Pool, PoolKind, Region, RegionOptions,
};
use support::{course::Course, each_way, pattern, watchdog};

fn device() -> Option<PathBuf> {
    let path = std::env::var_os("COHMEM_DAX").map(PathBuf::from);
    if path.is_none() {
        eprintln!("NOT RUN: device-dax memory: COHMEM_DAX names no device");
    }
    path
}

fn pool(path: &Path) -> Pool {
    let pool = Pool::dax(path, None).unwrap();
    assert_eq!(pool.kind(), &PoolKind::Dax(path.to_owned()));
    assert_eq!(pool.free_bytes(), pool.bytes());
    pool
}

#[test]
fn real_device_memory() {
    let _guard = watchdog();
    let Some(path) = device() else { return };
    let busy = pool(&path);
    let error = Pool::dax(&path, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeviceBusy);
    let frame = busy.frame();
    if frame > Granule::SMALLEST {
        let small = RegionOptions::new().granule(Granule::SMALLEST);
        let error = Region::allocate(&busy, 4096, &small).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadGranule);
    }
    drop(busy);
    for (level, memory_type) in each_way() {
        let granule = frame.max(Granule::MEDIUM);
        let options = RegionOptions::new()
            .level(LevelChoice::Exactly(level))
            .memory_type(memory_type)
            .granule(granule);
        let pool = pool(&path);
        let bytes = 4 * granule.bytes();
        let mut region = Region::allocate(&pool, bytes, &options).unwrap();
        for round in 1..4 {
            pattern::write(region.as_mut_slice(), round);
            let out = region.migrate(0..bytes, Direction::ToDevice).unwrap();
            assert!(out.is_complete(), "{level}, {memory_type}: {out:?}");
            assert_eq!(pool.free_bytes(), pool.bytes() - bytes as u64);
            if memory_type == MemoryType::Coherent {
                pattern::check(region.as_slice(), round);
                pattern::write(region.as_mut_slice(), round + 10);
            }
            let home = region.migrate(0..bytes, Direction::ToSystem).unwrap();
            assert!(home.is_complete(), "{level}, {memory_type}: {home:?}");
            let last = match memory_type {
                MemoryType::Coherent => round + 10,
                MemoryType::Private | MemoryType::Generic => round,
            };
            pattern::check(region.as_slice(), last);
        }
        drop(region);
        assert_eq!(pool.free_bytes(), pool.bytes());
    }
    let generic = RegionOptions::new()
        .memory_type(MemoryType::Generic)
        .granule(frame);
    let region = Region::allocate(&pool(&path), 3 * frame.bytes(), &generic).unwrap();
    assert!(region.as_slice().iter().all(|&byte| byte == 0));
}

/// The stress of emulated memory, shorter: the machines that have such a device for a test are emulated.
#[test]
fn nothing_is_lost_on_real_device_memory() {
    let _guard = watchdog();
    let Some(path) = device() else { return };
    let frame = pool(&path).frame();
    for (level, memory_type) in each_way() {
        for (granule, nr_granules, nr_stops) in [
            (Granule::SMALLEST, 32, 300),
            (Granule::MEDIUM, 8, 200),
            (Granule::HUGE, 3, 40),
        ] {
            if granule < frame {
                continue;
            }
            let course = Course {
                level,
                memory_type,
                granule,
                nr_granules,
                stop_bytes: 0,
                nr_users: 2,
                nr_movers: 2,
                nr_stops,
            };
            assert!(course.run(&pool(&path)) >= nr_stops);
        }
    }
}
