//! The persisted state of a purchase.

use serde::{Deserialize, Serialize};

use super::assembly::Assembly;
use super::doubt::Doubt;
pub use super::effect::{Booking, Effect, Finish, Happening, Step};
use super::event::Receipt;
use super::lock::{Lock, Word};
use super::preimage_text;
pub use super::terms::{PayBy, Terms};
use crate::ids::{PaymentHash, Preimage};
use crate::ledger::{StateRow, Status};
use crate::units::{Msat, UnixSecs};

/// The version of the JSON below. A ledger with a later one was written by a later program.
const VERSION: u32 = 2;

/// The version of a purchase without escrow, which programs from before there was one can read.
const WITHOUT_ESCROW: u32 = 1;

/// An invoice that passed the checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    /// What it asks for.
    pub amount: Msat,
    /// What is to be paid; absent where nothing is.
    pub invoice: Option<QuotedInvoice>,
    /// Whether the peer speaks our additions: then a result that begins with `Error: ` is a result, in escrow
    /// only if it was streamed.
    pub modern: bool,
}

/// The invoice of a quote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotedInvoice {
    /// BOLT11.
    pub bolt11: String,
    /// Its hash.
    pub payment_hash: PaymentHash,
    /// When it can no longer be paid.
    pub expires_at: UnixSecs,
    /// How long the payee may keep the payment unclaimed, in seconds; the delay of the route comes on top.
    #[serde(default)]
    pub hold_secs: u64,
}

/// A payment that the wallet says arrived (or, where nothing is paid, was not needed).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// The invoice's amount; zero where nothing was paid.
    pub price: Msat,
    /// What routing cost.
    pub fee: Msat,
    /// Proof of payment, if the wallet told it. In an escrow the buyer made it: proof of nothing.
    #[serde(with = "preimage_text")]
    pub preimage: Option<Preimage>,
}

impl Settled {
    /// Nothing was paid.
    #[must_use]
    pub const fn nothing(preimage: Option<Preimage>) -> Self {
        Self {
            price: Msat::ZERO,
            fee: Msat::ZERO,
            preimage,
        }
    }

    /// What left the wallet.
    #[must_use]
    pub const fn paid(&self) -> Msat {
        self.price.saturating_add(self.fee)
    }
}

/// How the provider answered the request itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The whole text.
    Text(String),
    /// It failed, in its own words; or what it sent is no result.
    Failure(String),
    /// It took back its own signed word on the text. In these words.
    TakenBack(String),
}

impl Answer {
    /// Whether it is what was paid for.
    #[must_use]
    pub const fn is_result(&self) -> bool {
        matches!(self, Self::Text(text) if !text.is_empty())
    }

    /// Whether it stands, whatever the provider says after it: a result does, and so does a word taken back.
    #[must_use]
    pub const fn is_last(&self) -> bool {
        self.is_result() || matches!(self, Self::TakenBack(_))
    }
}

/// Where a purchase stands. See the diagram in [`super`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The request is on record and on its way; no invoice yet.
    Requested,
    /// An invoice passed the checks; the money is not set aside yet. Never on record.
    Quoted(Quote),
    /// The money is set aside and the wallet was, or is about to be, told to pay.
    Paying(Quote),
    /// The wallet could not say whether it paid.
    Unknown {
        /// What was to be paid.
        quote: Quote,
        /// What the wallet said.
        reason: String,
        /// What counts towards a proof that it did not.
        #[serde(flatten)]
        doubt: Doubt,
    },
    /// Paid; the result is awaited.
    Awaiting {
        /// What was quoted.
        quote: Quote,
        /// What was paid.
        settled: Settled,
    },
    /// In escrow: the wallet was, or is about to be, told to lock the money; the result is awaited.
    Locked(Lock),
    /// In escrow: the result is here and the provider may have the preimage; the wallet has not said yet
    /// that the payment is settled.
    Released {
        /// The payment.
        lock: Lock,
        /// The result.
        text: String,
        /// How long it took.
        elapsed_ms: u64,
    },
    /// In escrow: no result, so the preimage is kept. One that comes late is still taken, as long as the
    /// money has not come back.
    Withheld {
        /// The payment.
        lock: Lock,
        /// Why there is no result.
        reason: String,
        /// Whether the provider took back its own signed word on the text: then no other word of it is taken.
        #[serde(default)]
        spoiled: bool,
    },
    /// Over: the result is here, and what it cost is certain.
    Delivered {
        /// What the provider asked.
        price: Msat,
        /// What was paid.
        settled: Settled,
        /// The payment's hash.
        payment_hash: Option<PaymentHash>,
        /// The invoice that was paid: with the preimage, the proof of payment. Older records lack it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bolt11: Option<String>,
        /// The result.
        text: String,
        /// How long it took.
        elapsed_ms: u64,
    },
    /// Paid, and no result. One that comes late is still taken, unless it is spoiled.
    Undelivered {
        /// What was quoted.
        quote: Quote,
        /// What was paid.
        settled: Settled,
        /// Why there is none.
        reason: String,
        /// Whether the provider took back its own signed word on the text: then no other word of it is taken.
        #[serde(default)]
        spoiled: bool,
    },
    /// Over: nothing paid.
    Failed {
        /// The stable word of the failure.
        code: String,
        /// What happened.
        message: String,
    },
}

