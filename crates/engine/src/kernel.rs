//! The protocols' host: the kernel, and a region's address ranges.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use rustix::{
    io::Errno,
    thread::{CpuSet, Pid},
};

use crate::{
    host::{HoleHost, Host, Progress, Slot, Span, StopHost},
    pool::Pool,
    slots::{Content, Slots},
    sys::{
        areas::Areas,
        ballast,
        faults::Watch,
        last_word,
        uffd::{Mode, Uffd},
    },
    word::Place,
};

/// Most that is copied home at a time: whoever waits for the first bytes goes on while the rest comes.
const FILL_BYTES: usize = 64 << 10;
/// Granules from this size on come home as huge pages.
const HUGE_BYTES: usize = 2 << 20;

/// A region's memory, as all levels see it.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) areas: Arc<Areas>,
    pub(crate) pool: Pool,
    granule_shift: u32,
}

impl Memory {
    pub(crate) const fn new(areas: Arc<Areas>, pool: Pool, granule_shift: u32) -> Self {
        Self {
            areas,
            pool,
            granule_shift,
        }
    }

    fn granules(&self, span: Span) -> Range<usize> {
        span.start >> self.granule_shift..span.end() >> self.granule_shift
    }

    fn span_of(&self, granules: Range<usize>) -> Span {
        Span {
            start: granules.start << self.granule_shift,
            length: granules.len() << self.granule_shift,
        }
    }

    fn map_device(&self, span: Span, slot: Slot) -> Result<(), Errno> {
        self.areas.map_device(span, self.pool.mapping(), slot)
    }
}

/// Level 1.
#[derive(Debug)]
pub(crate) struct Hole {
    pub(crate) memory: Memory,
    pub(crate) uffd: Uffd,
    slots: Slots,
    /// Most bytes kept, and those kept now.
    kept_limit: usize,
    kept_bytes: AtomicUsize,
    /// Held over each move of a mapping, which waits for the listener: while one waits, filling holes
    /// has to wait as well, so it is worth nothing to have two. It holds the processor that the listener
    /// runs on.
    listener: Mutex<Listening>,
}

#[derive(Debug)]
struct Listening {
    thread: Option<Pid>,
    cpu: Option<usize>,
}

impl Hole {
    pub(crate) fn new(memory: Memory, uffd: Uffd, kept_limit: usize) -> Result<Self, Errno> {
        let all = Span {
            start: 0,
            length: memory.areas.length(),
        };
        uffd.register(memory.areas.source_at(all), all.length, Mode::Missing)?;
        uffd.register(memory.areas.leaving_at(all), all.length, Mode::Missing)?;
        let slots = Slots::new(memory.granules(all).len());
        Ok(Self {
            memory,
            uffd,
            slots,
            kept_limit,
            kept_bytes: AtomicUsize::new(0),
            listener: Mutex::new(Listening {
                thread: None,
                cpu: None,
            }),
        })
    }

