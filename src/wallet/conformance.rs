//! What every wallet must do, as a suite that can be run on any of them, one's own included.
//!
//! ```no_run
//! # async fn example(harness: &dyn agent_compute::wallet::conformance::Harness) {
//! let report = agent_compute::wallet::conformance::run(harness).await;
//! println!("{report}");
//! # }
//! ```
//!
//! It pays for real: about a dozen times [`Harness::amount`] goes from payer to payee, and routing fees
//! on top. It asserts nothing and stops at nothing: each case says what it found.

mod faults;
mod holds;
mod payments;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::invoice::parse_unchecked;
use super::{
    Incoming, InvoiceRequest, IssuedInvoice, Outgoing, PayOutcome, PayRequest, Wallet, WalletError,
};
use crate::ids::{PaymentHash, Preimage, PurchaseId};
use crate::units::{Msat, UnixSecs};

/// Two wallets of one backend, and what can be done to them.
#[async_trait]
pub trait Harness: Send + Sync {
    /// The wallet that pays. It has at least twenty times [`Self::amount`], and fees on top.
    fn payer(&self) -> Arc<dyn Wallet>;

    /// The wallet that is paid: another balance than the payer's, on the same network, with a way to it.
    fn payee(&self) -> Arc<dyn Wallet>;

    /// What one case pays.
    fn amount(&self) -> Msat {
        Msat::new(10_000)
    }

    /// The most that routing of one payment may cost.
    fn max_fee(&self) -> Msat {
        Msat::new(10_000)
    }

    /// How long something that must happen may take.
    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }

    /// Moves the time of both wallets ahead. `false`: it can't be moved.
    async fn pass_time(&self, _secs: u64) -> bool {
        false
    }

    /// The payer's balance through a connection that loses messages; `None`: there is no such thing.
    fn losing(&self, _lost: Lost) -> Option<Arc<dyn Wallet>> {
        None
    }
}

/// Which message about a payment is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The request: nothing is paid.
    Request,
    /// The answer: it is paid, and the caller does not hear of it.
    Answer,
}

/// What one case found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The wallet keeps the promise.
    Passed,
    /// It does not, and how.
    Failed(String),
    /// The case could not be tried, and why.
    NotApplicable(String),
}

/// One case of the suite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseResult {
    /// The promise, as a sentence.
    pub name: &'static str,
    /// What was found.
    pub outcome: Outcome,
}

/// What the suite found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Each case, in the order they ran.
    pub cases: Vec<CaseResult>,
}

impl Report {
    /// The cases that failed.
    pub fn failed(&self) -> impl Iterator<Item = &CaseResult> {
        self.cases
            .iter()
            .filter(|case| matches!(case.outcome, Outcome::Failed(_)))
    }

    /// Whether the wallet keeps every promise that could be tried.
    #[must_use]
    pub fn is_conformant(&self) -> bool {
        self.failed().next().is_none()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for CaseResult { name, outcome } in &self.cases {
            match outcome {
                Outcome::Passed => writeln!(f, "passed   {name}")?,
                Outcome::Failed(how) => writeln!(f, "FAILED   {name}: {how}")?,
                Outcome::NotApplicable(why) => writeln!(f, "skipped  {name}: {why}")?,
            }
        }
        Ok(())
    }
}

/// Runs every case, one after the other.
pub async fn run(harness: &dyn Harness) -> Report {
    let mut suite = Suite {
        harness,
        payer: harness.payer(),
        payee: harness.payee(),
        report: Report::default(),
    };
    payments::run(&mut suite).await;
    holds::run(&mut suite).await;
    faults::run(&mut suite).await;
    suite.report
}

/// Why a case ended before its end.
enum End {
    Fails(String),
    Skipped(String),
}

impl From<WalletError> for End {
    fn from(error: WalletError) -> Self {
        Self::Fails(format!("a call failed: {error}"))
    }
}

type Verdict<T = ()> = Result<T, End>;

fn fails<T>(how: impl Into<String>) -> Verdict<T> {
    Err(End::Fails(how.into()))
}

fn skipped<T>(why: impl Into<String>) -> Verdict<T> {
    Err(End::Skipped(why.into()))
}

/// A promise, and what is wrong if it does not hold.
fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { fails(otherwise()) }
}

struct Suite<'a> {
    harness: &'a dyn Harness,
    payer: Arc<dyn Wallet>,
    payee: Arc<dyn Wallet>,
    report: Report,
}

/// Runs the cases of one file: each is a sentence and a function of the suite.
macro_rules! run_cases {
    ($suite:expr; $($name:literal => $case:path,)*) => {
        $(
            let verdict = $suite.bounded($case($suite)).await;
            $suite.note($name, verdict);
        )*
    };
}
use run_cases;

