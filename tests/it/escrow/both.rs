//! Both real programs, and SIGKILL on either side at moments of chance.

use std::time::{Duration, Instant};

use nostr::Keys;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::crashes::{history, settle};
use super::*;
use crate::harness::{Running, run};
use crate::stage::chunks;

#[tokio::test(flavor = "multi_thread")]
async fn a_job_in_escrow_is_streamed_and_paid_for_after_delivery() {
    let stage = Stage::new().await;
    let seller = Keys::generate();
    let _provider = stage.provider(&seller, &["--stream"]).await;
    for (number, args) in [&["--htlc"][..], &["--htlc", "--plaintext"]]
        .iter()
        .enumerate()
    {
        let customer = stage.customer();
        let ran = stage
            .buy(&customer, seller.public_key(), args)
            .await
            .expect(0);
        assert_eq!(chunks(&ran).concat(), "hello");
        assert_eq!(ran.last()["paid_msat"], PRICE);
        assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
        assert_eq!(stage.earned(&seller).await, (number as u64 + 1) * PRICE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_locks_and_releases() {
    let demo = |args: &[&str]| {
        let world = crate::harness::World::on("ws://127.0.0.1:9".to_owned());
        run(&mut world.bare_customer("home", &[&["demo", "--json"], args].concat())).expect(0)
    };
    let ran = tokio::task::block_in_place(|| demo(&["--htlc", "--prompt", "a b"]));
    for name in ["locked", "released", "paid"] {
        assert!(ran.event(name).is_some(), "{name}");
    }
    assert_eq!(ran.last()["text"], "a b");
}

/// How long one purchase takes here and now.
async fn usual_time(stage: &Stage, seller: &Keys) -> Duration {
    let begun = Instant::now();
    let warm = stage.customer();
    let ran = stage.buy(&warm, seller.public_key(), &["--htlc"]).await;
    ran.expect(0);
    begun.elapsed()
}

fn pause(chance: &mut StdRng, most: Duration) {
    std::thread::sleep(most.mul_f64(chance.random_range(0.0..1.0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn customers_killed_at_any_moment_pay_for_what_they_get_and_the_seller_earns_it() {
    let stage = Stage::new().await;
    let seller = Keys::generate();
    let _provider = stage.provider(&seller, &["--stream"]).await;
    let usual = usual_time(&stage, &seller).await;
    let mut chance = StdRng::seed_from_u64(0x1a7e);
    let key = seller.public_key().to_hex();
    let args = ["--json", "--htlc", "--select", &key, "--prompt", "x y z"];
    let mut earned = PRICE;
    for _ in 0..2 {
        let customer = stage.customer();
        let purchases = tokio::task::block_in_place(|| {
            for _ in 0..8 {
                let mut buying = stage.start(&customer, &args);
                pause(&mut chance, usual);
                buying.kill();
                if chance.random_ratio(1, 3) {
                    let mut command = stage.command(&customer, &["recover"]);
                    let mut recovering = Running::start(&mut command);
                    pause(&mut chance, usual / 2);
                    recovering.kill();
                }
            }
            settle(&stage, &customer);
            history(&stage, &customer)
        });
        let delivered = purchases.iter().filter(|one| one["state"] == "delivered");
        let paid = delivered.count() as u64 * PRICE;
        assert_eq!(stage.books(&customer).await, Books::paid(paid));
        earned += paid;
    }
    assert_eq!(stage.earned(&seller).await, earned);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_killed_at_any_moment_delivers_what_is_locked_or_gives_it_back() {
    let stage = Stage::new().await;
    let seller = Keys::generate();
    let mut provider = stage.provider(&seller, &["--stream"]).await;
    let usual = usual_time(&stage, &seller).await;
    let mut chance = StdRng::seed_from_u64(0xdead);
    let key = seller.public_key().to_hex();
    let customer = stage.customer();
    let args = [
        "--json",
        "--htlc",
        "--timeout",
        "40",
        "--select",
        &key,
        "--prompt",
        "x y z",
    ];
    let rounds = 6;
    for round in 0..rounds {
        let mut buying = stage.start(&customer, &args);
        tokio::task::block_in_place(|| pause(&mut chance, usual));
        tokio::task::block_in_place(|| provider.process.kill());
        provider = stage.provider(&seller, &["--stream"]).await;
        tokio::task::block_in_place(|| {
            let last = buying.wait_for("the last line", |line| {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                (line["event"] == "result" || line["event"] == "error").then_some(line)
            });
            buying.exit_code();
            assert_eq!(last["event"], "result", "round {round}: {last}");
            assert_eq!(last["text"], "x y z");
        });
    }
    tokio::task::block_in_place(|| settle(&stage, &customer));
    assert_eq!(stage.books(&customer).await, Books::paid(rounds * PRICE));
    assert_eq!(stage.earned(&seller).await, (1 + rounds) * PRICE);
}
