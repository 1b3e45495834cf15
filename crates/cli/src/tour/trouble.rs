//! What ends the tour early: trouble, and the user.

use std::{
    error, fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Why the tour cannot go on.
#[derive(Debug)]
pub(super) enum Trouble {
    /// This machine lacks what it needs; the text says what, and what to do.
    NotHere(String),
    /// The user, or a closed output, ended it.
    Interrupted,
    /// Something broke.
    Failed {
        /// What was being done, as in "cannot start redis-server".
        what: String,
        /// Why it failed.
        source: Option<Box<dyn error::Error + Send + Sync>>,
    },
}

impl Trouble {
    pub(super) fn failed(
        what: impl Into<String>,
        source: impl Into<Box<dyn error::Error + Send + Sync>>,
    ) -> Self {
        Self::Failed {
            what: what.into(),
            source: Some(source.into()),
        }
    }

    pub(super) fn said(what: impl Into<String>) -> Self {
        Self::Failed {
            what: what.into(),
            source: None,
        }
    }

    /// For `map_err` on what was done to a file.
    pub(super) fn file(doing: &str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let what = format!("cannot {doing} {}", path.display());
        move |source| Self::failed(what, source)
    }
}

impl From<cohmem::Error> for Trouble {
    fn from(error: cohmem::Error) -> Self {
        let source = error::Error::source(&error).map(|source| source.to_string().into());
        Self::Failed {
            what: error.to_string(),
            source,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotHere(text) => f.write_str(text),
            Self::Interrupted => f.write_str("interrupted"),
            Self::Failed { what, source: None } => f.write_str(what),
            Self::Failed {
                what,
                source: Some(source),
            } => {
                write!(f, "{what}: {source}")?;
                let mut next = source.source();
                while let Some(cause) = next {
                    write!(f, ": {cause}")?;
                    next = cause.source();
                }
                Ok(())
            }
        }
    }
}

/// Set once the tour should end. A plain flag that publishes nothing else, so relaxed.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    const POLL: Duration = Duration::from_millis(20);

    /// Sets it when a signal asks this program to end.
    pub(super) fn listen(&self) -> Result<(), Trouble> {
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&self.0))
                .map_err(|source| Trouble::failed("cannot watch for signals", source))?;
        }
        Ok(())
    }

    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn check(&self) -> Result<(), Trouble> {
        if self.is_set() {
            Err(Trouble::Interrupted)
        } else {
            Ok(())
        }
    }

    /// Asks `ready_fn` again and again until it gives a value; `what` is what did not happen when
    /// `limit` is over.
    pub(super) fn wait_for<T>(
        &self,
        what: &str,
        limit: Duration,
        mut ready_fn: impl FnMut() -> Result<Option<T>, Trouble>,
    ) -> Result<T, Trouble> {
        let started = Instant::now();
        loop {
            if let Some(value) = ready_fn()? {
                return Ok(value);
            }
            self.check()?;
            if started.elapsed() >= limit {
                return Err(Trouble::said(format!(
                    "{what} within {} s",
                    limit.as_secs()
                )));
            }
            thread::sleep(Self::POLL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_tells_every_cause() {
        let trouble = Trouble::failed("cannot start x", io::Error::other("no room"));
        assert_eq!(trouble.to_string(), "cannot start x: no room");
    }

    #[test]
    fn waiting_ends_with_the_value_the_limit_or_the_user() {
        let stop = Stop::default();
        let mut left = 3;
        let counted = stop.wait_for("no end", Duration::from_secs(60), || {
            left -= 1;
            Ok((left == 0).then_some(7))
        });
        assert_eq!(counted.unwrap(), 7);
        let late = stop.wait_for::<()>("no end", Duration::ZERO, || Ok(None));
        assert_eq!(late.unwrap_err().to_string(), "no end within 0 s");
        stop.set();
        let interrupted = stop.wait_for::<()>("no end", Duration::from_secs(60), || Ok(None));
        assert!(matches!(interrupted.unwrap_err(), Trouble::Interrupted));
    }
}
