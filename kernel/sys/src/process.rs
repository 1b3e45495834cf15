// SPDX-License-Identifier: GPL-2.0
//! Processes: whose address space, under which authority, and copies from and to the caller.

use core::{
    ffi::CStr,
    mem::MaybeUninit,
    ptr::{self, NonNull},
    sync::atomic::{AtomicPtr, Ordering::Relaxed},
};

use cohmem_kcore::{Errno, ProcessId, host::Privilege};
use cohmem_uapi::args;

use crate::{check, check_pointer, debug_by_name, vma::LockedMm};

/// An address space.
///
/// # Invariants
///
/// The value owns a reference to its users: the page tables stay.
pub struct Mm {
    mm: NonNull<bindings::mm_struct>,
}

impl Mm {
    /// The calling process's.
    pub fn of_caller() -> Result<Self, Errno> {
        // SAFETY: there is always a current task; null for a kernel thread.
        let mm = NonNull::new(unsafe { bindings::cohmem_current_mm() }).ok_or(Errno::ESRCH)?;
        // SAFETY: the current task uses `mm` until it exits, which it does not while it is here.
        unsafe { bindings::cohmem_mmget(mm.as_ptr()) };
        // INVARIANT: the reference was just taken.
        Ok(Self { mm })
    }

    /// The address space.
    pub(crate) fn as_ptr(&self) -> *mut bindings::mm_struct {
        self.mm.as_ptr()
    }

    /// The one behind an open file of procfs.
    ///
    /// Opening the file was the permission check: the kernel asked ptrace, the security modules and
    /// Yama then (fs/proc/base.c, fs/proc/task_mmu.c).
    pub fn of_proc_file(fd: i32) -> Result<Self, Errno> {
        let fd = u32::try_from(fd).map_err(|_negative| Errno::EBADF)?;
        let file = FileRef::from_fd(fd)?;
        if !file.shows_address_space() {
            return Err(Errno::EBADFD);
        }
        let mm = NonNull::new(file.private_data().cast()).ok_or(Errno::ESRCH)?;
        // SAFETY: the file is a pagemap or mem file of procfs, whose private data is an address space
        // that it holds a reference to (`mmgrab`) for as long as the file lives, which is longer than
        // this call.
        unsafe { Self::try_use(mm) }.ok_or(Errno::ESRCH)
    }

    /// `mm`, unless its last user is gone. Any context.
    ///
    /// # Safety
    ///
    /// The structure of the address space stays (`mmgrab`) until this returns.
    pub(super) unsafe fn try_use(mm: NonNull<bindings::mm_struct>) -> Option<Self> {
        // SAFETY: the address space is there by the caller's promise.
        let is_used = unsafe { bindings::cohmem_mmget_not_zero(mm.as_ptr()) };
        // Not `then_some`: its value is dropped, with a reference that is not ours, where there is no user.
        // INVARIANT: the reference was just taken.
        is_used.then(|| Self { mm })
    }
}

impl Drop for Mm {
    fn drop(&mut self) {
        // Not `mmput`: the last user's reference frees all pages, which the caller's locks may forbid.
        // SAFETY: by the type invariants the reference is ours to give up.
        unsafe { bindings::mmput_async(self.mm.as_ptr()) };
    }
}

impl Mm {
    /// Locks the address space for reading. May sleep.
    ///
    /// # Errors
    ///
    /// `EINTR` on a fatal signal.
    pub fn lock(&self) -> Result<LockedMm<'_>, Errno> {
        // SAFETY: by the type invariants the address space lives; the caller may sleep.
        let result = unsafe { bindings::cohmem_mmap_read_lock_killable(self.mm.as_ptr()) };
        check(result)?;
        // SAFETY: locked for reading just now, and `self` keeps the address space.
        Ok(unsafe { LockedMm::new(self.mm) })
    }

    /// Whose it is; the default when the kernel does not say.
    pub fn process(&self) -> ProcessId {
        let mut process = ProcessId::default();
        let (number, began_ns) = (&raw mut process.number, &raw mut process.began_ns);
        // SAFETY: by the type invariants the address space lives; the targets are fields of `process`.
        unsafe { bindings::cohmem_mm_process(self.mm.as_ptr(), number, began_ns) };
        process
    }

    /// Some of its pages may be in swap.
    pub fn has_swapped_pages(&self) -> bool {
        // SAFETY: by the type invariants the address space lives; the counter needs no lock.
        unsafe { bindings::cohmem_mm_has_swapped_pages(self.mm.as_ptr()) }
    }
}

