// SPDX-License-Identifier: GPL-2.0
//! Every reason that keeps a page where it is.

use cohmem_kcore::DeviceId;
use cohmem_uapi::{Direction, MIGRATE_EXEC, MIGRATE_FILL, QUERY_REASONS, Reason};

use crate::fake::{BASE, Fallible, Pid, Rig, VmaSpec, anonymous};

/// A page at `BASE` of the area, for the first process, and what keeps it from moving.
struct Case {
    name: &'static str,
    vma: VmaSpec,
    prepare_fn: fn(&Rig, DeviceId, Pid),
    direction: Direction,
    flags: u32,
    expected: Option<Reason>,
    /// What a query says, which looks without trying.
    queried: Option<Reason>,
}

fn touch(rig: &Rig, _id: DeviceId, pid: Pid) {
    rig.host.store(pid, BASE, 7);
}

fn move_there(rig: &Rig, id: DeviceId, pid: Pid) {
    rig.host.store(pid, BASE, 7);
    assert_eq!(rig.to_device(id, pid, BASE..BASE + 1).nr_moved, 1);
}

fn change(rig: &Rig, pid: Pid, change_fn: impl FnOnce(&mut crate::fake::Page)) {
    let pfn = rig.host.pfn(pid, BASE);
    rig.host.change_page(pfn, change_fn);
}

fn base_case() -> Case {
    Case {
        name: "plain",
        vma: anonymous(BASE..BASE + 4),
        prepare_fn: touch,
        direction: Direction::ToDevice,
        flags: 0,
        expected: None,
        queried: None,
    }
}

/// A case in which command and query agree.
fn case(name: &'static str, reason: Reason, prepare_fn: fn(&Rig, DeviceId, Pid)) -> Case {
    Case {
        name,
        prepare_fn,
        expected: Some(reason),
        queried: Some(reason),
        ..base_case()
    }
}

fn area_case(name: &'static str, reason: Reason, change_fn: fn(&mut VmaSpec)) -> Case {
    let mut case = case(name, reason, |_, _, _| ());
    change_fn(&mut case.vma);
    case
}

fn home_case(
    name: &'static str,
    expected: Option<Reason>,
    prepare_fn: fn(&Rig, DeviceId, Pid),
) -> Case {
    Case {
        name,
        prepare_fn,
        direction: Direction::ToSystem,
        expected,
        queried: Some(Reason::AlreadyThere),
        ..base_case()
    }
}

fn area_cases() -> Vec<Case> {
    vec![
        area_case("hugetlb", Reason::Hugetlb, |vma| vma.is_hugetlb = true),
        area_case("special", Reason::Special, |vma| vma.is_special = true),
        area_case("shared memory", Reason::File, |vma| vma.is_shared = true),
        area_case("unreadable", Reason::NoPermission, |vma| {
            vma.is_unreadable = true;
        }),
        area_case("executable", Reason::Executable, |vma| {
            vma.is_executable = true;
        }),
        Case {
            name: "executable, when asked for",
            vma: VmaSpec {
                is_executable: true,
                ..anonymous(BASE..BASE + 4)
            },
            flags: MIGRATE_EXEC,
            queried: Some(Reason::Executable),
            ..base_case()
        },
        Case {
            name: "untouched file page",
            vma: VmaSpec {
                is_file_private: true,
                ..anonymous(BASE..BASE + 4)
            },
            flags: MIGRATE_FILL,
            ..case("", Reason::Untouched, |_, _, _| ())
        },
        Case {
            name: "file page that was read",
            vma: VmaSpec {
                is_file_private: true,
                ..anonymous(BASE..BASE + 4)
            },
            ..case("", Reason::File, |rig, _, pid| {
                rig.host.load(pid, BASE);
            })
        },
        Case {
            name: "file page that was written",
            vma: VmaSpec {
                is_file_private: true,
                ..anonymous(BASE..BASE + 4)
            },
            ..base_case()
        },
        Case {
            name: "userfault hole",
            vma: VmaSpec {
                awaits_userfault: true,
                ..anonymous(BASE..BASE + 4)
            },
            flags: MIGRATE_FILL,
            expected: Some(Reason::Userfault),
            queried: Some(Reason::Untouched),
            ..case("", Reason::Userfault, |_, _, _| ())
        },
    ]
}

