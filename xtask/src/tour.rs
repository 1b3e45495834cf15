//! `cargo xtask tour`: the product's tour (`cohmem tour`), on this machine or in the lab's.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};

use crate::{
    kmod::{self, Variant},
    lab::{self, Guest, ModuleLoad, Outcome, Range},
    place::{cargo, target},
    privilege::{Privilege, PublicCopy},
    setup::{self, Group},
};

/// Arguments of `cargo xtask tour`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// `driver` for the kernel module in the lab's virtual machine; or what `cohmem tour --backend`
    /// takes: without, the engine, which needs nothing but Rust
    #[arg(long)]
    backend: Option<String>,
    /// Size of the graph; with the driver of the numerical program's array, at most 512M
    #[arg(long, default_value = "256M")]
    size: String,
    /// The unit that moves; not with the driver
    #[arg(long)]
    granule: Option<String>,
    /// Give the summary as JSON on standard output; the story goes to standard error
    #[arg(long)]
    json: bool,
}

/// Runs the job.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut more = vec!["--size", &args.size];
    if args.json {
        more.push("--json");
    }
    if args.backend.as_deref() == Some("driver") {
        if args.granule.is_some() {
            bail!("the driver moves pages of 4 KiB: --granule is not for it");
        }
        return Ok(ExitCode::from(in_the_lab(&more)?.exit_code()));
    }
    if let Some(backend) = &args.backend {
        more.extend(["--backend", backend]);
    }
    if let Some(granule) = &args.granule {
        more.extend(["--granule", granule]);
    }
    let status = Privilege::Own
        .command(&build()?)?
        .arg("tour")
        .args(&more)
        .status()
        .context("cannot run the tour")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}

/// Both tours with little data, as one of the tests: that of the engine with each privilege.
///
/// # Errors
///
/// When one of their checks failed, or the lab complained.
pub(crate) fn check() -> Result<()> {
    let copy = PublicCopy::of(&build()?)?;
    for privilege in Privilege::ALL {
        println!("tour: the engine, {}", privilege.name());
        let status = privilege
            .command(copy.program())?
            .args(["tour", "--size", "64M"])
            .current_dir("/")
            .status()
            .context("cannot run the tour")?;
        if !status.success() {
            bail!("the tour {}: {status}", privilege.name());
        }
    }
    let outcome = in_the_lab(&["--size", "64M"])?;
    if !outcome.is_success() {
        bail!("the driver's tour: exit status {}", outcome.exit_code());
    }
    Ok(())
}

/// Builds the command; where it is.
fn build() -> Result<PathBuf> {
    cargo(&["build", "--quiet", "--release", "--package", "cohmem-cli"])?;
    Ok(target()?.join("release/cohmem"))
}

fn in_the_lab(arguments: &[&str]) -> Result<Outcome> {
    const GIB: u64 = 1 << 30;
    setup::ensure(Group::Programs)?;
    let program = build()?;
    let module = kmod::build(Variant::Shipped)?;
    let mut command = vec![program.display().to_string(), "tour".to_owned()];
    command.extend(["--backend", "driver"].map(str::to_owned));
    command.extend(arguments.iter().map(|&word| word.to_owned()));
    eprintln!("xtask: starting a virtual machine, with two soft-reserved ranges of 1 GiB each");
    let guest = Guest {
        memory_mib: 6 << 10,
        spm: [5 * GIB, 6 * GIB]
            .map(|start| Range { start, bytes: GIB })
            .to_vec(),
        modules: vec![ModuleLoad::file(module)],
        command,
        timeout: Duration::from_secs(600),
        ..Guest::default()
    };
    let outcome = guest.run()?;
    lab::tell(&outcome);
    Ok(outcome)
}
