//! `cohmem run`: real, unmodified programs under a policy, measured from outside.
//!
//! What is on the device is told by the page tables of the program's processes and by the driver's
//! own count, not by the command.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::process::ExitStatusExt as _},
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use cohmem_uapi::{
    FRAME_BYTES, HISTORY_STAYED, PageEntry, QUERY_REASONS, Reason, args, ioctl::QUERY,
};

use crate::{
    Test,
    driver::Device,
    history::{covers, history},
    sys::{io::ioctl, memory::frames_of},
};

pub(crate) const TESTS: &[Test] = &[
    ("all_of_a_program_moves", all_of_a_program_moves),
    (
        "the_limit_holds_for_a_program_that_grows",
        the_limit_holds_for_a_program_that_grows,
    ),
    (
        "children_are_in_the_same_limit",
        children_are_in_the_same_limit,
    ),
    ("only_named_mappings_move", only_named_mappings_move),
    (
        "the_second_device_takes_the_rest",
        the_second_device_takes_the_rest,
    ),
    ("older_memory_makes_room", older_memory_makes_room),
    (
        "a_strict_policy_ends_the_program",
        a_strict_policy_ends_the_program,
    ),
    (
        "a_sort_on_the_device_is_right",
        a_sort_on_the_device_is_right,
    ),
    ("an_interrupt_leaves_nothing", an_interrupt_leaves_nothing),
    ("a_crash_leaves_nothing", a_crash_leaves_nothing),
    ("a_page_is_explained", a_page_is_explained),
    (
        "each_page_that_is_not_there_has_a_reason",
        each_page_that_is_not_there_has_a_reason,
    ),
    (
        "what_is_left_running_goes_home",
        what_is_left_running_goes_home,
    ),
];

const PYTHON: &str = "/usr/bin/python3";
/// Only a guard against hanging: programs start slowly in an emulated machine.
const LONGEST: Duration = Duration::from_secs(240);

/// A program under `cohmem run`, with its input and output.
pub(crate) struct Run {
    command: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Run {
    /// Starts it; a look is due every few milliseconds.
    pub(crate) fn start(policy: &str, program: &[&str]) -> Self {
        let mut command = Command::new("cohmem")
            .args(["run", "--interval", "100ms", "--policy", policy, "--"])
            .args(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("cohmem");
        Self {
            input: command.stdin.take(),
            output: BufReader::new(command.stdout.take().expect("piped")),
            command,
        }
    }

    pub(crate) fn python(policy: &str, script: &str) -> Self {
        Self::start(policy, &[PYTHON, "-c", script])
    }

    /// The next line that the program prints.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    pub(crate) fn expect(&mut self, wanted: &str) {
        assert_eq!(self.line(), wanted);
    }

    /// Lets the program go on from `input()`.
    pub(crate) fn go_on(&mut self) {
        let input = self.input.as_mut().expect("open");
        input.write_all(b"\n").expect("the program reads");
    }

    /// All processes below the command.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let mut found = Vec::new();
        let mut open = vec![self.command.id()];
        while let Some(pid) = open.pop() {
            let threads = fs::read_dir(format!("/proc/{pid}/task"));
            for thread in threads.into_iter().flatten().flatten() {
                let children = fs::read_to_string(thread.path().join("children"));
                let children = children.unwrap_or_default();
                open.extend(children.split_whitespace().flat_map(str::parse::<u32>));
            }
            found.push(pid);
        }
        found.retain(|&pid| pid != self.command.id());
        found
    }

    /// Frames of `device` that the program's processes map.
    fn frames_on(&self, device: &Device) -> u64 {
        let mut frames = HashSet::new();
        for pid in self.pids() {
            frames.extend(frames_of_process(pid, |_| true));
        }
        frames.retain(|frame| device.range.contains(&(frame * FRAME_BYTES)));
        frames.len() as u64
    }

    /// The status, what was printed, and the command's summary.
    pub(crate) fn end(mut self) -> (ExitStatus, String, String) {
        self.input = None;
        let mut printed = String::new();
        self.output.read_to_string(&mut printed).expect("text");
        let mut said = String::new();
        let mut stderr = self.command.stderr.take().expect("piped");
        stderr.read_to_string(&mut said).expect("text");
        (self.command.wait().expect("wait"), printed, said)
    }

    pub(crate) fn end_well(self, wanted: &str) -> String {
        let (status, printed, said) = self.end();
        assert!(status.success(), "{status}: {said}");
        assert_eq!(printed.trim_end(), wanted);
        said
    }
}

