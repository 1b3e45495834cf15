//! A region without its owner: what threads of the engine share.

use std::{
    ops::{ControlFlow, Range},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use cohmem_uapi::Reason;

use crate::{
    Granule, MemoryType, Migrated, RegionOptions,
    host::{Slot, Span},
    kernel::{Hole, Memory, Stop},
    pool::{Pool, Shortage, Taken},
    protocol::{hole, stop},
    stats::Counters,
    sys::signals::BlockedSignals,
    word::{Held, Pins, Place, Word},
};

/// Bytes moved with signals blocked, at most, unless one granule is larger.
const UNINTERRUPTED_BYTES: usize = 256 << 10;
/// System pages that have left are given back in parts of this size.
const GIVE_BACK_BYTES: usize = 2 << 20;

/// How granules of a region move.
#[derive(Debug)]
pub(crate) enum Mechanism {
    Hole(Hole),
    Stop(Stop),
    /// They do not.
    Fixed(Memory),
}

/// Why a granule comes home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Request,
    Touch,
}

impl Mechanism {
    pub(crate) const fn memory(&self) -> &Memory {
        match self {
            Self::Hole(hole) => &hole.memory,
            Self::Stop(stop) => &stop.memory,
            Self::Fixed(memory) => memory,
        }
    }
}

/// What threads of the engine share of a region.
///
/// # Lock order
///
/// Words of granules in ascending order, all but the first only tried; then the lock of moving mappings
/// (`Hole`); then the gate of `fork`. A thread that holds a word's lock never touches the region.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) mechanism: Mechanism,
    pub(crate) words: Arc<[Word]>,
    /// Where a granule's device memory is; meaningful while it is on the device, and changed by who
    /// holds its lock.
    slots: Box<[AtomicUsize]>,
    pub(crate) memory_type: MemoryType,
    pub(crate) granule: Granule,
    /// Granules that move in one stop.
    nr_together: usize,
    pub(crate) counters: Counters,
    pub(crate) is_closed: AtomicBool,
}

impl Inner {
    pub(crate) fn new(mechanism: Mechanism, words: Arc<[Word]>, options: &RegionOptions) -> Self {
        let slots = words.iter().map(|_| AtomicUsize::new(0)).collect();
        Self {
            mechanism,
            words,
            slots,
            memory_type: options.memory_type,
            granule: options.granule,
            nr_together: options.granules_per_stop(),
            counters: Counters::default(),
            is_closed: AtomicBool::new(false),
        }
    }

    pub(crate) fn nr_granules(&self) -> usize {
        self.words.len()
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.mechanism.memory().pool
    }

    pub(crate) const fn hole(&self) -> Option<&Hole> {
        match &self.mechanism {
            Mechanism::Hole(hole) => Some(hole),
            Mechanism::Stop(_) | Mechanism::Fixed(_) => None,
        }
    }

    fn span_of(&self, granules: Range<usize>) -> Span {
        Span {
            start: granules.start * self.granule.bytes(),
            length: granules.len() * self.granule.bytes(),
        }
    }

    /// Notes that a granule's device memory is at `slot`. The caller holds its lock.
    pub(crate) fn set_slot(&self, index: usize, slot: Slot) {
        // Relaxed: the word's lock orders it.
        self.slots[index].store(slot, Ordering::Relaxed);
    }

    fn slot(&self, index: usize) -> Slot {
        self.slots[index].load(Ordering::Relaxed)
    }

