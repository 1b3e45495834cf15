// SPDX-License-Identifier: GPL-2.0
//! Pages of the calling process, held for a device's own use.

use core::{
    ffi::{c_int, c_uint},
    ptr::{self, NonNull},
};

use cohmem_kcore::{Errno, host::Span};

use crate::{
    check, debug_by_name,
    memory::Buffer,
    page::{PAGE_BYTES, Page},
    process::Mm,
};

/// Pages that one [`HeldPages`] can hold: 256 MiB.
pub const MAX_PAGES: u64 = 1 << 16;

/// How pages are held. See the kernel's `Documentation/core-api/pin_user_pages.rst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// A plain reference: for the structures of a page, not for its content.
    Reference,
    /// A pin: the content is read or written, for a moment.
    Pin,
    /// A pin for as long as user space likes. Memory that must stay movable is left first, and so is
    /// coherent device memory: the page is a system page.
    LastingPin,
}

/// How the page tables are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Under the address space's lock.
    Locked,
    /// Without a lock where that is possible.
    Fast,
}

/// Held pages. Dropping gives them up.
///
/// # Invariants
///
/// The first `nr` of `pages` are held by this value, in the way that `is_pinned` says.
pub struct HeldPages {
    pages: Buffer<*mut bindings::page>,
    nr: usize,
    is_pinned: bool,
}

impl HeldPages {
    /// Holds the pages of `span`, of the calling process, for reading and writing; at most [`MAX_PAGES`].
    ///
    /// **Context:** sleeps, and faults pages in; call with no lock held.
    ///
    /// # Errors
    ///
    /// `EINVAL`: too many; `ENOMEM`; `EFAULT`: not all can be written; `EBUSY`: a lasting pin cannot be had since
    /// something else holds the page for a moment. Nothing is held.
    pub fn new(span: Span, hold: Hold, lookup: Lookup) -> Result<Self, Errno> {
        let nr_pages = span.end.saturating_sub(span.start) / PAGE_BYTES;
        if nr_pages > MAX_PAGES {
            return Err(Errno::EINVAL);
        }
        let nr_wanted = usize::try_from(nr_pages).map_err(|_large| Errno::EINVAL)?;
        // INVARIANT: none is held yet.
        let mut held = Self {
            pages: Buffer::new(nr_wanted, ptr::null_mut())?,
            nr: 0,
            is_pinned: hold != Hold::Reference,
        };
        let nr = held.look_up(span.start, hold, lookup)?;
        // INVARIANT: the kernel filled that many, and holds each for us.
        held.nr = usize::try_from(check(nr)?).unwrap_or(0).min(nr_wanted);
        if held.nr == nr_wanted {
            Ok(held)
        } else {
            Err(Errno::EFAULT)
        }
    }

    fn look_up(&mut self, start: u64, hold: Hold, lookup: Lookup) -> Result<c_int, Errno> {
        const WRITE: c_uint = bindings::FOLL_WRITE as c_uint;
        let flags = match hold {
            Hold::Reference | Hold::Pin => WRITE,
            Hold::LastingPin => WRITE | bindings::FOLL_LONGTERM as c_uint,
        };
        let nr = c_int::try_from(self.pages.len()).map_err(|_large| Errno::EINVAL)?;
        let pages = self.pages.as_mut_ptr();
        if lookup == Lookup::Fast {
            return Ok(match hold {
                // SAFETY: there is room for `nr` pages; the caller may sleep.
                Hold::Reference => unsafe {
                    bindings::get_user_pages_fast(start, nr, flags, pages)
                },
                // SAFETY: as above.
                Hold::Pin | Hold::LastingPin => unsafe {
                    bindings::pin_user_pages_fast(start, nr, flags, pages)
                },
            });
        }
        let space = Mm::of_caller()?;
        let _locked = space.lock()?;
        let nr = nr.unsigned_abs().into();
        let nr = match hold {
            // SAFETY: there is room for `nr` pages; the caller's address space is locked, and stays so since
            // the flags do not let the function unlock it.
            Hold::Reference => unsafe { bindings::get_user_pages(start, nr, flags, pages) },
            // SAFETY: as above.
            Hold::Pin | Hold::LastingPin => unsafe {
                bindings::pin_user_pages(start, nr, flags, pages)
            },
        };
        c_int::try_from(nr).map_err(|_large| Errno::EIO)
    }

    /// Number of pages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nr
    }

    /// There is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nr == 0
    }
}

impl Drop for HeldPages {
    fn drop(&mut self) {
        for &page in self.pages.iter().take(self.nr) {
            let Some(page) = NonNull::new(page) else {
                continue;
            };
            if self.is_pinned {
                // SAFETY: pinned by the type invariants, and unpinned once.
                unsafe { bindings::unpin_user_page(page.as_ptr()) };
            } else {
                // SAFETY: referenced by the type invariants, and given up once.
                unsafe { Page::new(page).put() };
            }
        }
    }
}

debug_by_name! {
    [] HeldPages, "HeldPages";
}
