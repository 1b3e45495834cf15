//! Tests of the module above.

use super::*;

const ATTACH: Command = Command::Attach {
    start: 0x20_0000,
    length: 0x1000,
};
const DETACH: Command = Command::Detach {
    device: 3,
    nr_stuck_max: 5000,
};
const EVICT: Command = Command::Evict {
    device: 3,
    nr_stuck_max: 5000,
};
const MIGRATE: Command = Command::Migrate {
    device: 3,
    start: 0x7f00,
    length: 0x40,
};
const QUERY: Command = Command::Query {
    device: 3,
    start: 0x7f00,
    length: 0x40,
};
const SET_QUOTA: Command = Command::SetQuota {
    device: 3,
    user: 1000,
    limit: 7,
};
const ACCOUNTS: Command = Command::Accounts { device: 3 };
const HISTORY: Command = Command::History {
    device: 3,
    start: 0x7f00,
    length: 0x40,
};
const SET_JOB: Command = Command::SetJob {
    device: 3,
    job: 99,
    limit: 7,
};
const SET_RUN: Command = Command::SetRun {
    device: 3,
    limit: 7,
};
const OBJECTS: Command = Command::Objects { device: 3 };

/// Each documented error number, the kind it maps to, and what its message must name.
#[test]
fn documented_errors_map_to_kinds_and_messages() {
    use ErrorKind as K;
    let table: &[(Command, i32, K, &str)] = &[
        (ATTACH, libc::EPERM, K::NotPermitted, "CAP_SYS_ADMIN"),
        (ATTACH, libc::ENODATA, K::Empty, "length is 0"),
        (ATTACH, libc::EDOM, K::Misaligned, "0x200000-0x201000"),
        (ATTACH, libc::EDOM, K::Misaligned, "multiple of 0x200000"),
        (ATTACH, libc::EOVERFLOW, K::OutOfRange, "physical addresses"),
        (ATTACH, libc::EADDRINUSE, K::SystemRam, "System RAM"),
        (
            ATTACH,
            libc::EADDRNOTAVAIL,
            K::NotReserved,
            "special purpose",
        ),
        (ATTACH, libc::EBUSY, K::Busy, "another driver"),
        (ATTACH, libc::ENOSPC, K::TooMany, "16 devices"),
        (ATTACH, libc::ENOMEM, K::NoMemory, "struct pages (64 bytes)"),
        (ATTACH, libc::EAGAIN, K::Busy, "hibernation"),
        (DETACH, libc::EPERM, K::NotPermitted, "CAP_SYS_ADMIN"),
        (DETACH, libc::ENODEV, K::NoDevice, "cohmem3"),
        (DETACH, libc::EINTR, K::Interrupted, "signal"),
        (DETACH, libc::EBUSY, K::Busy, "another detach"),
        (DETACH, libc::ENOMEM, K::NoMemory, "take all content home"),
        (
            DETACH,
            libc::EMSGSIZE,
            K::TooMany,
            "5000 stuck frames is over the limit of 4096",
        ),
        (EVICT, libc::EPERM, K::NotPermitted, "CAP_SYS_ADMIN"),
        (EVICT, libc::ENODEV, K::NoDevice, "cohmem3"),
        (EVICT, libc::EINTR, K::Interrupted, "signal"),
        (EVICT, libc::EBUSY, K::Busy, "another detach"),
        (EVICT, libc::ENOMEM, K::NoMemory, "take all content home"),
        (EVICT, libc::EMSGSIZE, K::TooMany, "limit of 4096"),
        (MIGRATE, libc::ENODATA, K::Empty, "length is 0"),
        (MIGRATE, libc::EDOM, K::Misaligned, "0x7f00-0x7f40"),
        (MIGRATE, libc::EDOM, K::Misaligned, "multiple of 0x1000"),
        (MIGRATE, libc::EOVERFLOW, K::OutOfRange, "wraps"),
        (MIGRATE, libc::ERANGE, K::OutOfRange, "user address space"),
        (MIGRATE, libc::EADDRNOTAVAIL, K::NotMapped, "no mapping"),
        (MIGRATE, libc::EILSEQ, K::InvalidInput, "direction"),
        (MIGRATE, libc::EPERM, K::NotPermitted, "CAP_SYS_NICE"),
        (MIGRATE, libc::EBADF, K::WrongFile, "closed"),
        (MIGRATE, libc::EBADFD, K::WrongFile, "pagemap or mem"),
        (MIGRATE, libc::ESRCH, K::NoProcess, "gone"),
        (MIGRATE, libc::ENODEV, K::NoDevice, "not attached"),
        (MIGRATE, libc::EAGAIN, K::Draining, "taken back"),
        (MIGRATE, libc::EINTR, K::Interrupted, "signal"),
        (MIGRATE, libc::ENOMEM, K::NoMemory, "arrays"),
        (MIGRATE, libc::ENOSPC, K::TooMany, "256 other users"),
        (SET_QUOTA, libc::EPERM, K::NotPermitted, "CAP_SYS_ADMIN"),
        (SET_QUOTA, libc::EINVAL, K::InvalidInput, "contradicts"),
        (SET_QUOTA, libc::ERANGE, K::OutOfRange, "7 frames"),
        (SET_QUOTA, libc::ENOSPC, K::TooMany, "256 other users"),
        (SET_QUOTA, libc::ENODEV, K::NoDevice, "cohmem3"),
        (SET_QUOTA, libc::ENOTTY, K::Unsupported, "another version"),
        (ACCOUNTS, libc::ENODEV, K::NoDevice, "cohmem3"),
        (ACCOUNTS, libc::EMSGSIZE, K::TooMany, "limit of 256"),
        (ACCOUNTS, libc::ENOMEM, K::NoMemory, "arrays"),
        (HISTORY, libc::EPERM, K::NotPermitted, "CAP_SYS_ADMIN"),
        (HISTORY, libc::EINVAL, K::InvalidInput, "0x7f00-0x7f40"),
        (HISTORY, libc::EDOM, K::Misaligned, "multiple of 0x1000"),
        (HISTORY, libc::EOVERFLOW, K::OutOfRange, "wraps"),
        (HISTORY, libc::ERANGE, K::OutOfRange, "user address"),
        (HISTORY, libc::EMSGSIZE, K::TooMany, "limit of 4096"),
        (HISTORY, libc::EBADF, K::WrongFile, "closed"),
        (HISTORY, libc::EBADFD, K::WrongFile, "pagemap or mem"),
        (HISTORY, libc::ESRCH, K::NoProcess, "gone"),
        (HISTORY, libc::ENODEV, K::NoDevice, "cohmem3"),
        (HISTORY, libc::EINTR, K::Interrupted, "signal"),
        (HISTORY, libc::ENOMEM, K::NoMemory, "arrays"),
        (
            Command::History {
                device: 3,
                start: 0,
                length: 0,
            },
            libc::ENODEV,
            K::NoDevice,
            "history of cohmem3",
        ),
        (SET_JOB, libc::EPERM, K::NotPermitted, "CAP_SYS_ADMIN"),
        (SET_JOB, libc::EINVAL, K::InvalidInput, "contradicts"),
        (SET_JOB, libc::ERANGE, K::OutOfRange, "99"),
        (SET_JOB, libc::ENOSPC, K::TooMany, "256 control groups"),
        (SET_JOB, libc::ENODEV, K::NoDevice, "cohmem3"),
        (SET_RUN, libc::EINVAL, K::InvalidInput, "contradicts"),
        (SET_RUN, libc::ERANGE, K::OutOfRange, "7 frames"),
        (SET_RUN, libc::EDQUOT, K::TooMany, "16 run instances"),
        (SET_RUN, libc::ENOSPC, K::TooMany, "256 run instances"),
        (SET_RUN, libc::ENODEV, K::NoDevice, "cohmem3"),
        (OBJECTS, libc::ENODEV, K::NoDevice, "cohmem3"),
        (OBJECTS, libc::EMSGSIZE, K::TooMany, "limit of 512"),
        (OBJECTS, libc::ENOMEM, K::NoMemory, "arrays"),
        (QUERY, libc::EDOM, K::Misaligned, "multiple of 0x1000"),
        (QUERY, libc::EADDRNOTAVAIL, K::NotMapped, "no mapping"),
        (QUERY, libc::EBADFD, K::WrongFile, "pagemap or mem"),
        (QUERY, libc::ESRCH, K::NoProcess, "gone"),
        (QUERY, libc::EINVAL, K::InvalidInput, "zero"),
        (QUERY, libc::EOPNOTSUPP, K::Unsupported, "flags"),
        (
            Command::Version,
            libc::ENOTTY,
            K::Unsupported,
            "another version",
        ),
        (Command::List, libc::EFAULT, K::BadAddress, "argument"),
        (
            Command::Range,
            libc::EPERM,
            K::NotPermitted,
            "CAP_SYS_ADMIN",
        ),
        (
            Command::Range,
            libc::ENODATA,
            K::NotFound,
            "none above the address",
        ),
        (
            Command::Range,
            libc::ENOTTY,
            K::Unsupported,
            "another version",
        ),
        (
            Command::Info { device: 3 },
            libc::ENODEV,
            K::NoDevice,
            "cohmem3",
        ),
    ];
    for &(command, errno, kind, says) in table {
        let error = failed(command, io::Error::from_raw_os_error(errno));
        assert_eq!(error.kind(), kind, "{command:?} {errno}");
        assert_eq!(error.raw_os_error(), Some(errno));
        let message = error.to_string();
        assert!(message.contains(says), "{command:?} {errno}: {message}");
        assert!(!message.ends_with('.'), "{message}");
        assert!(error::Error::source(&error).is_some(), "{message}");
    }
}

