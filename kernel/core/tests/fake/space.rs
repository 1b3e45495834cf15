// SPDX-License-Identifier: GPL-2.0
//! Address spaces, as the driver sees them.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use cohmem_kcore::{
    Errno, ProcessId,
    host::{AddressSpace, LockedSpace, Mapping, Pfn, Select, Span, Vma, WINDOW_PAGES},
};

use super::{
    FakeHost, Fallible, Home, Kind, Moment, PAGE, Pid, VmaSpec,
    batch::{FakeBatch, What},
    held::{assert_no_batch, assert_no_lock, change},
    host::FakeArrays,
    process::Entry,
    world::World,
};

/// An address space that stays while this is held.
#[derive(Debug)]
pub(crate) struct FakeSpace {
    host: FakeHost,
    pid: Pid,
    lock: Arc<RwLock<()>>,
}

impl FakeSpace {
    pub(crate) fn new(host: FakeHost, pid: Pid) -> Self {
        let lock = {
            let mut world = host.world();
            let process = &mut world.processes[pid.0];
            process.nr_users += 1;
            Arc::clone(&process.lock)
        };
        Self { host, pid, lock }
    }
}

impl Drop for FakeSpace {
    fn drop(&mut self) {
        assert_no_batch("dropping an address space");
        self.host.world().put_space(self.pid);
    }
}

impl AddressSpace<FakeHost> for FakeSpace {
    type Locked<'a> = FakeLocked<'a>;

    fn lock(&self) -> Result<FakeLocked<'_>, Errno> {
        assert_no_batch("locking an address space");
        assert_no_lock("waiting for an address space");
        if self.host.hit(Fallible::LockSpace) {
            return Err(Errno::EINTR);
        }
        let guard = self.lock.read().unwrap_or_else(PoisonError::into_inner);
        change(|held| held.spaces += 1);
        Ok(FakeLocked {
            space: self,
            _guard: guard,
        })
    }

    fn process(&self) -> ProcessId {
        self.host.identity(self.pid)
    }

    fn has_swapped_pages(&self) -> bool {
        let world = self.host.world();
        world.processes[self.pid.0]
            .entries
            .values()
            .any(|entry| matches!(entry, Entry::Swapped(_)))
    }
}

/// A locked address space.
#[derive(Debug)]
pub(crate) struct FakeLocked<'a> {
    space: &'a FakeSpace,
    _guard: RwLockReadGuard<'a, ()>,
}

impl Drop for FakeLocked<'_> {
    fn drop(&mut self) {
        change(|held| held.spaces -= 1);
    }
}

fn vma_of(spec: &VmaSpec) -> Vma {
    Vma {
        span: Span {
            start: spec.pages.start * PAGE,
            end: spec.pages.end * PAGE,
        },
        is_hugetlb: spec.is_hugetlb,
        is_special: spec.is_special,
        is_shared: spec.is_shared,
        is_executable: spec.is_executable,
        is_unreadable: spec.is_unreadable,
        awaits_userfault: spec.awaits_userfault,
        is_file_private: spec.is_file_private,
    }
}

