//! The picture of a recording: time by address.

use std::{collections::BTreeSet, time::Duration};

use cohmem::{AddrRange, ByteCount, FRAME_BYTES};

use super::figure::{Anchor, Figure, Font, Rect, byte_ticks, fit, real};
use crate::{
    palette,
    survey::{Counts, Granules, Survey, range_at},
};

const WIDTH: f64 = 900.0;
const MARGIN: f64 = 28.0;
const LEFT: f64 = 128.0;
const PLOT_WIDTH: f64 = 620.0;
const AREA_HEIGHT: f64 = 120.0;
const PLOT_HEIGHT: f64 = 420.0;
/// Rows of the time-by-address picture at most.
const MOST_ROWS: usize = 210;

/// One look of a recording.
#[derive(Debug)]
pub(super) struct Sample {
    /// Since the start of the recording.
    pub(super) at: Duration,
    pub(super) total: Counts,
    pub(super) granules: Granules,
}

/// A process over time.
#[derive(Debug)]
pub(super) struct Recording {
    pub(super) samples: Vec<Sample>,
    /// The last look whole, for names.
    pub(super) last: Survey,
}

/// The samples on the same granules: by granule, what each sample had there.
pub(super) struct Grid<'a> {
    pub(super) rows: Vec<AddrRange>,
    /// One a sample; `None` where it had nothing.
    pub(super) columns: Vec<Vec<Option<&'a Counts>>>,
}

impl Recording {
    /// Of each place, the most pages that a sample had there.
    fn largest(&self) -> Counts {
        let mut largest = Counts::default();
        for (place, pages) in self.samples.iter().flat_map(|one| one.total.iter()) {
            largest.add(place, pages.saturating_sub(largest.get(place)));
        }
        largest
    }

    /// Brings the samples to the same granules, of which there are at most `most`.
    pub(super) fn aligned(&self, most: usize) -> Vec<Granules> {
        let shift = |granules: &Granules| granules.shift();
        let mut common = self.samples.iter().map(|one| shift(&one.granules)).max();
        loop {
            let shift = common.unwrap_or(12);
            let aligned: Vec<_> = self
                .samples
                .iter()
                .map(|one| one.granules.at_shift(shift))
                .collect();
            if indices(&aligned).len() <= most {
                return aligned;
            }
            common = Some(shift + 1);
        }
    }
}

fn indices(aligned: &[Granules]) -> BTreeSet<u64> {
    aligned
        .iter()
        .flat_map(|granules| granules.cells().iter().map(|cell| cell.index))
        .collect()
}

impl<'a> Grid<'a> {
    pub(super) fn of(aligned: &'a [Granules]) -> Self {
        let indices = indices(aligned);
        let shift = aligned.first().map_or(12, Granules::shift);
        let columns = aligned.iter().map(|granules| {
            let mut cells = granules.cells().iter().peekable();
            let column = indices.iter().map(|&index| {
                cells
                    .next_if(|cell| cell.index == index)
                    .map(|cell| &cell.counts)
            });
            column.collect()
        });
        Self {
            columns: columns.collect(),
            rows: indices
                .iter()
                .map(|&index| range_at(index, shift))
                .collect(),
        }
    }
}

/// Draws a recording as SVG.
pub(super) fn draw(recording: &Recording) -> String {
    let survey = &recording.last;
    let mut figure = Figure::new(WIDTH);
    let title = format!(
        "Memory of {} (process {}) over time",
        survey.name, survey.pid
    );
    figure.text((MARGIN, 38.0), Font::TITLE, Anchor::Start, &title);
    let length = recording
        .samples
        .last()
        .map_or(0.0, |last| last.at.as_secs_f64());
    let subtitle = format!(
        "{} in {length:.1} s; amounts are the largest of them",
        match recording.samples.len() {
            1 => "1 look".to_owned(),
            nr => format!("{nr} looks"),
        }
    );
    figure.text((MARGIN, 58.0), Font::TEXT, Anchor::Start, &subtitle);
    let mut y = 86.0;
    y += figure.legend((MARGIN, y), &recording.largest());
    let scale = Time {
        length: length.max(0.001),
    };
    y = areas(&mut figure, recording, scale, y + 10.0);
    y = addresses(&mut figure, recording, scale, y + 34.0);
    figure.finish(y + 24.0)
}

/// Seconds to the x of the plots.
#[derive(Clone, Copy)]
struct Time {
    length: f64,
}

impl Time {
    fn x(self, at: Duration) -> f64 {
        LEFT + PLOT_WIDTH * (at.as_secs_f64() / self.length).min(1.0)
    }

