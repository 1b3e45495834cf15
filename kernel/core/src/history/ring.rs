// SPDX-License-Identifier: GPL-2.0
//! A ring of records that any context writes and nobody waits for.
//!
//! A record has a sequence number, which picks its slot. The slot's first word says whose it is: twice
//! the sequence number and 1 while the record is written, and 2 when it is whole. A writer that finds
//! another one in its slot, a whole ring behind or ahead, gives up: a record is lost then, as if it had
//! been overwritten at once.

use core::{
    array,
    ops::Deref,
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
        fence,
    },
};

/// Words of a record.
pub(super) const RECORD_WORDS: usize = 6;
/// Words of a slot: whose it is, and the record.
const SLOT_WORDS: usize = RECORD_WORDS + 1;

/// A record's words.
pub(super) type Words = [u64; RECORD_WORDS];

/// What a reader finds under a sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The record.
    Record(Words),
    /// It is being written.
    Unfinished,
    /// It was overwritten, or lost.
    Gone,
}

/// The ring.
#[derive(Debug)]
pub(super) struct Ring<W> {
    words: W,
    nr_slots: u64,
    /// The sequence number of the next record.
    next: AtomicU64,
}

/// Words of a ring of `nr_slots` slots, all zeros.
pub(super) fn words_needed(nr_slots: u64) -> usize {
    usize::try_from(nr_slots)
        .unwrap_or(usize::MAX)
        .saturating_mul(SLOT_WORDS)
}

impl<W: Deref<Target = [AtomicU64]>> Ring<W> {
    /// An empty ring; `words` are as [`words_needed`] says.
    pub(super) const fn new(words: W, nr_slots: u64) -> Self {
        Self {
            words,
            nr_slots,
            next: AtomicU64::new(0),
        }
    }

    /// The sequence number of the next record.
    pub(super) fn next(&self) -> u64 {
        self.next.load(Relaxed)
    }

    /// The oldest sequence number that has not been overwritten.
    pub(super) fn oldest(&self) -> u64 {
        self.next().saturating_sub(self.nr_slots)
    }

    /// Writes a record; its sequence number, or `None` when it was lost.
    ///
    /// **Context:** any, hard interrupts included; never waits.
    pub(super) fn push(&self, record: Words) -> Option<u64> {
        let sequence = self.next.fetch_add(1, Relaxed);
        let (state, words) = self.slot(sequence)?;
        let whole = whole(sequence);
        let writing = whole.saturating_sub(1);
        let before = state.load(Relaxed);
        if before % 2 == 1 || before > writing {
            return None;
        }
        // Acquire: pairs with the release of the record that is overwritten, whose words come before ours.
        state
            .compare_exchange(before, writing, Acquire, Relaxed)
            .ok()?;
        // Pairs with the reader's fence: whoever sees a word of ours sees then that the slot is ours.
        fence(Release);
        for (word, value) in words.iter().zip(record) {
            word.store(value, Relaxed);
        }
        // Release: pairs with the reader's first load.
        state.store(whole, Release);
        Some(sequence)
    }

    /// Reads the record with this sequence number.
    pub(super) fn read(&self, sequence: u64) -> Found {
        let Some((state, words)) = self.slot(sequence) else {
            return Found::Gone;
        };
        let whole = whole(sequence);
        // Acquire: pairs with the writer's last store.
        let before = state.load(Acquire);
        if before < whole {
            // A writer that gave up leaves its number unwritten; it is passed over once others have gone
            // half a ring ahead.
            let nr_ahead = self.next().saturating_sub(sequence);
            return if nr_ahead > self.nr_slots / 2 {
                Found::Gone
            } else {
                Found::Unfinished
            };
        }
        let record = array::from_fn(|index| words.get(index).map_or(0, |word| word.load(Relaxed)));
        // Pairs with the writer's fence.
        fence(Acquire);
        if before == whole && state.load(Relaxed) == whole {
            Found::Record(record)
        } else {
            Found::Gone
        }
    }

    /// The slot of a sequence number, below the number of slots.
    pub(super) fn slot_of(&self, sequence: u64) -> u64 {
        sequence.checked_rem(self.nr_slots).unwrap_or(0)
    }

    /// Reads the record that a slot has now.
    pub(super) fn read_slot(&self, slot: u64) -> Found {
        let state = self.slot(slot).map_or(0, |(state, _)| state.load(Relaxed));
        match state {
            0 => Found::Gone,
            state if state % 2 == 1 => Found::Unfinished,
            whole => self.read((whole / 2).saturating_sub(1)),
        }
    }

    fn slot(&self, sequence: u64) -> Option<(&AtomicU64, &[AtomicU64])> {
        let slot = usize::try_from(sequence.checked_rem(self.nr_slots)?).ok()?;
        let start = slot.checked_mul(SLOT_WORDS)?;
        self.words
            .get(start..start.checked_add(SLOT_WORDS)?)?
            .split_first()
    }
}

/// What the first word of a slot is when this record is whole.
const fn whole(sequence: u64) -> u64 {
    sequence.saturating_mul(2).saturating_add(2)
}

#[cfg(test)]
mod tests;