/// A purchase: its terms, where it stands, and what has come in of the result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    v: u32,
    /// What was asked.
    pub terms: Terms,
    /// Where it stands.
    pub phase: Phase,
    /// The answer, while the payment is still undecided. On record only when the phase changes: an
    /// answer that a crash loses is on the relays still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
    /// The stream so far. Not on record.
    #[serde(skip)]
    pub stream: Assembly,
    /// Pieces shown so far. Not on record.
    #[serde(skip)]
    pub shown: u32,
}

/// Why a state on record can't be read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A later program wrote it.
    #[error("purchase state version {0} is newer than this program: update it")]
    Newer(u32),
    /// It is damaged.
    #[error("purchase state can't be read: {0}")]
    Damaged(#[from] serde_json::Error),
}

impl State {
    /// A purchase that is about to be asked for.
    #[must_use]
    pub fn new(terms: Terms) -> Self {
        Self {
            v: if terms.pay_by.is_escrow() {
                VERSION
            } else {
                WITHOUT_ESCROW
            },
            terms,
            phase: Phase::Requested,
            answer: None,
            stream: Assembly::default(),
            shown: 0,
        }
    }

    /// Reads a state from the ledger.
    ///
    /// # Errors
    /// If it is damaged or of a later version.
    pub fn from_row(row: &StateRow) -> Result<Self, StateError> {
        #[derive(Deserialize)]
        struct Versioned {
            v: u32,
        }
        let Versioned { v } = serde_json::from_str(&row.json)?;
        if v > VERSION {
            return Err(StateError::Newer(v));
        }
        Ok(serde_json::from_str(&row.json)?)
    }

    /// Since the purchase began, by the wall clock: for one that outlived its process.
    #[must_use]
    pub const fn elapsed_ms(&self, now: UnixSecs) -> u64 {
        now.since(self.terms.started_at).saturating_mul(1000)
    }

    /// The state as the ledger keeps it.
    ///
    /// # Errors
    /// If it can't be written as JSON: a bug.
    pub fn to_row(&self) -> Result<StateRow, StateError> {
        Ok(StateRow {
            json: serde_json::to_string(self)?,
            label: self.phase.label().to_owned(),
            status: self.phase.status(),
        })
    }
}

impl Phase {
    /// The name for people and for `history`.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Quoted(_) => "quoted",
            Self::Paying(_) => "paying",
            Self::Unknown { .. } => "payment_unknown",
            Self::Awaiting { .. } => "paid",
            Self::Locked(lock) => match lock.word {
                Word::Unknown(_) => "payment_unknown",
                Word::Told | Word::InFlight => "locked",
            },
            Self::Released { .. } => "released",
            Self::Delivered { .. } => "delivered",
            Self::Undelivered { .. } | Self::Withheld { .. } => "undelivered",
            Self::Failed { .. } => "failed",
        }
    }

    /// What the ledger must know of it.
    #[must_use]
    pub const fn status(&self) -> Status {
        match self {
            Self::Requested
            | Self::Quoted(_)
            | Self::Paying(_)
            | Self::Unknown { .. }
            | Self::Awaiting { .. }
            | Self::Locked(_)
            | Self::Released { .. } => Status::Open,
            Self::Delivered { .. } => Status::Delivered,
            Self::Undelivered { .. } | Self::Withheld { .. } => Status::Undelivered,
            Self::Failed { .. } => Status::Failed,
        }
    }

    /// The quote, once there is one.
    #[must_use]
    pub const fn quote(&self) -> Option<&Quote> {
        match self {
            Self::Quoted(quote)
            | Self::Paying(quote)
            | Self::Unknown { quote, .. }
            | Self::Awaiting { quote, .. }
            | Self::Undelivered { quote, .. } => Some(quote),
            Self::Locked(lock) | Self::Released { lock, .. } | Self::Withheld { lock, .. } => {
                Some(&lock.quote)
            }
            Self::Requested | Self::Delivered { .. } | Self::Failed { .. } => None,
        }
    }

    /// The invoice, once there is one, also of what is delivered.
    #[must_use]
    pub fn bolt11(&self) -> Option<&str> {
        if let Self::Delivered { bolt11, .. } = self {
            return bolt11.as_deref();
        }
        let invoice = self.quote()?.invoice.as_ref()?;
        Some(&invoice.bolt11)
    }

    /// What was paid, once that is certain.
    #[must_use]
    pub const fn settled(&self) -> Option<&Settled> {
        match self {
            Self::Awaiting { settled, .. }
            | Self::Delivered { settled, .. }
            | Self::Undelivered { settled, .. } => Some(settled),
            _ => None,
        }
    }
}

