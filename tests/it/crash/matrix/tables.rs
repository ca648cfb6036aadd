//! The tables in the docs, the points in the code and the rows in here are about the same points.

use std::collections::BTreeSet;
use std::path::Path;

use agent_compute::crash::Point;

use super::exercised;

/// Where the points of which beginning are explained.
const TABLES: [(&str, &[&str]); 2] = [
    (
        "src/purchase/mod.rs",
        &["identity.", "ledger.", "customer.", "recovery."],
    ),
    ("src/provider/job.rs", &["store.", "provider."]),
];

/// The points in the table of crash points, one row each.
fn explained(source: &str) -> Vec<String> {
    let docs = source.lines().map_while(|line| line.strip_prefix("//!"));
    let of_points = docs.skip_while(|line| line.trim() != "# Crash points");
    let rows = of_points.filter_map(|line| line.trim().strip_prefix('|'));
    let cells = rows.map(|row| row.trim_end_matches('|').split('|').map(str::trim));
    let mut points = Vec::new();
    for cells in cells {
        let cells: Vec<&str> = cells.collect();
        let Some(point) = cells[0].strip_prefix('`') else {
            continue;
        };
        assert_eq!(cells.len(), 4, "{cells:?}");
        assert!(cells.iter().all(|cell| !cell.is_empty()), "{cells:?}");
        points.push(point.trim_end_matches('`').to_owned());
    }
    points
}

fn words() -> BTreeSet<&'static str> {
    Point::ALL.iter().map(|point| point.as_str()).collect()
}

#[test]
fn every_point_is_explained_where_it_belongs_once_and_no_other_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert_eq!(words().len(), Point::ALL.len(), "two points of one name");
    let mut found = BTreeSet::new();
    for (file, beginnings) in TABLES {
        let source = std::fs::read_to_string(root.join(file)).unwrap();
        for point in explained(&source) {
            let belongs = beginnings.iter().any(|begins| point.starts_with(begins));
            assert!(belongs, "{file} explains {point}, which belongs elsewhere");
            assert!(
                words().contains(point.as_str()),
                "{file}: there is no point {point}"
            );
            assert!(found.insert(point.clone()), "{file} explains {point} twice");
        }
    }
    let missing: Vec<&str> = words()
        .into_iter()
        .filter(|word| !found.contains(*word))
        .collect();
    assert!(missing.is_empty(), "not explained: {missing:?}");
}

#[test]
fn every_point_is_killed_at_by_some_row() {
    let missing: Vec<&str> = words().difference(&exercised()).copied().collect();
    assert!(missing.is_empty(), "no row kills at {missing:?}");
}

#[test]
fn the_reader_of_the_tables_sees_rows_and_nothing_else() {
    let source = "//! A doc.\n//!\n//! | a | b |\n//! | `not.this` | a | b | c |\n//! # Crash points\n//!\n\
        //! | point | effect | before | after |\n//! |---|---|---|---|\n\
        //! | `a.b` | x | y | z |\n//! | `c.d-e` | x | y | z |\n\nuse x; // | `no.t` | a | b | c |\n";
    assert_eq!(explained(source), ["a.b", "c.d-e"]);
}
