//! A piece of the address space where a fuzzing thread maps, unmaps and moves memory at will.
//!
//! Fields lie far below where the kernel puts mappings by itself, so a hole in one is never filled by
//! anybody else, and an access to a hole ends the process by a signal, which the fuzzer counts as a
//! failure.

use std::{
    fs::File,
    io::Error,
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{
    check,
    memory::{HUGE, PAGE},
};

const FIRST: usize = 0x1000_0000_0000;
/// Bytes from one field to the next.
const STRIDE: usize = 1 << 30;

/// What a part of a field is mapped to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Backing<'a> {
    /// Private anonymous memory.
    Anonymous,
    /// Shared anonymous memory.
    Shared,
    /// A private mapping of a file.
    File(&'a File),
}

/// A field.
///
/// # Invariants
///
/// Nobody else in this process maps memory in `base..base + STRIDE`, or holds a reference into it.
#[derive(Debug)]
pub(crate) struct Field {
    base: usize,
}

impl Field {
    /// The field with this number, of which a process makes one at most.
    pub(crate) fn new(number: usize) -> Self {
        // INVARIANT: by the caller's word, and the kernel's mappings are elsewhere.
        Self {
            base: FIRST + number * STRIDE,
        }
    }

    fn part(&self, offset: usize, len: usize) -> *mut libc::c_void {
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= STRIDE) && offset.is_multiple_of(PAGE),
            "{offset:#x}+{len:#x} is no part of a field"
        );
        std::ptr::without_provenance_mut(self.base + offset)
    }

    /// The address of a byte.
    pub(crate) fn address(&self, offset: usize) -> u64 {
        (self.base + offset) as u64
    }

    /// Maps a part, readable and writable; what was there goes.
    pub(crate) fn map(&self, offset: usize, len: usize, backing: Backing<'_>) {
        let (flags, fd) = match backing {
            Backing::Anonymous => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
            Backing::Shared => (libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1),
            Backing::File(file) => (libc::MAP_PRIVATE, file.as_raw_fd()),
        };
        // SAFETY: replaces mappings of this field only, to which nobody holds a reference (type
        // invariants).
        let mapped = unsafe {
            libc::mmap(
                self.part(offset, len),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                flags | libc::MAP_FIXED | libc::MAP_NORESERVE,
                fd,
                0,
            )
        };
        assert_ne!(mapped, libc::MAP_FAILED, "mmap: {}", Error::last_os_error());
    }

    pub(crate) fn unmap(&self, offset: usize, len: usize) {
        // SAFETY: as for `map`.
        let result = unsafe { libc::munmap(self.part(offset, len), len) };
        check(i64::from(result)).expect("munmap");
    }

    pub(crate) fn protect(&self, offset: usize, len: usize, protection: i32) -> Result<(), Error> {
        // SAFETY: as for `map`.
        let result = unsafe { libc::mprotect(self.part(offset, len), len, protection) };
        check(i64::from(result)).map(drop)
    }

    pub(crate) fn advise(&self, offset: usize, len: usize, advice: i32) -> Result<(), Error> {
        // SAFETY: as for `map`; content is read through atomics only.
        let result = unsafe { libc::madvise(self.part(offset, len), len, advice) };
        check(i64::from(result)).map(drop)
    }

    pub(crate) fn lock(&self, offset: usize, len: usize) -> Result<(), Error> {
        // SAFETY: changes no content and no mapping.
        check(i64::from(unsafe {
            libc::mlock(self.part(offset, len), len)
        }))
        .map(drop)
    }

    pub(crate) fn unlock(&self, offset: usize, len: usize) -> Result<(), Error> {
        // SAFETY: as above.
        check(i64::from(unsafe {
            libc::munlock(self.part(offset, len), len)
        }))
        .map(drop)
    }

    /// Moves what is mapped at `from` to `to`, where what was mapped goes.
    pub(crate) fn remap(&self, from: usize, to: usize, len: usize) -> Result<(), Error> {
        // SAFETY: both ranges are of this field; as for `map`.
        let moved = unsafe {
            libc::mremap(
                self.part(from, len),
                len,
                len,
                libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
                self.part(to, len),
            )
        };
        if moved == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        Ok(())
    }

    fn word(&self, offset: usize) -> *mut u64 {
        assert!(offset < STRIDE && offset.is_multiple_of(8), "{offset:#x}");
        std::ptr::without_provenance_mut(self.base + offset)
    }

    pub(crate) fn load(&self, offset: usize) -> u64 {
        // SAFETY: aligned, and memory of this field; where none is mapped the process ends by a signal.
        let word = unsafe { AtomicU64::from_ptr(self.word(offset)) };
        word.load(Relaxed)
    }

    pub(crate) fn store(&self, offset: usize, value: u64) {
        // SAFETY: as for `load`.
        let word = unsafe { AtomicU64::from_ptr(self.word(offset)) };
        word.store(value, Relaxed);
    }

    /// Pins a part for as long as the ring has it registered.
    pub(crate) fn vector(&self, offset: usize, len: usize) -> libc::iovec {
        libc::iovec {
            iov_base: self.part(offset, len),
            iov_len: len,
        }
    }

    /// Parts that begin at a multiple of this can hold huge pages.
    pub(crate) const HUGE: usize = HUGE;
}
