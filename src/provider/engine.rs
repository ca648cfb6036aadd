//! The loop: holds what is going on in memory, and decides what happens next.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use nostr::{EventId, Filter, Kind, Timestamp};
use tokio::sync::watch;
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::admission::{Credit, Seen};
use super::announce::{self, Announcer};
use super::event::{ProviderEvent, Reporter};
use super::intake::{FUTURE_SECS, STALE_SECS};
use super::job::{Address, Job, JobStep};
use super::lookups::LookUps;
use super::pricing::Terms;
use super::shop::{Outcome, Shop};
use super::store::{Finish, LateQuote, Seller, StoreError, Unfinished, Unsent};
use super::voice::Voice;
use super::work::Workshop;
use super::{Parts, ProviderConfig};
use crate::error::{Code, Error};
use crate::ids::{JobId, PaymentHash};
use crate::protocol::Feature;
use crate::protocol::listing::ListingContent;
use crate::relay::{Incoming as FromRelay, RelayError, Subscription};
use crate::units::UnixSecs;
use crate::wallet::{Incoming, WalletError};

/// How long relays and backend are given at the start.
const START: Duration = Duration::from_secs(30);

/// How far back a subscription reaches: as far as requests are served, and as far as clocks differ.
const REACH_SECS: u64 = STALE_SECS;

/// Stored requests from this long before the start, or before the last request on record, are served.
const OVERLAP_SECS: u64 = 60;

/// How long after its end a quote is still looked up.
const LATE_SECS: u64 = 3_600;

/// How often quotes are checked for their end, and relays for having come back.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// Between tries to announce or subscribe: twice as long each time.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_SLOWEST: Duration = Duration::from_secs(30);

/// The soonest that a relay's return makes us announce again.
const ANNOUNCE_GAP: Duration = Duration::from_secs(10);

/// With this many tasks under way, nothing new is read from the channel.
const MOST_TASKS: usize = 512;

/// Results of earlier runs that are published at a time.
const MOST_LEFTOVERS: usize = 16;

/// Texts of ended jobs are kept this long.
const TEXTS_KEPT_SECS: u64 = 7 * 86_400;

/// A job that holds a place in the queue.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) address: Address,
    pub(super) phase: Phase,
}

/// What a job in memory is waiting for.
#[derive(Debug)]
pub(super) enum Phase {
    /// Its invoice.
    Quoting,
    /// Its payment.
    Quoted { job: Box<Job>, cancelling: bool },
    /// A slot.
    Waiting(Box<Job>),
    /// The backend.
    Working,
}

/// All that goes on.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) shop: Arc<Shop>,
    pub(super) terms: Terms,
    pub(super) channel: EventId,
    pub(super) max_live: usize,
    pub(super) max_quotes_per_customer: usize,
    max_jobs: usize,
    announce_every: Duration,
    announcer: Arc<Announcer>,

    pub(super) live: HashMap<EventId, Live>,
    pub(super) late: HashMap<EventId, LateQuote>,
    pub(super) by_job_id: HashMap<JobId, EventId>,
    pub(super) lookups: LookUps,
    waiting: VecDeque<EventId>,
    running: HashSet<EventId>,
    leftovers: VecDeque<Unsent>,
    telling: usize,

    pub(super) seen: Seen,
    pub(super) credit: Credit,
    /// Whether the relays have sent all that they had stored.
    pub(super) caught_up: bool,
    pub(super) serve_stored_since: UnixSecs,
    pub(super) leaving: bool,

    tasks: JoinSet<Outcome>,
    task_jobs: HashMap<task::Id, EventId>,
    filter: Filter,
    subscription: Option<Subscription>,
    subscribe_pause: Duration,
    announce_due: Option<Instant>,
    announce_pause: Duration,
    announced_at: Option<Instant>,
    ready: bool,
    connected: usize,
    changes: Option<watch::Receiver<u64>>,
    housekeeping_due: Instant,
}

