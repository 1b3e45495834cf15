//! `cohmem detach`: everything goes home, and the range is free again.

use std::time::Duration;

use clap::Args;
use cohmem::{ByteCount, Control, DetachOutcome, dax::TakeOver, discover};

use crate::{
    cmd::device_number,
    duration,
    exit::{Exit, Result, warn},
    output::Output,
    progress,
    stuck::{self, OutcomeRow},
};

/// Move everything on a device home, and give its range back to where it came from.
///
/// When frames are left at the time limit the device works on, and each of them is listed with who
/// holds it. Needs root.
#[derive(Args, Debug)]
pub(crate) struct Detach {
    /// cohmemN or N.
    #[arg(value_parser = device_number, required_unless_present = "all")]
    device: Option<u32>,
    /// Detach every device.
    #[arg(long, conflicts_with = "device")]
    all: bool,
    /// Time limit, with ms, s, m or h; 0 is one try.
    #[arg(long, default_value = "30s", value_parser = duration::parse, value_name = "TIME")]
    timeout: Duration,
}

impl Detach {
    pub(crate) fn run(&self, out: &mut Output) -> Result<Exit> {
        let devices: Vec<u32> = match self.device {
            Some(device) => vec![device],
            None => discover()?.iter().map(|device| device.number).collect(),
        };
        if devices.is_empty() && !out.is_json() {
            out.line("no device is attached")?;
        }
        let mut rows = Vec::new();
        let mut exit = Exit::Done;
        for device in devices {
            let (outcome, how) = match (Leaving { device }).detach(self.timeout, out) {
                Ok(done) => done,
                Err(error) if self.all => {
                    warn(&format!("cohmem{device} stays attached"), &error);
                    exit = Exit::Partly;
                    continue;
                }
                Err(error) => return Err(error),
            };
            rows.push(OutcomeRow::new("cohmem.detach/1", device, &outcome));
            if how != Exit::Done {
                exit = how;
            }
        }
        if out.is_json() {
            out.json(&rows)?;
        }
        Ok(exit)
    }
}

/// A device on its way out.
struct Leaving {
    device: u32,
}

impl Leaving {
    fn detach(&self, timeout: Duration, out: &mut Output) -> Result<(DetachOutcome, Exit)> {
        let control = Control::open()?;
        let spinner = progress::spinner(format!("detaching cohmem{}", self.device));
        let outcome = control.detach(self.device, timeout)?;
        spinner.finish_and_clear();
        if !out.is_json() {
            self.tell(out, &outcome)?;
        }
        let exit = if outcome.is_done() {
            self.give_back(out, &outcome)?
        } else {
            Exit::Partly
        };
        Ok((outcome, exit))
    }

    fn tell(&self, out: &mut Output, outcome: &DetachOutcome) -> Result<()> {
        let evicted = ByteCount::of_frames(outcome.evicted);
        if !outcome.is_done() {
            out.line(&format!(
                "cohmem{} stays attached and works on: {} frames are left ({evicted} went home)",
                self.device, outcome.nr_stuck
            ))?;
            return stuck::print(out, outcome);
        }
        out.line(&format!(
            "detached cohmem{}: {evicted} went home",
            self.device
        ))?;
        if outcome.kept > 0 {
            out.line(&format!(
                "{} stay claimed until the next boot, since mapped poison was found there",
                ByteCount::of_frames(outcome.kept)
            ))?;
        }
        Ok(())
    }

    fn give_back(&self, out: &mut Output, outcome: &DetachOutcome) -> Result<Exit> {
        let Some(taken) = TakeOver::load(self.device)? else {
            return Ok(Exit::Done);
        };
        TakeOver::forget(self.device)?;
        if outcome.kept > 0 {
            eprintln!(
                "warning: the range is not given back to its dax driver, a part stays claimed"
            );
            return Ok(Exit::Partly);
        }
        if let Err(error) = taken.give_back() {
            warn("the device is detached", &error);
            return Ok(Exit::Partly);
        }
        if !out.is_json() {
            for (device, driver, _) in taken.taken() {
                out.line(&format!(
                    "gave {} back to {device} ({driver})",
                    taken.range()
                ))?;
            }
        }
        Ok(Exit::Done)
    }
}
