//! A hostile market, simulated: buyers, sellers, relays and wallets that lie, stall, break and die. Each
//! choice is drawn from a seed, and after each attempt the books are compared to the millisatoshi.
//!
//! ```text
//! cargo run --release --example market_sim -- --seeds 1000
//! ```
//!
//! Per adversary it says how many attempts there were, how many ended with a result, how the others were
//! refused, and what the buyer lost: nothing wherever verification or escrow can prevent it, at most the one
//! job's price where paying first is at risk by its nature. The last line sums it up. Exit code 0: every
//! invariant held; 1: one did not, and the command that repeats it is printed; 2: the flags are off.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used)]
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::expect_used,
    clippy::missing_errors_doc
)]

pub mod pure;
pub mod report;
pub mod stack;

use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use clap::Parser;
use futures_util::stream::{self, StreamExt as _};
use report::{Depth, Outcome, Report};

/// Buys against everything that lies, stalls, breaks and dies, and says what it lost.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// How many seeds to run, at each depth.
    #[arg(long, default_value_t = 200, value_name = "N")]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    from: u64,
    /// This seed alone.
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Against this adversary alone.
    #[arg(long, value_name = "ADVERSARY")]
    only: Option<String>,
    /// The step functions alone, everything over real sockets and files, or both.
    #[arg(long, value_enum, default_value_t = Depths::Both)]
    depth: Depths,
    /// How many markets stand at the same time at the outer depth.
    #[arg(long, default_value_t = 24, value_name = "N")]
    at_once: usize,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    /// Say on stderr how each attempt ended.
    #[arg(long)]
    verbose: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Depths {
    Pure,
    Stack,
    Both,
}

/// What to simulate.
#[derive(Clone, Debug)]
pub struct Options {
    /// The seeds, each of which is a market of its own.
    pub seeds: Range<u64>,
    /// Against this adversary alone.
    pub only: Option<String>,
    /// How many markets stand at the same time at the outer depth.
    pub at_once: usize,
    /// Say on stderr how each attempt ended.
    pub verbose: bool,
}

impl Options {
    /// These seeds, against everybody.
    pub fn new(seeds: Range<u64>) -> Self {
        Self {
            seeds,
            only: None,
            at_once: 24,
            verbose: false,
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let last = args.from.saturating_add(args.seeds);
    let options = Options {
        seeds: args
            .seed
            .map_or(args.from..last, |seed| seed..seed.saturating_add(1)),
        only: args.only,
        at_once: args.at_once.max(1),
        verbose: args.verbose,
    };
    let mut report = Report::default();
    if args.depth != Depths::Stack {
        report.merge(simulate(Depth::Pure, &options));
    }
    if args.depth != Depths::Pure {
        report.merge(simulate(Depth::Stack, &options));
    }
    let only = options.only.as_deref();
    if report.rows.is_empty() {
        eprintln!("no such adversary, or no seed: nothing was simulated");
        return ExitCode::from(2);
    }
    if args.json {
        for line in report.lines(only) {
            println!("{line}");
        }
    } else {
        println!("{}", report.table(only));
    }
    ExitCode::from(u8::from(!report.held()))
}

/// Runs every seed at one depth.
pub fn simulate(depth: Depth, options: &Options) -> Report {
    match depth {
        Depth::Pure => each_in_threads(options, pure::run),
        Depth::Stack => all_at_once(options),
    }
}

/// Runs `one` for every seed, on all cores.
fn each_in_threads(options: &Options, one: impl Fn(u64) -> Vec<Outcome> + Sync) -> Report {
    let report = Mutex::new(Report::default());
    let next = AtomicU64::new(options.seeds.start);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                let mut ours = Report::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= options.seeds.end {
                        break;
                    }
                    take(&mut ours, Depth::Pure, options, &one(seed));
                }
                let mut all = report.lock().unwrap_or_else(PoisonError::into_inner);
                all.merge(ours);
            });
        }
    });
    report.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Holds the markets of all seeds, so many at a time.
fn all_at_once(options: &Options) -> Report {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let markets = options
            .seeds
            .clone()
            .filter_map(|seed| stack::scenario(seed, options.only.as_deref()))
            .map(stack::run);
        let mut markets = stream::iter(markets).buffer_unordered(options.at_once);
        let mut report = Report::default();
        while let Some(outcomes) = markets.next().await {
            take(&mut report, Depth::Stack, options, &outcomes);
        }
        report.broken.sort_by_key(|one| one.seed);
        report
    })
}

fn take(report: &mut Report, depth: Depth, options: &Options, outcomes: &[Outcome]) {
    for outcome in outcomes {
        let wanted = options.only.as_deref();
        if wanted.is_some_and(|wanted| wanted != outcome.adversary) {
            continue;
        }
        if options.verbose {
            eprintln!("{} {outcome:?}", depth.as_str());
            if depth == Depth::Pure && !outcome.broken.is_empty() {
                eprintln!("{}", pure::explain_seed(outcome.seed, outcome.adversary));
            }
        }
        report.add(depth, outcome);
    }
}