    fn axis(self, figure: &mut Figure, y: f64) {
        figure.line((LEFT, y), (LEFT + PLOT_WIDTH, y));
        let steps = [
            0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 3600.0,
        ];
        let step = steps
            .into_iter()
            .find(|step| self.length / step <= 10.0)
            .unwrap_or(14_400.0);
        let mut seconds = 0.0;
        while seconds <= self.length {
            let x = LEFT + PLOT_WIDTH * seconds / self.length;
            figure.line((x, y), (x, y + 4.0));
            let text = if step < 1.0 {
                format!("{seconds:.1} s")
            } else {
                format!("{seconds:.0} s")
            };
            figure.text((x, y + 16.0), Font::SMALL, Anchor::Middle, &text);
            seconds += step;
        }
    }
}

/// Bytes by place over time; returns where it ends.
fn areas(figure: &mut Figure, recording: &Recording, time: Time, top: f64) -> f64 {
    figure.text(
        (MARGIN, top),
        Font::TEXT,
        Anchor::Start,
        "(a) How much is where.",
    );
    let (top, bottom) = (top + 12.0, top + 12.0 + AREA_HEIGHT);
    let samples = &recording.samples;
    let most = samples.iter().map(|one| one.total.nr_shown()).max();
    let most = most.unwrap_or(0).max(1);
    let y = |pages: u64| bottom - AREA_HEIGHT * real(pages) / real(most);
    let mut below = vec![0_u64; samples.len()];
    for (place, _) in recording.largest().shown() {
        let mut above = below.clone();
        for (height, sample) in above.iter_mut().zip(samples) {
            *height += sample.total.get(place);
        }
        let corner = |(pages, sample): (&u64, &Sample)| (time.x(sample.at), y(*pages));
        let mut corners: Vec<_> = above.iter().zip(samples).map(corner).collect();
        corners.extend(below.iter().zip(samples).map(corner).rev());
        figure.polygon(&corners, palette::rgb(place));
        below = above;
    }
    let most_bytes = ByteCount::of_frames(most).get();
    for (bytes, text) in byte_ticks(most_bytes) {
        let y = y(bytes / FRAME_BYTES);
        figure.line((LEFT - 4.0, y), (LEFT, y));
        figure.text((LEFT - 8.0, y + 3.5), Font::SMALL, Anchor::End, &text);
    }
    figure.line((LEFT, top), (LEFT, bottom));
    time.axis(figure, bottom);
    bottom + 16.0
}

/// Time by address; returns where it ends.
fn addresses(figure: &mut Figure, recording: &Recording, time: Time, top: f64) -> f64 {
    let aligned = recording.aligned(MOST_ROWS);
    let grid = Grid::of(&aligned);
    let bytes = aligned.first().map_or(FRAME_BYTES, Granules::bytes);
    let heading = format!(
        "(b) Where: one row is {} of address space, in the colour of most of it; paler where \
         less is in use.",
        ByteCount::new(bytes)
    );
    figure.text((MARGIN, top), Font::TEXT, Anchor::Start, &heading);
    let top = top + 12.0;
    let nr_rows = real(grid.rows.len().max(1) as u64);
    let height = (PLOT_HEIGHT / nr_rows).min(14.0);
    let bottom = height.mul_add(nr_rows, top);
    let whole = Rect {
        x: LEFT,
        y: top,
        width: PLOT_WIDTH,
        height: bottom - top,
    };
    figure.rect(whole, palette::UNTOUCHED);
    let ends: Vec<f64> = recording
        .samples
        .iter()
        .skip(1)
        .map(|sample| time.x(sample.at))
        .chain([LEFT + PLOT_WIDTH])
        .collect();
    for (at, range) in grid.rows.iter().enumerate() {
        let y = height.mul_add(real(at as u64), top);
        let colours = grid.columns.iter().map(|column| {
            let counts = column.get(at).copied().flatten();
            counts.and_then(|counts| tint(counts, range.nr_pages()))
        });
        let mut run: Option<(String, f64)> = None;
        let mut x = LEFT;
        for (colour, &end) in colours.chain([None]).zip(ends.iter().chain(ends.last())) {
            if run.as_ref().map(|(fill, _)| fill) != colour.as_ref() {
                if let Some((fill, from)) = run.take() {
                    let part = Rect {
                        x: from,
                        y,
                        width: x - from,
                        height,
                    };
                    figure.rect(part, &fill);
                }
                run = colour.map(|fill| (fill, x));
            }
            x = end;
        }
        if let Some((fill, from)) = run {
            let part = Rect {
                x: from,
                y,
                width: x - from,
                height,
            };
            figure.rect(part, &fill);
        }
    }
    names(figure, recording, &grid, top, height);
    figure.line((LEFT, top), (LEFT, bottom));
    time.axis(figure, bottom);
    let note = "Address space that was never in use is left out.";
    figure.text((LEFT, bottom + 32.0), Font::SMALL, Anchor::Start, note);
    bottom + 34.0
}

