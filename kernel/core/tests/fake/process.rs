// SPDX-License-Identifier: GPL-2.0
//! Processes: areas, page tables, and what they do with their memory.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, RwLock},
};

use cohmem_kcore::ProcessId;

use super::{
    Home, Kind,
    page::Place,
    world::{Folio, World},
};

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Pid(pub(crate) usize);

/// A page-table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Present(u64),
    /// In swap; the number is the content.
    Swapped(u64),
    /// A migration entry: accesses wait.
    Moving(u64),
    /// The page's content was lost.
    Poisoned(u64),
    /// An entry that a walk reports as an error.
    Forbidden,
}

/// An area: page numbers and kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct VmaSpec {
    pub(crate) pages: Range<u64>,
    pub(crate) is_hugetlb: bool,
    pub(crate) is_special: bool,
    pub(crate) is_shared: bool,
    pub(crate) is_executable: bool,
    pub(crate) is_unreadable: bool,
    pub(crate) awaits_userfault: bool,
    pub(crate) is_file_private: bool,
}

/// What an access sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Stamp(u64),
    /// SIGBUS: the hardware lost the page.
    Lost,
    /// SIGSEGV.
    Unmapped,
    /// A page in flight: the access waits.
    Waits,
}

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) vmas: BTreeMap<u64, VmaSpec>,
    pub(crate) entries: BTreeMap<u64, Entry>,
    /// The mmap lock.
    pub(crate) lock: Arc<RwLock<()>>,
    /// References that keep the address space alive.
    pub(crate) nr_users: u32,
    pub(crate) has_exited: bool,
    /// What it is known by, if not by its own number.
    pub(crate) known_as: Option<ProcessId>,
}

impl Process {
    pub(crate) fn new(vmas: BTreeMap<u64, VmaSpec>) -> Self {
        Self {
            vmas,
            entries: BTreeMap::new(),
            lock: Arc::default(),
            nr_users: 1,
            has_exited: false,
            known_as: None,
        }
    }

    /// The first area that ends above `page`.
    pub(crate) fn vma_from(&self, page: u64) -> Option<&VmaSpec> {
        self.vmas.values().find(|vma| vma.pages.end > page)
    }

    pub(crate) fn vma_at(&self, page: u64) -> Option<&VmaSpec> {
        self.vma_from(page).filter(|vma| vma.pages.contains(&page))
    }
}

/// What a private file mapping shows before anybody wrote to it.
pub(crate) const FILE_STAMP: u64 = 0xf11e;

impl World {
    fn vma_at(&self, place: Place) -> Option<&VmaSpec> {
        self.processes[place.0.0].vma_at(place.1)
    }

    /// A load of the process; faults in what is not there.
    pub(crate) fn load(&mut self, place: Place) -> Seen {
        let Some(vma) = self.vma_at(place).cloned() else {
            return Seen::Unmapped;
        };
        match self.entry(place) {
            None if vma.is_file_private || vma.is_shared => {
                let pfn = self.new_page(Home::System, Kind::File);
                self.page_mut(pfn).stamp = FILE_STAMP;
                self.map(place, pfn);
                Seen::Stamp(FILE_STAMP)
            }
            None => {
                self.map_zero(place);
                Seen::Stamp(0)
            }
            Some(Entry::Present(pfn)) if self.page(pfn).is_broken => Seen::Lost,
            Some(Entry::Present(pfn)) => Seen::Stamp(self.page(pfn).stamp),
            Some(Entry::Swapped(stamp)) => {
                self.fault_in(place, stamp);
                Seen::Stamp(stamp)
            }
            Some(Entry::Moving(_)) => Seen::Waits,
            Some(Entry::Poisoned(_)) => Seen::Lost,
            Some(Entry::Forbidden) => Seen::Unmapped,
        }
    }

    /// Puts a new anonymous page at `place`, instead of what was there.
    fn fault_in(&mut self, place: Place, stamp: u64) {
        let pfn = self.new_page(Home::System, Kind::Anonymous);
        self.page_mut(pfn).stamp = stamp;
        self.clear_entry(place);
        self.map(place, pfn);
    }

    /// A store of the process, with copy-on-write.
    pub(crate) fn store(&mut self, place: Place, stamp: u64) -> Seen {
        if self.load(place) == Seen::Lost {
            return Seen::Lost;
        }
        match self.entry(place) {
            Some(Entry::Present(pfn)) => {
                let page = self.page(pfn);
                let is_shared_area = self.vma_at(place).is_some_and(|vma| vma.is_shared);
                let is_own = page.kind == Kind::Anonymous && page.maps() == 1;
                if is_own || is_shared_area {
                    self.page_mut(pfn).stamp = stamp;
                } else {
                    self.fault_in(place, stamp);
                }
                Seen::Stamp(stamp)
            }
            Some(Entry::Moving(_)) => Seen::Waits,
            _ => Seen::Unmapped,
        }
    }

