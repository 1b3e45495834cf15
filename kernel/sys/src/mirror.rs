// SPDX-License-Identifier: GPL-2.0
//! Page tables of a device that mirror those of a process.
//!
//! A device that shares a process's addresses has page tables of its own, and must give up an entry
//! before the kernel takes the page from under it. [`Mirror`] is such tables, kept by the kernel's
//! protocol (`Documentation/mm/hmm.rst`): an interval notifier ([`Mirror::new`] to drop) forgets
//! entries under the tables' lock, and a walk of the process's tables ([`Mirror::map`]) is repeated
//! when something changed meanwhile. So whoever holds the lock ([`Mirror::lock`]) can use every page
//! that the tables name: no reference to it is needed.
//!
//! Lock order: the address space -> the tables. The kernel takes the tables' lock from its own
//! memory management, reclaim included: nothing may be allocated, and no user memory touched, by who
//! holds it.

mod exclusive;

use core::{
    cell::UnsafeCell,
    ffi::c_ulong,
    mem::MaybeUninit,
    ptr::{self, NonNull},
};

use cohmem_kcore::{
    Errno,
    host::{SleepLock as _, Span, Unreadable, WINDOW_PAGES},
};

use crate::{
    check, debug_by_name,
    hmm::{Entry, Request},
    memory::{Buffer, KernelBox},
    page::{PAGE_BYTES, Page},
    pagemap::Owner,
    process::{self, Mm},
    sync::{self, RwLock, WriteGuard},
    xarray::XArray,
};

/// Addresses that one leaf of the tables covers.
const LEAF_BYTES: u64 = WINDOW_PAGES as u64 * PAGE_BYTES;
/// How long a walk is repeated because the page tables keep changing.
const PATIENCE_MS: u64 = 10_000;
/// In an entry of the tables, beside the struct page's address: the device may write.
const WRITABLE: u64 = 1;
/// The processor's next access takes the entry away first.
const EXCLUSIVE: u64 = 2;
const FLAGS: u64 = WRITABLE | EXCLUSIVE;

/// The content of a page.
pub type PageBytes = [u8; PAGE_BYTES as usize];

/// Why the device cannot use an address now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// The tables have no entry, or none that allows this access: [`Mirror::map`] makes one.
    NoEntry,
    /// The hardware lost the page's content.
    Lost,
}

/// Room for one window of a walk: walks of one thread share it.
pub struct WalkRoom {
    entries: Buffer<u64>,
}

impl WalkRoom {
    /// **Context:** may sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Self, Errno> {
        Ok(Self {
            entries: Buffer::new(WINDOW_PAGES, 0)?,
        })
    }
}

/// Page tables of a device.
///
/// # Invariants
///
/// Each entry that is not 0 is the address of the struct page that the process maps there, with flags;
/// it is set under the lock with a walk's sequence number still valid, and zeroed under the lock before
/// the kernel takes the page away. One with [`EXCLUSIVE`] is zeroed before the processor gets access to
/// the page. A leaf once made stays.
#[derive(Debug)]
struct Table {
    leaves: XArray<Buffer<u64>>,
}

impl Table {
    /// The entries from `address` to the end of its leaf; none when there is no leaf.
    fn entries_from(&self, address: u64) -> &[u64] {
        let leaf = self.leaves.get(address / LEAF_BYTES);
        leaf.and_then(|leaf| leaf.get(position(address)..))
            .unwrap_or_default()
    }

    /// Forgets the entries of `start..end`.
    fn forget(&mut self, start: u64, end: u64) {
        let last = end.saturating_sub(1) / LEAF_BYTES;
        let mut from = start / LEAF_BYTES;
        while let Some(index) = self.leaves.next_index(from, last) {
            let first = index.saturating_mul(LEAF_BYTES);
            let Some(leaf) = self.leaves.get_mut(index) else {
                return;
            };
            let skipped = position(start.max(first));
            let nr_pages = end.saturating_sub(start.max(first)).div_ceil(PAGE_BYTES);
            let until = skipped.saturating_add(usize::try_from(nr_pages).unwrap_or(WINDOW_PAGES));
            if let Some(entries) = leaf.get_mut(skipped..until.min(WINDOW_PAGES)) {
                entries.fill(0);
            }
            from = index.saturating_add(1);
        }
    }
}

/// Position in its leaf.
fn position(address: u64) -> usize {
    usize::try_from(address % LEAF_BYTES / PAGE_BYTES).unwrap_or(0)
}

