//! What all processes of a run share: the results by call, who is where, and when to stop.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use cohmem_uapi::NR_REASONS;

use super::documented::Documented;
use crate::sys::{
    board::shared_words,
    task::{complain, exit_now, thread_id},
};

/// A command of the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Version,
    Attach,
    Detach,
    List,
    Range,
    Info,
    Migrate,
    Query,
    History,
    Evict,
    SetQuota,
    Accounts,
    /// No command of the node that it is sent to.
    Unknown,
}

impl Command {
    pub(crate) const ALL: [Self; 13] = [
        Self::Version,
        Self::Attach,
        Self::Detach,
        Self::List,
        Self::Range,
        Self::Info,
        Self::Migrate,
        Self::Query,
        Self::History,
        Self::Evict,
        Self::SetQuota,
        Self::Accounts,
        Self::Unknown,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Version => "VERSION",
            Self::Attach => "ATTACH",
            Self::Detach => "DETACH",
            Self::List => "LIST",
            Self::Range => "RANGE",
            Self::Info => "INFO",
            Self::Migrate => "MIGRATE",
            Self::Query => "QUERY",
            Self::History => "HISTORY",
            Self::Evict => "EVICT",
            Self::SetQuota => "SET_QUOTA",
            Self::Accounts => "ACCOUNTS",
            Self::Unknown => "(unknown)",
        }
    }
}

/// Errnos are below this.
pub(crate) const NR_ERRNOS: usize = 256;

/// Seats of the processes that call the driver; each has one thread at a time.
pub(crate) const NR_SEATS: usize = 32;

/// Ranges of the exhibits at most.
pub(crate) const NR_EXHIBITS: usize = 32;

/// A seat's words.
const PID: usize = 0;
const THREAD: usize = 1;
const NR_DONE: usize = 2;
/// The command under way, counted from 1.
const COMMAND: usize = 3;
const SEAT_WORDS: usize = 4;

/// Single words.
const NR_CALLS: usize = 0;
const STOP: usize = 1;
const FAILED: usize = 2;
const NR_SHORT: usize = 3;
const EXHIBITOR: usize = 4;
const NR_MOVED: usize = 6;
const NR_FILLED: usize = 7;
/// Calls before the race; 0 until it begins.
const NR_OPENING: usize = 5;

/// The shared words. A copy of the value is the same board.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Board {
    results: &'static [AtomicU64],
    reasons: &'static [AtomicU64],
    seats: &'static [AtomicU64],
    exhibits: &'static [AtomicU64],
    words: &'static [AtomicU64],
    documented: &'static Documented,
    limit: u64,
}

/// Who sits on a seat.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sitter {
    pub(crate) pid: u32,
    pub(crate) thread: i32,
    pub(crate) nr_done: u64,
    pub(crate) command: Option<Command>,
}

impl Board {
    /// A board for a race of `limit` calls.
    pub(crate) fn new(limit: u64, documented: &'static Documented) -> Self {
        Self {
            results: shared_words(Command::ALL.len() * NR_ERRNOS),
            reasons: shared_words(Command::ALL.len() * NR_REASONS),
            seats: shared_words(NR_SEATS * SEAT_WORDS),
            exhibits: shared_words(NR_EXHIBITS * 2),
            words: shared_words(8),
            documented,
            limit,
        }
    }

    pub(crate) fn documented(&self) -> &Documented {
        self.documented
    }

    /// Takes a seat for the calling thread.
    pub(crate) fn sit(&self, seat: usize) {
        let words = &self.seats[seat * SEAT_WORDS..][..SEAT_WORDS];
        words[THREAD].store(u64::from(thread_id().cast_unsigned()), Relaxed);
        words[COMMAND].store(0, Relaxed);
        words[PID].store(u64::from(std::process::id()), Relaxed);
    }

    /// The process on the seat has ended.
    pub(crate) fn clear(&self, seat: usize) {
        self.seats[seat * SEAT_WORDS + PID].store(0, Relaxed);
    }

    pub(crate) fn sitter(&self, seat: usize) -> Option<Sitter> {
        let words = &self.seats[seat * SEAT_WORDS..][..SEAT_WORDS];
        let pid = u32::try_from(words[PID].load(Relaxed)).expect("a process");
        let command = usize::try_from(words[COMMAND].load(Relaxed)).expect("a command");
        (pid != 0).then(|| Sitter {
            pid,
            thread: i32::try_from(words[THREAD].load(Relaxed)).expect("a thread"),
            nr_done: words[NR_DONE].load(Relaxed),
            command: command.checked_sub(1).map(|index| Command::ALL[index]),
        })
    }

