//! The machine that the tour runs on.

use std::{fs, path::Path};

use cohmem::ByteCount;

use super::trouble::Trouble;

/// What the user should know about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    /// Release of the kernel.
    pub(super) kernel: String,
    /// Name of the processor.
    pub(super) processor: String,
    /// Processors.
    pub(super) nr_processors: usize,
    /// RAM that programs can use, in all.
    pub(super) memory: ByteCount,
    /// RAM that is free, or can be made so.
    pub(super) available: ByteCount,
    /// What the processor is.
    pub(super) kind: Kind,
}

/// What executes the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// No hypervisor shows.
    Real,
    /// A virtual machine on a processor of its kind.
    Virtual,
    /// QEMU's interpreter.
    Emulated,
}

impl Machine {
    pub(super) fn read() -> Result<Self, Trouble> {
        let read =
            |path: &str| fs::read_to_string(path).map_err(Trouble::file("read", Path::new(path)));
        let memory = read("/proc/meminfo")?;
        let size = |name: &str| {
            meminfo(&memory, name)
                .ok_or_else(|| Trouble::said(format!("/proc/meminfo tells no {name}")))
        };
        let cpuinfo = read("/proc/cpuinfo")?;
        let processor = field(&cpuinfo, "model name").unwrap_or("an unknown processor");
        Ok(Self {
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            processor: processor.to_owned(),
            nr_processors: cpuinfo
                .lines()
                .filter(|line| line.starts_with("processor"))
                .count(),
            memory: size("MemTotal")?,
            available: size("MemAvailable")?,
            kind: kind(&cpuinfo),
        })
    }

    /// What its figures are worth.
    pub(super) const fn caveat(&self) -> &'static str {
        match self.kind {
            Kind::Real => "A real machine, as far as a program can tell.",
            Kind::Virtual => {
                "A virtual machine: its device memory is whatever its host gives it for that."
            }
            Kind::Emulated => {
                "Software emulation: its device memory is the host's RAM, and its rates tell \
                 nothing about hardware."
            }
        }
    }
}

fn field<'a>(cpuinfo: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    fields
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim())
}

fn kind(cpuinfo: &str) -> Kind {
    let flags = field(cpuinfo, "flags").unwrap_or_default();
    if field(cpuinfo, "model name").is_some_and(|name| name.contains("TCG")) {
        Kind::Emulated
    } else if flags.split_whitespace().any(|flag| flag == "hypervisor") {
        Kind::Virtual
    } else {
        Kind::Real
    }
}

fn meminfo(text: &str, name: &str) -> Option<ByteCount> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib: u64 = line?.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(ByteCount::new(kib.checked_mul(1024)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emulation_is_told_from_virtualisation() {
        let cpu = |name, flags| {
            kind(&format!(
                "processor\t: 0\nmodel name\t: {name}\nflags\t\t: fpu {flags} sse\n"
            ))
        };
        assert_eq!(
            cpu("QEMU TCG CPU version 2.5+", "hypervisor"),
            Kind::Emulated
        );
        assert_eq!(cpu("Intel(R) Xeon(R)", "hypervisor"), Kind::Virtual);
        assert_eq!(cpu("Intel(R) Xeon(R)", "vme"), Kind::Real);
    }

    #[test]
    fn sizes_are_found_by_their_whole_name() {
        let text = "MemTotal:       16 kB\nMemAvailable:    5 kB\nHugePages_Total:     0\n";
        assert_eq!(meminfo(text, "MemTotal"), Some(ByteCount::new(16384)));
        assert_eq!(meminfo(text, "Mem"), None);
        assert_eq!(meminfo(text, "HugePages_Total"), None);
    }

    #[test]
    fn this_machine_can_be_read() {
        let machine = Machine::read().unwrap();
        assert!(machine.nr_processors > 0 && machine.available <= machine.memory);
    }
}
