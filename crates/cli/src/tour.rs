//! `cohmem tour`: the main job, step by step, each step checked.
//!
//! | module | what |
//! |---|---|
//! | [`graph`] | on the engine or a NUMA node: a graph that moves while threads search it |
//! | [`steps`] | with the driver, the story: what is done in which order |
//! | [`attachment`] | the device of that tour, given back on every path |
//! | [`redis`], [`numeric`], [`background`] | its programs: two that move, two that must not be touched |
//! | [`moves`] | migration of a whole program, counted |
//! | [`census`] | who holds the device's frames, counted in `/proc` while the programs stand still |
//! | [`report`] | checks, summary table, `--json` |
//!
//! Children die with the tour on every path ([`programs`]): [`trouble::Stop`] makes Ctrl-C an
//! ordinary early end, and for a tour that is killed the kernel does it.

use clap::Args;
use cohmem::{Backend, ByteCount};

mod attachment;
mod background;
mod census;
mod graph;
mod machine;
mod moves;
mod numeric;
mod programs;
mod redis;
mod report;
mod steps;
mod stopped;
mod trouble;
mod voice;

use self::{
    report::Report,
    trouble::{Stop, Trouble},
    voice::Voice,
};
use crate::{
    cmd::device_number,
    exit::{CliError, Exit, Result},
    output::Output,
};

/// Show the main job, step by step, and check each step.
///
/// Threads search a graph, breadth-first, while its memory moves to the device, in part back, and
/// home. By default the device is emulated by the engine, which needs no privilege and nothing
/// installed.
///
/// With `--backend driver` it is the kernel module's, and real programs run unmodified: a database
/// server under load and a numerical one. That needs root, the module, soft-reserved memory,
/// redis-server and python3 with numpy; `cargo xtask tour --backend driver` shows it in a virtual
/// machine that has all that.
#[derive(Args, Debug)]
pub(crate) struct Tour {
    /// Where device memory comes from: engine[:SIZE | :/dev/daxX.Y][,level=1..3][,huge], numa[:N],
    /// driver[:N], or auto.
    #[arg(long, value_parser = backend)]
    backend: Option<Backend>,
    /// Size of the graph, or with the driver of the numerical program's array.
    #[arg(long, default_value = "256M", value_parser = size)]
    size: ByteCount,
    /// The unit that moves: a power of two from 4K on; not with the driver.
    #[arg(long, value_parser = granule)]
    granule: Option<ByteCount>,
    /// With the driver: use the attached device cohmemN or N, on which nothing lives yet, instead of
    /// attaching one.
    #[arg(long, value_name = "N", value_parser = device_number)]
    device: Option<u32>,
}

const SIZE_LEAST: ByteCount = ByteCount::new(4 << 20);
const SIZE_MOST: ByteCount = ByteCount::new(64 << 30);
const GRANULE_LEAST: ByteCount = ByteCount::new(4 << 10);
const GRANULE_MOST: ByteCount = ByteCount::new(1 << 30);

fn backend(text: &str) -> std::result::Result<Backend, String> {
    text.parse()
        .map_err(|error: cohmem::Error| error.to_string())
}

fn bytes(text: &str) -> std::result::Result<ByteCount, String> {
    text.parse()
        .map_err(|error: cohmem::Error| error.to_string())
}

fn granule(text: &str) -> std::result::Result<ByteCount, String> {
    let granule = bytes(text)?;
    if !granule.get().is_power_of_two() || granule < GRANULE_LEAST || granule > GRANULE_MOST {
        return Err(format!(
            "{granule} is not a power of two from {GRANULE_LEAST} to {GRANULE_MOST}"
        ));
    }
    Ok(granule)
}

fn size(text: &str) -> std::result::Result<ByteCount, String> {
    let size = bytes(text)?;
    if size < SIZE_LEAST || size > SIZE_MOST {
        return Err(format!("{size} is not from {SIZE_LEAST} to {SIZE_MOST}"));
    }
    Ok(size)
}

impl Tour {
    pub(crate) fn run(&self, out: &mut Output) -> Result<Exit> {
        match self.backend {
            Some(Backend::Driver(_)) if self.granule.is_some() => {
                return Err(CliError::Misused(
                    "the driver moves pages of 4 KiB: --granule is not for it",
                ));
            }
            Some(Backend::Driver(_)) => {}
            _ if self.device.is_some() => {
                return Err(CliError::Misused("--device is for --backend driver"));
            }
            _ => {}
        }
        let stop = Stop::default();
        let voice = Voice::new(out.is_json(), stop.clone());
        let mut report = Report::default();
        let ended = stop
            .listen()
            .and_then(|()| self.tell(&voice, &stop, &mut report));
        // What fails after that fails because of it.
        let ended = ended.map_err(|trouble| match stop.is_set() {
            true => Trouble::Interrupted,
            false => trouble,
        });
        if out.is_json() {
            // What was found before trouble came is as true as after a whole tour.
            out.json(report.objects())?;
        }
        for failed in report.failed() {
            voice.complain(&format!("check failed: {failed}"));
        }
        match ended {
            Ok(()) if report.failed().is_empty() => Ok(Exit::Done),
            Ok(()) => Ok(Exit::Partly),
            Err(trouble) => {
                voice.complain(&trouble.to_string());
                Ok(match trouble {
                    Trouble::NotHere(_) => Exit::Impossible,
                    Trouble::Interrupted | Trouble::Failed { .. } => Exit::Partly,
                })
            }
        }
    }
}

impl Tour {
    fn tell(
        &self,
        voice: &Voice,
        stop: &Stop,
        report: &mut Report,
    ) -> std::result::Result<(), Trouble> {
        match &self.backend {
            Some(Backend::Driver(number)) => {
                let device = self.device.or(*number);
                steps::run(self.size, device, voice, stop, report)
            }
            backend => {
                let choice = graph::Choice::new(backend.as_ref(), self.size, self.granule);
                graph::run(&choice, voice, stop, report)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_outside_the_limits_are_refused_with_them() {
        assert_eq!(size("256M").unwrap().get(), 256 << 20);
        let error = size("1M").unwrap_err();
        assert!(
            error.contains("1 MiB") && error.contains("4 MiB"),
            "{error}"
        );
        assert!(size("65G").is_err() && size("lots").is_err());
        assert_eq!(granule("2M").unwrap().get(), 2 << 20);
        let error = granule("3K").unwrap_err();
        assert!(
            error.contains("3 KiB") && error.contains("4 KiB"),
            "{error}"
        );
        assert!(granule("2K").is_err() && granule("2G").is_err());
    }
}
