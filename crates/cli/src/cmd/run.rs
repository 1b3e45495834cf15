//! `cohmem run`: a program lives on a device.

mod elsewhere;
mod program;
mod summary;

use std::{
    ffi::{OsStr, OsString},
    process::{Child, Command},
    time::{Duration, Instant},
};

use clap::Args;
use cohmem::{ByteCount, Device, ErrorKind, Process, discover, quota::Limit};
use rustix::process::{Pid, Resource, Rlimit, getpid, getrlimit, set_child_subreaper, setrlimit};

use self::{
    elsewhere::without_module,
    program::{Ended, Running, kill_children, receive_signals},
};
use crate::{
    cmd::device_number,
    duration,
    exit::{CliError, Exit, Result, warn},
    follow::{Follower, Lack, live::Live},
    limits::{self, OTHER_TOOLS},
    output::Output,
    policy::{self, Full, Policy},
};

/// Run a program, and move its memory to a device as it appears.
///
/// Its children are followed, too. The exit status is the program's: 128 and the signal's number
/// when a signal ended it, 127 or 126 when it could not be started.
#[derive(Args, Debug)]
#[command(after_help = policy::HELP, after_long_help = format!("{}\n\n{OTHER_TOOLS}", policy::HELP))]
pub(crate) struct Run {
    /// cohmemN or N; the only one that is attached by default.
    #[arg(long, value_parser = device_number)]
    device: Option<u32>,
    /// What goes to which devices, how much of it, and what if they are full: see below.
    #[arg(long, default_value = "all")]
    policy: Policy,
    /// Time within which new memory follows, with ms, s, m or h.
    ///
    /// The program is looked at four times in it, or twice when nothing changes.
    #[arg(long, default_value = "1s", value_parser = duration::parse_interval, value_name = "TIME")]
    interval: Duration,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
}

impl Run {
    pub(crate) fn run(&self, _out: &mut Output) -> Result<Exit> {
        let mut policy = self.policy.clone();
        let devices = self.open_devices(&policy)?;
        policy.devices = devices.iter().map(Device::number).collect();
        for device in &devices {
            begin(device, &policy)?;
        }
        let full = policy.full;
        // Children whose parent ends stay below this process, where they are found.
        set_child_subreaper(Some(getpid())).map_err(|errno| CliError::Signals(errno.into()))?;
        // Before the start, so that no signal is lost.
        let events = receive_signals().map_err(CliError::Signals)?;
        // The program begins in the same control group, and may fill the devices.
        let own = Process::open(std::process::id())?;
        limits::warn_before(&own, ByteCount::default(), room(&devices, &policy)?);
        let child = self.start()?;
        allow_many_files();
        let own = std::process::id();
        let mut run = Running {
            follower: Follower::new(Live::new(devices), policy, own, self.interval / 2),
            child: Pid::from_child(&child),
            events,
            interval: self.interval,
            longest_wait: Duration::ZERO,
            is_strict: full == Full::Strict,
            limits: limits::Watch::default(),
        };
        let begin = Instant::now();
        let ended = run.follow();
        if let Ended::NoRoom(..) = ended {
            kill_children();
        }
        let longest_wait = run.longest_wait;
        summary::print(&run.follower.finish(), longest_wait, begin.elapsed());
        match ended {
            Ended::Itself(status) => Ok(Exit::Program(status)),
            Ended::NoRoom(lack, pages) => Err(CliError::NoRoom {
                is_limit: lack == Lack::Limit,
                pages,
            }),
        }
    }

    fn open_devices(&self, policy: &Policy) -> Result<Vec<Device>> {
        let numbers = match (self.device, &policy.devices[..]) {
            (Some(_), [_, ..]) => return Err(CliError::DevicesTwice),
            (Some(number), []) => vec![number],
            (None, named @ [_, ..]) => named.to_vec(),
            (None, []) => {
                let numbers: Vec<u32> = discover()?.iter().map(|device| device.number).collect();
                match numbers[..] {
                    [number] => vec![number],
                    // Says what is missing: the driver, or a device.
                    [] if !cohmem::is_driver_loaded() => vec![0],
                    [] => return Err(CliError::NoDevices),
                    _ => return Err(CliError::SeveralDevices { numbers }),
                }
            }
        };
        let open = |number| {
            Device::open(number).map_err(|error| match error.kind() {
                ErrorKind::NoDriver => CliError::Helped {
                    error,
                    help: without_module(),
                },
                _ => error.into(),
            })
        };
        numbers.into_iter().map(open).collect()
    }

    fn start(&self) -> Result<Child> {
        let (program, arguments) = match self.program.split_first() {
            Some((program, arguments)) => (program.as_os_str(), arguments),
            None => (OsStr::new(""), &[][..]),
        };
        Command::new(program)
            .args(arguments)
            .spawn()
            .map_err(|source| CliError::Start {
                program: program.to_string_lossy().into_owned(),
                source,
            })
    }
}

/// Has the driver count what comes to the device, and keep it to the limit: of all devices together, which
/// the rounds keep, so no one of them holds more. Ends with this process.
fn begin(device: &Device, policy: &Policy) -> Result<()> {
    let bytes = |pages| Limit::Bytes(ByteCount::of_frames(pages));
    let limit = policy.limit_pages().map_or(Limit::Unlimited, bytes);
    match device.set_run(limit) {
        Err(error) if error.kind() == ErrorKind::TooMany => {
            warn("this run is not counted apart", &error);
            Ok(())
        }
        made => Ok(made.map(drop)?),
    }
}

/// What the policy may bring to the devices as they are now.
fn room(devices: &[Device], policy: &Policy) -> Result<ByteCount> {
    let mut pages = 0u64;
    for device in devices {
        pages = pages.saturating_add(device.query_free()?.frames());
    }
    let most = policy.limit_pages().unwrap_or(u64::MAX);
    Ok(ByteCount::of_frames(pages.min(most)))
}

/// Each process that is followed takes two descriptors. The program has the old limit.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Without more, processes beyond the limit are looked at when others have ended.
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn("only few processes can be followed", &error);
    }
}
