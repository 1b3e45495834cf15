//! The address ranges of a region.
//!
//! | area | what it is |
//! |---|---|
//! | region | what the user has: anonymous memory, or device memory where a granule is out |
//! | source | anonymous memory without any page: moved over a part of the region, it makes a hole |
//! | leaving | where pages of the region wait to be copied, on their way out |
//! | coming | where fresh pages are filled on their way home |
//!
//! All but the device memory descends from one mapping with one page: so the kernel merges neighbours
//! into one mapping again, however often parts of them were exchanged. None of it goes to children.

use std::{
    ffi::c_void,
    io,
    ptr::{self, NonNull},
    slice,
    sync::Arc,
};

use rustix::{
    io::Errno,
    mm::{Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags},
};

use super::{ballast, copy, device::Mapping, fork::NoForkGuard};
use crate::host::{Slot, Span};

const PAGE_BYTES: usize = 4096;
const HUGE_BYTES: usize = 2 << 20;

/// The areas of one region, each aligned to `alignment` and at least 2 MiB.
///
/// # Invariants
///
/// `base` is the start of `reserved` bytes of address space that this value alone owns; the four areas
/// lie in it, apart from each other, each of at least `length` bytes. At each moment all of each area is
/// mapped readable, and the source, leaving and coming areas are used by the engine only.
#[derive(Debug)]
pub(crate) struct Areas {
    base: NonNull<u8>,
    reserved: usize,
    length: usize,
    region: NonNull<u8>,
    source: NonNull<u8>,
    leaving: NonNull<u8>,
    coming: NonNull<u8>,
}

/// Why there are no areas.
#[derive(Debug)]
pub(crate) enum AreaError {
    /// The process locks what it maps.
    Locked,
    System(io::Error),
}

impl AreaError {
    fn of_mapping(error: Errno) -> Self {
        match error {
            // Over the limit of locked memory, which only locked mappings count to.
            Errno::AGAIN => Self::Locked,
            error => error.into(),
        }
    }
}

impl From<Errno> for AreaError {
    fn from(error: Errno) -> Self {
        Self::System(error.into())
    }
}

impl Areas {
    /// Reserves and maps them, for granules of that size. The second value is the only one through which the region's bytes are
    /// read and written.
    pub(crate) fn new(length: usize, granule: usize) -> Result<(Arc<Self>, Bytes), AreaError> {
        let alignment = granule.max(HUGE_BYTES);
        // Behind each area two pages, so that no move is of a whole mapping: that would cut its
        // descent.
        let stride = length
            .checked_add(2 * PAGE_BYTES)
            .and_then(|bytes| bytes.checked_next_multiple_of(alignment))
            .ok_or(Errno::NOMEM)?;
        let reserved = stride
            .checked_mul(4)
            .and_then(|bytes| bytes.checked_add(alignment))
            .filter(|&bytes| isize::try_from(bytes).is_ok())
            .ok_or(Errno::NOMEM)?;
        // SAFETY: The address hint is null and MAP_FIXED is not set, so the kernel picks addresses that
        // nothing is mapped at.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                reserved,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }
        .map_err(AreaError::of_mapping)?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(Errno::NOMEM)?;
        let skipped = base.addr().get().next_multiple_of(alignment) - base.addr().get();
        // SAFETY: Up to `reserved` bytes from `base` are one reservation.
        let area = |index: usize| unsafe { base.byte_add(skipped + index * stride) };
        // INVARIANT: The reservation is new. The strides keep the areas apart; they are mapped below,
        // and dropping the value undoes whatever was done by then.
        let areas = Self {
            base,
            reserved,
            length,
            region: area(0),
            source: area(1),
            leaving: area(2),
            coming: area(3),
        };
        areas.map(granule)?;
        let areas = Arc::new(areas);
        // INVARIANT: It is the only one of these areas.
        let bytes = Bytes(Arc::clone(&areas));
        Ok((areas, bytes))
    }

