//! Providers that lie before the lock, fail after it, or claim at odd times.

use super::*;
use crate::cast::{draft, signed};

/// Buys in escrow from `provider`, which gets the money locked and then does `what`.
async fn after_lock(
    stage: &Stage,
    provider: &mut Peer,
    args: &[&str],
    what: impl AsyncFnOnce(&mut Peer, &Held),
) -> (Customer, Ran, Held) {
    let customer = stage.customer();
    let all = [&["--htlc"], args].concat();
    let (ran, held) = tokio::join!(stage.buy(&customer, provider.key(), &all), async {
        let held = held_job(provider).await;
        what(provider, &held).await;
        held
    });
    (customer, ran, held)
}

/// No result: nothing is paid, and this much is still set aside.
#[track_caller]
fn unpaid(ran: Ran, why: &str, reserved: u64) {
    assert!(ran.event("released").is_none(), "{ran:?}");
    let error = ran.expect(7).last();
    assert_eq!(error["code"], "undelivered");
    assert_eq!(
        (&error["paid_msat"], &error["reserved_msat"]),
        (&0.into(), &reserved.into()),
        "{error}"
    );
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(why), "{why}: {message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invoice_that_would_be_no_escrow_is_refused() {
    let stage = Stage::new().await;
    let mut provider = seller(&stage).await;
    for lie in [
        "ordinary",
        "another hash",
        "dearer",
        "another network",
        "too long a hold",
    ] {
        let customer = stage.customer();
        let (ran, ()) = tokio::join!(stage.buy(&customer, provider.key(), &["--htlc"]), async {
            let job = provider.asked().await;
            let hash = hash_of(&job);
            let (bolt11, msat) = match lie {
                "ordinary" => (provider.issue(PRICE).await.bolt11, PRICE),
                "another hash" => {
                    let other = draft(0).payment_hash;
                    (provider.issue_on(PRICE, Some(other)).await.bolt11, PRICE)
                }
                "dearer" => {
                    let invoice = provider.issue_on(PRICE + 1, Some(hash)).await;
                    (invoice.bolt11, PRICE + 1)
                }
                "another network" => {
                    let mut there = draft(PRICE);
                    there.payment_hash = hash;
                    there.network = agent_compute::units::Network::Signet;
                    (signed(&there), PRICE)
                }
                _ => {
                    let mut long = draft(PRICE);
                    long.payment_hash = hash;
                    long.min_final_cltv = 86_400 / 600 + 1;
                    (signed(&long), PRICE)
                }
            };
            provider.quote(&job.id, &bolt11, msat).await;
        });
        let ran = ran.expect(11);
        assert!(ran.event("locked").is_none());
        assert_eq!(ran.last()["code"], "bad_invoice", "{lie}");
        assert_eq!(stage.books(&customer).await, Books::untouched(), "{lie}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_goes_silent_is_not_paid_and_the_money_comes_back_when_the_lock_ends() {
    let stage = Stage::new().await;
    let mut provider = seller(&stage).await;
    let quick = &["--timeout", "3"];
    let (customer, ran, held) = after_lock(&stage, &mut provider, quick, async |_, _| ()).await;
    let locked_event = ran.event("locked").unwrap();
    assert_eq!(locked_event["payment_hash"], held.hash.to_string());
    unpaid(ran, "sent nothing in time", PRICE);
    assert_eq!(stage.books(&customer).await, locked());
    // Nothing is over by time alone, and something is open.
    let recovered = stage.recover(&customer).await.expect(6).events();
    assert_eq!(recovered[0]["state"], "undelivered");
    assert_eq!(recovered[0]["reserved_msat"], PRICE);
    assert_eq!(stage.books(&customer).await, locked());
    provider.wallet.cancel(held.hash).await.unwrap();
    let recovered = stage.recover(&customer).await.expect(0).last();
    assert_eq!(
        (&recovered["state"], &recovered["reserved_msat"]),
        (&"failed".into(), &0.into())
    );
    assert_eq!(stage.books(&customer).await, Books::untouched());
    stage.recover(&customer).await.expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_fails_and_gives_the_money_back_costs_nothing() {
    let stage = Stage::new().await;
    let mut provider = seller(&stage).await;
    for says_so in [true, false] {
        let (customer, ran, _) = after_lock(&stage, &mut provider, &[], async |provider, held| {
            if says_so {
                provider.refuse(&held.job.id, "out of memory").await;
            }
            provider.wallet.cancel(held.hash).await.unwrap();
        })
        .await;
        unpaid(ran, "nothing was paid", 0);
        assert_eq!(stage.books(&customer).await, Books::untouched());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn results_that_are_none_let_nothing_go() {
    let stage = Stage::new().await;
    let mut provider = seller(&stage).await;
    for (what, why) in [
        ("empty", "empty"),
        ("contradiction", "not what it streamed"),
        ("gap", "broke off"),
        ("refusal", "no (failed)"),
        ("escapes", "sorry"),
    ] {
        let quick = &["--timeout", "3"];
        let (customer, ran, held) =
            after_lock(&stage, &mut provider, quick, async |provider, held| {
                let id = &held.job.id;
                match what {
                    "empty" => provider.result(id, "").await,
                    "contradiction" => {
                        provider.chunk(id, Some(0), "one thing", true).await;
                        provider.result(id, "another").await;
                    }
                    "gap" => {
                        provider.chunk(id, Some(0), "a", false).await;
                        provider.chunk(id, Some(2), "c", true).await;
                    }
                    "refusal" => provider.refuse(id, "no").await,
                    _ => provider.refuse(id, "\x1b[2Jsorry\nPaid: 0 sats.").await,
                }
            })
            .await;
        unpaid(ran, why, PRICE);
        assert_eq!(stage.books(&customer).await, locked(), "{what}");
        if what == "contradiction" {
            // Whatever it says now: it has said two things of one text.
            provider.result(&held.job.id, "one thing").await;
            stage.recover(&customer).await.expect(6);
            assert_eq!(stage.books(&customer).await, locked());
        }
        provider.wallet.cancel(held.hash).await.unwrap();
        stage.recover(&customer).await.expect(0);
        assert_eq!(stage.books(&customer).await, Books::untouched(), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_a_provider_that_speaks_the_deployed_way_is_no_result() {
    let stage = Stage::new().await;
    let mut provider = seller(&stage).await;
    let customer = stage.customer();
    let (ran, ()) = tokio::join!(stage.buy(&customer, provider.key(), &["--htlc"]), async {
        let job = provider.asked().await;
        let invoice = provider.issue_on(PRICE, Some(hash_of(&job))).await;
        provider.quote(&job.id, &invoice.bolt11, PRICE).await;
        provider.until_money(invoice.payment_hash).await;
        provider.result(&job.id, "Error: no such model").await;
    });
    unpaid(ran, "no such model", PRICE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_after_a_refusal_is_taken_and_paid_for() {
    let stage = Stage::new().await;
    let mut provider = seller(&stage).await;
    let (customer, ran, _) = after_lock(&stage, &mut provider, &[], async |provider, held| {
        provider.refuse(&held.job.id, "no, wait").await;
        provider.result(&held.job.id, "Paris").await;
        claim(provider, held).await;
    })
    .await;
    assert_eq!(ran.expect(0).last()["text"], "Paris");
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_result_is_fetched_by_recover_and_paid_for_then() {
    let stage = Stage::new().await;
    let mut provider = seller(&stage).await;
    let quick = &["--timeout", "3"];
    let (customer, ran, held) = after_lock(&stage, &mut provider, quick, async |_, _| ()).await;
    unpaid(ran, "sent nothing", PRICE);
    provider.result(&held.job.id, "late").await;
    let (ran, ()) = tokio::join!(stage.recover(&customer), claim(&mut provider, &held));
    let recovered = ran.expect(0).last();
    assert_eq!(
        (&recovered["state"], &recovered["text"]),
        (&"delivered".into(), &"late".into())
    );
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_slow_to_claim_holds_up_no_result() {
    let stage = Stage::new().await;
    let mut provider = seller(&stage).await;
    let (customer, ran, held) = after_lock(&stage, &mut provider, &[], async |provider, held| {
        provider.result(&held.job.id, "Paris").await;
        // Said again to one that does not claim.
        let first = preimage_of(provider, held).await;
        assert_eq!(preimage_of(provider, held).await, first);
    })
    .await;
    let result = ran.expect(0).last();
    assert_eq!(result["text"], "Paris");
    assert_eq!(
        (&result["paid_msat"], &result["reserved_msat"]),
        (&0.into(), &PRICE.into())
    );
    assert_eq!(stage.books(&customer).await, locked());
    // Said again by recovery, too, until it is claimed.
    let recovering = stage.recover(&customer);
    let (ran, again) = tokio::join!(recovering, preimage_of(&mut provider, &held));
    assert_eq!(ran.expect(6).events()[0]["state"], "released");
    provider.wallet.settle(again).await.unwrap();
    let recovered = stage.recover(&customer).await.expect(0).last();
    assert_eq!(
        (&recovered["state"], &recovered["paid_msat"]),
        (&"delivered".into(), &PRICE.into())
    );
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_delivers_and_gives_the_money_back_has_given_a_present() {
    let stage = Stage::new().await;
    let mut provider = seller(&stage).await;
    let (customer, ran, _) = after_lock(&stage, &mut provider, &[], async |provider, held| {
        provider.result(&held.job.id, "Paris").await;
        preimage_of(provider, held).await;
        provider.wallet.cancel(held.hash).await.unwrap();
    })
    .await;
    let result = ran.expect(0).last();
    assert_eq!(
        (&result["paid_msat"], &result["reserved_msat"]),
        (&0.into(), &0.into())
    );
    assert_eq!(stage.books(&customer).await, Books::untouched());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_before_the_lock_releases_nothing_by_itself() {
    let stage = Stage::new().await;
    let mut provider = seller(&stage).await;
    let customer = stage.customer();
    let args = ["--htlc", "--timeout", "3"];
    let (ran, ()) = tokio::join!(stage.buy(&customer, provider.key(), &args), async {
        let job = provider.asked().await;
        provider.result(&job.id, "unasked").await;
        let invoice = provider.issue(PRICE).await;
        provider.quote_modern(&job.id, &invoice).await;
    });
    assert_eq!(ran.expect(11).last()["code"], "bad_invoice");
    assert_eq!(stage.books(&customer).await, Books::untouched());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_stream_ends_and_is_not_paid_for() {
    let stage = Stage::new().await;
    let mut provider = seller(&stage).await;
    let (customer, ran, _) = after_lock(&stage, &mut provider, &[], async |provider, held| {
        let piece = "x".repeat(30_000);
        let pieces: Vec<_> = (0..200)
            .map(|seq| provider.sign(&crate::cast::chunk(&held.job.id, Some(seq), &piece, false)))
            .collect();
        provider.publish_all(&pieces).await;
    })
    .await;
    unpaid(ran, "more than any result may have", PRICE);
    assert_eq!(stage.books(&customer).await, locked());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_without_escrow_is_not_asked_for_it() {
    let stage = Stage::new().await;
    let provider = Peer::provider(&stage).await;
    let customer = stage.customer();
    let ran = stage.buy(&customer, provider.key(), &["--htlc"]).await;
    let seen = ran.event("provider").unwrap();
    assert_eq!(
        (&seen["matches"], &seen["reason"]),
        (&false.into(), &"feature".into())
    );
    let error = ran.expect(3).last();
    assert_eq!(error["code"], "no_provider");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("1 without escrow (hold-invoice)"),
        "{message}"
    );
    let ran = stage
        .run(
            &customer,
            &["--json", "--prompt", "x", "--no-wallet", "--htlc"],
        )
        .await;
    assert_eq!(ran.expect(2).last()["code"], "usage");
}
