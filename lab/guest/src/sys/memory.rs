//! Mappings, and where their pages are.

use std::{
    fs::File,
    io::{Error, Read as _, Seek as _, SeekFrom},
    os::{fd::AsRawFd as _, unix::fs::FileExt as _},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use super::check;

/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;
/// Bytes of a huge page.
pub(crate) const HUGE: usize = 2 << 20;

/// An anonymous or file mapping.
///
/// # Invariants
///
/// `base..base + len` is mapped until the drop, except where a test unmapped a part by [`Memory::unmap`]
/// and then does not touch it.
#[derive(Debug)]
pub(crate) struct Memory {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory belongs to the process, not to a thread, and is reached through atomics only.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Anonymous private memory, aligned to a huge page, without huge pages, untouched.
    pub(crate) fn anonymous(len: usize) -> Self {
        let memory = Self::map(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1);
        memory
            .advise(libc::MADV_NOHUGEPAGE)
            .expect("MADV_NOHUGEPAGE");
        memory
    }

    /// Anonymous private memory in huge pages, touched. `len` is a multiple of [`HUGE`].
    pub(crate) fn huge(len: usize) -> Self {
        let memory = Self::map(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1);
        memory.advise(libc::MADV_HUGEPAGE).expect("MADV_HUGEPAGE");
        memory.fill(|index| index as u64);
        memory
    }

    /// Huge pages that use up memory: only one word of each page is written.
    pub(crate) fn hog(len: usize) -> Self {
        let memory = Self::map(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1);
        memory.advise(libc::MADV_HUGEPAGE).expect("MADV_HUGEPAGE");
        for page in 0..len / PAGE {
            memory.page_word(page).store(page as u64, Relaxed);
        }
        memory
    }

    /// Anonymous memory that is filled by `value_of(word index)`.
    pub(crate) fn filled(len: usize, value_of: impl Fn(usize) -> u64) -> Self {
        let memory = Self::anonymous(len);
        memory.fill(value_of);
        memory
    }

    /// As [`Memory::anonymous`], but more than the machine could ever back.
    pub(crate) fn sparse(len: usize) -> Self {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let memory = Self::map(len, flags, -1);
        memory
            .advise(libc::MADV_NOHUGEPAGE)
            .expect("MADV_NOHUGEPAGE");
        memory
    }

    /// Shared anonymous memory.
    pub(crate) fn shared(len: usize) -> Self {
        Self::map(len, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1)
    }

    /// Private memory in pages of hugetlbfs, of which the machine must have set some aside.
    pub(crate) fn hugetlb(len: usize) -> Self {
        Self::map(
            len,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB,
            -1,
        )
    }

    /// A private mapping of a file.
    pub(crate) fn file(file: &File, len: usize) -> Self {
        Self::map(len, libc::MAP_PRIVATE, file.as_raw_fd())
    }

    fn map(len: usize, flags: i32, fd: i32) -> Self {
        // SAFETY: a new mapping at an address that the kernel chooses; nothing else is replaced.
        let spare = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len + HUGE,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        assert_ne!(
            spare,
            libc::MAP_FAILED,
            "mmap of {len} bytes: {}",
            Error::last_os_error()
        );
        let base = spare.wrapping_byte_add(spare.align_offset(HUGE));
        // SAFETY: replaces a part of the mapping made above, which nobody else knows of.
        let fixed = unsafe {
            libc::mmap(
                base,
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                flags | libc::MAP_FIXED,
                fd,
                0,
            )
        };
        assert_ne!(
            fixed,
            libc::MAP_FAILED,
            "mmap of {len} bytes: {}",
            Error::last_os_error()
        );
        // INVARIANT: mapped just now.
        Self {
            base: NonNull::new(fixed.cast()).expect("not at address 0"),
            len,
        }
    }

    pub(crate) fn address(&self) -> u64 {
        self.base.as_ptr().addr() as u64
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn nr_pages(&self) -> u64 {
        (self.len / PAGE) as u64
    }

    /// The memory as words that any thread may read and write.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: mapped for at least `len` bytes (type invariants), page-aligned, initialised by the
        // kernel; atomics allow every concurrent access that the tests make.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().cast::<AtomicU64>(), self.len / 8) }
    }

    /// The first word of page `index`.
    pub(crate) fn page_word(&self, index: usize) -> &AtomicU64 {
        &self.words()[index * (PAGE / 8)]
    }

    pub(crate) fn fill(&self, value_of: impl Fn(usize) -> u64) {
        for (index, word) in self.words().iter().enumerate() {
            word.store(value_of(index), Relaxed);
        }
    }

    /// Panics at the first word that is not `value_of(word index)`.
    pub(crate) fn expect(&self, value_of: impl Fn(usize) -> u64) {
        for (index, word) in self.words().iter().enumerate() {
            let (found, wanted) = (word.load(Relaxed), value_of(index));
            assert_eq!(found, wanted, "word {index} (page {})", index / (PAGE / 8));
        }
    }

    pub(crate) fn advise(&self, advice: i32) -> Result<(), Error> {
        self.advise_part(0, self.len, advice)
    }

    pub(crate) fn advise_part(&self, offset: usize, len: usize, advice: i32) -> Result<(), Error> {
        assert!(offset + len <= self.len);
        // SAFETY: the range is ours; advice that drops content is what the test asks for, and words are
        // read as atomics only.
        let result =
            unsafe { libc::madvise(self.base.as_ptr().wrapping_add(offset).cast(), len, advice) };
        check(i64::from(result)).map(drop)
    }

    pub(crate) fn protect(&self, offset: usize, len: usize, protection: i32) {
        assert!(offset + len <= self.len);
        // SAFETY: the range is ours, and the test touches it only as the protection allows.
        let result = unsafe {
            libc::mprotect(
                self.base.as_ptr().wrapping_add(offset).cast(),
                len,
                protection,
            )
        };
        check(i64::from(result)).expect("mprotect");
    }

    pub(crate) fn lock(&self) -> Result<(), Error> {
        // SAFETY: the range is ours.
        check(i64::from(unsafe {
            libc::mlock(self.base.as_ptr().cast(), self.len)
        }))
        .map(drop)
    }

    pub(crate) fn unlock(&self) {
        // SAFETY: the range is ours.
        let result = unsafe { libc::munlock(self.base.as_ptr().cast(), self.len) };
        check(i64::from(result)).expect("munlock");
    }

    /// Unmaps a part, which the test does not touch again.
    pub(crate) fn unmap(&self, offset: usize, len: usize) {
        assert!(offset + len <= self.len);
        // SAFETY: the range is ours, and by this function's contract no longer touched.
        let result = unsafe { libc::munmap(self.base.as_ptr().wrapping_add(offset).cast(), len) };
        check(i64::from(result)).expect("munmap");
    }

    /// Moves the whole mapping to a new address.
    pub(crate) fn moved(self) -> Self {
        let target = Self::anonymous(self.len);
        // SAFETY: both ranges are ours; the target's old mapping is replaced and nobody refers to it.
        let moved = unsafe {
            libc::mremap(
                self.base.as_ptr().cast(),
                self.len,
                self.len,
                libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
                target.base.as_ptr().cast::<libc::c_void>(),
            )
        };
        assert_ne!(
            moved,
            libc::MAP_FAILED,
            "mremap: {}",
            Error::last_os_error()
        );
        std::mem::forget(self);
        target
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the range is ours, and the borrow of every word has ended.
        let result = unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
        assert_eq!(result, 0, "munmap: {}", Error::last_os_error());
    }
}

/// Page-frame numbers of `nr_pages` pages from `address` of a process; 0 where none is present.
pub(crate) fn frames_of(pid: u32, address: u64, nr_pages: u64) -> Vec<u64> {
    let file = File::open(format!("/proc/{pid}/pagemap")).expect("pagemap");
    let mut bytes = vec![0u8; usize::try_from(nr_pages).expect("fits") * 8];
    file.read_exact_at(&mut bytes, address / PAGE as u64 * 8)
        .expect("pagemap entries");
    bytes
        .chunks_exact(8)
        .map(|entry| {
            let entry = u64::from_ne_bytes(entry.try_into().expect("eight bytes"));
            if entry >> 63 == 1 {
                entry & ((1 << 55) - 1)
            } else {
                0
            }
        })
        .collect()
}

/// A number from a file such as `/sys/.../free`.
pub(crate) fn read_number(path: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.trim()
        .parse()
        .unwrap_or_else(|error| panic!("{path}: {text:?}: {error}"))
}

/// A field in kB of `/proc/meminfo`, in bytes.
pub(crate) fn meminfo(field: &str) -> u64 {
    let mut text = String::new();
    let mut file = File::open("/proc/meminfo").expect("meminfo");
    file.seek(SeekFrom::Start(0)).expect("seek");
    file.read_to_string(&mut text).expect("meminfo");
    let line = text
        .lines()
        .find(|line| line.starts_with(field))
        .expect("field");
    let kib: u64 = line
        .split_whitespace()
        .nth(1)
        .expect("value")
        .parse()
        .expect("number");
    kib * 1024
}
