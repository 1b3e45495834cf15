//! Builds the kernel modules.
//!
//! A module is freestanding Rust and a few C helpers, built against the headers of a stock
//! kernel that need not support Rust:
//!
//! | step | from | to |
//! |---|---|---|
//! | `toolchain` | the rustc programs of the machine | one that has the source of its `core` |
//! | `kernel` | the kernel's own build rules | the flags of its C compiler, its configuration |
//! | `bindings` | its headers | Rust declarations with layout assertions |
//! | `rust` | `core`, our `no_std` crates, the module's crate | one relocatable object |
//! | `kbuild` | that object and the C helpers | `cohmem.ko` or `cohmem_dmirror.ko` |
//! | `check` | the module | nothing, or the reason why it is not fit to be loaded |
//!
//! Every step remembers a digest of what it was made from (`step`) and runs again only when that
//! changed. All output is below one directory; the source tree is only read.
//!
//! It is a library for `cargo xtask kmod`, and the program `cohmem-kbuild` for DKMS.
#![forbid(unsafe_code)]

mod bindings;
mod check;
mod kbuild;
mod kernel;
mod rust;
mod step;
mod toolchain;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

pub use toolchain::Toolchain;

/// Which module to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// `cohmem.ko`, as users get it.
    Shipped,
    /// `cohmem.ko` with the test hooks: never to be installed.
    Hooks,
    /// `cohmem_dmirror.ko`, the device that the kernel's own tests of device memory run on.
    Dmirror,
    /// `cohmem_example.ko`, the driver of `docs/writing-a-driver.md`.
    Example,
}

impl Variant {
    const fn name(self) -> &'static str {
        match self {
            Self::Shipped => "shipped",
            Self::Hooks => "hooks",
            Self::Dmirror => "dmirror",
            Self::Example => "example",
        }
    }

    /// Name of the module, and of its crate.
    const fn module(self) -> &'static str {
        match self {
            Self::Shipped | Self::Hooks => "cohmem",
            Self::Dmirror => "cohmem_dmirror",
            Self::Example => "cohmem_example",
        }
    }

    /// The module's directory in the source tree.
    const fn directory(self) -> &'static str {
        match self {
            Self::Shipped | Self::Hooks => "kernel/module",
            Self::Dmirror => "kernel/dmirror",
            Self::Example => "kernel/example",
        }
    }

    const fn cfg(self) -> &'static [&'static str] {
        match self {
            Self::Shipped | Self::Dmirror | Self::Example => &[],
            Self::Hooks => &["--cfg", "hooks"],
        }
    }

    /// The files and directories of the source tree that the module is made from: nothing else of it
    /// is read.
    #[must_use]
    pub fn sources(self) -> Vec<&'static str> {
        let crates = rust::CRATES.iter().map(|&(_, directory)| directory);
        let mut sources: Vec<_> = crates.filter(|path| !path.starts_with(SHARED)).collect();
        sources.extend([SHARED, self.directory(), HEADER]);
        sources
    }
}

/// What all modules are made of.
const SHARED: &str = "kernel/sys";

/// The ABI.
const HEADER: &str = "include/uapi/linux/cohmem.h";

/// Where things are.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
    out: PathBuf,
}

impl Tree {
    /// The source tree `root`, with everything that the build makes below `out`. Both are absolute.
    #[must_use]
    pub const fn new(root: PathBuf, out: PathBuf) -> Self {
        Self { root, out }
    }

    fn shared(&self) -> PathBuf {
        self.root.join(SHARED)
    }

    fn header(&self) -> PathBuf {
        self.root.join(HEADER)
    }
}

/// Builds the module for `kernel`, a release as in `uname -r` or the absolute path of a kernel build,
/// and returns its path.
///
/// Waits while another process builds below the same directory. Quick when nothing changed.
///
/// # Errors
///
/// When the kernel's headers are not there, a compiler or kbuild fails or warns, or the module fails
/// one of the checks.
pub fn build(
    tree: &Tree,
    kernel: &str,
    toolchain: &Toolchain,
    variant: Variant,
) -> Result<PathBuf> {
    create(&tree.out)?;
    // Released when the file is closed.
    let lock =
        File::create(tree.out.join("lock")).context("cannot create the build's lock file")?;
    lock.lock().context("cannot lock the build directory")?;

    let kernel = kernel::Kernel::find(kernel, &tree.out)?;
    let out = kernel.out.join(variant.name());
    create(&out)?;
    let compiler = rust::Compiler::new(&kernel, tree, toolchain)?;
    let bindings = bindings::generate(&kernel, tree)?;
    let object = rust::build(&compiler, tree, &bindings, &out, variant)?;
    let module = kbuild::build(&kernel, tree, &object, &out, variant)?;
    check::module(&kernel, &module, &object, &out, variant)?;
    Ok(module)
}

fn create(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sources_are_there_and_name_no_directory_twice() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let sources = Variant::Shipped.sources();
        for source in &sources {
            assert!(root.join(source).exists(), "{source}");
            let inside = |other: &&&str| other.starts_with(&format!("{source}/"));
            assert_eq!(sources.iter().find(inside), None, "{source}");
        }
        assert!(sources.contains(&"kernel/core/src"));
        assert!(!sources.contains(&"kernel/sys/src"), "it is in kernel/sys");
    }
}
