//! `cohmem run`: a program lives on a device.

use std::{
    ffi::{OsStr, OsString, c_int},
    io,
    process::{Child, Command},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use cohmem::{ByteCount, Device, Process, discover};
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, set_child_subreaper, wait,
};
use signal_hook::{
    consts,
    iterator::{SignalsInfo, exfiltrator::WithOrigin},
};

use crate::{
    cmd::device_number,
    duration,
    exit::{CliError, Exit, Result, warn},
    follow::{Follower, Tally},
    limits::{self, OTHER_TOOLS},
    output::Output,
};

/// Run a program, and move its anonymous memory to a device as it appears.
///
/// Its children are followed, too. The exit status is the program's: 128 and the signal's number
/// when a signal ended it, 127 or 126 when it could not be started.
#[derive(Args, Debug)]
#[command(after_long_help = OTHER_TOOLS)]
pub(crate) struct Run {
    /// cohmemN or N; the only one that is attached by default.
    #[arg(long, value_parser = device_number)]
    device: Option<u32>,
    /// Time between two looks at the program, with ms, s, m or h.
    #[arg(long, default_value = "250ms", value_parser = duration::parse_interval, value_name = "TIME")]
    interval: Duration,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
}

/// What ends a wait.
#[derive(Clone, Copy, Debug)]
enum Event {
    ChildChanged,
    /// A signal that somebody sent to this process alone.
    Forward(c_int),
}

impl Run {
    pub(crate) fn run(&self, _out: &mut Output) -> Result<Exit> {
        let device = self.open_device()?;
        let number = device.number();
        // Children whose parent ends stay below this process, where they are found.
        set_child_subreaper(Some(getpid())).map_err(|errno| CliError::Signals(errno.into()))?;
        // Before the start, so that no signal is lost.
        let events = receive_signals().map_err(CliError::Signals)?;
        // The program begins in the same control group, and may fill the device.
        let own = Process::open(std::process::id())?;
        limits::warn_before(&own, ByteCount::default(), device.query_free()?);
        let child = self.start()?;
        let mut follower = Follower::new(device);
        let (status, longest_gap) = follow(&mut follower, &child, &events, self.interval);
        summarize(number, &follower.finish(), longest_gap);
        Ok(Exit::Program(status))
    }

    fn open_device(&self) -> Result<Device> {
        let number = match self.device {
            Some(number) => number,
            None => {
                let numbers: Vec<u32> = discover()?.iter().map(|device| device.number).collect();
                match numbers[..] {
                    [number] => number,
                    // Says what is missing: the driver, or a device.
                    [] if !cohmem::is_driver_loaded() => 0,
                    [] => return Err(CliError::NoDevices),
                    _ => return Err(CliError::SeveralDevices { numbers }),
                }
            }
        };
        Ok(Device::open(number)?)
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

fn receive_signals() -> io::Result<Receiver<Event>> {
    let wanted = [
        consts::SIGCHLD,
        consts::SIGINT,
        consts::SIGTERM,
        consts::SIGHUP,
        consts::SIGQUIT,
        consts::SIGUSR1,
        consts::SIGUSR2,
    ];
    let mut signals = SignalsInfo::<WithOrigin>::new(wanted)?;
    let (sender, events) = mpsc::channel();
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for origin in &mut signals {
                let event = match origin.signal {
                    consts::SIGCHLD => Event::ChildChanged,
                    // A terminal sends its signals to the program as well.
                    _ if origin.process.is_none() => continue,
                    signal => Event::Forward(signal),
                };
                if sender.send(event).is_err() {
                    return;
                }
            }
        })?;
    Ok(events)
}

/// Follows the program until it ends; returns its status and the longest time between two looks.
fn follow(
    follower: &mut Follower,
    child: &Child,
    events: &Receiver<Event>,
    interval: Duration,
) -> (u8, Duration) {
    let child = Pid::from_child(child);
    let mut longest_gap = Duration::ZERO;
    let mut last_look: Option<Instant> = None;
    // A program allocates much of its memory early.
    let mut next_look = Instant::now() + interval.min(Duration::from_millis(20));
    let mut is_following = true;
    loop {
        match events.recv_timeout(next_look.saturating_duration_since(Instant::now())) {
            Ok(Event::ChildChanged) => {
                if let Some(status) = reap(child) {
                    return (status, longest_gap);
                }
                continue;
            }
            Ok(Event::Forward(signal)) => {
                forward(child, signal);
                continue;
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        let begin = Instant::now();
        if let Some(last) = last_look.replace(begin) {
            longest_gap = longest_gap.max(begin - last);
        }
        if is_following && let Err(error) = follower.round() {
            warn(
                "the program runs on, but its memory is no longer moved",
                &error,
            );
            is_following = false;
        }
        // A look that takes long takes no more than half of the time.
        let took = begin.elapsed();
        next_look = begin + took + interval.saturating_sub(took).max(took.min(interval));
    }
}

fn forward(child: Pid, signal: c_int) {
    let Some(signal) = Signal::from_named_raw(signal) else {
        return;
    };
    // It may just have ended, which SIGCHLD tells.
    if let Err(error) = kill_process(child, signal)
        && error != rustix::io::Errno::SRCH
    {
        warn("the signal did not reach the program", &error);
    }
}

/// Collects what has ended; the status of `child` if that is among them.
fn reap(child: Pid) -> Option<u8> {
    let mut status = None;
    while let Ok(Some((pid, wait_status))) = wait(WaitOptions::NOHANG) {
        if pid == child {
            status = Some(status_of(wait_status));
        }
    }
    status
}

fn status_of(status: WaitStatus) -> u8 {
    let raw = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 1,
    };
    u8::try_from(raw).unwrap_or(u8::MAX)
}

fn summarize(number: u32, tally: &Tally, longest_gap: Duration) {
    let stayed: Vec<_> = tally
        .stayed
        .iter()
        .map(|(reason, pages)| format!("{pages} {}", reason.name()))
        .collect();
    let stayed = if stayed.is_empty() {
        "none".to_owned()
    } else {
        stayed.join(", ")
    };
    eprintln!(
        "cohmem run: {} pages ({}) moved to cohmem{number}, at most {} there at a time; \
         stayed: {stayed}; {} looks, at most {} ms apart",
        tally.moved,
        ByteCount::of_frames(tally.moved),
        ByteCount::of_frames(tally.peak),
        tally.rounds,
        longest_gap.as_millis()
    );
    if !tally.unseen.is_empty() {
        eprintln!(
            "cohmem run: {} processes could not be looked into (set-user-ID programs are not \
             this user's to see)",
            tally.unseen.len()
        );
    }
}
