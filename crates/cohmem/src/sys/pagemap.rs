//! `/proc/PID/pagemap`: where the pages of a process are.

use std::{
    fs::File,
    io,
    ops::Range,
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
const IS_FILE: u64 = 1 << 2;
const IS_PRESENT: u64 = 1 << 3;
const IS_SWAPPED: u64 = 1 << 4;
const IS_ZERO: u64 = 1 << 5;
const ENTRY_FILE: u64 = 1 << 61;
const ENTRY_SWAPPED: u64 = 1 << 62;
const ENTRY_PRESENT: u64 = 1 << 63;
const ENTRY_PFN: u64 = (1 << 55) - 1;

/// What the kernel tells of a page that has content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// In memory, and of no file.
    Anonymous,
    /// In memory: a page of a file, or of shared memory.
    File,
    /// The shared page of zeros.
    Zero,
    /// In swap, or on its way to another place.
    Swapped,
}

impl Content {
    const fn of_categories(categories: u64) -> Self {
        if categories & IS_PRESENT == 0 {
            Self::Swapped
        } else if categories & IS_ZERO != 0 {
            Self::Zero
        } else if categories & IS_FILE != 0 {
            Self::File
        } else {
            Self::Anonymous
        }
    }

    /// Entries do not tell the page of zeros from others.
    const fn of_entry(entry: u64) -> Option<Self> {
        if entry & ENTRY_PRESENT != 0 {
            Some(if entry & ENTRY_FILE != 0 {
                Self::File
            } else {
                Self::Anonymous
            })
        } else if entry & ENTRY_SWAPPED != 0 {
            Some(Self::Swapped)
        } else {
            None
        }
    }
}