    fn map(&self, granule: usize) -> Result<(), AreaError> {
        let source: *mut c_void = self.source.as_ptr().cast();
        let source_length = self.length + 2 * PAGE_BYTES;
        // SAFETY: By the type invariants the range is owned, and nothing uses it yet.
        let mapped = unsafe {
            rustix::mm::mmap_anonymous(
                source,
                source_length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED,
            )
        };
        mapped.map_err(AreaError::of_mapping)?;
        advise(self.source, source_length, Advice::LinuxDontFork)?;
        // A huge page that holds several granules would be split by the first that leaves.
        let huge = if granule >= HUGE_BYTES {
            Advice::LinuxHugepage
        } else {
            Advice::LinuxNoHugepage
        };
        // A kernel without huge pages refuses either.
        match advise(self.source, source_length, huge) {
            Ok(()) | Err(_) => {}
        }
        // Descent begins with the first page.
        let last_page = self
            .source
            .as_ptr()
            .wrapping_byte_add(source_length - PAGE_BYTES);
        // SAFETY: The page was just mapped; it is the last of the area, which nothing else uses.
        unsafe { last_page.write_volatile(1) };
        let copies = [
            (self.region, self.length),
            (self.leaving, self.length),
            (self.coming, self.length + PAGE_BYTES),
        ];
        for (target, length) in copies {
            move_pages(self.source, length, target)?;
        }
        // Nothing is lost by it: there is no page yet. It fails for locked memory.
        match advise(self.region, self.length, Advice::LinuxDontNeed) {
            Err(Errno::INVAL) => Err(AreaError::Locked),
            result => result.map_err(AreaError::from),
        }
    }

    pub(crate) const fn length(&self) -> usize {
        self.length
    }

    /// The start of the region.
    pub(crate) const fn region(&self) -> NonNull<u8> {
        self.region
    }

    /// Address of a span of the region.
    pub(crate) fn region_at(&self, span: Span) -> usize {
        self.at(self.region, span).addr().get()
    }

    /// Address of a span of the source.
    pub(crate) fn source_at(&self, span: Span) -> usize {
        self.at(self.source, span).addr().get()
    }

    /// Address of a span of the area of leaving pages.
    pub(crate) fn leaving_at(&self, span: Span) -> usize {
        self.at(self.leaving, span).addr().get()
    }

    /// Address of a span of the area of coming pages.
    pub(crate) fn coming_at(&self, span: Span) -> usize {
        self.at(self.coming, span).addr().get()
    }

    fn at(&self, area: NonNull<u8>, span: Span) -> NonNull<u8> {
        let is_within = span.start <= self.length && span.length <= self.length - span.start;
        assert!(is_within, "the span is within the region");
        // SAFETY: By the type invariants the area has `length` bytes.
        unsafe { area.byte_add(span.start) }
    }

    /// Gives never-touched pages of the region the zero page.
    pub(crate) fn populate(&self, span: Span) -> Result<(), Errno> {
        let start = self.at(self.region, span);
        // Asked first: to populate what is there costs a look at each page's own record.
        if is_resident(start, span.length) {
            return Ok(());
        }
        advise(start, span.length, Advice::LinuxPopulateRead)
    }

    /// Puts device memory into the place of a span of the region.
    pub(crate) fn map_device(&self, span: Span, device: &Mapping, slot: Slot) -> Result<(), Errno> {
        let start = self.at(self.region, span);
        // For its check: an access beyond the end of the pool would raise SIGBUS.
        let _start = device.at(slot, span.length);
        let _no_fork = NoForkGuard::new();
        // SAFETY: By the type invariants the range is owned. Whoever uses the region there sees the old
        // pages or these, of the same content: the caller copied it while nobody could write.
        unsafe {
            rustix::mm::mmap(
                start.as_ptr().cast(),
                span.length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::FIXED | MapFlags::POPULATE,
                device.file(),
                slot as u64,
            )
        }?;
        advise(start, span.length, Advice::LinuxDontFork)
    }

    /// Moves a part of the source, which has no page, over a span of the region.
    pub(crate) fn open_hole(&self, span: Span) -> Result<(), Errno> {
        let (from, to) = (self.at(self.source, span), self.at(self.region, span));
        ballast::with_reserve(|| move_pages(from, span.length, to))
    }

    /// Moves the coming pages over a span of the region.
    pub(crate) fn switch_home(&self, span: Span) -> Result<(), Errno> {
        let (from, to) = (self.at(self.coming, span), self.at(self.region, span));
        ballast::with_reserve(|| move_pages(from, span.length, to))
    }

