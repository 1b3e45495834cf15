//! System calls on parts of a region that other threads use at the same time.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    thread,
};

use cohmem_engine::Region;

pub(crate) const O_DIRECT: i32 = libc::O_DIRECT;

/// Reads from a file straight into a part of the region.
pub(crate) fn pread(
    file: &File,
    region: &Region,
    start: usize,
    length: usize,
    offset: u64,
) -> io::Result<usize> {
    assert!(start + length <= region.len());
    let target = region.as_ptr().as_ptr().wrapping_add(start);
    // SAFETY: The range lies in the region, which is borrowed; the tests make no reference to it
    // meanwhile.
    let nr_bytes = unsafe {
        libc::pread(
            file.as_raw_fd(),
            target.cast(),
            length,
            libc::off_t::try_from(offset).unwrap(),
        )
    };
    usize::try_from(nr_bytes).map_err(|_error| io::Error::last_os_error())
}

/// The word at an offset.
pub(crate) fn word(region: &Region, offset: usize) -> &AtomicU64 {
    assert!(offset.is_multiple_of(8) && offset < region.len());
    let place = region.as_ptr().as_ptr().wrapping_add(offset);
    // SAFETY: It lies in the region, which is borrowed, is aligned and initialised, and an atomic word
    // may be changed through shared references.
    unsafe { &*place.cast::<AtomicU64>() }
}

/// A lock whose word lies in a region: 0 free, 1 held, 2 held and waited for.
pub(crate) struct FutexLock<'r>(&'r AtomicU32);

impl<'r> FutexLock<'r> {
    pub(crate) fn in_region(region: &'r Region, offset: usize) -> Self {
        let place = ptr::from_ref(word(region, offset)).cast::<AtomicU32>();
        // SAFETY: The first half of a word that lives as long as the borrow.
        Self(unsafe { &*place })
    }

    pub(crate) fn lock(&self) {
        let mut is_free = self
            .0
            .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed)
            .is_ok();
        while !is_free {
            if self.0.swap(2, Ordering::Acquire) == 0 {
                return;
            }
            let waited = self.futex(libc::FUTEX_WAIT, 2);
            if waited == -1 {
                let error = io::Error::last_os_error().raw_os_error();
                assert!(
                    error == Some(libc::EAGAIN) || error == Some(libc::EINTR),
                    "futex wait: {error:?}"
                );
            }
            is_free = false;
        }
    }

    pub(crate) fn unlock(&self) {
        if self.0.swap(0, Ordering::Release) == 2 {
            assert!(self.futex(libc::FUTEX_WAKE, 1) >= 0);
        }
    }

    fn futex(&self, operation: i32, value: u32) -> libc::c_long {
        let timeout: *const libc::timespec = ptr::null();
        // SAFETY: The word is borrowed, and the kernel only reads it.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                self.0.as_ptr(),
                operation | libc::FUTEX_PRIVATE_FLAG,
                value,
                timeout,
            )
        }
    }
}

/// A part of a region that an `io_uring` has pinned.
pub(crate) struct RegisteredBuffer(OwnedFd);

impl RegisteredBuffer {
    /// `None` where the system refuses `io_uring`.
    pub(crate) fn new(region: &Region, start: usize, length: usize) -> Option<Self> {
        assert!(start + length <= region.len());
        let mut parameters = [0_u8; 120];
        // SAFETY: The kernel reads and writes the structure of 120 bytes, and makes a file descriptor.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) };
        let fd = i32::try_from(fd).ok().filter(|&fd| fd >= 0)?;
        // SAFETY: The kernel has just made it.
        let ring = unsafe { OwnedFd::from_raw_fd(fd) };
        let buffer = libc::iovec {
            iov_base: region.as_ptr().as_ptr().wrapping_add(start).cast(),
            iov_len: length,
        };
        // Operation 0 registers buffers.
        // SAFETY: The kernel reads one vector; the range that it names lies in the region.
        let registered = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                ring.as_raw_fd(),
                0,
                &raw const buffer,
                1,
            )
        };
        (registered == 0).then_some(Self(ring))
    }
}

impl Drop for RegisteredBuffer {
    fn drop(&mut self) {
        let none: *const libc::c_void = ptr::null();
        // Operation 1 gives all buffers back.
        // SAFETY: It takes no memory.
        unsafe { libc::syscall(libc::SYS_io_uring_register, self.0.as_raw_fd(), 1, none, 0) };
    }
}

/// Tries until it works: the kernel lets pins go a moment after it was told to.
pub(crate) fn until_unpinned(mut try_fn: impl FnMut() -> bool) {
    while !try_fn() {
        thread::yield_now();
    }
}

/// So many mappings that the process may have no more.
pub(crate) struct Filler {
    start: *mut libc::c_void,
    length: usize,
}

impl Filler {
    /// `None` if that would be too many.
    pub(crate) fn to_the_limit() -> Option<Self> {
        let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap();
        let limit: usize = limit.trim().parse().unwrap();
        if limit > 200_000 {
            return None;
        }
        let length = (limit + 2) * 4096;
        // SAFETY: A new mapping where nothing is.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        assert_ne!(start, libc::MAP_FAILED);
        let filler = Self { start, length };
        for page in (1..limit).step_by(2) {
            let place = start.wrapping_byte_add(page * 4096);
            // SAFETY: A page of the mapping just made, which nothing uses.
            if unsafe { libc::mprotect(place, 4096, libc::PROT_READ) } != 0 {
                return Some(filler);
            }
        }
        panic!("the limit was not reached");
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        // SAFETY: The mapping is this value's.
        assert_eq!(unsafe { libc::munmap(self.start, self.length) }, 0);
    }
}
