//! The packages on a Debian with an init, in a virtual machine that reboots.
//!
//! DKMS builds the module, twice, in a chroot: under emulation the compiler would take many minutes. All
//! else happens in the machine, see `lab/boot`. It is not a part of CI, since it downloads and unpacks a
//! whole Debian the first time.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{Packages, build};
use crate::{
    lab::Disk,
    place::{repository, target},
    setup::{self, Group},
};

/// What each Debian has, besides its essential packages: an init, and of what cohmem-dkms depends on what
/// has the same name in all of them.
const PACKAGES: &str = "systemd-sysv,udev,kmod,dkms,make,gcc,rustc-web,rust-web-src";

/// A release of Debian.
struct Release {
    name: &'static str,
    /// More packages: the kernel, its headers, what else cohmem-dkms depends on.
    packages: &'static str,
}

const RELEASES: [Release; 2] = [
    Release {
        name: HERE,
        packages: "linux-image-6.12-amd64,linux-headers-6.12-amd64,libclang1-14",
    },
    Release {
        name: "trixie",
        packages: "linux-image-amd64,linux-headers-amd64,libclang1-19",
    },
];

/// The release that the lab needs.
const HERE: &str = "bookworm";

/// Lines "deb ADDRESS SUITE COMPONENT" of the Debian that apt is configured with here; the suites of
/// another release have its name instead.
const SOURCES: &str = r#"apt-get indextargets \
    --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN) $(CREATED_BY) $(ARCHITECTURE)' |
    awk '$4 == "Debian" && $5 == "Packages" && $6 == "amd64" { print "deb", $1, $2, $3 }' | sort -u"#;

/// Installs, upgrades, reboots and purges, on each release whose name contains `filter`.
///
/// # Errors
///
/// When no release has such a name, a step fails, or the machine does not come to its end.
pub(crate) fn check(filter: Option<&str>) -> Result<()> {
    for group in [Group::Boot, Group::Guest] {
        setup::ensure(group)?;
    }
    let filter = filter.unwrap_or_default();
    let wanted = |release: &&Release| release.name.contains(filter);
    if !RELEASES.iter().any(|release| wanted(&release)) {
        bail!("no release of Debian that is tested has a name with {filter}");
    }
    let (old, new) = (build(None)?, build(Some("test2"))?);
    for release in RELEASES.iter().filter(wanted) {
        println!("packages on {}", release.name);
        check_on(release, &old, &new)?;
    }
    Ok(())
}

fn check_on(release: &Release, old: &Packages, new: &Packages) -> Result<()> {
    let directory = target()?.join("package/boot").join(release.name);
    let root = debian(release, &directory)?;
    let work = directory.join("work");
    let image = directory.join("image");
    let mut prepare = setup::as_root()?;
    prepare.args(["unshare", "--mount", "sh"]);
    prepare.arg(repository()?.join("lab/boot/prepare.sh"));
    prepare.args([&root, &work]);
    prepare.args([&old.dkms, &new.dkms, &old.tool, &new.tool, &image]);
    run(&mut prepare)?;
    let disk = Disk {
        image,
        kernel: only(&root.join("boot"), "vmlinuz-")?,
        initramfs: only(&root.join("boot"), "initrd.img-")?,
        timeout: Duration::from_secs(1800),
    };
    let said = disk.run()?;
    println!("{said}");
    if said.lines().any(|line| line == "verdict: ok") {
        return Ok(());
    }
    bail!("the packages on {} with an init", release.name);
}

/// A Debian below `directory`, which is kept.
fn debian(release: &Release, directory: &Path) -> Result<PathBuf> {
    let root = directory.join("root");
    if root.exists() {
        return Ok(root);
    }
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    eprintln!(
        "xtask: making a Debian {} (once, some minutes)",
        release.name
    );
    let sources = Command::new("sh").args(["-c", SOURCES]).output();
    let sources = sources.context("cannot run apt-get")?.stdout;
    let list = directory.join("sources.list");
    let sources = String::from_utf8_lossy(&sources).replace(HERE, release.name);
    fs::write(&list, sources)?;
    let partial = directory.join("root.partial");
    let mut clear = setup::as_root()?;
    run(clear.arg("rm").arg("-rf").arg(&partial))?;
    let mut debootstrap = setup::as_root()?;
    debootstrap.args(["mmdebstrap", "--variant=minbase"]);
    // The clock of a machine need not be right.
    debootstrap.arg("--aptopt=Acquire::Check-Valid-Until \"false\"");
    debootstrap.arg(format!("--include={PACKAGES},{}", release.packages));
    debootstrap.arg(release.name);
    run(debootstrap.arg(&partial).arg(&list))?;
    let mut rename = setup::as_root()?;
    run(rename.arg("mv").arg(&partial).arg(&root))?;
    Ok(root)
}

/// The file in `directory` whose name begins so: there is one kernel.
fn only(directory: &Path, begin: &str) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in
        fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?
    {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(begin) {
            found.push(entry.path());
        }
    }
    let [only] = &found[..] else {
        bail!("{} has {} files {begin}*", directory.display(), found.len());
    };
    Ok(only.clone())
}

fn run(command: &mut Command) -> Result<()> {
    let name = format!("{command:?}");
    let status = command.status().with_context(|| name.clone())?;
    if !status.success() {
        bail!("{name}: {status}");
    }
    Ok(())
}
