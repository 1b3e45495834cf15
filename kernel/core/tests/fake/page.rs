// SPDX-License-Identifier: GPL-2.0
//! Physical pages.

use std::collections::BTreeSet;

use cohmem_frames::FrameIndex;

use super::Pid;

/// An address: process and virtual page number.
pub(crate) type Place = (Pid, u64);

/// What a page holds before anybody wrote to it.
pub(crate) const GARBAGE: u64 = 0xdead_beef_dead_beef;

/// Whose memory a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    /// System memory.
    System,
    /// A frame of one of our devices.
    Frame { pgmap: usize, frame: FrameIndex },
    /// Memory of another driver.
    Foreign,
}

/// What a system page is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Anonymous,
    Ksm,
    File,
    Zero,
}

/// One physical page.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    pub(crate) home: Home,
    pub(crate) kind: Kind,
    pub(crate) stamp: u64,
    /// Page-table entries that map it.
    pub(crate) rmap: BTreeSet<Place>,
    /// Migration entries that name it.
    pub(crate) moving: BTreeSet<Place>,
    /// References of kernel code: pipes, pins, batches, stocks, the page cache.
    pub(crate) taken: u32,
    /// References in the LRU batches of processors.
    pub(crate) batched: u32,
    /// The large folio that it is part of.
    pub(crate) folio: Option<u64>,
    pub(crate) is_locked: bool,
    pub(crate) is_in_swapcache: bool,
    pub(crate) is_pinned: bool,
    /// The kernel knows that the content is lost.
    pub(crate) is_poisoned: bool,
    /// The content is lost.
    pub(crate) is_broken: bool,
}

impl Page {
    pub(crate) const fn new(home: Home, kind: Kind) -> Self {
        Self {
            home,
            kind,
            stamp: GARBAGE,
            rmap: BTreeSet::new(),
            moving: BTreeSet::new(),
            taken: 0,
            batched: 0,
            folio: None,
            is_locked: false,
            is_in_swapcache: false,
            is_pinned: false,
            is_poisoned: false,
            is_broken: false,
        }
    }

    pub(crate) fn maps(&self) -> u32 {
        u32::try_from(self.rmap.len()).unwrap()
    }

    /// References that the kernel's own bookkeeping explains, mappings apart.
    pub(crate) fn expected(&self) -> u32 {
        u32::from(self.is_in_swapcache) + u32::from(self.kind == Kind::File)
    }

    pub(crate) fn refs(&self) -> u32 {
        self.maps() + self.taken + self.batched + self.expected()
    }

    pub(crate) const fn is_frame(&self) -> bool {
        matches!(self.home, Home::Frame { .. })
    }
}