/// Addresses at the left, names at the right, where there is room.
fn names(figure: &mut Figure, recording: &Recording, grid: &Grid<'_>, top: f64, height: f64) {
    let labels = recording.last.labels(&grid.rows);
    let mut last_label = None;
    let mut free_from = f64::NEG_INFINITY;
    for (at, (range, label)) in grid.rows.iter().zip(labels).enumerate() {
        // What is no longer mapped has no name.
        if last_label == Some(label) || label.is_empty() {
            continue;
        }
        last_label = Some(label);
        let y = height.mul_add(real(at as u64), top);
        figure.line((LEFT + PLOT_WIDTH, y), (LEFT + PLOT_WIDTH + 5.0, y));
        if y < free_from {
            continue;
        }
        free_from = y + 11.0;
        let name = fit(label, WIDTH - LEFT - PLOT_WIDTH - 12.0, Font::SMALL);
        let right = LEFT + PLOT_WIDTH + 8.0;
        figure.text((right, y + 9.0), Font::SMALL, Anchor::Start, &name);
        let start = format!("{:x}", range.start().get());
        figure.text((LEFT - 6.0, y + 8.5), Font::ADDRESS, Anchor::End, &start);
    }
}

/// The colour of most pages, mixed with that of untouched memory in eight steps.
fn tint(counts: &Counts, pages: u64) -> Option<String> {
    let place = counts.most()?;
    let eighths = (counts.nr_shown() * 8).div_ceil(pages.max(1)).clamp(1, 8);
    // The palest is still a colour.
    let (share, whole) = (eighths + 2, 10);
    let channel = |at: usize| {
        let read = |rgb: &str| u64::from_str_radix(rgb.get(at..at + 2).unwrap_or("0"), 16);
        let full = read(palette::rgb(place)).unwrap_or(0);
        let none = read(palette::UNTOUCHED).unwrap_or(0);
        (full * share + none * (whole - share)) / whole
    };
    Some(format!(
        "#{:02x}{:02x}{:02x}",
        channel(1),
        channel(3),
        channel(5)
    ))
}

#[cfg(test)]
mod tests {
    use cohmem::Place;

    use super::*;
    use crate::survey::sample;

    fn recording() -> Recording {
        let samples = (0..30_u64).map(|at| {
            let survey = sample::survey();
            Sample {
                at: Duration::from_millis(at * 100),
                total: survey.total,
                granules: survey.granules,
            }
        });
        Recording {
            samples: samples.collect(),
            last: sample::survey(),
        }
    }

    #[test]
    fn samples_are_brought_to_the_same_granules() {
        let recording = recording();
        let aligned = recording.aligned(20);
        let grid = Grid::of(&aligned);
        assert!((1..=20).contains(&grid.rows.len()));
        assert_eq!(grid.columns.len(), 30);
        let pages: u64 = grid.columns[0]
            .iter()
            .flatten()
            .map(|counts| counts.nr_shown())
            .sum();
        assert_eq!(pages, recording.last.total.nr_shown());
    }

    #[test]
    fn the_picture_has_both_parts_and_a_scale() {
        let svg = draw(&recording());
        for text in [
            "over time",
            "(a) How much",
            "(b) Where",
            "2.5 s",
            "[anon]",
            "32 MiB",
        ] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(
            svg.len() < 400_000,
            "equal columns are joined: {}",
            svg.len()
        );
        super::super::figure::png(&svg).unwrap();
    }

    #[test]
    fn what_was_there_for_a_moment_is_in_the_legend() {
        let mut recording = recording();
        recording.samples[7].total = [(Place::Device(3), 512)].into_iter().collect();
        let svg = draw(&recording);
        assert!(svg.contains("cohmem3 2 MiB"));
        assert!(svg.contains("cohmem0 48 MiB"));
    }

    #[test]
    fn the_colour_fades_with_the_fill() {
        let full: Counts = [(Place::Device(0), 8)].into_iter().collect();
        assert_eq!(tint(&full, 8).as_deref(), Some("#e69f00"));
        assert_ne!(tint(&full, 80), tint(&full, 8));
        assert_ne!(tint(&full, 8_000).as_deref(), Some(palette::UNTOUCHED));
        assert_eq!(tint(&Counts::default(), 8), None);
    }
}
