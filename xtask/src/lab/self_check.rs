//! `cargo xtask lab --self-check`: plants bugs and looks whether the lab notices each, by the right
//! check, and lets clean runs pass.
//!
//! Checks that every kernel has are tried on the stock kernel, those of the debug kernel there.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    Guest, ModuleLoad, Outcome, Output, place,
    report::{Class, Complaint},
};
use crate::{
    kernel::{self, Kernel},
    setup::{self, Group},
};

/// One planted bug and what the lab must say about it.
struct Case {
    name: &'static str,
    /// Shell command to run in the guest.
    command: String,
    /// Expected exit status of the run.
    code: u8,
    /// Expected parts of complaints, the first one of the status's class; none for a run that passes or
    /// fails by itself.
    seen: &'static [&'static str],
    timeout: u64,
}

impl Case {
    fn own_status(name: &'static str, command: &str, code: u8) -> Self {
        Self {
            name,
            command: command.to_owned(),
            code,
            seen: &[],
            timeout: 120,
        }
    }

    fn caught(
        name: &'static str,
        before: &str,
        class: Class,
        seen: &'static [&'static str],
    ) -> Self {
        let command = format!("{before} echo {name} >/sys/module/planted/parameters/bug");
        Self {
            name,
            command,
            code: class.exit_code(),
            seen,
            timeout: 120,
        }
    }

    /// Whether the lab said what it should, and the complaint that says it.
    fn judge<'o>(&self, outcome: &'o Outcome) -> (bool, Option<&'o Complaint>) {
        let code = outcome.exit_code();
        let Some((first, others)) = self.seen.split_first() else {
            return (
                code == self.code && outcome.complaints.is_empty(),
                outcome.complaints.first(),
            );
        };
        let says = |complaint: &&Complaint, part: &str| complaint.text.contains(part);
        let mut complaints = outcome.complaints.iter();
        let found = complaints
            .find(|complaint| complaint.class.exit_code() == code && says(complaint, first));
        let are_said = others.iter().all(|part| {
            let mut complaints = outcome.complaints.iter();
            complaints.any(|complaint| says(&complaint, part))
        });
        (code == self.code && found.is_some() && are_said, found)
    }
}

fn cases(kernel: kernel::Name) -> Vec<Case> {
    match kernel {
        kernel::Name::Stock | kernel::Name::Newest => common_cases(),
        kernel::Name::Debug => debug_cases(),
    }
}

/// What only the debug kernel's checks see.
fn debug_cases() -> Vec<Case> {
    let kernel = |name, seen| Case::caught(name, "", Class::Kernel, seen);
    let mut cases = vec![
        Case::own_status("none", "echo none >/sys/module/planted/parameters/bug", 0),
        kernel("kasan", &["BUG: KASAN: slab-out-of-bounds in plant"]),
        kernel(
            "might-sleep",
            &["BUG: sleeping function called from invalid"],
        ),
        kernel("page-table", &["kernel BUG at mm/page_table_check.c:"]),
        // Leaks are looked for at the end, which takes its time: once for both.
        Case::caught(
            "lockdep",
            "echo kmemleak >/sys/module/planted/parameters/bug;",
            Class::Lockdep,
            &[
                "possible circular locking",
                "the lock validator has complained",
                "kmemleak found 1 objects of module planted",
            ],
        ),
    ];
    for case in &mut cases {
        case.timeout = 600;
    }
    cases
}

