//! `cargo xtask tour`: the product's tour (`cohmem tour`), in the lab's virtual machine.

use std::{process::ExitCode, time::Duration};

use anyhow::{Result, bail};

use crate::{
    kmod::{self, Variant},
    lab::{self, Guest, ModuleLoad, Outcome, Range},
    place::{cargo, target},
    setup::{self, Group},
};

/// Arguments of `cargo xtask tour`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Size of the numerical program's array, at most 512M
    #[arg(long, default_value = "256M")]
    size: String,
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
    Ok(ExitCode::from(tour(&more)?.exit_code()))
}

/// The tour with little data, as one of the tests.
///
/// # Errors
///
/// When one of its checks failed, or the lab complained.
pub(crate) fn check() -> Result<()> {
    let outcome = tour(&["--size", "64M"])?;
    if !outcome.is_success() {
        bail!("the tour: exit status {}", outcome.exit_code());
    }
    Ok(())
}

fn tour(arguments: &[&str]) -> Result<Outcome> {
    const GIB: u64 = 1 << 30;
    setup::ensure(Group::Programs)?;
    cargo(&["build", "--quiet", "--release", "--package", "cohmem-cli"])?;
    let module = kmod::build(Variant::Shipped)?;
    let program = target()?.join("release/cohmem");
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
