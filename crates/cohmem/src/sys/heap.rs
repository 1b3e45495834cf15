//! A heap as an allocator.

use std::{alloc::Layout, ptr::NonNull};

use allocator_api2::alloc::{AllocError, Allocator};

use crate::heap::Heap;

// SAFETY:
// 1. A block lies in the heap's region, has at least the layout's bytes and its alignment, and
//    overlaps no other block that is out: `Blocks` hands out free parts only.
// 2. It stays valid until it is given back: the region is freed with the last handle, a collection
//    holds one, and a migration keeps content and addresses. Moving or cloning a handle changes
//    nothing, since clones share the region.
// 3. Nobody else reads or writes it: the heap owns its region, gives nobody a borrow of it, and
//    keeps its bookkeeping elsewhere.
unsafe impl Allocator for Heap {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.take(layout).ok_or(AllocError)
    }

    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        self.give(block, layout);
    }
}
