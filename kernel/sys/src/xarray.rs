// SPDX-License-Identifier: GPL-2.0
//! Sparse arrays.

use core::{cell::UnsafeCell, ffi::c_ulong, marker::PhantomData, mem::MaybeUninit, ptr::NonNull};

use cohmem_kcore::Errno;

use crate::{check, debug_by_name, memory::KernelBox};

/// A sparse array of boxed values.
///
/// # Invariants
///
/// The xarray is initialised, at an address that stays; each of its entries is a box given away to it.
pub struct XArray<T> {
    array: KernelBox<UnsafeCell<MaybeUninit<bindings::xarray>>>,
    values: PhantomData<KernelBox<T>>,
}

// SAFETY: the array owns its values.
unsafe impl<T: Send> Send for XArray<T> {}
// SAFETY: a shared array gives shared access to the values only; the kernel's object synchronises itself.
unsafe impl<T: Sync> Sync for XArray<T> {}

impl<T> XArray<T> {
    /// An empty array.
    ///
    /// **Context:** may sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Self, Errno> {
        let array = KernelBox::new(UnsafeCell::new(MaybeUninit::zeroed()))?;
        // SAFETY: zeroed memory of the right size that is ours and, being boxed, stays where it is.
        unsafe { bindings::cohmem_xa_init(array.get().cast()) };
        // INVARIANT: initialised just now, and empty.
        Ok(Self {
            array,
            values: PhantomData,
        })
    }

    fn as_ptr(&self) -> *mut bindings::xarray {
        self.array.get().cast()
    }

    /// The value at `index`.
    #[must_use]
    pub fn get(&self, index: u64) -> Option<&T> {
        let entry = self.load(index)?;
        // SAFETY: by the type invariants a box's value, which lives until it is taken out, by `&mut self`.
        Some(unsafe { entry.as_ref() })
    }

    /// The value at `index`.
    pub fn get_mut(&mut self, index: u64) -> Option<&mut T> {
        let mut entry = self.load(index)?;
        // SAFETY: as in `get`, and the borrow of the array is unique.
        Some(unsafe { entry.as_mut() })
    }

    fn load(&self, index: u64) -> Option<NonNull<T>> {
        // SAFETY: initialised by the type invariants.
        NonNull::new(unsafe { bindings::xa_load(self.as_ptr(), index) }.cast())
    }

    /// Puts `value` at `index`, where nothing is.
    ///
    /// **Context:** any but interrupts; takes memory that is free, and waits for none.
    ///
    /// # Errors
    ///
    /// `EBUSY`: something is there; `ENOMEM`. The array is as it was, and the value is dropped.
    pub fn insert(&mut self, index: u64, value: KernelBox<T>) -> Result<(), Errno> {
        if self.load(index).is_some() {
            return Err(Errno::EBUSY);
        }
        let entry = value.into_raw();
        // SAFETY: initialised by the type invariants; the entry is a pointer that is aligned to 8 bytes, as
        // the array wants it.
        let result =
            unsafe { bindings::cohmem_xa_store(self.as_ptr(), index, entry.as_ptr().cast()) };
        // INVARIANT: the box was given away to the array, or is taken back.
        check(result).map(drop).inspect_err(|_errno| {
            // SAFETY: given away just now, and not stored.
            drop(unsafe { KernelBox::from_raw(entry) });
        })
    }

    /// The first index from `from` to `last` (inclusive) with a value.
    #[must_use]
    pub fn next_index(&self, from: u64, last: u64) -> Option<u64> {
        let mut index: c_ulong = from;
        // SAFETY: initialised by the type invariants; `index` outlives the call.
        let entry = unsafe { bindings::cohmem_xa_find(self.as_ptr(), &raw mut index, last) };
        (!entry.is_null()).then_some(index)
    }
}

impl<T> Drop for XArray<T> {
    fn drop(&mut self) {
        let mut from = 0;
        while let Some(index) = self.next_index(from, u64::MAX) {
            // SAFETY: initialised by the type invariants.
            let entry = unsafe { bindings::xa_erase(self.as_ptr(), index) };
            if let Some(entry) = NonNull::new(entry.cast::<T>()) {
                // SAFETY: by the type invariants a box given away, which just left the array.
                drop(unsafe { KernelBox::from_raw(entry) });
            }
            from = index;
        }
        // SAFETY: initialised by the type invariants; it is empty, and ends here.
        unsafe { bindings::xa_destroy(self.as_ptr()) };
    }
}

debug_by_name! {
    [T] XArray<T>, "XArray";
}