impl Suite<'_> {
    /// No case waits for ever, whatever the wallet does.
    async fn bounded(&self, case: impl Future<Output = Verdict>) -> Verdict {
        let most = self.harness.patience().saturating_mul(4);
        timeout(most, case)
            .await
            .unwrap_or_else(|_| fails(format!("it took more than {} s", most.as_secs())))
    }

    fn note(&mut self, name: &'static str, verdict: Verdict) {
        let outcome = match verdict {
            Ok(()) => Outcome::Passed,
            Err(End::Fails(how)) => Outcome::Failed(how),
            Err(End::Skipped(why)) => Outcome::NotApplicable(why),
        };
        self.report.cases.push(CaseResult { name, outcome });
    }

    fn asking(&self, hold: Option<PaymentHash>) -> InvoiceRequest {
        InvoiceRequest {
            amount: self.harness.amount(),
            expiry_secs: 600,
            hold,
            description: "wallet conformance".to_owned(),
        }
    }

    /// An invoice of the payee.
    async fn invoice(&self) -> Verdict<IssuedInvoice> {
        Ok(self.payee.invoice(self.asking(None)).await?)
    }

    fn order(&self, invoice: &IssuedInvoice) -> PayRequest {
        PayRequest {
            bolt11: invoice.bolt11.clone(),
            payment_hash: invoice.payment_hash,
            amount: invoice.amount,
            max_fee: self.harness.max_fee(),
            purchase: PurchaseId::from_bytes(rand::random()),
        }
    }

    /// Pays an invoice, which must succeed. Returns preimage and fee.
    async fn pay(&self, invoice: &IssuedInvoice) -> Verdict<(Option<Preimage>, Msat)> {
        match self.payer.pay(self.order(invoice)).await {
            PayOutcome::Paid { preimage, fee } => Ok((preimage, fee)),
            PayOutcome::Failed(proof) => fails(format!("it was not paid: {}", proof.reason)),
            // A slow route is no fault: the look-up decides.
            PayOutcome::InFlight | PayOutcome::Unknown { .. } => {
                match self.outgoing_ends(invoice.payment_hash).await? {
                    Outgoing::Paid { preimage, fee } => Ok((preimage, fee)),
                    other => fails(format!("it was not paid: {other:?}")),
                }
            }
        }
    }

    /// What a payment of the payer ends as.
    async fn outgoing_ends(&self, hash: PaymentHash) -> Verdict<Outgoing> {
        let mut waiter = self.waiter(&self.payer);
        loop {
            match self.payer.outgoing(hash).await? {
                Outgoing::InFlight => {}
                end => return Ok(end),
            }
            waiter.wait("the payment to end").await?;
        }
    }

    /// Waits until the payee's invoice is in a state that `is` accepts.
    async fn incoming_becomes(
        &self,
        hash: PaymentHash,
        what: &'static str,
        is: impl Fn(&Incoming) -> bool,
    ) -> Verdict<Incoming> {
        let mut waiter = self.waiter(&self.payee);
        loop {
            let now = self.payee.incoming(hash).await?;
            if is(&now) {
                return Ok(now);
            }
            waiter.wait(what).await?;
        }
    }

    /// Waits until a balance is what it must be.
    async fn balance_becomes(&self, of: &Arc<dyn Wallet>, expected: Msat) -> Verdict {
        let mut waiter = self.waiter(of);
        loop {
            let found = of.balance().await?;
            if found == expected {
                return Ok(());
            }
            waiter
                .wait(&format!("the balance to be {expected}, it is {found}"))
                .await?;
        }
    }

    /// The payer's balance must be what it was.
    async fn nothing_moved(&self, before: Msat) -> Verdict {
        let after = self.payer.balance().await?;
        ensure(after == before, || {
            format!("the payer's balance went from {before} to {after}")
        })
    }

    /// The time as the payee sees it: that of a new invoice.
    async fn now(&self) -> Verdict<UnixSecs> {
        let invoice = self.invoice().await?;
        match parse_unchecked(&invoice.bolt11) {
            Ok(invoice) => Ok(invoice.created_at),
            Err(problem) => fails(problem.to_string()),
        }
    }

    fn waiter(&self, wallet: &Arc<dyn Wallet>) -> Waiter {
        Waiter {
            hints: wallet.changes(),
            pause: Duration::from_millis(10),
            until: Instant::now() + self.harness.patience(),
        }
    }
}

/// Waits for the wallet's hints, and looks without one ever more seldom: hints are not promised to be
/// complete.
struct Waiter {
    hints: Option<watch::Receiver<u64>>,
    pause: Duration,
    until: Instant,
}

impl Waiter {
    const LONGEST_PAUSE: Duration = Duration::from_secs(1);

    async fn wait(&mut self, what: &str) -> Verdict {
        let now = Instant::now();
        if now >= self.until {
            return fails(format!("waited in vain for {what}"));
        }
        let next = (now + self.pause).min(self.until);
        self.pause = (self.pause * 2).min(Self::LONGEST_PAUSE);
        match &mut self.hints {
            Some(hints) => {
                if let Ok(Err(_)) = timeout_at(next, hints.changed()).await {
                    self.hints = None;
                }
            }
            None => tokio::time::sleep_until(next).await,
        }
        Ok(())
    }
}

fn random_preimage() -> Preimage {
    Preimage::from_bytes(rand::random())
}
