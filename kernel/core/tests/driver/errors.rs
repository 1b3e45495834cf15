// SPDX-License-Identifier: GPL-2.0
//! Bad input: each error that the header documents, and nothing changed.

use cohmem_kcore::{Attribute, DeviceId, Errno, OpenNode};
use cohmem_uapi::{
    ABI_VERSION, ATTACH_ALTMAP, Direction, MAX_DEVICES, MAX_STUCK, RANGE_ALIGN, args,
};

use crate::fake::{BASE, Fallible, PAGE, Pid, Rig, SOFT_START, VmaSpec, addr, anonymous};

const USER_END: u64 = 1 << 47;
const FD_OF_OTHER_FILE: i32 = 900;
const FD_CLOSED: i32 = 1000;

/// A rig with a device that holds a process's pages, and one unit that another driver has claimed.
fn rig() -> (Rig, DeviceId, Pid) {
    let (rig, id, pid) = Rig::with_device(1, 16);
    rig.host.store_all(pid, BASE..BASE + 16, 7);
    rig.to_device(id, pid, BASE..BASE + 8);
    let busy = SOFT_START + 8 * RANGE_ALIGN..SOFT_START + 9 * RANGE_ALIGN;
    rig.host.world().claims.push((busy, false));
    (rig, id, pid)
}

/// Runs `call_fn` and fails the test if it succeeds or changes anything.
#[track_caller]
fn refused(
    rig: &Rig,
    id: DeviceId,
    call_fn: impl FnOnce() -> Result<(), Errno>,
    expected: Errno,
    what: &str,
) {
    let before = (rig.host.fingerprint(), format!("{:?}", rig.info(id)));
    assert_eq!(call_fn(), Err(expected), "{what}");
    let after = (rig.host.fingerprint(), format!("{:?}", rig.info(id)));
    assert!(before == after, "{what}: something changed");
    rig.assert_sound();
}

type ChangeFn<T> = fn(&mut T);

#[test]
fn attach_refuses_what_the_header_says() {
    let cases: &[(Errno, ChangeFn<args::Attach>)] = &[
        (Errno::EINVAL, |args| args.reserved[0] = 1),
        (Errno::EINVAL, |args| args.reserved[2] = 1 << 63),
        (Errno::EOPNOTSUPP, |args| args.flags = ATTACH_ALTMAP << 1),
        (Errno::EOPNOTSUPP, |args| args.flags = 1 << 31),
        (Errno::ENODATA, |args| args.length = 0),
        (Errno::EDOM, |args| args.start += PAGE),
        (Errno::EDOM, |args| args.length += RANGE_ALIGN / 2),
        (Errno::EOVERFLOW, |args| {
            args.start = u64::MAX - RANGE_ALIGN + 1;
        }),
        (Errno::EOVERFLOW, |args| {
            args.length = u64::MAX - RANGE_ALIGN + 1;
        }),
        (Errno::EOVERFLOW, |args| args.start = 1 << 46),
        (Errno::EOVERFLOW, |args| {
            args.start = (1 << 46) - RANGE_ALIGN;
            args.length = 2 * RANGE_ALIGN;
        }),
        (Errno::EADDRINUSE, |args| args.start = RANGE_ALIGN),
        (Errno::EADDRNOTAVAIL, |args| args.start = 1 << 40),
        (Errno::EADDRNOTAVAIL, |args| {
            args.start = SOFT_START + 63 * RANGE_ALIGN;
            args.length = 2 * RANGE_ALIGN;
        }),
        (Errno::EBUSY, |args| args.start = SOFT_START),
        (Errno::EBUSY, |args| {
            args.start = SOFT_START + 8 * RANGE_ALIGN
        }),
        // The first chunk is free, the second is not.
        (Errno::EBUSY, |args| args.length = 6 * RANGE_ALIGN),
    ];
    let (rig, id, _pid) = rig();
    for (index, &(errno, change_fn)) in cases.iter().enumerate() {
        let mut args = args::Attach {
            start: SOFT_START + 4 * RANGE_ALIGN,
            length: RANGE_ALIGN,
            ..args::Attach::default()
        };
        change_fn(&mut args);
        let what = format!("attach case {index}: {args:x?}");
        refused(&rig, id, || rig.driver.attach(&mut args), errno, &what);
    }
    rig.host.set_privileges(false, true);
    refused(
        &rig,
        id,
        || rig.attach(4, 1).map(drop),
        Errno::EPERM,
        "no privilege",
    );
    rig.host.set_privileges(true, true);
    // Nothing is left of all those tries.
    assert_eq!(rig.attach(4, 4).unwrap().number, 1);
}

