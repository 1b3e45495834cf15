//! The test device (`cohmem_dmirror.ko`), where the kernel's own suite does not look.

pub(crate) mod private;

use std::{ffi::CStr, fs::File, io::Error, path::Path, sync::atomic::Ordering::Relaxed};

use crate::{
    Test,
    driver::errno,
    sys::{
        io::{PagePipe, ioctl, open},
        memory::{Memory, PAGE},
        process::{Child, Ended, delete_module, load_module},
    },
};

pub(crate) const TESTS: &[Test] = &[
    (
        "a_held_page_stays_on_the_device",
        a_held_page_stays_on_the_device,
    ),
    (
        "files_of_a_process_follow_each_other",
        files_of_a_process_follow_each_other,
    ),
    (
        "the_device_writes_what_fork_shares",
        the_device_writes_what_fork_shares,
    ),
    ("bad_input_is_refused", bad_input_is_refused),
    (
        "a_device_without_memory_mirrors",
        a_device_without_memory_mirrors,
    ),
    (
        "the_last_file_gives_the_memory_up",
        the_last_file_gives_the_memory_up,
    ),
    (
        "a_held_frame_keeps_the_module",
        a_held_frame_keeps_the_module,
    ),
    ("the_example_adds_up", the_example_adds_up),
];

const NAME: &CStr = c"cohmem_dmirror";
const NODE: &str = "/dev/hmm_dmirror2";
/// As the lab loads it; see `xtask/src/test.rs`.
const PARAMETERS: &CStr = c"spm_addr_dev0=0x140000000 spm_addr_dev1=0x180000000";
/// What a snapshot says of a page of this device that can be written.
const HERE: u8 = 0x42;
/// The same of system memory.
const AT_HOME: u8 = 0x02;

/// The argument of each command.
#[repr(C)]
#[derive(Default)]
struct Argument {
    address: u64,
    buffer: u64,
    nr_pages: u64,
    nr_done: u64,
    nr_faults: u64,
}

#[derive(Clone, Copy)]
enum Command {
    Read = 0,
    Write = 1,
    ToDevice = 2,
    ToSystem = 3,
    Snapshot = 4,
    Exclusive = 5,
    CheckExclusive = 6,
    Unknown = 9,
}

impl Command {
    fn issue(self, file: &File, argument: &mut Argument) -> Result<(), Error> {
        #[expect(clippy::cast_possible_truncation, reason = "40 bytes")]
        let bytes = size_of::<Argument>() as u32;
        let number = 3 << 30 | bytes << 16 | u32::from(b'H') << 8 | self as u32;
        ioctl(file, number, argument)
    }

    /// Runs the command on all of `memory`; the other side of a copy is `buffer`.
    fn run(self, file: &File, memory: &Memory, buffer: &Memory) -> Result<u64, Error> {
        let mut argument = Argument {
            address: memory.address(),
            buffer: buffer.address(),
            nr_pages: memory.nr_pages(),
            ..Argument::default()
        };
        self.issue(file, &mut argument)?;
        Ok(argument.nr_done)
    }
}

/// What the snapshot says of each page.
fn snapshot(file: &File, memory: &Memory) -> Vec<u8> {
    let codes = Memory::filled(PAGE, |_index| u64::MAX);
    let nr_seen = Command::Snapshot
        .run(file, memory, &codes)
        .expect("a snapshot");
    assert_eq!(nr_seen, memory.nr_pages());
    let bytes = codes
        .words()
        .iter()
        .flat_map(|word| word.load(Relaxed).to_le_bytes());
    bytes.take(memory.len() / PAGE).collect()
}

fn value_of(index: usize) -> u64 {
    index as u64 ^ 0x5a5a_0000
}

/// How often a command is repeated: the kernel may hold a page for a moment (compaction, another
/// processor's LRU batch).
const NR_TRIES: u32 = 1000;

/// Moves all of `memory` to the device; what the device sees then goes to `seen`.
fn go_there(file: &File, memory: &Memory, seen: &Memory) {
    for _try in 0..NR_TRIES {
        match Command::ToDevice.run(file, memory, seen) {
            Ok(nr_there) => return assert_eq!(nr_there, memory.nr_pages()),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{error}"),
        }
        std::thread::yield_now();
    }
    panic!("some pages do not go to the device");
}

