//! Tests of the driver on a real kernel. They run inside the lab's guest, as root:
//! `cargo xtask test guest`, or by hand `cargo xtask lab -- target/debug/guest-tests [FILTER]`.
//!
//! Each test attaches what it needs and detaches it at its end, which fails when a frame is left. Sizes
//! that matter can be turned up by environment variables (`COHMEM_SIZE_MIB`, `COHMEM_ROUNDS`).

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

mod bad_input;
mod content;
mod detach;
mod dmirror;
mod driver;
mod faults;
mod fuzz;
mod groups;
mod history;
mod holders;
mod hooks;
mod isolation;
mod lifecycle;
mod module;
mod objects;
mod poison;
mod programs;
mod quota;
mod ranges;
mod reasons;
mod run;
mod see;
mod sys;

/// A test: its name and what it runs.
type Test = (&'static str, fn());

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [first, rest @ ..] = &words[..]
        && first == "fuzz"
    {
        return fuzz::run(rest);
    }
    let mut arguments = Arguments::from_args();
    // Tests share the machine's devices, and fork.
    arguments.test_threads = Some(1);
    let groups: &[(&str, &[Test])] = &[
        ("content", content::TESTS),
        ("lifecycle", lifecycle::TESTS),
        ("groups", groups::TESTS),
        ("reasons", reasons::TESTS),
        ("isolation", isolation::TESTS),
        ("quota", quota::TESTS),
        ("ranges", ranges::TESTS),
        ("history", history::TESTS),
        ("objects", objects::TESTS),
        ("bad_input", bad_input::TESTS),
        ("detach", detach::TESTS),
        ("see", see::TESTS),
        ("module", module::TESTS),
        ("run", run::TESTS),
        ("programs", programs::TESTS),
        ("poison", poison::TESTS),
        ("faults", faults::TESTS),
        ("hooks", hooks::TESTS),
        ("dmirror", dmirror::TESTS),
        ("dmirror::private", dmirror::private::TESTS),
    ];
    let trials = groups
        .iter()
        .flat_map(|(group, tests)| {
            tests.iter().map(move |(name, run)| {
                let obstacle = match *group {
                    "faults" => faults::obstacle(),
                    _ => None,
                };
                match obstacle {
                    // What cannot run is shown with its cause, and has not passed.
                    Some(cause) => trial(group, name, *run)
                        .with_kind(format!("not run: {cause}"))
                        .with_ignored_flag(true),
                    None => trial(group, name, *run),
                }
            })
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(group: &str, name: &str, run: fn()) -> Trial {
    Trial::test(format!("{group}::{name}"), move || {
        std::panic::catch_unwind(run).map_err(|payload| {
            let text = payload
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| payload.downcast_ref::<&str>().copied())
                .unwrap_or("panicked");
            Failed::from(text)
        })
    })
}
