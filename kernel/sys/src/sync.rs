// SPDX-License-Identifier: GPL-2.0
//! Locks, time, processors.

use core::{
    cell::UnsafeCell,
    ffi::{c_int, c_long, c_void},
    marker::PhantomData,
    mem::MaybeUninit,
    ops::{Deref, DerefMut},
    ptr,
};

use cohmem_kcore::{Errno, host::SleepLock};

use crate::{debug_by_name, memory::KernelBox};

struct Guarded<T> {
    semaphore: UnsafeCell<MaybeUninit<bindings::rw_semaphore>>,
    /// Each lock is a class of its own to lockdep: two locks of one driver may nest.
    class: UnsafeCell<MaybeUninit<bindings::lock_class_key>>,
    value: UnsafeCell<T>,
}

/// A sleeping reader-writer lock around a value.
///
/// # Invariants
///
/// The semaphore is initialised, at an address that stays, and the value is read or written only by
/// those who hold it.
pub struct RwLock<T> {
    guarded: KernelBox<Guarded<T>>,
}

// SAFETY: a lock owns its value.
unsafe impl<T: Send> Send for RwLock<T> {}
// SAFETY: readers share the value (`Sync`), and a writer of any thread may replace it (`Send`).
unsafe impl<T: Send + Sync> Sync for RwLock<T> {}

impl<T> RwLock<T> {
    /// A lock around `value`. May sleep.
    pub fn new(value: T) -> Result<Self, Errno> {
        let guarded = KernelBox::new(Guarded {
            semaphore: UnsafeCell::new(MaybeUninit::zeroed()),
            class: UnsafeCell::new(MaybeUninit::zeroed()),
            value: UnsafeCell::new(value),
        })?;
        let class = guarded.class.get().cast();
        // SAFETY: the key is zeroed, in memory that stays until `drop` unregisters it.
        unsafe { bindings::cohmem_register_lock_class(class) };
        let semaphore = guarded.semaphore.get().cast();
        // SAFETY: the memory is ours, stays where it is, and the name and the class outlive the lock.
        unsafe { bindings::cohmem_rwsem_init(semaphore, c"cohmem".as_ptr(), class) };
        // INVARIANT: initialised just now, in a box, whose content does not move.
        Ok(Self { guarded })
    }

    fn semaphore(&self) -> *mut bindings::rw_semaphore {
        self.guarded.semaphore.get().cast()
    }
}

impl<T> RwLock<T> {
    /// Exclusive access, if it can be had without waiting.
    pub fn try_write(&self) -> Option<WriteGuard<'_, T>> {
        // SAFETY: the semaphore is initialised by the type invariants; the function does not sleep.
        let is_locked = unsafe { bindings::down_write_trylock(self.semaphore()) } == 1;
        // INVARIANT: held for writing from here.
        is_locked.then(|| WriteGuard {
            lock: self,
            not_send: PhantomData,
        })
    }
}

impl<T> Drop for RwLock<T> {
    fn drop(&mut self) {
        // SAFETY: `new` registered the class; nobody holds or waits for the lock, since `self` is
        // borrowed uniquely.
        unsafe { bindings::cohmem_unregister_lock_class(self.guarded.class.get().cast()) };
    }
}

impl<T: core::fmt::Debug + Send + Sync> SleepLock<T> for RwLock<T> {
    type ReadGuard<'a>
        = ReadGuard<'a, T>
    where
        Self: 'a,
        T: 'a;
    type WriteGuard<'a>
        = WriteGuard<'a, T>
    where
        Self: 'a,
        T: 'a;

    fn read(&self) -> ReadGuard<'_, T> {
        // SAFETY: the semaphore is initialised by the type invariants, and the caller may sleep.
        unsafe { bindings::down_read(self.semaphore()) };
        // INVARIANT: held for reading from here.
        ReadGuard {
            lock: self,
            not_send: PhantomData,
        }
    }

    fn write(&self) -> WriteGuard<'_, T> {
        // SAFETY: the semaphore is initialised by the type invariants, and the caller may sleep.
        unsafe { bindings::down_write(self.semaphore()) };
        // INVARIANT: held for writing from here.
        WriteGuard {
            lock: self,
            not_send: PhantomData,
        }
    }
}

