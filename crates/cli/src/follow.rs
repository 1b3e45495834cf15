//! Follows a tree of processes and moves their anonymous memory as it appears.
//!
//! A process that had no page fault since the last look has no new page: it costs one read of its
//! `stat`. Otherwise each anonymous mapping is queried, which moves nothing, and migrated only if
//! it has pages in system memory. Pages that would not move are tried again ever more rarely.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    fs,
    ops::ControlFlow,
};

use cohmem::{
    AddrRange, ByteCount, Device, Direction, ErrorKind, MigrateOptions, Process, ReasonCounts,
    Target, Tier, memory_limits,
};

use crate::{cmd::migrate::movable_ranges, exit::warn, limits};

/// Rounds after which a mapping whose pages stay is tried again, at most.
const LONGEST_REST: u32 = 40;

/// What was done for all processes together.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Pages that moved to the device.
    pub(crate) moved: u64,
    /// Most pages that were on the device at the end of a round.
    pub(crate) peak: u64,
    /// Pages that had stayed when they were last looked at.
    pub(crate) stayed: ReasonCounts,
    /// Processes that may not be looked into.
    pub(crate) unseen: HashSet<u32>,
    /// Rounds.
    pub(crate) rounds: u64,
    /// A memory limit was warned about: once is enough.
    has_warned: bool,
}

/// One mapping at the last look.
#[derive(Debug, Default)]
struct Seen {
    here: u64,
    stayed: ReasonCounts,
    rest: u32,
    next_rest: u32,
}

#[derive(Debug)]
struct Followed {
    process: Process,
    faults: Option<u64>,
    mappings: HashMap<AddrRange, Seen>,
    /// Pages stayed: the process is looked at again without a fault.
    has_rest: bool,
}

/// The processes below this one.
#[derive(Debug)]
pub(crate) struct Follower {
    device: Device,
    followed: HashMap<u32, Followed>,
    pub(crate) tally: Tally,
}

impl Follower {
    pub(crate) fn new(device: Device) -> Self {
        Self {
            device,
            followed: HashMap::new(),
            tally: Tally::default(),
        }
    }

    /// Looks at every process once. An error is the device's: following makes no more sense.
    pub(crate) fn round(&mut self) -> cohmem::Result<()> {
        self.tally.rounds += 1;
        let pids = descendants(std::process::id());
        let gone: Vec<u32> = self
            .followed
            .keys()
            .copied()
            .filter(|pid| !pids.contains(pid))
            .collect();
        for pid in gone {
            self.forget(pid);
        }
        self.watch_limits();
        for pid in pids {
            match self.look_at(pid) {
                Ok(()) => {}
                // It ended, or it has become another program: then it is opened anew next time.
                Err(error) if error.kind() == ErrorKind::NoProcess => self.forget(pid),
                Err(error) if error.kind() == ErrorKind::NotPermitted => {
                    self.tally.unseen.insert(pid);
                }
                Err(error) => return Err(error),
            }
        }
        self.tally.peak = self.tally.peak.max(self.nr_here());
        Ok(())
    }

    fn nr_here(&self) -> u64 {
        let here = self.followed.values().flat_map(|one| one.mappings.values());
        here.map(|seen| seen.here).sum()
    }

    /// Warns when so little is left under a memory limit that a round may be too much for it.
    fn watch_limits(&mut self) {
        if self.tally.has_warned || self.followed.is_empty() {
            return;
        }
        let found = Process::open(std::process::id()).and_then(|own| memory_limits(&own));
        let found = match found {
            Ok(found) if found.is_empty() => return,
            Ok(found) => found,
            Err(error) => {
                warn("the memory limit is not known", &error);
                self.tally.has_warned = true;
                return;
            }
        };
        // Without an answer the round itself fails, and says why.
        let free = self.device.query_free().unwrap_or_default().frames();
        let on_device = ByteCount::of_frames(self.nr_here() + free);
        if let Some(tight) = limits::tightest(&found, on_device, ByteCount::default()) {
            eprintln!("cohmem run: warning: {}", tight.text());
            self.tally.has_warned = true;
        }
    }

    /// Counts what is still followed, at the end.
    pub(crate) fn finish(mut self) -> Tally {
        let pids: Vec<u32> = self.followed.keys().copied().collect();
        for pid in pids {
            self.forget(pid);
        }
        self.tally
    }

