//! Argument structures of the commands; the header documents their fields.
//!
//! All fields have fixed widths and natural alignment, and no structure has padding
//! (`tests/header.rs` checks both against the C compiler).

use crate::NR_REASONS;

/// `struct cohmem_version`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Version {
    /// (out) [`crate::ABI_VERSION`] of the driver.
    pub abi: u32,
    /// (out) None defined yet.
    pub features: u32,
    /// Must be zero.
    pub reserved: [u64; 3],
}

/// `struct cohmem_attach`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Attach {
    /// (in) First physical address.
    pub start: u64,
    /// (in) Bytes.
    pub length: u64,
    /// (in) `ATTACH_*`.
    pub flags: u32,
    /// (out) Number of the new device.
    pub device: u32,
    /// (out) Frames that can be handed out.
    pub nr_frames: u64,
    /// Must be zero.
    pub reserved: [u64; 3],
}

/// `struct cohmem_stuck`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Stuck {
    /// (out) Physical address of the frame.
    pub phys: u64,
    /// (out) References that the kernel counts on it.
    pub refs: u32,
    /// (out) Page tables that map it.
    pub maps: u32,
    /// (out) [`crate::Reason`].
    pub reason: u32,
    /// (out) Zero.
    pub reserved: u32,
}

/// `struct cohmem_detach`, also the argument of evict.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Detach {
    /// (in) Number of the device (detach), or 0 (evict).
    pub device: u32,
    /// (in) None defined yet.
    pub flags: u32,
    /// (in) Time limit; 0 asks for one try.
    pub timeout_ms: u32,
    /// (in) Entries at `stuck_ptr`.
    pub nr_stuck_max: u32,
    /// (in) Array of [`Stuck`], or 0.
    pub stuck_ptr: u64,
    /// (out) Frames whose content went home.
    pub nr_evicted: u64,
    /// (out) Frames that stayed.
    pub nr_stuck: u64,
    /// (out) Frames of chunks that stay claimed until the next boot.
    pub nr_kept: u64,
    /// (out) `nr_stuck` by reason.
    pub stayed: [u32; NR_REASONS],
    /// Must be zero.
    pub reserved: [u64; 2],
}

/// `struct cohmem_list`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct List {
    /// (out) Bit N is set when device N is attached.
    pub devices: u64,
    /// Must be zero.
    pub reserved: [u64; 3],
}

/// `struct cohmem_info`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Info {
    /// (out) Number of the device.
    pub device: u32,
    /// (out) [`crate::State`].
    pub state: u32,
    /// (out) First physical address.
    pub start: u64,
    /// (out) Bytes.
    pub length: u64,
    /// (out) Frames of the range.
    pub nr_frames: u64,
    /// (out) Frames that can be handed out now.
    pub nr_free: u64,
    /// (out) Frames handed out.
    pub nr_allocated: u64,
    /// (out) Frames withdrawn after a hardware error.
    pub nr_poisoned: u64,
    /// (out) Frames that hold the struct pages.
    pub nr_metadata: u64,
    /// (out) Pages moved to the device since it was attached.
    pub moved_in: u64,
    /// (out) Pages moved home.
    pub moved_out: u64,
    /// (out) Holes filled with zeroed frames.
    pub filled: u64,
    /// (out) Frames that came back to the allocator.
    pub freed: u64,
    /// (out) NUMA node whose statistics the pages count in.
    pub node: u32,
    /// (out) Number of pgmaps.
    pub nr_chunks: u32,
    /// Must be zero.
    pub reserved: [u64; 3],
}

/// `struct cohmem_migrate`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Migrate {
    /// (in) First address.
    pub start: u64,
    /// (in) Bytes.
    pub length: u64,
    /// (in) [`crate::Direction`].
    pub direction: u32,
    /// (in) `MIGRATE_*`.
    pub flags: u32,
    /// (in) [`crate::PROC_SELF`], or an open `/proc/PID/pagemap` or `/proc/PID/mem`.
    pub proc_fd: i32,
    /// Must be zero.
    pub pad: u32,
    /// (in) Array of one byte a page, or 0.
    pub reasons_ptr: u64,
    /// (out) First address not looked at.
    pub next: u64,
    /// (out) Pages moved.
    pub nr_moved: u64,
    /// (out) Holes filled.
    pub nr_filled: u64,
    /// (out) Pages that stayed, by reason.
    pub stayed: [u64; NR_REASONS],
    /// Must be zero.
    pub reserved: [u64; 2],
}

/// `struct cohmem_query`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Query {
    /// (in) First address.
    pub start: u64,
    /// (in) Bytes.
    pub length: u64,
    /// (in) As in [`Migrate`].
    pub proc_fd: i32,
    /// (in) `QUERY_*`.
    pub flags: u32,
    /// (in) Array of one [`crate::PageEntry`] a page, or 0.
    pub map_ptr: u64,
    /// (out) First address not looked at.
    pub next: u64,
    /// (out) Pages by [`crate::Tier`].
    pub nr_by_tier: [u64; 4],
    /// (out) Pages on this device.
    pub nr_here: u64,
    /// Must be zero.
    pub reserved: [u64; 2],
}

