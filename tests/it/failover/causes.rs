//! What leads on to the next provider, and what does not.

use agent_compute::wallet::{Incoming as Money, Wallet};

use super::*;

/// The first provider does `what` with the request, and the second one sells.
async fn leads_on(stage: &Stage, code: &str, what: impl AsyncFnOnce(&mut Peer)) -> (Customer, Ran) {
    let [mut first, mut second, third] = three(stage).await;
    let customer = stage.customer();
    let (ran, ()) = tokio::join!(buy(stage, &customer, &[]), async {
        what(&mut first).await;
        second.sell("Paris").await;
    });
    let ran = ran.expect(0);
    assert_eq!(failures(&ran), [code]);
    let result = ran.last();
    assert_eq!(result["text"], "Paris");
    assert_eq!(result["provider"], second.key().to_hex());
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
    assert_eq!(asked(&[&first, &second, &third]).await, [1, 1, 0], "{code}");
    (customer, ran)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_leads_on() {
    let stage = Stage::new().await;
    leads_on(&stage, "provider_refused", async |first| {
        let job = first.asked().await;
        first.refuse(&job.id, "the queue is full").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invoice_that_fails_the_checks_leads_on() {
    let stage = Stage::new().await;
    let dear = async |first: &mut Peer| {
        let job = first.asked().await;
        let invoice = first.issue(PRICE).await;
        first.quote(&job.id, &invoice.bolt11, PRICE).await;
        invoice
    };
    let mut invoice = None;
    leads_on(&stage, "bad_invoice", async |first| {
        invoice = Some((dear(first).await, first.wallet.clone()));
    })
    .await;
    let (invoice, wallet) = invoice.unwrap();
    let money = wallet.incoming(invoice.payment_hash).await.unwrap();
    assert_eq!(money, Money::Open, "dearer than it was listed");

    let stage = Stage::new().await;
    leads_on(&stage, "bad_invoice", async |first| {
        let job = first.asked().await;
        first.quote(&job.id, "lnbcrt100n1mock", PRICE - 1).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hash_that_was_paid_before_leads_on_and_is_not_paid_again() {
    let stage = Stage::new().await;
    let [mut first, mut second, _] = three(&stage).await;
    let customer = stage.customer();
    let invoice = first.issue(PRICE - 1).await;
    for text in ["first", "second"] {
        let (ran, ()) = tokio::join!(buy(&stage, &customer, &[]), async {
            let job = first.asked().await;
            first.quote(&job.id, &invoice.bolt11, PRICE - 1).await;
            if text == "first" {
                first.until_money(invoice.payment_hash).await;
                first.result(&job.id, text).await;
            } else {
                second.sell(text).await;
            }
        });
        assert_eq!(ran.expect(0).last()["text"], text);
    }
    assert_eq!(stage.books(&customer).await, Books::paid(2 * PRICE - 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_failed_for_certain_leads_on_within_the_same_limits() {
    let stage = Stage::new().await;
    let [mut first, mut second, _] = three(&stage).await;
    let customer = stage.customer();
    // Room for one purchase in this tick, to the msat.
    stage
        .world
        .config(&customer.home, "[runway]\nper_tick_limit_sats = 10\n");
    let (ran, ()) = tokio::join!(buy(&stage, &customer, &["--tick", "t"]), async {
        let job = first.asked().await;
        // Signed, well-formed, and of a node that nobody can pay.
        let nobodys = signed(&draft(PRICE - 1));
        first.quote(&job.id, &nobodys, PRICE - 1).await;
        second.sell("Paris").await;
    });
    let ran = ran.expect(0);
    assert_eq!(failures(&ran), ["payment_failed"]);
    assert_eq!(all(&ran, "reserved").len(), 2);
    assert_eq!(all(&ran, "paid").len(), 1);
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
    // And nothing more fits now.
    let ran = buy(&stage, &customer, &["--tick", "t"]).await;
    assert_eq!(ran.expect(4).last()["code"], "budget");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wants_real_money_without_a_wallet_is_passed_over_for_who_does_not() {
    let stage = Stage::new().await;
    let [mut first, mut second, _] = three(&stage).await;
    let customer = stage.customer();
    let mut command = stage.world.bare_customer(
        &customer.home,
        &[
            "--relay",
            &stage.world.relay,
            "--no-wallet",
            "--json",
            "--prompt",
            "hello",
        ],
    );
    let running = tokio::task::spawn_blocking(move || crate::harness::run(&mut command));
    let (ran, ()) = tokio::join!(running, async {
        let job = first.asked().await;
        let invoice = first.issue(PRICE - 1).await;
        first.quote(&job.id, &invoice.bolt11, PRICE - 1).await;
        let job = second.asked().await;
        second.quote(&job.id, "lnbcrt100n1mock", PRICE).await;
        second.result(&job.id, "free").await;
    });
    let ran = ran.unwrap().expect(0);
    assert_eq!(failures(&ran), ["wallet"]);
    assert_eq!(
        (&ran.last()["text"], &ran.last()["paid_msat"]),
        (&"free".into(), &0.into())
    );
}

/// The first provider does `what`, the purchase ends with this exit code, and nobody else was asked.
async fn stops(
    stage: &Stage,
    (code, args, fault): (i32, &[&str], Option<&str>),
    what: impl AsyncFnOnce(&mut Peer),
) -> (Customer, Ran) {
    let [mut first, second, third] = three(stage).await;
    let customer = stage.customer();
    let fixed = ["--json", "--prompt", "hello"];
    let mut command = stage.command(&customer, &[&fixed, args].concat());
    if !args.contains(&"--retries") {
        command.args(["--retries", "5"]);
    }
    if let Some(fault) = fault {
        command.env("AGENT_COMPUTE_SIM_FAULT", fault);
    }
    let running = tokio::task::spawn_blocking(move || crate::harness::run(&mut command));
    let (ran, ()) = tokio::join!(running, what(&mut first));
    let ran = ran.unwrap().expect(code);
    assert_eq!(failures(&ran), [""; 0]);
    assert_eq!(asked(&[&first, &second, &third]).await, [1, 0, 0]);
    (customer, ran)
}

async fn quotes(provider: &mut Peer) {
    let job = provider.asked().await;
    let invoice = provider.issue(PRICE - 1).await;
    provider.quote(&job.id, &invoice.bolt11, PRICE - 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_may_have_been_made_stops_it() {
    let stage = Stage::new().await;
    for (fault, books) in [
        ("timeout-after", Books::in_doubt(PRICE - 1)),
        (
            "timeout-before",
            Books {
                gone: 0,
                ..Books::in_doubt(PRICE - 1)
            },
        ),
    ] {
        let (customer, ran) = stops(&stage, (6, &[], Some(fault)), quotes).await;
        assert_eq!(ran.last()["reserved_msat"], PRICE - 1);
        assert_eq!(stage.books(&customer).await, books, "{fault}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn money_that_is_spent_stops_it_though_nothing_came_for_it() {
    let stage = Stage::new().await;
    let (customer, ran) = stops(&stage, (7, &[], None), async |first| {
        let job = first.asked().await;
        let invoice = first.issue(PRICE - 1).await;
        first.quote(&job.id, &invoice.bolt11, PRICE - 1).await;
        first.until_money(invoice.payment_hash).await;
        first.refuse(&job.id, "no").await;
    })
    .await;
    assert_eq!(ran.last()["paid_msat"], PRICE - 1);
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE - 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_stops_it() {
    let stage = Stage::new().await;
    // They list no price, so that only the invoice tells that it is over the limit.
    let mut first = Peer::unlisted(&stage).await;
    let second = Peer::unlisted(&stage).await;
    for provider in [&first, &second] {
        provider.list_with("", &[&["price"]]).await;
    }
    let customer = stage.customer();
    stage
        .world
        .config(&customer.home, "[runway]\nper_job_limit_sats = 9\n");
    let mut second = second;
    let (ran, ()) = tokio::join!(buy(&stage, &customer, &[]), async {
        // The newer of two that ask alike comes first, and which that is depends on the second.
        let (job, asked) = tokio::select! {
            job = first.asked() => (job, &first),
            job = second.asked() => (job, &second),
        };
        let invoice = asked.issue(PRICE).await;
        asked.quote(&job.id, &invoice.bolt11, PRICE).await;
    });
    let ran = ran.expect(4);
    assert_eq!(failures(&ran), [""; 0]);
    assert_eq!(asked(&[&first, &second]).await.iter().sum::<usize>(), 1);
    assert_eq!(stage.books(&customer).await, Books::untouched());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_without_the_money_stops_it() {
    let stage = Stage::new().await;
    let customer = stage.customer();
    let spent = stage.wallet(customer.keys.public_key());
    let mut sink = selling_at(&stage, PRICE).await;
    // All but a little is gone.
    let most = crate::stage::OPENING - PRICE / 2;
    let invoice = sink.issue(most).await;
    let payment = agent_compute::wallet::PayRequest {
        bolt11: invoice.bolt11,
        payment_hash: invoice.payment_hash,
        amount: invoice.amount,
        max_fee: Msat::ZERO,
        purchase: agent_compute::ids::PurchaseId::from_bytes([1; 16]),
    };
    let paid = spent.pay(payment).await;
    assert!(matches!(
        paid,
        agent_compute::wallet::PayOutcome::Paid { .. }
    ));
    let other = selling_at(&stage, PRICE + 1).await;
    let (ran, ()) = tokio::join!(buy(&stage, &customer, &[]), async {
        let job = sink.asked().await;
        let invoice = sink.issue(PRICE).await;
        sink.quote(&job.id, &invoice.bolt11, PRICE).await;
    });
    let ran = ran.expect(12);
    assert_eq!(failures(&ran), [""; 0]);
    assert_eq!(asked(&[&sink, &other]).await, [1, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_retries_the_first_failure_is_the_last() {
    let stage = Stage::new().await;
    let refuses = async |first: &mut Peer| {
        let job = first.asked().await;
        first.refuse(&job.id, "the queue is full").await;
    };
    let (customer, ran) = stops(&stage, (10, &["--retries", "0"], None), refuses).await;
    let error = ran.last();
    assert_eq!(
        error["message"],
        "the provider refused: the queue is full (failed); nothing was paid"
    );
    assert_eq!(stage.books(&customer).await, Books::untouched());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_named_is_the_only_one_asked() {
    let stage = Stage::new().await;
    let [mut first, second, third] = three(&stage).await;
    let key = first.key().to_hex();
    let customer = stage.customer();
    for named in [key.as_str(), &key[..10]] {
        let args = ["--select", named, "--retries", "5"];
        let (ran, ()) = tokio::join!(buy(&stage, &customer, &args), async {
            let job = first.asked().await;
            first.refuse(&job.id, "no").await;
        });
        assert_eq!(failures(&ran.expect(10)), [""; 0]);
    }
    // The library names one by its offer.
    let client = stage.client(&customer).await;
    let offers = client.offers(SOON).await.unwrap();
    let offer = offers.into_iter().find(|one| one.provider == first.key());
    let request = agent_compute::client::PurchaseRequest {
        offer,
        retries: 5,
        ..agent_compute::client::PurchaseRequest::new("hello")
    };
    let (receipt, ()) = tokio::join!(client.purchase(request).receipt(), async {
        let job = first.asked().await;
        first.refuse(&job.id, "no").await;
    });
    let code = receipt.unwrap_err().code();
    assert_eq!(code, agent_compute::client::Code::ProviderRefused);
    assert_eq!(asked(&[&first, &second, &third]).await, [3, 0, 0]);
}
