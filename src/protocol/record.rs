//! What a buyer's own purchases say of a provider. The ledger keeps it, the market reads it.
//!
//! Nothing in here comes from the network: a provider can add to its record only by being bought from.

use std::collections::BTreeMap;

use nostr::PublicKey;
use serde::Serialize;

use crate::units::{Msat, UnixSecs};

/// How a purchase ended, as far as that is the provider's doing. What the buyer did itself (stopped it,
/// had no budget, no money, no connection) is none of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The result came.
    Delivered,
    /// The money left, or was locked, and no result came in time. One that comes late makes it
    /// [`Delivered`](Self::Delivered).
    Undelivered,
    /// It said no before any payment.
    Refused,
    /// Its invoice did not pass the checks.
    BadInvoice,
    /// It did not answer before the buyer's time was up.
    Unanswered,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Delivered,
        Self::Undelivered,
        Self::Refused,
        Self::BadInvoice,
        Self::Unanswered,
    ];

    /// The word for it in the ledger.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Undelivered => "undelivered",
            Self::Refused => "refused",
            Self::BadInvoice => "bad_invoice",
            Self::Unanswered => "unanswered",
        }
    }

    /// The outcome with this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|outcome| outcome.as_str() == word)
    }
}

/// What one purchase says of its provider. There is one of a purchase at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The provider.
    pub provider: PublicKey,
    /// How it ended.
    pub outcome: Outcome,
    /// What was paid or locked, routing left aside; zero where it never came to that.
    pub price: Msat,
    /// What the provider's listing had asked for this job, if it did.
    pub listed: Option<Msat>,
    /// From the order to pay to the first piece of text, in milliseconds, if that was seen.
    pub first_token_ms: Option<u64>,
}

/// An [`Observation`] of the provider whose [`Record`] it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    /// When it was put on record, in ledger time.
    pub at: UnixSecs,
    /// How the purchase ended.
    pub outcome: Outcome,
    /// What was paid or locked.
    pub price: Msat,
    /// What the listing had asked.
    pub listed: Option<Msat>,
    /// From the order to pay to the first piece of text, in milliseconds.
    pub first_token_ms: Option<u64>,
}

/// What is known of one provider. [`Record::default`] is that of a stranger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// How many purchases ended how, ever.
    pub counts: BTreeMap<Outcome, u64>,
    /// The latest of each outcome, the latest of all first.
    pub recent: Vec<Past>,
}

impl Record {
    /// How many purchases ended so.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.counts.get(&outcome).copied().unwrap_or(0)
    }

    /// How many purchases there were whose end was the provider's doing.
    #[must_use]
    pub fn attempts(&self) -> u64 {
        self.counts
            .values()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }
}

/// A record in numbers, for one job: what `providers` and the `provider` event show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Purchases whose end was the provider's doing.
    pub attempts: u64,
    /// That many brought a result.
    pub delivered: u64,
    /// That many were paid for, or the money was locked, and brought none.
    pub undelivered: u64,
    /// That many were refused before any payment.
    pub refused: u64,
    /// That many came to an invoice that did not pass the checks.
    pub bad_invoices: u64,
    /// That many were never answered.
    pub unanswered: u64,
    /// From the order to pay to the first piece of text, in milliseconds, on average; newer purchases
    /// weigh more.
    pub first_token_ms: Option<u64>,
    /// What its invoices came to, in percent of what was listed.
    pub invoice_percent: Option<u64>,
    /// How surely it delivers a job of this price, from 0 to 100; 50 is a stranger.
    pub score: u8,
    /// Whether that is enough to be paid more than `unproven_limit_sats` outside of escrow.
    pub proven: bool,
}
