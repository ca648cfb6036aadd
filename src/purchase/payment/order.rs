//! Runs a payment by hand: puts each step on record, then acts, then feeds back what came of it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::state::{Bill, Payment, Phase};
use crate::clock::Clock;
use crate::config;
use crate::crash::{self, Point};
use crate::error::{Code, Error, Result};
use crate::ids::{PaymentHash, PurchaseId};
use crate::ledger::{
    DriveGuard, Ledger, LedgerError, Limits, NewPurchase, Opened, Scope, SeenBalance,
};
use crate::purchase::state::{Booking, Effect, Finish, Happening, Step};
use crate::purchase::wallet::{Asked, Claim, look_up, may_be_twice, ordered, prepare};
use crate::units::Msat;
use crate::wallet::{PayRequest, Wallet};

/// Whatever a payment by hand needs: no relay, no provider.
#[derive(Clone, Debug)]
pub struct Desk {
    /// Keeps the books.
    pub ledger: Ledger,
    /// Pays.
    pub wallet: Arc<dyn Wallet>,
    /// The owner's limits.
    pub limits: Limits,
    /// Tells the time.
    pub clock: Clock,
}

/// A payment that arrived. Amounts are integer millisatoshi.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Paid {
    /// Its id in the ledger.
    pub purchase_id: PurchaseId,
    /// Its hash.
    pub payment_hash: PaymentHash,
    /// What the payee got.
    pub amount_msat: Msat,
    /// What routing cost on top.
    pub fee_msat: Msat,
    /// Proof of payment, if the wallet told it.
    pub preimage: Option<String>,
}

/// Pays a bill within the owner's limits, counted against `tick` if one is named, and waits for the wallet's word
/// for at most `patience`. The bill was [checked](Bill::check), and the owner has said yes to it.
///
/// # Errors
/// With the code of `cli.md`, what was paid, and what is still reserved: [`Code::Budget`] if a limit refuses it,
/// [`Code::BadInvoice`] if this payment hash was in a payment before, [`Code::PaymentUnknown`] if the wallet can't
/// say what became of it, which [`recover`](crate::purchase::recover) decides later.
pub async fn pay(
    desk: &Desk,
    bill: Bill,
    max_fee: Option<Msat>,
    tick: Option<String>,
    patience: Duration,
    stop: &CancellationToken,
) -> Result<Paid> {
    let deadline = Instant::now() + patience;
    let wallet = desk.wallet.id().clone();
    let payment = Payment::new(PurchaseId::random(), bill, wallet, max_fee);
    let driving = desk.ledger.drive(payment.id);
    let driving = driving
        .ok_or_else(|| Error::new(Code::Internal, "a random purchase id came twice"))
        .map(Arc::new)?;
    let new = NewPurchase {
        id: payment.id,
        scope: Scope {
            network: desk.wallet.network(),
            play_money: desk.wallet.capabilities().play_money,
        },
        tick,
        idempotency: None,
        state: payment
            .to_row()
            .map_err(|error| Error::new(Code::Internal, error.to_string()))?,
    };
    let version = match desk.ledger.open_purchase(new).await? {
        Opened::New(record) | Opened::Existing(record) => record.version,
    };
    let run = Run {
        desk,
        driving,
        payment,
        version,
        floor_tries: 0,
        look_after: config::LOOK_UP_FIRST,
    };
    run.drive(deadline, stop).await
}

/// What is under way and comes back as something that happened.
type Work = Pin<Box<dyn Future<Output = Happening> + Send>>;

struct Run<'a> {
    desk: &'a Desk,
    driving: Arc<DriveGuard>,
    payment: Payment,
    version: u64,
    floor_tries: u32,
    look_after: Duration,
}

