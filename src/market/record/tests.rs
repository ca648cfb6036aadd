#![allow(clippy::float_cmp, reason = "exact where it is compared")]

use proptest::prelude::*;

use super::*;

const NOW: UnixSecs = UnixSecs::new(1_795_210_000);
const DAY: u64 = 86_400;
const PRICE: Msat = Msat::new(10_000);

fn past(outcome: Outcome, msat: u64, age: u64) -> Past {
    Past {
        at: NOW.minus(age),
        outcome,
        price: Msat::new(msat),
        listed: None,
        first_token_ms: None,
    }
}

fn delivered(msat: u64) -> Past {
    past(Outcome::Delivered, msat, 0)
}

const fn stolen() -> Past {
    Past {
        at: NOW,
        outcome: Outcome::Undelivered,
        price: PRICE,
        listed: None,
        first_token_ms: None,
    }
}

/// The latest first.
fn record(recent: Vec<Past>) -> Record {
    let mut counts = BTreeMap::new();
    for past in &recent {
        *counts.entry(past.outcome).or_default() += 1;
    }
    Record { counts, recent }
}

fn score_of(recent: Vec<Past>) -> u8 {
    score(&record(recent), PRICE, NOW)
}

fn cost_of(recent: Vec<Past>, price: u64) -> f64 {
    let (record, price) = (record(recent), Msat::new(price));
    cost(&record, price, likelihood(&record, price, NOW), NOW)
}

#[test]
fn a_stranger_stands_between_good_and_bad() {
    assert_eq!(score_of(vec![]), 50);
    assert_eq!(score_of(vec![delivered(10_000)]), 75);
    assert_eq!(score_of(vec![delivered(10_000); 2]), 83);
    assert_eq!(score_of(vec![stolen()]), 10);
    assert_eq!(score_of(vec![past(Outcome::BadInvoice, 0, 0)]), 25);
    assert_eq!(score_of(vec![past(Outcome::Refused, 0, 0)]), 40);
    assert_eq!(score_of(vec![past(Outcome::Unanswered, 0, 0)]), 40);
}

#[test]
fn cheap_deliveries_buy_no_trust_for_a_dear_job() {
    // A hundred jobs at a hundredth of the price are one.
    assert_eq!(score_of(vec![delivered(100); 100]), 75);
    assert!(!is_proven(&record(vec![delivered(100); 100]), PRICE, NOW));
    assert!(is_proven(
        &record(vec![delivered(100); 100]),
        Msat::new(100),
        NOW
    ));
    // A dear one is no more than one.
    assert_eq!(score_of(vec![delivered(1_000_000)]), 75);
    // Nor do they wash a theft away: what was paid nothing for says nothing.
    let mut washed = vec![delivered(0); 100];
    washed.push(stolen());
    assert_eq!(score_of(washed), 10);
}

#[test]
fn a_long_good_record_is_used_up_after_three_thefts() {
    let after = |thefts: usize| {
        let mut recent = vec![stolen(); thefts];
        recent.extend(vec![delivered(10_000); 100]);
        score_of(recent)
    };
    assert_eq!([after(0), after(1), after(2), after(3)], [98, 79, 60, 40]);
}

#[test]
fn one_that_fails_now_and_then_is_judged_by_its_rate_and_not_by_its_years() {
    // One in twenty, for as long as is remembered.
    let recent: Vec<Past> = (0..200)
        .map(|n| {
            if n % 20 == 10 {
                stolen()
            } else {
                delivered(10_000)
            }
        })
        .collect();
    assert_eq!(score_of(recent), 79);
}

#[test]
fn what_is_long_past_says_nothing() {
    for (outcome, fresh) in [(Outcome::Delivered, 75), (Outcome::Undelivered, 10)] {
        let aged = |age| score_of(vec![past(outcome, 10_000, age)]);
        assert_eq!(aged(0), fresh);
        assert_ne!(aged(HALF_LIFE_SECS), 50);
        assert_eq!(aged(12 * HALF_LIFE_SECS), 50);
    }
    // One theft keeps a provider last for two months.
    let theft = |days| score_of(vec![past(Outcome::Undelivered, 10_000, days * DAY)]);
    assert!(theft(58) < BAD && theft(60) >= BAD);
}

#[test]
fn a_good_record_is_worth_four_times_a_strangers_price_and_thirty_sats_at_most() {
    let best = vec![delivered(u64::MAX); 100];
    for price in [0_u64, 1, 10_000, 1_000_000, 100_000_000] {
        let stranger = cost_of(vec![], price);
        assert!(
            cost_of(best.clone(), 4 * price + 30_000) >= stranger,
            "{price}"
        );
        let somewhat_less = (4 * price + 30_000) * 9 / 10;
        assert!(cost_of(best.clone(), somewhat_less) < stranger, "{price}");
    }
    // A marginally better record is worth a marginal price.
    let (good, better) = (vec![delivered(10_000); 9], vec![delivered(10_000); 10]);
    assert!(cost_of(better, 10_300) > cost_of(good, 10_000));
}

