//! Signals that end a wait instead of the program.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use rustix::process::{Signal, getpid, kill_process};
use signal_hook::{consts, flag};

use crate::exit::{CliError, Result};

/// Set by Ctrl-C and its kin. A call into the kernel that waits returns early, so that what was
/// begun can be undone.
#[derive(Debug)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on SIGINT, SIGTERM and SIGHUP set the flag.
    pub(crate) fn install() -> Result<Self> {
        let is_set = Arc::new(AtomicBool::new(false));
        for signal in [consts::SIGINT, consts::SIGTERM, consts::SIGHUP] {
            flag::register(signal, Arc::clone(&is_set)).map_err(CliError::Signals)?;
        }
        Ok(Self(is_set))
    }

    /// A signal came. Only the flag itself is published, so relaxed.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Runs `work_fn`; from `limit` on, a signal comes every second, which ends the kernel's waits.
///
/// The signal goes to the process, of which the kernel prefers the main thread: call it there.
pub(crate) fn with_time_limit<T>(limit: Duration, work_fn: impl FnOnce() -> T) -> Result<T> {
    // Without a handler the signal would end the program.
    let is_late = Arc::new(AtomicBool::new(false));
    flag::register(consts::SIGALRM, is_late).map_err(CliError::Signals)?;
    let (done, is_done) = mpsc::channel::<()>();
    let clock = thread::spawn(move || {
        let mut wait = limit;
        while is_done.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
            let sent = kill_process(getpid(), Signal::ALARM);
            debug_assert!(sent.is_ok(), "a process may signal itself: {sent:?}");
            wait = Duration::from_secs(1);
        }
    });
    let result = work_fn();
    drop(done);
    let joined = clock.join();
    debug_assert!(joined.is_ok(), "the clock does not panic");
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_within_the_limit_is_left_alone() {
        assert_eq!(with_time_limit(Duration::from_secs(60), || 7).unwrap(), 7);
    }
}