fn common_cases() -> Vec<Case> {
    let kernel = |name, seen| Case::caught(name, "", Class::Kernel, seen);
    vec![
        Case::own_status("none", "echo none >/sys/module/planted/parameters/bug", 0),
        Case::own_status("status", "exit 7", 7),
        Case::own_status("signal", "kill -SEGV $$", 139),
        kernel("warn", &["WARNING: CPU:"]),
        kernel("refcount", &["WARNING: CPU:"]),
        kernel("bug", &["kernel BUG at "]),
        kernel("oops", &["Oops: "]),
        kernel("panic", &["Kernel panic - "]),
        kernel("double-free", &["kernel BUG at "]),
        kernel("sleep-in-atomic", &["BUG: scheduling while atomic"]),
        Case::caught(
            "soft-lockup",
            "echo 2 >/proc/sys/kernel/watchdog_thresh;",
            Class::Kernel,
            &["BUG: soft lockup"],
        ),
        Case::caught(
            "hung-task",
            "echo 3 >/proc/sys/kernel/hung_task_timeout_secs;",
            Class::Kernel,
            &["INFO: task "],
        ),
        kernel("taint", &["the kernel is tainted"]),
        kernel("log", &["BUG: planted"]),
        Case::caught(
            "lockdep-log",
            "",
            Class::Lockdep,
            &["possible circular locking"],
        ),
        Case::caught("leak", "", Class::Leak, &["leaked frames: "]),
        Case {
            name: "unkillable",
            command: "echo uninterruptible >/sys/module/planted/parameters/bug & sleep 1"
                .to_owned(),
            code: Class::Leak.exit_code(),
            seen: &["survives kill -9"],
            timeout: 120,
        },
        Case {
            timeout: 15,
            ..Case::caught("stuck", "", Class::Timeout, &["no end within 15 s"])
        },
        Case {
            name: "no-report",
            command: "/run/lab/busybox poweroff -f".to_owned(),
            code: Class::Harness.exit_code(),
            seen: &["without its report"],
            timeout: 120,
        },
    ]
}

/// Runs all cases; fails if one went unnoticed or was taken for another.
pub(super) fn run(kernel: kernel::Name) -> Result<()> {
    setup::ensure(Group::Build)?;
    setup::ensure(Group::Guest)?;
    let module = build_planted(&kernel.find()?)?;
    let mut wrong = 0;
    for case in cases(kernel) {
        let started = Instant::now();
        let outcome = Guest {
            modules: vec![ModuleLoad::file(module.clone())],
            command: ["sh", "-c", &case.command].map(str::to_owned).to_vec(),
            timeout: Duration::from_secs(case.timeout),
            output: Output::Capture,
            kernel,
            ..Guest::default()
        }
        .run()?;
        let seconds = started.elapsed().as_secs_f32();
        let code = outcome.exit_code();
        let (is_right, complaint) = case.judge(&outcome);
        let said = complaint.map_or_else(String::new, |complaint| format!("  {complaint}"));
        let verdict = if is_right { "ok  " } else { "FAIL" };
        println!(
            "{verdict} {:<16} exit {code:>3}  {seconds:4.1} s{said}",
            case.name
        );
        if !is_right {
            wrong += 1;
            println!("     expected exit {} and {:?}; got:", case.code, case.seen);
            for complaint in &outcome.complaints {
                println!("     {complaint}");
            }
            println!("     log: {}", outcome.kernel_log.display());
            for output in [&outcome.stdout, &outcome.stderr] {
                print!("{}", String::from_utf8_lossy(output));
            }
        }
    }
    if wrong > 0 {
        bail!("{wrong} planted bugs were not noticed as they should be");
    }
    Ok(())
}

/// Builds `lab/planted` by kbuild, in a copy, as kbuild writes beside its sources.
fn build_planted(kernel: &Kernel) -> Result<PathBuf> {
    let source = place::repository()?.join("lab/planted");
    let copy = place::lab_directory()?
        .join("planted")
        .join(&kernel.release);
    fs::create_dir_all(&copy).with_context(|| format!("cannot make {}", copy.display()))?;
    for name in ["Kbuild", "planted.c"] {
        fs::copy(source.join(name), copy.join(name))
            .with_context(|| format!("cannot copy {name} to {}", copy.display()))?;
    }
    let output = Command::new("make")
        .arg("-C")
        .arg(&kernel.build)
        .arg(format!("M={}", copy.display()))
        .arg("modules")
        .output()
        .context("cannot run make")?;
    if !output.status.success() {
        bail!(
            "kbuild failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(copy.join("planted.ko"))
}
