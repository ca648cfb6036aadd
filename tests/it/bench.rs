//! The arithmetic of `tests/bench`, which measures and asserts nothing: here it is held to what it says.
#![allow(dead_code, reason = "the bench uses the rest")]

#[path = "../bench/measure.rs"]
mod measure;
#[path = "../bench/plot.rs"]
mod plot;
#[path = "../bench/report.rs"]
mod report;

use std::time::Duration;

use rusqlite::Connection;

use measure::{Samples, commits};
use report::{Curve, Goal, Report};

fn samples(ms: impl IntoIterator<Item = u64>) -> Samples {
    let mut samples = Samples::default();
    ms.into_iter()
        .for_each(|ms| samples.take(Duration::from_millis(ms)));
    samples
}

#[test]
fn quantiles_are_by_nearest_rank() {
    let hundred = samples((1..=100).rev());
    assert_eq!(hundred.p50(), Duration::from_millis(50));
    assert_eq!(hundred.p99(), Duration::from_millis(99));
    assert_eq!(hundred.quantile(1.0), Duration::from_millis(100));
    let one = samples([7]);
    assert_eq!(
        (one.p50(), one.p99()),
        (Duration::from_millis(7), one.quantile(0.0))
    );
}

/// Whether the last of these rows is met, as its JSON says.
fn met(figure: f64, floor: f64, goal: Goal) -> Option<bool> {
    let mut report = Report::new(true);
    report.row("x", "ms", (figure, floor), goal, "");
    let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    json["rows"][0]["met"].as_bool()
}

#[test]
fn a_goal_is_met_on_its_side() {
    assert_eq!(met(13.0, 10.0, Goal::AtMost(1.3)), Some(true));
    assert_eq!(met(14.0, 10.0, Goal::AtMost(1.3)), Some(false));
    assert_eq!(met(6.0, 10.0, Goal::AtLeast(0.6)), Some(true));
    assert_eq!(met(5.0, 10.0, Goal::AtLeast(0.6)), Some(false));
    assert_eq!(met(5.0, 10.0, Goal::Within(5.0)), Some(true));
    assert_eq!(met(5.1, 10.0, Goal::Within(5.0)), Some(false));
    assert_eq!(met(5.0, 10.0, Goal::None), None);
    let mut report = Report::new(true);
    report.row("x", "ms", (14.0, 10.0), Goal::AtMost(1.3), "");
    report.figure("y", "MB", None, Goal::Within(1.0), "");
    let table = report.to_string();
    assert!(table.contains("| 1.40x | <= 1.3x: missed |"), "{table}");
    assert!(table.contains("SKIPPED"), "{table}");
}

#[test]
fn commits_are_counted_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.sqlite");
    let db = Connection::open(&file).unwrap();
    db.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x TEXT);")
        .unwrap();
    let before = commits(&file);
    for pages in [1, 1, 40] {
        db.execute("INSERT INTO t VALUES (?1)", ["x".repeat(pages * 4_096)])
            .unwrap();
    }
    assert_eq!(commits(&file) - before, 3);
    // Begun anew, the log holds old frames behind the new ones.
    db.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))
        .unwrap();
    db.execute("INSERT INTO t VALUES ('y')", []).unwrap();
    assert_eq!(commits(&file), 1);
    assert_eq!(commits(&dir.path().join("none")), 0);
}

#[test]
fn the_picture_has_a_panel_for_each_curve_and_every_point_in_it() {
    let mut report = Report::new(true);
    for title in ["one", "two"] {
        report.curves.push(Curve {
            title,
            load: "at once",
            points: vec![(1.0, 5.0, 20.0), (64.0, 900.0, 0.5), (256.0, 4_000.0, 31.0)],
        });
    }
    let svg = plot::draw(&report);
    assert_eq!(svg.matches("<g ").count(), 2);
    assert_eq!(svg.matches("</g>").count(), 2);
    let lines = svg.lines().filter(|line| line.contains("class=\"time\""));
    for line in lines {
        assert_eq!(line.matches('L').count(), 2, "{line}");
        let numbers = line
            .split(['M', 'L', ' ', '"'])
            .filter_map(|it| it.parse::<f64>().ok());
        assert!(
            numbers.into_iter().all(|it| (0.0..=640.0).contains(&it)),
            "{line}"
        );
    }
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
}
