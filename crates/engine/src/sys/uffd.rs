//! userfaultfd: a file through which accesses to missing or protected pages are answered.

use std::{
    fs::OpenOptions,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use linux_raw_sys::general as abi;
use rustix::io::Errno;

use crate::level::Obstacle;

const GROUP: u64 = 0xaa;
const UFFDIO_REGISTER: u64 = request::<abi::uffdio_register>(READ | WRITE, 0x00);
const UFFDIO_UNREGISTER: u64 = request::<abi::uffdio_range>(READ, 0x01);
const UFFDIO_WAKE: u64 = request::<abi::uffdio_range>(READ, 0x02);
const UFFDIO_COPY: u64 = request::<abi::uffdio_copy>(READ | WRITE, 0x03);
const UFFDIO_ZEROPAGE: u64 = request::<abi::uffdio_zeropage>(READ | WRITE, 0x04);
const UFFDIO_MOVE: u64 = request::<abi::uffdio_move>(READ | WRITE, 0x05);
const UFFDIO_WRITEPROTECT: u64 = request::<abi::uffdio_writeprotect>(READ | WRITE, 0x06);
const UFFDIO_API: u64 = request::<abi::uffdio_api>(READ | WRITE, 0x3f);
/// `_IO(0xaa, 0)` of `/dev/userfaultfd`.
const USERFAULTFD_NEW: u64 = GROUP << 8;

const WRITE: u64 = 1;
const READ: u64 = 2;

/// As the kernel's `_IOC`.
const fn request<T>(direction: u64, number: u64) -> u64 {
    direction << 30 | (size_of::<T>() as u64) << 16 | GROUP << 8 | number
}

/// Which accesses wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Those of missing pages.
    Missing,
    /// Writes to protected pages.
    WriteProtected,
}

/// What was read from the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A thread waits for the page at this address.
    Fault(usize),
    /// A mapping was moved; whoever moved it goes on when this has been read.
    Moved,
    /// None that was asked for.
    Other(u8),
}

impl Event {
    pub(crate) const BYTES: usize = size_of::<abi::uffd_msg>();

    /// Decodes a message as the kernel writes it: the kind in byte 0, a fault's address in bytes 16 to
    /// 23.
    pub(crate) fn decode(message: &[u8; Self::BYTES]) -> Self {
        match u32::from(message[0]) {
            abi::UFFD_EVENT_PAGEFAULT => {
                let mut address = [0; 8];
                address.copy_from_slice(&message[16..24]);
                // Lossless: addresses of this process, on targets of 64 bits.
                #[expect(clippy::cast_possible_truncation, reason = "an address fits usize")]
                Self::Fault(u64::from_ne_bytes(address) as usize)
            }
            abi::UFFD_EVENT_REMAP => Self::Moved,
            _ => Self::Other(message[0]),
        }
    }
}

/// An open userfaultfd of this process.
#[derive(Debug)]
pub(crate) struct Uffd(OwnedFd);

impl Uffd {
    /// Opens one that stops the kernel's accesses, too, and can move pages.
    pub(crate) fn open_full() -> Result<Self, Obstacle> {
        let file = match open(0) {
            Err(Errno::PERM) => open_node().map_err(|error| match error {
                Errno::MFILE | Errno::NFILE | Errno::NOMEM => exhausted(error),
                _ => Obstacle::NotPermitted,
            })?,
            other => other.map_err(obstacle_of)?,
        };
        let features = abi::UFFD_FEATURE_EVENT_REMAP | abi::UFFD_FEATURE_MOVE;
        match file.enable(features) {
            Ok(()) => Ok(file),
            Err(Errno::INVAL) => Err(Obstacle::KernelTooOld {
                missing: "UFFDIO_MOVE",
                since: "6.8",
            }),
            Err(error) => Err(obstacle_of(error)),
        }
    }

