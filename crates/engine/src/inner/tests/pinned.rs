//! I/O into memory that the kernel pinned before it moved: what is seen, what is lost, and that a guard
//! loses nothing. A registered buffer is a pin that lasts, so that each case is certain.

use std::{
    fs::File,
    os::{fd::AsFd as _, unix::fs::FileExt as _},
};

use super::{
    kernel_access::{AFTER, BEFORE, INDEX, LENGTH, direct, fill, is_all, patch},
    *,
};
use crate::sys::calls::Ring;

/// What became of bytes that a device wrote to a pinned page after its granule was asked to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The granule stayed, for the pin.
    Stayed,
    /// It moved, and the bytes went to where it was.
    Lost,
}

/// Pins a page of the granule, asks the granule to move, and has the kernel write to the page.
fn write_to_pinned(region: &Region, place: Place, is_guarded: bool) -> Option<Fate> {
    let mut ring = Ring::new()?;
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&[AFTER; LENGTH as usize], 0).unwrap();
    fill(region, place);
    let granule = INDEX * GRANULE..(INDEX + 1) * GRANULE;
    // Private memory comes home for the guard.
    let guard = is_guarded.then(|| region.pin(granule.clone()).unwrap());
    if let Err(error) = ring.register(patch(region)) {
        eprintln!("NOT RUN: registered buffers: {error}");
        return None;
    }
    let to = match place {
        Place::System => Direction::ToDevice,
        Place::Device => Direction::ToSystem,
    };
    let migrated = region.migrate(granule, to).unwrap();
    let nr_pinned = migrated.stayed.get(Reason::Pinned);
    assert_eq!(nr_pinned + migrated.moved, 16, "{migrated:?}");
    let nr_bytes = ring.read_fixed(file.as_fd(), patch(region)).unwrap();
    assert_eq!(nr_bytes, LENGTH as usize);
    let has_arrived = is_all(region, AFTER);
    assert!(has_arrived || is_all(region, BEFORE));
    ring.unregister().unwrap();
    drop(guard);
    match (nr_pinned, has_arrived) {
        (16, true) => Some(Fate::Stayed),
        (0, false) => Some(Fate::Lost),
        other => panic!("pages that stayed, and whether the bytes are there: {other:?}"),
    }
}

/// Each way that memory moves on this machine, with a region of its own for each place: the kernel lets
/// pins go a moment after it was told to.
fn ways() -> impl Iterator<Item = (Level, MemoryType, Place, Region)> {
    [
        (Level::Full, MemoryType::Coherent),
        (Level::Full, MemoryType::Private),
        (Level::UserMode, MemoryType::Coherent),
        (Level::Signal, MemoryType::Coherent),
    ]
    .into_iter()
    .flat_map(|way| [(way, Place::System), (way, Place::Device)])
    .filter_map(|((level, memory_type), place)| {
        Some((level, memory_type, place, region(level, memory_type)?))
    })
}

#[test]
fn a_guard_loses_nothing_of_what_is_pinned() {
    let _guard = Watchdog::new();
    for (level, memory_type, place, region) in ways() {
        if memory_type == MemoryType::Private && place == Place::Device {
            // The guard brings it home, where it is pinned.
            fill(&region, place);
            let pinned = region.pin(INDEX * GRANULE..(INDEX + 1) * GRANULE).unwrap();
            assert_eq!(region.inner().words[INDEX].place(), Place::System);
            drop(pinned);
            continue;
        }
        let Some(fate) = write_to_pinned(&region, place, true) else {
            return;
        };
        assert_eq!(fate, Fate::Stayed, "{level}, {memory_type}, {place:?}");
    }
}

#[test]
fn without_a_guard_a_pin_is_seen_where_the_documentation_says_so() {
    let _guard = Watchdog::new();
    for (level, memory_type, place, region) in ways() {
        if memory_type == MemoryType::Private && place == Place::Device {
            // What is on the device is mapped nowhere: pinning it brings it home.
            continue;
        }
        let Some(fate) = write_to_pinned(&region, place, false) else {
            return;
        };
        let expected = if level == Level::Full && place == Place::System {
            Fate::Stayed
        } else {
            Fate::Lost
        };
        assert_eq!(fate, expected, "{level}, {memory_type}, {place:?}");
    }
}

/// A private granule on the device comes home when it is pinned, and stays for as long as it is.
#[test]
fn private_memory_loses_nothing_without_a_guard() {
    let _guard = Watchdog::new();
    let Some(region) = region(Level::Full, MemoryType::Private) else {
        return;
    };
    let Some(mut ring) = Ring::new() else { return };
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&[AFTER; LENGTH as usize], 0).unwrap();
    fill(&region, Place::Device);
    ring.register(patch(&region)).unwrap();
    // The query waits until all of it is home.
    let all = 0..8 * GRANULE;
    region.residency(all.clone()).unwrap();
    assert_eq!(region.stats().nr_touched_home, 1);
    let out = region.migrate(all, Direction::ToDevice).unwrap();
    assert_eq!((out.moved, out.stayed.get(Reason::Pinned)), (7 * 16, 16));
    ring.read_fixed(file.as_fd(), patch(&region)).unwrap();
    assert!(is_all(&region, AFTER));
}

/// Short pins: those of a read past the page cache, and of a write by another process.
#[test]
fn guarded_reads_and_writes_arrive_while_other_threads_try_to_move_the_granule() {
    let _guard = Watchdog::new();
    let page = [AFTER; LENGTH as usize];
    let Some(file) = direct(&page) else { return };
    for (level, memory_type, place, region) in ways() {
        fill(&region, place);
        // A migration that was asked for under the guard has ended before the page is looked at.
        let beside_move = |file: Option<&File>| {
            let granule = INDEX * GRANULE..(INDEX + 1) * GRANULE;
            let pinned = region.pin(granule.clone()).unwrap();
            let done = thread::scope(|scope| {
                let moving = scope.spawn(|| region.migrate(granule, Direction::ToDevice).unwrap());
                let done = match file {
                    Some(file) => patch(&region).pread(file.as_fd()),
                    None => patch(&region).write_as_another_process(&page),
                };
                let moved = moving.join().unwrap();
                assert_eq!(
                    moved.stayed.get(Reason::Pinned),
                    16,
                    "{level}, {memory_type}"
                );
                done
            });
            drop(pinned);
            assert_eq!(done.unwrap(), LENGTH as usize, "{level}, {memory_type}");
            assert!(is_all(&region, AFTER), "{level}, {memory_type}");
        };
        beside_move(Some(&file));
        region.migrate(0..8 * GRANULE, Direction::ToSystem).unwrap();
        word_of(&region, INDEX).store(0, Ordering::Relaxed);
        beside_move(None);
    }
}
