//! One purchase: discover, choose, put on record, and drive.

use std::sync::Arc;
use std::time::Duration;

use nostr::PublicKey;
use rand::RngCore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{ProviderSeen, PurchaseEvent, PurchaseRequest, Ready, Receipt};
use crate::config::Encrypt;
use crate::config::{MAX_IDEMPOTENCY_KEY_BYTES, MAX_TICK_BYTES};
use crate::discovery::{DiscoveryRequest, discover};
use crate::error::{Code, Error, Result};
use crate::ids::{Preimage, PurchaseId};
use crate::ledger::{
    Idempotency, LedgerError, NewPurchase, Opened, PurchaseRecord, RefusedBy, Status,
};
use crate::market::record::summary;
use crate::market::{self, Headroom, History, Policy, Select, Verdict};
use crate::protocol::message::{AgentMessage, JobRequest};
use crate::protocol::record::Summary;
use crate::protocol::{Feature, KIND_TEXT_GENERATION, Offer, channel, codec};
use crate::purchase::driver::Run;
use crate::purchase::listen::{Since, listen};
use crate::purchase::lock::Word;
use crate::purchase::recover::{Depth, recover_one};
use crate::purchase::state::{PayBy, Phase, State, Terms};
use crate::purchase::watcher::Watcher;
use crate::relay::{RelayError, seal};
use crate::units::{Msat, UnixSecs};

/// The first and the longest pause between looks at a purchase that another process runs.
const WATCH_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// Every offer that suits this client.
pub(super) async fn offers(ready: &Ready, request: &PurchaseRequest) -> Result<Vec<Offer>> {
    let policy = policy(ready, request, None).await?;
    let ends = Instant::now() + request.discovery_time;
    let found = look_around(ready, request, &policy, ends).await?;
    let history = records(ready, found.iter().map(|offer| offer.provider)).await?;
    let now = ready.engine.clock.now();
    Ok(market::choose(found, &policy, &history, now).ranked)
}

/// Buys one job.
pub(super) async fn buy(
    ready: &Ready,
    request: PurchaseRequest,
    watcher: &Watcher,
    stop: &CancellationToken,
) -> Result<Receipt> {
    let started = Instant::now();
    let deadline = started + request.timeout;
    check(&request)?;
    if request.escrow && ready.buys && ready.engine.wallet.is_none() {
        return Err(Error::new(
            Code::Usage,
            "escrow locks real or play money, and without a wallet nothing is paid: choose one",
        ));
    }
    if !ready.buys {
        return Err(Error::new(
            Code::Wallet,
            "this client only looks: it has no way to pay",
        ));
    }
    let attempt = Attempt {
        ready,
        request: &request,
        watcher,
        stop,
        started,
        deadline,
    };
    if let Some(receipt) = attempt.earlier().await? {
        return Ok(receipt);
    }
    let chosen = tokio::select! {
        biased;
        () = stop.cancelled() => return Err(stopped()),
        chosen = attempt.choose() => chosen?,
    };
    loop {
        if let Some(receipt) = attempt.buy_from(&chosen).await? {
            return Ok(receipt);
        }
    }
}

fn stopped() -> Error {
    Error::new(
        Code::Interrupted,
        "stopped before any payment; nothing was paid",
    )
}

/// Whether this names a tick, if it names anything.
pub(super) fn check_tick(tick: Option<&str>) -> Result<()> {
    let bounds = 1..=MAX_TICK_BYTES;
    if tick.is_some_and(|tick| !bounds.contains(&tick.len())) {
        let message = format!("a tick id has 1 to {MAX_TICK_BYTES} bytes");
        return Err(Error::new(Code::Usage, message));
    }
    Ok(())
}

fn check(request: &PurchaseRequest) -> Result<()> {
    let usage = |message: &str| Err(Error::new(Code::Usage, message));
    if request.prompt.is_empty() {
        return usage("the prompt is empty");
    }
    if request.max_tokens == 0 {
        return usage("max_tokens must be at least 1");
    }
    check_tick(request.tick.as_deref())?;
    if request
        .idempotency_key
        .as_ref()
        .is_some_and(|key| key.is_empty() || key.len() > MAX_IDEMPOTENCY_KEY_BYTES)
    {
        return usage("an idempotency key has 1 to 256 bytes");
    }
    Ok(())
}

/// Whether messages are sealed: the owner's word, lowered by this request where that leaves a choice.
fn encryption(ready: &Ready, request: &PurchaseRequest) -> Result<Encrypt> {
    match (ready.encrypt, request.plaintext) {
        (Encrypt::Required, true) => Err(Error::new(
            Code::Usage,
            "--plaintext: [policy] encrypt = \"required\" forbids plain text",
        )),
        (_, true) => Ok(Encrypt::Off),
        (encrypt, false) => Ok(encrypt),
    }
}

