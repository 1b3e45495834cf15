//! What the tests of the engine share.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::{
    process as own_process,
    sync::{
        Arc, Once,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use cohmem_engine::{Level, MemoryType, survey};

pub(crate) mod course;
pub(crate) mod pattern;
pub(crate) mod process;
pub(crate) mod raw;
pub(crate) mod words;

/// After so long a test hangs.
const LIMIT: Duration = Duration::from_secs(110);

/// Lets the process end with a message unless it is dropped in time.
pub(crate) struct Watchdog(Arc<AtomicBool>);

/// Ends the process if the caller hangs.
#[must_use]
pub(crate) fn watchdog() -> Watchdog {
    let is_over = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&is_over);
    let name = thread::current().name().unwrap_or("a test").to_owned();
    // Longer by hand, never endless.
    let limit = LIMIT * u32::try_from(scale()).unwrap();
    let message = format!("\nWATCHDOG: {name} took more than {} s\n", limit.as_secs());
    thread::spawn(move || {
        let start = Instant::now();
        while !seen.load(Ordering::Relaxed) {
            if start.elapsed() > limit {
                // No lock of the standard library: a thread that hangs may hold it.
                let stderr = rustix::stdio::stderr();
                match rustix::io::write(stderr, message.as_bytes()) {
                    Ok(_) | Err(_) => own_process::abort(),
                }
            }
            thread::sleep(Duration::from_millis(50));
        }
    });
    Watchdog(is_over)
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How many times as long stress tests are to be.
pub(crate) fn scale() -> u64 {
    let scale = std::env::var("COHMEM_STRESS").ok();
    scale.map_or(1, |text| text.parse().expect("COHMEM_STRESS is a number"))
}

/// The levels that this process can have; those that it cannot are told once.
pub(crate) fn levels() -> Vec<Level> {
    static TELL: Once = Once::new();
    let survey = survey();
    TELL.call_once(|| {
        for level in Level::ALL {
            if let Err(obstacle) = survey.check(level) {
                eprintln!("NOT RUN: {level}: {obstacle}");
            }
        }
    });
    Level::ALL
        .into_iter()
        .filter(|&level| survey.check(level).is_ok())
        .collect()
}

/// Each pair of a level that can be had and a memory type whose granules move there.
pub(crate) fn each_way() -> Vec<(Level, MemoryType)> {
    let mut ways: Vec<_> = levels()
        .into_iter()
        .map(|level| (level, MemoryType::Coherent))
        .collect();
    if levels().contains(&Level::Full) {
        ways.push((Level::Full, MemoryType::Private));
    }
    ways
}
