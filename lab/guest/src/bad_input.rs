//! C10: bad input is refused with the documented errno, and changes nothing.

use std::{fs::File, os::fd::AsRawFd as _};

use cohmem_uapi::{Direction, FRAME_BYTES, MAX_STUCK, PROC_SELF, RANGE_ALIGN, Tier, args, ioctl};

use crate::{
    Test,
    driver::{Device, attach, errno, ranges},
    sys::{
        io::{ioctl as command, ioctl_raw, open},
        memory::{Memory, PAGE},
        process::{Child, Ended, become_user},
    },
};

pub(crate) const TESTS: &[Test] = &[
    ("ranges_to_attach", ranges_to_attach),
    (
        "arguments_of_attach_and_detach",
        arguments_of_attach_and_detach,
    ),
    (
        "addresses_and_flags_of_migrate",
        addresses_and_flags_of_migrate,
    ),
    ("arguments_of_query", arguments_of_query),
    ("process_files", process_files),
    (
        "unknown_commands_and_unreadable_arguments",
        unknown_commands_and_unreadable_arguments,
    ),
    ("an_ordinary_user_is_refused", an_ordinary_user_is_refused),
];

fn ranges_to_attach() {
    let range = ranges()[0].clone();
    let refused = |start, length| {
        let mut argument = args::Attach {
            start,
            length,
            ..args::Attach::default()
        };
        errno(command(&open("/dev/cohmem"), ioctl::ATTACH, &mut argument))
    };
    assert_eq!(refused(range.start, 0), libc::ENODATA);
    assert_eq!(refused(range.start + FRAME_BYTES, RANGE_ALIGN), libc::EDOM);
    assert_eq!(refused(range.start, FRAME_BYTES), libc::EDOM);
    assert_eq!(
        refused(0u64.wrapping_sub(RANGE_ALIGN), RANGE_ALIGN),
        libc::EOVERFLOW
    );
    assert_eq!(refused(1 << 62, RANGE_ALIGN), libc::EOVERFLOW);
    assert_eq!(
        refused(16 << 20, RANGE_ALIGN),
        libc::EADDRINUSE,
        "System RAM"
    );
    assert_eq!(
        refused(0xFEC0_0000, RANGE_ALIGN),
        libc::EADDRNOTAVAIL,
        "the I/O APIC"
    );
    assert_eq!(
        refused(1 << 38, RANGE_ALIGN),
        libc::EADDRNOTAVAIL,
        "nothing there"
    );
    let device = Device::attach_part(0, 64 << 20);
    assert_eq!(refused(range.start, RANGE_ALIGN), libc::EBUSY);
    assert_eq!(refused(range.start + (32 << 20), 64 << 20), libc::EBUSY);
    let rest = refused(range.start + (64 << 20), RANGE_ALIGN);
    assert_eq!(rest, 0, "the rest of the range is free");
    let other = crate::driver::detach(device.number + 1, 1000);
    assert_eq!(other.errno, 0);
    device.detach();
    let device = Device::attach(0);
    assert_eq!(
        device.info().nr_free,
        (range.end - range.start) / FRAME_BYTES
    );
}

fn arguments_of_attach_and_detach() {
    let range = ranges()[0].clone();
    let control = open("/dev/cohmem");
    let good = args::Attach {
        start: range.start,
        length: RANGE_ALIGN,
        ..args::Attach::default()
    };
    let mut bad = args::Attach {
        reserved: [0, 1, 0],
        ..good
    };
    assert_eq!(
        errno(command(&control, ioctl::ATTACH, &mut bad)),
        libc::EINVAL
    );
    assert_eq!(errno(attach(&range, 1 << 31).map(drop)), libc::EOPNOTSUPP);
    let detach = |argument: args::Detach| {
        let mut argument = argument;
        errno(command(&control, ioctl::DETACH, &mut argument))
    };
    let device = Device::attach_part(0, 64 << 20);
    let number = device.number;
    assert_eq!(
        detach(args::Detach {
            device: 15,
            ..args::Detach::default()
        }),
        libc::ENODEV
    );
    assert_eq!(
        detach(args::Detach {
            device: u32::MAX,
            ..args::Detach::default()
        }),
        libc::ENODEV
    );
    let detach_this = args::Detach {
        device: number,
        ..args::Detach::default()
    };
    assert_eq!(
        detach(args::Detach {
            flags: 1,
            ..detach_this
        }),
        libc::EOPNOTSUPP
    );
    assert_eq!(
        detach(args::Detach {
            reserved: [1, 0],
            ..detach_this
        }),
        libc::EINVAL
    );
    assert_eq!(
        detach(args::Detach {
            nr_stuck_max: MAX_STUCK + 1,
            ..detach_this
        }),
        libc::EMSGSIZE
    );
    assert_eq!(
        detach(args::Detach {
            nr_stuck_max: 1,
            ..detach_this
        }),
        libc::EFAULT
    );
    let mut list = args::List {
        reserved: [0, 0, 9],
        ..args::List::default()
    };
    assert_eq!(
        errno(command(&control, ioctl::LIST, &mut list)),
        libc::EINVAL
    );
    assert_eq!(device.allocated(), 0);
}

