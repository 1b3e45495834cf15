//! `cargo xtask mutants`: small faults, one for each guard and each point of the contract, and the test
//! that must notice each.
//!
//! A mutant is applied to a copy of the tree, the copy is built (a mutant that does not compile proves
//! nothing and fails the job), and its test is run, which must fail. CI runs the part marked so.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use crate::place::{TREE_VARIABLE, repository, target};

mod debug;
mod engine;
mod fault;
mod follow;
mod history;
mod idle;
mod library;
mod list;
mod objects;
mod private;
mod quota;
mod see;
mod waiting;

/// Seconds that a host test may take: a mutant that hangs is noticed as well.
const HOST_LIMIT: &str = "300";
/// What `timeout` ends with when it ended the program.
const TIME_LIMIT_STATUS: i32 = 124;

/// Arguments of `cargo xtask mutants`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only the part that CI runs
    #[arg(long)]
    ci: bool,
    /// Only mutants whose name contains this
    filter: Option<String>,
    /// Print the list and stop
    #[arg(long)]
    list: bool,
}

/// A fault, and the test that must notice it.
struct Mutant {
    name: &'static str,
    /// The guard or the point of the contract that it takes out.
    guards: &'static str,
    /// File, text that occurs once in it, and what it becomes.
    changes: &'static [(&'static str, &'static str, &'static str)],
    test: Test,
    is_in_ci: bool,
}

/// A test that must fail.
enum Test {
    /// A host test of a package: test target (`lib` for the tests inside the library, `bin` for those
    /// inside the program), and a part of the test's name.
    Host {
        package: &'static str,
        target: &'static str,
        name: &'static str,
    },
    /// A guest test of the stage, by name.
    Guest {
        stage: &'static str,
        name: &'static str,
    },
    /// A guest test on the debug kernel, for what the stock kernel has not.
    DebugGuest {
        stage: &'static str,
        name: &'static str,
    },
}

/// Runs the job.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let filter = args.filter.as_deref().unwrap_or_default();
    let mutants: Vec<_> = all()
        .filter(|mutant| (mutant.is_in_ci || !args.ci) && mutant.name.contains(filter))
        .collect();
    if mutants.is_empty() {
        bail!("no mutant's name contains {filter}");
    }
    if args.list {
        for mutant in &mutants {
            println!("{:<40} {}", mutant.name, mutant.guards);
        }
        return Ok(ExitCode::SUCCESS);
    }
    run_all(&mutants)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs the fixed part.
pub(crate) fn check() -> Result<()> {
    run_all(&all().filter(|mutant| mutant.is_in_ci).collect::<Vec<_>>())
}

fn all() -> impl Iterator<Item = &'static Mutant> {
    list::MUTANTS
        .iter()
        .chain(engine::MUTANTS)
        .chain(fault::MUTANTS)
        .chain(waiting::MUTANTS)
        .chain(follow::MUTANTS)
        .chain(idle::MUTANTS)
        .chain(see::MUTANTS)
        .chain(library::MUTANTS)
        .chain(quota::MUTANTS)
        .chain(debug::MUTANTS)
        .chain(private::MUTANTS)
        .chain(history::MUTANTS)
        .chain(objects::MUTANTS)
}

/// The arguments of `cargo test` for a target.
fn target_arguments(target: &str) -> Vec<&str> {
    match target {
        "lib" => vec!["--lib"],
        "bin" => vec!["--bins"],
        target => vec!["--test", target],
    }
}

fn run_all(mutants: &[&Mutant]) -> Result<()> {
    check_unchanged(mutants)?;
    let mut survivors = Vec::new();
    for mutant in mutants {
        let start = Instant::now();
        let is_caught = mutant
            .run()
            .with_context(|| format!("the mutant {}", mutant.name))?;
        println!(
            "{:<9} {:<40} {} ({} s)",
            if is_caught { "caught" } else { "SURVIVED" },
            mutant.name,
            mutant.guards,
            start.elapsed().as_secs()
        );
        if !is_caught {
            survivors.push(mutant.name);
        }
    }
    println!(
        "mutants: {} passed, {} failed",
        mutants.len() - survivors.len(),
        survivors.len()
    );
    if !survivors.is_empty() {
        bail!("no test noticed {}", survivors.join(", "));
    }
    Ok(())
}

/// Without a fault the host tests pass in the copy: else a failure would prove nothing. The guest's have
/// stages of their own.
fn check_unchanged(mutants: &[&Mutant]) -> Result<()> {
    let mut checked = Vec::new();
    for mutant in mutants {
        let Test::Host {
            package, target, ..
        } = mutant.test
        else {
            continue;
        };
        if checked.contains(&(package, target)) {
            continue;
        }
        let mut test = vec!["test", "--quiet", "--package", package];
        test.extend(target_arguments(target));
        let mut build = test.clone();
        build.push("--no-run");
        let tree = copy_tree()?;
        // Without the time limit, which is the tests'.
        let (built, output) = call(&tree, Program::Cargo, &build)?;
        if built != Ended::Passed {
            bail!("without a fault, {package} does not build:\n{output}");
        }
        let (ended, output) = call(&tree, Program::HostTest, &test)?;
        if ended != Ended::Passed {
            bail!("without a fault, the tests of {package} fail:\n{output}");
        }
        checked.push((package, target));
    }
    Ok(())
}

