//! What is to be bought, and on what terms.

use std::time::Duration;

use nostr::EventId;
use sha2::{Digest, Sha256};

use crate::ledger::Scope;
use crate::market::Select;
use crate::protocol::{KIND_TEXT_GENERATION, Offer};
use crate::units::Msat;

/// One job to buy. [`PurchaseRequest::new`] fills in the defaults of the command line.
#[derive(Clone, Debug)]
pub struct PurchaseRequest {
    /// What to work on.
    pub prompt: String,
    /// The most tokens the result may have.
    pub max_tokens: u32,
    /// Only providers of this model; it is asked for.
    pub model: Option<String>,
    /// Which of those that suit.
    pub select: Select,
    /// Look for NIP-89 listings.
    pub discover: bool,
    /// This NIP-28 channel only.
    pub channel: Option<EventId>,
    /// Buy from exactly this offer, without looking for others.
    pub offer: Option<Offer>,
    /// Refuse offers and invoices above it.
    pub max_price: Option<Msat>,
    /// What routing may cost on top; by default [`crate::config::default_fee_cap`] of the price.
    pub max_fee: Option<Msat>,
    /// Ask for a stream.
    pub stream: bool,
    /// Do not encrypt, even where the provider can.
    pub plaintext: bool,
    /// Lock the money first and let it go after delivery, by a hold invoice: only providers that list
    /// `hold-invoice` are considered. Any wallet that pays invoices can; to hold is the payee's part.
    pub escrow: bool,
    /// The tick that this counts against, at most 64 bytes; `None`: a tick of its own.
    pub tick: Option<String>,
    /// The same key and request never buy twice.
    pub idempotency_key: Option<String>,
    /// An upper bound for discovery.
    pub discovery_time: Duration,
    /// For the whole purchase.
    pub timeout: Duration,
}

impl PurchaseRequest {
    /// The cheapest text generation from whoever is listed.
    #[must_use]
    pub fn new(prompt: impl Into<String>) -> Self {
        Self {
            prompt: prompt.into(),
            max_tokens: crate::config::DEFAULT_MAX_TOKENS,
            model: None,
            select: Select::Cheapest,
            discover: true,
            channel: None,
            offer: None,
            max_price: None,
            max_fee: None,
            stream: true,
            plaintext: false,
            escrow: false,
            tick: None,
            idempotency_key: None,
            discovery_time: crate::config::DEFAULT_DISCOVERY_TIME,
            timeout: crate::config::DEFAULT_TIMEOUT,
        }
    }

    /// What makes two requests the same for an idempotency key: the job and the money it is paid in, not
    /// how a provider is found.
    pub(super) fn fingerprint(&self, scope: Scope, paid: bool) -> String {
        let Self {
            prompt,
            max_tokens,
            model,
            max_price,
            tick,
            escrow,
            ..
        } = self;
        let mut asked = vec![serde_json::json!([
            KIND_TEXT_GENERATION,
            prompt,
            max_tokens,
            model,
            max_price,
            tick,
            scope,
            paid
        ])];
        // Beside the rest, so that requests without it keep the fingerprint they always had.
        asked.extend(escrow.then(|| "escrow".into()));
        let asked: String = asked.iter().map(ToString::to_string).collect();
        let digest = Sha256::digest(asked.as_bytes());
        crate::ids::PaymentHash::from_bytes(digest.into()).to_string()
    }
}
