//! Our test device against the kernel's own (`test_hmm`): the same ioctls, in the same guest.
//!
//! Both offer the same node over the same memory, so they are loaded in turn, and in each round the
//! other one first. A call moves the whole range and, to the device, copies what the device sees back
//! to the caller, who compares it.

use std::{
    error::Error,
    fmt,
    fs::{File, OpenOptions},
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use crate::{
    figure::Times,
    sys::{DeviceCommand, PAGE, Pages},
};

const NODE: &str = "/dev/hmm_dmirror2";
/// Passes of a module before the one that counts: a virtual machine's memory is given by its host at the
/// first touch.
const NR_WARM_UPS: usize = 1;
/// For the node to appear. Generous: devtmpfs makes it before `insmod` returns.
const NODE_TIMEOUT: Duration = Duration::from_secs(60);

/// Arguments of the benchmark.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Our module
    #[arg(long, value_name = "FILE")]
    ours: PathBuf,
    /// The kernel's
    #[arg(long, value_name = "FILE")]
    theirs: PathBuf,
    /// Parameters for both
    #[arg(long, value_name = "NAME=VALUE", allow_hyphen_values = true)]
    parameter: Vec<String>,
    /// MiB to move each time; the devices have 256
    #[arg(long, default_value_t = 64, value_name = "MIB", value_parser = clap::value_parser!(u16).range(1..=192))]
    size: u16,
    /// Rounds
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
}

/// A figure would be worth nothing.
#[derive(Debug)]
enum Spoiled {
    Program {
        program: &'static str,
        status: ExitStatus,
    },
    NoNode,
    Partial {
        step: &'static str,
        nr_done: u64,
        nr_pages: u64,
    },
    Content {
        step: &'static str,
    },
}

impl fmt::Display for Spoiled {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program { program, status } => write!(formatter, "{program}: {status}"),
            Self::NoNode => write!(formatter, "there is no {NODE}"),
            Self::Partial {
                step,
                nr_done,
                nr_pages,
            } => write!(formatter, "{step}: {nr_done} of {nr_pages} pages"),
            Self::Content { step } => write!(formatter, "{step}: the content changed"),
        }
    }
}

impl Error for Spoiled {}

#[derive(Default)]
struct Rounds {
    to_device: Times,
    to_system: Times,
}

pub(crate) fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let bytes = usize::from(args.size) << 20;
    println!(
        "pages {PAGE} bytes, {} MiB, exclusive, touched, not huge, 1 thread, {NODE}",
        args.size
    );
    println!(
        "ours {}, theirs {}",
        args.ours.display(),
        args.theirs.display()
    );
    let (mut ours, mut theirs) = (Rounds::default(), Rounds::default());
    for round in 0..args.rounds {
        let mut sides = [(&args.ours, &mut ours), (&args.theirs, &mut theirs)];
        if round % 2 == 1 {
            sides.reverse();
        }
        for (module, rounds) in sides {
            let loaded = Loaded::new(module, &args.parameter)?;
            pass(bytes, rounds)?;
            loaded.unload()?;
        }
    }
    ours.to_device
        .print_ratio("dmirror.to_device.vs_test_hmm", &theirs.to_device);
    ours.to_system
        .print_ratio("dmirror.to_system.vs_test_hmm", &theirs.to_system);
    ours.to_device.print_rate("dmirror.to_device.rate", bytes);
    ours.to_system.print_rate("dmirror.to_system.rate", bytes);
    Ok(())
}

/// Moves the memory there and back, and times the last time.
fn pass(bytes: usize, rounds: &mut Rounds) -> Result<(), Box<dyn Error>> {
    let device = OpenOptions::new().read(true).write(true).open(NODE)?;
    let pages = Pages::touched(bytes)?;
    let mut seen = Pages::touched(bytes)?;
    for nr_pass in 0..=NR_WARM_UPS {
        seen.words_mut().fill(0);
        let to_device = call(
            &device,
            DeviceCommand::ToDevice,
            &pages,
            &mut seen,
            "to the device",
        )?;
        if !seen.is_whole() {
            return Err(Spoiled::Content {
                step: "what the device sees",
            }
            .into());
        }
        let to_system = call(&device, DeviceCommand::ToSystem, &pages, &mut seen, "home")?;
        if !pages.is_whole() {
            return Err(Spoiled::Content { step: "back home" }.into());
        }
        if nr_pass == NR_WARM_UPS {
            rounds.to_device.push(to_device);
            rounds.to_system.push(to_system);
        }
    }
    Ok(())
}

fn call(
    device: &File,
    command: DeviceCommand,
    pages: &Pages,
    seen: &mut Pages,
    step: &'static str,
) -> Result<Duration, Box<dyn Error>> {
    let start = Instant::now();
    let nr_done = command.call(device, pages, seen)?;
    let elapsed = start.elapsed();
    let nr_pages = pages.page_addresses().len() as u64;
    if nr_done != nr_pages {
        return Err(Spoiled::Partial {
            step,
            nr_done,
            nr_pages,
        }
        .into());
    }
    Ok(elapsed)
}

/// A loaded module.
struct Loaded {
    name: String,
}

impl Loaded {
    fn new(module: &Path, parameters: &[String]) -> Result<Self, Box<dyn Error>> {
        let mut insmod = Command::new("insmod");
        insmod.arg(module).args(parameters);
        succeed("insmod", &mut insmod)?;
        let start = Instant::now();
        while !Path::new(NODE).exists() {
            if start.elapsed() > NODE_TIMEOUT {
                return Err(Spoiled::NoNode.into());
            }
            thread::yield_now();
        }
        let name = module.file_stem().unwrap_or_default();
        Ok(Self {
            name: name.to_string_lossy().into_owned(),
        })
    }

    fn unload(self) -> Result<(), Box<dyn Error>> {
        succeed("rmmod", Command::new("rmmod").arg(self.name))
    }
}

fn succeed(program: &'static str, command: &mut Command) -> Result<(), Box<dyn Error>> {
    let status = command.status()?;
    if status.success() {
        Ok(())
    } else {
        Err(Spoiled::Program { program, status }.into())
    }
}
