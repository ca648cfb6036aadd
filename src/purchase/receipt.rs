//! Receipts: what a purchase came to, in the buyer's own signed words, each bound to the one before.
//!
//! A receipt is a Nostr event (NIP-01) that is never published: its id is the SHA-256 of what it says, its
//! signature (BIP340) the customer's, its content a [`Statement`] in JSON. Any Nostr library checks that
//! much. [`verify`] checks the rest, offline: that the invoice in it is signed and on the same hash and
//! amount, that the preimage belongs to that hash, that the sums are right, and that of a row of receipts
//! none is missing, altered or out of place.
//!
//! ```text
//!  1 ◄──────── 2 ◄──────── 3 ◄──────── 4          of one customer key, in one ledger
//!              │ paid,     │           │ the result of 2
//!              │ no result │           │ came after all:
//!              └───────────┼───────────┘ 4 replaces 2
//! ```
//!
//! # Which purchases have one
//!
//! Every one that ended with money spent or a result here: delivered, or undelivered after payment. It is
//! written in the very transaction of the ledger that says so, so that neither is ever on record without the
//! other. If a late result changes what an earlier receipt says, a new one [replaces](Statement::replaces)
//! it; nothing is edited. A purchase that cost nothing and brought nothing has none, nor has one that ended
//! before this program kept receipts, or that was recovered under another key than asked for it.
//!
//! # What it proves, and what it does not
//!
//! To others: that this key says so, and, with a preimage that the *seller* made, that the holder of that
//! preimage learned it from whom the invoice pays. In an escrow the buyer made the preimage itself, so there it
//! is no proof of payment, and the receipt says so ([`Payment::proves_payment`]). That no receipt was cut off
//! the end of a row is for the owner's ledger to say, not for the row.

pub mod verify;

use nostr::{EventId, PublicKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::preimage_text;
use super::state::{Phase, State};
use crate::ids::{JobId, PaymentHash, Preimage, PurchaseId};
use crate::ledger::ReceiptPlace;
use crate::units::{Msat, Network, UnixSecs};

/// The event kind of a receipt. It never meets a relay, so it needs to differ only from what does.
pub const KIND_RECEIPT: u16 = 9_748;

/// The version of the content below.
pub const VERSION: u32 = 1;

/// The longest receipt that is read, as an event in JSON, in bytes: an invoice may have four thousand.
pub const MAX_BYTES: usize = 16 * 1024;

/// How a purchase ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The result is here.
    Delivered,
    /// Paid, and no result by then.
    Undelivered,
}

impl Outcome {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Undelivered => "undelivered",
        }
    }
}

/// What a receipt says. The customer is the key that signed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// The version of this form.
    pub v: u32,
    /// 1 for the customer's first in its ledger, and one more each time.
    pub number: u64,
    /// The id of the receipt before it; `None` for the first.
    pub previous: Option<EventId>,
    /// The receipt of the same purchase that no longer holds, if there is one.
    pub replaces: Option<EventId>,
    /// The purchase, as the ledger calls it.
    pub purchase_id: PurchaseId,
    /// How it ended.
    pub outcome: Outcome,
    /// The network of the money.
    pub network: Network,
    /// Whether it is play money, which is worth nothing.
    pub play_money: bool,
    /// The key of the seller.
    pub provider: PublicKey,
    /// The channel (NIP-28) it was dealt with in.
    pub channel: EventId,
    /// The event that asked for the job.
    pub request: EventId,
    /// What both sides call the job: the first digits of that.
    pub job_id: JobId,
    /// The model that was asked for.
    pub model: Option<String>,
    /// The offer that was taken.
    pub listing: Listing,
    /// What was paid; `None` where nothing was to be paid.
    pub payment: Option<Payment>,
    /// The result, if it is here.
    pub result: Option<ResultDigest>,
    /// When the request was put on record, in ledger time.
    pub requested_at: UnixSecs,
    /// When the payment was put on record as settled.
    pub paid_at: Option<UnixSecs>,
    /// When the purchase ended: the date of the receipt.
    pub finished_at: UnixSecs,
}

/// The offer that a purchase was made on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listing {
    /// The provider's signed event with the price in it: a NIP-89 listing, or an announcement in its channel.
    /// `None` where the caller named the terms itself.
    pub event: Option<EventId>,
    /// What it said that this job would cost at most, if it said.
    pub price_msat: Option<Msat>,
}

