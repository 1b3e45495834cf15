//! `cargo xtask test`: every check of the tree, in stages; what CI runs.
//!
//! A stage that fails does not keep the later ones from running. The job ends with a line a stage, with
//! its seconds, and fails if one failed. Naming stages runs only those.

use std::{
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::{
    bench, conformance, engine,
    kmod::{self, Variant},
    lab::{self, Guest, ModuleLoad},
    lints, mutants, package,
    place::{cargo, repository, target},
    selftest,
    setup::{self, Group},
    tour,
};

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Stages to run; all by default
    #[arg(value_enum)]
    stages: Vec<Stage>,
    /// Only guest tests whose name contains this
    #[arg(long, value_name = "NAME", requires = "stages")]
    filter: Option<String>,
}

/// A part of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// Formatting, clippy, the house rules
    Lints,
    /// Unit, model and host tests
    Host,
    /// The frame allocator and the engine's hand-over under loom
    Loom,
    /// The engine at every level: as the caller, and as a user without privilege
    Engine,
    /// The modules build, and their objects pass the checks
    Kmod,
    /// The lab notices planted bugs
    Lab,
    /// The driver's tests on the stock kernel
    Guest,
    /// Poison: its own machine, since what it poisons stays claimed
    Poison,
    /// Races that the test build of the module forces open
    Hooks,
    /// The test device, where the kernel's own tests do not look
    Dmirror,
    /// The kernel's own tests of device memory, on the test device
    Selftest,
    /// Taking memory over from the kernel's dax drivers, and giving it back
    Dax,
    /// The manual, the Debian packages: built, checked, installed, upgraded, purged
    Package,
    /// The library's contract on every backend, at every level of privilege
    Conformance,
    /// The tours, small: the engine's at every level of privilege, the driver's in the lab
    Tour,
    /// The benchmark, small: for its output and its content check
    Bench,
    /// The fixed part of the mutants
    Mutants,
}

/// Runs the job.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let stages = if args.stages.is_empty() {
        Stage::value_variants()
    } else {
        &args.stages[..]
    };
    let mut results = Vec::new();
    for &stage in stages {
        println!("== {stage:?}");
        let start = Instant::now();
        let result = stage.run(args.filter.as_deref());
        if let Err(error) = &result {
            eprintln!("== {stage:?} failed: {error:#}");
        }
        results.push((stage, start.elapsed(), result.is_ok()));
    }
    println!("== stages");
    for (stage, elapsed, is_ok) in &results {
        let verdict = if *is_ok { "ok" } else { "FAILED" };
        println!(
            "{:<10} {:>5} s  {verdict}",
            format!("{stage:?}").to_lowercase(),
            elapsed.as_secs()
        );
    }
    let nr_failed = results.iter().filter(|(_, _, is_ok)| !is_ok).count();
    println!(
        "stages: {} passed, {nr_failed} failed",
        results.len() - nr_failed
    );
    Ok(if nr_failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Stage {
    fn run(self, filter: Option<&str>) -> Result<()> {
        match self {
            Self::Lints => lints::check(),
            Self::Host => host(),
            Self::Loom => loom(),
            Self::Engine => engine::check(),
            Self::Kmod => [Variant::Shipped, Variant::Dmirror, Variant::Example]
                .into_iter()
                .try_for_each(|variant| kmod::build(variant).map(drop)),
            Self::Lab => lab::self_check(),
            Self::Guest => {
                let skipped = [
                    "--skip",
                    "poison::",
                    "--skip",
                    "hooks::",
                    "--skip",
                    "dmirror::",
                ];
                let filter: Vec<_> = filter.into_iter().chain(skipped).collect();
                guest_tests(Variant::Shipped, &filter, Duration::from_secs(1200))
            }
            Self::Poison => {
                let filter = filter.unwrap_or("poison::");
                guest_tests(Variant::Shipped, &[filter], Duration::from_secs(200))
            }
            Self::Hooks => {
                let filter = filter.unwrap_or("hooks::");
                guest_tests(Variant::Hooks, &[filter], Duration::from_secs(300))
            }
            Self::Dmirror => {
                let filter = filter.unwrap_or("dmirror::");
                guest_tests(Variant::Dmirror, &[filter], Duration::from_secs(300))
            }
            Self::Selftest => selftest::check(),
            Self::Dax => dax(),
            Self::Package => package::test::check(),
            Self::Conformance => conformance::check(),
            Self::Tour => tour::check(),
            Self::Bench => bench::check(),
            Self::Mutants => mutants::check(),
        }
    }
}

/// The tests that need no guest.
fn host() -> Result<()> {
    setup::ensure(Group::Build)?;
    // The engine has a stage of its own.
    cargo(&[
        "test",
        "--workspace",
        "--exclude",
        "cohmem-engine",
        "--quiet",
    ])
}

fn loom() -> Result<()> {
    let frames = ["--package", "cohmem-frames", "--lib", "--test", "loom"];
    let engine = ["--package", "cohmem-engine", "--lib"];
    for selection in [&frames[..], &engine[..]] {
        let status = Command::new(env!("CARGO"))
            .args(["test", "--quiet", "--release"])
            .args(selection)
            .env("RUSTFLAGS", "--cfg loom")
            .env("LOOM_MAX_PREEMPTIONS", "2")
            .env("CARGO_TARGET_DIR", target()?.join("loom"))
            .current_dir(repository()?)
            .status()
            .context("cargo test")?;
        if !status.success() {
            bail!("the loom tests of {}: {status}", selection[1]);
        }
    }
    Ok(())
}

/// Takes memory over in both states that a machine may be in.
fn dax() -> Result<()> {
    setup::ensure(Group::Guest)?;
    cargo(&["build", "--quiet", "--package", "cohmem-cli"])?;
    let script = repository()?.join("lab/takeover.sh").display().to_string();
    for driver in ["device_dax", "kmem"] {
        let modules = vec![
            ModuleLoad::stock("dax_hmem"),
            ModuleLoad::stock(driver),
            ModuleLoad::file(kmod::build(Variant::Shipped)?),
        ];
        let guest = Guest {
            modules,
            command: vec![script.clone(), driver.to_owned()],
            timeout: Duration::from_secs(120),
            ..Guest::default()
        };
        let outcome = guest.run()?;
        lab::tell(&outcome);
        if !outcome.is_success() {
            bail!(
                "taking over from {driver}: exit status {}",
                outcome.exit_code()
            );
        }
    }
    Ok(())
}

/// Boots the lab and runs the guest tests that `filter` names.
fn guest_tests(variant: Variant, filter: &[&str], timeout: Duration) -> Result<()> {
    setup::ensure(Group::Guest)?;
    setup::ensure(Group::Programs)?;
    cargo(&[
        "build",
        "--quiet",
        "--package",
        "cohmem-lab-guest",
        "--package",
        "cohmem-cli",
    ])?;
    let mut load = ModuleLoad::file(kmod::build(variant)?);
    if variant == Variant::Dmirror {
        load.parameters = selftest::parameters(&Guest::default()).join(" ");
    }
    let program = target()?.join("debug/guest-tests");
    let mut command = vec![program.display().to_string()];
    command.extend(filter.iter().map(|&word| word.to_owned()));
    let guest = Guest {
        modules: vec![load],
        command,
        timeout,
        ..Guest::default()
    };
    let outcome = guest.run()?;
    lab::tell(&outcome);
    if !outcome.is_success() {
        bail!("the guest's tests: exit status {}", outcome.exit_code());
    }
    Ok(())
}
