//! C10: bad input is refused with the value and the limit, before anything changes.

use cohmem::{
    AddrRange, BackendKind, ByteCount, Direction, ErrorKind, MigrateOptions, Region, RegionOptions,
    Tier, UserAddr,
};

use crate::{
    Test,
    subject::{AT_HOME, ON_DEVICE, Subject, assert_whole, migrate_all},
};

pub(crate) const TESTS: &[Test] = &[
    ("ranges_that_are_not_the_regions_are_refused", ranges),
    ("sizes_that_cannot_be_are_refused", sizes),
    ("granules_that_cannot_be_are_refused", granules),
    ("options_that_the_backend_lacks_are_refused", options),
    ("a_mover_of_a_dropped_region_says_so", dropped_region),
];

fn range(start: u64, end: u64) -> AddrRange {
    AddrRange::new(UserAddr::new(start), UserAddr::new(end)).expect("forwards")
}

#[track_caller]
fn refused(region: &Region, range: AddrRange, kind: ErrorKind) {
    let mover = region.mover();
    for direction in [Direction::ToDevice, Direction::ToSystem] {
        let error = mover
            .migrate(range, direction, &MigrateOptions::default())
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(
            error.to_string().contains(&range.to_string()),
            "it names the value: {error}"
        );
    }
    assert_eq!(mover.query(range).unwrap_err().kind(), kind);
    assert_eq!(mover.pin(range).unwrap_err().kind(), kind);
}

fn ranges(subject: &Subject) {
    let region = subject.filled();
    let (start, end) = (region.range().start().get(), region.range().end().get());
    let granule = region.granule().get();
    refused(&region, range(start, start), ErrorKind::Empty);
    refused(&region, range(start - granule, end), ErrorKind::OutOfRange);
    refused(&region, range(start, end + granule), ErrorKind::OutOfRange);
    refused(&region, range(end, end + granule), ErrorKind::OutOfRange);
    refused(&region, range(0, granule), ErrorKind::OutOfRange);
    refused(&region, range(start, u64::MAX), ErrorKind::OutOfRange);
    refused(&region, range(start + 1, end), ErrorKind::Misaligned);
    refused(&region, range(start, end - 8), ErrorKind::Misaligned);
    if granule > 4096 {
        refused(&region, range(start + 4096, end), ErrorKind::Misaligned);
    }
    let part = region.part(0..end - start + 1).unwrap_err();
    assert_eq!(part.kind(), ErrorKind::OutOfRange, "{part}");
    let backwards = std::ops::Range { start: 8, end: 4 };
    let part = region.part(backwards).unwrap_err();
    assert_eq!(part.kind(), ErrorKind::OutOfRange, "{part}");
    assert_eq!(region.query().expect("a map").count(Tier::Device), 0);
    assert_whole(&region, 0);
}

fn sizes(subject: &Subject) {
    let before = subject.free();
    for options in [&AT_HOME, &ON_DEVICE] {
        let empty = subject.pool.allocate(ByteCount::new(0), options);
        assert_eq!(empty.unwrap_err().kind(), ErrorKind::Empty);
        for bytes in [u64::MAX, i64::MAX as u64, 1 << 62] {
            let huge = subject.pool.allocate(ByteCount::new(bytes), options);
            let error = huge.unwrap_err();
            assert!(
                matches!(
                    error.kind(),
                    ErrorKind::NoMemory | ErrorKind::NoFrames | ErrorKind::InvalidInput
                ),
                "{bytes}: {error} is {:?}",
                error.kind()
            );
        }
    }
    subject.assert_free(before);
    let region = subject.pool.allocate(ByteCount::new(1), &ON_DEVICE);
    let region = region.expect("one byte");
    assert_eq!(region.as_slice(), [0]);
    assert_eq!(region.range().length(), region.granule());
}

fn granules(subject: &Subject) {
    let before = subject.free();
    let least = subject.capabilities().least_granule.get();
    for bytes in [
        0,
        1,
        least / 2,
        least + least / 2,
        3 * least,
        2 << 30,
        u64::MAX,
    ] {
        let options = RegionOptions {
            granule: Some(ByteCount::new(bytes)),
            ..ON_DEVICE
        };
        let error = subject.pool.allocate(subject.size(), &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misaligned, "{bytes}: {error}");
    }
    subject.assert_free(before);
}

fn options(subject: &Subject) {
    let region = subject.filled();
    let asked = [
        (
            "fill",
            MigrateOptions {
                fill: true,
                ..MigrateOptions::default()
            },
        ),
        (
            "shared",
            MigrateOptions {
                shared: true,
                ..MigrateOptions::default()
            },
        ),
        (
            "executable",
            MigrateOptions {
                executable: true,
                ..MigrateOptions::default()
            },
        ),
    ];
    for (name, options) in asked {
        let mover = region.mover();
        let migrated = mover.migrate(region.range(), Direction::ToDevice, &options);
        if region.backend() == BackendKind::Driver {
            assert_eq!(migrated.expect("root may").moved, region.range().nr_pages());
            migrate_all(&region, Direction::ToSystem);
            continue;
        }
        let error = migrated.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    assert_eq!(region.query().expect("a map").count(Tier::Device), 0);
}

fn dropped_region(subject: &Subject) {
    let region = subject.filled();
    let mover = region.mover();
    drop(region);
    let options = MigrateOptions::default();
    let error = mover
        .migrate(mover.range(), Direction::ToDevice, &options)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Gone, "{error}");
    assert_eq!(
        mover.query(mover.range()).unwrap_err().kind(),
        ErrorKind::Gone
    );
    assert_eq!(
        mover.pin(mover.range()).unwrap_err().kind(),
        ErrorKind::Gone
    );
}
