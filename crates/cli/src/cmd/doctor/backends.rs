//! Which backend a program would get, and what each needs: the driver's needs are in the other files.

use std::fs;

use cohmem::{Backend, Capabilities, ErrorKind, Level, PinNeed, Pool, Survey, survey};

use super::{Check, machine::Machine};

pub(super) fn checks(machine: &Machine) -> Vec<Check> {
    let mut checks = vec![auto()];
    checks.extend(levels(&survey()));
    checks.extend(dax(machine));
    checks.extend(huge_pages(machine));
    checks.push(numa());
    checks
}

/// What a program gets that does not choose.
fn auto() -> Check {
    match Pool::open(&Backend::Auto) {
        Ok(pool) => Check::ok(
            "auto",
            format!("{}; {}", pool.selection(), pins(&pool.capabilities())),
        ),
        Err(error) => Check::fail("auto", error.to_string()),
    }
}

const fn pins(capabilities: &Capabilities) -> &'static str {
    match capabilities.pin_need {
        PinNeed::Never => "I/O that pins pages needs no Region::pin",
        PinNeed::OnDevice => "I/O that pins pages on the device needs Region::pin",
        _ => "I/O that pins pages needs Region::pin",
    }
}

fn levels(survey: &Survey) -> Vec<Check> {
    Level::ALL
        .into_iter()
        .map(|level| match survey.check(level) {
            Ok(()) => Check::ok("engine", format!("{level}: {}", gives(level))),
            Err(obstacle) => {
                Check::warn("engine", format!("no {level}: {obstacle}")).fix(obstacle.advice())
            }
        })
        .collect()
}

const fn gives(level: Level) -> &'static str {
    match level {
        Level::Full => "system calls wait for pages that move; private memory, too",
        Level::UserMode => "a system call that writes to a page that moves may fail with EFAULT",
        Level::Signal => {
            "the same, and a thread that blocks SIGSEGV must not write to memory that moves"
        }
    }
}

/// Real device memory for the engine.
fn dax(machine: &Machine) -> Vec<Check> {
    const NAME: &str = "engine-dax";
    let Ok(entries) = fs::read_dir(machine.path("/dev")) else {
        return Vec::new();
    };
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("dax") && name.contains('.'))
        .collect();
    names.sort_unstable();
    if names.is_empty() {
        return vec![Check::ok(
            NAME,
            "there is no /dev/daxX.Y: the engine's device memory is emulated",
        )];
    }
    let check = |name: String| {
        let path = machine.path(&format!("/dev/{name}"));
        match fs::File::options().read(true).write(true).open(path) {
            Ok(_) => Check::ok(NAME, format!("/dev/{name} can be used"))
                .fix(format!("--backend engine:/dev/{name}")),
            Err(error) => Check::warn(NAME, format!("/dev/{name}: {error}"))
                .fix(format!("as root: setfacl -m u:USER:rw /dev/{name}")),
        }
    };
    names.into_iter().map(check).collect()
}

/// Without huge pages, granules of 2 MiB are slower.
fn huge_pages(machine: &Machine) -> Option<Check> {
    const PATH: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
    let modes = machine.read(PATH)?;
    Some(match modes.contains("[never]") {
        false => Check::ok(
            "engine-huge",
            "granules of 2 MiB use huge pages in system memory",
        ),
        true => Check::warn(
            "engine-huge",
            "transparent huge pages are off: granules of 2 MiB move slower",
        )
        .fix(format!("as root: echo madvise >{PATH}")),
    })
}

fn numa() -> Check {
    match Pool::open(&Backend::Numa(None)) {
        Ok(pool) => Check::ok(
            "numa",
            format!(
                "{}, which is everybody's: with --backend numa",
                pool.selection().what()
            ),
        ),
        Err(error) if error.kind() == ErrorKind::Ambiguous => {
            Check::ok("numa", error.to_string())
        }
        Err(error) => Check::warn("numa", error.to_string()).fix(
            "where device memory is /dev/daxX.Y: daxctl reconfigure-device --mode=system-ram daxX.Y",
        ),
    }
}

#[cfg(test)]
mod tests {
    use cohmem::Obstacle;

    use super::{super::Verdict, *};

    #[test]
    fn an_obstacle_is_told_with_the_way_out() {
        let checks = levels(&Survey {
            full: Err(Obstacle::NotPermitted),
            user_mode: Ok(()),
        });
        assert_eq!(checks[0].verdict, Verdict::Warn);
        let fix = checks[0].fix.as_deref().unwrap();
        assert!(fix.contains("vm.unprivileged_userfaultfd=1"), "{fix}");
        assert_eq!(checks[1].verdict, Verdict::Ok);
        assert!(checks[1].says.contains("EFAULT"));
    }

    #[test]
    fn a_device_that_cannot_be_opened_is_told_with_the_way_out() {
        let root = std::env::temp_dir().join(format!("cohmem-doctor-dax-{}", std::process::id()));
        let dev = root.join("dev");
        fs::create_dir_all(dev.join("dax0.0")).unwrap();
        fs::write(dev.join("dax1.0"), "").unwrap();
        let checks = dax(&Machine::new(&root));
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(checks.len(), 2);
        assert!(checks[0].fix.as_deref().unwrap().contains("dax0.0"));
        assert_eq!(
            checks[0].verdict,
            Verdict::Warn,
            "a directory cannot be opened so"
        );
        assert_eq!(
            checks[1].fix.as_deref(),
            Some("--backend engine:/dev/dax1.0")
        );
    }

    #[test]
    fn some_backend_can_always_be_had() {
        let check = auto();
        assert_eq!(check.verdict, Verdict::Ok, "{}", check.says);
    }
}
