//! The memory limit that applies to a process: of its control group and of all above it.
//!
//! Pages on a device stay charged to the group of the process, and the kernel cannot reclaim them.
//! So moving memory out makes no room under a limit; what could have been swapped before is then
//! there to stay.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    error::{Cause, Result},
    process::Process,
    units::ByteCount,
};

/// A limit of a control group (version 2) on its memory, with what is charged there.
///
/// The numbers are a snapshot, taken one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryLimit {
    /// Path of the group below the mount of the control groups.
    pub group: PathBuf,
    /// `memory.max`.
    pub limit: ByteCount,
    /// `memory.current`: what is charged, pages on devices too.
    pub current: ByteCount,
    /// Of that, what the kernel can drop without swap: the page cache and slabs.
    pub droppable: ByteCount,
    /// Anonymous memory, pages on devices too.
    pub anonymous: ByteCount,
    /// Swap that the group may still use.
    pub swap_left: ByteCount,
}

impl MemoryLimit {
    /// Bytes that can still be charged before the kernel kills, if all that can be reclaimed is.
    ///
    /// `on_device` of the group's anonymous memory is on devices, or is about to be: that part
    /// cannot go to swap. `more` will be charged besides (filled holes).
    #[must_use]
    pub fn room(&self, on_device: ByteCount, more: ByteCount) -> ByteCount {
        let can_swap = self.anonymous.get().saturating_sub(on_device.get());
        let reclaimable = self.droppable.get() + can_swap.min(self.swap_left.get());
        let held = self.current.get().saturating_sub(reclaimable) + more.get();
        ByteCount::new(self.limit.get().saturating_sub(held))
    }

    /// What should stay reclaimable or free under the limit: a sixteenth of it, but between 16 MiB
    /// and 1 GiB. With less, the kernel reclaims ever harder, and a burst of memory is fatal.
    #[must_use]
    pub fn margin(&self) -> ByteCount {
        ByteCount::new((self.limit.get() / 16).clamp(16 << 20, 1 << 30))
    }
}

/// The limits that apply to `process`: of its own group first, then upwards.
///
/// A machine without control groups of version 2, and a group that is not below the caller's own
/// view of them, has none.
///
/// # Errors
///
/// [`NoProcess`](crate::ErrorKind::NoProcess), [`Io`](crate::ErrorKind::Io): a file of a group is
/// not as the kernel makes it.
pub fn memory_limits(process: &Process) -> Result<Vec<MemoryLimit>> {
    limits_at(&process.read("cgroup")?, Path::new("/"))
}

/// As [`memory_limits`], from the text of a `/proc/PID/cgroup`, on a machine whose `/proc` and
/// `/sys` are below `root`: for checks of a machine that is not this one.
///
/// # Errors
///
/// As [`memory_limits`].
pub fn limits_at(cgroup: &str, root: &Path) -> Result<Vec<MemoryLimit>> {
    let Some(path) = cgroup.lines().find_map(|line| line.strip_prefix("0::")) else {
        return Ok(Vec::new());
    };
    let Some(mount) = mount_below(root) else {
        return Ok(Vec::new());
    };
    let swap_free = swap_free(root)?;
    let path = Path::new(path.trim_start_matches('/'));
    // A group outside of the caller's namespace is shown with these, and cannot be looked at.
    if path.components().any(|part| part.as_os_str() == "..") {
        return Ok(Vec::new());
    }
    let mut limits = Vec::new();
    let mut swap_left = swap_free;
    let groups: Vec<&Path> = path.ancestors().collect();
    // From the top, since swap is limited by each group on the way down.
    for group in groups.into_iter().rev() {
        let directory = mount.join(group);
        if let (Some(max), Some(used)) = (
            number(&directory.join("memory.swap.max"))?,
            number(&directory.join("memory.swap.current"))?,
        ) {
            swap_left = swap_left.min(max.saturating_sub(used));
        }
        let Some(limit) = number(&directory.join("memory.max"))? else {
            continue;
        };
        let current = number(&directory.join("memory.current"))?.unwrap_or(0);
        let statistics = read(&directory.join("memory.stat"))?.unwrap_or_default();
        let statistic = |name: &str| {
            let value = statistics.lines().find_map(|line| {
                let (found, value) = line.split_once(' ')?;
                (found == name).then_some(value)
            });
            value
                .and_then(|value| value.parse::<u64>().ok())
                .unwrap_or(0)
        };
        // Shared memory is counted as file, but only swap takes it.
        let cache = statistic("file").saturating_sub(statistic("shmem"));
        let anonymous = statistic("anon");
        limits.push(MemoryLimit {
            group: Path::new("/").join(group),
            limit: ByteCount::new(limit),
            current: ByteCount::new(current),
            droppable: ByteCount::new(cache + statistic("slab_reclaimable")),
            anonymous: ByteCount::new(anonymous),
            swap_left: ByteCount::new(swap_left),
        });
    }
    limits.reverse();
    Ok(limits)
}

/// Where control groups of version 2 are mounted, alone or beside those of version 1.
pub(crate) fn mount_below(root: &Path) -> Option<PathBuf> {
    ["sys/fs/cgroup", "sys/fs/cgroup/unified"]
        .into_iter()
        .map(|path| root.join(path))
        .find(|mount| mount.join("cgroup.controllers").exists())
}

