//! What was asked, of whom, and on what terms.

use nostr::{Event as NostrEvent, EventId, PublicKey};
use serde::{Deserialize, Serialize};

use super::preimage_text;
use crate::ids::{JobId, Preimage, PurchaseId, WalletId};
use crate::units::{Msat, Network, UnixSecs};

/// How a purchase is paid for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PayBy {
    /// By this wallet, when the provider's BOLT11 invoice has passed the checks.
    Invoice(WalletId),
    /// Into escrow: by a hold invoice on the hash of a preimage of ours, which the provider is told once it
    /// has delivered.
    Escrow {
        /// The wallet that locks the money.
        wallet: WalletId,
        /// 32 random bytes. Durable before their hash leaves the process, and theirs alone: without them
        /// nobody can claim the payment.
        #[serde(with = "preimage_text::one")]
        preimage: Preimage,
    },
    /// Not at all: the original tool's test mode, on regtest only.
    Nothing,
}

impl PayBy {
    /// The wallet that pays, and that alone can say what became of a payment.
    #[must_use]
    pub const fn wallet(&self) -> Option<&WalletId> {
        match self {
            Self::Invoice(wallet) | Self::Escrow { wallet, .. } => Some(wallet),
            Self::Nothing => None,
        }
    }

    /// The secret of an escrow.
    #[must_use]
    pub const fn preimage(&self) -> Option<Preimage> {
        match self {
            Self::Escrow { preimage, .. } => Some(*preimage),
            Self::Invoice(_) | Self::Nothing => None,
        }
    }

    /// Whether the money is locked first and paid after delivery.
    #[must_use]
    pub const fn is_escrow(&self) -> bool {
        matches!(self, Self::Escrow { .. })
    }
}

/// What was asked, of whom, and on what terms. Fixed before the request leaves the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// The purchase.
    pub id: PurchaseId,
    /// The only key whose answers count.
    pub provider: PublicKey,
    /// The channel it works in.
    pub channel: EventId,
    /// The model that is asked for.
    pub model: Option<String>,
    /// The signed request; its id names the job.
    pub request: NostrEvent,
    /// The network that the invoice must be on.
    pub network: Network,
    /// How it is paid.
    pub pay_by: PayBy,
    /// The signed event with the offer in it. Older records lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listing: Option<EventId>,
    /// What the offer said it would cost; an invoice above it is refused.
    pub listed: Option<Msat>,
    /// What the buyer said it may cost; an invoice above it is refused.
    pub max_price: Option<Msat>,
    /// What routing may cost on top; `None`: by the rule of [`crate::config::default_fee_cap`].
    pub max_fee: Option<Msat>,
    /// The longest that the payee may keep the payment unclaimed, in seconds.
    pub max_hold_secs: u64,
    /// Whether what we say is sealed to the provider (NIP-44).
    #[serde(default)]
    pub sealed: bool,
    /// What the caller's idempotency key stands for, if it gave one.
    pub fingerprint: Option<String>,
    /// When it began.
    pub started_at: UnixSecs,
    /// When the buyer gives up waiting.
    pub deadline: UnixSecs,
}

impl Terms {
    /// What both sides call the job.
    #[must_use]
    pub fn job_id(&self) -> JobId {
        JobId::of_request(&self.request.id)
    }
}
