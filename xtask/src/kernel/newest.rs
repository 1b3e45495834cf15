//! The newest kernel of Debian's unstable distribution: its image, modules and headers, unpacked.
//!
//! Nothing is installed. The packages come through apt with a state of its own, from the archive that
//! the machine's apt uses, and are unpacked into the cache. That kernel's build tools want a newer C
//! library and a newer compiler than Debian 12 has: the tools run with the unpacked library's loader,
//! and what the older compiler lacks is switched off in the unpacked configuration.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{Kernel, NotRun, cache};

/// Depends on the headers of the newest kernel.
const META_PACKAGE: &str = "linux-headers-amd64";

/// What the build tools need at run time.
const LIBRARIES: [&str; 4] = ["libc6", "libelf1t64", "zlib1g", "libzstd1"];

/// Options of the configuration's two files that are switched off: what the headers' compiler has and
/// Debian 12's lacks, and for make alone what needs newer tools, since the layout of `struct module`
/// depends on it.
const SWITCHED_OFF: [(&str, &[&str]); 2] = [
    (
        "include/config/auto.conf",
        &[
            "CC_HAS_COUNTED_BY",
            "CC_HAS_COUNTED_BY_PTR",
            "CC_HAS_MIN_FUNCTION_ALIGNMENT",
            "DEBUG_INFO_BTF_MODULES",
        ],
    ),
    (
        "include/generated/autoconf.h",
        &["CC_HAS_COUNTED_BY", "CC_HAS_COUNTED_BY_PTR"],
    ),
];

/// Build tools that run at every build of a module: where they are, and which program each starts.
const TOOLS: [(&str, &str); 3] = [
    ("scripts/basic/fixdep", "scripts/basic/fixdep.elf"),
    ("scripts/mod/modpost", "scripts/mod/modpost.real-lsb-64"),
    ("tools/objtool/objtool", "tools/objtool/objtool.real-x86"),
];

/// The kernel, fetched if it is not in the cache. One that is there stays in use until the cache is
/// removed, so that what was seen with it can be seen again.
///
/// # Errors
///
/// [`NotRun`] when the packages cannot be had; others when they are not as expected.
pub(super) fn newest() -> Result<Kernel> {
    let directory = cache()?.join("newest");
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    // Released when the file is closed.
    let lock = fs::File::create(directory.join("lock")).context("cannot make the lock file")?;
    lock.lock().context("cannot lock the cache")?;
    let current = directory.join("current");
    if let Ok(release) = fs::read_to_string(&current) {
        return Ok(kernel_at(&directory.join(&release), release));
    }
    let apt = Apt::new(directory.join("apt"))?;
    let release = apt.newest_release()?;
    eprintln!("xtask: fetching the kernel {release} (140 MB)");
    let root = directory.join(&release);
    if root.exists() {
        // Of a fetch that was interrupted.
        fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
    }
    for package in apt.download(&release)? {
        run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&root))?;
    }
    apt.clear()?;
    let kernel = kernel_at(&root, release);
    adapt(&root, &kernel)?;
    fs::write(&current, &kernel.release).context("cannot write to the cache")?;
    Ok(kernel)
}

fn kernel_at(root: &Path, release: String) -> Kernel {
    let modules = root.join("usr/lib/modules").join(&release);
    Kernel {
        image: modules.join("vmlinuz"),
        build: root.join(format!("usr/src/linux-headers-{release}")),
        modules,
        release,
    }
}

/// apt with its own lists, for one distribution.
struct Apt {
    directory: PathBuf,
}

