// SPDX-License-Identifier: GPL-2.0
//! Memory that may fail to be there: boxes, buffers, shared owners.

use core::{
    cell::UnsafeCell,
    mem::{ManuallyDrop, MaybeUninit},
    ops::{Deref, DerefMut},
    ptr::{self, NonNull},
    slice,
    sync::atomic::AtomicU64,
};

use cohmem_kcore::Errno;

use crate::debug_by_name;

/// What the kernel's allocator aligns to at least.
const ALIGNMENT: usize = 8;

/// `nr` zeroed objects of type `T`.
///
/// **Context:** may sleep.
fn allocate<T>(nr: usize) -> Result<NonNull<T>, Errno> {
    const {
        assert!(
            align_of::<T>() <= ALIGNMENT,
            "the kernel's allocator aligns to 8 bytes only"
        )
    };
    let bytes = nr.checked_mul(size_of::<T>()).ok_or(Errno::ENOMEM)?;
    if bytes == 0 {
        return Ok(NonNull::dangling());
    }
    // SAFETY: `bytes` is not 0; every caller may sleep, as this function's context says.
    let memory = unsafe { bindings::cohmem_kvzalloc(bytes) };
    NonNull::new(memory.cast()).ok_or(Errno::ENOMEM)
}

/// Frees what [`allocate`] returned.
///
/// # Safety
///
/// `memory` came from `allocate(nr)`, is freed once, and nothing uses it any more.
unsafe fn release<T>(memory: NonNull<T>, nr: usize) {
    if nr != 0 && size_of::<T>() != 0 {
        // SAFETY: not the dangling pointer of an empty allocation, so it came from kvzalloc; freed once
        // and unused by the caller's promise.
        unsafe { bindings::kvfree(memory.as_ptr().cast()) };
    }
}

/// A boxed value.
///
/// # Invariants
///
/// `memory` holds an initialised `T`, is owned by the box, and never moves.
pub struct KernelBox<T> {
    memory: NonNull<T>,
}

// SAFETY: the box owns its value as the value's own type would: sending one sends the other.
unsafe impl<T: Send> Send for KernelBox<T> {}
// SAFETY: a shared box gives shared access to the value, nothing else.
unsafe impl<T: Sync> Sync for KernelBox<T> {}

impl<T> KernelBox<T> {
    /// Boxes `value`. May sleep.
    pub fn new(value: T) -> Result<Self, Errno> {
        let memory = allocate::<T>(1)?;
        // SAFETY: `allocate` returned room for one `T`, aligned, which nobody else knows.
        unsafe { memory.write(value) };
        // INVARIANT: initialised just now, and owned from here.
        Ok(Self { memory })
    }

    /// Gives the value's memory away.
    pub fn into_raw(self) -> NonNull<T> {
        ManuallyDrop::new(self).memory
    }

    /// Takes back what [`Self::into_raw`] gave away.
    ///
    /// # Safety
    ///
    /// `memory` came from `into_raw`, is taken back once, and no reference into it is left.
    pub unsafe fn from_raw(memory: NonNull<T>) -> Self {
        // INVARIANT: it was a box's, and by the caller's promise nobody else's now.
        Self { memory }
    }

    /// Address of the value, which stays the same for the life of the box.
    pub fn as_ptr(&self) -> NonNull<T> {
        self.memory
    }
}

impl<T> Deref for KernelBox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: by the type invariants the value is initialised, and borrowed with the box.
        unsafe { self.memory.as_ref() }
    }
}

impl<T> DerefMut for KernelBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: by the type invariants the value is initialised, and borrowed uniquely with the box.
        unsafe { self.memory.as_mut() }
    }
}

impl<T> Drop for KernelBox<T> {
    fn drop(&mut self) {
        // SAFETY: by the type invariants the value is initialised and ours; it is dropped once, here.
        unsafe { ptr::drop_in_place(self.memory.as_ptr()) };
        // SAFETY: it came from `allocate(1)`, and its value was just dropped.
        unsafe { release(self.memory, 1) };
    }
}