impl Mutant {
    /// Whether the test noticed.
    fn run(&self) -> Result<bool> {
        let tree = copy_tree()?;
        for &(file, from, to) in self.changes {
            let path = tree.join(file);
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {file}"))?;
            let nr_found = text.matches(from).count();
            if nr_found != 1 {
                bail!("its text occurs {nr_found} times in {file}, must be once: {from}");
            }
            fs::write(&path, text.replacen(from, to, 1))?;
        }
        let (build, test) = match self.test {
            Test::Host {
                package,
                target,
                name,
            } => {
                let mut build = vec!["test", "--no-run", "--package", package];
                build.extend(target_arguments(target));
                let mut test = vec!["test", "--package", package];
                test.extend(target_arguments(target));
                test.push(name);
                (build, test)
            }
            Test::Guest { stage, name } | Test::DebugGuest { stage, name } => {
                let mut build = match stage {
                    "hooks" => vec!["kmod", "--hooks"],
                    "dmirror" => vec!["kmod", "--dmirror"],
                    _ => vec!["kmod"],
                };
                let mut test = vec!["test", stage, "--filter", name];
                if matches!(self.test, Test::DebugGuest { .. }) {
                    build.extend(["--kernel", "debug"]);
                    test.extend(["--kernel", "debug"]);
                }
                (build, test)
            }
        };
        let is_host = matches!(self.test, Test::Host { .. });
        let (builder, tester) = if is_host {
            (Program::Cargo, Program::HostTest)
        } else {
            (Program::Own, Program::Own)
        };
        let (built, output) = call(&tree, builder, &build)?;
        if built != Ended::Passed {
            bail!("it does not build:\n{output}");
        }
        let (ended, output) = call(&tree, tester, &test)?;
        let passed = ended == Ended::Passed;
        if passed && is_host && !output.contains(" 0 failed;") || output.contains("running 0 tests")
        {
            bail!("its test did not run:\n{output}");
        }
        if ended == Ended::TimeLimit {
            println!("          {} was caught by time limit", self.name);
        }
        Ok(!passed)
    }
}

/// What is run in the copy.
#[derive(Clone, Copy)]
enum Program {
    Cargo,
    /// Cargo, with a time limit.
    HostTest,
    /// This program.
    Own,
}

/// How it ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Passed,
    Failed,
    TimeLimit,
}

/// Runs a program in the copy; how it ended, and what it printed.
fn call(tree: &Path, program: Program, arguments: &[&str]) -> Result<(Ended, String)> {
    let mut command = match program {
        Program::Cargo => Command::new(env!("CARGO")),
        Program::HostTest => {
            let mut command = Command::new("timeout");
            command.args([HOST_LIMIT, env!("CARGO")]);
            command
        }
        Program::Own => Command::new(std::env::current_exe()?),
    };
    let output = command
        .args(arguments)
        .current_dir(tree)
        .env(TREE_VARIABLE, tree)
        .env("CARGO_TARGET_DIR", target()?.join("mutants/target"))
        .stdin(Stdio::null())
        .output()
        .with_context(|| arguments.join(" "))?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    let ended = match output.status.code() {
        Some(0) => Ended::Passed,
        Some(TIME_LIMIT_STATUS) => Ended::TimeLimit,
        _ => Ended::Failed,
    };
    Ok((ended, text))
}

/// A fresh copy of the files under version control; unchanged files keep their times, so that builds
/// stay incremental.
fn copy_tree() -> Result<PathBuf> {
    let tree = target()?.join("mutants/tree");
    let list = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(repository()?)
        .output()
        .context("git ls-files")?;
    if !list.status.success() {
        bail!("git ls-files: {}", list.status);
    }
    let names = String::from_utf8(list.stdout)?;
    remove_others(&tree, &names.lines().map(|name| tree.join(name)).collect())?;
    for name in names.lines() {
        let (from, to) = (repository()?.join(name), tree.join(name));
        let content = match fs::read(&from) {
            Ok(content) => content,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("cannot read {name}")),
        };
        if fs::read(&to).is_ok_and(|old| old == content) {
            continue;
        }
        if let Some(directory) = to.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(&to, content)?;
    }
    Ok(tree)
}

/// Removes the files below `directory` that an earlier copy had and this one has not.
fn remove_others(directory: &Path, wanted: &BTreeSet<PathBuf>) -> Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(&path, wanted)?;
        } else if !wanted.contains(&path) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}
