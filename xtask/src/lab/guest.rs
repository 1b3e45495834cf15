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
    cpio::Archive,
    job::Job,
    machine::{self, Files, Memory},
    modules::{Modules, module_name},
    place,
    range::Range,
    report::{self, Class, Complaint, Report},
    stream,
};
use crate::setup::{self, Group};

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

/// A machine and what it runs. All fields have defaults but the command.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    /// RAM in MiB, of which soft-reserved ranges are a part; more if they don't fit.
    pub(crate) memory_mib: u64,
    /// Processors.
    pub(crate) cpus: u32,
    /// Soft-reserved ranges of guest physical addresses.
    pub(crate) spm: Vec<Range>,
    /// A second NUMA node, without processors: all RAM from the first soft-reserved range upwards
    /// and 1 GiB more.
    pub(crate) numa: bool,
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

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Exit status of the command (128 + n when signal n ended it), if it ended.
    pub(crate) status: Option<i32>,
    /// All that went wrong besides, worst class first.
    pub(crate) complaints: Vec<Complaint>,
    /// The kernel's log.
    pub(crate) kernel_log: PathBuf,
    /// The command's standard output, if captured.
    pub(crate) stdout: Vec<u8>,
    /// The command's standard error, if captured.
    pub(crate) stderr: Vec<u8>,
}

impl Outcome {
    /// Exit status for the whole run: 0 only if the command succeeded and nothing complained.
    pub(crate) fn exit_code(&self) -> u8 {
        match (self.complaints.first(), self.status) {
            (Some(worst), _) => worst.class.exit_code(),
            (None, Some(status)) => u8::try_from(status).unwrap_or(1),
            (None, None) => Class::Harness.exit_code(),
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
        let release = setup::kernel_release()?;
        let memory = Memory::with(self.memory_mib << 20, &self.spm, self.numa)?;
        let directory = run_directory()?;
        let kernel = Path::new("/boot").join(format!("vmlinuz-{release}"));
        let initramfs = directory.join("initramfs");
        let kernel_log = directory.join("kernel.log");
        let report = directory.join("report");
        let mark = stream::end_mark();
        let content = self
            .initramfs(&release, &mark)
            .context("cannot make the initramfs")?;
        fs::write(&initramfs, content)
            .with_context(|| format!("cannot write {}", initramfs.display()))?;
        if let Some(shared) = &self.shared {
            fs::create_dir_all(shared)
                .with_context(|| format!("cannot make {}", shared.display()))?;
        }
        let files = Files {
            kernel: &kernel,
            initramfs: &initramfs,
            kernel_log: &kernel_log,
            report: &report,
            shared: self.shared.as_deref(),
        };
        let command_line = machine::kernel_command_line(&memory, &self.append);
        let arguments = machine::qemu_arguments(&memory, self.cpus, &files, &command_line);

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
        Ok(Outcome {
            status,
            complaints,
            kernel_log,
            stdout: stdout.bytes,
            stderr: stderr.bytes,
        })
    }

    fn initramfs(&self, release: &str, mark: &str) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for directory in ["bin", "dev", "proc", "sys", "lab", "lab/modules"] {
            archive.directory(directory)?;
        }
        let busybox = fs::read("/bin/busybox").context("cannot read /bin/busybox")?;
        archive.file("bin/busybox", 0o755, &busybox)?;
        archive.file("init", 0o755, include_bytes!("../../../lab/init"))?;
        archive.file("lab/session", 0o644, include_bytes!("../../../lab/session"))?;
        archive.file("lab/job", 0o644, self.job()?.as_bytes())?;
        archive.file("lab/mark", 0o644, format!("{mark}\n").as_bytes())?;
        if self.shared.is_some() {
            archive.file("lab/out", 0o644, b"")?;
        }
        let load = self.add_modules(&mut archive, release)?;
        archive.file("lab/load", 0o644, load.as_bytes())?;
        archive.finish()
    }

    /// Adds the modules' files; gives the list that `lab/init` loads from.
    fn add_modules(&self, archive: &mut Archive, release: &str) -> Result<String> {
        let stock = Modules::read(release)?;
        let cache = place::lab_directory()?.join("modules").join(release);
        let mut load = String::new();
        let own = ["pvpanic_mmio", "9pnet_virtio", "9p", "overlay"];
        let own = own.map(|name| ModuleLoad {
            module: Module::Stock(name.to_owned()),
            parameters: String::new(),
        });
        let mut loaded: Vec<String> = Vec::new();
        for ModuleLoad { module, parameters } in own.iter().chain(&self.modules) {
            let mut add = |name: String, content: &[u8], parameters: &str| {
                if loaded.contains(&name) {
                    return Ok(());
                }
                load += &format!("{name}.ko {parameters}\n");
                archive.file(&format!("lab/modules/{name}.ko"), 0o644, content)?;
                loaded.push(name);
                anyhow::Ok(())
            };
            match module {
                Module::File(path) => {
                    let content = fs::read(path)
                        .with_context(|| format!("cannot read the module {}", path.display()))?;
                    add(
                        module_name(&path.display().to_string()),
                        &content,
                        parameters,
                    )?;
                }
                Module::Stock(name) => {
                    let files = stock.load_order(name)?;
                    for (position, file) in files.iter().enumerate() {
                        let is_last = position + 1 == files.len();
                        let content = stock.content(file, &cache)?;
                        add(
                            module_name(file),
                            &content,
                            if is_last { parameters } else { "" },
                        )?;
                    }
                }
            }
        }
        Ok(load)
    }

