// SPDX-License-Identifier: GPL-2.0
//! All state of the machine, and the elementary changes of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use cohmem_kcore::{
    host::{ChunkSpec, PageFacts},
    ledger::Ledger,
};

use super::{
    FakeHost, Home, Kind,
    page::{Page, Place},
    process::{Entry, Process},
};

/// What the firmware says of a physical range, or who has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RangeKind {
    Ram,
    SoftReserved,
}

/// A registered chunk.
#[derive(Debug)]
pub(crate) struct Pgmap {
    pub(crate) spec: ChunkSpec,
    pub(crate) ledger: Arc<Ledger<FakeHost>>,
    pub(crate) is_registered: bool,
    pub(crate) is_kept: bool,
}

impl Pgmap {
    pub(crate) fn first_pfn(&self) -> u64 {
        self.spec.phys / super::PAGE
    }

    pub(crate) fn pfns(&self) -> Range<u64> {
        self.first_pfn() + self.spec.nr_metadata..self.first_pfn() + self.spec.nr_frames
    }
}

/// A large folio.
#[derive(Clone, Debug)]
pub(crate) struct Folio {
    pub(crate) pages: Range<u64>,
    /// Every mapping of it is one huge entry.
    pub(crate) is_huge_mapped: bool,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) pages: BTreeMap<u64, Page>,
    pub(crate) folios: BTreeMap<u64, Folio>,
    pub(crate) processes: Vec<Process>,
    pub(crate) pgmaps: Vec<Pgmap>,
    pub(crate) ranges: Vec<(Range<u64>, RangeKind)>,
    /// Claimed physical ranges; `true`: until the next boot.
    pub(crate) claims: Vec<(Range<u64>, bool)>,
    pub(crate) published: BTreeSet<u32>,
    /// References that tests took, by page.
    pub(crate) holders: BTreeMap<u64, u32>,
    pub(crate) user_memory: BTreeMap<u64, Vec<u8>>,
    pub(crate) total_pages: u64,
    /// Pages that something outside of the model uses.
    pub(crate) busy_pages: u64,
    pub(crate) free_swap_pages: u64,
    pub(crate) moves_partly_mapped: bool,
    /// Struct pages of registered chunks.
    pub(crate) nr_frames: usize,
    pub(crate) chunk_bytes: u64,
    next_pfn: u64,
}

/// The shared zero page.
pub(crate) const ZERO_PFN: u64 = 1;
const FIRST_PFN: u64 = 0x1000;

impl World {
    pub(crate) fn new() -> Self {
        let mut world = Self {
            pages: BTreeMap::new(),
            folios: BTreeMap::new(),
            processes: Vec::new(),
            pgmaps: Vec::new(),
            ranges: Vec::new(),
            claims: Vec::new(),
            published: BTreeSet::new(),
            holders: BTreeMap::new(),
            user_memory: BTreeMap::new(),
            total_pages: 1 << 20,
            busy_pages: 0,
            free_swap_pages: 0,
            moves_partly_mapped: false,
            nr_frames: 0,
            chunk_bytes: 0x20_0000,
            next_pfn: FIRST_PFN,
        };
        let mut zero = Page::new(Home::System, Kind::Zero);
        zero.stamp = 0;
        zero.taken = 1;
        world.pages.insert(ZERO_PFN, zero);
        world
    }

    #[track_caller]
    pub(crate) fn page(&self, pfn: u64) -> &Page {
        self.pages.get(&pfn).expect("a struct page that exists")
    }

    #[track_caller]
    pub(crate) fn page_mut(&mut self, pfn: u64) -> &mut Page {
        self.pages.get_mut(&pfn).expect("a struct page that exists")
    }

    /// System memory that can be allocated.
    pub(crate) fn available(&self) -> u64 {
        let nr_used = self.pages.len() - self.nr_frames;
        self.total_pages
            .saturating_sub(self.busy_pages)
            .saturating_sub(u64::try_from(nr_used).unwrap())
    }

    /// A new page with no reference; it must get one at once.
    pub(crate) fn new_page(&mut self, home: Home, kind: Kind) -> u64 {
        let pfn = self.next_pfn;
        self.next_pfn += 1;
        self.pages.insert(pfn, Page::new(home, kind));
        pfn
    }

    pub(crate) fn is_ram(&self, pfn: u64) -> bool {
        self.ranges
            .iter()
            .any(|(range, kind)| *kind == RangeKind::Ram && range.contains(&(pfn * super::PAGE)))
    }

    /// What the kernel tells of a page: references and mappings are the folio's.
    pub(crate) fn facts(&self, pfn: u64) -> PageFacts {
        let page = self.page(pfn);
        let is_shared = match page.folio.and_then(|folio| self.folios.get(&folio)) {
            None => page.maps() > 1,
            Some(folio) => folio.pages.clone().any(|pfn| self.page(pfn).maps() > 1),
        };
        let (maps, refs) = match page.folio.and_then(|folio| self.folios.get(&folio)) {
            None => (page.maps(), page.refs()),
            Some(folio) => {
                let members = || folio.pages.clone().map(|pfn| self.page(pfn));
                let taken: u32 = members().map(|page| page.refs() - page.maps()).sum();
                let maps = if folio.is_huge_mapped {
                    page.maps()
                } else {
                    members().map(Page::maps).sum()
                };
                (maps, maps + taken)
            }
        };
        PageFacts {
            is_zero: page.kind == Kind::Zero,
            is_anonymous: matches!(page.kind, Kind::Anonymous | Kind::Ksm),
            is_ksm: page.kind == Kind::Ksm,
            is_large: page.folio.is_some(),
            is_locked: page.is_locked,
            is_on_lru: page.home == Home::System && page.batched == 0,
            is_in_swapcache: page.is_in_swapcache,
            is_pinned: page.is_pinned,
            is_poisoned: page.is_poisoned,
            is_shared,
            refs,
            maps,
        }
    }