    /// Moves granules, in order, until the end or until `step_fn`, which is told how far it is, breaks.
    pub(crate) fn migrate(
        &self,
        granules: Range<usize>,
        to: Place,
        step_fn: &mut dyn FnMut(&Migrated) -> ControlFlow<()>,
    ) -> Migrated {
        let mut migrated = Migrated {
            total: granules.len() as u64 * self.granule.nr_pages(),
            ..Migrated::default()
        };
        let mut at = granules.start;
        let mut given_back = at;
        while at < granules.end && !self.is_closed.load(Ordering::Relaxed) {
            let mut nr_left = (UNINTERRUPTED_BYTES / self.granule.bytes()).max(1);
            let blocked = BlockedSignals::new();
            while at < granules.end && nr_left > 0 {
                let nr_done = self.step(at..granules.end, to, &mut migrated);
                at += nr_done;
                nr_left = nr_left.saturating_sub(nr_done);
            }
            drop(blocked);
            if (at - given_back) * self.granule.bytes() >= GIVE_BACK_BYTES {
                self.give_back(given_back..at, to);
                given_back = at;
            }
            if step_fn(&migrated).is_break() {
                break;
            }
        }
        self.give_back(given_back..at, to);
        self.counters.add_stayed(&migrated.stayed);
        migrated
    }

    /// Gives system pages back that left these granules.
    fn give_back(&self, granules: Range<usize>, to: Place) {
        if let (Some(hole), Place::Device) = (self.hole(), to) {
            hole.give_back(self.span_of(granules));
        }
    }

    /// Deals with the first granule of a range, and those behind it that move in the same stop; says
    /// how many that were.
    fn step(&self, granules: Range<usize>, to: Place, migrated: &mut Migrated) -> usize {
        let first = granules.start;
        let mut stay = |reason| migrated.stayed.add(reason, self.granule.nr_pages());
        if matches!(self.mechanism, Mechanism::Fixed(_)) {
            stay(match to {
                Place::Device => Reason::AlreadyThere,
                Place::System => Reason::Special,
            });
            return 1;
        }
        match self.words[first].lock(Pins::Heeded) {
            None => {
                stay(Reason::Pinned);
                return 1;
            }
            Some(place) if place == to => {
                self.words[first].unlock(place);
                stay(Reason::AlreadyThere);
                return 1;
            }
            Some(_) => {}
        }
        let most = granules.end.min(first.saturating_add(self.nr_together));
        let mut end = first + 1;
        while end < most && self.join(end, to) {
            end += 1;
        }
        let together = first..end;
        let outcome = match to {
            Place::Device => self.send_out(together),
            Place::System => self.take_home(together, Cause::Request),
        };
        match outcome {
            Ok(nr_moved) => {
                migrated.moved += nr_moved as u64 * self.granule.nr_pages();
                nr_moved
            }
            Err((reason, nr_stayed)) => {
                migrated
                    .stayed
                    .add(reason, nr_stayed as u64 * self.granule.nr_pages());
                nr_stayed
            }
        }
    }

    /// Locks a granule that can move together with the one before it, which is locked.
    fn join(&self, index: usize, to: Place) -> bool {
        match self.words[index].try_lock(Pins::Heeded) {
            Err(Held::Locked | Held::Pinned) => false,
            Ok(place) if place == to => {
                self.words[index].unlock(place);
                false
            }
            Ok(Place::System) => true,
            // On the device, it must lie behind the one before.
            Ok(Place::Device) => {
                let is_next = self.slot(index) == self.slot(index - 1) + self.granule.bytes();
                if !is_next {
                    self.words[index].unlock(Place::Device);
                }
                is_next
            }
        }
    }

    fn unlock(&self, granules: Range<usize>, place: Place) {
        for word in &self.words[granules] {
            word.unlock(place);
        }
    }

    /// Moves locked granules out and unlocks them; how many moved, or why how many stayed. Granules
    /// behind those are as they were.
    fn send_out(&self, granules: Range<usize>) -> Result<usize, (Reason, usize)> {
        let taken = match self.pool().take(granules.len(), self.granule) {
            Ok(taken) => taken,
            Err(shortage) => {
                self.unlock(granules, Place::System);
                let reason = match shortage {
                    Shortage::NoFrame => Reason::NoFrame,
                    Shortage::NoMemory => Reason::NoMemory,
                };
                return Err((reason, 1));
            }
        };
        let Taken { slot, nr_granules } = taken;
        let middle = granules.start + nr_granules;
        self.unlock(middle..granules.end, Place::System);
        let result = self.hand_over(granules.start..middle, slot, Place::Device);
        // One of several is to blame: the first is tried alone.
        if result.is_err() && nr_granules > 1 {
            self.pool().give_back(
                slot + self.granule.bytes(),
                (nr_granules - 1) * self.granule.bytes(),
            );
            self.unlock(granules.start + 1..middle, Place::System);
            return self.finish_out(granules.start..granules.start + 1, slot, None);
        }
        self.finish_out(granules.start..middle, slot, Some(result))
    }