    fn forget(&mut self, pid: u32) {
        if let Some(one) = self.followed.remove(&pid) {
            for seen in one.mappings.values() {
                self.tally.stayed.merge(&seen.stayed);
            }
        }
    }

    fn look_at(&mut self, pid: u32) -> cohmem::Result<()> {
        if self.tally.unseen.contains(&pid) {
            return Ok(());
        }
        let one = match self.followed.entry(pid) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(Followed {
                process: Process::open(pid)?,
                faults: None,
                mappings: HashMap::new(),
                has_rest: false,
            }),
        };
        // Read before the pages are looked at: a fault in between is seen in the next round.
        let faults = faults_of(pid);
        if faults.is_some() && faults == one.faults && !one.has_rest {
            return Ok(());
        }
        one.faults = faults;
        self.tally.moved += one.move_new_pages(&self.device)?;
        Ok(())
    }
}

impl Followed {
    fn move_new_pages(&mut self, device: &Device) -> cohmem::Result<u64> {
        let ranges = match movable_ranges(&self.process, false) {
            Ok(ranges) => ranges,
            Err(crate::exit::CliError::Library(error)) => return Err(error),
            Err(_) => Vec::new(),
        };
        let present: HashSet<AddrRange> = ranges.iter().copied().collect();
        self.mappings.retain(|range, _| present.contains(range));
        self.has_rest = false;
        let mut moved = 0;
        for range in ranges {
            let seen = self.mappings.entry(range).or_default();
            match seen.look_at(device, &self.process, range) {
                Ok(pages) => moved += pages,
                // Unmapped since the list was read, or the device is being taken back for now.
                Err(error)
                    if matches!(error.kind(), ErrorKind::NotMapped | ErrorKind::Draining) => {}
                Err(error) => return Err(error),
            }
            self.has_rest |= seen.rest > 0;
        }
        Ok(moved)
    }
}

impl Seen {
    fn look_at(
        &mut self,
        device: &Device,
        process: &Process,
        range: AddrRange,
    ) -> cohmem::Result<u64> {
        if self.rest > 1 {
            self.rest -= 1;
            return Ok(0);
        }
        let target = Target::Process(process);
        let counts = device.query_counts(range, target)?;
        self.here = counts.nr_here();
        if counts.count(Tier::System) == 0 {
            (self.rest, self.next_rest) = (0, 0);
            self.stayed = ReasonCounts::default();
            return Ok(0);
        }
        let options = MigrateOptions::default();
        let go_on = |_: &_| ControlFlow::Continue(());
        let migrated = device.migrate_with(range, Direction::ToDevice, &options, target, go_on)?;
        self.here += migrated.moved;
        self.stayed = migrated.stayed;
        if migrated.moved < counts.count(Tier::System) {
            self.next_rest = (self.next_rest * 2).clamp(2, LONGEST_REST);
            self.rest = self.next_rest;
        } else {
            (self.rest, self.next_rest) = (0, 0);
        }
        Ok(migrated.moved)
    }
}

/// Every process below `pid`, without `pid`.
fn descendants(pid: u32) -> HashSet<u32> {
    let mut found = HashSet::new();
    let mut open = vec![pid];
    while let Some(parent) = open.pop() {
        for child in children_of(parent) {
            if found.insert(child) {
                open.push(child);
            }
        }
    }
    found
}

fn children_of(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|text| {
            text.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Page faults of a process so far.
fn faults_of(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse_faults(&text)
}

/// Fields 10 and 12 of `stat`; the second is a name that may hold anything, in parentheses.
fn parse_faults(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let minor: u64 = fields.nth(7)?.parse().ok()?;
    let major: u64 = fields.nth(1)?.parse().ok()?;
    Some(minor + major)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_behind_any_name() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 1234 99 5 77 1 2 3 4 20 0 1 0";
        assert_eq!(parse_faults(stat), Some(1239));
        assert_eq!(parse_faults("42 (a"), None);
    }

    #[test]
    fn children_of_children_are_found() {
        let mut shell = std::process::Command::new("sh")
            .args(["-c", "sleep 60 & wait"])
            .spawn()
            .unwrap();
        let shell_pid = shell.id();
        // The shell takes a moment to start its child.
        while descendants(shell_pid).is_empty() {
            std::thread::yield_now();
        }
        let found = descendants(std::process::id());
        assert!(found.contains(&shell_pid));
        let sleep = descendants(shell_pid);
        assert!(found.is_superset(&sleep));
        for pid in sleep {
            let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        shell.wait().unwrap();
    }
}
