// SPDX-License-Identifier: GPL-2.0
//! Whom frames are charged to, and limits that are kept to the frame.

use std::{collections::BTreeMap, sync::Arc, thread};

use cohmem_kcore::{DeviceId, Errno, OpenNode};
use cohmem_uapi::{
    Direction, MAX_ACCOUNTS, MIGRATE_FILL, MIGRATE_SHARED, QUOTA_DEFAULT, QUOTA_INHERITED,
    QUOTA_UNLIMITED, Reason, args,
};

use crate::fake::{BASE, Fallible, Moment, PAGE, Pid, Rig, USER, addr};

const OTHER: u32 = 1001;
const NR_PAGES: u64 = 40;

fn rig() -> (Rig, DeviceId, Pid) {
    let (rig, id, pid) = Rig::with_device(1, NR_PAGES);
    rig.host.store_all(pid, BASE..BASE + NR_PAGES, 7);
    (rig, id, pid)
}

fn set_default(rig: &Rig, id: DeviceId, limit: u64) {
    let args = args::Quota {
        flags: QUOTA_DEFAULT,
        limit,
        ..args::Quota::default()
    };
    rig.driver.set_quota(id, &args).unwrap();
}

fn account(user: u32, flags: u32, limit: u64, charged: u64) -> args::Account {
    args::Account {
        user,
        flags,
        limit,
        charged,
    }
}

#[test]
fn a_user_at_the_limit_gets_no_further_frame() {
    let (rig, id, pid) = rig();
    rig.set_limit(id, USER, 10).unwrap();
    let moved = rig.to_device(id, pid, BASE..BASE + NR_PAGES);
    assert_eq!((moved.nr_moved, moved.stayed.get(Reason::Quota)), (10, 30));
    assert_eq!(rig.info(id).nr_allocated, 10);
    rig.to_device(id, pid, BASE + 10..BASE + NR_PAGES)
        .assert_all_stayed(30, Reason::Quota);
    // What goes home makes room.
    assert_eq!(rig.to_system(id, pid, BASE..BASE + 3).nr_moved, 3);
    let moved = rig.to_device(id, pid, BASE + 20..BASE + NR_PAGES);
    assert_eq!((moved.nr_moved, moved.stayed.get(Reason::Quota)), (3, 17));
    assert_eq!(rig.accounts(id).unwrap(), [account(USER, 0, 10, 10)]);
    rig.host.assert_all(pid, BASE..BASE + NR_PAGES, 7);
    rig.assert_sound();
}

#[test]
fn holes_are_filled_up_to_the_limit() {
    let (rig, id, pid) = Rig::with_device(1, NR_PAGES);
    rig.set_limit(id, USER, 10).unwrap();
    let filled = rig.fill(id, pid, BASE..BASE + NR_PAGES);
    assert_eq!(
        (filled.nr_filled, filled.stayed.get(Reason::Quota)),
        (10, 30)
    );
    rig.assert_sound();
}

#[test]
fn nobody_else_suffers_from_a_user_over_the_limit() {
    let (rig, id, pid) = rig();
    let other = rig.spawn(NR_PAGES);
    rig.host.store_all(other, BASE..BASE + NR_PAGES, 9);
    rig.set_limit(id, USER, 4).unwrap();
    assert_eq!(rig.to_device(id, pid, BASE..BASE + NR_PAGES).nr_moved, 4);
    rig.host.act_as(OTHER);
    let moved = rig.to_device(id, other, BASE..BASE + NR_PAGES);
    assert_eq!(moved.nr_moved, NR_PAGES);
    let charged = BTreeMap::from([(USER, 4), (OTHER, NR_PAGES)]);
    assert_eq!(rig.charged(id), charged);
    rig.assert_sound();
}