    /// The child maps what the parent maps; pinned pages are copied.
    pub(crate) fn fork(&mut self, parent: Pid) -> Pid {
        let child = Pid(self.processes.len());
        let vmas = self.processes[parent.0].vmas.clone();
        self.processes.push(Process::new(vmas));
        for (page, entry) in self.processes[parent.0].entries.clone() {
            let place = (child, page);
            match entry {
                Entry::Present(pfn) if self.page(pfn).kind == Kind::Zero => self.map_zero(place),
                Entry::Present(pfn) if self.page(pfn).is_pinned => {
                    self.fault_in(place, self.page(pfn).stamp);
                }
                Entry::Present(pfn) => self.map(place, pfn),
                Entry::Moving(pfn) => {
                    self.page_mut(pfn).moving.insert(place);
                    self.set_entry(place, entry);
                }
                Entry::Swapped(_) | Entry::Poisoned(_) | Entry::Forbidden => {
                    self.set_entry(place, entry);
                }
            }
        }
        child
    }

    /// Drops a reference to an address space; the last one frees its memory.
    pub(crate) fn put_space(&mut self, pid: Pid) {
        let process = &mut self.processes[pid.0];
        process.nr_users -= 1;
        if process.nr_users == 0 {
            process.vmas.clear();
            let pages: Vec<u64> = process.entries.keys().copied().collect();
            for page in pages {
                self.clear_entry((pid, page));
            }
        }
    }

    /// Takes `pages` out of the areas of a process. Areas that they cut are split.
    pub(crate) fn unmap(&mut self, pid: Pid, pages: Range<u64>) {
        let process = &mut self.processes[pid.0];
        for vma in std::mem::take(&mut process.vmas).into_values() {
            for rest in [
                vma.pages.start..vma.pages.end.min(pages.start),
                vma.pages.start.max(pages.end)..vma.pages.end,
            ] {
                if !rest.is_empty() {
                    let start = rest.start;
                    let part = VmaSpec {
                        pages: rest,
                        ..vma.clone()
                    };
                    process.vmas.insert(start, part);
                }
            }
        }
        let gone: Vec<u64> = process
            .entries
            .range(pages)
            .map(|(&page, _)| page)
            .collect();
        for page in gone {
            self.clear_entry((pid, page));
        }
    }

    /// Moves the entries of `pages` to the pages from `to` on, as mremap does.
    pub(crate) fn mremap(&mut self, pid: Pid, pages: Range<u64>, to: u64) {
        for (page, target) in pages.zip(to..) {
            let Some(entry) = self.processes[pid.0].entries.remove(&page) else {
                continue;
            };
            if let Entry::Present(pfn) = entry
                && self.page(pfn).kind != Kind::Zero
            {
                let rmap = &mut self.page_mut(pfn).rmap;
                rmap.remove(&(pid, page));
                rmap.insert((pid, target));
            }
            self.set_entry((pid, target), entry);
        }
    }

    /// Sends a page to swap, if it can go there.
    pub(crate) fn swap_out(&mut self, place: Place) -> bool {
        let Some(Entry::Present(pfn)) = self.entry(place) else {
            return false;
        };
        let page = self.page(pfn);
        let is_free = page.home == Home::System
            && page.kind == Kind::Anonymous
            && page.folio.is_none()
            && page.refs() == 1;
        if is_free {
            let stamp = page.stamp;
            self.clear_entry(place);
            self.set_entry(place, Entry::Swapped(stamp));
        }
        is_free
    }

    /// KSM merges the pages at `places`, if they are equal; it ignores device pages.
    pub(crate) fn merge(&mut self, places: &[Place]) -> bool {
        let mut stamps = Vec::new();
        for &place in places {
            let Some(Entry::Present(pfn)) = self.entry(place) else {
                return false;
            };
            let page = self.page(pfn);
            let is_candidate = page.home == Home::System
                && page.kind == Kind::Anonymous
                && page.folio.is_none()
                && page.refs() == page.maps()
                && !page.is_locked;
            if !is_candidate {
                return false;
            }
            stamps.push(page.stamp);
        }
        let Some((&stamp, others)) = stamps.split_first() else {
            return false;
        };
        if others.iter().any(|&other| other != stamp) {
            return false;
        }
        // The first page becomes the merged one.
        let Some(Entry::Present(merged)) = self.entry(places[0]) else {
            return false;
        };
        self.page_mut(merged).kind = Kind::Ksm;
        for &place in places {
            if self.entry(place) != Some(Entry::Present(merged)) {
                self.clear_entry(place);
                self.map(place, merged);
            }
        }
        true
    }

    /// Makes the 512 pages from `place` on one large folio with the given stamps.
    pub(crate) fn map_folio(&mut self, place: Place, stamps: Range<u64>, is_huge_mapped: bool) {
        let first = self.new_page(Home::System, Kind::Anonymous);
        let nr_pages = stamps.end - stamps.start;
        for _page in 1..nr_pages {
            self.new_page(Home::System, Kind::Anonymous);
        }
        let pages = first..first + nr_pages;
        for (pfn, (stamp, page)) in pages.clone().zip(stamps.zip(place.1..)) {
            let member = self.page_mut(pfn);
            member.stamp = stamp;
            member.folio = Some(first);
            self.map((place.0, page), pfn);
        }
        self.folios.insert(
            first,
            Folio {
                pages,
                is_huge_mapped,
            },
        );
    }
}