/// The header's text and the table above name the same numbers.
#[test]
fn every_error_of_the_header_is_known() {
    let header = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../include/uapi/linux/cohmem.h"
    ))
    .unwrap();
    for (marker, command, nr_least) in [
        ("struct cohmem_attach -", ATTACH, 6),
        ("struct cohmem_detach -", DETACH, 6),
        ("struct cohmem_migrate -", MIGRATE, 6),
        ("struct cohmem_quota -", SET_QUOTA, 5),
        ("struct cohmem_accounts -", ACCOUNTS, 3),
        ("struct cohmem_history -", HISTORY, 10),
        ("struct cohmem_job -", SET_JOB, 5),
        ("struct cohmem_run -", SET_RUN, 5),
        ("struct cohmem_objects -", OBJECTS, 3),
    ] {
        let text = header
            .split(marker)
            .nth(1)
            .unwrap()
            .split("*/")
            .next()
            .unwrap();
        let errors = text.split("Errors:").nth(1).unwrap();
        let names: Vec<&str> = errors
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .filter(|word| word.len() > 3 && word.starts_with('E') && *word == word.to_uppercase())
            .filter(|word| *word != "EVICT")
            .collect();
        assert!(names.len() >= nr_least, "{names:?}");
        for name in names {
            let errno = number(name);
            let failed = Failed {
                command,
                source: io::Error::from_raw_os_error(errno),
            };
            assert_ne!(
                failed.kind(),
                ErrorKind::Io,
                "{name} of {command:?} has no kind"
            );
            assert!(failed.why().is_some(), "{name} of {command:?} has no text");
        }
    }
}

fn number(name: &str) -> i32 {
    match name {
        "EPERM" => libc::EPERM,
        "EINVAL" => libc::EINVAL,
        "ENODATA" => libc::ENODATA,
        "EDOM" => libc::EDOM,
        "EOVERFLOW" => libc::EOVERFLOW,
        "EADDRINUSE" => libc::EADDRINUSE,
        "EADDRNOTAVAIL" => libc::EADDRNOTAVAIL,
        "EBUSY" => libc::EBUSY,
        "ENOSPC" => libc::ENOSPC,
        "EDQUOT" => libc::EDQUOT,
        "ENOMEM" => libc::ENOMEM,
        "ENODEV" => libc::ENODEV,
        "EINTR" => libc::EINTR,
        "EMSGSIZE" => libc::EMSGSIZE,
        "ERANGE" => libc::ERANGE,
        "EILSEQ" => libc::EILSEQ,
        "EBADF" => libc::EBADF,
        "EBADFD" => libc::EBADFD,
        "ESRCH" => libc::ESRCH,
        "EAGAIN" => libc::EAGAIN,
        other => panic!("{other} is new in the header: give it a kind, a text and a line here"),
    }
}