    fn finish_out(
        &self,
        granules: Range<usize>,
        slot: Slot,
        result: Option<Result<(), Reason>>,
    ) -> Result<usize, (Reason, usize)> {
        let result =
            result.unwrap_or_else(|| self.hand_over(granules.clone(), slot, Place::Device));
        let nr_granules = granules.len();
        if let Err(reason) = result {
            self.pool()
                .give_back(slot, nr_granules * self.granule.bytes());
            self.unlock(granules, Place::System);
            return Err((reason, nr_granules));
        }
        if let Some(hole) = self.hole() {
            hole.leave(self.span_of(granules.clone()));
        }
        for (nr_before, index) in granules.clone().enumerate() {
            self.set_slot(index, slot + nr_before * self.granule.bytes());
        }
        self.unlock(granules, Place::Device);
        Ok(nr_granules)
    }

    /// Moves locked granules home and unlocks them; as [`Self::send_out`].
    fn take_home(&self, granules: Range<usize>, cause: Cause) -> Result<usize, (Reason, usize)> {
        let slot = self.slot(granules.start);
        let nr_granules = granules.len();
        match self.hand_over(granules.clone(), slot, Place::System) {
            Ok(()) => {
                // Before the granules are let go: who looks at them next sees all of it done.
                self.pool()
                    .give_back(slot, nr_granules * self.granule.bytes());
                if cause == Cause::Touch {
                    self.counters.add_touched();
                }
                self.unlock(granules, Place::System);
                Ok(nr_granules)
            }
            Err(reason) => {
                self.unlock(granules, Place::Device);
                Err((reason, nr_granules))
            }
        }
    }

    fn hand_over(&self, granules: Range<usize>, slot: Slot, to: Place) -> Result<(), Reason> {
        let span = self.span_of(granules);
        let start = Instant::now();
        let is_private = self.memory_type == MemoryType::Private;
        let result = match (&self.mechanism, to) {
            (Mechanism::Hole(host), Place::Device) if is_private => {
                hole::to_private(host, span, slot)
            }
            (Mechanism::Hole(host), Place::Device) => hole::to_device(host, span, slot),
            (Mechanism::Hole(host), Place::System) if is_private => {
                hole::from_private(host, span, slot)
            }
            (Mechanism::Hole(host), Place::System) => hole::to_system(host, span, slot),
            (Mechanism::Stop(host), Place::Device) => stop::to_device(host, span, slot),
            (Mechanism::Stop(host), Place::System) => stop::to_system(host, span, slot),
            (Mechanism::Fixed(_), _) => Err(Reason::Special),
        };
        let nr_pages = span.length as u64 / cohmem_uapi::FRAME_BYTES;
        self.counters.add_stop(
            start.elapsed(),
            to,
            if result.is_ok() { nr_pages } else { 0 },
        );
        result
    }

    /// Brings a private granule home that was touched, or wakes who touched it if it is there.
    pub(crate) fn bring_home(&self, index: usize) -> Result<(), Reason> {
        let Some(hole) = self.hole() else {
            return Ok(());
        };
        match self.words[index].lock(Pins::Ignored) {
            Some(Place::Device) => self
                .take_home(index..index + 1, Cause::Touch)
                .map(drop)
                .map_err(|(reason, _)| reason),
            Some(Place::System) => {
                crate::host::HoleHost::wake(hole, self.span_of(index..index + 1));
                self.words[index].unlock(Place::System);
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for (index, word) in self.words.iter().enumerate() {
            if word.place() == Place::Device {
                self.pool()
                    .give_back(self.slot(index), self.granule.bytes());
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
