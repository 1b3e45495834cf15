//! Collections whose memory is on the device.

use std::thread;

use allocator_api2::{boxed::Box, vec::Vec};
use cohmem::{ByteCount, Direction, Heap, MigrateOptions, Tier};
use hashbrown::{DefaultHashBuilder, HashMap};

use crate::{
    Test,
    subject::{ON_DEVICE, Subject},
};

pub(crate) const TESTS: &[Test] = &[
    ("a_vector_lives_on_the_device_and_moves", vector),
    ("a_map_is_used_while_it_moves", map),
    ("freed_blocks_are_used_again", reuse),
    ("a_full_heap_refuses_and_keeps_what_it_has", full),
    ("a_heap_lives_as_long_as_what_is_in_it", lifetime),
];

fn heap(subject: &Subject) -> Heap {
    subject
        .pool
        .heap(subject.size(), &ON_DEVICE)
        .expect("a heap")
}

fn vector(subject: &Subject) {
    let heap = heap(subject);
    let mut numbers = Vec::new_in(heap.clone());
    numbers.extend(0..40_000_u64);
    let first = numbers.as_ptr();
    let span = numbers.as_ptr_range();
    let range = heap.range();
    assert!(
        span.start.addr() as u64 >= range.start().get()
            && span.end.addr() as u64 <= range.end().get(),
        "it is in the heap"
    );
    let map = heap.query().expect("a map");
    assert_eq!(map.count(Tier::Device), range.nr_pages());
    for direction in [Direction::ToSystem, Direction::ToDevice] {
        heap.migrate(direction).expect("a migration");
        assert!(numbers.iter().copied().eq(0..40_000));
    }
    assert_eq!(numbers.as_ptr(), first);
}

fn map(subject: &Subject) {
    let heap = heap(subject);
    let mover = heap.mover();
    let nr_rounds = subject.nr_rounds();
    thread::scope(|scope| {
        let migrating = scope.spawn(move || {
            for _round in 0..nr_rounds {
                for direction in [Direction::ToSystem, Direction::ToDevice] {
                    let options = MigrateOptions::default();
                    let migrated = mover.migrate(mover.range(), direction, &options);
                    let migrated = migrated.expect("a migration");
                    assert_eq!(migrated.done(), migrated.total, "{migrated:?}");
                }
            }
        });
        let mut squares = HashMap::with_hasher_in(DefaultHashBuilder::default(), heap.clone());
        let mut round = 0_u64;
        while round < 3 || !migrating.is_finished() {
            for key in 0..4000_u64 {
                squares.insert(key, key * key + round);
            }
            for key in (0..4000).step_by(3) {
                assert_eq!(squares.remove(&key), Some(key * key + round));
            }
            for (key, value) in &squares {
                assert_eq!(*value, key * key + round);
            }
            round += 1;
        }
        migrating.join().expect("all moved, all the time");
    });
}

fn reuse(subject: &Subject) {
    let heap = heap(subject);
    let free = heap.free();
    for round in 0..2000_u64 {
        // More in all than the heap has.
        let block = Box::new_in([round; 512], heap.clone());
        assert_eq!(block[511], round);
        assert!(heap.free() < free);
    }
    assert_eq!(heap.free(), free);
}

fn full(subject: &Subject) {
    let heap = heap(subject);
    let mut numbers: Vec<u64, Heap> = Vec::new_in(heap.clone());
    numbers.extend(0..1000);
    let free = heap.free();
    let too_many = usize::try_from(heap.range().length().get() / 8).expect("small");
    assert!(numbers.try_reserve(too_many).is_err());
    assert!(numbers.try_reserve(usize::MAX / 16).is_err());
    assert_eq!(heap.free(), free);
    assert!(numbers.iter().copied().eq(0..1000));
    drop(numbers);
    assert_eq!(heap.free(), ByteCount::new(heap.range().length().get()));
}

fn lifetime(subject: &Subject) {
    let before = subject.free();
    let heap = heap(subject);
    let mut numbers = Vec::new_in(heap.clone());
    drop(heap);
    numbers.extend(0..1000_u64);
    assert_eq!(numbers.iter().sum::<u64>(), 499_500);
    drop(numbers);
    subject.assert_free(before);
}
