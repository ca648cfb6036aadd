//! Play money, and the suite that every wallet must pass.

mod conformance;
mod crowd;

use std::fs;
use std::path::{Path, PathBuf};

use agent_compute::clock::Clock;
use agent_compute::ids::{PaymentHash, Preimage, PurchaseId};
use agent_compute::units::{Msat, Network, UnixSecs};
use agent_compute::wallet::issue::{Draft, sign};
use agent_compute::wallet::sim::{Fault, SimOptions, SimWallet, audit};
use agent_compute::wallet::{
    Incoming, InvoiceRequest, IssuedInvoice, Outgoing, PayOutcome, PayRequest, Wallet, WalletError,
};
use futures_util::FutureExt;
use nostr::Keys;
use nostr::secp256k1::SecretKey;
use tempfile::TempDir;

const OPENING: Msat = Msat::new(100_000_000);

struct Bank {
    _folder: TempDir,
    file: PathBuf,
    clock: Clock,
}

impl Bank {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("home").join("bank.sqlite");
        Self {
            _folder: folder,
            file,
            clock: Clock::fixed(UnixSecs::new(1_763_000_000)),
        }
    }

    fn wallet(&self) -> SimWallet {
        self.wallet_of(&Keys::generate(), |_| {})
    }

    fn wallet_of(&self, keys: &Keys, change: impl FnOnce(&mut SimOptions)) -> SimWallet {
        let mut options = SimOptions {
            clock: self.clock.clone(),
            ..SimOptions::default()
        };
        change(&mut options);
        SimWallet::open(&self.file, keys.public_key(), options).unwrap()
    }
}

pub(crate) fn asking(msat: u64) -> InvoiceRequest {
    InvoiceRequest {
        amount: Msat::new(msat),
        expiry_secs: 600,
        hold: None,
        description: "a job".to_owned(),
    }
}

pub(crate) fn order(invoice: &IssuedInvoice) -> PayRequest {
    PayRequest {
        bolt11: invoice.bolt11.clone(),
        payment_hash: invoice.payment_hash,
        amount: invoice.amount,
        max_fee: Msat::new(10_000),
        purchase: PurchaseId::from_bytes([1; 16]),
    }
}

fn assert_balanced(file: &Path) {
    let audit = audit(file).unwrap();
    assert!(audit.is_balanced(), "{audit:?}");
}

fn on_hash(msat: u64, hash: PaymentHash) -> InvoiceRequest {
    InvoiceRequest {
        hold: Some(hash),
        ..asking(msat)
    }
}

/// The words of a payment that certainly failed.
fn why_failed(outcome: PayOutcome) -> String {
    match outcome {
        PayOutcome::Failed(proof) => proof.reason,
        other => panic!("not a proven failure: {other:?}"),
    }
}

#[tokio::test]
async fn play_money_moves_between_accounts() {
    let bank = Bank::new();
    let (payer, payee) = (bank.wallet(), bank.wallet());
    let invoice = payee.invoice(asking(12_345)).await.unwrap();
    assert_eq!(
        payee.incoming(invoice.payment_hash).await,
        Ok(Incoming::Open)
    );

    let PayOutcome::Paid { preimage, fee } = payer.pay(order(&invoice)).await else {
        panic!("not paid");
    };
    assert_eq!(preimage.unwrap().payment_hash(), invoice.payment_hash);
    assert_eq!(fee, Msat::ZERO);
    assert_eq!(payer.balance().await, Ok(Msat::new(100_000_000 - 12_345)));
    assert_eq!(payee.balance().await, Ok(Msat::new(100_000_000 + 12_345)));
    assert_eq!(
        payee.incoming(invoice.payment_hash).await,
        Ok(Incoming::Settled)
    );
    assert_eq!(
        payer.outgoing(invoice.payment_hash).await,
        Ok(Outgoing::Paid { preimage, fee })
    );
    assert_balanced(&bank.file);
}

#[tokio::test]
async fn fees_are_quoted_charged_and_kept() {
    let bank = Bank::new();
    let fee = Msat::new(1_234);
    let payer = bank.wallet_of(&Keys::generate(), |options| options.fee = fee);
    let payee = bank.wallet();
    let invoice = payee.invoice(asking(10_000)).await.unwrap();
    assert_eq!(payer.fee_quote(&invoice.bolt11).await, Ok(fee));

    let capped = PayRequest {
        max_fee: Msat::new(1_233),
        ..order(&invoice)
    };
    assert!(why_failed(payer.pay(capped).await).contains("1.234 sats"));
    assert!(matches!(
        payer.pay(order(&invoice)).await,
        PayOutcome::Paid { fee: charged, .. } if charged == fee
    ));
    assert_eq!(payer.balance().await, Ok(Msat::new(100_000_000 - 11_234)));
    assert_eq!(audit(&bank.file).unwrap().fees, fee);
    assert_balanced(&bank.file);
}

