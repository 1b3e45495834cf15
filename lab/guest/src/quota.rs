//! What a user may hold of a device: limits kept to the frame, and charges that stay with who asked.

use std::fs;

use cohmem_uapi::{
    Direction, MIGRATE_FILL, QUOTA_DEFAULT, QUOTA_INHERITED, QUOTA_UNLIMITED, Reason,
};

use crate::{
    Test,
    driver::{Device, errno, named},
    lifecycle::wait_until,
    sys::{
        memory::{HUGE, Memory, PAGE},
        process::{Child, Ended, become_real_user, become_user},
        userfault::Userfault,
    },
};

pub(crate) const TESTS: &[Test] = &[
    (
        "a_limit_is_kept_to_the_frame_and_nobody_else_suffers",
        a_limit_is_kept_to_the_frame_and_nobody_else_suffers,
    ),
    (
        "processes_of_a_user_share_the_limit",
        processes_of_a_user_share_the_limit,
    ),
    (
        "a_page_that_outlives_its_charger_stays_charged",
        a_page_that_outlives_its_charger_stays_charged,
    ),
    (
        "who_asks_is_charged_whose_descriptor_it_may_be",
        who_asks_is_charged_whose_descriptor_it_may_be,
    ),
    (
        "a_page_that_userfaultfd_moves_stays_charged",
        a_page_that_userfaultfd_moves_stays_charged,
    ),
    (
        "a_move_between_devices_is_charged_where_it_goes",
        a_move_between_devices_is_charged_where_it_goes,
    ),
    (
        "the_table_of_accounts_is_used_again",
        the_table_of_accounts_is_used_again,
    ),
];

const ROOT: u32 = 0;
const USER: u32 = 65_534;
const OTHER: u32 = 4242;
const NR_PAGES: usize = 600;
const LIMIT: u64 = 100;

fn device() -> Device {
    Device::attach_part(0, 64 << 20)
}

fn filled() -> Memory {
    Memory::filled(NR_PAGES * PAGE, |index| index as u64)
}

fn run(body: impl FnOnce()) {
    let child = Child::start(|_steps| body());
    assert_eq!(child.join(), Ended::Status(0));
}

fn a_limit_is_kept_to_the_frame_and_nobody_else_suffers() {
    let device = device();
    device.set_quota(USER, 0, LIMIT).expect("a limit");
    let mut child = Child::start(|steps| {
        become_user(USER);
        let memory = filled();
        let moved = device.take(&memory);
        assert_eq!(moved.moved, LIMIT);
        let nr_stayed = NR_PAGES as u64 - LIMIT;
        assert_eq!(named(&moved.stayed), [("quota", nr_stayed)]);
        memory.expect(|index| index as u64);
        steps.done();
        device.give(&memory);
        let hole = Memory::anonymous(NR_PAGES * PAGE);
        let fill = Device::migrate_args(&hole, Direction::ToDevice, MIGRATE_FILL);
        let moved = device.migrate_with(fill).expect("fill");
        assert_eq!(
            (moved.filled, moved.stayed.get(Reason::Quota)),
            (LIMIT, nr_stayed)
        );
        hole.expect(|_index| 0);
        // Two of them go, two more may come.
        hole.advise_part(0, 2 * PAGE, libc::MADV_DONTNEED)
            .expect("MADV_DONTNEED");
        assert_eq!(device.take(&memory).moved, 2);
        memory.expect(|index| index as u64);
    });
    child.wait_step();
    assert_eq!(device.charged(USER), LIMIT);
    // There is room for the others, up to the whole device.
    let memory = filled();
    device.take_all(&memory);
    assert_eq!(device.charged(ROOT), memory.nr_pages());
    child.go_on();
    assert_eq!(child.join(), Ended::Status(0));
    wait_until(|| device.charged(USER) == 0);
    drop(memory);
    let accounts = device.accounts();
    assert_eq!(accounts.len(), 1, "{accounts:?}");
    assert_eq!((accounts[0].user, accounts[0].limit), (USER, LIMIT));
}

