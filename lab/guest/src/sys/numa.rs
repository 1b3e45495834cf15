//! The kernel's calls for NUMA nodes, which know pages on devices badly.

use std::io::Error;

use super::{
    check,
    memory::{Memory, PAGE},
};

// From `linux/mempolicy.h`; the libc crate lacks them.
const MPOL_MF_STRICT: i32 = 1 << 0;
const MPOL_MF_MOVE: i32 = 1 << 1;

/// Asks `move_pages(2)` for the node of each page of `memory`, or for them to move to node 0; a page's
/// answer is a node or a negative errno.
pub(crate) fn move_pages(memory: &Memory, moves: bool) -> Result<Vec<i32>, Error> {
    let nr_pages = memory.len() / PAGE;
    let pages: Vec<u64> = (0..nr_pages)
        .map(|page| memory.address() + (page * PAGE) as u64)
        .collect();
    let nodes = vec![0i32; nr_pages];
    let mut status = vec![i32::MIN; nr_pages];
    let wanted = if moves {
        nodes.as_ptr()
    } else {
        std::ptr::null()
    };
    // SAFETY: each array has an entry for each page, and outlives the call; the addresses are those of a
    // mapping whose words are read and written as atomics only.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            nr_pages,
            pages.as_ptr(),
            wanted,
            status.as_mut_ptr(),
            MPOL_MF_MOVE,
        )
    };
    check(result).map(|_nr_left| status)
}

/// Binds `memory` to node 0 by `mbind(2)`, strictly, and asks for its pages to be moved there.
pub(crate) fn bind_to_first_node(memory: &Memory) -> Result<(), Error> {
    let nodes = 1u64;
    // SAFETY: the mask is a local variable of the 64 bits that are announced; the range is a mapping of
    // this process's, of which no content changes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            memory.address(),
            memory.len(),
            libc::MPOL_BIND,
            &raw const nodes,
            64,
            MPOL_MF_MOVE | MPOL_MF_STRICT,
        )
    };
    check(result).map(drop)
}
