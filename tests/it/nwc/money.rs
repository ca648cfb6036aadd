//! Payments that go wrong, and answers that lie: never paid twice, never said to have failed in doubt.

use std::sync::atomic::{AtomicUsize, Ordering};

use agent_compute::ids::Preimage;
use agent_compute::wallet::{Incoming, Outgoing, PayOutcome, Wallet};
use nostr::Keys;
use serde_json::{Value, json};

use super::service::Twist;
use super::*;

/// A payer behind a service that goes wrong by a script, and an honest payee.
struct Trial {
    place: Place,
    service: Service,
    wallet: NwcWallet,
    account: SimWallet,
    payee: SimWallet,
}

impl Trial {
    async fn new(options: Options) -> Self {
        let place = Place::new().await;
        let [account, payee] = [(), ()].map(|()| place.account(&Keys::generate()));
        let service = place.service(&account, options).await;
        let wallet = open_with(&service.uri, hasty()).await.unwrap();
        Self {
            place,
            service,
            wallet,
            account,
            payee,
        }
    }

    /// Of a service that does this to orders to pay, and is honest otherwise.
    async fn paying(twist: Twist) -> Self {
        Self::new(Options::twisted(move |method, _| {
            (method == "pay_invoice").then(|| twist.clone())
        }))
        .await
    }

    async fn pay(&self) -> (IssuedInvoice, PayOutcome) {
        let invoice = self.payee.invoice(asking(10_000)).await.unwrap();
        let outcome = self.wallet.pay(order(&invoice)).await;
        (invoice, outcome)
    }

    /// How often the payee was paid, by its bank.
    async fn is_paid(&self, invoice: &IssuedInvoice) -> bool {
        self.payee.incoming(invoice.payment_hash).await.unwrap() == Incoming::Settled
    }

    /// Whatever was said, the wallet was told to pay at most once.
    fn assert_told(&self, times: usize) {
        assert_eq!(self.service.asked("pay_invoice"), times);
    }
}

fn hasty() -> NwcOptions {
    NwcOptions {
        answer_within: Duration::from_secs(3),
        pay_within: Duration::from_secs(5),
        ..options()
    }
}

fn is_unknown(outcome: &PayOutcome) -> bool {
    matches!(outcome, PayOutcome::Unknown { .. })
}

#[tokio::test]
async fn a_lost_answer_is_found_by_looking_up() {
    let trial = Trial::paying(Twist::Unanswered).await;
    let (invoice, outcome) = trial.pay().await;
    assert!(
        matches!(outcome, PayOutcome::Paid { preimage: Some(_), fee } if fee == FEE),
        "{outcome:?}"
    );
    assert!(trial.is_paid(&invoice).await);
    trial.assert_told(1);
}

#[tokio::test]
async fn an_order_that_nobody_heard_stays_unknown_and_is_not_given_again() {
    let trial = Trial::paying(Twist::Unheard).await;
    let (invoice, outcome) = trial.pay().await;
    assert!(is_unknown(&outcome), "{outcome:?}");
    trial.service.twist(|_, _| None);
    let again = trial.wallet.pay(order(&invoice)).await;
    assert!(is_unknown(&again), "{again:?}");
    trial.assert_told(1);
    assert!(!trial.is_paid(&invoice).await);
    let found = trial.wallet.outgoing(invoice.payment_hash).await;
    assert_eq!(found, Ok(Outgoing::NotFound));
}

