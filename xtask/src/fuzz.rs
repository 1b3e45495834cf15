//! `cargo xtask fuzz`: the fuzzer of the driver's commands (`lab/guest/src/fuzz.rs`), in the lab.

use std::{process::ExitCode, time::Duration};

use anyhow::{Result, bail};

use crate::{
    kernel,
    kmod::{self, Variant},
    lab::{self, Guest, ModuleLoad},
    place::{cargo, target},
    setup::{self, Group},
};

/// Arguments of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What each process and thread does follows from this number
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Calls of the race, besides the few hundred before it [default: 200000, on the debug kernel 20000]
    #[arg(long)]
    calls: Option<u64>,
    /// Kernel to boot; `newest` is fetched first, `debug` built
    #[arg(long, value_enum, default_value_t, value_name = "NAME")]
    kernel: kernel::Name,
}

/// Calls of a run in CI.
fn calls_in_ci(kernel: kernel::Name) -> u64 {
    match kernel {
        kernel::Name::Stock | kernel::Name::Newest => 200_000,
        kernel::Name::Debug => 20_000,
    }
}

/// Runs the job.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let nr_calls = args.calls.unwrap_or_else(|| calls_in_ci(args.kernel));
    fuzz(args.seed, nr_calls, args.kernel)?;
    Ok(ExitCode::SUCCESS)
}

/// The run of CI: always the same.
pub(crate) fn check(kernel: kernel::Name) -> Result<()> {
    fuzz(1, calls_in_ci(kernel), kernel)
}

fn fuzz(seed: u64, nr_calls: u64, kernel: kernel::Name) -> Result<()> {
    setup::ensure(Group::Guest)?;
    cargo(&["build", "--quiet", "--package", "cohmem-lab-guest"])?;
    let program = target()?.join("debug/guest-tests").display().to_string();
    let guest = Guest {
        modules: vec![ModuleLoad::file(kmod::build_on(Variant::Shipped, kernel)?)],
        command: vec![
            program,
            "fuzz".to_owned(),
            seed.to_string(),
            nr_calls.to_string(),
        ],
        kernel,
        // Against hanging only: a loaded machine makes hundreds of calls a second.
        timeout: Duration::from_secs(1200 + nr_calls / 50),
        ..Guest::default()
    };
    let outcome = guest.run()?;
    lab::tell(&outcome);
    if !outcome.is_success() {
        bail!(
            "the fuzzer, seed {seed}, {nr_calls} calls: exit status {}",
            outcome.exit_code()
        );
    }
    Ok(())
}
