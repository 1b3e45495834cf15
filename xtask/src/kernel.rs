//! `cargo xtask kernel NAME`: kernels besides the installed one, in a cache outside the tree.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::setup;

mod debug;
mod newest;

/// Arguments of `cargo xtask kernel`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which
    #[arg(value_enum)]
    name: Name,
}

/// A kernel that the lab can boot and the module can be built for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    /// The installed one of Debian 12
    #[default]
    Stock,
    /// The newest of Debian's unstable distribution
    Newest,
    /// The stock one's source, built with the kernel's own checks: sanitizer, lock validator and others
    Debug,
}

/// Where a kernel's parts are.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// As in `uname -r`.
    pub(crate) release: String,
    /// What the lab boots.
    pub(crate) image: PathBuf,
    /// Its own modules, with their indexes.
    pub(crate) modules: PathBuf,
    /// Its headers and build rules.
    pub(crate) build: PathBuf,
}

impl Kernel {
    /// The modules are where the kernel's tools look for them.
    pub(crate) fn is_installed(&self) -> bool {
        self.modules.starts_with("/lib/modules")
    }
}

/// The packages of a kernel cannot be had here and now.
#[derive(Debug)]
pub(crate) struct NotRun(pub(crate) String);

impl fmt::Display for NotRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not run: {}", self.0)
    }
}

impl std::error::Error for NotRun {}

impl Name {
    /// Finds the kernel, and fetches or builds it first if it is neither installed nor in the cache.
    ///
    /// # Errors
    ///
    /// [`NotRun`] when packages cannot be had.
    pub(crate) fn find(self) -> Result<Kernel> {
        match self {
            Self::Stock => {
                let release = setup::kernel_release()?;
                let modules = Path::new("/lib/modules").join(&release);
                Ok(Kernel {
                    image: Path::new("/boot").join(format!("vmlinuz-{release}")),
                    build: modules.join("build"),
                    modules,
                    release,
                })
            }
            Self::Newest => newest::newest(),
            Self::Debug => debug::debug(),
        }
    }
}

/// Runs the job.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let kernel = args.name.find()?;
    println!("release  {}", kernel.release);
    println!("image    {}", kernel.image.display());
    println!("modules  {}", kernel.modules.display());
    println!("build    {}", kernel.build.display());
    Ok(ExitCode::SUCCESS)
}

/// The directory of kernels that were fetched or built.
fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME") {
        Some(directory) => PathBuf::from(directory),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(base.join("cohmem"))
}
