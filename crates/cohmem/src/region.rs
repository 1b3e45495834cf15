//! Memory of the calling process that lives at home or on a device.

use std::{
    ops::Range,
    sync::{Arc, Weak, atomic::AtomicU64},
    time::Duration,
};

use cohmem_uapi::Direction;

use crate::{
    background::Migration,
    device::Device,
    error::Result,
    migrate::{MigrateOptions, Migrated},
    pins::Pinned,
    pool::{
        BackendKind, MemoryType, Pool,
        memory::{self, Memory},
        refusal::Refusal,
    },
    query::PageMap,
    sys::view::View,
    units::{AddrRange, ByteCount, UserAddr},
};

/// What to do when the device has too few free frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// All of the region on the device, or an error and no region.
    Strict,
    /// As much as fits on the device; the rest is in system memory, and [`Region::placed`] says
    /// how much that is.
    Spill,
}

/// Where a region's memory is at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Birth {
    /// In system memory, page by page as it is touched.
    #[default]
    Home,
    /// On the device, all of it.
    Device(Placement),
}

/// How to allocate a region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegionOptions {
    /// Where it is at first; [`MemoryType::Generic`] is on the device whatever this says.
    pub birth: Birth,
    /// The type of device memory.
    pub memory: MemoryType,
    /// The unit that moves, a power of two; the backend's own choice by default.
    pub granule: Option<ByteCount>,
}

/// What migrations cost the threads that use a region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegionStats {
    /// Pages that moved to the device.
    pub moved_in: u64,
    /// Pages that moved home.
    pub moved_out: u64,
    /// Times that a part was kept from other threads while it changed place.
    pub nr_stops: u64,
    /// The longest of these times.
    pub longest_stop: Duration,
    /// All of them together.
    pub total_stop: Duration,
}

/// Zeroed memory of the calling process, freed on drop.
///
/// Its pages migrate while the slices are in use, and the addresses stay: a [`Mover`] does that
/// beside them, also on another thread.
///
/// Thread stacks and process-shared mutexes must not be in it. What a child has of it after `fork`,
/// and when I/O needs [`Region::pin`], is the backend's to say: see
/// [`Capabilities`](crate::Capabilities).
#[derive(Debug)]
pub struct Region {
    view: View,
    placed: Migrated,
    kind: MemoryType,
}

/// Moves the pages of a region, asks where they are, and pins them.
///
/// It does not keep the region: once that is dropped, every call fails with
/// [`Gone`](crate::ErrorKind::Gone). All calls may run on several threads at once.
#[derive(Clone, Debug)]
pub struct Mover {
    memory: Weak<Memory>,
    range: AddrRange,
}

/// Keeps a part of a region where it is, and the region's memory mapped, until it is dropped.
///
/// See [`Region::pin`].
#[derive(Debug)]
pub struct Pin {
    range: AddrRange,
    // In this order: moves may go on, then the memory may be freed.
    _pinned: Pinned,
    _memory: Arc<Memory>,
}

impl Region {
    /// Allocates `size` bytes on `device`: the short way to [`Pool::allocate`].
    ///
    /// # Errors
    ///
    /// Those of [`Pool::allocate`].
    pub fn allocate(device: &Device, size: ByteCount, placement: Placement) -> Result<Self> {
        let options = RegionOptions {
            birth: Birth::Device(placement),
            ..RegionOptions::default()
        };
        Pool::of_device(device.try_clone()?).allocate(size, &options)
    }

    pub(crate) const fn new(view: View, placed: Migrated, kind: MemoryType) -> Self {
        Self { view, placed, kind }
    }

    /// What became of each page when the region was allocated; nothing for one born at home.
    #[must_use]
    pub const fn placed(&self) -> &Migrated {
        &self.placed
    }

    /// The type of its device memory.
    #[must_use]
    pub const fn memory_type(&self) -> MemoryType {
        self.kind
    }

    /// The backend that it is of.
    #[must_use]
    pub fn backend(&self) -> BackendKind {
        self.view.memory().kind()
    }

    /// The unit that moves.
    #[must_use]
    pub fn granule(&self) -> ByteCount {
        ByteCount::new(self.view.memory().granule())
    }

    /// The addresses of its pages, whole: what [`Mover::migrate`] and [`Mover::query`] take.
    #[must_use]
    pub fn range(&self) -> AddrRange {
        self.view.memory().range()
    }

    /// The addresses of the granules that hold the bytes `part` from the start.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`](crate::ErrorKind::OutOfRange): they are not in the region.
    pub fn part(&self, part: Range<u64>) -> Result<AddrRange> {
        let (whole, granule) = (self.range(), self.view.memory().granule());
        let length = whole.length().get();
        if part.start > part.end || part.end > length {
            return Err(Refusal::OffsetOutside { part, length }.into());
        }
        let start = whole.start().get() + part.start / granule * granule;
        let end = whole.start().get() + part.end.next_multiple_of(granule);
        AddrRange::new(UserAddr::new(start), UserAddr::new(end))
    }

    /// First address.
    #[must_use]
    pub fn start(&self) -> UserAddr {
        self.range().start()
    }

