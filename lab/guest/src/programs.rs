//! Real programs under `cohmem run`, several at once: a database under its benchmark, python3 with numpy,
//! a compiler, a sort. Their results are right, and what they hold of the device is watched from outside.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

use cohmem_uapi::{FRAME_BYTES, Reason, Tier};

use crate::{
    Test,
    driver::{Device, ranges},
    run::{Run, expect_nothing_left, frames_of_process, pages, wait_until},
    sys::memory::frames_of,
};

pub(crate) const TESTS: &[Test] = &[
    (
        "four_at_once_stay_within_the_quota",
        four_at_once_stay_within_the_quota,
    ),
    (
        "each_is_placed_as_its_policy_says",
        each_is_placed_as_its_policy_says,
    ),
];

/// Root's, who runs the programs.
const USER: u32 = 0;

/// A directory of the test's own, removed when dropped.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("cohmem-{name}"));
        fs::create_dir(&path).expect("a directory");
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // After a failure programs may still write there.
        let removed = fs::remove_dir_all(&self.0);
        assert!(thread::panicking() || removed.is_ok(), "{removed:?}");
    }
}

/// redis-server with keys of known value.
struct Database {
    run: Run,
    socket: String,
}

impl Database {
    const NR_KEYS: u64 = 6000;

    fn start(policy: &str, place: &Place) -> Self {
        let socket = place.file("socket");
        let log = place.file("log");
        let words = "redis-server --port 0 --appendonly no --save";
        let paths = ["", "--logfile", &log, "--unixsocket", &socket];
        let program: Vec<&str> = words.split(' ').chain(paths).collect();
        let run = Run::start(policy, &program);
        wait_until("the database listens", || {
            UnixStream::connect(&socket).is_ok()
        });
        Self { run, socket }
    }

    fn value(key: u64) -> String {
        format!("{:016x}", key.wrapping_mul(0x9e37_79b9_7f4a_7c15)).repeat(128)
    }

    /// Sends `commands` and gives `reply_fn` each line that comes back, `nr_lines` in all.
    fn talk(&self, commands: String, nr_lines: u64, mut reply_fn: impl FnMut(u64, &str)) {
        let mut stream = UnixStream::connect(&self.socket).expect("the database listens");
        let replies = BufReader::new(stream.try_clone().expect("a second handle"));
        let writer = thread::spawn(move || stream.write_all(commands.as_bytes()));
        let mut lines = replies.lines();
        for index in 0..nr_lines {
            let line = lines.next().expect("a reply").expect("text");
            reply_fn(index, &line);
        }
        writer.join().expect("no panic").expect("written");
    }

    fn write_keys(&self) {
        let mut commands = String::from("SELECT 1\r\n");
        for key in 0..Self::NR_KEYS {
            write!(commands, "SET known:{key} {}\r\n", Self::value(key)).expect("a string");
        }
        self.talk(commands, Self::NR_KEYS + 1, |_, line| {
            assert_eq!(line, "+OK");
        });
    }

    fn expect_keys(&self) {
        let mut commands = String::from("SELECT 1\r\n");
        for key in 0..Self::NR_KEYS {
            write!(commands, "GET known:{key}\r\n").expect("a string");
        }
        let nr_lines = 1 + 2 * Self::NR_KEYS;
        self.talk(commands, nr_lines, |index, line| match index {
            0 => assert_eq!(line, "+OK"),
            _ if index % 2 == 1 => assert_eq!(line, "$2048"),
            _ => assert_eq!(line, Self::value(index / 2 - 1)),
        });
    }

    /// Its own benchmark, on other keys.
    fn benchmark(&self) {
        let words = "-c 4 -t set,get -r 2000 -d 1024 -n 4000 -q";
        let output = Command::new("redis-benchmark")
            .args(["-s", &self.socket])
            .args(words.split(' '))
            .output()
            .expect("redis-benchmark");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{output:?}");
        for name in ["SET", "GET"] {
            let has_rate = text.split(['\r', '\n']).any(|line| {
                line.starts_with(&format!("{name}: ")) && line.contains("requests per second")
            });
            assert!(has_rate, "no rate of {name}: {text}");
        }
    }

    fn end(self) {
        let mut stream = UnixStream::connect(&self.socket).expect("the database listens");
        stream.write_all(b"SHUTDOWN NOSAVE\r\n").expect("it reads");
        self.run.end_well("");
    }
}