#[test]
fn the_default_holds_for_who_has_no_limit_of_their_own() {
    let (rig, id, pid) = rig();
    set_default(&rig, id, 5);
    rig.set_quota(id, OTHER, QUOTA_UNLIMITED).unwrap();
    assert_eq!(rig.to_device(id, pid, BASE..BASE + NR_PAGES).nr_moved, 5);
    rig.host.act_as(0);
    assert_eq!(
        rig.to_device(id, pid, BASE + 5..BASE + NR_PAGES).nr_moved,
        5
    );
    rig.host.act_as(OTHER);
    let moved = rig.to_device(id, pid, BASE + 10..BASE + NR_PAGES);
    assert_eq!(moved.nr_moved, 30);
    // Over the limit that holds from now on: what is held stays, nothing comes.
    rig.set_limit(id, OTHER, 3).unwrap();
    assert_eq!(rig.to_system(id, pid, BASE + 10..BASE + 12).nr_moved, 2);
    rig.to_device(id, pid, BASE + 10..BASE + 12)
        .assert_all_stayed(2, Reason::Quota);
    rig.set_quota(id, OTHER, QUOTA_INHERITED).unwrap();
    rig.to_device(id, pid, BASE + 10..BASE + 12)
        .assert_all_stayed(2, Reason::Quota);
    let mut list = args::Accounts::default();
    rig.driver.accounts(id, &mut list).unwrap();
    assert_eq!(
        (list.nr_accounts, list.default_flags, list.default_limit),
        (3, 0, 5)
    );
    let args = args::Quota {
        flags: QUOTA_DEFAULT | QUOTA_UNLIMITED,
        ..args::Quota::default()
    };
    rig.driver.set_quota(id, &args).unwrap();
    assert_eq!(rig.to_device(id, pid, BASE + 10..BASE + 12).nr_moved, 2);
    rig.driver.accounts(id, &mut list).unwrap();
    assert_eq!(
        (list.default_flags, list.default_limit),
        (QUOTA_UNLIMITED, 0)
    );
    rig.assert_sound();
}

#[test]
fn a_limit_of_none_is_a_limit() {
    let (rig, id, pid) = rig();
    rig.set_limit(id, USER, 0).unwrap();
    rig.to_device(id, pid, BASE..BASE + NR_PAGES)
        .assert_all_stayed(NR_PAGES, Reason::Quota);
    assert_eq!(rig.accounts(id).unwrap(), [account(USER, 0, 0, 0)]);
}

#[test]
fn a_page_that_outlives_its_charger_stays_charged() {
    let (rig, id, pid) = rig();
    assert_eq!(rig.to_device(id, pid, BASE..BASE + 8).nr_moved, 8);
    let child = rig.host.fork(pid);
    assert_eq!(rig.charged(id), BTreeMap::from([(USER, 8)]));
    // The other user's move of a shared page is to where it is already.
    rig.host.act_as(OTHER);
    rig.migrate(
        id,
        child,
        BASE..BASE + 8,
        Direction::ToDevice,
        MIGRATE_SHARED,
    )
    .unwrap()
    .assert_all_stayed(8, Reason::AlreadyThere);
    rig.host.exit(pid);
    assert_eq!(rig.charged(id), BTreeMap::from([(USER, 8)]));
    // A copy on write is system memory, and gives the frame up.
    rig.host.unmap(child, BASE..BASE + 2);
    assert_eq!(rig.charged(id), BTreeMap::from([(USER, 6)]));
    // Home and back by the other: theirs from then on.
    assert_eq!(rig.to_system(id, child, BASE + 2..BASE + 5).nr_moved, 3);
    assert_eq!(rig.to_device(id, child, BASE + 2..BASE + 5).nr_moved, 3);
    let charged = BTreeMap::from([(USER, 3), (OTHER, 3)]);
    assert_eq!(rig.charged(id), charged);
    rig.host.exit(child);
    assert_eq!(rig.charged(id), BTreeMap::new());
    rig.assert_sound();
}

