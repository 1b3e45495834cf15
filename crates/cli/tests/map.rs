//! `cohmem map` on real processes: large, many-pieced, sparse, and its own.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;

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

    /// Its map, made with at most 60 s of processor time and 512 MiB of address space.
    fn map(&self, arguments: &[&str]) -> Output {
        let output = Command::new("prlimit")
            .args([
                "--cpu=60",
                "--as=536870912",
                env!("CARGO_BIN_EXE_cohmem"),
                "map",
            ])
            .arg(self.0.id().to_string())
            .args(arguments)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        output
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

#[test]
fn untouched_address_space_costs_nothing() {
    // Reading an entry for each page of 16 TiB would take minutes.
    let subject = Subject::start(
        "a = mmap.mmap(-1, 100 << 30, flags=FLAGS)\na.madvise(NO_HUGE_PAGES)\n\
         for page in range(0, 100 << 30, 1 << 30): a[page] = 1\n\
         b = mmap.mmap(-1, 16 << 40, flags=FLAGS, prot=mmap.PROT_READ)",
    );
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
