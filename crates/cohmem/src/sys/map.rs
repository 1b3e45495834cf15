//! Anonymous memory, page by page.

use std::{ffi::c_void, io, ptr, ptr::NonNull, slice};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// A private anonymous mapping, readable and writable, zeroed.
///
/// # Invariants
///
/// `start` is the start of a mapping of `length` bytes that this value alone owns, and `length` is
/// not 0 and at most `isize::MAX`.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

impl Mapping {
    /// Maps `length` bytes, a multiple of the page size and not 0.
    pub(crate) fn anonymous(length: usize) -> io::Result<Self> {
        if length == 0 || isize::try_from(length).is_err() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: The address hint is null and MAP_FIXED is not set, so the kernel picks addresses
        // that nothing is mapped at.
        let start = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let Some(start) = NonNull::new(start.cast::<u8>()) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        // INVARIANT: The mapping is new, so nothing else owns it; the length was checked.
        Ok(Self { start, length })
    }

    /// For tests that count pages: touching one touches no other, whatever is mapped beside it.
    #[cfg(test)]
    pub(crate) fn without_huge_pages(self) -> Self {
        use rustix::mm::{Advice, madvise};
        // SAFETY: By the type invariants `length` bytes at `start` are a mapping of `self`'s; the
        // advice changes no content.
        let advised = unsafe {
            madvise(
                self.start.as_ptr().cast(),
                self.length,
                Advice::LinuxNoHugepage,
            )
        };
        // A kernel without huge pages does not know the advice.
        assert!(matches!(advised, Ok(()) | Err(rustix::io::Errno::INVAL)));
        self
    }

    pub(crate) const fn length(&self) -> usize {
        self.length
    }

    /// The first byte, without a reference to it.
    pub(crate) const fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: By the type invariants, `length` bytes at `start` are mapped, readable, zeroed
        // when mapped and so initialised, at most isize::MAX, and owned by `self`, whose borrow
        // keeps them from being unmapped and from being written.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: As in `as_slice`; the mapping is writable, too, and the exclusive borrow of
        // `self` keeps other slices of it away.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let start: *mut c_void = self.start.as_ptr().cast();
        // SAFETY: By the type invariants the mapping is owned by `self`, and since it is being
        // dropped no slice of it is borrowed.
        let unmapped = unsafe { munmap(start, self.length) };
        debug_assert!(
            unmapped.is_ok(),
            "munmap takes a mapping of this process: {unmapped:?}"
        );
    }
}

// SAFETY: A mapping belongs to the process, not to a thread; `&Mapping` gives only shared slices,
// `&mut Mapping` the only exclusive one.
unsafe impl Send for Mapping {}
// SAFETY: As for `Send`: through a shared borrow the bytes are only read.
unsafe impl Sync for Mapping {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_zeroed_and_writable() {
        let mut mapping = Mapping::anonymous(3 * 4096).unwrap();
        assert!(mapping.as_slice().iter().all(|&byte| byte == 0));
        mapping.as_mut_slice().fill(9);
        assert_eq!(mapping.length(), 3 * 4096);
        assert!(mapping.as_slice().iter().all(|&byte| byte == 9));
    }

    #[test]
    fn nothing_and_too_much_are_refused() {
        Mapping::anonymous(0).unwrap_err();
        Mapping::anonymous(usize::MAX - 4095).unwrap_err();
    }
}
