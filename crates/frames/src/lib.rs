//! The frame allocator that the cohmem driver and the user-space engine share.
//!
//! A device owns **frames** (physical pages), numbered from 0. A [`FramePool`] knows of each frame
//! whether somebody holds it and whether it was withdrawn for good, hands out runs of consecutive
//! frames, and takes frames back one at a time.
//!
//! In the kernel a frame comes back whenever its last reference goes: in hard-irq context, with
//! interrupts off, on a CPU that may be in the middle of an allocation from this very pool. So there
//! is no lock of any sort here, no allocation, no panic and no unsafe code; the caller gives the
//! metadata memory. [`FramePool::free`] and [`FramePool::withdraw`] are a fixed number of atomic
//! operations; [`FramePool::allocate_run`] retries only when another CPU changed the same 32 frames,
//! and a bounded number of times.
//!
//! # Metadata
//!
//! Two bits a frame, and one more for each 32 frames: 16.25 MiB for the 64 Mi frames of 256 GiB.
//! Both bits of a frame live in the same 64-bit word, so each change of a frame's state is one atomic
//! operation, and there is no moment at which the two disagree:
//!
//! | held | withdrawn | the frame is |
//! |------|-----------|--------------|
//! | 0 | 0 | free |
//! | 1 | 0 | allocated: handed out, will be free again |
//! | 1 | 1 | withdrawn, but its owner has not given it back yet |
//! | 0 | 1 | withdrawn, gone for good |
//!
//! # Ordering
//!
//! What an owner wrote into a frame happens before what the next owner does with it: the release in
//! `free` pairs with the acquire of the exchange in `allocate_run`.
//!
//! # Examples
//!
//! ```
//! use core::sync::atomic::AtomicU64;
//! use cohmem_frames::{FramePool, words_needed};
//!
//! const NR_FRAMES: u64 = 1000;
//! let metadata = [const { AtomicU64::new(0) }; words_needed(NR_FRAMES)];
//! let pool = FramePool::new(&metadata[..], NR_FRAMES)?;
//!
//! let run = pool.allocate_run(512).ok_or("no frame left")?;
//! assert_eq!(run.len(), 512);
//! for frame in run.iter() {
//!     pool.free(frame)?;
//! }
//! assert_eq!(pool.nr_free(), NR_FRAMES);
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```

#![no_std]
#![forbid(unsafe_code)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::float_arithmetic,
    clippy::std_instead_of_core,
    clippy::alloc_instead_of_core
)]

#[cfg(test)]
extern crate std;

mod bitmap;
mod count;
mod error;
mod ids;
mod pool;
mod sync;

pub use bitmap::words_needed;
pub use error::{FreeError, PoolError};
pub use ids::{FrameIndex, FrameRun};
pub use pool::{FramePool, MAX_FRAMES, Withdrawal};
