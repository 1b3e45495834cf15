//! What the driver remembers of moves, what it tells those who trace, and that both explain each page.

use std::{
    fs::{self, File},
    os::fd::AsRawFd as _,
};

use cohmem_uapi::{
    Cause, Event, FRAME_BYTES, HISTORY_ALL, HISTORY_STAYED, MAX_MOVES, NO_FRAME, PROC_SELF, Reason,
    args, ioctl,
};

use crate::{
    Test,
    driver::{Device, errno},
    sys::{
        io::ioctl as command,
        memory::{Memory, PAGE, frames_of},
        process::{Child, Ended, become_user},
    },
};

pub(crate) const TESTS: &[Test] = &[
    (
        "a_move_is_remembered_and_traced",
        a_move_is_remembered_and_traced,
    ),
    (
        "a_process_is_told_of_itself_alone",
        a_process_is_told_of_itself_alone,
    ),
    (
        "what_an_eviction_moved_is_told_by_address",
        what_an_eviction_moved_is_told_by_address,
    ),
];

const NR_PAGES: usize = 600;
const USER: u32 = 4242;
const TRACING: &str = "/sys/kernel/tracing";

/// The records of a process, by an open `/proc/PID/pagemap`, or of the caller.
pub(crate) fn history(
    device: &Device,
    pagemap: Option<&File>,
    flags: u32,
) -> Result<Vec<args::Move>, i32> {
    let mut moves = vec![args::Move::default(); MAX_MOVES as usize];
    let mut argument = args::History {
        proc_fd: pagemap.map_or(PROC_SELF, |file| file.as_raw_fd()),
        flags,
        moves_ptr: moves.as_mut_ptr().addr() as u64,
        nr_max: MAX_MOVES,
        ..args::History::default()
    };
    match errno(command(&device.file, ioctl::HISTORY, &mut argument)) {
        0 => {
            moves.truncate(usize::try_from(argument.nr_moves).expect("small"));
            assert!(moves.iter().all(|move_| move_.time_ns <= argument.now_ns));
            Ok(moves)
        }
        errno => Err(errno),
    }
}

/// The record covers the page at `address`.
pub(crate) fn covers(move_: &args::Move, address: u64) -> bool {
    let end = move_.start + u64::from(move_.nr_pages) * FRAME_BYTES;
    (move_.start..end).contains(&address)
}

fn filled() -> Memory {
    Memory::filled(NR_PAGES * PAGE, |index| index as u64)
}

/// The tracepoints are on while it lives.
struct Tracing;

impl Tracing {
    fn start() -> Self {
        fs::write(format!("{TRACING}/trace"), "").expect("an empty trace");
        fs::write(format!("{TRACING}/events/cohmem/enable"), "1").expect("the tracepoints");
        Self
    }

    /// The lines of this process.
    fn lines(&self) -> Vec<String> {
        let trace = fs::read_to_string(format!("{TRACING}/trace")).expect("trace");
        let own = format!(" by={}", std::process::id());
        let lines = trace.lines().filter(|line| line.ends_with(&own));
        lines.map(str::to_owned).collect()
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        fs::write(format!("{TRACING}/events/cohmem/enable"), "0").expect("the tracepoints");
    }
}

