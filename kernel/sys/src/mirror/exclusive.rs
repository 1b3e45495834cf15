// SPDX-License-Identifier: GPL-2.0
//! Pages that a device has for itself for a while.
//!
//! An atomic operation of a device that the bus does not carry is right only while the processor stays
//! away from the page. The kernel offers that (`make_device_exclusive`): it takes the page out of all page
//! tables, and the next access by a processor tells the device, by the mirror's notifier, and waits until
//! the mirror has forgotten the entry.
//!
//! It does not wait for an operation that runs: that holds the tables' lock.

use core::ptr::NonNull;

use cohmem_kcore::{
    Errno,
    host::{SleepLock as _, Span},
};

use super::{EXCLUSIVE, FLAGS, LEAF_BYTES, Mirror, Tables, WalkRoom, position};
use crate::{
    check_pointer,
    hmm::Request,
    page::{PAGE_BYTES, Page},
    process::{self, Mm},
    sync,
};

/// How often one page is tried, while something else holds it.
const NR_TRIES: u32 = 20;
const WAIT_MS: u64 = 5;

impl Mirror {
    /// Makes entries for all pages of `span` that the device may write, and that end with the next access
    /// of a processor. A page that is missing is faulted in, a shared one copied, and private memory of a
    /// device comes home first.
    ///
    /// **Context:** sleeps; call with no lock held.
    ///
    /// # Errors
    ///
    /// - `EOPNOTSUPP`: the kernel does not offer it (`CONFIG_DEVICE_PRIVATE`).
    /// - `EINVAL`: a page is one of coherent device memory, where device and processor share one bus.
    /// - `EFAULT`: a page is not mapped, or the process may not write it.
    /// - `EBUSY`: a page is not anonymous memory, is part of a large folio (before Linux 6.15), or something
    ///   else held it for 100 ms.
    /// - `ESRCH`: the processes have ended. `EINTR`: a fatal signal. `ENOMEM`.
    ///
    /// Pages before are exclusive, until a processor uses them.
    pub fn make_exclusive(&self, span: Span, room: &mut WalkRoom) -> Result<(), Errno> {
        let mut is_device = false;
        self.walk(span, Request::Nothing, room, |_address, entry| {
            is_device |= entry.is_device() && !entry.is_private();
        })?;
        if is_device {
            return Err(Errno::EINVAL);
        }
        let space = self.space().ok_or(Errno::ESRCH)?;
        for address in (span.start..span.end).step_by(PAGE_BYTES as usize) {
            if address == span.start || address.is_multiple_of(LEAF_BYTES) {
                self.make_leaf(address)?;
            }
            self.make_page_exclusive(&space, address, room)?;
        }
        Ok(())
    }

    fn make_page_exclusive(
        &self,
        space: &Mm,
        address: u64,
        room: &mut WalkRoom,
    ) -> Result<(), Errno> {
        let page = Span {
            start: address,
            end: address.saturating_add(PAGE_BYTES),
        };
        for _try in 0..NR_TRIES {
            if process::is_killed() {
                return Err(Errno::EINTR);
            }
            match self.try_page(space, address) {
                Ok(Attempt::Taken) => return Ok(()),
                // A page that was exclusive, shared or private is so no longer when it is tried, and the
                // mirror is told. Faulted in before, there is nothing to tell.
                Ok(Attempt::Overtaken) => {
                    self.walk(page, Request::Write, room, |_address, _entry| {})?;
                }
                Err(Errno::EBUSY) => sync::sleep_ms(WAIT_MS),
                Err(errno) => return Err(errno),
            }
        }
        Err(Errno::EBUSY)
    }

    fn try_page(&self, space: &Mm, address: u64) -> Result<Attempt, Errno> {
        // SAFETY: inserted by the type invariants; the caller may sleep and holds no lock.
        let seq = unsafe { bindings::mmu_interval_read_begin(self.notifier()) };
        let _locked = space.lock()?;
        let owner = self.notifier().cast();
        // SAFETY: the address space is in use and locked; the owner is only compared.
        let page = check_pointer(unsafe {
            bindings::cohmem_make_exclusive(space.as_ptr(), address, owner)
        })?;
        // INVARIANT: locked and referenced for us.
        let held = Held(Page::new(NonNull::new(page).ok_or(Errno::EIO)?));
        let mut table = self.registered.table.write();
        // What takes the page away without its lock (`MADV_DONTNEED`) is told like everything else.
        // SAFETY: inserted by the type invariants; the lock is the one that `invalidate` takes.
        if unsafe { bindings::cohmem_interval_must_retry(self.notifier(), seq) } {
            return Ok(Attempt::Overtaken);
        }
        let leaf = table.leaves.get_mut(address / LEAF_BYTES);
        let slot = leaf.and_then(|leaf| leaf.get_mut(position(address)));
        // INVARIANT: the sequence number is valid and the lock is held. A processor that touches the page
        // waits for its lock, and then tells the mirror.
        *slot.ok_or(Errno::EIO)? = held.0.as_ptr().expose_provenance() as u64 | FLAGS;
        Ok(Attempt::Taken)
    }
}

impl Tables<'_> {
    /// Some page of `span` is exclusive.
    #[must_use]
    pub fn has_exclusive(&self, span: Span) -> bool {
        let last = span.end.saturating_sub(1) / LEAF_BYTES;
        let mut from = span.start / LEAF_BYTES;
        while let Some(index) = self.table.leaves.next_index(from, last) {
            let start = span.start.max(index.saturating_mul(LEAF_BYTES));
            let nr_pages = span.end.saturating_sub(start) / PAGE_BYTES;
            let nr_pages = usize::try_from(nr_pages).unwrap_or(usize::MAX);
            let mut entries = self.table.entries_from(start).iter().take(nr_pages);
            if entries.any(|&entry| entry & EXCLUSIVE != 0) {
                return true;
            }
            from = index.saturating_add(1);
        }
        false
    }
}

/// What came of trying to take a page.
enum Attempt {
    Taken,
    /// The mirror was told of a change meanwhile: the page may be another by now.
    Overtaken,
}

/// A page that was made exclusive just now.
///
/// # Invariants
///
/// The value owns the page's lock and a reference.
struct Held(Page);

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: locked by the type invariants.
        unsafe { self.0.unlock() };
        // SAFETY: referenced by the type invariants; given up once, here.
        unsafe { self.0.put() };
    }
}
