// SPDX-License-Identifier: GPL-2.0
//! `Host`, by the model.

use std::{
    fmt::Debug,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use cohmem_kcore::{
    Errno,
    host::{ChunkSpec, ControlGroup, Host, PageFacts, Pfn, Point, Privilege, WINDOW_PAGES},
    ledger::Ledger,
};
use cohmem_uapi::{RANGE_ALIGN, args};

use super::{
    FakeHost, Fallible, Home, Kind, Moment, PAGE, Pid,
    batch::FakeBatch,
    chunk::{FakeChunk, FakeClaim},
    held::{Gate, assert_no_batch, assert_no_lock},
    space::FakeSpace,
    world::RangeKind,
};

/// The arrays of a batch; the model needs none.
#[derive(Debug)]
pub(crate) struct FakeArrays;

/// System pages allocated ahead.
#[derive(Debug)]
pub(crate) struct FakeStock {
    pub(crate) host: FakeHost,
    pub(crate) pages: Vec<u64>,
}

impl Drop for FakeStock {
    fn drop(&mut self) {
        assert_no_batch("freeing a stock");
        let mut world = self.host.world();
        for pfn in self.pages.drain(..) {
            world.put(pfn);
        }
    }
}

impl FakeHost {
    fn allocate(&self, what: Fallible) -> Result<(), Errno> {
        assert_no_batch("allocating");
        if self.hit(what) {
            return Err(Errno::ENOMEM);
        }
        Ok(())
    }

    fn space(&self, pid: Pid) -> FakeSpace {
        FakeSpace::new(self.clone(), pid)
    }
}

/// A control group: the numbers from the root's on.
#[derive(Debug)]
pub(crate) struct FakeGroup(Vec<u64>);

impl ControlGroup for FakeGroup {
    fn number_at(&self, level: u32) -> Option<u64> {
        self.0.get(usize::try_from(level).unwrap()).copied()
    }
}

/// First address above the user address space.
pub(crate) const USER_END: u64 = 1 << 47;
pub(crate) const PHYS_END: u64 = 1 << 46;
/// The number of the calling process.
pub(crate) const ASKER: u32 = 77;
/// The node of all device memory.
pub(crate) const NODE: u32 = 1;
/// File descriptors from here on are no pagemap files.
pub(crate) const FD_OF_OTHER_FILE: i32 = 900;
/// File descriptors from here on are closed.
pub(crate) const FD_CLOSED: i32 = 1000;

impl Host for FakeHost {
    type Lock<T: Debug + Send + Sync> = Gate<T>;
    type Buffer<T: Copy + Debug + Send + Sync> = Box<[T]>;
    type Words = Box<[AtomicU64]>;
    type Shared<T: Debug + Send + Sync + 'static> = Arc<T>;
    type Claim = FakeClaim;
    type Chunk = FakeChunk;
    type Space = FakeSpace;
    type Arrays = FakeArrays;
    type Stock = FakeStock;
    type Group = FakeGroup;
    type Batch<'b> = FakeBatch<'b>;

    fn new_lock<T: Debug + Send + Sync>(&self, value: T) -> Result<Gate<T>, Errno> {
        self.allocate(Fallible::NewLock)?;
        Ok(Gate::new(value))
    }

    fn new_buffer<T: Copy + Debug + Send + Sync>(
        &self,
        len: usize,
        fill: T,
    ) -> Result<Box<[T]>, Errno> {
        self.allocate(Fallible::NewBuffer)?;
        Ok(vec![fill; len].into_boxed_slice())
    }

    fn new_words(&self, len: usize) -> Result<Box<[AtomicU64]>, Errno> {
        self.allocate(Fallible::NewWords)?;
        Ok((0..len).map(|_| AtomicU64::new(0)).collect())
    }

    fn share<T: Debug + Send + Sync + 'static>(&self, value: T) -> Result<Arc<T>, Errno> {
        self.allocate(Fallible::Share)?;
        Ok(Arc::new(value))
    }

    fn new_arrays(&self) -> Result<FakeArrays, Errno> {
        self.allocate(Fallible::NewArrays)?;
        Ok(FakeArrays)
    }

    fn new_stock(&self) -> Result<FakeStock, Errno> {
        self.allocate(Fallible::NewStock)?;
        Ok(FakeStock {
            host: self.clone(),
            pages: Vec::new(),
        })
    }

    fn refill(&self, stock: &mut FakeStock, nr_pages: usize) -> usize {
        assert_no_lock("allocating pages");
        assert!(nr_pages <= WINDOW_PAGES, "a stock of {nr_pages} pages");
        let is_short = self.hit(Fallible::Refill);
        let mut world = self.world();
        let wanted = nr_pages.saturating_sub(usize::from(is_short));
        let room = usize::try_from(world.available()).unwrap();
        for _page in 0..wanted.saturating_sub(stock.pages.len()).min(room) {
            let pfn = world.new_page(Home::System, Kind::Anonymous);
            world.take(pfn);
            stock.pages.push(pfn);
        }
        stock.pages.len()
    }

    fn available_pages(&self) -> u64 {
        self.world().available()
    }

    fn free_swap_pages(&self) -> u64 {
        self.world().free_swap_pages
    }

    fn total_pages(&self) -> u64 {
        self.world().total_pages
    }

    fn user_end(&self) -> u64 {
        USER_END
    }

    fn phys_end(&self) -> u64 {
        PHYS_END
    }

    fn moves_partly_mapped_folios(&self) -> bool {
        self.world().moves_partly_mapped
    }

    fn is_privileged(&self, privilege: Privilege) -> bool {
        match privilege {
            Privilege::Administrate => self.0.may_administrate.load(Relaxed),
            Privilege::MoveShared => self.0.may_move_shared.load(Relaxed),
        }
    }

    fn user(&self) -> u32 {
        self.caller()
    }

    fn calling_process(&self) -> u32 {
        ASKER
    }

    fn control_group(&self) -> FakeGroup {
        FakeGroup(self.groups())
    }

    fn own_space(&self) -> Result<FakeSpace, Errno> {
        if self.hit(Fallible::OwnSpace) {
            return Err(Errno::ESRCH);
        }
        Ok(self.space(Pid(0)))
    }

    fn proc_space(&self, fd: i32) -> Result<FakeSpace, Errno> {
        if self.hit(Fallible::OwnSpace) {
            return Err(Errno::ESRCH);
        }
        if !(0..FD_CLOSED).contains(&fd) {
            return Err(Errno::EBADF);
        }
        if fd >= FD_OF_OTHER_FILE {
            return Err(Errno::EBADFD);
        }
        let pid = Pid(usize::try_from(fd).unwrap());
        match self.world().processes.get(pid.0) {
            None => return Err(Errno::EBADF),
            Some(process) if process.has_exited => return Err(Errno::ESRCH),
            Some(_) => {}
        }
        Ok(self.space(pid))
    }

    fn write_user(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        assert_no_lock("writing to user memory");
        if self.hit(Fallible::WriteUser) {
            return Err(Errno::EFAULT);
        }
        let mut world = self.world();
        let (&start, buffer) = world
            .user_memory
            .range_mut(..=address)
            .next_back()
            .ok_or(Errno::EFAULT)?;
        let offset = usize::try_from(address - start).unwrap();
        let end = offset.checked_add(bytes.len()).ok_or(Errno::EFAULT)?;
        buffer
            .get_mut(offset..end)
            .ok_or(Errno::EFAULT)?
            .copy_from_slice(bytes);
        Ok(())
    }

    fn system_page(&self, pfn: Pfn) -> Option<PageFacts> {
        let world = self.world();
        match world.pages.get(&pfn.0) {
            Some(page) => (page.home == Home::System).then(|| world.facts(pfn.0)),
            // A page that was freed since the tables were read still has its struct page.
            None => world.is_ram(pfn.0).then(PageFacts::default),
        }
    }

    fn claim(&self, phys: u64, bytes: u64) -> Result<FakeClaim, Errno> {
        self.claim_range(phys..phys + bytes)
    }

    fn soft_reserved_from(&self, phys: u64) -> Option<Range<u64>> {
        let world = self.world();
        let ranges = world.ranges.iter();
        ranges
            .filter(|(range, kind)| *kind == RangeKind::SoftReserved && range.end > phys)
            .map(|(range, _)| range.start.max(phys)..range.end)
            .min_by_key(|range| range.start)
    }

    fn claim_in(&self, range: Range<u64>) -> Option<Range<u64>> {
        let world = self.world();
        let claims = world.claims.iter().map(|(claim, _is_kept)| claim);
        claims
            .map(|claim| claim.start.max(range.start)..claim.end.min(range.end))
            .filter(|claim| !claim.is_empty())
            .min_by_key(|claim| claim.start)
    }

    fn holds_ram(&self, range: Range<u64>) -> bool {
        (range.start / PAGE..range.end / PAGE).any(|pfn| self.world().is_ram(pfn))
    }

    fn register(
        &self,
        spec: ChunkSpec,
        claim: FakeClaim,
        ledger: Arc<Ledger<Self>>,
    ) -> Result<FakeChunk, Errno> {
        self.register_chunk(spec, claim, ledger)
    }

    fn chunk_bytes(&self) -> u64 {
        let bytes = self.world().chunk_bytes;
        assert!(bytes.is_multiple_of(RANGE_ALIGN));
        bytes
    }

    fn node_of(&self, _phys: u64) -> u32 {
        NODE
    }

    fn publish(&self, device: u32) -> Result<(), Errno> {
        assert_no_lock("creating a node");
        self.run_hooks(Moment::Publishing);
        if self.hit(Fallible::Publish) {
            return Err(Errno::ENOMEM);
        }
        assert!(self.world().published.insert(device), "published twice");
        Ok(())
    }

    fn unpublish(&self, device: u32) {
        assert_no_lock("removing a node");
        assert!(self.world().published.remove(&device), "not published");
    }

    fn is_killed(&self) -> bool {
        self.hit(Fallible::Killed)
    }

    fn is_signalled(&self) -> bool {
        self.hit(Fallible::Signalled)
    }

    fn relax(&self) {
        assert_no_batch("yielding");
        self.0.clock.fetch_add(1, Relaxed);
        self.run_hooks(Moment::Relaxing);
        thread::yield_now();
    }

    fn sleep_ms(&self, milliseconds: u64) {
        assert_no_batch("sleeping");
        self.0.clock.fetch_add(milliseconds * 1000, Relaxed);
        self.run_hooks(Moment::Sleeping);
        thread::yield_now();
    }

    fn now_ms(&self) -> u64 {
        self.now_ms_of_clock()
    }

    fn now_ns(&self) -> u64 {
        // Every look at the clock is a nanosecond later.
        self.0.nr_looks.fetch_add(1, Relaxed) + self.now_ms() * 1_000_000
    }

    fn trace(&self, device: u32, told: &args::Move) {
        self.0.traced().push((device, *told));
    }

    fn reached(&self, point: Point) {
        self.run_hooks(Moment::At(point));
    }

    fn drain_processors(&self) {
        assert_no_batch("draining the LRU batches");
        self.0.nr_drains.fetch_add(1, Relaxed);
        let mut world = self.world();
        let batched: Vec<u64> = world
            .pages
            .iter()
            .filter(|(_, page)| page.batched > 0)
            .map(|(&pfn, _)| pfn)
            .collect();
        for pfn in batched {
            world.page_mut(pfn).batched = 0;
            world.release_if_unused(pfn);
        }
    }
}
