//! Who waits for a granule, and that nobody waits for ever: seen in the kernel's queue and in what threads
//! sleep in, so that a lost wake is noticed at once.

use std::os::fd::AsFd as _;

use super::*;
use crate::{kernel::Stop, sys::uffd::TouchFirst};

/// Flags of the mapping that holds the address, as `/proc/self/smaps` writes them.
fn mapping_flags(address: usize) -> String {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut is_inside = false;
    for line in smaps.lines() {
        let range = line
            .split_once(' ')
            .and_then(|(first, _)| first.split_once('-'));
        let parse = |text| usize::from_str_radix(text, 16).ok();
        if let Some((start, end)) = range.and_then(|(start, end)| parse(start).zip(parse(end))) {
            is_inside = (start..end).contains(&address);
        } else if let Some(flags) = line.strip_prefix("VmFlags:")
            && is_inside
        {
            return flags.to_owned();
        }
    }
    panic!("{address:#x} is not mapped");
}

/// Writes are stopped by userfaultfd and allowed again, with a thread that waits.
#[test]
fn a_stop_that_is_undone_leaves_nobody_waiting_and_nothing_registered() {
    let _guard = Watchdog::new();
    let Some(region) = region(Level::UserMode, MemoryType::Coherent) else {
        return;
    };
    for place in [Place::System, Place::Device] {
        word_of(&region, 2).store(10, Ordering::Relaxed);
        if place == Place::Device {
            region.migrate(0..8 * GRANULE, Direction::ToDevice).unwrap();
        }
        let inner = region.inner();
        let Mechanism::Stop(host) = &inner.mechanism else {
            panic!("level 2 stops writes");
        };
        let host: &Stop = host;
        let uffd = host.brake.uffd().unwrap();
        let span = inner.span_of(2..3);
        let address = inner.mechanism.memory().areas.region_at(span);
        assert_eq!(inner.words[2].try_lock(Pins::Heeded), Ok(place));
        host.populate(span).unwrap();
        host.stop(span, place).unwrap();
        // Protected from writes by userfaultfd.
        assert!(mapping_flags(address).contains(" uw"), "{place:?}");
        thread::scope(|scope| {
            let writer = scope.spawn(|| word_of(&region, 2).fetch_add(1, Ordering::Relaxed));
            while nr_queued(uffd.as_fd()) == 0 {
                thread::yield_now();
            }
            host.release(span, place);
            inner.words[2].unlock(place);
            let nr_left = nr_queued(uffd.as_fd());
            let flags = mapping_flags(address);
            // So that this test ends, whatever it finds.
            match uffd.unregister(address, GRANULE) {
                Ok(()) | Err(_) => uffd.wake(address, GRANULE).unwrap(),
            }
            writer.join().unwrap();
            assert_eq!(nr_left, 0, "the writer was not woken");
            // Allowed page by page, a write that comes at the same time is not woken.
            assert!(!flags.contains(" uw"), "{place:?}: {flags}");
        });
        assert_eq!(word_of(&region, 2).load(Ordering::Relaxed), 11);
    }
}

/// Each range that is registered is touched just before: a hole that was mapped first and registered then
/// would be filled with zeros.
#[test]
fn a_touch_at_the_worst_moment_finds_no_hole() {
    let _guard = Watchdog::new();
    for memory_type in [MemoryType::Coherent, MemoryType::Private] {
        let Some(region) = region(Level::Full, memory_type) else {
            return;
        };
        for index in 0..8 {
            word_of(&region, index).store(index + 1, Ordering::Relaxed);
        }
        let _touching = TouchFirst::new();
        for _round in 0..2 {
            for to in [Direction::ToDevice, Direction::ToSystem] {
                let migrated = region.migrate(0..8 * GRANULE, to).unwrap();
                assert!(
                    migrated.is_complete(),
                    "{memory_type}, {to:?}: {migrated:?}"
                );
            }
        }
        for index in 0..8 {
            assert_eq!(word_of(&region, index).load(Ordering::Relaxed), index + 1);
        }
    }
}

#[test]
fn who_brings_a_granule_home_waits_for_who_holds_it() {
    let _guard = Watchdog::new();
    let Some(region) = region(Level::Full, MemoryType::Private) else {
        return;
    };
    region.migrate(0..8 * GRANULE, Direction::ToDevice).unwrap();
    let inner = region.inner();
    assert_eq!(inner.words[3].try_lock(Pins::Heeded), Ok(Place::Device));
    thread::scope(|scope| {
        let porter = scope.spawn(|| inner.bring_home(3));
        while !inner.words[3].is_waited_for() && !porter.is_finished() {
            thread::yield_now();
        }
        assert!(!porter.is_finished(), "the touch is forgotten");
        inner.words[3].unlock(Place::Device);
        assert_eq!(porter.join().unwrap(), Ok(()));
    });
    assert_eq!(inner.words[3].place(), Place::System);
}

/// What a thread sleeps in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sleep {
    Poll,
    Futex,
}

/// What the thread sleeps in, once it sleeps.
fn sleep_of(thread: rustix::thread::Pid) -> Sleep {
    let path = format!("/proc/self/task/{}/syscall", thread.as_raw_nonzero());
    loop {
        // A number and arguments, the number -1, or a word if it runs.
        let text = fs::read_to_string(&path).unwrap();
        match text
            .split_once(' ')
            .and_then(|(number, _)| number.parse().ok())
        {
            Some(libc::SYS_poll | libc::SYS_ppoll) => return Sleep::Poll,
            Some(libc::SYS_futex) => return Sleep::Futex,
            _ => thread::yield_now(),
        }
    }
}

/// It reads the events that who moves a mapping waits for: where it waited itself, or tried again and
/// again what cannot be done until the event is read, nothing would go on.
#[test]
fn the_listener_sleeps_in_poll_only() {
    let _guard = Watchdog::new();
    let Some(region) = region(Level::Full, MemoryType::Private) else {
        return;
    };
    region.migrate(0..8 * GRANULE, Direction::ToDevice).unwrap();
    let inner = region.inner();
    assert_eq!(inner.words[3].try_lock(Pins::Heeded), Ok(Place::Device));
    thread::scope(|scope| {
        let writer = scope.spawn(|| word_of(&region, 3).fetch_add(1, Ordering::Relaxed));
        while !inner.words[3].is_waited_for() {
            thread::yield_now();
        }
        // Somebody waits for the granule, which must be the porter.
        let sleep = sleep_of(inner.hole().unwrap().listener_thread().unwrap());
        inner.words[3].unlock(Place::Device);
        writer.join().unwrap();
        assert_eq!(sleep, Sleep::Poll);
    });
}
