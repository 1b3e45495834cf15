//! Arguments that must be refused: each with its errno, which every caller gets at every time.

use std::fs::File;

use cohmem_uapi::{
    Direction, FRAME_BYTES, HISTORY_ALL, MAX_ACCOUNTS, MAX_MOVES, MAX_STUCK, PROC_SELF,
    QUOTA_DEFAULT, QUOTA_INHERITED, QUOTA_UNLIMITED, RANGE_ALIGN, args, ioctl,
};

use super::{board::Command, call::Caller};

/// What is wrong with an argument, and the answer to it.
type Spoil<T> = (fn(&mut T), i32);

const VERSION: &[Spoil<args::Version>] = &[(|args| args.reserved[1] = 1, libc::EINVAL)];

const LIST: &[Spoil<args::List>] = &[(|args| args.reserved[2] = 1, libc::EINVAL)];

const RANGE: &[Spoil<args::Range>] = &[
    (|args| args.reserved[1] = 1, libc::EINVAL),
    (|args| args.from = u64::MAX, libc::ENODATA),
];

const INFO: &[Spoil<args::Info>] = &[(|args| args.reserved[0] = 1, libc::EINVAL)];

const ATTACH: &[Spoil<args::Attach>] = &[
    (|args| args.reserved[1] = 1, libc::EINVAL),
    (|args| args.flags = 1 << 31, libc::EOPNOTSUPP),
    (|args| args.length = 0, libc::ENODATA),
    (|args| args.start += FRAME_BYTES, libc::EDOM),
    (|args| args.length = FRAME_BYTES, libc::EDOM),
    (
        |args| args.start = 0u64.wrapping_sub(RANGE_ALIGN),
        libc::EOVERFLOW,
    ),
    (|args| args.start = 1 << 62, libc::EOVERFLOW),
    (|args| args.start = 16 << 20, libc::EADDRINUSE),
    (|args| args.start = 0xFEC0_0000, libc::EADDRNOTAVAIL),
    (|args| args.start = 1 << 38, libc::EADDRNOTAVAIL),
];

const DETACH: &[Spoil<args::Detach>] = &[
    (|args| args.reserved[1] = 1, libc::EINVAL),
    (|args| args.flags = 1, libc::EOPNOTSUPP),
    (|args| args.nr_stuck_max = MAX_STUCK + 1, libc::EMSGSIZE),
    (|args| args.nr_stuck_max = 1, libc::EFAULT),
];

const MIGRATE: &[Spoil<args::Migrate>] = &[
    (|args| args.reserved[1] = 1, libc::EINVAL),
    (|args| args.pad = 1, libc::EINVAL),
    (|args| args.flags = 1 << 3, libc::EOPNOTSUPP),
    (|args| args.flags = 1 << 31, libc::EOPNOTSUPP),
    (|args| args.direction = 0, libc::EILSEQ),
    (|args| args.direction = 3, libc::EILSEQ),
    (|args| args.length = 0, libc::ENODATA),
    (|args| args.start += 8, libc::EDOM),
    (|args| args.length += 100, libc::EDOM),
    (
        |args| args.length = 0u64.wrapping_sub(FRAME_BYTES),
        libc::EOVERFLOW,
    ),
    (|args| args.start = 0xFFFF_8880_0000_0000, libc::ERANGE),
    (|args| args.start = 0x00FF_FFFF_FFFF_F000, libc::ERANGE),
];

/// As [`MIGRATE`], but looked at only once the device is found and open.
const MIGRATE_LATER: &[Spoil<args::Migrate>] = &[
    (|args| args.proc_fd = 9999, libc::EBADF),
    (|args| args.proc_fd = -2, libc::EBADF),
    (|args| args.reasons_ptr = 0x1000, libc::EFAULT),
    (|args| args.reasons_ptr = u64::MAX - 1, libc::EFAULT),
    (
        |args| {
            args.start = 0x1000;
            args.length = FRAME_BYTES;
        },
        libc::EADDRNOTAVAIL,
    ),
];

