//! The driver: loaded, of our version, and open to this user.

use cohmem::{Control, Device, ErrorKind, discover, is_driver_loaded};

use rustix::process::geteuid;

use super::{Check, machine::Machine};

pub(super) fn checks(machine: &Machine) -> Vec<Check> {
    if !is_driver_loaded() {
        return vec![
            Check::fail("module", "the cohmem module is not loaded").fix("modprobe cohmem"),
        ];
    }
    let mut checks = vec![Check::ok("module", "loaded"), control()];
    checks.extend(devices(machine));
    checks
}

fn control() -> Check {
    match Control::open() {
        Ok(_) if geteuid().is_root() => Check::ok("control", "this user can attach and detach"),
        Ok(_) => Check::warn(
            "control",
            "only root (CAP_SYS_ADMIN) can attach, detach and evict",
        ),
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            Check::fail("control", error.to_string())
                .fix("install the command and the module of one version")
        }
        Err(error) if error.kind() == ErrorKind::NotPermitted => Check::warn(
            "control",
            "/dev/cohmem is for root: this user can neither attach nor detach",
        ),
        Err(error) => Check::fail("control", error.to_string()),
    }
}

fn devices(machine: &Machine) -> Vec<Check> {
    let devices = match discover() {
        Ok(devices) => devices,
        Err(error) => return vec![Check::fail("device", error.to_string())],
    };
    let check = |number: u32| match Device::open(number) {
        Ok(_) => Check::ok("device", format!("/dev/cohmem{number} can be used")),
        Err(error) if error.kind() == ErrorKind::NotPermitted => {
            let user = std::env::var("USER").unwrap_or_else(|_| "USER".to_owned());
            let fix = match machine
                .read("/etc/group")
                .is_some_and(|text| text.contains("\ncohmem:"))
            {
                true => format!("usermod -aG cohmem {user}"),
                false => {
                    "install the udev rule, which gives the device to the group cohmem".to_owned()
                }
            };
            Check::warn(
                "device",
                format!("/dev/cohmem{number} is not open to this user"),
            )
            .fix(fix)
        }
        Err(error) => Check::fail("device", error.to_string()),
    };
    devices.iter().map(|device| check(device.number)).collect()
}
