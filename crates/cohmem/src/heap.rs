//! An allocator over a region.

mod blocks;

use std::{
    alloc::Layout,
    ptr::NonNull,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cohmem_uapi::Direction;

use self::blocks::Blocks;
use crate::{
    error::Result,
    migrate::{MigrateOptions, Migrated},
    query::PageMap,
    region::{Mover, Region, RegionStats},
    units::{AddrRange, ByteCount},
};

/// Memory of a region for `Vec`, `HashMap` and other collections that take an
/// [`Allocator`](allocator_api2::alloc::Allocator), so that their content lives on a device.
///
/// Clones are handles of the same heap; it is freed when the last handle and the last collection in
/// it are gone. Blocks that are freed are used again. When it is full, a collection fails as it does
/// when memory ends: `try_reserve` says so, `push` aborts.
///
/// # Examples
///
/// ```
/// use allocator_api2::vec::Vec;
/// use cohmem::{Backend, Birth, ByteCount, Direction, Placement, Pool, RegionOptions};
///
/// # fn main() -> cohmem::Result<()> {
/// let pool = Pool::open(&Backend::Auto)?;
/// let options = RegionOptions {
///     birth: Birth::Device(Placement::Strict),
///     ..RegionOptions::default()
/// };
/// let heap = pool.heap(ByteCount::new(1 << 20), &options)?;
/// let mut numbers = Vec::new_in(heap.clone());
/// numbers.extend(0_u64..1000);
/// heap.migrate(Direction::ToSystem)?;
/// assert_eq!(numbers.iter().sum::<u64>(), 499_500);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Heap {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    region: Region,
    blocks: Mutex<Blocks>,
}

impl Heap {
    pub(crate) fn new(region: Region) -> Self {
        let blocks = Mutex::new(Blocks::new(region.as_slice().len()));
        Self {
            shared: Arc::new(Shared { region, blocks }),
        }
    }

    fn blocks(&self) -> MutexGuard<'_, Blocks> {
        // The one panic under it is a block that was given back twice, before anything changed.
        self.shared
            .blocks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A block for `layout`; `None` when there is no room.
    pub(crate) fn take(&self, layout: Layout) -> Option<NonNull<[u8]>> {
        let view = self.shared.region.view();
        // The region starts at a page; larger alignments cannot be promised.
        if layout.align() > 4096 {
            return None;
        }
        let block = self.blocks().take(layout)?;
        let start = view.start().as_ptr().wrapping_add(block.start);
        Some(NonNull::slice_from_raw_parts(
            NonNull::new(start)?,
            block.len(),
        ))
    }

    /// Gives back what [`Heap::take`] gave.
    pub(crate) fn give(&self, block: NonNull<u8>, layout: Layout) {
        let start = self.shared.region.view().start().addr().get();
        self.blocks().give(block.addr().get() - start, layout);
    }

    /// Moves its memory, beside the collections in it.
    #[must_use]
    pub fn mover(&self) -> Mover {
        self.shared.region.mover()
    }

    /// The addresses of its pages.
    #[must_use]
    pub fn range(&self) -> AddrRange {
        self.shared.region.range()
    }

    /// As [`Region::stats`].
    #[must_use]
    pub fn stats(&self) -> Option<RegionStats> {
        self.shared.region.stats()
    }

    /// Migrates all of it.
    ///
    /// # Errors
    ///
    /// Those of [`Mover::migrate`].
    pub fn migrate(&self, direction: Direction) -> Result<Migrated> {
        let region = &self.shared.region;
        region
            .mover()
            .migrate(region.range(), direction, &MigrateOptions::default())
    }

    /// Tells of each of its pages where it is.
    ///
    /// # Errors
    ///
    /// Those of [`Mover::query`].
    pub fn query(&self) -> Result<PageMap> {
        self.shared.region.query()
    }

    /// Bytes that are free, in parts.
    #[must_use]
    pub fn free(&self) -> ByteCount {
        ByteCount::new(self.blocks().nr_free() as u64)
    }
}
