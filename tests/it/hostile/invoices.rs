//! Providers that cheat with the invoice.

use agent_compute::ids::{JobId, Preimage};
use agent_compute::protocol::message::{AgentMessage, Invoice};
use agent_compute::units::{Msat, Network};
use agent_compute::wallet::Incoming as Money;
use agent_compute::wallet::Wallet;

use crate::cast::{Peer, draft, now, signed};
use crate::stage::{Books, PRICE, Stage};

/// The provider answers the request with this invoice, and it is refused: exit 11, nothing paid.
async fn refused(stage: &Stage, provider: &mut Peer, what: &str, bolt11: String, says: u64) {
    let customer = stage.customer();
    let (ran, ()) = tokio::join!(stage.buy(&customer, provider.key(), &[]), async {
        let job = provider.asked().await;
        provider.quote(&job.id, &bolt11, says).await;
    });
    let error = ran.expect(11).last();
    assert_eq!(error["code"], "bad_invoice", "{what}");
    assert_eq!(
        (&error["paid_msat"], &error["reserved_msat"]),
        (&0.into(), &0.into()),
        "{what}"
    );
    assert_eq!(stage.books(&customer).await, Books::untouched(), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invoice_that_is_not_what_was_agreed_is_refused_and_nothing_is_paid() {
    let stage = Stage::new().await;
    let mut provider = Peer::provider(&stage).await;
    let dear = provider.issue(PRICE + 1).await.bolt11;
    refused(&stage, &mut provider, "dearer than listed", dear, PRICE + 1).await;
    let dear = provider.issue(PRICE + 1).await.bolt11;
    refused(
        &stage,
        &mut provider,
        "dearer than the message says",
        dear,
        PRICE,
    )
    .await;
    let cheap = provider.issue(PRICE - 1).await.bolt11;
    refused(
        &stage,
        &mut provider,
        "cheaper than the message says",
        cheap,
        PRICE,
    )
    .await;

    let changed = |change: fn(&mut agent_compute::wallet::issue::Draft)| {
        let mut draft = draft(PRICE);
        change(&mut draft);
        signed(&draft)
    };
    for (what, bolt11) in [
        ("amountless", changed(|d| d.amount = None)),
        ("mainnet", changed(|d| d.network = Network::Mainnet)),
        ("signet", changed(|d| d.network = Network::Signet)),
        ("expired", changed(|d| d.created_at = now().minus(601))),
        ("about to expire", changed(|d| d.expiry_secs = 5)),
        (
            "from the future",
            changed(|d| d.created_at = now().plus(86_400)),
        ),
        (
            "payable for ever",
            changed(|d| d.expiry_secs = u64::from(u32::MAX)),
        ),
        ("held for weeks", changed(|d| d.min_final_cltv = 2016)),
        (
            "a Spark address",
            "sprt1pgssyuuuhnrrdjswal5c3s3rafw9w3y5dd4cjy3duxlf7hjzkp0rqx6dj6mrhu".into(),
        ),
        ("the mock invoice", "lnbcrt100n1mock".into()),
        ("nothing", String::new()),
        ("garbage", "lnbcrt100n1\u{1b}[2J\0\u{202e}".into()),
    ] {
        refused(&stage, &mut provider, what, bolt11, PRICE).await;
    }
    // The same provider with a true invoice is paid.
    let customer = stage.customer();
    let (ran, ()) = tokio::join!(
        stage.buy(&customer, provider.key(), &[]),
        provider.sell("true")
    );
    assert_eq!(ran.expect(0).last()["text"], "true");
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cheaper_invoice_is_welcome_and_only_its_amount_is_paid() {
    let stage = Stage::new().await;
    let mut provider = Peer::provider(&stage).await;
    let customer = stage.customer();
    let (ran, ()) = tokio::join!(stage.buy(&customer, provider.key(), &[]), async {
        let job = provider.asked().await;
        let invoice = provider.issue(1).await;
        provider.quote(&job.id, &invoice.bolt11, 1).await;
        provider.until_money(invoice.payment_hash).await;
        provider.result(&job.id, "cheap").await;
    });
    assert_eq!(ran.expect(0).last()["paid_msat"], 1);
    assert_eq!(stage.books(&customer).await, Books::paid(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invoice_is_paid_once_whoever_serves_it_again() {
    let stage = Stage::new().await;
    let mut provider = Peer::provider(&stage).await;
    let mut accomplice = Peer::provider(&stage).await;
    let customer = stage.customer();
    let invoice = provider.issue(PRICE).await;
    let (ran, ()) = tokio::join!(stage.buy(&customer, provider.key(), &[]), async {
        let job = provider.asked().await;
        provider.quote(&job.id, &invoice.bolt11, PRICE).await;
        provider.until_money(invoice.payment_hash).await;
        provider.result(&job.id, "first").await;
    });
    ran.expect(0);
    for again in [&mut provider, &mut accomplice] {
        let (ran, ()) = tokio::join!(stage.buy(&customer, again.key(), &[]), async {
            let job = again.asked().await;
            // In capitals it is the same invoice.
            again
                .quote(&job.id, &invoice.bolt11.to_uppercase(), PRICE)
                .await;
        });
        assert_eq!(ran.expect(11).last()["code"], "bad_invoice");
        assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
    }
    // Another customer finds that the bank has seen it paid.
    let other = stage.customer();
    let (ran, ()) = tokio::join!(stage.buy(&other, provider.key(), &[]), async {
        let job = provider.asked().await;
        provider.quote(&job.id, &invoice.bolt11, PRICE).await;
    });
    assert_eq!(ran.expect(5).last()["code"], "payment_failed");
    assert_eq!(stage.books(&other).await, Books::untouched());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_invoice_for_two_purchases_at_once_is_paid_once() {
    let stage = Stage::new().await;
    let mut provider = Peer::provider(&stage).await;
    let customer = stage.customer();
    let invoice = provider.issue(PRICE).await;
    let (one, two, ()) = tokio::join!(
        stage.buy(&customer, provider.key(), &["--timeout", "8"]),
        stage.buy(&customer, provider.key(), &["--timeout", "8"]),
        async {
            let jobs = [provider.asked().await, provider.asked().await];
            for job in &jobs {
                provider.quote(&job.id, &invoice.bolt11, PRICE).await;
            }
            provider.until_money(invoice.payment_hash).await;
            for job in &jobs {
                provider.result(&job.id, "two for one").await;
            }
        }
    );
    let mut codes = [one.code, two.code];
    codes.sort_unstable();
    assert_eq!(codes, [0, 11], "{one:?} {two:?}");
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_invoices_the_first_is_paid_and_one_for_another_job_is_none() {
    let stage = Stage::new().await;
    let mut provider = Peer::provider(&stage).await;
    let customer = stage.customer();
    let mut paid = Vec::new();
    let (ran, ()) = tokio::join!(stage.buy(&customer, provider.key(), &[]), async {
        let job = provider.asked().await;
        let others = provider.issue(PRICE).await;
        let other = JobId::from_wire("job_0123456789abcdef");
        provider.quote(&other, &others.bolt11, PRICE).await;
        let invoices = [provider.issue(PRICE).await, provider.issue(PRICE).await];
        for invoice in &invoices {
            provider.quote_modern(&job.id, invoice).await;
        }
        assert_eq!(
            provider.until_money(invoices[0].payment_hash).await,
            Money::Settled
        );
        // And once more, after payment.
        let late = provider.issue(PRICE).await;
        provider.quote(&job.id, &late.bolt11, PRICE).await;
        provider.result(&job.id, "once").await;
        paid.extend([others, invoices[1].clone(), late]);
    });
    ran.expect(0);
    for invoice in paid {
        let money = provider
            .wallet
            .incoming(invoice.payment_hash)
            .await
            .unwrap();
        assert_eq!(money, Money::Open);
    }
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invoice_in_another_channel_or_with_fields_that_lie_is_not_believed() {
    let stage = Stage::new().await;
    let mut provider = Peer::provider(&stage).await;
    let elsewhere = Peer::join(
        &stage,
        provider.keys.clone(),
        nostr::EventId::from_byte_array([7; 32]),
    )
    .await;
    let customer = stage.customer();
    let stray = provider.issue(PRICE).await;
    let (ran, ()) = tokio::join!(stage.buy(&customer, provider.key(), &[]), async {
        let job = provider.asked().await;
        elsewhere.quote(&job.id, &stray.bolt11, PRICE).await;
        let invoice = provider.issue(PRICE).await;
        let message = Invoice {
            payment_hash: Some(job.id.to_string()),
            expires_at: Some(now().minus(1000)),
            lock_to: Some("elsewhere".into()),
            mints: vec!["https://mint.example".into()],
            min_lock_secs: Some(u64::MAX),
            ..Invoice::new(job.id.clone(), invoice.bolt11.clone(), Msat::new(PRICE))
        };
        provider.say(AgentMessage::Invoice(message)).await;
        assert_eq!(
            provider.until_money(invoice.payment_hash).await,
            Money::Settled
        );
        provider.result(&job.id, "delivered").await;
    });
    ran.expect(0);
    assert_eq!(
        provider.wallet.incoming(stray.payment_hash).await.unwrap(),
        Money::Open
    );
    assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invoice_that_is_not_the_one_its_message_names_is_not_paid() {
    let stage = Stage::new().await;
    let mut provider = Peer::provider(&stage).await;
    let customer = stage.customer();
    let named = provider.issue(PRICE).await;
    let (ran, ()) = tokio::join!(stage.buy(&customer, provider.key(), &[]), async {
        let job = provider.asked().await;
        let invoice = provider.issue(PRICE).await;
        let message = Invoice {
            payment_hash: Some(named.payment_hash.to_string()),
            ..Invoice::new(job.id.clone(), invoice.bolt11.clone(), Msat::new(PRICE))
        };
        provider.say(AgentMessage::Invoice(message)).await;
    });
    ran.expect(11);
    assert_eq!(stage.books(&customer).await, Books::paid(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_payments_held_as_traps_do_not_hold_up_the_next_start() {
    const TRAPS: u64 = 40;
    let stage = Stage::new().await;
    let mut provider = Peer::provider(&stage).await;
    let customer = stage.customer();
    let client = stage.client(&customer).await;
    let purchases: Vec<_> = (0..TRAPS)
        .map(|_| client.purchase(stage.request(&provider)))
        .collect();
    for _ in 0..TRAPS {
        let job = provider.asked().await;
        let hash = Preimage::from_bytes(rand::random()).payment_hash();
        let trap = provider.issue_on(1000, Some(hash)).await;
        provider.quote(&job.id, &trap.bolt11, 1000).await;
        provider.until_money(hash).await;
    }
    // The process ends as it may: what was begun stays on record.
    drop((purchases, client));
    let (ran, ()) = tokio::join!(
        stage.buy(&customer, provider.key(), &[]),
        provider.sell("sold")
    );
    ran.expect(0);
    let held = TRAPS * 1000;
    let books = stage.books(&customer).await;
    assert_eq!((books.spent, books.reserved), (PRICE, held));
    assert_eq!(books.gone, PRICE + held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_as_a_trap_ends_in_doubt_stays_reserved_and_is_freed_when_it_is_cancelled() {
    let stage = Stage::new().await;
    let mut provider = Peer::provider(&stage).await;
    for settles in [false, true] {
        let customer = stage.customer();
        let preimage = Preimage::from_bytes(rand::random());
        let hash = preimage.payment_hash();
        let (ran, job) = tokio::join!(
            stage.buy(&customer, provider.key(), &["--timeout", "4"]),
            async {
                let job = provider.asked().await;
                let trap = provider.issue_on(PRICE, Some(hash)).await;
                provider.quote(&job.id, &trap.bolt11, PRICE).await;
                let held = provider.until_money(hash).await;
                assert!(matches!(held, Money::Held { .. }));
                job
            }
        );
        let error = ran.expect(6).last();
        assert_eq!(error["code"], "payment_unknown");
        assert_eq!(
            (&error["paid_msat"], &error["reserved_msat"]),
            (&0.into(), &PRICE.into())
        );
        assert_eq!(stage.books(&customer).await, Books::in_doubt(PRICE));
        if !settles {
            // Nothing has changed, so nothing is freed.
            stage.recover(&customer).await.expect(6);
            assert_eq!(stage.books(&customer).await, Books::in_doubt(PRICE));
            provider.wallet.cancel(hash).await.unwrap();
            stage.recover(&customer).await.expect(0);
            assert_eq!(stage.books(&customer).await, Books::untouched());
        } else {
            provider.wallet.settle(preimage).await.unwrap();
            provider.result(&job.id, "late but true").await;
            let recovered = stage.recover(&customer).await.expect(0).last();
            assert_eq!(recovered["text"], "late but true");
            assert_eq!(recovered["paid_msat"], PRICE);
            assert_eq!(stage.books(&customer).await, Books::paid(PRICE));
        }
    }
}
