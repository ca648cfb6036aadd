//! What the simulator found out, and how it says so.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use agent_compute::Code;
use agent_compute::units::Msat;
use serde_json::{Value, json};

/// How much of the product a simulation runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Depth {
    /// The step functions alone.
    Pure,
    /// Client, ledger, wallet, signatures and WebSockets.
    Stack,
}

impl Depth {
    /// The word for it on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pure => "pure",
            Self::Stack => "stack",
        }
    }
}

/// One attempt to buy against one adversary.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Who or what was in the way: a stable word.
    pub adversary: &'static str,
    /// What repeats it.
    pub seed: u64,
    /// How it ended: the result, or the code of the error.
    pub ended: Result<(), Code>,
    /// What the buyer is poorer by, and has nothing to show for.
    pub lost: Msat,
    /// The most that it may lose to this adversary: nothing, or the one job's price where paying first is
    /// at risk by its nature.
    pub at_risk: Msat,
    /// Invariants that did not hold, in words.
    pub broken: Vec<String>,
}

impl Outcome {
    /// What did not hold, a loss that nothing excuses included.
    fn faults(&self) -> Vec<String> {
        let mut faults = self.broken.clone();
        if self.lost > self.at_risk {
            let (lost, most) = (self.lost, self.at_risk);
            faults.push(format!("{lost} were lost, and {most} is the most at risk"));
        }
        faults
    }
}

/// All attempts against one adversary.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Attempts to buy.
    pub attempts: u64,
    /// Those that ended with a result.
    pub delivered: u64,
    /// The others, by the code of their error.
    pub refused: BTreeMap<&'static str, u64>,
    /// What was paid, and nothing came of it.
    pub lost: Msat,
    /// What paying first put at risk.
    pub at_risk: Msat,
}

impl Tally {
    fn add(&mut self, outcome: &Outcome) {
        self.attempts += 1;
        match outcome.ended {
            Ok(()) => self.delivered += 1,
            Err(code) => *self.refused.entry(code.as_str()).or_default() += 1,
        }
        self.lost = self.lost.saturating_add(outcome.lost);
        self.at_risk = self.at_risk.saturating_add(outcome.at_risk);
    }

    fn merge(&mut self, other: Self) {
        self.attempts += other.attempts;
        self.delivered += other.delivered;
        for (code, count) in other.refused {
            *self.refused.entry(code).or_default() += count;
        }
        self.lost = self.lost.saturating_add(other.lost);
        self.at_risk = self.at_risk.saturating_add(other.at_risk);
    }

    fn refused_in_words(&self) -> String {
        let each = self.refused.iter();
        let each: Vec<String> = each
            .map(|(code, count)| format!("{code} {count}"))
            .collect();
        each.join(", ")
    }
}

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Where.
    pub depth: Depth,
    /// Against whom.
    pub adversary: &'static str,
    /// What repeats it.
    pub seed: u64,
    /// The invariant, in words.
    pub what: String,
}

impl Broken {
    /// The command that repeats it. `only` is what the run was restricted to, since that changes what a
    /// seed draws.
    pub fn repeat(&self, only: Option<&str>) -> String {
        let Self { depth, seed, .. } = self;
        let depth = depth.as_str();
        let only = only.map_or_else(String::new, |only| {
            format!(" --only '{}'", only.replace('\'', r"'\''"))
        });
        format!(
            "cargo run --release --example market_sim -- --depth {depth} --seed {seed}{only} --verbose"
        )
    }
}

/// What all attempts come to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// By depth and adversary.
    pub rows: BTreeMap<(Depth, &'static str), Tally>,
    /// What did not hold.
    pub broken: Vec<Broken>,
}

impl Report {
    /// Takes in one attempt.
    pub fn add(&mut self, depth: Depth, outcome: &Outcome) {
        let adversary = outcome.adversary;
        let row = self.rows.entry((depth, adversary)).or_default();
        row.add(outcome);
        let faults = outcome.faults().into_iter();
        self.broken.extend(faults.map(|what| Broken {
            depth,
            adversary,
            seed: outcome.seed,
            what,
        }));
    }

    /// Takes in what another run found.
    pub fn merge(&mut self, other: Self) {
        for (at, tally) in other.rows {
            self.rows.entry(at).or_default().merge(tally);
        }
        self.broken.extend(other.broken);
        self.broken.sort_by_key(|one| (one.depth, one.seed));
    }

    /// Whether every invariant held.
    pub fn held(&self) -> bool {
        self.broken.is_empty()
    }

    /// All rows in one.
    pub fn total(&self) -> Tally {
        let mut total = Tally::default();
        for row in self.rows.values() {
            total.merge(row.clone());
        }
        total
    }

    /// One JSON object a line, the last of them the sum.
    pub fn lines(&self, only: Option<&str>) -> Vec<Value> {
        let rows = self.rows.iter().map(|((depth, adversary), row)| {
            json!({
                "v": 1, "event": "adversary", "depth": depth.as_str(), "adversary": adversary,
                "attempts": row.attempts, "delivered": row.delivered, "refused": row.refused,
                "lost_msat": row.lost, "at_risk_msat": row.at_risk,
            })
        });
        let broken = self.broken.iter().map(|one| {
            json!({
                "v": 1, "event": "broken", "depth": one.depth.as_str(), "adversary": one.adversary,
                "seed": one.seed, "what": one.what, "repeat": one.repeat(only),
            })
        });
        let total = self.total();
        let sum = json!({
            "v": 1, "event": "sum", "attempts": total.attempts, "delivered": total.delivered,
            "refused": total.refused, "lost_msat": total.lost, "at_risk_msat": total.at_risk,
            "broken": self.broken.len(),
        });
        rows.chain(broken).chain([sum]).collect()
    }

    /// The table, then what did not hold, then the sum in one line.
    pub fn table(&self, only: Option<&str>) -> String {
        let mut text = String::new();
        let mut depth = None;
        for ((at, adversary), row) in &self.rows {
            if depth.replace(*at) != Some(*at) {
                let _ = writeln!(text, "{}", Head(*at));
            }
            let _ = writeln!(
                text,
                "  {adversary:<26} {:>9} {:>9} {:>10} {:>10}  {}",
                row.attempts,
                row.delivered,
                row.lost.get(),
                row.at_risk.get(),
                row.refused_in_words(),
            );
        }
        for one in &self.broken {
            let Broken {
                adversary, what, ..
            } = one;
            let _ = writeln!(text, "BROKEN ({adversary}): {what}");
            let _ = writeln!(text, "  repeat: {}", one.repeat(only));
        }
        let total = self.total();
        let refused: u64 = total.refused.values().sum();
        let verdict = match self.broken.len() {
            0 => "every invariant held".to_owned(),
            many => format!("{many} BROKEN INVARIANTS"),
        };
        let _ = write!(
            text,
            "{} attempts: {} delivered, {refused} refused or failed, {} msat lost of {} at risk; {verdict}",
            total.attempts,
            total.delivered,
            total.lost.get(),
            total.at_risk.get(),
        );
        text
    }
}

struct Head(Depth);

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<28} {:>9} {:>9} {:>10} {:>10}  refused, by code",
            self.0.as_str(),
            "attempts",
            "delivered",
            "msat lost",
            "at risk"
        )
    }
}