#[test]
fn a_wait_is_paid_for_by_the_second() {
    let after = |ms| {
        vec![Past {
            first_token_ms: Some(ms),
            ..delivered(10_000)
        }]
    };
    assert_eq!(cost_of(after(2_000), 8_000), cost_of(after(0), 10_000));
    let mixed = record([after(1_000), after(3_000)].concat());
    assert_eq!(summary(&mixed, None, NOW).first_token_ms, Some(2_000));
}

#[test]
fn invoices_below_the_listing_count_as_far_as_they_were_seen() {
    let discounted = |paid, listed| Past {
        listed: Some(Msat::new(listed)),
        ..delivered(paid)
    };
    let half = record(vec![discounted(5_000, 10_000)]);
    assert_eq!(summary(&half, Some(PRICE), NOW).invoice_percent, Some(50));
    assert_eq!(invoice_share(&half, PRICE, NOW), Some(0.75));
    // Small discounts promise none on a dear job, and a damaged ledger no surcharge.
    let small = record(vec![discounted(1, 100); 50]);
    assert!(invoice_share(&small, Msat::new(1_000_000), NOW) > Some(0.99));
    let odd = record(vec![discounted(9, 3)]);
    assert_eq!(invoice_share(&odd, Msat::ZERO, NOW), Some(1.0));
    assert_eq!(summary(&record(vec![]), None, NOW).invoice_percent, None);
}

fn any_past() -> impl Strategy<Value = Past> {
    let outcome = prop::sample::select(Outcome::ALL.to_vec());
    let amount = prop_oneof![0..30_000_u64, any::<u64>()];
    let listed = prop::option::of(any::<u64>());
    let rest = (listed, prop::option::of(any::<u64>()));
    (outcome, amount, 0..400_u64, rest).prop_map(|(outcome, msat, days, (listed, ms))| Past {
        listed: listed.map(Msat::new),
        first_token_ms: ms,
        ..past(outcome, msat, days * DAY)
    })
}

fn any_recent() -> impl Strategy<Value = Vec<Past>> {
    prop::collection::vec(any_past(), 0..60).prop_map(|mut recent| {
        recent.sort_by_key(|past| Reverse(past.at));
        recent
    })
}

fn exact(recent: &[Past], price: Msat) -> f64 {
    likelihood(&record(recent.to_vec()), price, NOW)
}

proptest! {
    #[test]
    fn a_score_is_never_certain_and_a_cost_is_always_a_number(
        recent in any_recent(), price in any::<u64>(),
    ) {
        let price = Msat::new(price);
        let likelihood = exact(&recent, price);
        prop_assert!(likelihood > 0.0 && likelihood < 1.0);
        let record = record(recent);
        let cost = cost(&record, price, likelihood, NOW);
        prop_assert!(cost.is_finite() && cost > 0.0);
        prop_assert!(summary(&record, Some(price), NOW).score <= 100);
    }

    #[test]
    fn one_more_delivery_never_lowers_a_score_and_one_more_fault_never_raises_it(
        mut recent in any_recent(), price in 1..50_000_u64, more in any_past(),
    ) {
        let price = Msat::new(price);
        let before = exact(&recent, price);
        recent.insert(0, Past { at: NOW, ..more });
        let after = exact(&recent, price);
        // As exact as sums of fractions are.
        let tiny = 1e-9;
        if more.outcome == Outcome::Delivered {
            prop_assert!(after >= before - tiny, "{before} {after}");
        } else {
            prop_assert!(after <= before + tiny, "{before} {after}");
        }
    }

    #[test]
    fn the_dearer_the_job_the_less_a_record_is_worth(
        recent in any_recent(), price in 1..1_000_000_u64, more in 0..1_000_000_u64,
    ) {
        // Without faults: those that small deliveries no longer push out of memory count for both.
        let recent: Vec<Past> = recent
            .into_iter()
            .filter(|past| past.outcome == Outcome::Delivered)
            .collect();
        let (cheap, dear) = (Msat::new(price), Msat::new(price + more));
        prop_assert!(exact(&recent, dear) <= exact(&recent, cheap));
    }

    #[test]
    fn time_brings_every_score_nearer_to_a_strangers_where_memory_is_not_full(
        recent in prop::collection::vec(any_past(), 0..5), days in 0..400_u64,
    ) {
        let record = record(recent);
        let far = |now| (likelihood(&record, PRICE, now) - 0.5).abs();
        // One kind only: mixed ones cross over as they fade.
        let kinds: std::collections::BTreeSet<bool> =
            record.recent.iter().map(|past| past.outcome == Outcome::Delivered).collect();
        prop_assume!(kinds.len() < 2);
        prop_assert!(far(NOW.plus(days * DAY)) <= far(NOW) + 1e-9);
    }
}
