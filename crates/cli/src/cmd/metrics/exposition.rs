//! The two text formats in which metrics are exposed.
//!
//! They differ in how a counter is named, in units, and in the end mark; a label's value is written
//! in the same way.

use std::fmt::Write as _;

use clap::ValueEnum;

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// OpenMetrics 1.0
    Openmetrics,
    /// The Prometheus text format 0.0.4
    Text,
}

impl Format {
    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Openmetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Gauge,
    GaugeBytes,
    CounterBytes,
    /// A constant whose labels are what it tells.
    Info,
}

/// A metric: `name` is without the suffix that its samples may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
}

impl Family {
    fn sample_name(&self) -> String {
        let suffix = match self.kind {
            Kind::Gauge | Kind::GaugeBytes => "",
            Kind::CounterBytes => "_total",
            Kind::Info => "_info",
        };
        format!("{}{suffix}", self.name)
    }
}

/// A page of metrics under way.
#[derive(Debug)]
pub(super) struct Exposition {
    format: Format,
    page: String,
    sample_name: String,
}

impl Exposition {
    pub(super) const fn new(format: Format) -> Self {
        Self {
            format,
            page: String::new(),
            sample_name: String::new(),
        }
    }

    fn push(&mut self, line: std::fmt::Arguments<'_>) {
        let written = writeln!(self.page, "{line}");
        debug_assert!(written.is_ok(), "a string takes everything");
    }

    /// Begins a metric; its samples follow.
    pub(super) fn family(&mut self, family: &Family) {
        self.sample_name = family.sample_name();
        // The older format knows a metric by its samples' name, and no type for constants.
        let (name, kind) = match self.format {
            Format::Openmetrics => {
                let kind = match family.kind {
                    Kind::Gauge | Kind::GaugeBytes => "gauge",
                    Kind::CounterBytes => "counter",
                    Kind::Info => "info",
                };
                (family.name.to_owned(), kind)
            }
            Format::Text => {
                let kind = match family.kind {
                    Kind::Gauge | Kind::GaugeBytes | Kind::Info => "gauge",
                    Kind::CounterBytes => "counter",
                };
                (self.sample_name.clone(), kind)
            }
        };
        self.push(format_args!("# HELP {name} {}", family.help));
        self.push(format_args!("# TYPE {name} {kind}"));
        let has_unit = matches!(family.kind, Kind::GaugeBytes | Kind::CounterBytes);
        if has_unit && self.format == Format::Openmetrics {
            self.push(format_args!("# UNIT {name} bytes"));
        }
    }

    /// One value of the metric that was begun.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: u64) {
        let labels: Vec<_> = labels
            .iter()
            .map(|(name, text)| format!("{name}=\"{}\"", escape(text)))
            .collect();
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", labels.join(","))
        };
        let name = std::mem::take(&mut self.sample_name);
        self.push(format_args!("{name}{labels} {value}"));
        self.sample_name = name;
    }

    pub(super) fn finish(mut self) -> String {
        if self.format == Format::Openmetrics {
            self.push(format_args!("# EOF"));
        }
        self.page
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut page = Exposition::new(Format::Text);
        page.family(&Family {
            name: "a",
            kind: Kind::Gauge,
            help: "A.",
        });
        page.sample(&[("b", "x\"y\\z\n"), ("c", "")], 7);
        assert_eq!(
            page.finish(),
            "# HELP a A.\n# TYPE a gauge\na{b=\"x\\\"y\\\\z\\n\",c=\"\"} 7\n"
        );
    }
}
