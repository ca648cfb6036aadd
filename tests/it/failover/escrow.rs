//! Locked money: back, it leads on; still away, it stops.

use agent_compute::ids::PaymentHash;
use agent_compute::protocol::message::PreimageRelease;
use agent_compute::wallet::{Incoming as Money, Wallet};

use super::*;
use crate::cast::Asked;

async fn selling_escrow_at(stage: &Stage, msat: u64) -> Peer {
    let provider = Peer::unlisted(stage).await;
    provider
        .list(|content| {
            content.price = Price::per_request(Msat::new(msat));
            content.features.insert(Feature::HoldInvoice);
        })
        .await;
    provider
}

/// Takes the next job until its own wallet holds the money.
async fn holds(provider: &mut Peer, msat: u64) -> (Asked, PaymentHash) {
    let job = provider.asked().await;
    let hash = job.request.payment_hash.as_ref().unwrap().parse().unwrap();
    let invoice = provider.issue_on(msat, Some(hash)).await;
    provider.quote_modern(&job.id, &invoice).await;
    let money = provider.until_money(hash).await;
    assert!(matches!(money, Money::Held { .. }), "{money:?}");
    (job, hash)
}

/// Delivers what is held, and claims it.
async fn delivers(provider: &mut Peer, msat: u64, text: &str) {
    let (job, _) = holds(provider, msat).await;
    provider.result(&job.id, text).await;
    let preimage = provider
        .hear(|_, message| match message {
            AgentMessage::PreimageRelease(PreimageRelease { job_id, preimage })
                if job_id == job.id =>
            {
                Some(preimage)
            }
            _ => None,
        })
        .await;
    let claimed = provider.wallet.settle(preimage.parse().unwrap()).await;
    claimed.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn locked_money_that_is_back_leads_on_with_a_secret_of_its_own() {
    let stage = Stage::new().await;
    let mut first = selling_escrow_at(&stage, PRICE - 1).await;
    let mut second = selling_escrow_at(&stage, PRICE).await;
    let plain = selling_at(&stage, 1).await;
    let customer = stage.customer();
    let (ran, ()) = tokio::join!(buy(&stage, &customer, &["--htlc"]), async {
        let (job, hash) = holds(&mut first, PRICE - 1).await;
        first.wallet.cancel(hash).await.unwrap();
        first.refuse(&job.id, "the model broke down").await;
        delivers(&mut second, PRICE, "Paris").await;
    });
    let ran = ran.expect(0);
    assert_eq!(failures(&ran), ["undelivered"]);
    assert_eq!(ran.last()["text"], "Paris");
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
    assert_eq!(asked(&[&first, &second, &plain]).await, [1, 1, 0]);
    let hash = |requests: Vec<JobRequest>| requests[0].payment_hash.clone().unwrap();
    assert_ne!(hash(requests(&first).await), hash(requests(&second).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn locked_money_that_is_not_back_stops_it() {
    let stage = Stage::new().await;
    let mut first = selling_escrow_at(&stage, PRICE - 1).await;
    let second = selling_escrow_at(&stage, PRICE).await;
    let customer = stage.customer();
    let mut held = None;
    let (ran, ()) = tokio::join!(buy(&stage, &customer, &["--htlc"]), async {
        let (job, hash) = holds(&mut first, PRICE - 1).await;
        first.refuse(&job.id, "the model broke down").await;
        held = Some(hash);
    });
    let ran = ran.expect(7);
    assert_eq!(failures(&ran), [""; 0]);
    assert_eq!(ran.last()["reserved_msat"], PRICE - 1);
    assert_eq!(asked(&[&first, &second]).await, [1, 0]);
    // It comes back later, and then everything is here.
    first.wallet.cancel(held.unwrap()).await.unwrap();
    stage.recover(&customer).await.expect(0);
    assert_eq!(stage.books(&customer).await, Books::untouched());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_provider_streamed_is_not_in_the_result() {
    let stage = Stage::new().await;
    let mut first = selling_escrow_at(&stage, PRICE - 1).await;
    let mut second = selling_escrow_at(&stage, PRICE).await;
    for retries in ["1", "0"] {
        let customer = stage.customer();
        let args = ["--htlc", "--retries", retries, "--prompt", "hello"];
        let (ran, ()) = tokio::join!(stage.run(&customer, &args), async {
            let (job, hash) = holds(&mut first, PRICE - 1).await;
            first.chunk(&job.id, Some(0), "Lon", false).await;
            first.chunk(&job.id, Some(1), "don, or", false).await;
            first.wallet.cancel(hash).await.unwrap();
            first.refuse(&job.id, "the model broke down").await;
            if retries == "1" {
                delivers(&mut second, PRICE, "Paris").await;
            }
        });
        if retries == "1" {
            assert_eq!(ran.expect(0).stdout, "Paris\n");
        } else {
            assert_eq!(ran.expect(7).stdout, "London, or\n", "as it came");
        }
    }
}
