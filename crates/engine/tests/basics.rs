//! What a region promises to one thread, at each level that this process can have.

mod support;

use cohmem_engine::{
    Direction, ErrorKind, Granule, Level, LevelChoice, MemoryType, Pool, PoolOptions, Reason,
    Region, RegionOptions, Tier,
};
use support::{each_way, levels, pattern, watchdog};

const GRANULES: [Granule; 3] = [Granule::SMALLEST, Granule::MEDIUM, Granule::HUGE];

#[test]
fn content_is_the_same_there_and_back() {
    let _guard = watchdog();
    for (level, memory_type) in each_way() {
        for granule in GRANULES {
            let bytes = 8 * granule.bytes();
            let pool = Pool::memfd(&PoolOptions::new(bytes).frame(granule)).unwrap();
            let options = RegionOptions::new()
                .memory_type(memory_type)
                .level(LevelChoice::Exactly(level))
                .granule(granule)
                .stop_bytes(0);
            let mut region = Region::allocate(&pool, bytes, &options).unwrap();
            assert_eq!((region.level(), region.len()), (level, bytes));
            assert_eq!(region.as_ptr().addr().get() % granule.bytes(), 0);
            pattern::write(region.as_mut_slice(), 1);
            let total = bytes as u64 / 4096;
            for round in 0..3 {
                let out = region.migrate(0..bytes, Direction::ToDevice).unwrap();
                assert_eq!((out.moved, out.total), (total, total), "{level} {granule}");
                assert!(out.is_complete());
                assert_eq!(pool.free_bytes(), 0);
                let there = region.residency(0..bytes).unwrap();
                assert_eq!(there.bytes_on(Tier::Device), bytes);
                let again = region.migrate(0..bytes, Direction::ToDevice).unwrap();
                assert_eq!(again.stayed.get(Reason::AlreadyThere), total);
                if memory_type == MemoryType::Coherent {
                    pattern::check(region.as_slice(), 1 + round);
                    pattern::write(region.as_mut_slice(), 2 + round);
                    assert_eq!(
                        region.residency(0..bytes).unwrap().bytes_on(Tier::Device),
                        bytes
                    );
                }
                let home = region.migrate(0..bytes, Direction::ToSystem).unwrap();
                assert_eq!(home.moved, total);
                assert_eq!(pool.free_bytes(), bytes as u64);
                if memory_type == MemoryType::Private {
                    pattern::check(region.as_slice(), 1 + round);
                    pattern::write(region.as_mut_slice(), 2 + round);
                }
                pattern::check(region.as_slice(), 2 + round);
            }
            let stats = region.stats();
            assert_eq!(stats.pages_to_device, 3 * total);
            assert_eq!(stats.pages_to_system, 3 * total);
            assert_eq!(stats.nr_stops, 6 * 8);
        }
    }
}

#[test]
fn neighbours_move_in_one_stop_if_so_asked() {
    let _guard = watchdog();
    for (level, memory_type) in each_way() {
        let pool = Pool::memfd(&PoolOptions::new(1 << 20)).unwrap();
        let options = RegionOptions::new()
            .memory_type(memory_type)
            .level(LevelChoice::Exactly(level))
            .granule(Granule::SMALLEST)
            .stop_bytes(64 << 10);
        let mut region = Region::allocate(&pool, 1 << 20, &options).unwrap();
        pattern::write(region.as_mut_slice(), 5);
        // Every fourth page stays out, so that the way home is in pieces.
        assert_eq!(
            region
                .migrate(0..1 << 20, Direction::ToDevice)
                .unwrap()
                .moved,
            256
        );
        assert_eq!(region.stats().nr_stops, 16);
        for page in (0..256).step_by(4) {
            let range = page * 4096..(page + 1) * 4096;
            assert_eq!(region.migrate(range, Direction::ToSystem).unwrap().moved, 1);
        }
        let home = region.migrate(0..1 << 20, Direction::ToSystem).unwrap();
        assert_eq!(home.moved, 192);
        assert_eq!(home.stayed.get(Reason::AlreadyThere), 64);
        assert_eq!(pool.free_bytes(), 1 << 20);
        pattern::check(region.as_slice(), 5);
    }
}

#[test]
fn never_touched_memory_moves_as_zeros() {
    let _guard = watchdog();
    for (level, memory_type) in each_way() {
        for granule in GRANULES {
            let bytes = 4 * granule.bytes();
            let pool = Pool::memfd(&PoolOptions::new(bytes).frame(granule)).unwrap();
            let options = RegionOptions::new()
                .memory_type(memory_type)
                .level(LevelChoice::Exactly(level))
                .granule(granule);
            // What an earlier owner left in the frames must not show.
            let mut earlier = Region::allocate(&pool, bytes, &options).unwrap();
            earlier.as_mut_slice().fill(0xee);
            assert!(
                earlier
                    .migrate(0..bytes, Direction::ToDevice)
                    .unwrap()
                    .is_complete()
            );
            drop(earlier);
            assert_eq!(pool.free_bytes(), bytes as u64);
            let region = Region::allocate(&pool, bytes, &options).unwrap();
            assert!(
                region
                    .migrate(0..bytes, Direction::ToDevice)
                    .unwrap()
                    .is_complete()
            );
            assert!(region.as_slice().iter().all(|&byte| byte == 0));
        }
    }
}

