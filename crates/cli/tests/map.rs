//! `cohmem map` on real processes: large, many-pieced, sparse, and its own.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, ExitStatus, Output, Stdio},
};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use serde_json::Value;

/// What the command said, and how many bytes it read: of files, not of page tables that it had scanned.
struct Looked {
    output: Output,
    bytes_read: u64,
}

/// Runs the command, with at most 60 s of processor time and 256 MiB of address space.
fn cohmem(arguments: &[&str]) -> Looked {
    let limits = ["--cpu=60", "--as=268435456"];
    let mut child = Command::new("prlimit")
        .args(limits)
        .arg(env!("CARGO_BIN_EXE_cohmem"))
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = Output {
        status: ExitStatus::default(),
        stdout: Vec::new(),
        stderr: Vec::new(),
    };
    // What it says on its standard error fits into a pipe.
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    stdout.unwrap().read_to_end(&mut output.stdout).unwrap();
    stderr.unwrap().read_to_end(&mut output.stderr).unwrap();
    let pid = Pid::from_child(&child);
    // It has ended, and its counts are there until it is collected.
    waitid(
        WaitId::Pid(pid),
        WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
    )
    .unwrap();
    let counts = std::fs::read_to_string(format!("/proc/{}/io", child.id())).unwrap();
    let read = counts.lines().find_map(|line| line.strip_prefix("rchar: "));
    output.status = child.wait().unwrap();
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{arguments:?}: {}: {messages}",
        output.status
    );
    Looked {
        bytes_read: read.unwrap().parse().unwrap(),
        output,
    }
}

/// Kernels from 6.7 on scan page tables; before, the command reads an entry for each page.
fn can_scan() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(|one: char| !one.is_ascii_digit())
        .map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(7))
}

/// A python3 that has run a script and waits.
struct Subject(Child);

impl Subject {
    /// Runs `script`, which has `mmap` imported and names its address `at` if it has one.
    fn start(script: &str) -> Self {
        let whole = format!(
            "import mmap, sys\nFLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000\n\
             NO_HUGE_PAGES = 15\n{script}\nprint('ready', flush=True)\nsys.stdin.read()\n"
        );
        let mut child = Command::new("python3")
            .args(["-c", &whole])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n", "the script failed");
        Self(child)
    }

    /// Its map.
    fn map(&self, arguments: &[&str]) -> Output {
        let pid = self.0.id().to_string();
        let words = ["map", &pid];
        cohmem(&[&words, arguments].concat()).output
    }

    fn json(&self) -> Value {
        let output = self.map(&["--json"]);
        let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0]["schema"], "cohmem.map/1");
        assert_eq!(rows[0]["pid"], self.0.id());
        rows[0].clone()
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn mapping_of(row: &Value, size: u64) -> &Value {
    let mappings = row["mappings"].as_array().unwrap();
    mappings
        .iter()
        .find(|mapping| mapping["size"] == size)
        .unwrap()
}

/// `map` and `top` read no more than a list of 50,000 mappings: an entry for each page of 100 GiB would be
/// 200 MiB.
fn expect_few_bytes_read(subject: &Subject) {
    if !can_scan() {
        eprintln!("SKIP: this kernel has no PAGEMAP_SCAN");
        return;
    }
    let pid = subject.0.id().to_string();
    for arguments in [&["map", &pid, "--json"][..], &["top", "--json"]] {
        let looked = cohmem(arguments);
        let said = looked.output.stdout;
        let rows: Vec<Value> = serde_json::from_slice(&said).unwrap();
        assert!(rows.iter().any(|row| row["pid"] == subject.0.id()));
        let most = 16 << 20;
        assert!(
            looked.bytes_read < most,
            "{arguments:?}: {}",
            looked.bytes_read
        );
    }
}

