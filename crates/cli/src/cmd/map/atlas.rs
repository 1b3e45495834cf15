//! The picture of one moment: the address space granule by granule, and a bar for each name.

use std::collections::BTreeMap;

use cohmem::{ByteCount, FRAME_BYTES};

use super::figure::{Anchor, Figure, Font, Rect, byte_ticks, fit, real, shares, text_width};
use crate::{
    palette,
    survey::{Counts, Survey, place_name},
};

const WIDTH: f64 = 900.0;
const MARGIN: f64 = 28.0;
/// A square and the space to the next one.
const SQUARE: f64 = 10.0;
const PITCH: f64 = 11.5;
const PER_ROW: usize = 52;
const MOST_ROWS: usize = 26;
const ADDRESS_WIDTH: f64 = 84.0;
const MOST_BARS: usize = 10;
const BAR_LEFT: f64 = 200.0;
const BAR_WIDTH: f64 = 560.0;
const BAR_PITCH: f64 = 22.0;

/// Draws a survey as SVG.
pub(super) fn draw(survey: &Survey) -> String {
    let mut figure = Figure::new(WIDTH);
    let title = format!("Memory of {} (process {})", survey.name, survey.pid);
    figure.text((MARGIN, 38.0), Font::TITLE, Anchor::Start, &title);
    let subtitle = format!(
        "{} in memory, {} of it on devices; {} of address space in {} mappings",
        ByteCount::of_frames(survey.total.in_memory()),
        ByteCount::of_frames(survey.total.on_devices()),
        ByteCount::new(survey.bytes_mapped()),
        survey.mappings.len()
    );
    figure.text((MARGIN, 58.0), Font::TEXT, Anchor::Start, &subtitle);
    let mut y = 86.0;
    y += figure.legend((MARGIN, y), &survey.total);
    y = squares(&mut figure, survey, y + 10.0);
    y = bars(&mut figure, survey, y + 34.0);
    figure.finish(y + 24.0)
}

/// A square a granule; returns where it ends.
fn squares(figure: &mut Figure, survey: &Survey, top: f64) -> f64 {
    let granules = survey.granules.at_most(PER_ROW * MOST_ROWS);
    let pages = granules.bytes() / FRAME_BYTES;
    let heading = format!(
        "(a) By address. One square is {}; its coloured part is what is in memory or swap.",
        ByteCount::new(granules.bytes())
    );
    figure.text((MARGIN, top), Font::TEXT, Anchor::Start, &heading);
    let ranges: Vec<_> = granules
        .cells()
        .iter()
        .map(|cell| granules.range_of(cell))
        .collect();
    let labels = survey.labels(&ranges);
    let left = MARGIN + ADDRESS_WIDTH;
    let mut y = top + 14.0;
    let mut last_label = "";
    let cells: Vec<_> = granules.cells().iter().zip(&ranges).zip(&labels).collect();
    for row in cells.chunks(PER_ROW) {
        let mut new_labels: Vec<&str> = Vec::new();
        for (at, &((cell, range), &label)) in row.iter().enumerate() {
            let at = u32::try_from(at).unwrap_or(0);
            let x = left + f64::from(at) * PITCH;
            if at == 0 {
                let start = format!("{:x}", range.start().get());
                let baseline = y + SQUARE - 1.5;
                figure.text((left - 8.0, baseline), Font::ADDRESS, Anchor::End, &start);
            }
            let square = Rect {
                x,
                y,
                width: SQUARE,
                height: SQUARE,
            };
            figure.named_rect(square, palette::UNTOUCHED, &format!("{range} {label}"));
            let mut bottom = y + SQUARE;
            for (place, share) in shares(&cell.counts, pages) {
                // Thinner than this is not seen.
                let height = (share * SQUARE).max(0.8).min(bottom - y);
                bottom -= height;
                let part = Rect {
                    x,
                    y: bottom,
                    width: SQUARE,
                    height,
                };
                figure.rect(part, palette::rgb(place));
            }
            if label != last_label {
                new_labels.push(label);
                last_label = label;
                let x = x - (PITCH - SQUARE) / 2.0;
                figure.line((x, y - 1.0), (x, y + SQUARE + 1.0));
            }
        }
        let right = left + real(PER_ROW as u64) * PITCH + 6.0;
        let names = fit_names(&new_labels, WIDTH - right - 8.0);
        figure.text(
            (right, y + SQUARE - 1.5),
            Font::SMALL,
            Anchor::Start,
            &names,
        );
        y += PITCH + 2.0;
    }
    let note = "Untouched squares and gaps are left out; a thin line is where another mapping \
                begins, named at the right of its row.";
    figure.text((left, y + 12.0), Font::SMALL, Anchor::Start, note);
    y + 14.0
}

