// SPDX-License-Identifier: GPL-2.0
//! What the driver's logic asks of the kernel that hosts it.
//!
//! The module implements these traits over the kernel's functions, the tests over a model of an
//! address space with injected failures. The traits say *what* happens to pages; every decision
//! about *which* pages, in which order and under which checks is made in this crate.
//!
//! Lock order: the address space ([`AddressSpace::lock`]) → the gate ([`Host::Lock`]) → page locks
//! (only tried, by the kernel). Nothing here is called with a spinlock held.

use core::{
    fmt::Debug,
    ops::{Deref, DerefMut, Range},
    sync::atomic::AtomicU64,
};

use cohmem_frames::{FrameIndex, FrameRun};
use cohmem_uapi::{FRAME_BYTES, args};

use crate::{Errno, history::ProcessId, ledger::Ledger};

/// Pages that move together: one page-table page's worth, so that the walk, the TLB flush and the
/// arrays of a batch are one unit each. Every page of a batch waits until the batch is through.
pub const WINDOW_PAGES: usize = 512;

/// A half-open range of user addresses, both multiples of the page size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First address.
    pub start: u64,
    /// First address after the range.
    pub end: u64,
}

impl Span {
    /// The part of `at..end` that is worked on at once: up to the next multiple of a window's bytes.
    pub(crate) fn window(at: u64, end: u64) -> Self {
        const WINDOW_BYTES: u64 = WINDOW_PAGES as u64 * FRAME_BYTES;
        let window_end = at
            .saturating_add(1)
            .checked_next_multiple_of(WINDOW_BYTES)
            .unwrap_or(end);
        Self {
            start: at,
            end: end.min(window_end),
        }
    }
}

/// Number of a physical page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pfn(pub u64);

/// What matters of a virtual memory area.
#[derive(Clone, Copy, Debug)]
pub struct Vma {
    /// Its addresses.
    pub span: Span,
    /// hugetlbfs.
    pub is_hugetlb: bool,
    /// `VM_IO`, `VM_PFNMAP`, `VM_MIXEDMAP`, `VM_DONTEXPAND`, or DAX.
    pub is_special: bool,
    /// `VM_SHARED`: a shared file mapping or shared memory.
    pub is_shared: bool,
    /// `VM_EXEC`.
    pub is_executable: bool,
    /// `VM_READ` is missing.
    pub is_unreadable: bool,
    /// A userfaultfd waits for missing pages of it.
    pub awaits_userfault: bool,
    /// A private mapping of a file: only pages that were written are anonymous.
    pub is_file_private: bool,
}

/// What a page table maps at one address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mapping {
    /// Nothing present: a hole, a swap entry, or an entry of another kind.
    #[default]
    Absent,
    /// Nothing present, since the hardware lost what was: who touches it gets a signal.
    Poisoned,
    /// The mapping forbids reading.
    Forbidden,
    /// A page.
    Present {
        /// The physical page.
        pfn: Pfn,
        /// It is mapped as part of a huge entry (2 MiB or more).
        is_huge: bool,
    },
}

/// What the kernel says of a physical page at one moment. Advisory, unless the page is locked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageFacts {
    /// The shared zero page.
    pub is_zero: bool,
    /// Anonymous (KSM pages are, too).
    pub is_anonymous: bool,
    /// Merged by KSM.
    pub is_ksm: bool,
    /// Part of a large folio.
    pub is_large: bool,
    /// Locked.
    pub is_locked: bool,
    /// On an LRU list.
    pub is_on_lru: bool,
    /// In the swap cache.
    pub is_in_swapcache: bool,
    /// May be pinned for DMA.
    pub is_pinned: bool,
    /// Marked as poisoned by the hardware.
    pub is_poisoned: bool,
    /// Several processes may map the page's folio.
    pub is_shared: bool,
    /// References to the page's folio.
    pub refs: u32,
    /// Page-table entries that map the page's folio.
    pub maps: u32,
}

/// One page of a batch after it was collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The kernel could not isolate and unmap it, and it is as it was.
    Skipped,
    /// Nothing is there, and a page can be put there.
    Hole,
    /// Isolated, locked, unmapped: its content cannot change through a mapping.
    Page(PageFacts),
}

