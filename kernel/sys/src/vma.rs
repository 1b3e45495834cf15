// SPDX-License-Identifier: GPL-2.0
//! A locked address space: its areas, its page tables.

use core::{
    marker::PhantomData,
    mem::MaybeUninit,
    ptr::{self, NonNull},
};

use cohmem_kcore::{
    Errno,
    host::{Mapping, Pfn, Span, Vma, WINDOW_PAGES},
};

use crate::{
    arrays::Arrays,
    batch::{Batch, Select},
    check,
    page::PAGE_BYTES,
};

/// Entries that one walk of the page tables fills: they live on the stack.
const WALK_PAGES: usize = 64;
/// Order of a huge entry of the page tables.
const HUGE_ORDER: u32 = 9;

/// An address space, locked for reading.
///
/// # Invariants
///
/// This thread holds the lock, and `'a` keeps the address space alive.
pub struct LockedMm<'a> {
    mm: NonNull<bindings::mm_struct>,
    /// The thread that took the lock gives it back: a raw pointer is not `Send`.
    space: PhantomData<&'a *mut ()>,
}

impl LockedMm<'_> {
    /// Wraps a locked address space.
    ///
    /// # Safety
    ///
    /// This thread holds the lock for reading and leaves it to the value; the address space lives for
    /// the value's lifetime.
    pub(crate) unsafe fn new(mm: NonNull<bindings::mm_struct>) -> Self {
        // INVARIANT: by the caller's promise.
        Self {
            mm,
            space: PhantomData,
        }
    }

    /// The first area that ends above `address`; borrowed with the lock.
    fn find(&self, address: u64) -> Option<NonNull<bindings::vm_area_struct>> {
        // SAFETY: by the type invariants the address space lives and is locked.
        NonNull::new(unsafe { bindings::find_vma(self.mm.as_ptr(), address) })
    }

    /// The area that `span` lies in.
    fn area_of(&self, span: Span) -> Result<NonNull<bindings::vm_area_struct>, Errno> {
        let area = self.find(span.start).ok_or(Errno::EIO)?;
        let covered = span_of(area);
        let nr_pages = span.end.saturating_sub(span.start) / PAGE_BYTES;
        let is_inside = covered.start <= span.start && span.end <= covered.end;
        if is_inside && (1..=WINDOW_PAGES as u64).contains(&nr_pages) {
            Ok(area)
        } else {
            Err(Errno::EIO)
        }
    }

    /// Reads the page tables of up to [`WALK_PAGES`] pages.
    fn walk(&self, start: u64, out: &mut [Mapping]) -> Result<(), Errno> {
        let mut entries = [0; WALK_PAGES];
        let entries = entries.get_mut(..out.len()).ok_or(Errno::EIO)?;
        // SAFETY: all-zero is a valid value: pointers are null, counts 0. It is never registered; the
        // walk reads `mm` and compares the sequence number only (mm/hmm.c: hmm_range_fault).
        let mut notifier: bindings::mmu_interval_notifier =
            unsafe { MaybeUninit::zeroed().assume_init() };
        notifier.mm = self.mm.as_ptr();
        let mut range = bindings::hmm_range {
            notifier: &raw mut notifier,
            notifier_seq: notifier.invalidate_seq,
            start,
            end: start.saturating_add((out.len() as u64).saturating_mul(PAGE_BYTES)),
            hmm_pfns: entries.as_mut_ptr(),
            // No fault is asked for: the walk only reads.
            default_flags: 0,
            pfn_flags_mask: 0,
            dev_private_owner: ptr::null_mut(),
        };
        // SAFETY: the address space is locked by the type invariants; `entries` has one entry a page
        // of the range; the notifier outlives the call.
        check(unsafe { bindings::hmm_range_fault(&raw mut range) })?;
        for (mapping, &entry) in out.iter_mut().zip(&*entries) {
            *mapping = mapping_of(entry);
        }
        self.tell_poisoned(start, out);
        Ok(())
    }

    /// Tells entries that stand for lost pages from others where nothing is present, which the walk does
    /// not.
    fn tell_poisoned(&self, start: u64, mappings: &mut [Mapping]) {
        let addresses = (start..).step_by(PAGE_BYTES as usize);
        for (address, mapping) in addresses.zip(mappings) {
            if *mapping != Mapping::Absent {
                continue;
            }
            // SAFETY: the address space lives, and stays locked, by the type invariants; the address is in
            // user space, as its area is.
            match unsafe { bindings::cohmem_pte_kind(self.mm.as_ptr(), address) } {
                // A window's entries are of one table.
                bindings::COHMEM_PTE_NO_TABLE => return,
                bindings::COHMEM_PTE_POISONED => *mapping = Mapping::Poisoned,
                _ => {}
            }
        }
    }
}

