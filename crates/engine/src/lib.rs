//! The semantics of device-coherent memory in user space: no module, no daemon, no privilege needed.
//!
//! A **pool** is a device's memory: a memfd that stands for a device ([`Pool::memfd`]), or a real
//! `/dev/daxX.Y` ([`Pool::dax`]). A **region** is a range of addresses whose **granules** lie in system
//! memory or in the pool. [`Region::migrate`] moves granules between the two while other threads read,
//! write and do atomics on them; addresses stay. An access costs nothing while nothing moves.
//!
//! What stops the other threads for the moment in which a granule changes place depends on what the
//! process may do; see [`Level`]. [`survey`] tells what this machine allows, and what to change.
//!
//! - [`Pool`], [`PoolOptions`]: where device memory comes from
//! - [`Region`], [`RegionOptions`], [`MemoryType`]: memory that moves
//! - [`Migrated`], [`Migration`], [`Background`]: what a migration did; one in the background
//! - [`Residency`]: where the granules are
//! - [`PinGuard`]: keeps granules in place while the kernel or a device does I/O on them
//! - [`Level`], [`LevelChoice`], [`survey`], [`Obstacle`]: mechanisms, and what is in the way of each
//! - [`Error`], [`ErrorKind`]: what was refused, with the value and the limit
//!
//! # Which system calls work on a region
//!
//! | | [`Level::Full`] | [`Level::UserMode`] and [`Level::Signal`] |
//! |---|---|---|
//! | the kernel reads the memory (`write`, `send`, futex wait) | works, waits | works |
//! | the kernel writes it (`read`, `recv`) | works, waits | `EFAULT` or a short count, if it hits a moving granule |
//! | the kernel writes it and cannot wait (`FUTEX_WAKE_OP`, `/proc/PID/mem`) | `EFAULT` or `EIO`, if it hits a moving granule | the same |
//! | the kernel or a device pins it (`O_DIRECT`, registered `io_uring` buffers, `process_vm_writev`, RDMA) | a pinned system page stays, with a reason; a pinned device page is not seen | not seen |
//!
//! Where it says "not seen" data is lost unless a [`PinGuard`] is held meanwhile. Under
//! [`MemoryType::Private`] pins are always seen.
//!
//! # What a region must not hold
//!
//! Thread stacks, process-shared mutexes, and whatever the engine itself uses (so it cannot back the
//! global allocator). `mlock`, `mprotect`, `mbind` and `madvise` on parts of it do not last over a
//! migration. After `fork` the child has no region: its addresses are unmapped there.
//!
//! # Examples
//!
//! ```
//! use cohmem_engine::{Direction, Pool, PoolOptions, Region, RegionOptions};
//!
//! # fn main() -> cohmem_engine::Result<()> {
//! let pool = Pool::memfd(&PoolOptions::new(1 << 20))?;
//! let mut region = Region::allocate(&pool, 256 << 10, &RegionOptions::new())?;
//! region.as_mut_slice().fill(7);
//! let migrated = region.migrate(0..region.len(), Direction::ToDevice)?;
//! assert_eq!(migrated.moved, 64);
//! assert!(region.as_slice().iter().all(|&byte| byte == 7));
//! # Ok(())
//! # }
//! ```
#![deny(unsafe_code)]

mod background;
mod error;
mod granule;
mod host;
mod inner;
mod kernel;
mod level;
mod listener;
mod migrate;
mod options;
mod pin;
mod pool;
mod protocol;
mod region;
mod residency;
mod setup;
mod slots;
mod stats;
mod sync;
#[expect(
    unsafe_code,
    reason = "the one place of it: mappings, userfaultfd, signal handlers, copies"
)]
mod sys;
mod touch;
mod word;

#[cfg(all(test, loom))]
mod interleavings;

pub use background::{Background, Migration};
pub use cohmem_uapi::{Direction, FRAME_BYTES, Reason, ReasonCounts, Tier};
pub use error::{Error, ErrorKind, Result};
pub use granule::Granule;
pub use level::{Level, LevelChoice, Obstacle, Survey, survey};
pub use migrate::Migrated;
pub use options::{MemoryType, RegionOptions};
pub use pin::PinGuard;
pub use pool::{Pool, PoolKind, PoolOptions};
pub use region::Region;
pub use residency::Residency;
pub use stats::Stats;