impl FakeLocked<'_> {
    /// The one area that `span` lies in, and the pages.
    fn window(&self, world: &World, span: Span) -> (VmaSpec, std::ops::Range<u64>) {
        assert!(span.start.is_multiple_of(PAGE) && span.end.is_multiple_of(PAGE));
        let pages = span.start / PAGE..span.end / PAGE;
        let nr_pages = usize::try_from(pages.end - pages.start).unwrap();
        assert!((1..=WINDOW_PAGES).contains(&nr_pages), "{nr_pages} pages");
        let vma = world.processes[self.space.pid.0]
            .vma_at(pages.start)
            .expect("a window in an area")
            .clone();
        assert!(pages.end <= vma.pages.end, "a window over the area's end");
        (vma, pages)
    }

    fn collect_page(
        &self,
        world: &mut World,
        vma: &VmaSpec,
        page: u64,
        owner: Option<u32>,
    ) -> What {
        let place = (self.space.pid, page);
        let is_anonymous_area = !vma.is_file_private && !vma.is_shared;
        let pfn = match world.entry(place) {
            None if is_anonymous_area => {
                return What::Hole {
                    place,
                    awaits_userfault: vma.awaits_userfault,
                };
            }
            Some(Entry::Present(pfn)) => pfn,
            _ => return What::Skipped,
        };
        match (world.page(pfn).home, world.page(pfn).kind, owner) {
            (Home::System, Kind::Zero, None) => {
                return What::Hole {
                    place,
                    awaits_userfault: vma.awaits_userfault,
                };
            }
            (Home::System, Kind::Anonymous | Kind::Ksm | Kind::File, None) => {}
            (Home::Frame { pgmap, .. }, _, Some(owner))
                if world.pgmaps[pgmap].spec.device == owner => {}
            _ => return What::Skipped,
        }
        let facts = world.facts(pfn);
        if let Some(folio) = world.page(pfn).folio {
            let is_huge = world.folios[&folio].is_huge_mapped;
            if (!is_huge && !world.moves_partly_mapped) || facts.refs != facts.maps {
                return What::Skipped;
            }
            world.split_folio(folio);
        }
        // System memory gets an LRU drain and no slack, a device page one reference of slack.
        if owner.is_none() {
            world.page_mut(pfn).batched = 0;
        }
        if world.isolate(pfn, u32::from(owner.is_some())) {
            What::Page(pfn)
        } else {
            What::Skipped
        }
    }
}

impl LockedSpace<FakeHost> for FakeLocked<'_> {
    fn vma_from(&self, address: u64) -> Option<Vma> {
        let world = self.space.host.world();
        world.processes[self.space.pid.0]
            .vma_from(address / PAGE)
            .map(vma_of)
    }

    fn snapshot(&mut self, span: Span, out: &mut [Mapping]) -> Result<(), Errno> {
        let host = &self.space.host;
        if host.hit(Fallible::Snapshot) {
            return Err(Errno::EBUSY);
        }
        let world = host.world();
        let (_vma, pages) = self.window(&world, span);
        assert_eq!(u64::try_from(out.len()).unwrap(), pages.end - pages.start);
        for (page, mapping) in pages.zip(out) {
            *mapping = match world.entry((self.space.pid, page)) {
                Some(Entry::Present(pfn)) => Mapping::Present {
                    pfn: Pfn(pfn),
                    is_huge: world
                        .page(pfn)
                        .folio
                        .is_some_and(|folio| world.folios[&folio].is_huge_mapped),
                },
                Some(Entry::Forbidden) => Mapping::Forbidden,
                Some(Entry::Poisoned(_)) => Mapping::Poisoned,
                Some(Entry::Swapped(_) | Entry::Moving(_)) | None => Mapping::Absent,
            };
        }
        drop(world);
        host.run_hooks(Moment::Snapshotted);
        Ok(())
    }

    fn collect<'b>(
        &'b mut self,
        span: Span,
        select: Select<'b, FakeHost>,
        _arrays: &'b mut FakeArrays,
    ) -> Result<FakeBatch<'b>, Errno> {
        let host = &self.space.host;
        assert_no_batch("collecting");
        if host.hit(Fallible::Collect) {
            return Err(Errno::EBUSY);
        }
        host.run_hooks(Moment::Collecting);
        let mut world = host.world();
        let (vma, pages) = self.window(&world, span);
        if vma.is_hugetlb || vma.is_special {
            return Err(Errno::EINVAL);
        }
        let owner = match select {
            Select::System => None,
            Select::Device(chunk) => Some(world.pgmaps[chunk.pgmap].spec.device),
        };
        let entries = pages.map(|page| {
            let is_there = world.entry((self.space.pid, page)).is_some();
            if is_there && host.hit(Fallible::CollectPage) {
                What::Skipped
            } else {
                self.collect_page(&mut world, &vma, page, owner)
            }
        });
        let entries = entries.collect();
        drop(world);
        Ok(FakeBatch::new(host.clone(), entries))
    }
}
