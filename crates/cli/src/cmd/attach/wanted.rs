//! What is to be attached, and the file that lists it.

use std::{fmt, fs, path::Path};

use cohmem::dax::{self, Source};

use crate::exit::{CliError, Result};

/// One thing to attach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) source: Source,
    /// Its memory map is to be on the device.
    pub(super) altmap: bool,
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Range(range) => range.fmt(f),
            Source::Device(name) | Source::Region(name) => f.write_str(name),
        }
    }
}

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    One(Wanted),
    /// Every range that is free then.
    All {
        altmap: bool,
    },
}

/// Reads the file.
///
/// # Errors
///
/// When it cannot be read, or a line is wrong: the first that is, before anything is attached.
pub(super) fn read(path: &Path) -> Result<Vec<Line>> {
    let text = fs::read_to_string(path).map_err(|source| CliError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&text).map_err(|(number, says)| CliError::Line {
        path: path.to_owned(),
        number,
        says,
    })
}

/// The lines, or the number of the first wrong one and what is wrong with it.
fn parse(text: &str) -> std::result::Result<Vec<Line>, (usize, String)> {
    let mut lines = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.split_once('#').map_or(line, |(line, _)| line);
        let mut words = line.split_whitespace();
        let Some(source) = words.next() else {
            continue;
        };
        let wrong = |says: String| (at + 1, says);
        let altmap = match words.next() {
            None => false,
            Some("altmap") => true,
            Some(word) => return Err(wrong(format!("{word:?} after the source is not altmap"))),
        };
        if let Some(word) = words.next() {
            return Err(wrong(format!("{word:?} is one word too many")));
        }
        lines.push(match source {
            "all" => Line::All { altmap },
            source => {
                let source = source
                    .parse()
                    .map_err(|error: cohmem::Error| wrong(error.to_string()))?;
                Line::One(Wanted { source, altmap })
            }
        });
    }
    Ok(lines)
}

/// The things that the lines name; `all` comes last, so that named ranges are not among the free.
///
/// # Errors
///
/// When the free ranges cannot be seen.
pub(super) fn expand(lines: Vec<Line>) -> Result<Vec<Wanted>> {
    let mut wanted = Vec::new();
    let mut rest = None;
    for line in lines {
        match line {
            Line::One(one) => wanted.push(one),
            Line::All { altmap } => rest = Some(altmap),
        }
    }
    if let Some(altmap) = rest {
        for range in dax::free()? {
            let source = Source::Range(range);
            if wanted.iter().all(|one| one.source != source) {
                wanted.push(Wanted { source, altmap });
            }
        }
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_sources_with_their_option() {
        let text = "# what to attach\n\n 0x140000000+512M altmap # near\ndax0.0\nall\n";
        let lines = parse(text).unwrap();
        let one = |source: &str, altmap| {
            Line::One(Wanted {
                source: source.parse().unwrap(),
                altmap,
            })
        };
        assert_eq!(
            lines,
            [
                one("0x140000000+512M", true),
                one("dax0.0", false),
                Line::All { altmap: false }
            ]
        );
        assert_eq!(parse("").unwrap(), []);
    }

    #[test]
    fn a_wrong_line_is_named_with_its_word() {
        for (text, number, says) in [
            ("dax0.0\ntape0\n", 2, "\"tape0\""),
            ("dax0.0 altmop\n", 1, "\"altmop\""),
            ("# a\nall altmap now\n", 2, "\"now\""),
            ("0x2000-0x1000\n", 1, "ends below its start"),
        ] {
            let (at, message) = parse(text).unwrap_err();
            assert_eq!(at, number, "{text}");
            assert!(message.contains(says), "{message}");
        }
    }

    #[test]
    fn named_things_need_no_look_at_the_machine() {
        let lines = parse("hmem.1\ndax0.0 altmap\n").unwrap();
        let wanted = expand(lines).unwrap();
        let names: Vec<_> = wanted.iter().map(Wanted::to_string).collect();
        assert_eq!(names, ["hmem.1", "dax0.0"]);
    }
}
