//! `cargo xtask JOB`: the one entry point for every job of the tree.
//!
//! Each job is one module; this file parses the command line and dispatches.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod conformance;
mod docs;
mod engine;
mod fuzz;
mod guide;
mod kernel;
mod kmod;
mod lab;
mod lints;
mod monitoring;
mod mutants;
mod package;
mod place;
mod privilege;
mod selftest;
mod setup;
mod test;
mod tour;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Every job of the cohmem tree")]
struct Cli {
    #[command(subcommand)]
    job: Job,
}

#[derive(Subcommand)]
enum Job {
    /// Run every check of the tree, as CI does
    Test(test::Args),
    /// Show the main job: memory moves to a device and home while threads use it
    Tour(tour::Args),
    /// Boot the lab's virtual machine and run a command in it
    Lab(lab::Args),
    /// Build the kernel module against the installed kernel headers
    Kmod(kmod::Args),
    /// Make Debian packages: the command, and the module's source for DKMS
    Package(package::Args),
    /// Make the manual pages and shell completions
    Docs(docs::Args),
    /// Call the driver at random from racing processes, in the lab
    Fuzz(fuzz::Args),
    /// Fetch or build another kernel for the lab and the module
    Kernel(kernel::Args),
    /// Run the examples of the guide and the README, and compare what they print
    Guide(guide::Args),
    /// Run the kernel's own tests of device memory on the test device, and on the kernel's
    Selftest(selftest::Args),
    /// Measure beside the peers
    Bench(bench::Args),
    /// Check formatting, clippy and the house rules
    Lints(lints::Args),
    /// Run the engine's tests under AddressSanitizer
    Sanitize,
    /// Plant small faults and see that the tests notice
    Mutants(mutants::Args),
    /// Install the Debian packages that the other jobs need (they do so themselves, too)
    Setup(setup::Args),
    /// Run a program that is refused userfaultfd, as in a strict container
    WithoutUserfaultfd(privilege::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().job {
        Job::Test(args) => test::run(&args),
        Job::Tour(args) => tour::run(&args),
        Job::Lab(args) => lab::run(&args),
        Job::Kmod(args) => kmod::run(&args),
        Job::Package(args) => package::run(&args),
        Job::Docs(args) => docs::run(&args),
        Job::Fuzz(args) => fuzz::run(&args),
        Job::Kernel(args) => kernel::run(&args),
        Job::Guide(args) => guide::run(&args),
        Job::Selftest(args) => selftest::run(&args),
        Job::Bench(args) => bench::run(&args),
        Job::Lints(args) => lints::run(&args),
        Job::Sanitize => engine::sanitize(),
        Job::Mutants(args) => mutants::run(&args),
        Job::Setup(args) => setup::run(&args),
        Job::WithoutUserfaultfd(args) => privilege::run_without_userfaultfd(&args),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(2)
        }
    }
}