#[test]
fn a_move_between_devices_is_charged_where_it_goes() {
    let (rig, first, pid) = rig();
    let second = rig.attach(1, 1).unwrap();
    rig.set_limit(second, OTHER, 6).unwrap();
    assert_eq!(rig.to_device(first, pid, BASE..BASE + 8).nr_moved, 8);
    rig.host.act_as(OTHER);
    let moved = rig.to_device(second, pid, BASE..BASE + 8);
    assert_eq!((moved.nr_moved, moved.stayed.get(Reason::Quota)), (6, 2));
    assert_eq!(rig.charged(first), BTreeMap::from([(USER, 2)]));
    assert_eq!(rig.charged(second), BTreeMap::from([(OTHER, 6)]));
    rig.assert_sound();
}

#[test]
fn a_frame_that_was_lost_stays_charged_until_it_is_freed() {
    let (rig, id, pid) = rig();
    rig.to_device(id, pid, BASE..BASE + 4);
    let pfn = rig.host.pfn(pid, BASE);
    rig.host.hold(pfn);
    rig.host.memory_failure(pfn);
    assert_eq!(rig.charged(id), BTreeMap::from([(USER, 4)]));
    rig.host.release(pfn);
    assert_eq!(rig.charged(id), BTreeMap::from([(USER, 3)]));
    rig.assert_sound();
}

#[test]
fn a_page_that_stays_in_the_end_costs_nothing() {
    let (rig, id, pid) = rig();
    // Frames are taken for all four pages at once, and one of those turns out to be in use.
    let held = rig.host.pfn(pid, BASE + 2);
    rig.host.hold(held);
    let moved = rig.to_device(id, pid, BASE..BASE + 4);
    assert_eq!(moved.nr_moved, 3);
    assert_eq!(rig.charged(id), BTreeMap::from([(USER, 3)]));
    rig.host.release(held);
    rig.assert_sound();
}

#[test]
fn a_full_device_is_not_a_quota() {
    let (rig, id, pid) = Rig::with_device(1, 520);
    rig.set_limit(id, USER, 600).unwrap();
    let filled = rig.fill(id, pid, BASE..BASE + 520);
    assert_eq!(
        (filled.nr_filled, filled.stayed.get(Reason::NoFrame)),
        (512, 8)
    );
    // What was granted and not there is not charged.
    assert_eq!(rig.charged(id), BTreeMap::from([(USER, 512)]));
    rig.assert_sound();
}

#[test]
fn an_account_is_another_user_s_once_it_is_empty() {
    let (rig, id, pid) = rig();
    assert_eq!(rig.to_device(id, pid, BASE..BASE + 1).nr_moved, 1);
    rig.set_limit(id, OTHER, 0).unwrap();
    let use_one = |user: u32| {
        rig.host.act_as(user);
        let moved = rig.migrate(
            id,
            pid,
            BASE + 1..BASE + 2,
            Direction::ToDevice,
            MIGRATE_FILL,
        )?;
        assert_eq!(moved.nr_moved, 1, "user {user}");
        assert_eq!(rig.charged(id).get(&user), Some(&1), "user {user}");
        rig.to_system(id, pid, BASE + 1..BASE + 2);
        Ok::<_, Errno>(())
    };
    // Many more than there are slots, one after the other; the first two keep theirs.
    for user in 0..3 * MAX_ACCOUNTS {
        use_one(5000 + user).unwrap();
    }
    assert_eq!(
        rig.accounts(id).unwrap(),
        [
            account(USER, QUOTA_INHERITED, 0, 1),
            account(OTHER, 0, 0, 0)
        ]
    );
    // All at once.
    for user in 2..MAX_ACCOUNTS {
        rig.set_limit(id, 9000 + user, 1).unwrap();
    }
    assert_eq!(use_one(7), Err(Errno::ENOSPC));
    assert_eq!(rig.set_limit(id, 7, 1), Err(Errno::ENOSPC));
    assert_eq!(rig.accounts(id).unwrap().len(), 256);
    // Going home and setting the default need no account.
    rig.set_quota(id, 7, QUOTA_INHERITED).unwrap();
    rig.set_quota(id, 9000 + 2, QUOTA_INHERITED).unwrap();
    use_one(7).unwrap();
    use_one(9000 + 3).unwrap();
    rig.assert_sound();
}

