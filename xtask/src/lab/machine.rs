//! The virtual machine itself: its memory map and QEMU's command line.

use std::{ffi::OsString, path::Path};

use anyhow::{Result, bail};

use super::{guest::Cpu, range::Range};
use crate::kernel;

const GIB: u64 = 1 << 30;

/// RAM on the second node, besides what lies above the first soft-reserved range anyway.
const SECOND_NODE_BYTES: u64 = GIB;

/// Where the guest's RAM is and what of it is soft-reserved.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Memory {
    /// All RAM, soft-reserved or not.
    pub(super) bytes: u64,
    /// With two NUMA nodes: bytes of RAM on node 0, which has the processors. The rest, with all
    /// soft-reserved ranges, is node 1, without processors.
    pub(super) first_node: Option<u64>,
    /// Soft-reserved ranges, ascending.
    pub(super) spm: Vec<Range>,
}

impl Memory {
    /// A machine with `wanted` bytes of RAM, or more if `spm` would not lie in it.
    pub(super) fn with(wanted: u64, spm: &[Range], numa: bool) -> Result<Self> {
        let mut spm = spm.to_vec();
        spm.sort();
        for pair in spm.windows(2) {
            if let [low, high] = pair
                && low.end() > high.start
            {
                bail!("the soft-reserved ranges {low} and {high} overlap");
            }
        }
        if let Some(low) = spm.first()
            && low.start < 4 * GIB
        {
            bail!(
                "the soft-reserved range {low} begins below 4G, where devices have their addresses"
            );
        }
        let mut bytes = wanted;
        if let Some(top) = spm.last() {
            bytes = bytes.max(ram_below(top.end()));
        }
        let mut first_node = None;
        if numa {
            let boundary = spm.first().map_or(bytes, |low| ram_below(low.start));
            bytes += SECOND_NODE_BYTES;
            first_node = Some(boundary);
        }
        Ok(Self {
            bytes,
            first_node,
            spm,
        })
    }
}

/// RAM that a q35 machine needs for its RAM to end at `address` above 4 GiB: of the first 4 GiB,
/// half is RAM when there is that much of it.
///
/// Source: QEMU 7.2, hw/i386/pc_q35.c, `pc_q35_init`.
fn ram_below(address: u64) -> u64 {
    address - 2 * GIB
}

/// Parameters that turn kernel complaints into a panic, and so into QEMU's exit status.
///
/// No `quiet`: it hides a warning's text. Everything else is as Debian has it, mitigations too:
/// the module must work under them.
const KERNEL_PARAMETERS: &str = "console=ttyS0 loglevel=7 panic=-1 oops=panic panic_on_warn=1 \
    softlockup_panic=1 hung_task_panic=1 sysctl.kernel.hung_task_timeout_secs=30 \
    sysctl.kernel.panic_on_rcu_stall=1";

/// What the debug kernel gets besides. It is several times slower than the stock kernel, and what it
/// does for long must not look like a hang.
const DEBUG_PARAMETERS: &str = " kmemleak=on watchdog_thresh=30 workqueue.watchdog_thresh=120 \
    rcupdate.rcu_cpu_stall_timeout=120 sysctl.kernel.hung_task_timeout_secs=120";

/// The kernel's command line.
pub(super) fn kernel_command_line(
    memory: &Memory,
    kernel: kernel::Name,
    append: &[String],
) -> String {
    let mut line = KERNEL_PARAMETERS.to_owned();
    if kernel == kernel::Name::Debug {
        line += DEBUG_PARAMETERS;
    }
    for range in &memory.spm {
        // Makes what the firmware lists as RAM (type 1) soft-reserved.
        line += &format!(
            " memmap={}M%{:#x}-1+0xefffffff",
            range.bytes >> 20,
            range.start
        );
    }
    for parameter in append {
        line.push(' ');
        line += parameter;
    }
    line
}

/// Files of one run of the machine.
#[derive(Debug)]
pub(super) struct Files<'a> {
    pub(super) kernel: &'a Path,
    pub(super) initramfs: &'a Path,
    pub(super) kernel_log: &'a Path,
    pub(super) report: &'a Path,
    pub(super) shared: Option<&'a Path>,
}

