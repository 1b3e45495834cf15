//! `cohmem evict`: everything goes home, the device stays.

use std::time::Duration;

use clap::Args;
use cohmem::{ByteCount, Device};

use crate::{
    cmd::device_number,
    duration,
    exit::{Exit, Result},
    output::Output,
    progress,
    stuck::{self, OutcomeRow},
};

/// Move everything on a device home; the device stays attached. Needs root.
#[derive(Args, Debug)]
pub(crate) struct Evict {
    /// cohmemN or N.
    #[arg(value_parser = device_number)]
    device: u32,
    /// Time limit, with ms, s, m or h; 0 is one try.
    #[arg(long, default_value = "30s", value_parser = duration::parse, value_name = "TIME")]
    timeout: Duration,
}

impl Evict {
    pub(crate) fn run(&self, out: &mut Output) -> Result<Exit> {
        let device = Device::open(self.device)?;
        let spinner = progress::spinner(format!("evicting cohmem{}", self.device));
        let outcome = device.evict(self.timeout)?;
        spinner.finish_and_clear();
        if out.is_json() {
            out.json(&[OutcomeRow::new("cohmem.evict/1", self.device, &outcome)])?;
        } else {
            let evicted = ByteCount::of_frames(outcome.evicted);
            out.line(&format!(
                "evicted cohmem{}: {evicted} went home",
                self.device
            ))?;
            if !outcome.is_done() {
                out.line(&format!("{} frames are left:", outcome.nr_stuck))?;
                stuck::print(out, &outcome)?;
            }
        }
        Ok(if outcome.is_done() {
            Exit::Done
        } else {
            Exit::Partly
        })
    }
}
