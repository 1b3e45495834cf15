// SPDX-License-Identifier: GPL-2.0
//! One physical page of the kernel's.

use core::{
    mem::MaybeUninit,
    ptr::{self, NonNull},
};

use cohmem_kcore::host::{PageFacts, Pfn, Unreadable};

use crate::copy;

/// Bytes of a page.
pub const PAGE_BYTES: u64 = cohmem_uapi::FRAME_BYTES;

/// The struct page of a physical page. Owns nothing.
///
/// # Invariants
///
/// The struct page exists for as long as the value is used: it is one of online system memory, or of
/// a chunk that is registered.
#[derive(Clone, Copy)]
pub struct Page(NonNull<bindings::page>);

impl Page {
    /// The page with this struct page.
    pub(crate) fn new(page: NonNull<bindings::page>) -> Self {
        // INVARIANT: pointers to struct pages come from the kernel's functions or from a registered
        // chunk, and the callers use the page only while what vouches for it holds.
        Self(page)
    }

    /// The page with this number, if it is one of online system memory.
    pub fn online(pfn: Pfn) -> Option<Self> {
        // SAFETY: accepts any number; returns null for what is no online memory.
        let page = unsafe { bindings::pfn_to_online_page(pfn.0) };
        NonNull::new(page).map(Self::new)
    }

    /// The struct page.
    pub(crate) fn as_ptr(self) -> *mut bindings::page {
        self.0.as_ptr()
    }

    /// Its number.
    pub fn pfn(self) -> Pfn {
        // SAFETY: the struct page exists by the type invariants.
        Pfn(unsafe { bindings::cohmem_page_to_pfn(self.as_ptr()) })
    }

    /// What the kernel says of it now; advisory unless it is locked.
    pub fn facts(self) -> PageFacts {
        let mut facts = MaybeUninit::uninit();
        // SAFETY: the struct page exists by the type invariants; the function only reads it, and a stale
        // answer is allowed.
        unsafe { bindings::cohmem_page_facts(self.as_ptr(), facts.as_mut_ptr()) };
        // SAFETY: the function filled every member.
        let facts = unsafe { facts.assume_init() };
        PageFacts {
            is_zero: facts.is_zero,
            is_anonymous: facts.is_anonymous,
            is_ksm: facts.is_ksm,
            is_large: facts.is_large,
            is_locked: facts.is_locked,
            is_on_lru: facts.is_on_lru,
            is_in_swapcache: facts.is_in_swapcache,
            is_pinned: facts.is_pinned,
            is_poisoned: facts.is_poisoned,
            is_shared: facts.is_shared,
            refs: u32::try_from(facts.refs).unwrap_or(0),
            maps: u32::try_from(facts.maps).unwrap_or(0),
        }
    }

    /// It is marked as poisoned.
    pub fn is_poisoned(self) -> bool {
        // SAFETY: the struct page exists by the type invariants.
        unsafe { bindings::cohmem_page_is_poisoned(self.as_ptr()) }
    }

    /// Marks it as poisoned.
    pub fn set_poisoned(self) {
        // SAFETY: the struct page exists by the type invariants; setting the flag is atomic.
        unsafe { bindings::cohmem_page_set_poisoned(self.as_ptr()) };
    }

    /// Forgets what its former owner left in its flags. Any context.
    ///
    /// # Safety
    ///
    /// The page is a device page with no reference left, and nobody hands it out meanwhile.
    pub unsafe fn forget_owner(self) {
        // SAFETY: the struct page exists by the type invariants.
        let is_mlocked = unsafe { bindings::cohmem_page_is_mlocked(self.as_ptr()) };
        if is_mlocked {
            // SAFETY: the page was counted as locked when the flag was set, and the flag is cleared
            // below, so that the count is taken back once.
            unsafe { bindings::cohmem_page_forget_mlock(self.as_ptr()) };
        }
        // SAFETY: no reference is left by the caller's promise, so nobody relies on the flags.
        unsafe { bindings::cohmem_page_forget_flags(self.as_ptr()) };
    }

    /// Gives the page of private memory its content.
    ///
    /// # Safety
    ///
    /// The page is one of private memory that only the caller knows, and `content` one of system memory,
    /// whose only reference goes from the caller to the page.
    pub(crate) unsafe fn set_content(self, content: Self) {
        // SAFETY: the struct page exists by the type invariants, and is the caller's alone.
        unsafe { bindings::cohmem_page_set_content(self.as_ptr(), content.as_ptr()) };
    }

    /// Frees the content of the page of private memory. Any context.
    ///
    /// # Safety
    ///
    /// The page is one of private memory with no reference left, and nobody hands it out meanwhile.
    pub(crate) unsafe fn free_content(self) {
        // SAFETY: the struct page exists by the type invariants.
        let content = unsafe { bindings::cohmem_page_content(self.as_ptr()) };
        // SAFETY: as above; the page is nobody's.
        unsafe { bindings::cohmem_page_set_content(self.as_ptr(), ptr::null_mut()) };
        if let Some(content) = NonNull::new(content) {
            // SAFETY: the page had the only reference, which nobody can find any more.
            unsafe { Self::new(content).put() };
        }
    }

