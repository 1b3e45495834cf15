//! `cargo xtask test`: every check of the tree, in stages; what CI runs.
//!
//! A stage that fails does not keep the later ones from running. The job ends with a line a stage, with
//! its seconds, and fails if one failed. Naming stages runs only those.

mod debug;

use std::{
    fmt,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::{
    bench, conformance, engine, fuzz, guide,
    kernel::{self, NotRun},
    kmod::{self, Variant},
    lab::{self, Guest, ModuleLoad},
    lints, monitoring, mutants, package,
    place::{cargo, repository, target},
    selftest,
    setup::{self, Group},
    tour,
};

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Stages to run; by default all but package-boot and debug
    #[arg(value_enum)]
    stages: Vec<Stage>,
    /// Only guest tests whose name contains this; for package-boot, the release's
    #[arg(long, value_name = "NAME", requires = "stages")]
    filter: Option<String>,
    /// Kernel of the stages lab, guest, poison, hooks, dmirror, selftest and fuzz
    #[arg(long, value_enum, default_value_t, requires = "stages")]
    kernel: kernel::Name,
    /// All stages that can run on the debug kernel, or those named, there and at full size
    #[arg(long, conflicts_with = "kernel")]
    debug_kernel: bool,
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
    /// Metrics, alerts and dashboard, checked by Prometheus's own tool
    Monitoring,
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
    /// The test device, where the kernel's own tests do not look, and the example of a driver
    Dmirror,
    /// The kernel's own tests of device memory, on the test device
    Selftest,
    /// Taking memory over from the kernel's dax drivers, and giving it back
    Dax,
    /// The manual, the Debian packages: built, checked, installed, upgraded, purged
    Package,
    /// The packages on Debian 12 and 13 with an init that reboots: by hand, since it takes minutes, the
    /// first time many
    PackageBoot,
    /// The examples of the guide and the README
    Guide,
    /// The library's contract on every backend, at every level of privilege
    Conformance,
    /// The tours, small: the engine's at every level of privilege, the driver's in the lab
    Tour,
    /// The fuzzer of the driver's commands
    Fuzz,
    /// The modules build for the newest kernel, where its packages can be had
    Newest,
    /// The debug kernel: its build, and a small size of all that runs on it; by hand
    Debug,
    /// The benchmark, small: for its output and its content check
    Bench,
    /// The fixed part of the mutants
    Mutants,
}

/// Runs the job.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let kernel = if args.debug_kernel {
        kernel::Name::Debug
    } else {
        args.kernel
    };
    let all = Stage::value_variants().iter().copied();
    let stages = if !args.stages.is_empty() {
        args.stages.clone()
    } else if args.debug_kernel {
        debug::STAGES.to_vec()
    } else {
        all.filter(|stage| stage.is_in_ci()).collect()
    };
    let mut results = Vec::new();
    for stage in stages {
        println!("== {stage:?}");
        let start = Instant::now();
        let result = stage.run(args.filter.as_deref(), kernel, Size::Full);
        let verdict = match &result {
            Ok(()) => Verdict::Passed,
            Err(error) if error.is::<NotRun>() => Verdict::NotRun(format!("{error}")),
            Err(error) => {
                eprintln!("== {stage:?} failed: {error:#}");
                Verdict::Failed
            }
        };
        results.push((stage, start.elapsed(), verdict));
    }
    println!("== stages");
    for (stage, elapsed, verdict) in &results {
        println!(
            "{:<10} {:>5} s  {verdict}",
            format!("{stage:?}").to_lowercase(),
            elapsed.as_secs()
        );
    }
    let count = |is_wanted_fn: fn(&Verdict) -> bool| {
        results
            .iter()
            .filter(|(_, _, verdict)| is_wanted_fn(verdict))
            .count()
    };
    let nr_failed = count(|verdict| matches!(verdict, Verdict::Failed));
    let nr_skipped = count(|verdict| matches!(verdict, Verdict::NotRun(_)));
    let nr_passed = results.len() - nr_failed - nr_skipped;
    let skipped = match nr_skipped {
        0 => String::new(),
        _ => format!(", {nr_skipped} skipped"),
    };
    println!("stages: {nr_passed} passed, {nr_failed} failed{skipped}");
    Ok(if nr_failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What a stage came to.
enum Verdict {
    Passed,
    Failed,
    /// What it needs cannot be had here and now.
    NotRun(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("ok"),
            Self::Failed => f.write_str("FAILED"),
            Self::NotRun(reason) => f.write_str(reason),
        }
    }
}

