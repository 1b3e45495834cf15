//! `cargo xtask docs`: the manual pages and shell completions, made by the command itself from the
//! definition of its command line. They are not kept under version control: nothing can go stale.

use std::{
    fs,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    place::{cargo, target},
    setup::{self, Group},
};

/// Shells that there are completions for.
const SHELLS: [&str; 3] = ["bash", "fish", "zsh"];

/// Arguments of `cargo xtask docs`.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// What was written.
#[derive(Debug)]
pub(crate) struct Docs {
    /// The manual pages.
    pub(crate) pages: Vec<PathBuf>,
    /// The completions.
    completions: Vec<PathBuf>,
}

/// Runs the job.
pub(crate) fn run(_args: &Args) -> Result<ExitCode> {
    cargo(&["build", "--quiet", "--release", "--package", "cohmem-cli"])?;
    let docs = write("")?;
    for path in docs.pages.iter().chain(&docs.completions) {
        println!("{}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes all of it below the target directory, with the release build of the command, which must be
/// there; `date` is at the foot of the pages.
///
/// # Errors
///
/// When the command fails.
pub(crate) fn write(date: &str) -> Result<Docs> {
    let directory = target()?.join("docs");
    if directory.exists() {
        fs::remove_dir_all(&directory)
            .with_context(|| format!("cannot clear {}", directory.display()))?;
    }
    let man = directory.join("man1");
    let page_directory = man.display().to_string();
    cohmem(&["man", "--date", date, &page_directory])?;
    let mut pages = Vec::new();
    for entry in fs::read_dir(&man).with_context(|| page_directory.clone())? {
        pages.push(entry?.path());
    }
    pages.sort();
    let mut scripts = Vec::new();
    for shell in SHELLS {
        let path = directory.join(format!("cohmem.{shell}"));
        fs::write(&path, completions(shell)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        scripts.push(path);
    }
    Ok(Docs {
        pages,
        completions: scripts,
    })
}

/// The completions for a shell.
///
/// # Errors
///
/// As [`write`].
pub(crate) fn completions(shell: &str) -> Result<Vec<u8>> {
    cohmem(&["completions", shell])
}

/// Every page passes mandoc and man without a complaint, every script its shell's parser if that shell
/// is here.
///
/// # Errors
///
/// All complaints.
pub(crate) fn check() -> Result<()> {
    setup::ensure(Group::Package)?;
    cargo(&["build", "--quiet", "--release", "--package", "cohmem-cli"])?;
    let docs = write("2026-01-31")?;
    let mut complaints = Vec::new();
    for page in &docs.pages {
        let mut mandoc = Command::new("mandoc");
        mandoc.args(["-T", "lint", "-W", "warning"]).arg(page);
        let found = said(&mut mandoc)?;
        complaints.extend(
            found
                .lines()
                .filter(|line| is_complaint(line))
                .map(str::to_owned),
        );
        let mut man = Command::new("man");
        man.args(["--warnings", "-E", "UTF-8", "-Tutf8", "-Z", "--local-file"])
            .arg(page)
            .env("LC_ALL", "C.UTF-8")
            .env("MANROFFSEQ", "")
            .env("MANWIDTH", "80");
        let output = man.output().context("cannot run man")?;
        let text = String::from_utf8_lossy(&output.stderr);
        complaints.extend(text.lines().map(str::to_owned));
        if !output.status.success() {
            complaints.push(format!("man {}: {}", page.display(), output.status));
        }
    }
    for script in &docs.completions {
        let shell = script.extension().context("named by the shell")?;
        // -n: read, do not run.
        let Ok(output) = Command::new(shell).arg("-n").arg(script).output() else {
            println!("no {} here to read its completions", shell.display());
            continue;
        };
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            complaints.push(format!("{}: {text}", script.display()));
        }
    }
    if !complaints.is_empty() {
        bail!("{}", complaints.join("\n"));
    }
    println!(
        "{} manual pages and {} completions pass",
        docs.pages.len(),
        docs.completions.len()
    );
    Ok(())
}

/// Whether a line of mandoc's is about more than style, and not about what clap_mangen always writes
/// between an option's text and the list of its values.
fn is_complaint(line: &str) -> bool {
    !line.contains("STYLE:") && !line.contains("skipping paragraph macro: br")
}

/// What a command prints, whatever its exit status.
fn said(command: &mut Command) -> Result<String> {
    let program = command.get_program().display().to_string();
    let output = command
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs the release build of the command.
fn cohmem(arguments: &[&str]) -> Result<Vec<u8>> {
    let program = target()?.join("release/cohmem");
    let output = Command::new(&program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("cohmem {}: {}\n{text}", arguments.join(" "), output.status);
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::is_complaint;

    #[test]
    fn only_what_a_reader_would_see_is_a_complaint() {
        let page = "mandoc: cohmem.1:3:1: ";
        assert!(is_complaint(&format!("{page}WARNING: missing date")));
        assert!(is_complaint(&format!(
            "{page}ERROR: skipping unknown macro"
        )));
        assert!(!is_complaint(&format!(
            "{page}STYLE: input text line longer"
        )));
        assert!(!is_complaint(&format!(
            "{page}WARNING: skipping paragraph macro: br after sp"
        )));
    }
}