impl Phase {
    /// What left the wallet for good, fee included.
    #[must_use]
    pub fn paid(&self) -> Msat {
        self.settled().map_or(Msat::ZERO, Settled::paid)
    }

    /// The payment of an escrow, until its wallet has decided it.
    #[must_use]
    pub const fn lock(&self) -> Option<&Lock> {
        match self {
            Self::Locked(lock) | Self::Released { lock, .. } | Self::Withheld { lock, .. } => {
                Some(lock)
            }
            _ => None,
        }
    }

    /// The same, to be changed.
    #[must_use]
    pub const fn lock_mut(&mut self) -> Option<&mut Lock> {
        match self {
            Self::Locked(lock) | Self::Released { lock, .. } | Self::Withheld { lock, .. } => {
                Some(lock)
            }
            _ => None,
        }
    }

    /// Whether a payment was begun that its wallet has not decided: money is set aside for it.
    #[must_use]
    pub const fn is_undecided(&self) -> bool {
        matches!(self, Self::Paying(_) | Self::Unknown { .. }) || self.lock().is_some()
    }

    /// Whether a result may still be taken: once the provider could know that it is paid or that the money
    /// is locked, until it is delivered.
    #[must_use]
    pub const fn takes_results(&self) -> bool {
        matches!(
            self,
            Self::Paying(_)
                | Self::Unknown { .. }
                | Self::Awaiting { .. }
                | Self::Undelivered { spoiled: false, .. }
                | Self::Locked(_)
                | Self::Withheld { spoiled: false, .. }
        )
    }

    /// Whether the wallet could not say what became of a payment, and nothing else goes on.
    #[must_use]
    pub const fn is_in_doubt(&self) -> bool {
        match self {
            Self::Unknown { .. } => true,
            Self::Locked(lock) => matches!(lock.word, Word::Unknown(_)),
            _ => false,
        }
    }
}

impl State {
    /// The receipt of a delivered purchase; `None` before. In an escrow whose payment is not settled yet it
    /// says what is paid so far: nothing. What is still set aside is the ledger's to add.
    #[must_use]
    pub fn receipt(&self) -> Option<Receipt> {
        let (price, settled, payment_hash, text, elapsed_ms) = match &self.phase {
            Phase::Delivered {
                price,
                settled,
                payment_hash,
                text,
                elapsed_ms,
                ..
            } => (price, settled.clone(), *payment_hash, text, elapsed_ms),
            Phase::Released {
                lock,
                text,
                elapsed_ms,
            } => {
                let unpaid = Settled::nothing(self.terms.pay_by.preimage());
                (&lock.quote.amount, unpaid, lock.hash(), text, elapsed_ms)
            }
            _ => return None,
        };
        Some(Receipt {
            purchase_id: self.terms.id,
            text: text.clone(),
            provider: self.terms.provider.to_hex(),
            model: self.terms.model.clone(),
            price_msat: *price,
            fee_msat: settled.fee,
            paid_msat: settled.paid(),
            reserved_msat: Msat::ZERO,
            payment_hash,
            preimage: settled.preimage.map(|preimage| preimage.reveal()),
            elapsed_ms: *elapsed_ms,
        })
    }
}
