// SPDX-License-Identifier: GPL-2.0
//! What keeps the reverse mapping of pages that are collected by their frames.
//!
//! An anonymous page names its `anon_vma` without a reference of its own: the areas that map the page
//! keep it. `migrate_device_range` unmaps the page, and until `migrate_device_finalize` has mapped it
//! again by a walk of that `anon_vma`, nothing of the kernel's keeps one: where all processes that
//! mapped the page exit meanwhile, the walk is over freed memory. [`HeldSpaces`] keeps one area
//! of each `anon_vma`, by the lock of the area's address space.

use core::ptr::{self, NonNull};

use crate::{debug_by_name, page::Page, process::Mm};

/// Address spaces that one batch holds at most.
const MAX_SPACES: usize = 16;
/// Areas of one `anon_vma` that are looked at; a page with more stays.
const MAX_AREAS: usize = 1024;

/// An address space that stays as it is.
///
/// # Invariants
///
/// This thread holds its lock for reading.
struct HeldSpace {
    mm: Mm,
}

impl HeldSpace {
    /// Holds `mm`; `None` when it is exiting, or its mappings are being changed.
    ///
    /// # Safety
    ///
    /// `mm` is an address space whose memory stays until this returns.
    unsafe fn try_hold(mm: NonNull<bindings::mm_struct>) -> Option<Self> {
        // SAFETY: the address space is there by the caller's promise.
        let mm = unsafe { Mm::try_use(mm) }?;
        // SAFETY: `mm` is in use; the function does not wait.
        let is_locked = unsafe { bindings::cohmem_mmap_read_trylock(mm.as_ptr()) };
        // INVARIANT: locked just now. (Made only then: its drop gives the lock back.)
        is_locked.then(|| Self { mm })
    }
}

impl Drop for HeldSpace {
    fn drop(&mut self) {
        // SAFETY: by the type invariants this thread holds the lock, and gives it back once, before
        // `mm` gives the address space up.
        unsafe { bindings::cohmem_mmap_read_unlock(self.mm.as_ptr()) };
    }
}

/// The address spaces that keep the reverse mappings of a batch's pages.
///
/// # Invariants
///
/// - For each page that [`Self::keep`] accepted, an area of one of `spaces` is linked to the page's
///   `anon_vma`, and stays so while the value lives: unlinking takes the write side of its address
///   space's lock, or the exit of the last user.
/// - `last` is null or such an `anon_vma`.
pub(super) struct HeldSpaces {
    spaces: [Option<HeldSpace>; MAX_SPACES],
    last: *mut bindings::anon_vma,
}

impl HeldSpaces {
    pub(super) const fn new() -> Self {
        // INVARIANT: no page was accepted.
        Self {
            spaces: [const { None }; MAX_SPACES],
            last: ptr::null_mut(),
        }
    }

    /// Keeps what the walk of `page`'s mappings needs. `false` for a page that nobody maps, and where an
    /// address space cannot be held without waiting.
    ///
    /// The `anon_vma` that the page names now is the one that it names until it is collected: only a
    /// fault that reuses the page changes it to another process's, which the caller's reference
    /// prevents (mm/memory.c: `wp_can_reuse_anon_folio`), and UFFDIO_MOVE, which moves a page that one process
    /// alone maps within that process. Such a page names the `anon_vma` of an area of that process,
    /// so that an area whose own it is goes before others.
    ///
    /// # Safety
    ///
    /// The caller owns a reference to `page`, and holds its page lock.
    pub(super) unsafe fn keep(&mut self, page: Page) -> bool {
        let _read_side = ReadSide::enter();
        let Some(anon_vma) = page.anon_vma() else {
            return false;
        };
        if !page.is_mapped() {
            return false;
        }
        if anon_vma.as_ptr() == self.last {
            return true;
        }
        // SAFETY: the page was mapped after the read side began: the memory of what it names is an
        // `anon_vma` until the read side ends, if perhaps another's by now (mm/rmap.c: the cache is
        // SLAB_TYPESAFE_BY_RCU).
        let lock = unsafe { bindings::cohmem_anon_vma_lock_of(anon_vma.as_ptr()) };
        // SAFETY: as above, of the root; the function does not wait.
        if unsafe { bindings::down_read_trylock(lock) } == 0 {
            return false;
        }
        // Still mapped: the page's areas were linked when the lock was taken, and stay while it is held.
        let is_kept = page.is_mapped() && {
            // SAFETY: so the `anon_vma` is the page's, and its lock is held.
            unsafe { self.keep_area(anon_vma) }
        };
        // SAFETY: locked above; the read side keeps the memory of the lock.
        unsafe { bindings::up_read(lock) };
        is_kept
    }

    /// Holds the address space of an area of `anon_vma`.
    ///
    /// # Safety
    ///
    /// The `anon_vma` is in use, and its lock is held.
    unsafe fn keep_area(&mut self, anon_vma: NonNull<bindings::anon_vma>) -> bool {
        let mut found = None;
        // SAFETY: in use and locked by the caller's promise.
        let mut node = unsafe { bindings::cohmem_anon_vma_first(anon_vma.as_ptr()) };
        let mut nr_areas = 0usize;
        while !node.is_null() {
            if nr_areas == MAX_AREAS {
                return false;
            }
            nr_areas = nr_areas.saturating_add(1);
            // SAFETY: the node is one of a locked `anon_vma`.
            let area = unsafe { bindings::cohmem_anon_vma_area(node) };
            // SAFETY: a linked area lives while the lock is held.
            let own = unsafe { bindings::cohmem_vma_anon_vma(area) };
            // SAFETY: as above; its address space lives as long as its areas.
            let mm = NonNull::new(unsafe { bindings::cohmem_vma_mm(area) });
            if own == anon_vma.as_ptr() {
                found = mm;
                break;
            }
            found = found.or(mm);
            // SAFETY: the tree does not change while the lock is held.
            node = unsafe { bindings::rb_next(node) };
        }
        let Some(mm) = found else {
            return false;
        };
        // SAFETY: one of its areas is linked to the locked `anon_vma`, so that it lives.
        let is_held = unsafe { self.hold(mm) };
        if is_held {
            // INVARIANT: an area of a held address space is linked to it.
            self.last = anon_vma.as_ptr();
        }
        is_held
    }

    /// Holds an address space, once.
    ///
    /// # Safety
    ///
    /// As for [`HeldSpace::try_hold`].
    unsafe fn hold(&mut self, mm: NonNull<bindings::mm_struct>) -> bool {
        let mut vacancy = None;
        for slot in &mut self.spaces {
            match slot {
                Some(held) if held.mm.as_ptr() == mm.as_ptr() => return true,
                Some(_) => {}
                None => {
                    vacancy = Some(slot);
                    break;
                }
            }
        }
        let Some(slot) = vacancy else {
            return false;
        };
        // SAFETY: by the caller's promise.
        *slot = unsafe { HeldSpace::try_hold(mm) };
        slot.is_some()
    }
}

/// A read side of RCU: what the kernel frees by it stays until the value is dropped. Nothing below it
/// may sleep.
struct ReadSide(());

impl ReadSide {
    fn enter() -> Self {
        // SAFETY: any context; `drop` leaves it.
        unsafe { bindings::cohmem_rcu_read_lock() };
        Self(())
    }
}

impl Drop for ReadSide {
    fn drop(&mut self) {
        // SAFETY: entered when the value was made, and left once.
        unsafe { bindings::cohmem_rcu_read_unlock() };
    }
}

debug_by_name! {
    [] HeldSpaces, "HeldSpaces";
}
