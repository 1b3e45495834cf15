//! The debug kernel: Debian's source of the stock kernel, built with the checks that a stock kernel lacks.
//!
//! Its options are in `lab/kernel/debug.config`. Source and build are in the cache, a build for each
//! source version and set of options; one that was interrupted goes on where it stopped.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context as _, Result, bail};

use super::{Kernel, cache};
use crate::{
    place,
    setup::{self, Group},
};

/// The package with the source.
const PACKAGE: &str = "linux-source-6.12";

/// Its archive.
const ARCHIVE: &str = "/usr/src/linux-source-6.12.tar.xz";

/// Options beyond `allnoconfig`, in the tree.
const OPTIONS: &str = "lab/kernel/debug.config";

/// The kernel, built if it is not in the cache. Waits while another process builds it.
///
/// # Errors
///
/// When packages cannot be installed, the source does not know an option, or the build fails; what was
/// built until then stays and is used by the next try.
pub(super) fn debug() -> Result<Kernel> {
    setup::ensure(Group::DebugKernel)?;
    let directory = cache()?.join("debug");
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    // Released when the file is closed.
    let lock = fs::File::create(directory.join("lock")).context("cannot make the lock file")?;
    lock.lock().context("cannot lock the cache")?;
    let options_path = place::repository()?.join(OPTIONS);
    let options = fs::read_to_string(&options_path)
        .with_context(|| format!("cannot read {}", options_path.display()))?;
    let version = said(Command::new("dpkg-query").args(["-W", "-f", "${Version}", PACKAGE]))?;
    let compiler = said(Command::new("gcc").arg("--version"))?;
    let key = digest(&[&version, &compiler, &options]);
    let kernel = directory.join(format!("{version}-{key}"));
    // Written last: a kernel without it is not whole.
    let whole = kernel.join("release");
    if !whole.exists() {
        let source = unpacked(&directory, &version)?;
        build(&source, &kernel, &options_path, &options)?;
        let release = fs::read_to_string(kernel.join("build/include/config/kernel.release"))
            .context("the build has no release")?;
        let partial = kernel.join("release.partial");
        fs::write(&partial, release.trim())
            .and_then(|()| fs::rename(&partial, &whole))
            .with_context(|| format!("cannot write {}", whole.display()))?;
    }
    let release =
        fs::read_to_string(&whole).with_context(|| format!("cannot read {}", whole.display()))?;
    Ok(kernel_at(&kernel, release))
}

fn kernel_at(directory: &Path, release: String) -> Kernel {
    let build = directory.join("build");
    Kernel {
        image: build.join("arch/x86/boot/bzImage"),
        modules: directory.join("lib/modules").join(&release),
        build,
        release,
    }
}

/// Guards against stale results, not against people: 64 bits suffice.
fn digest(texts: &[&str]) -> String {
    let mut hasher = DefaultHasher::new();
    texts.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// The source, unpacked if it is not there.
fn unpacked(directory: &Path, version: &str) -> Result<PathBuf> {
    let source = directory.join(format!("source-{version}"));
    if source.exists() {
        return Ok(source);
    }
    eprintln!("xtask: unpacking {ARCHIVE} (1.6 GB)");
    // Renamed into place when it is whole.
    let partial = directory.join("source.partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)
            .with_context(|| format!("cannot remove {}", partial.display()))?;
    }
    fs::create_dir(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(ARCHIVE).arg("-C").arg(&partial);
    run(tar.arg("--strip-components=1"))?;
    fs::rename(&partial, &source).with_context(|| format!("cannot make {}", source.display()))?;
    Ok(source)
}

/// Builds kernel and modules below `kernel`, with kbuild's own memory of what is done.
fn build(source: &Path, kernel: &Path, options_path: &Path, options: &str) -> Result<()> {
    let nr_jobs = thread::available_parallelism().map_or(1, usize::from);
    eprintln!("xtask: building the debug kernel (once, 13 minutes on 2 processors)");
    let out = kernel.join("build");
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let make = || {
        let mut make = Command::new("make");
        make.arg("-s").arg("-C").arg(source);
        make.arg(format!("O={}", out.display()));
        make.arg(format!("-j{nr_jobs}"));
        // A make that runs this program must not share its jobs with a build of minutes.
        make.env_remove("MAKEFLAGS").env_remove("MFLAGS");
        make
    };
    run(make()
        .arg(format!("KCONFIG_ALLCONFIG={}", options_path.display()))
        .arg("allnoconfig"))?;
    let config = fs::read_to_string(out.join(".config")).context("kconfig wrote nothing")?;
    let refused = refused(options, &config);
    if !refused.is_empty() {
        bail!(
            "this source does not take these of {OPTIONS}: {}",
            refused.join(", ")
        );
    }
    run(make().args(["bzImage", "modules"]))?;
    run(make()
        .arg("modules_install")
        .arg(format!("INSTALL_MOD_PATH={}", kernel.display()))
        // Not on every user's path.
        .arg("DEPMOD=/sbin/depmod"))
}

/// Options that are not set as wanted: kconfig says nothing of one that is unknown or lacks another.
fn refused<'o>(wanted: &'o str, config: &str) -> Vec<&'o str> {
    wanted
        .lines()
        .filter(|line| line.starts_with("CONFIG_"))
        .filter(|&line| !config.lines().any(|set| set == line))
        .collect()
}

fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs a command that prints for people; its output goes to standard error.
fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdout(std::io::stderr())
        .status()
        .with_context(|| format!("{command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_did_not_take_is_named() {
        let wanted = "# base\nCONFIG_A=y\nCONFIG_B=m\n\nCONFIG_C=16\n";
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=160\n";
        assert_eq!(refused(wanted, config), ["CONFIG_B=m", "CONFIG_C=16"]);
        assert!(refused("CONFIG_A=y\n", config).is_empty());
    }

    #[test]
    fn other_options_are_another_kernel() {
        assert_ne!(digest(&["6.12", "A=y"]), digest(&["6.12", "A=m"]));
        assert_ne!(digest(&["6.12A", "=y"]), digest(&["6.12", "A=y"]));
    }
}