fn swap_free(root: &Path) -> Result<u64> {
    let text = read(&root.join("proc/meminfo"))?.unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("SwapFree:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kib.unwrap_or(0) << 10)
}

/// The number in a file; `None` for `max`, and for a file that is not there.
fn number(path: &Path) -> Result<Option<u64>> {
    let Some(text) = read(path)? else {
        return Ok(None);
    };
    match text.trim() {
        "max" => Ok(None),
        text => match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Cause::Unreadable {
                path: path.into(),
                text: text.to_owned(),
            }
            .into()),
        },
    }
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        // The group has no memory controller, or was removed.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(libc::ENODEV) =>
        {
            Ok(None)
        }
        Err(source) => Err(Cause::File {
            doing: "read",
            path: path.into(),
            source,
        }
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let always = [
            ("sys/fs/cgroup/cgroup.controllers", "memory"),
            ("proc/meminfo", "MemTotal: 9 kB\nSwapFree:      524288 kB"),
        ];
        for (name, text) in always.iter().chain(files) {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{text}\n")).unwrap();
        }
        root
    }

    fn mib(mib: u64) -> ByteCount {
        ByteCount::new(mib * MIB)
    }

    #[test]
    fn every_limit_on_the_way_up_is_found() {
        let root = tree(&[
            ("sys/fs/cgroup/a/memory.max", "1073741824"),
            ("sys/fs/cgroup/a/memory.current", "943718400"),
            (
                "sys/fs/cgroup/a/memory.stat",
                "anon 524288000\nfile 209715200\nshmem 104857600\nslab_reclaimable 1048576",
            ),
            ("sys/fs/cgroup/a/memory.swap.max", "max"),
            ("sys/fs/cgroup/a/memory.swap.current", "0"),
            ("sys/fs/cgroup/a/b/memory.max", "max"),
            ("sys/fs/cgroup/a/b/c/memory.max", "536870912"),
            ("sys/fs/cgroup/a/b/c/memory.current", "4096"),
            ("sys/fs/cgroup/a/b/c/memory.swap.max", "104857600"),
            ("sys/fs/cgroup/a/b/c/memory.swap.current", "94371840"),
        ]);
        let limits = limits_at("12:cpu:/x\n0::/a/b/c\n", root.path()).unwrap();
        let groups: Vec<_> = limits
            .iter()
            .map(|one| one.group.to_str().unwrap())
            .collect();
        assert_eq!(groups, ["/a/b/c", "/a"]);
        assert_eq!(limits[0].limit, mib(512));
        assert_eq!(limits[0].swap_left, mib(10));
        assert_eq!(limits[1].limit, mib(1024));
        assert_eq!(limits[1].current, mib(900));
        assert_eq!(limits[1].droppable, mib(101));
        assert_eq!(limits[1].anonymous, mib(500));
        assert_eq!(limits[1].swap_left, mib(512));
    }

    #[test]
    fn a_machine_without_limits_has_none() {
        let root = tree(&[("sys/fs/cgroup/a/memory.max", "max")]);
        assert_eq!(limits_at("0::/a\n", root.path()).unwrap(), []);
        assert_eq!(limits_at("0::/../../b\n", root.path()).unwrap(), []);
        assert_eq!(limits_at("4:memory:/a\n", root.path()).unwrap(), []);
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(limits_at("0::/a\n", empty.path()).unwrap(), []);
    }

    #[test]
    fn the_hybrid_mount_is_found() {
        let root = tree(&[
            ("sys/fs/cgroup/unified/cgroup.controllers", ""),
            ("sys/fs/cgroup/unified/a/memory.max", "4096"),
        ]);
        fs::remove_file(root.path().join("sys/fs/cgroup/cgroup.controllers")).unwrap();
        assert_eq!(limits_at("0::/a\n", root.path()).unwrap().len(), 1);
    }

    #[test]
    fn a_file_that_is_no_number_is_an_error() {
        let root = tree(&[("sys/fs/cgroup/a/memory.max", "much")]);
        let error = limits_at("0::/a\n", root.path()).unwrap_err();
        assert!(error.to_string().contains("much"), "{error}");
    }

    #[test]
    fn what_is_on_a_device_is_not_reclaimable() {
        let limit = MemoryLimit {
            group: PathBuf::from("/a"),
            limit: mib(1024),
            current: mib(900),
            droppable: mib(100),
            anonymous: mib(500),
            swap_left: mib(300),
        };
        let none = ByteCount::new(0);
        assert_eq!(limit.room(none, none), mib(524));
        // Of 500 MiB that could go to swap, 200 MiB no longer can: swap for 300 MiB is still full.
        assert_eq!(limit.room(mib(200), none), mib(524));
        assert_eq!(limit.room(mib(400), none), mib(324));
        assert_eq!(limit.room(mib(400), mib(24)), mib(300));
        assert_eq!(limit.room(mib(9999), mib(9999)), none);
        assert_eq!(limit.margin(), mib(64));
    }

    #[test]
    fn the_margin_has_bounds() {
        let limit = |mib_limit| MemoryLimit {
            group: PathBuf::new(),
            limit: mib(mib_limit),
            current: mib(0),
            droppable: mib(0),
            anonymous: mib(0),
            swap_left: mib(0),
        };
        assert_eq!(limit(32).margin(), mib(16));
        assert_eq!(limit(1 << 20).margin(), mib(1024));
    }

    #[test]
    fn this_process_can_be_asked() {
        let process = Process::open(std::process::id()).unwrap();
        for limit in memory_limits(&process).unwrap() {
            assert!(limit.group.is_absolute());
        }
    }
}
