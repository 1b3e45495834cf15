//! `cohmem attach`: a soft-reserved range becomes a device.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use cohmem::{
    AttachOptions, Attached, ByteCount, Control, ErrorKind,
    dax::{self, Source, TakeOver},
};
use serde::Serialize;

mod wanted;

use self::wanted::Wanted;
use crate::{
    duration,
    exit::{CliError, Exit, Result, warn},
    interrupt::{Interrupt, with_time_limit},
    output::Output,
    progress,
};

/// Attach a soft-reserved range as a device.
///
/// A range that a dax driver has is taken over first: /dev/daxX.Y goes away, and memory that kmem
/// has brought online as System RAM goes offline, all of it or nothing. `cohmem detach` gives it
/// back. Needs root.
#[derive(Args, Debug)]
pub(crate) struct Attach {
    /// START-END (without END) or START+SIZE, daxX.Y, or hmem.N; the only one there is by default.
    source: Option<Source>,
    /// Attach every range that is free, each as a device of its own.
    #[arg(long, conflicts_with = "source")]
    all: bool,
    /// Attach what the lines of FILE name: a SOURCE as above or `all`, followed by `altmap` if the
    /// memory map is to be on the device; # starts a comment. Lines that fail are left out.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["source", "all", "altmap"])]
    file: Option<PathBuf>,
    /// Keep the memory map (64 bytes a 4 KiB frame) on the device itself.
    #[arg(long)]
    altmap: bool,
    /// Time limit for memory to go offline, with ms, s, m or h.
    #[arg(long, default_value = "60s", value_parser = duration::parse, value_name = "TIME")]
    timeout: Duration,
}

#[derive(Debug, Serialize)]
struct Row {
    schema: &'static str,
    device: String,
    start: u64,
    size: u64,
    usable: u64,
    taken_over: Vec<TakenRow>,
}

#[derive(Debug, Serialize)]
struct TakenRow {
    device: String,
    driver: String,
    memory_blocks: usize,
}

impl Attach {
    pub(crate) fn run(&self, out: &mut Output) -> Result<Exit> {
        let lines = match &self.file {
            Some(path) => Some(wanted::read(path)?),
            None => None,
        };
        // A machine whose file names nothing need not have the module.
        if lines.as_ref().is_some_and(Vec::is_empty) {
            return self.nothing(out);
        }
        let control = Control::open()?;
        let wanted = match lines {
            Some(lines) => wanted::expand(lines)?,
            None => self.wanted()?,
        };
        let is_lenient = self.all || self.file.is_some();
        let interrupt = Interrupt::install()?;
        let mut rows = Vec::new();
        let mut exit = Exit::Done;
        for one in &wanted {
            match self.attach(&control, one) {
                Ok((taken, attached)) => rows.push(tell(out, &taken, attached)?),
                Err(error) if is_lenient => {
                    warn(&format!("{one} is left out"), &error);
                    exit = Exit::Partly;
                }
                Err(error) => return Err(error),
            }
            if interrupt.is_set() {
                exit = Exit::Partly;
                break;
            }
        }
        if out.is_json() {
            out.json(&rows)?;
        } else if wanted.is_empty() {
            out.line("no soft-reserved range is free")?;
        }
        Ok(if rows.is_empty() { Exit::Partly } else { exit })
    }

    fn wanted(&self) -> Result<Vec<Wanted>> {
        let sources = match &self.source {
            Some(source) => vec![source.clone()],
            None if self.all => dax::free()?.into_iter().map(Source::Range).collect(),
            None => vec![Source::Range(dax::only_candidate()?)],
        };
        let altmap = self.altmap;
        let wanted = sources.into_iter().map(|source| Wanted { source, altmap });
        Ok(wanted.collect())
    }

    fn nothing(&self, out: &mut Output) -> Result<Exit> {
        if out.is_json() {
            out.json::<Row>(&[])?;
        } else if let Some(path) = &self.file {
            out.line(&format!("{} names nothing to attach", path.display()))?;
        }
        Ok(Exit::Done)
    }

    fn attach(&self, control: &Control, wanted: &Wanted) -> Result<(TakeOver, Attached)> {
        let source = &wanted.source;
        let spinner = progress::spinner("taking the range over".to_owned());
        let taken = with_time_limit(self.timeout, || dax::take_over(source))?;
        let taken = match taken {
            Ok(taken) => taken,
            Err(error) if error.kind() == ErrorKind::Refused => {
                let help = format!(
                    "programs or the kernel use that memory; try again when less is in use. \
                     To keep it from becoming System RAM at boot: {}",
                    dax::ADVICE
                );
                return Err(CliError::Helped { error, help });
            }
            Err(error) => return Err(error.into()),
        };
        spinner.set_message("attaching");
        let attached = match control.attach(
            taken.range(),
            AttachOptions {
                altmap: wanted.altmap,
            },
        ) {
            Ok(attached) => attached,
            Err(error) => {
                if let Err(error) = taken.give_back() {
                    warn("what was taken over", &error);
                }
                return Err(error.into());
            }
        };
        let kept = match taken.taken().next() {
            Some(_) => taken.save(attached.device),
            None => TakeOver::forget(attached.device),
        };
        if let Err(error) = kept {
            warn(
                "detach will not give the range back to its dax driver",
                &error,
            );
        }
        spinner.finish_and_clear();
        Ok((taken, attached))
    }
}

fn tell(out: &mut Output, taken: &TakeOver, attached: Attached) -> Result<Row> {
    let range = taken.range();
    let mut taken_over = Vec::new();
    for (device, driver, memory_blocks) in taken.taken() {
        if !out.is_json() {
            let offline = match memory_blocks {
                0 => String::new(),
                blocks => format!(", {blocks} memory blocks taken offline"),
            };
            out.line(&format!(
                "took {range} over from {device} ({driver}{offline})"
            ))?;
        }
        let (device, driver) = (device.to_owned(), driver.to_string());
        taken_over.push(TakenRow {
            device,
            driver,
            memory_blocks,
        });
    }
    if !out.is_json() {
        out.line(&format!(
            "attached {range} ({}) as /dev/cohmem{}: {} usable",
            range.length(),
            attached.device,
            attached.usable
        ))?;
    }
    Ok(Row {
        schema: "cohmem.attach/1",
        device: format!("cohmem{}", attached.device),
        start: range.start(),
        size: range.length().get(),
        usable: ByteCount::get(attached.usable),
        taken_over,
    })
}