    /// Opens one for accesses from user mode, that protects memory from writes.
    pub(crate) fn open_user_mode() -> Result<Self, Obstacle> {
        let flags = abi::UFFD_USER_MODE_ONLY;
        let needed = abi::UFFD_FEATURE_PAGEFAULT_FLAG_WP | abi::UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
        let file = open(flags).map_err(obstacle_of)?;
        // Since 6.4: protects pages that were never touched as well. Before, they are populated first.
        if file
            .enable(needed | abi::UFFD_FEATURE_WP_UNPOPULATED)
            .is_ok()
        {
            return Ok(file);
        }
        // A file whose features were refused takes no second request.
        let file = open(flags).map_err(obstacle_of)?;
        match file.enable(needed) {
            Ok(()) => Ok(file),
            Err(Errno::INVAL) => Err(Obstacle::KernelTooOld {
                missing: "write protection of shared memory by userfaultfd",
                since: "5.19",
            }),
            Err(error) => Err(obstacle_of(error)),
        }
    }

    fn enable(&self, features: u32) -> Result<(), Errno> {
        let mut argument = abi::uffdio_api {
            api: u64::from(abi::UFFD_API),
            features: u64::from(features),
            ioctls: 0,
        };
        self.call(UFFDIO_API, &mut argument)
    }

    pub(crate) fn register(&self, start: usize, length: usize, mode: Mode) -> Result<(), Errno> {
        #[cfg(all(test, not(loom)))]
        TouchFirst::touch(start);
        let mut argument = abi::uffdio_register {
            range: range(start, length),
            mode: match mode {
                Mode::Missing => 1,
                Mode::WriteProtected => 1 << 1,
            },
            ioctls: 0,
        };
        self.call(UFFDIO_REGISTER, &mut argument)
    }

    pub(crate) fn unregister(&self, start: usize, length: usize) -> Result<(), Errno> {
        self.call(UFFDIO_UNREGISTER, &mut range(start, length))
    }

    pub(crate) fn wake(&self, start: usize, length: usize) -> Result<(), Errno> {
        self.call(UFFDIO_WAKE, &mut range(start, length))
    }

    /// Protects a registered range from writes; all earlier ones have arrived when it returns.
    pub(crate) fn protect(&self, start: usize, length: usize) -> Result<(), Errno> {
        let mut argument = abi::uffdio_writeprotect {
            range: range(start, length),
            mode: 1,
        };
        self.call(UFFDIO_WRITEPROTECT, &mut argument)
    }

    /// Fills missing pages of a registered range with copies, and wakes who waits for them; bytes done,
    /// also on failure.
    pub(crate) fn copy(&self, to: usize, from: usize, length: usize) -> (usize, Result<(), Errno>) {
        let mut argument = abi::uffdio_copy {
            dst: to as u64,
            src: from as u64,
            len: length as u64,
            mode: 0,
            copy: 0,
        };
        let result = self.call(UFFDIO_COPY, &mut argument);
        progress(result, argument.copy, length)
    }

    /// Moves pages to missing ones of a registered range and wakes nobody; bytes done, also on failure.
    pub(crate) fn move_pages(
        &self,
        to: usize,
        from: usize,
        length: usize,
    ) -> (usize, Result<(), Errno>) {
        let mut argument = abi::uffdio_move {
            dst: to as u64,
            src: from as u64,
            len: length as u64,
            // DONTWAKE
            mode: 1,
            move_: 0,
        };
        let result = self.call(UFFDIO_MOVE, &mut argument);
        progress(result, argument.move_, length)
    }

    pub(crate) fn zero_page(&self, start: usize, length: usize) -> Result<(), Errno> {
        let mut argument = abi::uffdio_zeropage {
            range: range(start, length),
            mode: 1,
            zeropage: 0,
        };
        self.call(UFFDIO_ZEROPAGE, &mut argument)
    }