#[test]
fn attach_refuses_one_device_too_many() {
    let (rig, id, _pid) = rig();
    for number in 1..MAX_DEVICES {
        let unit = 8 + u64::from(number);
        assert_eq!(rig.attach(unit, 1).unwrap().number, number);
    }
    refused(
        &rig,
        id,
        || rig.attach(40, 1).map(drop),
        Errno::ENOSPC,
        "device 17",
    );
    let mut list = args::List::default();
    rig.driver.list(&mut list).unwrap();
    assert_eq!(list.devices, 0xffff);
    rig.detach(rig.driver.open(5).unwrap()).unwrap();
    assert_eq!(rig.attach(40, 1).unwrap().number, 5);
}

#[test]
fn attach_without_memory_leaves_nothing_claimed() {
    let (rig, id, _pid) = rig();
    for what in [
        Fallible::NewWords,
        Fallible::Share,
        Fallible::Claim,
        Fallible::Register,
        Fallible::Publish,
    ] {
        rig.host.fail(what, 1);
        let name = format!("{what:?}");
        refused(
            &rig,
            id,
            || rig.attach(4, 3).map(drop),
            Errno::ENOMEM,
            &name,
        );
        assert_eq!(rig.host.heal(), 1, "{name}");
    }
    rig.attach(4, 3).unwrap();
}

#[test]
fn a_driver_without_memory_does_not_start() {
    let host = crate::fake::FakeHost::new();
    host.fail(Fallible::NewLock, 1);
    assert!(matches!(
        cohmem_kcore::Driver::new(host),
        Err(Errno::ENOMEM)
    ));
}

#[test]
fn migrate_refuses_what_the_header_says() {
    let cases: &[(Errno, ChangeFn<args::Migrate>)] = &[
        (Errno::EINVAL, |args| args.reserved[0] = 1),
        (Errno::EINVAL, |args| args.reserved[1] = 1),
        (Errno::EINVAL, |args| args.pad = 1),
        (Errno::EOPNOTSUPP, |args| args.flags = 1 << 3),
        (Errno::EOPNOTSUPP, |args| args.flags = 1 << 31),
        (Errno::EILSEQ, |args| args.direction = 0),
        (Errno::EILSEQ, |args| args.direction = 3),
        (Errno::ENODATA, |args| args.length = 0),
        (Errno::EDOM, |args| args.start += 1),
        (Errno::EDOM, |args| args.length += 8),
        (Errno::EOVERFLOW, |args| {
            args.start = u64::MAX - PAGE + 1;
        }),
        (Errno::EOVERFLOW, |args| {
            args.length = u64::MAX - PAGE + 1;
        }),
        (Errno::ERANGE, |args| args.start = USER_END - PAGE),
        (Errno::ERANGE, |args| args.start = 0xffff_8000_0000_0000),
        (Errno::EADDRNOTAVAIL, |args| args.start = addr(BASE + 16)),
        (Errno::EADDRNOTAVAIL, |args| args.start = 0),
        (Errno::EADDRNOTAVAIL, |args| {
            args.start = USER_END - 16 * PAGE;
        }),
        (Errno::EBADF, |args| args.proc_fd = FD_CLOSED),
        (Errno::EBADF, |args| args.proc_fd = -2),
        (Errno::EBADFD, |args| args.proc_fd = FD_OF_OTHER_FILE),
        (Errno::ESRCH, |args| args.proc_fd = 1),
        (Errno::EFAULT, |args| args.reasons_ptr = 8),
        (Errno::EFAULT, |args| args.reasons_ptr = u64::MAX),
        (Errno::EFAULT, |args| args.reasons_ptr = u64::MAX - 2),
    ];
    let (rig, id, _pid) = rig();
    let gone = rig.spawn(16);
    rig.host.exit(gone);
    for direction in [Direction::ToDevice, Direction::ToSystem] {
        for (index, &(errno, change_fn)) in cases.iter().enumerate() {
            let mut args = args::Migrate {
                start: addr(BASE),
                length: 16 * PAGE,
                direction: direction as u32,
                proc_fd: cohmem_uapi::PROC_SELF,
                ..args::Migrate::default()
            };
            change_fn(&mut args);
            let what = format!("migrate case {index}: {args:x?}");
            refused(
                &rig,
                id,
                || rig.driver.migrate(&OpenNode::new(id), &mut args),
                errno,
                &what,
            );
        }
    }
}