impl Engine {
    /// Reads what was left, joins the channel and subscribes to it.
    pub(super) async fn start(
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
        let now = parts.clock.now();
        let store = parts.store;
        if let Err(error) = store.drop_texts(now.minus(TEXTS_KEPT_SECS)).await {
            tracing::warn!(%error, "old texts were not dropped");
        }
        let recent = now.minus(STALE_SECS + FUTURE_SECS);
        let left = store.unfinished(&seller, now, recent).await?;
        let listed_at = store.listed_at(seller.key).await?;
        let voice = Voice {
            identity: parts.identity,
            clock: parts.clock,
            relay: parts.relays,
            relay_hint: config
                .relays
                .first()
                .map(ToString::to_string)
                .unwrap_or_default(),
        };
        let joined = announce::join(&config, &store, &voice).await?;
        if joined.created {
            reporter.say(ProviderEvent::ChannelCreated {
                channel: joined.channel,
            });
        }
        let since = Timestamp::from_secs(now.minus(REACH_SECS).get());
        let filter = Filter::new()
            .kind(Kind::ChannelMessage)
            .event(joined.channel)
            .since(since);
        let subscription = voice.relay.subscribe(filter.clone(), START).await;
        let subscription = subscription
            .map_err(|error| Error::new(Code::Network, format!("can't subscribe: {error}")))?;
        let terms = Terms {
            price: config.price,
            models,
            max_tokens: config.max_tokens,
            stream: config.stream,
        };
        let content = listing(&config, &terms, joined.channel);
        let changes = parts.wallet.as_ref().and_then(|wallet| wallet.changes());
        let shop = Shop {
            workshop: Workshop {
                voice,
                backend: parts.backend,
                reporter,
            },
            store,
            seller,
            wallet: parts.wallet,
            quote_secs: config.quote_secs,
            finish,
        };
        let at = Instant::now();
        let mut engine = Self {
            shop: Arc::new(shop),
            terms,
            channel: joined.channel,
            max_live: config.max_jobs.saturating_add(config.max_queue),
            max_quotes_per_customer: config.max_quotes_per_customer,
            max_jobs: config.max_jobs,
            announce_every: config.announce_every,
            announcer: Arc::new(Announcer::new(content, config.announce_every, listed_at)),
            live: HashMap::new(),
            late: HashMap::new(),
            by_job_id: HashMap::new(),
            lookups: LookUps::default(),
            waiting: VecDeque::new(),
            running: HashSet::new(),
            leftovers: VecDeque::new(),
            telling: 0,
            seen: Seen::default(),
            credit: Credit::new(at.into_std()),
            caught_up: false,
            serve_stored_since: left
                .last_request
                .unwrap_or(now)
                .min(now)
                .minus(OVERLAP_SECS),
            leaving: false,
            tasks: JoinSet::new(),
            task_jobs: HashMap::new(),
            filter,
            subscription: Some(subscription),
            subscribe_pause: RETRY_FIRST,
            announce_due: Some(at),
            announce_pause: RETRY_FIRST,
            announced_at: None,
            ready: false,
            connected: 0,
            changes,
            housekeeping_due: at + HOUSEKEEPING,
        };
        engine.resume(left);
        Ok(engine)
    }

    /// Takes up what an earlier run left; see the table in [`job`](super::job).
    fn resume(&mut self, left: Unfinished) {
        let now = Instant::now().into_std();
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
            self.hold(
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
            self.waiting.push_back(job.address.request);
            self.hold(job.address, Phase::Waiting(Box::new(job)));
        }
        self.leftovers.extend(left.unsent);
    }

    fn hold(&mut self, address: Address, phase: Phase) {
        self.by_job_id.insert(address.job_id(), address.request);
        self.live.insert(address.request, Live { address, phase });
    }

    /// Runs until told to leave, and all that is paid is done.
    pub(super) async fn run(mut self) -> Result<(), Error> {
        let finish = self.shop.finish.clone();
        while !(self.leaving && self.is_idle()) {
            self.advance();
            let wake = self.next_wake();
            let room = self.tasks.len() < MOST_TASKS;
            tokio::select! {
                biased;
                () = finish.cancelled(), if !self.leaving => self.leave(),
                Some(ended) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => {
                    self.on_ended(ended)?;
                }
                said = changed(&mut self.changes) => match said {
                    Ok(()) => self.lookups.wake(Instant::now().into_std()),
                    Err(_) => self.changes = None,
                },
                incoming = next(&mut self.subscription), if room => match incoming {
                    Some(FromRelay::Event(event)) => {
                        self.on_event(&event, Instant::now().into_std());
                    }
                    Some(FromRelay::StoredDone { .. }) => self.caught_up = true,
                    None => self.subscribe_again(),
                },
                () = tokio::time::sleep_until(wake) => {}
            }
        }
        Ok(())
    }

