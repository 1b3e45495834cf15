// SPDX-License-Identifier: GPL-2.0
//! System memory: pages allocated ahead, and how much there is.

use core::ptr::{self, NonNull};

use cohmem_kcore::{Errno, host::WINDOW_PAGES};

use crate::{debug_by_name, memory::Buffer, page::Page};

/// System pages allocated ahead: they are private, with one reference each, the stock's.
///
/// # Invariants
///
/// Entries `0..len` of `pages` point to such pages, all others are null.
pub struct Stock {
    pages: Buffer<*mut bindings::page>,
    len: usize,
    is_movable: bool,
}

impl Stock {
    /// An empty stock, of pages for processes. May sleep.
    pub fn new() -> Result<Self, Errno> {
        Self::with_room(WINDOW_PAGES, true)
    }

    /// An empty stock, of pages that hold the content of private memory, which the kernel cannot move.
    /// May sleep.
    pub fn of_content() -> Result<Self, Errno> {
        Self::with_room(WINDOW_PAGES, false)
    }

    /// An empty stock for one page of a process. May sleep.
    pub(crate) fn of_one() -> Result<Self, Errno> {
        Self::with_room(1, true)
    }

    fn with_room(nr_pages: usize, is_movable: bool) -> Result<Self, Errno> {
        // INVARIANT: no pages, all entries null.
        Ok(Self {
            pages: Buffer::new(nr_pages, ptr::null_mut())?,
            len: 0,
            is_movable,
        })
    }

    /// Allocates until there are `nr_pages`; returns how many there are. May sleep.
    pub fn refill(&mut self, nr_pages: usize) -> usize {
        let wanted = nr_pages.min(self.pages.len());
        while self.len < wanted {
            let nr = self.allocate_bulk(wanted);
            if nr == 0 && !self.allocate_one() {
                break;
            }
        }
        self.len
    }

    /// Takes pages from the processor's own lists; returns how many.
    fn allocate_bulk(&mut self, wanted: usize) -> usize {
        let is_movable = self.is_movable;
        let Some(room) = self.pages.get_mut(self.len..wanted) else {
            return 0;
        };
        let nr_room = room.len();
        // SAFETY: `room` is `nr_room` entries, all null by the type invariants, of which the function
        // fills the first ones with pages that it gives to the caller; sleeping is allowed here.
        let nr = unsafe {
            bindings::cohmem_alloc_pages_bulk(is_movable, nr_room as _, room.as_mut_ptr())
        };
        let nr = usize::try_from(nr).unwrap_or(0).min(nr_room);
        // INVARIANT: the function filled `nr` entries from the first empty one.
        self.len = self.len.saturating_add(nr);
        nr
    }

    fn allocate_one(&mut self) -> bool {
        let is_movable = self.is_movable;
        let Some(slot) = self.pages.get_mut(self.len) else {
            return false;
        };
        // SAFETY: sleeping is allowed here; the page, if any, is the caller's.
        *slot = unsafe { bindings::cohmem_alloc_page(is_movable) };
        if slot.is_null() {
            return false;
        }
        // INVARIANT: the entry just filled is the first of the empty ones.
        self.len = self.len.saturating_add(1);
        true
    }

    /// Takes a page out.
    pub fn pop(&mut self) -> Option<Page> {
        let last = self.len.checked_sub(1)?;
        let slot = self.pages.get_mut(last)?;
        let page = NonNull::new(core::mem::replace(slot, ptr::null_mut()))?;
        // INVARIANT: the entry is null again, and the page leaves with its reference.
        self.len = last;
        Some(Page::new(page))
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        while let Some(page) = self.pop() {
            // SAFETY: the page left the stock with the stock's one reference, which this gives up.
            unsafe { page.put() };
        }
    }
}

/// System memory that can be allocated without swapping, in pages.
pub fn available_pages() -> u64 {
    // SAFETY: sums counters up.
    u64::try_from(unsafe { bindings::si_mem_available() }).unwrap_or(0)
}

/// Pages of free swap.
pub fn free_swap_pages() -> u64 {
    // SAFETY: reads a counter.
    unsafe { bindings::cohmem_free_swap_pages() }
}

/// Total system memory, in pages.
pub fn total_pages() -> u64 {
    // SAFETY: reads a counter.
    unsafe { bindings::cohmem_total_pages() }
}

/// The kernel moves pages of a large folio that is mapped page by page.
pub fn moves_partly_mapped_folios() -> bool {
    // SAFETY: returns a constant of the kernel's version.
    unsafe { bindings::cohmem_moves_partly_mapped_folios() }
}

debug_by_name! {
    [] Stock, "Stock";
}
