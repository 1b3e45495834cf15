// SPDX-License-Identifier: GPL-2.0
//! Hibernation, whose image does not hold device memory.

use core::{
    ffi::{c_int, c_ulong, c_void},
    mem::MaybeUninit,
};

use cohmem_kcore::Errno;
use cohmem_ksys::{KernelStatic, check};

use super::entry;

/// The registered notifier. One at a time: the module makes one.
///
/// # Invariants
///
/// [`BLOCK`] is registered.
pub(crate) struct PowerNotifier(());

static BLOCK: KernelStatic<bindings::notifier_block> =
    KernelStatic::new(bindings::notifier_block {
        notifier_call: Some(notify),
        // SAFETY: a null pointer and a zero priority.
        ..unsafe { MaybeUninit::zeroed().assume_init() }
    });

impl PowerNotifier {
    /// Registers it. Called once while the module is loaded.
    pub(crate) fn new() -> Result<Self, Errno> {
        // SAFETY: the block is a static, filled, and not registered yet.
        check(unsafe { bindings::register_pm_notifier(BLOCK.get()) })?;
        // INVARIANT: registered just now.
        Ok(Self(()))
    }
}

impl Drop for PowerNotifier {
    fn drop(&mut self) {
        // SAFETY: registered by the type invariants. The function waits for callbacks that run; it
        // fails for blocks that are not registered only.
        let _zero = unsafe { bindings::unregister_pm_notifier(BLOCK.get()) };
    }
}

extern "C" fn notify(
    _block: *mut bindings::notifier_block,
    event: c_ulong,
    _arg: *mut c_void,
) -> c_int {
    const HIBERNATION: c_ulong = bindings::PM_HIBERNATION_PREPARE as c_ulong;
    const RESTORED: c_ulong = bindings::PM_POST_HIBERNATION as c_ulong;
    match event {
        HIBERNATION => match entry::with_driver(|driver| driver.prepare_hibernation()) {
            // SAFETY: pure arithmetic.
            Some(Err(errno)) => unsafe { bindings::cohmem_notify_error(errno.to_result()) },
            _ => bindings::NOTIFY_OK as c_int,
        },
        RESTORED => {
            // `None`: the module is going, and so are its devices.
            let _finished = entry::with_driver(|driver| driver.finish_hibernation());
            bindings::NOTIFY_OK as c_int
        }
        _ => bindings::NOTIFY_DONE as c_int,
    }
}