    /// Whether nothing that was paid is still to be done.
    fn is_idle(&self) -> bool {
        self.tasks.is_empty()
            && self.waiting.is_empty()
            && self.running.is_empty()
            && self.leftovers.is_empty()
    }

    /// Begins whatever its time has come for.
    fn advance(&mut self) {
        let now = Instant::now();
        if now >= self.housekeeping_due {
            self.housekeeping_due = now + HOUSEKEEPING;
            self.end_quotes();
            self.mind_relays(now);
        }
        while let Some((hash, job)) = self.lookups.next(now.into_std()) {
            let task = Arc::clone(&self.shop).look_up(hash, job);
            self.spawn(Some(job), task);
        }
        while self.running.len() < self.max_jobs
            && let Some(request) = self.waiting.pop_front()
        {
            self.start_work(request);
        }
        while self.telling < MOST_LEFTOVERS
            && let Some(unsent) = self.leftovers.pop_front()
        {
            self.tell(unsent);
        }
        if !self.leaving && self.announce_due.is_some_and(|due| due <= now) {
            self.announce_due = None;
            let (shop, announcer) = (Arc::clone(&self.shop), Arc::clone(&self.announcer));
            self.spawn(None, async move {
                let said = announcer.announce(&shop.workshop.voice, &shop.store).await;
                Outcome::Announced(said)
            });
        }
    }

    fn next_wake(&self) -> Instant {
        let look_up = self.lookups.next_due().map(Instant::from_std);
        let announce = self.announce_due.filter(|_| !self.leaving);
        let others = look_up.into_iter().chain(announce);
        others.fold(self.housekeeping_due, Instant::min)
    }

    /// Begins a task. One that is about a job says so, so that it is known whose it was if it panics.
    pub(super) fn spawn(
        &mut self,
        job: Option<EventId>,
        task: impl Future<Output = Outcome> + Send + 'static,
    ) {
        let id = self.tasks.spawn(task).id();
        if let Some(job) = job {
            self.task_jobs.insert(id, job);
        }
    }

    fn on_ended(&mut self, ended: Result<(task::Id, Outcome), JoinError>) -> Result<(), Error> {
        match ended {
            Ok((id, outcome)) => {
                self.task_jobs.remove(&id);
                self.on_outcome(outcome)
            }
            Err(error) => {
                // A bug of ours. The job stays on record as it is, and the next start takes it up.
                let job = self.task_jobs.remove(&error.id());
                tracing::error!(?job, %error, "a task of the provider failed");
                if let Some(request) = job {
                    self.drop_job(request);
                }
                Ok(())
            }
        }
    }

    fn on_outcome(&mut self, outcome: Outcome) -> Result<(), Error> {
        let now = Instant::now();
        match outcome {
            Outcome::Quoted(job) => self.on_quoted(job, now),
            Outcome::NotQuoted(address, refusal) => {
                self.drop_job(address.request);
                if let Some(refusal) = refusal {
                    self.refuse(address, refusal, now.into_std());
                }
            }
            Outcome::LookedUp(hash, request, found) => {
                self.on_looked_up(hash, request, &found, now)
            }
            Outcome::Loaded(request, job) => self.on_loaded(request, job),
            Outcome::Cancelled(request, done) => self.on_cancelled(request, &done, now),
            Outcome::Worked(job, finish) => self.on_worked(&job, finish),
            Outcome::Told(what, told) => self.on_told(&what, told),
            Outcome::Announced(said) => self.on_announced(said, now),
            Outcome::Subscribed(Ok(subscription)) => {
                self.subscribe_pause = RETRY_FIRST;
                self.subscription = Some(subscription);
            }
            Outcome::Subscribed(Err(RelayError::Closed)) => {
                return Err(Error::new(Code::Network, "the relay session is closed"));
            }
            Outcome::Subscribed(Err(trouble)) => {
                tracing::warn!(%trouble, "can't subscribe");
                self.subscribe_again();
            }
            Outcome::Nothing => {}
        }
        Ok(())
    }

