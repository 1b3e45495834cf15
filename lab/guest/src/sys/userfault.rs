//! A userfaultfd that nobody serves.

use std::{
    io::Error,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use super::{check, memory::Memory};

const UFFDIO_API: libc::c_ulong = 0xC018_AA3F;
const UFFDIO_REGISTER: libc::c_ulong = 0xC020_AA00;
const UFFD_API: u64 = 0xAA;
const UFFDIO_MOVE: libc::c_ulong = 0xC028_AA05;
const FEATURE_MOVE: u64 = 1 << 16;
const REGISTER_MODE_MISSING: u64 = 1;

/// Holes of a range of memory that wait for a handler.
#[derive(Debug)]
pub(crate) struct Userfault(OwnedFd);

impl Userfault {
    /// Registers the holes of `memory`, which nobody touches until the drop.
    pub(crate) fn register(memory: &Memory) -> Result<Self, Error> {
        // SAFETY: makes a descriptor.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
        let fd = i32::try_from(check(fd)?).expect("a descriptor");
        // SAFETY: a descriptor that the kernel just made, and nobody else's.
        let this = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        this.control(UFFDIO_API, &mut [UFFD_API, FEATURE_MOVE, 0])?;
        let mut register = [
            memory.address(),
            memory.len() as u64,
            REGISTER_MODE_MISSING,
            0,
        ];
        this.control(UFFDIO_REGISTER, &mut register)?;
        Ok(this)
    }

    /// Moves all pages of `source` to the holes of `target`, which was registered; returns the bytes.
    pub(crate) fn move_pages(&self, source: &Memory, target: &Memory) -> Result<u64, Error> {
        assert_eq!(source.len(), target.len());
        let mut words = [
            target.address(),
            source.address(),
            source.len() as u64,
            0,
            0,
        ];
        self.control(UFFDIO_MOVE, &mut words)?;
        Ok(words[4])
    }

    fn control<const N: usize>(
        &self,
        request: libc::c_ulong,
        words: &mut [u64; N],
    ) -> Result<(), Error> {
        // SAFETY: the request's number tells the kernel the size of the words, which are a structure of
        // 64-bit fields.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), request, words.as_mut_ptr()) };
        check(i64::from(result)).map(drop)
    }
}
