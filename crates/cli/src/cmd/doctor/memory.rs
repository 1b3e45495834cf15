//! The memory: what is soft-reserved, who has it, and where pages go home to.

use cohmem::{
    ByteCount, ErrorKind,
    dax::{self, DaxDriver, Owner, SoftReserved},
};

use super::{Check, machine::Machine};

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

/// The lowest limit from the own group upwards: pages that come home are charged there.
fn cgroup(machine: &Machine) -> Option<Check> {
    let groups = machine.read("/proc/self/cgroup")?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mut group = path.to_owned();
    let mut lowest: Option<(u64, String)> = None;
    loop {
        let limit = machine.read(&format!("/sys/fs/cgroup{group}/memory.max"));
        if let Some(limit) = limit.and_then(|text| text.parse().ok())
            && lowest.as_ref().is_none_or(|(found, _)| limit < *found)
        {
            lowest = Some((limit, group.clone()));
        }
        match group.rsplit_once('/') {
            Some((parent, _)) => group.truncate(parent.len()),
            None => break,
        }
    }
    Some(match lowest {
        Some((limit, group)) => Check::ok(
            "cgroup",
            format!(
                "memory.max of {group} is {}: pages count there on the device and at home",
                ByteCount::new(limit)
            ),
        ),
        None => Check::ok("cgroup", "no memory limit applies"),
    })
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
    fn the_lowest_limit_on_the_way_up_applies() {
        let directory = std::env::temp_dir().join(format!("cohmem-doctor-{}", std::process::id()));
        let put = |path: &str, text: &str| {
            let path = directory.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("proc/self/cgroup", "0::/a/b\n");
        put("sys/fs/cgroup/a/memory.max", "1073741824\n");
        put("sys/fs/cgroup/a/b/memory.max", "max\n");
        let check = cgroup(&Machine::new(&directory)).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        assert!(
            check.says.starts_with("memory.max of /a is 1 GiB"),
            "{}",
            check.says
        );
    }
}
