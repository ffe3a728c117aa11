//! The two text forms in which scrapers read metrics, and which of them one of them gets.

use std::fmt::Write as _;

use crate::model::{Durations, Timestamp};

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format 0.0.4, which everything reads: promtool, the textfile collector.
    Classic,
    /// OpenMetrics 1.0, for those who ask for it.
    OpenMetrics,
}

impl Format {
    /// What to answer to whoever sends `accept`: OpenMetrics where it is wanted at least as much.
    pub fn accepted(accept: &str) -> Self {
        let (mut open, mut classic) = (0.0, 0.0);
        for offer in accept.split(',') {
            let mut parts = offer.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let (mut weight, mut version) = (1.0, None);
            for part in parts {
                match part.split_once('=') {
                    Some(("q", text)) => weight = text.trim().parse().unwrap_or(0.0),
                    Some(("version", text)) => version = Some(text.trim_matches('"')),
                    Some(_) | None => {}
                }
            }
            match media {
                "application/openmetrics-text" if matches!(version, None | Some("1.0.0")) => {
                    open = f64::max(open, weight);
                }
                "text/plain" | "text/*" | "*/*" => classic = f64::max(classic, weight),
                _ => {}
            }
        }
        if open > 0.0 && open >= classic {
            Self::OpenMetrics
        } else {
            Self::Classic
        }
    }

    /// The `Content-Type` of an answer. Prometheus 3 fails a scrape without the right one.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What the values of a family are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A value that goes up and down.
    Gauge,
    /// One that only grows, until whoever counts starts anew.
    Counter,
    /// How often something took how long.
    Histogram,
}

/// Names and values of labels as they stand between the braces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Labels(String);

impl Labels {
    pub(super) fn new(pairs: &[(&str, &str)]) -> Self {
        let mut labels = Self::default();
        for (name, value) in pairs {
            labels.push(name, value);
        }
        labels
    }

    /// The same with one more.
    pub(super) fn with(&self, name: &str, value: &str) -> Self {
        let mut labels = self.clone();
        labels.push(name, value);
        labels
    }

    fn push(&mut self, name: &str, value: &str) {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0.push_str(name);
        self.0.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                other => self.0.push(other),
            }
        }
        self.0.push('"');
    }
}

/// A value as both forms write it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    /// A whole number.
    Whole(u64),
    /// Any other.
    Real(f64),
    /// Seconds since the Unix epoch.
    At(Timestamp),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Whole(value.into())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Whole(value.into())
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl From<Timestamp> for Value {
    fn from(value: Timestamp) -> Self {
        Self::At(value)
    }
}

impl Value {
    /// Appends it to `out`. Whole numbers and times are most of all values; they are written without
    /// the machinery of formatting, which would take longer than all the rest of a scrape.
    fn write(self, out: &mut String) {
        match self {
            Self::Whole(value) => digits(value, 1, out),
            Self::Real(value) if value.is_nan() => out.push_str("NaN"),
            Self::Real(value) if value.is_infinite() && value > 0.0 => out.push_str("+Inf"),
            Self::Real(value) if value.is_infinite() => out.push_str("-Inf"),
            Self::Real(value) => write!(out, "{value}").expect("a String takes it"),
            Self::At(at) => {
                // No time is before the epoch.
                let millis = at.as_millis().unsigned_abs();
                digits(millis / 1000, 1, out);
                out.push('.');
                digits(millis % 1000, 3, out);
            }
        }
    }
}

/// Appends `value`, with at least so many digits.
fn digits(mut value: u64, least: usize, out: &mut String) {
    let mut buffer = [b'0'; 20];
    let mut start = buffer.len();
    while value > 0 || buffer.len() - start < least {
        start -= 1;
        buffer[start] = b'0' + (value % 10) as u8;
        value /= 10;
    }
    out.push_str(str::from_utf8(&buffer[start..]).expect("digits are text"));
}

/// Metrics as they are written, one family after the other.
#[derive(Debug)]
pub(super) struct Text {
    format: Format,
    out: String,
    family: &'static str,
    kind: Kind,
}

impl Text {
    pub(super) fn new(format: Format, expected: usize) -> Self {
        Self {
            format,
            out: String::with_capacity(expected),
            family: "",
            kind: Kind::Gauge,
        }
    }

