//! Stands for the driver: uses each operation, so that the generic code is compiled in.
#![no_std]

use core::sync::atomic::AtomicU64;

use cohmem_frames::{FrameIndex, FramePool, FrameRun, FreeError, PoolError, Withdrawal};

/// The driver's pool.
pub type Pool = FramePool<&'static [AtomicU64]>;

/// Compiled for its machine code only, like all here.
#[inline(never)]
pub fn make(metadata: &'static [AtomicU64], nr_frames: u64) -> Result<Pool, PoolError> {
    Pool::new(metadata, nr_frames)
}

#[inline(never)]
#[unsafe(no_mangle)]
pub fn allocate_and_free(pool: &Pool, max: u64) -> Option<u64> {
    let run = pool.allocate_run(max)?;
    let freed = run.iter().filter(|frame| pool.free(*frame).is_ok());
    Some(freed.fold(0, |nr_freed: u64, _| nr_freed.saturating_add(1)))
}

#[inline(never)]
pub fn withdraw(pool: &Pool, frame: FrameIndex) -> Result<Withdrawal, FreeError> {
    pool.withdraw(frame)
}

#[inline(never)]
pub fn walk(pool: &Pool, from: FrameIndex, max: u64) -> Option<FrameRun> {
    pool.next_allocated_run(from, max)
}

#[inline(never)]
pub fn look(pool: &Pool, frame: FrameIndex) -> (bool, bool) {
    (pool.is_allocated(frame), pool.is_withdrawn(frame))
}

#[inline(never)]
pub fn count(pool: &Pool) -> [u64; 5] {
    [pool.nr_frames(), pool.nr_free(), pool.nr_allocated(), pool.nr_withdrawn(), pool.nr_held()]
}
