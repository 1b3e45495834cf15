// SPDX-License-Identifier: GPL-2.0
//! Pages in flight.

use std::marker::PhantomData;

use cohmem_frames::FrameIndex;
use cohmem_kcore::host::{Batch, Source, Unreadable};

use super::{
    FakeHost, Fallible, Kind,
    chunk::FakeChunk,
    held::change,
    host::{FakeArrays, FakeStock},
    page::Place,
};

/// What was collected of one page.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    Skipped,
    Hole {
        place: Place,
        awaits_userfault: bool,
    },
    /// Locked and unmapped.
    Page(u64),
}

#[derive(Debug)]
struct Item {
    what: What,
    destination: Option<u64>,
    is_loaded: bool,
    is_moved: bool,
}

/// Pages in flight, between isolation and mapping.
#[derive(Debug)]
pub(crate) struct FakeBatch<'b> {
    host: FakeHost,
    items: Vec<Item>,
    is_committed: bool,
    arrays: PhantomData<&'b mut FakeArrays>,
}

impl FakeBatch<'_> {
    pub(crate) fn new(host: FakeHost, entries: Vec<What>) -> Self {
        change(|held| held.batches += 1);
        let items = entries.into_iter().map(|what| Item {
            what,
            destination: None,
            is_loaded: false,
            is_moved: false,
        });
        Self {
            host,
            items: items.collect(),
            is_committed: false,
            arrays: PhantomData,
        }
    }

    fn set_destination(&mut self, index: usize, pfn: u64) {
        assert!(!self.is_committed, "a destination after the commit");
        let item = &mut self.items[index];
        assert!(
            !matches!(item.what, What::Skipped) && item.destination.is_none(),
            "entry {index} can have no destination: {item:?}"
        );
        item.destination = Some(pfn);
    }

    /// The kernel's own exact check, and the hand-over; `false` when the page stays.
    fn commit_item(host: &FakeHost, item: &Item) -> bool {
        let Some(destination) = item.destination else {
            return false;
        };
        assert!(item.is_loaded, "a destination without content: {item:?}");
        if host.hit(Fallible::Commit) {
            return false;
        }
        let mut world = host.world();
        match item.what {
            What::Skipped => false,
            What::Hole {
                place,
                awaits_userfault,
            } => {
                // The hole was not locked: whoever filled it meanwhile wins. The zero page goes.
                let is_taken = match world.entry(place) {
                    None => false,
                    Some(super::process::Entry::Present(pfn)) => world.page(pfn).kind != Kind::Zero,
                    Some(_) => true,
                };
                if is_taken || awaits_userfault {
                    return false;
                }
                world.clear_entry(place);
                world.map(place, destination);
                true
            }
            What::Page(source) => {
                let page = world.page(source);
                if page.kind == Kind::File || page.refs() != 1 + page.expected() {
                    return false;
                }
                assert!(
                    page.kind != Kind::Ksm || !world.page(destination).is_frame(),
                    "a KSM page on a device can never leave it"
                );
                world.page_mut(source).is_in_swapcache = false;
                true
            }
        }
    }
}

impl Batch<FakeHost> for FakeBatch<'_> {
    fn source(&self, index: usize) -> Source {
        match self.items[index].what {
            What::Skipped => Source::Skipped,
            What::Hole { .. } => Source::Hole,
            What::Page(pfn) => Source::Page(self.host.world().facts(pfn)),
        }
    }

    fn assign_frame(&mut self, index: usize, chunk: &FakeChunk, frame: FrameIndex) {
        let pfn = chunk.pfn_of(frame);
        self.set_destination(index, pfn);
        let mut world = self.host.world();
        let page = world.page_mut(pfn);
        // What zone_device_page_init asserts, and waits for.
        assert_eq!(page.refs(), 0, "frame {frame} was handed out twice");
        assert!(!page.is_locked, "frame {frame} was freed while locked");
        assert!(!page.is_poisoned, "poisoned frame {frame} was handed out");
        page.taken = 1;
        page.is_locked = true;
    }

    fn assign_system(&mut self, index: usize, stock: &mut FakeStock) -> bool {
        let Some(pfn) = stock.pages.pop() else {
            return false;
        };
        self.set_destination(index, pfn);
        self.host.world().page_mut(pfn).is_locked = true;
        true
    }

    fn copy(&mut self, index: usize) -> Result<(), Unreadable> {
        let is_hit = self.host.hit(Fallible::Copy);
        let item = &mut self.items[index];
        let (What::Page(source), Some(destination)) = (item.what, item.destination) else {
            panic!("nothing to copy: {item:?}");
        };
        let mut world = self.host.world();
        world.page_mut(source).is_broken |= is_hit;
        if world.page(source).is_broken {
            return Err(Unreadable);
        }
        let stamp = world.page(source).stamp;
        world.page_mut(destination).stamp = stamp;
        item.is_loaded = true;
        Ok(())
    }

    fn zero(&mut self, index: usize) {
        let item = &mut self.items[index];
        let destination = item.destination.expect("a destination to zero");
        self.host.world().page_mut(destination).stamp = 0;
        item.is_loaded = true;
    }

    fn unassign(&mut self, index: usize) {
        assert!(!self.is_committed, "a destination given back too late");
        let destination = self.items[index].destination.take();
        self.items[index].is_loaded = false;
        self.host
            .world()
            .unlock_and_put(destination.expect("a destination to give back"));
    }

    fn commit(&mut self) {
        assert!(!self.is_committed, "a batch is committed once");
        self.is_committed = true;
        for item in &mut self.items {
            item.is_moved = Self::commit_item(&self.host, item);
        }
    }

    fn is_moved(&self, index: usize) -> bool {
        assert!(self.is_committed, "asked before the commit");
        self.items[index].is_moved
    }
}

impl Drop for FakeBatch<'_> {
    fn drop(&mut self) {
        change(|held| held.batches -= 1);
        let mut world = self.host.world();
        for item in &self.items {
            if let What::Page(source) = item.what {
                let target = item.destination.filter(|_| item.is_moved);
                world.restore(source, target.unwrap_or(source));
            }
            if let Some(destination) = item.destination {
                world.unlock_and_put(destination);
            }
        }
        drop(world);
        self.host.0.settled.notify_all();
    }
}
