//! Providers and results in the shape that the seeds' agents use.

use std::fmt;

use nostr::{EventId, PublicKey};

use super::{Code, Error, Receipt, Result};
use crate::protocol::Offer;

/// A provider with a price and a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderInfo {
    /// Its key, in hex.
    pub pubkey: String,
    /// What it calls itself. Text from the network.
    pub name: String,
    /// Its NIP-28 channel, in hex.
    pub channel_id: String,
    /// A relay it says it is on; empty if it does not say.
    pub relay_url: String,
    /// What it asks per request, in millisatoshi.
    pub price_msats: u64,
    /// The models it serves.
    pub models: Vec<String>,
    offer: Offer,
}

impl ProviderInfo {
    /// The offer in this shape; `None` if it has no price or no channel.
    #[must_use]
    pub fn from_offer(offer: Offer) -> Option<Self> {
        Some(Self {
            pubkey: offer.provider.to_hex(),
            name: offer.name.clone(),
            channel_id: offer.channel?.to_hex(),
            relay_url: offer.relays.first().cloned().unwrap_or_default(),
            price_msats: offer.price?.per_request.get(),
            models: offer.models.clone(),
            offer,
        })
    }

    /// The offer behind it, for [`PurchaseRequest::offer`](super::PurchaseRequest::offer). If `pubkey` or
    /// `channel_id` were changed by hand, the offer follows them; the price is what was listed.
    ///
    /// # Errors
    /// [`Code::Usage`] if `pubkey` or `channel_id` is not 64 hex digits.
    pub fn offer(&self) -> Result<Offer> {
        let key = PublicKey::from_hex(&self.pubkey);
        let channel = EventId::from_hex(&self.channel_id);
        let (Ok(provider), Ok(channel)) = (key, channel) else {
            return Err(Error::new(
                Code::Usage,
                "this provider's pubkey or channel_id is not 64 hex digits",
            ));
        };
        Ok(Offer {
            provider,
            channel: Some(channel),
            // Nobody signed what was changed by hand.
            event: self.offer.event.filter(|_| provider == self.offer.provider),
            ..self.offer.clone()
        })
    }
}

/// A result; displays as its text.
#[derive(Clone, Debug, PartialEq)]
pub struct Inference {
    /// What it came to.
    pub receipt: Receipt,
}

impl Inference {
    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.receipt.text
    }
}

impl From<Receipt> for Inference {
    fn from(receipt: Receipt) -> Self {
        Self { receipt }
    }
}

impl fmt::Display for Inference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.receipt.text)
    }
}