/// Shared access.
///
/// # Invariants
///
/// This thread holds the lock for reading.
pub struct ReadGuard<'a, T> {
    lock: &'a RwLock<T>,
    /// The thread that took the lock gives it back.
    not_send: PhantomData<*mut ()>,
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: by the type invariants nobody writes while the guard lives.
        unsafe { &*self.lock.guarded.value.get() }
    }
}

impl<T> Drop for ReadGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: by the type invariants this thread holds the lock for reading, once per guard.
        unsafe { bindings::up_read(self.lock.semaphore()) };
    }
}

/// Exclusive access.
///
/// # Invariants
///
/// This thread holds the lock for writing.
pub struct WriteGuard<'a, T> {
    lock: &'a RwLock<T>,
    /// The thread that took the lock gives it back.
    not_send: PhantomData<*mut ()>,
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: by the type invariants only this thread has access while the guard lives.
        unsafe { &*self.lock.guarded.value.get() }
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and the borrow of the guard is unique.
        unsafe { &mut *self.lock.guarded.value.get() }
    }
}

impl<T> Drop for WriteGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: by the type invariants this thread holds the lock for writing.
        unsafe { bindings::up_write(self.lock.semaphore()) };
    }
}

debug_by_name! {
    [T] RwLock<T>, "RwLock";
    [T] WriteGuard<'_, T>, "WriteGuard";
}

/// Lets other tasks run.
pub fn relax() {
    // SAFETY: the caller may sleep, as the host's contract says, and holds no spinlock.
    unsafe { bindings::cohmem_relax() };
}

/// Sleeps; a fatal signal ends it early.
pub fn sleep_ms(milliseconds: u64) {
    // SAFETY: pure arithmetic.
    let jiffies = unsafe { bindings::cohmem_ms_to_jiffies(milliseconds) };
    // SAFETY: the caller may sleep, as the host's contract says.
    let _left = unsafe { bindings::schedule_timeout_killable(jiffies) };
}

/// Milliseconds of the monotonic clock.
pub fn now_ms() -> u64 {
    // SAFETY: reads a clock; any context.
    unsafe { bindings::cohmem_now_ms() }
}

/// Nanoseconds of the monotonic clock.
pub fn now_ns() -> u64 {
    // SAFETY: reads a clock; any context.
    unsafe { bindings::cohmem_now_ns() }
}

/// Makes each processor give up the page references in its LRU batches.
///
/// `lru_add_drain_all` is not exported. `migrate_device_range` over no pages does nothing but drain
/// the processor that it runs on (mm/migrate_device.c), so it runs once on each.
///
/// **Context:** may sleep; call with no lock held that a work item may wait for.
pub fn drain_processors() {
    let mut cpu: c_int = -1;
    loop {
        // SAFETY: `cpu` is -1 or a processor's number.
        let next = unsafe { bindings::cohmem_next_online_cpu(cpu) };
        // SAFETY: reads a variable that is constant after boot.
        let end = unsafe { bindings::cohmem_nr_cpus() };
        let Ok(next_cpu) = c_int::try_from(next) else {
            break;
        };
        if next >= end {
            break;
        }
        cpu = next_cpu;
        // SAFETY: the callback ignores its argument and may run on any processor; the caller may
        // sleep. A processor that went offline meanwhile drained its batches on the way.
        let _offline =
            unsafe { bindings::cohmem_call_on_cpu(cpu, Some(drain_one), ptr::null_mut()) };
    }
}

extern "C" fn drain_one(_arg: *mut c_void) -> c_long {
    // SAFETY: with no pages, the function neither reads nor writes the array.
    let result = unsafe { bindings::migrate_device_range(ptr::dangling_mut(), 0, 0) };
    c_long::from(result)
}
