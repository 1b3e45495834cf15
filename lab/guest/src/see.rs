//! What the command shows of a process is true: the counts of `map` and `top` are those of the page
//! tables. And what it says of limits and of other tools is so.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::Path,
    process::{Command, Output},
};

use cohmem_uapi::FRAME_BYTES;
use serde_json::Value;

use crate::{
    Test,
    driver::Device,
    sys::{
        memory::{HUGE, Memory, PAGE},
        numa,
        process::{Child, Ended},
    },
};

pub(crate) const TESTS: &[Test] = &[
    (
        "the_map_shows_what_the_page_tables_hold",
        the_map_shows_what_the_page_tables_hold,
    ),
    ("the_map_of_itself_is_true", the_map_of_itself_is_true),
    (
        "a_large_address_space_costs_nothing",
        a_large_address_space_costs_nothing,
    ),
    (
        "top_shows_what_the_page_tables_hold",
        top_shows_what_the_page_tables_hold,
    ),
    (
        "a_memory_limit_is_told_in_time",
        a_memory_limit_is_told_in_time,
    ),
    (
        "other_tools_say_what_is_said_of_them",
        other_tools_say_what_is_said_of_them,
    ),
];

/// Pages by place, as `map --json` names them; system memory with the page of zeros.
type Pages = BTreeMap<String, u64>;

/// Runs the command, with at most two minutes of processor time.
fn cohmem(arguments: &[&str]) -> Output {
    Command::new("prlimit")
        .args(["--cpu=120", "cohmem"])
        .args(arguments)
        .output()
        .expect("prlimit")
}

