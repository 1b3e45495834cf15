//! `cohmem tour`: the main job on real, unmodified programs, step by step, each step checked.
//!
//! | module | what |
//! |---|---|
//! | [`steps`] | the story: what is done in which order |
//! | [`attachment`] | the device of the tour, given back on every path |
//! | [`redis`], [`numeric`], [`background`] | the programs: two that move, two that must not be touched |
//! | [`moves`] | migration of a whole program, counted |
//! | [`census`] | who holds the device's frames, counted in `/proc` while the programs stand still |
//! | [`report`] | checks, summary table, `--json` |
//!
//! Children die with the tour on every path ([`programs`]): [`trouble::Stop`] makes Ctrl-C an
//! ordinary early end, and for a tour that is killed the kernel does it.

use clap::Args;
use cohmem::ByteCount;

mod attachment;
mod background;
mod census;
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
    exit::{Exit, Result},
    output::Output,
};

/// Show the main job, step by step, on real programs, and check each step.
///
/// A database server under load and a numerical program run unmodified; their memory moves to the
/// device, stays there, comes home, and the device is taken away, all while they run. Needs root,
/// the module, soft-reserved memory, redis-server and python3 with numpy; `cargo xtask tour` shows
/// it in a virtual machine that has all that.
#[derive(Args, Debug)]
pub(crate) struct Tour {
    /// Where device memory comes from.
    #[arg(long, value_enum, default_value_t = Backend::Driver)]
    backend: Backend,
    /// Size of the numerical program's array.
    #[arg(long, default_value = "256M", value_parser = size)]
    size: ByteCount,
    /// Use the attached device cohmemN or N, on which nothing lives yet, instead of attaching one.
    #[arg(long, value_name = "N", value_parser = device_number)]
    device: Option<u32>,
}

/// Where device memory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Backend {
    /// The kernel module, with soft-reserved memory; needs root.
    Driver,
}

const SIZE_LEAST: ByteCount = ByteCount::new(4 << 20);
const SIZE_MOST: ByteCount = ByteCount::new(64 << 30);

fn size(text: &str) -> std::result::Result<ByteCount, String> {
    let size: ByteCount = text
        .parse()
        .map_err(|error: cohmem::Error| error.to_string())?;
    if size < SIZE_LEAST || size > SIZE_MOST {
        return Err(format!("{size} is not from {SIZE_LEAST} to {SIZE_MOST}"));
    }
    Ok(size)
}

impl Tour {
    pub(crate) fn run(&self, out: &mut Output) -> Result<Exit> {
        let stop = Stop::default();
        let voice = Voice::new(out.is_json(), stop.clone());
        let mut report = Report::default();
        let ended = stop
            .listen()
            .and_then(|()| steps::run(self, &voice, &stop, &mut report));
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
    }
}