#[test]
fn a_list_of_reasons_that_is_too_short_is_found_before_anything_moves() {
    let (rig, id, _pid) = rig();
    let reasons_ptr = rig.host.user_buffer(15);
    let mut args = args::Migrate {
        start: addr(BASE),
        length: 16 * PAGE,
        direction: Direction::ToDevice as u32,
        proc_fd: cohmem_uapi::PROC_SELF,
        reasons_ptr,
        ..args::Migrate::default()
    };
    assert_eq!(
        rig.driver.migrate(&OpenNode::new(id), &mut args),
        Err(Errno::EFAULT)
    );
    assert_eq!(rig.info(id).moved_in, 8);
    let large = rig.spawn(1200);
    rig.host.store_all(large, BASE..BASE + 1200, 7);
    args.length = 1200 * PAGE;
    args.proc_fd = i32::try_from(large.0).unwrap();
    args.reasons_ptr = rig.host.user_buffer(1199);
    assert_eq!(
        rig.driver.migrate(&OpenNode::new(id), &mut args),
        Err(Errno::EFAULT)
    );
    assert_eq!(rig.info(id).moved_in, 8);
    rig.assert_sound();
}

#[test]
fn query_refuses_what_the_header_says() {
    let cases: &[(Errno, ChangeFn<args::Query>)] = &[
        (Errno::EINVAL, |args| args.reserved[0] = 1),
        (Errno::EINVAL, |args| args.reserved[1] = 1),
        (Errno::EOPNOTSUPP, |args| args.flags = 1 << 1),
        (Errno::ENODATA, |args| args.length = 0),
        (Errno::EDOM, |args| args.start += 1),
        (Errno::EDOM, |args| args.length += 8),
        (Errno::EOVERFLOW, |args| {
            args.start = u64::MAX - PAGE + 1;
        }),
        (Errno::ERANGE, |args| args.start = USER_END - PAGE),
        (Errno::EADDRNOTAVAIL, |args| args.start = addr(BASE + 16)),
        (Errno::EBADF, |args| args.proc_fd = FD_CLOSED),
        (Errno::EBADFD, |args| args.proc_fd = FD_OF_OTHER_FILE),
        (Errno::ESRCH, |args| args.proc_fd = 1),
        (Errno::EFAULT, |args| args.map_ptr = 8),
        (Errno::EFAULT, |args| args.map_ptr = u64::MAX),
    ];
    let (rig, id, _pid) = rig();
    let gone = rig.spawn(16);
    rig.host.exit(gone);
    for (index, &(errno, change_fn)) in cases.iter().enumerate() {
        let mut args = args::Query {
            start: addr(BASE),
            length: 16 * PAGE,
            proc_fd: cohmem_uapi::PROC_SELF,
            ..args::Query::default()
        };
        change_fn(&mut args);
        let what = format!("query case {index}: {args:x?}");
        refused(&rig, id, || rig.driver.query(id, &mut args), errno, &what);
    }
}

#[test]
fn detach_and_evict_refuse_what_the_header_says() {
    let cases: &[(Errno, ChangeFn<args::Detach>)] = &[
        (Errno::EINVAL, |args| args.reserved[0] = 1),
        (Errno::EINVAL, |args| args.reserved[1] = 1),
        (Errno::EOPNOTSUPP, |args| args.flags = 1),
        (Errno::EMSGSIZE, |args| args.nr_stuck_max = MAX_STUCK + 1),
        (Errno::EFAULT, |args| args.nr_stuck_max = 1),
    ];
    let (rig, id, _pid) = rig();
    for (index, &(errno, change_fn)) in cases.iter().enumerate() {
        let mut args = args::Detach::default();
        change_fn(&mut args);
        let what = format!("detach case {index}: {args:x?}");
        refused(&rig, id, || rig.driver.detach(&mut args), errno, &what);
        refused(&rig, id, || rig.driver.evict(id, &mut args), errno, &what);
    }
    for (number, errno) in [
        (1, Errno::ENODEV),
        (MAX_DEVICES, Errno::ENODEV),
        (u32::MAX, Errno::ENODEV),
    ] {
        let mut args = args::Detach {
            device: number,
            ..args::Detach::default()
        };
        refused(&rig, id, || rig.driver.detach(&mut args), errno, "number");
        let evict_fn = || rig.driver.evict(id, &mut args);
        refused(&rig, id, evict_fn, Errno::EINVAL, "evict names none");
    }
    rig.host.set_privileges(false, true);
    let mut args = args::Detach::default();
    refused(
        &rig,
        id,
        || rig.driver.detach(&mut args),
        Errno::EPERM,
        "detach",
    );
    refused(
        &rig,
        id,
        || rig.driver.evict(id, &mut args),
        Errno::EPERM,
        "evict",
    );
    rig.host.set_privileges(true, false);
    assert_eq!(rig.detach(id).unwrap().nr_evicted, 8);
}

