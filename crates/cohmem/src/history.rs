//! What the driver remembers of a device's pages: moves, and why pages stayed.

use std::time::Duration;

use cohmem_uapi::{
    Cause, Event, FRAME_BYTES, HISTORY_ALL, HISTORY_STAYED, MAX_MOVES, NO_DEVICE, NO_FRAME,
    PROC_SELF, Reason, args,
};

use crate::{
    backend::driver::{DeviceNode, proc_fd},
    error::Result,
    migrate::Target,
    units::{AddrRange, UserAddr},
};

/// Whose pages a history is asked of.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// One process's.
    Of(Target<'a>),
    /// Every process's; needs root.
    Everyone,
}

/// Which records of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    /// Of pages that moved, or were lost.
    Moved,
    /// Of pages that were to move, and stayed for a reason that may pass.
    Stayed,
}

/// A run of pages that met the same fate in one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// Counts the records of its kind on this device.
    pub sequence: u64,
    /// How long ago it was, when the history was read.
    pub age: Duration,
    /// Whose pages, by number in the initial PID namespace; `None` when that is not known.
    pub process: Option<u32>,
    /// Address of the first page; 0 when the process is not known.
    pub start: UserAddr,
    /// Pages.
    pub nr_pages: u32,
    /// Frame of the first page on the device; `None` for pages that stayed, and where only root may
    /// know.
    pub frame: Option<u64>,
    /// What became of them; `None` for what a newer driver knows.
    pub event: Option<Event>,
    /// What for; `None` for what a newer driver knows.
    pub cause: Option<Cause>,
    /// Why they stayed.
    pub reason: Option<Reason>,
    /// The device that they came from or went to; `None`: system memory.
    pub other: Option<u32>,
    /// The process that asked for it.
    pub by: u32,
}

impl Record {
    fn from_raw(raw: &args::Move, now_ns: u64) -> Self {
        Self {
            sequence: raw.sequence,
            age: Duration::from_nanos(now_ns.saturating_sub(raw.time_ns)),
            process: (raw.process != 0).then_some(raw.process),
            start: UserAddr::new(raw.start),
            nr_pages: raw.nr_pages,
            frame: (raw.frame != NO_FRAME).then_some(raw.frame),
            event: Event::from_raw(raw.event),
            cause: Cause::from_raw(raw.cause),
            reason: Reason::from_raw(raw.reason),
            other: (raw.other != NO_DEVICE).then_some(u32::from(raw.other)),
            by: raw.by,
        }
    }

    /// The page that holds `address` is one of its pages.
    #[must_use]
    pub const fn holds(&self, address: UserAddr) -> bool {
        let offset = address.get().wrapping_sub(self.start.get());
        self.process.is_some() && offset / FRAME_BYTES < self.nr_pages as u64
    }
}

/// What was read of a device's history.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct History {
    /// The records that were asked for, the oldest first.
    pub records: Vec<Record>,
    /// The sequence number to go on from.
    pub next: u64,
    /// Records, of whatever process, that were overwritten before they were read.
    pub nr_lost: u64,
}

pub(crate) fn read(
    node: &DeviceNode,
    subject: Subject<'_>,
    records: Records,
    range: Option<AddrRange>,
    since: u64,
) -> Result<History> {
    let (fd, whose) = match subject {
        Subject::Of(target) => (proc_fd(target.process()), 0),
        Subject::Everyone => (PROC_SELF, HISTORY_ALL),
    };
    let which = match records {
        Records::Moved => 0,
        Records::Stayed => HISTORY_STAYED,
    };
    let mut history = History {
        records: Vec::new(),
        next: since,
        nr_lost: 0,
    };
    loop {
        let argument = args::History {
            start: range.map_or(0, |range| range.start().get()),
            length: range.map_or(0, |range| range.length().get()),
            proc_fd: fd,
            flags: whose | which,
            since: history.next,
            ..args::History::default()
        };
        let mut moves = vec![args::Move::default(); MAX_MOVES as usize];
        let answer = node.history(argument, &mut moves)?;
        moves.truncate(usize::try_from(answer.nr_moves).unwrap_or(usize::MAX));
        let read = moves.iter().map(|raw| Record::from_raw(raw, answer.now_ns));
        history.records.extend(read);
        history.next = answer.next;
        history.nr_lost += answer.nr_lost;
        if answer.nr_moves < MAX_MOVES {
            return Ok(history);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_record_does_not_say_is_none() {
        let raw = args::Move {
            sequence: 4,
            time_ns: 1_000,
            start: 0x7000,
            frame: NO_FRAME,
            nr_pages: 2,
            process: 9,
            by: 12,
            event: Event::Stayed as u8,
            cause: Cause::Migrate as u8,
            reason: Reason::Quota as u8,
            other: NO_DEVICE,
        };
        let record = Record::from_raw(&raw, 3_000);
        assert_eq!(record.age, Duration::from_micros(2));
        assert_eq!((record.frame, record.other), (None, None));
        assert_eq!(record.reason, Some(Reason::Quota));
        let holds = |address| record.holds(UserAddr::new(address));
        assert!(holds(0x7000) && holds(0x8fff));
        assert!(!holds(0x6fff) && !holds(0x9000) && !holds(u64::MAX));
        let newer = args::Move {
            process: 0,
            frame: 3,
            event: 200,
            cause: 200,
            reason: 0,
            other: 2,
            ..raw
        };
        // A record that was written after the clock was read.
        let record = Record::from_raw(&newer, 0);
        assert_eq!((record.age, record.process), (Duration::ZERO, None));
        assert_eq!((record.frame, record.other), (Some(3), Some(2)));
        assert_eq!(
            (record.event, record.cause, record.reason),
            (None, None, None)
        );
        assert!(!record.holds(UserAddr::new(0x7000)));
    }
}
