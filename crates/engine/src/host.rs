//! What the protocols ask of the kernel.
//!
//! They are generic over these traits, so that the very code that moves memory also runs against a model
//! of an address space: with a failure at each call, with accesses between any two, and under loom.

use rustix::io::Errno;

use crate::word::Place;

/// Bytes of a region, from its start: whole granules, all locked by who moves them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) length: usize,
}

impl Span {
    /// The first `length` bytes.
    pub(crate) const fn head(self, length: usize) -> Self {
        Self {
            start: self.start,
            length,
        }
    }

    /// All but the first `done` bytes.
    pub(crate) const fn tail(self, done: usize) -> Self {
        Self {
            start: self.start + done,
            length: self.length - done,
        }
    }

    pub(crate) const fn end(self) -> usize {
        self.start + self.length
    }
}

/// Where in the pool a span's device memory begins, in bytes.
pub(crate) type Slot = usize;

/// How far a call came, and why no further.
pub(crate) type Progress = (usize, Result<(), Errno>);

/// What all levels need.
pub(crate) trait Host {
    /// Gives never-touched pages of the region something that can move.
    fn populate(&self, span: Span) -> Result<(), Errno>;

    /// Puts the pool's memory into the place of whatever the region has there, in one step, and keeps it
    /// from children.
    fn map_device(&self, span: Span, slot: Slot) -> Result<(), Errno>;

    /// Whether all of the span is mapped at all. A failed call may have unmapped it.
    fn is_mapped(&self, span: Span) -> bool;

    /// Lets other threads run before a call is repeated.
    fn pause(&self);

    /// Ends the process: content cannot be made whole, and going on would show wrong bytes.
    fn give_up(&self) -> !;
}

/// Level 1: accesses of a hole wait.
pub(crate) trait HoleHost: Host {
    /// From here on an access to a page of the span that is missing waits.
    fn arm(&self, span: Span) -> Result<(), Errno>;

    /// Ends that.
    fn disarm(&self, span: Span) -> Result<(), Errno>;

    /// Empties the span's part of the staging area of pages that nobody needs any more.
    fn make_room(&self, span: Span);

    /// Moves pages out of the span, into the staging area: each leaves for every processor at once.
    fn take(&self, span: Span) -> Progress;

    /// Moves them back.
    fn put_back(&self, span: Span) -> Progress;

    /// Fills the first page, which is missing, with zeros.
    fn zero_first(&self, span: Span) -> Result<(), Errno>;

    /// Copies from the staging area to the pool.
    fn save(&self, span: Span, slot: Slot);

    /// Puts an armed hole into the place of whatever the region has there, in one step.
    fn open_hole(&self, span: Span) -> Result<(), Errno>;

    /// Fills an armed hole with the pool's content.
    fn fill(&self, span: Span, slot: Slot) -> Progress;

    /// Wakes who waits for the span, to look again.
    fn wake(&self, span: Span);
}

/// Levels 2 and 3: writes wait, reads go on.
pub(crate) trait StopHost: Host {
    /// From here on a write to the span waits; all earlier ones have arrived. `place`: where it is now.
    fn stop(&self, span: Span, place: Place) -> Result<(), Errno>;

    /// Undoes [`Self::stop`], with the span's pages as they were, and wakes who waits.
    fn release(&self, span: Span, place: Place);

    /// Wakes who waits, after the span's pages were replaced by others, which nothing stops.
    fn resume(&self, span: Span);

    /// Copies from the span, which is stopped, to the pool.
    fn copy_out(&self, span: Span, slot: Slot);

    /// Gets fresh pages for the span's way home.
    fn prepare(&self, span: Span) -> Result<(), Errno>;

    /// Copies from the pool to the fresh pages.
    fn restore(&self, span: Span, slot: Slot);

    /// Puts the fresh pages into the place of whatever the region has there, in one step.
    fn switch_home(&self, span: Span) -> Result<(), Errno>;

    /// Gives fresh pages back that were not needed.
    fn discard(&self, span: Span);
}