fn addresses_and_flags_of_migrate() {
    let device = Device::attach_part(0, 64 << 20);
    let memory = Memory::filled(64 << 10, |index| index as u64);
    let good = Device::migrate_args(&memory, Direction::ToDevice, 0);
    let refused = |argument: args::Migrate| {
        let mut argument = argument;
        errno(command(&device.file, ioctl::MIGRATE, &mut argument))
    };
    assert_eq!(refused(args::Migrate { length: 0, ..good }), libc::ENODATA);
    assert_eq!(
        refused(args::Migrate {
            start: good.start + 1,
            ..good
        }),
        libc::EDOM
    );
    assert_eq!(
        refused(args::Migrate {
            length: 100,
            ..good
        }),
        libc::EDOM
    );
    assert_eq!(
        refused(args::Migrate {
            length: 0u64.wrapping_sub(FRAME_BYTES),
            ..good
        }),
        libc::EOVERFLOW
    );
    assert_eq!(
        refused(args::Migrate {
            start: 0xFFFF_8880_0000_0000,
            ..good
        }),
        libc::ERANGE
    );
    assert_eq!(
        refused(args::Migrate {
            // Above both the four-level and the five-level address space.
            start: 0x00FF_FFFF_FFFF_F000,
            ..good
        }),
        libc::ERANGE
    );
    assert_eq!(
        refused(args::Migrate {
            start: 0x1000,
            length: FRAME_BYTES,
            ..good
        }),
        libc::EADDRNOTAVAIL
    );
    assert_eq!(
        refused(args::Migrate {
            direction: 0,
            ..good
        }),
        libc::EILSEQ
    );
    assert_eq!(
        refused(args::Migrate {
            direction: 3,
            ..good
        }),
        libc::EILSEQ
    );
    assert_eq!(
        refused(args::Migrate {
            flags: 1 << 3,
            ..good
        }),
        libc::EOPNOTSUPP
    );
    assert_eq!(refused(args::Migrate { pad: 1, ..good }), libc::EINVAL);
    assert_eq!(
        refused(args::Migrate {
            reserved: [0, 1],
            ..good
        }),
        libc::EINVAL
    );
    assert_eq!(
        refused(args::Migrate {
            reasons_ptr: 0x1000,
            ..good
        }),
        libc::EFAULT
    );
    assert_eq!(
        refused(args::Migrate {
            reasons_ptr: u64::MAX - 1,
            ..good
        }),
        libc::EFAULT
    );
    assert_eq!(device.allocated(), 0, "nothing moved");
    assert_eq!(refused(good), 0);
    assert_eq!(device.allocated(), memory.nr_pages());
    memory.expect(|index| index as u64);
}

fn arguments_of_query() {
    let device = Device::attach_part(0, 64 << 20);
    let memory = Memory::filled(64 << 10, |index| index as u64);
    let good = args::Query {
        start: memory.address(),
        length: memory.len() as u64,
        proc_fd: PROC_SELF,
        ..args::Query::default()
    };
    let refused = |argument: args::Query| {
        let mut argument = argument;
        errno(command(&device.file, ioctl::QUERY, &mut argument))
    };
    assert_eq!(refused(args::Query { length: 0, ..good }), libc::ENODATA);
    assert_eq!(
        refused(args::Query {
            start: good.start + 8,
            ..good
        }),
        libc::EDOM
    );
    assert_eq!(
        refused(args::Query {
            start: 0x1000,
            length: FRAME_BYTES,
            ..good
        }),
        libc::EADDRNOTAVAIL
    );
    assert_eq!(refused(args::Query { flags: 2, ..good }), libc::EOPNOTSUPP);
    assert_eq!(
        refused(args::Query {
            reserved: [1, 0],
            ..good
        }),
        libc::EINVAL
    );
    assert_eq!(
        refused(args::Query {
            map_ptr: 0x1000,
            ..good
        }),
        libc::EFAULT
    );
    let mut argument = good;
    command(&device.file, ioctl::QUERY, &mut argument).expect("a query");
    assert_eq!(
        argument.nr_by_tier[Tier::System as usize],
        memory.nr_pages()
    );
    assert_eq!(
        (argument.nr_here, argument.next),
        (0, good.start + good.length)
    );
}

