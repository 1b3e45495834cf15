//! `cargo xtask lab`: boots a throw-away virtual machine on Debian's stock kernel, with soft-reserved
//! memory, and runs a command of the host in it.
//!
//! The command sees the host's whole file system and may write to it; what it writes is gone with
//! the machine, except below `/out` (`--out DIR`). The run fails when the command does, and also
//! when the kernel complains in any way, see [`report`].
//!
//! Other jobs describe a [`Guest`] and look at its [`Outcome`].

use std::{path::PathBuf, process::ExitCode, str::FromStr, time::Duration};

use anyhow::Result;

use crate::{
    kernel,
    kmod::{self, Variant},
};

mod cpio;
mod disk;
mod guest;
mod initramfs;
mod job;
mod machine;
mod modules;
mod outcome;
mod place;
mod range;
mod report;
mod self_check;
mod stream;

pub(crate) use disk::Disk;
pub(crate) use guest::{Cpu, Guest, Module, ModuleLoad, Output};
pub(crate) use outcome::Outcome;
pub(crate) use range::Range;

/// Arguments of `cargo xtask lab`.
#[derive(clap::Args)]
#[command(after_help = "\
Exit status: the command's own (128 + n when signal n ended it), or
  120  the lock validator complained
  121  the kernel warned, oopsed, panicked, locked up, or a task hung
  122  device frames or memory leaked, or a process can't be killed
  123  the lab itself failed
  124  the time was up
")]
pub(crate) struct Args {
    /// RAM of the guest in MiB; more if the soft-reserved ranges need it
    #[arg(long, default_value_t = 4096, value_name = "MIB")]
    mem: u64,
    /// Processors
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
    /// Soft-reserved range instead of the default 512M@0x140000000 and 512M@0x180000000; repeatable
    #[arg(long, value_name = "SIZE@ADDRESS")]
    spm: Vec<Range>,
    /// No soft-reserved range
    #[arg(long, conflicts_with = "spm")]
    no_spm: bool,
    /// A second NUMA node without processors; the soft-reserved ranges are on it
    #[arg(long)]
    numa: bool,
    /// Kernel to boot; `newest` is fetched first, `debug` built
    #[arg(long, value_enum, default_value_t, value_name = "NAME")]
    kernel: kernel::Name,
    /// Give the soft-reserved ranges to device-dax: /dev/dax0.0 and so on
    #[arg(long, conflicts_with = "kmem")]
    dax: bool,
    /// Turn the soft-reserved ranges into System RAM, as udev does on an ordinary Debian
    #[arg(long)]
    kmem: bool,
    /// Load a stock module, or one's own from a file NAME.ko; repeatable
    #[arg(long, value_name = "NAME[:PARAMETERS]")]
    module: Vec<ModuleLoad>,
    /// Add a kernel parameter; repeatable
    #[arg(long, value_name = "PARAMETER", allow_hyphen_values = true)]
    append: Vec<String>,
    /// Set an environment variable; repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Seconds until a run that has not ended is killed
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    timeout: u64,
    /// Run the command as this user number, without privileges
    #[arg(long, value_name = "UID")]
    user: Option<u32>,
    /// Directory of the host that is /out in the guest
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Do not build and load the cohmem module
    #[arg(long)]
    no_module: bool,
    /// Load the module with the test hooks
    #[arg(long, conflicts_with = "no_module")]
    hooks: bool,
    /// Attach every soft-reserved range as a device first (needs a built `cohmem`)
    #[arg(long, conflicts_with = "no_module")]
    attach: bool,
    /// Instead of running a command: plant bugs and check that each is noticed, with `--kernel debug` those
    /// that only its checks see
    #[arg(long, conflicts_with_all = [
        "mem", "cpus", "spm", "no_spm", "numa", "dax", "kmem", "module", "append", "env", "timeout", "user",
        "out", "no_module", "hooks", "attach", "verbose", "command",
    ])]
    self_check: bool,
    /// Show the kernel's log afterwards
    #[arg(long, short)]
    verbose: bool,
    /// The command and its arguments, after --
    #[arg(last = true, required_unless_present = "self_check")]
    command: Vec<String>,
}

/// Runs the job.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.self_check {
        self_check::run(args.kernel)?;
        return Ok(ExitCode::SUCCESS);
    }
    let guest = args.guest()?;
    let outcome = guest.run()?;
    if args.verbose {
        eprint!(
            "{}",
            std::fs::read_to_string(&outcome.kernel_log).unwrap_or_default()
        );
    }
    tell(&outcome);
    Ok(ExitCode::from(outcome.exit_code()))
}

/// Plants bugs and checks that each is noticed.
pub(crate) fn self_check(kernel: kernel::Name) -> Result<()> {
    self_check::run(kernel)
}

/// Prints what went wrong besides the command.
pub(crate) fn tell(outcome: &Outcome) {
    if outcome.complaints.is_empty() {
        return;
    }
    for complaint in &outcome.complaints {
        eprintln!("lab: {complaint}");
    }
    let log = std::fs::read(&outcome.kernel_log).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<_> = log.lines().collect();
    eprintln!("lab: the end of {}:", outcome.kernel_log.display());
    for line in lines
        .get(lines.len().saturating_sub(20)..)
        .unwrap_or_default()
    {
        eprintln!("    {line}");
    }
}

impl Args {
    fn guest(&self) -> Result<Guest> {
        let default = Guest::default();
        let mut modules = Vec::new();
        if self.dax || self.kmem {
            modules.push(ModuleLoad::stock("dax_hmem"));
            modules.push(ModuleLoad::stock(if self.kmem {
                "kmem"
            } else {
                "device_dax"
            }));
        }
        if !self.no_module {
            let variant = if self.hooks {
                Variant::Hooks
            } else {
                Variant::Shipped
            };
            modules.push(ModuleLoad::file(kmod::build_on(variant, self.kernel)?));
        }
        modules.extend(self.module.iter().cloned());
        Ok(Guest {
            memory_mib: self.mem,
            cpus: self.cpus,
            spm: if self.no_spm || !self.spm.is_empty() {
                self.spm.clone()
            } else {
                default.spm.clone()
            },
            numa: self.numa,
            kernel: self.kernel,
            append: self.append.clone(),
            modules,
            prepare: if self.attach {
                vec![["cohmem", "attach", "--all"].map(str::to_owned).to_vec()]
            } else {
                Vec::new()
            },
            command: self.command.clone(),
            environment: self.env.clone(),
            user: self.user,
            shared: self.out.clone(),
            timeout: Duration::from_secs(self.timeout),
            ..default
        })
    }
}

impl ModuleLoad {
    /// A module of the kernel's own, without parameters.
    pub(crate) fn stock(name: &str) -> Self {
        Self {
            module: Module::Stock(name.to_owned()),
            parameters: String::new(),
        }
    }

    /// A module file, without parameters.
    pub(crate) fn file(path: PathBuf) -> Self {
        Self {
            module: Module::File(path),
            parameters: String::new(),
        }
    }
}

impl FromStr for ModuleLoad {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, parameters) = text.split_once(':').unwrap_or((text, ""));
        let module = if name.ends_with(".ko") {
            Module::File(PathBuf::from(name))
        } else {
            Module::Stock(name.to_owned())
        };
        Ok(Self {
            module,
            parameters: parameters.to_owned(),
        })
    }
}

fn variable(text: &str) -> Result<(String, String)> {
    let Some((name, value)) = text.split_once('=') else {
        anyhow::bail!("{text:?} is not NAME=VALUE");
    };
    Ok((name.to_owned(), value.to_owned()))
}
