// SPDX-License-Identifier: GPL-2.0
//! The unsafe part of the test hooks: a held page, an interrupt, the commands' arguments.

use core::{
    ffi::c_uint,
    mem::MaybeUninit,
    ptr::{self, NonNull},
    sync::atomic::{AtomicPtr, Ordering::Relaxed},
};

use cohmem_kcore::Errno;

use crate::{KernelStatic, check, page::Page, process::Plain};

/// Declares the arguments of `hooks.h`.
macro_rules! arguments {
    ($($(#[$attribute:meta])* $name:ident { $($field:ident: $type:ty),+ })+) => {
        $(
            $(#[$attribute])*
            #[repr(C)]
            pub struct $name {
                $(
                    #[doc = concat!("`", stringify!($field), "`, as the header says.")]
                    pub $field: $type
                ),+
            }

            // SAFETY: integers of one width only, so that there is no padding and any value is valid.
            unsafe impl Plain for $name {}
        )+
    };
}

arguments! {
    /// `struct cohmem_hook_hold`.
    Hold { address: u64 }
    /// `struct cohmem_hook_late_write`.
    LateWrite { offset: u64, value: u64 }
    /// `struct cohmem_hook_delay`.
    Delay { point: u32, milliseconds: u32 }
    /// `struct cohmem_hook_fail`.
    Fail { what: u32, nr_skipped: u32, count: u32, _pad: u32 }
    /// `struct cohmem_hook_fired`.
    Fired { nr_late_writes: u64, nr_irq_frees: u64, nr_delays: u64, nr_failures: u64, is_holding: u64, nr_orphans: u64 }
}

/// `_IOWR` of the driver's magic.
pub const fn command_of<T>(number: u32) -> u32 {
    (3 << 30) | ((size_of::<T>() as u32) << 16) | plain_command(number)
}

/// `_IO` of the driver's magic.
pub const fn plain_command(number: u32) -> u32 {
    (cohmem_uapi::ioctl::MAGIC << 8) | number
}

/// The held page, with the one reference that goes with it; null when there is none.
static HELD: AtomicPtr<bindings::page> = AtomicPtr::new(ptr::null_mut());

/// Takes a plain reference to the page that the caller maps at `address`.
pub fn hold(address: u64) -> Result<(), Errno> {
    let mut page = ptr::null_mut();
    // SAFETY: one page is asked for, and there is room for one; the caller may sleep.
    let nr = unsafe {
        bindings::get_user_pages_fast(address, 1, bindings::FOLL_WRITE as c_uint, &raw mut page)
    };
    if check(nr).map_err(|_errno| Errno::EFAULT)? != 1 {
        return Err(Errno::EFAULT);
    }
    if HELD
        .compare_exchange(ptr::null_mut(), page, Relaxed, Relaxed)
        .is_err()
    {
        put(page);
        return Err(Errno::EBUSY);
    }
    Ok(())
}

/// `ENODEV` when no page is held.
pub fn require() -> Result<(), Errno> {
    if HELD.load(Relaxed).is_null() {
        Err(Errno::ENODEV)
    } else {
        Ok(())
    }
}

/// The page is the held one.
pub fn is_held(page: Page) -> bool {
    ptr::eq(HELD.load(Relaxed), page.as_ptr())
}

/// The page is anonymous, and nothing keeps its reverse mapping.
pub fn is_orphan(page: Page) -> bool {
    // SAFETY: the page is in flight, so that its struct page exists; the function only reads, and
    // only memory that is an `anon_vma` or was one.
    unsafe { bindings::cohmem_page_is_orphan(page.as_ptr()) }
}

/// Gives the held page's reference up. Any context.
pub fn release() -> Result<(), Errno> {
    let page = HELD.swap(ptr::null_mut(), Relaxed);
    if page.is_null() {
        return Err(Errno::ENODEV);
    }
    put(page);
    Ok(())
}

fn put(page: *mut bindings::page) {
    if let Some(page) = NonNull::new(page) {
        // SAFETY: the reference came from `get_user_pages_fast`, and is given up once: whoever calls this
        // took the page out of `HELD`, or never put it there.
        unsafe { Page::new(page).put() };
    }
}

/// Writes to the held page; `offset` is a multiple of 8 within a page.
pub fn write(offset: u64, value: u64) {
    let page = HELD.load(Relaxed);
    if page.is_null() {
        return;
    }
    // SAFETY: the page is referenced while it is held, and the kernel maps it.
    let address = unsafe { bindings::cohmem_page_address(page) };
    // SAFETY: `offset` lies within the page, as the command checked.
    let place = unsafe { address.byte_add(offset as usize) }.cast::<u64>();
    // SAFETY: aligned and within the mapped page; other accesses to it are user space's.
    unsafe { place.write_volatile(value) };
}

/// Sleeps.
pub fn sleep_ms(milliseconds: u32) {
    // SAFETY: the driver's work may sleep at each of its points.
    unsafe { bindings::msleep(milliseconds) };
}

static WORK: KernelStatic<MaybeUninit<bindings::irq_work>> =
    KernelStatic::new(MaybeUninit::zeroed());

/// Gives the held page's reference up in a hard interrupt on this processor, and waits for that.
pub fn release_in_irq() {
    let work = WORK.get().cast();
    // SAFETY: a static that is not queued: every queueing is waited for below, by one test at a time.
    unsafe { bindings::cohmem_irq_work_init(work, Some(release_now)) };
    // SAFETY: initialised just now.
    let _was_idle = unsafe { bindings::irq_work_queue(work) };
    // SAFETY: initialised; the caller may sleep.
    unsafe { bindings::irq_work_sync(work) };
}

extern "C" fn release_now(_work: *mut bindings::irq_work) {
    // `ENODEV`: it was released meanwhile.
    let _released = release();
}
