// SPDX-License-Identifier: GPL-2.0
//! What the kernel and the hardware do behind the driver's back.

use std::sync::Arc;

use cohmem_frames::FrameRun;
use cohmem_kcore::poison::{self, Failure};

use super::{FakeHost, Home, Page, chunk::FakeChunk, held::assert_no_lock};

impl FakeHost {
    /// Takes a reference, as a pipe does. The page can be written through it.
    pub(crate) fn hold(&self, pfn: u64) {
        let mut world = self.world();
        world.take(pfn);
        *world.holders.entry(pfn).or_default() += 1;
    }

    pub(crate) fn release(&self, pfn: u64) {
        let mut world = self.world();
        let nr_held = world.holders.remove(&pfn).expect("a holder");
        if nr_held > 1 {
            world.holders.insert(pfn, nr_held - 1);
        }
        world.put(pfn);
    }

    pub(crate) fn change_page(&self, pfn: u64, change_fn: impl FnOnce(&mut Page)) {
        let mut world = self.world();
        let was_used = world.page(pfn).refs() > 0;
        change_fn(world.page_mut(pfn));
        if was_used {
            world.release_if_unused(pfn);
        }
    }

    /// The hardware loses a page, and nobody has noticed yet.
    pub(crate) fn break_page(&self, pfn: u64) {
        self.change_page(pfn, |page| page.is_broken = true);
    }

    /// The hardware reports a lost frame: the pgmap's `memory_failure` operation.
    pub(crate) fn memory_failure(&self, pfn: u64) -> Failure {
        assert_no_lock("memory_failure");
        self.break_page(pfn);
        let (ledger, chunk, frame) = {
            let world = self.world();
            let Home::Frame { pgmap, frame } = world.page(pfn).home else {
                panic!("{pfn:#x} is no frame");
            };
            let spec = world.pgmaps[pgmap].spec;
            let chunk = FakeChunk {
                host: self.clone(),
                pgmap,
                run: FrameRun::new(spec.first, spec.nr_frames),
                is_alias: true,
            };
            (Arc::clone(&world.pgmaps[pgmap].ledger), chunk, frame)
        };
        poison::frame_failed(self, &ledger, &chunk, frame)
    }

    /// Leaves `nr_pages` of system memory.
    pub(crate) fn leave_available(&self, nr_pages: u64) {
        let mut world = self.world();
        world.busy_pages = 0;
        world.busy_pages = world.available() - nr_pages;
    }
}
