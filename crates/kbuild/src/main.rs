//! `cohmem-kbuild`: builds `cohmem.ko` on the machine that is to load it; what DKMS calls.
#![forbid(unsafe_code)]

use std::{
    fs,
    path::{PathBuf, absolute},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::Parser;
use cohmem_kbuild::{Toolchain, Tree, Variant, build};

/// Build cohmem.ko from its source, against the headers of a kernel.
#[derive(Debug, Parser)]
#[command(name = "cohmem-kbuild", version, about)]
struct Cli {
    /// Release of the kernel, as in `uname -r`, or the directory of its headers.
    #[arg(long, value_name = "RELEASE")]
    kernel: String,
    /// The source tree.
    #[arg(long, value_name = "DIR")]
    source: PathBuf,
    /// Directory for everything that is made on the way.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The compiler, which needs the source of its own library; found by itself by default.
    #[arg(long, env = "COHMEM_RUSTC", value_name = "FILE")]
    rustc: Option<PathBuf>,
    /// The module, when it is built and checked.
    module: PathBuf,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cohmem-kbuild: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let toolchain = Toolchain::find(cli.rustc.as_deref())?;
    let tree = Tree::new(absolute(&cli.source)?, absolute(&cli.out)?);
    let module = build(&tree, &cli.kernel, &toolchain, Variant::Shipped)?;
    fs::copy(&module, &cli.module)
        .with_context(|| format!("cannot write {}", cli.module.display()))?;
    Ok(())
}
