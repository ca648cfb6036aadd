//! Many purchases at once, each of which fails over.

use agent_compute::client::{Code, PurchaseRequest, Receipt};
use agent_compute::config::Runway;
use futures_util::future::join_all;
use nostr::Keys;
use tokio::task::JoinSet;

use super::*;

/// Gives invoices that nobody can pay, so that money is set aside for a moment and comes back.
async fn unpayable_for_ever(mut provider: Peer) {
    loop {
        let job = provider.asked().await;
        let nobodys = signed(&draft(PRICE - 1));
        provider.quote(&job.id, &nobodys, PRICE - 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_on_one_key_share_the_one_purchase_that_is_paid() {
    let stage = Stage::new().await;
    let _seller = stage.provider(&Keys::generate(), &[]).await;
    let mut tasks = JoinSet::new();
    tasks.spawn(unpayable_for_ever(selling_at(&stage, PRICE - 1).await));
    let customer = stage.customer();
    let client = stage.client(&customer).await;
    let purchases = (0..16).map(|_| {
        let request = PurchaseRequest {
            idempotency_key: Some("k".into()),
            ..PurchaseRequest::new("hello")
        };
        client.purchase(request).receipt()
    });
    let receipts: Vec<Receipt> = join_all(purchases)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    for receipt in &receipts {
        assert_eq!(receipt.purchase_id, receipts[0].purchase_id);
        assert_eq!(receipt.text, "hello");
    }
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_fail_over_at_once_they_stay_within_one_limit() {
    let stage = Stage::new().await;
    let _seller = stage.provider(&Keys::generate(), &[]).await;
    let mut tasks = JoinSet::new();
    tasks.spawn(unpayable_for_ever(selling_at(&stage, PRICE - 1).await));
    let customer = stage.customer();
    let most = 3;
    stage.world.config(
        &customer.home,
        &format!("[runway]\nper_tick_limit_sats = {}\n", most * PRICE / 1000),
    );
    let client = stage.client(&customer).await.tick("t");
    let purchases = (0..12).map(|_| client.purchase(PurchaseRequest::new("hello")).receipt());
    let mut paid = 0;
    for outcome in join_all(purchases).await {
        match outcome {
            Ok(receipt) => paid += receipt.paid_msat.get(),
            // What others have set aside for a moment counts like any other money.
            Err(error) => assert_eq!(error.code(), Code::Budget, "{error}"),
        }
    }
    assert!(paid <= most * PRICE, "{paid}");
    assert_eq!(stage.books(&customer).await, Books::paid(paid));
    // What room is left can be used to the end, and not beyond.
    for _ in 0..=most {
        match client
            .purchase(PurchaseRequest::new("hello"))
            .receipt()
            .await
        {
            Ok(receipt) => paid += receipt.paid_msat.get(),
            Err(error) => assert_eq!(error.code(), Code::Budget, "{error}"),
        }
    }
    assert_eq!(paid, most * PRICE);
    assert_eq!(stage.books(&customer).await, Books::paid(paid));
    let limit = Runway::default().per_tick_limit;
    assert!(
        Msat::new(paid) < limit,
        "the configured one was the one that held"
    );
}