    fn on_quoted(&mut self, job: Box<Job>, now: Instant) {
        let (address, invoice) = (job.address, Shop::invoice_of(&job));
        self.report(ProviderEvent::Quoted {
            job_id: address.job_id(),
            customer: address.customer,
            price_msat: job.price,
            payment_hash: job.payment_hash,
            expires_at: job.expires_at,
        });
        if let Some(hash) = job.payment_hash {
            let first = now + Duration::from_millis(250);
            self.lookups.watch(hash, address.request, first.into_std());
        }
        if let Some(live) = self.live.get_mut(&address.request) {
            live.phase = Phase::Quoted {
                job,
                cancelling: false,
            };
        }
        if self.leaving {
            return self.cancel(address.request);
        }
        let task = Arc::clone(&self.shop).send_invoice(address, invoice);
        self.spawn(Some(address.request), task);
    }

    fn on_looked_up(
        &mut self,
        hash: PaymentHash,
        request: EventId,
        found: &Result<Incoming, WalletError>,
        now: Instant,
    ) {
        if !self.lookups.answered(hash, now.into_std()) {
            return;
        }
        match found {
            Ok(Incoming::Settled) => self.on_settled(request),
            Ok(answer) => {
                let Some(late) = self.late.get(&request) else {
                    return;
                };
                let given_up = self.shop.now() > late.expires_at.plus(LATE_SECS);
                if given_up || *answer == Incoming::Cancelled {
                    self.forget_late(request);
                    self.close(request, &[JobStep::Lapsed]);
                }
            }
            Err(trouble) => {
                tracing::warn!(%request, %trouble, "the wallet can't say whether a job is paid")
            }
        }
    }

    /// The money for a job is here.
    pub(super) fn on_settled(&mut self, request: EventId) {
        if let Some(late) = self.late.get(&request) {
            self.lookups.forget(&late.payment_hash);
            let task = Arc::clone(&self.shop).load(request);
            self.spawn(Some(request), task);
            return;
        }
        let Some(live) = self.live.get_mut(&request) else {
            return;
        };
        match std::mem::replace(&mut live.phase, Phase::Working) {
            Phase::Quoted { job, .. } => {
                if let Some(hash) = &job.payment_hash {
                    self.lookups.forget(hash);
                }
                self.on_paid(job);
            }
            other => live.phase = other,
        }
    }

    fn on_loaded(&mut self, request: EventId, job: Result<Box<Job>, StoreError>) {
        let late = self.forget_late(request);
        match (job, late) {
            (Ok(job), _) => self.on_paid(job),
            (Err(error), Some(late)) => {
                tracing::error!(%request, %error, "a paid job can't be read");
                self.watch_late(late);
            }
            (Err(_), None) => {}
        }
    }

    fn on_paid(&mut self, job: Box<Job>) {
        let address = job.address;
        self.report(ProviderEvent::Paid {
            job_id: address.job_id(),
            price_msat: job.price,
            payment_hash: job.payment_hash,
        });
        self.hold(address, Phase::Waiting(job));
        let before = self.waiting.len();
        self.waiting.push_back(address.request);
        if before == 0 && self.running.len() < self.max_jobs {
            // The loop starts it before it does anything else.
            return;
        }
        let position = u32::try_from(before).unwrap_or(u32::MAX);
        self.report(ProviderEvent::Queued {
            job_id: address.job_id(),
            position,
        });
        let task = Arc::clone(&self.shop).accept(address, position);
        self.spawn(None, task);
    }

    fn start_work(&mut self, request: EventId) {
        let Some(live) = self.live.get_mut(&request) else {
            return;
        };
        let job = match std::mem::replace(&mut live.phase, Phase::Working) {
            Phase::Waiting(job) => job,
            other => {
                live.phase = other;
                return;
            }
        };
        self.running.insert(request);
        self.report(ProviderEvent::Started {
            job_id: job.address.job_id(),
            model: job.model.clone(),
        });
        let task = Arc::clone(&self.shop).work(job);
        self.spawn(Some(request), task);
    }

