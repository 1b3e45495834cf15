//! Signals of a thread that moves memory.

use std::{mem::MaybeUninit, ptr};

/// While it lives, no signal handler runs on this thread, but for those of its own faults: a handler
/// that touched the span in motion would wait for its own thread.
#[derive(Debug)]
pub(crate) struct BlockedSignals {
    before: libc::sigset_t,
}

impl BlockedSignals {
    pub(crate) fn new() -> Self {
        let mut all = MaybeUninit::uninit();
        // SAFETY: The set is valid for writes.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        // SAFETY: `sigfillset` initialises it, and cannot fail for a valid pointer.
        let mut all: libc::sigset_t = unsafe { all.assume_init() };
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL] {
            // SAFETY: The set is initialised, and the number is a signal's.
            unsafe { libc::sigdelset(&raw mut all, signal) };
        }
        let mut before = MaybeUninit::uninit();
        // SAFETY: Both sets are valid for the call, and SIG_SETMASK is a known way to use them.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, before.as_mut_ptr()) };
        // SAFETY: `pthread_sigmask` wrote it: it fails only for an unknown way.
        let before = unsafe { before.assume_init() };
        Self { before }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: The set was read from this thread; the old one is not asked for. (The guard is not
        // sent to other threads: it never leaves the function that makes it.)
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, ptr::null_mut())
        };
    }
}
