// SPDX-License-Identifier: GPL-2.0
//! A copy of one page that survives the loss of its source.
//!
//! The kernel's own (`copy_mc_to_kernel`) moves bytes where the processor has fast string moves. Here
//! words are moved then, with the same recovery: as fast on hardware, where a page's move is aligned,
//! and several times faster under software emulation, which runs string moves unit by unit.

use core::{
    ffi::c_void,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use cohmem_kcore::host::Unreadable;

use crate::page::PAGE_BYTES;

/// Words are moved; else the kernel's function decides.
static MOVES_WORDS: AtomicBool = AtomicBool::new(false);

/// Learns what the processor can. Before the first copy, once.
pub fn learn() {
    // SAFETY: any context.
    let is_fast = unsafe { bindings::cohmem_string_moves_are_fast() };
    // SAFETY: any context.
    let may_not_recover = unsafe { bindings::cohmem_string_moves_may_not_recover() };
    // Ordering: both ways of copying are right at any time.
    MOVES_WORDS.store(is_fast && !may_not_recover, Relaxed);
}

/// Copies a page's bytes; [`Unreadable`] when a machine check ended the copy early.
///
/// # Safety
///
/// Both addresses are mapped by the kernel for a page's length, aligned to a page and apart from each
/// other, and nobody else reads or writes the target.
pub(crate) unsafe fn page(target: *mut c_void, source: *const c_void) -> Result<(), Unreadable> {
    let nr_left = if MOVES_WORDS.load(Relaxed) {
        // SAFETY: a page's words, mapped by the caller's promise; a machine check ends the copy early.
        unsafe { bindings::cohmem_copy_words_mc(target, source, PAGE_BYTES / 8) }
    } else {
        // SAFETY: a page's bytes, as above.
        unsafe { bindings::copy_mc_to_kernel(target, source, PAGE_BYTES as _) }
    };
    if nr_left == 0 { Ok(()) } else { Err(Unreadable) }
}
