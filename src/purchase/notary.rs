//! Signs the [receipt](super::receipt) of a purchase that ends, for the ledger to write with that very commit.

use super::receipt::{KIND_RECEIPT, Statement};
use super::state::{Phase, State};
use crate::identity::Identity;
use crate::ledger::{Entry, ReceiptDraft, WrittenReceipt};
use crate::relay::seal;
use nostr::{EventBuilder, JsonUtil as _, Kind};

/// The receipt that is due when a purchase goes from `before` to `after`, if one is.
pub(super) fn receipt(before: &Phase, after: &State, identity: &Identity) -> Option<Entry> {
    let is_due = match &after.phase {
        Phase::Delivered { .. } => !matches!(before, Phase::Delivered { .. }),
        Phase::Undelivered { .. } => !matches!(before, Phase::Undelivered { .. }),
        _ => false,
    };
    if !is_due {
        return None;
    }
    let customer = identity.public_key();
    if after.terms.request.pubkey != customer {
        // Recovered under another key: that one did not ask, and can't say that it did.
        tracing::warn!(purchase = %after.terms.id, "no receipt: another key asked for this");
        return None;
    }
    let (state, identity) = (after.clone(), identity.clone());
    Some(Entry::Receipt(ReceiptDraft::new(customer, move |place| {
        let statement = Statement::of(&state, place).ok_or("it is not over")?;
        let content = serde_json::to_string(&statement).map_err(|error| error.to_string())?;
        let event = EventBuilder::new(Kind::from(KIND_RECEIPT), content);
        let event =
            seal::sign(&identity, event, place.finished_at).map_err(|error| error.to_string())?;
        Ok(WrittenReceipt {
            id: event.id,
            json: event.as_json(),
        })
    })))
}
