//! Device-owned coherent memory: attach it, and move the memory of live programs there and back.
//!
//! A **device** has memory in **frames**; a **page** is virtual; to **migrate** is to move a page's
//! content and mapping, to **evict** is to migrate home, and to **detach** is to evict all and give the
//! range back.
//!
//! For the program's own memory, with every backend (the driver, the engine in user space, a NUMA
//! node):
//!
//! - [`Pool`]: a device's memory; [`Backend`] names it or has it picked, [`Pool::selection`] says what
//!   was, and [`Capabilities`] what it gives
//! - [`Region`]: memory that is born at home or on the device; [`Mover`]: moves it while it is used;
//!   [`Migration`]: in the background
//! - [`Region::pin`]: keeps pages in place for I/O that pins them; it tells when that is needed
//! - [`Heap`]: an allocator for `Vec`, `HashMap` and others
//!
//! With the driver alone, also for other processes:
//!
//! - [`discover`]: the attached devices, from sysfs
//! - [`Control`]: attaches and detaches (root)
//! - [`Device`]: migrates, queries, evicts
//! - [`Process`]: another process, with the authority of an open `/proc/PID/pagemap`
//! - [`history`]: what the driver remembers of moves, and of pages that stayed
//! - [`quota`]: limits on what a user may hold of a device, and who holds what
//! - [`objects`]: the same for jobs (control groups) and run instances
//! - [`dax`]: finds soft-reserved memory and takes it over from the kernel's dax drivers
//!
//! What a migration did is a value ([`Migrated`]), also when every page stayed; an [`Error`] says
//! that nothing was done, or where it ended.
//!
//! # Examples
//!
//! ```
//! use cohmem::{Backend, ByteCount, Direction, Pool, RegionOptions, Tier};
//!
//! # fn main() -> cohmem::Result<()> {
//! let pool = Pool::open(&Backend::Auto)?;
//! println!("{}", pool.selection());
//! let mut region = pool.allocate(ByteCount::new(1 << 20), &RegionOptions::default())?;
//! region.as_mut_slice().fill(7);
//! let moved = region.migrate(Direction::ToDevice)?;
//! assert_eq!(moved.moved, 256);
//! assert_eq!(region.query()?.count(Tier::Device), 256);
//! assert!(region.as_slice().iter().all(|&byte| byte == 7));
//! # Ok(())
//! # }
//! ```
#![deny(unsafe_code)]

mod backend;
mod background;
mod cause;
mod cgroup;
mod command;
mod control;
pub mod dax;
mod device;
mod error;
mod frame;
mod heap;
pub mod history;
mod holders;
mod migrate;
pub mod objects;
mod occupied;
mod pins;
mod pool;
mod process;
mod query;
pub mod quota;
mod region;
mod residency;
mod summary;
#[expect(
    unsafe_code,
    reason = "the one place of it: system calls that rustix does not offer"
)]
mod sys;
mod units;

pub use background::Migration;
pub use cgroup::{MemoryLimit, limits_at, memory_limits};
pub use cohmem_engine::{Level, LevelChoice, Obstacle, Survey, survey};
pub use cohmem_uapi::{
    Cause, Direction, Event, FRAME_BYTES, PageEntry, RANGE_ALIGN, Reason, ReasonCounts, State, Tier,
};
pub use control::{AttachOptions, Attached, Control, DetachOutcome, StuckFrame};
pub use device::{Device, DeviceStatus};
pub use error::{Error, ErrorKind, Result};
pub use frame::Frame;
pub use heap::Heap;
pub use holders::{Holder, Holders, holders};
pub use migrate::{MigrateOptions, Migrated, Target};
pub use pool::{
    Backend, BackendKind, Capabilities, EngineBackend, EngineSource, Fork, KernelAccess,
    MemoryType, PinNeed, Pool, PoolStatus, Selection,
};
pub use process::{Process, Vma, VmaKind, pids};
pub use query::PageMap;
pub use region::{Birth, Mover, Pin, Placement, Region, RegionOptions, RegionStats};
pub use residency::{Extent, Place};
pub use summary::{DeviceSummary, discover, discover_at, is_driver_loaded};
pub use units::{AddrRange, ByteCount, PhysRange, UserAddr};
