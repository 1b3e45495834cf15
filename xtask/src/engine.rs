//! The engine's tests, at every level of privilege: as the caller, and as a user without any.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        process::CommandExt as _,
    },
    path::PathBuf,
    process::{self, Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    place::{cargo, repository, target},
    setup::{self, Group},
};

/// The user and group `nobody`.
pub(crate) const NOBODY: u32 = 65534;

/// Runs all tests as the caller, and where that is root once more as `nobody`.
pub(crate) fn check() -> Result<()> {
    setup::ensure(Group::Build)?;
    cargo(&["test", "--quiet", "--package", "cohmem-engine", "--doc"])?;
    let programs = programs()?;
    run_all("the caller", &programs, None)?;
    if !is_root()? {
        println!("engine: not run as nobody: only root can become another user");
        return Ok(());
    }
    let copies = Copies::of(&programs)?;
    run_all("nobody", copies.programs(), Some(NOBODY))
}

/// Runs the tests under AddressSanitizer, in a target directory of their own. Not those of limits: the
/// sanitizer needs mappings and memory of its own.
pub(crate) fn sanitize() -> Result<ExitCode> {
    let host = host()?;
    let status = Command::new(env!("CARGO"))
        .args(["test", "--package", "cohmem-engine", "--target", &host])
        .args(["--lib", "--test", "basics", "--test", "stress"])
        .args(["--test", "lifecycle", "--test", "system_calls"])
        // The installed compiler is a stable one, which has the sanitizer's run time, but not the flag.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", "-Zsanitizer=address")
        .env("CARGO_TARGET_DIR", target()?.join("sanitize"))
        .current_dir(repository()?)
        .status()
        .context("cargo test")?;
    if !status.success() {
        bail!("the engine's tests under AddressSanitizer: {status}");
    }
    Ok(ExitCode::SUCCESS)
}

/// The target that the compiler itself runs on: with one that is named, build scripts are not sanitized.
fn host() -> Result<String> {
    let output = Command::new("rustc")
        .arg("-vV")
        .current_dir(repository()?)
        .output()
        .context("rustc")?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .find_map(|line| Some(line.strip_prefix("host: ")?.to_owned()))
        .context("rustc -vV names no host")
}

pub(crate) fn is_root() -> Result<bool> {
    Ok(fs::metadata("/proc/self").context("/proc")?.uid() == 0)
}

/// Builds the test programs.
pub(crate) fn programs() -> Result<Vec<PathBuf>> {
    let output = Command::new(env!("CARGO"))
        .args(["test", "--package", "cohmem-engine", "--no-run"])
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

/// Programs where any user may run them; gone when it is dropped. Where the tree lies, another user may
/// not be allowed to look.
pub(crate) struct Copies {
    directory: PathBuf,
    programs: Vec<PathBuf>,
}

impl Copies {
    pub(crate) fn of(programs: &[PathBuf]) -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("cohmem-engine-{}", process::id()));
        let context = || format!("copy programs to {}", directory.display());
        fs::create_dir(&directory).with_context(context)?;
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&directory, open.clone()).with_context(context)?;
        let mut copies = Self {
            directory,
            programs: Vec::new(),
        };
        for program in programs {
            let name = program.file_name().context("a program has a name")?;
            let copied = copies.directory.join(name);
            fs::copy(program, &copied)
                .and_then(|_| fs::set_permissions(&copied, open.clone()))
                .with_context(|| format!("copy {} there", program.display()))?;
            copies.programs.push(copied);
        }
        Ok(copies)
    }

    pub(crate) fn programs(&self) -> &[PathBuf] {
        &self.programs
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("xtask: cannot remove {}: {error}", self.directory.display());
        }
    }
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
