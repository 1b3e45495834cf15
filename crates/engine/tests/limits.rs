//! What happens at the limits of the process and of the machine, and to children.
//!
//! Each of these changes the whole process, so they run one after the other, as one test.

mod support;

use std::{fs, sync::atomic::Ordering, thread};

use cohmem_engine::{
    Direction, ErrorKind, Granule, Level, LevelChoice, MemoryType, Obstacle, Pool, PoolOptions,
    Reason, Region, RegionOptions, survey,
};
use support::{each_way, pattern, process, raw, watchdog};

const PAGE: usize = 4096;

#[test]
fn limits_and_children() {
    let _guard = watchdog();
    neighbours_are_one_mapping_again();
    no_more_file_descriptors();
    memory_that_is_locked_when_mapped();
    userfaultfd_that_a_filter_refuses();
    children_have_no_region();
    children_that_start_while_granules_move();
    no_more_mappings();
}

fn region(level: Level, memory_type: MemoryType, nr_pages: usize) -> (Pool, Region) {
    let bytes = nr_pages * PAGE;
    let pool = Pool::memfd(&PoolOptions::new(bytes)).unwrap();
    let options = RegionOptions::new()
        .memory_type(memory_type)
        .level(LevelChoice::Exactly(level))
        .granule(Granule::SMALLEST);
    let mut region = Region::allocate(&pool, bytes, &options).unwrap();
    pattern::write(region.as_mut_slice(), 1);
    (pool, region)
}

fn page(index: usize) -> std::ops::Range<usize> {
    index * PAGE..(index + 1) * PAGE
}

/// Mappings of this process that lie in the region.
fn nr_mappings(region: &Region) -> usize {
    let start = region.as_ptr().addr().get();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines()
        .filter(|line| {
            let first = line.split('-').next().unwrap();
            let address = usize::from_str_radix(first, 16).unwrap();
            (start..start + region.len()).contains(&address)
        })
        .count()
}

/// Pages that were exchanged one by one, in any order, do not leave a mapping each.
fn neighbours_are_one_mapping_again() {
    for (level, memory_type) in each_way() {
        let (_pool, region) = region(level, memory_type, 64);
        for to in [Direction::ToDevice, Direction::ToSystem] {
            for index in (0..64).step_by(2).chain((1..64).step_by(2)) {
                assert_eq!(region.migrate(page(index), to).unwrap().moved, 1);
            }
            if to == Direction::ToSystem {
                assert_eq!(nr_mappings(&region), 1, "{level}, {memory_type}");
            }
        }
        assert_eq!(nr_mappings(&region), 1);
        pattern::check(region.as_slice(), 1);
    }
}

fn no_more_file_descriptors() {
    let pool = Pool::memfd(&PoolOptions::new(1 << 20)).unwrap();
    let before = survey();
    let limit = process::limit_files();
    let options = PoolOptions::new(1 << 20);
    let pool_error = Pool::memfd(&options).unwrap_err();
    let level_error = |level| {
        let options = RegionOptions::new().level(LevelChoice::Exactly(level));
        Region::allocate(&pool, 1 << 20, &options).unwrap_err()
    };
    let errors = [Level::Full, Level::UserMode].map(|level| (level, level_error(level)));
    drop(limit);
    assert_eq!(pool_error.kind(), ErrorKind::System);
    assert_eq!(pool_error.raw_os_error(), Some(process::EMFILE));
    for (level, error) in errors {
        assert_eq!(error.kind(), ErrorKind::LevelRefused);
        if before.check(level).is_ok() {
            let errno = process::EMFILE;
            assert_eq!(
                error.obstacle(),
                Some(&Obstacle::Exhausted { errno }),
                "{level}"
            );
        }
    }
    // Nothing is left of the tries.
    assert_eq!(survey(), before);
    assert_eq!(pool.free_bytes(), 1 << 20);
}