#[test]
fn users_who_race_to_the_limit_never_pass_it() {
    const NR_THREADS: u64 = 4;
    const LIMIT: u64 = 100;
    let (rig, id, _pid) = Rig::with_device(1, 1);
    rig.set_limit(id, USER, LIMIT).unwrap();
    thread::scope(|scope| {
        for _thread in 0..NR_THREADS {
            let rig = &rig;
            scope.spawn(move || {
                for _round in 0..50 {
                    let pid = rig.spawn(NR_PAGES);
                    let filled = rig.fill(id, pid, BASE..BASE + NR_PAGES);
                    let stayed = filled.stayed.get(Reason::Quota);
                    assert_eq!(filled.nr_filled + stayed, NR_PAGES);
                    assert!(rig.info(id).nr_allocated <= LIMIT);
                    rig.host.exit(pid);
                }
            });
        }
    });
    rig.assert_sound();
    assert_eq!(rig.info(id).nr_allocated, 0);
}

#[test]
fn quota_and_accounts_refuse_what_the_header_says() {
    type ChangeFn<T> = fn(&mut T);
    let quotas: &[(Errno, ChangeFn<args::Quota>)] = &[
        (Errno::EINVAL, |args| args.reserved[0] = 1),
        (Errno::EINVAL, |args| args.reserved[1] = 1),
        (Errno::EOPNOTSUPP, |args| args.flags = 1 << 3),
        (Errno::EOPNOTSUPP, |args| args.flags = 1 << 31),
        (Errno::EINVAL, |args| args.flags = QUOTA_DEFAULT),
        (Errno::EINVAL, |args| {
            (args.user, args.flags) = (0, QUOTA_DEFAULT | QUOTA_INHERITED);
            args.limit = 0;
        }),
        (Errno::EINVAL, |args| {
            args.flags = QUOTA_UNLIMITED | QUOTA_INHERITED;
            args.limit = 0;
        }),
        (Errno::EINVAL, |args| args.flags = QUOTA_UNLIMITED),
        (Errno::EINVAL, |args| args.flags = QUOTA_INHERITED),
        (Errno::ERANGE, |args| args.limit = (1 << 52) + 1),
        (Errno::ERANGE, |args| args.user = u32::MAX),
    ];
    let lists: &[(Errno, ChangeFn<args::Accounts>)] = &[
        (Errno::EINVAL, |args| args.reserved[0] = 1),
        (Errno::EINVAL, |args| args.reserved[1] = 1),
        (Errno::EOPNOTSUPP, |args| args.flags = 1),
        (Errno::EMSGSIZE, |args| args.nr_max = MAX_ACCOUNTS + 1),
        (Errno::EFAULT, |args| args.nr_max = 1),
        (Errno::EFAULT, |args| {
            (args.nr_max, args.accounts_ptr) = (1, 8);
        }),
    ];
    let (rig, id, pid) = rig();
    rig.set_limit(id, USER, 3).unwrap();
    rig.to_device(id, pid, BASE..BASE + 2);
    let before = rig.accounts(id).unwrap();
    for (index, (errno, change_fn)) in quotas.iter().enumerate() {
        let mut args = args::Quota {
            user: USER,
            limit: 1,
            ..args::Quota::default()
        };
        change_fn(&mut args);
        let result = rig.driver.set_quota(id, &args);
        assert_eq!(result, Err(*errno), "quota case {index}");
        assert_eq!(rig.accounts(id).unwrap(), before, "quota case {index}");
    }
    for (index, (errno, change_fn)) in lists.iter().enumerate() {
        let mut args = args::Accounts::default();
        change_fn(&mut args);
        let result = rig.driver.accounts(id, &mut args);
        assert_eq!(result, Err(*errno), "accounts case {index}");
    }
    rig.host.set_privileges(false, true);
    assert_eq!(rig.set_limit(id, USER, 1), Err(Errno::EPERM));
    // Anyone who may open the node may see.
    assert_eq!(rig.accounts(id).unwrap(), before);
    rig.host.set_privileges(true, true);
    rig.detach(id).unwrap();
    assert_eq!(rig.set_limit(id, USER, 1), Err(Errno::ENODEV));
    assert_eq!(rig.accounts(id), Err(Errno::ENODEV));
    // Limits end with the attachment.
    let id = rig.attach(0, 1).unwrap();
    assert_eq!(rig.accounts(id).unwrap(), []);
    assert_eq!(rig.to_device(id, pid, BASE..BASE + 8).nr_moved, 8);
}

