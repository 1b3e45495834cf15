// SPDX-License-Identifier: GPL-2.0
//! There and back again.

use cohmem_uapi::{ATTACH_ALTMAP, Direction, RANGE_ALIGN, Reason, Tier, args};

use crate::fake::{BASE, Fallible, Home, PAGE, Rig, SOFT_START, Seen, VmaSpec, anonymous};

#[test]
fn content_survives_the_way_there_and_back() {
    let (rig, id, pid) = Rig::with_device(4, 1100);
    let pages = BASE..BASE + 1100;
    rig.host.store_all(pid, pages.clone(), 7);

    let moved = rig.to_device(id, pid, pages.clone());
    assert_eq!((moved.nr_moved, moved.next), (1100, pages.end));
    assert_eq!(rig.host.nr_on_device(pid, pages.clone()), 1100);
    assert_eq!(rig.info(id).nr_allocated, 1100);
    rig.host.assert_all(pid, pages.clone(), 7);
    rig.host.store_all(pid, pages.clone(), 8);

    let moved = rig.to_system(id, pid, pages.clone());
    assert_eq!(moved.nr_moved, 1100);
    assert_eq!(rig.host.nr_on_device(pid, pages.clone()), 0);
    rig.host.assert_all(pid, pages, 8);
    let info = rig.info(id);
    assert_eq!((info.nr_allocated, info.nr_free), (0, 2048));
    assert_eq!(
        (info.moved_in, info.moved_out, info.freed),
        (1100, 1100, 1100)
    );
    rig.assert_sound();
    rig.detach(id).unwrap();
}

#[test]
fn only_the_pages_asked_for_move() {
    let (rig, id, pid) = Rig::with_device(2, 700);
    rig.host.store_all(pid, BASE..BASE + 700, 7);
    let moved = rig.to_device(id, pid, BASE + 3..BASE + 600);
    assert_eq!(moved.nr_moved, 597);
    assert!(!rig.host.is_on_device(pid, BASE + 2));
    assert!(rig.host.is_on_device(pid, BASE + 3));
    assert!(rig.host.is_on_device(pid, BASE + 599));
    assert!(!rig.host.is_on_device(pid, BASE + 600));
    let moved = rig.to_system(id, pid, BASE + 500..BASE + 700);
    assert_eq!(moved.nr_moved, 100);
    assert_eq!(moved.stayed.get(Reason::AlreadyThere), 100);
    rig.host.assert_all(pid, BASE..BASE + 700, 7);
    rig.assert_sound();
}

#[test]
fn a_range_over_many_areas_and_gaps_is_gone_through() {
    let rig = Rig::new();
    let id = rig.attach(0, 2).unwrap();
    let pid = rig.host.spawn([
        anonymous(BASE..BASE + 10),
        anonymous(BASE + 10..BASE + 20),
        anonymous(BASE + 600..BASE + 610),
    ]);
    rig.host.store_all(pid, BASE..BASE + 20, 7);
    rig.host.store_all(pid, BASE + 600..BASE + 610, 9);
    let moved = rig.to_device(id, pid, BASE..BASE + 2000);
    assert_eq!(moved.nr_moved, 30);
    assert_eq!(moved.next, BASE + 2000);
    assert_eq!(moved.stayed.get(Reason::Unmapped), 1970);
    rig.host.assert_all(pid, BASE..BASE + 20, 7);
    rig.assert_sound();
}

#[test]
fn holes_are_told_from_swapped_pages_and_filled_only_when_asked_for() {
    let (rig, id, pid) = Rig::with_device(1, 4);
    rig.host.store_all(pid, BASE..BASE + 2, 7);
    assert!(rig.host.swap_out(pid, BASE + 1));
    assert_eq!(rig.host.load(pid, BASE + 3), Seen::Stamp(0));

    let moved = rig.to_device(id, pid, BASE..BASE + 4);
    let untouched = Some(Reason::Untouched);
    assert_eq!(
        moved.reasons,
        [None, Some(Reason::Swapped), untouched, untouched]
    );
    let moved = rig.fill(id, pid, BASE..BASE + 4);
    assert_eq!((moved.nr_moved, moved.nr_filled), (0, 2));
    assert_eq!(rig.info(id).filled, 2);
    rig.host.assert_all(pid, BASE..BASE + 2, 7);
    assert!(rig.host.is_on_device(pid, BASE + 2));
    assert_eq!(rig.host.load(pid, BASE + 2), Seen::Stamp(0));
    assert_eq!(rig.host.load(pid, BASE + 3), Seen::Stamp(0));
    rig.assert_sound();
}

