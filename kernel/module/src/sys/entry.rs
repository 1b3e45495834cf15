// SPDX-License-Identifier: GPL-2.0
//! The module's entry points, its one driver, its log lines.

use core::{
    ffi::c_int,
    ptr::{self, NonNull},
    sync::atomic::{
        AtomicPtr,
        Ordering::{AcqRel, Acquire, Release},
    },
};

use cohmem_kcore::{Driver, Errno};
use cohmem_ksys::{copy, memory::KernelBox, process};

use super::{
    chardev::{Nodes, Registration},
    power::PowerNotifier,
};
use crate::host::Kernel;

/// The driver, while the module is loaded: null before and after.
static DRIVER: AtomicPtr<Driver<Kernel>> = AtomicPtr::new(ptr::null_mut());

/// Everything that the module has made, in the order in which it is undone.
struct Module {
    nodes: Option<Nodes>,
    _power: PowerNotifier,
    _driver: PublishedDriver,
    _registration: Registration,
}

/// What [`init`] made, for [`exit`]; null when nothing was.
static MODULE: AtomicPtr<Module> = AtomicPtr::new(ptr::null_mut());

/// The driver that [`DRIVER`] names.
struct PublishedDriver {
    driver: KernelBox<Driver<Kernel>>,
}

impl PublishedDriver {
    fn new() -> Result<Self, Errno> {
        let driver = KernelBox::new(Driver::new(Kernel)?)?;
        // Ordering: pairs with the load in `with_driver`, which sees an initialised driver.
        DRIVER.store(driver.as_ptr().as_ptr(), Release);
        Ok(Self { driver })
    }
}

impl Drop for PublishedDriver {
    fn drop(&mut self) {
        debug_assert!(ptr::eq(DRIVER.load(Acquire), &raw const *self.driver));
        DRIVER.store(ptr::null_mut(), Release);
    }
}

/// Calls `use_fn` with the driver; `None` when there is none.
///
/// **Context:** the callbacks of nodes, attributes and the power notifier only: all of them are gone
/// before the driver is, and have ended by then ([`Module`] is dropped in that order).
pub(super) fn with_driver<R>(use_fn: impl FnOnce(&Driver<Kernel>) -> R) -> Option<R> {
    // Ordering: pairs with the store in `PublishedDriver::new`.
    let driver = NonNull::new(DRIVER.load(Acquire))?;
    // SAFETY: the driver lives as long as any callback runs, as this function's context says.
    Some(use_fn(unsafe { driver.as_ref() }))
}

fn init() -> Result<(), Errno> {
    copy::learn();
    process::learn_proc_files();
    let registration = Registration::new()?;
    let driver = PublishedDriver::new()?;
    let power = PowerNotifier::new()?;
    let mut module = KernelBox::new(Module {
        nodes: None,
        _power: power,
        _driver: driver,
        _registration: registration,
    })?;
    // Last: once files can be open, nothing may fail any more.
    module.nodes = Some(Nodes::new(&module._registration)?);
    MODULE.store(module.into_raw().as_ptr(), Release);
    Ok(())
}

/// The module is being loaded. On an error, everything made so far was undone.
#[unsafe(no_mangle)]
extern "C" fn cohmem_module_init() -> c_int {
    init().map_or_else(Errno::to_result, |()| 0)
}

/// The module is being unloaded: no file is open, no device is attached, since either holds it.
#[unsafe(no_mangle)]
extern "C" fn cohmem_module_exit() {
    #[cfg(hooks)]
    crate::hooks::reset();
    if let Some(module) = NonNull::new(MODULE.swap(ptr::null_mut(), AcqRel)) {
        // SAFETY: `init` gave the box away, and the swap took it once.
        drop(unsafe { KernelBox::from_raw(module) });
    }
}

/// Logs that a device was attached.
pub(crate) fn log_attached(device: u32, nr_frames: u64, start: u64) {
    let format = c"\x016cohmem: device %u attached: %llu frames at %#llx\n".as_ptr();
    // SAFETY: the format takes one 32-bit and two 64-bit numbers.
    let _length = unsafe { bindings::_printk(format, device, nr_frames, start) };
}

/// Logs that a device was detached.
pub(crate) fn log_detached(device: u32, nr_evicted: u64, nr_kept: u64) {
    let format = c"\x016cohmem: device %u detached: %llu frames evicted, %llu kept\n".as_ptr();
    // SAFETY: the format takes one 32-bit and two 64-bit numbers.
    let _length = unsafe { bindings::_printk(format, device, nr_evicted, nr_kept) };
}
