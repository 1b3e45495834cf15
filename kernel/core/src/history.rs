// SPDX-License-Identifier: GPL-2.0
//! What became of a device's pages: who asked, when, and why those that stayed did.
//!
//! One record tells of a run of pages that met the same fate in one batch, so that a record costs a
//! page next to nothing; all memory is there from the start. For each frame the record is kept with
//! which its page came: pages that leave by their frames are told with the process and the address
//! that they came to.
//!
//! A record of pages that moved is written while they are still in the batch that moved them: until
//! then nobody else can move them again, so that a page's records are in the order of its moves.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use cohmem_frames::FrameIndex;
use cohmem_uapi::{Cause, Event, FRAME_BYTES, NO_DEVICE, NO_FRAME, Reason, args};

use self::ring::{Found, Ring, Words};
use crate::{
    Errno,
    host::{Host, Span},
};

mod ring;

/// A process, told from a later one of the same number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessId {
    /// Its thread group's number in the initial PID namespace; 0 when it is not known.
    pub number: u32,
    /// Nanoseconds from the start of the machine until the process began.
    pub began_ns: u64,
}

impl ProcessId {
    pub(crate) const fn is_known(self) -> bool {
        self.number != 0
    }
}

/// What one step did, which all its records share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) event: Event,
    pub(crate) cause: Cause,
    /// The device at the other end.
    pub(crate) other: Option<u32>,
}

/// A run of pages that met the same fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) process: ProcessId,
    /// Address of the first page; 0 when the process is not known.
    pub(crate) start: u64,
    /// Frame of the first page; `None` for pages that stayed.
    pub(crate) frame: Option<FrameIndex>,
    pub(crate) nr_pages: u32,
    pub(crate) reason: Option<Reason>,
}

impl Run {
    /// Takes `next` in where it goes on from here.
    fn extend(&mut self, next: &Self) -> bool {
        let nr_pages = u64::from(self.nr_pages);
        let start = if self.process.is_known() {
            let bytes = nr_pages.saturating_mul(FRAME_BYTES);
            self.start.saturating_add(bytes)
        } else {
            0
        };
        let frame = self
            .frame
            .map(|frame| FrameIndex::new(frame.get().saturating_add(nr_pages)));
        let goes_on = (next.process, next.start, next.frame, next.reason)
            == (self.process, start, frame, self.reason);
        if goes_on {
            self.nr_pages = self.nr_pages.saturating_add(next.nr_pages);
        }
        goes_on
    }
}

/// Which records a reader asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filter {
    /// `None`: of every process.
    pub(crate) process: Option<ProcessId>,
    /// Addresses; `None`: all.
    pub(crate) span: Option<Span>,
}

impl Filter {
    fn takes(&self, move_: &args::Move, began_ns: u64) -> bool {
        let is_its = self.process.is_none_or(|process| {
            process.is_known() && (process.number, process.began_ns) == (move_.process, began_ns)
        });
        let end = u64::from(move_.nr_pages)
            .saturating_mul(FRAME_BYTES)
            .saturating_add(move_.start);
        let overlaps = self
            .span
            .is_none_or(|span| move_.start < span.end && span.start < end);
        is_its && overlaps
    }
}

/// What a reader finds under a sequence number.
pub(crate) enum Entry {
    Move(args::Move),
    /// A record that was not asked for.
    Other,
    Gone,
    Unfinished,
}

/// Which of a device's rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Pages that moved, or were lost.
    Moved,
    /// Pages that stayed.
    Stayed,
}

impl Kind {
    const fn of(event: Event) -> Self {
        match event {
            Event::Arrived | Event::Filled | Event::Left | Event::Lost => Self::Moved,
            Event::Stayed | Event::Stuck => Self::Stayed,
        }
    }
}

/// Frames whose arrivals are remembered, those of 2 TiB: one allocation of the kernel's is below 2 GiB.
/// Where pages of later frames came to is not told when they leave by their frames.
const MAX_ARRIVALS: u64 = 1 << 29;
/// Most records of a ring of pages that moved: an arrival names its slot in 16 bits.
const MAX_MOVED: u64 = 16384;
/// Arrivals in a word.
const ARRIVALS_A_WORD: u64 = (u64::BITS / u16::BITS) as u64;
const _: () = assert!(MAX_MOVED < u16::MAX as u64);