/// What the kernel's notifier is the first member of.
#[repr(C)]
struct Registered {
    notifier: UnsafeCell<MaybeUninit<bindings::mmu_interval_notifier>>,
    table: RwLock<Table>,
}

/// A device's page tables for one address space.
///
/// # Invariants
///
/// The notifier of `registered` is inserted, so that the address space's structure stays, and its
/// memory does not move.
pub struct Mirror {
    registered: KernelBox<Registered>,
    /// Whose private memory walks show.
    owner: Option<Owner>,
}

// SAFETY: a notifier is not bound to a thread; the table is behind its lock.
unsafe impl Send for Mirror {}
// SAFETY: as above; the kernel synchronises the access to its notifier.
unsafe impl Sync for Mirror {}

static OPERATIONS: bindings::mmu_interval_notifier_ops = bindings::mmu_interval_notifier_ops {
    invalidate: Some(invalidate),
    // SAFETY: null pointers: no callback of those that newer kernels have besides.
    ..unsafe { MaybeUninit::zeroed().assume_init() }
};

impl Mirror {
    /// Empty tables for `space`. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; those of `mmu_interval_notifier_insert`.
    pub fn new(space: &Mm) -> Result<Self, Errno> {
        Self::with_owner(space, None)
    }

    /// Empty tables for `space`, of a device that may have private memory: the device uses its own as it
    /// is, where others wait until the page is home. May sleep.
    ///
    /// # Errors
    ///
    /// Those of [`Self::new`].
    pub fn of_device(space: &Mm, owner: Owner) -> Result<Self, Errno> {
        Self::with_owner(space, Some(owner))
    }

    fn with_owner(space: &Mm, owner: Option<Owner>) -> Result<Self, Errno> {
        let table = Table {
            leaves: XArray::new()?,
        };
        let registered = KernelBox::new(Registered {
            notifier: UnsafeCell::new(MaybeUninit::zeroed()),
            table: RwLock::new(table)?,
        })?;
        let notifier = registered.notifier.get().cast();
        let bytes = c_ulong::MAX & !(PAGE_BYTES - 1);
        // SAFETY: the notifier's memory is ours and, being boxed, stays until it is removed; `space` is in
        // use; the operations are a static; the caller may sleep.
        check(unsafe {
            bindings::mmu_interval_notifier_insert(
                notifier,
                space.as_ptr(),
                0,
                bytes,
                &raw const OPERATIONS,
            )
        })?;
        // INVARIANT: inserted just now.
        Ok(Self { registered, owner })
    }

    fn notifier(&self) -> *mut bindings::mmu_interval_notifier {
        self.registered.notifier.get().cast()
    }

    /// The address space; `None` when all its processes have ended.
    #[must_use]
    pub fn space(&self) -> Option<Mm> {
        // SAFETY: inserted by the type invariants; the member does not change while it is.
        let mm = unsafe { (*self.notifier()).mm };
        // SAFETY: an inserted notifier keeps the structure.
        unsafe { Mm::try_use(NonNull::new(mm)?) }
    }