/// Consecutive pages of the same kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) content: Content,
}

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
            let (nr_regions, walk_end) = self.scan(from, end, IS_PRESENT, &mut regions)?;
            for region in regions.iter().take(nr_regions) {
                let span = region.start..region.end;
                self.for_each_entry(span, &mut entries, |address, entry| {
                    if entry & ENTRY_PRESENT != 0 {
                        found_fn(address, entry & ENTRY_PFN);
                    }
                })?;
            }
            if walk_end <= from {
                break;
            }
            from = walk_end;
        }
        Ok(())
    }

    /// Calls `batch_fn` with the next runs of `start..end`, by address, until all were told.
    ///
    /// Address space without pages costs nothing, mapped or not: the kernel skips what has no page
    /// table. Kernels before 6.7 lack the scan and answer ENOTTY.
    pub(crate) fn for_each_run<E: From<io::Error>>(
        &self,
        start: u64,
        end: u64,
        mut batch_fn: impl FnMut(&[Run]) -> Result<(), E>,
    ) -> Result<(), E> {
        // Each has a page at least, and many ranges are small.
        let nr_pages = usize::try_from(end.saturating_sub(start) / PAGE).unwrap_or(usize::MAX);
        let mut regions = vec![PageRegion::default(); nr_pages.clamp(1, 4096)];
        let mut runs = Vec::with_capacity(regions.len());
        let mut from = start;
        while from < end {
            let wanted = IS_PRESENT | IS_SWAPPED;
            let (nr_regions, walk_end) = self.scan(from, end, wanted, &mut regions)?;
            runs.clear();
            runs.extend(regions.iter().take(nr_regions).map(|region| Run {
                start: region.start,
                end: region.end,
                content: Content::of_categories(region.categories),
            }));
            batch_fn(&runs)?;
            if walk_end <= from {
                break;
            }
            from = walk_end;
        }
        Ok(())
    }

    /// As [`Pagemap::for_each_run`], from the entry of each page: what every kernel offers.
    ///
    /// It costs 8 bytes read for each page of the range, also where there is none.
    pub(crate) fn for_each_run_by_entry<E: From<io::Error>>(
        &self,
        start: u64,
        end: u64,
        mut batch_fn: impl FnMut(&[Run]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut entries = vec![0_u8; 4096 * 8];
        let step = entries.len() as u64 / 8 * PAGE;
        let mut from = start;
        while from < end {
            let to = end.min(from.saturating_add(step));
            let mut runs: Vec<Run> = Vec::new();
            self.for_each_entry(from..to, &mut entries, |address, entry| {
                let Some(content) = Content::of_entry(entry) else {
                    return;
                };
                match runs.last_mut() {
                    Some(last) if last.end == address && last.content == content => {
                        last.end += PAGE;
                    }
                    _ => runs.push(Run {
                        start: address,
                        end: address + PAGE,
                        content,
                    }),
                }
            })?;
            batch_fn(&runs)?;
            from = to;
        }
        Ok(())
    }

    /// The frame number of a present page; `None` if it is not present, or not to be seen.
    pub(crate) fn frame_at(&self, address: u64) -> io::Result<Option<u64>> {
        let mut frame = None;
        self.for_each_entry(address..address + PAGE, &mut [0; 8], |_, entry| {
            if entry & ENTRY_PRESENT != 0 {
                frame = Some(entry & ENTRY_PFN).filter(|&pfn| pfn != 0);
            }
        })?;
        Ok(frame)
    }

    /// Calls `entry_fn(address, entry)` for each page of `span`; `entries` is room for reading.
    fn for_each_entry(
        &self,
        span: Range<u64>,
        entries: &mut [u8],
        mut entry_fn: impl FnMut(u64, u64),
    ) -> io::Result<()> {
        let mut address = span.start;
        while address < span.end {
            let pages = ((span.end - address) / PAGE).min(entries.len() as u64 / 8);
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
                entry_fn(address, entry);
                address += PAGE;
            }
        }
        Ok(())
    }

    /// Fills `regions` with pages of `start..end` of any of the categories `wanted`; returns how
    /// many regions and where it stopped.
    fn scan(
        &self,
        start: u64,
        end: u64,
        wanted: u64,
        regions: &mut [PageRegion],
    ) -> io::Result<(usize, u64)> {
        let mut argument = ScanArgument {
            size: size_of::<ScanArgument>() as u64,
            start,
            end,
            vec: regions.as_mut_ptr().expose_provenance() as u64,
            vec_len: regions.len() as u64,
            category_anyof_mask: wanted,
            return_mask: wanted | IS_FILE | IS_ZERO,
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

    fn own_pagemap() -> Pagemap {
        Pagemap::open_in(File::open(Path::new("/proc/self")).unwrap()).unwrap()
    }

    /// Pages of 64 that have content, by number.
    fn pages_of(runs: &[Run], start: u64) -> Vec<u64> {
        let pages = runs.iter().flat_map(|run| {
            let (first, end) = ((run.start - start) / PAGE, (run.end - start) / PAGE);
            first..end
        });
        pages.collect()
    }

    /// Says so, and returns true: kernels before 6.7 lack the scan, nothing else may fail.
    fn lacks_scan(scanned: io::Result<()>) -> bool {
        let Err(error) = scanned else { return false };
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY), "{error}");
        eprintln!("SKIP: this kernel has no PAGEMAP_SCAN");
        true
    }

    #[test]
    fn touched_pages_are_found_and_no_others() {
        let mut mapping = Mapping::anonymous(64 * 4096).unwrap().without_huge_pages();
        let start = mapping.as_slice().as_ptr().addr() as u64;
        for page in [3, 4, 40] {
            mapping.as_mut_slice()[page * 4096] = 1;
        }
        let mut found = Vec::new();
        let scanned = own_pagemap().for_each_present(start, start + 64 * PAGE, |address, _| {
            found.push((address - start) / PAGE);
        });
        if !lacks_scan(scanned) {
            assert_eq!(found, [3, 4, 40]);
        }
    }

    #[test]
    fn the_scan_and_the_entries_tell_the_same() {
        let mut mapping = Mapping::anonymous(64 * 4096).unwrap().without_huge_pages();
        let start = mapping.as_slice().as_ptr().addr() as u64;
        let end = start + 64 * PAGE;
        for page in [0, 9, 10, 63] {
            mapping.as_mut_slice()[page * 4096] = 1;
        }
        let pagemap = own_pagemap();
        let mut by_entry = Vec::new();
        let told = pagemap.for_each_run_by_entry(start, end, |runs| {
            by_entry.extend_from_slice(runs);
            Ok::<(), io::Error>(())
        });
        told.unwrap();
        assert_eq!(pages_of(&by_entry, start), [0, 9, 10, 63]);
        assert!(by_entry.iter().all(|run| run.content == Content::Anonymous));
        let mut by_scan = Vec::new();
        let told = pagemap.for_each_run(start, end, |runs| {
            by_scan.extend_from_slice(runs);
            Ok::<(), io::Error>(())
        });
        if !lacks_scan(told) {
            assert_eq!(by_scan, by_entry);
        }
    }

    #[test]
    fn a_page_that_was_only_read_is_the_page_of_zeros() {
        let mapping = Mapping::anonymous(8 * 4096).unwrap().without_huge_pages();
        let start = mapping.as_slice().as_ptr().addr() as u64;
        assert_eq!(std::hint::black_box(mapping.as_slice())[2 * 4096], 0);
        let mut found = Vec::new();
        let told = own_pagemap().for_each_run(start, start + 8 * PAGE, |runs| {
            found.extend_from_slice(runs);
            Ok::<(), io::Error>(())
        });
        if !lacks_scan(told) {
            assert_eq!(pages_of(&found, start), [2]);
            assert_eq!(found[0].content, Content::Zero);
        }
    }
}