    fn job(&self) -> Result<String> {
        let directory = place::repository()?;
        let mut environment = vec![
            ("PATH".to_owned(), place::guest_path()?),
            (
                "HOME".to_owned(),
                if self.user.is_some() { "/tmp" } else { "/root" }.to_owned(),
            ),
            ("LANG".to_owned(), "C.UTF-8".to_owned()),
            ("COHMEM_LAB".to_owned(), "1".to_owned()),
        ];
        for load in &self.modules {
            if let Module::File(path) = &load.module
                && path.file_name().is_some_and(|name| name == "cohmem.ko")
            {
                // For tests that unload it and load it again.
                environment.push(("COHMEM_MODULE".to_owned(), path.display().to_string()));
            }
        }
        environment.extend(self.environment.iter().cloned());
        let job = Job {
            prepare: &self.prepare,
            command: &self.command,
            directory: &directory,
            environment,
            user: self.user,
        };
        Ok(job.script())
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
fn wait(mut child: Child, timeout: Duration) -> Result<Option<ExitStatus>> {
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

/// All that is known after QEMU's end.
struct Ended {
    /// `None`: killed for the timeout.
    exit: Option<ExitStatus>,
    timeout: Duration,
    /// Whether both outputs came whole.
    marked: bool,
    kernel_log: String,
    report: String,
    qemu_log: String,
}

impl Ended {
    fn judge(&self) -> (Option<i32>, Vec<Complaint>) {
        let report = Report::parse(&self.report);
        let mut complaints = report.complaints;
        complaints.extend(report::scan_log(&self.kernel_log));
        let harness = |text: String| Complaint::new(Class::Harness, text);
        match self.exit {
            None => complaints.push(Complaint::new(
                Class::Timeout,
                format!(
                    "no end within {} s; the guest was killed",
                    self.timeout.as_secs()
                ),
            )),
            // A panic ends QEMU with an error, and is in the log. So is one that no device reports.
            _ if self.kernel_log.contains("Kernel panic - ") => {}
            Some(exit) if !exit.success() => {
                let said = self.qemu_log.trim();
                complaints.push(harness(format!("QEMU failed ({exit}): {said}")));
            }
            // It has said why.
            _ if complaints.iter().any(|complaint| complaint.class == Class::Harness) => {}
            Some(_) if !report.complete => {
                complaints.push(harness("the guest ended without its report".to_owned()));
            }
            Some(_) if !self.marked => {
                complaints.push(harness("a part of the command's output is lost".to_owned()));
            }
            Some(_) => {}
        }
        complaints.sort_by_key(|complaint| complaint.class);
        (report.status, complaints)
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
fn run_directory() -> Result<PathBuf> {
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

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    fn ended(exit: Option<i32>, kernel_log: &str, report: &str) -> Ended {
        Ended {
            exit: exit.map(|code| ExitStatus::from_raw(code << 8)),
            timeout: Duration::from_secs(60),
            marked: true,
            kernel_log: kernel_log.to_owned(),
            report: report.to_owned(),
            qemu_log: "cannot open the kernel".to_owned(),
        }
    }

    fn worst(ended: &Ended) -> Option<Class> {
        ended.judge().1.first().map(|complaint| complaint.class)
    }

    #[test]
    fn only_a_complete_run_without_complaint_is_clean() {
        let report = "exit=7\ntainted=0\ncomplete=1\n";
        assert_eq!(ended(Some(0), "", report).judge(), (Some(7), vec![]));
        assert_eq!(worst(&ended(Some(0), "", "exit=0\n")), Some(Class::Harness));
        assert_eq!(worst(&ended(None, "", report)), Some(Class::Timeout));
        assert_eq!(
            worst(&Ended {
                marked: false,
                ..ended(Some(0), "", report)
            }),
            Some(Class::Harness)
        );
    }

    #[test]
    fn a_panic_is_told_from_a_qemu_that_does_not_start() {
        let panic = ended(Some(1), "[ 1.0] Kernel panic - not syncing: x", "");
        assert_eq!(worst(&panic), Some(Class::Kernel));
        let (_, complaints) = ended(Some(1), "", "").judge();
        assert_eq!(complaints.len(), 1);
        assert!(
            complaints[0].text.contains("cannot open the kernel"),
            "{}",
            complaints[0]
        );
    }

    #[test]
    fn an_oops_outranks_the_leak_that_follows_it() {
        let log = "[ 1.0] Oops: Oops: 0002 [#1]";
        assert_eq!(
            worst(&ended(Some(0), log, "leaked=a=1\ncomplete=1\n")),
            Some(Class::Kernel)
        );
    }
}
