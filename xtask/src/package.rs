//! `cargo xtask package`: Debian packages, made with Debian's own tools.
//!
//! | package | what |
//! |---|---|
//! | `cohmem` | the command, its manual pages and completions, udev rule, boot-time unit |
//! | `cohmem-dkms` | the module's source, and the program that builds it, for DKMS |
//!
//! Texts that only packages have are in `packaging/`; everything else is built, or is the tree's own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use cohmem_kbuild::Variant;

pub(crate) mod boot;
mod deb;
pub(crate) mod test;

use self::deb::{Deb, Origin};
use crate::{
    docs,
    place::{cargo, repository, target},
    setup::{self, Group},
};

/// Arguments of `cargo xtask package`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Appended to the version, after a plus sign: for builds of one's own that are to be newer
    #[arg(long, value_name = "WORD", value_parser = local_version)]
    local: Option<String>,
}

/// Where the packages lie.
#[derive(Debug)]
pub(crate) struct Packages {
    /// `cohmem_VERSION_amd64.deb`.
    pub(crate) tool: PathBuf,
    /// `cohmem-dkms_VERSION_amd64.deb`.
    pub(crate) dkms: PathBuf,
    /// Of both.
    pub(crate) version: String,
}

/// Runs the job.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let packages = build(args.local.as_deref())?;
    println!("{}\n{}", packages.tool.display(), packages.dkms.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds both packages.
///
/// # Errors
///
/// When packages are missing and cannot be installed, or a build or one of Debian's tools fails.
pub(crate) fn build(local: Option<&str>) -> Result<Packages> {
    setup::ensure(Group::Package)?;
    // Each by itself, as other jobs build them: together their dependencies have other features.
    for package in ["cohmem-cli", "cohmem-kbuild"] {
        cargo(&["build", "--quiet", "--release", "--package", package])?;
    }
    let version = match local {
        Some(word) => format!("{}+{word}", env!("CARGO_PKG_VERSION")),
        None => env!("CARGO_PKG_VERSION").to_owned(),
    };
    let directory = target()?.join("package");
    let origin = Origin::of_tree(&version)?;
    Ok(Packages {
        tool: tool(&directory, &origin)?,
        dkms: dkms(&directory, &origin)?,
        version,
    })
}

/// Letters, digits and dots, as Debian's policy allows in a version.
fn local_version(text: &str) -> Result<String, String> {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'~';
    if text.is_empty() || !text.bytes().all(is_fit) {
        return Err("letters, digits, dots and tildes only".to_owned());
    }
    Ok(text.to_owned())
}

fn tool(directory: &Path, origin: &Origin) -> Result<PathBuf> {
    let mut deb = Deb::new("cohmem", directory, origin)?;
    deb.program("usr/bin/cohmem", "cohmem")?;
    for page in docs::write(&origin.date)?.pages {
        let name = deb::file_name(&page)?;
        deb.compressed(&format!("usr/share/man/man1/{name}"), &fs::read(&page)?)?;
    }
    for (shell, path) in [
        ("bash", "usr/share/bash-completion/completions/cohmem"),
        ("fish", "usr/share/fish/vendor_completions.d/cohmem.fish"),
        ("zsh", "usr/share/zsh/vendor-completions/_cohmem"),
    ] {
        deb.file(path, 0o644, &docs::completions(shell)?)?;
    }
    for (from, to) in [
        ("attach.conf", "etc/cohmem/attach.conf"),
        ("modprobe.d/cohmem.conf", "etc/modprobe.d/cohmem.conf"),
        ("sysusers.d/cohmem.conf", "usr/lib/sysusers.d/cohmem.conf"),
        (
            "udev/60-cohmem.rules",
            "usr/lib/udev/rules.d/60-cohmem.rules",
        ),
        (
            "systemd/cohmem-attach.service",
            "usr/lib/systemd/system/cohmem-attach.service",
        ),
    ] {
        let content = fs::read(packaging(from)?).with_context(|| from.to_owned())?;
        deb.file(to, 0o644, &content)?;
    }
    deb.documents("cohmem-cli")?;
    deb.build()
}

fn dkms(directory: &Path, origin: &Origin) -> Result<PathBuf> {
    let mut deb = Deb::new("cohmem-dkms", directory, origin)?;
    deb.program("usr/lib/cohmem-dkms/cohmem-kbuild", "cohmem-kbuild")?;
    let source = format!("usr/src/cohmem-{}", origin.version);
    let root = repository()?;
    for path in Variant::Shipped.sources() {
        for file in deb::files_below(&root.join(path))? {
            let name = file.strip_prefix(&root)?.display();
            let content = fs::read(&file).with_context(|| name.to_string())?;
            deb.file(&format!("{source}/{name}"), 0o644, &content)?;
        }
    }
    let conf = deb.text("cohmem-dkms/dkms.conf")?;
    deb.file(&format!("{source}/dkms.conf"), 0o644, conf.as_bytes())?;
    deb.documents("cohmem-kbuild")?;
    deb.build()
}

fn packaging(path: &str) -> Result<PathBuf> {
    Ok(repository()?.join("packaging").join(path))
}

#[cfg(test)]
mod tests {
    use super::local_version;

    #[test]
    fn a_local_version_is_one_that_dpkg_takes() {
        assert_eq!(local_version("test2").as_deref(), Ok("test2"));
        for wrong in ["", "a b", "a-1", "x_y", "1:2"] {
            local_version(wrong).expect_err(wrong);
        }
    }
}