#[tokio::test]
async fn an_order_that_is_heard_too_late_is_void() {
    let trial = Trial::paying(Twist::Frozen(Duration::from_secs(7))).await;
    let (invoice, outcome) = trial.pay().await;
    assert!(is_unknown(&outcome), "{outcome:?}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!trial.is_paid(&invoice).await);
    trial.assert_told(1);
}

#[tokio::test]
async fn a_wallet_that_answers_nothing_at_all_is_not_told_to_pay() {
    let trial = Trial::new(Options::default()).await;
    trial.service.twist(|_, _| Some(Twist::Unheard));
    let (invoice, outcome) = trial.pay().await;
    let PayOutcome::Failed(proof) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(proof.words().contains("nothing was paid"), "{proof:?}");
    trial.assert_told(0);
    // And it may be tried again.
    trial.service.twist(|_, _| None);
    assert!(matches!(
        trial.wallet.pay(order(&invoice)).await,
        PayOutcome::Paid { .. }
    ));
    trial.assert_told(1);
}

#[tokio::test]
async fn an_error_after_paying_does_not_free_the_money() {
    for code in [
        "PAYMENT_FAILED",
        "INTERNAL",
        "OTHER",
        "INSUFFICIENT_BALANCE",
        "QUOTA_EXCEEDED",
        "RATE_LIMITED",
        "A_NEW_ONE",
    ] {
        let trial = Trial::paying(Twist::After(code.to_owned())).await;
        let (invoice, outcome) = trial.pay().await;
        assert!(
            matches!(outcome, PayOutcome::Paid { .. }),
            "{code}: {outcome:?}"
        );
        assert!(trial.is_paid(&invoice).await);
        trial.assert_told(1);
    }
}

#[tokio::test]
async fn an_error_without_a_record_is_a_proof_only_if_it_precedes_every_attempt() {
    for (code, is_proof) in [
        ("INSUFFICIENT_BALANCE", true),
        ("QUOTA_EXCEEDED", true),
        ("RESTRICTED", true),
        ("UNAUTHORIZED", true),
        ("RATE_LIMITED", true),
        ("NOT_IMPLEMENTED", true),
        ("PAYMENT_FAILED", false),
        ("INTERNAL", false),
        ("OTHER", false),
        ("NOT_FOUND", false),
        ("A_NEW_ONE", false),
    ] {
        let trial = Trial::paying(Twist::Instead(code.to_owned())).await;
        let (_, outcome) = trial.pay().await;
        match outcome {
            PayOutcome::Failed(proof) => {
                assert!(is_proof, "{code}: {proof:?}");
                assert_eq!(proof.insufficient_funds, code == "INSUFFICIENT_BALANCE");
                assert!(proof.words().contains("as the test says"), "{proof:?}");
            }
            outcome => assert!(!is_proof && is_unknown(&outcome), "{code}: {outcome:?}"),
        }
        trial.assert_told(1);
    }
}

#[tokio::test]
async fn garbage_for_an_answer_is_no_answer() {
    for garbage in [
        "not json at all",
        "{\"result\": [1,2",
        "{\"error\": 7}",
        "{ }",
        "[]",
        "{\"result\":[]}",
        "{\"result\":{\"preimage\":7}}",
    ] {
        let trial = Trial::paying(Twist::After(garbage.to_owned())).await;
        let (invoice, outcome) = trial.pay().await;
        assert!(
            matches!(outcome, PayOutcome::Paid { .. }),
            "{garbage}: {outcome:?}"
        );
        assert!(trial.is_paid(&invoice).await);
        trial.assert_told(1);
        let trial = Trial::paying(Twist::Instead(garbage.to_owned())).await;
        let (_, outcome) = trial.pay().await;
        assert!(is_unknown(&outcome), "{garbage}: {outcome:?}");
        trial.assert_told(1);
    }
}

#[tokio::test]
async fn what_another_key_signs_is_not_heard() {
    let paid = json!({ "result": { "preimage": "00".repeat(32), "fees_paid": 0 } }).to_string();
    let trial = Trial::new(Options::twisted(move |method, _| {
        (method == "pay_invoice").then(|| Twist::Forged(paid.clone()))
    }))
    .await;
    let (invoice, outcome) = trial.pay().await;
    let PayOutcome::Paid {
        preimage: Some(preimage),
        ..
    } = outcome
    else {
        panic!("{outcome:?}")
    };
    assert_eq!(preimage.payment_hash(), invoice.payment_hash);
}

#[tokio::test]
async fn another_payments_preimage_proves_nothing() {
    let wrong = Preimage::from_bytes([9; 32]).reveal();
    let altered = json!({ "preimage": wrong });
    let trial = Trial::paying(Twist::Altered(altered.clone())).await;
    let (invoice, outcome) = trial.pay().await;
    // It was paid; the look-up has the true one.
    let PayOutcome::Paid {
        preimage: Some(preimage),
        ..
    } = outcome
    else {
        panic!("{outcome:?}")
    };
    assert_eq!(preimage.payment_hash(), invoice.payment_hash);

    let lie = json!({ "result": { "preimage": wrong, "fees_paid": 0 } }).to_string();
    let trial = Trial::paying(Twist::Instead(lie)).await;
    let (_, outcome) = trial.pay().await;
    assert!(is_unknown(&outcome), "{outcome:?}");
    trial.assert_told(1);
}

#[tokio::test]
async fn a_fee_that_is_not_told_is_booked_as_the_cap() {
    let options = Options {
        tells_fees: false,
        ..Options::default()
    };
    let trial = Trial::new(options).await;
    let (invoice, outcome) = trial.pay().await;
    let cap = order(&invoice).max_fee;
    assert!(
        matches!(outcome, PayOutcome::Paid { fee, .. } if fee == cap),
        "{outcome:?}"
    );
    let found = trial.wallet.outgoing(invoice.payment_hash).await.unwrap();
    assert!(
        matches!(found, Outgoing::Paid { fee, .. } if fee == cap),
        "{found:?}"
    );
}

#[tokio::test]
async fn what_was_paid_over_another_connection_is_not_paid_again() {
    let trial = Trial::new(Options::default()).await;
    let (invoice, _) = trial.pay().await;
    let other = trial
        .service
        .beside(&[&trial.place.url], Options::default())
        .await;
    let other = open(&other).await;
    assert!(matches!(
        other.pay(order(&invoice)).await,
        PayOutcome::Paid { .. }
    ));
    trial.assert_told(1);
}

#[tokio::test]
async fn a_wallet_at_two_relays_is_told_once_and_works_with_one() {
    let place = Place::new().await;
    let (second, third) = (Place::new().await, Place::new().await);
    let [account, payee] = [(), ()].map(|()| place.account(&Keys::generate()));
    let relays = [place.url.as_str(), second.url.as_str()];
    let service = Service::start(&relays, Arc::new(account), Options::default()).await;
    let wallet = open(&service).await;
    let pay = async || {
        let invoice = payee.invoice(asking(10_000)).await.unwrap();
        wallet.pay(order(&invoice)).await
    };
    assert!(matches!(pay().await, PayOutcome::Paid { .. }));
    assert_eq!(service.asked("pay_invoice"), 1);
    drop(second);
    drop(third);
    assert!(matches!(pay().await, PayOutcome::Paid { .. }));
    assert_eq!(service.asked("pay_invoice"), 2);
}

#[tokio::test]
async fn a_slow_wallet_is_waited_for() {
    let trial = Trial::paying(Twist::Late(Duration::from_secs(4))).await;
    let (invoice, outcome) = trial.pay().await;
    assert!(matches!(outcome, PayOutcome::Paid { .. }), "{outcome:?}");
    assert!(trial.is_paid(&invoice).await);
}

#[tokio::test]
async fn an_invoice_that_is_not_what_was_asked_for_is_refused() {
    let trial = Trial::new(Options::default()).await;
    let elsewhere = trial.payee.invoice(asking(99_000)).await.unwrap();
    for altered in [
        json!({ "invoice": elsewhere.bolt11 }),
        json!({ "invoice": "lnbc1nothing" }),
        json!({ "invoice": null }),
    ] {
        trial.service.twist(move |method, _| {
            (method == "make_invoice").then(|| Twist::Altered(altered.clone()))
        });
        let made = trial.wallet.invoice(asking(10_000)).await;
        assert!(matches!(made, Err(WalletError::Refused(_))), "{made:?}");
    }
    // On another hash than asked for.
    let hash = Preimage::from_bytes([3; 32]).payment_hash();
    let other = trial.payee.invoice(asking(10_000)).await.unwrap();
    let altered = json!({ "invoice": other.bolt11 });
    trial.service.twist(move |method, _| {
        (method == "make_hold_invoice").then(|| Twist::Altered(altered.clone()))
    });
    let request = InvoiceRequest {
        hold: Some(hash),
        ..asking(10_000)
    };
    assert!(trial.wallet.invoice(request).await.is_err());
}

#[tokio::test]
async fn done_is_not_settled_until_it_is_seen() {
    let trial = Trial::new(Options::default()).await;
    let preimage = Preimage::from_bytes([5; 32]);
    let request = InvoiceRequest {
        hold: Some(preimage.payment_hash()),
        ..asking(10_000)
    };
    let invoice = trial.wallet.invoice(request).await.unwrap();
    let outcome = trial.payee.pay(order(&invoice)).await;
    assert_eq!(outcome, PayOutcome::InFlight);
    // It goes back while the service says "done".
    trial.account.cancel(preimage.payment_hash()).await.unwrap();
    trial.service.twist(|method, _| {
        (method == "settle_hold_invoice").then(|| Twist::Instead("{\"result\":{}}".to_owned()))
    });
    let settled = trial.wallet.settle(preimage).await;
    assert!(
        matches!(settled, Err(WalletError::Refused(_))),
        "{settled:?}"
    );
}

#[tokio::test]
async fn a_wallet_on_another_network_or_without_look_ups_is_not_opened() {
    let place = Place::new().await;
    let account = place.account(&Keys::generate());
    let opened_as = async |network| {
        let said = Options {
            network: Some(network),
            ..Options::default()
        };
        let service = place.service(&account, said).await;
        open_with(&service.uri, options()).await
    };
    let opened = opened_as("signet").await;
    assert!(
        matches!(&opened, Err(WalletError::Refused(why)) if why.contains("signet")),
        "{opened:?}"
    );
    // Some say mainnet of any network; what they are paid and pay says which it is.
    opened_as("mainnet").await.unwrap();

    let blind = Options {
        methods: vec!["get_info", "pay_invoice"],
        ..Options::default()
    };
    let service = place.service(&account, blind).await;
    let opened = open_with(&service.uri, options()).await;
    assert!(
        matches!(opened, Err(WalletError::Unsupported(_))),
        "{opened:?}"
    );

    let gone = Options::twisted(|_, _| Some(Twist::Instead("UNAUTHORIZED".to_owned())));
    let service = place.service(&account, gone).await;
    let opened = open_with(&service.uri, options()).await;
    assert!(matches!(opened, Err(WalletError::Refused(_))), "{opened:?}");
}

#[tokio::test]
async fn a_wallet_that_announces_nothing_is_asked() {
    let trial = Trial::new(Options {
        announces: false,
        ..Options::default()
    })
    .await;
    assert!(trial.wallet.capabilities().hold_invoices);
    assert_eq!(trial.wallet.alias(), Some("a test's wallet"));
    assert!(matches!(trial.pay().await.1, PayOutcome::Paid { .. }));
}

#[tokio::test]
async fn a_wallet_that_wants_fewer_requests_is_asked_again_later() {
    let trial = Trial::new(Options::default()).await;
    let times = AtomicUsize::new(0);
    trial.service.twist(move |method, _| {
        let first = method == "get_balance" && times.fetch_add(1, Ordering::SeqCst) < 2;
        first.then(|| Twist::Instead("RATE_LIMITED".to_owned()))
    });
    assert_eq!(trial.wallet.balance().await, trial.account.balance().await);
    assert_eq!(trial.service.asked("get_balance"), 3);
}

#[tokio::test]
async fn nothing_shows_the_secret() {
    let trial = Trial::new(Options::default()).await;
    let secret = trial.service.uri.split("secret=").nth(1).unwrap()[..64].to_owned();
    assert!(!format!("{:?}", trial.wallet).contains(&secret));
    assert!(!trial.wallet.id().to_string().contains(&secret));
    trial.service.twist(|_, _| Some(Twist::Unheard));
    let error = trial.wallet.balance().await.unwrap_err().to_string();
    assert!(!error.contains(&secret), "{error}");
}

#[tokio::test]
async fn an_invoice_is_made_without_an_expiry_where_the_wallet_takes_none() {
    let picky = |method: &str, params: &Value| {
        let takes_none = method == "make_invoice" && params.get("expiry").is_some();
        let refusal = r#"{"error":{"code":"OTHER","message":"expiry is not supported"}}"#;
        takes_none.then(|| Twist::Instead(refusal.to_owned()))
    };
    let trial = Trial::new(Options::twisted(picky)).await;
    let made = trial.wallet.invoice(asking(7_000)).await.unwrap();
    assert_eq!(made.amount, asking(7_000).amount);
    assert_eq!(trial.service.asked("make_invoice"), 2);
    // Any other refusal is one.
    trial.service.twist(|method, _| {
        (method == "make_invoice").then(|| Twist::Instead("RESTRICTED".to_owned()))
    });
    let refused = trial.wallet.invoice(asking(7_000)).await;
    assert!(
        matches!(refused, Err(WalletError::Refused(_))),
        "{refused:?}"
    );
    assert_eq!(trial.service.asked("make_invoice"), 3);
}