const QUERY: &[Spoil<args::Query>] = &[
    (|args| args.reserved[1] = 1, libc::EINVAL),
    (|args| args.flags = 1 << 1, libc::EOPNOTSUPP),
    (|args| args.length = 0, libc::ENODATA),
    (|args| args.start += 8, libc::EDOM),
    (|args| args.length += 100, libc::EDOM),
    (
        |args| args.length = 0u64.wrapping_sub(FRAME_BYTES),
        libc::EOVERFLOW,
    ),
    (|args| args.start = 0xFFFF_8880_0000_0000, libc::ERANGE),
];

const QUERY_LATER: &[Spoil<args::Query>] = &[
    (|args| args.proc_fd = 9999, libc::EBADF),
    (|args| args.map_ptr = 0x1000, libc::EFAULT),
    (
        |args| {
            args.start = 0x1000;
            args.length = FRAME_BYTES;
        },
        libc::EADDRNOTAVAIL,
    ),
];

const SET_QUOTA: &[Spoil<args::Quota>] = &[
    (|args| args.reserved[1] = 1, libc::EINVAL),
    (|args| args.flags = 1 << 3, libc::EOPNOTSUPP),
    (
        |args| args.flags = QUOTA_UNLIMITED | QUOTA_INHERITED,
        libc::EINVAL,
    ),
    (
        |args| {
            args.user = 0;
            args.flags = QUOTA_DEFAULT | QUOTA_INHERITED;
        },
        libc::EINVAL,
    ),
    (|args| args.flags = QUOTA_DEFAULT, libc::EINVAL),
    (
        |args| {
            args.flags = QUOTA_UNLIMITED;
            args.limit = 1;
        },
        libc::EINVAL,
    ),
    (|args| args.user = u32::MAX, libc::ERANGE),
    (|args| args.limit = (1 << 52) + 1, libc::ERANGE),
];

const ACCOUNTS: &[Spoil<args::Accounts>] = &[
    (|args| args.reserved[0] = 1, libc::EINVAL),
    (|args| args.flags = 1, libc::EOPNOTSUPP),
    (|args| args.nr_max = MAX_ACCOUNTS + 1, libc::EMSGSIZE),
    (|args| args.nr_max = 1, libc::EFAULT),
];

const HISTORY: &[Spoil<args::History>] = &[
    (|args| args.reserved[1] = 1, libc::EINVAL),
    (|args| args.flags = 1 << 2, libc::EOPNOTSUPP),
    (
        |args| (args.flags, args.proc_fd) = (HISTORY_ALL, 3),
        libc::EINVAL,
    ),
    (|args| args.length = 0, libc::EINVAL),
    (|args| args.start += 8, libc::EDOM),
    (|args| args.length += 100, libc::EDOM),
    (
        |args| args.length = 0u64.wrapping_sub(FRAME_BYTES),
        libc::EOVERFLOW,
    ),
    (|args| args.start = 0xFFFF_8880_0000_0000, libc::ERANGE),
    (|args| args.nr_max = MAX_MOVES + 1, libc::EMSGSIZE),
    (|args| args.nr_max = 1, libc::EFAULT),
];

const HISTORY_LATER: &[Spoil<args::History>] = &[(|args| args.proc_fd = 9999, libc::EBADF)];

/// Numbers that are no command of either node, and of a command with an argument of another size.
const UNKNOWN: [u32; 4] = [0, u32::MAX, 0xC008_BDFF, ioctl::MIGRATE - (8 << 16)];

/// A user who runs nothing here.
pub(crate) const ABSENT_USER: u32 = 77_777;

/// Addresses that are no argument.
const NOWHERE: [usize; 3] = [0, 0x1000, 0xFFFF_8880_0000_0000];

