//! Regions on real device memory, named by `COHMEM_DAX` (for example `/dev/dax0.0`).
//!
//! A pool takes all of the device, so these run one after the other, with `--test-threads 1`. The device
//! that `COHMEM_DAX_TO_UNBIND` names (`dax0.0`) is taken from its driver meanwhile, which is root's to do.

mod support;

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use cohmem_engine::{
    Direction, ErrorKind, Granule, Level, LevelChoice, MemoryType, Pool, PoolKind, Reason, Region,
    RegionOptions,
};
use support::{course::Course, each_way, pattern, process, watchdog};

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
            (Granule::SMALLEST, 32, 1500),
            (Granule::MEDIUM, 8, 1000),
            (Granule::HUGE, 3, 200),
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

const DRIVER: &str = "/sys/bus/dax/drivers/device_dax";
/// What a child says when it found at home what it had there.
const WHOLE: &str = "what is at home is whole";

/// In a child, which the signal ends.
#[test]
fn pages_of_an_unbound_device_fault_as_the_device_s_and_those_at_home_stay() {
    let _guard = watchdog();
    let Ok(name) = std::env::var("COHMEM_DAX_TO_UNBIND") else {
        eprintln!("NOT RUN: an unbound device: COHMEM_DAX_TO_UNBIND names no device");
        return;
    };
    if let Ok(number) = std::env::var("COHMEM_DAX_WAY") {
        let (level, memory_type) = each_way()[number.parse::<usize>().unwrap()];
        use_unbound_device(&name, level, memory_type);
    }
    for (number, (level, memory_type)) in each_way().into_iter().enumerate() {
        // What cannot come home is waited for.
        if memory_type == MemoryType::Private {
            continue;
        }
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--nocapture", "--test-threads", "1", "unbound"])
            .env("COHMEM_DAX_WAY", number.to_string())
            .output()
            .unwrap();
        fs::write(Path::new(DRIVER).join("bind"), &name).unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(text.contains(WHOLE), "{level}: {}\n{text}", output.status);
        assert_eq!(
            output.status.signal(),
            Some(process::SIGBUS),
            "{level}: {text}"
        );
    }
}

fn use_unbound_device(name: &str, level: Level, memory_type: MemoryType) -> ! {
    process::no_core_file();
    let pool = pool(&Path::new("/dev").join(name));
    let granule = pool.frame().max(Granule::MEDIUM);
    let options = RegionOptions::new()
        .level(LevelChoice::Exactly(level))
        .memory_type(memory_type)
        .granule(granule);
    let half = 2 * granule.bytes();
    let mut region = Region::allocate(&pool, 2 * half, &options).unwrap();
    pattern::write(&mut region.as_mut_slice()[half..], 3);
    let out = region.migrate(0..half, Direction::ToDevice).unwrap();
    assert!(out.is_complete(), "{out:?}");
    fs::write(Path::new(DRIVER).join("unbind"), name).unwrap();
    pattern::check(&region.as_slice()[half..], 3);
    // Nothing goes out any more.
    let out = region.migrate(half..2 * half, Direction::ToDevice).unwrap();
    assert_eq!(out.stayed.get(Reason::NoFrame), out.total, "{out:?}");
    pattern::check(&region.as_slice()[half..], 3);
    pattern::write(&mut region.as_mut_slice()[half..], 4);
    pattern::check(&region.as_slice()[half..], 4);
    println!("{WHOLE}");
    let byte = std::hint::black_box(region.as_slice()[0]);
    panic!("a page of an unbound device was read: {byte}");
}
