//! System calls that touch a region in motion: what works and what fails at each level.

mod support;

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{fs::OpenOptionsExt as _, net::UnixStream},
    },
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use cohmem_engine::{
    Direction, Granule, Level, LevelChoice, MemoryType, Pool, PoolOptions, Reason, Region,
    RegionOptions,
};
use support::{each_way, levels, raw, watchdog};

const BYTES: usize = 256 << 10;
/// System calls of each kind that are made while the region moves.
const NR_CALLS: u64 = 2000;

fn region(level: Level, memory_type: MemoryType) -> (Pool, Region) {
    let pool = Pool::memfd(&PoolOptions::new(BYTES)).unwrap();
    let options = RegionOptions::new()
        .memory_type(memory_type)
        .level(LevelChoice::Exactly(level))
        .granule(Granule::MEDIUM);
    let region = Region::allocate(&pool, BYTES, &options).unwrap();
    (pool, region)
}

/// Moves the region to and fro while `call_fn` runs.
fn in_motion(region: &Region, call_fn: impl FnOnce()) {
    let is_over = AtomicBool::new(false);
    let nr_rounds = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                for to in [Direction::ToDevice, Direction::ToSystem] {
                    region.migrate(0..BYTES, to).unwrap();
                }
                nr_rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        call_fn();
        // The calls were made while it moved, however late the other thread was.
        let seen = nr_rounds.load(Ordering::Relaxed);
        while nr_rounds.load(Ordering::Relaxed) < seen + 2 {
            thread::yield_now();
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

/// Sends a granule's bytes again and again; another thread checks what arrives.
fn send_all(region: &Region, send_fn: impl Fn(BorrowedFd<'_>, usize) -> io::Result<usize>) {
    let (sender, mut receiver) = UnixStream::pair().unwrap();
    thread::scope(|scope| {
        let reading = scope.spawn(move || {
            let mut nr_bytes = 0_u64;
            let mut buffer = vec![0; 64 << 10];
            loop {
                let length = receiver.read(&mut buffer).unwrap();
                if length == 0 {
                    return nr_bytes;
                }
                assert!(buffer[..length].iter().all(|&byte| byte == 0x5a));
                nr_bytes += length as u64;
            }
        });
        let mut nr_sent = 0;
        for call in 0..NR_CALLS {
            let start = usize::try_from(call).unwrap() * 4096 % (region.len() - 8192);
            nr_sent += send_fn(sender.as_fd(), start).unwrap() as u64;
        }
        drop(sender);
        assert_eq!(reading.join().unwrap(), nr_sent);
        assert_eq!(nr_sent, NR_CALLS * 8192);
    });
}

#[test]
fn the_kernel_reads_memory_in_motion_at_every_level() {
    let _guard = watchdog();
    for (level, memory_type) in each_way() {
        let (_pool, mut region) = region(level, memory_type);
        region.as_mut_slice().fill(0x5a);
        in_motion(&region, || {
            send_all(&region, |socket, start| {
                rustix::io::write(socket, &region.as_slice()[start..start + 8192])
                    .map_err(io::Error::from)
            });
        });
    }
}

/// Reads from a file into the region, up to the first error; how many calls worked.
fn read_into(region: &Region, file: &File, start: usize) -> io::Result<u64> {
    for call in 0..NR_CALLS {
        let offset = (call % 16) * 4096;
        let length = raw::pread(file, region, start, 64 << 10, offset)?;
        if length < 64 << 10 {
            return Ok(call);
        }
    }
    Ok(NR_CALLS)
}

/// A file of 128 KiB, whose byte i is that of page `i / 4096`.
fn numbered_file() -> File {
    let mut file = tempfile::tempfile().unwrap();
    for page in 0..32_u8 {
        file.write_all(&[page; 4096]).unwrap();
    }
    file
}

#[test]
fn the_kernel_writes_memory_in_motion_at_level_1() {
    let _guard = watchdog();
    if !levels().contains(&Level::Full) {
        return;
    }
    for memory_type in [MemoryType::Coherent, MemoryType::Private] {
        let (_pool, region) = region(Level::Full, memory_type);
        let file = numbered_file();
        in_motion(&region, || {
            assert_eq!(read_into(&region, &file, 64 << 10).unwrap(), NR_CALLS);
        });
        // The last call began at page `(NR_CALLS - 1) % 16` of the file.
        let first = u8::try_from((NR_CALLS - 1) % 16).unwrap();
        for page in 0..16_u8 {
            let start = (64 << 10) + usize::from(page) * 4096;
            let found = &region.as_slice()[start..start + 4096];
            assert!(found.iter().all(|&byte| byte == first + page));
        }
    }
}

#[test]
fn at_levels_2_and_3_such_a_call_fails_or_is_short_and_says_so() {
    let _guard = watchdog();
    for level in [Level::UserMode, Level::Signal] {
        if !levels().contains(&level) {
            continue;
        }
        let (_pool, region) = region(level, MemoryType::Coherent);
        let file = numbered_file();
        let mut nr_refused = 0;
        in_motion(&region, || {
            // It hits a moving granule sooner or later; the watchdog limits how late.
            while nr_refused < 3 {
                match read_into(&region, &file, 0) {
                    Ok(NR_CALLS) => {}
                    Ok(_) => nr_refused += 1,
                    Err(error) => {
                        assert_eq!(error.raw_os_error(), Some(14), "EFAULT: {error}");
                        nr_refused += 1;
                    }
                }
            }
        });
        // At rest it works.
        assert_eq!(read_into(&region, &file, 0).unwrap(), NR_CALLS);
    }
}

/// A futex is compared by the kernel, which only reads: mutexes in a region work at every level.
#[test]
fn a_mutex_in_a_region_works_while_it_moves() {
    let _guard = watchdog();
    for level in levels() {
        let (_pool, region) = region(level, MemoryType::Coherent);
        let lock = raw::FutexLock::in_region(&region, 4096);
        let counter = raw::word(&region, 8192);
        in_motion(&region, || {
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        for _ in 0..NR_CALLS {
                            lock.lock();
                            let value = counter.load(Ordering::Relaxed);
                            if value.is_multiple_of(8) {
                                thread::yield_now();
                            }
                            counter.store(value + 1, Ordering::Relaxed);
                            lock.unlock();
                        }
                    });
                }
            });
        });
        assert_eq!(counter.load(Ordering::Relaxed), 4 * NR_CALLS);
    }
}