    fn on_worked(&mut self, job: &Job, finish: Finish) {
        let address = job.address;
        self.drop_job(address.request);
        let is_result = finish.error.is_none();
        if let Some(reason) = finish.error {
            tracing::error!(job_id = %address.job_id(), customer = %address.customer,
                price = %job.price, %reason, "a paid job failed: its money is owed");
            self.report(ProviderEvent::Failed {
                job_id: address.job_id(),
                price_msat: job.price,
                reason,
            });
        }
        self.tell(Unsent {
            address,
            price: job.price,
            is_result,
            messages: finish.messages,
        });
    }

    fn tell(&mut self, unsent: Unsent) {
        self.telling += 1;
        let task = Arc::clone(&self.shop).tell(unsent);
        self.spawn(None, task);
    }

    fn on_told(&mut self, what: &Unsent, told: Result<(), RelayError>) {
        self.telling -= 1;
        let job_id = what.address.job_id();
        match told {
            Ok(()) if what.is_result => self.report(ProviderEvent::Delivered {
                job_id,
                price_msat: what.price,
            }),
            Ok(()) => {}
            Err(trouble) => {
                tracing::error!(%job_id, %trouble, "a result was not taken; the next start tries again");
            }
        }
    }

    /// Gives a quote up, if the wallet agrees that it can no longer be paid.
    pub(super) fn cancel(&mut self, request: EventId) {
        let Some(live) = self.live.get_mut(&request) else {
            return;
        };
        let Phase::Quoted { job, cancelling } = &mut live.phase else {
            return;
        };
        if std::mem::replace(cancelling, true) {
            return;
        }
        let task = Arc::clone(&self.shop).cancel(request, job.payment_hash);
        self.spawn(Some(request), task);
    }

    fn on_cancelled(&mut self, request: EventId, done: &Result<(), WalletError>, now: Instant) {
        let Some(hash) = self.quoted_hash(request) else {
            // Paid meanwhile.
            return;
        };
        let job_id = JobId::of_request(&request);
        if let Err(why) = done {
            // Paid at the last moment, or the wallet can't cancel: look, and go on looking.
            tracing::info!(%job_id, %why, "a quote can't be cancelled");
            self.end_quote(request, now);
        } else {
            if let Some(hash) = &hash {
                self.lookups.forget(hash);
            }
            self.drop_job(request);
            self.close(request, &[JobStep::Withdrawn]);
        }
        self.report(ProviderEvent::Cancelled { job_id });
    }

    /// The payment hash of a live quote; `None` if there is no such quote.
    fn quoted_hash(&self, request: EventId) -> Option<Option<PaymentHash>> {
        match &self.live.get(&request)?.phase {
            Phase::Quoted { job, .. } => Some(job.payment_hash),
            _ => None,
        }
    }

    fn end_quotes(&mut self) {
        let now = self.shop.now();
        let over: Vec<EventId> = self
            .live
            .iter()
            .filter(|(_, live)| match &live.phase {
                Phase::Quoted { job, .. } => job.expires_at <= now,
                _ => false,
            })
            .map(|(request, _)| *request)
            .collect();
        for request in over {
            let job_id = JobId::of_request(&request);
            self.end_quote(request, Instant::now());
            self.report(ProviderEvent::Expired { job_id });
        }
    }

    /// Frees the place of a quote, and looks on whether it is paid all the same.
    fn end_quote(&mut self, request: EventId, now: Instant) {
        let Some(live) = self.live.remove(&request) else {
            return;
        };
        let Phase::Quoted { job, .. } = live.phase else {
            return;
        };
        match job.payment_hash {
            Some(payment_hash) => {
                let late = LateQuote {
                    request,
                    customer: live.address.customer,
                    payment_hash,
                    expires_at: job.expires_at,
                };
                self.late.insert(request, late);
                self.lookups.slow_down(payment_hash, now.into_std());
            }
            None => {
                self.by_job_id.remove(&live.address.job_id());
                self.close(request, &[JobStep::Lapsed]);
            }
        }
    }

    fn watch_late(&mut self, quote: LateQuote) {
        let now = Instant::now().into_std();
        self.by_job_id
            .insert(JobId::of_request(&quote.request), quote.request);
        self.lookups
            .watch_late(quote.payment_hash, quote.request, now);
        self.late.insert(quote.request, quote);
    }