    /// Locks the tables. Sleeps; what may be done under the lock is in the module's text.
    pub fn lock(&self) -> Tables<'_> {
        Tables {
            table: self.registered.table.write(),
        }
    }

    /// Calls `visit` with what the process's page tables say of each page of `span`, in order.
    ///
    /// **Context:** sleeps; call with no lock held. `visit` is called with the tables locked.
    ///
    /// # Errors
    ///
    /// `ESRCH`: the processes have ended. `EINTR`: a fatal signal. `EBUSY`: the page tables kept
    /// changing for 10 s. `EPERM`, `EFAULT`: the process itself may not do what is requested.
    /// Pages before were visited.
    pub fn walk(
        &self,
        span: Span,
        request: Request,
        room: &mut WalkRoom,
        mut visit: impl FnMut(u64, Entry<'_>),
    ) -> Result<(), Errno> {
        self.walk_windows(span, request, room, false, |_slot, address, entry| {
            visit(address, entry);
        })
    }

    /// Makes entries for the pages of `span` that `select` picks, writable where the process's are.
    ///
    /// **Context:** sleeps; call with no lock held. `select` is called with the tables locked.
    ///
    /// # Errors
    ///
    /// Those of [`Self::walk`], and `ENOMEM`. Pages before have entries.
    pub fn map(
        &self,
        span: Span,
        request: Request,
        room: &mut WalkRoom,
        mut select: impl FnMut(Entry<'_>) -> bool,
    ) -> Result<(), Errno> {
        self.walk_windows(span, request, room, true, |slot, _address, entry| {
            let page = entry.page().filter(|_page| select(entry));
            if let (Some(page), Some(slot)) = (page, slot) {
                let flags = if entry.is_writable() { WRITABLE } else { 0 };
                let address = page.as_ptr().expose_provenance() as u64;
                if *slot != address | FLAGS {
                    // INVARIANT: the walk's sequence number is valid, and the lock is held.
                    *slot = address | flags;
                }
            }
        })
    }

    /// Makes the leaf that covers `address`, unless it is there.
    fn make_leaf(&self, address: u64) -> Result<(), Errno> {
        let index = address / LEAF_BYTES;
        if self.lock().table.leaves.get(index).is_some() {
            return Ok(());
        }
        let leaf = KernelBox::new(Buffer::new(WINDOW_PAGES, 0)?)?;
        match self.lock().table.leaves.insert(index, leaf) {
            // `EBUSY`: another thread made it meanwhile.
            Err(errno) if errno != Errno::EBUSY => Err(errno),
            _ => Ok(()),
        }
    }

    fn walk_windows(
        &self,
        span: Span,
        request: Request,
        room: &mut WalkRoom,
        makes_leaves: bool,
        mut visit: impl FnMut(Option<&mut u64>, u64, Entry<'_>),
    ) -> Result<(), Errno> {
        let space = self.space().ok_or(Errno::ESRCH)?;
        let mut start = span.start;
        while start < span.end {
            let window = Span {
                start,
                end: span.end.min(leaf_end(start)),
            };
            if makes_leaves {
                self.make_leaf(start)?;
            }
            self.walk_window(&space, window, request, room, &mut visit)?;
            sync::relax();
            start = window.end;
        }
        Ok(())
    }

    fn walk_window(
        &self,
        space: &Mm,
        window: Span,
        request: Request,
        room: &mut WalkRoom,
        visit: &mut impl FnMut(Option<&mut u64>, u64, Entry<'_>),
    ) -> Result<(), Errno> {
        let deadline_ms = sync::now_ms().saturating_add(PATIENCE_MS);
        let nr_pages = usize::try_from(window.end.saturating_sub(window.start) / PAGE_BYTES)
            .unwrap_or(WINDOW_PAGES);
        let entries = room.entries.get_mut(..nr_pages).ok_or(Errno::EIO)?;
        loop {
            // SAFETY: inserted by the type invariants; the caller may sleep and holds no lock.
            let seq = unsafe { bindings::mmu_interval_read_begin(self.notifier()) };
            let mut range = bindings::hmm_range {
                notifier: self.notifier(),
                notifier_seq: seq,
                start: window.start,
                end: window.end,
                hmm_pfns: entries.as_mut_ptr(),
                default_flags: request.flags(),
                pfn_flags_mask: 0,
                dev_private_owner: self.owner.map_or(ptr::null_mut(), Owner::as_ptr),
            };
            let walked = {
                let _locked = space.lock()?;
                // SAFETY: the notifier's address space is `space`, which is locked; `entries` has an entry
                // for each page of the window.
                check(unsafe { bindings::hmm_range_fault(&raw mut range) })
            };
            match walked {
                Ok(_zero) => {
                    let mut table = self.registered.table.write();
                    // SAFETY: inserted by the type invariants; the lock is the one that `invalidate` takes.
                    if !unsafe { bindings::cohmem_interval_must_retry(self.notifier(), seq) } {
                        let addresses = (window.start..window.end).step_by(PAGE_BYTES as usize);
                        let leaf = table.leaves.get_mut(window.start / LEAF_BYTES);
                        let slots = leaf.and_then(|leaf| leaf.get_mut(position(window.start)..));
                        let mut slots = slots.unwrap_or_default().iter_mut();
                        for (address, &raw) in addresses.zip(&*entries) {
                            // SAFETY: filled by the walk just now; it holds while the lock does, since
                            // the sequence number is still valid.
                            visit(slots.next(), address, unsafe { Entry::new(raw) });
                        }
                        return Ok(());
                    }
                }
                Err(Errno::EBUSY) => {}
                Err(errno) => return Err(errno),
            }
            if process::is_killed() {
                return Err(Errno::EINTR);
            }
            if sync::now_ms() > deadline_ms {
                return Err(Errno::EBUSY);
            }
            sync::relax();
        }
    }
}

fn leaf_end(address: u64) -> u64 {
    (address / LEAF_BYTES)
        .saturating_add(1)
        .saturating_mul(LEAF_BYTES)
}

impl Drop for Mirror {
    fn drop(&mut self) {
        // SAFETY: inserted by the type invariants, and removed once, here. It waits for callbacks that run,
        // and none is inside one: they are given no mirror.
        unsafe { bindings::mmu_interval_notifier_remove(self.notifier()) };
    }
}

/// The locked tables.
#[derive(Debug)]
pub struct Tables<'m> {
    table: WriteGuard<'m, Table>,
}

/// The device got no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Pages that are done.
    pub nr_done: usize,
    /// Why the next one is not.
    pub miss: Miss,
}

impl Tables<'_> {
    /// The device reads pages, from `address` on.
    ///
    /// # Errors
    ///
    /// Where it stopped; the pages before were read, the content of the others in `into` is undefined.
    pub fn read(&self, address: u64, into: &mut [PageBytes]) -> Result<(), Stopped> {
        self.each(address, into.iter_mut(), 0, |page, into| {
            // SAFETY: by the table's invariants the page is mapped while the lock is held.
            unsafe { page.read(into) }
        })
    }

    /// The device writes pages, from `address` on.
    ///
    /// # Errors
    ///
    /// Where it stopped; the pages before were written. The next one is as it was, unless it is
    /// [`Miss::Lost`].
    pub fn write(&mut self, address: u64, from: &[PageBytes]) -> Result<(), Stopped> {
        self.each(address, from.iter(), WRITABLE, |page, from| {
            // SAFETY: as in `read`; the process may write to it, and so may the device on its behalf.
            unsafe { page.write(from) }
        })
    }

    /// Calls `use_fn` with the page at `address` and the first buffer, and so on.
    fn each<B>(
        &self,
        address: u64,
        buffers: impl Iterator<Item = B>,
        flags: u64,
        mut use_fn: impl FnMut(Page, B) -> Result<(), Unreadable>,
    ) -> Result<(), Stopped> {
        let mut entries = [].iter();
        let mut address = address;
        for (nr_done, buffer) in buffers.enumerate() {
            let stopped = |miss| Stopped { nr_done, miss };
            if entries.as_slice().is_empty() {
                entries = self.table.entries_from(address).iter();
            }
            let entry = entries.next().copied().unwrap_or(0);
            let page = page_of(entry, flags).ok_or(stopped(Miss::NoEntry))?;
            use_fn(page, buffer).map_err(|_unreadable| stopped(Miss::Lost))?;
            address = address.saturating_add(PAGE_BYTES);
        }
        Ok(())
    }
}

