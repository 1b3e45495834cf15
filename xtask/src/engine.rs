//! The engine's tests, at every level of privilege: as the caller, and as a user without any.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    place::{cargo, repository},
    setup::{self, Group},
};

/// The user and group `nobody`.
const NOBODY: u32 = 65534;

/// Runs all tests as the caller, and where that is root once more as `nobody`.
pub(crate) fn check() -> Result<()> {
    setup::ensure(Group::Build)?;
    cargo(&["test", "--quiet", "--package", "cohmem-engine", "--doc"])?;
    let programs = build(&[])?;
    run_all("the caller", &programs, None)?;
    let is_root = fs::metadata("/proc/self").context("/proc")?.uid() == 0;
    if !is_root {
        println!("engine: not run as nobody: only root can become another user");
        return Ok(());
    }
    // Where the tree lies, another user may not be allowed to look.
    let directory = std::env::temp_dir().join(format!("cohmem-engine-{}", process::id()));
    let copied = copy(&programs, &directory);
    let result = copied.and_then(|programs| run_all("nobody", &programs, Some(NOBODY)));
    fs::remove_dir_all(&directory).with_context(|| format!("remove {}", directory.display()))?;
    result
}

/// Builds the test programs, with more arguments to cargo.
pub(crate) fn build(arguments: &[&str]) -> Result<Vec<PathBuf>> {
    let output = Command::new(env!("CARGO"))
        .args(["test", "--package", "cohmem-engine", "--no-run"])
        .args(arguments)
        .current_dir(repository()?)
        .stderr(Stdio::piped())
        .output()
        .context("cargo test")?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("the engine's tests do not build:\n{text}");
    }
    let root = repository()?;
    // `  Executable tests/NAME.rs (PATH)`
    let programs: Vec<_> = text
        .lines()
        .filter(|line| line.trim_start().starts_with("Executable "))
        .filter_map(|line| line.split_once('(')?.1.strip_suffix(')'))
        .map(|path| root.join(path))
        .collect();
    if programs.is_empty() {
        bail!("cargo named no test program:\n{text}");
    }
    Ok(programs)
}

fn copy(programs: &[PathBuf], directory: &Path) -> Result<Vec<PathBuf>> {
    let context = || format!("copy the engine's tests to {}", directory.display());
    fs::create_dir_all(directory).with_context(context)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).with_context(context)?;
    programs
        .iter()
        .map(|program| {
            let target = directory.join(program.file_name().context("a program has a name")?);
            fs::copy(program, &target).with_context(context)?;
            fs::set_permissions(&target, fs::Permissions::from_mode(0o755))
                .with_context(context)?;
            Ok(target)
        })
        .collect()
}

/// Runs each program, and tells how many tests passed and what they could not run.
fn run_all(who: &str, programs: &[PathBuf], user: Option<u32>) -> Result<()> {
    let mut not_run = BTreeSet::new();
    let mut nr_passed = 0;
    for program in programs {
        let mut command = Command::new(program);
        // What was not run is told on standard error, which tests that pass do not show otherwise.
        command.arg("--nocapture").stdin(Stdio::null());
        if let Some(user) = user {
            command.uid(user).gid(user).current_dir("/");
        }
        let output = match command.output() {
            Ok(output) => output,
            Err(error) if user.is_some() && error.kind() == io::ErrorKind::PermissionDenied => {
                println!("engine: not run as {who}: {}: {error}", program.display());
                return Ok(());
            }
            Err(error) => return Err(error).with_context(|| program.display().to_string()),
        };
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        if !output.status.success() {
            bail!("as {who}, {}: {}\n{text}", program.display(), output.status);
        }
        not_run.extend(
            text.lines()
                .filter_map(|line| Some(line.split_once("NOT RUN: ")?.1.to_owned())),
        );
        nr_passed += text
            .lines()
            .filter_map(|line| line.strip_prefix("test result: ok. ")?.split_once(' '))
            .filter_map(|(number, _)| number.parse::<u64>().ok())
            .sum::<u64>();
    }
    if nr_passed == 0 {
        bail!("as {who} no test ran");
    }
    println!("engine as {who}: {nr_passed} passed");
    for what in not_run {
        println!("engine as {who}: not run: {what}");
    }
    Ok(())
}