#[tokio::test]
async fn an_account_is_reopened_with_the_money_it_had() {
    let bank = Bank::new();
    let keys = Keys::generate();
    let wallet = bank.wallet_of(&keys, |_| {});
    assert_eq!(wallet.balance().await, Ok(OPENING));
    assert_eq!(wallet.fund(7).await, Ok(Msat::new(100_007_000)));
    let id = wallet.id().clone();
    drop(wallet);

    let again = bank.wallet_of(&keys, |_| {});
    assert_eq!(again.id(), &id);
    assert_eq!(again.balance().await, Ok(Msat::new(100_007_000)));
    assert_ne!(bank.wallet().id(), &id);
    assert_balanced(&bank.file);
}

#[tokio::test]
async fn no_funding_makes_more_play_money_than_there_is_bitcoin() {
    let bank = Bank::new();
    let wallet = bank.wallet();
    for sats in [u64::MAX, u64::MAX / 1000, 2_100_000_000_000_000] {
        let refused = wallet.fund(sats).await;
        assert!(matches!(refused, Err(WalletError::Refused(_))), "{sats}");
    }
    let rest = Msat::MAX.get() / 1000 - 100_000;
    assert_eq!(wallet.fund(rest).await, Ok(Msat::MAX));
    assert!(wallet.fund(1).await.is_err());
    assert_balanced(&bank.file);
}

#[tokio::test]
async fn another_invoice_on_the_same_hash_is_not_paid() {
    let bank = Bank::new();
    let (payer, payee) = (bank.wallet(), bank.wallet());
    let invoice = payee.invoice(asking(10_000)).await.unwrap();
    let draft = Draft {
        network: Network::Regtest,
        amount: Some(invoice.amount),
        payment_hash: invoice.payment_hash,
        payment_secret: [9; 32],
        description: "mine now".to_owned(),
        created_at: bank.clock.now(),
        expiry_secs: 600,
        min_final_cltv: 18,
    };
    let forged = PayRequest {
        bolt11: sign(&draft, &SecretKey::from_slice(&[8; 32]).unwrap()).unwrap(),
        ..order(&invoice)
    };
    assert!(why_failed(payer.pay(forged).await).contains("no route"));
    assert_eq!(payer.balance().await, Ok(OPENING));
}

#[tokio::test]
async fn an_invoice_is_paid_by_one_payer_only() {
    let bank = Bank::new();
    let (first, second, payee) = (bank.wallet(), bank.wallet(), bank.wallet());
    let invoice = payee.invoice(asking(10_000)).await.unwrap();
    assert!(matches!(
        first.pay(order(&invoice)).await,
        PayOutcome::Paid { .. }
    ));
    assert!(why_failed(second.pay(order(&invoice)).await).contains("somebody else"));
    assert_eq!(
        second.outgoing(invoice.payment_hash).await,
        Ok(Outgoing::NotFound)
    );
    assert_balanced(&bank.file);
}

#[tokio::test]
async fn networks_of_one_bank_are_apart() {
    let bank = Bank::new();
    let keys = Keys::generate();
    let on = |network| bank.wallet_of(&keys, |options| options.network = network);
    let (regtest, signet) = (on(Network::Regtest), on(Network::Signet));
    let invoice = bank.wallet().invoice(asking(10_000)).await.unwrap();
    assert!(why_failed(signet.pay(order(&invoice)).await).contains("on regtest"));
    assert!(matches!(
        regtest.pay(order(&invoice)).await,
        PayOutcome::Paid { .. }
    ));
    assert_eq!(signet.balance().await, Ok(OPENING));
    let issued = signet.invoice(asking(10_000)).await.unwrap();
    assert!(issued.bolt11.starts_with("lntbs100n1"), "{}", issued.bolt11);
}

#[tokio::test]
async fn what_no_invoice_can_be_is_refused() {
    let bank = Bank::new();
    let wallet = bank.wallet();
    for request in [
        asking(0),
        asking(u64::MAX),
        InvoiceRequest {
            expiry_secs: 0,
            ..asking(1)
        },
        InvoiceRequest {
            expiry_secs: u64::MAX,
            ..asking(1)
        },
        InvoiceRequest {
            description: "x".repeat(700),
            ..asking(1)
        },
    ] {
        let refused = wallet.invoice(request.clone()).await;
        assert!(
            matches!(refused, Err(WalletError::Refused(_))),
            "{request:?}"
        );
    }
}

