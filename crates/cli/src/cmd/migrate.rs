//! `cohmem migrate`: the memory of a live process moves.

mod answer;

use std::{fmt, ops::ControlFlow, str::FromStr};

use clap::Args;
use cohmem::{
    AddrRange, Device, Direction, ErrorKind, FRAME_BYTES, MigrateOptions, Migrated, Process,
    Reason, ReasonCounts, Target, Tier, VmaKind, discover,
};

use self::answer::Answer;
use crate::{
    exit::{CliError, Exit, Result},
    interrupt::Interrupt,
    limits::{self, Fill, OTHER_TOOLS},
    output::Output,
    progress,
};

/// Move the anonymous memory of a live process to a device, or home.
///
/// Exit status 1 when a page stayed that could be expected to move: for any reason but
/// already-there, untouched, file, special, unmapped, executable.
#[derive(Args, Debug)]
#[command(after_long_help = OTHER_TOOLS)]
pub(crate) struct Migrate {
    /// The process.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pid: u32,
    /// START-END (without END) or START+SIZE; all of its anonymous memory by default.
    #[arg(long)]
    range: Option<AddrRange>,
    /// device:N or cohmemN, or system: home.
    #[arg(long, value_name = "WHERE")]
    to: Destination,
    /// Fill untouched pages with zeroed device memory.
    #[arg(long)]
    fill: bool,
    /// Move pages that other processes map as well (fork); needs CAP_SYS_NICE.
    #[arg(long)]
    shared: bool,
    /// Move pages of executable mappings, too.
    #[arg(long)]
    exec: bool,
    /// Only tell what would move, and why the rest would not.
    #[arg(long)]
    dry_run: bool,
}

/// Where pages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Destination {
    Device(u32),
    System,
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(number) => write!(f, "cohmem{number}"),
            Self::System => f.write_str("system"),
        }
    }
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == "system" {
            return Ok(Self::System);
        }
        let number = text
            .strip_prefix("device:")
            .or(text.strip_prefix("cohmem").map(|_| text));
        let bad = || format!("{text:?} is not device:N, cohmemN or system");
        Device::parse_number(number.ok_or_else(bad)?)
            .map(Self::Device)
            .map_err(|error| error.to_string())
    }
}

impl Migrate {
    pub(crate) fn run(&self, out: &mut Output) -> Result<Exit> {
        let devices = self.devices()?;
        let process = Process::open(self.pid)?;
        let ranges = match self.range {
            Some(range) => vec![range],
            None => movable_ranges(&process, self.exec)?,
        };
        if let (Destination::Device(_), Some(device)) = (self.to, devices.first()) {
            let fill = if self.fill {
                Fill::Untouched
            } else {
                Fill::Nothing
            };
            limits::warn_before_migration(&process, device, &ranges, fill)?;
        }
        let interrupt = Interrupt::install()?;
        let mut answer = Answer {
            pid: self.pid,
            to: self.to.to_string(),
            dry_run: self.dry_run,
            migrated: Migrated::default(),
            is_cut_short: false,
        };
        for device in self.taking_part(&devices, &process, &ranges)? {
            // What stays for one device may be on the next, and what has moved home is there for
            // the next: the last look counts.
            let home_already = answer.migrated.moved;
            answer.migrated.stayed = ReasonCounts::default();
            answer.migrated.total = 0;
            if self.dry_run {
                self.look(device, &process, &ranges, &mut answer)?;
            } else {
                self.migrate(device, &process, &ranges, &interrupt, &mut answer)?;
            }
            let there = &mut answer.migrated.stayed;
            *there = without(there, Reason::AlreadyThere, home_already);
        }
        answer.tell(out)
    }

    /// The devices that take part: to go home, those that exist.
    fn devices(&self) -> Result<Vec<Device>> {
        match self.to {
            Destination::Device(number) => Ok(vec![Device::open(number)?]),
            Destination::System => {
                let numbers: Vec<u32> = discover()?.iter().map(|device| device.number).collect();
                match numbers.first() {
                    // Says what is missing: the driver, or a device.
                    None if !cohmem::is_driver_loaded() => Ok(vec![Device::open(0)?]),
                    None => Err(CliError::NoDevices),
                    Some(_) => numbers
                        .into_iter()
                        .map(|number| Ok(Device::open(number)?))
                        .collect(),
                }
            }
        }
    }

