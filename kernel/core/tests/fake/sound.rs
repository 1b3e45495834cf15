// SPDX-License-Identifier: GPL-2.0
//! What must hold of the machine whenever nothing is under way.

use std::collections::{BTreeMap, BTreeSet};

use cohmem_kcore::Driver;
use cohmem_uapi::{MAX_DEVICES, args};

use super::{
    FakeHost, Kind, Pid,
    page::Place,
    process::Entry,
    world::{World, ZERO_PFN},
};

impl World {
    /// Frames in use, poisoned ones included.
    pub(crate) fn nr_frames_in_use(&self) -> u64 {
        let nr_used = self
            .pages
            .values()
            .filter(|page| page.is_frame() && page.refs() > 0)
            .count();
        u64::try_from(nr_used).unwrap()
    }

    /// Fails the test unless page tables and pages agree, nothing is left locked or in flight, and each
    /// reference has an owner.
    #[track_caller]
    pub(crate) fn assert_consistent(&self) {
        let mut rmap: BTreeMap<u64, BTreeSet<Place>> = BTreeMap::new();
        for (number, process) in self.processes.iter().enumerate() {
            for (&page, entry) in &process.entries {
                match *entry {
                    Entry::Present(ZERO_PFN) | Entry::Swapped(_) | Entry::Forbidden => {}
                    Entry::Present(pfn) => {
                        rmap.entry(pfn).or_default().insert((Pid(number), page));
                    }
                    Entry::Moving(_) => panic!("a migration entry was left at {number}:{page:#x}"),
                    Entry::Poisoned(pfn) => {
                        assert!(
                            self.pages.contains_key(&pfn),
                            "an entry names a page that is gone"
                        );
                    }
                }
            }
        }
        for (pfn, page) in &self.pages {
            let nr_held = self.holders.get(pfn).copied().unwrap_or(0);
            let nr_zero = u32::from(page.kind == Kind::Zero);
            assert!(!page.is_locked, "page {pfn:#x} was left locked");
            assert!(page.moving.is_empty(), "page {pfn:#x} was left in flight");
            assert_eq!(page.rmap, rmap.remove(pfn).unwrap_or_default(), "{pfn:#x}");
            assert_eq!(page.taken, nr_held + nr_zero, "references to {pfn:#x}");
            assert!(
                page.refs() > 0 || page.is_frame() || page.folio.is_some(),
                "page {pfn:#x} was left unused"
            );
        }
        assert!(
            rmap.is_empty(),
            "entries name pages that are gone: {rmap:x?}"
        );
    }
}

impl FakeHost {
    /// All state that a command could change, as text.
    pub(crate) fn fingerprint(&self) -> String {
        let world = self.world();
        let entries: Vec<_> = world
            .processes
            .iter()
            .map(|process| &process.entries)
            .collect();
        format!(
            "{:?} {:?} {:?} {:?}",
            world.pages, entries, world.claims, world.published
        )
    }

    /// Fails the test unless the machine is at rest and every frame in use has an owner.
    #[track_caller]
    pub(crate) fn assert_sound(&self, driver: &Driver<Self>) {
        let world = self.world();
        world.assert_consistent();
        let nr_in_use = world.nr_frames_in_use();
        drop(world);
        let mut nr_allocated = 0;
        let mut nr_charged = 0;
        for number in 0..MAX_DEVICES {
            let Ok(id) = driver.open(number) else {
                continue;
            };
            let mut info = args::Info::default();
            driver.info(id, &mut info).unwrap();
            assert_eq!(
                info.nr_frames,
                info.nr_free + info.nr_allocated + info.nr_poisoned + info.nr_metadata
            );
            nr_allocated += info.nr_allocated;
            let accounts = self.accounts(driver, id).unwrap();
            nr_charged += accounts.iter().map(|account| account.charged).sum::<u64>();
        }
        let world = self.world();
        let nr_poisoned_in_use = world
            .pages
            .values()
            .filter(|page| page.is_frame() && page.is_poisoned && page.refs() > 0)
            .count();
        assert_eq!(
            nr_allocated + u64::try_from(nr_poisoned_in_use).unwrap(),
            nr_in_use,
            "frames handed out, and frames in use"
        );
        assert_eq!(nr_charged, nr_in_use, "frames charged, and frames in use");
    }
}