async fn policy(
    ready: &Ready,
    request: &PurchaseRequest,
    headroom: Option<Headroom>,
) -> Result<Policy> {
    // A client that only looks says what one that pays would do.
    let pays = ready.engine.wallet.is_some() || !ready.buys;
    let pays_first = pays && !request.escrow;
    let own = ready.engine.identity.public_key();
    let mut policy = Policy::new(own, request.max_tokens);
    policy.select = request.select.clone();
    policy.model.clone_from(&request.model);
    policy.network = ready.network;
    policy.max_price = request.max_price;
    policy.headroom = headroom;
    policy.unproven_limit = ready.unproven_limit.filter(|_| pays_first);
    policy.allow.clone_from(&ready.allow);
    policy.deny.clone_from(&ready.deny);
    policy.needs_channel = true;
    policy.only_channel = request.channel;
    if request.escrow {
        policy.needs.insert(Feature::HoldInvoice);
    }
    match encryption(ready, request)? {
        Encrypt::Off => {}
        Encrypt::Prefer => {
            policy.sealed_before = ready.engine.ledger.sealing_providers().await?;
        }
        Encrypt::Required => {
            policy.needs.insert(Feature::Nip44);
        }
    }
    Ok(policy)
}

/// What is on offer.
async fn look_around(
    ready: &Ready,
    request: &PurchaseRequest,
    policy: &Policy,
    ends: Instant,
) -> Result<Vec<Offer>> {
    let clock = &ready.engine.clock;
    let exact = match &request.select {
        Select::Provider(pattern) => pattern.exact(),
        _ => None,
    };
    let wanted = DiscoveryRequest {
        listings: request.discover,
        channel: request.channel,
        provider: exact,
        first: matches!(request.select, Select::First),
        within: ends.saturating_duration_since(Instant::now()),
    };
    // Who else may be heard of is a stranger here: where records decide who suits, looking ends late
    // rather than early.
    let history = records(ready, exact).await?;
    let enough = |offers: &[Offer]| {
        let now = clock.now();
        offers
            .iter()
            .any(|offer| market::left_out(offer, policy, &history, now).is_none())
    };
    let relays = &*ready.engine.relays;
    let found = discover(relays, clock, &wanted, enough, |_| {})
        .await
        .map_err(unreachable)?;
    Ok(found.offers)
}

/// What our own purchases say of these providers.
async fn records(ready: &Ready, providers: impl IntoIterator<Item = PublicKey>) -> Result<History> {
    let providers: Vec<PublicKey> = providers.into_iter().collect();
    if providers.is_empty() {
        return Ok(History::new());
    }
    let Ready { engine, books, .. } = ready;
    Ok(engine.ledger.records(*books, providers).await?)
}

fn unreachable(error: RelayError) -> Error {
    Error::new(Code::Network, format!("{error}; nothing was paid"))
}

/// Who is on offer, and who of them would be bought from.
pub(super) struct Survey {
    /// All of them, the suitable ones first and in order of preference.
    pub(super) seen: Vec<ProviderSeen>,
    /// The first of the suitable ones, or why there is none.
    pub(super) chosen: Result<Chosen>,
}

/// An offer to take.
pub(super) struct Chosen {
    pub(super) offer: Offer,
    /// The most that its invoice may come to, besides the price that it lists: what the buyer said, and what
    /// the owner lets a provider without a good record be paid.
    max_price: Option<Msat>,
}

/// Looks around without asking anybody for anything.
pub(super) async fn survey(
    ready: &Ready,
    request: &PurchaseRequest,
    ends: Instant,
) -> Result<Survey> {
    let headroom = headroom(ready, request).await?;
    let policy = policy(ready, request, Some(headroom)).await?;
    let found = match &request.offer {
        Some(offer) => vec![offer.clone()],
        None => look_around(ready, request, &policy, ends).await?,
    };
    let history = records(ready, found.iter().map(|offer| offer.provider)).await?;
    let now = ready.engine.clock.now();
    let choice = market::choose(found, &policy, &history, now);
    let suitable = choice.ranked.iter().map(|offer| (offer, None));
    let left_out = choice
        .left_out
        .iter()
        .map(|(offer, why)| (offer, Some(why.as_str())));
    let seen = suitable
        .chain(left_out)
        .map(|(offer, reason)| {
            let price = offer.expected_price(request.max_tokens);
            let record = summary(market::record_of(offer, &history), price, now);
            provider_seen(offer, price, reason, record)
        })
        .collect();
    let none = |code, why: String| Err(Error::new(code, format!("{why}; nothing was paid")));
    let chosen = match (choice.verdict(), choice.ranked.into_iter().next()) {
        (Verdict::Ok, Some(offer)) => Ok(Chosen {
            max_price: [request.max_price, policy.invoice_cap(&offer, &history, now)]
                .into_iter()
                .flatten()
                .min(),
            offer,
        }),
        (Verdict::Ok, None) => none(Code::Internal, "a choice without an offer".to_owned()),
        (Verdict::NoProvider(why) | Verdict::Ambiguous(why), _) => none(Code::NoProvider, why),
        (Verdict::Budget(why), _) => none(Code::Budget, why),
    };
    Ok(Survey { seen, chosen })
}