#[test]
fn a_filled_hole_shows_nothing_of_the_frame_s_last_owner() {
    let (rig, id, pid) = Rig::with_device(1, 512);
    rig.host.store_all(pid, BASE..BASE + 512, 7);
    rig.to_device(id, pid, BASE..BASE + 512);
    rig.host.exit(pid);
    let other = rig.spawn(512);
    assert_eq!(rig.fill(id, other, BASE..BASE + 512).nr_filled, 512);
    for page in BASE..BASE + 512 {
        assert_eq!(rig.host.load(other, page), Seen::Stamp(0));
    }
    rig.assert_sound();
}

#[test]
fn a_hole_that_was_touched_meanwhile_keeps_what_was_written() {
    use crate::fake::Moment;
    use cohmem_kcore::host::Point;
    let (rig, id, pid) = Rig::with_device(1, 2);
    rig.host.on(Moment::At(Point::Filled), move |host| {
        host.store(pid, BASE, 5);
    });
    let moved = rig.fill(id, pid, BASE..BASE + 2);
    rig.host.assert_hooks_ran();
    assert_eq!(rig.host.load(pid, BASE), Seen::Stamp(5));
    // The second try finds a page, which moves.
    assert_eq!((moved.nr_moved, moved.nr_filled), (1, 1));
    rig.assert_sound();
}

#[test]
fn a_full_device_takes_what_fits_and_says_so() {
    let (rig, id, pid) = Rig::with_device(1, 700);
    rig.host.store_all(pid, BASE..BASE + 700, 7);
    let moved = rig.to_device(id, pid, BASE..BASE + 700);
    assert_eq!(moved.nr_moved, 512);
    assert_eq!(moved.stayed.get(Reason::NoFrame), 188);
    assert_eq!(rig.info(id).nr_free, 0);
    rig.host.assert_all(pid, BASE..BASE + 700, 7);
    rig.assert_sound();
    // Frames that come back are handed out again.
    rig.host.unmap(pid, BASE..BASE + 100);
    assert_eq!(rig.to_device(id, pid, BASE + 100..BASE + 700).nr_moved, 100);
    rig.assert_sound();
}

#[test]
fn as_much_comes_home_as_memory_has_room_for() {
    let (rig, id, pid) = Rig::with_device(1, 300);
    rig.host.store_all(pid, BASE..BASE + 300, 7);
    rig.to_device(id, pid, BASE..BASE + 300);
    // A 64th of the memory is left alone: 2^20 / 64 pages.
    rig.host.leave_available((1 << 14) + 100);
    let moved = rig.to_system(id, pid, BASE..BASE + 300);
    assert_eq!(moved.nr_moved, 100);
    assert_eq!(moved.stayed.get(Reason::NoMemory), 200);
    rig.host.leave_available(0);
    let moved = rig.to_system(id, pid, BASE..BASE + 300);
    assert_eq!(moved.stayed.get(Reason::NoMemory), 200);
    rig.host.assert_all(pid, BASE..BASE + 300, 7);
    rig.assert_sound();
}

#[test]
fn an_allocation_that_falls_short_leaves_pages_on_the_device() {
    let (rig, id, pid) = Rig::with_device(1, 10);
    rig.host.store_all(pid, BASE..BASE + 10, 7);
    rig.to_device(id, pid, BASE..BASE + 10);
    rig.host.fail_from(Fallible::Refill, 1);
    let moved = rig.to_system(id, pid, BASE..BASE + 10);
    assert_eq!((moved.nr_moved, moved.stayed.get(Reason::NoMemory)), (9, 1));
    assert_ne!(rig.host.heal(), 0);
    rig.host.assert_all(pid, BASE..BASE + 10, 7);
    rig.assert_sound();
}

