//! The buyer: [`ComputeClient`], a purchase inside an agent's own program.
//!
//! ```no_run
//! # async fn example(wallet: std::sync::Arc<dyn agent_compute::wallet::Wallet>) -> agent_compute::Result<()> {
//! use agent_compute::client::{ComputeClient, PurchaseEvent, PurchaseRequest};
//! use agent_compute::units::Msat;
//!
//! // The rest is the owner's: key, relays and limits of the default home.
//! let client = ComputeClient::builder().wallet(wallet).build().await?;
//! let mut purchase = client.purchase(PurchaseRequest {
//!     max_price: Msat::from_sats(20),
//!     ..PurchaseRequest::new("What is the capital of France?")
//! });
//! while let Some(event) = purchase.next_event().await {
//!     if let PurchaseEvent::Chunk { text, .. } = event {
//!         print!("{text}");
//!     }
//! }
//! let receipt = purchase.receipt().await?;
//! println!("paid {} to {}", receipt.paid_msat, receipt.provider);
//! # Ok(())
//! # }
//! ```
//!
//! # When something goes wrong
//!
//! Every failure is an [`Error`] with a stable [`Code`], what was paid, and what is still reserved. After
//! three of the codes money may have moved, and the ledger keeps it until that is known:
//! [`Code::PaymentUnknown`], [`Code::Undelivered`] and [`Code::Interrupted`]. [`ComputeClient::recover`]
//! settles what can be settled, and fetches results that came late. After any other code nothing was paid,
//! and asking again is safe. With an [idempotency key](PurchaseRequest::idempotency_key) it always is.
//!
//! # When a provider fails
//!
//! Then the next-best one is asked, [`retries`](PurchaseRequest::retries) others at most, once the attempt before
//! is provably dead. Each attempt is a purchase with an id of its own; [`PurchaseEvent::FailedOver`] comes between
//! two of them, and what the events said of the earlier one is void, pieces of a result included. The error of a
//! purchase is that of its last attempt, and retells the others.
//!
//! # When a future is dropped
//!
//! Looking ([`offers`](ComputeClient::offers), [`preview`](ComputeClient::preview),
//! [`budget`](ComputeClient::budget), [`Purchase::next_event`]) can be cancelled at any time. Dropping a
//! [`Purchase`], its [`receipt`](Purchase::receipt) or
//! [`request_inference`](ComputeClient::request_inference) stops the purchase where it is, as a crash would:
//! what was not begun is not done, and a payment that was begun goes on in the wallet, its money reserved
//! until [`recover`](ComputeClient::recover), here or in another process of the same home, has looked it up.
//! Dropping `recover` leaves the rest to the next one.