fn processes_of_a_user_share_the_limit() {
    let device = device();
    // The default limits root as well, and who has a limit of their own not.
    device
        .set_quota(0, QUOTA_DEFAULT, LIMIT)
        .expect("a default");
    device
        .set_quota(OTHER, QUOTA_UNLIMITED, 0)
        .expect("no limit");
    let children: Vec<Child> = (0..3)
        .map(|_child| {
            Child::start(|_steps| {
                become_user(USER);
                let memory = filled();
                for _round in 0..20 {
                    let moved = device.take(&memory);
                    let nr_there = moved.moved + moved.stayed.get(Reason::AlreadyThere);
                    assert!(nr_there <= LIMIT, "{nr_there}");
                    let nr_allocated = device.allocated();
                    assert!(nr_allocated <= LIMIT, "{nr_allocated}");
                    memory.expect(|index| index as u64);
                    device.give(&memory);
                }
            })
        })
        .collect();
    for child in children {
        assert_eq!(child.join(), Ended::Status(0));
    }
    wait_until(|| device.charged(USER) == 0);
    let memory = filled();
    assert_eq!(device.take(&memory).moved, LIMIT);
    run(|| {
        become_user(OTHER);
        device.take_all_blindly(&filled());
    });
}

fn a_page_that_outlives_its_charger_stays_charged() {
    const WHOLE: &str = "/tmp/quota-whole";
    const GO_ON: &str = "/tmp/quota-go-on";
    for path in [WHOLE, GO_ON] {
        // It need not be there.
        drop(fs::remove_file(path));
    }
    let device = device();
    let memory = Memory::anonymous(NR_PAGES * PAGE);
    let nr_pages = memory.nr_pages();
    let parent = Child::start(|_steps| {
        become_user(USER);
        memory.fill(|index| index as u64);
        device.take_all_blindly(&memory);
        let orphan = Child::start(|_steps| {
            wait_until(|| fs::exists(GO_ON).expect("/tmp"));
            memory.expect(|index| index as u64);
            // A copy on write is system memory.
            memory
                .page_word(0)
                .store(7, std::sync::atomic::Ordering::Relaxed);
            fs::write(WHOLE, "whole").expect("/tmp");
            wait_until(|| !fs::exists(GO_ON).expect("/tmp"));
        });
        assert_eq!(device.charged(USER), nr_pages, "one charge for both");
        std::mem::forget(orphan);
    });
    assert_eq!(parent.join(), Ended::Status(0));
    assert_eq!((device.charged(USER), device.charged(ROOT)), (nr_pages, 0));
    fs::write(GO_ON, "go on").expect("/tmp");
    wait_until(|| fs::exists(WHOLE).expect("/tmp"));
    assert_eq!(device.charged(USER), device.allocated());
    fs::remove_file(GO_ON).expect("/tmp");
    wait_until(|| device.charged(USER) == 0);
    assert_eq!(device.allocated(), 0);
}

