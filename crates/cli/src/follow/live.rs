//! The machine itself: procfs, and the driver's devices.

use std::{
    fs::{self, File},
    io::Read as _,
    path::Path,
    time::{Duration, Instant},
};

use cohmem::{
    AddrRange, ByteCount, Device, Direction, Error, ErrorKind, MigrateOptions, PageEntry, Process,
    Target, Tier,
};

use super::machine::{Machine, Moved, Obstacle, Signature, Step};
use crate::policy::Area;

/// Times that a list of children is read until two readings agree: it may lack one whose sibling
/// ended meanwhile.
const NR_READINGS: usize = 5;

/// A mapping from this size on is scanned for what it holds: it may be address space for later, as the
/// stack of each thread is.
const SCANNED: ByteCount = ByteCount::new(1 << 20);
/// What the scan tells apart.
const BLOCK: ByteCount = ByteCount::new(256 << 10);

/// This machine with some of its devices.
#[derive(Debug)]
pub(crate) struct Live {
    devices: Vec<Device>,
    begin: Instant,
}

impl Live {
    /// At least one device.
    pub(crate) fn new(devices: Vec<Device>) -> Self {
        Self {
            devices,
            begin: Instant::now(),
        }
    }

    /// Frames that are free on the devices.
    pub(crate) fn nr_free(&self) -> u64 {
        // Without an answer the round itself fails, and says why.
        let free = self
            .devices
            .iter()
            .filter_map(|device| device.query_free().ok());
        free.map(ByteCount::frames).sum()
    }

    fn device(&self, number: u32) -> Step<&Device> {
        let mut devices = self.devices.iter();
        devices
            .find(|device| device.number() == number)
            .ok_or(Obstacle::Closed)
    }

    /// A device that answers; where a page is, each knows.
    fn ask<T>(&self, mut ask_fn: impl FnMut(&Device) -> cohmem::Result<T>) -> Step<T> {
        let mut last = Obstacle::Closed;
        for device in &self.devices {
            match ask_fn(device).map_err(Obstacle::from) {
                Err(Obstacle::Closed) => {}
                Err(Obstacle::Fatal(error)) => last = Obstacle::Fatal(error),
                other => return other,
            }
        }
        Err(last)
    }

    fn migrate(
        &self,
        number: u32,
        process: &Process,
        range: AddrRange,
        direction: Direction,
    ) -> Step<Moved> {
        let options = MigrateOptions::default();
        let target = Target::Process(process);
        let migrated = self
            .device(number)?
            .migrate(range, direction, &options, target)?;
        Ok(Moved {
            pages: migrated.moved,
            stayed: migrated.stayed,
        })
    }
}

impl From<Error> for Obstacle {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::NoProcess => Self::Gone,
            ErrorKind::NotPermitted => Self::Hidden,
            // Io: too many files are open.
            ErrorKind::NotMapped
            | ErrorKind::Busy
            | ErrorKind::Interrupted
            | ErrorKind::NoMemory
            | ErrorKind::Io => Self::Later,
            ErrorKind::Draining | ErrorKind::NoDevice => Self::Closed,
            _ => Self::Fatal(error),
        }
    }
}

impl Machine for Live {
    type Process = Process;

    fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    fn newest(&self) -> Option<u32> {
        read(Path::new("/proc/sys/kernel/ns_last_pid"))?
            .trim()
            .parse()
            .ok()
    }

    fn children(&self, parent: u32) -> Vec<u32> {
        let mut found = children_of(parent);
        for _reading in 0..NR_READINGS {
            let again = children_of(parent);
            if again == found {
                break;
            }
            found = again;
        }
        found
    }

    fn open(&self, pid: u32) -> Step<Process> {
        Ok(Process::open(pid)?)
    }

    fn signature(&self, process: &Process) -> Option<Signature> {
        let read_own = |name| read(Path::new(&format!("/proc/{}/{name}", process.pid())));
        let (stat, statm) = (read_own("stat")?, read_own("statm")?);
        parse_signature(&stat, &statm)
    }