#[test]
fn a_touch_brings_private_memory_home() {
    let _guard = watchdog();
    if !levels().contains(&Level::Full) {
        return;
    }
    for granule in GRANULES {
        let bytes = 8 * granule.bytes();
        let pool = Pool::memfd(&PoolOptions::new(bytes).frame(granule)).unwrap();
        let options = RegionOptions::new()
            .memory_type(MemoryType::Private)
            .granule(granule);
        let mut region = Region::allocate(&pool, bytes, &options).unwrap();
        pattern::write(region.as_mut_slice(), 3);
        assert!(
            region
                .migrate(0..bytes, Direction::ToDevice)
                .unwrap()
                .is_complete()
        );
        let third = 2 * granule.bytes();
        assert_eq!(region.as_slice()[third], pattern::byte(third, 3));
        let there = region.residency(0..bytes).unwrap();
        let expected: Vec<_> = (0..8)
            .map(|index| {
                if index == 2 {
                    Tier::System
                } else {
                    Tier::Device
                }
            })
            .collect();
        assert_eq!(there.tiers(), expected);
        assert_eq!(region.stats().nr_touched_home, 1);
        assert_eq!(pool.free_bytes(), granule.bytes() as u64);
        pattern::check(region.as_slice(), 3);
        // A touch goes on as soon as its bytes are there; the query waits until all is done.
        let home = region.residency(0..bytes).unwrap();
        assert_eq!(home.bytes_on(Tier::System), bytes);
        assert_eq!(region.stats().nr_touched_home, 8);
        assert_eq!(pool.free_bytes(), bytes as u64);
    }
}

#[test]
fn generic_memory_is_on_the_device_and_stays() {
    let _guard = watchdog();
    let pool = Pool::memfd(&PoolOptions::new(1 << 20)).unwrap();
    let options = RegionOptions::new().memory_type(MemoryType::Generic);
    let mut region = Region::allocate(&pool, 512 << 10, &options).unwrap();
    assert_eq!(pool.free_bytes(), 512 << 10);
    assert!(region.as_slice().iter().all(|&byte| byte == 0));
    pattern::write(region.as_mut_slice(), 9);
    let home = region.migrate(0..512 << 10, Direction::ToSystem).unwrap();
    assert_eq!(home.stayed.get(Reason::Special), 128);
    let out = region.migrate(0..512 << 10, Direction::ToDevice).unwrap();
    assert_eq!(out.stayed.get(Reason::AlreadyThere), 128);
    pattern::check(region.as_slice(), 9);
    let error = Region::allocate(&pool, 1 << 20, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoFrames);
    assert_eq!(
        error.to_string(),
        "the pool has 128 free frames, 256 needed"
    );
    assert_eq!(pool.free_bytes(), 512 << 10);
    drop(region);
    assert_eq!(pool.free_bytes(), 1 << 20);
    // A new owner sees zeros.
    let region = Region::allocate(&pool, 1 << 20, &options).unwrap();
    assert!(region.as_slice().iter().all(|&byte| byte == 0));
}

#[test]
fn a_full_pool_leaves_the_rest_at_home() {
    let _guard = watchdog();
    for level in levels() {
        let pool = Pool::memfd(&PoolOptions::new(256 << 10)).unwrap();
        let options = RegionOptions::new()
            .level(LevelChoice::Exactly(level))
            .stop_bytes(192 << 10);
        let mut first = Region::allocate(&pool, 512 << 10, &options).unwrap();
        let mut second = Region::allocate(&pool, 512 << 10, &options).unwrap();
        pattern::write(first.as_mut_slice(), 1);
        pattern::write(second.as_mut_slice(), 2);
        let out = first.migrate(0..512 << 10, Direction::ToDevice).unwrap();
        assert_eq!((out.moved, out.stayed.get(Reason::NoFrame)), (64, 64));
        let out = second.migrate(0..512 << 10, Direction::ToDevice).unwrap();
        assert_eq!((out.moved, out.stayed.get(Reason::NoFrame)), (0, 128));
        first.migrate(0..64 << 10, Direction::ToSystem).unwrap();
        let out = second.migrate(0..512 << 10, Direction::ToDevice).unwrap();
        assert_eq!((out.moved, out.stayed.get(Reason::NoFrame)), (16, 112));
        pattern::check(first.as_slice(), 1);
        pattern::check(second.as_slice(), 2);
        drop(second);
        assert_eq!(pool.free_bytes(), 64 << 10);
    }
}

