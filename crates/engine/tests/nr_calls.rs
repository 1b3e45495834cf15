//! How many system calls a migration takes: the price of a stop that no machine changes.

mod support;

use std::{
    env,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Command, Stdio},
};

use cohmem_engine::{
    Direction, Granule, Level, LevelChoice, MemoryType, Pool, PoolOptions, Region, RegionOptions,
};
use support::{each_way, tracer::Traced, watchdog};

const NR_GRANULES: usize = 4;
const MOST: usize = 9;
/// What the thread that reads the events does for each hole that is opened: wait and read.
const NR_CALLS_OF_LISTENER: usize = 2;
const WAY: &str = "COHMEM_TEST_WAY";

#[test]
fn a_migration_of_64_kib_takes_at_most_9_system_calls() {
    let _guard = watchdog();
    let ways = each_way();
    if let Ok(way) = env::var(WAY) {
        let (level, memory_type) = ways[way.parse::<usize>().unwrap()];
        return be_counted(level, memory_type);
    }
    for (way, (level, memory_type)) in ways.into_iter().enumerate() {
        let Some(counts) = counts_of(way) else {
            eprintln!(
                "NOT RUN: system calls are not counted: this process may not trace its child"
            );
            return;
        };
        // The least: a page that the kernel itself holds for a moment costs a repetition.
        let least = |first: usize| counts.iter().skip(first).step_by(2).min().copied().unwrap();
        let (out, mut home) = (least(0), least(1));
        if (level, memory_type) == (Level::Full, MemoryType::Coherent) {
            home += NR_CALLS_OF_LISTENER;
        }
        println!("system calls of 64 KiB, {memory_type} at {level}: {out} out, {home} home");
        assert!(
            (1..=MOST).contains(&out),
            "{level}, {memory_type}: {counts:?}"
        );
        assert!(
            (1..=MOST).contains(&home),
            "{level}, {memory_type}: {counts:?}"
        );
    }
}

/// The calls of each migration in a child, in turn out and home.
fn counts_of(way: usize) -> Option<Vec<usize>> {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg("a_migration_of_64_kib_takes_at_most_9_system_calls")
        .env(WAY, way.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Open to the end: the child says more.
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let thread = said
        .by_ref()
        .lines()
        .find_map(|line| line.unwrap().split_once("thread ")?.1.trim().parse().ok())
        .expect("the child tells its thread");
    let traced = Traced::seize(thread);
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    // A mark before and behind each migration of each granule, and nothing from one to the next.
    let counts = traced.map(|traced| traced.count(4 * NR_GRANULES));
    assert!(child.wait().unwrap().success());
    let counts = counts?;
    assert!(
        counts
            .iter()
            .skip(1)
            .step_by(2)
            .all(|&between| between == 0)
    );
    Some(counts.into_iter().step_by(2).collect())
}

/// Moves granules one by one, with marks, when it is told to.
fn be_counted(level: Level, memory_type: MemoryType) {
    let bytes = NR_GRANULES * Granule::MEDIUM.bytes();
    let pool = Pool::memfd(&PoolOptions::new(bytes).frame(Granule::MEDIUM)).unwrap();
    let options = RegionOptions::new()
        .memory_type(memory_type)
        .level(LevelChoice::Exactly(level));
    let mut region = Region::allocate(&pool, bytes, &options).unwrap();
    region.as_mut_slice().fill(1);
    // The first time gets the pool's memory.
    for to in [Direction::ToDevice, Direction::ToSystem] {
        assert!(region.migrate(0..bytes, to).unwrap().is_complete());
    }
    println!("\nthread {}", rustix::thread::gettid().as_raw_nonzero());
    std::io::stdin().read_line(&mut String::new()).unwrap();
    for start in (0..bytes).step_by(Granule::MEDIUM.bytes()) {
        for to in [Direction::ToDevice, Direction::ToSystem] {
            mark();
            let migrated = region.migrate(start..start + Granule::MEDIUM.bytes(), to);
            mark();
            assert_eq!(migrated.unwrap().moved, 16);
        }
    }
}

fn mark() {
    assert!(rustix::process::getppid().is_some());
}
