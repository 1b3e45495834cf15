// SPDX-License-Identifier: GPL-2.0
//! Tests of the module above.

use core::sync::atomic::AtomicBool;
use std::{boxed::Box, collections::VecDeque, thread, vec::Vec};

use super::*;

fn ring(nr_slots: u64) -> Ring<Box<[AtomicU64]>> {
    let words = (0..words_needed(nr_slots)).map(|_| AtomicU64::new(0));
    Ring::new(words.collect(), nr_slots)
}

/// A record all of whose words tell of it.
fn record(value: u64) -> Words {
    let first = value.saturating_mul(10);
    array::from_fn(|index| first.saturating_add(index as u64))
}

#[test]
fn the_newest_records_are_kept_in_their_order() {
    for nr_slots in [1, 2, 3, 7] {
        let ring = ring(nr_slots);
        let mut model = VecDeque::new();
        for sequence in 0..40 {
            assert_eq!(ring.read(sequence), Found::Unfinished);
            assert_eq!(ring.push(record(sequence)), Some(sequence));
            model.push_back(sequence);
            if model.len() as u64 > nr_slots {
                let gone = model.pop_front().unwrap();
                assert_eq!(ring.read(gone), Found::Gone, "{gone} of {nr_slots}");
            }
            assert_eq!(ring.oldest(), model[0]);
            assert_eq!(ring.next(), sequence + 1);
            for &kept in &model {
                assert_eq!(ring.read(kept), Found::Record(record(kept)));
            }
        }
    }
}

#[test]
fn a_writer_that_finds_another_in_its_slot_loses_its_record() {
    let ring = ring(4);
    for sequence in 0..4 {
        ring.push(record(sequence)).unwrap();
    }
    // A writer of number 5 that was stopped at its work.
    let (state, _words) = ring.slot(5).unwrap();
    state.store(whole(5) - 1, Relaxed);
    assert_eq!(ring.read(1), Found::Gone);
    assert_eq!(ring.push(record(4)), Some(4));
    assert_eq!(ring.push(record(5)), None);
    // Read once the others are half a ring ahead.
    assert_eq!(ring.read(5), Found::Unfinished);
    assert_eq!(ring.push(record(6)), Some(6));
    assert_eq!(ring.read(5), Found::Unfinished);
    assert_eq!(ring.push(record(7)), Some(7));
    assert_eq!(ring.read(5), Found::Gone);
    assert_eq!(ring.read(7), Found::Record(record(7)));
    // One that comes late leaves the newer record alone.
    state.store(whole(13), Relaxed);
    assert_eq!(ring.push(record(8)), Some(8));
    assert_eq!(ring.push(record(9)), None);
    assert_eq!(state.load(Relaxed), whole(13));
}

#[test]
fn a_reader_beside_writers_gets_whole_records_only() {
    const NR_WRITERS: u64 = 3;
    const NR_EACH: u64 = 20_000;
    let ring = ring(8);
    let is_over = AtomicBool::new(false);
    let (ring, is_over) = (&ring, &is_over);
    thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut nr_read = 0u64;
            let mut at = 0;
            // The last round is after the last record.
            while !is_over.load(Acquire) || at < ring.next() {
                at = at.max(ring.oldest());
                match ring.read(at) {
                    Found::Record(words) => {
                        assert_eq!(words, record(words[0] / 10), "a torn record");
                        nr_read += 1;
                        at += 1;
                    }
                    Found::Gone => at += 1,
                    // The number of a lost record may be the last one.
                    Found::Unfinished if is_over.load(Acquire) => at += 1,
                    Found::Unfinished => thread::yield_now(),
                }
            }
            nr_read
        });
        let writers: Vec<_> = (0..NR_WRITERS)
            .map(|writer| {
                scope.spawn(move || {
                    for index in 0..NR_EACH {
                        ring.push(record(writer * NR_EACH + index));
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        is_over.store(true, Release);
        assert!(reader.join().unwrap() > 0, "nothing was read");
    });
    assert_eq!(ring.next(), NR_WRITERS * NR_EACH);
}