mod attempt;
mod builder;
mod buy;
mod earlier;
mod failover;
mod info;
mod request;
mod survey;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio::sync::{OnceCell, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use self::builder::{Builder, Relays};
pub use self::info::{Inference, ProviderInfo};
pub use self::request::PurchaseRequest;
use crate::config::Encrypt;
pub use crate::error::{Code, Error, Result};
use crate::identity::Identity;
use crate::ids::PurchaseId;
use crate::ledger::{BudgetReport, Scope};
use crate::market::Select;
use crate::protocol::Offer;
use crate::purchase::driver::Engine;
pub use crate::purchase::event::{ProviderSeen, PurchaseEvent, Receipt};
pub use crate::purchase::receipt::verify::Verified;
use crate::purchase::receipt::verify::verify;
use crate::purchase::recover::{self, Depth};
pub use crate::purchase::recover::{Recovered, Trouble};
use crate::purchase::watcher::Watcher;
use crate::units::{Msat, Network};
use crate::wallet::Wallet;

/// How many events may wait for a purchase's watcher. One that stops reading is shown no more, and the
/// purchase goes on.
const EVENTS_WAITING: usize = 1024;

/// Buys compute within its owner's limits. `Send`, `Sync`, and cheap to clone: clones share everything,
/// and any number of purchases may run at once.
///
/// The limits hold over all clones, clients and processes that share a home. [`Self::close`] before the last
/// clone is dropped lets what was said last reach the relays.
#[derive(Clone, Debug)]
pub struct ComputeClient {
    inner: Arc<Inner>,
    /// The tick of purchases that name none.
    tick: Option<String>,
}

#[derive(Debug)]
struct Inner {
    builder: Builder,
    ready: OnceCell<Ready>,
}

/// An opened client.
#[derive(Debug)]
struct Ready {
    engine: Engine,
    /// What was settled before the first purchase.
    recovered: Vec<Recovered>,
    scope: Scope,
    /// Whose record of providers, and what is left of whose limits, is looked at: this client's, unless it
    /// only looks.
    books: Scope,
    /// The network of offers; `None`: any.
    network: Option<Network>,
    /// Whether anything is bought at all.
    buys: bool,
    allow: Vec<nostr::PublicKey>,
    deny: Vec<nostr::PublicKey>,
    max_hold_secs: u64,
    unproven_limit: Option<Msat>,
    encrypt: Encrypt,
}

impl ComputeClient {
    /// A client with the owner's default home, opened on first use. The limits in its `[runway]` apply.
    ///
    /// `relay` is an address, several, or a [`crate::relay::RelaySession`]. What is wrong with any of it is
    /// the error of the first call, and the next call tries again.
    #[must_use]
    pub fn new(identity: Identity, relay: impl Into<Relays>, wallet: Arc<dyn Wallet>) -> Self {
        Self::builder()
            .identity(identity)
            .relays(relay)
            .wallet(wallet)
            .build_lazy()
    }

    /// A client of one's own making.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    async fn ready(&self) -> Result<&Ready> {
        self.inner
            .ready
            .get_or_try_init(|| self.inner.builder.open())
            .await
    }

    /// Providers with a price and a channel, the best first, after looking for at most `secs` seconds. It ends
    /// as soon as the answer can't improve. [`Self::offers`] lists the unpriced too.
    ///
    /// # Errors
    /// [`Code::Network`] if no relay can be reached; what [`Builder::build`] says, if this is the client's
    /// first use. Finding nobody is no error.
    pub async fn discover_providers(&self, secs: u64) -> Result<Vec<ProviderInfo>> {
        let offers = self.offers(std::time::Duration::from_secs(secs)).await?;
        Ok(offers
            .into_iter()
            .filter_map(ProviderInfo::from_offer)
            .collect())
    }

    /// Every offer that is listed (NIP-89) and suits this client's network, allow and deny lists, the best
    /// first.
    ///
    /// # Errors
    /// As [`Self::discover_providers`].
    pub async fn offers(&self, within: std::time::Duration) -> Result<Vec<Offer>> {
        let ready = self.ready().await?;
        let request = PurchaseRequest {
            discovery_time: within,
            ..PurchaseRequest::new("")
        };
        survey::offers(ready, &request).await
    }

    /// The cheapest of these whose price fits the budget. Compared in millisatoshi, exactly.
    #[must_use]
    pub fn select_cheapest_provider(
        providers: &[ProviderInfo],
        budget_sats: u64,
    ) -> Option<&ProviderInfo> {
        let budget = Msat::from_sats_saturating(budget_sats);
        providers
            .iter()
            .filter(|provider| Msat::new(provider.price_msats) <= budget)
            .min_by_key(|provider| provider.price_msats)
    }

    /// Buys one job from this provider for at most `budget_sats`, routing aside, and waits for the result:
    /// [`Self::purchase`] in one call. `max_tokens` is the most that the result may have.
    ///
    /// # Errors
    /// As [`Purchase::receipt`]; [`Code::NoProvider`] if the provider's price is above the budget.
    pub async fn request_inference(
        &self,
        provider: &ProviderInfo,
        prompt: &str,
        max_tokens: u32,
        budget_sats: u64,
    ) -> Result<Inference> {
        let request = PurchaseRequest {
            max_tokens,
            offer: Some(provider.offer()?),
            max_price: Some(Msat::from_sats_saturating(budget_sats)),
            select: Select::First,
            ..PurchaseRequest::new(prompt)
        };
        let receipt = self.purchase(request).receipt().await?;
        Ok(Inference::from(receipt))
    }