/// A payment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Payment {
    /// The invoice (BOLT11), signed by the node that was to be paid.
    pub bolt11: String,
    /// Its hash.
    pub payment_hash: PaymentHash,
    /// What it asks for.
    pub price_msat: Msat,
    /// What routing cost on top.
    pub fee_msat: Msat,
    /// What left the wallet: both, or nothing where the money of an escrow came back.
    pub paid_msat: Msat,
    /// The kind of the wallet that paid.
    pub wallet: String,
    /// Whether the money was locked first, to a preimage that the buyer made.
    pub escrow: bool,
    /// The preimage of the hash, as far as the wallet told it.
    #[serde(with = "preimage_text")]
    pub preimage: Option<Preimage>,
    /// Whether the preimage proves to others that the invoice was paid.
    pub proves_payment: bool,
    /// Why not.
    pub note: Option<String>,
}

/// What tells a result from any other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResultDigest {
    /// The SHA-256 of the text in UTF-8, in hex.
    pub sha256: String,
    /// How long it is.
    pub bytes: u64,
}

impl ResultDigest {
    /// Of this text.
    #[must_use]
    pub fn of(text: &[u8]) -> Self {
        let hash = Sha256::digest(text);
        Self {
            sha256: hash.iter().map(|byte| format!("{byte:02x}")).collect(),
            bytes: text.len() as u64,
        }
    }
}

impl Payment {
    /// Why a preimage would prove nothing; `None` if it proves the payment.
    #[must_use]
    pub const fn why_no_proof(escrow: bool, preimage: Option<&Preimage>) -> Option<&'static str> {
        match (escrow, preimage) {
            (true, _) => Some(
                "the buyer made this preimage itself, for the escrow: it is no proof of payment",
            ),
            (false, None) => Some("the wallet told no preimage: there is no proof of payment"),
            (false, Some(_)) => None,
        }
    }
}

impl Statement {
    /// What is to be said of a purchase that stands like this; `None` while it is not over, or where nothing
    /// was spent and nothing came.
    #[must_use]
    pub fn of(state: &State, place: &ReceiptPlace) -> Option<Self> {
        let terms = &state.terms;
        let (outcome, text) = match &state.phase {
            Phase::Delivered { text, .. } => (Outcome::Delivered, Some(text)),
            Phase::Undelivered { .. } => (Outcome::Undelivered, None),
            _ => return None,
        };
        Some(Self {
            v: VERSION,
            number: place.number,
            previous: place.previous,
            replaces: place.replaces,
            purchase_id: terms.id,
            outcome,
            network: place.scope.network,
            play_money: place.scope.play_money,
            provider: terms.provider,
            channel: terms.channel,
            request: terms.request.id,
            job_id: terms.job_id(),
            model: terms.model.clone(),
            listing: Listing {
                event: terms.listing,
                price_msat: terms.listed,
            },
            payment: payment(state),
            result: text.map(|text| ResultDigest::of(text.as_bytes())),
            requested_at: place.requested_at,
            paid_at: place.paid_at,
            finished_at: place.finished_at,
        })
    }
}

fn payment(state: &State) -> Option<Payment> {
    let (price, bolt11, payment_hash, settled) = match &state.phase {
        Phase::Delivered {
            price,
            bolt11,
            payment_hash,
            settled,
            ..
        } => (*price, bolt11.clone()?, (*payment_hash)?, settled),
        Phase::Undelivered { quote, settled, .. } => {
            let invoice = quote.invoice.as_ref()?;
            let bolt11 = invoice.bolt11.clone();
            (quote.amount, bolt11, invoice.payment_hash, settled)
        }
        _ => return None,
    };
    let pay_by = &state.terms.pay_by;
    let escrow = pay_by.is_escrow();
    let note = Payment::why_no_proof(escrow, settled.preimage.as_ref());
    Some(Payment {
        bolt11,
        payment_hash,
        price_msat: price,
        fee_msat: settled.fee,
        paid_msat: settled.paid(),
        wallet: pay_by.wallet()?.kind.clone(),
        escrow,
        preimage: settled.preimage,
        proves_payment: note.is_none(),
        note: note.map(str::to_owned),
    })
}