/// A boxed slice.
///
/// # Invariants
///
/// `memory` holds `len` initialised values and is owned by the buffer.
pub struct Buffer<T> {
    memory: NonNull<T>,
    len: usize,
}

// SAFETY: the buffer owns its values as an array would.
unsafe impl<T: Send> Send for Buffer<T> {}
// SAFETY: as above; shared access gives shared access to the values only.
unsafe impl<T: Sync> Sync for Buffer<T> {}

impl<T: Copy> Buffer<T> {
    /// `len` copies of `fill`. May sleep.
    pub fn new(len: usize, fill: T) -> Result<Self, Errno> {
        let memory = allocate::<T>(len)?;
        for index in 0..len {
            // SAFETY: `allocate` returned room for `len` values, and `index` is below.
            let slot = unsafe { memory.add(index) };
            // SAFETY: `slot` is aligned room for a `T` that nobody else knows.
            unsafe { slot.write(fill) };
        }
        // INVARIANT: all `len` values are initialised, and the memory is ours.
        Ok(Self { memory, len })
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: by the type invariants there are `len` initialised values, borrowed with the buffer;
        // `allocate` never returns more than `isize::MAX` bytes.
        unsafe { slice::from_raw_parts(self.memory.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and the borrow is unique.
        unsafe { slice::from_raw_parts_mut(self.memory.as_ptr(), self.len) }
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        // SAFETY: it came from `allocate(len)`; the values are `Copy` or atomics and need no drop (the
        // constructors make no others), and the buffer ends here.
        unsafe { release(self.memory, self.len) };
    }
}

/// Zeroed words that threads and interrupt handlers share.
pub type Words = Buffer<AtomicU64>;

impl Words {
    /// `len` zeroed words. May sleep.
    pub fn zeroed(len: usize) -> Result<Self, Errno> {
        // INVARIANT: an atomic may have any value, zero as well, so that the allocated zeros are
        // initialised words.
        Ok(Self {
            memory: allocate(len)?,
            len,
        })
    }
}

struct SharedValue<T> {
    count: UnsafeCell<MaybeUninit<bindings::refcount_t>>,
    value: T,
}

/// A shared owner.
///
/// # Invariants
///
/// `memory` is a box given away; its count is the number of owners, and the value lives while that is
/// not 0.
pub struct Shared<T> {
    memory: NonNull<SharedValue<T>>,
}

// SAFETY: any owner may be the last and drop the value (`Send`), and all see it at once (`Sync`).
unsafe impl<T: Send + Sync> Send for Shared<T> {}
// SAFETY: as above: a shared owner can be cloned into one more owner.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Shares `value`. May sleep.
    pub fn new(value: T) -> Result<Self, Errno> {
        let count = UnsafeCell::new(MaybeUninit::zeroed());
        let boxed = KernelBox::new(SharedValue { count, value })?;
        // SAFETY: the count is in memory that is ours alone until this function returns.
        unsafe { bindings::cohmem_refcount_set(boxed.count.get().cast(), 1) };
        // INVARIANT: one owner, and the count says so.
        Ok(Self {
            memory: boxed.into_raw(),
        })
    }

    fn shared(&self) -> &SharedValue<T> {
        // SAFETY: by the type invariants the value lives at least as long as this owner.
        unsafe { self.memory.as_ref() }
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        // SAFETY: the count is initialised and not 0, since `self` is an owner. It saturates, with a
        // warning, rather than wrap.
        unsafe { bindings::cohmem_refcount_inc(self.shared().count.get().cast()) };
        // INVARIANT: the new owner was just counted.
        Self {
            memory: self.memory,
        }
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.shared().value
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: the count is initialised and counts this owner.
        let is_last =
            unsafe { bindings::cohmem_refcount_dec_and_test(self.shared().count.get().cast()) };
        if is_last {
            // SAFETY: the memory came from `into_raw` in `new`, and the last owner takes it back once;
            // the decrement orders all other owners' accesses before.
            drop(unsafe { KernelBox::from_raw(self.memory) });
        }
    }
}

debug_by_name! {
    [T] KernelBox<T>, "KernelBox";
    [T] Buffer<T>, "Buffer";
    [T] Shared<T>, "Shared";
}