impl Drop for LockedMm<'_> {
    fn drop(&mut self) {
        // SAFETY: by the type invariants this thread holds the lock.
        unsafe { bindings::cohmem_mmap_read_unlock(self.mm.as_ptr()) };
    }
}

impl LockedMm<'_> {
    /// The first area that ends above `address`.
    pub fn vma_from(&self, address: u64) -> Option<Vma> {
        let area = self.find(address)?;
        /// Calls a test of the area.
        macro_rules! ask {
            ($test:ident) => {
                // SAFETY: the area lives while the address space is locked, which it is by the type
                // invariants.
                unsafe { bindings::$test(area.as_ptr()) }
            };
        }
        let is_shared = ask!(cohmem_vma_is_shared);
        Some(Vma {
            span: span_of(area),
            is_hugetlb: ask!(cohmem_vma_is_hugetlb),
            is_special: ask!(cohmem_vma_is_special) || ask!(cohmem_vma_is_dax),
            is_shared,
            is_executable: ask!(cohmem_vma_is_executable),
            is_unreadable: !ask!(cohmem_vma_is_readable),
            awaits_userfault: ask!(cohmem_vma_awaits_userfault),
            is_file_private: !is_shared && !ask!(cohmem_vma_is_anonymous),
        })
    }

    /// Reads the page tables of `span`, which lies in one area: entry i of `out` is page i. Faults nothing
    /// in.
    ///
    /// # Errors
    ///
    /// `EBUSY` when the tables changed under the walk, which trying again heals.
    pub fn snapshot(&mut self, span: Span, out: &mut [Mapping]) -> Result<(), Errno> {
        let mut start = span.start;
        for part in out.chunks_mut(WALK_PAGES) {
            if start >= span.end {
                break;
            }
            let left = usize::try_from((span.end - start) / PAGE_BYTES).unwrap_or(usize::MAX);
            let nr = left.min(part.len());
            let Some(part) = part.get_mut(..nr) else {
                break;
            };
            self.walk(start, part)?;
            start = start.saturating_add((nr as u64).saturating_mul(PAGE_BYTES));
        }
        Ok(())
    }

    /// Isolates and unmaps what can move of `span` (one area, at most [`WINDOW_PAGES`]); entry i of the batch
    /// is page i. Until the batch is dropped, accesses to those pages wait.
    ///
    /// # Errors
    ///
    /// `EIO` when `span` is not in one area, and those of `migrate_vma_setup`: nothing was collected.
    pub fn collect<'b>(
        &'b mut self,
        span: Span,
        select: Select,
        arrays: &'b mut Arrays,
    ) -> Result<Batch<'b>, Errno> {
        let area = self.area_of(span)?;
        // SAFETY: `span` lies in `area` and is no longer than the arrays, as `area_of` checked; the
        // address space is locked for reading, and stays so while the batch borrows `self`; no fault is
        // answered.
        unsafe { Batch::of_area(area, span, select, None, arrays) }
    }
}

fn span_of(area: NonNull<bindings::vm_area_struct>) -> Span {
    // SAFETY: callers hold the lock of the area's address space.
    let start = unsafe { bindings::cohmem_vma_start(area.as_ptr()) };
    // SAFETY: as above.
    let end = unsafe { bindings::cohmem_vma_end(area.as_ptr()) };
    Span { start, end }
}

/// Reads an entry of the walk.
fn mapping_of(entry: u64) -> Mapping {
    if entry == 0 {
        return Mapping::Absent;
    }
    if entry & bindings::HMM_PFN_ERROR != 0 {
        return Mapping::Forbidden;
    }
    // An entry without the valid bit is one that NUMA balancing made inaccessible for a moment.
    let pfn = Pfn(entry & !bindings::HMM_PFN_FLAGS);
    // SAFETY: pure arithmetic.
    let order = unsafe { bindings::cohmem_hmm_map_order(entry) };
    Mapping::Present {
        pfn,
        is_huge: order >= HUGE_ORDER,
    }
}
