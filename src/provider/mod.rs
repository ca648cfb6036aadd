//! The seller: announces, quotes, believes its own wallet, works, delivers.
//!
//! [`Provider`] is one in a program of one's own, [`run`] what it runs: one event loop over one subscription. The loop itself never waits for a wallet, a relay or
//! a disk: what takes time is an owned task that ends in an outcome, and outcomes come back to the loop.
//!
//! ```text
//!  JobRequest ──► quote: invoice, on record, sent ──► money seen ──► slot ──► backend ──► on record ──► sent
//!                    pricing, admission               lookups        engine   work         store
//! ```
//!
//! * [`job`]: the states of a job, and what a restart does about each
//! * [`pricing`]: what is taken, and what it costs
//! * [`store`]: the jobs on disk
//! * [`backend`]: what turns a prompt into text
//!
//! # What holds
//!
//! * Work starts only when the wallet says that the money is there: paid, or held in escrow with time
//!   enough to finish. `PaymentSent` and `HtlcLocked` are hints to look.
//! * Held money is settled as soon as the customer has released it after delivery, and given back as soon as
//!   it is clear that there will be no result; never both, and neither is forgotten over a restart.
//! * A job is on record before its invoice is sent, so whatever can be paid is known after a crash.
//! * A result is on record, signed, before it is sent: sending it again sends the same events.
//! * A request is served once, whoever replays it, whenever.
//! * One job, peer or relay that misbehaves costs the others nothing but its bounded share.

mod admission;
mod announce;
pub mod backend;
mod engine;
mod escrow;
mod event;
pub mod job;
mod lookups;
mod pieces;
pub mod pricing;
mod queue;
mod running;
mod shop;
pub mod store;
mod voice;
mod work;

use std::sync::Arc;
use std::time::Duration;

use nostr::{EventId, RelayUrl};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::backend::Backend;
use self::engine::Engine;
pub use self::event::ProviderEvent;
use self::event::Reporter;
pub use self::running::Provider;
use self::store::JobStore;
use crate::clock::Clock;
use crate::error::{Code, Error};
use crate::identity::Identity;
use crate::protocol::Price;
use crate::relay::RelaySession;
use crate::units::{Msat, Network};
use crate::wallet::Wallet;

/// The longest between two announcements: deployed customers look at the last 300 seconds only.
pub const MAX_ANNOUNCE_EVERY: Duration = Duration::from_secs(300);

/// Where to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelChoice {
    /// In a channel of our own: the one made before for these relays, or a new one.
    Create {
        /// A new one in any case.
        renew: bool,
    },
    /// In this one.
    Join(EventId),
}

/// How to sell.
#[derive(Clone, Debug)]
pub struct ProviderConfig {
    /// Where to work.
    pub channel: ChannelChoice,
    /// The relays, as announced. The first is named in tags as where the channel is.
    pub relays: Vec<RelayUrl>,
    /// The models to serve, the default one first; empty: all that the backend has.
    pub models: Vec<String>,
    /// What a job costs.
    pub price: Price,
    /// Whether chunks are sent as they come to those who want them.
    pub stream: bool,
    /// Whether jobs are done for money in escrow, where the wallet has hold invoices.
    pub escrow: bool,
    /// The most jobs at once.
    pub max_jobs: usize,
    /// The most jobs on top that are quoted or wait for a slot.
    pub max_queue: usize,
    /// The most unpaid quotes of one customer at once.
    pub max_quotes_per_customer: usize,
    /// The most tokens that one job may ask for.
    pub max_tokens: u32,
    /// How often to announce; at most [`MAX_ANNOUNCE_EVERY`].
    pub announce_every: Duration,
    /// What we call ourselves.
    pub name: String,
    /// One sentence for people.
    pub about: String,
    /// The network of our invoices.
    pub network: Network,
    /// How long a quote stands, in seconds.
    pub quote_secs: u64,
}

impl ProviderConfig {
    /// The defaults of `agent-provider`.
    #[must_use]
    pub fn new(channel: ChannelChoice, relays: Vec<RelayUrl>, network: Network) -> Self {
        Self {
            channel,
            relays,
            models: Vec::new(),
            price: Price::per_request(Msat::new(10_000)),
            stream: false,
            escrow: true,
            max_jobs: 4,
            max_queue: 256,
            // An agent may buy for many tasks at once, and one whose processes die and start again has
            // some to spare; two of them leave room for a third.
            max_quotes_per_customer: 112,
            max_tokens: 32_768,
            announce_every: Duration::from_secs(120),
            name: "agent-compute provider".into(),
            about: "Text generation, paid over Lightning".into(),
            network,
            quote_secs: 300,
        }
    }

    fn check(&self, wallet: Option<&dyn Wallet>) -> Result<(), Error> {
        let usage = |why: String| Err(Error::new(Code::Usage, why));
        if self.relays.is_empty() {
            return usage("no relay to sell on".into());
        }
        if self.max_jobs == 0 || self.max_tokens == 0 || self.quote_secs == 0 {
            return usage("max_jobs, max_tokens and quote_secs must be at least 1".into());
        }
        if self.announce_every.is_zero() || self.announce_every > MAX_ANNOUNCE_EVERY {
            let most = MAX_ANNOUNCE_EVERY.as_secs();
            return usage(format!("announce every 1 to {most} seconds"));
        }
        match wallet {
            None if self.network != Network::Regtest => usage(
                "without a wallet, only regtest: on any other network it means free work".into(),
            ),
            None => Ok(()),
            Some(wallet) if wallet.network() != self.network => usage(format!(
                "the wallet is on {}, and {} is to be sold on",
                wallet.network(),
                self.network
            )),
            Some(_) if self.price.of_job(1).is_none_or(Msat::is_zero) => {
                usage("the price must be at least 1 msat, and no more than there is".into())
            }
            Some(_) => Ok(()),
        }
    }
}

/// What a provider is made of.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Who sells.
    pub identity: Identity,
    /// Where.
    pub relays: Arc<dyn RelaySession>,
    /// Who is paid; `None`: nobody, as in the deployed test mode. Regtest only.
    pub wallet: Option<Arc<dyn Wallet>>,
    /// What does the work.
    pub backend: Arc<dyn Backend>,
    /// What is remembered.
    pub store: JobStore,
    /// What time it is.
    pub clock: Clock,
}

/// How a provider is told to stop.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Withdraw the listing, take no new jobs, finish the paid ones, leave.
    pub finish: CancellationToken,
    /// Stop at once. What is paid is done after the next start.
    pub now: CancellationToken,
}

/// Sells until told to stop. Dropping the future is as [`Shutdown::now`].
///
/// # Errors
/// [`Code::Usage`] if the configuration does not fit the parts; [`Code::Ledger`] if the store can't be
/// used or another provider sells from it; [`Code::Network`] if no relay can be reached at the start, or
/// the session is closed.
pub async fn run(
    config: ProviderConfig,
    parts: Parts,
    events: mpsc::Sender<ProviderEvent>,
    shutdown: Shutdown,
) -> Result<(), Error> {
    config.check(parts.wallet.as_deref())?;
    let _lock = parts.store.lock()?;
    let (reporter, carrier) = Reporter::start(events);
    let sell = async {
        let started = Engine::start(config, parts, reporter, shutdown.finish.clone());
        let engine = tokio::select! {
            biased;
            () = shutdown.finish.cancelled() => return Ok(()),
            engine = started => engine?,
        };
        engine.run().await
    };
    let outcome = tokio::select! {
        biased;
        () = shutdown.now.cancelled() => Ok(()),
        outcome = sell => outcome,
    };
    carrier.finish().await;
    outcome
}