#[test]
fn untouched_address_space_costs_nothing() {
    // Reading an entry for each page of 16 TiB would take minutes.
    let subject = Subject::start(
        "a = mmap.mmap(-1, 100 << 30, flags=FLAGS)\na.madvise(NO_HUGE_PAGES)\n\
         for page in range(0, 100 << 30, 1 << 30): a[page] = 1\n\
         b = mmap.mmap(-1, 16 << 40, flags=FLAGS, prot=mmap.PROT_READ)",
    );
    expect_few_bytes_read(&subject);
    let row = subject.json();
    let large = mapping_of(&row, 100 << 30);
    assert_eq!(large["bytes"]["system"], 100 * 4096);
    assert_eq!(mapping_of(&row, 16 << 40)["bytes"], serde_json::json!({}));
    assert!(row["bytes_mapped"].as_u64().unwrap() > 16 << 40);
    assert!(row["granules"].as_array().unwrap().len() <= 1024);
}

#[test]
fn fifty_thousand_mappings_are_shown() {
    let subject = Subject::start(
        "both = mmap.PROT_READ | mmap.PROT_WRITE\n\
         a = [mmap.mmap(-1, 4096, flags=FLAGS, prot=both if at % 2 else mmap.PROT_READ)\n\
         \x20    for at in range(50_000)]\n\
         for one in a[1::2]: one[0] = 1",
    );
    expect_few_bytes_read(&subject);
    let row = subject.json();
    let mappings = row["mappings"].as_array().unwrap();
    assert!(mappings.len() >= 50_000, "{}", mappings.len());
    assert!(row["bytes"]["system"].as_u64().unwrap() >= 25_000 * 4096);
    let text = subject.map(&[]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.lines().count() < 40, "{text}");
    assert!(text.contains("others"), "{text}");
}

#[test]
fn pages_of_zeros_and_files_are_told_from_others() {
    let subject = Subject::start(
        "a = mmap.mmap(-1, 3 << 20, flags=FLAGS)\na.madvise(NO_HUGE_PAGES)\n\
         for page in range(0, 64 << 12, 4096): a[page]\n\
         for page in range(1 << 20, (1 << 20) + (16 << 12), 4096): a[page] = 1\n\
         b = mmap.mmap(-1, 5 << 20)\n\
         for page in range(0, 8 << 12, 4096): b[page] = 1",
    );
    let row = subject.json();
    let bytes = &mapping_of(&row, 3 << 20)["bytes"];
    assert_eq!(bytes["system"], 16 * 4096);
    assert_eq!(bytes["zero"], 64 * 4096);
    // Shared memory is a file of the kernel's.
    assert_eq!(mapping_of(&row, 5 << 20)["bytes"]["file"], 8 * 4096);
}

#[test]
fn pictures_are_written() {
    let subject = Subject::start("");
    let directory = tempfile::tempdir().unwrap();
    let [svg, png] = ["a.svg", "a.png"].map(|name| directory.path().join(name));
    let [svg_name, png_name] = [&svg, &png].map(|path| path.to_str().unwrap());
    subject.map(&["--svg", svg_name, "--png", png_name]);
    assert!(std::fs::read_to_string(&svg).unwrap().ends_with("</svg>\n"));
    assert!(std::fs::read(&png).unwrap().starts_with(b"\x89PNG"));
    let output = subject.map(&[
        "--record",
        "250ms",
        "--interval",
        "50ms",
        "--json",
        "--svg",
        svg_name,
    ]);
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert!((1..=6).contains(&rows.len()), "{}", rows.len());
    assert_eq!(rows[0]["schema"], "cohmem.map-record/1");
    assert!(std::fs::read_to_string(&svg).unwrap().contains("over time"));
    let output = Command::new(env!("CARGO_BIN_EXE_cohmem"))
        .args([
            "map",
            &subject.0.id().to_string(),
            "--svg",
            "/nowhere/a.svg",
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        message.contains("error: cannot write /nowhere/a.svg"),
        "{message}"
    );
}

#[test]
fn the_map_of_itself_is_true() {
    let output = Command::new(env!("CARGO_BIN_EXE_cohmem"))
        .args(["map", "--self-test"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("16 blocks of 2 MiB"), "{text}");
    assert!(text.ends_with(": 0 wrong\n"), "{text}");
}