fn memory_that_is_locked_when_mapped() {
    let pool = Pool::memfd(&PoolOptions::new(1 << 20)).unwrap();
    let Some(locking) = process::lock_future_memory() else {
        eprintln!("NOT RUN: mlockall is refused");
        return;
    };
    let options = RegionOptions::new();
    let error = Region::allocate(&pool, 1 << 20, &options).unwrap_err();
    drop(locking);
    assert_eq!(error.kind(), ErrorKind::MemoryLocked, "{error}");
    Region::allocate(&pool, 1 << 20, &options).unwrap();
}

fn userfaultfd_that_a_filter_refuses() {
    // A filter holds for a thread and what it starts.
    let tried = thread::spawn(|| {
        if !process::refuse_userfaultfd() {
            eprintln!("NOT RUN: seccomp is refused");
            return;
        }
        let survey = survey();
        assert_eq!(survey.best(), Level::Signal);
        let errno = process::ENOSYS;
        assert_eq!(survey.user_mode, Err(Obstacle::NoUserfaultfd { errno }));
        assert!(survey.user_mode.unwrap_err().advice().contains("seccomp"));
        let pool = Pool::memfd(&PoolOptions::new(1 << 20)).unwrap();
        let mut region = Region::allocate(&pool, 1 << 20, &RegionOptions::new()).unwrap();
        assert_eq!(region.level(), Level::Signal);
        pattern::write(region.as_mut_slice(), 8);
        for to in [Direction::ToDevice, Direction::ToSystem] {
            assert!(region.migrate(0..1 << 20, to).unwrap().is_complete());
            pattern::check(region.as_slice(), 8);
        }
        let private = RegionOptions::new().memory_type(MemoryType::Private);
        let error = Region::allocate(&pool, 1 << 20, &private).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LevelRefused);
    });
    tried.join().unwrap();
}

/// Each kind of page is missing in a child: it cannot see or change what is the parent's.
fn children_have_no_region() {
    for (level, memory_type) in each_way() {
        let (_pool, region) = region(level, memory_type, 16);
        region.migrate(0..8 * PAGE, Direction::ToDevice).unwrap();
        region.migrate(page(3), Direction::ToSystem).unwrap();
        assert_eq!(
            process::nr_pages_in_child(&region),
            0,
            "{level}, {memory_type}"
        );
        pattern::check(region.as_slice(), 1);
    }
}

fn children_that_start_while_granules_move() {
    for (level, memory_type) in each_way() {
        let (_pool, region) = region(level, memory_type, 16);
        let is_over = std::sync::atomic::AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    for to in [Direction::ToDevice, Direction::ToSystem] {
                        region.migrate(0..region.len(), to).unwrap();
                    }
                }
            });
            let mut nr_pages = 0;
            for _ in 0..100 {
                nr_pages += process::nr_pages_in_child(&region);
            }
            is_over.store(true, Ordering::Relaxed);
            assert_eq!(nr_pages, 0, "{level}, {memory_type}");
        });
        pattern::check(region.as_slice(), 1);
    }
}

/// At the limit of mappings nothing more goes out, nothing is lost, and what is out comes home.
fn no_more_mappings() {
    for (level, memory_type) in each_way() {
        let (pool, out) = region(level, memory_type, 64);
        let (_pool, home) = region(level, memory_type, 64);
        for index in (0..64).step_by(2) {
            out.migrate(page(index), Direction::ToDevice).unwrap();
        }
        let Some(filler) = raw::Filler::to_the_limit() else {
            eprintln!("NOT RUN: the limit of mappings is too large to be reached in a test");
            return;
        };
        // It would cut a mapping into three.
        let stayed = home.migrate(page(5), Direction::ToDevice).unwrap();
        let came = out.migrate(0..out.len(), Direction::ToSystem).unwrap();
        drop(filler);
        assert_eq!(
            stayed.stayed.get(Reason::NoMemory),
            1,
            "{level}, {memory_type}"
        );
        assert_eq!(came.moved, 32, "{level}, {memory_type}: {came:?}");
        assert_eq!(pool.free_bytes(), pool.bytes());
        assert_eq!(home.migrate(page(5), Direction::ToDevice).unwrap().moved, 1);
        pattern::check(out.as_slice(), 1);
        pattern::check(home.as_slice(), 1);
    }
}
