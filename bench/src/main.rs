//! `cohmem-bench`: what `cargo xtask bench` runs.
//!
//! Prints the conditions first and then one line a figure, `figure NAME VALUE UNIT`; ratios have the
//! unit `x`, are taken side by side in one run, and come with minimum and maximum over the rounds.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod dmirror;
mod engine;
mod figure;
mod migrate;
mod run;
mod see;
mod sys;
mod work;

#[derive(Parser)]
#[command(
    name = "cohmem-bench",
    about = "Side-by-side benchmarks of cohmem and its peers"
)]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// The driver's migration against move_pages(2) between two NUMA nodes, and memcpy.
    Migrate(migrate::Args),
    /// Our test device against the kernel's own.
    Dmirror(dmirror::Args),
    /// The engine's migration against memcpy, at each level
    Engine(engine::Args),
    /// What following a program costs it and the machine.
    Run(run::Args),
    /// What map and top cost on large processes.
    See(see::Args),
    /// A program to follow and to look at.
    #[command(hide = true)]
    Work(work::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().bench {
        Bench::Migrate(args) => migrate::run(&args),
        Bench::Dmirror(args) => dmirror::run(&args),
        Bench::Engine(args) => engine::run(&args),
        Bench::Run(args) => run::run(&args),
        Bench::See(args) => see::run(&args),
        Bench::Work(args) => work::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  caused by: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}
