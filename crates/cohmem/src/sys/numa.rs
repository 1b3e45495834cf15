//! NUMA nodes: where pages are, and moving them between nodes.

use std::{ffi::c_void, io, ptr};

use super::map::Mapping;

const MPOL_DEFAULT: i32 = 0;
const MPOL_PREFERRED: i32 = 1;
const MPOL_MF_MOVE: i32 = 1 << 1;

const PAGE: usize = 4096;

/// What the kernel says about one page: its node, or why it has none or did not move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageStatus {
    /// It is on this node.
    On(u32),
    /// It stayed or is nowhere, with this error number.
    Not(i32),
}

impl PageStatus {
    fn from_raw(raw: i32) -> Self {
        match u32::try_from(raw) {
            Ok(node) => Self::On(node),
            Err(_negative) => Self::Not(-raw),
        }
    }
}

fn addresses(mapping: &Mapping, first: usize, nr_pages: usize) -> Vec<*const c_void> {
    assert!(
        first
            .checked_add(nr_pages)
            .is_some_and(|end| end <= mapping.length() / PAGE),
        "the pages lie in the mapping"
    );
    let start: *const c_void = mapping.start().as_ptr().cast_const().cast();
    (first..first + nr_pages)
        .map(|page| start.wrapping_byte_add(page * PAGE))
        .collect()
}

/// Moves `nr_pages` pages of `mapping` from page `first` on to `node`, or only asks where they are.
///
/// Content and addresses stay, so that other threads may use the pages meanwhile.
///
/// # Errors
///
/// No page was looked at: `ENODEV` for a node that does not exist, `EACCES` for one that the
/// process may not use.
///
/// # Panics
///
/// The pages do not lie in the mapping.
pub(crate) fn move_pages(
    mapping: &Mapping,
    first: usize,
    nr_pages: usize,
    node: Option<u32>,
) -> io::Result<Vec<PageStatus>> {
    let addresses = addresses(mapping, first, nr_pages);
    let nodes = match node {
        Some(node) => {
            let node = i32::try_from(node).map_err(|_large| io::ErrorKind::InvalidInput)?;
            vec![node; nr_pages]
        }
        None => Vec::new(),
    };
    let mut status = vec![-libc::EBUSY; nr_pages];
    let nodes = if nodes.is_empty() {
        ptr::null()
    } else {
        nodes.as_ptr()
    };
    // SAFETY: The arrays have as many entries as the count says, `nodes` may be null, and all live
    // until the call has ended; the kernel writes to `status` only. The pages are those of the
    // mapping (checked above); moving one keeps its content and its address.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            nr_pages,
            addresses.as_ptr(),
            nodes,
            status.as_mut_ptr(),
            MPOL_MF_MOVE,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(status.into_iter().map(PageStatus::from_raw).collect())
}

/// Has pages of `mapping` that are touched from now on come from `node` if it has free memory, or
/// from where the process's own policy says.
pub(crate) fn prefer(mapping: &Mapping, node: Option<u32>) -> io::Result<()> {
    const BITS: usize = u64::BITS as usize;
    let mut mask = [0_u64; 16];
    if let Some(node) = node {
        let node = node as usize;
        let word = mask.get_mut(node / BITS);
        *word.ok_or(io::ErrorKind::InvalidInput)? |= 1 << (node % BITS);
    }
    // The kernel takes one bit less than it is told.
    let nr_bits = mask.len() * BITS + 1;
    let policy = match node {
        Some(_) => MPOL_PREFERRED,
        None => MPOL_DEFAULT,
    };
    // SAFETY: The range is that of the mapping; the mask has the bits that the count says. A policy
    // says where pages are allocated and changes neither content nor addresses.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            mapping.start().as_ptr(),
            mapping.length(),
            policy,
            mask.as_ptr(),
            nr_bits,
            0,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Has every page of `mapping` there, zeroed if it was not.
pub(crate) fn populate(mapping: &mut Mapping) -> io::Result<()> {
    let length = mapping.length();
    let start: *mut c_void = mapping.start().as_ptr().cast();
    // SAFETY: The range is that of the mapping, which is borrowed exclusively; populating gives
    // zeros to pages that were never touched, which read as zeros before.
    let result = unsafe { libc::madvise(start, length, libc::MADV_POPULATE_WRITE) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel without NUMA has none of these calls: nothing else may fail.
    fn unless_missing<T>(result: io::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ENOSYS), "{error}");
                None
            }
        }
    }

    #[test]
    fn touched_pages_have_a_node_and_others_none() {
        let mut mapping = Mapping::anonymous(4 * PAGE).unwrap();
        mapping.as_mut_slice()[2 * PAGE] = 1;
        let Some(status) = unless_missing(move_pages(&mapping, 1, 2, None)) else {
            return;
        };
        assert!(matches!(status[1], PageStatus::On(_)), "{status:?}");
        // With transparent huge pages it may be there, too.
        assert!(
            matches!(
                status[0],
                PageStatus::Not(libc::ENOENT | libc::EFAULT) | PageStatus::On(_)
            ),
            "{status:?}"
        );
    }

    #[test]
    fn pages_are_populated_where_they_are_preferred() {
        let mut mapping = Mapping::anonymous(4 * PAGE).unwrap();
        if unless_missing(prefer(&mapping, Some(0))).is_none() {
            return;
        }
        populate(&mut mapping).unwrap();
        prefer(&mapping, None).unwrap();
        let status = move_pages(&mapping, 0, 4, None).unwrap();
        assert!(
            status.iter().all(|page| matches!(page, PageStatus::On(_))),
            "{status:?}"
        );
        assert!(mapping.as_slice().iter().all(|&byte| byte == 0));
    }

    #[test]
    fn a_node_that_does_not_exist_is_refused() {
        let mut mapping = Mapping::anonymous(PAGE).unwrap();
        mapping.as_mut_slice()[0] = 1;
        let moved = move_pages(&mapping, 0, 1, Some(1023));
        moved.unwrap_err();
        prefer(&mapping, Some(1024)).unwrap_err();
        assert_eq!(mapping.as_slice()[0], 1);
    }
}