    /// Its bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.view.as_slice()
    }

    /// Its bytes, to write.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self.view.as_mut_slice()
    }

    /// Its whole words of 8 bytes, for threads to share.
    #[must_use]
    pub fn as_atomic_words(&mut self) -> &[AtomicU64] {
        self.view.as_atomic_words()
    }

    pub(crate) const fn view(&self) -> &View {
        &self.view
    }

    /// A handle that moves its pages while the slices are in use.
    #[must_use]
    pub fn mover(&self) -> Mover {
        Mover {
            memory: Arc::downgrade(self.view.memory()),
            range: self.range(),
        }
    }

    /// Migrates all of it; [`Mover::migrate`] takes a part.
    ///
    /// # Errors
    ///
    /// Those of [`Mover::migrate`].
    pub fn migrate(&self, direction: Direction) -> Result<Migrated> {
        self.mover()
            .migrate(self.range(), direction, &MigrateOptions::default())
    }

    /// Tells of each of its pages where it is.
    ///
    /// # Errors
    ///
    /// Those of [`Mover::query`].
    pub fn query(&self) -> Result<PageMap> {
        self.mover().query(self.range())
    }

    /// Keeps `range` where it is until the guard is dropped; waits for a migration in it to end its
    /// step. Pages that are asked to move meanwhile stay, with the reason
    /// [`Pinned`](cohmem_uapi::Reason::Pinned). The guard does not borrow the region, so that the
    /// pinned bytes can be read and written.
    ///
    /// # When it is needed
    ///
    /// Around I/O that pins pages, while another thread may migrate them: `O_DIRECT`, `io_uring`
    /// with registered buffers, `process_vm_writev` and `ptrace` from another process, RDMA, VFIO.
    /// Without it such I/O may write to where a page was, and the data is lost without an error.
    /// Whether that can happen is
    /// [`Capabilities::pin_need`](crate::Capabilities::pin_need): never with the driver and on a
    /// NUMA node, where the kernel knows the pins; with the engine at level 1 for pages that are on
    /// the device, at levels 2 and 3 for all. Ordinary system calls (`read`, `write`, `send`,
    /// `recv`) lose nothing without it; at levels 2 and 3 one that writes to a page in migration
    /// fails with `EFAULT` or is cut short, which a pin prevents as well.
    ///
    /// # Errors
    ///
    /// [`Empty`](crate::ErrorKind::Empty), [`OutOfRange`](crate::ErrorKind::OutOfRange),
    /// [`Misaligned`](crate::ErrorKind::Misaligned); [`Region::part`] gives fitting ranges.
    pub fn pin(&self, range: AddrRange) -> Result<Pin> {
        pin(self.view.memory(), range)
    }

    /// What its migrations cost the threads that use it; `None` where the kernel does the work.
    #[must_use]
    pub fn stats(&self) -> Option<RegionStats> {
        self.view.memory().stats()
    }
}

fn pin(memory: &Arc<Memory>, range: AddrRange) -> Result<Pin> {
    let offsets = memory.offsets(range)?;
    let pinned = memory.pins().pin(offsets.clone());
    memory.settle(offsets)?;
    Ok(Pin {
        range,
        _pinned: pinned,
        _memory: Arc::clone(memory),
    })
}

impl Mover {
    /// The addresses of the region's pages.
    #[must_use]
    pub const fn range(&self) -> AddrRange {
        self.range
    }

    fn alive(&self) -> Result<Arc<Memory>> {
        Ok(self.memory.upgrade().ok_or(Refusal::Gone)?)
    }

    /// Migrates the pages of `range`, which starts and ends at a multiple of the region's granule,
    /// and says what became of each. Other threads use the memory meanwhile.
    ///
    /// # Errors
    ///
    /// [`Empty`](crate::ErrorKind::Empty), [`OutOfRange`](crate::ErrorKind::OutOfRange),
    /// [`Misaligned`](crate::ErrorKind::Misaligned), [`Unsupported`](crate::ErrorKind::Unsupported)
    /// for an option that the backend does not know: nothing was done.
    /// [`Gone`](crate::ErrorKind::Gone), [`NoDevice`](crate::ErrorKind::NoDevice),
    /// [`Draining`](crate::ErrorKind::Draining), [`NoMemory`](crate::ErrorKind::NoMemory): the steps
    /// before are done, and every page is whole where it is.
    pub fn migrate(
        &self,
        range: AddrRange,
        direction: Direction,
        options: &MigrateOptions,
    ) -> Result<Migrated> {
        memory::migrate(&self.memory, range, direction, options, &mut |_| {
            std::ops::ControlFlow::Continue(())
        })
    }

    /// Starts such a migration on a thread of its own. It can be cancelled after each
    /// [`MigrateOptions::step`], and ends with [`Gone`](crate::ErrorKind::Gone) when the region is
    /// dropped.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io): no thread could be had. The migration's own errors come from
    /// [`Migration::wait`].
    pub fn start_migration(
        &self,
        range: AddrRange,
        direction: Direction,
        options: MigrateOptions,
    ) -> Result<Migration> {
        let memory = Weak::clone(&self.memory);
        Migration::spawn(range.nr_pages(), move |progress_fn| {
            memory::migrate(&memory, range, direction, &options, progress_fn)
        })
    }

    /// Tells of each page of `range` where it is. Nothing is faulted in, moved or changed.
    ///
    /// # Errors
    ///
    /// Those of [`Mover::migrate`] that concern the range.
    pub fn query(&self, range: AddrRange) -> Result<PageMap> {
        let memory = self.alive()?;
        let offsets = memory.offsets(range)?;
        memory.query(offsets)
    }

    /// As [`Region::pin`].
    ///
    /// # Errors
    ///
    /// Those of [`Region::pin`], and [`Gone`](crate::ErrorKind::Gone).
    pub fn pin(&self, range: AddrRange) -> Result<Pin> {
        pin(&self.alive()?, range)
    }
}

impl Pin {
    /// What stays in place.
    #[must_use]
    pub const fn range(&self) -> AddrRange {
        self.range
    }
}
