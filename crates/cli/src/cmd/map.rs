//! `cohmem map`: where the memory of a process lives.

mod answer;
mod atlas;
mod figure;
mod self_test;
pub(in crate::cmd) mod terminal;
mod timeline;

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use cohmem::{ErrorKind, Process};

use self::{
    terminal::Canvas,
    timeline::{Grid, Recording, Sample},
};
use crate::{
    duration,
    exit::{CliError, Exit, Result},
    interrupt::Interrupt,
    output::{Output, Style},
    progress,
    survey::{Sight, Survey},
};

/// Looks of a recording at most, so that any length makes a picture of the same size.
const MOST_SAMPLES: u32 = 300;
/// Time between two looks at least, unless told otherwise.
const SHORTEST: Duration = Duration::from_millis(100);
/// Times that a process without memory is looked at again: it is between two programs, or ends.
const NR_TRIES: u32 = 20;
/// Lines that a terminal shows of a recording.
const MOST_MOMENTS: usize = 24;

/// Show where the memory of a process lives: by mapping, and by granule of its address space.
///
/// Nothing is moved or faulted in. Untouched memory costs nothing, however much is mapped. Without
/// the cohmem module, system memory and swap are shown.
#[derive(Args, Debug)]
pub(crate) struct Map {
    /// The process.
    #[arg(required_unless_present = "self_test", value_parser = clap::value_parser!(u32).range(1..))]
    pid: Option<u32>,
    /// List every mapping.
    #[arg(long)]
    all: bool,
    /// Write the picture as SVG.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Write the picture as PNG.
    #[arg(long, value_name = "FILE")]
    png: Option<PathBuf>,
    /// Look again and again for this long (with ms, s, m or h; Ctrl-C ends it earlier): the
    /// picture is time by address.
    #[arg(long, value_name = "TIME", value_parser = duration::parse_interval)]
    record: Option<Duration>,
    /// Time between two looks of a recording; by default what gives 300 of them, but no less than
    /// 100ms.
    #[arg(long, value_name = "TIME", value_parser = duration::parse_interval, requires = "record")]
    interval: Option<Duration>,
    /// Check this command: it maps itself, with a known pattern of pages, on a device too if one is
    /// attached.
    #[arg(long, conflicts_with_all = ["pid", "record"])]
    self_test: bool,
}

impl Map {
    pub(crate) fn run(&self, out: &mut Output) -> Result<Exit> {
        let sight = Sight::open()?;
        if let Some(limit) = &sight.limit {
            eprintln!("note: {limit}");
        }
        let Some(pid) = self.pid else {
            return self_test::run(&sight, out);
        };
        let mut process = Process::open(pid)?;
        match self.record {
            None => self.show(&look(&mut process, &sight)?, out)?,
            Some(length) => self.show_recording(&self.record(process, &sight, length)?, out)?,
        }
        Ok(Exit::Done)
    }

    fn show(&self, survey: &Survey, out: &mut Output) -> Result<()> {
        self.write_pictures(|| atlas::draw(survey))?;
        if out.is_json() {
            return out.json(&[answer::Row::new(survey)]);
        }
        let canvas = canvas(out);
        out.styled(Style::Heading, &terminal::headline(survey))?;
        for line in terminal::heat(survey, canvas) {
            out.line(&line)?;
        }
        out.line("")?;
        for (at, line) in terminal::table_lines(survey, canvas, self.all)
            .iter()
            .enumerate()
        {
            let style = if at == 0 {
                Style::Heading
            } else {
                Style::Plain
            };
            out.styled(style, line)?;
        }
        Ok(())
    }