/// Privileges that commands ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// `CAP_SYS_ADMIN`: attach, detach, evict, set a limit.
    Administrate,
    /// `CAP_SYS_NICE`: move pages that other processes map.
    MoveShared,
}

/// The content of a page could not be read: the hardware lost it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

/// Which pages of an address space a batch collects.
#[derive(Debug)]
pub enum Select<'a, H: Host> {
    /// Those in system memory, and holes.
    System,
    /// Those of the device that this chunk belongs to.
    Device(&'a H::Chunk),
}

/// A chunk to register.
#[derive(Clone, Copy, Debug)]
pub struct ChunkSpec {
    /// Number of the device.
    pub device: u32,
    /// First physical address; a multiple of `RANGE_ALIGN`.
    pub phys: u64,
    /// Frames.
    pub nr_frames: u64,
    /// Index of the chunk's first frame in its device.
    pub first: FrameIndex,
    /// Frames at the chunk's start that hold its struct pages; 0 when system memory does.
    pub nr_metadata: u64,
}

/// A moment in the driver's work at which a test may interfere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Frames are being taken from the ledger.
    Allocating,
    /// A batch was collected: its pages are unmapped and locked.
    Collected,
    /// A batch is filled and not yet committed.
    Filled,
    /// A batch was committed and is not yet mapped again.
    Committed,
}