#[tokio::test]
async fn an_overdue_hold_is_given_back_by_whoever_looks_next() {
    let bank = Bank::new();
    let (payer, payee) = (bank.wallet(), bank.wallet());
    let preimage = Preimage::from_bytes([5; 32]);
    let hash = preimage.payment_hash();
    let invoice = payee.invoice(on_hash(10_000, hash)).await.unwrap();
    assert_eq!(payer.pay(order(&invoice)).await, PayOutcome::InFlight);
    let deadline = bank.clock.now().plus(36 * 600);
    assert_eq!(payee.incoming(hash).await, Ok(Incoming::Held { deadline }));
    assert_eq!(audit(&bank.file).unwrap().held, Msat::new(10_000));

    bank.clock.set(deadline.minus(1));
    assert_eq!(payer.outgoing(hash).await, Ok(Outgoing::InFlight));
    bank.clock.set(deadline);
    // A third party's look is enough.
    assert_eq!(bank.wallet().balance().await, Ok(OPENING));
    assert_eq!(audit(&bank.file).unwrap().held, Msat::ZERO);
    assert_eq!(payee.incoming(hash).await, Ok(Incoming::Cancelled));
    assert!(matches!(
        payee.settle(preimage).await,
        Err(WalletError::Refused(_))
    ));
    assert_eq!(payer.balance().await, Ok(OPENING));
    // And it stays failed: the same hash is not tried again.
    assert!(why_failed(payer.pay(order(&invoice)).await).contains("deadline"));
    assert_balanced(&bank.file);
}

#[tokio::test]
async fn only_the_payee_settles_and_cancels() {
    let bank = Bank::new();
    let (payer, payee) = (bank.wallet(), bank.wallet());
    let preimage = Preimage::from_bytes([6; 32]);
    let hash = preimage.payment_hash();
    let invoice = payee.invoice(on_hash(10_000, hash)).await.unwrap();
    payer.pay(order(&invoice)).await;
    assert!(payer.settle(preimage).await.is_err());
    assert!(payer.cancel(hash).await.is_err());
    assert_eq!(payer.incoming(hash).await, Ok(Incoming::NotFound));
    payee.settle(preimage).await.unwrap();
    assert_balanced(&bank.file);
}

/// One account seen through a wallet with a fault, and through one without, as a later process has it.
struct Faulty {
    bank: Bank,
    faulty: SimWallet,
    later: SimWallet,
    invoice: IssuedInvoice,
}

async fn faulty(fault: Fault) -> Faulty {
    let bank = Bank::new();
    let keys = Keys::generate();
    let faulty = bank.wallet_of(&keys, |options| options.fault = Some(fault));
    let later = bank.wallet_of(&keys, |_| {});
    let invoice = bank.wallet().invoice(asking(10_000)).await.unwrap();
    Faulty {
        bank,
        faulty,
        later,
        invoice,
    }
}

#[tokio::test]
async fn after_a_lost_answer_only_another_wallet_tells_that_it_is_paid() {
    let it = faulty(Fault::TimeoutAfter).await;
    let hash = it.invoice.payment_hash;
    for _ in 0..2 {
        let outcome = it.faulty.pay(order(&it.invoice)).await;
        assert!(matches!(outcome, PayOutcome::Unknown { .. }), "{outcome:?}");
        let silence = it.faulty.outgoing(hash).await;
        assert!(matches!(silence, Err(WalletError::Unreachable(_))));
    }
    let found = it.later.outgoing(hash).await;
    assert!(matches!(found, Ok(Outgoing::Paid { .. })), "{found:?}");
    assert_eq!(it.later.balance().await, Ok(Msat::new(99_990_000)));
    assert_balanced(&it.bank.file);
}

#[tokio::test]
async fn after_a_lost_request_only_another_wallet_tells_that_nothing_was_paid() {
    let it = faulty(Fault::TimeoutBefore).await;
    let hash = it.invoice.payment_hash;
    let outcome = it.faulty.pay(order(&it.invoice)).await;
    assert!(matches!(outcome, PayOutcome::Unknown { .. }), "{outcome:?}");
    let silence = it.faulty.outgoing(hash).await;
    assert!(matches!(silence, Err(WalletError::Unreachable(_))));
    assert_eq!(it.later.outgoing(hash).await, Ok(Outgoing::NotFound));
    assert_eq!(it.later.balance().await, Ok(OPENING));
    // Nothing stands in the way of paying it now.
    assert!(matches!(
        it.later.pay(order(&it.invoice)).await,
        PayOutcome::Paid { .. }
    ));
}

