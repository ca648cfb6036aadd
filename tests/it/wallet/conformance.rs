//! The suite passes on play money, and fails on a wallet that breaks any one promise.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent_compute::clock::Clock;
use agent_compute::ids::{PaymentHash, Preimage, WalletId};
use agent_compute::units::{Msat, Network};
use agent_compute::wallet::conformance::{Harness, Lost, Outcome, run};
use agent_compute::wallet::invoice::parse_unchecked;
use agent_compute::wallet::sim::{Fault, SimWallet};
use agent_compute::wallet::{
    Capabilities, FailureProof, Incoming, InvoiceRequest, IssuedInvoice, Outgoing, PayOutcome,
    PayRequest, Wallet, WalletError,
};
use async_trait::async_trait;
use futures_util::future::join_all;
use nostr::Keys;
use tokio::sync::watch;

use super::{Bank, assert_balanced};

/// Play money with a routing fee, so that fees are tried too.
struct Sim {
    bank: Bank,
    clock: Clock,
    keys: Keys,
    payer: SimWallet,
    payee: SimWallet,
    lie: Option<Lie>,
}

impl Sim {
    fn new(lie: Option<Lie>) -> Self {
        let bank = Bank::new();
        let keys = Keys::generate();
        Self {
            clock: bank.clock.clone(),
            payer: bank.wallet_of(&keys, |options| options.fee = Msat::new(1_500)),
            payee: bank.wallet(),
            bank,
            keys,
            lie,
        }
    }

    fn told_by(&self, wallet: &SimWallet) -> Arc<dyn Wallet> {
        let wallet = Arc::new(wallet.clone());
        match self.lie {
            None => wallet,
            Some(lie) => Arc::new(Liar {
                honest: wallet,
                payee: self.payee.clone(),
                lie,
                paid: Mutex::default(),
                settled: Mutex::default(),
                silence: watch::Sender::new(0),
            }),
        }
    }
}

#[async_trait]
impl Harness for Sim {
    fn payer(&self) -> Arc<dyn Wallet> {
        self.told_by(&self.payer)
    }

    fn payee(&self) -> Arc<dyn Wallet> {
        self.told_by(&self.payee)
    }

    fn patience(&self) -> Duration {
        match self.lie {
            None => Duration::from_secs(60),
            // What a liar promises never comes.
            Some(_) => Duration::from_millis(300),
        }
    }

    async fn pass_time(&self, secs: u64) -> bool {
        self.clock.set(self.clock.now().plus(secs));
        true
    }

    fn losing(&self, lost: Lost) -> Option<Arc<dyn Wallet>> {
        let fault = match lost {
            Lost::Request => Fault::TimeoutBefore,
            Lost::Answer => Fault::TimeoutAfter,
        };
        let wallet = self.bank.wallet_of(&self.keys, |options| {
            options.fault = Some(fault);
            options.fee = Msat::new(1_500);
        });
        Some(self.told_by(&wallet))
    }
}

#[tokio::test]
async fn play_money_keeps_every_promise() {
    let sim = Sim::new(None);
    let report = run(&sim).await;
    for case in &report.cases {
        if case.name == "a wallet without hold invoices says so" {
            assert!(matches!(case.outcome, Outcome::NotApplicable(_)));
        } else {
            assert_eq!(case.outcome, Outcome::Passed, "\n{report}");
        }
    }
    assert_balanced(&sim.bank.file);
}

/// One broken promise each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    WrongAmountOnInvoice,
    UnknownHashFailed,
    HidesTheFee,
    WrongPreimage,
    NeverTellsOfChanges,
    PaysAgain,
    NeverEnds,
    FailureIsUnknown,
    FailureIsPaid,
    IgnoresTheTerms,
    ExpiredIsOpen,
    CancelsNothing,
    HidesShortage,
    IgnoresTheCap,
    DeniesHolds,
    IgnoresTheHash,
    SettlesNothing,
    TakesAnyPreimage,
    SettlesOnceOnly,
    CancelsAnything,
    TakesAnyHash,
    MakesAnother,
    ReturnsNothing,
    UnknownIsFailed,
    UnknownIsPaid,
}

