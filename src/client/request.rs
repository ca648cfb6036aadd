//! What is to be bought, and on what terms.

use std::time::Duration;

use nostr::EventId;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::config::MAX_TIMEOUT_SECS;
use crate::ledger::Scope;
use crate::market::Select;
use crate::protocol::{KIND_TEXT_GENERATION, Offer};
use crate::units::Msat;

/// The longest that anything about a request may take: any later moment may be none that a clock can tell.
pub(super) const LONGEST: Duration = Duration::from_secs(MAX_TIMEOUT_SECS);

/// One job to buy. [`PurchaseRequest::new`] fills in the defaults of the command line. Say what differs and
/// leave the rest to it, so that a field that is added later changes nothing:
///
/// ```
/// use std::time::Duration;
///
/// use agent_compute::client::PurchaseRequest;
/// use agent_compute::units::Msat;
///
/// let request = PurchaseRequest {
///     max_tokens: 100,
///     max_price: Msat::from_sats(20),
///     timeout: Duration::from_secs(30),
///     ..PurchaseRequest::new("Think.")
/// };
/// assert!(request.stream && !request.escrow);
/// ```
#[derive(Clone, Debug)]
pub struct PurchaseRequest {
    /// What to work on. Not empty; with the rest of the request at most 32 KiB.
    pub prompt: String,
    /// The most tokens the result may have; at least 1. By default 500.
    pub max_tokens: u32,
    /// Only providers of this model; it is asked for.
    pub model: Option<String>,
    /// Which of those that suit. By default the cheapest.
    pub select: Select,
    /// Look for NIP-89 listings (kind 31990).
    pub discover: bool,
    /// This NIP-28 channel only, named by the event that made it (kind 40).
    pub channel: Option<EventId>,
    /// Buy from exactly this offer, without looking for others. From
    /// [`ComputeClient::offers`](super::ComputeClient::offers) or
    /// [`ProviderInfo::offer`](super::ProviderInfo::offer).
    pub offer: Option<Offer>,
    /// Refuse offers and invoices above it. The owner's limits hold in any case.
    pub max_price: Option<Msat>,
    /// What routing may cost on top; by default [`crate::config::default_fee_cap`] of the price.
    pub max_fee: Option<Msat>,
    /// Ask for chunks as they come.
    pub stream: bool,
    /// Do not encrypt, even where the provider can.
    pub plaintext: bool,
    /// Lock the money first and let it go after delivery, by a hold invoice: only providers that list
    /// `hold-invoice` are considered. Any wallet that pays invoices can; to hold is the payee's part.
    pub escrow: bool,
    /// The tick that this counts against, at most 64 bytes; `None`: a tick of its own.
    pub tick: Option<String>,
    /// With the same key, the same request is bought once: delivered, it is told again; running, it is
    /// awaited; failed unpaid, it is attempted anew. Another request under the same key is
    /// [`Code::Usage`](crate::Code::Usage). 1 to 256 bytes.
    pub idempotency_key: Option<String>,
    /// How many others may be asked, the next best first, when a provider has failed. By default 1.
    ///
    /// Each is a purchase of its own, and begins only when the one before it is provably dead: nothing was
    /// paid, the payment failed for certain, or the locked money is back. So at most one is paid, and
    /// together they have one [`max_price`](Self::max_price), one [tick](Self::tick), one
    /// [key](Self::idempotency_key) and one [`timeout`](Self::timeout). What else is wrong (an own limit,
    /// the wallet, the relays) is no reason to ask anybody else. A request that names its provider, as
    /// [`offer`](Self::offer) and [`Select::Provider`] do, leaves nobody else to ask.
    pub retries: u32,
    /// An upper bound for discovery, which ends as soon as the answer can't improve. By default 3 s.
    pub discovery_time: Duration,
    /// For the whole purchase, discovery and the provider's work included. By default 120 s, at most
    /// [`MAX_TIMEOUT_SECS`](crate::config::MAX_TIMEOUT_SECS): with more it is [`Code::Usage`](crate::Code::Usage).
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
            retries: crate::config::DEFAULT_RETRIES,
            discovery_time: crate::config::DEFAULT_DISCOVERY_TIME,
            timeout: crate::config::DEFAULT_TIMEOUT,
        }
    }

    /// When discovery that begins `now` is over.
    pub(super) fn looks_until(&self, now: Instant) -> Instant {
        now + self.discovery_time.min(LONGEST)
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
