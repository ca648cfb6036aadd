//! What a purchase asks of its wallet, and the claim that it keeps meanwhile.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::Run;
use crate::config::{self, default_fee_cap};
use crate::crash::{self, Point};
use crate::error::Code;
use crate::ids::PaymentHash;
use crate::ledger::{DriveGuard, Ledger, Refusal, RefusedBy, SeenBalance};
use crate::purchase::state::{Booking, Happening, Quote, Step};
use crate::units::Msat;
use crate::wallet::{FailureProof, Outgoing, PayOutcome, PayRequest, Wallet, WalletError};

/// This process's claim on a purchase while its wallet has the order to pay. Until the wallet has answered,
/// "no such payment" proves nothing, so nobody else may take the purchase over and free its money:
/// whatever becomes of the [`Run`](super::Run), of the client and of its runtime.
struct Claim {
    ledger: Option<Ledger>,
    _driving: Arc<DriveGuard>,
}

impl Claim {
    fn new(ledger: &Ledger, driving: &Arc<DriveGuard>) -> Self {
        Self {
            ledger: Some(ledger.clone()),
            _driving: Arc::clone(driving),
        }
    }

    /// The wallet has answered, or was never asked.
    fn end(mut self) {
        self.ledger = None;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Cut off: the wallet may be at work still, for as long as the process lives.
        if let Some(ledger) = self.ledger.take() {
            ledger.keep_until_exit();
        }
    }
}

/// Gives the order to pay, and the wallet's answer to whoever still waits for it.
fn ordered(
    wallet: Arc<dyn Wallet>,
    request: PayRequest,
    claim: Claim,
) -> impl Future<Output = PayOutcome> {
    let (tell, told) = oneshot::channel();
    #[expect(
        clippy::disallowed_methods,
        reason = "a payment that was begun goes on without us, so its claim must not end with its purchase; the wallet's answer ends it"
    )]
    tokio::spawn(async move {
        if tell.is_closed() {
            return claim.end();
        }
        let answer = order(&*wallet, request, claim).await;
        // Nobody left to hear it: recovery asks again.
        let _ = tell.send(answer);
    });
    async move {
        told.await.unwrap_or_else(|_| PayOutcome::Unknown {
            reason: "the wallet broke off".to_owned(),
        })
    }
}

/// Tells the wallet to pay what is on record as reserved, and nothing else.
async fn order(wallet: &dyn Wallet, mut request: PayRequest, claim: Claim) -> PayOutcome {
    let Some(ledger) = claim.ledger.clone() else {
        return not_told("its claim has ended");
    };
    let outcome = match ledger.purchase(request.purchase).await {
        Ok(record) => {
            let reserved = record.reservation.filter(|reservation| {
                reservation.payment_hash == request.payment_hash && reservation.status.is_open()
            });
            match reserved {
                Some(reserved) => {
                    request.max_fee = reserved.fee_cap;
                    crash::around(Point::CustomerPay, wallet.pay(request)).await
                }
                None => not_told("no money is set aside for it"),
            }
        }
        Err(error) => not_told(&format!("the reservation can't be read back: {error}")),
    };
    claim.end();
    outcome
}

/// Proof by never having begun.
fn not_told(why: &str) -> PayOutcome {
    PayOutcome::Failed(FailureProof::new(format!(
        "the wallet was not told to pay: {why}"
    )))
}

