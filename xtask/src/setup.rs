//! `cargo xtask setup`: the Debian packages that the other jobs need.
//!
//! Every job asks for the groups that it uses with [`ensure`], which costs one `dpkg-query` when
//! all of them are there and calls `apt-get` (through `sudo` for an ordinary user) when one is not.

mod release;

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

pub(crate) use release::kernel_release;

/// Arguments of `cargo xtask setup`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only say which packages are missing; exit status 1 if there is one.
    #[arg(long)]
    check: bool,
}

/// Packages that are needed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// To build the kernel module.
    Build,
    /// To boot the lab.
    Guest,
    /// Programs that tests and benchmarks run in the lab.
    Programs,
    /// To make Debian packages, and to check them and the manual.
    Package,
    /// To make a Debian with an init of its own.
    Boot,
    /// The kernel's source, for its own tests.
    Source,
    /// To build the debug kernel.
    DebugKernel,
    /// To check what is exported to Prometheus.
    Monitoring,
}

impl Group {
    const ALL: [Self; 7] = [
        Self::Build,
        Self::Guest,
        Self::Programs,
        Self::Package,
        Self::Source,
        Self::DebugKernel,
        Self::Monitoring,
    ];

    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Build => &[
                "make",
                "gcc",
                "linux-headers-6.12-amd64",
                "rustc-web",
                "rust-web-src",
                "libclang1-14",
            ],
            Self::Guest => &[
                "qemu-system-x86",
                "busybox-static",
                "xz-utils",
                "kmod",
                "util-linux",
                "linux-image-6.12-amd64",
            ],
            Self::Programs => &[
                "redis-server",
                "redis-tools",
                "python3-minimal",
                "python3-numpy",
                "util-linux",
            ],
            Self::Boot => &["mmdebstrap", "e2fsprogs", "util-linux"],
            Self::Package => &[
                "binutils", "dpkg-dev", "lintian", "dkms", "man-db", "mandoc",
                // Its systemd-sysusers.
                "systemd",
            ],
            Self::Source => &["linux-source-6.12", "libc6-dev", "tar", "xz-utils"],
            Self::DebugKernel => &[
                "make",
                "gcc",
                "flex",
                "bison",
                "bc",
                "libelf-dev",
                "kmod",
                "linux-source-6.12",
                "tar",
                "xz-utils",
            ],
            Self::Monitoring => &["prometheus"],
        }
    }
}

/// Runs as root with the package names as arguments. While it runs, `policy-rc.d` keeps the
/// packages from starting their services, as Debian's policy manual (section 9.3.3) provides.
const INSTALL: &str = r#"
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy || exit
fi
export DEBIAN_FRONTEND=noninteractive
apt="apt-get -q -y -o DPkg::Lock::Timeout=600"
$apt install --no-install-recommends "$@" ||
    { $apt update && $apt install --no-install-recommends "$@"; }
"#;

/// Runs the job.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.check {
        let missing = missing(&Group::ALL)?;
        for package in &missing {
            println!("{package}");
        }
        return Ok(ExitCode::from(u8::from(!missing.is_empty())));
    }
    for group in Group::ALL {
        ensure(group)?;
    }
    println!(
        "everything is installed; the lab's kernel is {}",
        kernel_release()?
    );
    Ok(ExitCode::SUCCESS)
}

/// Installs what `group` lacks; quick when that is nothing.
///
/// # Errors
///
/// When the machine is not a Debian, the user may not install packages, or `apt-get` failed.
pub(crate) fn ensure(group: Group) -> Result<()> {
    let missing = missing(&[group])?;
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    eprintln!("xtask: installing {list}");
    let mut command = as_root().with_context(|| format!("these packages are missing: {list}"))?;
    let status = command
        .args(["sh", "-c", INSTALL, "sh"])
        .args(&missing)
        .status()
        .with_context(|| format!("cannot run {:?}", command.get_program()))?;
    if !status.success() {
        bail!(
            "apt-get could not install {list} ({status}); \
             apt's sources must offer Debian 12 with its updates and security suites"
        );
    }
    Ok(())
}

/// The packages of `groups` that are not installed.
fn missing(groups: &[Group]) -> Result<Vec<&'static str>> {
    let wanted: BTreeSet<_> = groups
        .iter()
        .flat_map(|group| group.packages())
        .copied()
        .collect();
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${binary:Package} ${db:Status-Status}\n"])
        .args(&wanted)
        .output()
        .context("cannot run dpkg-query: the kernel module and the lab need Debian 12")?;
    let installed = String::from_utf8_lossy(&output.stdout);
    Ok(not_installed(&wanted, &installed))
}

/// Reads lines of "package[:arch] status".
fn not_installed(wanted: &BTreeSet<&'static str>, listing: &str) -> Vec<&'static str> {
    let installed: BTreeSet<_> = listing
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|&(_, status)| status == "installed")
        .map(|(package, _)| package.split_once(':').map_or(package, |(name, _)| name))
        .collect();
    wanted
        .iter()
        .copied()
        .filter(|package| !installed.contains(package))
        .collect()
}

/// A command line prefix that runs the rest as root.
pub(crate) fn as_root() -> Result<Command> {
    let uid = Command::new("id")
        .arg("-u")
        .output()
        .context("cannot run id")?
        .stdout;
    if uid.trim_ascii() == b"0" {
        return Ok(Command::new("env"));
    }
    if !Path::new("/usr/bin/sudo").exists() {
        bail!("it needs root or sudo; run `cargo xtask setup` once as root");
    }
    Ok(Command::new("sudo"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_or_unknown_package_is_missing() {
        let wanted = BTreeSet::from(["make", "gcc", "kmod", "libclang1-14"]);
        let listing = "make installed\nlibclang1-14:amd64 installed\ngcc config-files\n";
        assert_eq!(not_installed(&wanted, listing), ["gcc", "kmod"]);
    }
}
