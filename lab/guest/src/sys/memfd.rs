//! Files that live in memory.

use std::{
    fs::File,
    os::fd::{FromRawFd as _, OwnedFd},
};

use super::check;

/// A file of `len` zeros.
pub(crate) fn zeros(len: usize) -> File {
    // SAFETY: the name is a C string that outlives the call.
    let fd = unsafe { libc::memfd_create(c"zeros".as_ptr(), libc::MFD_CLOEXEC) };
    check(i64::from(fd)).expect("memfd_create");
    // SAFETY: a descriptor that the kernel just made, and nobody else's.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.set_len(len as u64).expect("ftruncate");
    file
}
