//! Who owns the pages that a granule left behind when it moved out.
//!
//! At level 1 a granule's system pages are first moved, untouched, into its slot of the staging area, and
//! copied from there. Giving them back to the system costs every processor a flush, so it is done in
//! bulk, later, possibly by another thread than the one that now wants the slot again.

use crate::sync::{AtomicU8, Ordering, pause};

const EMPTY: u8 = 0;
const OLD: u8 = 1;
const LEAVING: u8 = 2;
const KEPT: u8 = 3;

/// What a slot held when its granule's owner claimed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Nothing,
    /// Pages that nobody needs any more.
    Old,
    /// Pages kept for the granule's way home.
    Kept,
}

/// One slot a granule.
///
/// A slot is empty, or holds old or kept pages, or is being emptied. Who holds the granule's lock may take
/// any that is not being emptied; anyone may start to empty one of old pages.
#[derive(Debug)]
pub(crate) struct Slots(Box<[AtomicU8]>);

impl Slots {
    pub(crate) fn new(nr_granules: usize) -> Self {
        Self((0..nr_granules).map(|_| AtomicU8::new(EMPTY)).collect())
    }

    /// Takes the slot for the granule's owner, after whoever empties it is done. What it holds is the
    /// owner's from here on.
    pub(crate) fn claim(&self, index: usize) -> Content {
        let slot = &self.0[index];
        loop {
            // Acquire: pairs with the release in `leave` and `empty`: the pages were moved in, or given
            // back, before.
            match slot.load(Ordering::Acquire) {
                LEAVING => pause(),
                EMPTY => return Content::Nothing,
                // Nobody else changes it.
                KEPT => {
                    slot.store(EMPTY, Ordering::Relaxed);
                    return Content::Kept;
                }
                _ => {
                    let claimed =
                        slot.compare_exchange(OLD, EMPTY, Ordering::Acquire, Ordering::Relaxed);
                    if claimed.is_ok() {
                        return Content::Old;
                    }
                }
            }
        }
    }

    /// The owner leaves pages in the slot that nobody needs.
    pub(crate) fn leave(&self, index: usize) {
        // Release: pairs with the acquires in `claim` and `empty`.
        self.0[index].store(OLD, Ordering::Release);
    }

    /// The owner leaves pages in the slot for the granule's way home.
    pub(crate) fn keep(&self, index: usize) {
        // Release: pairs with the acquire in `claim`.
        self.0[index].store(KEPT, Ordering::Release);
    }

    /// Empties all slots of old pages from `start` up to `end`: `empty_fn` gives back the pages of each run of
    /// neighbours.
    pub(crate) fn empty(&self, start: usize, end: usize, empty_fn: impl Fn(usize, usize)) {
        let mut at = start;
        while at < end {
            let mut run_end = at;
            while run_end < end
                && self.0[run_end]
                    .compare_exchange(OLD, LEAVING, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
            {
                run_end += 1;
            }
            if run_end > at {
                empty_fn(at, run_end);
                for slot in &self.0[at..run_end] {
                    slot.store(EMPTY, Ordering::Release);
                }
            }
            at = run_end + 1;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn old_slots_are_emptied_in_runs_and_claimed_and_kept_ones_are_left() {
        let slots = Slots::new(8);
        for index in [0, 1, 3, 4, 5, 7] {
            slots.leave(index);
        }
        slots.keep(6);
        assert_eq!(slots.claim(4), Content::Old);
        assert_eq!(slots.claim(4), Content::Nothing);
        let runs = RefCell::new(Vec::new());
        slots.empty(0, 7, |start, end| runs.borrow_mut().push((start, end)));
        assert_eq!(*runs.borrow(), [(0, 2), (3, 4), (5, 6)]);
        assert_eq!(slots.claim(0), Content::Nothing);
        assert_eq!(slots.claim(6), Content::Kept);
        assert_eq!(slots.claim(6), Content::Nothing);
        assert_eq!(slots.claim(7), Content::Old);
    }
}
