// SPDX-License-Identifier: GPL-2.0
//! The module's entry points and parameters, and the arguments that its callers pass.

use core::{
    ffi::{c_int, c_uint, c_ulong},
    ptr::{self, NonNull},
    sync::atomic::{
        AtomicPtr,
        Ordering::{AcqRel, Release},
    },
};

use cohmem_kcore::Errno;
use cohmem_ksys::{memory::KernelBox, process::Plain};

use crate::{
    abi::{Command, GupTest},
    device::Devices,
};

unsafe extern "C" {
    fn cohmem_dmirror_start(device: c_uint) -> c_ulong;
}

// SAFETY: `repr(C)` structures of integers only, without padding: `abi.rs` asserts their sizes.
unsafe impl Plain for Command {}
// SAFETY: as above.
unsafe impl Plain for GupTest {}

/// What [`cohmem_module_init`] made, for [`cohmem_module_exit`]; null when nothing was.
static DEVICES: AtomicPtr<Devices> = AtomicPtr::new(ptr::null_mut());

/// First physical address of the memory of coherent device 0 or 1; `None` when it is not given.
pub(crate) fn start_of(device: u32) -> Option<u64> {
    // SAFETY: reads a parameter that does not change once the module is loaded.
    let start = unsafe { cohmem_dmirror_start(device) };
    (start != 0).then_some(start)
}

fn init() -> Result<(), Errno> {
    let devices = KernelBox::new(Devices::new()?)?;
    DEVICES.store(devices.into_raw().as_ptr(), Release);
    Ok(())
}

/// The module is being loaded. On an error, everything made so far was undone.
#[unsafe(no_mangle)]
extern "C" fn cohmem_module_init() -> c_int {
    init().map_or_else(Errno::to_result, |()| 0)
}

/// The module is being unloaded: no file is open, no memory is registered, since either holds it.
#[unsafe(no_mangle)]
extern "C" fn cohmem_module_exit() {
    if let Some(devices) = NonNull::new(DEVICES.swap(ptr::null_mut(), AcqRel)) {
        // SAFETY: `init` gave the box away, and the swap took it once.
        drop(unsafe { KernelBox::from_raw(devices) });
    }
}
