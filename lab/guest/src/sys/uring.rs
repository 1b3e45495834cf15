//! io_uring, as far as registering a buffer goes: a pin without a time limit.

use std::{
    io::Error,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use super::{check, memory::Memory};

const IORING_REGISTER_BUFFERS: u32 = 0;
const PARAMS_BYTES: usize = 120;

/// A ring that pins memory.
#[derive(Debug)]
pub(crate) struct Ring(OwnedFd);

impl Ring {
    pub(crate) fn new() -> Self {
        let mut params = [0u8; PARAMS_BYTES];
        // SAFETY: `struct io_uring_params` has 120 bytes, all zero as the call wants.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, params.as_mut_ptr()) };
        let fd = check(fd).expect("io_uring_setup");
        // SAFETY: a descriptor that the kernel just made, and nobody else's.
        Self(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).expect("a descriptor")) })
    }

    /// Pins all of `memory` until the ring is dropped.
    pub(crate) fn pin(&self, memory: &Memory) -> Result<(), Error> {
        self.pin_vector(libc::iovec {
            iov_base: memory.page_word(0).as_ptr().cast(),
            iov_len: memory.len(),
        })
    }

    /// Pins what a vector names until the ring is dropped.
    pub(crate) fn pin_vector(&self, vector: libc::iovec) -> Result<(), Error> {
        // SAFETY: one vector that outlives the call; the kernel checks what it names.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                self.0.as_raw_fd(),
                IORING_REGISTER_BUFFERS,
                &raw const vector,
                1,
            )
        };
        check(result).map(drop)
    }
}
