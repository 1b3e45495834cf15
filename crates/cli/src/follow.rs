//! Follows a tree of processes and moves their memory as a policy says, as it appears.
//!
//! A process whose signature (page faults, size of its memory) is that of the last look has no new
//! page: it costs two reads in procfs. Otherwise each mapping that the policy names is looked at,
//! which moves nothing, and what may move of it is moved in pieces. Without a cause a process is
//! looked at ever more rarely, for pages that could not move; all looks together take a small part
//! of the time. New processes are searched for when the machine has given out a number since the last
//! search, or when there is something to look at.
//!
//! # The limit
//!
//! Only this follower moves pages of these processes to a device, so between two of its calls their
//! pages there become fewer, never more: a fork shares pages, and a copy on write lands in system
//! memory. Pages that were counted in each process, after which no process was found that was not,
//! are therefore an upper bound of what is there, and a piece holds no more other pages than the
//! limit leaves. A page that several processes map counts once for each.

pub(crate) mod live;
pub(crate) mod machine;
mod pieces;
mod place;
mod stock;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use cohmem::{AddrRange, ByteCount, ReasonCounts, UserAddr};

use self::{
    live::Live,
    machine::{Machine, Obstacle, Signature, Step},
};
use crate::policy::{Area, Policy};

/// Bytes that are looked at in one call.
const LOOK_BYTES: u64 = 256 << 20;

/// What was done for all processes together.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Pages that moved, by device.
    pub(crate) moved: BTreeMap<u32, u64>,
    /// Pages that went home to make room.
    pub(crate) evicted: u64,
    /// Most pages that were on the devices at the end of a round.
    pub(crate) peak: u64,
    /// Pages that had stayed when they were last looked at.
    pub(crate) stayed: ReasonCounts,
    /// Processes that may not be looked into.
    pub(crate) hidden: BTreeSet<u32>,
    /// Rounds.
    pub(crate) rounds: u64,
    /// Processes that the program left behind, and their pages that went home at the end.
    pub(crate) left: (u64, u64),
}

/// Why memory found no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// No device has a free frame.
    Frames,
    /// The limit is reached.
    Limit,
}

/// What one round came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Round {
    /// A process had new memory, or pages moved.
    pub(crate) is_busy: bool,
    /// Pages that found no room, and why.
    pub(crate) lack: Option<(Lack, u64)>,
}

/// One mapping at the last look.
#[derive(Clone, Debug)]
struct Seen {
    area: Area,
    /// Pages on devices, at most.
    here: u64,
    /// Pages that may move to a device.
    nr_candidates: u64,
    /// Pages that stay, and those that did not move when they were told to.
    stays: ReasonCounts,
    refused: ReasonCounts,
    /// The round in which its last page came.
    last_came: u64,
    /// Its pages went home for others: they come back only into free room.
    has_yielded: bool,
}

#[derive(Debug)]
struct Followed<P> {
    process: P,
    signature: Option<Signature>,
    /// By address.
    seen: Vec<Seen>,
    /// Pause until the next look without a cause.
    rest: Duration,
    /// When that look is due, and before when no look is worth its cost.
    next_look: Duration,
    not_before: Duration,
}

/// The processes below one.
#[derive(Debug)]
pub(crate) struct Follower<M: Machine> {
    machine: M,
    policy: Policy,
    root: u32,
    /// Most time that a cause for a look waits because of its cost.
    patience: Duration,
    followed: BTreeMap<u32, Followed<M::Process>>,
    /// The newest number before the last search for processes, if all that were found are followed.
    newest: Option<u32>,
    pub(crate) tally: Tally,
}

impl<M: Machine> Follower<M> {
    /// Follows what is below the process `root`; the policy names at least one device.
    pub(crate) fn new(machine: M, policy: Policy, root: u32, patience: Duration) -> Self {
        Self {
            machine,
            policy,
            root,
            patience,
            followed: BTreeMap::new(),
            newest: None,
            tally: Tally::default(),
        }
    }

