//! The packages as they are checked and used: Debian's checker, DKMS, and dpkg in the lab.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{Packages, build};
use crate::{
    docs,
    lab::{self, Guest},
    place::{repository, target},
    setup::{self, Group},
};

/// Files that the packages must have.
const CONTENTS: [(&str, &[&str]); 2] = [
    (
        "cohmem",
        &[
            "./usr/bin/cohmem",
            "./usr/lib/systemd/system/cohmem-attach.service",
            "./usr/lib/udev/rules.d/60-cohmem.rules",
            "./usr/lib/sysusers.d/cohmem.conf",
            "./etc/modprobe.d/cohmem.conf",
            "./etc/cohmem/attach.conf",
            "./usr/share/man/man1/cohmem.1.gz",
            "./usr/share/man/man1/cohmem-attach.1.gz",
            "./usr/share/bash-completion/completions/cohmem",
            "./usr/share/zsh/vendor-completions/_cohmem",
            "./usr/share/fish/vendor_completions.d/cohmem.fish",
            "./usr/share/doc/cohmem/copyright",
        ],
    ),
    (
        "cohmem-dkms",
        &[
            "./usr/lib/cohmem-dkms/cohmem-kbuild",
            "./usr/src/cohmem-@VERSION@/dkms.conf",
            "./usr/src/cohmem-@VERSION@/kernel/core/src/lib.rs",
            "./usr/src/cohmem-@VERSION@/kernel/module/Kbuild",
            "./usr/src/cohmem-@VERSION@/crates/frames/src/lib.rs",
            "./usr/share/doc/cohmem-dkms/copyright",
        ],
    ),
];

/// The stage of `cargo xtask test`.
///
/// # Errors
///
/// When one of the checks fails.
pub(crate) fn check() -> Result<()> {
    docs::check()?;
    let old = build(None)?;
    contents(&old)?;
    lintian(&old)?;
    let module = with_dkms(&old)?;
    let new = build(Some("test2"))?;
    in_the_lab(&old, &new, &module)
}

fn contents(packages: &Packages) -> Result<()> {
    for (name, wanted) in CONTENTS {
        let deb = if name == "cohmem" {
            &packages.tool
        } else {
            &packages.dkms
        };
        let output = Command::new("dpkg-deb").arg("--contents").arg(deb).output();
        let output = output.context("cannot run dpkg-deb")?;
        let list = String::from_utf8_lossy(&output.stdout);
        let have: Vec<_> = list
            .lines()
            .filter_map(|line| line.split_whitespace().last())
            .collect();
        for path in wanted {
            let path = path.replace("@VERSION@", &packages.version);
            if !have.contains(&path.as_str()) {
                bail!("{name} lacks {path}");
            }
        }
        if list.lines().any(|line| !line.contains(" root/root ")) {
            bail!("{name} has a file that is not root's:\n{list}");
        }
    }
    Ok(())
}

/// No error and no warning.
fn lintian(packages: &Packages) -> Result<()> {
    let status = Command::new("lintian")
        .args(["--allow-root", "--fail-on", "error,warning"])
        .args([&packages.tool, &packages.dkms])
        .status()
        .context("cannot run lintian")?;
    if !status.success() {
        bail!("lintian complains");
    }
    println!("lintian has no complaint");
    Ok(())
}

/// The module, built by the machine's own DKMS from the package's files, in trees of its own.
fn with_dkms(packages: &Packages) -> Result<PathBuf> {
    setup::ensure(Group::Build)?;
    let release = setup::kernel_release()?;
    let directory = target()?.join("package/dkms");
    let mut clear = setup::as_root()?;
    run(clear.arg("rm").arg("-rf").arg(&directory))?;
    let root = directory.join("root");
    let tree = directory.join("tree");
    fs::create_dir_all(&tree)?;
    run(Command::new("dpkg-deb")
        .arg("--extract")
        .arg(&packages.dkms)
        .arg(&root))?;
    // It calls the program that is installed, which is not this one.
    let sources = root.join("usr/src");
    let conf = sources.join(format!("cohmem-{}/dkms.conf", packages.version));
    let text = fs::read_to_string(&conf).context("dkms.conf")?;
    let installed = "/usr/lib/cohmem-dkms/cohmem-kbuild";
    if !text.contains(installed) {
        bail!("dkms.conf does not call {installed}");
    }
    let ours = root.join(installed.trim_start_matches('/'));
    fs::write(&conf, text.replace(installed, &ours.display().to_string()))?;
    for action in ["add", "build"] {
        let mut dkms = setup::as_root()?;
        dkms.args(["dkms", action, "-m", "cohmem", "-v", &packages.version]);
        dkms.arg("--dkmstree").arg(&tree);
        dkms.arg("--sourcetree").arg(&sources);
        if action == "build" {
            dkms.args(["-k", &release]);
        }
        let built = run(&mut dkms);
        if built.is_err() {
            let log = tree.join(format!("cohmem/{}/build/make.log", packages.version));
            eprintln!("{}", fs::read_to_string(log).unwrap_or_default());
        }
        built?;
    }
    let built = tree.join(format!(
        "cohmem/{}/{release}/x86_64/module",
        packages.version
    ));
    let module = directory.join("cohmem.ko");
    unpack(&built, &module)?;
    println!("DKMS built the module for {release}");
    Ok(module)
}

/// The only file of `directory`, which may be compressed.
fn unpack(directory: &Path, to: &Path) -> Result<()> {
    let mut entries =
        fs::read_dir(directory).with_context(|| format!("no {}", directory.display()))?;
    let path = entries.next().context("DKMS built nothing")??.path();
    let unpacked = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => run(Command::new("xz").arg("-dc").arg(&path))?,
        Some("zst") => run(Command::new("zstd").arg("-dc").arg(&path))?,
        Some("gz") => run(Command::new("gzip").arg("-dc").arg(&path))?,
        _ => fs::read(&path)?,
    };
    fs::write(to, unpacked).with_context(|| format!("cannot write {}", to.display()))
}

/// Installs, upgrades and purges the command in the lab, whose root is the host's.
fn in_the_lab(old: &Packages, new: &Packages, module: &Path) -> Result<()> {
    let script = repository()?.join("lab/package.sh");
    let words = [&script, &old.tool, &new.tool, &module.to_owned()];
    let guest = Guest {
        command: words.map(|path| path.display().to_string()).to_vec(),
        timeout: Duration::from_secs(600),
        ..Guest::default()
    };
    let outcome = guest.run()?;
    lab::tell(&outcome);
    if !outcome.is_success() {
        bail!("dpkg in the lab: exit status {}", outcome.exit_code());
    }
    Ok(())
}

/// Runs a command and gives what it prints.
fn run(command: &mut Command) -> Result<Vec<u8>> {
    let name = format!("{command:?}");
    let output = command.output().with_context(|| name.clone())?;
    if !output.status.success() {
        bail!(
            "{name}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(output.stdout)
}