impl Run<'_> {
    fn wallet_and_quote(&self) -> Option<(Arc<dyn Wallet>, Quote)> {
        let wallet = Arc::clone(self.engine.wallet.as_ref()?);
        let quote = self.state.phase.quote()?.clone();
        (Some(wallet.id()) == self.state.terms.pay_by.wallet()).then_some((wallet, quote))
    }

    pub(super) fn prepare(&mut self) {
        let Some((wallet, quote)) = self.wallet_and_quote() else {
            return;
        };
        let cap = self
            .state
            .terms
            .max_fee
            .unwrap_or_else(|| default_fee_cap(quote.amount));
        let ledger = self.engine.ledger.clone();
        let floor = self.engine.limits.floor;
        let pause = std::mem::take(&mut self.prepare_after);
        self.work.spawn(async move {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            Some(match prepare(&*wallet, &ledger, &quote, cap, floor).await {
                Ok((fee_cap, seen)) => Happening::Prepared { fee_cap, seen },
                Err((code, message)) => Happening::CannotPay { code, message },
            })
        });
    }

    /// Whether a floor refuses only because of other open payments, whose money may be gone from the balance
    /// already. No other process says when it books one, so asking again is all there is.
    pub(super) fn may_be_twice(&self, step: &Step, refusal: Refusal) -> bool {
        let floor = self.engine.limits.floor;
        let fits_alone = |booking: &Booking| match booking {
            Booking::Reserve {
                seen: Some(seen), ..
            } => seen.balance.saturating_sub(floor) >= refusal.asked,
            _ => false,
        };
        refusal.by == RefusedBy::Floor && step.entries.iter().any(fits_alone)
    }

    pub(super) fn pay(&mut self) {
        let Some((wallet, quote)) = self.wallet_and_quote() else {
            return;
        };
        let Some(invoice) = quote.invoice else { return };
        let request = PayRequest {
            bolt11: invoice.bolt11,
            payment_hash: invoice.payment_hash,
            amount: quote.amount,
            max_fee: Msat::ZERO,
            purchase: self.state.terms.id,
        };
        let claim = Claim::new(&self.engine.ledger, &self.driving);
        let answer = ordered(wallet, request, claim);
        self.work
            .spawn(async move { Some(Happening::PayAnswered(answer.await)) });
    }

    /// Asks the wallet what became of the payment, soon at first.
    pub(super) fn look_up_soon(&mut self) {
        self.look_after = config::LOOK_UP_FIRST;
        self.look_up();
    }

    /// Asks the wallet once more, after a hint or a growing pause.
    pub(super) fn look_up(&mut self) {
        let Some((wallet, quote)) = self.wallet_and_quote() else {
            return;
        };
        let Some(invoice) = quote.invoice else { return };
        let first_pause = self.look_after;
        self.look_after = (first_pause * 2).min(config::LOOK_UP_LONGEST);
        let hash = invoice.payment_hash;
        self.look(async move { Some(look_up(&*wallet, hash, first_pause).await) });
    }

    /// Looks up a payment whose order the wallet has not answered for a while. No hint cuts that short: an
    /// order that is about to be refused is in flight to some wallets until then.
    pub(super) fn watch_order(&mut self) {
        let Some((wallet, quote)) = self.wallet_and_quote() else {
            return;
        };
        let Some(invoice) = quote.invoice else { return };
        let hash = invoice.payment_hash;
        self.look(async move {
            sleep(config::ORDER_PATIENCE).await;
            Some(look_up(&*wallet, hash, Duration::ZERO).await)
        });
    }

    /// One look-up at a time: a new one takes the place of the one before.
    fn look(&mut self, look: impl Future<Output = Option<Happening>> + Send + 'static) {
        if let Some(earlier) = self.looking.replace(self.work.spawn(look)) {
            earlier.abort();
        }
    }
}

async fn prepare(
    wallet: &dyn Wallet,
    ledger: &Ledger,
    quote: &Quote,
    cap: Msat,
    floor: Msat,
) -> Result<(Msat, Option<SeenBalance>), (Code, String)> {
    let bolt11 = quote
        .invoice
        .as_ref()
        .map_or("", |invoice| invoice.bolt11.as_str());
    let fee = if wallet.capabilities().binding_fee_quote {
        wallet.fee_quote(bolt11).await.map_err(cannot_pay)?
    } else {
        cap
    };
    if fee > cap {
        return Err((
            Code::PaymentFailed,
            format!(
                "routing would cost {fee}, more than the {cap} allowed (--max-fee); nothing was paid"
            ),
        ));
    }
    if !wallet.capabilities().authoritative_lookup {
        is_new_to(wallet, quote).await?;
    }
    if floor.is_zero() {
        return Ok((fee, None));
    }
    let settlements = ledger
        .settlements(wallet.id())
        .await
        .map_err(|error| (Code::Ledger, error.to_string()))?;
    let balance = wallet.balance().await.map_err(cannot_pay)?;
    Ok((
        fee,
        Some(SeenBalance {
            balance,
            settlements,
        }),
    ))
}

/// Asks a wallet whether it knows a payment already, before anything is set aside for it. One that does not
/// answer now would leave the money in doubt for as long as it can't prove that it never paid.
async fn is_new_to(wallet: &dyn Wallet, quote: &Quote) -> Result<(), (Code, String)> {
    let Some(invoice) = &quote.invoice else {
        return Ok(());
    };
    let found = wallet.outgoing(invoice.payment_hash).await;
    let known = match found.map_err(cannot_pay)? {
        Outgoing::NotFound => return Ok(()),
        Outgoing::Paid { .. } => "has paid",
        Outgoing::InFlight => "is paying",
        Outgoing::Failed(_) => "has tried to pay",
    };
    let message =
        format!("the wallet {known} this invoice before; nothing was paid for this purchase");
    Err((Code::BadInvoice, message))
}

fn cannot_pay(error: WalletError) -> (Code, String) {
    let code = match error {
        WalletError::Unreachable(_) => Code::Network,
        WalletError::Refused(_) | WalletError::Unsupported(_) | WalletError::Storage(_) => {
            Code::Wallet
        }
    };
    (code, format!("{error}; nothing was paid"))
}

/// Looks a payment up until the wallet answers, woken by its hints.
pub(in crate::purchase) async fn look_up(
    wallet: &dyn Wallet,
    hash: PaymentHash,
    first_pause: Duration,
) -> Happening {
    let mut hints = wallet.changes();
    let mut pause = first_pause;
    loop {
        let hinted = async {
            if let Some(hints) = &mut hints
                && hints.changed().await.is_ok()
            {
                return;
            }
            std::future::pending().await
        };
        let _ = timeout(pause, hinted).await;
        if let Ok(found) = wallet.outgoing(hash).await {
            return Happening::LookedUp {
                found,
                authoritative: wallet.capabilities().authoritative_lookup,
            };
        }
        pause = (pause * 2).min(config::LOOK_UP_LONGEST);
    }
}