    fn forget_late(&mut self, request: EventId) -> Option<LateQuote> {
        let late = self.late.remove(&request)?;
        self.lookups.forget(&late.payment_hash);
        self.by_job_id.remove(&JobId::of_request(&request));
        Some(late)
    }

    /// Forgets a job that is not a quote any more. What there is to know of it is on record.
    fn drop_job(&mut self, request: EventId) {
        self.live.remove(&request);
        self.running.remove(&request);
        self.by_job_id.remove(&JobId::of_request(&request));
    }

    fn close(&mut self, request: EventId, why: &'static [JobStep]) {
        let task = Arc::clone(&self.shop).close(request, why);
        self.spawn(None, task);
    }

    fn on_announced(&mut self, said: Result<(), String>, now: Instant) {
        match said {
            Ok(()) => {
                self.announce_pause = RETRY_FIRST;
                self.announce_due = Some(now + self.announce_every);
                self.announced_at = Some(now);
                if !std::mem::replace(&mut self.ready, true) {
                    self.report(ProviderEvent::Ready {
                        pubkey: self.shop.seller.key,
                        channel: self.channel,
                    });
                }
            }
            Err(trouble) => {
                tracing::warn!(%trouble, "not announced");
                self.announce_due = Some(now + self.announce_pause);
                self.announce_pause = (self.announce_pause * 2).min(RETRY_SLOWEST);
            }
        }
    }

    /// A relay that comes back may have forgotten us: announce again, soon.
    fn mind_relays(&mut self, now: Instant) {
        let relays = self.shop.workshop.voice.relay.relays();
        let connected = relays.iter().filter(|relay| relay.connected).count();
        let came_back = connected > std::mem::replace(&mut self.connected, connected);
        if let (true, Some(due), Some(last)) = (came_back, self.announce_due, self.announced_at) {
            self.announce_due = Some(due.min(now.max(last + ANNOUNCE_GAP)));
        }
    }

    fn subscribe_again(&mut self) {
        self.subscription = None;
        let (shop, filter, pause) = (
            Arc::clone(&self.shop),
            self.filter.clone(),
            self.subscribe_pause,
        );
        self.subscribe_pause = (pause * 2).min(RETRY_SLOWEST);
        self.spawn(None, async move {
            tokio::time::sleep(pause).await;
            Outcome::Subscribed(shop.workshop.voice.relay.subscribe(filter, START).await)
        });
    }

    /// Withdraws the listing and gives up what nobody has paid.
    fn leave(&mut self) {
        self.leaving = true;
        let (shop, announcer) = (Arc::clone(&self.shop), Arc::clone(&self.announcer));
        self.spawn(None, async move {
            let voice = &shop.workshop.voice;
            if let Err(trouble) = announcer.withdraw(voice, &shop.store).await {
                tracing::warn!(%trouble, "the listing was not withdrawn; it expires by itself");
            }
            Outcome::Nothing
        });
        let quoted: Vec<EventId> = self.live.keys().copied().collect();
        for request in quoted {
            self.cancel(request);
        }
    }

    fn report(&self, event: ProviderEvent) {
        self.shop.workshop.reporter.say(event);
    }
}

async fn changed(
    changes: &mut Option<watch::Receiver<u64>>,
) -> Result<(), watch::error::RecvError> {
    match changes {
        Some(changes) => changes.changed().await,
        None => std::future::pending().await,
    }
}

async fn next(subscription: &mut Option<Subscription>) -> Option<FromRelay> {
    match subscription {
        Some(subscription) => subscription.next().await,
        None => std::future::pending().await,
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
        has
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

fn listing(config: &ProviderConfig, terms: &Terms, channel: EventId) -> ListingContent {
    ListingContent {
        name: config.name.clone(),
        about: config.about.clone(),
        channel: Some(channel),
        relays: config.relays.iter().map(ToString::to_string).collect(),
        price: terms.price,
        models: terms.models.clone(),
        network: config.network,
        features: terms
            .stream
            .then_some(Feature::Stream)
            .into_iter()
            .collect(),
        expires_at: None,
    }
}
