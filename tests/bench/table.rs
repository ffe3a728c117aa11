//! What was measured, as one table for people and one file for machines.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::Result;

/// One figure of one runner: its samples.
pub struct Cell {
    title: String,
    unit: &'static str,
    goal: Option<&'static str>,
    samples: Vec<f64>,
    remarks: Vec<String>,
}

impl Cell {
    /// No samples yet. `goal` is in the same unit; two goals are for the median and the 99th
    /// percentile.
    pub fn new(title: impl Into<String>, unit: &'static str, goal: Option<&'static str>) -> Self {
        Self {
            title: title.into(),
            unit,
            goal,
            samples: Vec::new(),
            remarks: Vec::new(),
        }
    }

    /// One more sample.
    pub fn add(&mut self, sample: f64) {
        self.samples.push(sample);
    }

    /// Something that the reader has to know about it.
    pub fn remark(&mut self, text: String) {
        self.remarks.push(text);
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// Median and range; the 99th percentile where there are samples enough for one.
    fn text(&self) -> String {
        let sorted = self.sorted();
        let (Some(least), Some(most)) = (sorted.first(), sorted.last()) else {
            return "-".into();
        };
        let median = number(quantile(&sorted, 0.5));
        if sorted.len() >= 100 {
            let p99 = number(quantile(&sorted, 0.99));
            format!("{median} / {p99} ({}..{})", number(*least), number(*most))
        } else if number(*least) == number(*most) {
            median
        } else {
            format!("{median} ({}..{})", number(*least), number(*most))
        }
    }

    fn json(&self, row: &str, runner: &str) -> Value {
        let sorted = self.sorted();
        json!({
            "row": row,
            "runner": runner,
            "title": self.title.trim(),
            "unit": self.unit,
            "goal": self.goal,
            "median": (!sorted.is_empty()).then(|| quantile(&sorted, 0.5)),
            "p99": (sorted.len() >= 100).then(|| quantile(&sorted, 0.99)),
            "min": sorted.first(),
            "max": sorted.last(),
            "samples": self.samples,
            "remarks": self.remarks,
        })
    }
}

/// The value below which the part `q` of the samples lies (nearest rank).
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let rank = (sorted.len() as f64 * q).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// Three digits that mean something.
fn number(value: f64) -> String {
    match value.abs() {
        v if v == 0.0 || v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// All figures.
pub struct Table {
    runners: Vec<String>,
    /// Row, runner, figure.
    cells: Vec<(String, String, Cell)>,
}

impl Table {
    /// With one column per runner.
    pub fn new(runners: impl Iterator<Item = String>) -> Self {
        Self {
            runners: runners.collect(),
            cells: Vec::new(),
        }
    }

    /// What one runner gave for one row.
    pub fn add(&mut self, row: &str, runner: &str, cells: Vec<Cell>) {
        let named = cells
            .into_iter()
            .map(|cell| (row.to_owned(), runner.to_owned(), cell));
        self.cells.extend(named);
    }

    /// That one runner gave nothing.
    pub fn failed(&mut self, row: &str, runner: &str, why: String) {
        let mut cell = Cell::new(format!("{row}: not measured"), "", None);
        cell.remark(why);
        self.add(row, runner, vec![cell]);
    }

    /// As a table in Markdown, readable as it stands.
    pub fn text(&self) -> String {
        let mut head = vec!["median / p99 (least..most)".to_owned(), "goal".to_owned()];
        head.extend(self.runners.iter().cloned());
        let mut lines = vec![head];
        let mut titles: Vec<&str> = Vec::new();
        for (_, _, cell) in &self.cells {
            if !titles.contains(&cell.title.as_str()) {
                titles.push(&cell.title);
            }
        }
        let mut notes = Vec::new();
        for title in titles {
            let of = |runner: &String| {
                let mut matching = self.cells.iter();
                matching.find(|(_, who, cell)| who == runner && cell.title == title)
            };
            let found: Vec<_> = self.runners.iter().map(of).collect();
            let Some((_, _, first)) = found.iter().flatten().next() else {
                continue;
            };
            let unit = match first.unit {
                "" => String::new(),
                unit => format!(", {unit}"),
            };
            let mut line = vec![format!("{title}{unit}"), first.goal.unwrap_or("").into()];
            for cell in found {
                let Some((_, runner, cell)) = cell else {
                    line.push(String::new());
                    continue;
                };
                line.push(cell.text());
                let remark = |text: &String| format!("{} ({runner}): {text}", title.trim());
                notes.extend(cell.remarks.iter().map(remark));
            }
            lines.push(line);
        }
        let mut text = format!("{}\n\n", machine());
        let columns = lines.iter().map(Vec::len).max().unwrap_or_default();
        let widths: Vec<usize> = (0..columns)
            .map(|at| lines.iter().map(|line| line[at].chars().count()).max())
            .map(Option::unwrap_or_default)
            .collect();
        for (at, line) in lines.iter().enumerate() {
            let cells = line.iter().zip(&widths);
            let cells = cells.map(|(cell, width)| format!(" {cell:width$} |"));
            writeln!(text, "|{}", cells.collect::<String>()).expect("a string takes all");
            if at == 0 {
                let rule = widths.iter().map(|width| "-".repeat(width + 2) + "|");
                writeln!(text, "|{}", rule.collect::<String>()).expect("a string takes all");
            }
        }
        for note in notes {
            writeln!(text, "\n- {note}").expect("a string takes all");
        }
        text
    }

    /// Every sample, as JSON.
    pub fn json(&self) -> Result<String> {
        let figures = self.cells.iter();
        let figures = figures.map(|(row, runner, cell)| cell.json(row, runner));
        let document = json!({
            "machine": machine(),
            "figures": figures.collect::<Vec<_>>(),
        });
        Ok(serde_json::to_string_pretty(&document)?)
    }
}

/// What it was measured on.
fn machine() -> String {
    let read = |file| std::fs::read_to_string(file).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |rest| {
            rest.trim_start_matches([' ', '\t', ':'])
        });
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{cores} cores of {model}, Linux {}", kernel.trim())
}
