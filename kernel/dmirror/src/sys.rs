// SPDX-License-Identifier: GPL-2.0
//! The module's parameters.

use core::ffi::{c_uint, c_ulong};

unsafe extern "C" {
    fn cohmem_dmirror_start(device: c_uint) -> c_ulong;
}

/// First physical address of the memory of coherent device 0 or 1; `None` when it is not given.
pub(crate) fn start_of(device: u32) -> Option<u64> {
    // SAFETY: reads a parameter that does not change once the module is loaded.
    let start = unsafe { cohmem_dmirror_start(device) };
    (start != 0).then_some(start)
}
