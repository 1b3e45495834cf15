//! Keeps `fork` out of the moments in which a child would inherit what it must not.
//!
//! A device mapping is kept from children by `MADV_DONTFORK`, which a fresh mapping does not have. So
//! between making it and marking it no `fork` may start.

use std::sync::{Once, atomic::Ordering};

use super::futex::Futex;

/// The number of threads that are between the two calls, and in bit 31 whether a `fork` waits or runs.
static GATE: Futex = Futex::new(0);
static REGISTER: Once = Once::new();

const FORKING: u32 = 1 << 31;

/// No `fork` of this process starts while it lives. Not to be held across anything that waits for
/// another thread.
#[derive(Debug)]
pub(crate) struct NoForkGuard(());

/// Makes `fork` heed the guards. Before the first of them.
pub(crate) fn heed_guards() {
    REGISTER.call_once(|| {
        // SAFETY: The three functions are safe to call at any time, and live forever. A failure (no
        // memory for the list) leaves a window of some instructions in which a child inherits a device
        // mapping; nothing breaks in this process.
        unsafe { libc::pthread_atfork(Some(prepare), Some(resume), Some(reset)) };
    });
}

impl NoForkGuard {
    pub(crate) fn new() -> Self {
        let mut gate = GATE.load(Ordering::Relaxed);
        loop {
            if gate & FORKING != 0 {
                GATE.wait(gate);
                gate = GATE.load(Ordering::Relaxed);
                continue;
            }
            match GATE.compare_exchange(gate, gate + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Self(()),
                Err(now) => gate = now,
            }
        }
    }
}

impl Drop for NoForkGuard {
    fn drop(&mut self) {
        let before = change(|gate| gate - 1);
        if before == FORKING + 1 {
            GATE.wake_all();
        }
    }
}

fn change(next_fn: impl Fn(u32) -> u32) -> u32 {
    let mut gate = GATE.load(Ordering::Relaxed);
    loop {
        match GATE.compare_exchange(gate, next_fn(gate), Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => return gate,
            Err(now) => gate = now,
        }
    }
}

/// In the parent, before: the C library lets one thread at a time come here.
extern "C" fn prepare() {
    let mut gate = change(|gate| gate | FORKING) | FORKING;
    while gate != FORKING {
        GATE.wait(gate);
        gate = GATE.load(Ordering::Acquire);
    }
}

/// In the parent, after.
extern "C" fn resume() {
    change(|gate| gate & !FORKING);
    GATE.wake_all();
}

/// In the child, after: it has one thread, and no guard.
extern "C" fn reset() {
    change(|_| 0);
}
