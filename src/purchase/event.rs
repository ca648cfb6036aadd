//! What a purchase tells whoever is watching: the events of the command line's `--json`, one to one.

use serde::Serialize;

use crate::error::{Code, Error};
use crate::ids::{JobId, PaymentHash, PurchaseId};
use crate::protocol::Feature;
use crate::protocol::record::Summary;
use crate::units::{Msat, Network, UnixSecs};

/// One thing that happened. Keys and ids are hex; amounts are integer millisatoshi.
///
/// Text in here may come from the network: escape it before it reaches a terminal.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum PurchaseEvent {
    /// A provider was heard of.
    Provider(ProviderSeen),
    /// The choice is made.
    Selected {
        /// The purchase; `None` in a dry run, which is none.
        purchase_id: Option<PurchaseId>,
        /// The provider's key.
        provider: String,
        /// What it asks for this job, if it says.
        price_msat: Option<Msat>,
        /// How many others may be asked, at most, should this one fail with nothing paid.
        #[serde(skip)]
        others: usize,
    },
    /// This provider failed, and its purchase is over: nothing was paid, or it is back. The next one is
    /// about to be selected, with a purchase of its own; what came of the result so far is void.
    FailedOver {
        /// The purchase that failed.
        purchase_id: PurchaseId,
        /// The provider that failed.
        provider: String,
        /// How, as a stable word.
        code: Code,
        /// What happened.
        message: String,
        /// The provider that is asked next.
        next_provider: String,
    },
    /// The request is on its way.
    Requested {
        /// The purchase.
        purchase_id: PurchaseId,
        /// What both sides call the job.
        job_id: JobId,
        /// Whether only the provider can read it.
        encrypted: bool,
    },
    /// The provider's invoice passed every check.
    Quoted {
        /// The purchase.
        purchase_id: PurchaseId,
        /// The invoice's amount.
        price_msat: Msat,
        /// The invoice's hash; absent where nothing is paid.
        payment_hash: Option<PaymentHash>,
        /// When the quote ends.
        expires_at: Option<UnixSecs>,
    },
    /// The money is set aside, and every limit allows it.
    Reserved {
        /// The purchase.
        purchase_id: PurchaseId,
        /// Price and fee cap.
        reserved_msat: Msat,
    },
    /// The wallet was told to pay.
    Paying {
        /// The purchase.
        purchase_id: PurchaseId,
        /// The payment.
        payment_hash: PaymentHash,
    },
    /// The wallet says that the provider has the money.
    Paid {
        /// The purchase.
        purchase_id: PurchaseId,
        /// The invoice's amount.
        price_msat: Msat,
        /// What routing cost on top.
        fee_msat: Msat,
    },
    /// In escrow: the wallet has the order and the money is on its way, for the provider to see. It is paid
    /// only once the preimage is released.
    Locked {
        /// The purchase.
        purchase_id: PurchaseId,
        /// The hash that the money is locked to.
        payment_hash: PaymentHash,
        /// How much, routing fee left aside.
        amount_msat: Msat,
    },
    /// A piece of the result, in order.
    Chunk {
        /// The purchase.
        purchase_id: PurchaseId,
        /// Its place, from 0, without gaps.
        seq: u32,
        /// The piece.
        text: String,
        /// Whether its provider numbered it. Pieces without numbers (deployed peers) come in the order
        /// in which relays sent them, and the result may be another text.
        #[serde(skip)]
        in_order: bool,
    },
    /// In escrow: the result is on record, and the provider is told the preimage that claims the money.
    Released {
        /// The purchase.
        purchase_id: PurchaseId,
        /// The payment.
        payment_hash: PaymentHash,
    },
    /// The end: delivered.
    Result(Receipt),
}

/// A provider, and whether it suits.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ProviderSeen {
    /// Its key.
    pub provider: String,
    /// What it calls itself.
    pub name: String,
    /// What it asks for this job, if it says.
    pub price_msat: Option<Msat>,
    /// The models it serves.
    pub models: Vec<String>,
    /// The network of its invoices, if it says.
    pub network: Option<Network>,
    /// Its channel.
    pub channel: Option<String>,
    /// What it can do beyond the plain protocol.
    pub features: Vec<Feature>,
    /// Whether it would be bought from.
    pub matches: bool,
    /// Why not: a stable word.
    pub reason: Option<String>,
    /// What our own purchases say of it.
    pub record: Summary,
}

/// What a delivered purchase came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Receipt {
    /// The purchase.
    pub purchase_id: PurchaseId,
    /// The result.
    pub text: String,
    /// Who delivered it.
    pub provider: String,
    /// The model that was asked for, or the provider's only one.
    pub model: Option<String>,
    /// The invoice's amount.
    pub price_msat: Msat,
    /// What routing cost on top.
    pub fee_msat: Msat,
    /// What left the wallet: price and fee.
    pub paid_msat: Msat,
    /// What the ledger still holds for this purchase: in an escrow, until the provider has claimed it.
    pub reserved_msat: Msat,
    /// The payment; absent where nothing was paid.
    pub payment_hash: Option<PaymentHash>,
    /// In hex: proof of payment, if the wallet told it. In an escrow it is the buyer's own secret, which
    /// proves nothing to anybody else.
    pub preimage: Option<String>,
    /// From intent to delivery.
    pub elapsed_ms: u64,
}

impl std::fmt::Display for Receipt {
    /// The result's text.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// The last line of a purchase that was not delivered.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorLine {
    /// The stable word.
    pub code: Code,
    /// What happened and what to do.
    pub message: String,
    /// Whether the same request may well succeed later.
    pub retryable: bool,
    /// What left the wallet.
    pub paid_msat: Msat,
    /// What the ledger still holds.
    pub reserved_msat: Msat,
    /// The purchase, if there is one.
    pub purchase_id: Option<PurchaseId>,
}

impl From<&Error> for ErrorLine {
    fn from(error: &Error) -> Self {
        Self {
            code: error.code(),
            message: error.message().to_owned(),
            retryable: error.is_retryable(),
            paid_msat: error.paid_msat(),
            reserved_msat: error.reserved_msat(),
            purchase_id: error.purchase(),
        }
    }
}
