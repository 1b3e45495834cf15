//! C1, C2, C5, C8: the same pointer, nothing lost, clean frames, honest limits.

use cohmem::{Birth, ByteCount, Direction, ErrorKind, Placement, Reason, RegionOptions, Tier};

use crate::{
    Test,
    subject::{AT_HOME, ON_DEVICE, Subject, assert_on, assert_whole, fill, migrate_all},
};

pub(crate) const TESTS: &[Test] = &[
    ("a_round_trip_keeps_content_and_address", round_trip),
    (
        "a_region_born_on_the_device_is_there_and_zeroed",
        born_there,
    ),
    ("a_region_born_at_home_is_at_home", born_at_home),
    ("a_part_moves_alone", a_part_alone),
    ("a_store_lasts_wherever_the_page_is", stores_last),
    (
        "frames_come_back_when_a_region_is_dropped",
        frames_come_back,
    ),
    ("a_new_owner_finds_zeros", new_owner_finds_zeros),
    ("more_than_the_device_has_is_refused", too_much_is_refused),
    (
        "what_does_not_fit_stays_and_is_counted",
        what_does_not_fit_stays,
    ),
    ("a_region_may_spill_and_says_so", spill),
    ("two_regions_share_a_pool", two_regions),
];

fn round_trip(subject: &Subject) {
    let region = subject.filled();
    let start = region.start();
    for _round in 0..3 {
        migrate_all(&region, Direction::ToDevice);
        assert_on(&region, region.range(), Tier::Device);
        assert_whole(&region, 0);
        migrate_all(&region, Direction::ToSystem);
        assert_on(&region, region.range(), Tier::System);
        assert_whole(&region, 0);
    }
    assert_eq!(region.start(), start);
}

fn born_there(subject: &Subject) {
    let before = subject.free();
    let region = subject.region(&ON_DEVICE);
    assert_on(&region, region.range(), Tier::Device);
    let placed = region.placed();
    assert_eq!(placed.moved + placed.filled, region.range().nr_pages());
    assert!(region.as_slice().iter().all(|&byte| byte == 0));
    if subject.capabilities().is_isolated {
        assert_eq!(before - subject.free(), region.range().length().get());
    }
}

fn born_at_home(subject: &Subject) {
    let before = subject.free();
    let region = subject.region(&AT_HOME);
    assert_eq!(region.query().expect("a map").count(Tier::Device), 0);
    assert!(region.as_slice().iter().all(|&byte| byte == 0));
    subject.assert_free(before);
}

fn a_part_alone(subject: &Subject) {
    let region = subject.filled();
    let granule = region.granule().get();
    let part = region.part(3 * granule..5 * granule).expect("a part");
    let migrated = region
        .mover()
        .migrate(
            part,
            Direction::ToDevice,
            &cohmem::MigrateOptions::default(),
        )
        .expect("a migration");
    assert_eq!(migrated.moved, part.nr_pages());
    assert_eq!(
        (migrated.total, migrated.next),
        (part.nr_pages(), part.end())
    );
    assert_on(&region, part, Tier::Device);
    let map = region.query().expect("a map");
    assert_eq!(
        map.count(Tier::Device),
        part.nr_pages(),
        "the others stayed"
    );
    assert_whole(&region, 0);
}

fn stores_last(subject: &Subject) {
    let mut region = subject.filled();
    migrate_all(&region, Direction::ToDevice);
    fill(&mut region, 1);
    assert_on(&region, region.range(), Tier::Device);
    migrate_all(&region, Direction::ToSystem);
    assert_whole(&region, 1);
    fill(&mut region, 2);
    migrate_all(&region, Direction::ToDevice);
    assert_whole(&region, 2);
}

fn frames_come_back(subject: &Subject) {
    let before = subject.free();
    for _round in 0..4 {
        let region = subject.filled();
        migrate_all(&region, Direction::ToDevice);
        drop(region);
        subject.assert_free(before);
        let region = subject.region(&ON_DEVICE);
        migrate_all(&region, Direction::ToSystem);
        subject.assert_free(before);
    }
}

fn new_owner_finds_zeros(subject: &Subject) {
    for _round in 0..3 {
        let mut region = subject.region(&ON_DEVICE);
        region.as_mut_slice().fill(0xa5);
        drop(region);
        let region = subject.region(&ON_DEVICE);
        assert!(region.as_slice().iter().all(|&byte| byte == 0));
    }
}

fn too_much_is_refused(subject: &Subject) {
    let before = subject.free();
    let total = subject.pool.query_status().expect("a status").total;
    let size = ByteCount::new(total.get() + subject.pool.default_granule().get());
    let error = subject.pool.allocate(size, &ON_DEVICE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoFrames, "{error}");
    subject.assert_free(before);
}

/// All of the device but some granules.
fn hog(subject: &Subject, left: u64) -> cohmem::Region {
    let size = ByteCount::new(subject.free() - left);
    let region = subject.pool.allocate(size, &ON_DEVICE);
    region.expect("what is free can be had")
}

fn what_does_not_fit_stays(subject: &Subject) {
    if !subject.capabilities().is_isolated {
        // Its frames are everybody's: how many fit is not known, only what certainly does not.
        return too_much_is_refused(subject);
    }
    let region = subject.filled();
    let half = region.range().length().get() / 2;
    let hog = hog(subject, half);
    let migrated = region.migrate(Direction::ToDevice).expect("a migration");
    assert_eq!(migrated.moved * 4096, half, "{migrated:?}");
    assert_eq!(
        migrated.stayed.get(Reason::NoFrame) * 4096,
        half,
        "{migrated:?}"
    );
    assert_eq!(migrated.done(), migrated.total);
    assert_whole(&region, 0);
    drop(hog);
    let migrated = region.migrate(Direction::ToDevice).expect("a migration");
    assert_eq!(migrated.moved * 4096, half, "the rest: {migrated:?}");
    assert_on(&region, region.range(), Tier::Device);
    assert_whole(&region, 0);
}

fn spill(subject: &Subject) {
    if !subject.capabilities().is_isolated {
        return too_much_is_refused(subject);
    }
    let half = subject.size().get() / 2;
    let hog = hog(subject, half);
    let strict = subject.pool.allocate(subject.size(), &ON_DEVICE);
    assert_eq!(strict.unwrap_err().kind(), ErrorKind::NoFrames);
    assert_eq!(subject.free(), half, "nothing was taken");
    let options = RegionOptions {
        birth: Birth::Device(Placement::Spill),
        ..ON_DEVICE
    };
    let mut region = subject.region(&options);
    let placed = region.placed();
    assert_eq!((placed.moved + placed.filled) * 4096, half, "{placed:?}");
    assert_eq!(
        placed.stayed.get(Reason::NoFrame) * 4096,
        half,
        "{placed:?}"
    );
    fill(&mut region, 0);
    assert_whole(&region, 0);
    drop(hog);
}

fn two_regions(subject: &Subject) {
    let before = subject.free();
    let mut one = subject.filled();
    let mut other = subject.region(&ON_DEVICE);
    fill(&mut other, 9);
    migrate_all(&one, Direction::ToDevice);
    fill(&mut one, 3);
    migrate_all(&other, Direction::ToSystem);
    assert_whole(&one, 3);
    assert_whole(&other, 9);
    drop(other);
    assert_whole(&one, 3);
    drop(one);
    subject.assert_free(before);
}
