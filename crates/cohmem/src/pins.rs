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

    /// Pins a range, and waits until nothing moves in it any more. What begins to move from now on
    /// passes over it, so that the wait has an end.
    pub(crate) fn pin(self: &Arc<Self>, range: Range<u64>) -> Pinned {
        let mut state = self.lock();
        state.pinned.push(range.clone());
        while state.moving.iter().any(|moving| overlap(moving, &range)) {
            state = self
                .moved
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        Pinned {
            pins: Arc::clone(self),
            range,
        }
    }

    /// Says which parts of a range may move, and keeps pins away from the range meanwhile.
    pub(crate) fn begin_move(&self, range: Range<u64>) -> Moving<'_> {
        let mut state = self.lock();
        let parts = split(&range, &state.pinned);
        state.moving.extend(free(&parts).cloned());
        Moving { pins: self, parts }
    }
}

/// What moves of the parts.
fn free(parts: &[Part]) -> impl Iterator<Item = &Range<u64>> {
    parts.iter().filter_map(|part| match part {
        Part::Free(range) => Some(range),
        Part::Pinned(_) => None,
    })
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
        let mut state = self.pins.lock();
        for part in free(&self.parts) {
            remove(&mut state.moving, part);
        }
        drop(state);
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
        let waiter = thread::spawn(move || {
            let pinned = waiting.pin(0x1000..0x3000);
            // The later move, which passes over the pin, is the only one left.
            assert_eq!(waiting.lock().moving, vec![0x3000..0x4000], "it waited");
            pinned
        });
        while pins.lock().pinned.is_empty() {
            thread::yield_now();
        }
        // What begins while it waits passes over its range.
        let later = pins.begin_move(0x2000..0x4000);
        let parts = [Part::Pinned(0x2000..0x3000), Part::Free(0x3000..0x4000)];
        assert_eq!(later.parts(), parts);
        drop(moving);
        drop(waiter.join().unwrap());
        assert!(pins.lock().pinned.is_empty());
        drop(later);
        assert!(pins.lock().moving.is_empty());
    }
}