/// A reference to an open file.
///
/// # Invariants
///
/// The value owns one reference.
struct FileRef {
    file: NonNull<bindings::file>,
}

impl FileRef {
    fn from_fd(fd: u32) -> Result<Self, Errno> {
        // SAFETY: looks the number up in the calling process's table, and takes a reference.
        let file = unsafe { bindings::fget(fd) };
        // INVARIANT: the reference was just taken.
        NonNull::new(file)
            .map(|file| Self { file })
            .ok_or(Errno::EBADF)
    }

    fn open(path: &CStr) -> Result<Self, Errno> {
        // SAFETY: `path` ends in a null; the caller may sleep.
        let file = unsafe { bindings::filp_open(path.as_ptr(), bindings::O_RDONLY as _, 0) };
        // INVARIANT: an opened file has one reference, the opener's.
        NonNull::new(check_pointer(file)?)
            .map(|file| Self { file })
            .ok_or(Errno::EIO)
    }

    fn operations(&self) -> *const bindings::file_operations {
        // SAFETY: by the type invariants the file lives; its operations are set when it is opened.
        unsafe { (*self.file.as_ptr()).f_op }
    }

    fn private_data(&self) -> *mut core::ffi::c_void {
        // SAFETY: by the type invariants the file lives; procfs sets the field when it is opened.
        unsafe { (*self.file.as_ptr()).private_data }
    }

    fn is_of_procfs(&self) -> bool {
        // SAFETY: by the type invariants the file lives, and so does its file system.
        unsafe { bindings::cohmem_file_is_of_procfs(self.file.as_ptr()) }
    }

    /// A readable pagemap or mem file of procfs.
    fn shows_address_space(&self) -> bool {
        // SAFETY: by the type invariants the file lives; its mode is set when it is opened.
        let is_readable = unsafe { bindings::cohmem_file_is_readable(self.file.as_ptr()) };
        let operations = self.operations().cast_mut();
        // Ordering: written once, before any file of the driver could be opened.
        let is_known = PROC_OPERATIONS
            .iter()
            .any(|known| known.load(Relaxed) == operations);
        is_readable && !operations.is_null() && is_known
    }
}

impl Drop for FileRef {
    fn drop(&mut self) {
        // SAFETY: by the type invariants the reference is ours to give up.
        unsafe { bindings::fput(self.file.as_ptr()) };
    }
}

/// The operations of `/proc/PID/pagemap` and `/proc/PID/mem`, by which such files are told from
/// others; null when procfs is not there.
static PROC_OPERATIONS: [AtomicPtr<bindings::file_operations>; 2] =
    [const { AtomicPtr::new(ptr::null_mut()) }; 2];

/// Learns [`PROC_OPERATIONS`], which no header tells, from the caller's own files. Without procfs no
/// file is accepted.
pub fn learn_proc_files() {
    for (known, path) in PROC_OPERATIONS
        .iter()
        .zip([c"/proc/self/pagemap", c"/proc/self/mem"])
    {
        if let Ok(file) = FileRef::open(path)
            && file.is_of_procfs()
        {
            known.store(file.operations().cast_mut(), Relaxed);
        }
    }
}

/// The caller has this privilege over the initial user namespace.
pub fn is_privileged(privilege: Privilege) -> bool {
    let capability = match privilege {
        Privilege::Administrate => bindings::CAP_SYS_ADMIN,
        Privilege::MoveShared => bindings::CAP_SYS_NICE,
    };
    // SAFETY: a capability's number; process context.
    unsafe { bindings::capable(capability as _) }
}

