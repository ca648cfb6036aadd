//! SIGKILL at moments of chance while a provider that fails in every way comes before one that sells.

use std::time::Duration;

use agent_compute::wallet::Wallet;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::*;
use crate::crash::rounds;
use crate::env::number;

/// How long a customer may take to lock its money, before it counts as killed.
const LOCKS_WITHIN: Duration = Duration::from_secs(1);

/// Fails each job that it is asked for, in one way or another, and keeps no money.
async fn fail_for_ever(mut provider: Peer, mut dice: StdRng) {
    loop {
        let job = provider.asked().await;
        let escrow = job.request.payment_hash.as_deref();
        let escrow = escrow.map(|hash| hash.parse().unwrap());
        match (dice.random_range(0..4), escrow) {
            (0, _) => {
                let dear = provider.issue_on(PRICE, escrow).await;
                provider.quote(&job.id, &dear.bolt11, PRICE).await;
            }
            (1, None) => {
                let nobodys = signed(&draft(PRICE - 1));
                provider.quote(&job.id, &nobodys, PRICE - 1).await;
            }
            (1 | 2, Some(hash)) => {
                let invoice = provider.issue_on(PRICE - 1, Some(hash)).await;
                provider.quote_modern(&job.id, &invoice).await;
                let _ = timeout(LOCKS_WITHIN, provider.until_money(hash)).await;
                provider.wallet.cancel(hash).await.unwrap();
                provider.refuse(&job.id, "the model broke down").await;
            }
            _ => provider.refuse(&job.id, "the queue is full").await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_and_asked_again_each_key_is_delivered_and_paid_once() {
    let seed = number("CRASH_SEED").unwrap_or(0x5eed);
    println!("failing over, killed: CRASH_SEED={seed}");
    let mut dice = StdRng::seed_from_u64(seed);
    let stage = Stage::new().await;
    let seller = nostr::Keys::generate();
    let _seller = stage.provider(&seller, &[]).await;
    let bad = Peer::unlisted(&stage).await;
    bad.list(|content| {
        content.price = Price::per_request(Msat::new(PRICE - 1));
        content.features.insert(Feature::HoldInvoice);
    })
    .await;
    let mut tasks = JoinSet::new();
    tasks.spawn(fail_for_ever(bad, StdRng::seed_from_u64(seed)));
    let customer = stage.customer();
    let begun = std::time::Instant::now();
    buy(&stage, &customer, &[]).await.expect(0);
    let usual = begun.elapsed();
    let many = rounds(12);
    for round in 0..many {
        let key = format!("key-{round}");
        let mut args = vec!["--json", "--idempotency-key", &key, "--prompt", "hello"];
        if dice.random_bool(0.6) {
            args.push("--htlc");
        }
        let mut buying = stage.start(&customer, &args);
        sleep(usual.mul_f64(dice.random_range(0.0..1.5))).await;
        buying.kill();
        let ran = stage.run(&customer, &args).await;
        assert_eq!(ran.expect(0).last()["text"], "hello");
    }
    stage.recover(&customer).await.expect(0);
    // The first of them only told how long it takes.
    assert_eq!(
        stage.books(&customer).await,
        Books::paid((many + 1) * PRICE)
    );
    tasks.abort_all();
}
