//! What `top` asks the system, and what it does to processes and devices.

use std::{ops::ControlFlow, time::Duration};

use cohmem::{
    AddrRange, ByteCount, Device, Direction, ErrorKind, Extent, MigrateOptions, Place, Process,
    Target, Tier, UserAddr, discover, pids,
};

use super::state::{Effect, Look, ProcessRow, Reasons};
use crate::survey::{Counts, Sight, Survey};

/// Bytes whose pages are asked for reasons at a time.
const REASON_BYTES: u64 = 64 << 20;
/// Pages that are asked for reasons at a look, so that a large process does not hold up the others.
const MOST_REASONS: u64 = 1 << 20;
const EVICT_TIMEOUT: Duration = Duration::from_secs(30);

/// Looks at all processes.
#[derive(Debug)]
pub(super) struct Looker {
    sight: Sight,
}

impl Looker {
    pub(super) const fn new(sight: Sight) -> Self {
        Self { sight }
    }

    /// Looks at each process with memory of its own, and why that of `in_question` stays at home.
    pub(super) fn look(&mut self, in_question: Option<u32>) -> cohmem::Result<Look> {
        let devices = discover()?;
        // The one that was open may be gone, or the first one may have come.
        if self.sight.device.is_none() || devices.is_empty() {
            self.sight = Sight::open()?;
        } else if let Some(device) = &self.sight.device
            && devices.iter().all(|other| other.number != device.number())
        {
            self.sight = Sight::open()?;
        }
        // With nothing on any device there is nothing to ask the driver about.
        let is_any_used = devices.iter().any(|device| device.allocated.get() > 0);
        let device = self.sight.device.as_ref().filter(|_| is_any_used);
        let mut look = Look::default();
        for pid in pids()? {
            match row(pid, device) {
                Ok(row) if row.counts.nr_shown() > 0 => look.rows.push(row),
                // A kernel thread.
                Ok(_) => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::NoProcess | ErrorKind::NoDevice) => {}
                // One odd process does not hide the others.
                Err(_) => look.nr_unseen += 1,
            }
        }
        // At first nobody has asked: then it is the one that is shown first.
        let most = look.rows.iter().max_by_key(|row| {
            let counts = &row.counts;
            (counts.on_devices(), counts.get(Place::System))
        });
        let in_question = in_question.or(most.map(|row| row.pid));
        if let (Some(pid), Some(device)) = (in_question, self.sight.device.as_ref()) {
            look.reasons = reasons(pid, device).ok().map(|reasons| (pid, reasons));
        }
        Ok(look)
    }

    /// The map of one process.
    pub(super) fn survey(&self, pid: u32) -> cohmem::Result<Survey> {
        Survey::take(&Process::open(pid)?, self.sight.device.as_ref())
    }
}

fn row(pid: u32, device: Option<&Device>) -> cohmem::Result<ProcessRow> {
    let process = Process::open(pid)?;
    let mut counts = Counts::default();
    process.for_each_extent(device, |extent| {
        counts.add(extent.place, extent.range.nr_pages());
    })?;
    Ok(ProcessRow {
        pid,
        name: process.read_name()?,
        counts,
    })
}

/// Why the pages of a process in system memory would not go to the device.
fn reasons(pid: u32, device: &Device) -> cohmem::Result<Reasons> {
    let process = Process::open(pid)?;
    let extents = extents(&process, device, |place| place == Place::System)?;
    let mut reasons = Reasons::default();
    let mut nr_asked = 0;
    for extent in extents {
        let (mut at, end) = (extent.range.start().get(), extent.range.end().get());
        while at < end && nr_asked < MOST_REASONS {
            let upto = end.min(at + REASON_BYTES);
            let range = AddrRange::new(UserAddr::new(at), UserAddr::new(upto))?;
            let map = match device.query_reasons(range, Target::Process(&process)) {
                Ok(map) => map,
                Err(error) if error.kind() == ErrorKind::NotMapped => break,
                Err(error) => return Err(error),
            };
            for entry in map.entries() {
                match (entry.tier(), entry.reason()) {
                    (Tier::System, Some(reason)) => reasons.stay.add(reason, 1),
                    (Tier::System, None) => reasons.would_move += 1,
                    _ => {}
                }
            }
            nr_asked += range.nr_pages();
            at = upto;
        }
    }
    Ok(reasons)
}

fn extents(
    process: &Process,
    device: &Device,
    is_wanted_fn: impl Fn(Place) -> bool,
) -> cohmem::Result<Vec<Extent>> {
    let mut extents = Vec::new();
    process.for_each_extent(Some(device), |extent| {
        if is_wanted_fn(extent.place) {
            extents.push(extent);
        }
    })?;
    Ok(extents)
}

/// Does what was confirmed; says how it ended.
pub(super) fn carry_out(effect: &Effect) -> String {
    match *effect {
        Effect::Evict(number) => match evict(number) {
            Ok(text) => text,
            Err(error) => format!("cohmem{number} is not empty: {error}"),
        },
        Effect::BringHome(pid) => match bring_home(pid) {
            Ok(pages) => format!("process {pid}: {} went home", ByteCount::of_frames(pages)),
            Err(error) => format!("process {pid} is not home: {error}"),
        },
        Effect::Quit | Effect::Survey(_) => String::new(),
    }
}

fn evict(number: u32) -> cohmem::Result<String> {
    let outcome = Device::open(number)?.evict(EVICT_TIMEOUT)?;
    let evicted = ByteCount::of_frames(outcome.evicted);
    Ok(if outcome.is_done() {
        format!("cohmem{number}: {evicted} went home, it is empty")
    } else {
        format!(
            "cohmem{number}: {evicted} went home, {} frames stay; `cohmem evict` names them",
            outcome.nr_stuck
        )
    })
}

/// Moves what a process has on devices home; returns how many pages went.
fn bring_home(pid: u32) -> cohmem::Result<u64> {
    let process = Process::open(pid)?;
    let mut moved = 0;
    for summary in discover()? {
        let device = Device::open(summary.number)?;
        let here = Place::Device(summary.number);
        for extent in extents(&process, &device, |place| place == here)? {
            let options = MigrateOptions::default();
            let target = Target::Process(&process);
            let go_on = |_: &_| ControlFlow::Continue(());
            let direction = Direction::ToSystem;
            match device.migrate_with(extent.range, direction, &options, target, go_on) {
                Ok(part) => moved += part.moved,
                // It was unmapped meanwhile.
                Err(error) if error.kind() == ErrorKind::NotMapped => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_among_those_looked_at() {
        let mut looker = Looker::new(Sight {
            device: None,
            limit: None,
        });
        let look = looker.look(None).unwrap();
        let own = look.rows.iter().find(|row| row.pid == std::process::id());
        assert!(own.is_some_and(|row| row.counts.in_memory() > 0));
        let survey = looker.survey(std::process::id()).unwrap();
        assert!(survey.total.in_memory() > 0);
    }

    #[test]
    fn work_that_fails_says_so() {
        // Above the largest value that pid_max can have.
        let text = carry_out(&Effect::BringHome(1 << 23));
        assert!(text.starts_with("process 8388608 is not home: "), "{text}");
    }
}
