//! `/proc/PID/pagemap`: where the pages of a process are.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::FileExt,
    },
};

use rustix::{
    fs::{Mode, OFlags, openat},
    ioctl::{Ioctl, IoctlOutput, Opcode, ioctl as run, opcode},
};

const PAGE: u64 = 4096;
const IS_PRESENT: u64 = 1 << 3;
const ENTRY_PRESENT: u64 = 1 << 63;
const ENTRY_PFN: u64 = (1 << 55) - 1;

/// `struct page_region` of `linux/fs.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg` of `linux/fs.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `PAGEMAP_SCAN` with the regions that it may write to; its output is how many it wrote.
struct Scan<'a> {
    argument: &'a mut ScanArgument,
}

// SAFETY:
// 1. The opcode is PAGEMAP_SCAN: `_IOWR('f', 16, struct pm_scan_arg)`.
// 2. `as_ptr` gives that structure, exclusively borrowed; the kernel writes to it (IS_MUTATING).
// 3. `output_from_ptr` reads only the call's own return value.
unsafe impl Ioctl for Scan<'_> {
    type Output = usize;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::read_write::<ScanArgument>(b'f', 16)
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        (&raw mut *self.argument).cast()
    }

    unsafe fn output_from_ptr(
        output: IoctlOutput,
        _: *mut std::ffi::c_void,
    ) -> rustix::io::Result<usize> {
        usize::try_from(output).map_err(|_negative| rustix::io::Errno::INVAL)
    }
}

/// An open `/proc/PID/pagemap`.
///
/// # Invariants
///
/// `file` was opened as `pagemap`; the scan's number carries the size of its argument, so that
/// another file's driver could not take it for more.
#[derive(Debug)]
pub(crate) struct Pagemap {
    file: File,
}

impl Pagemap {
    /// Opens `pagemap` in `process`, an open `/proc/PID`.
    pub(crate) fn open_in(process: impl AsFd) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        // INVARIANT: This is the name.
        Ok(Self {
            file: File::from(openat(process, "pagemap", flags, Mode::empty())?),
        })
    }

    /// A second handle of the same open file.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        // INVARIANT: It is the same open file.
        Ok(Self {
            file: self.file.try_clone()?,
        })
    }

    /// The descriptor, which carries the right to see the process.
    pub(crate) fn raw_fd(&self) -> i32 {
        self.file.as_raw_fd()
    }

    /// Calls `found_fn(address, frame number)` for each present page of `start..end`.
    ///
    /// The frame numbers are 0 for callers that may not see them.
    pub(crate) fn for_each_present(
        &self,
        start: u64,
        end: u64,
        mut found_fn: impl FnMut(u64, u64),
    ) -> io::Result<()> {
        let mut regions = [PageRegion::default(); 256];
        let mut entries = vec![0_u8; 4096 * 8];
        let mut from = start;
        while from < end {
            let (nr_regions, walk_end) = self.scan(from, end, &mut regions)?;
            for region in regions.iter().take(nr_regions) {
                self.for_each_entry(region, &mut entries, &mut found_fn)?;
            }
            if walk_end <= from {
                break;
            }
            from = walk_end;
        }
        Ok(())
    }

    fn for_each_entry(
        &self,
        region: &PageRegion,
        entries: &mut [u8],
        found_fn: &mut impl FnMut(u64, u64),
    ) -> io::Result<()> {
        let mut address = region.start;
        while address < region.end {
            let pages = ((region.end - address) / PAGE).min(entries.len() as u64 / 8);
            let part = usize::try_from(pages * 8).unwrap_or(0);
            let Some(part) = entries.get_mut(..part) else {
                break;
            };
            let read = self.file.read_at(part, address / PAGE * 8)?;
            if read < 8 {
                break;
            }
            for entry in part.get(..read).unwrap_or_default().chunks_exact(8) {
                let entry = u64::from_ne_bytes(entry.try_into().unwrap_or_default());
                if entry & ENTRY_PRESENT != 0 {
                    found_fn(address, entry & ENTRY_PFN);
                }
                address += PAGE;
            }
        }
        Ok(())
    }

    /// Fills `regions` with present pages of `start..end`; returns how many and where it stopped.
    fn scan(&self, start: u64, end: u64, regions: &mut [PageRegion]) -> io::Result<(usize, u64)> {
        let mut argument = ScanArgument {
            size: size_of::<ScanArgument>() as u64,
            start,
            end,
            vec: regions.as_mut_ptr().expose_provenance() as u64,
            vec_len: regions.len() as u64,
            category_mask: IS_PRESENT,
            return_mask: IS_PRESENT,
            ..ScanArgument::default()
        };
        let scan = Scan {
            argument: &mut argument,
        };
        // SAFETY: `file` is a pagemap by the type invariants. The kernel writes at most `vec_len`
        // regions to `vec`, which are those of `regions`, borrowed until the call has ended.
        let nr_regions = unsafe { run(&self.file, scan) }?;
        Ok((nr_regions, argument.walk_end))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::sys::map::Mapping;

    #[test]
    fn touched_pages_are_found_and_no_others() {
        let process = File::open(Path::new("/proc/self")).unwrap();
        let pagemap = Pagemap::open_in(&process).unwrap();
        let mut mapping = Mapping::anonymous(64 * 4096).unwrap();
        let start = mapping.as_slice().as_ptr().addr() as u64;
        for page in [3, 4, 40] {
            mapping.as_mut_slice()[page * 4096] = 1;
        }
        let mut found = Vec::new();
        let scanned = pagemap.for_each_present(start, start + 64 * 4096, |address, _| {
            found.push((address - start) / 4096);
        });
        match scanned {
            // With transparent huge pages more than the touched pages may be there.
            Ok(()) => assert!(
                [3, 4, 40].iter().all(|page| found.contains(page)),
                "{found:?}"
            ),
            Err(error) => assert_eq!(
                error.raw_os_error(),
                Some(libc::ENOTTY),
                "kernels before 6.7 lack the scan, nothing else may fail: {error}"
            ),
        }
    }
}