impl Apt {
    fn new(directory: PathBuf) -> Result<Self> {
        for part in ["state/lists/partial", "cache/archives/partial", "packages"] {
            fs::create_dir_all(directory.join(part)).context("cannot make apt's directories")?;
        }
        fs::write(directory.join("state/status"), "").context("cannot write apt's status")?;
        let archive = archive()?;
        fs::write(
            directory.join("sources.list"),
            format!(
                "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {archive} sid main\n"
            ),
        )
        .context("cannot write apt's sources")?;
        let apt = Self { directory };
        apt.ask("apt-get", &["update", "--error-on=any"])?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = |name: &str| self.directory.join(name).display().to_string();
        for option in [
            format!("Dir::Etc::sourcelist={}", path("sources.list")),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::State={}", path("state")),
            format!("Dir::State::status={}", path("state/status")),
            format!("Dir::Cache={}", path("cache")),
            "Acquire::Languages=none".to_owned(),
            // The clock of a machine need not be right.
            "Acquire::Check-Valid-Until=false".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        command
    }

    /// Runs a program of apt's: what it cannot do makes the kernel one that is not to be had.
    fn ask(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = self
            .command(program)
            .args(arguments)
            .current_dir(self.directory.join("packages"))
            .output()
            .with_context(|| format!("cannot run {program}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.lines().last().unwrap_or("no reason given").to_owned();
            return Err(NotRun(format!("{program} {}: {said}", arguments.join(" "))).into());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn newest_release(&self) -> Result<String> {
        let text = self.ask("apt-cache", &["depends", "--important", META_PACKAGE])?;
        release_in(&text).ok_or_else(|| {
            NotRun(format!(
                "{META_PACKAGE} names no headers in unstable: {text}"
            ))
            .into()
        })
    }

    /// Downloads the packages; returns their files.
    fn download(&self, release: &str) -> Result<Vec<PathBuf>> {
        let version = release.strip_suffix("-amd64").unwrap_or(release);
        let mut packages = vec![
            format!("linux-headers-{release}"),
            format!("linux-headers-{version}-common"),
            format!("linux-kbuild-{version}"),
            format!("linux-base-{release}"),
            format!("linux-binary-{release}"),
            format!("linux-modules-{release}"),
        ];
        packages.extend(LIBRARIES.map(str::to_owned));
        let arguments: Vec<&str> = ["download"]
            .into_iter()
            .chain(packages.iter().map(String::as_str))
            .collect();
        self.ask("apt-get", &arguments)?;
        let mut files = Vec::new();
        for entry in
            fs::read_dir(self.directory.join("packages")).context("cannot list packages")?
        {
            files.push(entry.context("cannot list packages")?.path());
        }
        if files.len() != packages.len() {
            bail!(
                "{} packages were asked for, {} came",
                packages.len(),
                files.len()
            );
        }
        Ok(files)
    }

    /// Removes all, packages too.
    fn clear(self) -> Result<()> {
        fs::remove_dir_all(&self.directory).context("cannot remove apt's files")
    }
}

/// The address of the Debian archive that this machine's apt uses.
fn archive() -> Result<String> {
    let output = Command::new("apt-get")
        .args([
            "indextargets",
            "--format",
            "$(ORIGIN)|$(LABEL)|$(SITE)|$(REPO_URI)",
        ])
        .output()
        .context("cannot run apt-get")?;
    let text = String::from_utf8_lossy(&output.stdout);
    archive_in(&text).ok_or_else(|| {
        NotRun("apt knows no archive of Debian; run `apt-get update`".to_owned()).into()
    })
}

fn archive_in(targets: &str) -> Option<String> {
    targets.lines().find_map(|line| {
        let mut fields = line.split('|');
        let is_debian = fields.next()? == "Debian" && fields.next()? == "Debian";
        let address = fields.nth(1)?;
        is_debian.then(|| address.to_owned())
    })
}

/// Reads what the meta-package depends on: "  Depends: linux-headers-RELEASE".
fn release_in(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let package = line.trim().strip_prefix("Depends: ")?;
        let release = package.strip_prefix("linux-headers-")?;
        release.ends_with("-amd64").then(|| release.to_owned())
    })
}

/// Makes the unpacked headers usable where they are, with this machine's compiler.
fn adapt(root: &Path, kernel: &Kernel) -> Result<()> {
    let build = &kernel.build;
    let sources = root.join("usr/src").display().to_string();
    edit(&build.join("Makefile"), |text| {
        text.replace("/usr/src", &sources)
    })?;
    edit(&build.join(".kernelvariables"), |text| {
        text.lines()
            .filter(|line| !line.starts_with("CC =") && !line.contains("CROSS_COMPILE ="))
            .map(|line| format!("{line}\n"))
            .chain(["CC = gcc\n".to_owned()])
            .collect()
    })?;
    let pahole = pahole_version();
    for (file, options) in SWITCHED_OFF {
        edit(&build.join(file), |text| switch_off(text, options, &pahole))?;
    }
    let library = root.join("usr/lib/x86_64-linux-gnu");
    let version = kernel
        .release
        .strip_suffix("-amd64")
        .unwrap_or(&kernel.release);
    let kbuild = root.join(format!("usr/lib/linux-kbuild-{version}"));
    for (tool, program) in TOOLS {
        let (tool, program) = (kbuild.join(tool), kbuild.join(program));
        if !program.exists() {
            fs::rename(&tool, &program)
                .with_context(|| format!("cannot move {}", tool.display()))?;
        }
        let script = format!(
            "#!/bin/sh\nexec '{library}/ld-linux-x86-64.so.2' --library-path '{library}' '{}' \"$@\"\n",
            program.display(),
            library = library.display(),
        );
        // A new file: the old one may be a link to another tool.
        fs::remove_file(&tool).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        fs::write(&tool, script).with_context(|| format!("cannot write {}", tool.display()))?;
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755))?;
    }
    // depmod wants the directory that a link names on an installed system.
    symlink("usr/lib", root.join("lib")).context("cannot link lib")?;
    run(Command::new("/sbin/depmod")
        .arg("-b")
        .arg(root)
        .arg(&kernel.release))
}

