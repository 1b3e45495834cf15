// SPDX-License-Identifier: GPL-2.0
//! Pages in flight: `migrate_vma` and `migrate_device_range`.

use core::{
    ffi::c_ulong,
    marker::PhantomData,
    ops::Range,
    ptr::{self, NonNull},
};

use cohmem_frames::FrameIndex;
use cohmem_kcore::{
    Errno,
    host::{Pfn, Source, Span, Unreadable},
};

use crate::{
    arrays::{Arrays, entry_of, is_moving, page_of},
    check, complain, debug_by_name,
    page::Page,
    pagemap::{Chunk, FrameKeeper, Owner},
    rmap::HeldSpaces,
    stock::Stock,
};

/// Which pages of an address space a batch collects.
#[derive(Clone, Copy, Debug)]
pub enum Select {
    /// Those in system memory, and holes.
    System,
    /// Those in the memory of one owner, coherent or private.
    Device(Owner),
}

/// How the pages were collected, which decides how they are committed.
enum Collected {
    /// From an area.
    Area(bindings::migrate_vma),
    /// By their frames, with what keeps their reverse mappings.
    Frames { _spaces: HeldSpaces },
}

/// Pages in flight.
///
/// # Invariants
///
/// - Entries `0..nr` of the source array are as the kernel's collecting function left them, or, once
///   `is_committed`, as its committing function did: every valid one is a page that is locked,
///   unmapped and referenced for the batch.
/// - Every valid entry of the target array is a page that is locked and referenced once, for the
///   batch, and that nobody else uses; the others are 0. Once `is_committed`, none is changed.
/// - `'b` keeps what the pages came from: the lock of the address space, or the chunk.
pub struct Batch<'b> {
    arrays: &'b mut Arrays,
    nr: usize,
    collected: Collected,
    is_from_device: bool,
    is_committed: bool,
    /// Page locks belong to the thread that took them.
    not_send: PhantomData<*mut ()>,
}

impl<'b> Batch<'b> {
    /// Collects what can move of `span`; `touched` is the page of private memory whose fault this answers.
    ///
    /// # Safety
    ///
    /// `span` lies in `area` and is not empty and no longer than `arrays`; the address space
    /// of `area` is locked for reading by this thread for `'b`. `touched` was handed to the module by the
    /// kernel's fault handler, which holds it for `'b`.
    pub(crate) unsafe fn of_area(
        area: NonNull<bindings::vm_area_struct>,
        span: Span,
        select: Select,
        touched: Option<Page>,
        arrays: &'b mut Arrays,
    ) -> Result<Self, Errno> {
        let (flags, owner, is_from_device) = match select {
            Select::System => (bindings::MIGRATE_VMA_SELECT_SYSTEM, ptr::null_mut(), false),
            Select::Device(owner) => (
                bindings::MIGRATE_VMA_SELECT_DEVICE_COHERENT
                    | bindings::MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
                owner.as_ptr(),
                true,
            ),
        };
        arrays.target.fill(0);
        let mut request = bindings::migrate_vma {
            vma: area.as_ptr(),
            dst: arrays.target.as_mut_ptr(),
            src: arrays.source.as_mut_ptr(),
            cpages: 0,
            npages: 0,
            start: span.start,
            end: span.end,
            pgmap_owner: owner,
            flags: flags as _,
            fault_page: touched.map_or(ptr::null_mut(), Page::as_ptr),
        };
        // SAFETY: by the caller's promise the area is locked and covers the span, the arrays have
        // an entry for each of its pages, and the fault's page, if there is one, is held.
        check(unsafe { bindings::migrate_vma_setup(&raw mut request) })?;
        let nr = usize::try_from(request.npages)
            .unwrap_or(0)
            .min(arrays.source.len());
        // INVARIANT: collected just now, all targets are 0, and the lock is borrowed for `'b`.
        Ok(Self::new(
            arrays,
            nr,
            Collected::Area(request),
            is_from_device,
        ))
    }

