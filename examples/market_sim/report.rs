//! What the simulator found out, and how it says so.

use std::collections::BTreeMap;

use agent_compute::Code;
use agent_compute::units::Msat;

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

/// All attempts against one adversary.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub attempts: u64,
    pub delivered: u64,
    pub refused: BTreeMap<&'static str, u64>,
    pub lost: Msat,
}
