//! The hostile market of `examples/market_sim`: some hundred seeds of it, and that it can find fault.
//!
//! `MARKET_SEEDS` says how many seeds (for each depth), `MARKET_FROM` which is the first.

mod inner;

use agent_compute::Code;
use agent_compute::units::Msat;

#[path = "../../examples/market_sim/main.rs"]
#[allow(clippy::duplicate_mod, reason = "the example is a program of its own")]
mod sim;

use self::sim::Options;
use self::sim::report::{Depth, Outcome, Report};
use self::sim::stack::draw::Adversary;
use crate::env::number;

#[test]
fn nothing_is_lost_over_the_real_stack_that_verification_or_escrow_can_save() {
    let families = Adversary::all().len() as u64;
    let seeds = number("MARKET_SEEDS").unwrap_or(4 * families);
    let from = number("MARKET_FROM").unwrap_or(0);
    let report = sim::simulate(Depth::Stack, &Options::new(from..from + seeds));
    let table = report.table(None);
    assert!(report.held(), "{table}");
    if seeds >= families {
        assert_eq!(report.rows.len() as u64, families, "{table}");
    }
    // It is no market where nobody sells, and no hostile one where everybody does.
    let total = report.total();
    assert!(total.delivered * 4 > total.attempts, "{table}");
    assert!(total.delivered * 4 < total.attempts * 3, "{table}");
    assert!(!total.lost.is_zero(), "{table}");
}

#[test]
fn a_seed_draws_the_same_market_again_and_another_seed_another() {
    for seed in 0..200 {
        let drawn = |seed| format!("{:?}", sim::stack::scenario(seed, None).unwrap());
        assert_eq!(drawn(seed), drawn(seed));
        assert_ne!(drawn(seed), drawn(seed + Adversary::all().len() as u64));
    }
    assert!(sim::stack::scenario(1, Some("nobody")).is_none());
}

fn outcome(lost: u64, at_risk: u64) -> Outcome {
    Outcome {
        adversary: "ghost",
        seed: 7,
        ended: Err(Code::Undelivered),
        lost: Msat::new(lost),
        at_risk: Msat::new(at_risk),
        broken: Vec::new(),
    }
}

#[test]
fn a_loss_that_nothing_excuses_is_reported_with_what_repeats_it() {
    let mut report = Report::default();
    report.add(Depth::Stack, &outcome(10, 10));
    assert!(report.held());
    report.add(Depth::Stack, &outcome(11, 10));
    assert!(!report.held());
    let table = report.table(Some("ghost"));
    assert!(table.contains("BROKEN (ghost)"), "{table}");
    assert!(
        table.contains("--depth stack --seed 7 --only 'ghost'"),
        "{table}"
    );
    let last = table.lines().last().unwrap();
    assert!(last.contains("1 BROKEN INVARIANTS"), "{last}");
    assert!(last.contains("21 msat lost of 20 at risk"), "{last}");
    let sum = report.lines(None).pop().unwrap();
    assert_eq!((&sum["event"], &sum["broken"]), (&"sum".into(), &1.into()));
}
