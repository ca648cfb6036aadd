//! Stopped, killed, without a relay, or with another process on the same key: at most one is paid.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agent_compute::client::{Code, ComputeClient, PurchaseEvent, PurchaseRequest};
use agent_compute::config::Home;
use agent_compute::identity::Identity;
use agent_compute::relay::{
    Published, RelayError, RelayPoolSession, RelaySession, RelayState, Subscription,
};
use async_trait::async_trait;
use nostr::{Event, Keys};
use tokio::task::JoinSet;

use super::*;

/// Refuses whatever it is asked, for ever.
async fn refuse_for_ever(mut provider: Peer) {
    loop {
        let job = provider.asked().await;
        provider.refuse(&job.id, "no").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_on_one_key_that_all_fail_over_pay_one_provider_once() {
    let stage = Stage::new().await;
    let seller = Keys::generate();
    let _seller = stage.provider(&seller, &[]).await;
    let bad = selling_at(&stage, PRICE - 1).await;
    let mut tasks = JoinSet::new();
    tasks.spawn(refuse_for_ever(bad));
    for round in 0..3 {
        let customer = stage.customer();
        let key = format!("key-{round}");
        let args = ["--idempotency-key", &key];
        let buys = (0..4).map(|_| buy(&stage, &customer, &args));
        let ran = futures_util::future::join_all(buys).await;
        let results: Vec<Value> = ran.into_iter().map(|ran| ran.expect(0).last()).collect();
        for result in &results {
            assert_eq!(result["purchase_id"], results[0]["purchase_id"]);
            assert_eq!(result["text"], "hello");
        }
        assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_during_the_second_attempt_ends_all() {
    let stage = Stage::new().await;
    let [mut first, mut second, third] = three(&stage).await;
    let customer = stage.customer();
    let mut buying = stage.start(
        &customer,
        &["--json", "--retries", "5", "--prompt", "hello"],
    );
    let job = first.asked().await;
    first.refuse(&job.id, "no").await;
    second.asked().await;
    buying.signal("INT");
    let (code, last) = tokio::task::spawn_blocking(move || {
        let last = buying.wait_for("the last line", |line| {
            line.contains("\"event\":\"error\"")
                .then(|| line.to_owned())
        });
        (buying.exit_code(), last)
    })
    .await
    .unwrap();
    assert_eq!(code, Some(130));
    let last: Value = serde_json::from_str(&last).unwrap();
    assert_eq!(last["code"], "interrupted");
    assert_eq!(asked(&[&first, &second, &third]).await, [1, 1, 0]);
    assert_eq!(stage.books(&customer).await, Books::untouched());
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_two_attempts_it_begins_anew_under_the_same_key_and_is_paid_once() {
    let stage = Stage::new().await;
    let [mut first, mut second, _] = three(&stage).await;
    for moment in ["failed_over", "the second was asked"] {
        let customer = stage.customer();
        let args = ["--json", "--idempotency-key", "k", "--prompt", "hello"];
        let mut buying = stage.start(&customer, &args);
        let job = first.asked().await;
        first.refuse(&job.id, "no").await;
        if moment == "failed_over" {
            buying = tokio::task::spawn_blocking(move || {
                buying.wait_for("the failure", |line| {
                    line.contains("failed_over").then_some(())
                });
                buying
            })
            .await
            .unwrap();
        } else {
            second.asked().await;
        }
        buying.kill();
        stage.recover(&customer).await.expect(0);
        assert_eq!(stage.books(&customer).await, Books::untouched());
        let (ran, ()) = tokio::join!(buy(&stage, &customer, &args[1..3]), async {
            let job = first.asked().await;
            first.refuse(&job.id, "no").await;
            loop {
                // One that came before the kill is not paid: ask again.
                let job = second.asked().await;
                let invoice = second.issue(PRICE).await;
                second.quote(&job.id, &invoice.bolt11, PRICE).await;
                let paid = second.until_money(invoice.payment_hash);
                if tokio::time::timeout(Duration::from_secs(5), paid)
                    .await
                    .is_ok()
                {
                    second.result(&job.id, "Paris").await;
                    break;
                }
            }
        });
        assert_eq!(ran.expect(0).last()["text"], "Paris", "{moment}");
        let again = buy(&stage, &customer, &args[1..3]).await.expect(0);
        assert_eq!(again.last()["text"], "Paris");
        assert_eq!(stage.books(&customer).await, Books::paid(PRICE), "{moment}");
    }
}

/// Relays that are gone once so many subscriptions were made.
#[derive(Debug)]
struct Dying {
    relays: Arc<RelayPoolSession>,
    left: AtomicUsize,
}

impl Dying {
    fn is_dead(&self) -> bool {
        let spend = |left: usize| left.checked_sub(1);
        let spent = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, spend);
        spent.is_err()
    }
}

#[async_trait]
impl RelaySession for Dying {
    fn relays(&self) -> Vec<RelayState> {
        self.relays.relays()
    }

    async fn publish(&self, event: &Event, within: Duration) -> Result<Published, RelayError> {
        self.relays.publish(event, within).await
    }

    async fn subscribe(
        &self,
        filter: Filter,
        within: Duration,
    ) -> Result<Subscription, RelayError> {
        if self.is_dead() {
            tokio::time::sleep(within).await;
            return Err(RelayError::Unreachable(Vec::new()));
        }
        self.relays.subscribe(filter, within).await
    }

    async fn close(&self) {
        self.relays.close().await;
    }
}

/// A client whose relays live for discovery and one attempt.
async fn client(stage: &Stage, customer: &Customer) -> ComputeClient {
    let relays: Arc<dyn RelaySession> = Arc::new(Dying {
        relays: stage.session(),
        left: AtomicUsize::new(2),
    });
    ComputeClient::builder()
        .home(Home::at(stage.world.home(&customer.home)))
        .identity(Identity::from_keys(customer.keys.clone()))
        .relays(relays)
        .wallet(Arc::new(stage.wallet(customer.keys.public_key())))
        .build()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_that_die_between_two_attempts_end_it_unpaid() {
    let stage = Stage::new().await;
    let [mut first, second, third] = three(&stage).await;
    let customer = stage.customer();
    let request = PurchaseRequest {
        retries: 5,
        timeout: Duration::from_secs(6),
        ..PurchaseRequest::new("hello")
    };
    let client = client(&stage, &customer).await;
    let (receipt, ()) = tokio::join!(client.purchase(request).receipt(), async {
        let job = first.asked().await;
        first.refuse(&job.id, "no").await;
    });
    let error = receipt.unwrap_err();
    assert_eq!(error.code(), Code::Network, "{error}");
    assert_eq!(asked(&[&first, &second, &third]).await, [1, 0, 0]);
    assert_eq!(stage.books(&customer).await, Books::untouched());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_heard_while_no_relay_can_be_reached_for_the_next_attempt() {
    let stage = Stage::new().await;
    let [mut first, second, _] = three(&stage).await;
    let customer = stage.customer();
    let client = client(&stage, &customer).await;
    let mut purchase = client.purchase(PurchaseRequest::new("hello"));
    let job = first.asked().await;
    first.refuse(&job.id, "no").await;
    let mut selected = 0;
    while selected < 2 {
        match purchase.next_event().await {
            Some(PurchaseEvent::FailedOver { .. }) => break,
            Some(PurchaseEvent::Selected { .. }) => selected += 1,
            Some(_) => {}
            None => break,
        }
    }
    purchase.stop();
    let error = purchase.receipt().await.unwrap_err();
    assert_eq!(error.code(), Code::Interrupted, "{error}");
    assert_eq!(asked(&[&first, &second]).await, [1, 0]);
    assert_eq!(stage.books(&customer).await, Books::untouched());
}