/// What the limits still allow, so that no provider is asked for what can't be paid anyway.
async fn headroom(ready: &Ready, request: &PurchaseRequest) -> Result<Headroom> {
    let Ready { engine, books, .. } = ready;
    if ready.buys && engine.wallet.is_none() {
        return Ok(Headroom {
            most: Msat::MAX,
            limit: String::new(),
        });
    }
    let tick = request.tick.as_deref();
    let report = engine.ledger.budget(*books, tick, engine.limits).await?;
    let (most, by) = report.headroom();
    let limit = match by {
        RefusedBy::PerJob => "per_job_limit_sats",
        RefusedBy::PerTick => "per_tick_limit_sats",
        RefusedBy::Daily => "daily_limit_sats",
        RefusedBy::Floor => "reserve_sats",
    };
    // Who only looks is told of each provider that nothing is left for it.
    if most.is_zero() && ready.buys {
        let message = format!(
            "[runway] {limit} allows nothing more; nothing was paid. See `agent-customer budget`"
        );
        return Err(Error::new(Code::Budget, message));
    }
    Ok(Headroom {
        most,
        limit: limit.to_owned(),
    })
}

struct Attempt<'a> {
    ready: &'a Ready,
    request: &'a PurchaseRequest,
    watcher: &'a Watcher,
    stop: &'a CancellationToken,
    started: Instant,
    deadline: Instant,
}

