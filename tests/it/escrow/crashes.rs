//! SIGKILL of the buyer, at each of its steps and at moments of chance. Whenever it comes back, the provider
//! is paid for what it delivered, once, or the money is back.

use std::time::{Duration, Instant};

use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinSet;

use super::*;
use crate::harness::{Running, run};

/// An honest provider, for as long as the set lives: quotes, delivers once its own wallet says held, claims.
async fn honest(stage: &Stage, provider: Peer) -> JoinSet<()> {
    let _ = stage;
    let mut at_work = JoinSet::new();
    at_work.spawn(serve(provider));
    at_work
}

async fn serve(mut provider: Peer) {
    let us = provider.key().to_hex();
    loop {
        let (event, message) = provider
            .hear(|event, message| Some((event.clone(), message)))
            .await;
        match message {
            AgentMessage::JobRequest(request) if request.target_provider.as_ref() == Some(&us) => {
                let id = agent_compute::ids::JobId::of_request(&event.id);
                let job = Asked { id, request };
                let hash = hash_of(&job);
                let invoice = provider.issue_on(PRICE, Some(hash)).await;
                provider.quote_modern(&job.id, &invoice).await;
            }
            AgentMessage::HtlcLocked(locked) => {
                let hash = locked.payment_hash.parse().unwrap();
                let money = provider.until_money(hash).await;
                if matches!(money, Incoming::Held { .. }) {
                    provider.chunk(&locked.job_id, Some(0), "Par", false).await;
                    provider.chunk(&locked.job_id, Some(1), "is", true).await;
                    provider.result(&locked.job_id, "Paris").await;
                }
            }
            AgentMessage::PreimageRelease(release) => {
                let preimage = release.preimage.parse().unwrap();
                // Said again after it was claimed: settling twice is settling.
                provider.wallet.settle(preimage).await.unwrap();
            }
            _ => {}
        }
    }
}

/// Recovers until nothing is open.
pub(super) fn settle(stage: &Stage, customer: &Customer) {
    let mut last = None;
    for _ in 0..10 {
        let ran = run(&mut stage.command(customer, &["--json", "recover"]));
        if ran.code == 0 {
            return;
        }
        last = Some(ran);
    }
    panic!("recover never came to an end: {last:#?}");
}

pub(super) fn history(stage: &Stage, customer: &Customer) -> Vec<serde_json::Value> {
    run(&mut stage.command(customer, &["--json", "history"]))
        .expect(0)
        .events()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_each_step_it_takes_up_where_it_was() {
    let stage = Stage::new().await;
    let provider = seller(&stage).await;
    let key = provider.key().to_hex();
    let _at_work = honest(&stage, provider).await;
    for step in [
        "selected",
        "requested",
        "quoted",
        "reserved",
        "paying",
        "locked",
        "chunk",
        "released",
        "paid",
    ] {
        let customer = stage.customer();
        let args = ["--json", "--htlc", "--select", &key, "--prompt", "x"];
        let wanted = format!("\"event\":\"{step}\"");
        tokio::task::block_in_place(|| {
            let mut buying = stage.start(&customer, &args);
            buying.wait_for(step, |line| line.contains(&wanted).then_some(()));
            buying.kill();
            settle(&stage, &customer);
        });
        let purchases = tokio::task::block_in_place(|| history(&stage, &customer));
        assert_eq!(purchases.len(), 1);
        let books = stage.books(&customer).await;
        match purchases[0]["state"].as_str().unwrap() {
            "delivered" => assert_eq!(books, Books::paid(PRICE), "{step}"),
            "failed" => {
                assert_eq!(books, Books::untouched(), "{step}");
                let before = ["selected", "requested", "quoted", "reserved", "paying"];
                assert!(before.contains(&step), "{step}: {}", purchases[0]);
            }
            other => panic!("{step}: {other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_pays_once_for_what_it_gets() {
    let stage = Stage::new().await;
    let provider = seller(&stage).await;
    let key = provider.key();
    let _at_work = honest(&stage, provider).await;
    let begun = Instant::now();
    let warm = stage.customer();
    stage.buy(&warm, key, &["--htlc"]).await.expect(0);
    let usual = begun.elapsed();
    let mut moments = rand::rngs::StdRng::seed_from_u64(0xe5c);
    let customer = stage.customer();
    let key = key.to_hex();
    let args = ["--json", "--htlc", "--select", &key, "--prompt", "x"];
    tokio::task::block_in_place(|| {
        for _ in 0..16 {
            let mut buying = stage.start(&customer, &args);
            std::thread::sleep(usual.mul_f64(moments.random_range(0.0..1.0)));
            buying.kill();
            if moments.random_ratio(1, 3) {
                // Recovery is cut off as well.
                let mut recovering = Running::start(&mut stage.command(&customer, &["recover"]));
                std::thread::sleep(usual.mul_f64(moments.random_range(0.0..0.5)));
                recovering.kill();
            }
        }
        settle(&stage, &customer);
    });
    let purchases = tokio::task::block_in_place(|| history(&stage, &customer));
    let delivered = purchases.iter().filter(|one| one["state"] == "delivered");
    let delivered = delivered.count() as u64;
    for one in &purchases {
        assert!(
            one["state"] == "delivered" || one["state"] == "failed",
            "{one}"
        );
    }
    println!("{} purchases, {delivered} delivered", purchases.len());
    assert_eq!(stage.books(&customer).await, Books::paid(delivered * PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_in_the_middle_the_same_client_takes_it_up() {
    use agent_compute::client::{PurchaseEvent, PurchaseRequest};
    let stage = Stage::new().await;
    let mut provider = seller(&stage).await;
    let customer = stage.customer();
    let client = stage.client(&customer).await;
    let request = PurchaseRequest {
        escrow: true,
        ..stage.request(&provider)
    };
    let mut purchase = client.purchase(request);
    let held = held_job(&mut provider).await;
    while !matches!(
        purchase.next_event().await,
        Some(PurchaseEvent::Locked { .. })
    ) {}
    drop(purchase);
    provider.result(&held.job.id, "Paris").await;
    let (recovered, ()) = tokio::join!(
        async {
            loop {
                let found = client.recover().await.unwrap();
                if let Some(one) = found.first() {
                    break one.clone();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        },
        claim(&mut provider, &held)
    );
    assert_eq!(recovered.text.as_deref(), Some("Paris"));
    assert_eq!(recovered.trouble, None);
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_locked_is_looked_at_before_the_next_purchase() {
    let stage = Stage::new().await;
    let mut provider = seller(&stage).await;
    let customer = stage.customer();
    let args = ["--htlc", "--timeout", "3"];
    let (ran, held) = tokio::join!(
        stage.buy(&customer, provider.key(), &args),
        held_job(&mut provider)
    );
    ran.expect(7);
    provider.wallet.cancel(held.hash).await.unwrap();
    let client = stage.client(&customer).await;
    assert_eq!(client.recovered()[0].state, "failed");
    assert_eq!(stage.books(&customer).await, Books::untouched());
}