    /// Collects the pages that are mapped of `nr` pages from `first` on, as far as their reverse
    /// mapping can be kept; the first `nr_skipped` entries stay empty.
    ///
    /// # Safety
    ///
    /// `first..first + nr` are pages of one chunk that is registered for `'b`; those after the first
    /// `nr_skipped` have initialised struct pages.
    pub(crate) unsafe fn of_frames(
        first: Pfn,
        nr: usize,
        nr_skipped: usize,
        arrays: &'b mut Arrays,
    ) -> Self {
        let nr = nr.min(arrays.source.len());
        arrays.target.fill(0);
        arrays.source.fill(0);
        let mut spaces = HeldSpaces::new();
        let mut begin = nr_skipped;
        for index in nr_skipped..nr {
            let pfn = Pfn(first.0.saturating_add(index as u64));
            // SAFETY: the page is one of the registered chunk's with a struct page, by the caller's promise.
            if unsafe { hold(pfn, &mut spaces) } {
                continue;
            }
            // SAFETY: those of `begin..index` were held just now, and are given up once.
            unsafe { collect_held(first, begin..index, &mut arrays.source) };
            begin = index.saturating_add(1);
        }
        // SAFETY: as above.
        unsafe { collect_held(first, begin..nr, &mut arrays.source) };
        // INVARIANT: collected just now, all targets are 0, and the chunk is borrowed for `'b`.
        Self::new(arrays, nr, Collected::Frames { _spaces: spaces }, true)
    }

    fn new(arrays: &'b mut Arrays, nr: usize, collected: Collected, is_from_device: bool) -> Self {
        Self {
            arrays,
            nr,
            collected,
            is_from_device,
            is_committed: false,
            not_send: PhantomData,
        }
    }

    fn source_entry(&self, index: usize) -> c_ulong {
        self.arrays
            .source
            .get(..self.nr)
            .and_then(|entries| entries.get(index))
            .copied()
            .unwrap_or(0)
    }

    fn target_entry(&self, index: usize) -> c_ulong {
        self.arrays
            .target
            .get(..self.nr)
            .and_then(|entries| entries.get(index))
            .copied()
            .unwrap_or(0)
    }

    /// The collected page of an entry.
    pub fn source_page(&self, index: usize) -> Option<Page> {
        page_of(self.source_entry(index))
    }

    /// The destination of an entry.
    fn target_page(&self, index: usize) -> Option<Page> {
        page_of(self.target_entry(index))
    }

    /// Room for the destination of an entry that has none; `None` when it must not get one.
    fn vacancy(&mut self, index: usize) -> Option<&mut c_ulong> {
        if self.is_committed || !is_moving(self.source_entry(index)) {
            return None;
        }
        let slot = self.arrays.target.get_mut(..self.nr)?.get_mut(index)?;
        (*slot == 0).then_some(slot)
    }
}

