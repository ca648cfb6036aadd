//! What a purchase costs in time and memory, each figure beside its floor: the least that the same relay, the same
//! disk and the same process could do, measured in the same run, in turns with the figure.
//!
//! ```text
//! cargo bench --bench market                # a few minutes; a table, target/bench/market.json, and plots
//! cargo bench --bench market -- --quick     # within a minute
//! ```
//!
//! A figure is a ratio: machines differ, and are shared. Nothing here asserts a time. The programs that are
//! measured are the ones that `cargo bench` builds, with the optimisation of a release and, like all that tests
//! build, with crash points, which cost a look at a variable each.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub
)]

mod cast;
mod floor;
mod measure;
mod plot;
mod report;
mod rows;
mod worker;

use std::path::PathBuf;
use std::time::Instant;

use report::Report;

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Plan {
    pub quick: bool,
    json: PathBuf,
    svg: PathBuf,
    /// Only the rows whose name contains this.
    only: Option<String>,
}

impl Plan {
    fn of(args: &[String]) -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench");
        let mut plan = Self {
            quick: false,
            json: folder.join("market.json"),
            svg: folder.join("market.svg"),
            only: None,
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
            match arg.as_str() {
                "--quick" => plan.quick = true,
                "--json" => plan.json = value().into(),
                "--svg" => plan.svg = value().into(),
                "--only" => plan.only = Some(value().clone()),
                // What cargo adds.
                "--bench" => {}
                other => {
                    panic!("no such option: {other}; there are --quick, --json, --svg and --only")
                }
            }
        }
        plan
    }

    /// How often to try what is tried this often by default.
    pub fn times(&self, whole: usize, quick: usize) -> usize {
        if self.quick { quick } else { whole }
    }

    fn wants(&self, row: &str) -> bool {
        self.only
            .as_ref()
            .is_none_or(|only| row.contains(only.as_str()))
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(done) = worker::asked(&args) {
        return done;
    }
    let plan = Plan::of(&args);
    let begun = Instant::now();
    let mut report = Report::new(plan.quick);
    for (name, row) in rows::ALL {
        if plan.wants(name) {
            eprintln!("{name} …");
            row(&plan, &mut report);
        }
    }
    report.took = begun.elapsed();
    println!("{report}");
    if plan.only.is_some() {
        // Part of a table is not what the files are for.
        return;
    }
    for file in [&plan.json, &plan.svg] {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    }
    std::fs::write(&plan.json, report.json()).unwrap();
    std::fs::write(&plan.svg, plot::draw(&report)).unwrap();
    println!(
        "written: {} and {}",
        plan.json.display(),
        plan.svg.display()
    );
}