fn a_move_is_remembered_and_traced() {
    let device = Device::attach_part(0, 16 << 20);
    let memory = filled();
    let tracing = Tracing::start();
    device.take_all(&memory);
    let frames = frames_of(std::process::id(), memory.address(), memory.nr_pages());
    device.give_all(&memory);
    let traced = tracing.lines();
    drop(tracing);
    let moves = history(&device, None, 0).expect("history");
    let pid = std::process::id();
    for (event, name) in [(Event::Arrived, "arrived"), (Event::Left, "left")] {
        let told: Vec<_> = moves
            .iter()
            .filter(|move_| move_.event == event as u8)
            .collect();
        for (index, &frame) in frames.iter().enumerate() {
            let address = memory.address() + index as u64 * FRAME_BYTES;
            let record = told.iter().find(|move_| covers(move_, address));
            let record = record.unwrap_or_else(|| panic!("no record of {address:#x} {name}"));
            let offset = (address - record.start) / FRAME_BYTES;
            assert_eq!(
                (record.frame + offset) * FRAME_BYTES,
                frame * FRAME_BYTES - device.range.start,
                "frame of {address:#x} {name}"
            );
            assert_eq!((record.process, record.by), (pid, pid));
            assert_eq!(record.cause, Cause::Migrate as u8);
        }
        // A record a window at most, where frames are in one run.
        assert!(told.len() <= 8, "{told:?}");
        for record in told {
            let said = format!(
                "moved: device={} process={pid} start={:#x} nr_pages={} frame={} event={name} cause=migrate",
                device.number, record.start, record.nr_pages, record.frame
            );
            assert!(
                traced.iter().any(|line| line.contains(&said)),
                "{said} is not in {traced:?}"
            );
        }
    }
    assert_eq!(traced.len(), moves.len(), "{traced:?}");
    // Nothing is traced any more.
    device.take_all(&memory);
    device.give_all(&memory);
    let trace = fs::read_to_string(format!("{TRACING}/trace")).expect("trace");
    assert_eq!(trace.matches("moved:").count(), moves.len());
}

fn a_process_is_told_of_itself_alone() {
    let device = Device::attach_part(0, 16 << 20);
    let memory = filled();
    device.take_all(&memory);
    let mut child = Child::start(|steps| {
        // Nothing of the parent's.
        assert_eq!(history(&device, None, 0), Ok(Vec::new()));
        let own = filled();
        become_user(USER);
        device.take_all_blindly(&own);
        let told = history(&device, None, 0).expect("history");
        assert!(!told.is_empty());
        for move_ in &told {
            assert_eq!(move_.process, std::process::id());
            assert_eq!(move_.frame, NO_FRAME, "physical addresses are root's");
        }
        assert_eq!(history(&device, None, HISTORY_ALL), Err(libc::EPERM));
        let other = File::open("/proc/self/maps").expect("maps");
        assert_eq!(history(&device, Some(&other), 0), Err(libc::EBADFD));
        steps.done();
    });
    child.wait_step();
    let pagemap = File::open(format!("/proc/{}/pagemap", child.pid())).expect("pagemap");
    let told = history(&device, Some(&pagemap), 0).expect("the child's");
    assert!(told.iter().all(|move_| move_.process == child.pid()));
    let nr_pages: u32 = told.iter().map(|move_| move_.nr_pages).sum();
    assert_eq!(nr_pages as usize, NR_PAGES);
    let own = history(&device, None, 0).expect("one's own");
    let all = history(&device, None, HISTORY_ALL).expect("all");
    assert_eq!(all.len(), own.len() + told.len());
    child.go_on();
    assert_eq!(child.join(), Ended::Status(0));
    // A file that was opened before names nobody afterwards.
    crate::lifecycle::wait_until(|| history(&device, Some(&pagemap), 0) == Err(libc::ESRCH));
}

fn what_an_eviction_moved_is_told_by_address() {
    let device = Device::attach_part(0, 16 << 20);
    let memory = filled();
    device.take_all(&memory);
    assert_eq!(device.evict(30_000).errno, 0);
    let moves = history(&device, None, 0).expect("history");
    for index in 0..NR_PAGES {
        let address = memory.address() + index as u64 * FRAME_BYTES;
        let last = moves.iter().rfind(|move_| covers(move_, address));
        let last = last.expect("a record");
        assert_eq!(
            (last.event, last.cause),
            (Event::Left as u8, Cause::Evict as u8),
            "{address:#x}"
        );
    }
    memory.expect(|index| index as u64);
    let stayed = history(&device, None, HISTORY_STAYED).expect("history");
    let is_passing = |move_: &args::Move| move_.reason == Reason::Raced as u8;
    assert!(stayed.iter().all(is_passing), "{stayed:?}");
}
