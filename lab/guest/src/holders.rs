//! Things of the guest that hold pages or make the kernel do so.

use std::{ops::Range, process::Command};

/// Runs a command and panics when it fails.
pub(crate) fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program)
        .args(arguments)
        .status()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

/// Addresses of this process's vdso.
pub(crate) fn vdso() -> Range<u64> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
    let line = maps
        .lines()
        .find(|line| line.ends_with("[vdso]"))
        .expect("a vdso");
    let (range, _rest) = line.split_once(' ').expect("fields");
    let (start, end) = range.split_once('-').expect("a range");
    let parse = |text| u64::from_str_radix(text, 16).expect("hexadecimal");
    parse(start)..parse(end)
}

/// Swap space on compressed memory, until it is dropped.
#[derive(Debug)]
pub(crate) struct Swap;

impl Swap {
    pub(crate) fn enable() -> Self {
        run("modprobe", &["zram", "num_devices=1"]);
        std::fs::write("/sys/block/zram0/disksize", "256M").expect("disksize");
        run("mkswap", &["/dev/zram0"]);
        run("swapon", &["/dev/zram0"]);
        Self
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        run("swapoff", &["/dev/zram0"]);
        run("modprobe", &["-r", "zram"]);
    }
}

/// A block device whose every command takes `milliseconds` and completes in a hard interrupt, until it
/// is dropped.
#[derive(Debug)]
pub(crate) struct SlowDisk;

impl SlowDisk {
    pub(crate) const PATH: &str = "/dev/nullb0";

    pub(crate) fn load(milliseconds: u64) -> Self {
        let latency = format!("completion_nsec={}", milliseconds * 1_000_000);
        run(
            "modprobe",
            &[
                "null_blk",
                "nr_devices=1",
                "irqmode=2",
                "queue_mode=2",
                "gb=1",
                &latency,
            ],
        );
        Self
    }

    pub(crate) fn open(&self) -> std::fs::File {
        use std::os::unix::fs::OpenOptionsExt as _;
        std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(Self::PATH)
            .expect("null_blk")
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        run("modprobe", &["-r", "null_blk"]);
    }
}