/// As many names as fit, and how many more there are; the first one shortened if need be.
fn fit_names(names: &[&str], width: f64) -> String {
    let more = |shown: usize| match names.len() - shown {
        0 => String::new(),
        more => format!(" +{more}"),
    };
    for shown in (2..=names.len()).rev() {
        let text = names.iter().take(shown).copied().collect::<Vec<_>>();
        let text = format!("{}{}", text.join(", "), more(shown));
        if text_width(&text, Font::SMALL) <= width {
            return text;
        }
    }
    let Some(first) = names.first() else {
        return String::new();
    };
    let more = more(1);
    let first = fit(first, width - text_width(&more, Font::SMALL), Font::SMALL);
    format!("{first}{more}")
}

/// Mappings with the same name together, by memory; the last one is all others.
fn by_name(survey: &Survey) -> Vec<(String, Counts)> {
    let mut names: BTreeMap<&str, Counts> = BTreeMap::new();
    for mapping in &survey.mappings {
        if mapping.counts.nr_shown() > 0 {
            names
                .entry(mapping.label())
                .or_default()
                .merge(&mapping.counts);
        }
    }
    let mut rows: Vec<_> = names.into_iter().collect();
    rows.sort_by_key(|(_, counts)| std::cmp::Reverse(counts.nr_shown()));
    let others = rows.split_off(rows.len().min(MOST_BARS));
    let mut rows: Vec<_> = rows
        .into_iter()
        .map(|(name, counts)| (name.to_owned(), counts))
        .collect();
    if !others.is_empty() {
        let mut sum = Counts::default();
        others.iter().for_each(|(_, counts)| sum.merge(counts));
        rows.push((format!("{} others", others.len()), sum));
    }
    rows
}

/// A bar a name with an axis; returns where it ends.
fn bars(figure: &mut Figure, survey: &Survey, top: f64) -> f64 {
    let heading = "(b) By name of mapping.";
    figure.text((MARGIN, top), Font::TEXT, Anchor::Start, heading);
    let rows = by_name(survey);
    let most = rows.iter().map(|(_, counts)| counts.nr_shown()).max();
    let most = most.unwrap_or(0).max(1);
    let mut y = top + 16.0;
    let first = y;
    for (name, counts) in &rows {
        let name = fit(name, BAR_LEFT - MARGIN - 8.0, Font::TEXT);
        figure.text((BAR_LEFT - 8.0, y + 12.0), Font::TEXT, Anchor::End, &name);
        let mut x = BAR_LEFT;
        for (place, share) in shares(counts, most) {
            let width = (share * BAR_WIDTH).max(0.6);
            let bar = Rect {
                x,
                y,
                width,
                height: BAR_PITCH - 7.0,
            };
            figure.named_rect(bar, palette::rgb(place), &place_name(place));
            x += width;
        }
        let amount = ByteCount::of_frames(counts.nr_shown()).to_string();
        figure.text((x + 6.0, y + 12.0), Font::SMALL, Anchor::Start, &amount);
        y += BAR_PITCH;
    }
    figure.line((BAR_LEFT, first - 4.0), (BAR_LEFT, y));
    figure.line((BAR_LEFT, y), (BAR_LEFT + BAR_WIDTH, y));
    let most_bytes = ByteCount::of_frames(most).get();
    for (bytes, text) in byte_ticks(most_bytes) {
        let x = BAR_LEFT + BAR_WIDTH * real(bytes) / real(most_bytes);
        figure.line((x, y), (x, y + 4.0));
        figure.text((x, y + 16.0), Font::SMALL, Anchor::Middle, &text);
    }
    y + 16.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::survey::sample;

    #[test]
    fn the_picture_has_its_legend_scale_and_names() {
        let svg = draw(&sample::survey());
        for text in [
            "Memory of redis-server (process 4711)",
            "cohmem0 48 MiB",
            "cohmem1 16 MiB",
            "system memory 33.51 MiB",
            "untouched",
            "One square is",
            "[heap]",
            "[anon]",
            "libcrypto.so.3",
            "55d0c8a00000",
            "16 MiB",
        ] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(svg.contains(palette::rgb(cohmem::Place::Device(1))));
        assert!(super::super::figure::png(&svg).is_ok_and(|png| png.len() > 10_000));
    }

    #[test]
    fn names_that_do_not_fit_are_counted() {
        assert_eq!(fit_names(&["a", "b"], 100.0), "a, b");
        let long = "mmap.cpython-311-x86_64-linux-gnu.so";
        for names in [&["libcrypto.so.3"; 9][..], &[long, "b"], &[long]] {
            let text = fit_names(names, 150.0);
            assert!(text_width(&text, Font::SMALL) <= 150.0, "{text}");
            assert_eq!(text.contains(" +"), names.len() > 1, "{text}");
        }
        assert_eq!(fit_names(&[], 100.0), "");
    }
}
