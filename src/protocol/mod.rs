//! The wire: what customers and providers say to each other, as types.
//!
//! * [`message`]: the JSON objects of a NIP-28 channel, and [`codec`], their way to bytes and back
//! * [`channel`]: the channel events (kinds 40 and 42) around them
//! * [`listing`]: the NIP-89 listing (kind 31990) and announcement that a provider publishes
//! * [`offer`]: both of them read back, as the [`Offer`] that the two sides share
//! * [`record`]: what a buyer's own purchases say of a provider, for `ledger` and `market` to share
//!
//! Everything here is pure: no network, no clock, no randomness. All input is hostile: it is bounded
//! before it is parsed, and no input panics.

pub mod channel;
pub mod codec;
pub mod listing;
pub mod message;
pub mod offer;
pub mod record;

use std::collections::BTreeSet;

use nostr::{EventId, PublicKey};
use serde::{Deserialize, Deserializer, Serialize};

use crate::units::{Msat, Network, UnixSecs};

/// NIP-90 text generation, the job kind sold here.
pub const KIND_TEXT_GENERATION: u16 = 5050;

/// Something a provider says it can do beyond the plain protocol. The words are the wire's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Feature {
    /// Reads and writes sealed messages (NIP-44).
    Nip44,
    /// Streams results as they are made.
    Stream,
    /// Escrow over hold invoices.
    HoldInvoice,
    /// Escrow over Spark HTLCs.
    SparkHtlc,
    /// Escrow over Cashu HTLCs (NUT-14).
    CashuHtlc,
    /// A word that we don't know, where a peer asks for something by it.
    Other,
}

impl<'de> Deserialize<'de> for Feature {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let word = std::borrow::Cow::<str>::deserialize(from)?;
        Ok(Self::from_word(&word).unwrap_or(Self::Other))
    }
}

impl Feature {
    /// All that we know.
    pub const ALL: [Self; 5] = [
        Self::Nip44,
        Self::Stream,
        Self::HoldInvoice,
        Self::SparkHtlc,
        Self::CashuHtlc,
    ];

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nip44 => "nip44",
            Self::Stream => "stream",
            Self::HoldInvoice => "hold-invoice",
            Self::SparkHtlc => "spark-htlc",
            Self::CashuHtlc => "cashu-htlc",
            Self::Other => "other",
        }
    }

    /// The feature with this word; `None` for one we don't know.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|feature| feature.as_str() == word)
    }
}

/// What a job costs: a fixed part, and a part that grows with the tokens asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// Per request.
    pub per_request: Msat,
    /// On top, per thousand requested tokens, rounded up.
    pub per_1k_tokens: Msat,
}

impl Price {
    /// So much per request, whatever its size.
    #[must_use]
    pub const fn per_request(amount: Msat) -> Self {
        Self {
            per_request: amount,
            per_1k_tokens: Msat::ZERO,
        }
    }

    /// What a job of up to `max_tokens` costs; `None` if that is more money than there is.
    #[must_use]
    pub fn of_job(&self, max_tokens: u32) -> Option<Msat> {
        let by_tokens = u128::from(self.per_1k_tokens.get()) * u128::from(max_tokens);
        let on_top = u64::try_from(by_tokens.div_ceil(1000)).ok()?;
        self.per_request
            .checked_add(Msat::new(on_top))
            .filter(|total| *total <= Msat::MAX)
    }
}

/// Where a provider was heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OfferSource {
    /// A NIP-89 listing.
    Listing,
    /// A `ServiceAnnouncement` in a channel.
    Announcement,
}

/// What one provider offers, whichever way it was heard of. Facts only: whether the offer suits a
/// buyer is for `market` to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The key that signed it, and the only key that may speak for it.
    pub provider: PublicKey,
    /// What it calls itself. Text from the network.
    pub name: String,
    /// The NIP-28 channel it works in; `None` if it has none.
    pub channel: Option<EventId>,
    /// Relays it says it is on. Text from the network.
    pub relays: Vec<String>,
    /// What it asks; `None` if it did not say in a unit we trust. Never zero by omission.
    pub price: Option<Price>,
    /// The models it serves; empty if it did not say.
    pub models: Vec<String>,
    /// The network of its invoices; `None` if it did not say, and then the invoice decides.
    pub network: Option<Network>,
    /// What it can do beyond the plain protocol.
    pub features: BTreeSet<Feature>,
    /// When it was said.
    pub at: UnixSecs,
    /// When it stops being true (NIP-40), if it says so.
    pub expires_at: Option<UnixSecs>,
    /// How it was said.
    pub source: OfferSource,
    /// The signed event that says its price, or all of it where it says none; `None` if no event did.
    pub event: Option<EventId>,
}

impl Offer {
    /// What a job of up to `max_tokens` would cost; `None` if the price is unknown.
    #[must_use]
    pub fn expected_price(&self, max_tokens: u32) -> Option<Msat> {
        self.price.and_then(|price| price.of_job(max_tokens))
    }
}