#[test]
fn a_list_of_stuck_frames_that_cannot_be_written_is_a_fault_and_the_device_works_on() {
    let (rig, id, pid) = rig();
    rig.host.hold(rig.host.pfn(pid, BASE));
    let mut args = args::Detach {
        nr_stuck_max: 4,
        stuck_ptr: 8,
        ..args::Detach::default()
    };
    assert_eq!(rig.driver.detach(&mut args), Err(Errno::EFAULT));
    assert_eq!(rig.to_device(id, pid, BASE..BASE + 16).nr_moved, 15);
    rig.assert_sound();
}

#[test]
fn version_list_and_info_refuse_reserved_fields() {
    let (rig, id, _pid) = rig();
    for index in 0..3 {
        let mut version = args::Version::default();
        rig.driver.version(&mut version).unwrap();
        assert_eq!((version.abi, version.features), (ABI_VERSION, 0));
        version.reserved[index] = 1;
        assert_eq!(rig.driver.version(&mut version), Err(Errno::EINVAL));
        let mut list = args::List::default();
        list.reserved[index] = 1;
        assert_eq!(rig.driver.list(&mut list), Err(Errno::EINVAL));
        let mut info = args::Info::default();
        info.reserved[index] = 1;
        assert_eq!(rig.driver.info(id, &mut info), Err(Errno::EINVAL));
    }
}

#[test]
fn attributes_show_what_info_tells() {
    let (rig, id, _pid) = rig();
    let info = rig.info(id);
    for (attribute, value) in [
        (Attribute::Start, info.start),
        (Attribute::Size, RANGE_ALIGN),
        (Attribute::Free, 504),
        (Attribute::Allocated, 8),
        (Attribute::Poisoned, 0),
        (Attribute::Metadata, 0),
        (Attribute::MovedIn, 8),
        (Attribute::MovedOut, 0),
        (Attribute::Filled, 0),
        (Attribute::Freed, 0),
        (Attribute::Node, 1),
        (Attribute::Chunks, 1),
        (Attribute::State, 1),
    ] {
        assert_eq!(rig.driver.attribute(id.number, attribute), Ok(value));
    }
    for number in [1, MAX_DEVICES, u32::MAX] {
        let missing = rig.driver.attribute(number, Attribute::Size);
        assert_eq!(missing, Err(Errno::ENODEV));
        assert_eq!(rig.driver.open(number), Err(Errno::ENODEV));
    }
}

#[test]
fn a_process_without_memory_has_no_mapping_in_any_range() {
    let rig = Rig::new();
    let id = rig.attach(0, 1).unwrap();
    let pid = rig.host.spawn([]);
    let pages = BASE..BASE + 5000;
    let refused = rig.migrate(id, pid, pages.clone(), Direction::ToDevice, 0);
    assert_eq!(refused.unwrap_err(), Errno::EADDRNOTAVAIL);
    let refused = rig.query(id, pid, pages.clone(), 0);
    assert_eq!(refused.unwrap_err(), Errno::EADDRNOTAVAIL);
    // A mapping that cannot move is one.
    let special = VmaSpec {
        is_special: true,
        ..anonymous(BASE + 4000..BASE + 4001)
    };
    let pid = rig.host.spawn([special]);
    assert_eq!(rig.to_device(id, pid, pages.clone()).nr_moved, 0);
    assert_eq!(rig.query(id, pid, pages, 0).unwrap().len(), 5000);
}
