//! A machine that boots a disk, with the init and the initramfs that are on it; it may reboot.
//!
//! What the disk's programs write to it is gone with the machine.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    guest::{self, Guest},
    machine::{self, Memory},
    report,
};
use crate::{
    kernel,
    setup::{self, Group},
};

/// As the lab's other machine, but that it may reboot.
const MACHINE: &str = "-no-user-config -nodefaults -display none -machine q35 -cpu max,-erms,-fsrm \
    -accel tcg,thread=multi,tb-size=512 -device pvpanic -action panic=exit-failure";

/// The machine, with the same memory as [`Guest`]'s.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    /// A file system.
    pub(crate) image: PathBuf,
    /// The kernel that is on it, and its initramfs.
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    /// Until the machine is switched off, all reboots together.
    pub(crate) timeout: Duration,
}

impl Disk {
    /// Boots the machine and gives what came through its second serial port.
    ///
    /// # Errors
    ///
    /// When it does not switch itself off in time, or the kernel complained.
    pub(crate) fn run(&self) -> Result<String> {
        setup::ensure(Group::Guest)?;
        let like = Guest::default();
        let memory = Memory::with(like.memory_mib << 20, &like.spm, false)?;
        let directory = guest::run_directory()?;
        let kernel_log = directory.join("kernel.log");
        let said = directory.join("said");
        let command_line = machine::kernel_command_line(
            &memory,
            kernel::Name::Stock,
            &["root=/dev/vda rw".to_owned()],
        );
        let mut qemu = Command::new("setpriv");
        // QEMU must not outlive this program.
        qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        qemu.args(MACHINE.split_whitespace());
        qemu.args(["-smp", &like.cpus.to_string()]);
        qemu.args(["-m", &format!("{}M", memory.bytes >> 20)]);
        let image = machine::joined("file=", &self.image, ",format=raw,if=virtio,snapshot=on");
        qemu.arg("-drive").arg(image);
        qemu.arg("-kernel").arg(&self.kernel);
        qemu.arg("-initrd").arg(&self.initramfs);
        qemu.args(["-append", &command_line]);
        for port in [&kernel_log, &said] {
            qemu.arg("-serial").arg(machine::joined("file:", port, ""));
        }
        let start = Instant::now();
        let child = qemu.spawn().context("cannot run qemu-system-x86_64")?;
        let exit = guest::wait(child, self.timeout)?;
        let text = fs::read(&said).context("the machine has no second serial port")?;
        let text = String::from_utf8_lossy(&text).replace('\r', "");
        let log = String::from_utf8_lossy(&fs::read(&kernel_log)?).into_owned();
        let complaints = report::scan_log(&log);
        let log = kernel_log.display();
        match exit {
            None => bail!(
                "no end within {} s; see {log}\n{text}",
                self.timeout.as_secs()
            ),
            Some(exit) if !exit.success() => bail!("QEMU: {exit}; see {log}\n{text}"),
            Some(_) if !complaints.is_empty() => bail!("{}; see {log}\n{text}", complaints[0]),
            Some(_) => {}
        }
        println!("the machine ran for {} s", start.elapsed().as_secs());
        Ok(text)
    }
}
