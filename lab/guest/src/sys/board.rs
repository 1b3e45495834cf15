//! Words that a process shares with its children.

use std::{io::Error, sync::atomic::AtomicU64};

/// `count` words, zero, seen by this process and by every child that it forks from now on.
///
/// They stay mapped until the process ends.
pub(crate) fn shared_words(count: usize) -> &'static [AtomicU64] {
    // SAFETY: a new mapping at an address that the kernel chooses.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            count * size_of::<AtomicU64>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert_ne!(base, libc::MAP_FAILED, "mmap: {}", Error::last_os_error());
    // SAFETY: just mapped for that many words, page-aligned, zeroed, and never unmapped; atomics allow
    // what the other processes do.
    unsafe { std::slice::from_raw_parts(base.cast::<AtomicU64>(), count) }
}