impl Batch<'_> {
    /// State of entry `index` (below the number of pages collected).
    pub fn source(&self, index: usize) -> Source {
        let entry = self.source_entry(index);
        if !is_moving(entry) {
            return Source::Skipped;
        }
        page_of(entry).map_or(Source::Hole, |page| Source::Page(page.facts()))
    }

    /// Makes `frame` of `chunk` the destination of the entry. Call only with a frame that the keeper of the
    /// chunk handed out, and that nobody else holds.
    pub fn assign_frame<K: FrameKeeper>(
        &mut self,
        index: usize,
        chunk: &Chunk<K>,
        frame: FrameIndex,
    ) {
        let Some(page) = chunk.page(frame) else {
            return complain();
        };
        let Some(slot) = self.vacancy(index) else {
            return complain();
        };
        if chunk.is_private() {
            return complain();
        }
        // SAFETY: the page is one of a registered chunk, whose memory map is initialised there; the
        // ledger handed the frame out to us, so that nobody else has a reference to it.
        unsafe { bindings::cohmem_device_page_init(page.as_ptr()) };
        // INVARIANT: the page is locked, with one reference, which the batch owns.
        *slot = entry_of(page);
    }

    /// Makes `frame` of `chunk`, which is private, the destination, with a page of `content` to hold what
    /// is in it. Call only with a frame as for [`Self::assign_frame`]. `false`, and the frame is the
    /// caller's still, when there is no content left.
    pub fn assign_private_frame<K: FrameKeeper>(
        &mut self,
        index: usize,
        chunk: &Chunk<K>,
        frame: FrameIndex,
        content: &mut Stock,
    ) -> bool {
        let (Some(page), Some(slot), true) =
            (chunk.page(frame), self.vacancy(index), chunk.is_private())
        else {
            complain();
            return false;
        };
        let Some(content) = content.pop() else {
            return false;
        };
        // SAFETY: as in `assign_frame`.
        unsafe { bindings::cohmem_device_page_init(page.as_ptr()) };
        // SAFETY: the page is one of private memory with no reference but ours; the content left the stock
        // with its only one.
        unsafe { page.set_content(content) };
        // INVARIANT: the page is locked, with one reference, which the batch owns.
        *slot = entry_of(page);
        true
    }

    /// Makes a page of `stock` the destination; `false` when the stock is empty.
    pub fn assign_system(&mut self, index: usize, stock: &mut Stock) -> bool {
        let Some(slot) = self.vacancy(index) else {
            complain();
            return true;
        };
        while let Some(page) = stock.pop() {
            if page.try_lock() {
                // INVARIANT: the page is locked, and its one reference went from the stock to the batch.
                *slot = entry_of(page);
                return true;
            }
            // Memory failure handling may lock a page that nobody else knows.
            // SAFETY: the page left the stock with one reference, which this gives up.
            unsafe { page.put() };
        }
        false
    }

    /// Copies the source into the destination.
    ///
    /// # Errors
    ///
    /// The hardware lost the source's content; the destination's is undefined.
    pub fn copy(&mut self, index: usize) -> Result<(), Unreadable> {
        let (Some(target), Some(source)) = (self.target_page(index), self.source_page(index))
        else {
            complain();
            return Err(Unreadable);
        };
        if self.is_from_device {
            // SAFETY: by the type invariants both pages are referenced for the batch, and the target
            // is used by nobody else.
            unsafe { target.copy_from_device(source) }?;
        } else {
            // SAFETY: as above.
            unsafe { target.copy_from_system(source) }?;
        }
        Ok(())
    }

    /// Zeroes the destination.
    pub fn zero(&mut self, index: usize) {
        let Some(target) = self.target_page(index) else {
            return complain();
        };
        // SAFETY: by the type invariants the page is referenced for the batch, and nobody else uses it.
        unsafe { target.clear() };
    }

    /// Gives the destination back: the page stays. A frame goes back to its keeper.
    pub fn unassign(&mut self, index: usize) {
        if self.is_committed {
            return complain();
        }
        let Some(target) = self.target_page(index) else {
            return;
        };
        if let Some(slot) = self.arrays.target.get_mut(index) {
            // INVARIANT: 0 is no page; lock and reference are given up below.
            *slot = 0;
        }
        // SAFETY: by the type invariants the batch held the lock.
        unsafe { target.unlock() };
        // SAFETY: by the type invariants the batch owned the reference, and its entry is gone.
        unsafe { target.put() };
    }

    /// Hands each source's identity to its destination, once; pages that turn out to be in use stay.
    pub fn commit(&mut self) {
        if self.is_committed {
            return complain();
        }
        // INVARIANT: no target changes from here on.
        self.is_committed = true;
        match &mut self.collected {
            Collected::Area(request) => {
                // SAFETY: `request` is as setup left it, its area is locked and its arrays are ours for
                // the batch's life; every target is locked and referenced by the type invariants.
                unsafe { bindings::migrate_vma_pages(request) };
            }
            Collected::Frames { .. } => {
                let (source, target) = (&mut self.arrays.source, &mut self.arrays.target);
                // SAFETY: both arrays have `nr` entries, collected by migrate_device_range; every
                // target is locked and referenced by the type invariants.
                unsafe {
                    bindings::migrate_device_pages(
                        source.as_mut_ptr(),
                        target.as_mut_ptr(),
                        self.nr as _,
                    );
                }
            }
        }
    }

    /// The entry moved (after [`Self::commit`]).
    pub fn is_moved(&self, index: usize) -> bool {
        self.is_committed && is_moving(self.source_entry(index)) && self.target_entry(index) != 0
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if !self.is_committed {
            // The kernel would take an entry with a target for one that moved.
            for index in 0..self.nr {
                self.unassign(index);
            }
        }
        match &mut self.collected {
            Collected::Area(request) => {
                // SAFETY: called once for each successful setup, with the area still locked; by the type
                // invariants valid targets are locked and referenced, and only entries that the
                // kernel committed have one.
                unsafe { bindings::migrate_vma_finalize(request) };
            }
            Collected::Frames { .. } => {
                let (source, target) = (&mut self.arrays.source, &mut self.arrays.target);
                // SAFETY: called once for each migrate_device_range, while the chunk is registered;
                // the targets are as above.
                unsafe {
                    bindings::migrate_device_finalize(
                        source.as_mut_ptr(),
                        target.as_mut_ptr(),
                        self.nr as _,
                    );
                }
            }
        }
    }
}

