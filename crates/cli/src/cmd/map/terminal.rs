//! The picture for a terminal: a heat line and a table.

use cohmem::{AddrRange, ByteCount, FRAME_BYTES, Place};

use crate::{
    output::Table,
    palette,
    survey::{
        Counts, Granule, Granules, MappingCounts, Survey, in_cells, place_letter, place_name,
    },
};

/// Lines of the heat line at most.
const MOST_LINES: usize = 4;
/// Rows of the table unless all are asked for.
const MOST_ROWS: usize = 24;
/// From here on a gap in the heat line is marked.
const WIDE_GAP: u64 = 1 << 30;
/// Room for a start address and the space behind it.
const LABEL: usize = 13;
const SHARE_CELLS: usize = 12;

/// How to draw.
#[derive(Clone, Copy, Debug)]
pub(in crate::cmd) struct Canvas {
    /// Columns.
    pub(in crate::cmd) width: usize,
    pub(in crate::cmd) is_coloured: bool,
}

impl Canvas {
    /// One cell: in colours the shade says how full it is, without them the letter says of what.
    fn cell(self, counts: &Counts, pages: u64) -> String {
        let Some(place) = counts.most() else {
            return "\u{b7}".to_owned();
        };
        if !self.is_coloured {
            return place_letter(place).to_string();
        }
        let eighths = counts.nr_shown().saturating_mul(8) / pages.max(1);
        let shade = match eighths {
            0..=1 => '\u{2591}',
            2..=4 => '\u{2592}',
            5..=7 => '\u{2593}',
            _ => '\u{2588}',
        };
        self.paint(place, &shade.to_string())
    }

    fn paint(self, place: Place, text: &str) -> String {
        if self.is_coloured {
            format!("\x1b[38;5;{}m{text}\x1b[0m", palette::terminal(place))
        } else {
            text.to_owned()
        }
    }
}

/// What the process has in memory, in one line.
pub(in crate::cmd) fn headline(survey: &Survey) -> String {
    let total = &survey.total;
    let places: Vec<_> = total
        .shown()
        .map(|(place, pages)| format!("{} {}", ByteCount::of_frames(pages), place_name(place)))
        .collect();
    let places = if places.is_empty() {
        "nothing".to_owned()
    } else {
        places.join(", ")
    };
    format!(
        "{} {}: {places}; {} mapped in {} mappings",
        survey.pid,
        survey.name,
        ByteCount::new(survey.bytes_mapped()),
        survey.mappings.len()
    )
}

/// The heat line with its addresses, and what its signs mean.
pub(in crate::cmd) fn heat(survey: &Survey, canvas: Canvas) -> Vec<String> {
    let per_line = canvas.width.saturating_sub(LABEL).clamp(8, 256);
    // Half of the cells, so that gaps have room.
    let granules = survey.granules.at_most(per_line * MOST_LINES / 2);
    let mut lines = rows(&granules, per_line, canvas);
    lines.extend(legend(&survey.total, &granules, canvas));
    lines
}

fn rows(granules: &Granules, per_line: usize, canvas: Canvas) -> Vec<String> {
    let pages = granules.bytes() / FRAME_BYTES;
    let mut lines: Vec<String> = Vec::new();
    let mut used = per_line;
    let mut last: Option<&Granule> = None;
    for granule in granules.cells() {
        let gap = last.map_or(0, |last| granule.index - last.index - 1);
        let is_wide = gap.saturating_mul(granules.bytes()) >= WIDE_GAP;
        if used + usize::from(is_wide) >= per_line {
            let start = granules.range_of(granule).start().get();
            lines.push(format!("{start:>12x} "));
            used = 0;
        } else if is_wide && let Some(line) = lines.last_mut() {
            line.push('|');
            used += 1;
        }
        if let Some(line) = lines.last_mut() {
            line.push_str(&canvas.cell(&granule.counts, pages));
        }
        used += 1;
        last = Some(granule);
    }
    lines
}