/// An argument, or an address where there is none.
#[derive(Clone, Copy, Debug)]
enum Argument {
    Version(args::Version),
    List(args::List),
    Info(args::Info),
    Attach(args::Attach),
    Detach(args::Detach),
    Migrate(args::Migrate),
    Query(args::Query),
    Quota(args::Quota),
    Accounts(args::Accounts),
    Range(args::Range),
    History(args::History),
    Address(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Control,
    Device,
}

/// A call that must be refused.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    command: Command,
    node: Node,
    request: u32,
    argument: Argument,
    wanted: Vec<i32>,
}

/// Good arguments to spoil.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ground {
    /// A range that may be attached.
    pub(crate) start: u64,
    /// A page of the caller.
    pub(crate) memory: u64,
    pub(crate) is_privileged: bool,
}

impl Fault {
    /// Makes the call; fails the run when the answer is another.
    pub(crate) fn commit(&self, caller: &Caller, control: &File, device: &File) {
        let mut argument = self.argument;
        let address = match &mut argument {
            Argument::Version(args) => std::ptr::from_mut(args).addr(),
            Argument::List(args) => std::ptr::from_mut(args).addr(),
            Argument::Info(args) => std::ptr::from_mut(args).addr(),
            Argument::Attach(args) => std::ptr::from_mut(args).addr(),
            Argument::Detach(args) => std::ptr::from_mut(args).addr(),
            Argument::Migrate(args) => std::ptr::from_mut(args).addr(),
            Argument::Query(args) => std::ptr::from_mut(args).addr(),
            Argument::Quota(args) => std::ptr::from_mut(args).addr(),
            Argument::Accounts(args) => std::ptr::from_mut(args).addr(),
            Argument::Range(args) => std::ptr::from_mut(args).addr(),
            Argument::History(args) => std::ptr::from_mut(args).addr(),
            Argument::Address(address) => *address,
        };
        let file = match self.node {
            Node::Control => control,
            Node::Device => device,
        };
        let errno = caller.raw(self.command, file, self.request, address);
        caller.demand(&format!("{self:?}"), errno, &self.wanted);
    }

    /// All of them.
    pub(crate) fn all(ground: Ground) -> Vec<Self> {
        let mut faults = arguments(ground);
        let unknown = |node, request| Self {
            command: Command::Unknown,
            node,
            request,
            argument: Argument::Address(0),
            wanted: vec![libc::ENOTTY],
        };
        for request in UNKNOWN {
            faults.push(unknown(Node::Control, request));
            faults.push(unknown(Node::Device, request));
        }
        for (command, node, request) in COMMANDS {
            if command != Command::Version {
                let other = match node {
                    Node::Control => Node::Device,
                    Node::Device => Node::Control,
                };
                faults.push(unknown(other, request));
            }
            faults.extend(NOWHERE.map(|address| Self {
                command,
                node,
                request,
                argument: Argument::Address(address),
                wanted: vec![libc::EFAULT],
            }));
        }
        faults
    }
}

/// The commands, each with a node that takes it.
const COMMANDS: [(Command, Node, u32); 12] = [
    (Command::Version, Node::Control, ioctl::VERSION),
    (Command::Attach, Node::Control, ioctl::ATTACH),
    (Command::Detach, Node::Control, ioctl::DETACH),
    (Command::List, Node::Control, ioctl::LIST),
    (Command::Info, Node::Device, ioctl::INFO),
    (Command::Migrate, Node::Device, ioctl::MIGRATE),
    (Command::Query, Node::Device, ioctl::QUERY),
    (Command::Evict, Node::Device, ioctl::EVICT),
    (Command::SetQuota, Node::Device, ioctl::SET_QUOTA),
    (Command::Accounts, Node::Device, ioctl::ACCOUNTS),
    (Command::Range, Node::Control, ioctl::RANGE),
    (Command::History, Node::Device, ioctl::HISTORY),
];

