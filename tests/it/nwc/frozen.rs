//! Wallets that freeze at each step of a purchase, a wallet's relay that dies with the answer on its way, a
//! seller that dies with money held: nothing is paid twice, nothing is lost, and what is in doubt says so until it
//! is decided.

use std::time::Instant;

use super::programs::Market;
use super::service::Twist;
use super::*;
use crate::harness::{Ran, World};

/// What one purchase costs with its fee, and what the seller gets.
const SPENT: u64 = 8_500;
const PRICE: u64 = 7_000;

/// What is set aside for a purchase in doubt: the price and the whole allowance for fees.
const DOUBT: u64 = 17_000;

/// Longer than a purchase waits here.
const FROZEN: Duration = Duration::from_secs(5);

/// Freezes for `pause` at the first call of `method`.
fn freeze(method: &'static str, pause: Duration) -> Options {
    let mut done = false;
    Options::twisted(move |called, _| {
        let is_first = !done;
        done |= called == method;
        (called == method && is_first).then_some(Twist::Frozen(pause))
    })
}

/// Buys under one key until it is delivered, recovering in between. How each try ended.
async fn insist(market: &Market, args: &[&str]) -> Vec<i32> {
    let mut codes = Vec::new();
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let words = ["--idempotency-key", "this one", "--timeout", "3"];
        let bought: Ran = market.buy(&[&words[..], args].concat()).await;
        codes.push(bought.code);
        if bought.code == 0 {
            assert_eq!(bought.last()["text"], "to be or not to be");
            return codes;
        }
        let error = bought.last();
        assert!([3, 5, 6, 7, 8, 9, 10].contains(&bought.code), "{error}");
        let recovered = market.run(&["--json", "recover"]).await;
        assert!(
            Instant::now() < until,
            "{codes:?}: {error}\n{}",
            recovered.stdout
        );
        assert!([0, 6, 8].contains(&recovered.code), "{}", recovered.stdout);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// One job was paid for, once, on both sides.
async fn assert_paid_once(market: &Market, why: &str) {
    let until = Instant::now() + Duration::from_secs(20);
    let once = (
        super::programs::OPENING - SPENT,
        super::programs::OPENING + PRICE,
    );
    while market.balances().await != once {
        assert!(
            Instant::now() < until,
            "{why}: {:?}",
            market.balances().await
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Whoever was delivered to before the seller took its money learns of that afterwards.
    market.run(&["--json", "recover"]).await.expect(0);
    assert_eq!(market.spent().await, (SPENT, 0), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_buyers_wallet_that_freezes_at_any_step_pays_once() {
    for (method, escrow) in [
        ("get_info", false),
        ("lookup_invoice", false),
        ("pay_invoice", false),
        ("pay_invoice", true),
    ] {
        let of_buyer = freeze(method, FROZEN);
        let market = Market::new(of_buyer, Options::default()).await;
        let _seller = market.sell().await;
        let args: &[&str] = if escrow { &["--htlc"] } else { &[] };
        let codes = insist(&market, args).await;
        let why = format!("frozen at {method}, escrow {escrow}: {codes:?}");
        assert_paid_once(&market, &why).await;
        // In escrow the seller has given up the first hold by then, and a second attempt is in its right.
        let orders = market.buyer.1.asked("pay_invoice");
        assert!(orders == 1 || escrow && orders == 2, "{why}: {orders}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sellers_wallet_that_freezes_at_any_step_is_paid_once() {
    for (method, escrow) in [
        ("make_invoice", false),
        ("lookup_invoice", false),
        ("make_hold_invoice", true),
        ("lookup_invoice", true),
        ("settle_hold_invoice", true),
    ] {
        let of_seller = freeze(method, FROZEN);
        let market = Market::new(Options::default(), of_seller).await;
        let _seller = market.sell().await;
        let args: &[&str] = if escrow { &["--htlc"] } else { &[] };
        let codes = insist(&market, args).await;
        let why = format!("frozen at {method}, escrow {escrow}: {codes:?}");
        assert_paid_once(&market, &why).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seller_killed_with_money_held_finishes_or_gives_back() {
    let market = Market::honest().await;
    let seller = market.sell().await;
    // It dies when the money is there; whoever comes after it knows only what is on file and in the wallet.
    let mut buy = market.customer(&["--json", "--prompt", "held", "--htlc", "--timeout", "60"]);
    let buying = tokio::task::spawn_blocking(move || crate::harness::run(&mut buy));
    let until = Instant::now() + Duration::from_secs(20);
    while market.buyer.1.asked("pay_invoice") == 0 {
        assert!(Instant::now() < until, "nobody pays");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(seller);
    let _seller = market.sell().await;
    let bought = buying.await.unwrap();
    assert_eq!(bought.expect(0).last()["text"], "held");
    assert_paid_once(&market, "killed while held").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wallets_relay_that_dies_over_the_answer_is_waited_for() {
    let mut relay = World::new();
    let slow = |method: &str, _: &serde_json::Value| {
        (method == "pay_invoice").then_some(Twist::Late(Duration::from_millis(700)))
    };
    let at = relay.relay.clone();
    let of_buyer = Options::twisted(slow);
    let market = Market::with_buyer_at(Some(&at), of_buyer, Options::default()).await;
    let _seller = market.sell().await;
    let mut buy = market.customer(&["--json", "--prompt", "x", "--idempotency-key", "k"]);
    buy.args(["--timeout", "4"]);
    let buying = tokio::task::spawn_blocking(move || crate::harness::run(&mut buy));
    let until = Instant::now() + Duration::from_secs(20);
    while market.buyer.1.asked("pay_invoice") == 0 {
        assert!(Instant::now() < until, "nobody pays");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    relay.kill_relay();
    let bought = buying.await.unwrap();
    assert_eq!(bought.code, 6, "{}", bought.stdout);
    assert_eq!(market.spent().await, (0, DOUBT));
    // The wallet can't be asked: that is no answer.
    market.run(&["--json", "recover"]).await.expect(8);
    relay.restart_relay();
    let until = Instant::now() + Duration::from_secs(60);
    while market.run(&["--json", "recover"]).await.code != 0 {
        assert!(Instant::now() < until, "the wallet does not come back");
    }
    let again = market.buy_again("x", "k").await.expect(0);
    assert_eq!(again.last()["text"], "x");
    assert_paid_once(&market, "its relay died").await;
    assert_eq!(market.buyer.1.most_orders(), 1);
}

/// Buyers are killed at moments of chance, while their wallet is slow; then the books must agree with the
/// wallets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buyers_killed_at_any_moment_lose_no_sat() {
    let slow = |method: &str, _: &serde_json::Value| {
        let pause = Duration::from_millis(if method == "pay_invoice" { 60 } else { 10 });
        Some(Twist::Late(pause))
    };
    let market = Market::new(Options::twisted(slow), Options::default()).await;
    let _seller = market.sell().await;
    let mut moments = crate::crash::Moments::of("nwc");
    let rounds = crate::env::number("CRASH_ROUNDS").unwrap_or(12);
    for round in 0..rounds {
        let key = format!("round {round}");
        let words = [
            "--json",
            "--prompt",
            "x",
            "--timeout",
            "20",
            "--idempotency-key",
            &key,
        ];
        let mut buy = market.customer(&words);
        buy.args((round % 2 == 0).then_some("--htlc"));
        moments = tokio::task::spawn_blocking(move || {
            let mut buying = crate::harness::Running::start(&mut buy);
            moments.pass(Duration::from_millis(500));
            buying.kill();
            moments
        })
        .await
        .unwrap();
    }
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let recovered = market.run(&["--json", "recover"]).await;
        let (spent, reserved) = market.spent().await;
        let (buyer, _) = market.balances().await;
        let gone = super::programs::OPENING - buyer;
        // Whoever died between setting aside and telling the wallet leaves a doubt, as long as the invoice lives.
        if spent == gone && reserved % DOUBT == 0 {
            assert_eq!(spent % SPENT, 0, "{spent}");
            let (paid, doubts) = (spent / SPENT, reserved / DOUBT);
            println!("{paid} of {rounds} were paid for, {doubts} are in doubt");
            let most = market.buyer.1.most_orders();
            assert!(most <= 1, "one invoice was ordered to be paid {most} times");
            break;
        }
        assert!(
            Instant::now() < until,
            "spent {spent}, reserved {reserved}, gone {gone}: {}",
            recovered.stdout
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