/// `struct cohmem_quota`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Quota {
    /// (in) User number, or 0 with [`crate::QUOTA_DEFAULT`].
    pub user: u32,
    /// (in) `QUOTA_*`.
    pub flags: u32,
    /// (in) Frames that the user may hold.
    pub limit: u64,
    /// Must be zero.
    pub reserved: [u64; 2],
}

/// `struct cohmem_account`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Account {
    /// (out) User number.
    pub user: u32,
    /// (out) 0, [`crate::QUOTA_UNLIMITED`] or [`crate::QUOTA_INHERITED`].
    pub flags: u32,
    /// (out) Frames that the user may hold; 0 with a flag.
    pub limit: u64,
    /// (out) Frames charged to the user.
    pub charged: u64,
}

/// `struct cohmem_accounts`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Accounts {
    /// (in) None defined yet.
    pub flags: u32,
    /// (in) Entries at `accounts_ptr`.
    pub nr_max: u32,
    /// (in) Array of [`Account`], or 0.
    pub accounts_ptr: u64,
    /// (out) Users with a charge or a limit.
    pub nr_accounts: u32,
    /// (out) 0 or [`crate::QUOTA_UNLIMITED`].
    pub default_flags: u32,
    /// (out) Frames that a user without a limit of their own may hold.
    pub default_limit: u64,
    /// Must be zero.
    pub reserved: [u64; 2],
}

/// `struct cohmem_range`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Range {
    /// (in) First physical address to look at.
    pub from: u64,
    /// (out) First soft-reserved address at or above `from`.
    pub start: u64,
    /// (out) Bytes that have one holder.
    pub length: u64,
    /// (out) [`crate::Holder`].
    pub holder: u32,
    /// (out) Number of the device that has them, or 0.
    pub device: u32,
    /// Must be zero.
    pub reserved: [u64; 2],
}

/// `struct cohmem_move`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Move {
    /// (out) Counts the records of the device.
    pub sequence: u64,
    /// (out) When, on `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// (out) Address of the first page.
    pub start: u64,
    /// (out) Frame of the first page, or [`crate::NO_FRAME`].
    pub frame: u64,
    /// (out) Pages.
    pub nr_pages: u32,
    /// (out) The process whose pages they are; 0: not known.
    pub process: u32,
    /// (out) The process that asked.
    pub by: u32,
    /// (out) [`crate::Event`].
    pub event: u8,
    /// (out) [`crate::Cause`].
    pub cause: u8,
    /// (out) [`crate::Reason`], or 0.
    pub reason: u8,
    /// (out) The other device, or [`crate::NO_DEVICE`].
    pub other: u8,
}

/// `struct cohmem_history`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct History {
    /// (in) First address.
    pub start: u64,
    /// (in) Bytes; 0: all addresses.
    pub length: u64,
    /// (in) As in [`Migrate`].
    pub proc_fd: i32,
    /// (in) `HISTORY_*`.
    pub flags: u32,
    /// (in) First sequence number to look at.
    pub since: u64,
    /// (in) Array of [`Move`], or 0.
    pub moves_ptr: u64,
    /// (in) Entries at `moves_ptr`.
    pub nr_max: u32,
    /// (out) Entries written.
    pub nr_moves: u32,
    /// (out) First sequence number not looked at.
    pub next: u64,
    /// (out) Records that were overwritten before they were read.
    pub nr_lost: u64,
    /// (out) The time on the records' clock.
    pub now_ns: u64,
    /// Must be zero.
    pub reserved: [u64; 2],
}

/// `struct cohmem_job`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Job {
    /// (in) Number of the control group.
    pub job: u64,
    /// (in) Frames that it may hold.
    pub limit: u64,
    /// (in) 0, [`crate::QUOTA_UNLIMITED`] or [`crate::QUOTA_INHERITED`].
    pub flags: u32,
    /// Must be zero.
    pub pad: u32,
    /// Must be zero.
    pub reserved: [u64; 2],
}

/// `struct cohmem_run`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Run {
    /// (out) Number of the run instance.
    pub run: u64,
    /// (in) Frames that it may hold.
    pub limit: u64,
    /// (in) 0 or [`crate::QUOTA_UNLIMITED`].
    pub flags: u32,
    /// Must be zero.
    pub pad: u32,
    /// Must be zero.
    pub reserved: [u64; 2],
}

/// `struct cohmem_object`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Object {
    /// (out) [`crate::ObjectKind`].
    pub kind: u32,
    /// (out) 0, [`crate::QUOTA_UNLIMITED`] or [`crate::QUOTA_INHERITED`].
    pub flags: u32,
    /// (out) Number of the control group or of the run instance.
    pub number: u64,
    /// (out) Frames that it may hold; 0 with a flag.
    pub limit: u64,
    /// (out) Frames charged to it.
    pub charged: u64,
    /// (out) Real user who made the run instance; 0 for a job.
    pub user: u32,
    /// (out) Process that made the run instance; 0 for a job.
    pub process: u32,
}

/// `struct cohmem_objects`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Objects {
    /// (in) None defined yet.
    pub flags: u32,
    /// (in) Entries at `objects_ptr`.
    pub nr_max: u32,
    /// (in) Array of [`Object`], or 0.
    pub objects_ptr: u64,
    /// (out) Objects with a charge or a limit.
    pub nr_objects: u32,
    /// Must be zero.
    pub pad: u32,
    /// Must be zero.
    pub reserved: [u64; 2],
}
