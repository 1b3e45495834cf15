//! C2 when memory runs out: each allocation that a command makes fails in turn, and after each the
//! contract holds. The debug kernel makes them fail (`fail-nth`, see
//! `Documentation/fault-injection/fault-injection.rst`); other kernels cannot.
//!
//! A round prepares, makes the call with its n-th allocation failing, and checks: the answer is one that
//! the header lists, content and counts are right, and the same call succeeds afterwards. The rounds end
//! when a call makes fewer allocations than n.
//!
//! Attach is not among them: the kernel itself warns when it has no memory for struct pages. What attach
//! allocates besides is for `hooks::`.

use std::{
    cell::Cell,
    collections::BTreeMap,
    fs::{self, File},
    os::{
        fd::AsRawFd as _,
        unix::fs::{FileExt as _, OpenOptionsExt as _},
    },
    path::Path,
};

use cohmem_uapi::{
    Direction, MIGRATE_FILL, PROC_SELF, PageEntry, QUERY_REASONS, ReasonCounts, args, ioctl,
};

use crate::{
    Test,
    driver::{Device, errno},
    sys::{
        io::{ioctl as command, open},
        memory::{Memory, PAGE},
        process::{Child, Ended},
        task::thread_id,
    },
};

pub(crate) const TESTS: &[Test] = &[
    ("a_detach", a_detach),
    ("an_eviction", an_eviction),
    ("an_open", an_open),
    ("a_move_to_the_device", a_move_to_the_device),
    ("a_move_home", a_move_home),
    ("a_move_between_devices", a_move_between_devices),
    ("a_move_of_another_process", a_move_of_another_process),
    ("a_fill", a_fill),
    ("a_query", a_query),
    ("a_list_of_accounts", a_list_of_accounts),
    ("commands_that_need_no_memory", commands_that_need_no_memory),
];

/// More than any call makes.
const NR_ALLOCATIONS: u32 = 3000;
const MIB: u64 = 1 << 20;
/// Two windows.
const LEN: usize = 513 * PAGE;

/// What keeps these tests from running on this kernel.
pub(crate) fn obstacle() -> Option<&'static str> {
    (!Path::new("/proc/self/fail-nth").exists()).then_some("this kernel has no fault injection")
}

/// Sets the kernel's knobs: every allocation may fail, silently; copies from and to user space may not.
fn prepare() {
    let settings = [
        ("failslab/ignore-gfp-wait", "N"),
        ("failslab/verbose", "0"),
        ("fail_page_alloc/ignore-gfp-wait", "N"),
        ("fail_page_alloc/ignore-gfp-highmem", "N"),
        ("fail_page_alloc/min-order", "0"),
        ("fail_page_alloc/verbose", "0"),
        // No caller has an address in this range.
        ("fail_usercopy/require-start", "1"),
        ("fail_usercopy/require-end", "2"),
    ];
    for (name, value) in settings {
        let path = format!("/sys/kernel/debug/{name}");
        fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

/// The allocation that fails in a round.
struct Fault<'a> {
    switch: &'a File,
    nth: u32,
    answer: Cell<Option<i32>>,
    was_reached: Cell<bool>,
}

impl Fault<'_> {
    /// Makes the round's call, whose answer is an errno. It must not allocate memory of its own.
    fn call(&self, call_fn: impl FnOnce() -> i32) -> i32 {
        let nth = format!("{}\n", self.nth);
        self.switch
            .write_all_at(nth.as_bytes(), 0)
            .expect("fail-nth");
        let answer = call_fn();
        let mut left = [0u8; 16];
        let len = self.switch.read_at(&mut left, 0).expect("fail-nth");
        self.switch.write_all_at(b"0\n", 0).expect("fail-nth");
        self.was_reached.set(left[..len].trim_ascii() == b"0");
        self.answer.set(Some(answer));
        answer
    }
}