#[test]
fn pages_move_from_device_to_device() {
    let (rig, first, pid) = Rig::with_device(1, 20);
    let second = rig.attach(1, 1).unwrap();
    rig.host.store_all(pid, BASE..BASE + 20, 7);
    rig.to_device(first, pid, BASE..BASE + 10);
    let moved = rig.to_device(second, pid, BASE..BASE + 20);
    assert_eq!(moved.nr_moved, 20);
    assert_eq!(rig.info(first).nr_allocated, 0);
    assert_eq!(rig.info(first).moved_out, 10);
    assert_eq!(rig.info(second).nr_allocated, 20);
    rig.host.assert_all(pid, BASE..BASE + 20, 7);
    // Home from the other device: not the one that has them.
    let moved = rig.to_system(first, pid, BASE..BASE + 20);
    moved.assert_all_stayed(20, Reason::OtherDevice);
    let map = rig.query(first, pid, BASE..BASE + 20, 0).unwrap();
    assert!(
        map.iter()
            .all(|entry| entry.device() == Some(second.number))
    );
    rig.assert_sound();
}

#[test]
fn shared_pages_move_only_with_flag_and_privilege_and_for_everybody() {
    use cohmem_kcore::Errno;
    use cohmem_uapi::MIGRATE_SHARED;
    let (rig, id, parent) = Rig::with_device(1, 8);
    let pages = BASE..BASE + 8;
    rig.host.store_all(parent, pages.clone(), 7);
    let child = rig.host.fork(parent);
    let moved = rig.to_device(id, parent, pages.clone());
    moved.assert_all_stayed(8, Reason::Shared);

    rig.host.set_privileges(false, false);
    let refused = rig.migrate(
        id,
        parent,
        pages.clone(),
        Direction::ToDevice,
        MIGRATE_SHARED,
    );
    assert_eq!(refused.unwrap_err(), Errno::EPERM);
    rig.host.set_privileges(false, true);
    for (direction, is_on_device) in [(Direction::ToDevice, true), (Direction::ToSystem, false)] {
        let moved = rig
            .migrate(id, parent, pages.clone(), direction, MIGRATE_SHARED)
            .unwrap();
        assert_eq!(moved.nr_moved, 8);
        for pid in [parent, child] {
            rig.host.assert_all(pid, pages.clone(), 7);
            assert_eq!(rig.host.is_on_device(pid, BASE), is_on_device);
        }
        if is_on_device {
            rig.to_system(id, child, pages.clone())
                .assert_all_stayed(8, Reason::Shared);
        }
    }
    rig.assert_sound();
}

#[test]
fn a_fork_shares_device_pages_and_a_write_copies_to_system_memory() {
    let (rig, id, parent) = Rig::with_device(1, 4);
    rig.host.store_all(parent, BASE..BASE + 4, 7);
    rig.to_device(id, parent, BASE..BASE + 4);
    let child = rig.host.fork(parent);
    rig.host.store(child, BASE, 100);
    assert!(!rig.host.is_on_device(child, BASE));
    assert!(rig.host.is_on_device(parent, BASE));
    rig.host.assert_all(parent, BASE..BASE + 4, 7);
    rig.host.exit(parent);
    assert_eq!(rig.info(id).nr_allocated, 3);
    rig.host.assert_all(child, BASE + 1..BASE + 4, 8);
    rig.assert_sound();
}

#[test]
fn a_huge_page_moves_whole() {
    let (rig, id, pid) = Rig::with_device(2, 1024);
    rig.host.map_folio(pid, BASE..BASE + 512, 7, true);
    assert_eq!(rig.to_device(id, pid, BASE..BASE + 512).nr_moved, 512);
    rig.host.assert_all(pid, BASE..BASE + 512, 7);
    assert_eq!(rig.to_system(id, pid, BASE..BASE + 512).nr_moved, 512);
    rig.host.assert_all(pid, BASE..BASE + 512, 7);
    rig.assert_sound();
}