fn legend(total: &Counts, granules: &Granules, canvas: Canvas) -> Vec<String> {
    let mut words: Vec<(usize, String)> = total
        .shown()
        .map(|(place, _)| {
            let name = place_name(place);
            let sign = if canvas.is_coloured {
                canvas.paint(place, "\u{2588}")
            } else {
                place_letter(place).to_string()
            };
            (2 + name.chars().count(), format!("{sign} {name}"))
        })
        .collect();
    let cell = format!("one cell: {}", ByteCount::new(granules.bytes()));
    words.push((cell.chars().count(), cell));
    if canvas.is_coloured {
        words.push((
            26,
            "\u{2591}\u{2592}\u{2593}\u{2588} how much is in memory".to_owned(),
        ));
    }
    words.push((25, "| a gap of 1 GiB or more".to_owned()));
    words.push((29, "untouched cells are left out".to_owned()));
    let mut lines = Vec::new();
    let mut line = " ".repeat(LABEL - 2);
    let mut used = LABEL - 2;
    for (width, word) in words {
        if used + width + 2 > canvas.width.max(40) && used > LABEL {
            lines.push(std::mem::replace(&mut line, " ".repeat(LABEL - 2)));
            used = LABEL - 2;
        }
        line.push_str("  ");
        line.push_str(&word);
        used += width + 2;
    }
    lines.push(line);
    lines
}

/// The mappings with most memory, by address, and a row for the others.
fn table(survey: &Survey, canvas: Canvas, shows_all: bool) -> Table {
    let mut chosen: Vec<&MappingCounts> = survey
        .mappings
        .iter()
        .filter(|one| shows_all || one.counts.nr_shown() > 0)
        .collect();
    if !shows_all && chosen.len() > MOST_ROWS {
        chosen.sort_by_key(|one| std::cmp::Reverse(one.counts.nr_shown()));
        chosen.truncate(MOST_ROWS);
        chosen.sort_by_key(|one| one.vma.range.start());
    }
    let places: Vec<_> = survey.total.shown().map(|(place, _)| place).collect();
    let mut headings = vec!["address".to_owned(), ">mapped".to_owned()];
    headings.extend(
        places
            .iter()
            .map(|&place| format!(">{}", place_name(place))),
    );
    headings.extend(["share", "mode", "name"].map(str::to_owned));
    let mut table = Table::with_headings(headings);
    let mut rest = Counts::default();
    survey
        .mappings
        .iter()
        .for_each(|one| rest.merge(&one.counts));
    let mut rest_bytes = survey.bytes_mapped();
    let nr_rest = survey.mappings.len() - chosen.len();
    // What the columns before the name take: about so much.
    let name_width = canvas.width.saturating_sub(55 + 11 * places.len()).max(16);
    for one in chosen {
        let range = one.vma.range;
        rest_bytes -= range.length().get();
        rest = minus(&rest, &one.counts);
        let mut cells = vec![
            format!("{:x}", range.start().get()),
            range.length().to_string(),
        ];
        cells.extend(amounts(&one.counts, &places));
        let share = in_cells(&one.counts, range.nr_pages(), SHARE_CELLS);
        cells.extend([
            letters(&share),
            one.mode(),
            shorten(full_name(one), name_width),
        ]);
        table.row(cells);
    }
    if nr_rest > 0 {
        let mut cells = vec!["others".to_owned(), ByteCount::new(rest_bytes).to_string()];
        cells.extend(amounts(&rest, &places));
        let share = in_cells(&rest, rest_bytes / FRAME_BYTES, SHARE_CELLS);
        cells.extend([
            letters(&share),
            String::new(),
            format!("{nr_rest} mappings"),
        ]);
        table.row(cells);
    }
    table
}

/// The lines of the table, the first its heading, with the shares in colours.
pub(in crate::cmd) fn table_lines(survey: &Survey, canvas: Canvas, shows_all: bool) -> Vec<String> {
    let mut lines = table(survey, canvas, shows_all).lines();
    let share_at = lines.first().and_then(|heading| heading.find("share"));
    if let (true, Some(share_at)) = (canvas.is_coloured, share_at) {
        for line in lines.iter_mut().skip(1) {
            *line = paint_share(line, share_at, canvas);
        }
    }
    lines
}

fn paint_share(line: &str, share_at: usize, canvas: Canvas) -> String {
    line.chars()
        .enumerate()
        .map(|(at, letter)| {
            let is_share = (share_at..share_at + SHARE_CELLS).contains(&at);
            match place_of_letter(letter).filter(|_| is_share) {
                Some(place) => canvas.paint(place, "\u{2588}"),
                None => letter.to_string(),
            }
        })
        .collect()
}

