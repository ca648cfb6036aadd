//! How time and memory grow with load: a panel for each curve, both axes logarithmic.

use std::fmt::Write as _;

use super::report::{Curve, Report};

const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 44.0;
const RIGHT: f64 = 44.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 40.0;

/// Read on light and on dark.
const STYLE: &str = "text{font:11px sans-serif;fill:#57606a}.title{font-weight:bold}\
    .grid{stroke:#8886;stroke-width:.5}.time{stroke:#0969da;fill:none;stroke-width:2}\
    .memory{stroke:#cf622e;fill:none;stroke-width:2;stroke-dasharray:5 3}\
    .t{fill:#0969da}.m{fill:#cf622e}\
    @media(prefers-color-scheme:dark){text{fill:#9da7b1}.time{stroke:#58a6ff}.t{fill:#58a6ff}\
    .memory{stroke:#f0883e}.m{fill:#f0883e}}";

/// The picture, as SVG.
pub fn draw(report: &Report) -> String {
    let width = WIDTH * report.curves.len().max(1) as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {HEIGHT}\" width=\"{width}\" \
         height=\"{HEIGHT}\" role=\"img\">\n<title>Time and memory under load</title>\n<style>{STYLE}</style>\n"
    );
    for (nth, curve) in report.curves.iter().enumerate() {
        let _ = writeln!(svg, "<g transform=\"translate({} 0)\">", nth as f64 * WIDTH);
        panel(&mut svg, curve);
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

/// An axis from one power of ten to another.
struct Axis {
    from: i32,
    to: i32,
    start: f64,
    end: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64> + Clone, start: f64, end: f64) -> Self {
        let least = values.clone().fold(f64::INFINITY, f64::min).max(1e-3);
        let most = values.fold(0.0, f64::max).max(least);
        let from = least.log10().floor() as i32;
        let to = (most.log10().ceil() as i32).max(from + 1);
        Self {
            from,
            to,
            start,
            end,
        }
    }

    fn at(&self, value: f64) -> f64 {
        let share =
            (value.max(1e-3).log10() - f64::from(self.from)) / f64::from(self.to - self.from);
        self.start + share * (self.end - self.start)
    }

    fn ticks(&self) -> impl Iterator<Item = (f64, String)> + '_ {
        (self.from..=self.to).map(|power| {
            let value = 10f64.powi(power);
            (self.at(value), format!("{value}"))
        })
    }
}

fn panel(svg: &mut String, curve: &Curve) {
    let points = &curve.points;
    if points.is_empty() {
        return;
    }
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let load = Axis::over(points.iter().map(|it| it.0), LEFT, right);
    let time = Axis::over(points.iter().map(|it| it.1), bottom, TOP);
    let memory = Axis::over(points.iter().map(|it| it.2), bottom, TOP);
    let _ = writeln!(
        svg,
        "<text class=\"title\" x=\"{LEFT}\" y=\"16\">{}</text>",
        curve.title
    );
    for (x, label) in load.ticks() {
        let _ = writeln!(
            svg,
            "<path class=\"grid\" d=\"M{x:.1} {TOP}V{bottom}\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
            bottom + 14.0
        );
    }
    for (y, label) in time.ticks() {
        let _ = writeln!(
            svg,
            "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right}\"/>\
             <text class=\"t\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            LEFT - 4.0,
            y + 4.0
        );
    }
    for (y, label) in memory.ticks() {
        let (x, y) = (right + 4.0, y + 4.0);
        let _ = writeln!(
            svg,
            "<text class=\"m\" x=\"{x:.1}\" y=\"{y:.1}\">{label}</text>"
        );
    }
    let line = |axis: &Axis, of: fn(&(f64, f64, f64)) -> f64| {
        let dots = points
            .iter()
            .map(|it| format!("{:.1} {:.1}", load.at(it.0), axis.at(of(it))));
        dots.collect::<Vec<_>>().join("L")
    };
    let _ = writeln!(
        svg,
        "<path class=\"time\" d=\"M{}\"/>",
        line(&time, |it| it.1)
    );
    if points.iter().all(|it| it.2 > 0.0) {
        let _ = writeln!(
            svg,
            "<path class=\"memory\" d=\"M{}\"/>",
            line(&memory, |it| it.2)
        );
    }
    let _ = writeln!(
        svg,
        "<text class=\"t\" x=\"{LEFT}\" y=\"{y:.1}\">— ms</text>\
         <text x=\"{:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{}</text>\
         <text class=\"m\" x=\"{right}\" y=\"{y:.1}\" text-anchor=\"end\">- - MB</text>",
        WIDTH / 2.0,
        curve.load,
        y = HEIGHT - 8.0
    );
}