#[test]
fn pinned_granules_stay() {
    let _guard = watchdog();
    for (level, memory_type) in each_way() {
        let pool = Pool::memfd(&PoolOptions::new(1 << 20)).unwrap();
        let options = RegionOptions::new()
            .memory_type(memory_type)
            .level(LevelChoice::Exactly(level))
            .stop_bytes(256 << 10);
        let region = Region::allocate(&pool, 512 << 10, &options).unwrap();
        region.migrate(0..256 << 10, Direction::ToDevice).unwrap();
        // The second granule is on the device, the last one at home.
        let first = region.pin((64 << 10) + 5..(64 << 10) + 6).unwrap();
        let last = region.pin((448 << 10)..(512 << 10)).unwrap();
        let out = region.migrate(0..512 << 10, Direction::ToDevice).unwrap();
        let is_private = memory_type == MemoryType::Private;
        assert_eq!(out.stayed.get(Reason::Pinned), 32);
        assert_eq!(out.moved, 48);
        assert_eq!(out.stayed.get(Reason::AlreadyThere), 48);
        let home = region.migrate(0..512 << 10, Direction::ToSystem).unwrap();
        assert_eq!(home.stayed.get(Reason::Pinned), 32);
        assert_eq!(home.moved, 96);
        let tiers = region.residency(0..512 << 10).unwrap();
        let kept = if is_private {
            Tier::System
        } else {
            Tier::Device
        };
        assert_eq!(tiers.tiers()[1], kept);
        drop((first, last));
        let home = region.migrate(0..512 << 10, Direction::ToSystem).unwrap();
        assert_eq!(home.stayed.get(Reason::Pinned), 0);
        assert_eq!(pool.free_bytes(), 1 << 20);
    }
}

#[test]
fn bad_requests_are_refused_with_the_value_and_the_limit() {
    let _guard = watchdog();
    let pool = Pool::memfd(&PoolOptions::new(1 << 20).frame(Granule::MEDIUM)).unwrap();
    let refused = |bytes, options: &RegionOptions| {
        let error = Region::allocate(&pool, bytes, options).unwrap_err();
        (error.kind(), error.to_string())
    };
    let options = RegionOptions::new();
    assert_eq!(refused(0, &options).0, ErrorKind::BadSize);
    assert_eq!(refused(usize::MAX, &options).0, ErrorKind::BadSize);
    let small = options.granule(Granule::SMALLEST);
    assert_eq!(
        refused(4096, &small),
        (
            ErrorKind::BadGranule,
            "granule of 4096 bytes: must be a multiple of the pool's frames of 65536 bytes"
                .to_owned()
        )
    );
    let region = Region::allocate(&pool, 100_000, &options).unwrap();
    // A range is of whole granules, also one that is smaller than a granule.
    assert_eq!(region.len(), 128 << 10);
    for range in [0..4096, 1..65536, 65536..65537] {
        let error = region.migrate(range, Direction::ToDevice).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadRange);
    }
    let error = region
        .migrate(0..192 << 10, Direction::ToDevice)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "range 0x0..0x30000 is not within the region's 0x20000 bytes"
    );
    assert_eq!(
        region.pin(0..129 << 10).unwrap_err().kind(),
        ErrorKind::BadRange
    );
    assert_eq!(region.migrate(0..0, Direction::ToDevice).unwrap().total, 0);
    assert_eq!(region.stats().nr_stops, 0);
}

#[test]
fn what_a_level_cannot_give_is_refused_with_the_reason() {
    let _guard = watchdog();
    let pool = Pool::memfd(&PoolOptions::new(1 << 20)).unwrap();
    let survey = cohmem_engine::survey();
    for level in Level::ALL {
        for memory_type in [
            MemoryType::Coherent,
            MemoryType::Private,
            MemoryType::Generic,
        ] {
            let options = RegionOptions::new()
                .memory_type(memory_type)
                .level(LevelChoice::Exactly(level));
            let result = Region::allocate(&pool, 64 << 10, &options);
            if memory_type == MemoryType::Private && level != Level::Full {
                let error = result.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NotAtThisLevel);
                let expected = format!("private memory cannot be had at {level}: ");
                assert!(error.to_string().starts_with(&expected), "{error}");
            } else if let Err(obstacle) = survey.check(level) {
                let error = result.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::LevelRefused);
                assert_eq!(error.obstacle(), Some(&obstacle));
            } else {
                assert_eq!(result.unwrap().level(), level);
            }
        }
    }
    let best = Region::allocate(&pool, 64 << 10, &RegionOptions::new()).unwrap();
    assert_eq!(best.level(), survey.best());
    assert_eq!(pool.free_bytes(), 1 << 20);
}