    /// Tells who reads the events.
    pub(crate) fn set_listener(&self, thread: Pid) {
        self.listener
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .thread = Some(thread);
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn listener_thread(&self) -> Option<Pid> {
        let listening = self.listener.lock();
        listening.unwrap_or_else(PoisonError::into_inner).thread
    }

    /// The granule that an address of the region lies in.
    pub(crate) fn granule_at(&self, address: usize) -> Option<usize> {
        let start = self.memory.areas.region().addr().get();
        let offset = address.checked_sub(start)?;
        (offset < self.memory.areas.length()).then_some(offset >> self.memory.granule_shift)
    }

    const fn is_huge(&self) -> bool {
        1 << self.memory.granule_shift >= HUGE_BYTES
    }

    /// Leaves the pages of a span that moved out to be kept for its way home, or to be given back.
    pub(crate) fn leave(&self, span: Span) {
        // Relaxed: a bound, and a span more or less does not matter.
        let kept = self.kept_bytes.fetch_add(span.length, Ordering::Relaxed);
        let is_kept = kept + span.length <= self.kept_limit;
        if !is_kept {
            self.forget_kept(span.length);
            if self.is_huge() {
                self.memory.areas.discard_leaving(span);
                return;
            }
        }
        for index in self.memory.granules(span) {
            if is_kept {
                self.slots.keep(index);
            } else {
                self.slots.leave(index);
            }
        }
    }

    /// Gives the pages back that granules of the span left and that are not kept.
    pub(crate) fn give_back(&self, span: Span) {
        let granules = self.memory.granules(span);
        self.slots
            .empty(granules.start, granules.end, |start, end| {
                self.memory
                    .areas
                    .discard_leaving(self.memory.span_of(start..end));
            });
    }

    fn forget_kept(&self, bytes: usize) {
        self.kept_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Claims the slots of granules, in order, up to the first that is empty; how many hold pages.
    fn claim(&self, granules: Range<usize>) -> usize {
        let granule_bytes = 1 << self.memory.granule_shift;
        let start = granules.start;
        for index in granules.clone() {
            match self.slots.claim(index) {
                Content::Nothing => return index - start,
                Content::Old => {}
                Content::Kept => self.forget_kept(granule_bytes),
            }
        }
        granules.len()
    }

    /// Fills a hole with pages of the leaving area, which the caller claimed.
    fn fill_with_old(&self, span: Span, slot: Slot) -> Progress {
        let memory = &self.memory;
        memory
            .areas
            .refill_leaving(span, memory.pool.mapping(), slot);
        let (to, from) = (memory.areas.region_at(span), memory.areas.leaving_at(span));
        let (done, result) = self.uffd.move_pages(to, from, span.length);
        if done < span.length {
            memory.areas.discard_leaving(span.tail(done));
        }
        (done, result)
    }

    /// Fills a hole with fresh pages of any size.
    fn fill_with_fresh(&self, span: Span, slot: Slot) -> Progress {
        let memory = &self.memory;
        if let Err(error) = memory.areas.prepare_coming(span) {
            return (0, Err(error));
        }
        memory.areas.restore(span, memory.pool.mapping(), slot);
        let (to, from) = (memory.areas.region_at(span), memory.areas.coming_at(span));
        let (done, result) = self.uffd.move_pages(to, from, span.length);
        if done < span.length {
            memory.areas.discard_coming(span.tail(done));
        }
        (done, result)
    }

    /// Runs the listener where this thread runs: its answer is a switch of threads away then, not an
    /// interrupt of another, sleeping processor.
    fn bring_listener_here(listening: &mut Listening) {
        let here = rustix::thread::sched_getcpu();
        if listening.cpu == Some(here) {
            return;
        }
        let mut cpus = CpuSet::new();
        if here < CpuSet::MAX_CPU {
            cpus.set(here);
        }
        // A processor that this process may not choose: the listener stays where it is.
        match rustix::thread::sched_setaffinity(listening.thread, &cpus) {
            Ok(()) | Err(_) => listening.cpu = Some(here),
        }
    }
}

impl Host for Hole {
    fn populate(&self, span: Span) -> Result<(), Errno> {
        self.memory.areas.populate(span)
    }

    fn map_device(&self, span: Span, slot: Slot) -> Result<(), Errno> {
        self.memory.map_device(span, slot)
    }

    fn is_mapped(&self, span: Span) -> bool {
        self.memory.areas.is_mapped(span)
    }

    fn pause(&self) {
        thread::yield_now();
    }

    fn give_up(&self) -> ! {
        give_up()
    }
}

impl HoleHost for Hole {
    fn arm(&self, span: Span) -> Result<(), Errno> {
        let start = self.memory.areas.region_at(span);
        self.uffd.register(start, span.length, Mode::Missing)
    }

    fn disarm(&self, span: Span) -> Result<(), Errno> {
        let start = self.memory.areas.region_at(span);
        ballast::with_reserve(|| self.uffd.unregister(start, span.length))
    }

    fn make_room(&self, span: Span) {
        // A span that is not of whole granules is a part of one that comes home.
        let end = span.end().next_multiple_of(1 << self.memory.granule_shift);
        let mut at = span.start >> self.memory.granule_shift;
        let end = end >> self.memory.granule_shift;
        while at < end {
            let nr_full = self.claim(at..end);
            if nr_full > 0 {
                let full = self.memory.span_of(at..at + nr_full);
                self.memory.areas.discard_leaving(full);
            }
            // The next one was empty.
            at += nr_full + 1;
        }
    }

    fn take(&self, span: Span) -> Progress {
        let areas = &self.memory.areas;
        let (to, from) = (areas.leaving_at(span), areas.region_at(span));
        self.uffd.move_pages(to, from, span.length)
    }

    fn put_back(&self, span: Span) -> Progress {
        let areas = &self.memory.areas;
        let (to, from) = (areas.region_at(span), areas.leaving_at(span));
        self.uffd.move_pages(to, from, span.length)
    }

    fn zero_first(&self, span: Span) -> Result<(), Errno> {
        let start = self.memory.areas.region_at(span);
        self.uffd.zero_page(start, 4096)
    }

    fn save(&self, span: Span, slot: Slot) {
        self.memory
            .areas
            .save(span, self.memory.pool.mapping(), slot);
    }

    fn open_hole(&self, span: Span) -> Result<(), Errno> {
        let mut listening = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        Self::bring_listener_here(&mut listening);
        self.memory.areas.open_hole(span)
    }

    fn fill(&self, span: Span, slot: Slot) -> Progress {
        // Behind a part that is home already pages were given back.
        if span.start.is_multiple_of(1 << self.memory.granule_shift) {
            let nr_full = self.claim(self.memory.granules(span));
            if nr_full > 0 {
                let full = span.head(nr_full << self.memory.granule_shift);
                return self.fill_with_old(full, slot);
            }
        }
        if self.is_huge() {
            return self.fill_with_fresh(span, slot);
        }
        let length = span.length.min(FILL_BYTES);
        let from = self.memory.pool.mapping().at(slot, length);
        let to = self.memory.areas.region_at(span);
        self.uffd.copy(to, from.addr(), length)
    }

    fn wake(&self, span: Span) {
        let start = self.memory.areas.region_at(span);
        let woken = self.uffd.wake(start, span.length);
        debug_assert!(woken.is_ok(), "a range of whole pages: {woken:?}");
    }
}

/// What stops writes, at levels 2 and 3.
#[derive(Debug)]
pub(crate) enum Brake {
    /// userfaultfd protects both places.
    Uffd(Uffd),
    /// userfaultfd protects system memory; it does not know device-dax memory, which page protection
    /// stops.
    UffdAndWatch(Uffd, Watch),
    /// Page protection.
    Watch(Watch),
}

impl Brake {
    const fn for_place(&self, place: Place) -> Stopper<'_> {
        match (self, place) {
            (Self::Uffd(uffd), _) | (Self::UffdAndWatch(uffd, _), Place::System) => {
                Stopper::Uffd(uffd)
            }
            (Self::UffdAndWatch(_, watch), Place::Device) | (Self::Watch(watch), _) => {
                Stopper::Watch(watch)
            }
        }
    }

    pub(crate) const fn uffd(&self) -> Option<&Uffd> {
        match self {
            Self::Uffd(uffd) | Self::UffdAndWatch(uffd, _) => Some(uffd),
            Self::Watch(_) => None,
        }
    }
}

#[derive(Debug)]
enum Stopper<'b> {
    Uffd(&'b Uffd),
    Watch(&'b Watch),
}

/// Levels 2 and 3. Who waits at level 3 waits for the granule's word, which is let go by who moves it.
#[derive(Debug)]
pub(crate) struct Stop {
    pub(crate) brake: Brake,
    pub(crate) memory: Memory,
}

impl Stop {
    /// The way home may use the reserve of mappings, the way out leaves it alone.
    fn with_reserve(
        place: Place,
        mut call_fn: impl FnMut() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        match place {
            Place::System => call_fn(),
            Place::Device => ballast::with_reserve(call_fn),
        }
    }
}

impl Host for Stop {
    fn populate(&self, span: Span) -> Result<(), Errno> {
        self.memory.areas.populate(span)
    }

    fn map_device(&self, span: Span, slot: Slot) -> Result<(), Errno> {
        self.memory.map_device(span, slot)
    }

    fn is_mapped(&self, span: Span) -> bool {
        self.memory.areas.is_mapped(span)
    }

    fn pause(&self) {
        thread::yield_now();
    }

    fn give_up(&self) -> ! {
        give_up()
    }
}

impl StopHost for Stop {
    fn stop(&self, span: Span, place: Place) -> Result<(), Errno> {
        let start = self.memory.areas.region_at(span);
        match self.brake.for_place(place) {
            Stopper::Uffd(uffd) => {
                Self::with_reserve(place, || {
                    uffd.register(start, span.length, Mode::WriteProtected)
                })?;
                let protected = uffd.protect(start, span.length);
                if protected.is_err() {
                    self.release(span, place);
                }
                protected
            }
            Stopper::Watch(watch) => {
                watch.expect_faults();
                Self::with_reserve(place, || self.memory.areas.set_writable(span, false))
            }
        }
    }

    fn release(&self, span: Span, place: Place) {
        let start = self.memory.areas.region_at(span);
        match self.brake.for_place(place) {
            Stopper::Uffd(uffd) => {
                // Not by allowing writes again: that loses a waiter that comes at the same time.
                let unregistered = ballast::with_reserve(|| uffd.unregister(start, span.length));
                if unregistered.is_err() {
                    give_up();
                }
                self.resume(span);
            }
            Stopper::Watch(_) => {
                let allowed = ballast::with_reserve(|| self.memory.areas.set_writable(span, true));
                if allowed.is_err() {
                    give_up();
                }
            }
        }
    }

    fn resume(&self, span: Span) {
        if let Some(uffd) = self.brake.uffd() {
            let start = self.memory.areas.region_at(span);
            let woken = uffd.wake(start, span.length);
            debug_assert!(woken.is_ok(), "a range of whole pages: {woken:?}");
        }
    }

    fn copy_out(&self, span: Span, slot: Slot) {
        self.memory
            .areas
            .copy_out(span, self.memory.pool.mapping(), slot);
    }

    fn prepare(&self, span: Span) -> Result<(), Errno> {
        self.memory.areas.prepare_coming(span)
    }

    fn restore(&self, span: Span, slot: Slot) {
        self.memory
            .areas
            .restore(span, self.memory.pool.mapping(), slot);
    }

    fn switch_home(&self, span: Span) -> Result<(), Errno> {
        self.memory.areas.switch_home(span)
    }

    fn discard(&self, span: Span) {
        self.memory.areas.discard_coming(span);
    }
}

fn give_up() -> ! {
    last_word::abort(
        "cohmem-engine: the system left a gap in a region and refuses to close it; \
         memory would be lost\n",
    )
}
