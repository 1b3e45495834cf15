//! Where things are, and running cargo there.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// Environment variable that names another tree to work on: a copy with a planted fault.
pub(crate) const TREE_VARIABLE: &str = "COHMEM_TREE";

/// The root of the tree.
pub(crate) fn repository() -> Result<PathBuf> {
    if let Some(tree) = std::env::var_os(TREE_VARIABLE) {
        return Ok(PathBuf::from(tree));
    }
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest
        .parent()
        .map(Path::to_owned)
        .context("xtask lies in the tree")
}

/// Cargo's target directory.
pub(crate) fn target() -> Result<PathBuf> {
    Ok(match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => std::path::absolute(directory).context("CARGO_TARGET_DIR")?,
        None => repository()?.join("target"),
    })
}

/// Runs cargo in the tree.
pub(crate) fn cargo(arguments: &[&str]) -> Result<()> {
    let status = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(repository()?)
        .status()
        .context("cargo")?;
    if !status.success() {
        bail!("cargo {}: {status}", arguments.join(" "));
    }
    Ok(())
}
