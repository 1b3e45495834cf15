//! `cargo xtask lints`: formatting, clippy, and the house rules that no tool knows.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

use crate::place::{cargo, repository};

/// Arguments of `cargo xtask lints`.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Lines of a source file at most.
const MAX_LINES: usize = 800;

/// Directories and files whose code may be unsafe; everything else forbids it.
const UNSAFE_PLACES: [&str; 12] = [
    "kernel/module/src/sys/",
    "kernel/sys/src/",
    "kernel/dmirror/src/sys.rs",
    "crates/cohmem/src/sys/",
    // A child that touches memory which it may not have.
    "crates/cohmem/tests/conformance/sys.rs",
    "crates/engine/src/sys/",
    // Words and system calls on memory that other threads use at the same time.
    "crates/engine/tests/support/",
    "lab/guest/src/sys",
    "bench/src/sys.rs",
    // loom's cells, which stand for the content of frames.
    "crates/frames/tests/loom.rs",
    // Only the word, in planted faults and in the checks below.
    "xtask/src/mutants/engine.rs",
    "xtask/src/lints.rs",
];

/// Words that name nothing.
const BANNED_ENDINGS: [&str; 8] = [
    "Manager",
    "Helper",
    "Util",
    "Utils",
    "Service",
    "Processor",
    "Wrapper",
    "Impl",
];

/// Runs the job.
pub(crate) fn run(_args: &Args) -> Result<ExitCode> {
    check()?;
    Ok(ExitCode::SUCCESS)
}

/// Checks the tree.
pub(crate) fn check() -> Result<()> {
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&[
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ])?;
    let mut complaints = Vec::new();
    let mut nr_unsafe = BTreeMap::new();
    for path in sources()? {
        let text = fs::read_to_string(repository()?.join(&path))
            .with_context(|| format!("cannot read {}", path.display()))?;
        check_file(&path, &text, &mut complaints, &mut nr_unsafe);
    }
    for (place, count) in &nr_unsafe {
        println!("unsafe blocks in {place}: {count}");
    }
    if !complaints.is_empty() {
        bail!("{}", complaints.join("\n"));
    }
    Ok(())
}

/// Rust and C files under version control, or about to be.
fn sources() -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "*.rs",
            "*.c",
            "*.h",
        ])
        .current_dir(repository()?)
        .output()
        .context("git ls-files")?;
    if !output.status.success() {
        bail!("git ls-files: {}", output.status);
    }
    let list = String::from_utf8(output.stdout).context("file names are UTF-8")?;
    Ok(list.lines().map(PathBuf::from).collect())
}

fn check_file(
    path: &Path,
    text: &str,
    complaints: &mut Vec<String>,
    nr_unsafe: &mut BTreeMap<String, usize>,
) {
    let name = path.display().to_string();
    let nr_lines = text.lines().count();
    if nr_lines > MAX_LINES {
        complaints.push(format!(
            "{name}: {nr_lines} lines, the limit is {MAX_LINES}"
        ));
    }
    let is_kernel = name.starts_with("kernel/");
    if is_kernel
        && !text
            .lines()
            .next()
            .is_some_and(|line| line.contains("SPDX-License-Identifier: GPL-2.0"))
    {
        complaints.push(format!(
            "{name}: its first line is no SPDX-License-Identifier: GPL-2.0"
        ));
    }
    let count = text.lines().filter(|line| is_unsafe(line)).count();
    match UNSAFE_PLACES.iter().find(|place| name.starts_with(**place)) {
        Some(place) => *nr_unsafe.entry((*place).to_owned()).or_default() += count,
        None if count > 0 && name.ends_with(".rs") => {
            complaints.push(format!(
                "{name}: {count} unsafe blocks outside the places for them"
            ));
        }
        None => {}
    }
    for line in text.lines() {
        if let Some(word) = banned_type(line) {
            complaints.push(format!("{name}: the type name {word} names nothing"));
        }
    }
}

fn is_unsafe(line: &str) -> bool {
    let code = line.trim_start();
    !code.starts_with("//") && (code.contains("unsafe {") || code.starts_with("unsafe impl"))
}

fn banned_type(line: &str) -> Option<&str> {
    let code = line
        .trim_start()
        .trim_start_matches("pub(crate) ")
        .trim_start_matches("pub ");
    let name = ["struct ", "enum ", "trait "]
        .iter()
        .find_map(|keyword| code.strip_prefix(keyword))?;
    let name = name
        .split(|letter: char| !letter.is_alphanumeric())
        .next()?;
    BANNED_ENDINGS
        .iter()
        .any(|ending| name.ends_with(ending))
        .then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints_of(path: &str, text: &str) -> Vec<String> {
        let mut complaints = Vec::new();
        check_file(Path::new(path), text, &mut complaints, &mut BTreeMap::new());
        complaints
    }

    #[test]
    fn each_rule_is_enforced() {
        assert!(complaints_of("crates/x/src/a.rs", "fn f() {}\n").is_empty());
        assert_eq!(
            complaints_of("crates/x/src/a.rs", &"\n".repeat(801)).len(),
            1
        );
        assert_eq!(
            complaints_of("kernel/core/src/a.rs", "fn f() {}\n").len(),
            1
        );
        assert_eq!(
            complaints_of("crates/x/src/a.rs", "    let a = unsafe { f() };\n").len(),
            1
        );
        assert!(complaints_of("bench/src/sys.rs", "    let a = unsafe { f() };\n").is_empty());
        assert_eq!(
            complaints_of("crates/x/src/a.rs", "pub struct PageManager;\n").len(),
            1
        );
    }
}
