//! Which parts of a heap are free: first fit, neighbours joined.

use std::{alloc::Layout, collections::BTreeMap, num::NonZeroUsize, ops::Range};

/// The free parts of `0..capacity`.
///
/// The bookkeeping is in ordinary memory: it must not move with what it describes.
///
/// # Invariants
///
/// Parts do not overlap, do not touch, and are not empty.
#[derive(Debug)]
pub(crate) struct Blocks {
    /// Start and end of each.
    free: BTreeMap<usize, usize>,
    nr_free: usize,
}

/// Blocks start at multiples of this, and hold whole ones: small rests would never be used again.
const QUANTUM: usize = 16;

/// Bytes that a block of `layout` takes, if that is possible at all.
fn block_bytes(layout: Layout) -> Option<NonZeroUsize> {
    NonZeroUsize::new(layout.size().max(1).checked_next_multiple_of(QUANTUM)?)
}

impl Blocks {
    /// All of `0..capacity`, whose start has every alignment up to a page.
    pub(crate) fn new(capacity: usize) -> Self {
        let capacity = capacity / QUANTUM * QUANTUM;
        let free = (capacity > 0).then_some((0, capacity));
        Self {
            free: free.into_iter().collect(),
            nr_free: capacity,
        }
    }

    /// Bytes that are free, in parts.
    pub(crate) const fn nr_free(&self) -> usize {
        self.nr_free
    }

    /// Takes a block out of the lowest part that has room.
    pub(crate) fn take(&mut self, layout: Layout) -> Option<Range<usize>> {
        let bytes = block_bytes(layout)?.get();
        let align = layout.align().max(QUANTUM);
        let (start, end, at) = self.free.iter().find_map(|(&start, &end)| {
            let at = start.checked_next_multiple_of(align)?;
            (at.checked_add(bytes)? <= end).then_some((start, end, at))
        })?;
        self.free.remove(&start);
        if start < at {
            self.free.insert(start, at);
        }
        if at + bytes < end {
            self.free.insert(at + bytes, end);
        }
        self.nr_free -= bytes;
        Some(at..at + bytes)
    }

    /// Gives back the block at `start` that was taken for `layout`.
    ///
    /// # Panics
    ///
    /// It is free already, in part or whole: it was not taken, or not for this layout.
    pub(crate) fn give(&mut self, start: usize, layout: Layout) {
        let bytes = block_bytes(layout).map_or(0, NonZeroUsize::get);
        let (mut start, mut end) = (start, start + bytes);
        let before = self.free.range(..=start).next_back();
        let before = before.map(|(&from, &to)| (from, to));
        let after = self.free.range(start + 1..).next();
        let after = after.map(|(&from, &to)| (from, to));
        assert!(
            before.is_none_or(|(_, to)| to <= start) && after.is_none_or(|(from, _)| end <= from),
            "the block {start}..{end} is in use"
        );
        self.nr_free += bytes;
        if let Some((from, to)) = before
            && to == start
        {
            self.free.remove(&from);
            start = from;
        }
        if let Some((from, to)) = after
            && from == end
        {
            self.free.remove(&from);
            end = to;
        }
        self.free.insert(start, end);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn freed_blocks_are_used_again_and_joined() {
        let mut blocks = Blocks::new(4096);
        let taken: Vec<_> = (0..4)
            .map(|_| blocks.take(layout(1024, 8)).unwrap())
            .collect();
        assert_eq!(blocks.take(layout(1, 1)), None);
        blocks.give(taken[1].start, layout(1024, 8));
        assert_eq!(blocks.take(layout(1000, 8)), Some(1024..2032));
        blocks.give(1024, layout(1000, 8));
        blocks.give(taken[0].start, layout(1024, 8));
        blocks.give(taken[2].start, layout(1024, 8));
        blocks.give(taken[3].start, layout(1024, 8));
        assert_eq!(blocks.take(layout(4096, 4096)), Some(0..4096));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        let mut blocks = Blocks::new(1 << 20);
        for refused in [layout((1 << 20) + 1, 1), layout(1 << 40, 8)] {
            assert_eq!(blocks.take(refused), None);
        }
        assert_eq!(blocks.nr_free(), 1 << 20);
    }

    #[test]
    #[should_panic(expected = "is in use")]
    fn a_block_is_given_back_once() {
        let mut blocks = Blocks::new(4096);
        let taken = blocks.take(layout(64, 8)).unwrap();
        blocks.give(taken.start, layout(64, 8));
        blocks.give(taken.start, layout(64, 8));
    }

    proptest! {
        #[test]
        fn blocks_never_overlap_and_all_come_back(
            steps in prop::collection::vec((1_usize..3000, 0_u32..8, any::<prop::sample::Index>()), 1..200)
        ) {
            let mut blocks = Blocks::new(1 << 16);
            let mut held: Vec<(Range<usize>, Layout)> = Vec::new();
            for (size, align, which) in steps {
                if which.index(3) == 0 && !held.is_empty() {
                    let (range, layout) = held.swap_remove(which.index(held.len()));
                    blocks.give(range.start, layout);
                } else if let Some(range) = blocks.take(layout(size, 1 << align)) {
                    prop_assert!(range.end <= 1 << 16 && range.len() >= size);
                    prop_assert_eq!(range.start % (1 << align), 0);
                    let is_apart = |(other, _): &(Range<usize>, Layout)| {
                        range.end <= other.start || other.end <= range.start
                    };
                    prop_assert!(held.iter().all(is_apart));
                    held.push((range, layout(size, 1 << align)));
                }
            }
            for (range, layout) in held {
                blocks.give(range.start, layout);
            }
            prop_assert_eq!(blocks.nr_free(), 1 << 16);
            prop_assert_eq!(blocks.free.len(), 1);
        }
    }
}
