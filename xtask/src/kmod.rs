//! `cargo xtask kmod`: the kernel modules, built by the crate `cohmem-kbuild`.

use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::Result;
use clap::ValueEnum as _;
use cohmem_kbuild::{Toolchain, Tree};

pub(crate) use cohmem_kbuild::Variant;

use crate::{kernel, place, setup};

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
    /// Release of the kernel to build for, as in `uname -r`, or the directory of a kernel build, or a
    /// kernel of the lab's: `stock`, `newest` or `debug` [default: stock].
    #[arg(long, value_name = "RELEASE")]
    kernel: Option<String>,
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
    build_on(variant, kernel::Name::Stock)
}

/// As [`build`], for a kernel of the lab.
///
/// # Errors
///
/// As [`build`], and when that kernel cannot be had.
pub(crate) fn build_on(variant: Variant, kernel: kernel::Name) -> Result<PathBuf> {
    setup::ensure(setup::Group::Build)?;
    build_in(variant, &kernel.find()?.build.display().to_string())
}

/// As [`build`], for the kernel named as on the command line.
///
/// # Errors
///
/// As [`build`].
pub(crate) fn build_for(variant: Variant, kernel: Option<&str>) -> Result<PathBuf> {
    let Some(kernel) = kernel else {
        return build(variant);
    };
    match kernel::Name::from_str(kernel, false) {
        Ok(name) => build_on(variant, name),
        Err(_not_of_the_lab) => build_in(variant, kernel),
    }
}

/// Builds for a release, or in the directory of a kernel build.
fn build_in(variant: Variant, release: &str) -> Result<PathBuf> {
    setup::ensure(setup::Group::Build)?;
    let tree = Tree::new(place::repository()?, place::target()?.join("kmod"));
    cohmem_kbuild::build(&tree, release, &Toolchain::find(None)?, variant)
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
