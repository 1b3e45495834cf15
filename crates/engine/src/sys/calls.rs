//! System calls on parts of a region, for tests.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use io_uring::{IoUring, opcode, types};

use super::areas::Areas;

/// Bytes of a region that a test hands to the kernel. The tests make no reference to them meanwhile.
///
/// # Invariants
///
/// They lie in the region.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patch<'r> {
    areas: &'r Areas,
    offset: usize,
    length: u32,
}

impl<'r> Patch<'r> {
    pub(crate) fn new(areas: &'r Areas, offset: usize, length: u32) -> Self {
        let end = offset + usize::try_from(length).unwrap();
        assert!(end <= areas.length());
        // INVARIANT: Just checked.
        Self {
            areas,
            offset,
            length,
        }
    }

    pub(crate) fn address(self) -> usize {
        self.start().addr()
    }

    pub(crate) fn length(self) -> usize {
        usize::try_from(self.length).unwrap()
    }

    fn start(self) -> *mut u8 {
        let start = self.areas.region().as_ptr();
        start.wrapping_add(self.offset)
    }

    fn vector(self) -> libc::iovec {
        libc::iovec {
            iov_base: self.start().cast(),
            iov_len: self.length(),
        }
    }

    pub(crate) fn read(self, file: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: By the type invariants the range lies in the region, which is borrowed.
        counted(unsafe { libc::read(file.as_raw_fd(), self.start().cast(), self.length()) })
    }

    pub(crate) fn pread(self, file: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: As in `read`.
        counted(unsafe { libc::pread(file.as_raw_fd(), self.start().cast(), self.length(), 0) })
    }

    pub(crate) fn recv(self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: As in `read`.
        counted(unsafe { libc::recv(socket.as_raw_fd(), self.start().cast(), self.length(), 0) })
    }

    pub(crate) fn getrandom(self) -> io::Result<usize> {
        // SAFETY: As in `read`.
        counted(unsafe { libc::getrandom(self.start().cast(), self.length(), 0) })
    }

    pub(crate) fn write(self, file: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: As in `read`; the kernel only reads it.
        counted(unsafe { libc::write(file.as_raw_fd(), self.start().cast(), self.length()) })
    }

    pub(crate) fn pwrite(self, file: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: As in `write`.
        counted(unsafe { libc::pwrite(file.as_raw_fd(), self.start().cast(), self.length(), 0) })
    }

    pub(crate) fn send(self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: As in `write`.
        counted(unsafe { libc::send(socket.as_raw_fd(), self.start().cast(), self.length(), 0) })
    }

    /// Writes to it as another process would.
    pub(crate) fn write_as_another_process(self, bytes: &[u8]) -> io::Result<usize> {
        let from = libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len().min(self.length()),
        };
        let to = self.vector();
        // SAFETY: It has no preconditions.
        let own = unsafe { libc::getpid() };
        // SAFETY: Both vectors live for the call; the kernel reads the borrowed bytes, and writes to
        // the range, which by the type invariants lies in the region.
        counted(unsafe { libc::process_vm_writev(own, &raw const from, 1, &raw const to, 1, 0) })
    }

    /// Waits on its first word unless that is not `expected`, which is what the caller knows.
    pub(crate) fn futex_wait(self, expected: u32) -> io::Result<usize> {
        let timeout: *const libc::timespec = std::ptr::null();
        let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
        // SAFETY: The kernel reads a word of the region; a null timeout is none.
        let result =
            unsafe { libc::syscall(libc::SYS_futex, self.start(), operation, expected, timeout) };
        counted(result.try_into().unwrap_or(-1))
    }

    /// Wakes who waits on `other`, and adds 1 to its first word.
    pub(crate) fn futex_wake_and_add(self, other: &u32) -> io::Result<usize> {
        let other: *const u32 = other;
        // FUTEX_OP_ADD of 1; compared equal to 0.
        const ADD_ONE: u32 = 1 << 28 | 1 << 12;
        let operation = libc::FUTEX_WAKE_OP | libc::FUTEX_PRIVATE_FLAG;
        let (nr_woken, nr_woken_too) = (1_usize, 1_usize);
        // SAFETY: The first word is only a name; the second one lies in the region.
        let result = unsafe {
            libc::syscall(
                libc::SYS_futex,
                other,
                operation,
                nr_woken,
                nr_woken_too,
                self.start(),
                ADD_ONE,
            )
        };
        counted(result.try_into().unwrap_or(-1))
    }
}

fn counted(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_negative| io::Error::last_os_error())
}

/// A ring for one request at a time.
pub(crate) struct Ring(IoUring);

impl Ring {
    /// `None` where the system refuses it, which is told.
    pub(crate) fn new() -> Option<Self> {
        match IoUring::new(2) {
            Ok(ring) => Some(Self(ring)),
            Err(error) => {
                eprintln!("NOT RUN: io_uring: {error}");
                None
            }
        }
    }

    /// Pins `patch`, as buffer 0.
    pub(crate) fn register(&self, patch: Patch<'_>) -> io::Result<()> {
        // SAFETY: The range lies in the region, by its invariants, which outlives the ring in the
        // tests.
        unsafe { self.0.submitter().register_buffers(&[patch.vector()]) }
    }

    pub(crate) fn unregister(&self) -> io::Result<()> {
        self.0.submitter().unregister_buffers()
    }

    /// Reads the start of a file to a patch.
    pub(crate) fn read(&mut self, file: BorrowedFd<'_>, patch: Patch<'_>) -> io::Result<usize> {
        let file = types::Fd(file.as_raw_fd());
        self.call(&opcode::Read::new(file, patch.start(), patch.length).build())
    }

    /// As [`Self::read`], to the patch that was registered.
    pub(crate) fn read_fixed(
        &mut self,
        file: BorrowedFd<'_>,
        patch: Patch<'_>,
    ) -> io::Result<usize> {
        let file = types::Fd(file.as_raw_fd());
        self.call(&opcode::ReadFixed::new(file, patch.start(), patch.length, 0).build())
    }

    pub(crate) fn write(&mut self, file: BorrowedFd<'_>, patch: Patch<'_>) -> io::Result<usize> {
        let file = types::Fd(file.as_raw_fd());
        self.call(&opcode::Write::new(file, patch.start(), patch.length).build())
    }

    fn call(&mut self, request: &io_uring::squeue::Entry) -> io::Result<usize> {
        // SAFETY: The request's file and memory live until it is complete, which is waited for.
        let pushed = unsafe { self.0.submission().push(request) };
        pushed.map_err(io::Error::other)?;
        self.0.submit_and_wait(1)?;
        let completed = self.0.completion().next();
        let result = completed.map_or(-libc::EIO, |entry| entry.result());
        usize::try_from(result).map_err(|_negative| io::Error::from_raw_os_error(-result))
    }
}
