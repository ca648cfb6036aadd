//! What is asked of a wallet around a payment: whether it may begin, the order, and what became of it. A
//! purchase asks it so, and so does a [payment by hand](super::payment).

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::state::Happening;
use crate::config;
use crate::crash::{self, Point};
use crate::error::Code;
use crate::ids::PaymentHash;
use crate::ledger::{DriveGuard, Ledger, Refusal, RefusedBy, SeenBalance};
use crate::units::Msat;
use crate::wallet::{FailureProof, Outgoing, PayOutcome, PayRequest, Wallet, WalletError};

/// This process's claim on a purchase while its wallet has the order to pay. Until the wallet has answered,
/// "no such payment" proves nothing, so nobody else may take the purchase over and free its money:
/// whatever becomes of whoever drives it, of the client and of its runtime.
pub(super) struct Claim {
    ledger: Option<Ledger>,
    _driving: Arc<DriveGuard>,
}

impl Claim {
    pub(super) fn new(ledger: &Ledger, driving: &Arc<DriveGuard>) -> Self {
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
pub(super) fn ordered(
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

/// What is to be paid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) bolt11: &'a str,
    pub(super) hash: PaymentHash,
    pub(super) amount: Msat,
}

/// Asks the wallet what must be known before money is set aside for an invoice: what routing costs at most,
/// where that binds, and the balance, where a floor is to stay in it.
pub(super) async fn prepare(
    wallet: &dyn Wallet,
    ledger: &Ledger,
    asked: Asked<'_>,
    cap: Msat,
    floor: Msat,
) -> Happening {
    match prepared(wallet, ledger, asked, cap, floor).await {
        Ok((fee_cap, seen)) => Happening::Prepared { fee_cap, seen },
        Err((code, message)) => Happening::CannotPay { code, message },
    }
}

async fn prepared(
    wallet: &dyn Wallet,
    ledger: &Ledger,
    asked: Asked<'_>,
    cap: Msat,
    floor: Msat,
) -> Result<(Msat, Option<SeenBalance>), (Code, String)> {
    let fee = if wallet.capabilities().binding_fee_quote {
        wallet.fee_quote(asked.bolt11).await.map_err(cannot_pay)?
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
        // A floor looks at the balance itself.
        let looks = floor.is_zero();
        let (new, funds) = join(is_new_to(wallet, asked.hash), async {
            match looks {
                true => has_funds(wallet, asked.amount).await,
                false => Ok(()),
            }
        })
        .await;
        new.and(funds)?;
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
async fn is_new_to(wallet: &dyn Wallet, hash: PaymentHash) -> Result<(), (Code, String)> {
    let found = wallet.outgoing(hash).await;
    let known = match found.map_err(cannot_pay)? {
        Outgoing::NotFound => return Ok(()),
        Outgoing::Paid { .. } => "has paid",
        Outgoing::InFlight => "is paying",
        Outgoing::Failed(_) => "has tried to pay",
    };
    let message = format!("the wallet {known} this invoice before; nothing was paid now");
    Err((Code::BadInvoice, message))
}

/// Whether a floor refuses only because of other open payments, whose money may be gone from the balance
/// already. No other process says when it books one, so asking again is all there is.
pub(super) fn may_be_twice(seen: Option<SeenBalance>, floor: Msat, refusal: Refusal) -> bool {
    let fits_alone = |seen: SeenBalance| seen.balance.saturating_sub(floor) >= refusal.asked;
    refusal.by == RefusedBy::Floor && seen.is_some_and(fits_alone)
}

/// Whether a wallet has the money at all. One that has not, and is told to pay, may leave that in doubt; one that
/// does not tell its balance, or not soon, is told to pay.
async fn has_funds(wallet: &dyn Wallet, amount: Msat) -> Result<(), (Code, String)> {
    match timeout(config::LOOK_UP_LONGEST, wallet.balance()).await {
        Ok(Ok(balance)) if balance < amount => {
            let message = format!(
                "the wallet is short of funds: it has {balance}, and {amount} are asked for; nothing was paid"
            );
            Err((Code::Wallet, message))
        }
        _ => Ok(()),
    }
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
pub(super) async fn look_up(
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