/// The history of one device.
#[derive(Debug)]
pub(crate) struct History<H: Host> {
    device: u32,
    moved: Ring<H::Words>,
    stayed: Ring<H::Words>,
    /// By frame, up to [`MAX_ARRIVALS`], 16 bits: 1 and the slot of the record with which its page came;
    /// 0: none yet. The slot may have a later record by now, which tells of other frames: one that told of
    /// the same frame would have made a later arrival.
    arrivals: H::Words,
}

impl<H: Host> History<H> {
    pub(crate) fn new(host: &H, device: u32, nr_frames: u64) -> Result<Self, Errno> {
        let nr_moved = (nr_frames / 64).clamp(256, MAX_MOVED);
        let nr_stayed = nr_moved / 2;
        let ring = |nr_slots| {
            let words = host.new_words(ring::words_needed(nr_slots))?;
            Ok::<_, Errno>(Ring::new(words, nr_slots))
        };
        let nr_arrivals = nr_frames.min(MAX_ARRIVALS).div_ceil(ARRIVALS_A_WORD);
        let nr_arrivals = usize::try_from(nr_arrivals).map_err(|_size| Errno::EOVERFLOW)?;
        Ok(Self {
            device,
            moved: ring(nr_moved)?,
            stayed: ring(nr_stayed)?,
            arrivals: host.new_words(nr_arrivals)?,
        })
    }

    /// Writes the records of one step over the pages that `runs` yields, neighbours in one record.
    ///
    /// **Context:** any; never waits. Of pages that moved: before their batch is dropped.
    pub(crate) fn write(&self, host: &H, told: Told, runs: impl IntoIterator<Item = Run>) {
        let mut pending: Option<Run> = None;
        for run in runs {
            let is_taken_in = pending.as_mut().is_some_and(|before| before.extend(&run));
            if !is_taken_in && let Some(whole) = pending.replace(run) {
                self.push(host, told, &whole);
            }
        }
        if let Some(whole) = pending {
            self.push(host, told, &whole);
        }
    }

    fn push(&self, host: &H, told: Told, run: &Run) {
        let move_ = args::Move {
            sequence: 0,
            time_ns: host.now_ns(),
            start: run.start,
            frame: run.frame.map_or(NO_FRAME, FrameIndex::get),
            nr_pages: run.nr_pages,
            process: run.process.number,
            by: host.calling_process(),
            event: told.event as u8,
            cause: told.cause as u8,
            reason: run.reason.map_or(0, |reason| reason as u8),
            other: told
                .other
                .and_then(|device| u8::try_from(device).ok())
                .unwrap_or(NO_DEVICE),
        };
        host.trace(self.device, &move_);
        let sequence = self
            .ring(Kind::of(told.event))
            .push(pack(&move_, run.process.began_ns));
        if matches!(told.event, Event::Arrived | Event::Filled) {
            // A record that was lost is none: nothing is known of the frames then.
            let arrival =
                sequence.map_or(0, |sequence| self.moved.slot_of(sequence).saturating_add(1));
            let frames = run.frame.map_or(0..0, |first| {
                first.get()..first.get().saturating_add(run.nr_pages.into())
            });
            for frame in frames {
                if let Some((word, shift)) = self.arrival(frame) {
                    // Ordering: read by whoever has the page in a batch, which it is not in before ours is
                    // dropped. Nobody else changes these bits meanwhile, others of the word they may.
                    let before = (word.load(Relaxed) >> shift) & u64::from(u16::MAX);
                    word.fetch_xor((before ^ arrival) << shift, Relaxed);
                }
            }
        }
    }

    /// The word with a frame's arrival, and how far up in it that is.
    fn arrival(&self, frame: u64) -> Option<(&AtomicU64, u64)> {
        let index = usize::try_from(frame.checked_div(ARRIVALS_A_WORD)?).ok()?;
        let lane = frame.checked_rem(ARRIVALS_A_WORD)?;
        Some((
            self.arrivals.get(index)?,
            lane.saturating_mul(u16::BITS.into()),
        ))
    }

