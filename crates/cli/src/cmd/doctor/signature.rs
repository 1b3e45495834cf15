//! Whether the kernel loads a module that its distributor has not signed, and how to make it.
//!
//! The firmware's Secure Boot makes distributions' kernels lock themselves down, and from then on they
//! load only modules signed with a key that they trust: of the distributor, or enrolled by the owner of
//! the machine (MOK). DKMS signs what it builds with a key that it has made itself.

use super::{Check, machine::Machine};

/// State of Secure Boot, as the firmware tells it.
const SECURE_BOOT: &str =
    "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// The keys that the owner has enrolled, as shim passes them on.
const ENROLLED: &str = "/sys/firmware/efi/efivars/MokListRT-605dab50-e046-4300-abb6-3dd810dd8b23";

/// Bytes of attributes before each variable's value.
const ATTRIBUTES: usize = 4;

/// The certificate of the key that DKMS signs with.
const DKMS_CERTIFICATE: &str = "/var/lib/dkms/mok.pub";

const ENROL: &str = "mokutil --import /var/lib/dkms/mok.pub asks for a password; reboot, choose Enroll MOK \
                     in the firmware's menu, give the password; then modprobe cohmem";

pub(super) fn checks(machine: &Machine) -> Vec<Check> {
    let enforcing = enforcing(machine);
    vec![secure_boot(machine), signatures(machine, enforcing)]
}

fn secure_boot(machine: &Machine) -> Check {
    const NAME: &str = "secure-boot";
    if !machine.exists("/sys/firmware/efi") {
        return Check::ok(NAME, "not in use: no EFI firmware");
    }
    match variable(machine, SECURE_BOOT).as_deref() {
        Some([0]) => Check::ok(NAME, "off"),
        Some([1]) => Check::ok(NAME, "on"),
        _ => Check::ok(NAME, "unknown: the firmware's variable cannot be read"),
    }
}

/// What makes the kernel refuse modules without a signature that it trusts, if anything does.
fn enforcing(machine: &Machine) -> Option<String> {
    let modes = machine.read("/sys/kernel/security/lockdown");
    let active = modes.as_deref().and_then(active);
    if let Some(mode) = active
        && mode != "none"
    {
        return Some(format!("the kernel is locked down ({mode})"));
    }
    let parameter = machine.read("/sys/module/module/parameters/sig_enforce")?;
    (parameter == "Y").then(|| "module.sig_enforce is on".to_owned())
}

/// The mode in brackets, as in "none [integrity] confidentiality".
fn active(modes: &str) -> Option<&str> {
    modes.split('[').nth(1)?.split(']').next()
}

fn signatures(machine: &Machine, enforcing: Option<String>) -> Check {
    const NAME: &str = "lockdown";
    let Some(why) = enforcing else {
        return Check::ok(NAME, "none: modules need no signature");
    };
    let says = format!("{why}: it loads only modules with a signature that it trusts");
    // A loaded module has passed.
    if machine.exists("/sys/class/cohmem") {
        return Check::ok(NAME, says);
    }
    let Some(certificate) = machine.read_bytes(DKMS_CERTIFICATE) else {
        return Check::warn(NAME, says).fix(format!(
            "install cohmem-dkms, or sign cohmem.ko with a key of your own; for the key of DKMS: {ENROL}"
        ));
    };
    if is_enrolled(machine, &certificate) {
        return Check::ok(
            NAME,
            format!("{says}, and that of DKMS is among them: modprobe cohmem"),
        );
    }
    Check::warn(NAME, format!("{says}, and that of DKMS is not enrolled")).fix(ENROL)
}

/// Whether the list holds the certificate, which it does byte for byte.
fn is_enrolled(machine: &Machine, certificate: &[u8]) -> bool {
    !certificate.is_empty()
        && variable(machine, ENROLLED).is_some_and(|list| {
            list.windows(certificate.len())
                .any(|part| part == certificate)
        })
}

/// The value of one of the firmware's variables.
fn variable(machine: &Machine, path: &str) -> Option<Vec<u8>> {
    Some(machine.read_bytes(path)?.get(ATTRIBUTES..)?.to_vec())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{super::Verdict, *};

    /// A machine with these files, below a directory that is removed with it.
    fn machine(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Machine) {
        let directory = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = directory.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let machine = Machine::new(directory.path());
        (directory, machine)
    }

    const LOCKED: (&str, &[u8]) = (
        "/sys/kernel/security/lockdown",
        b"none [integrity] confidentiality\n",
    );

    #[test]
    fn a_machine_without_any_of_it_takes_every_module() {
        let (_directory, machine) = machine(&[(
            "/sys/kernel/security/lockdown",
            b"[none] integrity confidentiality\n",
        )]);
        let [boot, lockdown] = checks(&machine).try_into().unwrap();
        assert_eq!(boot.says, "not in use: no EFI firmware");
        assert_eq!(
            (lockdown.verdict, lockdown.says.as_str()),
            (Verdict::Ok, "none: modules need no signature")
        );
    }

    #[test]
    fn secure_boot_is_read_behind_the_attributes() {
        for (value, says) in [(0, "off"), (1, "on")] {
            let (_directory, machine) = machine(&[(SECURE_BOOT, &[6, 0, 0, 0, value])]);
            assert_eq!(secure_boot(&machine).says, says);
        }
        let (_directory, machine) = machine(&[(SECURE_BOOT, &[6, 0])]);
        assert!(secure_boot(&machine).says.starts_with("unknown"));
    }

    #[test]
    fn a_locked_kernel_wants_the_key_enrolled() {
        let (_directory, machine) = machine(&[LOCKED, (DKMS_CERTIFICATE, b"certificate")]);
        let check = signatures(&machine, enforcing(&machine));
        assert_eq!(check.verdict, Verdict::Warn);
        assert!(check.says.contains("integrity"), "{}", check.says);
        assert!(check.fix.unwrap().starts_with("mokutil --import"));
    }

    #[test]
    fn a_key_among_the_enrolled_ones_is_enough() {
        let list = b"\x06\0\0\0 list of other keys certificate and more";
        let (_directory, machine) =
            machine(&[LOCKED, (DKMS_CERTIFICATE, b"certificate"), (ENROLLED, list)]);
        let check = signatures(&machine, enforcing(&machine));
        assert_eq!(check.verdict, Verdict::Ok, "{}", check.says);
        assert!(check.says.ends_with("modprobe cohmem"));
    }

    #[test]
    fn without_dkms_the_way_to_a_key_is_told() {
        let (_directory, machine) =
            machine(&[("/sys/module/module/parameters/sig_enforce", b"Y\n")]);
        let check = signatures(&machine, enforcing(&machine));
        assert_eq!(check.verdict, Verdict::Warn);
        assert!(check.says.contains("sig_enforce"), "{}", check.says);
        assert!(check.fix.unwrap().contains("install cohmem-dkms"));
    }

    #[test]
    fn a_module_that_is_loaded_has_passed() {
        let (_directory, machine) = machine(&[LOCKED, ("/sys/class/cohmem/x", b"")]);
        let check = signatures(&machine, enforcing(&machine));
        assert_eq!(check.verdict, Verdict::Ok);
    }
}
