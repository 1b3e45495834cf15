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
const NR_WARM_UPS: u32 = 1;
/// Passes that count: the quickest is the round's, since what else the host does only adds.
const NR_TIMED: u32 = 5;
/// Passes of a module at most.
const NR_TRIES: u32 = 30;
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
    Partial,
    Content(&'static str),
}

impl fmt::Display for Spoiled {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program { program, status } => write!(formatter, "{program}: {status}"),
            Self::NoNode => write!(formatter, "there is no {NODE}"),
            Self::Partial => write!(
                formatter,
                "in {NR_TRIES} passes, not all pages moved both ways often enough"
            ),
            Self::Content(what) => write!(formatter, "{what} is not what was written"),
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
        "pages {PAGE} bytes, {} MiB, exclusive, touched, not huge, 1 thread, {NODE}, \
         best of {NR_TIMED} a round",
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

/// Moves the memory there and back several times, and notes the quickest.
fn pass(bytes: usize, rounds: &mut Rounds) -> Result<(), Box<dyn Error>> {
    let device = OpenOptions::new().read(true).write(true).open(NODE)?;
    let pages = Pages::touched(bytes)?;
    let mut seen = Pages::touched(bytes)?;
    let (mut quickest_there, mut quickest_home) = (Duration::MAX, Duration::MAX);
    let mut nr_whole = 0;
    for _try in 0..NR_TRIES {
        seen.words_mut().fill(0);
        let there = call(&device, DeviceCommand::ToDevice, &pages, &mut seen)?;
        if there.is_some() && !seen.is_whole() {
            return Err(Spoiled::Content("what the device sees").into());
        }
        let home = call(&device, DeviceCommand::ToSystem, &pages, &mut seen)?;
        if !pages.is_whole() {
            return Err(Spoiled::Content("what came home").into());
        }
        // The kernel may hold a page for a moment: such a time is no measure.
        let (Some(there), Some(home)) = (there, home) else {
            continue;
        };
        nr_whole += 1;
        if nr_whole > NR_WARM_UPS {
            quickest_there = quickest_there.min(there);
            quickest_home = quickest_home.min(home);
        }
        if nr_whole == NR_WARM_UPS + NR_TIMED {
            rounds.to_device.push(quickest_there);
            rounds.to_system.push(quickest_home);
            return Ok(());
        }
    }
    Err(Spoiled::Partial.into())
}

/// Issues a command; its time, if all pages were done.
fn call(
    device: &File,
    command: DeviceCommand,
    pages: &Pages,
    seen: &mut Pages,
) -> Result<Option<Duration>, Box<dyn Error>> {
    let start = Instant::now();
    let result = command.call(device, pages, seen);
    let elapsed = start.elapsed();
    let nr_pages = pages.page_addresses().len() as u64;
    match result {
        Ok(nr_done) => Ok((nr_done == nr_pages).then_some(elapsed)),
        // What the commands say when not all pages are on the device.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
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