/// Goes through the rounds; `wanted` are the answers to a call of which an allocation failed. Returns how
/// many did.
fn each_allocation(what: &str, wanted: &[i32], mut round_fn: impl FnMut(&Fault<'_>)) -> u32 {
    prepare();
    let path = format!("/proc/self/task/{}/fail-nth", thread_id());
    let switch = File::options()
        .read(true)
        .write(true)
        .open(path)
        .expect("fail-nth");
    let mut answers = BTreeMap::new();
    for nth in 1..NR_ALLOCATIONS {
        let fault = Fault {
            switch: &switch,
            nth,
            answer: Cell::new(None),
            was_reached: Cell::new(false),
        };
        round_fn(&fault);
        let answer = fault.answer.get().expect("a round makes its call");
        if !fault.was_reached.get() {
            assert_eq!(answer, 0, "{what} without a failure");
            println!(
                "faults: {what}: {} allocations failed in turn, answers by errno: {answers:?}",
                nth - 1
            );
            return nth - 1;
        }
        let is_wanted = answer == 0 || wanted.contains(&answer);
        assert!(is_wanted, "{what}, allocation {nth}: errno {answer}");
        *answers.entry(answer).or_insert(0u32) += 1;
    }
    panic!("{what} makes more than {NR_ALLOCATIONS} allocations");
}

/// As [`each_allocation`], for a call that needs memory.
fn each_needed(what: &str, round_fn: impl FnMut(&Fault<'_>)) {
    let nr_failed = each_allocation(what, &[libc::ENOMEM], round_fn);
    assert!(nr_failed > 0, "{what} allocates");
}

fn device(index: usize) -> Device {
    Device::attach_part(index, 4 * MIB)
}

fn filled() -> Memory {
    Memory::filled(LEN, |index| index as u64)
}

/// Content, counts and charges are right: every frame that is taken holds a page of `memory`.
fn assert_whole(devices: &[&Device], memory: &Memory) {
    memory.expect(|index| index as u64);
    assert_counted(devices, memory);
}

fn assert_counted(devices: &[&Device], memory: &Memory) {
    for device in devices {
        let info = device.info();
        let nr_resident = device.resident(memory);
        assert_eq!(
            (info.nr_allocated, device.charged(0)),
            (nr_resident, nr_resident)
        );
        assert_eq!(info.nr_free + info.nr_allocated, info.nr_frames);
    }
}

/// A migration's answer; when it is success, each page is counted once.
fn migrate(device: &Device, argument: &mut args::Migrate) -> i32 {
    let answer = errno(command(&device.file, ioctl::MIGRATE, argument));
    if answer == 0 {
        let nr_seen = (argument.next - argument.start) / PAGE as u64;
        let nr_stayed = ReasonCounts::from_raw(argument.stayed).total();
        assert_eq!(argument.nr_moved + argument.nr_filled + nr_stayed, nr_seen);
    }
    answer
}

fn a_detach() {
    let control = open("/dev/cohmem");
    let memory = filled();
    each_needed("detach", |fault| {
        let mut device = device(0);
        device.take_all(&memory);
        let mut detach = args::Detach {
            device: device.number,
            timeout_ms: 10_000,
            ..args::Detach::default()
        };
        if fault.call(|| errno(command(&control, ioctl::DETACH, &mut detach))) == 0 {
            device.forget_attachment();
            memory.expect(|index| index as u64);
        } else {
            assert_whole(&[&device], &memory);
            device.detach();
            memory.expect(|index| index as u64);
        }
    });
}

fn an_eviction() {
    let device = device(0);
    let memory = filled();
    each_needed("evict", |fault| {
        device.take_all_again(&memory);
        let mut evict = args::Detach {
            timeout_ms: 10_000,
            ..args::Detach::default()
        };
        fault.call(|| errno(command(&device.file, ioctl::EVICT, &mut evict)));
        assert_whole(&[&device], &memory);
        assert_eq!(device.evict(10_000).errno, 0);
        assert_eq!(device.allocated(), 0);
    });
}

fn an_open() {
    let device = device(0);
    let path = format!("/dev/cohmem{}", device.number);
    for path in ["/dev/cohmem", &path] {
        each_needed(&format!("open of {path}"), |fault| {
            fault.call(|| {
                let opened = File::options()
                    .read(true)
                    .custom_flags(libc::O_CLOEXEC)
                    .open(path);
                errno(opened.map(drop))
            });
            drop(open(path));
            assert_eq!(device.allocated(), 0);
        });
    }
}

fn a_move_to_the_device() {
    let device = device(0);
    let memory = filled();
    each_needed("migrate to the device", |fault| {
        let mut argument = Device::migrate_args(&memory, Direction::ToDevice, 0);
        fault.call(|| migrate(&device, &mut argument));
        assert_whole(&[&device], &memory);
        device.take_all_again(&memory);
        device.give_all(&memory);
        assert_whole(&[&device], &memory);
    });
}

fn a_move_home() {
    let device = device(0);
    let memory = filled();
    each_needed("migrate home", |fault| {
        device.take_all(&memory);
        let mut argument = Device::migrate_args(&memory, Direction::ToSystem, 0);
        fault.call(|| migrate(&device, &mut argument));
        assert_whole(&[&device], &memory);
        device.give(&memory);
        assert_eq!(device.allocated(), 0);
        assert_whole(&[&device], &memory);
    });
}

fn a_move_between_devices() {
    let (first, second) = (device(0), device(1));
    let memory = filled();
    each_needed("migrate between devices", |fault| {
        first.take_all_again(&memory);
        let mut argument = Device::migrate_args(&memory, Direction::ToDevice, 0);
        fault.call(|| migrate(&second, &mut argument));
        assert_whole(&[&first, &second], &memory);
        second.take_all_again(&memory);
        assert_whole(&[&first, &second], &memory);
    });
}

fn a_move_of_another_process() {
    let device = device(0);
    let memory = Memory::anonymous(LEN);
    let mut child = Child::start(|steps| {
        memory.fill(|index| index as u64);
        steps.done();
        memory.expect(|index| index as u64);
    });
    child.wait_step();
    let pagemap = File::open(format!("/proc/{}/pagemap", child.pid())).expect("pagemap");
    let migrate_child = |direction| args::Migrate {
        proc_fd: pagemap.as_raw_fd(),
        ..Device::migrate_args(&memory, direction, 0)
    };
    for direction in [Direction::ToDevice, Direction::ToSystem] {
        let back = match direction {
            Direction::ToDevice => Direction::ToSystem,
            Direction::ToSystem => Direction::ToDevice,
        };
        each_needed(
            &format!("migrate another process, {direction:?}"),
            |fault| {
                assert_eq!(migrate(&device, &mut migrate_child(back)), 0);
                let mut argument = migrate_child(direction);
                fault.call(|| migrate(&device, &mut argument));
                let nr_resident = device.resident_of(child.pid(), &memory);
                assert_eq!(
                    (device.allocated(), device.charged(0)),
                    (nr_resident, nr_resident)
                );
                assert_eq!(migrate(&device, &mut migrate_child(direction)), 0);
                let nr_there = match direction {
                    Direction::ToDevice => memory.nr_pages(),
                    Direction::ToSystem => 0,
                };
                assert_eq!(device.allocated(), nr_there);
            },
        );
    }
    child.go_on();
    assert_eq!(child.join(), Ended::Status(0), "its content");
}

fn a_fill() {
    let device = device(0);
    each_needed("fill", |fault| {
        let hole = Memory::anonymous(LEN);
        let mut argument = Device::migrate_args(&hole, Direction::ToDevice, MIGRATE_FILL);
        fault.call(|| migrate(&device, &mut argument));
        assert_counted(&[&device], &hole);
        let again = Device::migrate_args(&hole, Direction::ToDevice, MIGRATE_FILL);
        device.migrate_with(again).expect("fill");
        assert_eq!(device.resident(&hole), hole.nr_pages());
        hole.expect(|_index| 0);
        assert_counted(&[&device], &hole);
        drop(hole);
        assert_eq!(device.allocated(), 0);
    });
}

fn a_query() {
    let device = device(0);
    let memory = filled();
    device.take_all(&memory);
    let mut map = vec![0u16; LEN / PAGE];
    each_needed("query", |fault| {
        let mut query = args::Query {
            start: memory.address(),
            length: memory.len() as u64,
            proc_fd: PROC_SELF,
            flags: QUERY_REASONS,
            map_ptr: map.as_mut_ptr().addr() as u64,
            ..args::Query::default()
        };
        fault.call(|| errno(command(&device.file, ioctl::QUERY, &mut query)));
        let map = device.query(&memory);
        let is_here = |entry: &PageEntry| entry.device() == Some(device.number);
        assert!(map.iter().all(is_here));
        assert_whole(&[&device], &memory);
    });
}

fn a_list_of_accounts() {
    let device = device(0);
    device.set_quota(7, 0, 3).expect("a limit");
    let mut list = vec![args::Account::default(); 256];
    each_needed("accounts", |fault| {
        let mut accounts = args::Accounts {
            nr_max: 256,
            accounts_ptr: list.as_mut_ptr().addr() as u64,
            ..args::Accounts::default()
        };
        fault.call(|| errno(command(&device.file, ioctl::ACCOUNTS, &mut accounts)));
        assert_eq!(device.accounts().len(), 1);
    });
}

fn commands_that_need_no_memory() {
    let device = device(0);
    let control = open("/dev/cohmem");
    let none = |what: &str, call_fn: &mut dyn FnMut() -> i32| {
        assert_eq!(
            each_allocation(what, &[], |fault| {
                fault.call(&mut *call_fn);
            }),
            0
        );
    };
    none("version", &mut || {
        errno(command(
            &control,
            ioctl::VERSION,
            &mut args::Version::default(),
        ))
    });
    none("list", &mut || {
        errno(command(&control, ioctl::LIST, &mut args::List::default()))
    });
    none("range", &mut || {
        errno(command(&control, ioctl::RANGE, &mut args::Range::default()))
    });
    none("info", &mut || device.info_errno());
    none("set a limit", &mut || errno(device.set_quota(7, 0, 3)));
}