/// Which lie must be found out by which case.
const FOUND_OUT: [(Lie, &str); 27] = [
    (
        Lie::WrongAmountOnInvoice,
        "an invoice says what was asked for",
    ),
    (
        Lie::UnknownHashFailed,
        "a hash that nobody used is not found",
    ),
    (Lie::HidesTheFee, "a payment moves the amount and the fee"),
    (Lie::WrongPreimage, "a preimage proves the payment"),
    (Lie::NeverTellsOfChanges, "a change wakes who waits for one"),
    (Lie::PaysAgain, "a hash is paid once, whoever asks again"),
    (
        Lie::PaysAgain,
        "a hash is paid once, however many ask at the same time",
    ),
    (Lie::NeverEnds, "a payment does not need its caller"),
    (
        Lie::FailureIsUnknown,
        "an invoice that nobody made is a proven failure",
    ),
    (
        Lie::IgnoresTheTerms,
        "other terms than the invoice's are a proven failure",
    ),
    (Lie::ExpiredIsOpen, "an expired invoice is a proven failure"),
    (
        Lie::CancelsNothing,
        "a cancelled invoice is a proven failure",
    ),
    (
        Lie::HidesShortage,
        "being short of funds is a proven failure",
    ),
    (
        Lie::IgnoresTheCap,
        "a fee above the cap is a proven failure",
    ),
    (Lie::FailureIsPaid, "paying oneself makes no money"),
    (Lie::DeniesHolds, "a wallet without hold invoices says so"),
    (
        Lie::IgnoresTheHash,
        "a hold is on the hash it was asked for",
    ),
    (Lie::SettlesNothing, "a hold is held, then settled"),
    (Lie::CancelsNothing, "a cancelled hold returns the money"),
    (Lie::TakesAnyPreimage, "a wrong preimage settles nothing"),
    (Lie::SettlesOnceOnly, "settling twice is a success"),
    (Lie::CancelsAnything, "a settled hold can't be cancelled"),
    (Lie::TakesAnyHash, "a hold on a used hash is refused"),
    (
        Lie::MakesAnother,
        "an open hold that is asked for again is the same invoice",
    ),
    (
        Lie::ReturnsNothing,
        "a hold past its deadline returns the money",
    ),
    (
        Lie::UnknownIsFailed,
        "a lost answer leaves the payment unknown until it is looked up",
    ),
    (
        Lie::UnknownIsPaid,
        "a lost request is never said to be paid",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_broken_promise_is_found_out() {
    let reports =
        join_all(FOUND_OUT.map(|(lie, _)| async move { run(&Sim::new(Some(lie))).await }));
    for ((lie, name), report) in FOUND_OUT.into_iter().zip(reports.await) {
        assert!(
            report.failed().any(|case| case.name == name),
            "{lie:?} went unnoticed:\n{report}"
        );
        for case in &report.cases {
            let tried = FOUND_OUT.iter().any(|(_, name)| *name == case.name);
            assert!(tried, "no lie breaks {:?}", case.name);
        }
    }
}

/// A play-money wallet that breaks one promise.
#[derive(Debug)]
struct Liar {
    honest: Arc<SimWallet>,
    payee: SimWallet,
    lie: Lie,
    paid: Mutex<HashSet<PaymentHash>>,
    settled: Mutex<HashSet<PaymentHash>>,
    silence: watch::Sender<u64>,
}

impl Liar {
    async fn paid_by(&self, mut request: PayRequest) -> PayOutcome {
        match self.lie {
            Lie::PaysAgain if !self.paid.lock().unwrap().insert(request.payment_hash) => {
                let again = InvoiceRequest {
                    amount: request.amount,
                    expiry_secs: 600,
                    hold: None,
                    description: String::new(),
                };
                let again = self.payee.invoice(again).await.unwrap();
                request.bolt11 = again.bolt11;
                request.payment_hash = again.payment_hash;
            }
            Lie::IgnoresTheTerms => {
                let invoice = parse_unchecked(&request.bolt11).unwrap();
                request.payment_hash = invoice.payment_hash;
                request.amount = invoice.amount.unwrap();
            }
            Lie::IgnoresTheCap => request.max_fee = Msat::MAX,
            // So that nothing is begun when the caller leaves.
            Lie::NeverEnds => tokio::task::yield_now().await,
            _ => {}
        }
        self.honest.pay(request).await
    }
}

#[async_trait]
impl Wallet for Liar {
    fn id(&self) -> &WalletId {
        self.honest.id()
    }

    fn network(&self) -> Network {
        self.honest.network()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            hold_invoices: self.lie != Lie::DeniesHolds,
            ..self.honest.capabilities()
        }
    }

    async fn balance(&self) -> Result<Msat, WalletError> {
        self.honest.balance().await
    }

    async fn fee_quote(&self, bolt11: &str) -> Result<Msat, WalletError> {
        self.honest.fee_quote(bolt11).await
    }

    async fn invoice(&self, mut request: InvoiceRequest) -> Result<IssuedInvoice, WalletError> {
        if self.lie == Lie::IgnoresTheHash {
            request.hold = None;
        }
        if self.lie == Lie::MakesAnother
            && let Some(hash) = request.hold
            && self.honest.incoming(hash).await? != Incoming::NotFound
        {
            request.hold = None;
        }
        let mut made = self.honest.invoice(request.clone()).await;
        if self.lie == Lie::TakesAnyHash && made.is_err() {
            request.hold = None;
            made = self.honest.invoice(request).await;
        }
        let mut made = made?;
        if self.lie == Lie::WrongAmountOnInvoice {
            made.amount = made.amount.saturating_add(Msat::new(1));
        }
        Ok(made)
    }

    async fn incoming(&self, hash: PaymentHash) -> Result<Incoming, WalletError> {
        Ok(match self.honest.incoming(hash).await? {
            Incoming::Expired if self.lie == Lie::ExpiredIsOpen => Incoming::Open,
            state => state,
        })
    }

    async fn settle(&self, preimage: Preimage) -> Result<(), WalletError> {
        let again = !self.settled.lock().unwrap().insert(preimage.payment_hash());
        match self.lie {
            Lie::SettlesNothing => Ok(()),
            Lie::SettlesOnceOnly if again => Err(WalletError::Refused("settled".to_owned())),
            Lie::TakesAnyPreimage => self.honest.settle(preimage).await.or(Ok(())),
            _ => self.honest.settle(preimage).await,
        }
    }

    async fn cancel(&self, hash: PaymentHash) -> Result<(), WalletError> {
        match self.lie {
            Lie::CancelsNothing => Ok(()),
            Lie::CancelsAnything => self.honest.cancel(hash).await.or(Ok(())),
            _ => self.honest.cancel(hash).await,
        }
    }

    async fn pay(&self, request: PayRequest) -> PayOutcome {
        let hash = request.payment_hash;
        match (self.lie, self.paid_by(request).await) {
            (Lie::HidesTheFee, PayOutcome::Paid { preimage, .. }) => PayOutcome::Paid {
                preimage,
                fee: Msat::ZERO,
            },
            (Lie::WrongPreimage, PayOutcome::Paid { fee, .. }) => PayOutcome::Paid {
                preimage: Some(Preimage::from_bytes(*hash.as_bytes())),
                fee,
            },
            (Lie::FailureIsUnknown, PayOutcome::Failed(proof)) => PayOutcome::Unknown {
                reason: proof.reason,
            },
            (Lie::FailureIsPaid, PayOutcome::Failed(_)) => PayOutcome::Paid {
                preimage: None,
                fee: Msat::new(1),
            },
            (Lie::HidesShortage, PayOutcome::Failed(proof)) => {
                PayOutcome::Failed(FailureProof::new(proof.reason))
            }
            (Lie::UnknownIsFailed, PayOutcome::Unknown { reason }) => {
                PayOutcome::Failed(FailureProof::new(reason))
            }
            (Lie::UnknownIsPaid, PayOutcome::Unknown { .. }) => PayOutcome::Paid {
                preimage: None,
                fee: Msat::ZERO,
            },
            (_, outcome) => outcome,
        }
    }

    async fn outgoing(&self, hash: PaymentHash) -> Result<Outgoing, WalletError> {
        Ok(match (self.lie, self.honest.outgoing(hash).await?) {
            (Lie::UnknownHashFailed, Outgoing::NotFound) => {
                Outgoing::Failed(FailureProof::new("never heard of it"))
            }
            (Lie::NeverEnds, Outgoing::NotFound) | (Lie::ReturnsNothing, Outgoing::Failed(_)) => {
                Outgoing::InFlight
            }
            (_, state) => state,
        })
    }

    fn changes(&self) -> Option<watch::Receiver<u64>> {
        if self.lie == Lie::NeverTellsOfChanges {
            return Some(self.silence.subscribe());
        }
        self.honest.changes()
    }
}