impl Run<'_> {
    async fn drive(mut self, deadline: Instant, stop: &CancellationToken) -> Result<Paid> {
        let mut work = self.prepare(Duration::ZERO);
        loop {
            let mut next = tokio::select! {
                biased;
                () = stop.cancelled() => Happening::Interrupted,
                happening = &mut work => happening,
                () = sleep_until(deadline) => Happening::Deadline,
            };
            let effects = loop {
                let before = self.payment.clone();
                let step = self.payment.step(next, self.desk.clock.now());
                match self.commit(before, step).await? {
                    Committed::Done(effects) => break effects,
                    Committed::Refused(as_what) => next = as_what,
                }
            };
            for effect in effects {
                match effect {
                    Effect::Prepare => work = self.prepare(self.pause_for_floor()),
                    Effect::Pay => work = self.pay(),
                    Effect::LookUp => work = self.look_up(),
                    Effect::Finish(finish) => return self.outcome(finish).await,
                    _ => {}
                }
            }
        }
    }

    fn pause_for_floor(&self) -> Duration {
        match self.floor_tries {
            0 => Duration::ZERO,
            tries => config::LOOK_UP_FIRST * 2_u32.pow(tries - 1),
        }
    }

    fn prepare(&self, pause: Duration) -> Work {
        let (wallet, ledger) = (Arc::clone(&self.desk.wallet), self.desk.ledger.clone());
        let (bill, cap) = (self.payment.payment.clone(), self.payment.max_fee);
        let floor = self.desk.limits.floor;
        Box::pin(async move {
            sleep(pause).await;
            let asked = Asked {
                bolt11: &bill.bolt11,
                hash: bill.payment_hash,
                amount: bill.amount,
            };
            prepare(&*wallet, &ledger, asked, cap, floor).await
        })
    }

    fn pay(&self) -> Work {
        let bill = &self.payment.payment;
        let request = PayRequest {
            bolt11: bill.bolt11.clone(),
            payment_hash: bill.payment_hash,
            amount: bill.amount,
            max_fee: Msat::ZERO,
            purchase: self.payment.id,
        };
        let claim = Claim::new(&self.desk.ledger, &self.driving);
        let answer = ordered(Arc::clone(&self.desk.wallet), request, claim);
        Box::pin(async move { Happening::PayAnswered(answer.await) })
    }

    fn look_up(&mut self) -> Work {
        let pause = self.look_after;
        self.look_after = (pause * 2).min(config::LOOK_UP_LONGEST);
        let (wallet, hash) = (
            Arc::clone(&self.desk.wallet),
            self.payment.payment.payment_hash,
        );
        Box::pin(async move { look_up(&*wallet, hash, pause).await })
    }

    /// Puts a step on record. What refuses it comes back as the next thing that happened.
    async fn commit(&mut self, before: Payment, step: Step) -> Result<Committed> {
        if !step.save {
            return Ok(Committed::Done(step.effects));
        }
        let row = self
            .payment
            .to_row()
            .map_err(|error| Error::new(Code::Internal, error.to_string()))?;
        let limits = self.desk.limits;
        let entries = step.entries.iter().map(|booking| booking.entry(limits));
        let (id, entries) = (self.payment.id, entries.collect());
        let commit = self.desk.ledger.commit(id, self.version, row, entries);
        let points = points(&before.phase, &self.payment.phase);
        let refused = match crash::around(points, commit).await {
            Ok(version) => {
                self.version = version;
                return Ok(Committed::Done(step.effects));
            }
            Err(refused) => refused,
        };
        self.payment = before;
        let floor = self.desk.limits.floor;
        Ok(Committed::Refused(match refused {
            LedgerError::Refused(refusal)
                if self.floor_tries < config::FLOOR_TRIES
                    && may_be_twice(seen(&step), floor, refusal) =>
            {
                self.floor_tries += 1;
                return Ok(Committed::Done(vec![Effect::Prepare]));
            }
            LedgerError::StaleBalance => return Ok(Committed::Done(vec![Effect::Prepare])),
            LedgerError::Refused(refusal) => Happening::OverBudget(refusal),
            LedgerError::HashUsed(_) => Happening::HashUsed,
            error => return Err(self.books_closed(error).await),
        }))
    }

    /// The ledger can't be written. What it says already is still true, and the money is where it says.
    async fn books_closed(&self, error: LedgerError) -> Error {
        let reserved = self.reserved().await;
        let (code, message) = if self.payment.phase.is_undecided() {
            let message = format!(
                "{error}; a payment was begun and stays reserved. Mend the ledger, then run `agent-customer recover`"
            );
            (Code::PaymentUnknown, message)
        } else {
            let message = format!("{error}; nothing was paid");
            (Error::from(error).code(), message)
        };
        Error::new(code, message)
            .of(self.payment.id)
            .with_money(Msat::ZERO, reserved)
    }

    async fn reserved(&self) -> Msat {
        let record = self.desk.ledger.purchase(self.payment.id).await;
        record.map_or(Msat::ZERO, |record| record.reserved())
    }

    async fn outcome(self, finish: Finish) -> Result<Paid> {
        match (finish, &self.payment.phase) {
            (Finish::Delivered, Phase::Settled { fee, preimage }) => Ok(Paid {
                purchase_id: self.payment.id,
                payment_hash: self.payment.payment.payment_hash,
                amount_msat: self.payment.payment.amount,
                fee_msat: *fee,
                preimage: preimage.map(|preimage| preimage.reveal()),
            }),
            (Finish::Failed { code, message }, _) => Err(Error::new(code, message)
                .of(self.payment.id)
                .with_money(Msat::ZERO, self.reserved().await)),
            (Finish::Delivered, _) => Err(Error::new(
                Code::Internal,
                "a payment ended without an outcome",
            )),
        }
    }
}

enum Committed {
    Done(Vec<Effect>),
    Refused(Happening),
}

fn seen(step: &Step) -> Option<SeenBalance> {
    step.entries.iter().find_map(|booking| match booking {
        Booking::Reserve { seen, .. } => *seen,
        Booking::Plain(_) => None,
    })
}

/// What it is to put the way from `before` to `after` on record.
pub(in crate::purchase) const fn points(before: &Phase, after: &Phase) -> &'static [Point] {
    match (before, after) {
        (Phase::Opened, Phase::Paying) => &[Point::CustomerReserve],
        (Phase::Opened, Phase::Failed { .. }) => &[Point::CustomerFail],
        (_, Phase::Failed { .. }) => &[Point::CustomerFree],
        (_, Phase::Settled { .. }) => &[Point::CustomerSettle],
        (_, Phase::Unknown { .. }) => &[Point::CustomerUnknown],
        _ => &[],
    }
}
