//! C6: every page is counted once, with its reason.

use cohmem::{Direction, MigrateOptions, Reason, Tier};

use crate::{
    Test,
    subject::{AT_HOME, ON_DEVICE, Subject, assert_whole, migrate_all},
};

pub(crate) const TESTS: &[Test] = &[
    ("what_is_there_already_is_told", already_there),
    ("each_page_has_its_reason", each_page),
    ("untouched_pages_are_told_or_at_home", untouched),
    ("a_map_has_an_entry_a_page", map),
    ("statistics_count_what_moved", statistics),
];

fn already_there(subject: &Subject) {
    let region = subject.filled();
    let nr_pages = region.range().nr_pages();
    migrate_all(&region, Direction::ToDevice);
    let again = region.migrate(Direction::ToDevice).expect("a migration");
    assert_eq!(
        again.stayed.get(Reason::AlreadyThere),
        nr_pages,
        "{again:?}"
    );
    assert_eq!(again.done(), nr_pages);
    assert_whole(&region, 0);
}

fn each_page(subject: &Subject) {
    let region = subject.filled();
    let granule = region.granule().get();
    let part = region.part(2 * granule..4 * granule).expect("a part");
    let options = MigrateOptions {
        reasons: true,
        ..MigrateOptions::default()
    };
    let mover = region.mover();
    mover
        .migrate(part, Direction::ToDevice, &MigrateOptions::default())
        .expect("a migration");
    let migrated = mover
        .migrate(region.range(), Direction::ToDevice, &options)
        .expect("a migration");
    assert_eq!(migrated.reasons.len() as u64, migrated.total);
    let pages_of_part = 2 * granule / 4096..4 * granule / 4096;
    for (page, reason) in (0..).zip(&migrated.reasons) {
        let expected = pages_of_part
            .contains(&page)
            .then_some(Reason::AlreadyThere);
        assert_eq!(*reason, expected, "page {page}");
    }
}

fn untouched(subject: &Subject) {
    let region = subject.region(&AT_HOME);
    let map = region.query().expect("a map");
    let nr_pages = region.range().nr_pages();
    let migrated = region.migrate(Direction::ToDevice).expect("a migration");
    if subject.capabilities().tells_untouched {
        assert_eq!(map.count(Tier::None), nr_pages, "{map:?}");
        assert_eq!(
            migrated.stayed.get(Reason::Untouched),
            nr_pages,
            "{migrated:?}"
        );
    } else {
        assert_eq!(map.count(Tier::System), nr_pages, "{map:?}");
        assert_eq!(migrated.moved, nr_pages, "{migrated:?}");
    }
    assert!(region.as_slice().iter().all(|&byte| byte == 0));
}

fn map(subject: &Subject) {
    let region = subject.region(&ON_DEVICE);
    let granule = region.granule().get();
    let part = region.part(0..granule).expect("a part");
    let mover = region.mover();
    mover
        .migrate(part, Direction::ToSystem, &MigrateOptions::default())
        .expect("a migration");
    let map = region.query().expect("a map");
    assert_eq!(map.entries().len() as u64, region.range().nr_pages());
    for (page, entry) in (0..).zip(map.entries()) {
        let tier = if page * 4096 < granule {
            Tier::System
        } else {
            Tier::Device
        };
        assert_eq!(entry.tier(), tier, "page {page}");
    }
    assert_eq!(map.nr_here(), map.count(Tier::Device));
}

fn statistics(subject: &Subject) {
    let region = subject.filled();
    migrate_all(&region, Direction::ToDevice);
    migrate_all(&region, Direction::ToSystem);
    let nr_pages = region.range().nr_pages();
    if let Some(stats) = region.stats() {
        assert_eq!((stats.moved_in, stats.moved_out), (nr_pages, nr_pages));
        assert!(stats.nr_stops > 0 && stats.longest_stop <= stats.total_stop);
    }
    let status = subject.pool.query_status().expect("a status");
    assert!(status.free <= status.total, "{status:?}");
}