    /// Looks at every process once, and moves what may move.
    ///
    /// # Errors
    ///
    /// [`Obstacle::Closed`], [`Obstacle::Fatal`]: following makes no more sense.
    pub(crate) fn round(&mut self) -> Step<Round> {
        self.tally.rounds += 1;
        let newest = self.machine.newest();
        if newest.is_some() && newest == self.newest && self.is_idle() {
            return Ok(Round::default());
        }
        let stock = self.take_stock()?;
        self.newest = newest.filter(|_| stock.is_complete);
        let mut round = Round {
            is_busy: stock.has_news,
            lack: None,
        };
        // Without a count there is no telling what the limit leaves.
        if stock.is_certain || self.policy.limit_pages().is_none() {
            self.place(&mut round)?;
        }
        self.tally.peak = self.tally.peak.max(self.nr_here());
        Ok(round)
    }

    /// Takes home what the program left behind, and counts what is still followed.
    pub(crate) fn finish(mut self) -> Tally {
        let pids = self.find();
        for pid in pids {
            // Else it has ended, or nothing of it can be reached.
            if let Ok(pages) = self.take_home(pid) {
                self.tally.left.0 += 1;
                self.tally.left.1 += pages;
            }
        }
        let pids: Vec<u32> = self.followed.keys().copied().collect();
        for pid in pids {
            self.forget(pid);
        }
        self.tally
    }

    fn nr_here(&self) -> u64 {
        let seen = self.followed.values().flat_map(|one| &one.seen);
        seen.map(|seen| seen.here).sum()
    }

    fn forget(&mut self, pid: u32) {
        if let Some(one) = self.followed.remove(&pid) {
            for seen in &one.seen {
                self.tally.stayed.merge(&seen.stays);
                self.tally.stayed.merge(&seen.refused);
            }
        }
    }

    /// Every process below `root`; those that are known, and what is below them, also when a list
    /// lacks them.
    fn find(&self) -> BTreeSet<u32> {
        let mut found: BTreeSet<u32> = self.followed.keys().copied().collect();
        let mut open: Vec<u32> = found.iter().copied().chain([self.root]).collect();
        while let Some(parent) = open.pop() {
            for child in self.machine.children(parent) {
                if found.insert(child) {
                    open.push(child);
                }
            }
        }
        found
    }
}

impl Follower<Live> {
    /// What may be on the devices after the next round, at most.
    pub(crate) fn most_here(&self) -> ByteCount {
        let pages = self.nr_here().saturating_add(self.machine.nr_free());
        ByteCount::of_frames(pages.min(self.policy.limit_pages().unwrap_or(u64::MAX)))
    }
}

/// The parts of `range` for single looks.
fn chunks(range: AddrRange) -> impl Iterator<Item = AddrRange> {
    let end = range.end().get();
    let mut start = range.start().get();
    std::iter::from_fn(move || {
        let length = LOOK_BYTES.min(end.checked_sub(start)?);
        let chunk = AddrRange::with_length(UserAddr::new(start), ByteCount::new(length)).ok()?;
        start += length;
        (length > 0).then_some(chunk)
    })
}

/// The pages of `range` from index `start` up to `end`.
fn part(range: AddrRange, (start, end): (usize, usize)) -> AddrRange {
    let address = |index: usize| {
        let offset = ByteCount::of_frames(index as u64).get();
        UserAddr::new(range.start().get().saturating_add(offset))
    };
    AddrRange::new(address(start), address(end)).unwrap_or(range)
}

/// Whether a step only has to wait; what ends all following is passed on.
fn is_passing<T>(step: Step<T>) -> Step<Option<T>> {
    match step {
        Ok(value) => Ok(Some(value)),
        Err(Obstacle::Later) => Ok(None),
        Err(other) => Err(other),
    }
}