    /// Tells the watchdog that the seat's thread goes on.
    pub(crate) fn beat(&self, seat: usize) {
        self.seats[seat * SEAT_WORDS + NR_DONE].fetch_add(1, Relaxed);
    }

    pub(crate) fn begin(&self, seat: usize, command: Command) {
        self.words[NR_CALLS].fetch_add(1, Relaxed);
        self.seats[seat * SEAT_WORDS + COMMAND].store(command as u64 + 1, Relaxed);
    }

    pub(crate) fn end(&self, seat: usize, command: Command, errno: i32) {
        self.seats[seat * SEAT_WORDS + COMMAND].store(0, Relaxed);
        self.beat(seat);
        let errno = usize::try_from(errno).expect("an errno");
        self.results[command as usize * NR_ERRNOS + errno].fetch_add(1, Relaxed);
    }

    pub(crate) fn result(&self, command: Command, errno: i32) -> u64 {
        let errno = usize::try_from(errno).expect("an errno");
        self.results[command as usize * NR_ERRNOS + errno].load(Relaxed)
    }

    pub(crate) fn count_reason(&self, command: Command, reason: usize, nr_pages: u64) {
        self.reasons[command as usize * NR_REASONS + reason].fetch_add(nr_pages, Relaxed);
    }

    pub(crate) fn reason(&self, command: Command, reason: usize) -> u64 {
        self.reasons[command as usize * NR_REASONS + reason].load(Relaxed)
    }

    /// A migration or query ended before its range did.
    pub(crate) fn count_short(&self) {
        self.words[NR_SHORT].fetch_add(1, Relaxed);
    }

    pub(crate) fn nr_short(&self) -> u64 {
        self.words[NR_SHORT].load(Relaxed)
    }

    pub(crate) fn count_moved(&self, nr_moved: u64, nr_filled: u64) {
        self.words[NR_MOVED].fetch_add(nr_moved, Relaxed);
        self.words[NR_FILLED].fetch_add(nr_filled, Relaxed);
    }

    /// Pages that migrations moved, and holes that they filled.
    pub(crate) fn moved(&self) -> (u64, u64) {
        (
            self.words[NR_MOVED].load(Relaxed),
            self.words[NR_FILLED].load(Relaxed),
        )
    }

    pub(crate) fn nr_calls(&self) -> u64 {
        self.words[NR_CALLS].load(Relaxed)
    }

    /// The race's calls are made, or something failed.
    pub(crate) fn is_over(&self) -> bool {
        let nr_opening = self.words[NR_OPENING].load(Relaxed);
        let is_done = nr_opening != 0 && self.nr_calls() - nr_opening >= self.limit;
        is_done || self.words[STOP].load(Relaxed) != 0
    }

    fn stop(&self) {
        self.words[STOP].store(1, Relaxed);
    }

    /// The opening is over: the race begins.
    pub(crate) fn open(&self) {
        self.words[NR_OPENING].store(self.nr_calls(), Relaxed);
    }

    pub(crate) fn is_open(&self) -> bool {
        self.words[NR_OPENING].load(Relaxed) != 0
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.words[FAILED].load(Relaxed) != 0
    }

    /// The run has failed; all end.
    pub(crate) fn set_failed(&self) {
        self.words[FAILED].store(1, Relaxed);
        self.stop();
    }

    /// Puts ranges of this process up for all others to move and query.
    pub(crate) fn exhibit(&self, ranges: &[(u64, u64)]) {
        for (slot, &(start, length)) in self.exhibits.chunks_exact(2).zip(ranges) {
            slot[0].store(start, Relaxed);
            slot[1].store(length, Relaxed);
        }
        self.words[EXHIBITOR].store(u64::from(std::process::id()), Relaxed);
    }

    /// One of these ranges, and its process.
    pub(crate) fn exhibited(&self, index: usize) -> Option<(u32, u64, u64)> {
        let slot = &self.exhibits[index * 2..][..2];
        let pid = u32::try_from(self.words[EXHIBITOR].load(Relaxed)).expect("a process");
        let (start, length) = (slot[0].load(Relaxed), slot[1].load(Relaxed));
        (length != 0).then_some((pid, start, length))
    }

    /// Ends the calling process, and the run.
    pub(crate) fn fail(&self, text: &str) -> ! {
        self.set_failed();
        complain(&format!(
            "fuzz: process {} thread {}: {text}\n",
            std::process::id(),
            thread_id()
        ));
        exit_now(1);
    }
}