/// The kernel, as far as the driver's logic needs it.
pub trait Host: Debug + Sized + Send + Sync + 'static {
    /// A lock that a sleeping reader or writer may hold.
    type Lock<T: Debug + Send + Sync>: SleepLock<T>;
    /// A boxed slice.
    type Buffer<T: Copy + Debug + Send + Sync>: DerefMut<Target = [T]> + Debug + Send + Sync;
    /// Zeroed words shared by threads and interrupt handlers.
    type Words: Deref<Target = [AtomicU64]> + Debug + Send + Sync;
    /// A shared owner.
    type Shared<T: Debug + Send + Sync + 'static>: Deref<Target = T> + Clone + Debug + Send + Sync;
    /// A claimed physical range, one chunk's; dropping it gives the range back.
    type Claim: Debug + Send + Sync;
    /// A registered chunk.
    type Chunk: Chunk<Self>;
    /// An address space that cannot go away while this is held.
    type Space: AddressSpace<Self>;
    /// The arrays of one batch.
    type Arrays: Debug;
    /// System pages allocated ahead.
    type Stock: Debug;
    /// A batch of pages in flight.
    type Batch<'b>: Batch<Self>;
    /// A control group that cannot go away while this is held.
    type Group: ControlGroup;

    /// A lock around `value`. May sleep.
    fn new_lock<T: Debug + Send + Sync>(&self, value: T) -> Result<Self::Lock<T>, Errno>;
    /// A buffer of `len` copies of `fill`. May sleep.
    fn new_buffer<T: Copy + Debug + Send + Sync>(
        &self,
        len: usize,
        fill: T,
    ) -> Result<Self::Buffer<T>, Errno>;
    /// `len` zeroed words. May sleep.
    fn new_words(&self, len: usize) -> Result<Self::Words, Errno>;
    /// Shares `value`. May sleep.
    fn share<T: Debug + Send + Sync + 'static>(&self, value: T) -> Result<Self::Shared<T>, Errno>;
    /// Arrays for batches of up to [`WINDOW_PAGES`]. May sleep.
    fn new_arrays(&self) -> Result<Self::Arrays, Errno>;
    /// An empty stock.
    fn new_stock(&self) -> Result<Self::Stock, Errno>;

    /// Allocates until `stock` holds `nr_pages` system pages (at most [`WINDOW_PAGES`]) and returns how
    /// many it holds now. Never calls the OOM killer, never dips into reserves. May sleep; call with
    /// no lock held.
    fn refill(&self, stock: &mut Self::Stock, nr_pages: usize) -> usize;
    /// System memory that can be allocated without swapping, in pages.
    fn available_pages(&self) -> u64;
    /// Pages of free swap.
    fn free_swap_pages(&self) -> u64;
    /// Total system memory, in pages.
    fn total_pages(&self) -> u64;

    /// First address above the user address space.
    fn user_end(&self) -> u64;
    /// First physical address above what the processor can address.
    fn phys_end(&self) -> u64;
    /// The kernel moves pages of a large folio that is mapped page by page.
    fn moves_partly_mapped_folios(&self) -> bool;
    /// The caller has this privilege over the initial user namespace.
    fn is_privileged(&self, privilege: Privilege) -> bool;
    /// The calling process's real user, in the initial user namespace.
    fn user(&self) -> u32;
    /// The calling process's number in the initial PID namespace.
    fn calling_process(&self) -> u32;
    /// The control group that the calling task is in, as of now.
    fn control_group(&self) -> Self::Group;
    /// The calling process's address space.
    fn own_space(&self) -> Result<Self::Space, Errno>;
    /// The address space behind an open `/proc/PID/pagemap` or `/proc/PID/mem`: `EBADF`, `EBADFD`,
    /// `ESRCH`.
    fn proc_space(&self, fd: i32) -> Result<Self::Space, Errno>;
    /// Writes to the caller's memory. May sleep and fault; call with no lock held.
    fn write_user(&self, address: u64, bytes: &[u8]) -> Result<(), Errno>;

    /// What the kernel says of a page of system memory; `None` when `pfn` is none.
    fn system_page(&self, pfn: Pfn) -> Option<PageFacts>;

    /// Checks that the range is soft-reserved and claims it: `EADDRINUSE`, `EADDRNOTAVAIL`, `EBUSY`,
    /// `ENOMEM`.
    fn claim(&self, phys: u64, bytes: u64) -> Result<Self::Claim, Errno>;
    /// The first soft-reserved range at or above `phys`, of which what lies below is cut off.
    fn soft_reserved_from(&self, phys: u64) -> Option<Range<u64>>;
    /// The first claimed range that overlaps `range`, cut off at its ends.
    fn claim_in(&self, range: Range<u64>) -> Option<Range<u64>>;
    /// A part of `range` is System RAM.
    fn holds_ram(&self, range: Range<u64>) -> bool;
    /// Creates the chunk's struct pages as coherent device memory. Frees of its frames are reported
    /// to `ledger`, from any context including hard interrupts. The chunk owns its claim.
    fn register(
        &self,
        spec: ChunkSpec,
        claim: Self::Claim,
        ledger: Self::Shared<Ledger<Self>>,
    ) -> Result<Self::Chunk, Errno>;
    /// Bytes of a chunk; a multiple of `RANGE_ALIGN`.
    fn chunk_bytes(&self) -> u64;
    /// NUMA node that the range's pages count in.
    fn node_of(&self, phys: u64) -> u32;
    /// Creates the device node and its attributes.
    fn publish(&self, device: u32) -> Result<(), Errno>;
    /// Removes them. Waits for readers of the attributes; call without the gate.
    fn unpublish(&self, device: u32);

    /// A fatal signal is pending.
    fn is_killed(&self) -> bool;
    /// Any signal is pending.
    fn is_signalled(&self) -> bool;
    /// Lets other tasks run.
    fn relax(&self);
    /// Sleeps; a fatal signal ends it early.
    fn sleep_ms(&self, milliseconds: u64);
    /// Milliseconds of a monotonic clock.
    fn now_ms(&self) -> u64;
    /// Nanoseconds of `CLOCK_MONOTONIC`. Any context.
    fn now_ns(&self) -> u64;
    /// A record is written to the history of a device: tells those who trace, if there are any. Any
    /// context; its sequence number is not known yet.
    fn trace(&self, device: u32, told: &args::Move);
    /// The driver's work reached `point`. Does nothing but in test builds.
    #[inline]
    fn reached(&self, _point: Point) {}
    /// Makes every processor give up the page references in its LRU batches. May sleep.
    fn drain_processors(&self);
}

/// A sleeping reader-writer lock.
pub trait SleepLock<T>: Debug + Send + Sync {
    /// Shared access.
    type ReadGuard<'a>: Deref<Target = T>
    where
        Self: 'a,
        T: 'a;
    /// Exclusive access.
    type WriteGuard<'a>: DerefMut<Target = T>
    where
        Self: 'a,
        T: 'a;
    /// Waits for shared access.
    fn read(&self) -> Self::ReadGuard<'_>;
    /// Waits for exclusive access.
    fn write(&self) -> Self::WriteGuard<'_>;
}

