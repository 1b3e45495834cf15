//! The memory: what is soft-reserved, who has it, and where pages go home to.

use cohmem::{
    ByteCount, ErrorKind,
    dax::{self, DaxDriver, Owner, SoftReserved},
    limits_at,
};

use super::{Check, machine::Machine};
use crate::limits;

pub(super) fn checks(machine: &Machine) -> Vec<Check> {
    let mut checks = match dax::soft_reserved() {
        Ok(found) => soft_reserved(&found),
        Err(error) if error.kind() == ErrorKind::NotPermitted => vec![
            Check::warn(
                "soft-reserved",
                "only root sees which physical memory is soft-reserved",
            )
            .fix("run `cohmem doctor` as root"),
        ],
        Err(error) => vec![Check::warn("soft-reserved", error.to_string())],
    };
    checks.extend(numa(machine));
    checks.extend(cgroup(machine));
    checks.push(other_tools());
    checks
}

fn soft_reserved(found: &[SoftReserved]) -> Vec<Check> {
    const NAME: &str = "soft-reserved";
    if found.is_empty() {
        return vec![
            Check::fail(NAME, "the firmware reserves no memory for special purpose").fix(
                "try it in the lab (cargo xtask lab), or turn 512 MiB of RAM into such memory \
                      with the boot parameter memmap=512M%0x100000000-1+0xefffffff",
            ),
        ];
    }
    let parts = found.iter().flat_map(|soft| &soft.parts);
    parts
        .map(|part| {
            let what = format!("{} ({})", part.range, part.range.length());
            match &part.owner {
                Owner::Free => Check::ok(NAME, format!("{what} is free"))
                    .fix(format!("cohmem attach {}", part.range)),
                Owner::Cohmem => Check::ok(NAME, format!("{what} is attached")),
                Owner::Dax {
                    device,
                    driver: DaxDriver::Kmem,
                } => Check::fail(
                    NAME,
                    format!("{what} is in use as System RAM: {device} is bound to kmem"),
                )
                .fix(format!(
                    "cohmem attach {device} takes it back if it can; for good: {}",
                    dax::ADVICE
                )),
                Owner::Dax {
                    device,
                    driver: DaxDriver::DeviceDax,
                } => Check::ok(NAME, format!("{what} is /dev/{device}"))
                    .fix(format!("cohmem attach {device} takes it over")),
                Owner::Dax { device, driver } => {
                    Check::warn(NAME, format!("{what}: {device} is bound to {driver}"))
                }
                Owner::Other(name) => Check::warn(NAME, format!("{what} is claimed by {name:?}")),
                _ => Check::warn(NAME, format!("{what} is claimed")),
            }
        })
        .collect()
}

fn numa(machine: &Machine) -> Option<Check> {
    let nodes = machine.read("/sys/devices/system/node/online")?;
    Some(Check::ok(
        "nodes",
        format!("nodes online: {nodes}; device pages count in the nearest one"),
    ))
}

/// The limits from the own group upwards: pages are charged there on the device and at home.
fn cgroup(machine: &Machine) -> Option<Check> {
    const NAME: &str = "cgroup";
    let groups = machine.read("/proc/self/cgroup")?;
    let limits = match limits_at(&groups, &machine.path("/")) {
        Ok(limits) => limits,
        Err(error) => return Some(Check::warn(NAME, error.to_string())),
    };
    let none = ByteCount::default();
    if let Some(tight) = limits::tightest(&limits, none, none) {
        let fix = "raise that memory.max before memory is moved to a device";
        return Some(Check::warn(NAME, tight.text()).fix(fix));
    }
    let least = limits.iter().min_by_key(|limit| limit.room(none, none));
    Some(match least {
        Some(limit) => Check::ok(
            NAME,
            format!(
                "memory.max of {} is {}, of which {} are free or reclaimable: pages count there on \
                 the device and at home, and on the device they cannot be reclaimed",
                limit.group.display(),
                limit.limit,
                limit.room(none, none)
            ),
        ),
        None => Check::ok(NAME, "no memory limit applies"),
    })
}

/// Whoever looks for device pages with these is misled.
fn other_tools() -> Check {
    Check::ok(
        "other tools",
        "of pages on a device numa_maps shows none, move_pages says ENOENT, mbind and migrate_pages \
         report success and move none, smaps and ps count them as ordinary memory; `cohmem map` \
         shows them",
    )
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};

    #[test]
    fn no_memory_is_a_failure_with_a_way_out() {
        let checks = soft_reserved(&[]);
        assert_eq!(checks[0].verdict, Verdict::Fail);
        assert!(checks[0].fix.as_deref().unwrap().contains("memmap="));
    }

    #[test]
    fn the_limit_with_least_room_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("proc/self/cgroup", "0::/a/b\n");
        put("sys/fs/cgroup/cgroup.controllers", "memory\n");
        put("sys/fs/cgroup/a/memory.max", "1073741824\n");
        put("sys/fs/cgroup/a/memory.current", "536870912\n");
        put("sys/fs/cgroup/a/b/memory.max", "max\n");
        let machine = Machine::new(directory.path());
        let check = cgroup(&machine).unwrap();
        assert_eq!(check.verdict, Verdict::Ok);
        let start = "memory.max of /a is 1 GiB, of which 512 MiB are free or reclaimable";
        assert!(check.says.starts_with(start), "{}", check.says);
        put("sys/fs/cgroup/a/memory.current", "1063256064\n");
        let check = cgroup(&machine).unwrap();
        assert_eq!(check.verdict, Verdict::Warn);
        let start = "memory.max of /a is 1 GiB, and 10 MiB of it would be left";
        assert!(check.says.starts_with(start), "{}", check.says);
    }
}
