//! What came out: a table for people, JSON for later.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

/// What a figure is to reach.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// The figure is a time: at most so many times its floor.
    AtMost(f64),
    /// The figure is a rate: at least this part of what the floor does.
    AtLeast(f64),
    /// At most this, in the figure's own unit.
    Within(f64),
    /// For comparison.
    None,
}

#[derive(Clone, Debug)]
pub struct Row {
    pub what: String,
    /// Unit of figure and floor.
    pub unit: &'static str,
    /// `None`: could not be measured, and `note` says why.
    pub figure: Option<f64>,
    pub floor: Option<f64>,
    pub goal: Goal,
    pub note: String,
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        Some(self.figure? / self.floor?)
    }

    fn is_met(&self) -> Option<bool> {
        match self.goal {
            Goal::AtMost(most) => self.ratio().map(|ratio| ratio <= most),
            Goal::AtLeast(least) => self.ratio().map(|ratio| ratio >= least),
            Goal::Within(most) => self.figure.map(|figure| figure <= most),
            Goal::None => None,
        }
    }
}

/// How something grows: load, time in ms, memory in MB.
#[derive(Clone, Debug, Default)]
pub struct Curve {
    pub title: &'static str,
    pub load: &'static str,
    pub points: Vec<(f64, f64, f64)>,
}

#[derive(Debug)]
pub struct Report {
    quick: bool,
    pub took: Duration,
    pub rows: Vec<Row>,
    pub curves: Vec<Curve>,
}

impl Report {
    pub fn new(quick: bool) -> Self {
        Self {
            quick,
            took: Duration::ZERO,
            rows: Vec::new(),
            curves: Vec::new(),
        }
    }

    /// A figure beside its floor.
    pub fn row(
        &mut self,
        what: impl Into<String>,
        unit: &'static str,
        (figure, floor): (f64, f64),
        goal: Goal,
        note: impl Into<String>,
    ) {
        self.rows.push(Row {
            what: what.into(),
            unit,
            figure: Some(figure),
            floor: Some(floor),
            goal,
            note: note.into(),
        });
    }

    /// A figure that has no floor.
    pub fn figure(
        &mut self,
        what: impl Into<String>,
        unit: &'static str,
        figure: Option<f64>,
        goal: Goal,
        note: impl Into<String>,
    ) {
        let mut note = note.into();
        if figure.is_none() {
            note = format!("SKIPPED: it is read from /proc, which is not here. {note}");
        }
        self.rows.push(Row {
            what: what.into(),
            unit,
            figure,
            floor: None,
            goal,
            note,
        });
    }

    pub fn json(&self) -> String {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "what": row.what, "unit": row.unit, "figure": row.figure, "floor": row.floor,
                    "ratio": row.ratio(), "goal": goal(row), "met": row.is_met(), "note": row.note,
                })
            })
            .collect();
        let curves: Vec<Value> = self.curves.iter().map(|curve| {
            let points = curve.points.iter();
            let points = points.map(|(load, ms, mb)| json!({"load": load, "ms": ms, "mb": mb}));
            json!({"title": curve.title, "load": curve.load, "points": points.collect::<Vec<_>>()})
        }).collect();
        let whole = json!({
            "date": date(), "version": env!("CARGO_PKG_VERSION"), "machine": machine(),
            "quick": self.quick, "seconds": self.took.as_secs(), "rows": rows, "curves": curves,
        });
        format!("{whole:#}\n")
    }
}

fn date() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d").to_string()
}

/// What it ran on, as far as the system says.
fn machine() -> Value {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let after = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':'))
            .map(|(_, value)| value.trim().to_owned())
    };
    json!({
        "cpu": after(&read("/proc/cpuinfo"), "model name"),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "memory": after(&read("/proc/meminfo"), "MemTotal"),
        "system": format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
    })
}

fn number(value: f64) -> String {
    match value.abs() {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn goal(row: &Row) -> String {
    match row.goal {
        Goal::AtMost(most) => format!("<= {most}x"),
        Goal::AtLeast(least) => format!(">= {least}x"),
        Goal::Within(most) => format!("<= {} {}", number(most), row.unit),
        Goal::None => String::new(),
    }
}

impl fmt::Display for Report {
    /// As Markdown, so that it can be put into a README as it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.quick { ", quick" } else { "" };
        let machine = machine();
        let cpu = machine["cpu"].as_str().unwrap_or("unknown CPU").to_owned();
        writeln!(
            f,
            "{} on {cpu}, {} cores, in {} s{how}\n",
            date(),
            machine["cores"],
            self.took.as_secs()
        )?;
        writeln!(
            f,
            "| | figure | floor | ratio | goal | |\n|---|---:|---:|---:|---|---|"
        )?;
        for row in &self.rows {
            let with_unit = |value: Option<f64>| {
                value.map_or(String::new(), |value| {
                    format!("{} {}", number(value), row.unit)
                })
            };
            let ratio = row
                .ratio()
                .map_or(String::new(), |ratio| format!("{ratio:.2}x"));
            let goal = match row.is_met() {
                Some(true) => goal(row),
                Some(false) => format!("{}: missed", goal(row)),
                None => goal(row),
            };
            let (figure, floor) = (with_unit(row.figure), with_unit(row.floor));
            writeln!(
                f,
                "| {} | {figure} | {floor} | {ratio} | {goal} | {} |",
                row.what, row.note
            )?;
        }
        Ok(())
    }
}