/// A control group of the unified hierarchy.
pub trait ControlGroup {
    /// The number of the group on the way from the root (level 0) to this one; `None` below this one.
    /// It is that of the group's directory, and never another group's until the next boot.
    fn number_at(&self, level: u32) -> Option<u64>;
}

/// A registered chunk of device memory: one pgmap.
///
/// Dropping it unregisters it, which waits for every reference to its frames without a limit: the
/// driver drops a chunk only when none of its frames is handed out.
pub trait Chunk<H: Host>: Debug + Send + Sync {
    /// First frame and number of frames.
    fn run(&self) -> FrameRun;
    /// What the kernel says of a frame of this chunk.
    fn facts(&self, frame: FrameIndex) -> PageFacts;
    /// Isolates and unmaps the frames of `run` that are mapped, wherever they are: entry i of the batch
    /// is frame `run.start() + i`. At most [`WINDOW_PAGES`], all in this chunk. Until the batch is
    /// dropped, one of the address spaces that map a frame neither exits nor changes its mappings;
    /// a frame is skipped where that cannot be had without waiting, and where nobody maps it.
    fn collect<'b>(&'b self, run: FrameRun, arrays: &'b mut H::Arrays) -> H::Batch<'b>;
    /// Marks a frame as poisoned: from now on unmapping it leaves entries that tell of the loss.
    fn mark_poisoned(&self, frame: FrameIndex);
    /// From now on dropping the chunk leaves it registered and claimed until the next boot.
    fn keep(&self);
}

/// An address space.
pub trait AddressSpace<H: Host> {
    /// The address space, locked against changes of its mappings.
    type Locked<'a>: LockedSpace<H>
    where
        Self: 'a;
    /// Locks it for reading: `EINTR` on a fatal signal.
    fn lock(&self) -> Result<Self::Locked<'_>, Errno>;
    /// Whose it is; the default when that is not known.
    fn process(&self) -> ProcessId;
    /// Some of its pages may be in swap.
    fn has_swapped_pages(&self) -> bool;
}

/// A locked address space.
pub trait LockedSpace<H: Host> {
    /// The first area that ends above `address`.
    fn vma_from(&self, address: u64) -> Option<Vma>;
    /// Reads the page tables of `span`, which lies in one area: entry i of `out` is page i. Faults
    /// nothing in. `EBUSY` when the tables changed under the walk, which trying again heals.
    fn snapshot(&mut self, span: Span, out: &mut [Mapping]) -> Result<(), Errno>;
    /// Isolates and unmaps what can move of `span` (one area, at most [`WINDOW_PAGES`]); entry i of
    /// the batch is page i. Until the batch is dropped, accesses to those pages wait.
    fn collect<'b>(
        &'b mut self,
        span: Span,
        select: Select<'b, H>,
        arrays: &'b mut H::Arrays,
    ) -> Result<H::Batch<'b>, Errno>;
}

/// Pages in flight, between their isolation and their new or old mapping.
///
/// Dropping it maps each page where it now is: at its destination when [`Batch::commit`] moved it,
/// else where it was. Nothing may be allocated, and no lock that a page fault takes may be waited
/// for, while one exists.
pub trait Batch<H: Host> {
    /// State of entry `index` (below the number of pages collected).
    fn source(&self, index: usize) -> Source;
    /// Makes `frame` of `chunk`, handed out by the ledger, the destination of the entry.
    fn assign_frame(&mut self, index: usize, chunk: &H::Chunk, frame: FrameIndex);
    /// Makes a page of `stock` the destination; `false` when the stock is empty.
    fn assign_system(&mut self, index: usize, stock: &mut H::Stock) -> bool;
    /// Copies the source into the destination.
    fn copy(&mut self, index: usize) -> Result<(), Unreadable>;
    /// Zeroes the destination.
    fn zero(&mut self, index: usize);
    /// Gives the destination back: the page stays. A frame goes back to its ledger.
    fn unassign(&mut self, index: usize);
    /// Hands each source's identity to its destination, once; pages that turn out to be in use stay.
    fn commit(&mut self);
    /// The entry moved (after [`Batch::commit`]).
    fn is_moved(&self, index: usize) -> bool;
}