/// Takes a reference to the page and keeps its reverse mapping; `false`, and nothing is held, when it
/// cannot move.
///
/// # Safety
///
/// The struct page is one of a registered chunk, and initialised.
unsafe fn hold(pfn: Pfn, spaces: &mut HeldSpaces) -> bool {
    // SAFETY: the struct page exists by the caller's promise.
    let page = unsafe { bindings::cohmem_pfn_to_page(pfn.0) };
    let Some(page) = NonNull::new(page).map(Page::new) else {
        return false;
    };
    if !page.try_get() {
        return false;
    }
    let is_kept = page.try_lock() && {
        // SAFETY: referenced and locked just now.
        let is_kept = unsafe { spaces.keep(page) };
        // SAFETY: locked above.
        unsafe { page.unlock() };
        is_kept
    };
    if !is_kept {
        // SAFETY: the reference was taken above, and the page is not used any more.
        unsafe { page.put() };
    }
    is_kept
}

/// Collects the pages of `held`, positions from `first` on, and gives up the references to them.
///
/// # Safety
///
/// [`hold`] succeeded for each of them, and what keeps their reverse mappings lives until the batch is
/// finalized.
unsafe fn collect_held(first: Pfn, held: Range<usize>, source: &mut [c_ulong]) {
    let start = first.0.saturating_add(held.start as u64);
    let Some(entries) = source.get_mut(held) else {
        return complain();
    };
    if entries.is_empty() {
        return;
    }
    // SAFETY: `entries` has one entry a page; the pages are referenced, mapped ones of a registered
    // chunk by the caller's promise. The kernel lets a device page have one reference that it cannot
    // explain (mm/migrate_device.c: migrate_vma_check_page), ours. The function always succeeds.
    let _zero =
        unsafe { bindings::migrate_device_range(entries.as_mut_ptr(), start, entries.len() as _) };
    for pfn in (start..).take(entries.len()) {
        // SAFETY: the struct page exists: the reference keeps it.
        let page = unsafe { bindings::cohmem_pfn_to_page(pfn) };
        // SAFETY: the reference is the one that `hold` took.
        unsafe { bindings::cohmem_put_page(page) };
    }
}

debug_by_name! {
    [] Batch<'_>, "Batch";
}