/// Holds two arrays of 24 MiB.
const NUMERIC: &str = "
import numpy as np
a = np.arange(3 << 20, dtype=np.int64)
b = a * 3
print('ready', flush=True)
input()
print(int(b.sum()) // 3 == int(a.sum()), int(a[12345] + b[-1]))
";
const NUMERIC_SAYS: &str = "True 9449526";

/// A program in C of many functions, and what it prints.
fn source() -> (String, String) {
    let mut source = String::from("#include <stdio.h>\n");
    let mut sum = 1_u64;
    let mut calls = String::new();
    for function in 0..150_u64 {
        let factor = 2 * function + 3;
        write!(
            source,
            "__attribute__((noinline)) static unsigned long f{function}(unsigned long x)\n\
             {{ for (int i = 0; i < 9; i++) x = x * {factor} + (x >> 7) + i; return x; }}\n"
        )
        .expect("a string");
        write!(calls, " x = f{function}(x);").expect("a string");
        for step in 0..9 {
            sum = sum
                .wrapping_mul(factor)
                .wrapping_add(sum >> 7)
                .wrapping_add(step);
        }
    }
    writeln!(
        source,
        "int main(void) {{ unsigned long x = 1;{calls} printf(\"%lu\\n\", x); }}"
    )
    .expect("a string");
    (source, sum.to_string())
}

/// A compiler at work, and the program that it makes.
struct Build {
    run: Run,
    program: String,
    says: String,
}

impl Build {
    fn start(policy: &str, place: &Place) -> Self {
        let (source, says) = source();
        let (file, program) = (place.file("many.c"), place.file("many"));
        fs::write(&file, source).expect("a file");
        let run = Run::start(policy, &["gcc", "-O2", "-o", &program, &file]);
        Self { run, program, says }
    }

    fn end(self) {
        self.run.end_well("");
        let output = Command::new(&self.program).output().expect("it was built");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), self.says);
    }
}

/// A sort of a file of random lines.
struct Sort {
    run: Run,
    result: String,
    lines: Vec<String>,
}

impl Sort {
    fn start(policy: &str, place: &Place) -> Self {
        let mut number = 1_u64;
        let mut lines: Vec<String> = (0..300_000)
            .map(|_line| {
                number = number
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                format!("{:016x}", number >> 8)
            })
            .collect();
        let (file, result) = (place.file("lines"), place.file("sorted"));
        fs::write(&file, lines.join("\n") + "\n").expect("a file");
        let words = "env LC_ALL=C sort --parallel=1 -S 64M -o";
        let program: Vec<&str> = words.split(' ').chain([&result[..], &file]).collect();
        let run = Run::start(policy, &program);
        lines.sort_unstable();
        Self { run, result, lines }
    }

    fn end(self) {
        self.run.end_well("");
        let sorted = fs::read_to_string(&self.result).expect("its result");
        assert!(sorted.lines().eq(&self.lines), "the order is wrong");
    }
}

/// Looks at the frames in use, over and over, until it is dropped; there are never more than `most`.
fn watched(device: &Device, most: u64, work_fn: impl FnOnce()) {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }
    let is_over = AtomicBool::new(false);
    let (nr_looks, peak) = thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let (mut nr_looks, mut peak) = (0_u64, 0);
            while !is_over.load(Relaxed) {
                peak = peak.max(device.allocated());
                nr_looks += 1;
                thread::yield_now();
            }
            (nr_looks, peak)
        });
        // Also when the work panics.
        let stop = Stop(&is_over);
        work_fn();
        drop(stop);
        watcher.join().expect("no panic")
    });
    println!(
        "cohmem{}: {nr_looks} looks, at most {peak} of {most} frames in use",
        device.number
    );
    assert!(peak <= most, "{peak} frames in use, {most} are allowed");
}

fn four_at_once_stay_within_the_quota() {
    let device = Device::attach(0);
    let quota = pages(40) + 13;
    device.set_quota(USER, 0, quota).expect("a quota");
    let place = Place::new("four");
    watched(&device, quota, || {
        let database = Database::start("all", &place);
        let mut numeric = Run::python("all", NUMERIC);
        let build = Build::start("all", &place);
        let sort = Sort::start("all", &place);
        database.write_keys();
        database.benchmark();
        build.end();
        sort.end();
        numeric.expect("ready");
        // What the two hold is more than the quota, so all of that is used.
        wait_until("the quota is used up", || device.allocated() == quota);
        database.benchmark();
        database.expect_keys();
        numeric.go_on();
        numeric.end_well(NUMERIC_SAYS);
        // Now there is room for all that the database holds.
        let pid = database.run.pids()[0];
        wait_until("the database is there", || {
            Census::of(&device, pid).nr_movable == 0
        });
        database.benchmark();
        database.expect_keys();
        database.end();
    });
    expect_nothing_left(&device);
}

