//! Private memory and exclusive access: on a kernel that has them, what they promise; on one that has not,
//! that they are refused and nothing changes.

use std::{fs, fs::File, sync::OnceLock, sync::atomic::Ordering::Relaxed};

use super::{
    AT_HOME, Argument, Command, NAME, come_home, go_there, load_again, read, snapshot, value_of,
    write,
};
use crate::{
    Test,
    driver::errno,
    sys::{
        memory::{Memory, PAGE},
        process::{Child, Ended, delete_module},
    },
};

pub(crate) const TESTS: &[Test] = &[
    (
        "a_touch_brings_private_memory_home",
        a_touch_brings_private_memory_home,
    ),
    (
        "private_memory_goes_and_comes_by_command",
        private_memory_goes_and_comes_by_command,
    ),
    (
        "who_forked_shares_private_memory",
        who_forked_shares_private_memory,
    ),
    (
        "the_end_of_a_process_frees_private_memory",
        the_end_of_a_process_frees_private_memory,
    ),
    (
        "private_memory_comes_home_when_it_is_given_up",
        private_memory_comes_home_when_it_is_given_up,
    ),
    (
        "a_touch_ends_exclusive_access",
        a_touch_ends_exclusive_access,
    ),
    (
        "exclusive_access_is_one_file_s",
        exclusive_access_is_one_file_s,
    ),
    (
        "exclusive_access_can_be_taken_of_any_page",
        exclusive_access_can_be_taken_of_any_page,
    ),
    ("exclusive_access_is_refused", exclusive_access_is_refused),
];

const NODE: &str = "/dev/hmm_dmirror0";
const COHERENT_NODE: &str = "/dev/hmm_dmirror2";
/// What a snapshot says of a page of the device's private memory that can be written.
const HERE: u8 = 0x22;

/// The kernel has `CONFIG_DEVICE_PRIVATE`, and with it both.
pub(super) fn is_offered() -> bool {
    static IS_OFFERED: OnceLock<bool> = OnceLock::new();
    *IS_OFFERED.get_or_init(|| {
        let symbols = fs::read_to_string("/proc/kallsyms").expect("the kernel's symbols");
        symbols.contains(" make_device_exclusive")
    })
}

fn open() -> File {
    crate::sys::io::open(NODE)
}

/// Memory of the process that is on the device; `None` when the kernel offers none, which is refused.
fn on_device(file: &File, nr_pages: usize) -> Option<Memory> {
    let memory = Memory::filled(nr_pages * PAGE, value_of);
    let seen = Memory::filled(nr_pages * PAGE, |_index| 0);
    if !is_offered() {
        let refused = errno(Command::ToDevice.run(file, &memory, &seen).map(drop));
        assert_eq!(refused, libc::EOPNOTSUPP);
        memory.expect(value_of);
        return None;
    }
    go_there(file, &memory, &seen);
    seen.expect(value_of);
    assert!(snapshot(file, &memory).iter().all(|&code| code == HERE));
    Some(memory)
}

fn a_touch_brings_private_memory_home() {
    let file = open();
    let Some(memory) = on_device(&file, 600) else {
        return;
    };
    assert_eq!(memory.page_word(3).load(Relaxed), value_of(3 * PAGE / 8));
    memory.page_word(599).fetch_add(1, Relaxed);
    let mut expected = [HERE; 600];
    expected[3] = AT_HOME;
    expected[599] = AT_HOME;
    assert_eq!(snapshot(&file, &memory)[..], expected);
    // The device sees what the process wrote, and the process what the device writes to its own memory.
    let seen = Memory::filled(600 * PAGE, |_index| 0);
    read(&file, &memory, &seen);
    assert_eq!(
        seen.page_word(599).load(Relaxed),
        value_of(599 * PAGE / 8) + 1
    );
    seen.fill(|index| value_of(index) + 2);
    write(&file, &memory, &seen);
    assert_eq!(snapshot(&file, &memory)[..], expected);
    memory.expect(|index| value_of(index) + 2);
    assert!(snapshot(&file, &memory).iter().all(|&code| code == AT_HOME));
}

fn private_memory_goes_and_comes_by_command() {
    let file = open();
    let Some(memory) = on_device(&file, 1100) else {
        return;
    };
    come_home(&file, &memory, 1100);
    assert!(snapshot(&file, &memory).iter().all(|&code| code == AT_HOME));
    memory.expect(value_of);
    // Holes are filled with zeros.
    let hole = Memory::anonymous(8 * PAGE);
    let seen = Memory::filled(8 * PAGE, |_index| 7);
    go_there(&file, &hole, &seen);
    seen.expect(|_index| 0);
    hole.expect(|_index| 0);
}

fn who_forked_shares_private_memory() {
    let file = open();
    let Some(memory) = on_device(&file, 64) else {
        return;
    };
    let mut child = Child::start(|steps| {
        memory.expect(value_of);
        memory.fill(|index| value_of(index) + 1);
        steps.done();
        memory.expect(|index| value_of(index) + 1);
    });
    child.wait_step();
    memory.expect(value_of);
    memory.fill(|index| value_of(index) + 2);
    child.go_on();
    assert_eq!(child.join(), Ended::Status(0));
    memory.expect(|index| value_of(index) + 2);
}