fn json(arguments: &[&str]) -> Vec<Value> {
    let output = cohmem(arguments);
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {messages}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Walks a mapping's entries in `/proc/PID/pagemap`, one by one.
fn walk(pagemap: &File, start: u64, end: u64, devices: &[&Device]) -> Pages {
    let mut pages = Pages::new();
    let mut count = |place: String| *pages.entry(place).or_default() += 1;
    let mut bytes = vec![0u8; usize::try_from((end - start) / FRAME_BYTES).expect("fits") * 8];
    pagemap
        .read_exact_at(&mut bytes, start / FRAME_BYTES * 8)
        .expect("entries");
    for entry in bytes.chunks_exact(8) {
        let entry = u64::from_ne_bytes(entry.try_into().expect("eight bytes"));
        let (is_present, is_swapped, is_file) = (
            entry >> 63 & 1 == 1,
            entry >> 62 & 1 == 1,
            entry >> 61 & 1 == 1,
        );
        let phys = (entry & ((1 << 55) - 1)) * FRAME_BYTES;
        let holder = devices.iter().find(|device| device.range.contains(&phys));
        match holder {
            _ if is_swapped => count("swap".to_owned()),
            _ if !is_present => {}
            Some(device) => count(format!("cohmem{}", device.number)),
            None if is_file => count("file".to_owned()),
            None => count("system".to_owned()),
        }
    }
    pages
}

/// Every mapping of a process but the kernel's own, by start address.
fn walk_all(pid: u32, devices: &[&Device]) -> BTreeMap<u64, Pages> {
    let pagemap = File::open(format!("/proc/{pid}/pagemap")).expect("pagemap");
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    let kernel = ["[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]"];
    maps.lines()
        .filter(|line| !kernel.iter().any(|name| line.ends_with(name)))
        .map(|line| {
            let (range, _rest) = line.split_once(' ').expect("fields");
            let (start, end) = range.split_once('-').expect("a range");
            let parse = |text| u64::from_str_radix(text, 16).expect("hexadecimal");
            (
                parse(start),
                walk(&pagemap, parse(start), parse(end), devices),
            )
        })
        .collect()
}

/// The same from an object of bytes by place.
fn pages_of(bytes: &Value) -> Pages {
    let mut pages = Pages::new();
    for (place, bytes) in bytes.as_object().expect("an object") {
        let place = if place == "zero" { "system" } else { place };
        *pages.entry(place.to_owned()).or_default() += bytes.as_u64().expect("bytes") / FRAME_BYTES;
    }
    pages
}

fn sum(all: impl IntoIterator<Item = Pages>) -> Pages {
    let mut sum = Pages::new();
    for (place, pages) in all.into_iter().flatten() {
        *sum.entry(place).or_default() += pages;
    }
    sum
}

/// A child whose memory is of every kind, and stands still while `look_fn` looks at it.
fn with_a_motley_child(first: &Device, second: &Device, look_fn: impl FnOnce(u32)) {
    let mut child = Child::start(|steps| {
        let whole = Memory::filled(4 << 20, |index| index as u64);
        first.take_all(&whole);
        let mixed = Memory::filled(2 << 20, |index| index as u64);
        second.take_all(&mixed);
        for page in (0..mixed.len() / PAGE).step_by(3) {
            // Dropped, and touched again: in system memory.
            mixed
                .advise_part(page * PAGE, PAGE, libc::MADV_DONTNEED)
                .expect("MADV_DONTNEED");
            mixed
                .page_word(page)
                .store(7, std::sync::atomic::Ordering::Relaxed);
        }
        let closed = Memory::filled(1 << 20, |index| index as u64);
        second.take_all(&closed);
        closed.protect(0, closed.len(), libc::PROT_NONE);
        let huge = Memory::huge(2 * HUGE);
        let read = Memory::anonymous(1 << 20);
        read.expect(|_index| 0);
        let shared = Memory::shared(1 << 20);
        shared.fill(|index| index as u64);
        let untouched = Memory::anonymous(64 << 20);
        untouched
            .page_word(5)
            .store(7, std::sync::atomic::Ordering::Relaxed);
        steps.done();
        drop((whole, mixed, closed, huge, read, shared, untouched));
    });
    child.wait_step();
    look_fn(child.pid());
    child.go_on();
    assert_eq!(child.join(), Ended::Status(0));
}

fn the_map_shows_what_the_page_tables_hold() {
    let (first, second) = (
        Device::attach_part(0, 32 << 20),
        Device::attach_part(1, 32 << 20),
    );
    with_a_motley_child(&first, &second, |pid| {
        let walked = walk_all(pid, &[&first, &second]);
        let rows = json(&["map", &pid.to_string(), "--json"]);
        let shown: BTreeMap<u64, Pages> = rows[0]["mappings"]
            .as_array()
            .expect("mappings")
            .iter()
            .map(|one| {
                (
                    one["start"].as_u64().expect("start"),
                    pages_of(&one["bytes"]),
                )
            })
            .collect();
        assert_eq!(shown, walked);
        let total = sum(walked.into_values());
        assert_eq!(pages_of(&rows[0]["bytes"]), total);
        assert_eq!(total[&format!("cohmem{}", first.number)], 1024);
        // A third of one mapping is at home again; all of the closed one is there.
        assert_eq!(total[&format!("cohmem{}", second.number)], 512 - 171 + 256);
        let granules = rows[0]["granules"].as_array().expect("granules");
        assert_eq!(
            sum(granules.iter().map(|one| pages_of(&one["bytes"]))),
            total
        );
    });
}

fn the_map_of_itself_is_true() {
    let device = Device::attach_part(0, 32 << 20);
    let output = cohmem(&["map", "--self-test"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains(&format!("on cohmem{}: 0 wrong", device.number)),
        "{text}"
    );
}

fn a_large_address_space_costs_nothing() {
    let device = Device::attach_part(0, 32 << 20);
    let mut child = Child::start(|steps| {
        let sparse = Memory::sparse(100 << 30);
        for gib in 0..100 {
            let page = gib << 30 >> 12;
            sparse
                .page_word(page)
                .store(7, std::sync::atomic::Ordering::Relaxed);
        }
        assert_eq!(device.take(&sparse).moved, 100);
        sparse
            .page_word(1)
            .store(7, std::sync::atomic::Ordering::Relaxed);
        steps.done();
    });
    child.wait_step();
    let rows = json(&["map", &child.pid().to_string(), "--json"]);
    let mappings = rows[0]["mappings"].as_array().expect("mappings");
    let large = mappings
        .iter()
        .find(|one| one["size"] == 100u64 << 30)
        .expect("it");
    let bytes = pages_of(&large["bytes"]);
    assert_eq!(bytes[&format!("cohmem{}", device.number)], 100);
    assert_eq!(bytes["system"], 1);
    child.go_on();
    assert_eq!(child.join(), Ended::Status(0));
}

fn top_shows_what_the_page_tables_hold() {
    let (first, second) = (
        Device::attach_part(0, 32 << 20),
        Device::attach_part(1, 32 << 20),
    );
    with_a_motley_child(&first, &second, |pid| {
        let walked = sum(walk_all(pid, &[&first, &second]).into_values());
        let rows = json(&["top", "--json"]);
        let own = rows.iter().find(|row| row["pid"] == pid).expect("its row");
        let shown = pages_of(&own["bytes"]);
        for device in [&first, &second] {
            let name = format!("cohmem{}", device.number);
            assert_eq!(shown[&name], walked[&name]);
            let row = rows
                .iter()
                .find(|row| row["device"] == name[..])
                .expect("its row");
            assert_eq!(row["allocated"], walked[&name] * FRAME_BYTES);
        }
        let text = cohmem(&["top", "--once"]);
        let text = String::from_utf8(text.stdout).expect("text");
        assert!(text.contains("cohmem top: 2 devices, 64 MiB"), "{text}");
    });
}

/// A control group with a memory limit, until it is dropped.
struct Group;

impl Group {
    const PATH: &str = "/sys/fs/cgroup/see";

    fn with_limit(bytes: u64) -> Self {
        fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory").expect("the controller");
        fs::create_dir(Self::PATH).expect("the group");
        fs::write(format!("{}/memory.max", Self::PATH), bytes.to_string()).expect("memory.max");
        Self
    }

    fn charged(&self) -> u64 {
        crate::sys::memory::read_number(&format!("{}/memory.current", Self::PATH))
    }

    /// What the command says on its standard error when it runs in the group.
    fn messages(&self, arguments: &str) -> (String, String) {
        let script = format!(
            "echo $$ >{}/cgroup.procs; exec cohmem {arguments}",
            Self::PATH
        );
        let output = Command::new("sh")
            .args(["-c", &script])
            .output()
            .expect("sh");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (text(output.stdout), text(output.stderr))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        assert!(Path::new(Self::PATH).exists());
        fs::remove_dir(Self::PATH).expect("no process is left in it");
    }
}

/// Moves what a child of the group has in memory to the device; returns what the command warned of.
fn warning_for(group: &Group, device: &Device, len: usize) -> String {
    let mut child = Child::start(|steps| {
        fs::write(format!("{}/cgroup.procs", Group::PATH), "0").expect("into the group");
        let memory = Memory::filled(len, |index| index as u64);
        steps.done();
        memory.expect(|index| index as u64);
    });
    child.wait_step();
    let before = group.charged();
    let to = format!("cohmem{}", device.number);
    let output = cohmem(&["migrate", "--pid", &child.pid().to_string(), "--to", &to]);
    assert!(
        device.allocated() >= (len / PAGE) as u64,
        "it moved all the same"
    );
    // Moving made no room.
    let after = group.charged();
    assert!(
        after >= len as u64 && before >= len as u64,
        "{before} and {after} of {len}"
    );
    child.go_on();
    assert_eq!(child.join(), Ended::Status(0));
    String::from_utf8(output.stderr).expect("text")
}

fn a_memory_limit_is_told_in_time() {
    let device = Device::attach_part(0, 128 << 20);
    let group = Group::with_limit(96 << 20);
    let warning = warning_for(&group, &device, 24 << 20);
    assert_eq!(warning, "", "24 of 96 MiB are no matter");
    let warning = warning_for(&group, &device, 86 << 20);
    assert!(
        warning.contains("warning: memory.max of /see is 96 MiB, and ")
            && warning.contains("less than the margin of 16 MiB"),
        "{warning}"
    );
    let (_, warning) = group.messages(&format!("run --device {} -- true", device.number));
    assert!(
        warning.contains("warning: memory.max of /see is 96 MiB, and 0 B of it"),
        "{warning}"
    );
    let (said, _) = group.messages("doctor");
    assert!(
        said.contains("memory.max of /see is 96 MiB, of which "),
        "{said}"
    );
}

fn other_tools_say_what_is_said_of_them() {
    let device = Device::attach_part(0, 32 << 20);
    let memory = Memory::filled(1 << 20, |index| index as u64);
    let numa_maps = || {
        let text = fs::read_to_string("/proc/self/numa_maps").expect("numa_maps");
        let start = format!("{:x} ", memory.address());
        let line = text
            .lines()
            .find(|line| line.starts_with(&start))
            .expect("its line");
        line.to_owned()
    };
    assert!(numa_maps().contains("anon=256"), "at home it is there");
    device.take_all(&memory);
    assert!(!numa_maps().contains("anon="), "on the device it is not");
    for moves in [false, true] {
        let status = numa::move_pages(&memory, moves).expect("it reports success");
        assert!(
            status.iter().all(|&status| status == -libc::ENOENT),
            "{status:?}"
        );
    }
    numa::bind_to_first_node(&memory).expect("it reports success");
    assert_eq!(device.resident(&memory), memory.nr_pages());
    let smaps = fs::read_to_string("/proc/self/smaps").expect("smaps");
    let mut lines = smaps.lines();
    let start = format!("{:x}-", memory.address());
    lines
        .find(|line| line.starts_with(&start))
        .expect("its mapping");
    let rss = lines
        .find(|line| line.starts_with("Rss:"))
        .expect("its size");
    assert!(rss.ends_with(" 1024 kB"), "{rss}");
    memory.expect(|index| index as u64);
}