fn place_of_letter(letter: char) -> Option<Place> {
    let named = [
        Place::System,
        Place::File,
        Place::Swap,
        Place::Foreign,
        Place::Unseen,
    ];
    (0..16)
        .map(Place::Device)
        .chain(named)
        .find(|&place| place_letter(place) == letter)
}

fn amounts(counts: &Counts, places: &[Place]) -> Vec<String> {
    places
        .iter()
        .map(|&place| match counts.get(place) {
            0 => "-".to_owned(),
            pages => ByteCount::of_frames(pages).to_string(),
        })
        .collect()
}

fn letters(share: &[Option<Place>]) -> String {
    share
        .iter()
        .map(|cell| cell.map_or('.', place_letter))
        .collect()
}

fn minus(counts: &Counts, part: &Counts) -> Counts {
    counts
        .iter()
        .map(|(place, pages)| (place, pages.saturating_sub(part.get(place))))
        .collect()
}

fn full_name(one: &MappingCounts) -> &str {
    one.vma.name.as_deref().unwrap_or("[anon]")
}

/// The end of a long path says most.
fn shorten(name: &str, width: usize) -> String {
    let length = name.chars().count();
    if length <= width {
        return name.to_owned();
    }
    let tail: String = name.chars().skip(length + 3 - width).collect();
    format!("...{tail}")
}

/// One line for each of a few moments of a recording, on common granules.
pub(in crate::cmd) fn moment(
    seconds: f64,
    cells: &[(AddrRange, Option<&Counts>)],
    canvas: Canvas,
) -> String {
    let mut line = format!("{seconds:>10.1} s ");
    for (range, counts) in cells {
        match counts {
            Some(counts) => line.push_str(&canvas.cell(counts, range.nr_pages())),
            None => line.push(' '),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use cohmem::Vma;

    use super::*;
    use crate::survey::sample;

    const PLAIN: Canvas = Canvas {
        width: 80,
        is_coloured: false,
    };

    #[test]
    fn the_picture_without_colours_is_in_letters() {
        let survey = sample::survey();
        let mut lines = vec![headline(&survey)];
        lines.extend(heat(&survey, PLAIN));
        lines.extend(table(&survey, PLAIN, false).lines());
        assert_eq!(lines.join("\n") + "\n", include_str!("terminal.txt"));
        assert!(lines.iter().skip(1).all(|line| line.chars().count() <= 110));
    }

    #[test]
    fn colours_say_where_and_shades_how_full() {
        let canvas = Canvas {
            is_coloured: true,
            ..PLAIN
        };
        let counts: Counts = [(Place::Device(0), 128)].into_iter().collect();
        assert_eq!(canvas.cell(&counts, 128), "\x1b[38;5;214m\u{2588}\x1b[0m");
        assert_eq!(canvas.cell(&counts, 512), "\x1b[38;5;214m\u{2592}\x1b[0m");
        assert_eq!(
            canvas.cell(&counts, 51_200),
            "\x1b[38;5;214m\u{2591}\x1b[0m"
        );
        assert_eq!(canvas.cell(&Counts::default(), 1), "\u{b7}");
        let painted = paint_share("ab 00..........  s", 3, canvas);
        assert_eq!(painted.matches("\x1b[38;5;214m").count(), 2);
        assert!(painted.ends_with("s"), "only the share is painted");
    }

    #[test]
    fn many_mappings_are_summed_up() {
        let mut survey = sample::survey();
        let more: Vec<_> = (0..100_u64)
            .map(|at| {
                let start = 0x7000_0000_0000 + at * 0x2000;
                let line = format!("{start:x}-{:x} rw-p 0 00:00 0", start + 0x1000);
                MappingCounts {
                    vma: Vma::parse(&line).unwrap(),
                    counts: [(Place::System, 1)].into_iter().collect(),
                }
            })
            .collect();
        survey.mappings.extend(more);
        let short = table(&survey, PLAIN, false).lines();
        assert_eq!(short.len(), 1 + MOST_ROWS + 1);
        assert!(short.last().is_some_and(|line| line.ends_with("mappings")));
        assert_eq!(
            table(&survey, PLAIN, true).lines().len(),
            1 + survey.mappings.len()
        );
    }

    #[test]
    fn long_names_keep_their_end() {
        assert_eq!(shorten("/usr/lib/libc.so.6", 10), "...bc.so.6");
        assert_eq!(shorten("[heap]", 10), "[heap]");
    }
}
