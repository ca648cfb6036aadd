//! How many may buy, and how often.

use std::time::Instant;

use super::*;
use crate::crash::{OPENING_BALANCE, PRICE, assert_one_story, settle};

/// Of all that race at a new home with these `limits`, as many buy as they admit. The others are told that
/// the limits refuse it, or that the provider has enough of their quotes already.
async fn as_many_as_admitted(limits: &str, tick: Option<&str>, escrow: bool, admitted: u64) {
    let world = World::new();
    let _seller = world.provider("seller", &[]);
    world.config("buyer", &format!("[runway]\n{limits}\n"));
    let mut args = Vec::new();
    args.extend(tick.iter().flat_map(|tick| ["--tick", tick]));
    args.extend(escrow.then_some("--htlc"));
    let request = PurchaseRequest {
        tick: tick.map(str::to_owned),
        escrow,
        ..PurchaseRequest::new("x")
    };
    let begun = Instant::now();
    let ended = everybody(&world, "buyer", &args, request).await;
    let codes = codes(&ended);
    println!("{limits}: {codes:?} in {:?}", begun.elapsed());
    let paid = codes.get(&0).copied().unwrap_or(0);
    assert_eq!(paid as u64, admitted, "{limits}: {ended:#?}");
    let others = [0, exit(Code::Budget), exit(Code::ProviderRefused)];
    assert!(codes.keys().all(|code| others.contains(code)), "{ended:#?}");
    assert!(codes.contains_key(&others[1]), "{ended:#?}");
    settle(&world, "buyer");
    assert_eq!(
        assert_one_story(&world, "buyer"),
        admitted * PRICE,
        "{limits}"
    );
    let earned = world.provider_balance("seller") - OPENING_BALANCE;
    assert_eq!(earned, admitted * PRICE, "{limits}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_that_admits_seven_pays_for_seven() {
    as_many_as_admitted("daily_limit_sats = 79", None, false, 7).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_that_admits_six_locks_money_for_six() {
    as_many_as_admitted("daily_limit_sats = 60", None, true, 6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tick_that_admits_five_pays_for_five() {
    as_many_as_admitted("per_tick_limit_sats = 50", Some("t"), false, 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tick_that_admits_three_locks_money_for_three() {
    as_many_as_admitted("per_tick_limit_sats = 39", Some("t"), true, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_floor_that_admits_four_pays_for_four() {
    as_many_as_admitted("reserve_sats = 99960", None, false, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_floor_that_admits_eight_locks_money_for_eight() {
    as_many_as_admitted("reserve_sats = 99911", None, true, 8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_below_the_price_of_one_job_pays_for_none() {
    as_many_as_admitted("per_job_limit_sats = 9", None, false, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_with_one_key_has_the_result_of_one_purchase() {
    for escrow in [false, true] {
        let world = World::new();
        let _seller = world.provider("seller", &["--stream"]);
        let mut args = vec!["--idempotency-key", "k"];
        args.extend(escrow.then_some("--htlc"));
        let request = PurchaseRequest {
            idempotency_key: Some("k".to_owned()),
            escrow,
            ..PurchaseRequest::new("one two three")
        };
        let ended = everybody(&world, "buyer", &args, request).await;
        let everyone = BTreeMap::from([(0, PROCESSES + TASKS)]);
        assert_eq!(codes(&ended), everyone, "{ended:#?}");
        for one in &ended {
            for field in ["purchase_id", "text", "payment_hash", "price_msat"] {
                assert_eq!(one.last[field], ended[0].last[field], "{ended:#?}");
            }
        }
        settle(&world, "buyer");
        assert_eq!(assert_one_story(&world, "buyer"), PRICE);
        assert_eq!(world.provider_balance("seller"), OPENING_BALANCE + PRICE);
    }
}