    /// Reads what there is, without waiting: up to the buffer's messages.
    pub(crate) fn read(&self, buffer: &mut [[u8; Event::BYTES]]) -> Result<usize, Errno> {
        let nr_bytes = rustix::io::read(&self.0, buffer.as_flattened_mut())?;
        Ok(nr_bytes / Event::BYTES)
    }

    fn call<T>(&self, number: u64, argument: &mut T) -> Result<(), Errno> {
        let pointer: *mut T = argument;
        // SAFETY:
        // 1. The argument is the structure that the number was computed from, borrowed for the call.
        // 2. What the kernel changes of this process's memory are pages that whoever calls gave as its
        //    own: only `Areas` does so, with its own ranges.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), number, pointer) };
        if result == 0 {
            Ok(())
        } else {
            Err(last_error())
        }
    }
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn range(start: usize, length: usize) -> abi::uffdio_range {
    abi::uffdio_range {
        start: start as u64,
        len: length as u64,
    }
}

/// The kernel tells bytes done also when it fails, and a negative number if there are none.
fn progress(result: Result<(), Errno>, done: i64, length: usize) -> (usize, Result<(), Errno>) {
    match result {
        Ok(()) => (length, Ok(())),
        Err(error) => (usize::try_from(done).unwrap_or(0).min(length), Err(error)),
    }
}

fn open(flags: u32) -> Result<Uffd, Errno> {
    let flags = libc::c_long::from(libc::O_CLOEXEC | libc::O_NONBLOCK) | libc::c_long::from(flags);
    // SAFETY: It takes flags only, and makes a new file descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    adopt(fd)
}

fn open_node() -> Result<Uffd, Errno> {
    let node = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/userfaultfd")
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let flags = libc::c_long::from(libc::O_CLOEXEC | libc::O_NONBLOCK);
    // SAFETY: The request of this node takes flags as its argument, and makes a new file descriptor.
    let fd = unsafe { libc::ioctl(node.as_raw_fd(), USERFAULTFD_NEW, flags) };
    adopt(fd.into())
}

fn adopt(fd: libc::c_long) -> Result<Uffd, Errno> {
    match libc::c_int::try_from(fd) {
        Ok(fd) if fd >= 0 => {
            // SAFETY: The kernel has just made it for this call, so nothing else owns it.
            Ok(Uffd(unsafe { OwnedFd::from_raw_fd(fd) }))
        }
        _ => Err(last_error()),
    }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

fn exhausted(error: Errno) -> Obstacle {
    Obstacle::Exhausted {
        errno: error.raw_os_error(),
    }
}

fn obstacle_of(error: Errno) -> Obstacle {
    match error {
        Errno::MFILE | Errno::NFILE | Errno::NOMEM => exhausted(error),
        Errno::INVAL => Obstacle::KernelTooOld {
            missing: "userfaultfd for user mode only",
            since: "5.11",
        },
        error => Obstacle::NoUserfaultfd {
            errno: error.raw_os_error(),
        },
    }
}

/// While it lives, this thread reads the first byte of each range just before it registers it: what another
/// thread may do, at the worst moment.
#[cfg(all(test, not(loom)))]
pub(crate) struct TouchFirst(());

#[cfg(all(test, not(loom)))]
thread_local! {
    static IS_TOUCHING: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

#[cfg(all(test, not(loom)))]
impl TouchFirst {
    pub(crate) fn new() -> Self {
        IS_TOUCHING.set(true);
        Self(())
    }

    fn touch(start: usize) {
        if IS_TOUCHING.get() {
            let byte = std::ptr::with_exposed_provenance::<u8>(start);
            // SAFETY: Whoever registers a range owns it, and it is mapped and readable.
            let _byte = unsafe { byte.read_volatile() };
        }
    }
}

#[cfg(all(test, not(loom)))]
impl Drop for TouchFirst {
    fn drop(&mut self) {
        IS_TOUCHING.set(false);
    }
}