/// Moves `memory` home, of which `nr_pages` can.
fn come_home(file: &File, memory: &Memory, nr_pages: u64) {
    let mut nr_home = 0;
    for _try in 0..NR_TRIES {
        nr_home += Command::ToSystem.run(file, memory, memory).expect("home");
        if nr_home >= nr_pages {
            break;
        }
        std::thread::yield_now();
    }
    assert_eq!(nr_home, nr_pages, "pages that came home");
}

/// The device writes `written` over `memory`.
fn write(file: &File, memory: &Memory, written: &Memory) {
    let nr_written = Command::Write.run(file, memory, written).expect("write");
    assert_eq!(nr_written, memory.nr_pages());
}

/// The device reads `memory`.
fn read(file: &File, memory: &Memory, seen: &Memory) {
    let nr_read = Command::Read.run(file, memory, seen).expect("read");
    assert_eq!(nr_read, memory.nr_pages());
}

fn a_held_page_stays_on_the_device() {
    let file = open(NODE);
    let memory = Memory::filled(16 * PAGE, value_of);
    let seen = Memory::filled(16 * PAGE, |_index| 0);
    go_there(&file, &memory, &seen);
    seen.expect(value_of);
    let pipe = PagePipe::new();
    pipe.hold(&memory, 3);
    come_home(&file, &memory, 15);
    let mut expected = [AT_HOME; 16];
    expected[3] = HERE;
    assert_eq!(snapshot(&file, &memory), expected);
    assert_eq!(pipe.release(), value_of(3 * PAGE / 8));
    come_home(&file, &memory, 1);
    memory.expect(value_of);
}

/// The tables of one file forget what a migration through another took away.
fn files_of_a_process_follow_each_other() {
    let (first, second) = (open(NODE), open(NODE));
    let memory = Memory::filled(1024 * PAGE, value_of);
    let buffer = Memory::filled(1024 * PAGE, |_index| 0);
    write(&first, &memory, &buffer);
    memory.expect(|_index| 0);
    go_there(&second, &memory, &buffer);
    buffer.fill(value_of);
    write(&first, &memory, &buffer);
    memory.expect(value_of);
    assert_eq!(snapshot(&second, &memory), [HERE; 1024]);
    come_home(&first, &memory, 1024);
    buffer.fill(|index| value_of(index) + 1);
    write(&second, &memory, &buffer);
    memory.expect(|index| value_of(index) + 1);
}

/// A write through the device breaks a page's sharing, as a write by the processor does.
fn the_device_writes_what_fork_shares() {
    let file = open(NODE);
    let memory = Memory::filled(64 * PAGE, value_of);
    let seen = Memory::filled(64 * PAGE, |_index| 0);
    let written = Memory::filled(64 * PAGE, |_index| 7);
    go_there(&file, &memory, &seen);
    let mut child = Child::start(|steps| {
        steps.done();
        memory.expect(value_of);
    });
    child.wait_step();
    // Makes entries for reading, which do not allow the write.
    read(&file, &memory, &seen);
    seen.expect(value_of);
    write(&file, &memory, &written);
    memory.expect(|_index| 7);
    child.go_on();
    assert_eq!(child.join(), Ended::Status(0));
}

fn bad_input_is_refused() {
    let file = open(NODE);
    let memory = Memory::filled(4 * PAGE, value_of);
    let buffer = Memory::filled(4 * PAGE, |_index| 0);
    let issue = |command: Command, address, nr_pages| {
        errno(command.issue(
            &file,
            &mut Argument {
                address,
                buffer: buffer.address(),
                nr_pages,
                ..Argument::default()
            },
        ))
    };
    let start = memory.address();
    assert_eq!(
        issue(Command::Read, start + 1, 1),
        libc::EINVAL,
        "misaligned"
    );
    assert_eq!(issue(Command::Read, start, 0), libc::EINVAL, "nothing");
    assert_eq!(
        issue(Command::Read, start, u64::MAX),
        libc::EINVAL,
        "too much"
    );
    assert_eq!(
        issue(Command::Read, u64::MAX - 4095, 2),
        libc::EINVAL,
        "wraps"
    );
    assert_eq!(issue(Command::Unknown, start, 1), libc::EINVAL, "unknown");
    memory.protect(PAGE, PAGE, libc::PROT_READ);
    assert_eq!(
        issue(Command::Write, start + PAGE as u64, 1),
        libc::EPERM,
        "read-only"
    );
    memory.unmap(2 * PAGE, PAGE);
    let hole = start + 2 * PAGE as u64;
    assert_eq!(issue(Command::Read, hole, 1), libc::EFAULT, "unmapped");
    assert_eq!(issue(Command::ToDevice, hole, 1), libc::EINVAL, "unmapped");
    assert_eq!(issue(Command::ToSystem, hole, 1), libc::EINVAL, "unmapped");
    let exclusive = if private::is_offered() {
        libc::EFAULT
    } else {
        libc::EOPNOTSUPP
    };
    assert_eq!(issue(Command::Exclusive, hole, 1), exclusive, "unmapped");
    buffer.expect(|_index| 0);
    assert_eq!(memory.page_word(0).load(Relaxed), value_of(0));
}