/// Where a process's anonymous memory is.
#[derive(Debug, Default)]
struct Census {
    /// Pages on the device, as the page tables say.
    nr_there: u64,
    /// Pages at home by the driver's reason, none for what would move.
    at_home: BTreeMap<&'static str, u64>,
    nr_movable: u64,
}

impl Census {
    fn of(device: &Device, pid: u32) -> Self {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        let mut census = Self::default();
        for line in maps.lines().filter(|line| is_anonymous(line)) {
            let (start, end) = range_of(line);
            let frames = frames_of(pid, start, (end - start) / FRAME_BYTES);
            let Some(entries) = device.query_process(pid, start, end) else {
                continue;
            };
            for (frame, entry) in frames.into_iter().zip(entries) {
                if device.range.contains(&(frame * FRAME_BYTES)) {
                    census.nr_there += 1;
                } else if frame != 0 && entry.tier() == Tier::System {
                    let reason = entry.reason();
                    let name = reason.map_or("none", Reason::name);
                    *census.at_home.entry(name).or_default() += 1;
                    let is_movable = matches!(
                        reason,
                        None | Some(Reason::ExtraRef | Reason::Locked | Reason::Raced)
                    );
                    census.nr_movable += u64::from(is_movable);
                }
            }
        }
        census
    }
}

/// A line of `maps` of private memory of no file that can be read, as the policy `all` takes it.
fn is_anonymous(line: &str) -> bool {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let is_kernel = fields.get(5).is_some_and(|name| name.starts_with("[v"));
    fields[1].starts_with('r')
        && !fields[1].contains('x')
        && fields[1].ends_with('p')
        && fields[4] == "0"
        && !is_kernel
}

/// Start and end of a line of `maps`.
fn range_of(line: &str) -> (u64, u64) {
    let (range, _rest) = line.split_once(' ').expect("fields");
    let (start, end) = range.split_once('-').expect("a range");
    let parse = |text| u64::from_str_radix(text, 16).expect("hexadecimal");
    (parse(start), parse(end))
}

fn each_is_placed_as_its_policy_says() {
    let part = |range: usize| {
        let start = ranges()[range].start;
        Device::attach_range(start..start + (128 << 20), 0)
    };
    let (first, second) = (part(0), part(1));
    let place = Place::new("placed");
    let limit = pages(20) + 7;
    let with_limit = format!(
        "size>=16M;limit={};devices=cohmem{}",
        limit * FRAME_BYTES,
        second.number
    );
    watched(&second, limit, || {
        let database = Database::start(&format!("all;devices={}", first.number), &place);
        let mut numeric = Run::python(&with_limit, NUMERIC);
        database.write_keys();
        database.benchmark();
        numeric.expect("ready");
        let pid = database.run.pids()[0];
        wait_until("all of the database is there", || {
            Census::of(&first, pid).nr_movable == 0
        });
        let census = Census::of(&first, pid);
        println!("the database: {census:?}");
        let nr_home: u64 = census.at_home.values().sum();
        assert!(nr_home * 10 <= census.nr_there, "{census:?}");
        wait_until("the limit is used up", || second.allocated() == limit);
        expect_only_large(&second, numeric.pids()[0], limit);
        database.benchmark();
        database.expect_keys();
        numeric.go_on();
        numeric.end_well(NUMERIC_SAYS);
        database.end();
    });
    expect_nothing_left(&first);
    expect_nothing_left(&second);
}

/// The process has `nr_pages` on the device, all of them in mappings of 16 MiB and more.
fn expect_only_large(device: &Device, pid: u32, nr_pages: u64) {
    for is_large in [false, true] {
        let wanted = |line: &str| {
            let (start, end) = range_of(line);
            (end - start >= 16 << 20) == is_large
        };
        let mut frames = frames_of_process(pid, wanted);
        frames.retain(|frame| device.range.contains(&(frame * FRAME_BYTES)));
        let nr_wanted = if is_large { nr_pages } else { 0 };
        assert_eq!(frames.len() as u64, nr_wanted, "large mappings: {is_large}");
    }
}
