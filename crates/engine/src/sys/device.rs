//! A pool's memory, mapped for as long as the pool lives.

use std::{
    ffi::c_void,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    ptr::{self, NonNull},
};

use rustix::{
    fs::{MemfdFlags, SealFlags},
    io::Errno,
    mm::{Advice, MapFlags, ProtFlags},
};

/// A file of device memory and a shared mapping of all of it, which children do not inherit.
///
/// # Invariants
///
/// `start` is the start of a mapping of `length` bytes of `file` that this value alone owns.
#[derive(Debug)]
pub(crate) struct Mapping {
    file: OwnedFd,
    start: NonNull<u8>,
    length: usize,
}

/// Makes a memfd of `length` bytes and seals it: nobody can shrink or grow it any more.
pub(crate) fn sealed_memfd(length: usize, is_huge: bool) -> io::Result<OwnedFd> {
    let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    if is_huge {
        flags |= MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    }
    let file = rustix::fs::memfd_create("cohmem", flags)?;
    rustix::fs::ftruncate(&file, length as u64)?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file)
}

impl Mapping {
    /// Maps `length` bytes of `file`, at addresses that are a multiple of `alignment`.
    pub(crate) fn of(file: OwnedFd, length: usize, alignment: usize) -> io::Result<Self> {
        let reserved = length.checked_add(alignment).ok_or(Errno::NOMEM)?;
        // SAFETY: The address hint is null and MAP_FIXED is not set, so the kernel picks addresses that
        // nothing is mapped at.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                reserved,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let skipped = base.addr().next_multiple_of(alignment) - base.addr();
        let start = base.wrapping_byte_add(skipped);
        // SAFETY: The addresses lie in the reservation just made, which nothing else uses.
        let mapped = unsafe {
            rustix::mm::mmap(
                start,
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::FIXED,
                &file,
                0,
            )
        };
        let tail = start.wrapping_byte_add(length);
        let tail_length = reserved - skipped - length;
        for (part, part_length) in [(base, skipped), (tail, tail_length)] {
            if part_length > 0 {
                // SAFETY: The part of the reservation before or behind the mapping, which nothing uses.
                unsafe { rustix::mm::munmap(part, part_length) }?;
            }
        }
        let start = match mapped {
            Ok(start) => start,
            Err(error) => {
                // SAFETY: What is left of the reservation, or nothing.
                unsafe { rustix::mm::munmap(start, length) }?;
                return Err(error.into());
            }
        };
        let Some(start) = NonNull::new(start.cast::<u8>()) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        // INVARIANT: It was just mapped at addresses of a reservation of its own.
        let mapping = Self {
            file,
            start,
            length,
        };
        mapping.advise(0, length, Advice::LinuxDontFork)?;
        if alignment >= 2 << 20 {
            // Not every kernel, and no other file, has huge pages to give.
            match mapping.advise(0, length, Advice::LinuxHugepage) {
                Ok(()) | Err(_) => {}
            }
        }
        Ok(mapping)
    }

    /// Gets the memory behind a range now, so that using it later cannot fail.
    pub(crate) fn populate(&self, offset: usize, length: usize) -> Result<(), Errno> {
        self.advise(offset, length, Advice::LinuxPopulateWrite)
    }

    fn advise(&self, offset: usize, length: usize, advice: Advice) -> Result<(), Errno> {
        let start: *mut c_void = self.at(offset, length).cast();
        // SAFETY: The range lies in the mapping, by `at`, and none of the advices in use changes its
        // content.
        unsafe { rustix::mm::madvise(start, length, advice) }
    }

    /// Overwrites a range with zeros. Its frames belong to the caller.
    pub(crate) fn zero(&self, offset: usize, length: usize) {
        let start = self.at(offset, length);
        // SAFETY: The range lies in the mapping, by `at`, and is writable; no reference to it exists,
        // since the mapping hands out none and no region has the frames mapped yet.
        unsafe { ptr::write_bytes(start, 0, length) };
    }

    /// The start of a range, which is checked.
    ///
    /// # Panics
    ///
    /// If the range is not within the mapping.
    pub(crate) fn at(&self, offset: usize, length: usize) -> *mut u8 {
        let end = offset.checked_add(length);
        assert!(
            end.is_some_and(|end| end <= self.length),
            "{length} bytes at {offset} are within the pool"
        );
        self.start.as_ptr().wrapping_byte_add(offset)
    }

    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub(crate) const fn length(&self) -> usize {
        self.length
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let start: *mut c_void = self.start.as_ptr().cast();
        // SAFETY: By the type invariants the mapping is owned by `self`, which is going away; the
        // regions that copy from it hold the pool.
        let unmapped = unsafe { rustix::mm::munmap(start, self.length) };
        debug_assert!(
            unmapped.is_ok(),
            "munmap takes a mapping of this process: {unmapped:?}"
        );
    }
}

// SAFETY: A mapping belongs to the process, not to a thread. It gives out addresses only; who copies to
// and from them owns the frames there.
unsafe impl Send for Mapping {}
// SAFETY: As for `Send`.
unsafe impl Sync for Mapping {}
