//! C1, C2: content is whole and pointers hold while pages move under those who use them.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
};

use cohmem_uapi::Direction;

use crate::{
    Test,
    driver::{Device, knob, named},
    sys::{
        memory::{Memory, PAGE},
        process::{Child, Ended, Steps},
    },
};

pub(crate) const TESTS: &[Test] = &[
    ("round_trips_under_writers", round_trips_under_writers),
    (
        "another_process_moves_while_it_writes",
        another_process_moves_while_it_writes,
    ),
    (
        "huge_pages_move_and_come_home",
        huge_pages_move_and_come_home,
    ),
    ("two_devices_exchange_pages", two_devices_exchange_pages),
    (
        "metadata_on_the_device_works_as_well",
        metadata_on_the_device_works_as_well,
    ),
];

/// A reproducible random word.
fn scramble(index: usize) -> u64 {
    let mut word = (index as u64).wrapping_add(0x9E37_79B9_7F4A_7C15);
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

const NR_WRITERS: usize = 2;
/// Words of a page that writers share by `fetch_add`; the rest of the page is constant.
const COUNTER_WORD: usize = 1;
/// First of the words that belong to one writer each.
const OWNED_WORD: usize = 2;
const PAGE_WORDS: usize = PAGE / 8;

fn is_constant(index: usize) -> bool {
    let word = index % PAGE_WORDS;
    word == 0 || word >= OWNED_WORD + NR_WRITERS
}

/// Writes until told to stop: counts on every page, and stores rising values in words of its own.
/// Returns how often it counted on each page.
fn write_until(memory: &Memory, writer: usize, stop: &AtomicBool) -> Vec<u64> {
    let nr_pages = memory.words().len() / PAGE_WORDS;
    let mut counts = vec![0u64; nr_pages];
    let mut round = 0u64;
    while !stop.load(Relaxed) {
        round += 1;
        for (page, count) in counts.iter_mut().enumerate() {
            // Pages in an order that differs between the writers.
            let page_words = &memory.words()[page * PAGE_WORDS..];
            page_words[COUNTER_WORD].fetch_add(1, Relaxed);
            *count += 1;
            let own = &page_words[OWNED_WORD + writer];
            let last = own.swap(round, Relaxed);
            assert_eq!(
                last,
                round - 1,
                "page {page}: the last store of writer {writer}"
            );
        }
    }
    counts
}

/// Moves `memory` to and fro while writers use it; every word is checked at the end.
fn shuttle(memory: &Memory, device: &Device, nr_rounds: u64) {
    memory.fill(|index| {
        if is_constant(index) {
            scramble(index)
        } else {
            0
        }
    });
    let stop = AtomicBool::new(false);
    let nr_moved = AtomicU64::new(0);
    let totals = thread::scope(|scope| {
        let writers: Vec<_> = (0..NR_WRITERS)
            .map(|writer| {
                let stop = &stop;
                scope.spawn(move || write_until(memory, writer, stop))
            })
            .collect();
        for _round in 0..nr_rounds {
            nr_moved.fetch_add(device.take(memory).moved, Relaxed);
            nr_moved.fetch_add(device.give(memory).moved, Relaxed);
        }
        stop.store(true, Relaxed);
        writers
            .into_iter()
            .map(|writer| writer.join().expect("a writer"))
            .collect::<Vec<_>>()
    });
    // Pages that a writer holds for a moment may stay once; nearly all must have moved each time.
    let wanted = nr_rounds * 2 * memory.nr_pages();
    assert!(
        nr_moved.load(Relaxed) * 100 >= wanted * 95,
        "{nr_moved:?} of {wanted} pages moved"
    );
    for (index, word) in memory.words().iter().enumerate() {
        let page = index / PAGE_WORDS;
        if is_constant(index) {
            assert_eq!(word.load(Relaxed), scramble(index), "word {index}");
        } else if index % PAGE_WORDS == COUNTER_WORD {
            let total: u64 = totals.iter().map(|counts| counts[page]).sum();
            assert_eq!(word.load(Relaxed), total, "counter of page {page}");
        }
    }
}

fn round_trips_under_writers() {
    let device = Device::attach(0);
    let bytes = usize::try_from(knob("SIZE_MIB", 64) << 20).expect("fits");
    let memory = Memory::anonymous(bytes);
    shuttle(&memory, &device, knob("ROUNDS", 50));
    drop(memory);
    device.detach();
}

fn another_process_moves_while_it_writes() {
    let device = Device::attach(0);
    let memory = Memory::anonymous(16 << 20);
    let children: Vec<Child> = (0..2)
        .map(|_child| {
            Child::start(|steps: &mut Steps| {
                memory.fill(|index| {
                    if is_constant(index) {
                        scramble(index)
                    } else {
                        0
                    }
                });
                let stop = AtomicBool::new(false);
                thread::scope(|scope| {
                    let writer = scope.spawn(|| write_until(&memory, 0, &stop));
                    steps.done();
                    stop.store(true, Relaxed);
                    let counts = writer.join().expect("the writer");
                    for (page, &count) in counts.iter().enumerate() {
                        let word = &memory.words()[page * PAGE_WORDS + COUNTER_WORD];
                        assert_eq!(word.load(Relaxed), count, "counter of page {page}");
                    }
                });
                for (index, word) in memory.words().iter().enumerate() {
                    assert!(
                        !is_constant(index) || word.load(Relaxed) == scramble(index),
                        "word {index}"
                    );
                }
            })
        })
        .collect();
    let mut children = children;
    children.iter_mut().for_each(Child::wait_step);
    let mut nr_moved = 0;
    let nr_rounds = knob("ROUNDS", 10);
    for _round in 0..nr_rounds {
        for direction in [Direction::ToDevice, Direction::ToSystem] {
            for child in &children {
                let migrated = device.migrate_process(child.pid(), &memory, direction, 0);
                nr_moved += migrated.expect("another process's pages").moved;
            }
        }
    }
    // At least half of all: a writer may hold a page just then.
    assert!(
        nr_moved > memory.nr_pages() * nr_rounds * 2,
        "{nr_moved} pages moved"
    );
    for mut child in children {
        child.go_on();
        assert_eq!(child.join(), Ended::Status(0));
    }
    assert_eq!(device.allocated(), 0);
    device.detach();
}

fn huge_pages_move_and_come_home() {
    let device = Device::attach(0);
    let memory = Memory::huge(16 << 20);
    device.take_all(&memory);
    memory.expect(|index| index as u64);
    device.give_all(&memory);
    memory.expect(|index| index as u64);
}

fn two_devices_exchange_pages() {
    let (first, second) = (
        Device::attach_part(0, 64 << 20),
        Device::attach_part(1, 64 << 20),
    );
    let memory = Memory::filled(8 << 20, scramble);
    first.take_all(&memory);
    let migrated = second.take(&memory);
    assert_eq!(
        migrated.moved,
        memory.nr_pages(),
        "{:?}",
        named(&migrated.stayed)
    );
    assert_eq!(
        (first.allocated(), second.allocated()),
        (0, memory.nr_pages())
    );
    assert_eq!(second.resident(&memory), memory.nr_pages());
    memory.expect(scramble);
    assert_eq!(
        first.give(&memory).moved,
        0,
        "a device moves its own pages home only"
    );
    second.give_all(&memory);
    memory.expect(scramble);
}

fn metadata_on_the_device_works_as_well() {
    let range = crate::driver::ranges()[0].clone();
    let device = Device::attach_range(range, cohmem_uapi::ATTACH_ALTMAP);
    let info = device.info();
    assert!(info.nr_metadata > 0, "{info:?}");
    assert_eq!(info.nr_free + info.nr_metadata, info.nr_frames);
    let memory = Memory::filled(16 << 20, scramble);
    device.take_all(&memory);
    memory.expect(scramble);
    device.give_all(&memory);
    memory.expect(scramble);
}