    fn areas(&self, process: &Process) -> Step<Vec<Area>> {
        Ok(process.read_vmas()?.iter().filter_map(Area::of).collect())
    }

    fn count(&self, process: &Process, range: AddrRange) -> Step<u64> {
        let counts = self.ask(|device| device.query_counts(range, Target::Process(process)))?;
        Ok(counts.count(Tier::Device))
    }

    fn present(&self, process: &Process, range: AddrRange) -> Step<u64> {
        let parts = process.occupied(range, ByteCount::of_frames(1))?;
        Ok(parts.into_iter().map(AddrRange::nr_pages).sum())
    }

    fn occupied(&self, process: &Process, range: AddrRange) -> Step<Vec<AddrRange>> {
        if range.length() < SCANNED {
            return Ok(vec![range]);
        }
        Ok(process.occupied(range, BLOCK)?)
    }

    fn look(&self, process: &Process, range: AddrRange) -> Step<Vec<PageEntry>> {
        let map = self.ask(|device| device.query_reasons(range, Target::Process(process)))?;
        Ok(map.entries().to_vec())
    }

    fn free(&self, device: u32) -> Step<u64> {
        Ok(self.device(device)?.query_free()?.frames())
    }

    fn move_in(&self, device: u32, process: &Process, range: AddrRange) -> Step<Moved> {
        self.migrate(device, process, range, Direction::ToDevice)
    }

    fn move_home(&self, device: u32, process: &Process, range: AddrRange) -> Step<Moved> {
        self.migrate(device, process, range, Direction::ToSystem)
    }
}

/// The text of a small file in procfs, without asking for its size first, which is never known.
fn read(path: &Path) -> Option<String> {
    let mut text = String::with_capacity(512);
    let file = File::open(path).ok()?;
    file.take(u64::MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The children of each thread of `parent`, as the kernel lists them at this moment.
pub(crate) fn children_of(parent: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{parent}/task")) else {
        return Vec::new();
    };
    threads
        .flatten()
        .filter_map(|thread| read(&thread.path().join("children")))
        .flat_map(|text| {
            text.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Fields 3, 10 and 12 of `stat`, whose second is a name that may hold anything, in parentheses;
/// fields 1 to 3 of `statm`. `None` for a process that has ended.
fn parse_signature(stat: &str, statm: &str) -> Option<Signature> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    let minor: u64 = fields.nth(6)?.parse().ok()?;
    let major: u64 = fields.nth(1)?.parse().ok()?;
    let mut pages = statm
        .split_whitespace()
        .map_while(|field| field.parse().ok());
    let (mapped, resident, shared): (u64, u64, u64) = (pages.next()?, pages.next()?, pages.next()?);
    Some(Signature {
        faults: minor + major,
        anonymous: resident.saturating_sub(shared),
        mapped,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_read_behind_any_name() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 1234 99 5 77 1 2 3 4 20 0 1 0";
        let expected = Signature {
            faults: 1239,
            anonymous: 70,
            mapped: 900,
        };
        assert_eq!(parse_signature(stat, "900 100 30 1 0 50 0"), Some(expected));
        assert_eq!(parse_signature("42 (a", "900 100 30"), None);
        assert_eq!(parse_signature(stat, "900 100"), None);
        let zombie = stat.replace(") S ", ") Z ");
        assert_eq!(parse_signature(&zombie, "0 0 0 0 0 0 0"), None);
    }

    #[test]
    fn children_of_any_thread_are_listed() {
        let child = std::thread::spawn(|| {
            std::process::Command::new("sleep")
                .arg("60")
                .spawn()
                .unwrap()
        });
        let mut child = child.join().unwrap();
        let live = Live::new(Vec::new());
        assert!(live.children(std::process::id()).contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!live.children(std::process::id()).contains(&child.id()));
    }
}
