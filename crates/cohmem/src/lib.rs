//! Device-owned coherent memory: attach it, and move the memory of live programs there and back.
//!
//! The library speaks to the cohmem driver. A **device** is an attached physical range with its
//! **frames**; a **page** is virtual; to **migrate** is to move a page's content and mapping, to
//! **evict** is to migrate home, and to **detach** is to evict all and give the range back.
//!
//! - [`discover`]: the attached devices, from sysfs
//! - [`Control`]: attaches and detaches (root)
//! - [`Device`]: migrates, queries, evicts
//! - [`Region`]: memory that is born on a device
//! - [`Process`]: another process, with the authority of an open `/proc/PID/pagemap`
//! - [`quota`]: limits on what a user may hold of a device, and who holds what
//! - [`dax`]: finds soft-reserved memory and takes it over from the kernel's dax drivers
//!
//! What a migration did is a value ([`Migrated`]), also when every page stayed; an [`Error`] says
//! that nothing was done, or where it ended.
//!
//! # Examples
//!
//! ```no_run
//! use cohmem::{ByteCount, Device, Placement, Region};
//!
//! # fn main() -> cohmem::Result<()> {
//! let device = Device::open(0)?;
//! let mut region = Region::allocate(&device, ByteCount::new(64 << 20), Placement::Strict)?;
//! region.as_mut_slice().fill(7);
//! # Ok(())
//! # }
//! ```
#![deny(unsafe_code)]

mod background;
mod cause;
mod backend {
    //! Where device memory comes from.
    pub(crate) mod driver;
}
mod command;
mod control;
pub mod dax;
mod device;
mod error;
mod holders;
mod migrate;
mod process;
mod query;
pub mod quota;
mod region;
mod summary;
#[expect(
    unsafe_code,
    reason = "the one place of it: system calls that rustix does not offer"
)]
mod sys;
mod units;

pub use background::Migration;
pub use cohmem_uapi::{
    Direction, FRAME_BYTES, PageEntry, RANGE_ALIGN, Reason, ReasonCounts, State, Tier,
};
pub use control::{AttachOptions, Attached, Control, DetachOutcome, StuckFrame};
pub use device::{Device, DeviceStatus};
pub use error::{Error, ErrorKind, Result};
pub use holders::{Holder, Holders, holders};
pub use migrate::{MigrateOptions, Migrated, Target};
pub use process::{Process, Vma, VmaKind};
pub use query::PageMap;
pub use region::{Placement, Region};
pub use summary::{DeviceSummary, discover, is_driver_loaded};
pub use units::{AddrRange, ByteCount, PhysRange, UserAddr};
