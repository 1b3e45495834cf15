//! What the benchmarks need of the system: `move_pages(2)` and the test devices' commands, memory that they
//! move, huge pages. Every unsafe block of the crate is here.

use std::{
    fs::File, io::Error, mem::MaybeUninit, os::fd::AsRawFd as _, process::Child, ptr::NonNull,
    sync::atomic::AtomicU64, time::Duration,
};

/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;

/// Private anonymous memory in 4 KiB pages.
///
/// # Invariants
///
/// `base..base + len` is mapped until the drop.
#[derive(Debug)]
pub(crate) struct Pages {
    base: NonNull<u8>,
    len: usize,
}

impl Pages {
    /// Maps and touches `len` bytes, word i with the value i.
    pub(crate) fn touched(len: usize) -> Result<Self, Error> {
        let mut pages = Self::untouched(len)?;
        for (value, word) in pages.words_mut().iter_mut().enumerate() {
            *word = value as u64;
        }
        Ok(pages)
    }

    /// Maps `len` bytes, or a page if there are none, and touches one page in 1 GiB.
    pub(crate) fn sparse(len: usize) -> Result<Self, Error> {
        let mut pages = Self::untouched(len)?;
        for word in pages.words_mut().iter_mut().step_by((1 << 30) / 8) {
            *word = 1;
        }
        Ok(pages)
    }

    /// So many touched pages, each a mapping of its own: every other one may only be read.
    pub(crate) fn in_pieces(nr_pages: usize) -> Result<Self, Error> {
        let pages = Self::touched(nr_pages * PAGE)?;
        for address in pages.page_addresses().into_iter().step_by(2) {
            // SAFETY: a page of the mapping, which nobody writes to from now on.
            if unsafe { libc::mprotect(address, PAGE, libc::PROT_READ) } != 0 {
                return Err(Error::last_os_error());
            }
        }
        Ok(pages)
    }

    fn untouched(len: usize) -> Result<Self, Error> {
        let len = len.max(PAGE);
        // SAFETY: a new mapping at an address that the kernel chooses.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).expect("the kernel maps nothing at address 0");
        // INVARIANT: mapped just now.
        let pages = Self { base, len };
        // SAFETY: the range was mapped just now and is ours.
        if unsafe { libc::madvise(base.as_ptr().cast(), len, libc::MADV_NOHUGEPAGE) } != 0 {
            return Err(Error::last_os_error());
        }
        Ok(pages)
    }

    pub(crate) fn words(&self) -> &[u64] {
        // SAFETY: mapped and page-aligned (type invariants), initialised by the kernel, and written only
        // through `words_mut`, which borrows exclusively. A migration keeps content and address.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().cast(), self.len / 8) }
    }

    pub(crate) fn words_mut(&mut self) -> &mut [u64] {
        // SAFETY: as in `words`; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().cast(), self.len / 8) }
    }

    /// The content is what `touched` wrote.
    pub(crate) fn is_whole(&self) -> bool {
        self.words()
            .iter()
            .enumerate()
            .all(|(value, &word)| word == value as u64)
    }

    pub(crate) fn page_addresses(&self) -> Vec<*mut libc::c_void> {
        (0..self.len / PAGE)
            .map(|page| self.base.as_ptr().wrapping_add(page * PAGE).cast())
            .collect()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: mapped by us, and every borrow has ended.
        let result = unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
        assert_eq!(result, 0, "munmap of our own mapping");
    }
}

/// One `move_pages(2)` call; its arrays are made beforehand.
#[derive(Debug)]
pub(crate) struct MovePages {
    addresses: Vec<*mut libc::c_void>,
    nodes: Vec<i32>,
    status: Vec<i32>,
}

const MPOL_MF_MOVE: i32 = 1 << 1;

impl MovePages {
    pub(crate) fn new(pages: &Pages, node: i32) -> Self {
        let addresses = pages.page_addresses();
        Self {
            nodes: vec![node; addresses.len()],
            status: vec![i32::MIN; addresses.len()],
            addresses,
        }
    }

