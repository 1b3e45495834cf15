// SPDX-License-Identifier: GPL-2.0
//! Physical ranges: what they are, who has claimed them, which node is near.

use core::{
    ffi::{c_int, c_void},
    ops::Range,
};

use cohmem_kcore::Errno;

use crate::check;

/// A claimed physical range.
///
/// # Invariants
///
/// The range is requested from the kernel's resource tree, by this value.
#[derive(Debug)]
pub struct Claim {
    phys: u64,
    bytes: u64,
    is_private: bool,
}

impl Claim {
    /// Checks that the firmware soft-reserved all of the range, and claims it. May sleep.
    pub fn new(phys: u64, bytes: u64) -> Result<Self, Errno> {
        // SAFETY: looks the range up in the resource tree, under its lock.
        if unsafe { bindings::cohmem_overlaps_ram(phys, bytes) } {
            return Err(Errno::EADDRINUSE);
        }
        if !is_soft_reserved(phys, bytes) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        // SAFETY: a request for any range is refused or granted by the kernel.
        if !unsafe { bindings::cohmem_request_range(phys, bytes) } {
            // The kernel does not say whether it lacked memory to note the claim.
            let is_claimed = claim_in(phys..phys.saturating_add(bytes)).is_some();
            return Err(if is_claimed {
                Errno::EBUSY
            } else {
                Errno::ENOMEM
            });
        }
        // INVARIANT: requested just now.
        Ok(Self {
            phys,
            bytes,
            is_private: false,
        })
    }

    /// Claims addresses that nothing answers at, for private memory: its frames need struct pages, and so
    /// numbers, but the processor cannot reach them. `bytes` is a multiple of 128 MiB. May sleep.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`: the kernel has no private device memory (`CONFIG_DEVICE_PRIVATE`). `ENOMEM`;
    /// `ERANGE`: so many addresses are not free.
    pub fn of_private(bytes: u64) -> Result<Self, Errno> {
        let mut phys = 0;
        // SAFETY: `phys` outlives the call; the caller may sleep.
        check(unsafe { bindings::cohmem_request_free_addresses(bytes, &raw mut phys) })?;
        // INVARIANT: requested just now.
        Ok(Self {
            phys,
            bytes,
            is_private: true,
        })
    }

    /// First physical address.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.phys
    }

    /// It is for private memory.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.is_private
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // SAFETY: by the type invariants the range was requested by this value, which ends here.
        unsafe { bindings::cohmem_release_range(self.phys, self.bytes) };
    }
}

/// How far from its start a range was found to be soft-reserved without a gap.
struct Coverage {
    next: u64,
}

/// All of the range is soft-reserved. `region_intersects` does not see gaps.
fn is_soft_reserved(phys: u64, bytes: u64) -> bool {
    let end = phys.saturating_add(bytes).saturating_sub(1);
    let mut coverage = Coverage { next: phys };
    let arg = (&raw mut coverage).cast();
    // SAFETY: the callback gets `arg`, a `Coverage` that outlives the call.
    let _last = unsafe { bindings::cohmem_walk_soft_reserved(phys, end, arg, Some(visit)) };
    coverage.next > end
}

/// The first soft-reserved range at or above `phys`, of which what lies below is cut off.
#[must_use]
pub fn soft_reserved_from(phys: u64) -> Option<Range<u64>> {
    let mut first = None::<Range<u64>>;
    let arg = (&raw mut first).cast();
    // SAFETY: the callback gets `arg`, an `Option<Range>` that outlives the call.
    let _stopped = unsafe {
        bindings::cohmem_walk_soft_reserved(phys, u64::MAX, arg, Some(note_first))
    };
    first
}

/// The first range that somebody has claimed and that overlaps `range`, cut off at its ends.
#[must_use]
pub fn claim_in(range: Range<u64>) -> Option<Range<u64>> {
    let last = range.end.checked_sub(1)?;
    let mut first = None::<Range<u64>>;
    let arg = (&raw mut first).cast();
    // SAFETY: the callback gets `arg`, an `Option<Range>` that outlives the call.
    let _stopped =
        unsafe { bindings::cohmem_walk_claims(range.start, last, arg, Some(note_first)) };
    first
}

/// A part of `range` is System RAM.
#[must_use]
pub fn holds_ram(range: Range<u64>) -> bool {
    let bytes = range.end.saturating_sub(range.start);
    // SAFETY: looks the range up in the resource tree, under its lock.
    unsafe { bindings::cohmem_overlaps_ram(range.start, bytes) }
}

/// Notes a resource, and ends the walk.
extern "C" fn note_first(resource: *mut bindings::resource, arg: *mut c_void) -> c_int {
    // SAFETY: the kernel passes a resource that lives for the call.
    let start = unsafe { bindings::cohmem_resource_start(resource) };
    // SAFETY: as above.
    let last = unsafe { bindings::cohmem_resource_end(resource) };
    // SAFETY: `arg` is what the walk's caller passed, and nobody else uses it meanwhile.
    let first = unsafe { &mut *arg.cast::<Option<Range<u64>>>() };
    *first = Some(start..last.saturating_add(1));
    1
}

/// Visits one soft-reserved part of the range.
extern "C" fn visit(resource: *mut bindings::resource, arg: *mut c_void) -> c_int {
    // SAFETY: `arg` is what `is_soft_reserved` passed, and nobody else uses it meanwhile.
    let coverage = unsafe { &mut *arg.cast::<Coverage>() };
    // SAFETY: the kernel passes a resource that lives for the call.
    let start = unsafe { bindings::cohmem_resource_start(resource) };
    // SAFETY: as above.
    let end = unsafe { bindings::cohmem_resource_end(resource) };
    if start <= coverage.next {
        coverage.next = coverage.next.max(end.saturating_add(1));
    }
    0
}

/// The node that pages of the range count in: the firmware's if it is online, else the nearest.
pub fn node_of(phys: u64) -> c_int {
    // SAFETY: accepts any address.
    let target = unsafe { bindings::phys_to_target_node(phys) };
    // SAFETY: there is always an online node.
    let first = unsafe { bindings::cohmem_first_node() };
    if target < 0 {
        return first;
    }
    let (mut nearest, mut distance) = (first, c_int::MAX);
    let mut node = first;
    while is_online(node) {
        // SAFETY: both are numbers of nodes that the kernel gave.
        let to_node = unsafe { bindings::cohmem_node_distance(target, node) };
        if node == target {
            return target;
        }
        if to_node < distance {
            (nearest, distance) = (node, to_node);
        }
        // SAFETY: `node` is an online node's number; past the last one comes the largest number.
        node = unsafe { bindings::cohmem_next_node(node) };
    }
    nearest
}

fn is_online(node: c_int) -> bool {
    // SAFETY: the mask has a bit for each number that the iteration yields, but for its end, which the
    // helper refuses.
    unsafe { bindings::cohmem_node_is_online(node) }
}

/// First physical address above what the kernel can map.
pub fn phys_end() -> u64 {
    // SAFETY: reads what the kernel found out about the processor at boot.
    let processor = unsafe { bindings::cohmem_phys_end() };
    // SAFETY: reads constants of the kernel's address space.
    let mappable = unsafe { bindings::cohmem_pluggable_end() };
    processor.min(mappable.saturating_add(1))
}