    /// Whether all of a span of the region is mapped.
    pub(crate) fn is_mapped(&self, span: Span) -> bool {
        let start: *mut c_void = self.at(self.region, span).as_ptr().cast();
        let mut resident = vec![0_u8; span.length.div_ceil(PAGE_BYTES)];
        // SAFETY: The kernel writes a byte a page, for which there is room, and reads no memory.
        unsafe { libc::mincore(start, span.length, resident.as_mut_ptr()) == 0 }
    }

    /// Allows or forbids writes to a span of the region. All earlier ones have arrived when it returns.
    pub(crate) fn set_writable(&self, span: Span, is_writable: bool) -> Result<(), Errno> {
        let flags = if is_writable {
            MprotectFlags::READ | MprotectFlags::WRITE
        } else {
            MprotectFlags::READ
        };
        let start: *mut c_void = self.at(self.region, span).as_ptr().cast();
        // SAFETY: By the type invariants the range is owned. While writes are forbidden, the engine's
        // handler makes whoever writes wait.
        unsafe { rustix::mm::mprotect(start, span.length, flags) }
    }

    /// Gets fresh pages for a span of the coming area.
    pub(crate) fn prepare_coming(&self, span: Span) -> Result<(), Errno> {
        advise(
            self.at(self.coming, span),
            span.length,
            Advice::LinuxPopulateWrite,
        )
    }

    pub(crate) fn discard_coming(&self, span: Span) {
        discard(self.at(self.coming, span), span.length);
    }

    pub(crate) fn discard_leaving(&self, span: Span) {
        discard(self.at(self.leaving, span), span.length);
    }

    /// Copies a span of the region, which nobody can write now, to device memory.
    pub(crate) fn copy_out(&self, span: Span, device: &Mapping, slot: Slot) {
        copy_to(self.at(self.region, span), device, slot, span.length);
    }

    /// Copies leaving pages to device memory.
    pub(crate) fn save(&self, span: Span, device: &Mapping, slot: Slot) {
        copy_to(self.at(self.leaving, span), device, slot, span.length);
    }

    /// Copies device memory to pages that left earlier and are no longer needed.
    pub(crate) fn refill_leaving(&self, span: Span, device: &Mapping, slot: Slot) {
        copy_from(self.at(self.leaving, span), device, slot, span.length);
    }

    /// Copies device memory to coming pages.
    pub(crate) fn restore(&self, span: Span, device: &Mapping, slot: Slot) {
        copy_from(self.at(self.coming, span), device, slot, span.length);
    }
}

impl Drop for Areas {
    fn drop(&mut self) {
        let base: *mut c_void = self.base.as_ptr().cast();
        // SAFETY: By the type invariants the reservation is owned, and since the value is being dropped
        // no slice of the region is borrowed.
        let unmapped = ballast::with_reserve(|| unsafe { rustix::mm::munmap(base, self.reserved) });
        debug_assert!(
            unmapped.is_ok(),
            "munmap takes a mapping of this process: {unmapped:?}"
        );
    }
}

// SAFETY: Address ranges belong to the process, not to a thread. Who changes a span holds the locks of
// its granules; the user's own accesses to the region are the user's to order.
unsafe impl Send for Areas {}
// SAFETY: As for `Send`.
unsafe impl Sync for Areas {}

/// The bytes of a region, for its user.
///
/// # Invariants
///
/// There is one for each [`Areas`].
#[derive(Debug)]
pub(crate) struct Bytes(Arc<Areas>);

impl Bytes {
    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY:
        // 1. The region is `length` bytes, mapped and readable for as long as the areas live, and
        //    initialised: anonymous memory starts as zeros, device memory is overwritten before it is
        //    mapped.
        // 2. The engine exchanges pages only for others of the same content, so what a reader sees does
        //    not change; and by the type invariants nobody else writes while the borrow lasts.
        // 3. The length is below isize::MAX, checked in `Areas::new`.
        unsafe { slice::from_raw_parts(self.0.region.as_ptr(), self.0.length) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: As in `as_slice`; a write to a granule in motion waits, or arrives before its content
        // is copied. By the type invariants the exclusive borrow keeps other slices away.
        unsafe { slice::from_raw_parts_mut(self.0.region.as_ptr(), self.0.length) }
    }
}

