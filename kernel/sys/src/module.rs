// SPDX-License-Identifier: GPL-2.0
//! A module's beginning and end.

use core::{
    ffi::c_int,
    ptr::{self, NonNull},
    sync::atomic::{
        AtomicPtr,
        Ordering::{AcqRel, Release},
    },
};

use cohmem_kcore::Errno;

use crate::memory::KernelBox;

/// What a module has made. Dropping it undoes everything: the module is being unloaded, with no file open.
pub trait Module: Send + Sync + Sized + 'static {
    /// Makes everything.
    ///
    /// **Context:** process; may sleep.
    ///
    /// # Errors
    ///
    /// What `insmod` is to say; everything made so far is undone.
    fn load() -> Result<Self, Errno>;
}

/// The place of what a module has made, for [`module!`](crate::module).
#[derive(Debug)]
pub struct Slot<M> {
    /// What was loaded, a box given away; null before and after.
    module: AtomicPtr<M>,
}

impl<M: Module> Slot<M> {
    /// An empty place.
    #[expect(clippy::new_without_default, reason = "made in a static only")]
    #[must_use]
    pub const fn new() -> Self {
        Self {
            module: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Loads the module; 0 or a negative error number.
    pub fn load(&self) -> c_int {
        match M::load().and_then(KernelBox::new) {
            Ok(module) => {
                // Ordering: pairs with the swap in `unload`, on whatever processor that runs.
                self.module.store(module.into_raw().as_ptr(), Release);
                0
            }
            Err(errno) => errno.to_result(),
        }
    }

    /// Undoes it.
    pub fn unload(&self) {
        if let Some(module) = NonNull::new(self.module.swap(ptr::null_mut(), AcqRel)) {
            // SAFETY: `load` gave the box away, and the swap took it once.
            drop(unsafe { KernelBox::from_raw(module) });
        }
    }
}

/// Makes a type that implements [`Module`] the module that is built: once a crate.
#[macro_export]
macro_rules! module {
    ($module:ty) => {
        static MODULE_SLOT: $crate::module::Slot<$module> = $crate::module::Slot::new();

        #[unsafe(no_mangle)]
        extern "C" fn cohmem_module_init() -> ::core::ffi::c_int {
            MODULE_SLOT.load()
        }

        #[unsafe(no_mangle)]
        extern "C" fn cohmem_module_exit() {
            MODULE_SLOT.unload();
        }
    };
}