/// Frames of the private mappings whose line in `maps` is wanted.
pub(crate) fn frames_of_process(pid: u32, is_wanted_fn: impl Fn(&str) -> bool) -> Vec<u64> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let mut frames = Vec::new();
    for line in maps.lines().filter(|line| is_wanted_fn(line)) {
        let (range, rest) = line.split_once(' ').expect("fields");
        let (start, end) = range.split_once('-').expect("a range");
        let parse = |text| u64::from_str_radix(text, 16).expect("hexadecimal");
        let (start, end): (u64, u64) = (parse(start), parse(end));
        // Address space that nobody may touch can be large; vsyscall is no user memory.
        if !rest.starts_with("---") && start < 1 << 47 {
            frames.extend(frames_of(pid, start, (end - start) / FRAME_BYTES));
        }
    }
    frames.retain(|&frame| frame != 0);
    frames
}

pub(crate) fn wait_until(what: &str, is_true_fn: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_true_fn() {
        assert!(begin.elapsed() < LONGEST, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn pages(mib: u64) -> u64 {
    (mib << 20) / FRAME_BYTES
}

/// No process of the test is left, and no frame is in use.
pub(crate) fn expect_nothing_left(device: &Device) {
    wait_until("all frames free", || device.allocated() == 0);
}

const NUMERIC: &str = "
import numpy as np
a = np.arange(4 << 20, dtype=np.int64)
b = a * 3
print('ready', flush=True)
input()
print(int(b.sum()) // 3 == int(a.sum()), int(a[12345] + b[-1]))
";

/// Holds memory, and goes on when it is told to.
const HOLDING: &str = "
held = bytearray(b'x') * (16 << 20)
print('ready', flush=True)
input()
print(held.count(b'x'), flush=True)
";
const HELD: u64 = 16;

fn all_of_a_program_moves() {
    let device = Device::attach(0);
    let mut run = Run::python("all", NUMERIC);
    run.expect("ready");
    wait_until("both arrays are there", || {
        run.frames_on(&device) >= pages(64)
    });
    run.go_on();
    let last = 3 * ((4_u64 << 20) - 1);
    let said = run.end_well(&format!("True {}", 12345 + last));
    assert!(said.contains("moved to cohmem0"), "{said}");
    assert!(said.contains("new memory waited at most"), "{said}");
    expect_nothing_left(&device);
}

/// Never gives memory back, so that frames seen one after the other were there together.
const GROWING: &str = "
import mmap
kept, gaps = [], []
for step in range(24):
    block = mmap.mmap(-1, 2 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # Keeps the next block a mapping of its own.
    gaps.append(mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0))
    for at in range(0, len(block), 4096):
        block[at:at + 4] = (step * 1000003 + at).to_bytes(4, 'little')
    kept.append(block)
    print(step, flush=True)
print('ready', flush=True)
input()
print(all(int.from_bytes(block[at:at + 4], 'little') == step * 1000003 + at
          for step, block in enumerate(kept) for at in range(0, len(block), 4096)))
";

fn the_limit_holds_for_a_program_that_grows() {
    let device = Device::attach(0);
    let limit = pages(20) + 7;
    let policy = format!("limit={}", limit * FRAME_BYTES);
    let mut run = Run::python(&policy, GROWING);
    let mut most = 0;
    while run.line() != "ready" {
        let allocated = device.allocated();
        assert!(
            allocated <= limit,
            "{allocated} frames, the limit is {limit}"
        );
        most = most.max(allocated);
    }
    wait_until("the limit is filled", || run.frames_on(&device) == limit);
    assert_eq!(device.allocated(), limit);
    run.go_on();
    run.end_well("True");
    println!("while it grew, at most {most} of {limit} frames were seen in use");
    expect_nothing_left(&device);
}

const FAMILY: &str = "
import mmap, os, sys
def block(mib, value):
    made = mmap.mmap(-1, mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, len(made), 4096):
        made[at] = value
    return made
def holds(made, value):
    return all(made[at] == value for at in range(0, len(made), 4096))
mine = block(8, 1)
ends = []
for number in range(2):
    read, write = os.pipe()
    back, done = os.pipe()
    if os.fork() == 0:
        theirs = block(8, 7)
        os.write(done, b'x')
        os.close(write)
        os.read(read, 1)
        os._exit(0 if holds(mine, 1) and holds(theirs, 7) else 1)
    os.read(back, 1)
    ends.append(write)
print('ready', flush=True)
input()
for write in ends:
    os.close(write)
print(sorted(os.wait()[1] for _ in ends), holds(mine, 1))
";

fn children_are_in_the_same_limit() {
    let device = Device::attach(0);
    let limit = pages(20);
    let mut run = Run::python("size>=1M;limit=20M", FAMILY);
    run.expect("ready");
    assert_eq!(run.pids().len(), 3);
    // Pages of the first block may be there since before the forks, counted in three processes.
    wait_until("a child's memory is there", || {
        run.frames_on(&device) >= pages(4)
    });
    for _look in 0..20 {
        let there = run.frames_on(&device);
        assert!(there <= limit, "{there} frames, the limit is {limit}");
        thread::sleep(Duration::from_millis(10));
    }
    run.go_on();
    run.end_well("[0, 0] True");
    expect_nothing_left(&device);
}

fn only_named_mappings_move() {
    let device = Device::attach(0);
    let mut run = Run::python("heap", HOLDING);
    run.expect("ready");
    let frames = |run: &Run, is_heap: bool| {
        let wanted = |line: &str| line.ends_with("[heap]") == is_heap;
        let pids = run.pids();
        let mut frames = frames_of_process(pids[0], wanted);
        frames.retain(|frame| device.range.contains(&(frame * FRAME_BYTES)));
        frames.len()
    };
    wait_until("the heap is there", || frames(&run, true) > 20);
    assert_eq!(frames(&run, false), 0);
    run.go_on();
    let (status, _, said) = run.end();
    assert!(status.success(), "{said}");
    expect_nothing_left(&device);
}

fn the_second_device_takes_the_rest() {
    let first = Device::attach_part(0, 16 << 20);
    let second = Device::attach(1);
    let mut run = Run::python("size>=1M;devices=0,1", GROWING);
    while run.line() != "ready" {}
    wait_until("all of it is there", || {
        run.frames_on(&first) + run.frames_on(&second) >= pages(48)
    });
    assert_eq!(run.frames_on(&first), first.info().nr_frames);
    run.go_on();
    run.end_well("True");
    expect_nothing_left(&first);
    expect_nothing_left(&second);
}

fn older_memory_makes_room() {
    let device = Device::attach_part(0, 16 << 20);
    let mut run = Run::python("size>=1M;full=evict", GROWING);
    while run.line() != "ready" {}
    // The last blocks came to a full device.
    wait_until("the device is full", || run.frames_on(&device) == pages(16));
    run.go_on();
    let said = run.end_well("True");
    assert!(said.contains("went home to make room"), "{said}");
    expect_nothing_left(&device);
}

fn a_strict_policy_ends_the_program() {
    let device = Device::attach(0);
    let mut run = Run::python("size>=1M;limit=8M;full=strict", GROWING);
    // As long as this is open, the program does not end by itself.
    let input = run.input.take();
    let (status, _, said) = run.end();
    drop(input);
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        said.contains("found no room: the limit is reached"),
        "{said}"
    );
    expect_nothing_left(&device);
}

fn a_sort_on_the_device_is_right() {
    let device = Device::attach(0);
    let file = std::env::temp_dir().join("cohmem-sort");
    let mut text = String::new();
    let mut number = 1_u64;
    for _line in 0..200_000 {
        number = number
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        text.push_str(&format!("{:016x}\n", number >> 8));
    }
    fs::write(&file, &text).expect("a file");
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    let path = file.display().to_string();
    let run = Run::start("all", &["env", "LC_ALL=C", "sort", "-S", "64M", &path]);
    let (status, printed, said) = run.end();
    fs::remove_file(&file).expect("the file");
    assert!(status.success(), "{said}");
    assert!(printed.lines().eq(lines), "the order is wrong");
    assert!(device.attribute("moved_in") > 0, "{said}");
    expect_nothing_left(&device);
}

fn an_interrupt_leaves_nothing() {
    let device = Device::attach(0);
    let mut run = Run::python("all", HOLDING);
    run.expect("ready");
    wait_until("its memory is there", || {
        run.frames_on(&device) >= pages(HELD)
    });
    let program = run.pids();
    let number = run.command.id().to_string();
    // As long as this is open, the program does not end by itself.
    let input = run.input.take();
    crate::holders::run("kill", &["-INT", &number]);
    let (status, printed, said) = run.end();
    drop(input);
    assert_eq!((status.code(), &printed[..]), (Some(130), ""), "{said}");
    assert!(
        program
            .iter()
            .all(|pid| !fs::exists(format!("/proc/{pid}")).unwrap_or(true)),
        "a process is left"
    );
    expect_nothing_left(&device);
}

fn a_crash_leaves_nothing() {
    let device = Device::attach(0);
    let script = format!("{HOLDING}import os\nos.kill(os.getpid(), 11)\n");
    let mut run = Run::python("all", &script);
    run.expect("ready");
    wait_until("its memory is there", || {
        run.frames_on(&device) >= pages(HELD)
    });
    run.go_on();
    let (status, _, said) = run.end();
    assert_eq!(status.code(), Some(128 + 11), "{said}");
    assert_eq!(status.signal(), None);
    expect_nothing_left(&device);
}

/// What the command says of an address, as JSON.
fn explain(pid: u32, address: u64) -> String {
    let output = Command::new("cohmem")
        .args([
            "explain",
            &pid.to_string(),
            &format!("{address:#x}"),
            "--json",
        ])
        .output()
        .expect("cohmem");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn a_page_is_explained() {
    let device = Device::attach(0);
    let mut run = Run::python("size>=8M", HOLDING);
    run.expect("ready");
    wait_until("its memory is there", || {
        run.frames_on(&device) >= pages(HELD)
    });
    let pid = run.pids()[0];
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    let mut seen = [false; 2];
    for line in maps.lines().filter(|line| line.contains(" rw-p ")) {
        let (range, _rest) = line.split_once(' ').expect("fields");
        let (start, end) = range.split_once('-').expect("a range");
        let parse = |text| u64::from_str_radix(text, 16).expect("hexadecimal");
        let (start, end): (u64, u64) = (parse(start), parse(end));
        let frames = frames_of(pid, start, (end - start) / FRAME_BYTES);
        for is_there in [false, true] {
            let is_wanted = |&frame: &u64| {
                frame != 0 && device.range.contains(&(frame * FRAME_BYTES)) == is_there
            };
            let Some(index) = frames.iter().position(is_wanted) else {
                continue;
            };
            if seen[usize::from(is_there)] {
                continue;
            }
            let (address, phys) = (
                start + index as u64 * FRAME_BYTES,
                frames[index] * FRAME_BYTES,
            );
            let said = explain(pid, address);
            // The kernel may have put it elsewhere meanwhile.
            if frames_of(pid, address, 1)[0] * FRAME_BYTES != phys {
                continue;
            }
            let tier = if is_there { "device" } else { "system" };
            for wanted in [
                format!("\"page\": {address},"),
                format!("\"tier\": \"{tier}\""),
                format!("\"phys\": {phys},"),
                format!("\"start\": {start},"),
            ] {
                assert!(said.contains(&wanted), "{wanted} is not in {said}");
            }
            seen[usize::from(is_there)] = true;
        }
    }
    assert_eq!(seen, [true, true], "one page in each place");
    run.go_on();
    run.end_well("16777216");
    expect_nothing_left(&device);
}

/// The private mappings of a process that it may write: addresses of the pages that are present, with
/// the frame of each.
fn writable_pages(pid: u32) -> Vec<(u64, u64)> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    let mut pages = Vec::new();
    for line in maps.lines().filter(|line| line.contains(" rw-p ")) {
        let (range, _rest) = line.split_once(' ').expect("fields");
        let (start, end) = range.split_once('-').expect("a range");
        let parse = |text| u64::from_str_radix(text, 16).expect("hexadecimal");
        let (start, end): (u64, u64) = (parse(start), parse(end));
        let frames = frames_of(pid, start, (end - start) / FRAME_BYTES);
        let addresses = (start..end).step_by(usize::try_from(FRAME_BYTES).expect("fits"));
        pages.extend(addresses.zip(frames).filter(|&(_, frame)| frame != 0));
    }
    pages
}

/// What a query says would keep a page from moving to the device.
fn reason_of(device: &Device, pagemap: &File, address: u64) -> Option<Reason> {
    let mut entry = 0u16;
    let mut argument = args::Query {
        start: address,
        length: FRAME_BYTES,
        proc_fd: pagemap.as_raw_fd(),
        flags: QUERY_REASONS,
        map_ptr: std::ptr::from_mut(&mut entry).addr() as u64,
        ..args::Query::default()
    };
    ioctl(&device.file, QUERY, &mut argument).expect("query");
    PageEntry::from_raw(entry).reason()
}

fn each_page_that_is_not_there_has_a_reason() {
    const LIMIT: u64 = ((HELD / 2) << 20) / FRAME_BYTES;
    let device = Device::attach(0);
    // Root is limited as well.
    device.set_quota(0, 0, LIMIT).expect("a limit");
    // Mappings of files as well: their pages that were written are the program's own.
    let mut run = Run::python("all,name=*", HOLDING);
    run.expect("ready");
    let pid = run.pids()[0];
    let pagemap = File::open(format!("/proc/{pid}/pagemap")).expect("pagemap");
    let is_there = |frame: u64| device.range.contains(&(frame * FRAME_BYTES));
    // The pages without a reason, and one of those that the driver remembers.
    let look = || {
        let pages = writable_pages(pid);
        let stayed = history(&device, Some(&pagemap), HISTORY_STAYED).expect("history");
        let mut unexplained = Vec::new();
        let mut refused = None;
        for &(address, frame) in pages.iter().filter(|&&(_, frame)| !is_there(frame)) {
            match stayed.iter().rfind(|move_| covers(move_, address)) {
                Some(last) if last.reason == Reason::Quota as u8 => refused = Some(address),
                Some(_) => {}
                None if reason_of(&device, &pagemap, address).is_some() => {}
                None => unexplained.push((address, frame)),
            }
        }
        (unexplained, refused)
    };
    let begin = Instant::now();
    let refused = loop {
        let (unexplained, refused) = look();
        let nr_there = device.allocated();
        if let Some(refused) = refused
            && unexplained.is_empty()
            && nr_there == LIMIT
        {
            break refused;
        }
        assert!(
            begin.elapsed() < LONGEST,
            "{nr_there} there, {refused:x?} refused, without a reason: {unexplained:x?}\n{}",
            fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps")
        );
        thread::sleep(Duration::from_millis(10));
    };
    let said = explain(pid, refused);
    for wanted in [
        "\"event\": \"stayed\"",
        "\"reason\": \"quota\"",
        "and stayed: the quota",
    ] {
        assert!(said.contains(wanted), "{wanted} is not in {said}");
    }
    // And one that is there came by the program that was asked to bring it.
    let moved = history(&device, Some(&pagemap), 0).expect("history");
    let by = run.command.id();
    assert!(moved.iter().any(|move_| move_.by == by), "{moved:?}");
    let came = writable_pages(pid).into_iter().find(|&(address, frame)| {
        is_there(frame) && moved.iter().any(|move_| covers(move_, address))
    });
    let (address, _) = came.expect("one that came");
    let said = explain(pid, address);
    for wanted in ["\"event\": \"arrived\"", &format!("\"by\": {by},")] {
        assert!(said.contains(wanted), "{wanted} is not in {said}");
    }
    run.go_on();
    run.end_well("16777216");
    expect_nothing_left(&device);
}

const LEAVING: &str = "
import os
if os.fork() == 0:
    os.setsid()
    held = bytearray(b'x') * (8 << 20)
    print('ready', flush=True)
    while not os.path.exists('/tmp/cohmem-leave'):
        os.sched_yield()
    open('/tmp/cohmem-left', 'w').write(str(held.count(b'x')))
    os._exit(0)
input()
";

fn what_is_left_running_goes_home() {
    let device = Device::attach(0);
    let mut run = Run::python("all", LEAVING);
    run.expect("ready");
    wait_until("its memory is there", || run.frames_on(&device) >= pages(8));
    run.go_on();
    // The one that is left has the output open.
    let mut said = String::new();
    let mut line = String::new();
    let mut stderr = BufReader::new(run.command.stderr.take().expect("piped"));
    assert!(run.command.wait().expect("wait").success());
    while !said.contains("go on without") && stderr.read_line(&mut line).expect("text") > 0 {
        said.push_str(&line);
        line.clear();
    }
    assert!(
        said.contains("1 processes go on without the program"),
        "{said}"
    );
    expect_nothing_left(&device);
    fs::write("/tmp/cohmem-leave", "").expect("a file");
    wait_until("it ends", || {
        fs::read_to_string("/tmp/cohmem-left").is_ok_and(|n| n == "8388608")
    });
    for file in ["/tmp/cohmem-leave", "/tmp/cohmem-left"] {
        fs::remove_file(file).expect("the file");
    }
}
