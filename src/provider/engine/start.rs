//! How a provider starts: what was left, the channel, the subscription.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use nostr::EventId;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::intake::{FUTURE_SECS, STALE_SECS};
use super::returns::Returns;
use super::{Engine, HOUSEKEEPING, Live, Phase, RETRY_FIRST, said_in};
use crate::error::{Code, Error};
use crate::protocol::Feature;
use crate::protocol::listing::ListingContent;
use crate::protocol::offer::{MAX_MODELS, MAX_MODELS_BYTES};
use crate::provider::admission::{Credit, Seen};
use crate::provider::announce::{self, Announcer, START};
use crate::provider::event::{ProviderEvent, Reporter};
use crate::provider::job::Address;
use crate::provider::lookups::LookUps;
use crate::provider::pricing::Terms;
use crate::provider::queue::Queue;
use crate::provider::shop::Shop;
use crate::provider::store::{Seller, Unfinished};
use crate::provider::voice::Voice;
use crate::provider::work::Workshop;
use crate::provider::{Parts, ProviderConfig};
use crate::relay::Subscription;
use crate::relay::seal::Sealer;
use crate::units::UnixSecs;

/// Stored requests from this long before the start, or before the last request on record, are served.
const OVERLAP_SECS: u64 = 60;

/// Texts of ended jobs are kept this long.
const TEXTS_KEPT_SECS: u64 = 7 * 86_400;

impl Engine {
    /// Reads what was left, joins the channel and subscribes to it.
    pub(in crate::provider) async fn start(
        config: ProviderConfig,
        parts: Parts,
        reporter: Reporter,
        finish: CancellationToken,
    ) -> Result<Self, Error> {
        let models = models(&config, &parts).await?;
        let seller = Seller {
            key: parts.identity.public_key(),
            wallet: parts.wallet.as_ref().map(|wallet| wallet.id().to_string()),
            network: config.network,
        };
        let (now, store) = (parts.clock.now(), parts.store);
        if let Err(error) = store.drop_texts(now.minus(TEXTS_KEPT_SECS)).await {
            tracing::warn!(%error, "old texts were not dropped");
        }
        let recent = now.minus(STALE_SECS + FUTURE_SECS);
        let left = store.unfinished(&seller, now, recent).await?;
        let listed_at = store.listed_at(seller.key).await?;
        let relay_hint = config.relays.first().map(ToString::to_string);
        let voice = Voice {
            sealer: Sealer::new(parts.identity.clone()),
            identity: parts.identity,
            clock: parts.clock,
            relay: parts.relays,
            relay_hint: relay_hint.unwrap_or_default(),
        };
        let joined = announce::join(&config, &store, &voice).await?;
        let mut channels = left.channels.clone();
        if !channels.contains(&joined.channel) {
            channels.push(joined.channel);
        }
        let said = said_in(channels.clone(), now);
        let subscription = voice.relay.subscribe(said, START).await;
        let subscription = subscription
            .map_err(|error| Error::new(Code::Network, format!("can't subscribe: {error}")))?;
        joined.make_known(&voice).await?;
        if joined.is_new {
            reporter.say(ProviderEvent::ChannelCreated {
                channel: joined.channel,
            });
        }
        let workshop = Workshop {
            voice,
            backend: parts.backend,
            store: store.clone(),
            reporter,
        };
        let shop = Shop {
            workshop,
            store,
            seller,
            wallet: parts.wallet,
            quote_secs: config.quote_secs,
            finish,
        };
        let mut engine = Self::idle(
            config,
            models,
            shop,
            (joined.channel, channels),
            subscription,
            listed_at,
        );
        engine.resume(left);
        Ok(engine)
    }

    /// With nothing to do yet.
    fn idle(
        config: ProviderConfig,
        models: Vec<String>,
        shop: Shop,
        (channel, channels): (EventId, Vec<EventId>),
        subscription: Subscription,
        listed_at: UnixSecs,
    ) -> Self {
        let at = Instant::now();
        let returns = Returns::of(shop.workshop.voice.relay.as_ref());
        let terms = Terms {
            price: config.price,
            models,
            max_tokens: config.max_tokens,
            stream: config.stream,
            escrow: config.escrow
                && shop
                    .wallet
                    .as_ref()
                    .is_some_and(|wallet| wallet.capabilities().hold_invoices),
        };
        let content = listing(&config, &terms, channel);
        Self {
            terms,
            channel,
            channels,
            max_live: config.max_jobs.saturating_add(config.max_queue),
            max_quotes_per_customer: config.max_quotes_per_customer,
            max_jobs: config.max_jobs,
            announce_every: config.announce_every,
            announcer: Arc::new(Announcer::new(content, config.announce_every, listed_at)),
            live: HashMap::new(),
            late: HashMap::new(),
            by_job_id: HashMap::new(),
            lookups: LookUps::default(),
            waiting: Queue::default(),
            running: HashMap::new(),
            holds: HashMap::new(),
            missed: VecDeque::new(),
            leftovers: VecDeque::new(),
            telling: 0,
            seen: Seen::default(),
            credit: Credit::new(at.into_std()),
            caught_up: false,
            serve_stored_since: shop.now().minus(OVERLAP_SECS),
            leaving: false,
            tasks: JoinSet::new(),
            task_jobs: HashMap::new(),
            subscription: Some(subscription),
            subscribe_pause: RETRY_FIRST,
            announce_due: Some(at),
            announce_pause: RETRY_FIRST,
            ready: false,
            returns,
            changes: shop.wallet.as_ref().and_then(|wallet| wallet.changes()),
            housekeeping_due: at + HOUSEKEEPING,
            shop: Arc::new(shop),
        }
    }

