//! Who maps a frame: found in `/proc`, as root.

use std::collections::{BTreeMap, BTreeSet};

use cohmem_uapi::FRAME_BYTES;

use crate::{
    error::{Cause, ErrorKind, Result},
    process::{Process, VmaKind, pids},
    units::UserAddr,
};

/// A process that maps a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// Number of the process.
    pub pid: u32,
    /// The short name that it goes by.
    pub name: String,
    /// Address at which it maps the frame.
    pub address: UserAddr,
}

/// Who maps which frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holders {
    /// Holders by physical address of the frame; a frame that no process maps is not in it.
    pub by_frame: BTreeMap<u64, Vec<Holder>>,
    /// Processes that the caller may not see, which may hold frames as well.
    pub nr_unseen: u64,
}

/// Finds the processes that map the frames at the physical addresses `frames`.
///
/// Processes that end meanwhile are left out. Needs root, since the kernel tells frame numbers to
/// nobody else, and Linux 6.7 or newer.
///
/// # Errors
///
/// [`Io`](crate::ErrorKind::Io).
pub fn holders(frames: &[u64]) -> Result<Holders> {
    let mut holders = Holders::default();
    let wanted: BTreeSet<u64> = frames.iter().map(|phys| phys / FRAME_BYTES).collect();
    if wanted.is_empty() {
        return Ok(holders);
    }
    for pid in pids()? {
        match find_in(pid, &wanted, &mut holders.by_frame) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotPermitted => holders.nr_unseen += 1,
            // A kernel thread has no memory of its own, another process may just have ended.
            Err(error) if error.kind() == ErrorKind::NoProcess => {}
            Err(error) => return Err(error),
        }
    }
    Ok(holders)
}

fn find_in(
    pid: u32,
    wanted: &BTreeSet<u64>,
    holders: &mut BTreeMap<u64, Vec<Holder>>,
) -> Result<()> {
    let process = Process::open(pid)?;
    let mut found = Vec::new();
    for vma in process.read_vmas()? {
        if vma.kind == VmaKind::Kernel {
            continue;
        }
        let (start, end) = (vma.range.start().get(), vma.range.end().get());
        let scanned = process
            .pagemap()
            .for_each_present(start, end, |address, pfn| {
                if wanted.contains(&pfn) {
                    found.push((pfn * FRAME_BYTES, UserAddr::new(address)));
                }
            });
        scanned.map_err(|source| Cause::File {
            doing: "scan",
            path: format!("/proc/{pid}/pagemap").into(),
            source,
        })?;
    }
    if found.is_empty() {
        return Ok(());
    }
    let name = process.read_name()?;
    for (phys, address) in found {
        let holder = Holder {
            pid,
            name: name.clone(),
            address,
        };
        holders.entry(phys).or_default().push(holder);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AddrRange, sys::map::Mapping};

    #[test]
    fn a_page_of_this_process_is_found_by_its_frame() {
        let mut mapping = Mapping::anonymous(4096).unwrap();
        mapping.as_mut_slice()[0] = 1;
        let range = AddrRange::covering(mapping.as_slice());
        let process = Process::open(std::process::id()).unwrap();
        let mut frame = 0;
        let (start, end) = (range.start().get(), range.end().get());
        let scanned = process
            .pagemap()
            .for_each_present(start, end, |_, pfn| frame = pfn);
        if scanned.is_err() || frame == 0 {
            eprintln!("SKIP: needs root (frame numbers) and Linux 6.7 (the scan)");
            return;
        }
        let phys = frame * FRAME_BYTES;
        let found = holders(&[phys]).unwrap();
        let own: Vec<_> = found.by_frame[&phys]
            .iter()
            .filter(|holder| holder.pid == std::process::id())
            .collect();
        assert_eq!(own.len(), 1);
        assert_eq!(own[0].address, range.start());
    }
}
