// SPDX-License-Identifier: GPL-2.0
//! What happens when a process touches private device memory: the page is brought home.
//!
//! Only kernels with `CONFIG_DEVICE_PRIVATE` have such memory, and call this.

use core::{
    ffi::{c_int, c_ulong},
    ptr::NonNull,
};

use cohmem_kcore::{
    Errno,
    host::{Source, Span},
};

use crate::{
    arrays::Arrays,
    batch::{Batch, Select},
    page::{PAGE_BYTES, Page},
    pagemap::{self, Owner},
    stock::Stock,
};

/// A process touched a page of private memory of ours. Process context; may sleep.
///
/// Returns 0 for an access that is to be tried again. The page is home then, unless something else was
/// at it; else a negative error number: `ENOMEM`, for which the kernel looks for memory, or one that ends
/// the process.
#[unsafe(no_mangle)]
extern "C" fn cohmem_page_touched(
    area: NonNull<bindings::vm_area_struct>,
    address: c_ulong,
    page: NonNull<bindings::page>,
) -> c_int {
    let page = Page::new(page);
    // SAFETY: the kernel calls this for pages of our pagemaps only, and holds a reference to the page.
    let pagemap = unsafe { bindings::cohmem_page_pagemap(page.as_ptr()) };
    // SAFETY: the page is a reference to its pagemap, one of ours.
    let owner = unsafe { pagemap::head_of(pagemap) }.owner;
    // SAFETY: the fault handler holds the lock of the area's address space and a reference to the page
    // for the call; the address is in the area.
    match unsafe { bring_home(area, address, page, owner) } {
        Ok(()) => 0,
        Err(errno) => errno.to_result(),
    }
}

/// Moves the touched page to a page of system memory.
///
/// Its content needs no strict count of references, as that of coherent memory does: no one but its device
/// can reach it, by tables that have forgotten it when it is collected.
///
/// # Errors
///
/// `ENOMEM`; `EIO`: the content is lost. The page stays.
///
/// # Safety
///
/// `address` lies in `area`, whose address space is locked for reading by this thread; `page` is the fault's,
/// which the caller holds.
unsafe fn bring_home(
    area: NonNull<bindings::vm_area_struct>,
    address: u64,
    page: Page,
    owner: Owner,
) -> Result<(), Errno> {
    let mut stock = Stock::of_one()?;
    if stock.refill(1) == 0 {
        return Err(Errno::ENOMEM);
    }
    let mut arrays = Arrays::with_room(1)?;
    let start = address & !(PAGE_BYTES - 1);
    let span = Span {
        start,
        end: start.saturating_add(PAGE_BYTES),
    };
    let select = Select::Device(owner);
    // SAFETY: the span is one page of the area, as long as the arrays; the rest is the caller's promise.
    let mut batch = unsafe { Batch::of_area(area, span, select, Some(page), &mut arrays) }?;
    if matches!(batch.source(0), Source::Page(_)) && batch.assign_system(0, &mut stock) {
        if batch.copy(0).is_err() {
            batch.unassign(0);
            return Err(Errno::EIO);
        }
        batch.commit();
    }
    Ok(())
}
