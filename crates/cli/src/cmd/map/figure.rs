//! Pictures for papers: the parts that all of them have.

use std::fmt::Write as _;

use cohmem::{ByteCount, FRAME_BYTES, Place};
use resvg::{tiny_skia, usvg};

use crate::{
    palette,
    survey::{Counts, place_name},
};

/// Pixels of a PNG for one unit of the picture: enough for print at a column's width.
const SCALE: f32 = 2.0;
const INK: &str = "#222222";
const FAINT: &str = "#555555";

/// Where a text stands at its x.
#[derive(Clone, Copy, Debug)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Anchor {
    const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Middle => "middle",
            Self::End => "end",
        }
    }
}

/// How a text looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Font {
    size: f64,
    ink: &'static str,
    family: &'static str,
    weight: &'static str,
}

impl Font {
    pub(super) const TITLE: Self = Self {
        size: 17.0,
        ink: INK,
        family: SANS,
        weight: "bold",
    };
    pub(super) const TEXT: Self = Self {
        size: 12.0,
        ink: INK,
        family: SANS,
        weight: "normal",
    };
    pub(super) const SMALL: Self = Self {
        size: 10.5,
        ink: FAINT,
        family: SANS,
        weight: "normal",
    };
    pub(super) const ADDRESS: Self = Self {
        size: 9.5,
        ink: FAINT,
        family: MONO,
        weight: "normal",
    };
}

const SANS: &str = "Ubuntu, DejaVu Sans, Helvetica, Arial, sans-serif";
const MONO: &str = "Hack, DejaVu Sans Mono, monospace";

/// A rectangle.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rect {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

/// A picture under way.
#[derive(Debug)]
pub(super) struct Figure {
    width: f64,
    body: String,
}

impl Figure {
    pub(super) const fn new(width: f64) -> Self {
        Self {
            width,
            body: String::new(),
        }
    }

    fn push(&mut self, element: std::fmt::Arguments<'_>) {
        let written = self.body.write_fmt(element);
        debug_assert!(written.is_ok(), "a string takes everything");
    }

    pub(super) fn rect(&mut self, rect: Rect, fill: &str) {
        let Rect {
            x,
            y,
            width,
            height,
        } = rect;
        // Rectangles that touch show no seam.
        self.push(format_args!(
            "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{height:.2}\" fill=\"{fill}\" shape-rendering=\"crispEdges\"/>\n"
        ));
    }

    /// A rectangle with a name that a browser shows under the pointer.
    pub(super) fn named_rect(&mut self, rect: Rect, fill: &str, name: &str) {
        let Rect {
            x,
            y,
            width,
            height,
        } = rect;
        let name = escape(name);
        self.push(format_args!(
            "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{height:.2}\" fill=\"{fill}\"><title>{name}</title></rect>\n"
        ));
    }

    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.push(format_args!(
            "<line x1=\"{x1:.2}\" y1=\"{y1:.2}\" x2=\"{x2:.2}\" y2=\"{y2:.2}\" stroke=\"{FAINT}\" stroke-width=\"0.8\"/>\n"
        ));
    }

    /// The area between two lines, given by its corners.
    pub(super) fn polygon(&mut self, corners: &[(f64, f64)], fill: &str) {
        let points: Vec<_> = corners
            .iter()
            .map(|(x, y)| format!("{x:.2},{y:.2}"))
            .collect();
        let points = points.join(" ");
        self.push(format_args!(
            "<polygon points=\"{points}\" fill=\"{fill}\"/>\n"
        ));
    }

    pub(super) fn text(&mut self, at: (f64, f64), font: Font, anchor: Anchor, text: &str) {
        let (x, y) = at;
        let Font {
            size,
            ink,
            family,
            weight,
        } = font;
        let (anchor, text) = (anchor.name(), escape(text));
        self.push(format_args!(
            "<text x=\"{x:.2}\" y=\"{y:.2}\" font-family=\"{family}\" font-size=\"{size}\" font-weight=\"{weight}\" fill=\"{ink}\" text-anchor=\"{anchor}\">{text}</text>\n"
        ));
    }

    /// One square with its name for each place that occurs; returns the height it took.
    pub(super) fn legend(&mut self, at: (f64, f64), total: &Counts) -> f64 {
        let (left, mut y) = at;
        let mut x = left;
        let places = total.shown().map(|(place, pages)| {
            let amount = ByteCount::of_frames(pages);
            (palette::rgb(place), format!("{} {amount}", describe(place)))
        });
        let untouched = (palette::UNTOUCHED, "untouched".to_owned());
        for (fill, name) in places.chain([untouched]) {
            let width = 30.0 + text_width(&name, Font::TEXT);
            if x + width > self.width && x > left {
                x = left;
                y += 20.0;
            }
            let square = Rect {
                x,
                y: y - 10.0,
                width: 12.0,
                height: 12.0,
            };
            self.rect(square, fill);
            self.text((x + 17.0, y), Font::TEXT, Anchor::Start, &name);
            x += width;
        }
        y - at.1 + 20.0
    }

    /// The whole picture as SVG.
    pub(super) fn finish(self, height: f64) -> String {
        let Self { width, body } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{body}</svg>\n"
        )
    }
}