#[test]
fn a_short_list_says_how_many_there_are() {
    let (rig, id, _pid) = rig();
    for user in 1..=3 {
        rig.set_limit(id, user, u64::from(user)).unwrap();
    }
    let accounts_ptr = rig.host.user_buffer(2 * size_of::<args::Account>() + 1);
    let mut list = args::Accounts {
        nr_max: 2,
        accounts_ptr,
        ..args::Accounts::default()
    };
    rig.driver.accounts(id, &mut list).unwrap();
    assert_eq!(list.nr_accounts, 3);
    let bytes = rig.host.free_user_buffer(accounts_ptr);
    assert_eq!(bytes[48], 0xaa, "written past the list");
    assert_eq!(bytes[24..28], 2u32.to_ne_bytes());
}

/// Another user's migration of two windows, in the first of which all is there already; between them the
/// hook runs, when every account but the migrating user's is in use.
fn with_a_hook_between_windows(
    hook_fn: impl FnOnce(&Rig, DeviceId) + Send + 'static,
) -> Result<args::Migrate, Errno> {
    const NR_BOTH: u64 = 1024;
    let (rig, id, pid) = Rig::with_device(3, NR_BOTH);
    rig.host.store_all(pid, BASE..BASE + NR_BOTH, 3);
    assert_eq!(rig.to_device(id, pid, BASE..BASE + 512).nr_moved, 512);
    for user in 2..MAX_ACCOUNTS {
        rig.set_limit(id, 9000 + user, 1).unwrap();
    }
    let rig = Arc::new(rig);
    let inner = Arc::clone(&rig);
    rig.host
        .on(Moment::Relaxing, move |_host| hook_fn(&inner, id));
    rig.host.act_as(OTHER);
    // Without a list of reasons, whose check lets other tasks run as well.
    let mut args = args::Migrate {
        start: addr(BASE),
        length: NR_BOTH * PAGE,
        direction: Direction::ToDevice as u32,
        proc_fd: i32::try_from(pid.0).unwrap(),
        ..args::Migrate::default()
    };
    let result = rig.driver.migrate(&OpenNode::new(id), &mut args);
    rig.host.assert_hooks_ran();
    rig.host.heal();
    rig.assert_sound();
    result.map(|()| args)
}

#[test]
fn an_account_that_was_taken_away_between_windows_is_opened_again() {
    let moved = with_a_hook_between_windows(|rig, id| {
        rig.set_limit(id, 7, 1).unwrap();
        rig.set_quota(id, 7, QUOTA_INHERITED).unwrap();
    });
    assert_eq!(moved.unwrap().nr_moved, 512);
}

#[test]
fn a_migration_that_finds_no_account_any_more_ends_early() {
    let moved = with_a_hook_between_windows(|rig, id| {
        rig.set_limit(id, 7, 1).unwrap();
    });
    let moved = moved.unwrap();
    assert_eq!((moved.next, moved.nr_moved), (addr(BASE + 512), 0));
}

#[test]
fn a_killed_task_waits_for_no_account() {
    let moved = with_a_hook_between_windows(|rig, id| {
        rig.set_limit(id, 7, 1).unwrap();
        rig.host.fail(Fallible::Killed, 1);
    });
    assert_eq!(moved.unwrap_err(), Errno::EINTR);
}
