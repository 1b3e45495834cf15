//! A word that threads can wait on.

use std::{
    ptr,
    sync::atomic::{AtomicU32, Ordering},
};

/// A word that threads can wait on. Each method is one atomic operation or one system call, allocates
/// nothing and leaves `errno` as it was, so all may be used in a signal handler.
#[derive(Debug)]
pub(crate) struct Futex(AtomicU32);

impl Futex {
    pub(crate) const fn new(value: u32) -> Self {
        Self(AtomicU32::new(value))
    }

    pub(crate) fn load(&self, order: Ordering) -> u32 {
        self.0.load(order)
    }

    pub(crate) fn compare_exchange(
        &self,
        old: u32,
        new: u32,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u32, u32> {
        self.0.compare_exchange(old, new, success, failure)
    }

    /// Waits until woken, if the word is `expected`. May return at any time.
    pub(crate) fn wait(&self, expected: u32) {
        let word = self.0.as_ptr();
        let timeout: *const libc::timespec = ptr::null();
        let saved = errno();
        // SAFETY: The word is borrowed, so it lives for the call, and the kernel only reads it. A null
        // timeout is none.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word,
                libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                expected,
                timeout,
            )
        };
        set_errno(saved);
    }

    /// Wakes all who wait.
    pub(crate) fn wake_all(&self) {
        let word = self.0.as_ptr();
        // SAFETY: The kernel takes the word's address as a name and does not access it.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word,
                libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
                i32::MAX,
            )
        };
    }
}

fn errno() -> i32 {
    // SAFETY: It has no preconditions.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: The C library returns the address of the calling thread's own errno, valid for as long as
    // the thread lives.
    unsafe { *place }
}

fn set_errno(value: i32) {
    // SAFETY: It has no preconditions.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: As in `errno`; nothing else refers to it in the meantime.
    unsafe { *place = value };
}