#[test]
fn a_query_tells_where_pages_are_and_changes_nothing() {
    let rig = Rig::new();
    let id = rig.attach(0, 1).unwrap();
    let special = VmaSpec {
        is_special: true,
        ..anonymous(BASE + 8..BASE + 9)
    };
    let pid = rig.host.spawn([anonymous(BASE..BASE + 8), special]);
    rig.host.store_all(pid, BASE..BASE + 3, 7);
    rig.host.map_foreign(pid, BASE + 4);
    rig.to_device(id, pid, BASE..BASE + 2);
    let before = rig.host.fingerprint();
    let map = rig
        .query(id, pid, BASE..BASE + 10, cohmem_uapi::QUERY_REASONS)
        .unwrap();
    assert_eq!(rig.host.fingerprint(), before);
    let seen: Vec<_> = map
        .iter()
        .map(|entry| (entry.tier(), entry.reason()))
        .collect();
    let untouched = (Tier::None, Some(Reason::Untouched));
    assert_eq!(
        seen,
        [
            (Tier::Device, Some(Reason::AlreadyThere)),
            (Tier::Device, Some(Reason::AlreadyThere)),
            (Tier::System, None),
            untouched,
            (Tier::Foreign, Some(Reason::OtherDevice)),
            untouched,
            untouched,
            untouched,
            (Tier::None, Some(Reason::Special)),
            (Tier::None, Some(Reason::Unmapped)),
        ]
    );
}

#[test]
fn a_signal_ends_a_call_after_the_window_it_is_in() {
    let (rig, id, pid) = Rig::with_device(4, 1500);
    rig.host.store_all(pid, BASE..BASE + 1500, 7);
    rig.host.fail(Fallible::Signalled, 2);
    let moved = rig.to_device(id, pid, BASE..BASE + 1500);
    assert_eq!((moved.next, moved.nr_moved), (BASE + 1024, 1024));
    rig.host.heal();
    let moved = rig.to_device(id, pid, moved.next..BASE + 1500);
    assert_eq!(moved.nr_moved, 476);
    rig.host.fail(Fallible::Signalled, 1);
    assert_eq!(rig.query(id, pid, BASE..BASE + 1500, 0).unwrap().len(), 512);
    rig.host.assert_all(pid, BASE..BASE + 1500, 7);
    rig.assert_sound();
}

#[test]
fn the_struct_pages_can_live_on_the_device() {
    let rig = Rig::new();
    rig.host.world().chunk_bytes = 2 * RANGE_ALIGN;
    let mut args = args::Attach {
        start: SOFT_START,
        length: 5 * RANGE_ALIGN,
        flags: ATTACH_ALTMAP,
        ..args::Attach::default()
    };
    rig.driver.attach(&mut args).unwrap();
    let id = rig.driver.open(args.device).unwrap();
    let info = rig.info(id);
    // Two chunks of 1024 frames give 512 each; the last, of 512, is too small to.
    assert_eq!((info.nr_chunks, info.nr_metadata), (3, 1024));
    assert_eq!((args.nr_frames, info.nr_free), (1536, 1536));
    assert_eq!(info.nr_poisoned, 0);
    let pid = rig.spawn(1600);
    rig.host.store_all(pid, BASE..BASE + 1600, 7);
    assert_eq!(rig.to_device(id, pid, BASE..BASE + 1600).nr_moved, 1536);
    rig.host.assert_all(pid, BASE..BASE + 1600, 7);
    rig.assert_sound();
    rig.detach(id).unwrap();
    assert!(rig.host.world().claims.is_empty());
}

#[test]
fn frames_have_the_addresses_of_their_device() {
    let (rig, _first, pid) = Rig::with_device(1, 4);
    let second = rig.attach(1, 2).unwrap();
    rig.host.store_all(pid, BASE..BASE + 4, 7);
    rig.to_device(second, pid, BASE..BASE + 4);
    let info = rig.info(second);
    assert_eq!(info.start, SOFT_START + RANGE_ALIGN);
    for page in BASE..BASE + 4 {
        let phys = rig.host.pfn(pid, page) * PAGE;
        assert!((info.start..info.start + info.length).contains(&phys));
        assert!(matches!(rig.host.home(pid, page), Home::Frame { .. }));
    }
}