/// Arguments of `qemu-system-x86_64`. It finds a socket for the command's standard output as its
/// own descriptor 0, one for standard error as descriptor 1.
pub(super) fn qemu_arguments(
    memory: &Memory,
    cpus: u32,
    cpu: Cpu,
    files: &Files<'_>,
    command_line: &str,
) -> Vec<OsString> {
    let mut arguments = Vec::new();
    let mut add = |words: &str| arguments.extend(words.split_whitespace().map(OsString::from));
    add("-no-user-config -nodefaults -display none -no-reboot -machine q35");
    add(match cpu {
        Cpu::ByWords => "-cpu max,-erms,-fsrm",
        Cpu::Max => "-cpu max",
    });
    // Never KVM, even where there is a /dev/kvm: inside another virtual machine it may exist and
    // still run no kernel, and a test must be the same machine everywhere.
    add("-accel tcg,thread=multi,tb-size=512");
    add(&format!("-smp {cpus} -m {}M", memory.bytes >> 20));
    if let Some(first) = memory.first_node {
        let last_cpu = cpus.saturating_sub(1);
        add(&format!("-object memory-backend-ram,id=ram0,size={first}"));
        add(&format!(
            "-object memory-backend-ram,id=ram1,size={}",
            memory.bytes - first
        ));
        add(&format!(
            "-numa node,nodeid=0,cpus=0-{last_cpu},memdev=ram0"
        ));
        add("-numa node,nodeid=1,memdev=ram1 -numa dist,src=0,dst=1,val=20");
    }
    // A panic ends QEMU with status 1.
    add("-device pvpanic -action panic=exit-failure");
    add("-device virtio-serial-pci");
    add("-chardev socket,id=stdout,fd=0 -device virtserialport,nr=1,chardev=stdout");
    add("-chardev socket,id=stderr,fd=1 -device virtserialport,nr=2,chardev=stderr");
    add("-device virtserialport,nr=3,chardev=report");
    add("-fsdev local,id=host,path=/,security_model=none,readonly=on,multidevs=remap");
    add("-device virtio-9p-pci,fsdev=host,mount_tag=host");

    let mut pair = |name: &str, value: OsString| arguments.extend([OsString::from(name), value]);
    pair("-kernel", files.kernel.into());
    pair("-initrd", files.initramfs.into());
    pair("-append", command_line.into());
    pair("-serial", joined("file:", files.kernel_log, ""));
    pair("-chardev", joined("file,id=report,path=", files.report, ""));
    if let Some(shared) = files.shared {
        pair(
            "-fsdev",
            joined("local,id=out,path=", shared, ",security_model=none"),
        );
        pair("-device", "virtio-9p-pci,fsdev=out,mount_tag=out".into());
    }
    arguments
}

/// `path` inside a QEMU option, where a comma is written twice.
pub(super) fn joined(before: &str, path: &Path, after: &str) -> OsString {
    format!(
        "{before}{}{after}",
        path.display().to_string().replace(',', ",,")
    )
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Range {
        text.parse().expect("a range")
    }

    #[test]
    fn ram_grows_to_hold_the_ranges() {
        let spm = [range("512M@0x180000000"), range("512M@0x140000000")];
        let memory = Memory::with(4 * GIB, &spm, false).expect("fits");
        assert_eq!(memory.bytes, 4608 << 20);
        assert_eq!(memory.spm, [spm[1], spm[0]]);
        assert_eq!(
            Memory::with(8 * GIB, &spm, false).expect("fits").bytes,
            8 * GIB
        );
    }

    #[test]
    fn the_ranges_are_on_the_second_node() {
        let spm = [range("512M@0x140000000")];
        let memory = Memory::with(4 * GIB, &spm, true).expect("fits");
        assert_eq!(memory.first_node, Some(3 * GIB));
        assert_eq!(memory.bytes, 5 * GIB);
    }

    #[test]
    fn overlapping_and_low_ranges_are_refused() {
        let overlap = [range("1G@0x140000000"), range("512M@0x160000000")];
        let error = Memory::with(4 * GIB, &overlap, false).expect_err("they overlap");
        assert!(error.to_string().contains("overlap"), "{error}");
        let low = [range("512M@2G")];
        let error = Memory::with(4 * GIB, &low, false).expect_err("it is low");
        assert!(error.to_string().contains("below 4G"), "{error}");
    }

    #[test]
    fn a_range_is_a_memmap_parameter() {
        let memory = Memory::with(4 * GIB, &[range("512M@0x140000000")], false).expect("fits");
        let line = kernel_command_line(&memory, kernel::Name::Stock, &["nokaslr".to_owned()]);
        assert!(
            line.ends_with(" memmap=512M%0x140000000-1+0xefffffff nokaslr"),
            "{line}"
        );
        assert!(!line.contains("kmemleak"), "{line}");
    }

    #[test]
    fn only_the_debug_kernel_looks_for_leaks() {
        let memory = Memory::with(4 * GIB, &[], false).expect("fits");
        let line = kernel_command_line(&memory, kernel::Name::Debug, &[]);
        assert!(line.contains(" kmemleak=on "), "{line}");
    }
}
