//! One run of the lab's virtual machine: from a description to an outcome.

use std::{
    fs,
    io::{self, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    machine::{self, Files, Memory},
    outcome::{Ended, Outcome},
    place,
    range::Range,
    stream,
};
use crate::{
    kernel,
    setup::{self, Group},
};

/// A kernel module to load before the command runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModuleLoad {
    /// Which.
    pub(crate) module: Module,
    /// Parameters, as `insmod` takes them.
    pub(crate) parameters: String,
}

/// Where a module comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Module {
    /// One of the kernel's own, by name; what it needs is loaded first.
    Stock(String),
    /// A file.
    File(PathBuf),
}

/// What becomes of the command's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// It goes to this program's standard output and standard error.
    Inherit,
    /// It is in the [`Outcome`].
    Capture,
}

/// The processor's model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Cpu {
    /// All that the emulator can do, without the fast string moves that every processor of today says
    /// it has: the emulator runs them byte by byte, and the kernel copies and clears pages by
    /// words then, as fast as the emulator can.
    #[default]
    ByWords,
    /// All that the emulator can do.
    Max,
}

/// How often the machine is booted when the emulator fails.
const BOOTS: u32 = 3;

/// A machine and what it runs. All fields have defaults but the command.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    /// RAM in MiB, of which soft-reserved ranges are a part; more if they don't fit.
    pub(crate) memory_mib: u64,
    /// Processors.
    pub(crate) cpus: u32,
    /// Their model.
    pub(crate) cpu: Cpu,
    /// Soft-reserved ranges of guest physical addresses.
    pub(crate) spm: Vec<Range>,
    /// A second NUMA node, without processors: all RAM from the first soft-reserved range upwards
    /// and 1 GiB more.
    pub(crate) numa: bool,
    /// What is booted.
    pub(crate) kernel: kernel::Name,
    /// More kernel parameters.
    pub(crate) append: Vec<String>,
    /// Modules, loaded in this order.
    pub(crate) modules: Vec<ModuleLoad>,
    /// Commands to run as root before the command; one that fails ends the run with status 125.
    pub(crate) prepare: Vec<Vec<String>>,
    /// The command, with its arguments.
    pub(crate) command: Vec<String>,
    /// More environment variables for the command.
    pub(crate) environment: Vec<(String, String)>,
    /// User (and group) number that the command runs as, instead of root.
    pub(crate) user: Option<u32>,
    /// Directory of the host that is `/out` in the guest, for files to bring back.
    pub(crate) shared: Option<PathBuf>,
    /// Time for boot, command and checks together.
    pub(crate) timeout: Duration,
    /// Where the command's output goes.
    pub(crate) output: Output,
}

impl Default for Guest {
    fn default() -> Self {
        Self {
            memory_mib: 4096,
            cpus: 2,
            cpu: Cpu::default(),
            spm: vec![
                Range {
                    start: 0x1_4000_0000,
                    bytes: 512 << 20,
                },
                Range {
                    start: 0x1_8000_0000,
                    bytes: 512 << 20,
                },
            ],
            numa: false,
            kernel: kernel::Name::Stock,
            append: Vec::new(),
            modules: Vec::new(),
            prepare: Vec::new(),
            command: Vec::new(),
            environment: Vec::new(),
            user: None,
            shared: None,
            timeout: Duration::from_secs(300),
            output: Output::Inherit,
        }
    }
}

impl Guest {
    /// Boots the machine, runs the command in it and waits for the end of both.
    ///
    /// # Errors
    ///
    /// Only when the run could not be started. What happens later is in the outcome.
    pub(crate) fn run(&self) -> Result<Outcome> {
        setup::ensure(Group::Guest)?;
        if self.command.is_empty() {
            bail!("the lab needs a command to run");
        }
        for _attempt in 1..BOOTS {
            let (outcome, is_emulator_fault) = self.boot()?;
            if !is_emulator_fault {
                return Ok(outcome);
            }
            eprintln!(
                "lab: the emulator failed before any of our code ran, booting again; see {}",
                outcome.kernel_log.display()
            );
        }
        Ok(self.boot()?.0)
    }

