//! Which parts of a region must not move now, and which are moving.

use std::{
    ops::Range,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

/// The pins and the moves of one region, in bytes from its start.
///
/// A move passes over what is pinned; a pin waits until no move works on its range.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct State {
    pinned: Vec<Range<u64>>,
    moving: Vec<Range<u64>>,
}

/// A part of a range that is to move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Free(Range<u64>),
    Pinned(Range<u64>),
}

/// Keeps a range where it is.
#[derive(Debug)]
pub(crate) struct Pinned {
    pins: Arc<Pins>,
    range: Range<u64>,
}

/// Keeps pins away from the parts that are moving.
#[derive(Debug)]
pub(crate) struct Moving<'a> {
    pins: &'a Pins,
    range: Range<u64>,
    parts: Vec<Part>,
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

fn remove(ranges: &mut Vec<Range<u64>>, range: &Range<u64>) {
    if let Some(at) = ranges.iter().position(|found| found == range) {
        ranges.swap_remove(at);
    }
}

impl Pins {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panicked held it for one push or removal, which are whole or not done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pins a range, once nothing moves in it.
    pub(crate) fn pin(self: &Arc<Self>, range: Range<u64>) -> Pinned {
        let mut state = self.lock();
        while state.moving.iter().any(|moving| overlap(moving, &range)) {
            state = self
                .moved
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.pinned.push(range.clone());
        Pinned {
            pins: Arc::clone(self),
            range,
        }
    }

    /// Says which parts of a range may move, and keeps pins away from the range meanwhile.
    pub(crate) fn begin_move(&self, range: Range<u64>) -> Moving<'_> {
        let mut state = self.lock();
        let parts = split(&range, &state.pinned);
        state.moving.push(range.clone());
        Moving {
            pins: self,
            range,
            parts,
        }
    }
}

/// Cuts `range` at the borders of what is pinned.
fn split(range: &Range<u64>, pinned: &[Range<u64>]) -> Vec<Part> {
    let mut pinned: Vec<_> = pinned
        .iter()
        .filter(|pinned| overlap(pinned, range))
        .cloned()
        .collect();
    pinned.sort_by_key(|pinned| pinned.start);
    let mut parts = Vec::new();
    let mut at = range.start;
    for pin in pinned {
        let end = pin.end.min(range.end);
        if end <= at {
            continue;
        }
        if pin.start > at {
            parts.push(Part::Free(at..pin.start));
            at = pin.start;
        }
        parts.push(Part::Pinned(at..end));
        at = end;
    }
    if at < range.end {
        parts.push(Part::Free(at..range.end));
    }
    parts
}

impl Moving<'_> {
    /// The parts of the range, in order.
    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts
    }
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        remove(&mut self.pins.lock().moving, &self.range);
        self.pins.moved.notify_all();
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        remove(&mut self.pins.lock().pinned, &self.range);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn what_is_pinned_is_passed_over() {
        let pins = Arc::new(Pins::default());
        let first = pins.pin(0x2000..0x3000);
        let second = pins.pin(0x2000..0x5000);
        {
            let moving = pins.begin_move(0x1000..0x8000);
            assert_eq!(
                moving.parts(),
                [
                    Part::Free(0x1000..0x2000),
                    Part::Pinned(0x2000..0x3000),
                    Part::Pinned(0x3000..0x5000),
                    Part::Free(0x5000..0x8000)
                ]
            );
        }
        drop(second);
        assert_eq!(
            pins.begin_move(0x2000..0x4000).parts(),
            [Part::Pinned(0x2000..0x3000), Part::Free(0x3000..0x4000)]
        );
        drop(first);
        let moving = pins.begin_move(0x2000..0x4000);
        assert_eq!(moving.parts(), [Part::Free(0x2000..0x4000)]);
    }

    #[test]
    fn a_pin_waits_for_the_move_in_its_range_only() {
        let pins = Arc::new(Pins::default());
        let moving = pins.begin_move(0..0x2000);
        drop(pins.pin(0x2000..0x3000));
        let waiting = Arc::clone(&pins);
        let waiter = thread::spawn(move || waiting.pin(0x1000..0x3000));
        // Whenever the waiter comes, it finds the move or waits for its end: never a pin in a move.
        assert!(pins.lock().pinned.is_empty());
        drop(moving);
        let pinned = waiter.join().unwrap();
        assert_eq!(pins.lock().pinned, vec![0x1000..0x3000]);
        drop(pinned);
        assert!(pins.lock().pinned.is_empty() && pins.lock().moving.is_empty());
    }
}