/// Moves page tables from one owned range over another in one step; the first stays mapped, empty.
fn move_pages(from: NonNull<u8>, length: usize, to: NonNull<u8>) -> Result<(), Errno> {
    let (from, to): (*mut c_void, *mut c_void) = (from.as_ptr().cast(), to.as_ptr().cast());
    // SAFETY: Both ranges are of areas of one value, by the callers above. What the target held is
    // either no longer needed or has the same content as what replaces it.
    unsafe {
        rustix::mm::mremap_fixed(
            from,
            length,
            length,
            MremapFlags::MAYMOVE | MremapFlags::DONTUNMAP,
            to,
        )
    }?;
    Ok(())
}

fn advise(start: NonNull<u8>, length: usize, advice: Advice) -> Result<(), Errno> {
    // SAFETY: The range is owned, by the callers above. Only `LinuxDontNeed` changes content, and is
    // given where there is none that is needed.
    unsafe { rustix::mm::madvise(start.as_ptr().cast(), length, advice) }
}

/// Whether each page of a range is in memory, as far as the page tables tell.
fn is_resident(start: NonNull<u8>, length: usize) -> bool {
    let mut resident = [0_u8; 512];
    let step = resident.len() * PAGE_BYTES;
    (0..length).step_by(step).all(|offset| {
        let nr_pages = (length - offset).min(step) / PAGE_BYTES;
        let from: *mut c_void = start.as_ptr().wrapping_byte_add(offset).cast();
        // SAFETY: The kernel writes a byte a page, for which there is room, and reads no memory.
        let result = unsafe { libc::mincore(from, nr_pages * PAGE_BYTES, resident.as_mut_ptr()) };
        result == 0 && resident[..nr_pages].iter().all(|byte| byte & 1 == 1)
    })
}

fn discard(start: NonNull<u8>, length: usize) {
    let given_back = advise(start, length, Advice::LinuxDontNeed);
    debug_assert!(given_back.is_ok(), "the area is mapped: {given_back:?}");
}

fn copy_to(from: NonNull<u8>, device: &Mapping, slot: Slot, length: usize) {
    let to = device.at(slot, length);
    // SAFETY:
    // 1. Both ranges were checked by the callers and `at`, and lie in different mappings.
    // 2. Nobody writes the source: it is stopped, or in an area of the engine's. The frames are the
    //    caller's.
    unsafe { copy::copy(from.as_ptr(), to, length) };
}

fn copy_from(to: NonNull<u8>, device: &Mapping, slot: Slot, length: usize) {
    let from = device.at(slot, length);
    // SAFETY: As in `copy_to`, the other way round; the target is in an area of the engine's.
    unsafe { copy::copy(from, to.as_ptr(), length) };
}

/// A word of the region, for tests whose threads share it.
#[cfg(all(test, not(loom)))]
pub(crate) fn word_at(areas: &Areas, offset: usize) -> &std::sync::atomic::AtomicUsize {
    assert!(offset < areas.length && offset.is_multiple_of(8));
    // SAFETY: It lies in the region, which lives as long as the borrow, is aligned and initialised, and
    // may be changed through shared references.
    unsafe { &*areas.region.as_ptr().wrapping_byte_add(offset).cast() }
}

/// Reads from a file into the region by a system call, for tests.
#[cfg(all(test, not(loom)))]
pub(crate) fn read_into(
    areas: &Areas,
    file: &std::fs::File,
    offset: usize,
    length: usize,
) -> io::Result<usize> {
    use std::os::fd::AsRawFd as _;
    assert!(offset + length <= areas.length);
    let target: *mut c_void = areas.region.as_ptr().wrapping_add(offset).cast();
    // SAFETY: The range lies in the region, and the tests make no reference to it meanwhile.
    let nr_bytes = unsafe { libc::read(file.as_raw_fd(), target, length) };
    usize::try_from(nr_bytes).map_err(|_error| io::Error::last_os_error())
}

/// Locks the start of the region in memory, for tests.
#[cfg(all(test, not(loom)))]
pub(crate) fn lock_memory(areas: &Areas, length: usize) {
    assert!(length <= areas.length);
    // SAFETY: It changes no content.
    unsafe { rustix::mm::mlock(areas.region.as_ptr().cast(), length) }.unwrap();
}
