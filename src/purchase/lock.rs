//! A payment into escrow, until its wallet has decided it.

use serde::{Deserialize, Serialize};

use super::doubt::Doubt;
use super::state::Quote;
use crate::ids::PaymentHash;

/// Money on its way to a hold invoice on our hash. Only who knows the preimage can claim it; the payee gives
/// it back, or it comes back by itself when the lock ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// What is being paid.
    pub quote: Quote,
    /// The wallet's last word on it.
    pub word: Word,
    /// What counts towards a proof that the money is back, or was never locked.
    #[serde(flatten)]
    pub doubt: Doubt,
    /// Whether the wallet has an order to pay that it has not answered. Until then "no such payment" may
    /// just be early. Not on record: nobody takes a purchase over while there is such an order.
    #[serde(skip)]
    pub unanswered: bool,
    /// Whether the provider was told of it. Not on record: after a crash it is told again.
    #[serde(skip)]
    pub announced: bool,
}

/// What a wallet says of a payment into escrow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// Nothing yet: it was, or is about to be, told to pay.
    Told,
    /// The money is on its way: locked, as far as the payer can know.
    InFlight,
    /// It could not say, and why. The ledger counts the money as unknown.
    Unknown(String),
}

impl Lock {
    /// A payment that the wallet is about to be told of.
    #[must_use]
    pub const fn ordered(quote: Quote) -> Self {
        Self {
            quote,
            word: Word::Told,
            doubt: Doubt {
                failed: 0,
                missing: 0,
            },
            unanswered: true,
            announced: false,
        }
    }

    /// The hash that the money is locked to.
    #[must_use]
    pub fn hash(&self) -> Option<PaymentHash> {
        self.quote
            .invoice
            .as_ref()
            .map(|invoice| invoice.payment_hash)
    }
}