/// What a process leaves on the device is free: the module, which each frame holds, goes at once.
fn the_end_of_a_process_frees_private_memory() {
    let mut child = Child::start(|steps| {
        let file = open();
        let _memory = on_device(&file, 600);
        steps.done();
    });
    child.wait_step();
    child.kill();
    assert_eq!(child.join(), Ended::Signal(libc::SIGKILL));
    delete_module(NAME).expect("nothing holds the module");
    load_again();
}

fn private_memory_comes_home_when_it_is_given_up() {
    let file = open();
    let Some(memory) = on_device(&file, 1100) else {
        return;
    };
    drop(file);
    delete_module(NAME).expect("nothing holds the module");
    memory.expect(value_of);
    load_again();
}

/// What the device has of `memory` from page `first` on is not exclusive.
fn is_ended(file: &File, memory: &Memory, first: usize, nr_pages: u64) -> bool {
    let mut argument = Argument {
        address: memory.address() + (first * PAGE) as u64,
        nr_pages,
        ..Argument::default()
    };
    match Command::CheckExclusive.issue(file, &mut argument) {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
            false
        }
    }
}

/// The device takes all of `memory`; `false` when the kernel does not offer it, which is refused.
fn take(file: &File, memory: &Memory) -> bool {
    let seen = Memory::filled(memory.len(), |_index| 0);
    let taken = Command::Exclusive.run(file, memory, &seen);
    if !is_offered() {
        assert_eq!(errno(taken.map(drop)), libc::EOPNOTSUPP);
        assert!(is_ended(file, memory, 0, memory.nr_pages()));
        memory.expect(value_of);
        return false;
    }
    assert_eq!(taken.expect("exclusive"), memory.nr_pages());
    seen.expect(value_of);
    true
}

fn a_touch_ends_exclusive_access() {
    let file = open();
    let memory = Memory::filled(8 * PAGE, value_of);
    if !take(&file, &memory) {
        return;
    }
    assert!(!is_ended(&file, &memory, 0, 1));
    // A write by the device is no touch.
    let written = Memory::filled(8 * PAGE, |index| value_of(index) + 1);
    write(&file, &memory, &written);
    assert!(!is_ended(&file, &memory, 0, 1));
    assert!(!is_ended(&file, &memory, 7, 1));
    assert_eq!(memory.page_word(0).load(Relaxed), value_of(0) + 1);
    assert!(is_ended(&file, &memory, 0, 1));
    assert!(!is_ended(&file, &memory, 0, 8));
    memory.expect(|index| value_of(index) + 1);
    assert!(is_ended(&file, &memory, 0, 8));
}

/// Another file's entries for the page end when one file takes it, and its next use of the page ends the
/// taking.
fn exclusive_access_is_one_file_s() {
    let (first, second) = (open(), open());
    let memory = Memory::filled(8 * PAGE, value_of);
    let seen = Memory::filled(8 * PAGE, |_index| 0);
    read(&second, &memory, &seen);
    if !take(&first, &memory) {
        return;
    }
    assert!(!is_ended(&first, &memory, 0, 8));
    assert!(is_ended(&second, &memory, 0, 8));
    read(&second, &memory, &seen);
    seen.expect(value_of);
    assert!(is_ended(&first, &memory, 0, 8));
}

/// Also of one that is exclusive already, shared after a fork, or on the device.
fn exclusive_access_can_be_taken_of_any_page() {
    let file = open();
    let memory = Memory::filled(8 * PAGE, value_of);
    if !take(&file, &memory) {
        return;
    }
    assert!(take(&file, &memory));
    let mut child = Child::start(|steps| {
        steps.done();
        memory.expect(value_of);
    });
    child.wait_step();
    assert!(is_ended(&file, &memory, 0, 8), "a fork ends it");
    assert!(take(&file, &memory));
    child.go_on();
    assert_eq!(child.join(), Ended::Status(0));
    assert!(!is_ended(&file, &memory, 0, 8), "the child has its own");
    memory.expect(value_of);
    let seen = Memory::filled(8 * PAGE, |_index| 0);
    go_there(&file, &memory, &seen);
    assert!(take(&file, &memory));
    assert_eq!(snapshot(&file, &memory), [0; 8]);
    memory.expect(value_of);
}

fn exclusive_access_is_refused() {
    let file = open();
    let coherent = crate::sys::io::open(COHERENT_NODE);
    let memory = Memory::filled(4 * PAGE, value_of);
    let seen = Memory::filled(4 * PAGE, |_index| 0);
    let refused = |expected| {
        let taken = Command::Exclusive.run(&file, &memory, &seen).map(drop);
        assert_eq!(errno(taken), expected);
        assert!(is_ended(&file, &memory, 0, 4));
    };
    go_there(&coherent, &memory, &seen);
    refused(libc::EINVAL);
    come_home(&coherent, &memory, 4);
    memory.protect(0, PAGE, libc::PROT_READ);
    refused(if is_offered() {
        libc::EFAULT
    } else {
        libc::EOPNOTSUPP
    });
    memory.expect(value_of);
}