impl Stage {
    fn is_in_ci(self) -> bool {
        !matches!(self, Self::PackageBoot | Self::Debug)
    }

    fn run(self, filter: Option<&str>, kernel: kernel::Name, size: Size) -> Result<()> {
        match self {
            Self::Lints => lints::check(),
            Self::Host => host(),
            Self::Loom => loom(),
            Self::Monitoring => monitoring::check(),
            Self::Engine => engine::check(),
            Self::Kmod => [Variant::Shipped, Variant::Dmirror, Variant::Example]
                .into_iter()
                .try_for_each(|variant| kmod::build(variant).map(drop)),
            Self::Lab => lab::self_check(kernel),
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
                let limit = Duration::from_secs(1200);
                guest_tests(Variant::Shipped, kernel, size, &filter, limit)
            }
            Self::Poison => {
                let filter = filter.unwrap_or("poison::");
                guest_tests(
                    Variant::Shipped,
                    kernel,
                    size,
                    &[filter],
                    Duration::from_secs(200),
                )
            }
            Self::Hooks => {
                let filter = filter.unwrap_or("hooks::");
                let limit = Duration::from_secs(300);
                guest_tests(Variant::Hooks, kernel, size, &[filter], limit)
            }
            Self::Dmirror => {
                let filter = filter.unwrap_or("dmirror::");
                guest_tests(
                    Variant::Dmirror,
                    kernel,
                    size,
                    &[filter],
                    Duration::from_secs(300),
                )
            }
            Self::Selftest => selftest::check(kernel),
            Self::Dax => dax(),
            Self::Package => package::test::check(),
            Self::PackageBoot => package::boot::check(filter),
            Self::Guide => guide::check(),
            Self::Conformance => conformance::check(),
            Self::Tour => tour::check(),
            Self::Fuzz => fuzz::check(kernel),
            Self::Newest => {
                for variant in [Variant::Shipped, Variant::Dmirror] {
                    kmod::build_on(variant, kernel::Name::Newest)?;
                }
                Ok(())
            }
            Self::Debug => debug::check(),
            Self::Bench => bench::check(),
            Self::Mutants => mutants::check(),
        }
    }
}

/// The tests that need no guest.
fn host() -> Result<()> {
    setup::ensure(Group::Build)?;
    setup::ensure(Group::Programs)?;
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

/// How much the guest tests that have a size do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    /// As much as they do by default.
    Full,
    /// As much as shows that they work.
    Small,
}

impl Size {
    /// The tests' knobs.
    fn environment(self) -> Vec<(String, String)> {
        let knobs: &[(&str, &str)] = match self {
            Self::Full => &[],
            Self::Small => &[
                ("COHMEM_SIZE_MIB", "8"),
                ("COHMEM_ROUNDS", "3"),
                ("COHMEM_LOOPS", "5"),
            ],
        };
        let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        knobs.iter().map(owned).collect()
    }
}

/// Boots the lab and runs the guest tests that `filter` names.
fn guest_tests(
    variant: Variant,
    kernel: kernel::Name,
    size: Size,
    filter: &[&str],
    timeout: Duration,
) -> Result<()> {
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
    let mut modules = vec![ModuleLoad::file(kmod::build_on(variant, kernel)?)];
    if variant == Variant::Dmirror {
        modules[0].parameters = selftest::parameters(&Guest::default()).join(" ");
        modules.push(ModuleLoad::file(kmod::build_on(Variant::Example, kernel)?));
    }
    let program = target()?.join("debug/guest-tests");
    let mut command = vec![program.display().to_string()];
    command.extend(filter.iter().map(|&word| word.to_owned()));
    let guest = Guest {
        modules,
        command,
        kernel,
        environment: size.environment(),
        timeout: match kernel {
            kernel::Name::Stock | kernel::Name::Newest => timeout,
            kernel::Name::Debug => timeout * 4,
        },
        ..Guest::default()
    };
    let outcome = guest.run()?;
    lab::tell(&outcome);
    if !outcome.is_success() {
        bail!("the guest's tests: exit status {}", outcome.exit_code());
    }
    Ok(())
}