fn who_asks_is_charged_whose_descriptor_it_may_be() {
    let device = device();
    let mut child = Child::start(|steps| {
        // Root opened the descriptor.
        become_user(USER);
        let memory = filled();
        device.take_all_blindly(&memory);
        steps.done();
        assert_eq!(device.give(&memory).moved, memory.nr_pages());
        steps.done();
        memory.expect(|index| index as u64);
    });
    child.wait_step();
    assert_eq!(
        (device.charged(USER), device.charged(ROOT)),
        (NR_PAGES as u64, 0)
    );
    child.go_on();
    child.wait_step();
    assert_eq!(device.accounts(), []);
    // A set-user-ID program acts for who started it.
    run(|| {
        become_real_user(OTHER);
        let memory = filled();
        device.take_all_blindly(&memory);
        assert_eq!(
            (device.charged(OTHER), device.charged(ROOT)),
            (NR_PAGES as u64, 0)
        );
    });
    wait_until(|| device.charged(OTHER) == 0);
    child.go_on();
    assert_eq!(child.join(), Ended::Status(0));
    // Root moves another user's memory: root asked.
    let memory = Memory::anonymous(NR_PAGES * PAGE);
    let mut child = Child::start(|steps| {
        memory.fill(|index| index as u64);
        become_user(USER);
        steps.done();
        memory.expect(|index| index as u64);
    });
    child.wait_step();
    let moved = device
        .migrate_process(child.pid(), &memory, Direction::ToDevice, 0)
        .expect("root may");
    assert_eq!(moved.moved, memory.nr_pages());
    assert_eq!(
        (device.charged(USER), device.charged(ROOT)),
        (0, moved.moved)
    );
    child.go_on();
    assert_eq!(child.join(), Ended::Status(0));
}

fn a_page_that_userfaultfd_moves_stays_charged() {
    let device = device();
    run(|| {
        let target = Memory::anonymous(HUGE);
        let userfault = Userfault::register(&target).expect("userfaultfd");
        become_user(USER);
        let source = Memory::filled(HUGE, |index| index as u64);
        device.take_all_blindly(&source);
        let nr_pages = source.nr_pages();
        assert_eq!(device.charged(USER), nr_pages);
        let nr_bytes = userfault.move_pages(&source, &target).expect("UFFDIO_MOVE");
        assert_eq!(nr_bytes, HUGE as u64);
        assert_eq!(
            (device.charged(USER), device.allocated()),
            (nr_pages, nr_pages)
        );
        target.expect(|index| index as u64);
        // The old place is empty: with it nothing goes.
        drop(source);
        assert_eq!(device.charged(USER), nr_pages);
        assert_eq!(device.give(&target).moved, nr_pages);
        assert_eq!(device.charged(USER), 0);
        target.expect(|index| index as u64);
        drop(target);
    });
}

fn a_move_between_devices_is_charged_where_it_goes() {
    let first = device();
    let second = Device::attach_part(1, 64 << 20);
    second.set_quota(USER, 0, LIMIT).expect("a limit");
    run(|| {
        become_user(USER);
        let memory = filled();
        first.take_all_blindly(&memory);
        let moved = second.take(&memory);
        let nr_stayed = NR_PAGES as u64 - LIMIT;
        assert_eq!(
            (moved.moved, moved.stayed.get(Reason::Quota)),
            (LIMIT, nr_stayed)
        );
        assert_eq!(
            (first.charged(USER), second.charged(USER)),
            (nr_stayed, LIMIT)
        );
        memory.expect(|index| index as u64);
    });
    wait_until(|| first.charged(USER) + second.charged(USER) == 0);
}

fn the_table_of_accounts_is_used_again() {
    let device = device();
    // More than there are slots, one after the other.
    for user in 0..270 {
        run(|| {
            become_real_user(10_000 + user);
            let memory = Memory::filled(4 * PAGE, |index| index as u64);
            device.take_all_blindly(&memory);
            assert_eq!(device.charged(10_000 + user), memory.nr_pages());
            device.give_all(&memory);
        });
    }
    assert_eq!(device.accounts(), []);
    let memory = Memory::filled(4 * PAGE, |index| index as u64);
    for user in 0..256 {
        device.set_quota(20_000 + user, 0, 1).expect("a limit");
    }
    assert_eq!(errno(device.set_quota(7, 0, 1)), libc::ENOSPC);
    let take = Device::migrate_args(&memory, Direction::ToDevice, 0);
    assert_eq!(errno(device.migrate_with(take).map(drop)), libc::ENOSPC);
    device
        .set_quota(20_000, QUOTA_INHERITED, 0)
        .expect("the default again");
    device.take_all(&memory);
    memory.expect(|index| index as u64);
}