    /// Takes up what an earlier run left; see the table in [`job`](super::job).
    fn resume(&mut self, left: Unfinished) {
        let now = Instant::now().into_std();
        if let Some(last) = left.last_request {
            let since = last.minus(OVERLAP_SECS);
            self.serve_stored_since = self.serve_stored_since.min(since);
        }
        for id in left.recent.into_iter().rev() {
            self.seen.is_new(id);
        }
        for job in left.quoted {
            if let Some(hash) = job.payment_hash {
                self.lookups.watch(hash, job.address.request, now);
            }
            let (address, job) = (job.address, Box::new(job));
            // It may have been on record and not yet on its way. The customer takes the first and ignores
            // the rest.
            let task = Arc::clone(&self.shop).send_invoice(address, Shop::invoice_of(&job));
            self.spawn(Some(address.request), task);
            self.occupy(
                address,
                Phase::Quoted {
                    job,
                    cancelling: false,
                },
            );
        }
        for quote in left.late {
            self.watch_late(quote);
        }
        for job in left.paid {
            self.keep_hold(&job, now);
            self.waiting.push(job.address.request, job.address.customer);
            self.occupy(job.address, Phase::Waiting(Box::new(job)));
        }
        self.resume_holds(left.holds);
        self.leftovers.extend(left.unsent);
    }

    pub(super) fn occupy(&mut self, address: Address, phase: Phase) {
        self.by_job_id.insert(address.job_id(), address.request);
        self.live.insert(address.request, Live { address, phase });
    }
}

/// The models to serve: those that were asked for, as far as the backend has them, or all it has.
async fn models(config: &ProviderConfig, parts: &Parts) -> Result<Vec<String>, Error> {
    let name = parts.backend.name();
    let has = tokio::time::timeout(START, parts.backend.models())
        .await
        .map_err(|_| Error::new(Code::Network, format!("the backend {name} does not answer")))?
        .map_err(|error| Error::new(Code::Network, format!("{name}: {error}")))?;
    if let Some(missing) = config.models.iter().find(|model| !has.contains(model)) {
        let problem = format!(
            "the backend {name} has no model {missing}, only {}",
            has.join(", ")
        );
        return Err(Error::new(Code::Usage, problem));
    }
    let models = if config.models.is_empty() {
        listable(has)
    } else {
        config.models.clone()
    };
    if models.is_empty() {
        return Err(Error::new(
            Code::Usage,
            format!("the backend {name} has no model"),
        ));
    }
    Ok(models)
}

/// As many models as a listing holds. Refusals name all that are served, so they stay short too.
fn listable(mut models: Vec<String>) -> Vec<String> {
    let mut bytes = 0;
    let fits = models.iter().take(MAX_MODELS).take_while(|model| {
        bytes += model.len();
        bytes <= MAX_MODELS_BYTES
    });
    let (fit, all) = (fits.count(), models.len());
    if fit < all {
        tracing::warn!(
            all,
            served = fit,
            "the backend has more models than a listing holds: choose with --model"
        );
        models.truncate(fit);
    }
    models
}

fn listing(config: &ProviderConfig, terms: &Terms, channel: EventId) -> ListingContent {
    ListingContent {
        name: config.name.clone(),
        about: config.about.clone(),
        channel: Some(channel),
        relays: config.relays.iter().map(ToString::to_string).collect(),
        price: terms.price,
        models: terms.models.clone(),
        network: config.network,
        features: [
            Some(Feature::Nip44),
            terms.stream.then_some(Feature::Stream),
            terms.escrow.then_some(Feature::HoldInvoice),
        ]
        .into_iter()
        .flatten()
        .collect(),
        expires_at: None,
    }
}
