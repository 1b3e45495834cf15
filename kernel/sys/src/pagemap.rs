// SPDX-License-Identifier: GPL-2.0
//! Chunks: ranges of device memory with struct pages of their own (`memremap_pages`).
//!
//! Coherent memory is mapped by processes. What is in private memory ([`Claim::of_private`]) the
//! processor cannot reach; here a page of system memory holds it, which stands for the device's own. A
//! process that touches such a page waits while it is brought home (`private.rs`).

use core::{
    cell::UnsafeCell,
    ffi::{c_int, c_ulong, c_void},
    fmt::Debug,
    mem::{ManuallyDrop, MaybeUninit},
    ptr::{self, NonNull},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use cohmem_frames::{FrameIndex, FrameRun};
use cohmem_kcore::{
    Errno,
    host::{PageFacts, Pfn, WINDOW_PAGES},
};

use crate::{
    arrays::Arrays,
    batch::Batch,
    check_pointer, complain, debug_by_name,
    memory::KernelBox,
    page::{PAGE_BYTES, Page},
    range::{self, Claim},
};

/// What tells the memory of one device from that of others: the address of a static.
#[derive(Clone, Copy, Debug)]
pub struct Owner(&'static u8);

impl Owner {
    /// The owner whose address this is. Two owners are two statics.
    #[must_use]
    pub const fn new(address: &'static u8) -> Self {
        Self(address)
    }

    /// As the kernel compares it.
    pub(crate) fn as_ptr(self) -> *mut c_void {
        ptr::from_ref(self.0).cast_mut().cast()
    }
}

/// Who hands out the frames of a chunk, and is told what the kernel does with them.
pub trait FrameKeeper: Debug + Send + Sync + Sized + 'static {
    /// The kernel gave a frame's last reference up: it can be handed out again, unless it is poisoned.
    ///
    /// **Context:** any, hard interrupts and interrupts off included: takes no lock that is held
    /// elsewhere with interrupts on, does not sleep.
    ///
    /// # Errors
    ///
    /// [`NotHandedOut`] makes the kernel warn.
    fn frame_freed(&self, frame: FrameIndex, is_poisoned: bool) -> Result<(), NotHandedOut>;

    /// The hardware lost a frame of `chunk`, which this is the keeper of.
    ///
    /// **Context:** process; may sleep.
    ///
    /// # Errors
    ///
    /// `EBUSY`: something still holds the frame. Never `EOPNOTSUPP`, which makes the kernel take the
    /// page for a file system's.
    fn frame_failed(&self, chunk: &Chunk<Self>, frame: FrameIndex) -> Result<(), Errno>;
}

/// A frame was freed that was not handed out.
#[derive(Clone, Copy, Debug)]
pub struct NotHandedOut;

/// A chunk to register.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Whose memory it is.
    pub owner: Owner,
    /// First physical address; a multiple of 2 MiB.
    pub phys: u64,
    /// Frames; a multiple of 512.
    pub nr_frames: u64,
    /// Index of the chunk's first frame in its device.
    pub first: FrameIndex,
    /// Frames at the chunk's start that hold its struct pages; 0 when system memory does.
    pub nr_metadata: u64,
}

/// The part of a registration that does not depend on its keeper's type.
#[repr(C)]
pub(crate) struct Head {
    pagemap: UnsafeCell<MaybeUninit<bindings::dev_pagemap>>,
    pub(crate) owner: Owner,
    /// Instances for the keeper's type. Each takes a head that is the first member of a registration
    /// with such a keeper.
    freed: unsafe fn(&Head, Page),
    failed: unsafe fn(&Head, u64) -> Result<(), Errno>,
}

/// What a chunk consists of; its struct pages point to the first member's first member.
#[repr(C)]
struct Registration<K> {
    head: Head,
    keeper: K,
    first_pfn: u64,
    run: FrameRun,
    nr_metadata: u64,
    is_kept: AtomicBool,
    /// Given back after the struct pages are gone.
    claim: Claim,
}