    /// Moves all pages; the number of those that are now on the node.
    pub(crate) fn call(&mut self) -> Result<usize, Error> {
        // SAFETY: three arrays of as many entries as the count says, all ours; the kernel writes the
        // last only.
        let result = unsafe {
            libc::syscall(
                libc::SYS_move_pages,
                0,
                self.addresses.len(),
                self.addresses.as_ptr(),
                self.nodes.as_ptr(),
                self.status.as_mut_ptr(),
                MPOL_MF_MOVE,
            )
        };
        if result < 0 {
            return Err(Error::last_os_error());
        }
        Ok(self
            .status
            .iter()
            .zip(&self.nodes)
            .filter(|(status, node)| status == node)
            .count())
    }
}

/// What the test devices do with a range of pages (`lib/test_hmm_uapi.h`).
#[derive(Clone, Copy, Debug)]
pub(crate) enum DeviceCommand {
    /// Moves it to the device, and copies what the device sees then.
    ToDevice = 2,
    /// Moves it home.
    ToSystem = 3,
}

/// The argument of the test devices' commands.
#[repr(C)]
struct DeviceArgument {
    address: u64,
    buffer: u64,
    nr_pages: u64,
    nr_done: u64,
    nr_faults: u64,
}

impl DeviceCommand {
    /// Runs the command on `pages`; `seen`, as large, is where the device's copy goes. Returns the number
    /// of pages that were done.
    pub(crate) fn call(self, device: &File, pages: &Pages, seen: &mut Pages) -> Result<u64, Error> {
        assert_eq!(pages.len, seen.len, "the copy is as large as the original");
        let mut argument = DeviceArgument {
            address: pages.base.as_ptr().expose_provenance() as u64,
            buffer: seen.base.as_ptr().expose_provenance() as u64,
            nr_pages: (pages.len / PAGE) as u64,
            nr_done: 0,
            nr_faults: 0,
        };
        let number = libc::_IOWR::<DeviceArgument>(u32::from(b'H'), self as u32);
        // SAFETY: the command reads and writes the argument, which outlives the call; it moves `pages` and
        // keeps their content; it writes to `seen` only, which is mapped and borrowed uniquely.
        let result = unsafe { libc::ioctl(device.as_raw_fd(), number, &raw mut argument) };
        if result < 0 {
            return Err(Error::last_os_error());
        }
        Ok(argument.nr_done)
    }
}

/// While it lives, memory that the process touches first gets no huge pages.
#[derive(Debug)]
pub(crate) struct NoHugePages(());

impl NoHugePages {
    pub(crate) fn enter() -> Self {
        set_huge_pages_off(1);
        Self(())
    }
}

impl Drop for NoHugePages {
    fn drop(&mut self) {
        set_huge_pages_off(0);
    }
}

fn set_huge_pages_off(is_off: libc::c_ulong) {
    // SAFETY: It takes numbers only. A kernel without huge pages refuses, and has none.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, is_off, 0, 0, 0) };
}

/// The first word of a region, for threads to share.
pub(crate) fn word(region: &cohmem_engine::Region) -> &AtomicU64 {
    // SAFETY: The region is larger, aligned, initialised, and lives as long as the borrow; the benchmark
    // makes no other references to it meanwhile.
    unsafe { region.as_ptr().cast::<AtomicU64>().as_ref() }
}

/// What a program used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) is_success: bool,
    /// Its own and the kernel's for it.
    pub(crate) processor: Duration,
    /// Most memory that it had at a time.
    pub(crate) peak_kib: i64,
}

/// Waits for a child.
pub(crate) fn wait_measured(child: Child) -> Result<Measured, Error> {
    let pid = i32::try_from(child.id()).map_err(Error::other)?;
    let mut status = 0;
    let mut usage = MaybeUninit::uninit();
    // SAFETY: it writes to the two places only. The child was not waited for yet, and since it is consumed
    // here, nobody does afterwards.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()) };
    if waited < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: a wait that succeeds has filled it.
    let usage: libc::rusage = unsafe { usage.assume_init() };
    let duration = |time: libc::timeval| {
        let micros = time.tv_sec * 1_000_000 + time.tv_usec;
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    };
    Ok(Measured {
        is_success: status == 0,
        processor: duration(usage.ru_utime) + duration(usage.ru_stime),
        peak_kib: usage.ru_maxrss,
    })
}

/// Processor time of this thread so far.
pub(crate) fn thread_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: The structure is valid for writes.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "each thread has this clock");
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::from_secs(seconds)
        + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or_default())
}