    /// One boot: its outcome, and whether that is the emulator's fault, see
    /// [`Ended::is_emulator_fault`].
    fn boot(&self) -> Result<(Outcome, bool)> {
        let kernel = self.kernel.find()?;
        let memory = Memory::with(self.memory_mib << 20, &self.spm, self.numa)?;
        let directory = run_directory()?;
        let initramfs = directory.join("initramfs");
        let kernel_log = directory.join("kernel.log");
        let report = directory.join("report");
        let mark = stream::end_mark();
        let content = self
            .initramfs(&kernel, &mark)
            .context("cannot make the initramfs")?;
        fs::write(&initramfs, content)
            .with_context(|| format!("cannot write {}", initramfs.display()))?;
        if let Some(shared) = &self.shared {
            fs::create_dir_all(shared)
                .with_context(|| format!("cannot make {}", shared.display()))?;
        }
        let files = Files {
            kernel: &kernel.image,
            initramfs: &initramfs,
            kernel_log: &kernel_log,
            report: &report,
            shared: self.shared.as_deref(),
        };
        let command_line = machine::kernel_command_line(&memory, self.kernel, &self.append);
        let arguments =
            machine::qemu_arguments(&memory, self.cpus, self.cpu, &files, &command_line);

        let (stdout, guest_stdout) = UnixStream::pair().context("cannot make a socket")?;
        let (stderr, guest_stderr) = UnixStream::pair().context("cannot make a socket")?;
        let qemu_log = directory.join("qemu.log");
        let qemu_stderr = fs::File::create(&qemu_log)
            .with_context(|| format!("cannot write {}", qemu_log.display()))?;
        // setpriv: QEMU must not outlive this program.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args(&arguments)
            .stdin(OwnedFd::from(guest_stdout))
            .stdout(OwnedFd::from(guest_stderr))
            .stderr(qemu_stderr)
            .spawn()
            .context("cannot run setpriv and qemu-system-x86_64")?;
        let stdout = self.forward(stdout, io::stdout(), &mark);
        let stderr = self.forward(stderr, io::stderr(), &mark);
        let exit = wait(child, self.timeout)?;
        let stdout = join(stdout)?;
        let stderr = join(stderr)?;
        fs::remove_file(&initramfs)
            .with_context(|| format!("cannot remove {}", initramfs.display()))?;

        let ended = Ended {
            exit,
            timeout: self.timeout,
            marked: stdout.marked && stderr.marked,
            kernel_log: read_lossy(&kernel_log),
            report: read_lossy(&report),
            qemu_log: read_lossy(&qemu_log),
        };
        let (status, complaints) = ended.judge();
        let outcome = Outcome {
            status,
            complaints,
            kernel_log,
            stdout: stdout.bytes,
            stderr: stderr.bytes,
        };
        Ok((outcome, ended.is_emulator_fault()))
    }

    fn forward(
        &self,
        from: UnixStream,
        mut to: impl Write + Send + 'static,
        mark: &str,
    ) -> thread::JoinHandle<io::Result<Forwarded>> {
        let output = self.output;
        let mark = mark.to_owned();
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let marked = match output {
                Output::Inherit => stream::copy_to_mark(from, &mut to, mark.as_bytes())?,
                Output::Capture => stream::copy_to_mark(from, &mut bytes, mark.as_bytes())?,
            };
            Ok(Forwarded { bytes, marked })
        })
    }
}

/// One of the command's two outputs.
struct Forwarded {
    bytes: Vec<u8>,
    marked: bool,
}

fn join(handle: thread::JoinHandle<io::Result<Forwarded>>) -> Result<Forwarded> {
    let Ok(result) = handle.join() else {
        bail!("the thread that copies output has panicked")
    };
    result.context("cannot pass on the command's output")
}

/// Waits for QEMU; after `timeout` it is killed and the answer is `None`.
pub(super) fn wait(mut child: Child, timeout: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for QEMU")? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            child.kill().context("cannot kill QEMU")?;
            child.wait().context("cannot wait for QEMU")?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn read_lossy(path: &Path) -> String {
    // A file that QEMU did not get to make is as good as an empty one: its absence is judged.
    fs::read(path).map_or_else(
        |_| String::new(),
        |bytes| String::from_utf8_lossy(&bytes).into(),
    )
}

/// A fresh directory for one run's files; old ones are removed.
pub(super) fn run_directory() -> Result<PathBuf> {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let runs = place::lab_directory()?.join("runs");
    fs::create_dir_all(&runs).with_context(|| format!("cannot make {}", runs.display()))?;
    place::prune(&runs, 50)?;
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let directory = runs.join(format!("{}-{run}", std::process::id()));
    if directory.exists() {
        // Of an earlier process with the same number.
        fs::remove_dir_all(&directory)
            .with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory)
}
