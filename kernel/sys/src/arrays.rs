// SPDX-License-Identifier: GPL-2.0
//! The arrays of a batch, and what their entries say.

use core::{ffi::c_ulong, ptr::NonNull};

use cohmem_kcore::{Errno, host::WINDOW_PAGES};

use crate::{debug_by_name, memory::Buffer, page::Page};

/// The arrays of one batch.
pub struct Arrays {
    pub(crate) source: Buffer<c_ulong>,
    pub(crate) target: Buffer<c_ulong>,
}

impl Arrays {
    /// Arrays for [`WINDOW_PAGES`] pages. May sleep.
    pub fn new() -> Result<Self, Errno> {
        Self::with_room(WINDOW_PAGES)
    }

    /// Arrays for `nr_pages`. May sleep.
    pub(crate) fn with_room(nr_pages: usize) -> Result<Self, Errno> {
        Ok(Self {
            source: Buffer::new(nr_pages, 0)?,
            target: Buffer::new(nr_pages, 0)?,
        })
    }
}

/// The page of an entry.
pub(crate) fn page_of(entry: c_ulong) -> Option<Page> {
    // SAFETY: the entry was made by the kernel or by `entry_of`; the function only computes.
    NonNull::new(unsafe { bindings::cohmem_migrate_pfn_to_page(entry) }).map(Page::new)
}

/// The entry of a page.
pub(crate) fn entry_of(page: Page) -> c_ulong {
    // SAFETY: pure arithmetic.
    unsafe { bindings::cohmem_migrate_pfn(page.pfn().0) }
}

/// The kernel will move, or has moved, what the entry stands for.
pub(crate) fn is_moving(entry: c_ulong) -> bool {
    // SAFETY: pure arithmetic.
    unsafe { bindings::cohmem_migrate_is_moving(entry) }
}

debug_by_name! {
    [] Arrays, "Arrays";
}
