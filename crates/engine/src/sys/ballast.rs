//! Mappings that are given up when the process is at its limit of them.
//!
//! The kernel allows a process a number of mappings (`vm.max_map_count`). Bringing a span home needs a
//! few more for a moment, even if fewer are left afterwards. So some are kept that serve for nothing
//! else.

use std::{
    ffi::c_void,
    ptr,
    sync::{Mutex, PoisonError},
};

use rustix::{
    io::Errno,
    mm::{MapFlags, MprotectFlags, ProtFlags},
};

const PAGE_BYTES: usize = 4096;
/// Each second page is a mapping of its own.
const NR_PAGES: usize = 64;

static BALLAST: Mutex<Option<Ballast>> = Mutex::new(None);

/// The address of the mappings.
#[derive(Debug)]
struct Ballast(usize);

/// Takes the ballast aboard, if it is not.
pub(crate) fn keep() {
    let mut ballast = BALLAST.lock().unwrap_or_else(PoisonError::into_inner);
    if ballast.is_none() {
        *ballast = Ballast::new();
    }
}

/// Does what must not fail for want of a mapping: on `ENOMEM` once more without the ballast.
pub(crate) fn with_reserve(mut call_fn: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
    match call_fn() {
        Err(Errno::NOMEM) => {
            let mut ballast = BALLAST.lock().unwrap_or_else(PoisonError::into_inner);
            drop(ballast.take());
            let result = call_fn();
            *ballast = Ballast::new();
            result
        }
        result => result,
    }
}

impl Ballast {
    fn new() -> Option<Self> {
        // SAFETY: The address hint is null and MAP_FIXED is not set, so the kernel picks addresses that
        // nothing is mapped at.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                NR_PAGES * PAGE_BYTES,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }
        .ok()?;
        let ballast = Self(start.expose_provenance());
        for page in (1..NR_PAGES).step_by(2) {
            // SAFETY: A page of the mapping just made, which nothing uses.
            let protected = unsafe {
                rustix::mm::mprotect(
                    start.wrapping_byte_add(page * PAGE_BYTES),
                    PAGE_BYTES,
                    MprotectFlags::READ,
                )
            };
            // At the limit: what there is by now is kept.
            if protected.is_err() {
                break;
            }
        }
        Some(ballast)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let start: *mut c_void = ptr::with_exposed_provenance_mut(self.0);
        // SAFETY: The mappings are this value's, and nothing uses them.
        let unmapped = unsafe { rustix::mm::munmap(start, NR_PAGES * PAGE_BYTES) };
        debug_assert!(
            unmapped.is_ok(),
            "munmap takes a mapping of this process: {unmapped:?}"
        );
    }
}