fn page_cases() -> Vec<Case> {
    vec![
        base_case(),
        case("already there", Reason::AlreadyThere, move_there),
        case("untouched", Reason::Untouched, |_, _, _| ()),
        case("zero page", Reason::Untouched, |rig, _, pid| {
            rig.host.load(pid, BASE);
        }),
        Case {
            queried: Some(Reason::Untouched),
            ..case("swapped", Reason::Swapped, |rig, _, pid| {
                rig.host.store(pid, BASE, 7);
                assert!(rig.host.swap_out(pid, BASE));
            })
        },
        case("unmapped entry", Reason::NoPermission, |rig, _, pid| {
            rig.host.forbid(pid, BASE);
        }),
        case("another driver's", Reason::OtherDevice, |rig, _, pid| {
            rig.host.map_foreign(pid, BASE);
        }),
        case("large folio", Reason::LargeFolio, |rig, _, pid| {
            rig.host.map_folio(pid, BASE..BASE + 4, 7, false);
        }),
        Case {
            name: "large folio on a newer kernel",
            prepare_fn: |rig, _, pid| {
                rig.host.world().moves_partly_mapped = true;
                rig.host.map_folio(pid, BASE..BASE + 4, 7, false);
            },
            ..base_case()
        },
        case(
            "shared large folio on a newer kernel",
            Reason::Shared,
            |rig, _, pid| {
                rig.host.world().moves_partly_mapped = true;
                rig.host.map_folio(pid, BASE..BASE + 4, 7, false);
                rig.host.fork(pid);
            },
        ),
        Case {
            name: "page in the swap cache",
            prepare_fn: |rig, _, pid| {
                rig.host.store(pid, BASE, 7);
                change(rig, pid, |page| page.is_in_swapcache = true);
            },
            ..base_case()
        },
        Case {
            name: "page in an LRU batch",
            prepare_fn: |rig, _, pid| {
                rig.host.store(pid, BASE, 7);
                change(rig, pid, |page| page.batched = 1);
            },
            ..base_case()
        },
        case("shared", Reason::Shared, |rig, _, pid| {
            rig.host.store(pid, BASE, 7);
            rig.host.fork(pid);
        }),
        case("merged", Reason::Ksm, |rig, _, pid| {
            rig.host.store(pid, BASE, 7);
            assert!(rig.host.merge(&[(pid, BASE)]));
        }),
        case("pinned", Reason::Pinned, |rig, _, pid| {
            rig.host.store(pid, BASE, 7);
            change(rig, pid, |page| page.is_pinned = true);
        }),
        case("held", Reason::ExtraRef, |rig, _, pid| {
            rig.host.store(pid, BASE, 7);
            rig.host.hold(rig.host.pfn(pid, BASE));
        }),
        case("locked", Reason::Locked, |rig, _, pid| {
            rig.host.store(pid, BASE, 7);
            change(rig, pid, |page| page.is_locked = true);
        }),
        case("poisoned", Reason::Poisoned, |rig, _, pid| {
            rig.host.store(pid, BASE, 7);
            change(rig, pid, |page| page.is_poisoned = true);
        }),
        Case {
            queried: None,
            ..case("unreadable content", Reason::Poisoned, |rig, _, pid| {
                rig.host.store(pid, BASE, 7);
                change(rig, pid, |page| page.is_broken = true);
            })
        },
        Case {
            queried: None,
            ..case("refused by the kernel", Reason::Raced, |rig, _, pid| {
                rig.host.store(pid, BASE, 7);
                rig.host.fail_from(Fallible::Commit, 1);
            })
        },
        Case {
            queried: None,
            ..case("not isolated", Reason::Raced, |rig, _, pid| {
                rig.host.store(pid, BASE, 7);
                rig.host.fail_from(Fallible::CollectPage, 1);
            })
        },
        Case {
            queried: None,
            ..case("page tables that change", Reason::Raced, |rig, _, pid| {
                rig.host.store(pid, BASE, 7);
                rig.host.fail_from(Fallible::Snapshot, 1);
            })
        },
        Case {
            queried: None,
            ..case("full device", Reason::NoFrame, |rig, id, pid| {
                let other = rig.spawn(512);
                assert_eq!(rig.fill(id, other, BASE..BASE + 512).nr_filled, 512);
                rig.host.store(pid, BASE, 7);
            })
        },
    ]
}

fn home_cases() -> Vec<Case> {
    vec![
        home_case("home", None, move_there),
        Case {
            queried: None,
            ..home_case("at home already", Some(Reason::AlreadyThere), touch)
        },
        home_case(
            "held device page",
            Some(Reason::ExtraRef),
            |rig, id, pid| {
                move_there(rig, id, pid);
                rig.host.hold(rig.host.pfn(pid, BASE));
            },
        ),
        home_case(
            "device page held twice",
            Some(Reason::ExtraRef),
            |rig, id, pid| {
                move_there(rig, id, pid);
                rig.host.hold(rig.host.pfn(pid, BASE));
                rig.host.hold(rig.host.pfn(pid, BASE));
            },
        ),
        home_case(
            "locked device page",
            Some(Reason::Locked),
            |rig, id, pid| {
                move_there(rig, id, pid);
                change(rig, pid, |page| page.is_locked = true);
            },
        ),
        home_case(
            "pinned device page",
            Some(Reason::Pinned),
            |rig, id, pid| {
                move_there(rig, id, pid);
                change(rig, pid, |page| page.is_pinned = true);
            },
        ),
        home_case(
            "shared device page",
            Some(Reason::Shared),
            |rig, id, pid| {
                move_there(rig, id, pid);
                rig.host.fork(pid);
            },
        ),
        home_case("no memory", Some(Reason::NoMemory), |rig, id, pid| {
            move_there(rig, id, pid);
            rig.host.leave_available(0);
        }),
        home_case(
            "device page of unreadable content",
            Some(Reason::Poisoned),
            |rig, id, pid| {
                move_there(rig, id, pid);
                change(rig, pid, |page| page.is_broken = true);
            },
        ),
        Case {
            name: "executable area, on the way home",
            vma: VmaSpec {
                is_executable: true,
                ..anonymous(BASE..BASE + 4)
            },
            ..home_case("", None, |rig, id, pid| {
                rig.host.store(pid, BASE, 7);
                let pages = BASE..BASE + 1;
                rig.migrate(id, pid, pages, Direction::ToDevice, MIGRATE_EXEC)
                    .unwrap();
            })
        },
    ]
}