    /// Looks until the time is over, the process ends, or a signal comes.
    fn record(&self, mut process: Process, sight: &Sight, length: Duration) -> Result<Recording> {
        let interval = self
            .interval
            .unwrap_or_else(|| (length / MOST_SAMPLES).max(SHORTEST));
        let interrupt = Interrupt::install()?;
        let spinner = progress::spinner(format!("recording process {}", process.pid()));
        let start = Instant::now();
        let mut samples = Vec::new();
        let mut last = None;
        loop {
            let at = start.elapsed();
            let survey = match look(&mut process, sight) {
                Ok(survey) if survey.total.nr_shown() > 0 || last.is_none() => survey,
                Err(error) if error.kind() != ErrorKind::NoProcess || last.is_none() => {
                    return Err(error.into());
                }
                // It ended.
                Ok(_) | Err(_) => break,
            };
            samples.push(Sample {
                at,
                total: survey.total.clone(),
                granules: survey.granules.at_most(4096),
            });
            thin_out(&mut samples);
            last = Some(survey);
            let next = at + interval;
            if next > length || interrupt.is_set() {
                break;
            }
            thread::sleep(next.saturating_sub(start.elapsed()));
        }
        spinner.finish_and_clear();
        let last = last.ok_or(CliError::NothingRecorded)?;
        Ok(Recording { samples, last })
    }

    fn show_recording(&self, recording: &Recording, out: &mut Output) -> Result<()> {
        self.write_pictures(|| timeline::draw(recording))?;
        if out.is_json() {
            return out.json(&answer::moments(recording));
        }
        let canvas = canvas(out);
        out.styled(Style::Heading, &terminal::headline(&recording.last))?;
        let aligned = recording.aligned(canvas.width.saturating_sub(13).max(8));
        let grid = Grid::of(&aligned);
        let step = recording.samples.len().div_ceil(MOST_MOMENTS).max(1);
        let moments = recording.samples.iter().zip(&grid.columns);
        for (sample, column) in moments.step_by(step) {
            let cells: Vec<_> = grid
                .rows
                .iter()
                .copied()
                .zip(column.iter().copied())
                .collect();
            out.line(&terminal::moment(sample.at.as_secs_f64(), &cells, canvas))?;
        }
        for line in terminal::heat(&recording.last, canvas) {
            out.line(&line)?;
        }
        Ok(())
    }

    fn write_pictures(&self, draw_fn: impl FnOnce() -> String) -> Result<()> {
        if self.svg.is_none() && self.png.is_none() {
            return Ok(());
        }
        let svg = draw_fn();
        if let Some(path) = &self.svg {
            write(path, svg.as_bytes())?;
        }
        if let Some(path) = &self.png {
            let png = figure::png(&svg).map_err(|text| CliError::Picture {
                path: path.clone(),
                text,
            })?;
            write(path, &png)?;
        }
        Ok(())
    }
}

/// Looks at the process, which may become another program meanwhile: then its memory is that one's.
fn look(process: &mut Process, sight: &Sight) -> cohmem::Result<Survey> {
    for _ in 0..NR_TRIES {
        match Survey::take(process, sight.device.as_ref()) {
            Ok(survey) if survey.total.nr_shown() > 0 => return Ok(survey),
            Err(error) if error.kind() != ErrorKind::NoProcess => return Err(error),
            Ok(_) | Err(_) => thread::sleep(Duration::from_millis(5)),
        }
        *process = Process::open(process.pid())?;
    }
    Survey::take(process, sight.device.as_ref())
}

/// Of twice as many looks as a picture needs, every second one is forgotten.
fn thin_out(samples: &mut Vec<Sample>) {
    if samples.len() > 2 * MOST_SAMPLES as usize {
        let mut at = 0_usize;
        samples.retain(|_| {
            at += 1;
            !at.is_multiple_of(2)
        });
    }
}

fn canvas(out: &Output) -> Canvas {
    Canvas {
        width: out.width(),
        is_coloured: out.is_coloured(),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(|source| CliError::File {
        path: path.to_path_buf(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::survey::sample;

    #[test]
    fn a_long_recording_is_thinned_out_evenly() {
        let survey = sample::survey();
        let mut samples = Vec::new();
        for at in 0..5_000_u64 {
            samples.push(Sample {
                at: Duration::from_millis(at),
                total: survey.total.clone(),
                granules: crate::survey::Granules::default(),
            });
            thin_out(&mut samples);
        }
        assert!((300..=600).contains(&samples.len()), "{}", samples.len());
        assert_eq!(samples[0].at, Duration::ZERO);
        assert!(samples.is_sorted_by_key(|sample| sample.at));
    }
}
