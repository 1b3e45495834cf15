//! What the user reads: steps, lines, and progress on what takes long.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use super::trouble::Stop;

/// The story, on standard output or, beside JSON, on standard error.
#[derive(Debug)]
pub(super) struct Voice {
    is_beside_json: bool,
    stop: Stop,
}

impl Voice {
    pub(super) const fn new(is_beside_json: bool, stop: Stop) -> Self {
        Self {
            is_beside_json,
            stop,
        }
    }

    /// The title of a step.
    pub(super) fn step(&self, title: &str) {
        self.write(&format!("\n{title}\n"));
    }

    /// A line of a step.
    pub(super) fn say(&self, text: impl AsRef<str>) {
        self.write(&format!("   {}\n", text.as_ref()));
    }

    /// What went wrong, on standard error.
    pub(super) fn complain(&self, text: &str) {
        if writeln!(io::stderr(), "error: {text}").is_err() {
            self.stop.set();
        }
    }

    fn write(&self, text: &str) {
        let written = if self.is_beside_json {
            io::stderr().write_all(text.as_bytes())
        } else {
            let mut stdout = io::stdout().lock();
            stdout
                .write_all(text.as_bytes())
                .and_then(|()| stdout.flush())
        };
        // Nobody reads any more.
        if written.is_err() {
            self.stop.set();
        }
    }

    /// Progress of `what`, which ends at `total`: a bar on a terminal, else a line now and then.
    pub(super) fn progress(&self, what: &str, total: u64) -> Progress<'_> {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total);
            // The template is a constant, and a bar of another look is as good.
            if let Ok(style) = ProgressStyle::with_template("   {msg} {bar:40} {percent}%") {
                bar.set_style(style);
            }
            bar.set_message(what.to_owned());
            bar
        });
        Progress {
            voice: self,
            what: what.to_owned(),
            total,
            bar,
            said: Instant::now(),
        }
    }
}

/// Progress of one thing, see [`Voice::progress`].
#[derive(Debug)]
pub(super) struct Progress<'a> {
    voice: &'a Voice,
    what: String,
    total: u64,
    bar: Option<ProgressBar>,
    said: Instant,
}

impl Progress<'_> {
    const EVERY: Duration = Duration::from_secs(4);

    /// `done` of the total is done.
    pub(super) fn set(&mut self, done: u64) {
        match &self.bar {
            Some(bar) => bar.set_position(done),
            None if self.said.elapsed() >= Self::EVERY => {
                self.said = Instant::now();
                let percent = percent(done, self.total);
                self.voice.say(format!("... {}: {percent}%", self.what));
            }
            None => {}
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn percent(done: u64, total: u64) -> u64 {
    (u128::from(done) * 100)
        .checked_div(u128::from(total))
        .map_or(100, |percent| {
            u64::try_from(percent.min(100)).unwrap_or(100)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents_are_whole_and_end_at_a_hundred() {
        assert_eq!([percent(0, 3), percent(1, 3), percent(3, 3)], [0, 33, 100]);
        assert_eq!(
            [percent(9, 3), percent(0, 0), percent(u64::MAX, u64::MAX)],
            [100; 3]
        );
    }
}
