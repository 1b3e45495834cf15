//! What is pinned stays, and its memory with it.

use std::{sync::mpsc, thread};

use cohmem::{Direction, ErrorKind, MigrateOptions, Reason, Tier};

use crate::{
    Test,
    subject::{Subject, assert_on, assert_whole, migrate_all},
};

pub(crate) const TESTS: &[Test] = &[
    ("a_pinned_part_stays_and_the_rest_moves", a_part),
    ("a_pin_keeps_the_memory_of_a_dropped_region", dropped_region),
    ("a_pin_waits_for_the_step_that_moves_it", waits),
    ("a_pin_of_what_is_not_there_is_refused", refused),
];

fn a_part(subject: &Subject) {
    for (direction, tier) in [
        (Direction::ToDevice, Tier::System),
        (Direction::ToSystem, Tier::Device),
    ] {
        let region = subject.filled();
        if tier == Tier::Device {
            migrate_all(&region, Direction::ToDevice);
        }
        let granule = region.granule().get();
        let part = region.part(granule..3 * granule).expect("a part");
        let pin = region.pin(part).expect("a pin");
        assert_eq!(pin.range(), part);
        let options = MigrateOptions {
            reasons: true,
            ..MigrateOptions::default()
        };
        let migrated = region
            .mover()
            .migrate(region.range(), direction, &options)
            .expect("a migration");
        assert_eq!(migrated.stayed.get(Reason::Pinned), part.nr_pages());
        assert_eq!(migrated.moved, region.range().nr_pages() - part.nr_pages());
        let first = usize::try_from(granule / 4096).expect("small");
        assert_eq!(migrated.reasons[first], Some(Reason::Pinned));
        assert_eq!(migrated.reasons[first - 1], None);
        assert_on(&region, part, tier);
        drop(pin);
        let migrated = region.migrate(direction).expect("a migration");
        assert_eq!(migrated.moved, part.nr_pages(), "{migrated:?}");
        assert_whole(&region, 0);
    }
}

fn dropped_region(subject: &Subject) {
    let before = subject.free();
    let region = subject.filled();
    migrate_all(&region, Direction::ToDevice);
    let mover = region.mover();
    let pin = region.pin(region.range()).expect("a pin");
    drop(region);
    if subject.capabilities().is_isolated {
        assert!(subject.free() < before, "the frames are still taken");
    }
    let map = mover.query(mover.range()).expect("it is still there");
    assert_eq!(map.count(Tier::Device), mover.range().nr_pages());
    drop(pin);
    let error = mover.query(mover.range()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Gone, "{error}");
    subject.assert_free(before);
}

fn waits(subject: &Subject) {
    let region = subject.filled();
    let mover = region.mover();
    let (ask, asked) = mpsc::channel();
    thread::scope(|scope| {
        let mover = &mover;
        let pinner = scope.spawn(move || {
            for () in asked {
                let pin = mover.pin(mover.range()).expect("a pin");
                let before = mover.query(pin.range()).expect("a map");
                let migrated = mover
                    .migrate(pin.range(), Direction::ToDevice, &MigrateOptions::default())
                    .expect("a migration");
                assert_eq!(migrated.stayed.get(Reason::Pinned), migrated.total);
                assert_eq!(mover.query(pin.range()).expect("a map"), before);
            }
        });
        for _round in 0..subject.nr_rounds() {
            ask.send(()).expect("the pinner listens");
            for direction in [Direction::ToDevice, Direction::ToSystem] {
                let migrated = region.migrate(direction).expect("a migration");
                assert_eq!(migrated.done(), migrated.total);
            }
        }
        drop(ask);
        pinner.join().expect("the pinner found all in place");
    });
    assert_whole(&region, 0);
}

fn refused(subject: &Subject) {
    let region = subject.filled();
    let other = subject.filled();
    let error = region.pin(other.range()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
    migrate_all(&region, Direction::ToDevice);
}