#[tokio::test]
async fn a_refusal_moves_nothing_and_forgets_no_earlier_payment() {
    let it = faulty(Fault::Refuse).await;
    why_failed(it.faulty.pay(order(&it.invoice)).await);
    let hash = it.invoice.payment_hash;
    assert_eq!(it.faulty.outgoing(hash).await, Ok(Outgoing::NotFound));
    assert_eq!(it.faulty.balance().await, Ok(OPENING));
    it.later.pay(order(&it.invoice)).await;
    assert!(matches!(
        it.faulty.pay(order(&it.invoice)).await,
        PayOutcome::Paid { .. }
    ));
}

#[tokio::test]
async fn a_slow_payment_is_in_flight_and_goes_on_without_its_caller() {
    let it = faulty(Fault::Slow).await;
    let hash = it.invoice.payment_hash;
    let mut changes = it.later.changes().unwrap();
    assert_eq!(it.faulty.pay(order(&it.invoice)).now_or_never(), None);
    // The caller is gone; any wallet of this process knows that a payment is under way.
    assert_eq!(it.later.outgoing(hash).await, Ok(Outgoing::InFlight));
    while it.later.outgoing(hash).await == Ok(Outgoing::InFlight) {
        changes.changed().await.unwrap();
    }
    let found = it.later.outgoing(hash).await;
    assert!(matches!(found, Ok(Outgoing::Paid { .. })), "{found:?}");
}

#[tokio::test]
async fn a_wallet_without_preimages_tells_none() {
    let it = faulty(Fault::NoPreimage).await;
    let nothing = Msat::ZERO;
    assert_eq!(
        it.faulty.pay(order(&it.invoice)).await,
        PayOutcome::Paid {
            preimage: None,
            fee: nothing
        }
    );
    assert_eq!(
        it.faulty.outgoing(it.invoice.payment_hash).await,
        Ok(Outgoing::Paid {
            preimage: None,
            fee: nothing
        })
    );
}

#[cfg(unix)]
#[tokio::test]
async fn the_bank_is_the_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let bank = Bank::new();
    let wallet = bank.wallet();
    wallet.fund(1).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let folder = bank.file.parent().unwrap();
    assert_eq!(mode(folder), 0o700);
    for file in fs::read_dir(folder).unwrap() {
        let file = file.unwrap().path();
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[test]
fn a_file_that_is_no_bank_is_left_as_it_is() {
    let folder = TempDir::new().unwrap();
    let open = |file: &Path| {
        SimWallet::open(file, Keys::generate().public_key(), SimOptions::default()).unwrap_err()
    };

    let text = folder.path().join("notes.txt");
    fs::write(
        &text,
        "not a bank at all, and long enough to be looked at".repeat(50),
    )
    .unwrap();
    let before = fs::read(&text).unwrap();
    let refused = open(&text).to_string();
    assert!(refused.contains("damaged or no bank"), "{refused}");
    assert_eq!(fs::read(&text).unwrap(), before);

    let other = folder.path().join("other.sqlite");
    let database = rusqlite::Connection::open(&other).unwrap();
    database.execute_batch("CREATE TABLE t (x)").unwrap();
    drop(database);
    let refused = open(&other).to_string();
    assert!(refused.contains("another program's"), "{refused}");

    assert!(matches!(open(folder.path()), WalletError::Storage(_)));
    assert!(matches!(
        audit(&folder.path().join("missing.sqlite")),
        Err(WalletError::Storage(_))
    ));
    assert!(!folder.path().join("missing.sqlite").exists());
}

#[test]
fn a_bank_of_a_newer_version_is_refused_in_clear_words() {
    let bank = Bank::new();
    drop(bank.wallet());
    let database = rusqlite::Connection::open(&bank.file).unwrap();
    database.pragma_update(None, "user_version", 99).unwrap();
    drop(database);
    let refused = SimWallet::open(
        &bank.file,
        Keys::generate().public_key(),
        SimOptions::default(),
    );
    let Err(WalletError::Storage(refused)) = refused else {
        panic!("{refused:?}");
    };
    assert!(refused.contains("version 99"), "{refused}");
}

#[test]
fn a_bank_with_damaged_pages_is_an_error_and_no_panic() {
    let bank = Bank::new();
    drop(bank.wallet());
    let mut bytes = fs::read(&bank.file).unwrap();
    for byte in &mut bytes[4096..] {
        *byte = 0xaa;
    }
    fs::write(&bank.file, bytes).unwrap();
    let refused = SimWallet::open(
        &bank.file,
        Keys::generate().public_key(),
        SimOptions::default(),
    );
    assert!(
        matches!(refused, Err(WalletError::Storage(_))),
        "{refused:?}"
    );
}

#[test]
fn a_wallet_shows_no_keys() {
    let bank = Bank::new();
    let wallet = bank.wallet();
    let shown = format!("{wallet:?}");
    assert!(
        shown.contains("sim") && !shown.contains("node_key"),
        "{shown}"
    );
}
