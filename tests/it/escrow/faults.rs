//! A wallet of the buyer's that fails, and a buyer that is stopped or asks again.

use super::*;

/// Buys in escrow with this fault in the wallet, while `provider` does `what`.
async fn with_fault(
    stage: &Stage,
    customer: &Customer,
    provider: &mut Peer,
    fault: &str,
    what: impl AsyncFnOnce(&mut Peer),
) -> Ran {
    let key = provider.key().to_hex();
    let args = ["--json", "--htlc", "--select", &key, "--prompt", "hello"];
    let mut command = stage.command(customer, &args);
    command.env("AGENT_COMPUTE_SIM_FAULT", fault);
    let buying = tokio::task::spawn_blocking(move || crate::harness::run(&mut command));
    let (ran, ()) = tokio::join!(buying, what(provider));
    ran.unwrap()
}

/// Quotes the next job with a hold invoice, and does no more.
async fn quote_only(provider: &mut Peer) -> PaymentHash {
    let job = provider.asked().await;
    let hash = hash_of(&job);
    let invoice = provider.issue_on(PRICE, Some(hash)).await;
    provider.quote_modern(&job.id, &invoice).await;
    hash
}

async fn deliver(provider: &mut Peer) -> Held {
    let held = held_job(provider).await;
    provider.result(&held.job.id, "Paris").await;
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_is_refused_was_never_locked() {
    let stage = Stage::new().await;
    let mut provider = seller(&stage).await;
    let customer = stage.customer();
    let ran = with_fault(
        &stage,
        &customer,
        &mut provider,
        "refuse",
        async |provider| {
            quote_only(provider).await;
        },
    )
    .await;
    let ran = ran.expect(5);
    assert!(ran.event("locked").is_none());
    assert_eq!(ran.last()["reserved_msat"], 0);
    assert_eq!(stage.books(&customer).await, Books::untouched());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_wallet_and_one_that_tells_no_preimage_buy_all_the_same() {
    let stage = Stage::new().await;
    let mut provider = seller(&stage).await;
    for fault in ["slow", "no-preimage"] {
        let customer = stage.customer();
        let ran = with_fault(&stage, &customer, &mut provider, fault, async |provider| {
            let held = deliver(provider).await;
            claim(provider, &held).await;
        })
        .await;
        let result = ran.expect(0).last();
        assert_eq!(result["text"], "Paris");
        assert!(result["preimage"].is_string(), "it was our own");
        assert_eq!(stage.books(&customer).await, Books::paid(PRICE), "{fault}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_that_falls_silent_keeps_no_result_away_and_the_money_stays_unknown() {
    let stage = Stage::new().await;
    let mut provider = seller(&stage).await;
    let customer = stage.customer();
    let ran = with_fault(
        &stage,
        &customer,
        &mut provider,
        "timeout-after",
        async |provider| {
            let held = deliver(provider).await;
            claim(provider, &held).await;
        },
    )
    .await;
    let ran = ran.expect(0);
    let result = ran.last();
    assert_eq!(result["text"], "Paris");
    assert_eq!(
        (&result["paid_msat"], &result["reserved_msat"]),
        (&0.into(), &PRICE.into())
    );
    assert_eq!(stage.books(&customer).await, Books::in_doubt(PRICE));
    // A wallet that answers knows.
    stage.recover(&customer).await.expect(0);
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_silent_wallet_locked_is_unknown_until_another_says_so() {
    let stage = Stage::new().await;
    let mut provider = seller(&stage).await;
    let customer = stage.customer();
    let mut held = None;
    let ran = with_fault(
        &stage,
        &customer,
        &mut provider,
        "timeout-after",
        async |provider| held = Some(held_job(provider).await),
    )
    .await;
    let ran = ran.expect(6);
    assert!(ran.event("locked").is_none(), "nobody said so");
    assert_eq!(stage.books(&customer).await, Books::in_doubt(PRICE));
    // Locked, now that a wallet says so: nothing of it is unknown any more.
    stage.recover(&customer).await.expect(6);
    assert_eq!(stage.books(&customer).await, locked());
    let held = held.unwrap();
    provider.wallet.cancel(held.hash).await.unwrap();
    stage.recover(&customer).await.expect(0);
    assert_eq!(stage.books(&customer).await, Books::untouched());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_silent_wallet_never_did_is_freed_by_one_that_answers() {
    let stage = Stage::new().await;
    let mut provider = seller(&stage).await;
    let customer = stage.customer();
    let ran = with_fault(
        &stage,
        &customer,
        &mut provider,
        "timeout-before",
        async |provider| {
            quote_only(provider).await;
        },
    )
    .await;
    assert_eq!(ran.expect(6).last()["reserved_msat"], PRICE);
    stage.recover(&customer).await.expect(0);
    assert_eq!(stage.books(&customer).await, Books::untouched());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_while_the_money_is_locked_waits_for_the_same_purchase() {
    let stage = Stage::new().await;
    let mut provider = seller(&stage).await;
    let customer = stage.customer();
    let key = ["--htlc", "--idempotency-key", "k", "--timeout", "40"];
    let (first, second, ()) = tokio::join!(
        stage.buy(&customer, provider.key(), &key),
        stage.buy(&customer, provider.key(), &key),
        async {
            let held = deliver(&mut provider).await;
            claim(&mut provider, &held).await;
        }
    );
    let (first, second) = (first.expect(0).last(), second.expect(0).last());
    assert_eq!(first["purchase_id"], second["purchase_id"]);
    assert_eq!(first["text"], second["text"]);
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
    // Without escrow it is another request.
    let plain = ["--idempotency-key", "k"];
    let ran = stage.buy(&customer, provider.key(), &plain).await;
    assert_eq!(ran.expect(2).last()["code"], "usage");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_is_not_claimed_yet_is_printed_again_for_its_key() {
    let stage = Stage::new().await;
    let mut provider = seller(&stage).await;
    let customer = stage.customer();
    let key = ["--htlc", "--idempotency-key", "k"];
    let (first, held) = tokio::join!(
        stage.buy(&customer, provider.key(), &key),
        deliver(&mut provider)
    );
    assert_eq!(first.expect(0).last()["reserved_msat"], PRICE);
    let again = stage.buy(&customer, provider.key(), &key).await.expect(0);
    assert_eq!(again.last()["text"], "Paris");
    assert_eq!(again.last()["reserved_msat"], PRICE);
    let (again, ()) = tokio::join!(
        stage.buy(&customer, provider.key(), &key),
        claim(&mut provider, &held)
    );
    assert_eq!(again.expect(0).last()["text"], "Paris");
    stage.recover(&customer).await.expect(0);
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_while_locked_says_so_and_is_taken_up_again() {
    let stage = Stage::new().await;
    let mut provider = seller(&stage).await;
    let customer = stage.customer();
    let key = provider.key().to_hex();
    let args = ["--json", "--htlc", "--select", &key, "--prompt", "x"];
    let mut buying = stage.start(&customer, &args);
    let held = held_job(&mut provider).await;
    let error = tokio::task::spawn_blocking(move || {
        buying.wait_for("locked", |line| line.contains("\"locked\"").then_some(()));
        buying.signal("INT");
        let error = buying.wait_for("the error", |line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            (line["event"] == "error").then_some(line)
        });
        assert_eq!(buying.exit_code(), Some(130));
        error
    });
    let error = error.await.unwrap();
    assert_eq!(error["code"], "interrupted");
    assert_eq!(
        (&error["paid_msat"], &error["reserved_msat"]),
        (&0.into(), &PRICE.into())
    );
    assert_eq!(stage.books(&customer).await, locked());
    provider.result(&held.job.id, "Paris").await;
    let (ran, ()) = tokio::join!(stage.recover(&customer), claim(&mut provider, &held));
    assert_eq!(ran.expect(0).events()[0]["text"], "Paris");
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_decides_what_no_wallet_can() {
    let stage = Stage::new().await;
    let mut provider = seller(&stage).await;
    for (word, state) in [("failed", "failed"), ("paid", "undelivered")] {
        let customer = stage.customer();
        let args = ["--htlc", "--timeout", "3"];
        let (ran, held) = tokio::join!(
            stage.buy(&customer, provider.key(), &args),
            held_job(&mut provider)
        );
        let id = ran.expect(7).last()["purchase_id"]
            .as_str()
            .unwrap()
            .to_owned();
        let shown = stage
            .run(&customer, &["--json", "show", &id])
            .await
            .expect(0)
            .last();
        assert_eq!(shown["state"], "undelivered");
        assert_eq!(shown["reserved_msat"], PRICE);
        assert_eq!(shown["payment_hash"], held.hash.to_string());
        assert!(shown["preimage"].is_null(), "kept to itself: {shown}");
        let resolve = ["--json", "recover", "--resolve", &id, word];
        let resolved = stage.run(&customer, &resolve).await.expect(0).last();
        assert_eq!(resolved["state"], state);
        assert_eq!(resolved["reserved_msat"], 0);
    }
}