impl Attempt<'_> {
    fn idempotency(&self) -> Option<Idempotency> {
        let key = self.request.idempotency_key.clone()?;
        let paid = self.ready.engine.wallet.is_some();
        Some(Idempotency {
            key,
            fingerprint: self.request.fingerprint(self.ready.scope, paid),
        })
    }

    /// What an earlier purchase with the same idempotency key came to. `None`: there is none, or it
    /// failed unpaid, so that a new attempt is due.
    async fn earlier(&self) -> Result<Option<Receipt>> {
        let Some(wanted) = self.idempotency() else {
            return Ok(None);
        };
        let ledger = &self.ready.engine.ledger;
        let Some(record) = ledger.by_key(&wanted.key).await? else {
            return Ok(None);
        };
        let state = read(&record)?;
        if state.terms.fingerprint.as_ref() != Some(&wanted.fingerprint) {
            return Err(LedgerError::KeyConflict(record.id).into());
        }
        self.await_outcome(record).await
    }

    /// Waits for a purchase that may be running elsewhere; recovers it if nobody runs it.
    async fn await_outcome(&self, mut record: PurchaseRecord) -> Result<Option<Receipt>> {
        let engine = &self.ready.engine;
        let mut recovered = false;
        let mut pause = WATCH_PAUSE.0;
        loop {
            let state = read(&record)?;
            match record.state.status {
                Status::Failed => return Ok(None),
                Status::Delivered => return self.tell_again(&record, &state).await.map(Some),
                Status::Open | Status::Undelivered if !recovered => {
                    recovered = recover_one(engine, record.clone(), Depth::All)
                        .await?
                        .is_some();
                    if recovered {
                        record = engine.ledger.purchase(record.id).await?;
                        continue;
                    }
                }
                // Delivered, and the provider has yet to claim the money.
                Status::Open if state.receipt().is_some() && recovered => {
                    return self.tell_again(&record, &state).await.map(Some);
                }
                Status::Open | Status::Undelivered => return Err(unsettled(&record, &state)),
            }
            tokio::select! {
                () = self.stop.cancelled() => return Err(stopped().of(record.id)),
                () = tokio::time::sleep_until(self.deadline) => return match state.receipt() {
                    Some(_) => self.tell_again(&record, &state).await.map(Some),
                    None => Err(unsettled(&record, &state)),
                },
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(WATCH_PAUSE.1);
            record = engine.ledger.purchase(record.id).await?;
        }
    }

    async fn tell_again(&self, record: &PurchaseRecord, state: &State) -> Result<Receipt> {
        let mut receipt = state
            .receipt()
            .ok_or_else(|| Error::new(Code::Internal, "a delivered purchase has no receipt"))?;
        receipt.reserved_msat = record.reserved();
        self.tell(PurchaseEvent::Selected {
            purchase_id: Some(receipt.purchase_id),
            provider: receipt.provider.clone(),
            price_msat: state.terms.listed,
        })
        .await;
        Ok(receipt)
    }

    async fn tell(&self, event: PurchaseEvent) {
        self.watcher.tell(event).await;
    }

    /// Finds an offer to take, within the limits and the buyer's wishes.
    async fn choose(&self) -> Result<Chosen> {
        let ends = self
            .deadline
            .min(self.started + self.request.discovery_time);
        let survey = survey(self.ready, self.request, ends).await?;
        for seen in survey.seen {
            self.tell(PurchaseEvent::Provider(seen)).await;
        }
        survey.chosen
    }

    /// Puts the purchase on record and sees it through. `None`: another process was quicker with the same
    /// key, and failed unpaid, so that it is our turn.
    async fn buy_from(&self, chosen: &Chosen) -> Result<Option<Receipt>> {
        let Self { ready, request, .. } = self;
        let offer = &chosen.offer;
        let engine = &ready.engine;
        let id = random_purchase_id();
        let listed = offer.expected_price(request.max_tokens);
        let terms = self.terms(id, chosen, listed)?;
        let state = State::new(terms);
        let row = state
            .to_row()
            .map_err(|error| Error::new(Code::Internal, error.to_string()))?;
        let new = NewPurchase {
            id,
            scope: ready.scope,
            tick: request.tick.clone(),
            idempotency: self.idempotency(),
            state: row,
        };
        if state.terms.sealed {
            engine.ledger.remember_sealing(offer.provider).await?;
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        let driving = engine
            .ledger
            .drive(id)
            .ok_or_else(|| Error::new(Code::Internal, "a random purchase id came twice"))?;
        // Asking the relays for answers and putting the purchase on record don't wait for each other;
        // the request leaves after both.
        let (opened, answers) = tokio::join!(
            engine.ledger.open_purchase(new),
            listen(&*engine.relays, &state.terms, Since::Now, left)
        );
        let record = match opened? {
            Opened::New(record) => record,
            Opened::Existing(record) => return self.await_outcome(record).await,
        };
        self.tell(PurchaseEvent::Selected {
            purchase_id: Some(id),
            provider: offer.provider.to_hex(),
            price_msat: listed,
        })
        .await;
        let run = Run::new(
            engine,
            Arc::new(driving),
            state,
            record.version,
            self.watcher,
            self.started,
            self.deadline,
        );
        let receipt = match answers {
            Ok(answers) => run.buy(answers, self.stop).await,
            Err(error) => run.abandon(error).await,
        };
        receipt.map(Some)
    }

    fn terms(&self, id: PurchaseId, chosen: &Chosen, listed: Option<Msat>) -> Result<Terms> {
        let Self { ready, request, .. } = self;
        let Chosen { offer, max_price } = chosen;
        let engine = &ready.engine;
        let Some(channel) = offer.channel else {
            return Err(Error::new(Code::NoProvider, "the provider has no channel"));
        };
        let now = engine.clock.now();
        let sealed =
            encryption(ready, request)? != Encrypt::Off && offer.features.contains(&Feature::Nip44);
        let pay_by = self.pay_by();
        let request_event = self.request_event(chosen, channel, &pay_by, sealed, now)?;
        let left = self.deadline.saturating_duration_since(Instant::now());
        Ok(Terms {
            id,
            provider: offer.provider,
            channel,
            model: request
                .model
                .clone()
                .or_else(|| offer.models.first().cloned()),
            request: request_event,
            network: ready.scope.network,
            pay_by,
            listed,
            max_price: *max_price,
            max_fee: request.max_fee,
            max_hold_secs: ready.max_hold_secs,
            sealed,
            fingerprint: self.idempotency().map(|key| key.fingerprint),
            started_at: now,
            deadline: now.plus(left.as_secs()),
        })
    }

    /// How it is paid. The secret of an escrow is made here, and is on record before its hash is sent.
    fn pay_by(&self) -> PayBy {
        let Some(wallet) = &self.ready.engine.wallet else {
            return PayBy::Nothing;
        };
        let wallet = wallet.id().clone();
        if !self.request.escrow {
            return PayBy::Invoice(wallet);
        }
        let mut secret = [0; 32];
        rand::rng().fill_bytes(&mut secret);
        PayBy::Escrow {
            wallet,
            preimage: Preimage::from_bytes(secret),
        }
    }

    fn request_event(
        &self,
        chosen: &Chosen,
        channel: nostr::EventId,
        pay_by: &PayBy,
        sealed: bool,
        now: UnixSecs,
    ) -> Result<nostr::Event> {
        let Self { ready, request, .. } = self;
        let Chosen { offer, max_price } = chosen;
        let mut nonce = [0; 16];
        rand::rng().fill_bytes(&mut nonce);
        let job = JobRequest {
            nonce: Some(PurchaseId::from_bytes(nonce).to_string()),
            model: request.model.clone(),
            stream: Some(request.stream),
            escrow: pay_by.is_escrow().then_some(Feature::HoldInvoice),
            payment_hash: pay_by
                .preimage()
                .map(|preimage| preimage.payment_hash().to_string()),
            max_price_msats: [offer.expected_price(request.max_tokens), *max_price]
                .into_iter()
                .flatten()
                .min(),
            ..JobRequest::new(
                KIND_TEXT_GENERATION,
                request.prompt.clone(),
                request.max_tokens,
                offer.provider,
            )
        };
        let job = AgentMessage::JobRequest(job);
        let too_long = |error| Error::new(Code::Usage, format!("the prompt is too long: {error}"));
        let relay = ready.engine.relays.relays();
        let relay = relay
            .first()
            .map_or_else(String::new, |relay| relay.url.to_string());
        let event = if sealed {
            let content = ready.engine.sealer.seal(&offer.provider, &job);
            let content = content.map_err(|error| too_long(error.to_string()))?;
            channel::addressed(channel, &relay, content, offer.provider)
        } else {
            let content = codec::encode(&job).map_err(|error| too_long(error.to_string()))?;
            channel::message(channel, &relay, content, None)
        };
        seal::sign(&ready.engine.identity, event, now)
            .map_err(|error| Error::new(Code::Internal, error.to_string()))
    }
}

fn read(record: &PurchaseRecord) -> Result<State> {
    State::from_row(&record.state)
        .map_err(|error| Error::new(Code::Ledger, format!("purchase {}: {error}", record.id)))
}

/// A purchase of this key is on record and can't be brought to an end now.
fn unsettled(record: &PurchaseRecord, state: &State) -> Error {
    let (paid, reserved) = (state.phase.paid(), record.reserved());
    let (code, message) = match &state.phase {
        Phase::Paying(_) | Phase::Unknown { .. } => (
            Code::PaymentUnknown,
            "the purchase with this key may have been paid; run `agent-customer recover`",
        ),
        Phase::Locked(lock) if matches!(lock.word, Word::Unknown(_)) => (
            Code::PaymentUnknown,
            "the wallet can't say whether the money of the purchase with this key is locked; run `agent-customer recover`",
        ),
        Phase::Locked(_) | Phase::Withheld { .. } => (
            Code::Undelivered,
            "the purchase with this key has its money locked, nothing paid, and no result yet; run `agent-customer recover`",
        ),
        Phase::Awaiting { .. } | Phase::Undelivered { .. } => (
            Code::Undelivered,
            "the purchase with this key was paid and has no result yet; run `agent-customer recover`",
        ),
        Phase::Requested
        | Phase::Quoted(_)
        | Phase::Released { .. }
        | Phase::Delivered { .. }
        | Phase::Failed { .. } => (
            Code::Timeout,
            "the purchase with this key is still running in another process; nothing was paid here",
        ),
    };
    Error::new(code, message)
        .of(record.id)
        .with_money(paid, reserved)
}

fn provider_seen(
    offer: &Offer,
    price_msat: Option<Msat>,
    reason: Option<&str>,
    record: Summary,
) -> ProviderSeen {
    ProviderSeen {
        provider: offer.provider.to_hex(),
        name: offer.name.clone(),
        price_msat,
        models: offer.models.clone(),
        network: offer.network,
        channel: offer.channel.map(|channel| channel.to_hex()),
        features: offer.features.iter().copied().collect::<Vec<Feature>>(),
        matches: reason.is_none(),
        reason: reason.map(str::to_owned),
        record,
    }
}

fn random_purchase_id() -> PurchaseId {
    let mut bytes = [0; 16];
    rand::rng().fill_bytes(&mut bytes);
    PurchaseId::from_bytes(bytes)
}