#[test]
fn each_page_that_stays_has_its_reason() {
    let cases = [area_cases(), page_cases(), home_cases()];
    for case in cases.into_iter().flatten() {
        let rig = Rig::new();
        let id = rig.attach(0, 1).unwrap();
        let pid = rig.host.spawn([case.vma.clone()]);
        if case.expected.is_none() && case.vma.is_file_private {
            touch(&rig, id, pid);
        }
        (case.prepare_fn)(&rig, id, pid);
        if case.queried.is_some() {
            let map = rig.query(id, pid, BASE..BASE + 1, QUERY_REASONS).unwrap();
            let name = case.name;
            let is_executable = case.vma.is_executable;
            let queried = if is_executable {
                Some(Reason::Executable)
            } else {
                case.queried
            };
            assert_eq!(map[0].reason(), queried, "query: {name}");
        }
        let moved = rig
            .migrate(id, pid, BASE..BASE + 1, case.direction, case.flags)
            .unwrap();
        assert_eq!(moved.reasons, [case.expected], "{}", case.name);
        let is_moved = moved.nr_moved + moved.nr_filled == 1;
        assert_eq!(is_moved, case.expected.is_none(), "{}", case.name);
    }
}

#[test]
fn one_page_that_stays_does_not_keep_its_neighbours() {
    let (rig, id, pid) = Rig::with_device(1, 5);
    rig.host.store_all(pid, BASE..BASE + 5, 7);
    let held = rig.host.pfn(pid, BASE + 1);
    rig.host.hold(held);
    assert!(rig.host.merge(&[(pid, BASE + 3)]));
    let moved = rig.to_device(id, pid, BASE..BASE + 5);
    assert_eq!(
        moved.reasons,
        [None, Some(Reason::ExtraRef), None, Some(Reason::Ksm), None]
    );
    rig.host.release(held);
    assert_eq!(rig.to_device(id, pid, BASE..BASE + 5).nr_moved, 1);
    rig.host.assert_all(pid, BASE..BASE + 5, 7);
    rig.assert_sound();
}

#[test]
fn a_page_that_was_busy_for_a_moment_is_tried_again() {
    let (rig, id, pid) = Rig::with_device(1, 3);
    rig.host.store_all(pid, BASE..BASE + 3, 7);
    for what in [Fallible::Snapshot, Fallible::CollectPage] {
        rig.host.fail(what, 1);
        assert_eq!(rig.to_device(id, pid, BASE..BASE + 3).nr_moved, 3);
        rig.host.fail(what, 1);
        assert_eq!(rig.to_system(id, pid, BASE..BASE + 3).nr_moved, 3);
    }
    rig.host.fail(Fallible::Commit, 1);
    assert_eq!(rig.to_device(id, pid, BASE..BASE + 3).nr_moved, 3);
    // On the way home the system page that was meant for it is gone.
    rig.host.fail(Fallible::Commit, 1);
    let moved = rig.to_system(id, pid, BASE..BASE + 3);
    assert_eq!((moved.nr_moved, moved.stayed.get(Reason::Raced)), (2, 1));
    assert_eq!(rig.host.heal(), 1);
    rig.host.assert_all(pid, BASE..BASE + 3, 7);
    rig.assert_sound();
}

#[test]
fn reasons_of_gaps_are_counted_and_listed() {
    let rig = Rig::new();
    let id = rig.attach(0, 1).unwrap();
    let special = VmaSpec {
        is_special: true,
        ..anonymous(BASE + 600..BASE + 1300)
    };
    let pid = rig.host.spawn([anonymous(BASE..BASE + 1), special]);
    let moved = rig.to_device(id, pid, BASE..BASE + 2000);
    assert_eq!(moved.stayed.get(Reason::Untouched), 1);
    assert_eq!(moved.stayed.get(Reason::Unmapped), 599 + 700);
    assert_eq!(moved.stayed.get(Reason::Special), 700);
    assert_eq!(moved.reasons[1299], Some(Reason::Special));
    assert_eq!(moved.reasons[1300], Some(Reason::Unmapped));
}
