//! `cargo xtask bench NAME`: side-by-side benchmarks, in the lab where they need it.

use std::{process::ExitCode, time::Duration};

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::{
    kmod::{self, Variant},
    lab::{self, Cpu, Guest, ModuleLoad, Output, Range},
    place::{cargo, target},
    setup::{self, Group},
};

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which
    #[arg(value_enum)]
    name: Name,
    /// MiB to move each time
    #[arg(long, default_value_t = 256, value_name = "MIB")]
    size: u64,
    /// Rounds
    #[arg(long, default_value_t = 7)]
    rounds: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// The driver's migration against move_pages(2) and memcpy, in the lab
    Migrate,
}

/// Figures that a run must print.
const MIGRATE_FIGURES: [&str; 6] = [
    "figure migrate.to_device.vs_move_pages ",
    "figure migrate.to_system.vs_move_pages ",
    "figure migrate.to_device.vs_memcpy ",
    "figure migrate.to_system.vs_memcpy ",
    "figure migrate.there_already.vs_move ",
    "figure migrate.query.vs_move ",
];

/// Runs the job.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match args.name {
        Name::Migrate => {
            for cpu in [Cpu::Max, Cpu::ByWords] {
                println!("{}", conditions(cpu));
                migrate(cpu, args.size, args.rounds, Output::Inherit)?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What an emulated processor makes of copies, which decides what the figures mean.
fn conditions(cpu: Cpu) -> &'static str {
    match cpu {
        Cpu::Max => {
            "== with fast string moves, as processors of today have: the kernel (and so the peer) copies and\n   \
             clears by them, which the emulator runs byte by byte; the driver moves words"
        }
        Cpu::ByWords => {
            "== without fast string moves: the kernel and the driver both move words, and what is left is the\n   \
             cost of the kernel's migration itself"
        }
    }
}

/// Runs each benchmark small, for its output and its content check.
pub(crate) fn check() -> Result<()> {
    for cpu in [Cpu::Max, Cpu::ByWords] {
        let output = migrate(cpu, 32, 3, Output::Capture)?;
        println!("{}", conditions(cpu));
        print!("{output}");
        for figure in MIGRATE_FIGURES {
            if !output.contains(figure) {
                bail!("the benchmark prints no line \"{figure}...\"");
            }
        }
    }
    Ok(())
}

fn migrate(cpu: Cpu, size_mib: u64, nr_rounds: u64, output: Output) -> Result<String> {
    setup::ensure(Group::Guest)?;
    cargo(&[
        "build",
        "--quiet",
        "--release",
        "--package",
        "cohmem-bench",
        "--package",
        "cohmem-cli",
    ])?;
    let directory = target()?.join("release");
    let script = format!(
        "{cli} attach && {bench} migrate --size {size_mib} --rounds {nr_rounds}; status=$?; \
         {cli} detach 0 && exit $status",
        cli = directory.join("cohmem").display(),
        bench = directory.join("cohmem-bench").display(),
    );
    let guest = Guest {
        memory_mib: 6144,
        cpu,
        spm: vec![Range {
            start: 0x1_4000_0000,
            bytes: 1 << 30,
        }],
        numa: true,
        modules: vec![ModuleLoad::file(kmod::build(Variant::Shipped)?)],
        command: ["sh", "-c", &script].map(str::to_owned).to_vec(),
        timeout: Duration::from_secs(1800),
        output,
        ..Guest::default()
    };
    let outcome = guest.run()?;
    lab::tell(&outcome);
    if !outcome.is_success() {
        eprint!("{}", String::from_utf8_lossy(&outcome.stderr));
        bail!("the benchmark: exit status {}", outcome.exit_code());
    }
    Ok(String::from_utf8_lossy(&outcome.stdout).into_owned())
}
