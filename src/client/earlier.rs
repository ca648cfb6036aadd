//! An earlier purchase under the same idempotency key: told again, awaited, taken up, or made anew.

use std::time::Duration;

use super::buy::{Buyer, stopped};
use super::{PurchaseEvent, Receipt};
use crate::error::{Code, Error, Result};
use crate::ledger::{Idempotency, LedgerError, PurchaseRecord, Status};
use crate::purchase::lock::Word;
use crate::purchase::recover::{Depth, recover_one};
use crate::purchase::state::{Phase, State};

/// The first and the longest pause between looks at a purchase that another process runs.
const WATCH_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

impl Buyer<'_> {
    pub(super) fn idempotency(&self) -> Option<Idempotency> {
        let key = self.request.idempotency_key.clone()?;
        let paid = self.ready.engine.wallet.is_some();
        Some(Idempotency {
            key,
            fingerprint: self.request.fingerprint(self.ready.scope, paid),
        })
    }

    /// What an earlier purchase with the same idempotency key came to. `None`: there is none, or it
    /// failed unpaid, so that a new attempt is due.
    pub(super) async fn earlier(&self) -> Result<Option<Receipt>> {
        let Some(wanted) = self.idempotency() else {
            return Ok(None);
        };
        let ledger = &self.ready.engine.ledger;
        let Some(record) = ledger.by_key(&wanted.key).await? else {
            return Ok(None);
        };
        let state = read(&record)?;
        if state.terms.fingerprint.as_ref() != Some(&wanted.fingerprint) {
            return Err(LedgerError::KeyConflict(record.id).into());
        }
        self.await_outcome(record).await
    }

    /// Waits for a purchase that may be running elsewhere; recovers it if nobody runs it.
    pub(super) async fn await_outcome(
        &self,
        mut record: PurchaseRecord,
    ) -> Result<Option<Receipt>> {
        let engine = &self.ready.engine;
        let mut recovered = false;
        let mut pause = WATCH_PAUSE.0;
        loop {
            let state = read(&record)?;
            match record.state.status {
                Status::Failed => return Ok(None),
                Status::Delivered => return self.tell_again(&record, &state).await.map(Some),
                Status::Open | Status::Undelivered if !recovered => {
                    recovered = recover_one(engine, record.clone(), Depth::All)
                        .await?
                        .is_some();
                    if recovered {
                        record = engine.ledger.purchase(record.id).await?;
                        continue;
                    }
                }
                // Delivered, and the provider has yet to claim the money.
                Status::Open if state.receipt().is_some() && recovered => {
                    return self.tell_again(&record, &state).await.map(Some);
                }
                Status::Open | Status::Undelivered => return Err(unsettled(&record, &state)),
            }
            tokio::select! {
                () = self.stop.cancelled() => return Err(stopped().of(record.id)),
                () = tokio::time::sleep_until(self.deadline) => return match state.receipt() {
                    Some(_) => self.tell_again(&record, &state).await.map(Some),
                    None => Err(unsettled(&record, &state)),
                },
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(WATCH_PAUSE.1);
            record = engine.ledger.purchase(record.id).await?;
        }
    }

    async fn tell_again(&self, record: &PurchaseRecord, state: &State) -> Result<Receipt> {
        let mut receipt = state
            .receipt()
            .ok_or_else(|| Error::new(Code::Internal, "a delivered purchase has no receipt"))?;
        receipt.reserved_msat = record.reserved();
        self.tell(PurchaseEvent::Selected {
            purchase_id: Some(receipt.purchase_id),
            provider: receipt.provider.clone(),
            price_msat: state.terms.listed,
            others: 0,
        })
        .await;
        Ok(receipt)
    }
}

fn read(record: &PurchaseRecord) -> Result<State> {
    State::from_row(&record.state)
        .map_err(|error| Error::new(Code::Ledger, format!("purchase {}: {error}", record.id)))
}

/// A purchase of this key is on record and can't be brought to an end now.
fn unsettled(record: &PurchaseRecord, state: &State) -> Error {
    let (paid, reserved) = (state.phase.paid(), record.reserved());
    let (code, message) = match &state.phase {
        Phase::Paying(_) | Phase::Unknown { .. } => (
            Code::PaymentUnknown,
            "the purchase with this key may have been paid; run `agent-customer recover`",
        ),
        Phase::Locked(lock) if matches!(lock.word, Word::Unknown(_)) => (
            Code::PaymentUnknown,
            "the wallet can't say whether the money of the purchase with this key is locked; run `agent-customer recover`",
        ),
        Phase::Locked(_) | Phase::Withheld { .. } => (
            Code::Undelivered,
            "the purchase with this key has its money locked, nothing paid, and no result yet; run `agent-customer recover`",
        ),
        Phase::Undelivered { spoiled: true, .. } => (
            Code::Undelivered,
            "the purchase with this key was paid, and its provider took back its own text: no other is taken",
        ),
        Phase::Awaiting { .. } | Phase::Undelivered { .. } => (
            Code::Undelivered,
            "the purchase with this key was paid and has no result yet; run `agent-customer recover`",
        ),
        Phase::Requested
        | Phase::Quoted(_)
        | Phase::Released { .. }
        | Phase::Delivered { .. }
        | Phase::Failed { .. } => (
            Code::Timeout,
            "the purchase with this key is still running in another process; nothing was paid here",
        ),
    };
    Error::new(code, message)
        .of(record.id)
        .with_money(paid, reserved)
}
