//! A fuzzer of the driver's commands: `cargo xtask fuzz`, or by hand
//! `cargo xtask lab -- target/debug/guest-tests fuzz [SEED [CALLS]]`.
//!
//! Processes and threads call the driver with good and bad arguments while they map, unmap, protect,
//! move, fork and exit, and while devices come and go. What each does follows from the seed; who is
//! first does not. The run fails when memory does not hold what was written to it, when a command
//! answers what the header does not list, when numbers of an answer do not agree, when a frame is left at
//! the end, when a process makes no progress, and when an answer that the header lists was never seen.
//!
//! | module | what |
//! |---|---|
//! | [`opening`], [`exhibits`] | before the race: each answer that needs a certain state, once |
//! | [`worker`], [`area`] | processes that use memory, and what it must hold |
//! | [`control`] | threads that attach and detach |
//! | [`bad`] | what must be refused |
//! | [`call`], [`board`], [`documented`] | calls, counted in shared memory and checked against the header |
//! | [`watchdog`] | who makes no progress, and where in the kernel it is |

use std::{process::ExitCode, time::Instant};

use cohmem_uapi::Reason;

mod area;
mod bad;
mod board;
mod call;
mod control;
mod documented;
mod exhibits;
mod nodes;
mod opening;
mod random;
mod watchdog;
mod worker;

use self::{
    board::{Board, Command},
    call::Caller,
    control::Control,
    documented::Documented,
    exhibits::Exhibits,
    opening::Opening,
    random::Random,
    watchdog::Watchdog,
};
use crate::{
    driver::ranges,
    lifecycle::wait_until,
    sys::memory::{Memory, PAGE},
};

const OPENING_SEAT: usize = control::NEXT_SEAT;
const CLOSING_SEAT: usize = OPENING_SEAT + 1;
const MIB: u64 = 1 << 20;
const MADV_HWPOISON: i32 = 100;

/// Runs it: `SEED CALLS`.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let number = |index: usize, default| match arguments.get(index) {
        Some(text) => text
            .parse()
            .unwrap_or_else(|error| panic!("{text} is no number: {error}")),
        None => default,
    };
    let (seed, nr_calls) = (number(0, 1), number(1, 2000));
    let documented = Box::leak(Box::new(Documented::read()));
    let board = Board::new(nr_calls, documented);
    let start = Instant::now();
    println!("fuzz: seed {seed}, {nr_calls} calls");

    let mut watchdog = Watchdog::new(board);
    watchdog.start("opening", || open_and_stay(board, seed));
    watchdog.wait_until(|| board.is_open());
    let nr_opening = board.nr_calls();
    println!(
        "fuzz: opened with {nr_opening} calls in {} s",
        start.elapsed().as_secs()
    );
    if !board.has_failed() {
        for number in 0..worker::NR_WORKERS {
            let range = ranges()[0].start;
            watchdog.start("worker", || worker::run(board, seed, number, range));
        }
        watchdog.start("control", || control::run(board, seed));
    }
    watchdog.join_all();
    println!(
        "fuzz: {} more calls, {} s in all",
        board.nr_calls() - nr_opening,
        start.elapsed().as_secs()
    );
    if board.has_failed() {
        documented.report(&board);
        println!("fuzz: FAILED with seed {seed}");
        return ExitCode::FAILURE;
    }
    close(board, seed);
    let missing = documented.report(&board);
    for answer in &missing {
        println!("fuzz: never seen: {answer}");
    }
    let verdict = if missing.is_empty() {
        "passed"
    } else {
        "FAILED"
    };
    println!("fuzz: {verdict} with seed {seed}");
    ExitCode::from(u8::from(!missing.is_empty()))
}

/// The first process: goes through the opening, then shows its exhibits until the race is over.
fn open_and_stay(board: Board, seed: u64) {
    let caller = Caller::sit(board, OPENING_SEAT);
    let exhibits: Exhibits = Opening::new(caller, seed).run();
    board.open();
    while !board.is_over() {
        board.beat(OPENING_SEAT);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    exhibits.take_down();
    board.clear(OPENING_SEAT);
}

/// All others have ended: no frame may be left, on any device.
fn close(board: Board, seed: u64) {
    let caller = Caller::sit(board, CLOSING_SEAT);
    let mut control = Control::new(caller, Random::new(seed, 3000));
    for number in control.devices() {
        let device = opening::device(number);
        // The last pages of a process are freed a little after it has ended.
        wait_until(|| matches!(caller.info(&device), Ok(info) if info.nr_allocated == 0));
        let info = caller.info(&device).expect("an attached device");
        let nr_back = info.nr_free + info.nr_metadata + info.nr_poisoned;
        if nr_back != info.nr_frames {
            board.fail(&format!("frames are missing: {info:?}"));
        }
    }
    control.detach_all();
    poison(caller, &mut control);
}

/// The last step, since what is poisoned stays claimed.
fn poison(caller: Caller, control: &mut Control) {
    let end = ranges()[1].end;
    let number = control
        .attach(end - 64 * MIB, 64 * MIB, 0)
        .expect("a range that is free");
    let device = opening::device(number);
    let memory = Memory::filled(16 * PAGE, |index| index as u64);
    let to_device = cohmem_uapi::Direction::ToDevice;
    let errno = caller.migrate(&device, &mut opening::migration(&memory, to_device, 0));
    caller.demand("MIGRATE", errno, &[0]);
    let pipe = crate::sys::io::PagePipe::new();
    pipe.hold(&memory, 7);
    // A frame that the kernel holds cannot be withdrawn, which is an error or not.
    drop(memory.advise_part(7 * PAGE, PAGE, MADV_HWPOISON));
    let mut argument = cohmem_uapi::args::Detach::default();
    let errno = caller.empty(Command::Evict, &device, &mut argument);
    caller.demand("EVICT", errno, &[libc::EBUSY]);
    if argument.stayed[usize::from(Reason::Poisoned as u8)] != 1 {
        caller.board.fail(&format!("a poisoned page: {argument:?}"));
    }
    drop(pipe);
    let errno = control.detach(number, 30_000);
    caller.demand("DETACH", errno, &[0]);
}
