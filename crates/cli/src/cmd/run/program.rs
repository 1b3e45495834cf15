//! The program while it runs: its signals, its end, and the looks at it.

use std::{
    ffi::c_int,
    io,
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use signal_hook::{
    consts,
    iterator::{SignalsInfo, exfiltrator::WithOrigin},
};

use crate::{
    exit::warn,
    follow::{
        Follower, Lack, Round,
        live::{Live, children_of},
        machine::Obstacle,
    },
    limits::Watch,
};

/// How long a program may take to end when it is told to.
const GRACE: Duration = Duration::from_secs(5);

/// What ends a wait.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    ChildChanged,
    /// A signal that somebody sent to this process alone.
    Forward(c_int),
}

pub(super) fn receive_signals() -> io::Result<Receiver<Event>> {
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

/// How the program ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ended {
    Itself(u8),
    /// It was ended, since memory found no room.
    NoRoom(Lack, u64),
}

/// A program and its follower.
pub(super) struct Running {
    pub(super) follower: Follower<Live>,
    pub(super) child: Pid,
    pub(super) events: Receiver<Event>,
    pub(super) interval: Duration,
    /// Most time that new memory waited.
    pub(super) longest_wait: Duration,
    pub(super) is_strict: bool,
    pub(super) limits: Watch,
}

impl Running {
    /// Follows the program until it ends.
    pub(super) fn follow(&mut self) -> Ended {
        let mut last_look = Instant::now();
        // A program allocates much of its memory early.
        let mut pause = self.interval.min(Duration::from_millis(20));
        let mut next_look = last_look + pause;
        let mut is_following = true;
        loop {
            if let Some(status) = self.wait_until(next_look) {
                return Ended::Itself(status);
            }
            if !is_following {
                next_look += self.interval;
                continue;
            }
            let begin = Instant::now();
            let round = match self.follower.round() {
                Ok(round) => round,
                Err(obstacle) => {
                    tell_end_of_following(&obstacle);
                    is_following = false;
                    continue;
                }
            };
            if round.is_busy {
                self.limits.look(self.follower.most_here());
            }
            if let Some((lack, pages)) = round.lack
                && self.is_strict
            {
                self.end_program();
                return Ended::NoRoom(lack, pages);
            }
            // What came just behind the last look is there now.
            self.longest_wait = self.longest_wait.max(last_look.elapsed());
            last_look = begin;
            pause = self.next_pause(pause, round);
            // A look that takes long takes no more than half of the time.
            let took = begin.elapsed();
            next_look = begin + took + pause.saturating_sub(took).max(took.min(pause));
        }
    }

    /// A quarter of the interval, and up to half of it while nothing changes.
    fn next_pause(&self, pause: Duration, round: Round) -> Duration {
        let short = self.interval / 4;
        if round.is_busy {
            short
        } else {
            (pause.max(short) * 5 / 4).min(self.interval / 2)
        }
    }

    /// Passes signals on until then; the status of the program when it ends.
    fn wait_until(&self, deadline: Instant) -> Option<u8> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(Event::ChildChanged) => {
                    if let Some(status) = reap(self.child) {
                        return Some(status);
                    }
                }
                Ok(Event::Forward(signal)) => forward(self.child, signal),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// Asks the program to end, and ends it.
    fn end_program(&self) {
        for signal in [Signal::TERM, Signal::KILL] {
            // Not collected yet, so the number is its own.
            if let Err(error) = kill_process(self.child, signal) {
                warn("the program cannot be ended", &error);
            }
            if self.wait_until(Instant::now() + GRACE).is_some() {
                return;
            }
        }
    }
}

fn tell_end_of_following(obstacle: &Obstacle) {
    let what = "the program runs on, but its memory is no longer moved";
    match obstacle {
        Obstacle::Fatal(error) => warn(what, error),
        Obstacle::Gone | Obstacle::Hidden | Obstacle::Later | Obstacle::Closed => {
            eprintln!("warning: {what}: its devices were detached");
        }
    }
}

/// Ends what the program left: it is below this process, which alone collects it.
pub(super) fn kill_children() {
    let deadline = Instant::now() + GRACE;
    // An error: there is no child.
    while let Ok(collected) = wait(WaitOptions::NOHANG)
        && Instant::now() < deadline
    {
        if collected.is_some() {
            continue;
        }
        for child in children_of(std::process::id()) {
            let pid = i32::try_from(child).ok().and_then(Pid::from_raw);
            if let Some(pid) = pid
                && let Err(error) = kill_process(pid, Signal::KILL)
                && error != rustix::io::Errno::SRCH
            {
                warn("a process of the program cannot be ended", &error);
                return;
            }
        }
        thread::sleep(Duration::from_millis(5));
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