/// Arguments with something wrong in them.
fn arguments(ground: Ground) -> Vec<Fault> {
    let Ground {
        start,
        memory,
        is_privileged,
    } = ground;
    let attach = args::Attach {
        start,
        length: RANGE_ALIGN,
        ..args::Attach::default()
    };
    let migrate = args::Migrate {
        start: memory,
        length: FRAME_BYTES,
        direction: Direction::ToDevice as u32,
        proc_fd: PROC_SELF,
        ..args::Migrate::default()
    };
    let query = args::Query {
        start: memory,
        length: FRAME_BYTES,
        proc_fd: PROC_SELF,
        ..args::Query::default()
    };
    let history = args::History {
        start: memory,
        length: FRAME_BYTES,
        proc_fd: PROC_SELF,
        ..args::History::default()
    };
    let admin = |errno| if is_privileged { errno } else { libc::EPERM };
    let mut faults = Vec::new();
    let mut add = |index: usize, argument, wanted: &[i32]| {
        let (command, node, request) = COMMANDS[index];
        faults.push(Fault {
            command,
            node,
            request,
            argument,
            wanted: wanted.to_vec(),
        });
    };
    for &(errno, args) in &spoiled(VERSION, args::Version::default()) {
        add(0, Argument::Version(args), &[errno]);
    }
    for &(errno, args) in &spoiled(ATTACH, attach) {
        // These are found only after a number for the device was.
        let is_late = is_privileged && matches!(errno, libc::EADDRINUSE | libc::EADDRNOTAVAIL);
        let wanted = [admin(errno), libc::ENOSPC];
        add(
            1,
            Argument::Attach(args),
            &wanted[..1 + usize::from(is_late)],
        );
    }
    for &(errno, args) in &spoiled(DETACH, args::Detach::default()) {
        add(2, Argument::Detach(args), &[admin(errno)]);
        add(7, Argument::Detach(args), &[admin(errno)]);
    }
    let other_device = Argument::Detach(args::Detach {
        device: 99,
        ..args::Detach::default()
    });
    add(2, other_device, &[admin(libc::ENODEV)]);
    add(7, other_device, &[admin(libc::EINVAL)]);
    for &(errno, args) in &spoiled(LIST, args::List::default()) {
        add(3, Argument::List(args), &[errno]);
    }
    for &(errno, args) in &spoiled(INFO, args::Info::default()) {
        add(4, Argument::Info(args), &[errno]);
    }
    for &(errno, args) in &spoiled(MIGRATE, migrate) {
        add(5, Argument::Migrate(args), &[errno]);
    }
    for &(errno, args) in &spoiled(MIGRATE_LATER, migrate) {
        add(
            5,
            Argument::Migrate(args),
            &[errno, libc::ENODEV, libc::EAGAIN],
        );
    }
    for &(errno, args) in &spoiled(QUERY, query) {
        add(6, Argument::Query(args), &[errno]);
    }
    for &(errno, args) in &spoiled(QUERY_LATER, query) {
        add(6, Argument::Query(args), &[errno, libc::ENODEV]);
    }
    let quota = args::Quota {
        user: ABSENT_USER,
        ..args::Quota::default()
    };
    for &(errno, args) in &spoiled(SET_QUOTA, quota) {
        add(8, Argument::Quota(args), &[admin(errno)]);
    }
    for &(errno, args) in &spoiled(ACCOUNTS, args::Accounts::default()) {
        add(9, Argument::Accounts(args), &[errno]);
    }
    for &(errno, args) in &spoiled(RANGE, args::Range::default()) {
        add(10, Argument::Range(args), &[admin(errno)]);
    }
    for &(errno, args) in &spoiled(HISTORY, history) {
        add(11, Argument::History(args), &[errno]);
    }
    for &(errno, args) in &spoiled(HISTORY_LATER, history) {
        add(11, Argument::History(args), &[errno, libc::ENODEV]);
    }
    if !is_privileged {
        let all = args::History {
            flags: HISTORY_ALL,
            ..history
        };
        add(11, Argument::History(all), &[libc::EPERM]);
    }
    faults
}

fn spoiled<T: Copy>(faults: &[Spoil<T>], good: T) -> Vec<(i32, T)> {
    faults
        .iter()
        .map(|&(spoil, errno)| {
            let mut args = good;
            spoil(&mut args);
            (errno, args)
        })
        .collect()
}
