//! Providers that cheated before, and those that would make a record for themselves.

use agent_compute::units::Msat;
use serde_json::Value;

use crate::cast::Peer;
use crate::stage::{Books, Customer, PRICE, Stage};

const BEST: [&str; 5] = ["--json", "--select", "best", "--prompt", "hello"];

async fn record(stage: &Stage, customer: &Customer, of: &Peer) -> Value {
    let ran = stage
        .run(customer, &["--json", "providers"])
        .await
        .expect(0);
    let key = of.key().to_hex();
    let seen = ran
        .events()
        .into_iter()
        .find(|seen| seen["provider"] == key);
    seen.expect("is listed")["record"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thief_is_passed_over_at_any_price_until_the_result_comes_after_all() {
    let stage = Stage::new().await;
    let mut thief = Peer::provider(&stage).await;
    let customer = stage.customer();
    let (ran, job) = tokio::join!(
        stage.buy(&customer, thief.key(), &["--timeout", "4"]),
        thief.paid_job()
    );
    ran.expect(7);
    let known = record(&stage, &customer, &thief).await;
    assert_eq!(
        (&known["attempts"], &known["undelivered"], &known["score"]),
        (&1.into(), &1.into(), &10.into())
    );

    let mut honest = Peer::provider(&stage).await;
    thief
        .list(|content| content.price.per_request = Msat::new(1))
        .await;
    let (ran, ()) = tokio::join!(stage.run(&customer, &BEST), honest.sell("done"));
    assert_eq!(ran.expect(0).last()["provider"], honest.key().to_hex());
    assert_eq!(stage.books(&customer).await, Books::paid(2 * PRICE));

    // Nothing new is counted by looking again, and a late result makes it good.
    for (late, undelivered) in [(false, 1), (true, 0)] {
        if late {
            thief.result(&job.id, "late").await;
        }
        stage.recover(&customer).await.expect(0);
        let known = record(&stage, &customer, &thief).await;
        assert_eq!(known["attempts"], 1);
        assert_eq!(known["undelivered"], undelivered);
        assert_eq!(known["delivered"], 1 - undelivered);
    }
    let only = [&BEST[..], &["--retries", "0"]].concat();
    let (ran, ()) = tokio::join!(stage.run(&customer, &only), async {
        let job = thief.asked().await;
        thief.refuse(&job.id, "no").await;
    });
    ran.expect(10);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_bad_invoices_and_silence_are_told_apart_and_our_own_doing_is_none_of_them() {
    let stage = Stage::new().await;
    let mut provider = Peer::provider(&stage).await;
    let (customer, key) = (stage.customer(), provider.key());
    let refused = async {
        let job = provider.asked().await;
        provider.refuse(&job.id, "no").await;
    };
    let (ran, ()) = tokio::join!(stage.buy(&customer, key, &[]), refused);
    ran.expect(10);
    let overcharged = async {
        let job = provider.asked().await;
        let invoice = provider.issue(PRICE + 1).await;
        provider.quote(&job.id, &invoice.bolt11, PRICE + 1).await;
    };
    let (ran, ()) = tokio::join!(stage.buy(&customer, key, &[]), overcharged);
    ran.expect(11);
    let (ran, _) = tokio::join!(
        stage.buy(&customer, key, &["--timeout", "2"]),
        provider.asked()
    );
    ran.expect(9);
    let expected = |known: &Value| {
        let count = |name: &str| known[name].as_u64().unwrap();
        assert_eq!(count("attempts"), 3, "{known}");
        assert_eq!(
            [count("refused"), count("bad_invoices"), count("unanswered")],
            [1, 1, 1]
        );
    };
    expected(&record(&stage, &customer, &provider).await);

    // A wallet that refuses to pay is ours.
    let quoted = async {
        let job = provider.asked().await;
        let invoice = provider.issue(PRICE).await;
        provider.quote(&job.id, &invoice.bolt11, PRICE).await;
    };
    let key = key.to_hex();
    let mut command = stage.command(&customer, &["--json", "--select", &key, "--prompt", "x"]);
    command.env("AGENT_COMPUTE_SIM_FAULT", "refuse");
    let buying = tokio::task::spawn_blocking(move || crate::harness::run(&mut command));
    let (ran, ()) = tokio::join!(buying, quoted);
    ran.unwrap().expect(5);
    expected(&record(&stage, &customer, &provider).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_without_a_price_does_not_slip_through_the_limit_for_the_unproven() {
    let stage = Stage::new().await;
    let mut provider = Peer::unlisted(&stage).await;
    provider.list_with("{}", &[&["price"]]).await;
    let (customer, key) = (stage.customer(), provider.key());
    stage
        .world
        .config(&customer.home, "[policy]\nunproven_limit_sats = 9");
    let dear = async {
        let job = provider.asked().await;
        // It is told beforehand.
        assert_eq!(job.request.max_price_msats, Some(Msat::new(9_000)));
        let invoice = provider.issue(PRICE).await;
        provider.quote(&job.id, &invoice.bolt11, PRICE).await;
    };
    let (ran, ()) = tokio::join!(stage.buy(&customer, key, &[]), dear);
    let error = ran.expect(11).last();
    assert_eq!(error["code"], "bad_invoice", "{error}");
    assert_eq!(stage.books(&customer).await, Books::untouched());
    // It had promised nothing: no more than a refusal.
    let known = record(&stage, &customer, &provider).await;
    assert_eq!(
        (&known["bad_invoices"], &known["refused"]),
        (&0.into(), &1.into())
    );

    let modest = async {
        let job = provider.asked().await;
        let invoice = provider.issue(9_000).await;
        provider.quote(&job.id, &invoice.bolt11, 9_000).await;
        provider.until_money(invoice.payment_hash).await;
        provider.result(&job.id, "done").await;
    };
    let (ran, ()) = tokio::join!(stage.buy(&customer, key, &[]), modest);
    ran.expect(0);
    assert_eq!(stage.books(&customer).await, Books::paid(9_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_still_has_time_is_not_blamed_because_we_were_killed() {
    let stage = Stage::new().await;
    let mut provider = Peer::provider(&stage).await;
    let customer = stage.customer();
    let key = provider.key().to_hex();
    let args = ["--json", "--select", &key, "--prompt", "hello"];
    let mut buying = stage.start(&customer, &args);
    let job = provider.paid_job().await;
    buying.wait_for("the payment is booked", |line| {
        line.contains(r#""event":"paid""#).then_some(())
    });
    buying.kill();
    // A new process looks for the result, but not for as long as was promised.
    let dry = ["--json", "--dry-run", "--prompt", "again"];
    let seen = stage.run(&customer, &dry).await.expect(0);
    assert_eq!(seen.event("provider").unwrap()["record"]["attempts"], 0);
    provider.result(&job.id, "here").await;
    stage.recover(&customer).await.expect(0);
    let known = record(&stage, &customer, &provider).await;
    assert_eq!(
        (&known["attempts"], &known["delivered"]),
        (&1.into(), &1.into())
    );
}