fn process_files() {
    let device = Device::attach_part(0, 64 << 20);
    let memory = Memory::filled(64 << 10, |index| index as u64);
    let refused = |fd| {
        let argument = Device::migrate_args(&memory, Direction::ToDevice, 0);
        errno(
            device
                .migrate_with(args::Migrate {
                    proc_fd: fd,
                    ..argument
                })
                .map(drop),
        )
    };
    assert_eq!(refused(9999), libc::EBADF, "closed");
    assert_eq!(refused(-2), libc::EBADF, "never open");
    let maps = File::open("/proc/self/maps").expect("maps");
    assert_eq!(
        refused(maps.as_raw_fd()),
        libc::EBADFD,
        "procfs, but another file"
    );
    let null = File::open("/dev/null").expect("null");
    assert_eq!(refused(null.as_raw_fd()), libc::EBADFD);
    let mut child = Child::start(|steps| steps.done());
    child.wait_step();
    let pagemap = File::open(format!("/proc/{}/pagemap", child.pid())).expect("pagemap");
    child.go_on();
    assert_eq!(child.join(), Ended::Status(0));
    for _try in 0..3 {
        assert_eq!(
            refused(pagemap.as_raw_fd()),
            libc::ESRCH,
            "its process is gone"
        );
    }
    assert_eq!(device.allocated(), 0);
    let own = File::open("/proc/self/pagemap").expect("pagemap");
    assert_eq!(refused(own.as_raw_fd()), 0);
    assert_eq!(device.allocated(), memory.nr_pages());
}

fn unknown_commands_and_unreadable_arguments() {
    let device = Device::attach_part(0, 64 << 20);
    let control = open("/dev/cohmem");
    let fd = device.file.as_raw_fd();
    assert_eq!(errno(ioctl_raw(fd, 0xC008_BDFF, 0)), libc::ENOTTY);
    assert_eq!(errno(ioctl_raw(fd, 0, 0)), libc::ENOTTY);
    let size_off = ioctl::MIGRATE - (8 << 16);
    assert_eq!(
        errno(ioctl_raw(fd, size_off, 0)),
        libc::ENOTTY,
        "another size"
    );
    assert_eq!(
        errno(ioctl_raw(fd, ioctl::ATTACH, 0)),
        libc::ENOTTY,
        "a command of the other node"
    );
    assert_eq!(
        errno(ioctl_raw(control.as_raw_fd(), ioctl::MIGRATE, 0)),
        libc::ENOTTY
    );
    for request in [
        ioctl::VERSION,
        ioctl::INFO,
        ioctl::MIGRATE,
        ioctl::QUERY,
        ioctl::EVICT,
        ioctl::SET_QUOTA,
        ioctl::ACCOUNTS,
        ioctl::HISTORY,
        ioctl::SET_JOB,
        ioctl::SET_RUN,
        ioctl::OBJECTS,
    ] {
        assert_eq!(
            errno(ioctl_raw(fd, request, 0)),
            libc::EFAULT,
            "{request:#x}"
        );
        assert_eq!(
            errno(ioctl_raw(fd, request, 0xFFFF_8880_0000_0000)),
            libc::EFAULT,
            "{request:#x}"
        );
    }
    let mut version = args::Version::default();
    command(&device.file, ioctl::VERSION, &mut version).expect("version");
    assert_eq!(version.abi, cohmem_uapi::ABI_VERSION);
}

fn an_ordinary_user_is_refused() {
    const USER: u32 = 65534;
    let device = Device::attach_part(0, 64 << 20);
    let memory = Memory::filled(64 << 10, |index| index as u64);
    let control = open("/dev/cohmem");
    let parent = std::process::id();
    let child = Child::start(|_steps| {
        become_user(USER);
        // Inherited files: the nodes' modes are not what protects the commands.
        let mut attach = args::Attach {
            start: ranges_start(),
            length: RANGE_ALIGN,
            ..args::Attach::default()
        };
        assert_eq!(
            errno(command(&control, ioctl::ATTACH, &mut attach)),
            libc::EPERM
        );
        let mut detach = args::Detach {
            device: device.number,
            ..args::Detach::default()
        };
        assert_eq!(
            errno(command(&control, ioctl::DETACH, &mut detach)),
            libc::EPERM
        );
        let mut evict = args::Detach::default();
        assert_eq!(
            errno(command(&device.file, ioctl::EVICT, &mut evict)),
            libc::EPERM
        );
        let mut quota = args::Quota::default();
        assert_eq!(
            errno(command(&device.file, ioctl::SET_QUOTA, &mut quota)),
            libc::EPERM
        );
        let mut job = args::Job::default();
        assert_eq!(
            errno(command(&device.file, ioctl::SET_JOB, &mut job)),
            libc::EPERM
        );
        let shared =
            Device::migrate_args(&memory, Direction::ToDevice, cohmem_uapi::MIGRATE_SHARED);
        assert_eq!(errno(device.migrate_with(shared).map(drop)), libc::EPERM);
        let error =
            File::open(format!("/proc/{parent}/pagemap")).expect_err("another user's process");
        assert_eq!(error.raw_os_error(), Some(libc::EACCES));
        assert!(
            File::open("/dev/cohmem").is_err(),
            "the node is not for everyone"
        );
        // Its own memory it may move, through a device that it was given.
        let own = Memory::filled(4 * PAGE, |index| index as u64);
        device.take_all_blindly(&own);
        own.expect(|index| index as u64);
    });
    assert_eq!(child.join(), Ended::Status(0));
    assert_eq!(device.allocated(), 0);
    memory.expect(|index| index as u64);
}

fn ranges_start() -> u64 {
    // An ordinary user reads zeros from /proc/iomem; the privilege is checked first anyway.
    RANGE_ALIGN
}
