// SPDX-License-Identifier: GPL-2.0
//! Chunks: ranges of coherent device memory with struct pages of their own (`memremap_pages`).

use core::{
    cell::UnsafeCell,
    ffi::{c_int, c_ulong, c_void},
    mem::{ManuallyDrop, MaybeUninit},
    ptr::{self, NonNull},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use cohmem_frames::{FrameIndex, FrameRun};
use cohmem_kcore::{
    Errno,
    host::{self, ChunkSpec, PageFacts, Pfn, WINDOW_PAGES},
    ledger::Ledger,
    poison::{self, Failure},
};
use cohmem_uapi::MAX_DEVICES;

use super::{
    arrays::Arrays,
    batch::Batch,
    check_pointer, complain, debug_by_name,
    memory::{KernelBox, Shared},
    page::{PAGE_BYTES, Page},
    range::{self, Claim},
};
use crate::host::Kernel;

/// What a chunk consists of; its struct pages point to the first member.
#[repr(C)]
struct Registration {
    pagemap: UnsafeCell<MaybeUninit<bindings::dev_pagemap>>,
    ledger: Shared<Ledger<Kernel>>,
    first_pfn: u64,
    run: FrameRun,
    nr_metadata: u64,
    device: u32,
    is_kept: AtomicBool,
    /// Given back after the struct pages are gone.
    _claim: Claim,
}

/// A registered chunk.
///
/// # Invariants
///
/// The registration is a box given away whose pagemap is registered, and it holds a reference to this
/// module.
pub(crate) struct Chunk {
    registration: NonNull<Registration>,
}

// SAFETY: a registration is not bound to a thread.
unsafe impl Send for Chunk {}
// SAFETY: after registration its members are atomics, are only read, or are the kernel's, which
// synchronises the access to them.
unsafe impl Sync for Chunk {}

/// Addresses that tell the devices' memory apart: all chunks of a device have its one as their owner.
static OWNERS: [u8; MAX_DEVICES as usize] = [0; MAX_DEVICES as usize];

fn owner_of(device: u32) -> *mut c_void {
    let owner = usize::try_from(device)
        .ok()
        .and_then(|device| OWNERS.get(device));
    owner.map_or(ptr::null_mut(), |owner| {
        ptr::from_ref(owner).cast_mut().cast()
    })
}

impl Chunk {
    /// Creates the chunk's struct pages. May sleep.
    pub(crate) fn register(
        spec: ChunkSpec,
        claim: Claim,
        ledger: Shared<Ledger<Kernel>>,
    ) -> Result<Self, Errno> {
        let owner = owner_of(spec.device);
        if owner.is_null() {
            return Err(Errno::ENOSPC);
        }
        let module = ModuleRef::take()?;
        let registration = KernelBox::new(Registration {
            pagemap: UnsafeCell::new(MaybeUninit::zeroed()),
            ledger,
            first_pfn: spec.phys / PAGE_BYTES,
            run: FrameRun::new(spec.first, spec.nr_frames),
            nr_metadata: spec.nr_metadata,
            device: spec.device,
            is_kept: AtomicBool::new(false),
            _claim: claim,
        })?;
        let pagemap = registration.pagemap.get().cast();
        let bytes = spec.nr_frames.saturating_mul(PAGE_BYTES);
        // SAFETY: the pagemap is zeroed and ours; the owner is a static.
        unsafe { bindings::cohmem_pagemap_fill(pagemap, spec.phys, bytes, owner) };
        if spec.nr_metadata != 0 {
            // SAFETY: the pagemap is ours and was filled; the frames at its start are nobody's.
            unsafe { bindings::cohmem_pagemap_set_altmap(pagemap, spec.nr_metadata) };
        }
        let node = range::node_of(spec.phys);
        // SAFETY: 1. the pagemap is filled, and stays at its address until it is unregistered, since it
        // is boxed; 2. the range is claimed, and holds no system memory; 3. the node is online; 4. the
        // callbacks' module stays while the chunk does, by `module`; 5. the caller may sleep.
        let mapped = unsafe { bindings::memremap_pages(pagemap, node) };
        check_pointer(mapped).map_err(|errno| match errno {
            Errno::ENOMEM => Errno::ENOMEM,
            _other => Errno::EIO,
        })?;
        module.leave();
        // INVARIANT: registered just now; the reference to the module was left to the chunk.
        Ok(Self {
            registration: registration.into_raw(),
        })
    }

    fn registration(&self) -> &Registration {
        // SAFETY: by the type invariants it lives as long as the chunk; shared access is all that is
        // ever taken after registration.
        unsafe { self.registration.as_ref() }
    }

    /// What tells this device's memory from others'.
    pub(crate) fn owner(&self) -> *mut c_void {
        owner_of(self.registration().device)
    }

    /// Position of a frame in the chunk, if it has a struct page there.
    fn position(&self, frame: FrameIndex) -> Option<u64> {
        let registration = self.registration();
        let position = frame.get().checked_sub(registration.run.start().get())?;
        (registration.nr_metadata..registration.run.len())
            .contains(&position)
            .then_some(position)
    }

    /// The page of a frame.
    pub(crate) fn page(&self, frame: FrameIndex) -> Option<Page> {
        let pfn = self
            .registration()
            .first_pfn
            .checked_add(self.position(frame)?)?;
        // SAFETY: the frame is one of this chunk's with a struct page, as `position` checked.
        NonNull::new(unsafe { bindings::cohmem_pfn_to_page(pfn) }).map(Page::new)
    }
}

impl host::Chunk<Kernel> for Chunk {
    fn run(&self) -> FrameRun {
        self.registration().run
    }

    fn facts(&self, frame: FrameIndex) -> PageFacts {
        self.page(frame)
            .map_or_else(PageFacts::default, Page::facts)
    }

    fn collect<'b>(&'b self, run: FrameRun, arrays: &'b mut Arrays) -> Batch<'b> {
        let registration = self.registration();
        let own = registration.run;
        let start = run.start().get().clamp(own.start().get(), own.end().get());
        let end = run.end().get().clamp(start, own.end().get());
        if start != run.start().get() || end != run.end().get() {
            complain();
        }
        let position = start.saturating_sub(own.start().get());
        let nr = usize::try_from(end.saturating_sub(start))
            .unwrap_or(0)
            .min(WINDOW_PAGES);
        let nr_skipped = registration.nr_metadata.saturating_sub(position);
        let nr_skipped = usize::try_from(nr_skipped).unwrap_or(nr).min(nr);
        let first = Pfn(registration.first_pfn.saturating_add(position));
        // SAFETY: the pages are of this chunk, which is borrowed for `'b`; those that hold the memory map,
        // which have no struct pages, are skipped.
        unsafe { Batch::of_frames(first, nr, nr_skipped, arrays) }
    }

    fn mark_poisoned(&self, frame: FrameIndex) {
        if let Some(page) = self.page(frame) {
            page.set_poisoned();
        }
    }

    fn keep(&self) {
        // Ordering: read by `drop`, which has the chunk to itself.
        self.registration().is_kept.store(true, Relaxed);
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if self.registration().is_kept.load(Relaxed) {
            // The kernel may hold numbers of these frames for ever: struct pages, claim and module stay.
            return;
        }
        // SAFETY: registered by the type invariants, and unregistered once, here. It waits until no
        // reference to a frame is left.
        unsafe { bindings::memunmap_pages(self.registration().pagemap.get().cast()) };
        // SAFETY: the box was given away in `register`; no struct page points to it any more.
        drop(unsafe { KernelBox::from_raw(self.registration) });
        // INVARIANT: the chunk held this reference.
        drop(ModuleRef(()));
    }
}

/// A reference to this module, which keeps its code loaded.
struct ModuleRef(());

impl ModuleRef {
    fn take() -> Result<Self, Errno> {
        // SAFETY: this module's own descriptor.
        let is_taken = unsafe { bindings::try_module_get(&raw mut bindings::__this_module) };
        if is_taken {
            Ok(Self(()))
        } else {
            Err(Errno::EBUSY)
        }
    }

    /// Leaves the reference to someone else.
    fn leave(self) {
        core::mem::forget(self);
    }
}

impl Drop for ModuleRef {
    fn drop(&mut self) {
        // SAFETY: the reference is this value's. The code that runs has one more: it was called through
        // an open file, or from the module's own initialisation.
        unsafe { bindings::module_put(&raw mut bindings::__this_module) };
    }
}

/// The registration behind a pagemap of ours.
///
/// # Safety
///
/// `pagemap` is one that [`Chunk::register`] registered, and stays registered for `'a`.
unsafe fn registration_of<'a>(pagemap: *mut bindings::dev_pagemap) -> &'a Registration {
    // SAFETY: the pagemap is the first member of a registration, which lives while it is registered.
    unsafe { &*pagemap.cast_const().cast::<Registration>() }
}

/// The kernel gave a frame's last reference up. Any context, hard interrupts included: takes no lock,
/// does not sleep, and does not touch the page once the ledger has it.
#[unsafe(no_mangle)]
extern "C" fn cohmem_frame_freed(page: NonNull<bindings::page>) {
    let page = Page::new(page);
    // SAFETY: the kernel calls this for pages of our pagemaps only.
    let pagemap = unsafe { bindings::cohmem_page_pagemap(page.as_ptr()) };
    // SAFETY: the page still counts as a reference to its pagemap until this function returns.
    let registration = unsafe { registration_of(pagemap) };
    let position = page.pfn().0.saturating_sub(registration.first_pfn);
    let frame = FrameIndex::new(registration.run.start().get().saturating_add(position));
    // SAFETY: the last reference is gone, and the ledger does not hand the frame out yet.
    unsafe { page.forget_owner() };
    if registration
        .ledger
        .frame_freed(frame, page.is_poisoned())
        .is_err()
    {
        complain();
    }
}

/// The hardware lost frames. Process context; may sleep.
///
/// Never returns `EOPNOTSUPP`: the kernel's own handler takes any device page for one of a file system.
#[unsafe(no_mangle)]
extern "C" fn cohmem_memory_failed(
    pagemap: *mut bindings::dev_pagemap,
    pfn: c_ulong,
    nr_pages: c_ulong,
) -> c_int {
    // SAFETY: the kernel holds a reference to the pagemap, one of ours, for the call.
    let registration = unsafe { registration_of(pagemap) };
    // INVARIANT: it is registered; the value is not dropped, so that it stays so.
    let chunk = ManuallyDrop::new(Chunk {
        registration: NonNull::from(registration),
    });
    let mut result = 0;
    for pfn in pfn..pfn.saturating_add(nr_pages) {
        let position = pfn.saturating_sub(registration.first_pfn);
        let frame = FrameIndex::new(registration.run.start().get().saturating_add(position));
        match poison::frame_failed(&Kernel, &registration.ledger, &chunk, frame) {
            Failure::Contained => {}
            Failure::StillHeld => result = Errno::EBUSY.to_result(),
        }
    }
    result
}

debug_by_name! {
    [] Chunk, "Chunk";
}
