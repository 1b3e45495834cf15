//! Migrations on a thread of their own.

use std::thread;

use cohmem::{ByteCount, Direction, ErrorKind, MigrateOptions, Migration, Region, Tier};

use crate::{
    Test,
    subject::{Subject, assert_on, assert_whole},
};

pub(crate) const TESTS: &[Test] = &[
    ("one_runs_to_its_end_with_progress", to_the_end),
    ("a_cancelled_one_says_how_far_it_came", cancelled),
    ("a_dropped_handle_lets_it_go_on", dropped_handle),
    ("a_dropped_region_ends_it", dropped_region),
    ("bad_input_comes_back_from_wait", bad_input),
];

fn start(region: &Region, step: u64) -> Migration {
    let options = MigrateOptions {
        step: ByteCount::new(step),
        ..MigrateOptions::default()
    };
    region
        .mover()
        .start_migration(region.range(), Direction::ToDevice, options)
        .expect("a thread")
}

fn to_the_end(subject: &Subject) {
    let region = subject.filled();
    let migration = start(&region, region.granule().get());
    let (_, total) = migration.progress();
    assert_eq!(total, region.range().nr_pages());
    let migrated = migration.wait().expect("a migration");
    assert_eq!(
        (migrated.moved, migrated.next),
        (total, region.range().end())
    );
    assert_on(&region, region.range(), Tier::Device);
    assert_whole(&region, 0);
}

fn cancelled(subject: &Subject) {
    let region = subject.filled();
    let migration = start(&region, region.granule().get());
    migration.cancel();
    let migrated = migration.wait().expect("a migration");
    // Wherever it was by then: what it says is what is so.
    let moved = region.query().expect("a map").count(Tier::Device);
    assert_eq!(migrated.moved, moved);
    assert_eq!(
        migrated.done() * 4096,
        migrated.next.get() - region.start().get()
    );
    assert_whole(&region, 0);
    let migrated = region.migrate(Direction::ToDevice).expect("a migration");
    assert_eq!(migrated.moved, region.range().nr_pages() - moved);
}

fn dropped_handle(subject: &Subject) {
    let region = subject.filled();
    drop(start(&region, region.granule().get()));
    // Ends when the thread has moved all, however slow it is.
    while region.query().expect("a map").count(Tier::Device) < region.range().nr_pages() {
        thread::yield_now();
    }
    assert_whole(&region, 0);
}

fn dropped_region(subject: &Subject) {
    let before = subject.free();
    let region = subject.filled();
    let range = region.range();
    let migration = start(&region, region.granule().get());
    drop(region);
    match migration.wait() {
        Ok(migrated) => assert_eq!(migrated.next, range.end(), "it was faster"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Gone, "{error}"),
    }
    subject.assert_free(before);
}

fn bad_input(subject: &Subject) {
    let (region, other) = (subject.filled(), subject.filled());
    let migration = region
        .mover()
        .start_migration(
            other.range(),
            Direction::ToDevice,
            MigrateOptions::default(),
        )
        .expect("a thread");
    let error = migration.wait().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
    for region in [&region, &other] {
        assert_eq!(region.query().expect("a map").count(Tier::Device), 0);
    }
}
