//! The inner depth, over the pure step functions: every adversary on every seed.

use std::collections::{BTreeMap, BTreeSet};

use agent_compute::Code;

use super::sim::pure;
use super::sim::pure::case::{ADVERSARIES, Case, Setting, named};
use super::sim::report::Outcome;
use crate::env::number;

/// Seeds at each run: some two thousand attempts.
const SEEDS: u64 = 12;

fn case(word: &str, setting: Setting, seed: u64) -> Case {
    Case {
        adversary: named(word).unwrap(),
        setting,
        seed,
        most: pure::MOST,
    }
}

fn cases(seeds: std::ops::Range<u64>) -> impl Iterator<Item = Case> {
    seeds.flat_map(|seed| {
        ADVERSARIES.iter().flat_map(move |adversary| {
            Setting::ALL.map(|setting| case(adversary.word, setting, seed))
        })
    })
}

/// Plays a case; what breaks is told with the seed and all that led to it.
fn play(case: Case) -> Vec<Outcome> {
    let outcomes = pure::attempt(case).outcomes;
    let broken: Vec<_> = outcomes.iter().flat_map(|it| &it.broken).collect();
    assert!(broken.is_empty(), "{broken:?}\n{}", pure::explain(case));
    outcomes
}

#[test]
fn no_adversary_breaks_an_invariant_and_each_meets_the_end_it_deserves() {
    let first = number("MARKET_FROM").unwrap_or(0);
    let seeds = first..first + number("MARKET_SEEDS").unwrap_or(SEEDS);
    let mut ends: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let (mut lost, mut attempts) = (BTreeSet::new(), 0);
    for case in cases(seeds) {
        attempts += 1;
        for outcome in play(case) {
            let word = outcome.ended.map_or_else(Code::as_str, |()| "delivered");
            ends.entry(outcome.adversary).or_default().insert(word);
            assert!(outcome.lost <= outcome.at_risk, "{outcome:?}");
            if !outcome.lost.is_zero() {
                lost.insert(outcome.adversary);
            }
        }
    }
    println!("{attempts} attempts: {ends:#?}");
    let ended = |adversary: &str, as_: &str| ends[adversary].contains(as_);
    for never_paid in [
        "bait_and_switch",
        "two_prices",
        "wrong_network",
        "expired_invoice",
        "amountless_invoice",
        "other_hash",
        "future_invoice",
        "long_hold",
        "long_life",
        "no_invoice",
    ] {
        let (refused, delivered) = (
            ended(never_paid, "bad_invoice"),
            ended(never_paid, "delivered"),
        );
        assert!(refused && !delivered, "{never_paid}");
    }
    for adversary in ADVERSARIES {
        assert!(!ended(adversary.word, "internal"), "{}", adversary.word);
        if !adversary.risk {
            assert!(!lost.contains(adversary.word), "{}", adversary.word);
        }
        if adversary.rogue.is_none() {
            assert!(ended(adversary.word, "delivered"), "{}", adversary.word);
        }
    }
    for at_risk in ["ghost_after_payment", "empty_result", "truncated_stream"] {
        let ends = &ends[at_risk];
        assert!(
            lost.contains(at_risk) && !ends.contains("delivered"),
            "{at_risk}: {ends:?}"
        );
    }
}

#[test]
fn a_seed_repeats_itself() {
    for setting in Setting::ALL {
        let twice = [0, 1].map(|_| format!("{:?}", play(case("storm", setting, 7))));
        assert_eq!(twice[0], twice[1]);
    }
}

#[test]
fn no_listing_talks_a_buyer_into_what_it_does_not_want() {
    let mut ends = BTreeSet::new();
    for seed in 0..2_000 {
        let outcome = pure::choose_among_liars(seed);
        assert!(outcome.broken.is_empty(), "seed {seed}: {outcome:?}");
        ends.insert(outcome.ended.map_or_else(Code::as_str, |()| "taken"));
    }
    assert_eq!(ends, BTreeSet::from(["taken", "no_provider", "budget"]));
}

#[test]
fn one_run_holds_every_adversary_in_every_setting() {
    let all = pure::run(1);
    let buyers_a_seed = 4;
    assert_eq!(all.len(), ADVERSARIES.len() * buyers_a_seed + 1);
}
