//! Who makes no progress, and where in the kernel it is.

use std::{
    fs,
    time::{Duration, Instant},
};

use super::board::{Board, NR_SEATS, Sitter};
use crate::sys::task::{self, End};

/// Time without progress after which a thread's place is told. The kernel itself gives up on a task
/// that it holds for longer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time without progress after which the run fails.
const LIMIT: Duration = Duration::from_secs(240);

/// The first process: starts the others and watches them.
#[derive(Debug)]
pub(crate) struct Watchdog {
    board: Board,
    processes: Vec<(i32, &'static str)>,
    seen: Vec<Seen>,
}

/// Progress of the thread on a seat.
#[derive(Clone, Copy, Debug)]
struct Seen {
    pid: u32,
    nr_done: u64,
    since: Instant,
    is_told: bool,
}

impl Watchdog {
    pub(crate) fn new(board: Board) -> Self {
        let nobody = Seen {
            pid: 0,
            nr_done: 0,
            since: Instant::now(),
            is_told: false,
        };
        Self {
            board,
            processes: Vec::new(),
            seen: vec![nobody; NR_SEATS],
        }
    }

    /// Forks a process that runs `body`; to panic is to fail the run.
    pub(crate) fn start(&mut self, name: &'static str, body: impl FnOnce()) {
        let pid = task::fork();
        if pid == 0 {
            task::die_with_parent();
            let body = std::panic::AssertUnwindSafe(body);
            if std::panic::catch_unwind(body).is_err() {
                self.board.fail("panicked");
            }
            task::exit_now(0);
        }
        self.processes.push((pid, name));
    }

    /// Watches until `is_true_fn`, or until something failed.
    pub(crate) fn wait_until(&mut self, is_true_fn: impl Fn() -> bool) {
        while !is_true_fn() && !self.board.has_failed() {
            self.look();
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Watches until all processes have ended; after a failure, ends them.
    pub(crate) fn join_all(&mut self) {
        while !self.processes.is_empty() {
            self.look();
            if self.board.has_failed() {
                for &(pid, _name) in &self.processes {
                    task::kill(pid);
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn look(&mut self) {
        let board = self.board;
        self.processes.retain(|&(pid, name)| {
            let Some(end) = task::reap(pid, false) else {
                return true;
            };
            if end != End::Status(0) && !board.has_failed() {
                println!("fuzz: the process {name} ended by {end:?}");
                board.set_failed();
            }
            false
        });
        for seat in 0..NR_SEATS {
            let Some(sitter) = board.sitter(seat) else {
                continue;
            };
            let seen = &mut self.seen[seat];
            if (seen.pid, seen.nr_done) != (sitter.pid, sitter.nr_done) {
                *seen = Seen {
                    pid: sitter.pid,
                    nr_done: sitter.nr_done,
                    since: Instant::now(),
                    is_told: false,
                };
            }
            if seen.since.elapsed() > PATIENCE && !seen.is_told {
                seen.is_told = true;
                tell(seat, sitter);
            }
            if seen.since.elapsed() > LIMIT && !board.has_failed() {
                println!("fuzz: seat {seat} made no progress for {LIMIT:?}");
                board.set_failed();
            }
        }
    }
}

/// Prints where the thread is.
fn tell(seat: usize, sitter: Sitter) {
    let Sitter {
        pid,
        thread,
        nr_done,
        command,
    } = sitter;
    println!(
        "fuzz: seat {seat} makes no progress: process {pid} thread {thread}, {nr_done} steps done, in {command:?}"
    );
    for file in ["status", "wchan", "stack"] {
        let path = format!("/proc/{pid}/task/{thread}/{file}");
        match fs::read_to_string(&path) {
            Ok(text) => {
                let wanted = |line: &&str| file != "status" || line.starts_with("State");
                for line in text.lines().filter(wanted) {
                    println!("fuzz:   {line}");
                }
            }
            Err(error) => println!("fuzz:   {path}: {error}"),
        }
    }
}
