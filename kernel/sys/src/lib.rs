// SPDX-License-Identifier: GPL-2.0
//! Safe types over the kernel, for drivers of device memory.
//!
//! The kernel's own Rust crates are not there on a stock kernel without Rust support; these are built
//! from its headers at build time. Files mirror `helpers/*.c`. Each type owns one kernel object and
//! undoes on drop what made it.
//!
//! - [`pagemap`]: device memory with struct pages of its own
//! - [`batch`], [`vma`], [`process`], [`group`]: whose pages move, and how, and for whom
//! - [`mirror`], [`hmm`]: a device's page tables that follow a process's
//! - [`module`], [`abi`]: a module's beginning and end, the arguments of its commands
//! - [`node`]: device nodes and debugfs files; [`gup`]: pages held for a device's own use
//! - [`page`], [`stock`], [`range`]: pages, system pages allocated ahead, physical ranges
//! - [`memory`], [`xarray`], [`sync`]: memory for the driver itself, locks, time
//!
//! There is no allocator and no panic: memory is asked for fallibly ([`memory`]), and a panic, which would
//! be a bug, stops the kernel thread as `BUG()` does.
#![no_std]
#![deny(elided_lifetimes_in_paths)]

pub mod abi;
pub mod arrays;
pub mod batch;
pub mod copy;
pub mod group;
pub mod gup;
pub mod hmm;
pub mod memory;
pub mod mirror;
pub mod module;
pub mod node;
pub mod page;
pub mod pagemap;
mod private;
pub mod process;
pub mod range;
mod rmap;
pub mod stock;
pub mod sync;
pub mod vma;
pub mod xarray;

#[cfg(hooks)]
pub mod hooks;

use core::{cell::UnsafeCell, ffi::c_int, panic::PanicInfo};

use cohmem_kcore::Errno;

/// Turns a C function's result into ours.
///
/// # Errors
///
/// The negative result's; `EIO` for one that is no error number.
pub fn check(result: c_int) -> Result<c_int, Errno> {
    match Errno::from_result(result) {
        Some(errno) => Err(errno),
        None if result < 0 => Err(Errno::EIO),
        None => Ok(result),
    }
}

/// Turns a pointer that may encode an error into ours.
///
/// # Errors
///
/// The encoded one.
pub fn check_pointer<T>(pointer: *mut T) -> Result<*mut T, Errno> {
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
pub fn complain() {
    // SAFETY: any context.
    unsafe { bindings::cohmem_warn() };
}

/// A static object of the kernel's, which the kernel itself writes to under its own locks.
#[repr(transparent)]
pub struct KernelStatic<T>(UnsafeCell<T>);

// SAFETY: the type gives only the object's address; the kernel's functions, which synchronise
// themselves, are the only ones to read or write through it.
unsafe impl<T> Sync for KernelStatic<T> {}

impl<T> KernelStatic<T> {
    /// The object, as it is when the module is loaded.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Its address.
    pub const fn get(&self) -> *mut T {
        self.0.get()
    }
}

/// No code is meant to panic: a panic is a bug, and stops the thread as `BUG()` does.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if let Some(location) = info.location() {
        let file = location.file();
        let format = c"\x010cohmem: panic at %.*s:%u\n".as_ptr();
        let length = c_int::try_from(file.len()).unwrap_or(0);
        // SAFETY: the format takes a length, that many bytes, and a number.
        let _length = unsafe { bindings::_printk(format, length, file.as_ptr(), location.line()) };
    }
    // SAFETY: any context; does not return.
    unsafe { bindings::cohmem_bug() }
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