    /// Who is on offer for this request, and who would be bought from: a purchase up to the choice. Asks
    /// nobody for anything, and pays nothing.
    ///
    /// # Errors
    /// [`Code::Network`] if no relay can be reached, [`Code::Budget`] if the limits allow no purchase at all.
    /// Finding nobody suitable is the error of [`Preview::selected`], beside the ones who were seen.
    pub async fn preview(&self, request: &PurchaseRequest) -> Result<Preview> {
        let ready = self.ready().await?;
        let ends = request.looks_until(tokio::time::Instant::now());
        let request = self.in_tick(request.clone());
        let survey = survey::survey(ready, &request, ends).await?;
        Ok(Preview {
            providers: survey.seen,
            selected: survey.candidates.and_then(survey::best),
        })
    }

    /// Begins a purchase. It runs whether or not its events are read; dropping it stops it, with the
    /// ledger left recoverable.
    ///
    /// # Panics
    /// Outside a Tokio runtime, which it runs on.
    pub fn purchase(&self, request: PurchaseRequest) -> Purchase {
        let request = self.in_tick(request);
        let (tell, events) = mpsc::channel(EVENTS_WAITING);
        let stop = CancellationToken::new();
        let client = self.clone();
        let stopped = stop.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "owned by the Purchase, whose drop aborts it"
        )]
        let task = tokio::spawn(async move {
            let ready = client.ready().await?;
            buy::buy(ready, request, &Watcher::new(tell), &stopped).await
        });
        Purchase { events, stop, task }
    }

    /// The request, in this client's tick unless it names one.
    fn in_tick(&self, mut request: PurchaseRequest) -> PurchaseRequest {
        request.tick = request.tick.or_else(|| self.tick.clone());
        request
    }

    /// This client within one tick of its agent's loop: whatever it buys counts against that tick's limit
    /// (`per_tick_limit_sats`) as well as the day's.
    ///
    /// A tick is its name and nothing else: all clients and processes of a home that name the same one share
    /// its limit, which is summed over all time. So a tick that a crash cut off goes on with what is left of
    /// it, and each new one needs a new name. `id` has 1 to 64 bytes; any other is [`Code::Usage`] from the
    /// first call. A request that names a [tick](PurchaseRequest::tick) itself counts against that one.
    ///
    /// At the limit a purchase fails with [`Code::Budget`], and nothing is paid.
    #[must_use]
    pub fn tick(&self, id: impl Into<String>) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            tick: Some(id.into()),
        }
    }

    /// What the limits are and what counts against them, this client's tick included.
    ///
    /// # Errors
    /// [`Code::Ledger`] if the ledger can't be read; [`Code::Usage`] if the tick's name is empty or too
    /// long; what [`Builder::build`] says, if this is the client's first use.
    pub async fn budget(&self) -> Result<BudgetReport> {
        let Ready { engine, scope, .. } = self.ready().await?;
        let tick = self.tick.as_deref();
        buy::check_tick(tick)?;
        Ok(engine.ledger.budget(*scope, tick, engine.limits).await?)
    }

    /// What was left open by an earlier process and was looked at when this client was opened.
    #[must_use]
    pub fn recovered(&self) -> &[Recovered] {
        self.inner
            .ready
            .get()
            .map_or(&[], |ready| ready.recovered.as_slice())
    }

    /// Settles what was left open, and fetches results that came late.
    ///
    /// It takes only what no living process works on. [`Builder::build`] has done the urgent part already; this
    /// also waits a while for the results of purchases that were given up as undelivered.
    ///
    /// # Errors
    /// [`Code::Ledger`] if the ledger can't be used. Trouble with one purchase is in its [`Recovered`].
    pub async fn recover(&self) -> Result<Vec<Recovered>> {
        let ready = self.ready().await?;
        recover::recover(&ready.engine, Depth::All).await
    }

    /// The signed receipt of a purchase, checked: the one that holds. `None` if it has none, which
    /// [`purchase::receipt`](crate::purchase::receipt) explains.
    ///
    /// # Errors
    /// [`Code::Ledger`] if the ledger can't be used, [`Code::BadReceipt`] if what is in it does not hold.
    pub async fn signed_receipt(&self, id: PurchaseId) -> Result<Option<Verified>> {
        let receipts = self.ready().await?.engine.ledger.receipts_of(id).await?;
        let Some(receipt) = receipts.last() else {
            return Ok(None);
        };
        let verified = verify(&receipt.json);
        let verified = verified.map_err(|problem| {
            Error::new(Code::BadReceipt, format!("the receipt of {id}: {problem}")).of(id)
        });
        verified.map(Some)
    }

    /// The owner's word on a payment that no look-up decides, logged in the ledger. `purchase` is an id, or
    /// an unambiguous beginning of one.
    ///
    /// # Errors
    /// [`Code::Usage`] if there is no such purchase, or it is not in doubt.
    pub async fn resolve(&self, purchase: &str, paid: bool) -> Result<Recovered> {
        let engine = &self.ready().await?.engine;
        recover::resolve(engine, purchase, paid).await
    }

    /// Closes the relay connections once what was said has left.
    pub async fn close(&self) {
        if let Some(ready) = self.inner.ready.get() {
            ready.engine.relays.close().await;
        }
    }
}