/// The caller's real user, in the initial user namespace.
pub fn real_user() -> u32 {
    // SAFETY: reads the current task's own credentials.
    unsafe { bindings::cohmem_real_user() }
}

/// The calling process's number in the initial PID namespace.
pub fn calling_process() -> u32 {
    // SAFETY: reads the current task's own number.
    unsafe { bindings::cohmem_current_process() }
}

/// A fatal signal is pending for the caller.
pub fn is_killed() -> bool {
    // SAFETY: reads the current task's own state.
    unsafe { bindings::cohmem_is_killed() }
}

/// A signal is pending for the caller.
pub fn is_signalled() -> bool {
    // SAFETY: reads the current task's own state.
    unsafe { bindings::cohmem_is_signalled() }
}

/// First address above user addresses.
pub fn user_end() -> u64 {
    // SAFETY: reads a constant of the processor.
    unsafe { bindings::cohmem_user_end() }
}

/// Writes to the caller's memory. May sleep and fault.
pub fn write_user(address: u64, bytes: &[u8]) -> Result<(), Errno> {
    let source = bytes.as_ptr().cast();
    // SAFETY: the source is `bytes`; the function checks the target and stops at what can't be written.
    let nr_left = unsafe { bindings::cohmem_copy_to_user(address, source, bytes.len() as _) };
    if nr_left == 0 {
        Ok(())
    } else {
        Err(Errno::EFAULT)
    }
}

/// Reads the caller's memory. May sleep and fault.
///
/// # Errors
///
/// `EFAULT`: not all of it can be read; the content of `bytes` is undefined.
pub fn read_user(address: u64, bytes: &mut [u8]) -> Result<(), Errno> {
    let target = bytes.as_mut_ptr().cast();
    // SAFETY: the target is `bytes`; the function checks the source and stops at what can't be read.
    let nr_left = unsafe { bindings::cohmem_copy_from_user(target, address, bytes.len() as _) };
    if nr_left == 0 {
        Ok(())
    } else {
        Err(Errno::EFAULT)
    }
}

/// A type that may be copied between the kernel and a process byte by byte.
///
/// # Safety
///
/// Every bit pattern is a value of the type, and it has no padding.
pub unsafe trait Plain: Sized {}

/// Implements [`Plain`] for the ABI's argument structures.
macro_rules! plain {
    ($($type:ty),+) => {
        $(
            // SAFETY: a `repr(C)` structure of integers and arrays of integers only, without padding:
            // cohmem-uapi's tests compare sizes and offsets with the header's.
            unsafe impl Plain for $type {}
        )+
    };
}
plain!(
    args::Version,
    args::Attach,
    args::Detach,
    args::List,
    args::Info,
    args::Migrate,
    args::Query,
    args::Quota,
    args::Accounts,
    args::Range,
    args::History,
    args::Job,
    args::Run,
    args::Objects
);

/// Reads a value from the caller's memory. May sleep and fault.
pub fn read_plain<T: Plain>(address: u64) -> Result<T, Errno> {
    let mut value = MaybeUninit::<T>::zeroed();
    let target = value.as_mut_ptr().cast();
    // SAFETY: the target is `value`; the function checks the source and stops at what can't be read.
    let nr_left = unsafe { bindings::cohmem_copy_from_user(target, address, size_of::<T>() as _) };
    if nr_left != 0 {
        return Err(Errno::EFAULT);
    }
    // SAFETY: all bytes are initialised, and any value of them is a `T`, by `Plain`.
    Ok(unsafe { value.assume_init() })
}

/// Writes a value to the caller's memory. May sleep and fault.
pub fn write_plain<T: Plain>(address: u64, value: &T) -> Result<(), Errno> {
    // SAFETY: a `T` is `size_of` bytes, all initialised, since it has no padding by `Plain`.
    let bytes = unsafe { core::slice::from_raw_parts(ptr::from_ref(value).cast(), size_of::<T>()) };
    write_user(address, bytes)
}

debug_by_name! {
    [] Mm, "Mm";
}