    /// Begins a family. The name of a counter ends with `_total`.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        (self.family, self.kind) = (name, kind);
        let (name, word) = match (self.format, kind) {
            (_, Kind::Gauge) => (name, "gauge"),
            (_, Kind::Histogram) => (name, "histogram"),
            (Format::Classic, Kind::Counter) => (name, "counter"),
            (Format::OpenMetrics, Kind::Counter) => {
                (name.strip_suffix("_total").unwrap_or(name), "counter")
            }
        };
        for part in [
            "# HELP ",
            name,
            " ",
            help,
            "\n# TYPE ",
            name,
            " ",
            word,
            "\n",
        ] {
            self.out.push_str(part);
        }
    }

    /// One value of the family that was begun last.
    pub(super) fn sample(&mut self, labels: &Labels, value: impl Into<Value>) {
        self.line(self.family, "", labels, None, value.into());
    }

    /// One histogram of the family that was begun last.
    pub(super) fn durations(&mut self, labels: &Labels, durations: &Durations) {
        let family = self.family;
        for (bound, count) in durations.cumulative() {
            let bound = if bound.fract() == 0.0 {
                format!("{bound:.1}")
            } else {
                bound.to_string()
            };
            self.line(
                family,
                "_bucket",
                labels,
                Some(("le", &bound)),
                count.into(),
            );
        }
        let count = Value::from(durations.count());
        self.line(family, "_bucket", labels, Some(("le", "+Inf")), count);
        self.line(family, "_sum", labels, None, durations.sum_seconds().into());
        self.line(family, "_count", labels, None, count);
    }

    /// A value whose labels are `labels` and one more, without making them anew.
    pub(super) fn sample_with(
        &mut self,
        labels: &Labels,
        more: (&str, &str),
        value: impl Into<Value>,
    ) {
        self.line(self.family, "", labels, Some(more), value.into());
    }

    fn line(
        &mut self,
        name: &str,
        suffix: &str,
        labels: &Labels,
        more: Option<(&str, &str)>,
        value: Value,
    ) {
        self.out.push_str(name);
        self.out.push_str(suffix);
        if !labels.0.is_empty() || more.is_some() {
            self.out.push('{');
            self.out.push_str(&labels.0);
            if let Some((name, value)) = more {
                if !labels.0.is_empty() {
                    self.out.push(',');
                }
                for part in [name, "=\"", value, "\""] {
                    self.out.push_str(part);
                }
            }
            self.out.push('}');
        }
        self.out.push(' ');
        value.write(&mut self.out);
        self.out.push('\n');
    }

    /// All that was written.
    pub(super) fn end(mut self) -> String {
        match self.format {
            Format::Classic => {}
            Format::OpenMetrics => self.out.push_str("# EOF\n"),
        }
        self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_for_those_who_want_it_as_much() {
        let prometheus = "application/openmetrics-text;version=1.0.0,\
            application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
        let old = "application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5";
        assert_eq!(Format::accepted(old), Format::Classic);
        let browser = "text/html,application/xhtml+xml,*/*;q=0.8";
        assert_eq!(Format::accepted(browser), Format::Classic);
        assert_eq!(Format::accepted("*/*"), Format::Classic);
        assert_eq!(Format::accepted(""), Format::Classic);
        let less = "text/plain,application/openmetrics-text;q=0.5";
        assert_eq!(Format::accepted(less), Format::Classic);
    }

    #[test]
    fn a_counter_is_named_as_each_form_has_it() {
        let written = |format| {
            let mut text = Text::new(format, 0);
            text.family("flowctl_things_total", Kind::Counter, "Things.");
            text.sample(&Labels::new(&[("kind", "a\"b\\c\nd")]), 7_u64);
            text.end()
        };
        insta::assert_snapshot!(written(Format::Classic), @r#"
        # HELP flowctl_things_total Things.
        # TYPE flowctl_things_total counter
        flowctl_things_total{kind="a\"b\\c\nd"} 7
        "#);
        insta::assert_snapshot!(written(Format::OpenMetrics), @r#"
        # HELP flowctl_things Things.
        # TYPE flowctl_things counter
        flowctl_things_total{kind="a\"b\\c\nd"} 7
        # EOF
        "#);
    }

    #[test]
    fn a_histogram_has_every_bucket_its_sum_and_its_count() {
        let mut durations = Durations::default();
        durations.observe(std::time::Duration::from_millis(400));
        let mut text = Text::new(Format::Classic, 0);
        text.family("flowctl_wait_seconds", Kind::Histogram, "Waits.");
        text.durations(&Labels::default(), &durations);
        let text = text.end();
        assert!(
            text.contains("flowctl_wait_seconds_bucket{le=\"0.25\"} 0\n"),
            "{text}"
        );
        assert!(
            text.contains("flowctl_wait_seconds_bucket{le=\"1.0\"} 1\n"),
            "{text}"
        );
        assert!(
            text.contains("flowctl_wait_seconds_bucket{le=\"+Inf\"} 1\n"),
            "{text}"
        );
        assert!(text.ends_with("flowctl_wait_seconds_sum 0.4\nflowctl_wait_seconds_count 1\n"));
    }

    #[test]
    fn values_are_written_as_scrapers_read_them() {
        let shown = |value: Value| {
            let mut out = String::new();
            value.write(&mut out);
            out
        };
        assert_eq!(shown(0_u64.into()), "0");
        assert_eq!(shown(u64::MAX.into()), "18446744073709551615");
        assert_eq!(shown(f64::NAN.into()), "NaN");
        assert_eq!(shown(f64::INFINITY.into()), "+Inf");
        assert_eq!(shown(0.5.into()), "0.5");
        assert_eq!(shown(true.into()), "1");
        assert_eq!(
            shown(Timestamp::from_millis(1_700_000_000_042).into()),
            "1700000000.042"
        );
    }
}