    /// The page of a frame, as the record says with which it came.
    ///
    /// The caller holds the frame, or has its page in a batch.
    pub(crate) fn page_of(&self, frame: FrameIndex) -> Run {
        let unknown = Run {
            process: ProcessId::default(),
            start: 0,
            frame: Some(frame),
            nr_pages: 1,
            reason: None,
        };
        let slot = self.arrival(frame.get()).and_then(|(word, shift)| {
            ((word.load(Relaxed) >> shift) & u64::from(u16::MAX)).checked_sub(1)
        });
        let Some(Found::Record(words)) = slot.map(|slot| self.moved.read_slot(slot)) else {
            return unknown;
        };
        let (move_, began_ns) = unpack(&words);
        if ![Event::Arrived as u8, Event::Filled as u8].contains(&move_.event) {
            return unknown;
        }
        let nr_before = frame.get().wrapping_sub(move_.frame);
        if nr_before >= u64::from(move_.nr_pages) {
            return unknown;
        }
        Run {
            process: ProcessId {
                number: move_.process,
                began_ns,
            },
            start: nr_before
                .saturating_mul(FRAME_BYTES)
                .saturating_add(move_.start),
            ..unknown
        }
    }

    /// The sequence numbers that can be read of a ring: the oldest, and the next.
    pub(crate) fn bounds(&self, kind: Kind) -> core::ops::Range<u64> {
        let ring = self.ring(kind);
        ring.oldest()..ring.next()
    }

    /// Reads the record with this sequence number, if the filter takes it.
    pub(crate) fn read(&self, kind: Kind, sequence: u64, filter: &Filter) -> Entry {
        match self.ring(kind).read(sequence) {
            Found::Gone => Entry::Gone,
            Found::Unfinished => Entry::Unfinished,
            Found::Record(words) => {
                let (move_, began_ns) = unpack(&words);
                if filter.takes(&move_, began_ns) {
                    Entry::Move(args::Move { sequence, ..move_ })
                } else {
                    Entry::Other
                }
            }
        }
    }

    const fn ring(&self, kind: Kind) -> &Ring<H::Words> {
        match kind {
            Kind::Moved => &self.moved,
            Kind::Stayed => &self.stayed,
        }
    }
}

/// The record is worth its place: what keeps the page may pass, and no look at the page tells it.
pub(crate) const fn is_told(reason: Reason) -> bool {
    !matches!(
        reason,
        Reason::AlreadyThere
            | Reason::Unmapped
            | Reason::Untouched
            | Reason::Swapped
            | Reason::File
            | Reason::Special
            | Reason::Hugetlb
            | Reason::Executable
            | Reason::NoPermission
            | Reason::OtherDevice
    )
}

/// A record's words; its sequence number is where it stands.
fn pack(move_: &args::Move, began_ns: u64) -> Words {
    let bytes = [move_.event, move_.cause, move_.reason, move_.other];
    [
        move_.time_ns,
        move_.start,
        move_.frame,
        both(move_.nr_pages.to_ne_bytes(), move_.process.to_ne_bytes()),
        both(move_.by.to_ne_bytes(), bytes),
        began_ns,
    ]
}

fn unpack(words: &Words) -> (args::Move, u64) {
    let [time_ns, start, frame, counts, asked, began_ns] = *words;
    let (nr_pages, process) = halves(counts);
    let (by, [event, cause, reason, other]) = halves(asked);
    let move_ = args::Move {
        sequence: 0,
        time_ns,
        start,
        frame,
        nr_pages: u32::from_ne_bytes(nr_pages),
        process: u32::from_ne_bytes(process),
        by: u32::from_ne_bytes(by),
        event,
        cause,
        reason,
        other,
    };
    (move_, began_ns)
}

/// Two halves of a word.
fn both(low: [u8; 4], high: [u8; 4]) -> u64 {
    let ([b0, b1, b2, b3], [b4, b5, b6, b7]) = (low, high);
    u64::from_ne_bytes([b0, b1, b2, b3, b4, b5, b6, b7])
}

/// What [`both`] put together.
fn halves(word: u64) -> ([u8; 4], [u8; 4]) {
    let [b0, b1, b2, b3, b4, b5, b6, b7] = word.to_ne_bytes();
    ([b0, b1, b2, b3], [b4, b5, b6, b7])
}