/// The page of an entry that has these flags.
fn page_of(entry: u64, flags: u64) -> Option<Page> {
    if entry & flags != flags {
        return None;
    }
    let page = ptr::with_exposed_provenance_mut((entry & !FLAGS) as usize);
    NonNull::new(page).map(Page::new)
}

/// The kernel is about to change what a range of addresses maps. May be called where nothing may
/// sleep; then it gives up when the tables are in use.
extern "C" fn invalidate(
    notifier: *mut bindings::mmu_interval_notifier,
    range: *const bindings::mmu_notifier_range,
    seq: c_ulong,
) -> bool {
    // SAFETY: the kernel passes a notifier of a mirror, the first member of a `Registered`, and waits for
    // this call before it lets the notifier be removed.
    let registered = unsafe { &*notifier.cast_const().cast::<Registered>() };
    // SAFETY: the kernel passes a range that lives for the call; the owner is only compared.
    if unsafe { bindings::cohmem_notifier_is_exclusive_for(range, notifier.cast_const().cast()) } {
        // What `make_exclusive` of this mirror does: the page stays, and so do the entries for it.
        return true;
    }
    // SAFETY: the kernel passes a range that lives for the call.
    let may_block = unsafe { bindings::cohmem_notifier_may_block(range) };
    let guard = if may_block {
        Some(registered.table.write())
    } else {
        registered.table.try_write()
    };
    let Some(mut table) = guard else {
        return false;
    };
    // SAFETY: the notifier is inserted; the lock is the one that is held where the number is compared.
    unsafe { bindings::cohmem_interval_set_seq(notifier, seq) };
    // SAFETY: the kernel passes a range that lives for the call.
    let start = unsafe { (*range).start };
    // SAFETY: as above.
    let end = unsafe { (*range).end };
    table.forget(start, end);
    true
}

debug_by_name! {
    [] Mirror, "Mirror";
    [] WalkRoom, "WalkRoom";
}