fn a_device_without_memory_mirrors() {
    let file = open("/dev/hmm_dmirror0");
    let memory = Memory::filled(600 * PAGE, value_of);
    let seen = Memory::filled(600 * PAGE, |_index| 0);
    read(&file, &memory, &seen);
    seen.expect(value_of);
    assert_eq!(snapshot(&file, &memory), [AT_HOME; 600]);
}

fn the_last_file_gives_the_memory_up() {
    let file = open(NODE);
    let memory = Memory::filled(1024 * PAGE, value_of);
    let seen = Memory::filled(1024 * PAGE, |_index| 0);
    go_there(&file, &memory, &seen);
    let error = delete_module(NAME).expect_err("a file is open");
    assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
    drop(file);
    delete_module(NAME).expect("nothing holds the module");
    assert!(!Path::new(NODE).exists());
    memory.expect(value_of);
    load_again();
}

fn a_held_frame_keeps_the_module() {
    let file = open(NODE);
    let memory = Memory::filled(4 * PAGE, value_of);
    let seen = Memory::filled(4 * PAGE, |_index| 0);
    go_there(&file, &memory, &seen);
    let pipe = PagePipe::new();
    pipe.hold(&memory, 0);
    drop(file);
    let error = delete_module(NAME).expect_err("a frame is held");
    assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
    memory.expect(value_of);
    assert_eq!(pipe.release(), value_of(0));
    // The next last file takes it home.
    drop(open(NODE));
    delete_module(NAME).expect("nothing holds the module");
    memory.expect(value_of);
    load_again();
}

/// The driver of `docs/writing-a-driver.md`.
fn the_example_adds_up() {
    #[repr(C)]
    struct Sum {
        address: u64,
        nr_pages: u64,
        sum: u64,
    }
    const SUM: u32 = 3 << 30 | 24 << 16 | (b'E' as u32) << 8;
    let file = open("/dev/cohmem_example");
    let memory = Memory::filled(600 * PAGE, value_of);
    let expected = (0..600 * PAGE / 8).map(value_of).fold(0, u64::wrapping_add);
    let mut args = Sum {
        address: memory.address(),
        nr_pages: 600,
        sum: 0,
    };
    ioctl(&file, SUM, &mut args).expect("a sum");
    assert_eq!(args.sum, expected);
    memory.page_word(599).fetch_add(1, Relaxed);
    ioctl(&file, SUM, &mut args).expect("a sum");
    assert_eq!(args.sum, expected.wrapping_add(1));
    args.address += 8;
    assert_eq!(
        errno(ioctl(&file, SUM, &mut args)),
        libc::EDOM,
        "misaligned"
    );
    (args.address, args.nr_pages) = (memory.address(), u64::MAX);
    assert_eq!(
        errno(ioctl(&file, SUM, &mut args)),
        libc::EOVERFLOW,
        "too much"
    );
    memory.unmap(0, PAGE);
    args.nr_pages = 600;
    assert_eq!(
        errno(ioctl(&file, SUM, &mut args)),
        libc::EFAULT,
        "unmapped"
    );
}

fn load_again() {
    let path = std::env::var("COHMEM_MODULE").expect("the lab tells the module's path");
    load_module(&File::open(path).expect("the module"), PARAMETERS).expect("load");
}
