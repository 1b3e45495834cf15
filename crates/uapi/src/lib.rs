//! The ABI of the cohmem driver, as Rust types.
//!
//! `include/uapi/linux/cohmem.h` is the source of truth and documents every field, unit and error;
//! `tests/header.rs` compiles that header and compares each constant, size and offset with this
//! crate. The kernel module and the library both use it, so it is `no_std` and depends on nothing.
//!
//! - [`args`]: the argument structures of the commands
//! - [`ioctl`]: the command numbers, computed from those structures
//! - [`Reason`], [`Tier`], [`PageEntry`]: what is told of a page
//! - [`Event`], [`Cause`]: what a device's history tells
#![no_std]
#![forbid(unsafe_code)]

pub mod args;
mod history;
pub mod ioctl;
mod page;
mod reason;

pub use history::{Cause, Event};
pub use page::{PageEntry, Tier};
pub use reason::{Reason, ReasonCounts};

/// Version of this ABI, told by [`ioctl::VERSION`].
pub const ABI_VERSION: u32 = 1;
/// Bytes of a frame, and of each page that the commands count.
pub const FRAME_BYTES: u64 = 4096;
/// A device starts and ends at a multiple of this many bytes.
pub const RANGE_ALIGN: u64 = 0x20_0000;
/// Devices that can be attached at a time.
pub const MAX_DEVICES: u32 = 16;
/// Entries that the list of stuck frames holds at most.
pub const MAX_STUCK: u32 = 4096;
/// Users that can have an account with a device at a time; also jobs, and also run instances.
pub const MAX_ACCOUNTS: u32 = 256;
/// Records that a history's reader gets at a time.
pub const MAX_MOVES: u32 = 4096;
/// Entries that the list of quota objects holds at most: jobs and run instances.
pub const MAX_OBJECTS: u32 = 512;
/// Jobs, one in the other, that a frame can be charged to.
pub const MAX_NESTED_JOBS: u32 = 4;
/// Run instances that a user can have with a device at a time.
pub const MAX_USER_RUNS: u32 = 16;
/// Entries of every array of counts by reason.
pub const NR_REASONS: usize = 32;

/// Attach: the struct pages live on the device itself.
pub const ATTACH_ALTMAP: u32 = 1 << 0;
/// Migrate: fill holes of the range with zeroed device frames.
pub const MIGRATE_FILL: u32 = 1 << 0;
/// Migrate: move pages that other processes map as well; needs `CAP_SYS_NICE`.
pub const MIGRATE_SHARED: u32 = 1 << 1;
/// Migrate: move pages of executable mappings, too.
pub const MIGRATE_EXEC: u32 = 1 << 2;
/// Query: tell for each page why it would not move to the device.
pub const QUERY_REASONS: u32 = 1 << 0;
/// Quota: the limit of every user without one of their own.
pub const QUOTA_DEFAULT: u32 = 1 << 0;
/// Quota: no limit.
pub const QUOTA_UNLIMITED: u32 = 1 << 1;
/// Quota: the user has no limit of their own, the default applies; a job is none any more.
pub const QUOTA_INHERITED: u32 = 1 << 2;
/// History: the records of all processes; needs `CAP_SYS_ADMIN`.
pub const HISTORY_ALL: u32 = 1 << 0;
/// History: the pages that stayed, not those that moved.
pub const HISTORY_STAYED: u32 = 1 << 1;
/// A record's frame is not told, or there is none.
pub const NO_FRAME: u64 = u64::MAX;
/// A record's pages came from, or went to, system memory; or they stayed.
pub const NO_DEVICE: u8 = u8::MAX;
/// `proc_fd` value for the calling process.
pub const PROC_SELF: i32 = -1;

/// What a quota object is (`enum cohmem_object_kind`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ObjectKind {
    /// A control group with those below it.
    Job = 1,
    /// What comes through one open file.
    Run = 2,
}

impl ObjectKind {
    /// The kind with this ABI value.
    #[must_use]
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::Job),
            2 => Some(Self::Run),
            _ => None,
        }
    }
}

/// State of a device (`enum cohmem_state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// Hands out frames.
    Online = 1,
    /// Is being evicted for detach.
    Draining = 2,
    /// Detached, but chunks that held mapped poison stay claimed.
    Kept = 3,
}

impl State {
    /// The state with this ABI value.
    #[must_use]
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::Online),
            2 => Some(Self::Draining),
            3 => Some(Self::Kept),
            _ => None,
        }
    }
}

/// Who has a part of the soft-reserved memory (`enum cohmem_holder`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Holder {
    /// Nobody.
    Nobody = 1,
    /// A device of this driver, attached or kept.
    Device = 2,
    /// The kernel, as System RAM.
    SystemRam = 3,
    /// Another driver.
    Other = 4,
}

impl Holder {
    /// The holder with this ABI value.
    #[must_use]
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::Nobody),
            2 => Some(Self::Device),
            3 => Some(Self::SystemRam),
            4 => Some(Self::Other),
            _ => None,
        }
    }
}

/// Where pages go (`enum cohmem_direction`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Direction {
    /// To the device, from system memory or another device.
    ToDevice = 1,
    /// Home, from the device.
    ToSystem = 2,
}

impl Direction {
    /// The direction with this ABI value.
    #[must_use]
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::ToDevice),
            2 => Some(Self::ToSystem),
            _ => None,
        }
    }
}