fn edit(path: &Path, change_fn: impl FnOnce(&str) -> String) -> Result<()> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    fs::write(path, change_fn(&text)).with_context(|| format!("cannot write {}", path.display()))
}

/// Takes options out of a configuration, as make or the C compiler reads it.
fn switch_off(text: &str, options: &[&str], pahole: &str) -> String {
    let name_of = |line: &str| -> Option<String> {
        let rest = line
            .strip_prefix("#define CONFIG_")
            .or_else(|| line.strip_prefix("CONFIG_"))?;
        Some(rest.split([' ', '=']).next()?.to_owned())
    };
    let mut result = String::new();
    for line in text.lines() {
        match name_of(line) {
            Some(name) if options.contains(&name.as_str()) => {}
            // kbuild warns when it differs, although nothing is made with it.
            Some(name) if name == "PAHOLE_VERSION" => {
                let separator = if line.starts_with('#') { ' ' } else { '=' };
                let (start, _old) = line.rsplit_once(separator).unwrap_or((line, ""));
                result += &format!("{start}{separator}{pahole}\n");
            }
            _ => {
                result += line;
                result.push('\n');
            }
        }
    }
    result
}

/// As kbuild tells it: 124 is version 1.24, 0 is none.
fn pahole_version() -> String {
    Command::new("pahole")
        .arg("--numeric_version")
        .output()
        .ok()
        .filter(|output| output.status.success())
        .map_or_else(
            || "0".to_owned(),
            |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        )
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_that_of_the_plain_flavour() {
        let text = "linux-headers-amd64\n  Depends: linux-headers-7.2.13+deb14-amd64\n";
        assert_eq!(release_in(text).as_deref(), Some("7.2.13+deb14-amd64"));
        assert_eq!(release_in("linux-headers-amd64\n  Depends: foo\n"), None);
    }

    #[test]
    fn the_archive_is_debian_s_own() {
        let text = "Other|Debian|a|one/\nDebian|Debian-Security|b|two/\nDebian|Debian|c|three/\n";
        assert_eq!(archive_in(text).as_deref(), Some("three/"));
        assert_eq!(archive_in(""), None);
    }

    #[test]
    fn options_go_from_both_files() {
        let make = "CONFIG_CC_HAS_COUNTED_BY=y\nCONFIG_PAHOLE_VERSION=132\nCONFIG_X=1\n";
        assert_eq!(
            switch_off(make, &["CC_HAS_COUNTED_BY"], "124"),
            "CONFIG_PAHOLE_VERSION=124\nCONFIG_X=1\n"
        );
        let c = "#define CONFIG_CC_HAS_COUNTED_BY 1\n#define CONFIG_PAHOLE_VERSION 132\n";
        assert_eq!(
            switch_off(c, &["CC_HAS_COUNTED_BY"], "0"),
            "#define CONFIG_PAHOLE_VERSION 0\n"
        );
    }
}