/// What a purchase would choose from, and what it would choose.
#[derive(Debug)]
#[non_exhaustive]
pub struct Preview {
    /// Everybody who was seen, the suitable ones first and in order of preference.
    pub providers: Vec<ProviderSeen>,
    /// The one that would be bought from, or why nobody would.
    pub selected: Result<Offer>,
}

/// A purchase under way: a stream of its events, and in the end a receipt. Dropping it stops it where it
/// is; [`Self::stop`] does so in good order.
#[derive(Debug)]
#[must_use = "a purchase that is dropped is stopped"]
pub struct Purchase {
    events: mpsc::Receiver<PurchaseEvent>,
    stop: CancellationToken,
    task: JoinHandle<Result<Receipt>>,
}

impl Purchase {
    /// The next event; `None` when the purchase is over and its receipt is ready. Cancel-safe. The same
    /// events come from its [`Stream`].
    pub async fn next_event(&mut self) -> Option<PurchaseEvent> {
        self.events.recv().await
    }

    /// Stops the purchase as Ctrl-C does: before a payment it ends, after it the ledger is left
    /// recoverable. The receipt is then an error that says which.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits for the end.
    ///
    /// Dropping the future stops the purchase, as dropping the purchase does.
    ///
    /// # Errors
    /// With the [`Code`], what was paid and what is still reserved. [`Code::Undelivered`] means that it is
    /// paid or locked, [`Code::PaymentUnknown`] that it may be, and [`Code::Interrupted`] what the amounts
    /// say. After all others nothing was paid.
    pub async fn receipt(mut self) -> Result<Receipt> {
        while self.events.recv().await.is_some() {}
        match (&mut self.task).await {
            Ok(outcome) => outcome,
            Err(error) => Err(Error::new(
                Code::Internal,
                format!(
                    "the purchase stopped unexpectedly ({error}); run `agent-customer recover`"
                ),
            )),
        }
    }
}

impl Stream for Purchase {
    type Item = PurchaseEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<PurchaseEvent>> {
        self.events.poll_recv(cx)
    }
}

impl Drop for Purchase {
    fn drop(&mut self) {
        self.task.abort();
    }
}