    /// Somebody maps it; advisory, since exits need no lock of the page's.
    pub(crate) fn is_mapped(self) -> bool {
        // SAFETY: the struct page exists by the type invariants; the function only reads it.
        unsafe { bindings::cohmem_page_is_mapped(self.as_ptr()) }
    }

    /// What it names as the root of its reverse mapping, if it is anonymous. No reference: who maps
    /// the page keeps it.
    pub(super) fn anon_vma(self) -> Option<NonNull<bindings::anon_vma>> {
        // SAFETY: as above.
        NonNull::new(unsafe { bindings::cohmem_page_anon_vma(self.as_ptr()) })
    }

    /// Takes a reference, unless none is left.
    pub(super) fn try_get(self) -> bool {
        // SAFETY: the struct page exists by the type invariants; the count changes atomically.
        unsafe { bindings::cohmem_page_try_get(self.as_ptr()) }
    }

    /// Tries to take the page lock.
    pub fn try_lock(self) -> bool {
        // SAFETY: the struct page exists by the type invariants.
        unsafe { bindings::cohmem_page_try_lock(self.as_ptr()) }
    }

    /// Gives the page lock back.
    ///
    /// # Safety
    ///
    /// The caller holds the page lock.
    pub unsafe fn unlock(self) {
        // SAFETY: locked by the caller's promise.
        unsafe { bindings::cohmem_page_unlock(self.as_ptr()) };
    }

    /// Gives a reference up.
    ///
    /// # Safety
    ///
    /// The caller owns a reference and does not use the page after.
    pub unsafe fn put(self) {
        // SAFETY: the caller's reference is given up, once.
        unsafe { bindings::cohmem_put_page(self.as_ptr()) };
    }

    /// Copies system memory; survives the loss of its content where the processor can, and lets the
    /// kernel handle the lost page then.
    ///
    /// # Safety
    ///
    /// Nobody else reads or writes `to`, and the caller owns references to both.
    pub unsafe fn copy_from_system(self, from: Self) -> Result<(), Unreadable> {
        // SAFETY: by the caller's promise.
        let copied = unsafe { self.copy_from_device(from) };
        if copied.is_err() {
            // SAFETY: any context; the number is a page's. The kernel itself looks at the page later.
            unsafe { bindings::memory_failure_queue(from.pfn().0, 0) };
        }
        copied
    }

    /// Copies device memory; survives the loss of its content where the processor can. The caller reports
    /// the loss to the ledger.
    ///
    /// # Safety
    ///
    /// As for [`Self::copy_from_system`].
    pub unsafe fn copy_from_device(self, from: Self) -> Result<(), Unreadable> {
        // SAFETY: the struct page exists by the type invariants; the kernel maps all coherent memory.
        let source = unsafe { bindings::cohmem_page_address(from.as_ptr()) };
        // SAFETY: as above.
        let target = unsafe { bindings::cohmem_page_address(self.as_ptr()) };
        // SAFETY: both addresses are mapped for a page's length, apart from each other, and the target
        // is the caller's alone.
        unsafe { copy::page(target, source) }
    }

    /// Copies its content out.
    ///
    /// # Safety
    ///
    /// The page is mapped or referenced by someone for the length of the call.
    pub(crate) unsafe fn read(
        self,
        into: &mut [u8; PAGE_BYTES as usize],
    ) -> Result<(), Unreadable> {
        // SAFETY: the struct page exists by the type invariants; the kernel maps all such memory.
        let source = unsafe { bindings::cohmem_page_address(self.as_ptr()) };
        // SAFETY: `into` has a page's length, and is nobody else's; others may write to the source
        // meanwhile, to whom no Rust reference exists; a machine check ends the copy early.
        let nr_left = unsafe {
            bindings::copy_mc_to_kernel(
                into.as_mut_ptr().cast(),
                source.cast_const(),
                PAGE_BYTES as _,
            )
        };
        if nr_left == 0 {
            Ok(())
        } else {
            Err(Unreadable)
        }
    }

    /// Replaces its content. On an error a part of it is replaced.
    ///
    /// # Safety
    ///
    /// As for [`Self::read`], and whoever maps it expects that it is written to.
    pub(crate) unsafe fn write(self, from: &[u8; PAGE_BYTES as usize]) -> Result<(), Unreadable> {
        // SAFETY: the struct page exists by the type invariants; the kernel maps all such memory.
        let target = unsafe { bindings::cohmem_page_address(self.as_ptr()) };
        // SAFETY: both are a page long and apart from each other; no Rust reference to the page exists; a
        // machine check ends the copy early.
        let nr_left =
            unsafe { bindings::copy_mc_to_kernel(target, from.as_ptr().cast(), PAGE_BYTES as _) };
        if nr_left == 0 {
            Ok(())
        } else {
            Err(Unreadable)
        }
    }

    /// Zeroes its content.
    ///
    /// # Safety
    ///
    /// The caller owns a reference, and nobody else reads or writes the page.
    pub unsafe fn clear(self) {
        // SAFETY: the page exists, is mapped by the kernel, and is the caller's alone.
        unsafe { bindings::cohmem_page_clear(self.as_ptr()) };
    }
}
