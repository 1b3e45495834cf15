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

use super::build;
use crate::{
    lab::Disk,
    place::{repository, target},
    setup::{self, Group},
};

/// What the Debian has, besides its essential packages: an init, and what cohmem-dkms depends on.
const PACKAGES: &str = "systemd-sysv,udev,kmod,dkms,make,gcc,linux-image-6.12-amd64,\
    linux-headers-6.12-amd64,rustc-web,rust-web-src,libclang1-14";

/// Lines "deb ADDRESS SUITE COMPONENT" of the Debian that apt is configured with here.
const SOURCES: &str = r#"apt-get indextargets \
    --format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN) $(CREATED_BY) $(ARCHITECTURE)' |
    awk '$4 == "Debian" && $5 == "Packages" && $6 == "amd64" { print "deb", $1, $2, $3 }' | sort -u"#;

/// Installs, upgrades, reboots and purges.
///
/// # Errors
///
/// When a step fails, or the machine does not come to its end.
pub(crate) fn check() -> Result<()> {
    for group in [Group::Boot, Group::Guest] {
        setup::ensure(group)?;
    }
    let (old, new) = (build(None)?, build(Some("test2"))?);
    let directory = target()?.join("package/boot");
    let root = debian(&directory)?;
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
    bail!("the packages on a Debian with an init");
}

/// A Debian below `directory`, which is kept.
fn debian(directory: &Path) -> Result<PathBuf> {
    let root = directory.join("root");
    if root.exists() {
        return Ok(root);
    }
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    eprintln!("xtask: making a Debian 12 (once, some minutes)");
    let sources = Command::new("sh").args(["-c", SOURCES]).output();
    let list = directory.join("sources.list");
    fs::write(&list, sources.context("cannot run apt-get")?.stdout)?;
    let partial = directory.join("root.partial");
    let mut clear = setup::as_root()?;
    run(clear.arg("rm").arg("-rf").arg(&partial))?;
    let mut debootstrap = setup::as_root()?;
    debootstrap.args(["mmdebstrap", "--variant=minbase"]);
    debootstrap.args([&format!("--include={PACKAGES}"), "bookworm"]);
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
