//! Files, pipes, and the driver's ioctls.

use std::{
    fs::{File, OpenOptions},
    io::Error,
    os::fd::{AsRawFd as _, FromRawFd as _},
};

use super::{check, memory::Memory};

/// Issues a command with an argument structure.
pub(crate) fn ioctl<T>(file: &File, command: u32, argument: &mut T) -> Result<(), Error> {
    ioctl_raw(
        file.as_raw_fd(),
        command,
        std::ptr::from_mut(argument).addr(),
    )
}

/// Issues a command with any argument.
pub(crate) fn ioctl_raw(fd: i32, command: u32, argument: usize) -> Result<(), Error> {
    // SAFETY: the driver's commands write to the argument structure and to arrays that it names; the
    // callers own both, or pass addresses that the kernel must refuse.
    let result = unsafe { libc::ioctl(fd, libc::c_ulong::from(command), argument) };
    check(i64::from(result)).map(drop)
}

/// Opens a device node for reading and writing.
pub(crate) fn open(path: &str) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A pipe that holds references to pages of memory until it is read.
#[derive(Debug)]
pub(crate) struct PagePipe {
    read: File,
    write: File,
}

impl PagePipe {
    pub(crate) fn new() -> Self {
        let mut fds = [0; 2];
        // SAFETY: the array holds the two descriptors that the call writes.
        check(i64::from(unsafe {
            libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC)
        }))
        .expect("pipe");
        // SAFETY: a descriptor that the kernel just made, and nobody else's.
        let read = unsafe { File::from_raw_fd(fds[0]) };
        // SAFETY: as above.
        let write = unsafe { File::from_raw_fd(fds[1]) };
        Self { read, write }
    }

    /// Puts page `index` of `memory` into the pipe, by reference.
    pub(crate) fn hold(&self, memory: &Memory, index: usize) {
        let vector = libc::iovec {
            iov_base: memory.page_word(index).as_ptr().cast(),
            iov_len: super::memory::PAGE,
        };
        let moved = self.hold_vector(vector).expect("vmsplice");
        assert_eq!(moved, 4096, "bytes in the pipe");
    }

    /// Puts what a vector names into the pipe, by reference; returns the bytes.
    pub(crate) fn hold_vector(&self, vector: libc::iovec) -> Result<i64, Error> {
        // SAFETY: one vector that outlives the call; the kernel checks what it names, and takes
        // references to it.
        let moved = unsafe { libc::vmsplice(self.write.as_raw_fd(), &raw const vector, 1, 0) };
        check(i64::try_from(moved).expect("fits"))
    }

    /// Reads one page out of the pipe, which lets go of it; returns its first word.
    pub(crate) fn release(&self) -> u64 {
        use std::io::Read as _;
        let mut bytes = [0u8; 4096];
        (&self.read)
            .read_exact(&mut bytes)
            .expect("the pipe holds a page");
        u64::from_ne_bytes(bytes[..8].try_into().expect("eight bytes"))
    }
}