    pub(crate) fn entry(&self, place: Place) -> Option<Entry> {
        self.processes[place.0.0].entries.get(&place.1).copied()
    }

    pub(crate) fn set_entry(&mut self, place: Place, entry: Entry) {
        self.processes[place.0.0].entries.insert(place.1, entry);
    }

    /// Maps a page; the place must be empty.
    pub(crate) fn map(&mut self, place: Place, pfn: u64) {
        assert!(self.entry(place).is_none(), "mapping over {place:?}");
        self.page_mut(pfn).rmap.insert(place);
        self.set_entry(place, Entry::Present(pfn));
    }

    /// Maps the zero page, whose mappings nobody counts.
    pub(crate) fn map_zero(&mut self, place: Place) {
        self.set_entry(place, Entry::Present(ZERO_PFN));
    }

    /// Removes what is mapped at `place`.
    pub(crate) fn clear_entry(&mut self, place: Place) {
        match self.processes[place.0.0].entries.remove(&place.1) {
            Some(Entry::Present(ZERO_PFN)) | None => {}
            Some(Entry::Present(pfn)) => {
                self.map_by_pages(pfn);
                self.page_mut(pfn).rmap.remove(&place);
                self.release_if_unused(pfn);
            }
            Some(Entry::Moving(pfn)) => {
                self.page_mut(pfn).moving.remove(&place);
            }
            Some(Entry::Swapped(_) | Entry::Poisoned(_) | Entry::Forbidden) => {}
        }
    }

    /// Splits the huge entries that map a page's folio.
    pub(crate) fn map_by_pages(&mut self, pfn: u64) {
        let Some(folio) = self.page(pfn).folio else {
            return;
        };
        if let Some(folio) = self.folios.get_mut(&folio) {
            folio.is_huge_mapped = false;
        }
    }

    /// Makes the pages of a folio single ones.
    pub(crate) fn split_folio(&mut self, folio: u64) {
        let folio = self.folios.remove(&folio).expect("a folio that exists");
        for pfn in folio.pages {
            // A page that was unmapped alone is still part of the folio until it is split.
            self.page_mut(pfn).folio = None;
            self.release_if_unused(pfn);
        }
    }

    pub(crate) fn take(&mut self, pfn: u64) {
        self.page_mut(pfn).taken += 1;
    }

    pub(crate) fn put(&mut self, pfn: u64) {
        let page = self.page_mut(pfn);
        page.taken = page.taken.checked_sub(1).expect("a reference to put");
        self.release_if_unused(pfn);
    }

    /// Frees a page whose last reference is gone.
    pub(crate) fn release_if_unused(&mut self, pfn: u64) {
        let page = self.page(pfn);
        let is_used = page.maps() + page.taken + page.batched > 0 || page.kind == Kind::Zero;
        if is_used || page.folio.is_some() {
            return;
        }
        assert!(!page.is_locked, "page {pfn:#x} freed while it is locked");
        assert!(page.moving.is_empty(), "page {pfn:#x} freed in flight");
        match page.home {
            Home::System | Home::Foreign => {
                self.pages.remove(&pfn);
            }
            Home::Frame { pgmap, frame } => {
                let is_poisoned = page.is_poisoned;
                let clean = Page {
                    stamp: page.stamp,
                    is_poisoned,
                    is_broken: page.is_broken,
                    ..Page::new(page.home, Kind::Anonymous)
                };
                *self.page_mut(pfn) = clean;
                let ledger = Arc::clone(&self.pgmaps[pgmap].ledger);
                ledger
                    .frame_freed(frame, is_poisoned)
                    .expect("a frame that was handed out");
            }
        }
    }

    /// Locks and unmaps a page for migration; `false` when it stays as it was. `nr_tolerated` foreign
    /// references do not matter yet.
    pub(crate) fn isolate(&mut self, pfn: u64, nr_tolerated: u32) -> bool {
        let page = self.page_mut(pfn);
        if page.refs() == 0 || page.is_locked || page.folio.is_some() {
            return false;
        }
        page.taken += 1;
        page.is_locked = true;
        let is_poisoned = page.is_poisoned;
        if !page.is_pinned {
            let places = std::mem::take(&mut page.rmap);
            if !is_poisoned {
                page.moving.extend(places.iter().copied());
            }
            for place in places {
                let entry = if is_poisoned {
                    Entry::Poisoned(pfn)
                } else {
                    Entry::Moving(pfn)
                };
                self.set_entry(place, entry);
            }
        }
        let page = self.page(pfn);
        let nr_foreign = page.refs() - 1 - page.expected() - page.maps();
        if page.maps() > 0 || nr_foreign > nr_tolerated {
            self.restore(pfn, pfn);
            return false;
        }
        true
    }

    /// Ends the isolation of `from`: what mapped it maps `to` now.
    pub(crate) fn restore(&mut self, from: u64, to: u64) {
        for place in std::mem::take(&mut self.page_mut(from).moving) {
            self.set_entry(place, Entry::Present(to));
            self.page_mut(to).rmap.insert(place);
        }
        self.unlock_and_put(from);
    }

    pub(crate) fn unlock_and_put(&mut self, pfn: u64) {
        let page = self.page_mut(pfn);
        assert!(page.is_locked, "page {pfn:#x} was not locked");
        page.is_locked = false;
        self.put(pfn);
    }
}