fn direct_file(directory: &std::path::Path) -> Option<File> {
    let path = directory.join("data");
    let mut content = Vec::new();
    for page in 0..32_u8 {
        content.extend([page; 4096]);
    }
    std::fs::write(&path, content).unwrap();
    match File::options()
        .read(true)
        .custom_flags(raw::O_DIRECT)
        .open(&path)
    {
        Ok(file) => Some(file),
        Err(error) => {
            eprintln!("NOT RUN: O_DIRECT: {error}");
            None
        }
    }
}

/// I/O that pins memory needs a guard; with it nothing is lost.
#[test]
fn direct_reads_under_a_guard_lose_nothing() {
    let _guard = watchdog();
    // Where the tree is built, which is seldom in memory; or, for a user who may not write there,
    // anywhere.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    let Some(file) = direct_file(directory.path()) else {
        return;
    };
    for (level, memory_type) in each_way() {
        let (_pool, region) = region(level, memory_type);
        in_motion(&region, || {
            for call in 0..500_u64 {
                let first = call % 16;
                let pinned = region.pin(64 << 10..128 << 10).unwrap();
                let length = raw::pread(&file, &region, 64 << 10, 64 << 10, first * 4096).unwrap();
                assert_eq!(length, 64 << 10);
                drop(pinned);
                for page in 0..16_u64 {
                    let start = (64 << 10) + usize::try_from(page).unwrap() * 4096;
                    let found = raw::word(&region, start).load(Ordering::Relaxed);
                    let expected = u64::from_ne_bytes([u8::try_from(first + page).unwrap(); 8]);
                    assert_eq!(found, expected, "lost at {level}, {memory_type}");
                }
            }
        });
    }
}

/// A pinned system page does not move at level 1, and the reason says so.
#[test]
fn level_1_sees_pinned_system_pages() {
    let _guard = watchdog();
    if !levels().contains(&Level::Full) {
        return;
    }
    for memory_type in [MemoryType::Coherent, MemoryType::Private] {
        let (pool, mut region) = region(Level::Full, memory_type);
        region.as_mut_slice().fill(7);
        let Some(ring) = raw::RegisteredBuffer::new(&region, 64 << 10, 64 << 10) else {
            eprintln!("NOT RUN: io_uring is refused");
            return;
        };
        let out = region.migrate(0..BYTES, Direction::ToDevice).unwrap();
        assert_eq!(out.stayed.get(Reason::Pinned), 16, "{out:?}");
        assert_eq!(out.moved, 48);
        assert_eq!(pool.free_bytes(), 64 << 10);
        assert!(
            region.as_slice()[64 << 10..128 << 10]
                .iter()
                .all(|&byte| byte == 7)
        );
        drop(ring);
        raw::until_unpinned(|| {
            let out = region.migrate(0..BYTES, Direction::ToDevice).unwrap();
            out.is_complete()
        });
        assert!(region.as_slice().iter().all(|&byte| byte == 7));
    }
}
