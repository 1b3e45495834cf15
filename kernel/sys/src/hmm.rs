// SPDX-License-Identifier: GPL-2.0
//! What a process's page tables say, as `hmm_range_fault` tells it.

use core::{
    ffi::c_void,
    marker::PhantomData,
    ptr::{self, NonNull},
};

use crate::{page::Page, pagemap::Owner};

/// What a walk asks of the pages it comes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Nothing: what is there is told.
    Nothing,
    /// That they can be read: what is missing is faulted in.
    Read,
    /// That they can be written: a shared page is copied first.
    Write,
}

impl Request {
    pub(crate) fn flags(self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Read => bindings::HMM_PFN_REQ_FAULT,
            Self::Write => bindings::HMM_PFN_REQ_FAULT | bindings::HMM_PFN_REQ_WRITE,
        }
    }
}

/// What the page tables say of one address, for as long as `'a` keeps them from changing unnoticed.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    raw: u64,
    lock: PhantomData<&'a ()>,
}

impl Entry<'_> {
    /// # Safety
    ///
    /// `raw` was filled by `hmm_range_fault`, and what it says holds for the value's lifetime.
    pub(crate) unsafe fn new(raw: u64) -> Self {
        Self {
            raw,
            lock: PhantomData,
        }
    }

    /// The mapping is missing or forbids the access.
    #[must_use]
    pub fn is_error(self) -> bool {
        self.raw & bindings::HMM_PFN_ERROR != 0
    }

    /// A page is mapped, and can be read.
    #[must_use]
    pub fn is_present(self) -> bool {
        self.raw & bindings::HMM_PFN_VALID != 0 && !self.is_error()
    }

    /// The page can be written without a fault.
    #[must_use]
    pub fn is_writable(self) -> bool {
        self.is_present() && self.raw & bindings::HMM_PFN_WRITE != 0
    }

    /// The page is mapped by an entry of the page tables that covers 2 to this power pages.
    #[must_use]
    pub fn order(self) -> u32 {
        // SAFETY: pure arithmetic.
        unsafe { bindings::cohmem_hmm_map_order(self.raw) }
    }

    /// The page.
    pub(crate) fn page(self) -> Option<Page> {
        if !self.is_present() {
            return None;
        }
        // SAFETY: a valid entry names a page with a struct page.
        NonNull::new(unsafe { bindings::cohmem_hmm_page(self.raw) }).map(Page::new)
    }

    /// It is the page of zeros that all processes share.
    #[must_use]
    pub fn is_zero_page(self) -> bool {
        self.page()
            // SAFETY: the page exists while it is mapped.
            .is_some_and(|page| unsafe { bindings::cohmem_page_is_zero(page.as_ptr()) })
    }

    /// The page is one of a device's memory. Private memory shows only to its owner.
    #[must_use]
    pub fn is_device(self) -> bool {
        !self.device_owner().is_null()
    }

    /// The page is one of private device memory.
    #[must_use]
    pub fn is_private(self) -> bool {
        self.page()
            // SAFETY: the page exists while the walk's entry holds.
            .is_some_and(|page| unsafe { bindings::cohmem_page_is_private(page.as_ptr()) })
    }

    /// The page is one of this owner's memory.
    #[must_use]
    pub fn is_of(self, owner: Owner) -> bool {
        self.device_owner() == owner.as_ptr().cast_const()
    }

    /// The owner of the page's device memory, which is never null; null for other pages.
    fn device_owner(self) -> *const c_void {
        self.page().map_or(ptr::null(), |page| {
            // SAFETY: the page exists while it is mapped, and its pagemap, if it has one, as long.
            unsafe { bindings::cohmem_device_owner(page.as_ptr()) }
        })
    }
}