/// A registered chunk.
///
/// # Invariants
///
/// The registration is a box given away whose pagemap is registered, and it holds a reference to this
/// module.
pub struct Chunk<K> {
    registration: NonNull<Registration<K>>,
}

// SAFETY: a registration is not bound to a thread, nor is its keeper.
unsafe impl<K: Send + Sync> Send for Chunk<K> {}
// SAFETY: after registration its members are atomics, are only read, or are the kernel's, which
// synchronises the access to them.
unsafe impl<K: Send + Sync> Sync for Chunk<K> {}

impl<K: FrameKeeper> Chunk<K> {
    /// Creates the chunk's struct pages as memory of the device: private memory if the claim is for it.
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `EBUSY` while the module is being unloaded; `ENOMEM`; `EIO` for what the kernel refuses, such as
    /// a range that holds system memory. The claim is given back.
    pub fn register(spec: Spec, claim: Claim, keeper: K) -> Result<Self, Errno> {
        let module = ModuleRef::take()?;
        let registration = KernelBox::new(Registration {
            head: Head {
                pagemap: UnsafeCell::new(MaybeUninit::zeroed()),
                owner: spec.owner,
                freed: freed::<K>,
                failed: failed::<K>,
            },
            keeper,
            first_pfn: spec.phys / PAGE_BYTES,
            run: FrameRun::new(spec.first, spec.nr_frames),
            nr_metadata: spec.nr_metadata,
            is_kept: AtomicBool::new(false),
            claim,
        })?;
        let pagemap = registration.head.pagemap.get().cast();
        let bytes = spec.nr_frames.saturating_mul(PAGE_BYTES);
        let is_private = registration.claim.is_private();
        let owner = spec.owner.as_ptr();
        // SAFETY: the pagemap is zeroed and ours; the owner is a static.
        unsafe { bindings::cohmem_pagemap_fill(pagemap, is_private, spec.phys, bytes, owner) };
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

    fn registration(&self) -> &Registration<K> {
        // SAFETY: by the type invariants it lives as long as the chunk; shared access is all that is
        // ever taken after registration.
        unsafe { self.registration.as_ref() }
    }

    /// What tells this device's memory from others'.
    pub fn owner(&self) -> Owner {
        self.registration().head.owner
    }

    /// It is private memory.
    pub fn is_private(&self) -> bool {
        self.registration().claim.is_private()
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
    pub fn page(&self, frame: FrameIndex) -> Option<Page> {
        let pfn = self
            .registration()
            .first_pfn
            .checked_add(self.position(frame)?)?;
        // SAFETY: the frame is one of this chunk's with a struct page, as `position` checked.
        NonNull::new(unsafe { bindings::cohmem_pfn_to_page(pfn) }).map(Page::new)
    }

    /// First frame and number of frames.
    pub fn run(&self) -> FrameRun {
        self.registration().run
    }

    /// What the kernel says of a frame of this chunk.
    pub fn facts(&self, frame: FrameIndex) -> PageFacts {
        self.page(frame)
            .map_or_else(PageFacts::default, Page::facts)
    }

    /// Isolates and unmaps the frames of `run` that are in use, wherever they are mapped: entry i of the
    /// batch is frame `run.start() + i`. At most [`WINDOW_PAGES`], all in this chunk.
    pub fn collect<'b>(&'b self, run: FrameRun, arrays: &'b mut Arrays) -> Batch<'b> {
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

    /// Marks a frame as poisoned: from now on unmapping it leaves entries that tell of the loss.
    pub fn mark_poisoned(&self, frame: FrameIndex) {
        if let Some(page) = self.page(frame) {
            page.set_poisoned();
        }
    }

    /// From now on dropping the chunk leaves it registered and claimed until the next boot.
    pub fn keep(&self) {
        // Ordering: read by `drop`, which has the chunk to itself.
        self.registration().is_kept.store(true, Relaxed);
    }
}

impl<K> Drop for Chunk<K> {
    fn drop(&mut self) {
        // SAFETY: by the type invariants it lives as long as the chunk.
        let registration = unsafe { self.registration.as_ref() };
        if registration.is_kept.load(Relaxed) {
            // The kernel may hold numbers of these frames for ever: struct pages, claim and module stay.
            return;
        }
        // SAFETY: registered by the type invariants, and unregistered once, here. It waits until no
        // reference to a frame is left.
        unsafe { bindings::memunmap_pages(registration.head.pagemap.get().cast()) };
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

/// The head of the registration behind a pagemap of ours.
///
/// # Safety
///
/// `pagemap` is one that [`Chunk::register`] registered, and stays registered for `'a`.
pub(crate) unsafe fn head_of<'a>(pagemap: *mut bindings::dev_pagemap) -> &'a Head {
    // SAFETY: the pagemap is the first member of a head, which lives while it is registered.
    unsafe { &*pagemap.cast_const().cast::<Head>() }
}

/// The registration that a head is the first member of.
///
/// # Safety
///
/// `head` is the first member of a registration with a keeper of type `K`.
unsafe fn registration_of<K>(head: &Head) -> &Registration<K> {
    // SAFETY: `repr(C)`: both have the same address; the registration lives as long as its member.
    unsafe { &*ptr::from_ref(head).cast::<Registration<K>>() }
}

/// Index in its device of the frame with this number.
fn frame_of<K>(registration: &Registration<K>, pfn: u64) -> FrameIndex {
    let position = pfn.saturating_sub(registration.first_pfn);
    FrameIndex::new(registration.run.start().get().saturating_add(position))
}

/// # Safety
///
/// As for [`registration_of`]; `page` is one of that chunk whose last reference is gone.
unsafe fn freed<K: FrameKeeper>(head: &Head, page: Page) {
    // SAFETY: by the caller's promise.
    let registration = unsafe { registration_of::<K>(head) };
    let frame = frame_of(registration, page.pfn().0);
    // SAFETY: the last reference is gone, and the keeper does not hand the frame out yet.
    unsafe { page.forget_owner() };
    if registration.claim.is_private() {
        // SAFETY: as above.
        unsafe { page.free_content() };
    }
    if registration
        .keeper
        .frame_freed(frame, page.is_poisoned())
        .is_err()
    {
        complain();
    }
}

/// # Safety
///
/// As for [`registration_of`]; the chunk is registered.
unsafe fn failed<K: FrameKeeper>(head: &Head, pfn: u64) -> Result<(), Errno> {
    // SAFETY: by the caller's promise.
    let registration = unsafe { registration_of::<K>(head) };
    // INVARIANT: it is registered; the value is not dropped, so that it stays so.
    let chunk = ManuallyDrop::new(Chunk {
        registration: NonNull::from(registration),
    });
    let frame = frame_of(registration, pfn);
    registration.keeper.frame_failed(&chunk, frame)
}

/// The kernel gave a frame's last reference up. Any context, hard interrupts included: takes no lock,
/// does not sleep, and does not touch the page once its keeper has it.
#[unsafe(no_mangle)]
extern "C" fn cohmem_frame_freed(page: NonNull<bindings::page>) {
    let page = Page::new(page);
    // SAFETY: the kernel calls this for pages of our pagemaps only.
    let pagemap = unsafe { bindings::cohmem_page_pagemap(page.as_ptr()) };
    // SAFETY: the page still counts as a reference to its pagemap until this function returns.
    let head = unsafe { head_of(pagemap) };
    // SAFETY: the head is of the registration that holds this instance; the kernel says that the last
    // reference is gone.
    unsafe { (head.freed)(head, page) };
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
    let head = unsafe { head_of(pagemap) };
    let mut result = 0;
    for pfn in pfn..pfn.saturating_add(nr_pages) {
        // SAFETY: the head is of the registration that holds this instance, and stays registered.
        if let Err(errno) = unsafe { (head.failed)(head, pfn) } {
            result = errno.to_result();
        }
    }
    result
}

debug_by_name! {
    [K] Chunk<K>, "Chunk";
}
