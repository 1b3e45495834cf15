//! The kernel: its version, its configuration, what it lets in.

use super::{Check, machine::Machine};

/// Coherent device memory came with 6.0.
const OLDEST: (u32, u32) = (6, 0);

/// What the module cannot do without.
const NEEDED: [&str; 5] = [
    "MODULES",
    "ZONE_DEVICE",
    "DEVICE_MIGRATION",
    "HMM_MIRROR",
    "TRANSPARENT_HUGEPAGE",
];

pub(super) fn checks(machine: &Machine) -> Vec<Check> {
    let config = machine.kernel_config();
    let mut checks = vec![version(machine), configuration(machine, config.as_deref())];
    if let Some(config) = &config {
        checks.push(private(config));
    }
    checks.extend(init_on_alloc(machine, config.as_deref()));
    checks
}

fn version(machine: &Machine) -> Check {
    let release = machine.release();
    let (oldest, says) = (
        format!("{}.{}", OLDEST.0, OLDEST.1),
        format!("Linux {release}"),
    );
    match parse_version(&release) {
        Some(found) if found >= OLDEST => Check::ok("kernel", says),
        Some(_) => Check::fail(
            "kernel",
            format!("{says} is older than {oldest}, the first with coherent device memory"),
        )
        .fix(format!("install a kernel from {oldest} on")),
        None => Check::warn("kernel", format!("version {release:?} is not understood")),
    }
}

fn parse_version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn has(config: &str, option: &str) -> bool {
    let line = format!("CONFIG_{option}=");
    config.lines().any(|found| {
        found
            .strip_prefix(&line)
            .is_some_and(|value| value == "y" || value == "m")
    })
}

fn configuration(machine: &Machine, config: Option<&str>) -> Check {
    let Some(config) = config else {
        let path = format!("/boot/config-{}", machine.release());
        return Check::warn(
            "kernel-config",
            format!("neither {path} nor /proc/config.gz can be read"),
        );
    };
    let missing: Vec<_> = NEEDED
        .iter()
        .filter(|option| !has(config, option))
        .map(|option| format!("CONFIG_{option}"))
        .collect();
    if missing.is_empty() {
        Check::ok("kernel-config", "has all that the module needs")
    } else {
        Check::fail("kernel-config", format!("lacks {}", missing.join(", ")))
            .fix("install a kernel with these options; Debian's stock kernels have them")
    }
}

fn private(config: &str) -> Check {
    match has(config, "DEVICE_PRIVATE") {
        true => Check::ok(
            "private",
            "CONFIG_DEVICE_PRIVATE: memory that the CPU cannot reach is possible, too",
        ),
        false => Check::ok(
            "private",
            "without CONFIG_DEVICE_PRIVATE: coherent memory only",
        ),
    }
}

fn init_on_alloc(machine: &Machine, config: Option<&str>) -> Option<Check> {
    let command_line = machine.read("/proc/cmdline").unwrap_or_default();
    let told = command_line
        .split_whitespace()
        .rev()
        .find_map(|word| word.strip_prefix("init_on_alloc="));
    let is_on = match told {
        Some(value) => value == "1" || value == "on" || value == "y",
        None => has(config?, "INIT_ON_ALLOC_DEFAULT_ON"),
    };
    Some(match is_on {
        true => Check::ok("init-on-alloc", "on: each page that comes home is zeroed before it is copied to, which costs about a quarter more memory traffic")
            .fix("boot with init_on_alloc=0, if that hardening is not needed"),
        false => Check::ok("init-on-alloc", "off"),
    })
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(parse_version("6.12.117+deb12-amd64"), Some((6, 12)));
        assert_eq!(parse_version("5.10.0-30-amd64"), Some((5, 10)));
        assert!(parse_version("6.12") >= Some(OLDEST));
        assert!(parse_version("5.19") < Some(OLDEST));
        assert_eq!(parse_version("next"), None);
    }

    #[test]
    fn missing_options_are_named() {
        let machine = Machine::new("/nonexistent");
        let config = "CONFIG_MODULES=y\nCONFIG_ZONE_DEVICE=y\n# CONFIG_HMM_MIRROR is not set\n\
                      CONFIG_DEVICE_MIGRATION=y\nCONFIG_TRANSPARENT_HUGEPAGE=y\n";
        let check = configuration(&machine, Some(config));
        assert_eq!(
            (check.verdict, check.says.as_str()),
            (Verdict::Fail, "lacks CONFIG_HMM_MIRROR")
        );
        let config = config.replace("# CONFIG_HMM_MIRROR is not set", "CONFIG_HMM_MIRROR=y");
        assert_eq!(configuration(&machine, Some(&config)).verdict, Verdict::Ok);
        assert_eq!(configuration(&machine, None).verdict, Verdict::Warn);
    }
}
