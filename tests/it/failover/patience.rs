//! How long a provider that says nothing is waited for, and what becomes of what it says afterwards.

use agent_compute::ids::JobId;
use agent_compute::wallet::{Incoming as Money, Wallet};

use super::*;

async fn cancelled(provider: &mut Peer, job: &JobId) {
    provider
        .hear(|_, message| match message {
            AgentMessage::Cancel(cancel) if cancel.job_id == *job => Some(()),
            _ => None,
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_provider_is_told_that_it_is_not_waited_for_and_its_late_invoice_is_never_paid() {
    let stage = Stage::new().await;
    let [mut first, mut second, third] = three(&stage).await;
    let customer = stage.customer();
    let mut late = None;
    let (ran, ()) = tokio::join!(buy(&stage, &customer, &[]), async {
        let abandoned = first.asked().await;
        cancelled(&mut first, &abandoned.id).await;
        let job = second.asked().await;
        // True in every respect, and there before any other.
        let invoice = first.issue(PRICE - 1).await;
        first.quote(&abandoned.id, &invoice.bolt11, PRICE - 1).await;
        first.quote(&job.id, &invoice.bolt11, PRICE - 1).await;
        late = Some(invoice.payment_hash);
        let invoice = second.issue(PRICE).await;
        second.quote(&job.id, &invoice.bolt11, PRICE).await;
        second.until_money(invoice.payment_hash).await;
        first.result(&abandoned.id, "late").await;
        second.result(&job.id, "Paris").await;
    });
    let ran = ran.expect(0);
    assert_eq!(failures(&ran), ["timeout"]);
    assert_eq!(ran.last()["text"], "Paris");
    let money = first.wallet.incoming(late.unwrap()).await.unwrap();
    assert_eq!(money, Money::Open);
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
    // Nor by recovery.
    stage.recover(&customer).await.expect(0);
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
    assert_eq!(asked(&[&first, &second, &third]).await, [1, 1, 0]);
    // It counts against the provider, as silence always did.
    let ran = stage
        .run(&customer, &["--json", "providers"])
        .await
        .expect(0);
    let seen = ran.events().into_iter();
    let mut silent = seen.filter(|one| one["provider"] == first.key().to_hex());
    let record = silent.next().unwrap()["record"].clone();
    assert_eq!(
        (&record["attempts"], &record["delivered"]),
        (&1.into(), &0.into()),
        "{record}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_the_first_gives_a_silent_one_half_of_the_time_and_looks_for_another() {
    let stage = Stage::new().await;
    let mut second = selling_at(&stage, PRICE).await;
    let first = selling_at(&stage, PRICE).await;
    let customer = stage.customer();
    // Relays tell of the newest first, and of what is as new in an order of their own.
    let args = ["--select", "first", "--timeout", "20"];
    let (mut a, b) = (first, &mut second);
    let (ran, ()) = tokio::join!(buy(&stage, &customer, &args), async {
        tokio::select! {
            _ = a.asked() => b.sell("Paris").await,
            _ = b.asked() => a.sell("Paris").await,
        }
    });
    let ran = ran.expect(0);
    assert_eq!(failures(&ran), ["timeout"]);
    assert_eq!(ran.last()["text"], "Paris");
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_has_quoted_in_time_has_all_the_time_there_is() {
    let stage = Stage::new().await;
    let [mut first, second, _] = three(&stage).await;
    let customer = stage.customer();
    let (ran, ()) = tokio::join!(buy(&stage, &customer, &[]), async {
        let job = first.asked().await;
        let invoice = first.issue(PRICE - 1).await;
        first.quote(&job.id, &invoice.bolt11, PRICE - 1).await;
        first.until_money(invoice.payment_hash).await;
        tokio::time::sleep(agent_compute::config::QUOTE_PATIENCE * 6 / 5).await;
        first.result(&job.id, "worth waiting for").await;
    });
    assert_eq!(ran.expect(0).last()["text"], "worth waiting for");
    assert_eq!(asked(&[&first, &second]).await, [1, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_providers_share_the_time_of_one_purchase() {
    let stage = Stage::new().await;
    let [first, second, third] = three(&stage).await;
    let customer = stage.customer();
    let ran = buy(&stage, &customer, &["--timeout", "6", "--retries", "2"]).await;
    let ran = ran.expect(9);
    assert_eq!(failures(&ran), ["timeout", "timeout"]);
    assert_eq!(asked(&[&first, &second, &third]).await, [1, 1, 1]);
    assert_eq!(stage.books(&customer).await, Books::untouched());
}