fn describe(place: Place) -> String {
    match place {
        Place::System => "system memory".to_owned(),
        Place::File => "files and shared".to_owned(),
        Place::Swap => "swap or on its way".to_owned(),
        Place::Foreign => "another driver's".to_owned(),
        Place::Unseen => "not to be seen".to_owned(),
        Place::Zero | Place::Device(_) => place_name(place).into_owned(),
    }
}

/// About as wide as the text is drawn: the font's mean width of a letter is half of its size.
pub(super) fn text_width(text: &str, font: Font) -> f64 {
    let letters = u32::try_from(text.chars().count()).unwrap_or(u32::MAX);
    f64::from(letters) * font.size * 0.53
}

/// As much of a text as fits, from its end for a path.
pub(super) fn fit(text: &str, width: f64, font: Font) -> String {
    let mut kept: String = text.to_owned();
    while text_width(&kept, font) > width && kept.chars().count() > 4 {
        kept = kept.chars().skip(4).collect();
        kept = format!("...{}", kept.trim_start_matches('.'));
    }
    kept
}

/// Bytes as a number for drawing.
#[expect(
    clippy::cast_precision_loss,
    reason = "a picture shows three digits, a double has fifteen"
)]
pub(super) const fn real(number: u64) -> f64 {
    number as f64
}

/// The parts of a whole, from the bottom up: devices first. Each with its share.
pub(super) fn shares(counts: &Counts, whole_pages: u64) -> Vec<(Place, f64)> {
    let share = |(place, pages): (Place, u64)| (place, real(pages) / real(whole_pages.max(1)));
    counts.shown().map(share).collect()
}

/// Round values of an axis up to `most` bytes, at most six: each with its text.
pub(super) fn byte_ticks(most: u64) -> Vec<(u64, String)> {
    let mut step = FRAME_BYTES;
    while step * 5 < most {
        step *= 2;
    }
    (0..=most / step)
        .map(|at| (at * step, ByteCount::new(at * step).to_string()))
        .collect()
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            // XML has no way to write these.
            control if control.is_control() => escaped.push('?'),
            plain => escaped.push(plain),
        }
    }
    escaped
}

/// The picture as a PNG, the same on every machine: its fonts are part of this program.
pub(super) fn png(svg: &str) -> Result<Vec<u8>, String> {
    let mut options = usvg::Options::default();
    let fonts = options.fontdb_mut();
    fonts.load_font_data(epaint_default_fonts::UBUNTU_LIGHT.to_vec());
    fonts.load_font_data(epaint_default_fonts::HACK_REGULAR.to_vec());
    let tree = usvg::Tree::from_str(svg, &options).map_err(|error| error.to_string())?;
    let size = tree
        .size()
        .to_int_size()
        .scale_by(SCALE)
        .ok_or("the picture is empty")?;
    let mut pixels =
        tiny_skia::Pixmap::new(size.width(), size.height()).ok_or("the picture is too large")?;
    let transform = tiny_skia::Transform::from_scale(SCALE, SCALE);
    resvg::render(&tree, transform, &mut pixels.as_mut());
    pixels.encode_png().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_outside_cannot_break_the_picture() {
        let mut figure = Figure::new(100.0);
        figure.text(
            (1.0, 2.0),
            Font::TEXT,
            Anchor::Start,
            "</text><script>\"&\u{1b}",
        );
        let svg = figure.finish(10.0);
        assert!(svg.contains("&lt;/text&gt;&lt;script&gt;&quot;&amp;?"));
        assert!(png(&svg).unwrap().starts_with(b"\x89PNG"));
    }

    #[test]
    fn letters_are_drawn_in_the_fonts_that_come_along() {
        let drawn = |text: &str| {
            let mut figure = Figure::new(60.0);
            figure.text((5.0, 15.0), Font::TEXT, Anchor::Start, text);
            png(&figure.finish(20.0)).unwrap()
        };
        assert_ne!(drawn("heap"), drawn(""));
        assert_ne!(drawn("heap"), drawn("head"));
    }

    #[test]
    fn an_axis_has_few_round_values() {
        for most in [1, 4096, 100 << 20, 3 << 30, 100 << 40] {
            let ticks = byte_ticks(most);
            assert!((1..=6).contains(&ticks.len()), "{most}: {ticks:?}");
        }
        assert_eq!(byte_ticks(80 << 20)[1], (16 << 20, "16 MiB".to_owned()));
    }

    #[test]
    fn a_text_is_cut_to_its_room() {
        assert_eq!(fit("[heap]", 100.0, Font::TEXT), "[heap]");
        let cut = fit("a-very-long-name-of-a-file.so.6", 60.0, Font::TEXT);
        assert!(cut.starts_with("...") && cut.ends_with("so.6"), "{cut}");
    }
}
