//! The command as it is run: output, messages and exit status on a host without the module.

use std::{
    fs,
    io::Read,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

fn cohmem(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cohmem"))
        .args(arguments)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Says so, and leaves the test: with the module the answers are others, which the lab tests.
fn has_module() -> bool {
    let is_loaded = Path::new("/sys/class/cohmem").exists();
    if is_loaded {
        eprintln!("SKIP: the cohmem module is loaded here");
    }
    is_loaded
}

#[test]
fn the_version_is_that_of_the_workspace() {
    let output = cohmem(&["--version"]);
    assert!(output.status.success());
    assert_eq!(
        text(&output.stdout),
        concat!("cohmem ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn without_the_module_the_list_holds_no_device() {
    if has_module() {
        return;
    }
    let output = cohmem(&["list", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert!(rows.iter().all(|row| row["type"] == "range"), "{rows:?}");
    assert!(text(&output.stderr).is_empty());
}

#[test]
fn without_the_module_nothing_else_is_possible() {
    if has_module() {
        return;
    }
    for arguments in [
        &["attach", "0x100000000+256M"][..],
        &["attach"],
        &["attach", "--all"],
        &["detach", "cohmem0"],
        &["evict", "0"],
        &["quota", "list", "cohmem0"],
        &["quota", "set", "cohmem0", "4G", "--default"],
        &["migrate", "--pid", "1", "--to", "device:0"],
        &["migrate", "--pid", "1", "--to", "system"],
        &["run", "--", "true"],
        &["explain", "1", "0x1000"],
    ] {
        let output = cohmem(arguments);
        assert_eq!(output.status.code(), Some(3), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        let message = text(&output.stderr);
        let mut lines = message.lines();
        let first = lines.next().unwrap();
        assert!(first.starts_with("error: /dev/cohmem"), "{message}");
        assert!(
            first.contains("the cohmem module is not loaded"),
            "{message}"
        );
        assert_eq!(
            lines.next(),
            Some("caused by: No such file or directory (os error 2)")
        );
    }
}

#[test]
fn without_the_module_a_program_is_told_what_else_would_work() {
    if has_module() {
        return;
    }
    let output = cohmem(&["run", "--policy", "heap;limit=1G", "--", "true"]);
    assert_eq!(output.status.code(), Some(3));
    let message = text(&output.stderr);
    let (_, help) = message.split_once("\nhelp: ").unwrap();
    for way in ["modprobe cohmem", "cohmem doctor", "engine", "numactl"] {
        assert!(help.contains(way), "{message}");
    }
}

#[test]
fn a_program_is_not_started_under_a_policy_that_cannot_be() {
    let directory = tempfile::tempdir().unwrap();
    let mark = directory.path().join("mark");
    for (arguments, says) in [
        (&["--policy", "limit=1"][..], "leaves no room for a page"),
        (
            &["--device", "0", "--policy", "devices=0"],
            "both name devices",
        ),
    ] {
        let program = ["--", "touch", mark.to_str().unwrap()];
        let output = cohmem(&[&["run"], arguments, &program].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(
            text(&output.stderr).contains(says),
            "{}",
            text(&output.stderr)
        );
        assert!(!mark.exists());
    }
}

#[test]
fn the_doctor_says_what_is_missing() {
    if has_module() {
        return;
    }
    let output = cohmem(&["doctor", "--json"]);
    assert_eq!(output.status.code(), Some(3));
    let checks: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let module = checks
        .iter()
        .find(|check| check["check"] == "module")
        .unwrap();
    assert_eq!(module["verdict"], "fail");
    assert_eq!(module["fix"], "modprobe cohmem");
    for check in &checks {
        assert_eq!(check["schema"], "cohmem.doctor/1");
        assert!(
            ["ok", "warn", "fail"].contains(&check["verdict"].as_str().unwrap()),
            "{check}"
        );
        assert!(!check["says"].as_str().unwrap().is_empty());
    }
    let output = cohmem(&["doctor"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stdout).contains("fail  module"));
    assert!(
        !text(&output.stdout).contains('\x1b'),
        "no colour without a terminal"
    );
}

#[test]
fn wrong_use_names_the_value_and_its_limit() {
    for (arguments, says) in [
        (
            &["attach", "0x1000"][..],
            "range \"0x1000\" is not START-END or START+SIZE",
        ),
        (
            &["attach", "0x2000-0x1000"],
            "range 0x2000-0x1000 ends below its start",
        ),
        (&["attach", "tape0"], "\"tape0\" is not a range"),
        (
            &["detach", "cohmem99"],
            "device \"cohmem99\" is not cohmemN or N with N below 16",
        ),
        (
            &["evict", "0", "--timeout", "2d"],
            "\"2d\" is not a number with ms, s, m or h",
        ),
        (
            &["migrate", "--pid", "x", "--to", "system"],
            "invalid digit",
        ),
        (&["top"], "the standard output is no terminal"),
        (&["frobnicate"], "frobnicate"),
        (&[], "Usage"),
    ] {
        let output = cohmem(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(
            text(&output.stderr).contains(says),
            "{}",
            text(&output.stderr)
        );
    }
}

#[test]
fn a_file_that_names_nothing_needs_no_module() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("attach.conf");
    let run = |text: &str| {
        fs::write(&file, text).unwrap();
        cohmem(&["attach", "--file", file.to_str().unwrap()])
    };
    let output = run("# nothing yet\n");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).ends_with("attach.conf names nothing to attach\n"));
    let output = run("# a device\ntape0\n");
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).contains("attach.conf line 2: \"tape0\" is not a range"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_cohmem"))
        .args(["doctor"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut message = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut message)
        .unwrap();
    child.wait().unwrap();
    assert_eq!(message, "");
}

#[test]
fn every_command_has_a_manual_page() {
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man1");
    let output = cohmem(&["man", pages.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let help = cohmem(&["--help"]);
    let (_, commands) = text(&help.stdout).split_once("Commands:\n").unwrap();
    let (commands, _) = commands.split_once("\n\n").unwrap();
    // Lines of a long text are indented further.
    let names = commands
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    for name in names.filter(|name| !name.is_empty() && *name != "help") {
        let page = pages.join(format!("cohmem-{name}.1"));
        let page = fs::read_to_string(&page).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(page.contains(&format!("\\fBcohmem {name}\\fR")), "{page}");
    }
    let cohmem = fs::read_to_string(pages.join("cohmem.1")).unwrap();
    assert!(cohmem.contains("EXIT STATUS"), "{cohmem}");
}

#[test]
fn completions_are_scripts_of_their_shell() {
    for (shell, says) in [
        ("bash", "complete -F"),
        ("fish", "complete -c cohmem"),
        ("zsh", "#compdef cohmem"),
    ] {
        let output = cohmem(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(text(&output.stdout).contains(says), "{shell}");
        assert!(text(&output.stdout).contains("migrate"), "{shell}");
    }
}

#[test]
fn the_help_names_every_command() {
    let output = cohmem(&["--help"]);
    let help = text(&output.stdout);
    for command in [
        "list", "attach", "detach", "migrate", "evict", "run", "map", "top", "metrics", "doctor",
    ] {
        assert!(help.contains(&format!("  {command} ")), "{help}");
    }
    assert!(help.contains("3 not possible on this machine"));
}

/// All files of a directory and of those in it.
fn text_below(directory: &Path) -> String {
    let entries = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .map(|path| {
            if path.is_dir() {
                text_below(&path)
            } else {
                fs::read_to_string(&path).unwrap()
            }
        })
        .collect()
}

#[test]
fn every_schema_is_named_once() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cmd");
    let sources = text_below(&directory);
    for command in [
        "list", "attach", "detach", "evict", "migrate", "map", "top", "doctor",
    ] {
        assert!(
            sources.contains(&format!("\"cohmem.{command}/1\"")),
            "{command}"
        );
    }
}
