//! Memory limits that moving pages to a device runs into.
//!
//! A page on a device is charged to its process's control group as before, but can neither be
//! reclaimed nor swapped: moving makes no room, and what is left to reclaim under the limit is less.

use cohmem::{ByteCount, Device, ErrorKind, MemoryLimit, Place, Process, memory_limits};

use crate::exit::warn;

/// What other tools make of pages on a device; for the help texts.
pub(crate) const OTHER_TOOLS: &str = "\
Pages on a device stay charged to memory.max of their control group and cannot be reclaimed or
swapped, so moving memory there makes no room under a limit; a warning says so when too little would
be left. Other tools know such pages badly: /proc/PID/numa_maps leaves them out, move_pages(2) says
ENOENT for them, mbind(2) and migrate_pages(2) report success and move none; smaps, ps and top count
them as ordinary memory. `cohmem map` shows where they are.";

/// A limit that leaves too little.
#[derive(Debug)]
pub(crate) struct Tight<'a> {
    limit: &'a MemoryLimit,
    room: ByteCount,
}

impl Tight<'_> {
    /// One sentence with the values.
    pub(crate) fn text(&self) -> String {
        format!(
            "memory.max of {} is {}, and {} of it would be left free or reclaimable, less than the \
             margin of {}: pages on a device stay charged there and cannot be reclaimed, so moving \
             them makes no room",
            self.limit.group.display(),
            self.limit.limit,
            self.room,
            self.limit.margin()
        )
    }
}

/// The limit with least room beyond its margin, if it has less than that, when `on_device` of the
/// memory that is charged there is on a device and `more` is charged besides.
pub(crate) fn tightest(
    limits: &[MemoryLimit],
    on_device: ByteCount,
    more: ByteCount,
) -> Option<Tight<'_>> {
    limits
        .iter()
        .map(|limit| Tight {
            limit,
            room: limit.room(on_device, more),
        })
        .filter(|tight| tight.room < tight.limit.margin())
        .min_by_key(|tight| (tight.room, tight.limit.limit))
}

/// Warns on the standard error if so much is too much for a limit of the process.
pub(crate) fn warn_before(process: &Process, on_device: ByteCount, more: ByteCount) {
    let limits = match memory_limits(process) {
        Ok(limits) => limits,
        // Whatever is done next will say so.
        Err(error) if error.kind() == ErrorKind::NoProcess => return,
        Err(error) => return warn("its memory limit is not known", &error),
    };
    if let Some(tight) = tightest(&limits, on_device, more) {
        eprintln!("warning: {}", tight.text());
        eprintln!("help: raise that limit, or move less; without room the kernel kills");
    }
}

/// Warns once, when so little is left under a memory limit of this process that a round may be too much
/// for it.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    has_warned: bool,
}

impl Watch {
    /// `on_device` is what may be on devices after the next round.
    pub(crate) fn look(&mut self, on_device: ByteCount) {
        if self.has_warned {
            return;
        }
        let found = Process::open(std::process::id()).and_then(|own| memory_limits(&own));
        match found {
            Ok(found) => {
                if let Some(tight) = tightest(&found, on_device, ByteCount::default()) {
                    eprintln!("cohmem run: warning: {}", tight.text());
                    self.has_warned = true;
                }
            }
            Err(error) => {
                warn("the memory limit is not known", &error);
                self.has_warned = true;
            }
        }
    }
}

/// Warns before a migration of `ranges` to a device, which are filled where they are untouched if
/// `fills`.
pub(crate) fn warn_before_migration(
    process: &Process,
    device: &Device,
    ranges: &[cohmem::AddrRange],
    fills: Fill,
) -> cohmem::Result<()> {
    let (mut there, mut moving, mut present) = (0, 0, 0);
    process.for_each_extent(Some(device), |extent| {
        if matches!(extent.place, Place::Device(_)) {
            there += extent.range.nr_pages();
        }
        let parts = ranges
            .iter()
            .filter_map(|range| range.intersection(extent.range));
        let pages: u64 = parts.map(cohmem::AddrRange::nr_pages).sum();
        if extent.place == Place::System {
            moving += pages;
        }
        if extent.place != Place::Zero {
            present += pages;
        }
    })?;
    let free = device.query_free()?.frames();
    let moving = moving.min(free);
    let filled = match fills {
        Fill::Untouched => {
            let all: u64 = ranges.iter().map(|range| range.nr_pages()).sum();
            all.saturating_sub(present).min(free - moving)
        }
        Fill::Nothing => 0,
    };
    warn_before(
        process,
        ByteCount::of_frames(there + moving),
        ByteCount::of_frames(filled),
    );
    Ok(())
}

/// What of a range is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    Nothing,
    Untouched,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A machine whose group `/job` may have 1 GiB, of which 900 MiB are used, and `/job/step` less.
    fn limits() -> Vec<MemoryLimit> {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("sys/fs/cgroup/cgroup.controllers", "memory"),
            ("proc/meminfo", "SwapFree: 2097152 kB"),
            ("sys/fs/cgroup/job/memory.max", "1073741824"),
            ("sys/fs/cgroup/job/memory.current", "943718400"),
            (
                "sys/fs/cgroup/job/memory.stat",
                "anon 838860800\nfile 104857600",
            ),
            ("sys/fs/cgroup/job/step/memory.max", "943718400"),
            ("sys/fs/cgroup/job/step/memory.current", "104857600"),
            (
                "sys/fs/cgroup/job/step/memory.stat",
                "anon 104857600\nfile 0",
            ),
        ] {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        cohmem::limits_at("0::/job/step\n", Path::new(root.path())).unwrap()
    }

    fn mib(mib: u64) -> ByteCount {
        ByteCount::new(mib << 20)
    }

    #[test]
    fn a_request_within_the_margin_is_no_matter() {
        assert!(tightest(&limits(), mib(0), mib(0)).is_none());
        assert!(tightest(&limits(), mib(800), mib(0)).is_none());
    }

    #[test]
    fn the_limit_that_is_hit_first_is_named() {
        let limits = limits();
        // 800 MiB of /job can no longer go to swap; then 224 MiB are left there.
        let tight = tightest(&limits, mib(800), mib(200)).unwrap();
        assert_eq!(
            tight.text(),
            "memory.max of /job is 1 GiB, and 24 MiB of it would be left free or reclaimable, less \
             than the margin of 64 MiB: pages on a device stay charged there and cannot be \
             reclaimed, so moving them makes no room"
        );
        let tight = tightest(&limits, mib(100), mib(800)).unwrap();
        assert_eq!(tight.limit.group, Path::new("/job/step"));
        assert_eq!(tight.room, mib(0));
    }
}
