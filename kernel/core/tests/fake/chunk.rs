// SPDX-License-Identifier: GPL-2.0
//! Claimed ranges and registered chunks.

use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
};

use cohmem_frames::{FrameIndex, FrameRun};
use cohmem_kcore::{
    Errno,
    host::{Chunk, ChunkSpec, PageFacts, WINDOW_PAGES},
    ledger::Ledger,
};

use super::{
    FakeHost, Fallible, Home, Kind, PAGE,
    batch::{FakeBatch, What},
    held::{assert_no_batch, assert_no_lock, held},
    host::FakeArrays,
    page::Page,
    process::Entry,
    world::{Pgmap, RangeKind},
};

/// A claimed physical range.
#[derive(Debug)]
pub(crate) struct FakeClaim {
    pub(crate) host: FakeHost,
    pub(crate) range: Range<u64>,
    /// A chunk owns the range now.
    pub(crate) is_passed_on: bool,
}

impl Drop for FakeClaim {
    fn drop(&mut self) {
        if !self.is_passed_on {
            self.host
                .world()
                .claims
                .retain(|(range, _)| *range != self.range);
        }
    }
}

/// A registered chunk.
#[derive(Debug)]
pub(crate) struct FakeChunk {
    pub(crate) host: FakeHost,
    pub(crate) pgmap: usize,
    pub(crate) run: FrameRun,
    /// Another handle of a chunk, which the kernel keeps registered meanwhile.
    pub(crate) is_alias: bool,
}

impl FakeChunk {
    pub(crate) fn pfn_of(&self, frame: FrameIndex) -> u64 {
        assert!(
            self.run.start() <= frame && frame < self.run.end(),
            "frame {frame} is not in the chunk"
        );
        let world = self.host.world();
        let pgmap = &world.pgmaps[self.pgmap];
        assert!(pgmap.is_registered, "the struct page is gone");
        let pfn = pgmap.first_pfn() + frame.get() - self.run.start().get();
        assert!(pgmap.pfns().contains(&pfn), "frame {frame} holds metadata");
        pfn
    }

    /// Struct pages may be touched only while the gate keeps the chunk from going away.
    fn assert_stays(&self) {
        assert!(
            self.is_alias || held().gates > 0,
            "struct pages touched without the gate"
        );
    }
}

impl Chunk<FakeHost> for FakeChunk {
    fn run(&self) -> FrameRun {
        self.run
    }

    fn facts(&self, frame: FrameIndex) -> PageFacts {
        self.assert_stays();
        let pfn = self.pfn_of(frame);
        self.host.world().facts(pfn)
    }

    fn collect<'b>(&'b self, run: FrameRun, _arrays: &'b mut FakeArrays) -> FakeBatch<'b> {
        self.assert_stays();
        assert_no_batch("collecting");
        let nr_frames = usize::try_from(run.len()).unwrap();
        assert!((1..=WINDOW_PAGES).contains(&nr_frames), "{nr_frames} pages");
        let pfns: Vec<u64> = run.iter().map(|frame| self.pfn_of(frame)).collect();
        let mut world = self.host.world();
        let entries = pfns.into_iter().map(|pfn| {
            let is_mapped = world.page(pfn).maps() > 0;
            let is_hit = is_mapped && self.host.hit(Fallible::CollectPage);
            if is_mapped && !is_hit && world.isolate(pfn, 1) {
                What::Page(pfn)
            } else {
                What::Skipped
            }
        });
        let entries = entries.collect();
        drop(world);
        FakeBatch::new(self.host.clone(), entries)
    }

    fn mark_poisoned(&self, frame: FrameIndex) {
        self.assert_stays();
        let pfn = self.pfn_of(frame);
        let mut world = self.host.world();
        let page = world.page_mut(pfn);
        page.is_poisoned = true;
        page.is_broken = true;
    }

    fn keep(&self) {
        self.host.world().pgmaps[self.pgmap].is_kept = true;
    }
}

impl Drop for FakeChunk {
    fn drop(&mut self) {
        if self.is_alias || thread::panicking() || self.host.0.is_off.load(Relaxed) {
            return;
        }
        assert_no_lock("unregistering a chunk");
        let mut world = self.host.world();
        let pgmap = &world.pgmaps[self.pgmap];
        let phys = pgmap.spec.phys;
        if pgmap.is_kept {
            for (range, is_kept) in &mut world.claims {
                *is_kept |= range.start == phys;
            }
            return;
        }
        let pfns = pgmap.pfns();
        for pfn in pfns.clone() {
            let nr_refs = world.page(pfn).refs();
            assert_eq!(nr_refs, 0, "unregistering would wait for frame {pfn:#x}");
        }
        for process in &world.processes {
            for entry in process.entries.values() {
                if let Entry::Poisoned(pfn) = entry {
                    assert!(
                        !pfns.contains(pfn),
                        "an entry would name a page that is gone"
                    );
                }
            }
        }
        for pfn in pfns {
            world.pages.remove(&pfn);
            world.nr_frames -= 1;
        }
        world.pgmaps[self.pgmap].is_registered = false;
        world.claims.retain(|(range, _)| range.start != phys);
    }
}

impl FakeHost {
    pub(crate) fn claim_range(&self, wanted: Range<u64>) -> Result<FakeClaim, Errno> {
        assert_no_batch("claiming");
        if self.hit(Fallible::Claim) {
            return Err(Errno::ENOMEM);
        }
        let mut world = self.world();
        let overlaps = |range: &Range<u64>| range.start < wanted.end && wanted.start < range.end;
        if world
            .ranges
            .iter()
            .any(|(range, kind)| *kind == RangeKind::Ram && overlaps(range))
        {
            return Err(Errno::EADDRINUSE);
        }
        let is_reserved = world.ranges.iter().any(|(range, kind)| {
            *kind == RangeKind::SoftReserved
                && range.start <= wanted.start
                && wanted.end <= range.end
        });
        if !is_reserved {
            return Err(Errno::EADDRNOTAVAIL);
        }
        if world.claims.iter().any(|(claim, _)| overlaps(claim)) {
            return Err(Errno::EBUSY);
        }
        world.claims.push((wanted.clone(), false));
        Ok(FakeClaim {
            host: self.clone(),
            range: wanted,
            is_passed_on: false,
        })
    }

    pub(crate) fn register_chunk(
        &self,
        spec: ChunkSpec,
        mut claim: FakeClaim,
        ledger: Arc<Ledger<Self>>,
    ) -> Result<FakeChunk, Errno> {
        assert_no_lock("creating struct pages");
        assert_eq!(
            claim.range,
            spec.phys..spec.phys + spec.nr_frames * PAGE,
            "the claim is another range's"
        );
        if self.hit(Fallible::Register) {
            return Err(Errno::ENOMEM);
        }
        claim.is_passed_on = true;
        let mut world = self.world();
        let number = world.pgmaps.len();
        let pgmap = Pgmap {
            spec,
            ledger,
            is_registered: true,
            is_kept: false,
        };
        for pfn in pgmap.pfns() {
            let frame = FrameIndex::new(spec.first.get() + pfn - pgmap.first_pfn());
            let home = Home::Frame {
                pgmap: number,
                frame,
            };
            let previous = world.pages.insert(pfn, Page::new(home, Kind::Anonymous));
            assert!(previous.is_none(), "{pfn:#x} has a pgmap");
            world.nr_frames += 1;
        }
        world.pgmaps.push(pgmap);
        Ok(FakeChunk {
            host: self.clone(),
            pgmap: number,
            run: FrameRun::new(spec.first, spec.nr_frames),
            is_alias: false,
        })
    }
}
