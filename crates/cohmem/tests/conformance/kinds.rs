//! The types of memory: each is there, or refused.

use std::hint::black_box;

use cohmem::{Birth, Direction, ErrorKind, MemoryType, Placement, Reason, RegionOptions, Tier};

use crate::{
    Test,
    subject::{AT_HOME, Subject, assert_on, assert_whole, fill, migrate_all},
};

pub(crate) const TESTS: &[Test] = &[
    ("types_that_are_not_given_are_refused", refused),
    ("private_memory_comes_home_on_touch", private),
    ("a_pin_of_private_memory_is_at_home", private_pin),
    ("generic_memory_never_leaves", generic),
];

const fn options(memory: MemoryType) -> RegionOptions {
    RegionOptions { memory, ..AT_HOME }
}

fn refused(subject: &Subject) {
    let before = subject.free();
    for kind in MemoryType::ALL {
        let region = subject.pool.allocate(subject.size(), &options(kind));
        if subject.capabilities().has(kind) {
            assert_eq!(region.expect("it is given").memory_type(), kind);
        } else {
            let error = region.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.to_string().contains(&kind.to_string()), "{error}");
        }
    }
    subject.assert_free(before);
}

fn private(subject: &Subject) {
    if !subject.capabilities().has_private {
        return refused(subject);
    }
    let mut region = subject.region(&options(MemoryType::Private));
    fill(&mut region, 5);
    migrate_all(&region, Direction::ToDevice);
    assert_on(&region, region.range(), Tier::Device);
    let granule = region.granule().get();
    let touched = usize::try_from(granule * 2 + 8).expect("small");
    // Hidden from the compiler, which sees no use of the value.
    black_box(region.as_slice()[touched]);
    let part = region.part(granule * 2..granule * 3).expect("a part");
    assert_on(&region, part, Tier::System);
    let map = region.query().expect("a map");
    assert_eq!(
        map.count(Tier::System),
        part.nr_pages(),
        "only what was touched"
    );
    assert_whole(&region, 5);
    assert_on(&region, region.range(), Tier::System);
}

fn private_pin(subject: &Subject) {
    if !subject.capabilities().has_private {
        return refused(subject);
    }
    let mut region = subject.region(&options(MemoryType::Private));
    fill(&mut region, 5);
    migrate_all(&region, Direction::ToDevice);
    let pin = region.pin(region.range()).expect("a pin");
    assert_on(&region, region.range(), Tier::System);
    let migrated = region.migrate(Direction::ToDevice).expect("a migration");
    assert_eq!(migrated.stayed.get(Reason::Pinned), migrated.total);
    drop(pin);
    assert_whole(&region, 5);
}

fn generic(subject: &Subject) {
    if !subject.capabilities().has_generic {
        return refused(subject);
    }
    let before = subject.free();
    let mut region = subject.region(&options(MemoryType::Generic));
    fill(&mut region, 6);
    let migrated = region.migrate(Direction::ToSystem).expect("a migration");
    assert_eq!(
        (migrated.moved, migrated.stayed.total()),
        (0, migrated.total),
        "{migrated:?}"
    );
    assert_on(&region, region.range(), Tier::Device);
    assert_whole(&region, 6);
    drop(region);
    subject.assert_free(before);
    let spill = RegionOptions {
        birth: Birth::Device(Placement::Spill),
        ..options(MemoryType::Generic)
    };
    drop(subject.region(&spill));
    subject.assert_free(before);
}
