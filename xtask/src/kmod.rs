//! `cargo xtask kmod`: the kernel modules.
//!
//! A module is freestanding Rust and a few C helpers, built against the headers of a stock
//! kernel that need not support Rust:
//!
//! | step | from | to |
//! |---|---|---|
//! | [`kernel`] | the kernel's own build rules | the flags of its C compiler, its configuration |
//! | [`bindings`] | its headers | Rust declarations with layout assertions |
//! | [`rust`] | `core`, our `no_std` crates, the module's crate | one relocatable object |
//! | [`kbuild`] | that object and the C helpers | `cohmem.ko` or `cohmem_dmirror.ko` |
//! | [`check`] | the module | nothing, or the reason why it is not fit to be loaded |
//!
//! Every step remembers a digest of what it was made from ([`step`]) and runs again only when that
//! changed. All output is below the target directory; the source tree is only read.

mod bindings;
mod check;
mod kbuild;
mod kernel;
mod rust;
mod step;

use std::{
    fs::{self, File},
    path::PathBuf,
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context as _, Result};

use crate::{place, setup};

/// Arguments of `cargo xtask kmod`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build the variant with the test hooks.
    #[arg(long)]
    hooks: bool,
    /// Build the test device, `cohmem_dmirror.ko`, instead.
    #[arg(long, conflicts_with = "hooks")]
    dmirror: bool,
    /// Build the example of a driver, `cohmem_example.ko`, instead.
    #[arg(long, conflicts_with_all = ["hooks", "dmirror"])]
    example: bool,
    /// Release of the kernel to build for, as in `uname -r`, or the directory of a kernel build
    /// [default: the newest installed].
    #[arg(long, value_name = "RELEASE")]
    kernel: Option<String>,
}

/// Which module to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
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
    fn name(self) -> &'static str {
        match self {
            Self::Shipped => "shipped",
            Self::Hooks => "hooks",
            Self::Dmirror => "dmirror",
            Self::Example => "example",
        }
    }

    /// Name of the module, and of its crate.
    fn module(self) -> &'static str {
        match self {
            Self::Shipped | Self::Hooks => "cohmem",
            Self::Dmirror => "cohmem_dmirror",
            Self::Example => "cohmem_example",
        }
    }

    /// The module's directory in the source tree.
    fn directory(self) -> &'static str {
        match self {
            Self::Shipped | Self::Hooks => "kernel/module",
            Self::Dmirror => "kernel/dmirror",
            Self::Example => "kernel/example",
        }
    }

    fn cfg(self) -> &'static [&'static str] {
        match self {
            Self::Shipped | Self::Dmirror | Self::Example => &[],
            Self::Hooks => &["--cfg", "hooks"],
        }
    }
}

/// Runs the job.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let variant = if args.hooks {
        Variant::Hooks
    } else if args.dmirror {
        Variant::Dmirror
    } else if args.example {
        Variant::Example
    } else {
        Variant::Shipped
    };
    let started = Instant::now();
    let path = build_for(variant, args.kernel.as_deref())?;
    eprintln!(
        "xtask: the module is ready ({:.1} s)",
        started.elapsed().as_secs_f32()
    );
    println!("{}", path.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds the module for the newest installed kernel and returns its path.
///
/// Waits while another process builds. Quick when nothing changed.
///
/// # Errors
///
/// When packages are missing and cannot be installed, a compiler or kbuild fails or warns, or the
/// module fails one of the checks.
pub(crate) fn build(variant: Variant) -> Result<PathBuf> {
    build_for(variant, None)
}

/// As [`build`], for the kernel named as on the command line.
///
/// # Errors
///
/// As [`build`].
pub(crate) fn build_for(variant: Variant, kernel: Option<&str>) -> Result<PathBuf> {
    setup::ensure(setup::Group::Build)?;
    let release = match kernel {
        Some(kernel) => kernel.to_owned(),
        None => setup::kernel_release()?,
    };
    let tree = Tree::new()?;
    fs::create_dir_all(&tree.out)
        .with_context(|| format!("cannot create {}", tree.out.display()))?;
    // Released when the file is closed.
    let lock =
        File::create(tree.out.join("lock")).context("cannot create the build's lock file")?;
    lock.lock().context("cannot lock the build directory")?;

    let kernel = kernel::Kernel::find(&release, &tree.out)?;
    let out = kernel.out.join(variant.name());
    fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    let compiler = rust::Compiler::new(&kernel, &tree)?;
    let bindings = bindings::generate(&kernel, &tree)?;
    let object = rust::build(&compiler, &tree, &bindings, &out, variant)?;
    let module = kbuild::build(&kernel, &tree, &object, &out, variant)?;
    check::module(&kernel, &module, &object, &out, variant)?;
    Ok(module)
}

/// Where things are.
struct Tree {
    /// Root of the source tree.
    root: PathBuf,
    /// Everything that the build makes.
    out: PathBuf,
}

impl Tree {
    fn new() -> Result<Self> {
        Ok(Self {
            root: place::repository()?,
            out: place::target()?.join("kmod"),
        })
    }

    /// What all modules are made of.
    fn shared(&self) -> PathBuf {
        self.root.join("kernel/sys")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::place::repository;

    /// The code of a document's fenced blocks of Rust.
    fn rust_blocks(document: &str) -> Vec<&str> {
        document
            .split("```rust\n")
            .skip(1)
            .filter_map(|rest| Some(rest.split_once("```")?.0))
            .collect()
    }

    #[test]
    fn the_documents_driver_is_the_one_that_is_built() {
        let tree = repository().expect("the tree");
        let document = fs::read_to_string(tree.join("docs/writing-a-driver.md")).expect("docs");
        let driver = fs::read_to_string(tree.join("kernel/example/src/lib.rs")).expect("driver");
        let blocks = rust_blocks(&document);
        assert!(blocks.len() >= 4, "the document shows the driver");
        for block in blocks {
            assert!(driver.contains(block), "not in the driver:\n{block}");
        }
    }
}
