//! Load that must not get a frame of the device: the page cache, and an ordinary program.

use std::process::Stdio;

use super::{
    programs::{Program, Workplace, find, python},
    trouble::Trouble,
};

/// Bytes that each of both uses at a time, in MiB.
pub(super) const EACH_MIB: u32 = 48;

const FILES: &str = r#"
while :; do
    dd if=/dev/zero of=cached bs=1M count="$1" 2>/dev/null
    cat cached "$2" >/dev/null
    rm -f cached
    sleep 0.5
done
"#;

const MEMORY: &str = r"
import sys, time
while True:
    block = bytearray(int(sys.argv[1]) << 20)
    block[::4096] = b'\1' * len(block[::4096])
    time.sleep(0.5)
    del block
";

/// Both programs, while they run.
#[derive(Debug)]
pub(super) struct Background {
    programs: [Program; 2],
}

impl Background {
    /// Starts them, at the lowest priority: they are there to ask for memory, not for time.
    pub(super) fn start(workplace: &Workplace) -> Result<Self, Trouble> {
        let nice = find("nice")?.display().to_string();
        let python = python()?;
        let shell = find("sh")?.display().to_string();
        let mib = EACH_MIB.to_string();
        let files = [&nice, "-n", "19", &shell, "-c", FILES, "sh", &mib, &python];
        let memory = [&nice, "-n", "19", &python, "-I", "-S", "-c", MEMORY, &mib];
        let start = |name, words: &[&str]| Program::start(name, words, workplace, Stdio::null());
        Ok(Self {
            programs: [
                start("page-cache-load", &files)?,
                start("memory-load", &memory)?,
            ],
        })
    }

    /// Fails if one of them has ended.
    pub(super) fn check_running(&mut self) -> Result<(), Trouble> {
        self.programs
            .iter_mut()
            .try_for_each(Program::check_running)
    }
}