    /// Of several devices, those that have a page of the ranges; at least one.
    fn taking_part<'a>(
        &self,
        devices: &'a [Device],
        process: &Process,
        ranges: &[AddrRange],
    ) -> Result<Vec<&'a Device>> {
        let mut chosen = Vec::new();
        for device in devices {
            let mut has_pages = devices.len() == 1;
            for &range in ranges {
                if has_pages {
                    break;
                }
                match device.query_counts(range, Target::Process(process)) {
                    Ok(counts) => has_pages = counts.nr_here() > 0,
                    Err(error) if error.kind() == ErrorKind::NotMapped && self.range.is_none() => {}
                    Err(error) => return Err(error.into()),
                }
            }
            if has_pages {
                chosen.push(device);
            }
        }
        if chosen.is_empty() {
            chosen.extend(devices.first());
        }
        Ok(chosen)
    }

    const fn direction(&self) -> Direction {
        match self.to {
            Destination::Device(_) => Direction::ToDevice,
            Destination::System => Direction::ToSystem,
        }
    }

    fn migrate(
        &self,
        device: &Device,
        process: &Process,
        ranges: &[AddrRange],
        interrupt: &Interrupt,
        answer: &mut Answer,
    ) -> Result<()> {
        let bytes = ranges.iter().map(|range| range.length().get()).sum();
        let bar = progress::bytes("migrating", bytes);
        let options = MigrateOptions {
            fill: self.fill,
            shared: self.shared,
            executable: self.exec,
            ..MigrateOptions::default()
        };
        let mut done = 0;
        for &range in ranges {
            let target = Target::Process(process);
            let result = device.migrate_with(range, self.direction(), &options, target, |part| {
                bar.set_position(done + part.done() * FRAME_BYTES);
                if interrupt.is_set() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            match result {
                Ok(part) => answer.migrated.merge(&part),
                // It was unmapped since the list of mappings was read.
                Err(error) if error.kind() == ErrorKind::NotMapped && self.range.is_none() => {}
                Err(error) => return Err(error.into()),
            }
            done += range.length().get();
            if interrupt.is_set() {
                answer.is_cut_short = true;
                break;
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn look(
        &self,
        device: &Device,
        process: &Process,
        ranges: &[AddrRange],
        answer: &mut Answer,
    ) -> Result<()> {
        for &range in ranges {
            let map = match device.query_reasons(range, Target::Process(process)) {
                Ok(map) => map,
                Err(error) if error.kind() == ErrorKind::NotMapped && self.range.is_none() => {
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let migrated = &mut answer.migrated;
            migrated.total += range.nr_pages();
            for entry in map.entries() {
                let is_here = entry.device() == Some(device.number());
                match (self.direction(), entry.tier(), entry.reason()) {
                    (Direction::ToSystem, _, _) if is_here => migrated.moved += 1,
                    (Direction::ToSystem, Tier::System, _) => {
                        migrated.stayed.add(Reason::AlreadyThere, 1);
                    }
                    (Direction::ToDevice, _, Some(Reason::Untouched)) if self.fill => {
                        migrated.filled += 1;
                    }
                    (Direction::ToDevice, _, Some(Reason::Shared)) if self.shared => {
                        migrated.moved += 1;
                    }
                    (_, _, Some(reason)) => migrated.stayed.add(reason, 1),
                    (Direction::ToDevice, _, None) => migrated.moved += 1,
                    (Direction::ToSystem, _, None) => migrated.stayed.add(Reason::Untouched, 1),
                }
            }
        }
        Ok(())
    }
}

/// Anonymous memory that can be accessed: guard pages and reserved address space have no pages.
pub(crate) fn movable_ranges(process: &Process, executable: bool) -> Result<Vec<AddrRange>> {
    let vmas = process.read_vmas()?;
    let is_movable = |vma: &&cohmem::Vma| {
        vma.kind == VmaKind::Anonymous
            && (vma.is_readable || vma.is_writable)
            && (executable || !vma.is_executable)
    };
    Ok(vmas
        .iter()
        .filter(is_movable)
        .map(|vma| vma.range)
        .collect())
}

/// `counts` with `pages` fewer that stayed for `reason`.
fn without(counts: &ReasonCounts, reason: Reason, pages: u64) -> ReasonCounts {
    let mut rest = ReasonCounts::default();
    for (other, count) in counts.iter() {
        rest.add(
            other,
            if other == reason {
                count.saturating_sub(pages)
            } else {
                count
            },
        );
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_read() {
        assert_eq!("system".parse(), Ok(Destination::System));
        assert_eq!("device:3".parse(), Ok(Destination::Device(3)));
        assert_eq!("cohmem0".parse(), Ok(Destination::Device(0)));
        for text in ["", "3", "device:", "device:16", "cohmem", "dax0.0"] {
            text.parse::<Destination>().unwrap_err();
        }
    }

    #[test]
    fn pages_that_came_home_before_are_not_counted_twice() {
        let mut stayed = ReasonCounts::default();
        stayed.add(Reason::AlreadyThere, 5);
        stayed.add(Reason::Pinned, 2);
        let rest = without(&stayed, Reason::AlreadyThere, 3);
        assert_eq!(
            (rest.get(Reason::AlreadyThere), rest.get(Reason::Pinned)),
            (2, 2)
        );
        assert_eq!(without(&stayed, Reason::Pinned, 9).get(Reason::Pinned), 0);
    }
}
