// SPDX-License-Identifier: GPL-2.0
//! The module's meeting with the kernel: every unsafe block of the crate is below this module.
//!
//! Files mirror `helpers/*.c`. Each type owns one kernel object and undoes on drop what made it.

pub(crate) mod arrays;
pub(crate) mod batch;
pub(crate) mod chardev;
pub(crate) mod entry;
pub(crate) mod memory;
pub(crate) mod page;
pub(crate) mod pagemap;
pub(crate) mod power;
pub(crate) mod process;
pub(crate) mod range;
mod rmap;
pub(crate) mod stock;
pub(crate) mod sync;
pub(crate) mod sysfs;
pub(crate) mod vma;

#[cfg(hooks)]
pub(crate) mod hooks;

use core::{cell::UnsafeCell, ffi::c_int};

use cohmem_kcore::Errno;

/// Turns a C function's result into ours.
fn check(result: c_int) -> Result<c_int, Errno> {
    match Errno::from_result(result) {
        Some(errno) => Err(errno),
        None if result < 0 => Err(Errno::EIO),
        None => Ok(result),
    }
}

/// Turns a pointer that may encode an error into ours.
fn check_pointer<T>(pointer: *mut T) -> Result<*mut T, Errno> {
    // SAFETY: the function looks at the value of the pointer only.
    let is_error = unsafe { bindings::cohmem_is_err(pointer.cast_const().cast()) };
    if !is_error {
        return Ok(pointer);
    }
    // SAFETY: as above.
    let code = unsafe { bindings::cohmem_ptr_err(pointer.cast_const().cast()) };
    check(c_int::try_from(code).unwrap_or(0)).and(Err(Errno::EIO))
}

/// Warns once in the kernel's log, with a back-trace: the driver broke a rule of its own.
fn complain() {
    // SAFETY: any context.
    unsafe { bindings::cohmem_warn() };
}

/// A static object of the kernel's, which the kernel itself writes to under its own locks.
#[repr(transparent)]
struct KernelStatic<T>(UnsafeCell<T>);

// SAFETY: this crate takes only the object's address; the kernel's functions, which synchronise
// themselves, are the only ones to read or write through it.
unsafe impl<T> Sync for KernelStatic<T> {}

impl<T> KernelStatic<T> {
    const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    const fn get(&self) -> *mut T {
        self.0.get()
    }
}

/// Implements `Debug` by the type's name: there is nothing in a kernel object for a person to read.
macro_rules! debug_by_name {
    ($($(#[$attribute:meta])* [$($generics:tt)*] $type:ty, $name:literal;)+) => {
        $(impl<$($generics)*> core::fmt::Debug for $type {
            fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                formatter.write_str($name)
            }
        })+
    };
}
use debug_by_name;
